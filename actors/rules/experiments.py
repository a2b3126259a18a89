"""Which arm of an experiment a call is in: weighted, and the same for a user or a conversation for as long as the arms stay."""

from __future__ import annotations

import hashlib
import re
from bisect import bisect
from collections.abc import Mapping
from itertools import accumulate
from typing import Annotated, Literal

from msgspec import Meta, Struct

from protocols.model import Tier
from protocols.rpc import Name

NAMES = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""Of experiments and arms: `<experiment>/<arm>` stands on usage rows."""


class Arm(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[experiments.<name>.arms.<arm>]` of the config: a model (or alias), or a tier of the orchestrator; `weight` against the others."""

    model: Name | None = None
    tier: Tier | None = None
    weight: Annotated[float, Meta(gt=0, le=1e6)] = 1.0


class Experiment(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[experiments.<name>]` of the config: for calls that name this task, or without one for calls that nobody chose a model for.

    A call stays in its arm by `sticky`; one without a conversation by its user.
    """

    arms: dict[str, Arm]
    task: Name | None = None
    sticky: Literal["user", "conversation"] = "user"


class Drawn(Struct, frozen=True):
    """The arm that a call is in: `name` as usage rows have it, what it gives, and whether it is of the call's task or of all calls."""

    name: str
    model: str | None
    tier: Tier | None
    of_task: bool


def experiment_of(experiments: Mapping[str, Experiment], task: str | None) -> str | None:
    """The experiment for calls of a task, or with None the one for calls that nobody chose a model for."""
    return next((name for name, experiment in experiments.items() if experiment.task == task), None)


def draw(name: str, experiment: Experiment, user: str, conversation: str | None) -> Drawn:
    """The arm of a call: where a hash of experiment and user (or conversation) falls among the weights."""
    by_conversation = experiment.sticky == "conversation" and conversation is not None
    who = f"{name}\0{user}\0{conversation if by_conversation else ''}"
    point = (
        int.from_bytes(hashlib.sha256(who.encode("utf-8", "surrogatepass")).digest()[:8]) >> 11
    ) / 2**53  # 0 <= point < 1
    edges = list(accumulate(arm.weight for arm in experiment.arms.values()))
    label, arm = list(experiment.arms.items())[min(bisect(edges, point * edges[-1]), len(edges) - 1)]
    return Drawn(f"{name}/{label}", arm.model, arm.tier, experiment.task is not None)
