"""Retention: attempts older than `usage.retention_days` become daily sums; tournaments and what is said of old attempts go.

The only writer of these sums. Users' balances stay as they are, and so does the reliability of models.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import tzinfo

import msgspec
import structlog

from actors.base import Actor, Ref, Wait, handles
from actors.clock import MICRO, Clock, Ids
from actors.rules.periods import Span, days_before, span_of
from actors.settings import SettingsActor
from actors.store.queries import load
from actors.store.sqlite import Store
from protocols.errors import Internal, QuorumError
from protocols.retention import Rolled, RollUp
from protocols.settings import DAEMON, SettingsOf

SQL = load("retention", first=300)

BATCH = 1000
"""Attempts looked at, and rolled in one transaction at most."""

TOURNAMENTS = 100
"""Tournaments dropped in one transaction at most: each may have as many ballots as it had members, with their texts."""

FIRST_S, EVERY_S = 60.0, 3600.0
"""Seconds to the first round (a machine without a battery has heard the time by then), and from one to the next."""

log = structlog.get_logger("retention")


class Retention(Actor):
    """Rolls up attempts whose local day is more than `usage.retention_days` dates ago; today and the day before never are.

    An attempt is rolled once it is closed: its usage row is there, no hold of it is open or unknown, and its entries in the
    journal sum up to that row. One that is not stays as it is, for `ledger.verify` to find.

    State: the first day that keeps its rows, as of the last round that came to its end; the round under way.
    """

    def __init__(self, store: Store, settings: Ref[SettingsActor], clock: Clock, zone: tzinfo) -> None:
        super().__init__()
        self._store = store
        self._settings = settings
        self._clock = clock
        self._zone = zone
        self._before = ""
        self._rolling = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Retention before {self._before or 'nothing yet'}{', rolling' if self._rolling.locked() else ''}>"

    async def opening(self) -> None:
        """Starts after everything that an earlier incarnation submitted is written: nothing may be summed twice."""
        await self._store.written()
        self.spawn(self._roll_now_and_then())

    @handles(RollUp)
    def roll_up(self, request: RollUp) -> Wait[Rolled]:
        """A round that ends with this incarnation, not with its asker."""
        done: asyncio.Future[Rolled] = asyncio.get_running_loop().create_future()
        self.spawn(self._round_for(done, request.now_us))
        return Wait(done)

    async def _round_for(self, done: asyncio.Future[Rolled], now_us: int | None) -> None:
        try:
            rolled = await self._round(await self._first_kept(now_us))
        except QuorumError as error:
            if not done.done():
                done.set_exception(error)
        else:
            if not done.done():
                done.set_result(rolled)
        finally:
            if not done.done():
                done.set_exception(Internal("the round was cut short; the next one goes on"))

    async def _roll_now_and_then(self) -> None:
        await self._clock.sleep(FIRST_S)
        while True:
            try:
                first_kept = await self._first_kept(None)
                if first_kept.label != self._before:
                    await self._round(first_kept)
            except QuorumError as error:
                log.warning("retention_stopped", why=str(error), hint="the next round goes on")
            await self._clock.sleep(EVERY_S)

    async def _first_kept(self, now_us: int | None) -> Span:
        days = (await self._settings.call(SettingsOf(DAEMON))).daemon.usage_retention_days
        return days_before(days, self._clock.now_us() if now_us is None else now_us, self._zone)

    async def _round(self, first_kept: Span) -> Rolled:
        """Walks all rows in windows: after a clock that went back, ids do not tell how old an attempt is."""
        async with self._rolling:
            started, attempts, tournaments, after = self._clock.monotonic(), 0, 0, ""
            try:
                while last := await self._last_of_window(after):
                    window = {"after": after, "last": last, "before": first_kept.starts_at * MICRO}
                    closed = await self._store.read(SQL["closed"], window)
                    if closed:
                        await self._roll(closed)
                    attempts, after = attempts + len(closed), last
                tournaments = await self._drop_tournaments(first_kept.starts_at * MICRO)
                self._before = first_kept.label
            finally:
                took = round(self._clock.monotonic() - started, 3)
                log.info("rolled_up", attempts=attempts, tournaments=tournaments, before=first_kept.label, took_s=took)
        return Rolled(attempts, first_kept.label, tournaments)

    async def _last_of_window(self, after: str) -> str | None:
        ((last,),) = await self._store.read(SQL["last_of_window"], (after, BATCH))
        return None if last is None else str(last)

    async def _drop_tournaments(self, before_us: int) -> int:
        """Those that are over, with their ballots; what they said of models is summed up already."""
        dropped = 0
        while old := await self._store.read(SQL["old_tournaments"], (before_us, TOURNAMENTS)):
            await self._store.submit((SQL["drop_tournaments"], (_json(one for (one,) in old),)))
            dropped += len(old)
        return dropped

    async def _roll(self, closed: list[tuple[str, int]]) -> None:
        """One transaction. The sums are made in it, of what it then deletes."""
        ids = _json(usage_id for usage_id, _ in closed)
        above = Ids(lambda: 0, closed[-1][0]).next()
        await self._store.submit(
            *[(SQL["add_daily"], (day, _json(of_day))) for day, of_day in by_day(closed, self._zone).items()],
            (SQL["add_carried"], (ids,)),
            (SQL["carry_before"], (above,)),
            (SQL["drop_feedback"], (ids,)),
            (SQL["drop_usage"], (ids,)),
            (SQL["drop_entries"], (ids,)),
        )


def by_day(closed: Iterable[tuple[str, int]], zone: tzinfo) -> dict[str, list[str]]:
    """Ids by local day. Sorted out here: in SQL, the writer's thread would need the interpreter once a row while commits wait."""
    days: dict[str, list[str]] = {}
    day, starts_at, ends_at = "", 0, 0
    for usage_id, created_at in closed:
        if not starts_at <= created_at < ends_at:
            span = span_of("day", created_at, zone)
            day, starts_at, ends_at = span.label, span.starts_at * MICRO, span.ends_at * MICRO
        days.setdefault(day, []).append(usage_id)
    return days


def _json(ids: Iterable[str]) -> str:
    return msgspec.json.encode(list(ids)).decode()
