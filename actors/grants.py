"""Overrides that users or operators granted: how much a user may spend above the budget, and until when."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from actors.clock import rfc3339
from actors.rules.admission import Allowance
from protocols.budget import Account, Balance, Grant
from protocols.overrides import OverrideRow


class Grants:
    """The overrides that are not revoked.

    State: grants by id, and by the scope whose budget they let pass. What is spent through one is in the balance of its account.
    """

    def __init__(self) -> None:
        self._by_id: dict[str, Grant] = {}
        self._by_scope: dict[str, list[Grant]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_id)

    def __contains__(self, grant_id: str) -> bool:
        return grant_id in self._by_id

    def restore(self, grants: Iterable[Grant]) -> None:
        """These were granted before."""
        self._by_id, self._by_scope = {}, {}
        for grant in grants:
            self.add(grant)

    def add(self, grant: Grant) -> None:
        """It holds from now on."""
        self._by_id[grant.id] = grant
        self._by_scope.setdefault(f"user:{grant.user}", []).append(grant)

    def remove(self, grant: Grant) -> None:
        """Nothing passes through it from now on."""
        if self._by_id.pop(grant.id, None) is not None:
            self._by_scope[f"user:{grant.user}"].remove(grant)

    def find(self, grant_id: str, user: str | None) -> Grant | None:
        """The grant, if it is the user's or of a name below; with None anybody's."""
        grant = self._by_id.get(grant_id)
        return grant if grant is not None and _is_of(grant, user) else None

    def standing(self, account: str, now_us: int) -> int:
        """How many hold now of an account and the names below."""
        return sum(1 for _ in self._in_force(account, now_us))

    def forget(self, before_us: int) -> None:
        """Drops those that ended before."""
        self.restore([grant for grant in self._by_id.values() if before_us < grant.until])

    def allowances(
        self, scopes: Iterable[str], balances: dict[Account, Balance], now_us: int
    ) -> dict[str, list[Allowance]]:
        """What they allow now in these scopes."""
        found: dict[str, list[Allowance]] = {}
        for scope in scopes:
            for grant in self._by_scope.get(scope, ()):
                if now_us < grant.until:
                    account = account_of(grant)
                    balance = balances.setdefault(account, Balance())
                    found.setdefault(scope, []).append(Allowance(account, balance, grant.amount))
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
