"""What is asked of the budget and the ledger: hold, settle, read."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from msgspec import Struct, field

from protocols.alerts import Alert
from protocols.audit import Actor, Audit, AuditEntries
from protocols.errors import BudgetExceeded
from protocols.money import NanoUSD
from protocols.overrides import OverrideRow
from protocols.request import Request
from protocols.settings import Admission
from protocols.usage import (
    AttemptEnd,
    AttemptStart,
    HoldList,
    PaidCalls,
    ScopeSpend,
    SpendGroup,
    SpendQuery,
    UsageQuery,
    UsageRows,
    Verdict,
)

Period = Literal["month", "day", "override"]

Mark = Literal["soft", "override", "unenforced", "limit_lowered", "clamped", "overrun"]
"""How an attempt came to pass a limit, or what was changed so that it fits; on its row for good.

`soft` (admitted while spent < limit), `override` (confirmed or granted), `unenforced` (the user does not enforce the own budget),
`limit_lowered` (below what was held already), `clamped` (the longest answer cut to what fits), `overrun` (cost above the hold).
"""


class Account(Struct, frozen=True):
    """A balance's identity: a scope (`daemon`, `user:ana`, `app:editor`, `provider:openai`) in one period.

    `label` is the calendar's name for the period: `2026-11`, `2026-11-21`. It outlives a change of the time zone. What is spent
    through an override counts in an account of its user with the period `override` and the override's id as label, too.
    """

    scope: str
    period: Period
    label: str


class Balance(Struct):
    """What an account has spent and what is held on it, in nano-dollars.

    In memory also what waits for room on it, and the spend at which its next alert is due.
    """

    spent: int = 0
    held: int = 0
    waiting: int = 0
    alert_at: int = 1 << 62


class Offer(Struct, frozen=True):
    """A one-time token, and when it ends (RFC 3339)."""

    token: str
    expires_at: str


class Confirmed(Struct, frozen=True):
    """A user's confirmation that a call may pass the budget: the one-time token, and what it must be bound to."""

    token: str
    body: bytes
    actor: Actor


TOURNAMENT = "tournament"
"""What a token is bound to in place of a model when it is for a group."""


class Reserve(Request[tuple[Mark, ...]], frozen=True):
    """Hold `amount` for an attempt in every scope it counts in, or in none; answered once the hold is durable, with its marks.

    `lease_s` seconds later the hold is closed although nobody settled it. With `admission` queue it waits for its turn for as long
    as its asker does. Raises OverBudget, BudgetHeld, OverrideInvalid, PriceUnknown (`amount` None under a hard
    limit), LedgerReadonly.
    """

    start: AttemptStart
    amount: NanoUSD | None
    admission: Admission = "strict"
    lease_s: float = 300.0
    marks: tuple[Mark, ...] = ()
    confirmed: Confirmed | None = None


class OverBudget(BudgetExceeded):
    """What an attempt does not fit below even with nothing held: a hard limit, or a user's budget, where the user has a say.

    `room` is what would fit with nothing held; `may_override` whether the budget's owner lets calls pass it once confirmed.

    Of a group, `rooms` says it for each scope that bounds what costs something in it: members fit together, with nothing held, when
    in each of these scopes those that count there come to no more. `room` is the least of them: any part of the group that comes to
    no more than that fits everywhere. The detail's `bound_nano_usd` is what the whole group may cost in the scope that refuses.
    """

    room: NanoUSD = NanoUSD(0)
    hard: bool = True
    may_override: bool = False
    rooms: Mapping[str, NanoUSD] = MappingProxyType({})


class Fits(Request[None], frozen=True):
    """Would a reservation of `amount` be taken right now? Raises what `Reserve` would; holds nothing, waits for nothing."""

    user: str
    app: str
    provider: str
    model: str
    amount: NanoUSD | None
    admission: Admission = "strict"
    confirmed: Confirmed | None = None


class ReserveGroup(Request[tuple[tuple[Mark, ...], ...]], frozen=True):
    """Take the holds of a tournament, one user's, all or none; answered once all are durable, with the marks of each in order.

    Each is decided on top of those before it, in the periods of now. `confirmed` is for all of them: its token is bound to
    `TOURNAMENT` and to what they come to together, and is used up once; the `confirmed` of a single one says nothing. Nobody
    waits for the turn of a group: `queue` is answered like `strict`. Each is settled by itself. Raises what Reserve does: BudgetHeld
    only if all of them would fit once other holds have settled.
    """

    reserves: tuple[Reserve, ...]
    confirmed: Confirmed | None = None


class FitsGroup(Request[None], frozen=True):
    """Would a group of these be taken right now? Raises what `ReserveGroup` would; holds nothing."""

    fits: tuple[Fits, ...]
    confirmed: Confirmed | None = None


class OfferOverride(Request[Offer], frozen=True):
    """A one-time token for a call that is over its user's budget, bound to user, model, request body and the periods of now.

    It lets no call pass that may come to more than `most`, which is what the user was told.
    """

    user: str
    model: str
    body: bytes
    most: NanoUSD


class CheckOverride(Request[str], frozen=True):
    """The model that this token is good for, for this user and request. Raises OverrideInvalid.

    The token stays good until a hold is taken with it.
    """

    token: str
    user: str
    body: bytes


class Settle(Request[tuple[Alert, ...] | None], frozen=True):
    """Close an attempt's hold and write its usage row; answered once that is durable. A second one is a no-op.

    Answers the alerts that its spend reached, in order, if any.
    """

    usage_id: str
    end: AttemptEnd


class LeaveQueue(Request[None], frozen=True):
    """The budget to itself: who waited for a turn is gone."""

    usage_id: str


