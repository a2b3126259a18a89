import asyncio
import shutil
import sqlite3
import tempfile
from collections import Counter
from contextlib import asynccontextmanager, closing
from pathlib import Path
from zoneinfo import ZoneInfo

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from actors import retention
from actors.clock import MICRO, Clock, Ids, parse_rfc3339
from actors.events import Events
from actors.ledger import Ledger, last_id
from actors.retention import EVERY_S, FIRST_S, Retention, by_day
from actors.rules.periods import local_date
from actors.settings import SettingsActor
from actors.store.dispatched import open_dispatched
from actors.store.sqlite import open_store
from actors.supervise import Supervisor
from protocols.audit import Actor
from protocols.budget import ReadGroups, Verify
from protocols.errors import Internal, LedgerReadonly
from protocols.retention import Rolled, RollUp
from protocols.settings import DAEMON, ChangeSetting
from protocols.usage import SpendQuery

pytestmark = pytest.mark.anyio

BERLIN = ZoneInfo("Europe/Berlin")
NOW = "2027-03-10T12:00:00+01:00"
KEPT = {"usage.retention_days": 30}
FIRST_KEPT = "2027-02-08"
DAILY = """
SELECT day, user, app, model, calls, prompt_tokens, cached_tokens, response_tokens, reasoning_tokens, cost, unpriced, overruns
FROM usage_daily ORDER BY day, user, app, model"""


class TurnedClock(Clock):
    """Stands still until a test turns it.

    State: the wall clock, and who sleeps until when.
    """

    def __init__(self, at=NOW):
        self.wall_us = parse_rfc3339(at)
        self.sleepers = {}

    def now_us(self):
        return self.wall_us

    def monotonic(self):
        return self.wall_us / MICRO

    async def sleep(self, seconds):
        alarm = asyncio.get_running_loop().create_future()
        self.sleepers[alarm] = self.wall_us + round(seconds * MICRO)
        try:
            await alarm
        finally:
            self.sleepers.pop(alarm, None)

    def turn(self, seconds):
        self.wall_us += round(seconds * MICRO)
        for alarm in [alarm for alarm, until in self.sleepers.items() if until <= self.wall_us]:
            del self.sleepers[alarm]
            alarm.set_result(None)


class World:
    """The books of one folder, with attempts of long ago written as the ledger writes them."""

    def __init__(self, folder, clock, store, refs, zone):
        self.folder = folder
        self.clock = clock
        self.store = store
        self.settings, self.ledger, self.retention = refs
        self.zone = zone

    async def roll(self, now=None):
        return await self.retention.call(RollUp(None if now is None else parse_rfc3339(now)))

    async def problems(self):
        return (await self.ledger.call(Verify())).problems

    async def totals(self):
        """What does not change when attempts are rolled up."""
        verdict = await self.ledger.call(Verify())
        assert verdict.problems == []
        return verdict

    async def groups(self, by, since="2026-01-01", until="2028-01-01", user=None):
        request = ReadGroups(SpendQuery(by=by), user, parse_rfc3339(since), parse_rfc3339(until))
        return await self.ledger.call(request)

    def rows(self, sql, *parameters):
        return rows(self.folder, sql, *parameters)

    def write(self, sql, *parameters):
        with closing(sqlite3.connect(self.folder / "quorumd.sqlite3")) as database, database:
            database.execute(sql, parameters)

    def attempts(self, *attempts):
        """Each is a dict: `at`, and what is not as usual."""
        with closing(sqlite3.connect(self.folder / "quorumd.sqlite3")) as database, database:
            return write_attempts(database, self.zone, attempts)


def rows(folder, sql, *parameters):
    with closing(sqlite3.connect(folder / "quorumd.sqlite3")) as database:
        return database.execute(sql, parameters).fetchall()


