"""For any interleaving: what is spent and held stays below every limit, and each sum is the journal's."""

import asyncio
import sqlite3
import tempfile
from contextlib import AsyncExitStack, suppress
from datetime import UTC, timedelta, timezone
from pathlib import Path

import pytest
import uvloop
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from worlds import TurnedClock, attempt_end, month, open_books, until

from actors.base import handles
from actors.budget import BudgetActor
from actors.ledger import Ledger
from actors.rules.admission import Limits
from actors.store import sqlite
from protocols.budget import Reserve, Settle, Verify
from protocols.errors import BudgetExceeded, BudgetHeld, Busy, PriceUnknown, QuorumError
from protocols.request import Request

USERS = ("ana", "ana/kid", "bob")
APPS = ("editor", "agent")
PROVIDERS = ("openai", "anthropic")
LIMITS = Limits(
    daemon=month(900, day=700),
    users={"ana": month(500), "*": month(300, day=250), "ana/kid": month(120)},
    apps={"agent": month(day=350)},
    providers={"openai": month(600)},
)
IN_NANO = {
    ("daemon", "month"): 900,
    ("daemon", "day"): 700,
    ("user:ana", "month"): 500,
    ("user:bob", "month"): 300,
    ("user:bob", "day"): 250,
    ("user:ana/kid", "month"): 120,
    ("app:agent", "day"): 350,
    ("provider:openai", "month"): 600,
}

JOURNAL = """
SELECT scope, period, accounts.spent, accounts.held, coalesce(sum(journal.spent), 0), coalesce(sum(journal.held), 0),
    coalesce(sum(CASE WHEN entry = 1 THEN max(journal.spent + journal.held, 0) END), 0)
FROM accounts LEFT JOIN account_sets ON account_id = id LEFT JOIN journal USING (set_id) GROUP BY id"""
SUMS = """
SELECT (SELECT coalesce(sum(cost), 0) FROM usage), (SELECT coalesce(sum(spent), 0) FROM journal),
    (SELECT coalesce(sum(amount), 0) FROM holds WHERE state = 'held'), (SELECT coalesce(sum(held), 0) FROM journal)"""


class Break(Request[None], frozen=True):
    """A message that no actor survives."""


class BreakableBudget(BudgetActor):
    @handles(Break)
    def broken(self, _):
        self._balances.clear()
        raise ZeroDivisionError


class BreakableLedger(Ledger):
    @handles(Break)
    def broken(self, _):
        self._sets.clear()
        self._set_ids.clear()
        raise ZeroDivisionError


class Auditor:
    """Reads the books after every commit, from a connection of its own in the writer's thread.

    State: how many commits it saw, and what was wrong.
    """

    def __init__(self, path):
        self.books = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self.commits = 0
        self.wrong = []

    def audit(self):
        self.commits += 1
        for scope, period, spent, held, journal_spent, journal_held, overrun in self.books.execute(JOURNAL).fetchall():
            if (spent, held) != (journal_spent, journal_held):
                self.wrong.append(f"{scope} {period}: {spent}, {held} but {journal_spent}, {journal_held}")
            limit = IN_NANO.get((scope, period))
            if limit is not None and spent + held > limit + overrun:
                self.wrong.append(f"{scope} {period}: {spent} + {held} above {limit} with overruns of {overrun}")
        ((cost, spent, amount, held),) = self.books.execute(SUMS).fetchall()
        if (cost, amount) != (spent, held):
            self.wrong.append(f"usage {cost}, spent {spent}; open holds {amount}, held {held}")


