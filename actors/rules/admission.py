"""Which accounts an attempt counts in, which limits bind them, and whether it fits. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Literal

from msgspec import Struct, field

from actors.rules.periods import Span
from protocols.budget import Account, Balance, Mark, Period
from protocols.money import NanoUSD

NOTHING: Mapping[Any, Any] = MappingProxyType({})
"""No allowances, nothing before, no rooms."""


class Limit(Struct, frozen=True):
    """Nano-dollars a month and a day; None is no limit. `hard`, for a user's: no setting of the user passes it."""

    month: NanoUSD | None = None
    day: NanoUSD | None = None
    hard: bool = False

    def of(self, period: Period) -> NanoUSD | None:
        """The limit of one period."""
        return self.month if period == "month" else self.day


class Limits(Struct, frozen=True):
    """The config's limits. `users["*"]` holds for every account that has none of its own; all others are hard."""

    daemon: Limit = Limit()
    users: dict[str, Limit] = field(default_factory=dict)
    apps: dict[str, Limit] = field(default_factory=dict)
    providers: dict[str, Limit] = field(default_factory=dict)


class Own(Struct, frozen=True):
    """What a user says of the own budget: limits, whether it is enforced, whether it may be overridden."""

    limit: Limit = Limit()
    enforced: bool = True
    may_override: bool = True


class Bound(Struct, frozen=True):
    """A limit that binds an account: hard, or a user's budget with what the user says of it."""

    account: Account
    balance: Balance
    limit: NanoUSD
    hard: bool = True
    enforced: bool = True
    may_override: bool = False


class Allowance(Struct, frozen=True):
    """What an override lets a user spend above the budget: an account of its own with an amount."""

    account: Account
    balance: Balance
    amount: NanoUSD


class Admitted(Struct, frozen=True):
    """It fits, or passes: how it does, the overrides that it is counted in as well, and what the passed budget had spent."""

    marks: tuple[Mark, ...] = ()
    allowances: tuple[Allowance, ...] = ()
    spent_before: NanoUSD = NanoUSD(0)


class Refusal(Struct, frozen=True):
    """Why an attempt does not fit: a hard limit, a user's budget, or holds that will settle (`held`).

    `room` is what fits below all limits with nothing held; `rooms`, of a group, what fits in each scope.
    """

    kind: Literal["hard", "budget", "held"]
    account: Account
    spent: int
    held: int
    limit: NanoUSD
    room: NanoUSD = NanoUSD(0)
    may_override: bool = False
    rooms: Mapping[str, NanoUSD] = NOTHING


Labels = tuple[tuple[Period, str], ...]
"""Periods with the calendar's names for them."""

NO_LIMIT = Limit()
FITS = Admitted()


def account_name(user: str) -> str:
    """The account below which a user's name lives: `ana` of `ana/bob`."""
    return user.partition("/")[0]


def scopes_of(user: str, app: str, provider: str) -> tuple[str, ...]:
    """The scopes that an attempt counts in; `ana/bob` counts in both user scopes, so that invented names buy nothing."""
    account = account_name(user)
    named = () if account == user else (f"user:{user}",)
    return ("daemon", f"user:{account}", *named, f"app:{app}", f"provider:{provider}")


def accounts_of(scopes: Iterable[str], spans: Iterable[Span]) -> tuple[Account, ...]:
    """The accounts of these scopes in these periods."""
    labels = tuple((span.period, span.label) for span in spans)
    return tuple(account for scope in scopes for account in _accounts_in(scope, labels))


def _accounts_in(scope: str, labels: Labels) -> tuple[Account, ...]:
    return _new_accounts(scope, labels) if "/" in scope else _shared_accounts(scope, labels)


@lru_cache(maxsize=256)
def _shared_accounts(scope: str, labels: Labels) -> tuple[Account, ...]:
    """The same objects for all who share a scope: there are as many sets of accounts as users."""
    return _new_accounts(scope, labels)


def _new_accounts(scope: str, labels: Labels) -> tuple[Account, ...]:
    return tuple(Account(scope, period, label) for period, label in labels)


def in_order(accounts: Iterable[Account]) -> tuple[Account, ...]:
    """The accounts of an attempt in the order of `accounts_of`, those of overrides last."""
    return tuple(sorted(accounts, key=_place))


def _place(account: Account) -> tuple[bool, int, str, int, str]:
    kind, period = account.scope.partition(":")[0], account.period
    return (period == "override", _KINDS.index(kind), account.scope, _PERIODS.index(period), account.label)


_KINDS = ("daemon", "user", "app", "provider")
_PERIODS = ("month", "day", "override")


def limit_of(scope: str, limits: Limits, own: Own) -> Limit:
    """The limit of a scope: the config's, and for a user the lower of it and the user's own."""
    configured = _configured(scope, limits)
    return _lower(configured, own.limit) if scope.startswith("user:") else configured