def write_attempts(database, zone, attempts):
    """Hold, journal, usage row and balances. `state` is closed, held or unknown; `id_at` when the clock was wrong."""
    ((highest,),) = database.execute("SELECT max(usage_id) FROM journal").fetchall()
    written = []
    for one in attempts:
        at = one["at"] if isinstance(one["at"], int) else parse_rfc3339(one["at"])
        user, app, provider = one.get("user", "ana"), one.get("app", "editor"), one.get("provider", "openai")
        cost, held, state = one.get("cost", 100), one.get("held", 150), one.get("state", "closed")
        ids = Ids(lambda at=at, one=one: one.get("id_at", at), highest)
        call_id, usage_id = ids.next(), ids.next()
        highest = usage_id
        names = (call_id, user, app, None, None, provider, one.get("model", f"{provider}:m"), "e", "why")
        set_id = set_of(database, user, app, provider, local_date(at, zone))
        enter(database, usage_id, 0, at, held, 0, set_id)
        if state != "held":
            enter(database, usage_id, 1, at + 5, -held, cost or 0, set_id)
            database.execute(
                "INSERT INTO usage (id, call_id, user, app, conversation, task_type, provider, model, endpoint, reason,"
                " created_at, prompt_tokens, cached_tokens, cache_write_tokens, response_tokens, reasoning_tokens,"
                " token_source, cost, cost_source, latency_us, status, held, marks)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 10, 1, 0, 20, 3, 'provider', ?, 'price', 9, 'ok', ?, ?)",
                (usage_id, *names, at, cost, held, one.get("marks", "")),
            )
        if state != "closed":
            database.execute(
                "INSERT INTO holds (id, call_id, user, app, conversation, task_type, provider, model, endpoint, reason,"
                " created_at, amount, set_id, state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (usage_id, *names, at, held, set_id, state),
            )
        written.append(usage_id)
    return written


def set_of(database, user, app, provider, day):
    scopes = ("daemon", f"user:{user}", f"app:{app}", f"provider:{provider}")
    members = set()
    for account in [(s, p, label) for s in scopes for p, label in (("month", day[:7]), ("day", day))]:
        database.execute("INSERT INTO accounts (scope, period, label) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", account)
        members |= set(database.execute("SELECT id FROM accounts WHERE (scope, period, label) = (?, ?, ?)", account))
    sets = {}
    for set_id, account_id in database.execute("SELECT set_id, account_id FROM account_sets"):
        sets.setdefault(set_id, set()).add((account_id,))
    known = next((set_id for set_id, of_set in sets.items() if of_set == members), None)
    if known is None:
        known = max(sets, default=0) + 1
        database.executemany("INSERT INTO account_sets VALUES (?, ?)", [(known, *member) for member in members])
    return known


def enter(database, usage_id, entry, at, held, spent, set_id):
    database.execute("INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?)", (usage_id, entry, at, held, spent, set_id))
    database.execute(
        "UPDATE accounts SET held = held + ?, spent = spent + ?"
        " WHERE id IN (SELECT account_id FROM account_sets WHERE set_id = ?)",
        (held, spent, set_id),
    )


def resolve(database, usage_id, cost):
    """As someone says what an attempt with an unknown outcome cost."""
    ((set_id, was),) = database.execute(
        "SELECT set_id, coalesce(cost, 0) FROM journal JOIN usage ON id = usage_id WHERE id = ? AND entry = 0",
        (usage_id,),
    ).fetchall()
    enter(database, usage_id, 2, 0, 0, cost - was, set_id)
    database.execute("UPDATE usage SET cost = ?, cost_source = 'corrected' WHERE id = ?", (cost, usage_id))
    database.execute("DELETE FROM holds WHERE id = ?", (usage_id,))


@asynccontextmanager
async def opened(folder, *, clock=None, zone=BERLIN, config=KEPT, retention_class=Retention):
    clock = clock or TurnedClock()
    dispatched, _ = open_dispatched(folder / "dispatched", "boot")
    with dispatched:
        store = await open_store(folder, "process", lambda at_us: local_date(at_us, zone))
        try:
            async with Supervisor() as actors:
                watchers = {}
                values = await actors.start(lambda: SettingsActor(store, clock, config, watchers))
                events = await actors.start(lambda: Events(values, clock, set()))
                ledger = await actors.start(lambda: Ledger(store, clock, dispatched, events))
                rolling = await actors.start(lambda: retention_class(store, values, clock, zone))
                yield World(folder, clock, store, (values, ledger, rolling), zone)
        finally:
            await store.close()


@pytest.fixture
async def world(tmp_path):
    async with opened(tmp_path) as world:
        yield world


async def until(true):
    with anyio.fail_after(5):
        while not true():  # noqa: ASYNC110  the store's thread sets no event
            await asyncio.sleep(0.001)


def kept(world):
    return [usage_id for (usage_id,) in world.rows("SELECT id FROM usage ORDER BY id")]


