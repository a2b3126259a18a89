"""The books on a real SQLite in a folder, opened as the daemon opens them, under a clock that the test turns."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Any

import anyio
import simulated_provider

from actors.base import Ref
from actors.budget import BudgetActor
from actors.clock import MICRO, Clock, Ids, parse_rfc3339
from actors.events import Events, Subscription
from actors.ledger import Ledger, last_id, outcome_of_lost
from actors.provider import Source
from actors.providers.transport import Endpoint
from actors.rules.admission import Limit, Limits
from actors.rules.periods import local_date
from actors.settings import SettingsActor
from actors.store.dispatched import Dispatched, open_dispatched
from actors.store.sqlite import Store, open_store
from actors.supervise import Supervisor
from actors.users import Users
from protocols.audit import Actor
from protocols.budget import ReadBooks, Reserve, Settle, Standing
from protocols.chat import TokenCount
from protocols.dialects import DIALECTS
from protocols.money import NanoUSD
from protocols.provider import AttemptEnded, Outcome, ProviderConfig
from protocols.settings import ChangeSetting
from protocols.usage import AttemptEnd, AttemptStart, ScopeSpend

NOON = "2027-03-10T12:00:00Z"


class TurnedClock(Clock):
    """Stands still until a test turns it.

    State: the wall clock, the monotonic one, and who sleeps until when.
    """

    def __init__(self, at: str = NOON) -> None:
        self.wall_us = parse_rfc3339(at)
        self.seconds = 1000.0
        self._sleepers: dict[asyncio.Future[None], float] = {}

    def now_us(self) -> int:
        return self.wall_us

    def monotonic(self) -> float:
        return self.seconds

    @property
    def sleeping(self) -> list[float]:
        """In how many seconds each sleeper wakes, the next first."""
        return sorted(until - self.seconds for until in self._sleepers.values())

    async def sleep(self, seconds: float) -> None:
        alarm = self._alarm(seconds)
        try:
            await alarm
        finally:
            self._sleepers.pop(alarm, None)

    @contextmanager
    def fail_after(self, seconds: float) -> Iterator[None]:
        alarm = self._alarm(seconds)
        with anyio.CancelScope() as scope:
            alarm.add_done_callback(lambda _: scope.cancel())
            try:
                yield
            finally:
                timely = self._sleepers.pop(alarm, None) is not None
        if scope.cancelled_caught and not timely:
            raise TimeoutError

    def _alarm(self, seconds: float) -> asyncio.Future[None]:
        alarm: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers[alarm] = self.seconds + seconds
        return alarm

    def set(self, at: str) -> None:
        """Sets the wall clock, also back; nobody who sleeps notices."""
        self.wall_us = parse_rfc3339(at)

    async def turn(self, seconds: float) -> None:
        """Lets time pass, and those who wake do what they do without waiting for anything else."""
        self.seconds += seconds
        self.wall_us += round(seconds * MICRO)
        for alarm in [alarm for alarm, until in self._sleepers.items() if until <= self.seconds]:
            del self._sleepers[alarm]
            if not alarm.done():
                alarm.set_result(None)
        await calm()


async def calm() -> None:
    """Lets every task run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def until(true: Any, within_s: float = 5.0) -> None:
    """Gives way to other tasks, threads and processes until `true()` is."""
    with anyio.fail_after(within_s):
        while not true():  # noqa: ASYNC110  other processes and threads set no event
            await asyncio.sleep(0.001)


class Books:
    """Everything about money, open, and short ways to ask it."""

    def __init__(
        self,
        folder: Path,
        clock: TurnedClock,
        store: Store,
        actors: Supervisor,
        dispatched: Dispatched,
        refs: tuple[Ref[SettingsActor], Ref[Ledger], Ref[BudgetActor], Ref[Users]],
        ids: Ids,
    ) -> None:
        self.folder = folder
        self.clock = clock
        self.store = store
        self.actors = actors
        self.dispatched = dispatched
        self.settings, self.ledger, self.budget, self.users = refs
        self.ids = ids

    def start(self, user: str = "ana", app: str = "editor", provider: str = "openai", **fields: Any) -> AttemptStart:
        """What is known of an attempt that begins now."""
        known = {"call_id": self.ids.next(), "usage_id": self.ids.next(), "created_at": self.clock.now_us()} | fields
        return attempt_start(user=user, app=app, provider=provider, **known)

    async def reserve(
        self, amount: int | None, user: str = "ana", app: str = "editor", provider: str = "openai"
    ) -> str:
        """Takes a hold and gives its usage id."""
        start = self.start(user, app, provider)
        await self.budget.call(Reserve(start, None if amount is None else NanoUSD(amount)))
        return start.usage_id

    async def settle(self, usage_id: str, cost: int | None, **fields: Any) -> None:
        """Settles a hold."""
        await self.budget.call(Settle(usage_id, attempt_end(cost, **fields)))

    async def standing(self, user: str | None = None) -> dict[tuple[str, str], ScopeSpend]:
        """The budget's own view by scope and period."""
        return {(row.scope, row.period): row for row in await self.budget.call(Standing(user))}

    async def spent_and_held(self, scope: str, period: str = "month") -> tuple[int, int]:
        """As the budget says; nothing of a scope that it does not show."""
        row = (await self.standing()).get((scope, period))
        return (row.spent_nano_usd, row.held_nano_usd) if row else (0, 0)

    async def change(self, key: str, value: Any, owner: str = "ana") -> Any:
        """Sets a setting."""
        return await self.settings.call(ChangeSetting(key, value, owner, Actor(1000, owner, "test")))

    def rows(self, sql: str, *parameters: Any) -> list[Any]:
        """What another process would read."""
        return rows(self.folder, sql, *parameters)


