"""The plan of a call: what was chosen, in which order, and why."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

from protocols.money import NanoUSD

Reason = Literal[
    "explicit_model",
    "explicit_provider",
    "conversation_default",
    "orchestrator",
    "task_model",
    "user_default",
    "daemon_default",
    "first_available",
    "provider_unhealthy_fallback",
    "rate_limited_fallback",
    "budget_exceeded_auto_fallback",
    "context_too_long_fallback",
]


class Step(Struct, frozen=True):
    """One step of the resolution that was taken, and what it gave."""

    step: str
    value: str
    why: str


class Rejected(Struct, frozen=True):
    """A candidate that was passed over, with the fault code it would have given."""

    model: str
    code: str
    why: str


class Decision(Struct, frozen=True):
    """What a call will use: targets in order, `bound_nano_usd` for the first (None without a known price)."""

    targets: list[str]
    reason: Reason
    flags: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    bound_nano_usd: NanoUSD | None = None