async def test_attempts_of_days_before_the_kept_ones_become_sums_by_day_user_app_and_model(world):
    old = "2027-02-01T10:00:00+01:00"
    world.attempts(
        {"at": old},
        {"at": old, "cost": None},
        {"at": old, "cost": 170, "marks": "clamped,overrun"},
        {"at": old, "cost": 40, "marks": "override"},
        {"at": old, "user": "bob"},
        {"at": old, "app": "notes"},
        {"at": old, "provider": "anthropic"},
        {"at": "2027-02-02T10:00:00+01:00"},
    )
    assert await world.roll() == Rolled(8, FIRST_KEPT)
    assert world.rows(DAILY) == [
        ("2027-02-01", "ana", "editor", "anthropic:m", 1, 10, 1, 20, 3, 100, 0, 0),
        ("2027-02-01", "ana", "editor", "openai:m", 4, 40, 4, 80, 12, 310, 1, 1),
        ("2027-02-01", "ana", "notes", "openai:m", 1, 10, 1, 20, 3, 100, 0, 0),
        ("2027-02-01", "bob", "editor", "openai:m", 1, 10, 1, 20, 3, 100, 0, 0),
        ("2027-02-02", "ana", "editor", "openai:m", 1, 10, 1, 20, 3, 100, 0, 0),
    ]
    assert (kept(world), world.rows("SELECT * FROM journal")) == ([], [])
    assert await world.problems() == []


async def test_what_was_said_of_an_attempt_goes_with_it(world):
    old, new = world.attempts({"at": "2027-02-01T10:00:00+01:00"}, {"at": "2027-03-09"})
    for usage_id in (old, new):
        world.write(f"INSERT INTO feedback SELECT call_id, id, 'ana', 1, NULL, 5 FROM usage WHERE id = '{usage_id}'")
    await world.roll()
    assert world.rows("SELECT usage_id FROM feedback") == [(new,)]


async def test_what_was_said_of_a_later_attempt_of_the_same_call_stays(world):
    old, new = world.attempts({"at": "2027-02-01T10:00:00+01:00"}, {"at": "2027-03-09"})
    world.write("UPDATE usage SET call_id = (SELECT min(call_id) FROM usage)")
    world.write(f"INSERT INTO feedback SELECT call_id, id, 'ana', 1, NULL, 5 FROM usage WHERE id = '{new}'")
    await world.roll()
    assert kept(world) == [new] != [old]
    assert world.rows("SELECT usage_id FROM feedback") == [(new,)]


async def test_tournaments_go_with_their_ballots_and_what_they_say_of_models_stays(world, monkeypatch):
    monkeypatch.setattr(retention, "TOURNAMENTS", 2)
    midnight = f"{FIRST_KEPT}T00:00:00+01:00"
    for number, state in enumerate(["done", "done", "unfinished", "running", "done"]):
        at = parse_rfc3339(midnight) - (number < 4)
        world.write(
            "INSERT INTO tournaments (id, created_at, user, app, mode, prompt, terms, members, state, needs_review)"
            " VALUES (?, ?, 'ana', 'a', 'vote', '', '{}', '[]', ?, 1)",
            f"t{number}", at, state,
        )  # fmt: skip
        world.write(
            "INSERT INTO ballots (tournament_id, slot, model, status, text, round, arrived) VALUES (?, 0, 'm', 'ok', '', 0, 0)",
            f"t{number}",
        )
    world.write("UPDATE ballots SET agreed = 1 WHERE tournament_id <> 't3'")
    assert await world.roll() == Rolled(0, FIRST_KEPT, 3)
    assert world.rows("SELECT id FROM tournaments") == [("t3",), ("t4",)]
    assert world.rows("SELECT tournament_id FROM ballots") == [("t3",), ("t4",)]
    assert world.rows("SELECT model, agreed, counted FROM reliability") == [("m", 4, 4)]
    assert await world.roll() == Rolled(0, FIRST_KEPT, 0)


async def test_a_day_is_rolled_whole_at_its_local_midnight(world):
    last, first = world.attempts({"at": "2027-02-07T23:59:59.999+01:00"}, {"at": "2027-02-08T00:00:00+01:00"})
    await world.roll("2027-03-09T23:59:59+01:00")
    assert kept(world) == [last, first]
    assert await world.roll("2027-03-10T00:00:00+01:00") == Rolled(1, FIRST_KEPT)
    assert kept(world) == [first]
    assert await world.roll("2027-03-10T23:59:59+01:00") == Rolled(0, FIRST_KEPT)
    assert await world.roll("2027-03-11T00:00:00+01:00") == Rolled(1, "2027-02-09")


