"""What calls would cost: one as `chat` would make it, or so many of each task at a quality tier."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta, Struct, field

from protocols.chat import Chat, ExplainedFault, Message
from protocols.model import Tier
from protocols.rpc import Name

MOST_TASKS = 100

Calls = Annotated[int, Meta(ge=0, le=1_000_000_000)]

PromptSource = Literal["tokenizer", "estimate", "upper_bound", "task"]
"""Where a prompt's tokens come from: counted here, its bytes / 4, the most that it can have (images, tools and schemas are not
countable here), or what the task is taken to have."""

AnswerSource = Literal["task", "default", "limit"]
"""Where an answer's tokens come from: the task, what is assumed without one, or the longest answer, which is less than that."""

OF_A_MIX = frozenset({"quality_tier", "usage", "user", "prefer_local", "budget_tier_allows_paid"})


class Estimate(Chat):
    """Params of `estimate`: those of `chat`; or `quality_tier` and `usage`, the calls by task. Nobody is called.

    `prefer_local` and `budget_tier_allows_paid` go with `usage` and mean what they do in `recommend`; where they are
    left out, the settings `orchestrator.*` of the user count.
    """

    method: ClassVar[str] = "estimate"
    keyed: ClassVar[bool] = False

    messages: list[Message] = field(default_factory=list)
    quality_tier: Tier | None = None
    usage: Annotated[dict[Name, Calls], Meta(min_length=1, max_length=MOST_TASKS)] | None = None
    prefer_local: bool | None = None
    budget_tier_allows_paid: bool | None = None

    def __post_init__(self) -> None:
        """One of the two forms, not a bit of each."""
        if self.usage is None:
            self._check_request()
            super().__post_init__()
            return
        strange = [f.name for f in msgspec.structs.fields(self) if f.name not in OF_A_MIX and _is_said(self, f)]
        if strange:
            raise ValueError(
                f"`{strange[0]}` does not go with `usage`, which estimates calls by task; leave one of them out"
            )
        if self.quality_tier is None:
            raise ValueError("`usage` needs a `quality_tier`: budget, balanced or premium")

    def request(self) -> Chat:
        """The chat that is estimated."""
        return Chat(**{name: getattr(self, name) for name in Chat.__struct_fields__})

    def _check_request(self) -> None:
        if not self.messages:
            raise ValueError("give `messages`, as to `chat`, or `quality_tier` and `usage`, such as {dialogue: 100}")
        if self.prefer_local or self.budget_tier_allows_paid:
            raise ValueError(
                "`prefer_local` and `budget_tier_allows_paid` go with `usage`; leave them out beside `messages`"
            )


class Assumed(Struct, kw_only=True):
    """What was assumed of calls of one kind, and what one of them then costs: None where no price is known.

    `task` is None where a request names none. `local` is free. `bound_nano_usd` is the most that a request can cost, which `chat`
    would hold; None for a task, and without a price.
    """

    task: str | None
    model: str
    calls: int
    prompt_tokens: int
    prompt_source: PromptSource
    response_tokens: int
    response_source: AnswerSource
    why: str
    cost_nano_usd: int | None = None
    price_version: str | None = None
    local: bool = False
    tier_exceeded: bool = False
    bound_nano_usd: int | None = None


class Missing(Struct):
    """Calls that no sum has: no model will do, or no price is known. `why` says what to do about it."""

    task: str | None
    model: str | None
    calls: int
    why: str


class Estimated(Struct):
    """Result of `estimate`. The sums by task and by model are each the total, but that a request without a task has no task.

    `total_nano_usd` lacks what is `missing`, and is None when that is all. `fault` is what a budget would answer to the request.
    """

    total_nano_usd: int | None
    by_task: dict[str, int]
    by_model: dict[str, int]
    assumptions: list[Assumed]
    missing: list[Missing] = field(default_factory=list)
    fault: ExplainedFault | None = None


def _is_said(params: Estimate, info: msgspec.structs.FieldInfo) -> bool:
    default = info.default if info.default_factory is msgspec.NODEFAULT else info.default_factory()
    return bool(getattr(params, info.name) != default)