def bounds_of(account: Account, balance: Balance, limits: Limits, own: Own) -> tuple[Bound, ...]:
    """The limits that bind an account: one, or for a user with a hard limit and a lower budget below it both."""
    configured = _configured(account.scope, limits)
    ceiling = configured.of(account.period)
    if not account.scope.startswith("user:"):
        return () if ceiling is None else (Bound(account, balance, ceiling),)
    budget = own.limit.of(account.period)
    found = []
    if ceiling is not None and configured.hard:
        found.append(Bound(account, balance, ceiling))
        budget = budget if budget is not None and budget < ceiling else None
    else:
        budget = _least(ceiling, budget)
    if budget is not None:
        found.append(Bound(account, balance, budget, hard=False, enforced=own.enforced, may_override=own.may_override))
    return tuple(found)


def has_room(bounds: Iterable[Bound], amount: int) -> bool:
    """Whether an amount fits below all limits right now, behind those who wait for room. What is free always does."""
    if amount == 0:  # also below limits that are used up, or were lowered
        return True
    for bound in bounds:
        balance = bound.balance
        if balance.spent + balance.held + balance.waiting + amount > bound.limit:
            return False
    return True


def decide(
    bounds: Sequence[Bound],
    amount: int,
    *,
    soft: bool = False,
    confirmed: bool = False,
    allowances: Mapping[str, Sequence[Allowance]] | None = None,
    not_ahead: int | None = 0,
    before: Mapping[Account, int] = NOTHING,
) -> Admitted | Refusal:
    """Whether an attempt may be held, for all its limits at once.

    Hard limits come first, then the user's budget with what lets an attempt pass it, then holds that may settle. What is
    `confirmed` passes budgets whose owners allow that (`may_override`) as they are now. Of the amounts
    that wait for room on an account, `not_ahead` do not wait before this one; None says that nobody does. `before` is what the same
    group takes before this one: as yet in no balance, and nothing to wait for, since the group is taken as a whole.
    """
    if amount == 0:
        return FITS
    cases: dict[_Case, list[Bound]] = {}
    for bound in bounds:
        ahead = 0 if not_ahead is None else bound.balance.waiting - not_ahead
        case = _case(bound, amount + before.get(bound.account, 0), ahead, soft=soft)
        if case is not None:
            cases.setdefault(case, []).append(bound)
    if "hard" in cases:
        return _refusal("hard", cases["hard"][0], bounds)
    over, used = cases.get("budget", []), list[Allowance]()
    # Those that nobody may pass come first: asking about another one would promise what does not hold.
    for bound in sorted(over, key=lambda each: each.may_override):
        if confirmed and bound.may_override:
            continue
        allowance = _allowance(bound, amount, allowances or NOTHING, before)
        if allowance is None:
            return _refusal("budget", bound, bounds)
        used += [allowance] if all(allowance is not each for each in used) else []
    if "held" in cases:
        return _refusal("held", cases["held"][0], bounds)
    spent_before = NanoUSD(over[0].balance.spent) if over else NanoUSD(0)
    return Admitted(tuple(mark for case, mark in _MARKS if case in cases), tuple(used), spent_before)


def percent_used(spent: int, limit: int) -> float:
    """Spent of a limit in per cent, to one decimal, halves up; of nothing it is 100."""
    return (spent * 2000 + limit) // (2 * limit) / 10 if limit > 0 else 100.0


_Case = Literal["hard", "budget", "held", "soft", "unenforced"]
_MARKS: tuple[tuple[_Case, Mark], ...] = (("unenforced", "unenforced"), ("soft", "soft"), ("budget", "override"))


def _case(bound: Bound, amount: int, ahead: int, *, soft: bool) -> _Case | None:
    """What a limit says to an amount that has `ahead` waiting before it: nothing, or why it does not fit or passes."""
    balance, limit = bound.balance, bound.limit
    if balance.spent + balance.held + ahead + amount <= limit:
        return None
    if not bound.hard and not bound.enforced:
        return "unenforced"
    if not bound.hard and soft and balance.spent < limit:
        return "soft"
    if balance.spent + amount <= limit:
        return "held"
    return "hard" if bound.hard else "budget"


def _refusal(kind: Literal["hard", "budget", "held"], bound: Bound, bounds: Sequence[Bound]) -> Refusal:
    room = min(b.limit - b.balance.spent for b in bounds if b.hard or b.enforced)
    balance = bound.balance
    return Refusal(
        kind, bound.account, balance.spent, balance.held, bound.limit, NanoUSD(max(room, 0)), bound.may_override
    )


def _allowance(
    bound: Bound, amount: int, allowances: Mapping[str, Sequence[Allowance]], before: Mapping[Account, int]
) -> Allowance | None:
    """The first override of the budget's user with room for the amount."""
    for each in allowances.get(bound.account.scope, ()):
        if each.balance.spent + each.balance.held + before.get(each.account, 0) + amount <= each.amount:
            return each
    return None


def _configured(scope: str, limits: Limits) -> Limit:
    kind, _, name = scope.partition(":")
    match kind:
        case "daemon":
            return limits.daemon
        case "app":
            return limits.apps.get(name, NO_LIMIT)
        case "provider":
            return limits.providers.get(name, NO_LIMIT)
    everybody = limits.users.get("*", NO_LIMIT) if "/" not in name else NO_LIMIT
    return limits.users.get(name, everybody)


def _lower(one: Limit, other: Limit) -> Limit:
    return Limit(month=_least(one.month, other.month), day=_least(one.day, other.day))


def _least(one: NanoUSD | None, other: NanoUSD | None) -> NanoUSD | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)