async def test_with_one_day_kept_today_and_yesterday_have_their_rows(tmp_path):
    async with opened(tmp_path, config={"usage.retention_days": 1}) as world:
        _, *others = world.attempts(*[{"at": f"2027-03-{day}T00:30:00+01:00"} for day in ("08", "09", "10")])
        assert await world.roll() == Rolled(1, "2027-03-09")
        assert kept(world) == others


async def test_what_is_not_closed_stays_and_all_around_it_is_rolled(world):
    at = "2027-02-01T10:00:00+01:00"
    attempts = [{"at": at, "state": state} for state in ("closed", "held", "closed", "unknown", "closed")]
    _, held, _, unknown, _ = world.attempts(*attempts)
    before = await world.totals()
    assert (await world.roll()).attempts == 3
    assert (await world.roll()).attempts == 0
    assert kept(world) == [unknown]
    assert world.rows("SELECT DISTINCT usage_id FROM journal ORDER BY 1") == [(held,), (unknown,)]
    assert await world.totals() == before


async def test_what_is_closed_late_is_added_to_its_day(world):
    at = "2027-02-01T10:00:00+01:00"
    unknown, _ = world.attempts({"at": at, "state": "unknown", "cost": 150}, {"at": at, "cost": 7})
    await world.roll()
    bound = world.rows("SELECT usage_id FROM carried_before")
    with closing(sqlite3.connect(world.folder / "quorumd.sqlite3")) as database, database:
        resolve(database, unknown, 90)
    assert (await world.roll()).attempts == 1
    assert world.rows("SELECT usage_id FROM carried_before") == bound
    assert [(row[4], row[9]) for row in world.rows(DAILY)] == [(2, 97)]
    assert world.rows("SELECT attempts, entries, spent FROM carried") == [(2, 5, 97)]
    assert await world.problems() == []


@pytest.mark.parametrize("user", [None, "ana"])
@pytest.mark.parametrize("by", ["user", "app", "provider", "model", "day"])
async def test_sums_by_anything_are_the_same_before_and_after(world, by, user):
    world.attempts(
        *[
            {
                "at": f"2027-0{1 + n % 3}-0{1 + n % 7}T{n % 24:02}:15:00+01:00",
                "user": ("ana", "ana/kid", "anab", "bob")[n % 4],
                "app": ("editor", "notes")[n % 2],
                "provider": ("openai", "anthropic", "ollama")[n % 3],
                "cost": None if n % 11 == 0 else n,
                "marks": "overrun" if n % 5 == 0 else "soft",
            }
            for n in range(100)
        ]
    )
    before = await world.groups(by, user=user)
    assert sum(group.overruns for group in before) > 0
    assert (await world.roll()).attempts > 60
    assert len(kept(world)) > 20
    assert await world.groups(by, user=user) == before


async def test_a_rolled_day_counts_where_its_midnight_does(world):
    world.attempts({"at": "2027-02-01T10:00:00+01:00"})
    await world.roll()
    midnight, day_after = "2027-02-01T00:00:00+01:00", "2027-02-02T00:00:00+01:00"
    for since, end, calls in [
        (midnight, day_after, 1),
        (midnight, "2027-02-01T00:00:00.001+01:00", 1),
        ("2027-01-31T13:00:00+01:00", "2027-02-01T09:00:00+01:00", 1),
        ("2027-02-01T00:00:00.001+01:00", day_after, 0),
        ("2027-01-01T00:00:00+01:00", midnight, 0),
        ("0001-01-01", "9999-12-31T23:59:59Z", 1),
        ("0001-01-01", "0001-01-02", 0),
        ("9999-12-30", "9999-12-31T23:59:59Z", 0),
    ]:
        assert sum(group.calls for group in await world.groups("day", since, end)) == calls, (since, end)