class Forget(Request[None], frozen=True):
    """The budget to itself: this hold could not be written, so it never was."""

    usage_id: str


class Standing(Request[list[ScopeSpend]], frozen=True):
    """Spend against the limits: the scopes a user may see, or all of them with `user` None."""

    user: str | None


class OverrideUse(Struct, frozen=True):
    """For the audit: who confirmed that a hold passes a budget, and what the budget had spent before."""

    actor: Actor
    spent_before: NanoUSD


class OpenHold(Struct, frozen=True):
    """A hold that the ledger has open. `lease_until` in µs since 1970."""

    start: AttemptStart
    amount: NanoUSD
    accounts: tuple[Account, ...]
    marks: tuple[Mark, ...] = ()
    lease_until: int = 0


class PostHold(Request[None], frozen=True):
    """Ledger: write a hold and its journal entry, and with `used` the audit's; answered when durable. Raises LedgerReadonly."""

    hold: OpenHold
    used: OverrideUse | None = None


class PostHolds(Request[None], frozen=True):
    """Ledger: write the holds of a group in one transaction: all or none; answered when durable. Raises LedgerReadonly."""

    posts: tuple[PostHold, ...]


class PostSettlement(Request[None], frozen=True):
    """Ledger: write the terminal entry, the usage row and the alerts that are reached, and close the hold, in one transaction.

    Answered when durable.
    """

    hold: OpenHold
    end: AttemptEnd
    alerts: tuple[Alert, ...] = ()


class PostAlerts(Request[None], frozen=True):
    """Ledger: write alerts that a changed limit made; those that are there already stay as they are."""

    alerts: tuple[Alert, ...]


class Grant(Struct, frozen=True):
    """An override that a user or an operator granted. Instants in µs since 1970."""

    id: str
    user: str
    amount: NanoUSD
    granted_at: int
    until: int
    granted_by: str
    why: str


class PostGrant(Request[None], frozen=True):
    """Ledger: write an override and its audit entry."""

    grant: Grant
    actor: Actor


class PostRevocation(Request[None], frozen=True):
    """Ledger: end an override, with its audit entry."""

    grant: Grant
    actor: Actor


class GrantOverride(Request[OverrideRow], frozen=True):
    """Budget: let a user's calls pass the own budget by `amount` in all, until an instant (µs). Raises BadRequest, LedgerReadonly."""

    user: str
    amount: NanoUSD
    until: int
    why: str
    actor: Actor


class ListOverrides(Request[list[OverrideRow]], frozen=True):
    """Budget: the overrides that hold, of a user and the names below, or with None of everybody."""

    user: str | None


class RevokeOverride(Request[None], frozen=True):
    """Budget: end an override now; holds taken through it stay. `user` None may end anybody's. Raises NotFound."""

    override_id: str
    user: str | None
    actor: Actor


class Resolve(Request[None], frozen=True):
    """Budget: say what an attempt with an unknown outcome cost; a correcting entry and an audit entry. Raises NotFound, BadRequest."""

    hold_id: str
    cost: NanoUSD
    why: str
    actor: Actor


class Unknown(Struct, frozen=True):
    """An attempt whose outcome nobody knows, as it is posted."""

    usage_id: str
    posted: NanoUSD
    entries: int
    accounts: tuple[Account, ...]


class ReadUnknown(Request[Unknown], frozen=True):
    """Ledger: an attempt with an unknown outcome. Raises NotFound; BadRequest for one that is under way."""

    hold_id: str


class PostCorrection(Request[None], frozen=True):
    """Ledger: the correcting entry, the row's new cost, the audit entry, and the hold is listed no more."""

    unknown: Unknown
    cost: NanoUSD
    why: str
    actor: Actor


class WasSent(Request[bool], frozen=True):
    """Ledger: whether a byte of this attempt's request has left."""

    usage_id: str


class Books(Struct, frozen=True):
    """The ledger's state as of all that was posted before: balances from the given periods on, the open holds, the alerts of
    these periods, and the overrides that are not revoked."""

    balances: dict[Account, Balance]
    open_holds: list[OpenHold]
    alerts: list[Alert] = field(default_factory=list)
    grants: list[Grant] = field(default_factory=list)


class ReadBooks(Request[Books], frozen=True):
    """Ledger: balances of the months and days from these labels on, and of accounts that open holds count in; None is no period."""

    month: str | None = None
    day: str | None = None


class ReadUsage(Request[UsageRows], frozen=True):
    """Ledger: usage rows; `users` narrows to these and the names below them, None means everybody's."""

    query: UsageQuery
    user: str | None


class ReadGroups(Request[list[SpendGroup]], frozen=True):
    """Ledger: usage summed by `query.by`; `since` and `until` in µs since 1970."""

    query: SpendQuery
    user: str | None
    since: int
    until: int


class ReadPaidCalls(Request[list[PaidCalls]], frozen=True):
    """Ledger: what a user and the names below paid for answers of a task since an instant (µs since 1970), by model."""

    task: str
    user: str
    since: int


class ReadAlerts(Request[list[Alert]], frozen=True):
    """Ledger: the newest alerts, newest first: the daemon's, this user's and those of names below, or with None all."""

    last: int
    user: str | None = None


class ReadAudit(Request[AuditEntries], frozen=True):
    """Ledger: audit entries, newest first; `user` narrows to this and the names below."""

    query: Audit
    user: str | None


class ReadHolds(Request[HoldList], frozen=True):
    """Ledger: holds that are open or unknown."""


class CountUnknown(Request[int], frozen=True):
    """Ledger: how many attempts have an outcome that nobody knows."""


class Verify(Request[Verdict], frozen=True):
    """Ledger: recompute the balances from the journal and compare."""
