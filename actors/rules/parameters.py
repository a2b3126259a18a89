"""What a user's parameters for a model make of a request: defaults fill what it leaves out, overrides replace what it says. Pure."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import structs

from protocols.chat import Chat
from protocols.routing import Step
from protocols.users import NONE_SAID, Layers, Parameters

NAMES = tuple(info.name for info in structs.fields(Parameters))


def with_parameters(chat: Chat, layers: Layers) -> Chat:
    """The request as it is sent; the same object when nothing changes."""
    filled, replaced = _filled(chat, layers), _replaced(chat, layers)
    return structs.replace(chat, **filled, **replaced) if filled or replaced else chat


def parameter_steps(chat: Chat, layers: Layers, model: str) -> list[Step]:
    """What each layer changes, as the decision tells it."""
    found = (
        ("parameter_defaults", _filled(chat, layers), f"the call leaves it to your defaults for `{model}`"),
        ("parameter_overrides", _replaced(chat, layers), f"your overrides for `{model}` come before what a call says"),
    )
    return [Step(step, _told(changed), why) for step, changed, why in found if changed]


def _filled(chat: Chat, layers: Layers) -> dict[str, Any]:
    said, over = _said(layers.defaults), _said(layers.overrides)
    return {name: value for name, value in said.items() if getattr(chat, name) is None and name not in over}


def _replaced(chat: Chat, layers: Layers) -> dict[str, Any]:
    return {name: value for name, value in _said(layers.overrides).items() if getattr(chat, name) != value}


def _said(parameters: Parameters) -> dict[str, Any]:
    if parameters is NONE_SAID:
        return {}
    return {name: value for name in NAMES if (value := getattr(parameters, name)) is not None}


def _told(changed: dict[str, Any]) -> str:
    return ", ".join(f"{name} = {msgspec.json.encode(value).decode()}" for name, value in changed.items())