async def test_the_books_balance_before_between_and_after_batches_and_say_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(retention, "BATCH", 7)
    verdicts, images = [], []

    class Watched(Retention):
        async def _roll(self, closed):
            await super()._roll(closed)
            verdicts.append(await here.totals())
            image = tmp_path / f"image {len(images)}"
            shutil.copytree(folder, image)
            images.append(image)

    folder = tmp_path / "state"
    folder.mkdir()
    async with opened(folder, retention_class=Watched) as here:
        here.attempts(
            *[{"at": f"2027-02-0{1 + n // 9}T10:00:00+01:00", "cost": n, "provider": "ab"[n % 2]} for n in range(60)]
        )
        before = await here.totals()
        assert (await here.roll()).attempts == 60
        daily, carried = here.rows(DAILY), here.rows("SELECT * FROM carried")
    assert (len(verdicts), verdicts) == (9, [before] * 9)
    for k, image in enumerate(images, 1):  # as a kill after k batches leaves it
        async with opened(image) as here:
            assert await here.totals() == before
            assert len(kept(here)) == 60 - min(7 * k, 60)
            await here.roll()
            assert (here.rows(DAILY), here.rows("SELECT * FROM carried")) == (daily, carried)
            assert await here.totals() == before


async def test_a_kill_within_a_batch_leaves_all_of_it_or_nothing(world):
    world.attempts(*[{"at": "2027-02-01T10:00:00+01:00"} for _ in range(5)])
    before = await world.totals()
    world.write(
        "CREATE TRIGGER broken BEFORE DELETE ON journal WHEN OLD.entry = 1 BEGIN SELECT RAISE(ABORT, 'no'); END"
    )
    with capture_logs(), pytest.raises(Internal):
        await world.roll()
    assert (len(kept(world)), world.rows(DAILY), world.rows("SELECT * FROM carried")) == (5, [], [])
    assert await world.totals() == before
    world.write("DROP TRIGGER broken")
    assert (await world.roll()).attempts == 5


async def test_rounds_asked_for_at_once_sum_nothing_twice(world):
    world.attempts(*[{"at": "2027-02-01T10:00:00+01:00"} for _ in range(20)])
    rounds = await asyncio.gather(*[world.roll() for _ in range(5)])
    assert Counter(rolled.attempts for rolled in rounds) == {20: 1, 0: 4}
    assert [(row[4], row[9]) for row in world.rows(DAILY)] == [(20, 2000)]
    assert await world.problems() == []


async def test_a_crash_in_a_round_sums_nothing_twice_and_leaves_nobody_waiting(tmp_path, monkeypatch):
    monkeypatch.setattr(retention, "BATCH", 3)
    batches = []

    class Crashing(Retention):
        async def _roll(self, closed):
            batches.append(len(closed))
            if len(batches) == 4:
                self.crash(ZeroDivisionError())  # while what follows is on its way to the disk
            await super()._roll(closed)

    async with opened(tmp_path, retention_class=Crashing) as world:
        world.attempts(*[{"at": "2027-02-01T10:00:00+01:00"} for _ in range(30)])
        before = await world.totals()
        with capture_logs(), pytest.raises(Internal, match="cut short"):
            await world.roll()
        assert (await world.roll()).attempts == 30 - sum(batches[:4])
        assert world.retention.restarts == 1
        assert [(row[4], row[9]) for row in world.rows(DAILY)] == [(30, 3000)]
        assert await world.totals() == before


async def test_an_asker_that_goes_away_ends_no_round(world):
    world.attempts(*[{"at": "2027-02-01T10:00:00+01:00"} for _ in range(5)])
    asked = asyncio.ensure_future(world.roll())
    await asyncio.sleep(0)
    asked.cancel()
    await until(lambda: kept(world) == [])
    assert await world.problems() == []


TAMPERED = {
    "a usage row is deleted": "DELETE FROM usage",
    "a usage row costs something else": "UPDATE usage SET cost = cost + 1",
    "a rolled cost is another": "UPDATE usage_daily SET cost = cost + 1",
    "a rolled count is another": "UPDATE usage_daily SET calls = calls - 1",
    "a day is deleted": "DELETE FROM usage_daily WHERE day = '2027-02-01'",
    "a day that cost nothing is deleted": "DELETE FROM usage_daily WHERE day = '2027-02-02'",
    "a carried sum is another": "UPDATE carried SET spent = spent + 1",
    "a carried sum is deleted": "DELETE FROM carried WHERE spent > 0",
    "a carried sum is of other accounts": "UPDATE carried SET set_id = set_id + 100",
    "a balance is another": "UPDATE accounts SET spent = spent + 1 WHERE label = '2027-02-01'",
}


