"""The holds of a tournament: taken together, in one `async with` whose exit leaves none open that no attempt has."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from actors.base import Ref
from actors.budget import BudgetActor
from actors.rules.settlement import NOT_SENT
from protocols.alerts import Alert
from protocols.budget import Confirmed, Mark, Reserve, ReserveGroup, Settle


class GroupHold:
    """The holds of a group, one user's.

    Entering raises what `ReserveGroup` does, and then holds nothing.

    State: the marks of the holds that are open and that no attempt has, by usage id; all of them after entering.
    """

    def __init__(
        self, budget: Ref[BudgetActor], reserves: tuple[Reserve, ...], confirmed: Confirmed | None = None
    ) -> None:
        self._budget = budget
        self._group = ReserveGroup(reserves, confirmed)
        self._waiting: dict[str, tuple[Mark, ...]] = {}

    def __repr__(self) -> str:
        return f"<GroupHold {len(self._waiting)} of {len(self.reserves)} not launched>"

    @property
    def reserves(self) -> tuple[Reserve, ...]:
        """What was asked for, in order."""
        return self._group.reserves

    async def __aenter__(self) -> Self:
        usage_ids = [reserve.start.usage_id for reserve in self.reserves]
        try:
            marks = await self._budget.call(self._group)
        except asyncio.CancelledError:
            # While the holds were on their way: those that were taken are given back; if none was, this does nothing.
            self._close(usage_ids)
            raise
        self._waiting = dict(zip(usage_ids, marks, strict=True))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.void(*self._waiting)

    def hand_over(self, usage_id: str) -> tuple[Mark, ...]:
        """The marks of a hold, for the `Held` that is entered with it and settles it from now on. Raises KeyError if it has gone."""
        return self._waiting.pop(usage_id)

    async def void(self, *usage_ids: str) -> None:
        """These are not launched: closes their holds at nothing; those that an attempt has, or that are closed, stay as they are.

        Cancelling it cancels the waiting alone.
        """
        closed = self._close([usage_id for usage_id in usage_ids if self._waiting.pop(usage_id, None) is not None])
        await asyncio.gather(*closed)

    def _close(self, usage_ids: Iterable[str]) -> list[asyncio.Future[tuple[Alert, ...] | None]]:
        """Hands the settlements over, to be written whatever becomes of who asked."""
        return [self._budget.deliver(Settle(usage_id, NOT_SENT)) for usage_id in usage_ids]