def rows(folder: Path, sql: str, *parameters: Any) -> list[Any]:
    """What stands in the database of this folder, read by a connection of one's own."""
    with closing(sqlite3.connect(folder / "quorumd.sqlite3")) as connection:
        return connection.execute(sql, parameters).fetchall()


def attempt_start(**fields: Any) -> AttemptStart:
    """An attempt of ana's editor at openai, unless said otherwise."""
    usual: dict[str, Any] = {
        "usage_id": "0000000000001",
        "call_id": "0000000000000",
        "user": "ana",
        "app": "editor",
        "conversation": None,
        "task_type": None,
        "provider": "openai",
        "model": "openai:gpt-4o",
        "endpoint": "https://api.openai.com:443",
        "reason": "explicit_model",
        "created_at": parse_rfc3339(NOON),
    }
    return AttemptStart(**(usual | fields))


def attempt_end(cost: int | None = 0, **fields: Any) -> AttemptEnd:
    """An attempt that went well."""
    usual: dict[str, Any] = {
        "status": "ok",
        "tokens": TokenCount(prompt=3, response=5),
        "token_source": "provider",
        "cost": cost,
        "cost_source": "unknown" if cost is None else "price",
        "price_version": "test",
        "latency_us": 1500,
        "first_token_us": None,
    }
    return AttemptEnd(**(usual | fields))


def month(nano: int | None = None, day: int | None = None) -> Limit:
    """A limit in nano-dollars."""
    return Limit(None if nano is None else NanoUSD(nano), None if day is None else NanoUSD(day))


@asynccontextmanager
async def open_books(
    folder: Path,
    *,
    limits: Limits | None = None,
    clock: TurnedClock | None = None,
    zone: tzinfo = UTC,
    config: dict[str, Any] | None = None,
    ledger_class: type[Ledger] = Ledger,
    budget_class: type[BudgetActor] = BudgetActor,
    settings_class: type[SettingsActor] = SettingsActor,
    boot: str = "boot 1",
) -> AsyncIterator[Books]:
    """As the daemon opens them, recovery of what an earlier process left open included."""
    clock = clock or TurnedClock()
    dispatched, sent = open_dispatched(folder / "dispatched", boot)
    with dispatched:
        store = await open_store(folder, "process", lambda at_us: local_date(at_us, zone))
        try:
            async with Supervisor() as actors:
                watchers: dict[Ref[Any], None] = {}
                settings = await actors.start(lambda: settings_class(store, clock, config or {}, watchers))
                subscriptions: set[Subscription] = set()
                events = await actors.start(lambda: Events(settings, clock, subscriptions))
                ledger = await actors.start(lambda: ledger_class(store, clock, dispatched, events))
                left_open = (await ledger.call(ReadBooks())).open_holds
                budget = await actors.start(lambda: budget_class(ledger, settings, limits or Limits(), zone, clock))
                for hold in left_open:
                    lost = outcome_of_lost(hold, sent=sent is None or hold.start.usage_id in sent)
                    await budget.call(Settle(hold.start.usage_id, lost))
                dispatched.start_over()
                choice_watchers: dict[Ref[Any], None] = {}
                users = await actors.start(lambda: Users(store, clock, choice_watchers))
                ids = Ids(clock.now_us, await last_id(store))
                yield Books(folder, clock, store, actors, dispatched, (settings, ledger, budget, users), ids)
        finally:
            await store.close()


def source_of(provider: simulated_provider.Provider, name: str = "sim", key: str = "", **config: Any) -> Source:
    """The simulated provider as the config would name it."""
    headers = (("authorization", f"Bearer {key}"),) if key else ()
    endpoint = Endpoint(provider.base_url(), headers)
    return Source(
        name=name,
        config=ProviderConfig(kind="simulated", **config),
        endpoint=endpoint,
        dialect=DIALECTS["openai"],
        local=True,
        simulated=True,
        billing_on_cancel="emitted",
    )


def ended(outcome: Outcome = "ok", probe: int = 0, **fields: Any) -> AttemptEnded:
    """A leased attempt that is over."""
    usual: dict[str, Any] = {"why": outcome, "latency_s": 0.1, "first_token_s": None, "retry_after_s": None}
    return AttemptEnded(outcome, probe=probe, **(usual | fields))