@pytest.mark.parametrize("sql", TAMPERED.values(), ids=TAMPERED)
async def test_tampering_is_found(world, sql):
    world.attempts(
        {"at": "2027-02-01T10:00:00+01:00"},
        {"at": "2027-02-02T10:00:00+01:00", "cost": 0},
        {"at": "2027-03-09T10:00:00+01:00"},
    )
    await world.roll()
    assert await world.problems() == []
    world.write(sql)
    assert await world.problems() != []


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM usage WHERE cost = 7",
        "DELETE FROM usage WHERE cost = 0",
        "UPDATE usage SET cost = 8 WHERE cost = 7",
        "UPDATE usage SET cost = NULL WHERE cost = 7",
        "INSERT INTO usage SELECT {copy} FROM usage WHERE cost = 0",
    ],
)
async def test_rolling_up_hides_no_tampering(world, sql):
    at = "2027-02-01T10:00:00+01:00"
    world.attempts({"at": at}, {"at": at, "cost": 7}, {"at": at, "cost": 0})
    columns = [name for _, name, *_ in world.rows("PRAGMA table_info(usage)")]
    world.write(sql.format(copy=", ".join("id || 'x'" if name == "id" else name for name in columns)))
    found = await world.problems()
    assert found != []
    await world.roll()
    assert (await world.problems())[0] == found[0]
    assert world.rows("SELECT sum(calls) FROM usage_daily") in ([(2,)], [(3,)])


async def test_the_journal_is_cut_nowhere_else(world):
    at = "2027-02-01T10:00:00+01:00"
    held, unknown, low, rolled, new = world.attempts(
        {"at": at, "state": "held"},
        {"at": at, "state": "unknown"},
        {"at": "2027-03-09", "id_at": parse_rfc3339(at)},
        {"at": at},
        {"at": "2027-03-09"},
    )
    await world.roll()
    (bound,) = world.rows("SELECT usage_id FROM carried_before")
    assert max(held, unknown, low, rolled) < bound[0] < new
    for usage_id in (held, unknown, low, new):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            world.write("DELETE FROM journal WHERE usage_id = ?", usage_id)
    world.write("DELETE FROM carried_before")
    world.write("DELETE FROM usage WHERE id = ?", new)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        world.write("DELETE FROM journal WHERE usage_id = ?", new)


async def test_new_ids_stay_above_those_that_are_rolled(world):
    assert await last_id(world.store) is None
    (rolled,) = world.attempts({"at": "2027-02-01T10:00:00+01:00"})
    await world.roll()
    assert Ids(lambda: 0, await last_id(world.store)).next() > rolled


async def test_attempts_of_a_clock_that_was_wrong_are_as_old_as_they_say(world):
    wrong, *_ = world.attempts(
        {"at": "2099-01-01"},
        {"at": "2027-02-01T10:00:00+01:00"},  # the clock is right again, and ids go on from where they were
        {"at": "2027-02-02T10:00:00+01:00"},
    )
    assert (await world.roll()).attempts == 2
    assert kept(world) == [wrong]
    assert await world.problems() == []


async def test_it_rolls_a_minute_after_the_start_and_then_each_day(world):
    world.attempts({"at": "2027-02-01T10:00:00+01:00"}, {"at": "2027-02-08T10:00:00+01:00"})
    with capture_logs() as logged:
        world.clock.turn(FIRST_S - 1)
        await asyncio.sleep(0.02)
        assert len(kept(world)) == 2
        world.clock.turn(1)
        await until(lambda: len(kept(world)) == 1)
        for _ in range(24):
            await until(lambda: round(EVERY_S * MICRO) + world.clock.wall_us in world.clock.sleepers.values())
            world.clock.turn(EVERY_S)
        await until(lambda: kept(world) == [])
        await until(lambda: len(logged) == 2)
    assert [(e["event"], e["attempts"], e["before"]) for e in logged] == [
        ("rolled_up", 1, FIRST_KEPT),
        ("rolled_up", 1, "2027-02-09"),
    ]
    assert repr(world.retention) == "<Retention before 2027-02-09>"


