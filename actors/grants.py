"""Overrides that users or operators granted: how much a user may spend above the budget, and until when."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from actors.clock import rfc3339
from actors.rules.admission import Allowance
from protocols.budget import Account, Balance, Grant
from protocols.overrides import OverrideRow


class Grants:
    """The overrides that are not revoked.

    State: grants by id. What is spent through one is in the balance of its account.
    """

    def __init__(self) -> None:
        self._by_id: dict[str, Grant] = {}

    def __bool__(self) -> bool:
        return bool(self._by_id)

    def __contains__(self, grant_id: str) -> bool:
        return grant_id in self._by_id

    def restore(self, grants: Iterable[Grant]) -> None:
        """These were granted before."""
        self._by_id = {grant.id: grant for grant in grants}

    def add(self, grant: Grant) -> None:
        """It holds from now on."""
        self._by_id[grant.id] = grant

    def remove(self, grant: Grant) -> None:
        """Nothing passes through it from now on."""
        self._by_id.pop(grant.id, None)

    def find(self, grant_id: str, user: str | None) -> Grant | None:
        """The grant, if it is the user's or of a name below; with None anybody's."""
        grant = self._by_id.get(grant_id)
        return grant if grant is not None and _is_of(grant, user) else None

    def forget(self, before_us: int) -> None:
        """Drops those that ended before."""
        self._by_id = {i: grant for i, grant in self._by_id.items() if before_us < grant.until}

    def allowances(self, balances: dict[Account, Balance], now_us: int) -> dict[str, list[Allowance]]:
        """What they allow now, by scope."""
        found: dict[str, list[Allowance]] = {}
        for grant in self._in_force(None, now_us):
            account = account_of(grant)
            balance = balances.setdefault(account, Balance())
            found.setdefault(account.scope, []).append(Allowance(account, balance, grant.amount))
        return found

    def rows(self, user: str | None, balances: Mapping[Account, Balance], now_us: int) -> list[OverrideRow]:
        """Those that hold now, of a user and the names below, or with None of everybody."""
        return [row_of(grant, balances) for grant in self._in_force(user, now_us)]

    def _in_force(self, user: str | None, now_us: int) -> Iterator[Grant]:
        return (grant for grant in self._by_id.values() if now_us < grant.until and _is_of(grant, user))


def account_of(grant: Grant) -> Account:
    """Where what is spent through an override counts."""
    return Account(f"user:{grant.user}", "override", grant.id)


def row_of(grant: Grant, balances: Mapping[Account, Balance]) -> OverrideRow:
    """A grant with what is spent and held of it."""
    balance = balances.get(account_of(grant), Balance())
    return OverrideRow(
        override_id=grant.id,
        user=grant.user,
        amount_nano_usd=grant.amount,
        spent_nano_usd=balance.spent,
        held_nano_usd=balance.held,
        granted_at=rfc3339(grant.granted_at),
        until=rfc3339(grant.until),
        granted_by=grant.granted_by,
        why=grant.why,
    )


def _is_of(grant: Grant, user: str | None) -> bool:
    return user is None or grant.user == user or grant.user.startswith(f"{user}/")
