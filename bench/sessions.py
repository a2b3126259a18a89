"""What live sessions cost, and what is left of users who have gone: sessions, budget, ledger and store on a real SQLite.

Run as a process of its own; prints one JSON object. Each user asks for preferences, takes a hold of nothing and settles it, as a
call to a free model does. The clock of the actors is turned by hand: an hour without anybody takes no hour.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import tempfile
import time
from contextlib import asynccontextmanager
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import structlog
import uvloop
from machine import memory

from actors.budget import BudgetActor
from actors.clock import Clock, Ids
from actors.events import Events
from actors.ledger import Ledger
from actors.rules.admission import Limits
from actors.rules.periods import local_date
from actors.session import Sessions, preferences_of
from actors.settings import SettingsActor
from actors.store.dispatched import open_dispatched
from actors.store.sqlite import open_store
from actors.supervise import Supervisor
from actors.users import Users
from protocols.budget import Reserve, Settle
from protocols.chat import TokenCount
from protocols.money import NanoUSD
from protocols.session import ListSessions, Spent
from protocols.usage import AttemptEnd, AttemptStart

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from actors.base import Ref

END = AttemptEnd("ok", TokenCount(prompt=120, response=80), "provider", NanoUSD(0), "price", "bench", 900_000, None)
WARM = 500
AT_ONCE = 32
QUIET_S, TURNS = 1800.0, 6
"""So much time passes without anybody, so often."""

BLOCK_BYTES = 80
"""Of Python's blocks of memory, on average."""

LOOP_TURNS = 20_000
"""More than a session's end needs, for all of them."""


class Turned(Clock):
    """Goes by itself, but who sleeps is woken by `turn`.

    State: the seconds that were turned, and who sleeps until when.
    """

    def __init__(self) -> None:
        self._turned = 0.0
        self._sleepers: dict[asyncio.Future[None], float] = {}

    def monotonic(self) -> float:
        """With what was turned."""
        return time.monotonic() + self._turned

    async def sleep(self, seconds: float) -> None:
        """Until so much was turned."""
        alarm: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers[alarm] = self.monotonic() + seconds
        await alarm

    def turn(self, seconds: float) -> None:
        """Lets time pass."""
        self._turned += seconds
        for alarm in [alarm for alarm, until in self._sleepers.items() if until <= self.monotonic()]:
            del self._sleepers[alarm]
            alarm.set_result(None)


class Desk:
    """The actors of a user's call, the provider left out."""

    def __init__(self, sessions: Ref[Sessions], budget: Ref[BudgetActor], clock: Turned) -> None:
        self.sessions = sessions
        self.clock = clock
        self._budget = budget
        self._ids = Ids(clock.now_us)

    async def call(self, user: str) -> None:
        """A call to a free model."""
        await preferences_of(self.sessions, user, "bench", begins=True)
        usage_id = self._ids.next()
        start = AttemptStart(
            usage_id, usage_id, user, "bench", None, None, "ollama", "ollama:llama", "http://127.0.0.1:11434",
            "explicit_model", self.clock.now_us(),
        )  # fmt: skip
        await self._budget.call(Reserve(start, NanoUSD(0)))
        await self._budget.deliver(Settle(usage_id, END))
        self.sessions.tell(Spent(user, 0, "ollama:llama"))

    async def calls(self, users: range) -> float:
        """One of each user; how long a call took, in µs of CPU."""
        todo, cpu = iter(users), time.process_time()

        async def some() -> None:
            for number in todo:
                await self.call(f"app/user-{number}")

        await asyncio.gather(*[some() for _ in range(AT_ONCE)])
        return (time.process_time() - cpu) / len(users) * 1e6

    async def live(self) -> int:
        """How many sessions there are."""
        return len(await self.sessions.call(ListSessions()))

    async def let_all_go(self) -> float:
        """Lets time pass until nobody is left; the CPU of a session's end, in µs."""
        live, cpu = await self.live(), time.process_time()
        for _ in range(TURNS):
            self.clock.turn(QUIET_S)
            for _ in range(LOOP_TURNS):  # for those who were woken
                await asyncio.sleep(0)
        return (time.process_time() - cpu) / live * 1e6


@asynccontextmanager
async def opened() -> AsyncIterator[Desk]:
    """As the daemon opens them."""
    clock = Turned()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dispatched, _ = open_dispatched(folder / "dispatched", "bench")
        store = await open_store(folder, "process", lambda at_us: local_date(at_us, UTC))
        try:
            async with Supervisor() as actors:
                settings = await actors.start(lambda: SettingsActor(store, clock, {}, {}))
                events = await actors.start(lambda: Events(settings, clock, set()))
                ledger = await actors.start(lambda: Ledger(store, clock, dispatched, events))
                budget = await actors.start(lambda: BudgetActor(ledger, settings, Limits(), UTC, clock))
                users = await actors.start(lambda: Users(store, clock, {}))
                sessions = await actors.start(lambda: Sessions(actors, settings, users, clock))
                yield Desk(sessions, budget, clock)
        finally:
            await store.close()


def rss_mb() -> float:
    """Memory of this process now."""
    gc.collect()
    return memory(os.getpid()).rss_mb


async def measure(live: int, come_and_go: int) -> dict[str, float]:
    """Growth in MB with so many live, after so many more came, and when all have gone; CPU of a call and of an end in µs."""
    async with opened() as desk:
        await desk.calls(range(WARM))
        await desk.let_all_go()
        before, blocks = rss_mb(), sys.getallocatedblocks()
        call_us = await desk.calls(range(WARM, WARM + live))
        assert await desk.live() == live
        full = rss_mb()
        await desk.calls(range(WARM + live, WARM + live + come_and_go))
        came = rss_mb()
        end_us = await desk.let_all_go()
        assert await desk.live() == 0
        return {
            "live_mb": full - before,
            "came_mb": came - before,
            "left_mb": rss_mb() - before,
            "left_in_use_mb": (sys.getallocatedblocks() - blocks) * BLOCK_BYTES / 1e6,
            "call_us": call_us,
            "end_us": end_us,
        }


def main() -> None:
    live, come_and_go = int(sys.argv[1]), int(sys.argv[2])
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(measure(live, come_and_go))
    sys.stdout.buffer.write(msgspec.json.encode(found))


if __name__ == "__main__":
    main()