async def test_a_changed_setting_holds_from_the_next_round_on(world):
    (only,) = world.attempts({"at": "2027-03-01T10:00:00+01:00"})
    with capture_logs():
        world.clock.turn(FIRST_S)
        await until(lambda: round(EVERY_S * MICRO) + world.clock.wall_us in world.clock.sleepers.values())
        assert kept(world) == [only]
        await world.settings.call(ChangeSetting("usage.retention_days", 8, DAEMON, Actor(0, "root", "test")))
        world.clock.turn(EVERY_S)
        await until(lambda: kept(world) == [])
    assert await world.problems() == []


async def test_after_a_full_disk_the_next_round_goes_on(world):
    world.attempts(*[{"at": f"2027-02-01T10:00:{n:02}+01:00", "app": f"{n} {'long' * 500}"} for n in range(60)])
    before = await world.totals()
    used = await world.store._writer.run(lambda c: c.execute("PRAGMA page_count").fetchone()[0])
    await world.store._writer.run(lambda c: c.execute(f"PRAGMA max_page_count = {used}").fetchone())
    with capture_logs() as logged:
        with pytest.raises(LedgerReadonly, match="disk is full"):
            await world.roll()
        world.clock.turn(FIRST_S)
        await until(lambda: "retention_stopped" in [event["event"] for event in logged])
        assert await world.totals() == before
        await world.store._writer.run(lambda c: c.execute("PRAGMA max_page_count = 1073741823").fetchone())
        await until(lambda: not world.store.full)
        await until(lambda: round(EVERY_S * MICRO) + world.clock.wall_us in world.clock.sleepers.values())
        world.clock.turn(EVERY_S)
        await until(lambda: kept(world) == [])
    assert await world.totals() == before


@given(
    st.lists(st.integers(0, 4_000_000_000 * MICRO), max_size=20), st.sampled_from(["America/Sao_Paulo", "Pacific/Apia"])
)
def test_an_attempt_is_summed_in_the_day_that_the_ledger_has_it_in(instants, zone):
    days = by_day([(str(at), at) for at in instants], ZoneInfo(zone))
    found = {(day, usage_id) for day, ids in days.items() for usage_id in ids}
    assert found == {(local_date(at, ZoneInfo(zone)), str(at)) for at in instants}


ATTEMPT = st.fixed_dictionaries(
    {
        "at": st.integers(parse_rfc3339("2027-01-25"), parse_rfc3339("2027-02-20")),
        "user": st.sampled_from(["ana", "ana/kid", "bob"]),
        "app": st.sampled_from(["editor", "notes"]),
        "provider": st.sampled_from(["openai", "ollama"]),
        "cost": st.none() | st.integers(0, 1000),
        "held": st.integers(0, 1000),
        "state": st.sampled_from(["closed", "closed", "closed", "held", "unknown"]),
        "marks": st.sampled_from(["", "overrun", "soft,overrun", "override"]),
    }
)
ROUND = st.tuples(st.lists(ATTEMPT, max_size=12), st.integers(1, 40), st.integers(0, 3))


@given(st.lists(ROUND, min_size=1, max_size=5), st.integers(1, 6), st.sampled_from(["Europe/Berlin", "Pacific/Apia"]))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_is_rolled_when_the_sums_say_the_same_and_the_books_balance(rounds, batch, zone):
    async def check(folder):
        clock, zoned = TurnedClock(), ZoneInfo(zone)
        for attempts, days, resolved in rounds:
            async with opened(folder, clock=clock, zone=zoned, config={"usage.retention_days": days}) as world:
                unknown = [i for (i,) in world.rows("SELECT id FROM holds WHERE state = 'unknown' LIMIT ?", resolved)]
                with closing(sqlite3.connect(folder / "quorumd.sqlite3")) as database, database:
                    write_attempts(database, zoned, attempts)
                    for usage_id in unknown:
                        resolve(database, usage_id, 11)
                before = await world.totals(), [await world.groups(by) for by in ("user", "app", "model", "day")]
                rolled = await world.roll()
                assert (
                    await world.totals(),
                    [await world.groups(by) for by in ("user", "app", "model", "day")],
                ) == before
                left = world.rows("SELECT created_at FROM usage WHERE id NOT IN (SELECT id FROM holds)")
                assert all(local_date(at, zoned) >= rolled.before for (at,) in left)

    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder, capture_logs():
        patch.setattr(retention, "BATCH", batch)
        anyio.run(check, Path(folder))
