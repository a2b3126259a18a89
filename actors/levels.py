"""Which alerts were raised, so that each is raised once for its account and limit."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from actors.clock import Clock, rfc3339
from actors.rules.alerts import next_alert, reached
from protocols.alerts import SEVERITY, Alert
from protocols.budget import Account

WHOLE = 100
"""The level that is the limit itself."""


class Levels:
    """The levels of committed spend.

    State: the highest level raised, by account and limit.
    """

    def __init__(self, clock: Clock, free_model: Callable[[], str | None]) -> None:
        self._clock = clock
        self._free_model = free_model
        self._raised: dict[tuple[Account, int], int] = {}

    def restore(self, alerts: Iterable[Alert]) -> None:
        """These were raised before."""
        for alert in alerts:
            account = Account(alert.scope, "month" if alert.period == "month" else "day", alert.label)
            key = (account, alert.limit_nano_usd)
            self._raised[key] = max(self._raised.get(key, 0), alert.level)

    def next_at(self, account: Account, limit: int | None) -> int:
        """The spend at which the next alert of this account is due."""
        return next_alert(limit, 0 if limit is None else self._raised.get((account, limit), 0))

    def reach(self, account: Account, limit: int, spent: int) -> list[Alert]:
        """The alerts of a spend, in order; each counts as raised from now on."""
        key, at = (account, limit), rfc3339(self._clock.now_us())
        levels = reached(spent, limit, self._raised.get(key, 0))
        if levels:
            self._raised[key] = levels[-1]
        return [
            Alert(
                scope=account.scope,
                period=account.period,
                level=level,
                severity=SEVERITY[level],
                at=at,
                spent_nano_usd=spent,
                limit_nano_usd=limit,
                label=account.label,
                suggestion=self._suggestion() if level == WHOLE else None,
            )
            for level in levels
        ]

    def keep(self, recent: Callable[[Account], bool]) -> None:
        """Forgets all but recent accounts."""
        self._raised = {key: level for key, level in self._raised.items() if recent(key[0])}

    def _suggestion(self) -> str:
        free = self._free_model()
        return f"`{free}` is free" if free else "local models are free: `daemonctl models --local`"
