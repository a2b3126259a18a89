"""Usage: one row an attempt. What is known when it starts goes with the hold, so that a crash loses nothing."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct, field

from protocols.audit import Why
from protocols.chat import TokenCount
from protocols.money import NanoUSD
from protocols.rpc import Name, Params, Right

TokenSource = Literal["provider", "tokenizer", "estimate"]
CostSource = Literal["price", "free", "estimated", "unknown", "corrected"]
"""Where a cost comes from: `price` × the provider's counts, `free` (local), `estimated` (our own counts, or the hold where the
outcome is unknown), `unknown` (no price: the cost is null), `corrected` (by hand, see the audit)."""

GroupBy = Literal["user", "app", "provider", "model", "day"]


class AttemptStart(Struct, frozen=True):
    """What is known of an attempt before it starts. `usage_id` is also the hold's; `created_at` in µs since 1970, UTC.

    `arm` is `<experiment>/<arm>` for a call that is part of an experiment.
    """

    usage_id: str
    call_id: str
    user: str
    app: str
    conversation: str | None
    task_type: str | None
    provider: str
    model: str
    endpoint: str
    reason: str
    created_at: int
    arm: str | None = None


class AttemptEnd(Struct, frozen=True):
    """How an attempt ended. `status` is `ok` or the code of the fault; latencies in µs."""

    status: str
    tokens: TokenCount
    token_source: TokenSource
    cost: NanoUSD | None
    cost_source: CostSource
    price_version: str | None
    latency_us: int
    first_token_us: int | None


class UsageRow(Struct, kw_only=True):
    """A row of `usage`, as the interface shows it."""

    usage_id: str
    call_id: str
    created_at: str
    user: str
    app: str
    conversation: str | None
    model: str
    endpoint: str
    task_type: str | None
    prompt_tokens: int
    cached_tokens: int
    response_tokens: int
    reasoning_tokens: int
    token_source: str
    cost_nano_usd: int | None
    cost_source: str
    price_version: str | None
    latency_ms: float
    first_token_ms: float | None
    status: str
    reason: str
    held_nano_usd: int
    marks: list[str]
    arm: str | None


class UsageQuery(Params):
    """The newest attempts; `before` is a `usage_id` to page on from, times are RFC 3339, a `day` is of the daemon's time zone."""

    method: ClassVar[str] = "usage"
    right: ClassVar[Right] = "use"

    last: int = 100
    before: Name | None = None
    since: Name | None = None
    until: Name | None = None
    day: Name | None = None
    user: Name | None = None
    app: Name | None = None
    model: Name | None = None
    task: Name | None = None
    conversation: Name | None = None

    def __post_init__(self) -> None:
        """`last` is bounded so that one answer stays readable; a day is a since and an until."""
        if not 1 <= self.last <= 10_000:  # noqa: PLR2004  the figures are in the message
            raise ValueError("`last` must be between 1 and 10000; page on with `before`")
        if self.day is not None and (self.since is not None or self.until is not None):
            raise ValueError("`day` stands for `since` and `until`; leave them out")


class UsageRows(Struct):
    """Result of `usage`, newest first."""

    rows: list[UsageRow]


class SpendGroup(Struct):
    """Attempts summed by a key; those without a known price count in `unpriced` and not in the cost.

    `overruns` cost more than was held for them.
    """

    key: str
    calls: int
    prompt_tokens: int
    response_tokens: int
    cost_nano_usd: int
    unpriced: int
    overruns: int


class PaidCalls(Struct, frozen=True):
    """Calls that a model answered for money: how many, their tokens in sum, the longest prompt's, and what they cost."""

    model: str
    calls: int
    prompt_tokens: int
    response_tokens: int
    longest_prompt: int
    cost_nano_usd: int


class ScopeSpend(Struct, kw_only=True):
    """What a scope has spent in its current period, and what is promised to attempts under way."""

    scope: str
    period: str
    starts_at: str
    resets_at: str
    spent_nano_usd: int
    held_nano_usd: int
    limit_nano_usd: int | None
    projected_nano_usd: int


class SpendQuery(Params):
    """Spend against each limit; with `by`, attempts summed by it between `since` and `until` (default: this month)."""

    method: ClassVar[str] = "spend"
    right: ClassVar[Right] = "use"

    by: GroupBy | None = None
    since: Name | None = None
    until: Name | None = None
    user: Name | None = None


class Spend(Struct, omit_defaults=True):
    """Result of `spend`."""

    scopes: list[ScopeSpend]
    groups: list[SpendGroup] | None = None


class LedgerVerify(Params):
    """Recomputes every balance from the journal."""

    method: ClassVar[str] = "ledger.verify"
    right: ClassVar[Right] = "operate"


class Verdict(Struct):
    """Result of `ledger.verify`: `ok`, how much was read, and each difference in a sentence."""

    ok: bool
    journal_entries: int
    accounts: int
    usage_rows: int
    open_holds: int
    spent_nano_usd: int
    problems: list[str] = field(default_factory=list)


class HoldRow(Struct):
    """A hold that is open, or whose outcome nobody knows."""

    hold_id: str
    usage_id: str
    scope: str
    model: str
    amount_nano_usd: int
    state: str
    created_at: str
    marks: list[str]


class Holds(Params):
    """Lists open holds and those posted with an unknown outcome."""

    method: ClassVar[str] = "holds"
    right: ClassVar[Right] = "operate"


class HoldList(Struct):
    """Result of `holds`."""

    holds: list[HoldRow]


class HoldsResolve(Params):
    """Says what an attempt with an unknown outcome cost, as the provider's bill has it."""

    method: ClassVar[str] = "holds.resolve"
    right: ClassVar[Right] = "admin"

    hold_id: Name
    cost_usd: Annotated[float, Meta(ge=0, le=1e9)]
    why: Why
