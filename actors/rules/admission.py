"""Which accounts an attempt counts in, which limits bind them, and whether it fits. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct, field

from actors.rules.periods import Span
from protocols.budget import Account, Balance, Period
from protocols.money import NanoUSD


class Limit(Struct, frozen=True):
    """Nano-dollars a month and a day; None is no limit."""

    month: NanoUSD | None = None
    day: NanoUSD | None = None

    def of(self, period: Period) -> NanoUSD | None:
        """The limit of one period."""
        return self.month if period == "month" else self.day


class Limits(Struct, frozen=True):
    """The config's limits. `users["*"]` holds for every account that has none of its own."""

    daemon: Limit = Limit()
    users: dict[str, Limit] = field(default_factory=dict)
    apps: dict[str, Limit] = field(default_factory=dict)
    providers: dict[str, Limit] = field(default_factory=dict)


class Refusal(Struct, frozen=True):
    """Why an attempt does not fit: the account that binds, and whether it would fit with nothing held."""

    account: Account
    spent: int
    held: int
    limit: int
    fits_later: bool


NO_LIMIT = Limit()


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
    spans = tuple(spans)
    return tuple(Account(scope, span.period, span.label) for scope in scopes for span in spans)


def limit_of(scope: str, limits: Limits, own: Mapping[str, Limit]) -> Limit:
    """The limit of a scope: the config's, and for a user the lower of it and the user's `own` setting."""
    kind, _, name = scope.partition(":")
    if kind == "daemon":
        return limits.daemon
    if kind == "app":
        return limits.apps.get(name, NO_LIMIT)
    if kind == "provider":
        return limits.providers.get(name, NO_LIMIT)
    everybody = limits.users.get("*", NO_LIMIT) if "/" not in name else NO_LIMIT
    return _lower(limits.users.get(name, everybody), own.get(name, NO_LIMIT))


def refusal(bound: Iterable[tuple[Account, Balance, NanoUSD]], amount: int) -> Refusal | None:
    """The first limit that `amount` does not fit below, or None; one that it can't fit even with nothing held comes first."""
    if amount == 0:  # what is free passes limits that are used up, or were lowered
        return None
    found = None
    for account, balance, limit in bound:
        if balance.spent + balance.held + amount > limit:
            fits_later = balance.spent + amount <= limit
            if not fits_later:
                return Refusal(account, balance.spent, balance.held, limit, fits_later)
            found = found or Refusal(account, balance.spent, balance.held, limit, fits_later)
    return found


def _lower(one: Limit, other: Limit) -> Limit:
    return Limit(month=_least(one.month, other.month), day=_least(one.day, other.day))


def _least(one: NanoUSD | None, other: NanoUSD | None) -> NanoUSD | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)
