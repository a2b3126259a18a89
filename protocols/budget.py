"""What is asked of the budget and the ledger: hold, settle, read."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from protocols.money import NanoUSD
from protocols.request import Request
from protocols.usage import (
    AttemptEnd,
    AttemptStart,
    HoldList,
    ScopeSpend,
    SpendGroup,
    SpendQuery,
    UsageQuery,
    UsageRows,
    Verdict,
)

Period = Literal["month", "day"]


class Account(Struct, frozen=True):
    """A balance's identity: a scope (`daemon`, `user:ana`, `app:editor`, `provider:openai`) in one period.

    `label` is the calendar's name for the period: `2026-11`, `2026-11-21`. It outlives a change of the time zone.
    """

    scope: str
    period: Period
    label: str


class Balance(Struct):
    """What an account has spent and what is held on it, in nano-dollars."""

    spent: int = 0
    held: int = 0


class Reserve(Request[None], frozen=True):
    """Hold `amount` for an attempt in every scope it counts in, or in none; answered once the hold is durable.

    Raises BudgetExceeded, BudgetHeld, PriceUnknown (`amount` None under a limit), LedgerReadonly.
    """

    start: AttemptStart
    amount: NanoUSD | None


class Fits(Request[None], frozen=True):
    """Would a reservation of `amount` be taken right now? Raises what `Reserve` would; holds nothing."""

    user: str
    app: str
    provider: str
    model: str
    amount: NanoUSD | None


class Settle(Request[None], frozen=True):
    """Close an attempt's hold and write its usage row; answered once that is durable. A second one is a no-op."""

    usage_id: str
    end: AttemptEnd


class Forget(Request[None], frozen=True):
    """The budget to itself: this hold could not be written, so it never was."""

    usage_id: str


class Standing(Request[list[ScopeSpend]], frozen=True):
    """Spend against the limits: the scopes a user may see, or all of them with `user` None."""

    user: str | None


class PostHold(Request[None], frozen=True):
    """Ledger: write a hold and its journal entry; answered when durable. Raises LedgerReadonly."""

    start: AttemptStart
    amount: NanoUSD
    accounts: tuple[Account, ...]


class PostSettlement(Request[None], frozen=True):
    """Ledger: write the terminal entry and the usage row of a hold, and close it, in one transaction; answered when durable."""

    start: AttemptStart
    end: AttemptEnd
    amount: NanoUSD
    accounts: tuple[Account, ...]


class OpenHold(Struct, frozen=True):
    """A hold that the ledger has open."""

    start: AttemptStart
    amount: NanoUSD
    accounts: tuple[Account, ...]


class Books(Struct, frozen=True):
    """The ledger's state as of all that was posted before: balances from the given periods on, and the open holds."""

    balances: dict[Account, Balance]
    open_holds: list[OpenHold]


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


class ReadHolds(Request[HoldList], frozen=True):
    """Ledger: holds that are open or unknown."""


class Verify(Request[Verdict], frozen=True):
    """Ledger: recompute the balances from the journal and compare."""
