"""The plan of a call: what was chosen, in which order, and why."""

from __future__ import annotations

from typing import ClassVar, Literal

from msgspec import UNSET, Struct, UnsetType, field

from protocols.model import Strength
from protocols.money import NanoUSD
from protocols.rpc import Name, Params, Right

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


IN_WORDS: dict[Reason, str] = {
    "explicit_model": "the call names the model",
    "explicit_provider": "the call names the provider",
    "conversation_default": "the conversation's default model",
    "orchestrator": "the best for the task at its tier",
    "task_model": "the model that is set for the task",
    "user_default": "your default model",
    "daemon_default": "the daemon's default model",
    "first_available": "the first model that is available",
    "provider_unhealthy_fallback": "it stands in, for the provider before it is down",
    "rate_limited_fallback": "it stands in, for the provider before it takes no more requests now",
    "budget_exceeded_auto_fallback": "a local model that stands in, for the budget is used up",
    "context_too_long_fallback": "it stands in, for the prompt is too long for the model before it",
}
"""Each reason as people are told it."""


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


class Recommend(Params):
    """The model for a task at each quality tier, of those that can be called now.

    What it does not say is as the caller's settings `orchestrator.*` of that name.
    """

    method: ClassVar[str] = "recommend"
    right: ClassVar[Right] = "use"

    task_type: Name
    prefer_local: bool | None = None
    budget_tier_allows_paid: bool | None = None


class Recommended(Struct, frozen=True):
    """A model and why it is the one; `tier_exceeded` where it is a paid one of the budget tier."""

    model: str
    why: str
    tier_exceeded: bool = False


class Saving(Struct, frozen=True):
    """What the caller's own calls of the task in the last `days` would have cost less with a model. Nano-dollars; see `rules.saving`."""

    model: str
    saved_nano_usd: NanoUSD
    spent_nano_usd: NanoUSD
    calls: int
    days: int
    why: str


class Recommendation(Struct):
    """Result of `recommend`; a tier is None where no model will do, and `ways_out` then says what to do about it, by tier.

    `strength` and the tokens are what was assumed of the task; `saving` is there where there is one.
    """

    task_type: str
    strength: Strength | None
    prompt_tokens: int
    response_tokens: int
    budget: Recommended | None = None
    balanced: Recommended | None = None
    premium: Recommended | None = None
    ways_out: dict[str, str] = field(default_factory=dict)
    saving: Saving | UnsetType = UNSET
