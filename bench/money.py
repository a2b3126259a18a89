"""What a hold and its settlement cost: the daemon's own budget, ledger and store on a real SQLite, and nothing else.

Run as a process of its own, which pins itself; prints one JSON object.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
import time
from contextlib import asynccontextmanager
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
import uvloop

from actors.budget import BudgetActor
from actors.clock import Clock, Ids
from actors.events import Events
from actors.ledger import Ledger
from actors.rules.admission import Limit, Limits
from actors.rules.periods import local_date
from actors.settings import SettingsActor
from actors.store.dispatched import open_dispatched
from actors.store.sqlite import open_store
from actors.supervise import Supervisor
from protocols.budget import Reserve, Settle
from protocols.chat import TokenCount
from protocols.money import NanoUSD
from protocols.usage import AttemptEnd, AttemptStart

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from actors.base import Ref

ROOM = Limit(NanoUSD(1 << 60), NanoUSD(1 << 60))
LIMITS = Limits(daemon=ROOM, users={"*": ROOM}, apps={"bench": ROOM}, providers={"openai": ROOM})
"""A limit a month and a day in all four scopes: eight accounts that an attempt must fit."""

END = AttemptEnd("ok", TokenCount(prompt=120, response=80), "provider", NanoUSD(90), "price", "bench", 900_000, None)


class Money:
    """The actors of money, and attempts on them."""

    def __init__(self, budget: Ref[BudgetActor], clock: Clock) -> None:
        self._budget = budget
        self._clock = clock
        self._ids = Ids(clock.now_us)

    async def attempts(self, count: int, took: list[float]) -> None:
        """So many holds and settlements, one after the other; the seconds of each pair."""
        for _ in range(count):
            began = time.perf_counter()
            usage_id = self._ids.next()
            start = AttemptStart(
                usage_id, usage_id, "ana", "bench", None, None, "openai", "openai:gpt-4o", "https://api.openai.com:443",
                "explicit_model", self._clock.now_us(),
            )  # fmt: skip
            await self._budget.call(Reserve(start, NanoUSD(100)))
            await self._budget.deliver(Settle(usage_id, END))
            took.append(time.perf_counter() - began)


@asynccontextmanager
async def opened(durability: Any) -> AsyncIterator[Money]:
    """As the daemon opens them."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dispatched, _ = open_dispatched(folder / "dispatched", "bench")
        store = await open_store(folder, durability, lambda at_us: local_date(at_us, UTC))
        try:
            async with Supervisor() as actors:
                settings = await actors.start(lambda: SettingsActor(store, clock, {}, {}))
                events = await actors.start(lambda: Events(settings, clock, set()))
                ledger = await actors.start(lambda: Ledger(store, clock, dispatched, events))
                budget = await actors.start(lambda: BudgetActor(ledger, settings, LIMITS, UTC, clock))
                yield Money(budget, clock)
        finally:
            await store.close()


async def measure(at_once: int, each: int, durability: str) -> tuple[float, float]:
    """CPU of a hold and its settlement in µs, of all threads; and their median time in µs."""
    async with opened(durability) as money:
        await asyncio.gather(*[money.attempts(max(each // 10, 5), []) for _ in range(at_once)])  # warm
        took: list[float] = []
        cpu = time.process_time()
        await asyncio.gather(*[money.attempts(each, took) for _ in range(at_once)])
        cpu = time.process_time() - cpu
    return cpu / len(took) * 1e6, statistics.median(took) * 1e6


def main() -> None:
    core, at_once, each, durability = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    os.sched_setaffinity(0, {core})
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        cpu_us, p50_us = runner.run(measure(at_once, each, durability))
    sys.stdout.buffer.write(msgspec.json.encode({"cpu_us": cpu_us, "p50_us": p50_us}))


if __name__ == "__main__":
    main()