class Play:
    """Plays steps against the actors.

    State: the books that are open, the holds that a caller still has, and what runs at the same time.
    """

    def __init__(self, folder):
        self.folder = folder
        self.clock = TurnedClock()
        self.zone = UTC
        self.exits = AsyncExitStack()
        self.holds = []
        self.running = set()
        self.failed = []

    async def open(self):
        books = open_books(
            self.folder,
            limits=LIMITS,
            clock=self.clock,
            zone=self.zone,
            ledger_class=BreakableLedger,
            budget_class=BreakableBudget,
        )
        self.books = await self.exits.enter_async_context(books)

    async def close(self):
        await self.rest()
        await self.exits.aclose()

    async def rest(self):
        while self.running:
            await asyncio.wait(self.running)
        assert self.failed == []

    def at_once(self, work):
        task = asyncio.get_running_loop().create_task(work)
        self.running.add(task)
        task.add_done_callback(self.ended)
        return task

    def ended(self, task):
        self.running.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.failed.append(task.exception())

    async def step(self, step):  # noqa: C901, PLR0912  a flat table
        match step:
            case ("reserve", who, amount):
                self.at_once(self.reserve(who, amount))
            case ("cancelled", who, amount, turns):
                task = self.at_once(self.reserve(who, amount))
                for _ in range(turns):
                    await asyncio.sleep(0)
                if turns:
                    task.add_done_callback(
                        lambda task: self.failed.append("cancelled twice") if task.cancelled() else None
                    )
                task.cancel()
            case ("settle", which, share) if self.holds:
                usage_id, amount = self.holds.pop(which % len(self.holds))
                self.at_once(self.settle(usage_id, amount * share // 100))
            case ("twice", which) if self.holds:
                usage_id, amount = self.holds.pop(which % len(self.holds))
                self.at_once(self.settle(usage_id, amount))
                self.at_once(self.settle(usage_id, 0))
            case ("send", which) if self.holds:
                self.books.dispatched.mark(self.holds[which % len(self.holds)][0])
            case ("rest",):
                await self.rest()
            case ("crash", who):
                with pytest.raises(QuorumError):
                    await getattr(self.books, who).call(Break())
            case ("restart",):
                await self.close()
                self.holds.clear()
                await self.open()
            case ("moved", hours):
                self.zone = timezone(timedelta(hours=hours))
                await self.step(("restart",))
            case ("tomorrow",):
                await self.clock.turn(86_400)
            case ("back", days):
                await self.rest()
                self.clock.wall_us -= days * 86_400_000_000
                if self.books.budget.incarnation is not None:
                    with suppress(Busy):
                        await self.books.standing()
                await until(lambda: self.books.budget.incarnation)

    async def reserve(self, who, amount):
        start = self.books.start(*who)
        try:
            await self.books.budget.call(Reserve(start, amount))
        except (BudgetExceeded, BudgetHeld, PriceUnknown):
            return
        except asyncio.CancelledError:
            await self.settle(start.usage_id, 0)
            return
        self.holds.append((start.usage_id, amount))

    async def settle(self, usage_id, cost):
        await self.books.budget.deliver(Settle(usage_id, attempt_end(cost)))

    async def verify(self):
        await self.rest()
        verdict = await self.books.ledger.call(Verify())
        assert verdict.problems == []
        in_database = {
            (scope, period): (spent, held)
            for scope, period, spent, held in self.books.rows(
                "SELECT scope, period, spent, held FROM accounts ORDER BY label"
            )
        }
        for (scope, period), row in (await self.books.standing()).items():
            now = self.books.budget.incarnation._balances
            assert row.spent_nano_usd + row.held_nano_usd >= 0
            if any(a.scope == scope and a.period == period for a in now) and (scope, period) in in_database:
                newest = max(a.label for a in now if (a.scope, a.period) == (scope, period))
                (stored,) = self.books.rows(
                    "SELECT coalesce(sum(spent), 0), coalesce(sum(held), 0) FROM accounts "
                    "WHERE scope = ? AND period = ? AND label = ?",
                    scope,
                    period,
                    newest,
                )
                balance = next(b for a, b in now.items() if (a.scope, a.period, a.label) == (scope, period, newest))
                assert (balance.spent, balance.held) == stored


WHO = st.tuples(st.sampled_from(USERS), st.sampled_from(APPS), st.sampled_from(PROVIDERS))
AMOUNT = st.integers(0, 200)
STEP = st.one_of(
    st.tuples(st.just("reserve"), WHO, AMOUNT),
    st.tuples(st.just("reserve"), WHO, AMOUNT),
    st.tuples(st.just("reserve"), WHO, AMOUNT),
    st.tuples(st.just("cancelled"), WHO, AMOUNT, st.integers(0, 4)),
    st.tuples(st.just("settle"), st.integers(0, 9), st.sampled_from((0, 40, 100, 130))),
    st.tuples(st.just("settle"), st.integers(0, 9), st.sampled_from((0, 40, 100))),
    st.tuples(st.just("twice"), st.integers(0, 9)),
    st.tuples(st.just("send"), st.integers(0, 9)),
    st.just(("rest",)),
    st.tuples(st.just("crash"), st.sampled_from(("budget", "budget", "ledger"))),
    st.just(("restart",)),
    st.just(("tomorrow",)),
    st.tuples(st.just("moved"), st.sampled_from((-12, 0, 14))),
    st.tuples(st.just("back"), st.sampled_from((1, 2, 12))),
)


@pytest.fixture(scope="module")
def runner():
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner


@settings(
    max_examples=100,
    phases=[Phase.explicit, Phase.generate],
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(steps=st.lists(STEP, min_size=30, max_size=40))
def test_at_every_commit_the_limits_hold_and_the_books_balance(runner, steps):
    async def play():
        with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch, capture_logs() as logged:
            apply = sqlite._apply

            def audited(connection, group):
                apply(connection, group)
                auditor.audit()

            game = Play(Path(folder))
            # More crashes than a supervisor forgives are another test's; here each one is.
            patch.setattr("actors.supervise.CRASH_WINDOW_S", 0.0)
            await game.open()
            auditor = Auditor(Path(folder) / "quorumd.sqlite3")
            patch.setattr(sqlite, "_apply", audited)
            try:
                for step in steps:
                    await game.step(step)
                    assert auditor.wrong == []
                await game.verify()
                for usage_id, amount in game.holds:
                    await game.settle(usage_id, amount)
                game.holds.clear()
                await game.verify()
                assert game.books.rows("SELECT * FROM holds WHERE state = 'held'") == []
                assert [b.held for b in game.books.budget.incarnation._balances.values() if b.held] == []
            finally:
                await game.close()
                auditor.books.close()
            assert auditor.wrong == []
            assert auditor.commits > 0
            assert [event for event in logged if event["event"] == "write_refused"] == []

    runner.run(play())
