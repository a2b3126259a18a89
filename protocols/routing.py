"""The plan of a call: what was chosen, in which order, and why."""

from __future__ import annotations

from typing import ClassVar, Literal

from msgspec import Struct, field

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
    """The model for a task at each quality tier, of those that can be called now."""

    method: ClassVar[str] = "recommend"
    right: ClassVar[Right] = "use"

    task_type: Name
    prefer_local: bool = False
    budget_tier_allows_paid: bool = False


class Recommended(Struct, frozen=True):
    """A model and why it is the one; `tier_exceeded` where it is a paid one of the budget tier."""

    model: str
    why: str
    tier_exceeded: bool = False


class Recommendation(Struct):
    """Result of `recommend`; a tier is None where no model will do, and `ways_out` then says what to do about it, by tier.

    `strength` and the tokens are what was assumed of the task.
    """

    task_type: str
    strength: Strength | None
    prompt_tokens: int
    response_tokens: int
    budget: Recommended | None = None
    balanced: Recommended | None = None
    premium: Recommended | None = None
    ways_out: dict[str, str] = field(default_factory=dict)
