"""What this project knows of models and tasks, from `models.json` and `tasks.json`: read when first asked for, then kept.

A provider's name for a model is brought to one form and looked up whole: what is not listed is not guessed at.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import asdict, replace

from protocols.errors import BadRequest
from protocols.model import RESERVED_PROVIDER, Speed, Strength, split_model_id

LONGEST_NAME = 256
"""Characters; nothing longer is a model's name, or worth the memory of an answer kept."""


class Known(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A model of the matrix. `names` begin with its vendor's (`family`); `successor` is one of the same vendor's."""

    names: Annotated[tuple[str, ...], Meta(min_length=1)]
    family: str
    quality: Annotated[float, Meta(ge=0, le=10)]
    strengths: tuple[Strength, ...]
    speed: Speed
    local: bool = False
    context_tokens: int | None = None
    max_output_tokens: int | None = None
    retired: bool = False
    successor: str | None = None


class Task(Struct, frozen=True, kw_only=True):
    """A kind of task: the strength it needs (None: any), and what its prompt and answer are taken to have, in tokens."""

    strength: Strength | None = None
    prompt_tokens: int = 1000
    response_tokens: int = 500


class TaskConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[tasks.<name>]` of the config: a new task, or what it says of one of ours."""

    strength: Strength | None = None
    prompt_tokens: Annotated[int, Meta(ge=1)] | None = None
    response_tokens: Annotated[int, Meta(ge=1)] | None = None


class _Models(Struct):
    models: tuple[Known, ...]


class _Tasks(Struct):
    tasks: dict[str, Task]


def known(model: str) -> Known | None:
    """What is known of a model by the name that a provider has for it."""
    return _known(model) if len(model) <= LONGEST_NAME else None


@cache
def models() -> tuple[Known, ...]:
    """The whole matrix, in the order of its file."""
    return msgspec.json.decode(_file("models.json"), type=_Models).models


def task(name: str, config: Mapping[str, TaskConfig]) -> Task:
    """A task by its name, the config's over ours: field by field where both know it. Raises BadRequest."""
    found = known_task(name, config)
    if found is None:
        names = list(dict.fromkeys([*_tasks(), *config]))
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean `{near[0]}`? " if near else ""
        raise BadRequest(
            f"there is no task `{name}`; {hint}there are: {', '.join(names)}; [tasks] of the config adds more"
        )
    return found


def known_task(name: str, config: Mapping[str, TaskConfig]) -> Task | None:
    """The same, or None for a name that is no more than a label."""
    ours = _tasks()
    if name not in config:
        return ours.get(name)
    said = {field: value for field, value in asdict(config[name]).items() if value is not None}
    return replace(ours.get(name, Task()), **said)


_ROUTED = re.compile(r"^.*/|^(?:[a-z]{2,4}\.)?(?:anthropic|meta|mistral|deepseek|qwen|openai)\.(?=[a-z])")
"""`openai/gpt-4o`, `accounts/fireworks/models/…`, and Bedrock's `us.anthropic.claude-…`."""

_TAG = re.compile(r":(\d+(?:\.\d+)?[bm](?=-|$))?(.*)$")
"""What follows a colon: a size (`7b`) tells models apart, what is behind it may say how one was built."""

_BUILD = re.compile(r"(?:latest|free|batch|instruct|chat|it|fp16|bf16|v\d+(?:\.\d+)?|q\d\w*|0|\d{4}|20\d{6})?\Z")
"""A word of the rest of a tag that says how a model was packed, or how it is sold, and not which one it is."""

_DATED = re.compile(
    r"[-@](?:20\d{2}-?(?:0[1-9]|1[0-2])-?(?:0[1-9]|[12]\d|3[01])|2[3-9](?:0[1-9]|1[0-2])|0[1-9][0-3]\d|1[0-2][0-3]\d)(?:-v\d+)?$"
)
"""A day as vendors write it at a name's end: `-20241022`, `-2024-07-18`, `@20241022`, `-2407`, `-0324`; Bedrock's `-v2` behind it."""

_SAME = re.compile(r"-(?:latest|instruct)(?:-v0[.-]\d)?$")


def normal(model: str) -> str:
    """The one form of a model's names: `library/llama3.2:3b-instruct-q4_K_M` is `llama3-2:3b`.

    A tag that says anything but how a model was built stays, and so makes another model of it.
    """
    name = _ROUTED.sub("", model.lower())
    tag = _TAG.search(name)
    variant = ""
    if tag is not None and all(map(_BUILD.match, tag[2].split("-"))):
        name, variant = name[: tag.start()], f":{tag[1]}" if tag[1] else ""
    name = _SAME.sub("", _DATED.sub("", name))
    return f"{name}{variant}".replace(".", "-")


def identity(model_id: str) -> str:
    """The model behind an id, whoever offers it: `openai:gpt-4o-2024-08-06` and `client:desk:gpt-4o` are one."""
    provider, model = split_model_id(model_id) or ("", model_id)
    if provider == RESERVED_PROVIDER:
        _, model = split_model_id(model) or ("", model)
    return normal(model)


@lru_cache(maxsize=4096)
def _known(model: str) -> Known | None:
    return _by_name().get(normal(model))


@cache
def _by_name() -> dict[str, Known]:
    return {normal(name): model for model in models() for name in model.names}


@cache
def _tasks() -> dict[str, Task]:
    return msgspec.json.decode(_file("tasks.json"), type=_Tasks).tasks


def _file(name: str) -> bytes:
    return Path(__file__).with_name(name).read_bytes()
