"""Accounts in memory: what each scope has spent and holds in the periods of now, and the limits that bind it there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from datetime import tzinfo

from msgspec import Struct

from actors.clock import MICRO, rfc3339
from actors.levels import Levels
from actors.recent import Recent
from actors.rules.admission import (
    Bound,
    Limit,
    Limits,
    Own,
    account_name,
    accounts_of,
    bounds_of,
    limit_of,
    scopes_of,
)
from actors.rules.alerts import NEVER
from actors.rules.periods import Span, label_before, span_of
from protocols.alerts import Alert
from protocols.budget import Account, Balance, Period
from protocols.money import NANO_PER_USD, NanoUSD, nano_from_usd
from protocols.settings import EVERYBODY, OwnBudget, OwnBudgets
from protocols.usage import ScopeSpend

Key = tuple[str, str, str]
"""User, app and provider: attempts of the same ones count in the same accounts."""

POSTINGS = 10_000
"""Combinations of user, app and provider whose accounts are looked up once, in each of two ages."""

BACK_US = 300 * MICRO
"""A clock that is set back by less stays in its period."""


class ClockWentBack(Exception):
    """The present period is older than the balances in memory."""


class Posting(Struct, frozen=True):
    """Where attempts of one user, app and provider count in the current periods, and what bounds them there."""

    accounts: tuple[Account, ...]
    balances: tuple[Balance, ...]
    bounds: tuple[Bound, ...]


class Accounts:
    """Balances, limits and periods.

    State: balances by account since a month and a day, the periods that these are of, users' own budgets, the current periods and
    the instants (µs) between which they are, with the postings of late cached for them.
    """

    def __init__(
        self, limits: Limits, zone: tzinfo, levels: Levels, in_use: Callable[[], Iterable[Balance]] = tuple
    ) -> None:
        """`in_use` are balances that others still count on, whatever stands there."""
        self._limits = limits
        self._zone = zone
        self._levels = levels
        self._in_use = in_use
        self.balances: dict[Account, Balance] = {}
        self._own: dict[str, Own] = {}
        self._spans: tuple[Span, ...] = ()
        self.since: dict[Period, str] = {}
        self._labels: set[tuple[Period, str]] = set()
        self._from_us = self._until_us = 0
        self._postings: Recent[Key, Posting] = Recent(POSTINGS)

    @property
    def labels(self) -> tuple[str, ...]:
        """The month and the day of now."""
        return tuple(span.label for span in self._spans)

    def restore(self, balances: dict[Account, Balance]) -> None:
        """As the ledger has them."""
        self.balances = balances
        self._labels |= {(account.period, account.label) for account in balances if account.period != "override"}

    def is_now(self, now_us: int) -> bool:
        """Whether the periods are still the ones that were turned to last."""
        return self._from_us <= now_us < self._until_us

    def turn(self, now_us: int, still_granted: Callable[[str], bool]) -> None:
        """Turns to the periods of now, forwards or back. Raises ClockWentBack when their balances are not in memory.

        Balances of the period before, by the calendar and by the clock so far, are kept: the clock may be set back.
        """
        spans = (span_of("month", now_us, self._zone), span_of("day", now_us, self._zone))
        if any(span.label < self.since.get(span.period, "") for span in spans):
            raise ClockWentBack(f"to {spans[-1].label}")
        so_far = {span.period: span.label for span in self._spans}
        for span in spans:
            before = min(label_before(span), so_far.get(span.period, span.label))
            self.since[span.period] = max(before, self.since.get(span.period, before))
        self._spans = spans
        self._labels = {(period, label) for period, label in self._labels if label >= self.since[period]}
        self._labels |= {(span.period, span.label) for span in spans}
        self._from_us = max(span.starts_at for span in spans) * MICRO - BACK_US
        self._until_us = min(span.ends_at for span in spans) * MICRO
        self._postings.clear()

        def is_recent(account: Account) -> bool:
            if account.period == "override":
                return still_granted(account.label)
            return account.label >= self.since[account.period]

        self.balances = {a: b for a, b in self.balances.items() if is_recent(a) or b.held or b.waiting}
        self._levels.keep(is_recent)

    def of_users(self, users: Collection[str]) -> list[Account]:
        """The accounts of these users; with `*` among them all that there are."""
        if EVERYBODY in users:
            return list(self.balances)
        named = (Account(f"user:{user}", period, label) for user in users for period, label in self._labels)
        return [account for account in named if account in self.balances]

    def learn(self, own: OwnBudgets, changed: Iterable[Account]) -> None:
        """The budgets of these users, and so the limits of these accounts, are others from now on; with `*` they are all that there are."""
        learned = {user: _in_nano(budget) for user, budget in own.by_user.items()}
        self._own = learned if EVERYBODY in learned else self._own | learned
        self._postings.clear()
        for account in changed:
            self._arm(account, self.balances[account])

    def posting(self, key: Key) -> Posting:
        """In the periods that were turned to last."""
        posting = self._postings.get(key)
        if posting is None:
            if self._postings.full:
                self.forget_idle()
            posting = self._new_posting(accounts_of(scopes_of(*key), self._spans))
            self._postings.put(key, posting)
        return posting

    def postings(self, keys: Collection[Key]) -> list[Posting]:
        """Of several at once: however many names are forgotten meanwhile, none of these is."""
        return [self.posting(key) for key in keys]

    def forget_idle(self) -> None:
        """Names are the clients' own words: what nobody asks for any more, or ever spent or holds anything on, needs no memory."""
        self._postings.age()
        known = {id(balance) for posting in self._postings.values() for balance in posting.balances}
        known.update(map(id, self._in_use()))
        self.balances = {a: b for a, b in self.balances.items() if b.spent or b.held or b.waiting or id(b) in known}

    def limit(self, account: Account) -> NanoUSD | None:
        """The limit of an account, None if there is none; of a user the lower of the config's and the user's own."""
        if account.period == "override":
            return None
        return limit_of(account.scope, self._limits, self._own_of(account.scope)).of(account.period)

    def ends_at(self, period: Period) -> int:
        """When the current period ends, in seconds since 1970."""
        return next(span.ends_at for span in self._spans if span.period == period)

    def raise_alerts(self, accounts: Iterable[Account]) -> tuple[Alert, ...]:
        """What is reached in these accounts, by a changed limit or a corrected spend."""
        pairs = ((account, self.balances.get(account)) for account in accounts)
        return self._raise(((account, balance) for account, balance in pairs if balance is not None), 0)

    def alerts_of(self, accounts: tuple[Account, ...], balances: tuple[Balance, ...], cost: int) -> tuple[Alert, ...]:
        """The alerts of spend that is about to rise by `cost`; each counts as raised from now on."""
        for balance in balances:
            if balance.spent + cost >= balance.alert_at:
                return self._raise(zip(accounts, balances, strict=True), cost)
        return ()

    def standing(self, user: str | None, now_us: int) -> list[ScopeSpend]:
        """Spend of the scopes that have a limit, and of the user's (with None: the daemon's) month always."""
        rows = []
        always = "daemon" if user is None else f"user:{user}"
        for span in self._spans:
            for scope in self._scopes_to_show(user, span):
                account = Account(scope, span.period, span.label)
                limit = self.limit(account)
                if limit is not None or (span.period == "month" and scope == always):
                    rows.append(_scope_spend(scope, span, self.balances.get(account, Balance()), limit, now_us))
        return sorted(rows, key=lambda row: (_RANK[row.scope.partition(":")[0]], row.scope, row.period != "month"))

    def _raise(self, accounts: Iterable[tuple[Account, Balance]], cost: int) -> tuple[Alert, ...]:
        found: list[Alert] = []
        for account, balance in accounts:
            limit = self.limit(account) if balance.spent + cost >= balance.alert_at else None
            if limit is not None:
                found += self._levels.reach(account, limit, balance.spent + cost)
                self._arm(account, balance)
        return tuple(found)

    def _arm(self, account: Account, balance: Balance) -> None:
        """Notes the spend of the next alert."""
        balance.alert_at = NEVER if account.period == "override" else self._levels.next_at(account, self.limit(account))

    def _new_posting(self, accounts: tuple[Account, ...]) -> Posting:
        balances = tuple(self.balances.setdefault(account, Balance()) for account in accounts)
        bounds: list[Bound] = []
        for account, balance in zip(accounts, balances, strict=True):
            bounds += bounds_of(account, balance, self._limits, self._own_of(account.scope))
            self._arm(account, balance)
        return Posting(accounts, balances, tuple(bounds))

    def _own_of(self, scope: str) -> Own:
        """What a user says of the own budget; who says nothing goes by the daemon-wide default (`*`)."""
        kind, _, name = scope.partition(":")
        if kind != "user":
            return _NOTHING
        own = self._own.get(name)
        if own is not None:
            return own
        everybody = self._own.get(EVERYBODY, _NOTHING)
        return everybody if account_name(name) == name else Own(Limit(), everybody.enforced, everybody.may_override)

    def _scopes_to_show(self, user: str | None, span: Span) -> list[str]:
        if user is not None:
            return list(dict.fromkeys(("daemon", f"user:{account_name(user)}", f"user:{user}")))
        return list(
            {"daemon": None}
            | {a.scope: None for a in self.balances if a.label == span.label and a.period == span.period}
            | {f"app:{name}": None for name in self._limits.apps}
            | {f"provider:{name}": None for name in self._limits.providers}
        )


_RANK = {"daemon": 0, "user": 1, "app": 2, "provider": 3}
_NOTHING = Own()


def _in_nano(budget: OwnBudget) -> Own:
    limit = Limit(_nano(budget.month_usd), _nano(budget.day_usd))
    return Own(limit, budget.enforced, budget.may_override)


def _nano(usd: float | None) -> NanoUSD | None:
    return None if usd is None else nano_from_usd(usd)


def _scope_spend(scope: str, span: Span, balance: Balance, limit: int | None, now: int) -> ScopeSpend:
    """A row; the projection carries this period's pace on to its end."""
    elapsed = max(now // MICRO - span.starts_at, 1)
    projected = balance.spent * (span.ends_at - span.starts_at) // elapsed
    return ScopeSpend(
        scope=scope,
        period=span.period,
        starts_at=rfc3339(span.starts_at * MICRO),
        resets_at=rfc3339(span.ends_at * MICRO),
        spent_nano_usd=balance.spent,
        held_nano_usd=balance.held,
        limit_nano_usd=limit,
        projected_nano_usd=min(projected, 2**62 // NANO_PER_USD * NANO_PER_USD),
    )
