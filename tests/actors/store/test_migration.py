import re
import sqlite3
import stat
from contextlib import asynccontextmanager, closing

import pytest
import tournaments
from schemas import AT, COUNTED, DAY, FIRST, MONTH, everything, first_schema, opened, schema_of
from worlds import TurnedClock

from actors.events import Events
from actors.ledger import Ledger
from actors.record import Record
from actors.settings import SettingsActor
from actors.store.dispatched import open_dispatched
from actors.store.queries import Statement, load, migrations
from actors.store.sqlite import StoreRefused, open_store
from actors.supervise import Supervisor
from protocols.budget import Account, Balance, ReadBooks, ReadGroups, Verify
from protocols.record import CloseRecord, OpenRecord, ReadRecord, ReadReliability
from protocols.usage import SpendQuery

pytestmark = pytest.mark.anyio

TOURNAMENTS = ("tournaments", "ballots", "reliability")


@asynccontextmanager
async def books(folder):
    dispatched, _ = open_dispatched(folder / "dispatched", "boot")
    with dispatched:
        async with opened(folder) as store, Supervisor() as actors:
            clock = TurnedClock()
            settings = await actors.start(lambda: SettingsActor(store, clock, {}, {}))
            events = await actors.start(lambda: Events(settings, clock, set()))
            yield await actors.start(lambda: Ledger(store, clock, dispatched, events))


def stored(path):
    """Every row by table, without what a later schema added to it."""
    with closing(sqlite3.connect(path)) as database:
        return {
            table: [row[: len(rows[0])] for row in database.execute(f"SELECT * FROM {table} ORDER BY 1, 2")]
            for table, rows in FIRST.items()
        }


async def test_a_database_of_the_first_schema_keeps_every_row(tmp_path):
    first_schema(tmp_path)
    async with opened(tmp_path) as store:
        assert await store.read(Statement("PRAGMA user_version", 0)) == [(len(migrations()),)]
        assert await store.read(Statement("PRAGMA integrity_check", 0)) == [("ok",)]
        assert await store.read(Statement("SELECT marks, lease_until FROM holds", 0)) == [("", 0), ("", 0)]
    assert stored(tmp_path / "quorumd.sqlite3") == FIRST


async def test_a_copy_of_the_first_schema_is_kept_beside_it(tmp_path):
    first_schema(tmp_path)
    async with opened(tmp_path):
        pass
    copy = tmp_path / "quorumd.sqlite3.v1.backup"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert stored(copy) == FIRST
    with closing(sqlite3.connect(copy)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (1,)
        assert [name for (name,) in database.execute(COUNTED)] == sorted(FIRST)


async def test_rows_of_the_first_schema_say_what_was_held_and_which_cost_more(tmp_path):
    first_schema(tmp_path)
    async with opened(tmp_path) as store:
        assert await store.read(Statement("SELECT cost, held, marks FROM usage ORDER BY id", 0)) == [
            (250, 300, ""),
            (900, 900, ""),
            (100, 70, "overrun"),
        ]


async def test_the_ledger_reads_on_and_its_books_balance(tmp_path):
    first_schema(tmp_path)
    async with books(tmp_path) as ledger:
        verdict = await ledger.call(Verify())
        assert (verdict.problems, verdict.journal_entries, verdict.usage_rows, verdict.spent_nano_usd) == (
            [],
            7,
            3,
            1250,
        )
        read = await ledger.call(ReadBooks(month=MONTH, day=DAY))
        assert read.balances[Account("user:ana", "month", MONTH)] == Balance(1250, 400)
        (hold,) = read.open_holds
        assert (hold.start.usage_id, hold.amount, len(hold.accounts)) == ("0000000000004", 400, 4)
        groups = await ledger.call(ReadGroups(SpendQuery(by="user"), None, AT, AT + 1))
        assert [(g.key, g.calls, g.cost_nano_usd, g.overruns) for g in groups] == [
            ("ana", 2, 1150, 0),
            ("ana/kid", 1, 100, 1),
        ]


def _parameters(statement):
    numbered = set(re.findall(r"\?\d", statement))
    return len(numbered) or statement.count("?")


async def test_every_query_of_the_ledger_runs_on_it(tmp_path):
    first_schema(tmp_path)
    names = (
        "before",
        "since",
        "until",
        "first",
        "user",
        "app",
        "model",
        "task",
        "conversation",
        "action",
        "subject",
        "scopes",
        "below",
    )
    async with opened(tmp_path) as store:
        for statement in load("ledger").values():
            if statement.split()[0] in {"SELECT", "WITH"}:
                named = dict.fromkeys(names) | {"by": "user", "last": 10, "since": 0, "until": AT}
                await store.read(statement, named if re.search(r":[a-z]", statement) else [0] * _parameters(statement))


async def test_it_still_takes_no_member_of_a_set_without_its_account(tmp_path):
    first_schema(tmp_path)
    async with opened(tmp_path) as store:
        ask = Statement("PRAGMA foreign_keys", 0)
        assert await store._writer.run(lambda c: c.execute(ask).fetchall()) == [(1,)]
        for sql in ("INSERT INTO account_sets VALUES (3, 77)", "DELETE FROM accounts WHERE id = 1"):
            with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
                await store._writer.run(lambda c, sql=sql: c.execute(sql))
        (sql,) = await store.read(Statement("SELECT sql FROM sqlite_master WHERE name = 'account_sets'", 0))
        assert "REFERENCES accounts (id)" in sql[0]


async def test_it_knows_the_accounts_of_overrides_and_still_no_period_beside(tmp_path):
    first_schema(tmp_path)
    add = "INSERT INTO accounts (scope, period, label) VALUES ('user:ana', ?, 'o1')"
    async with opened(tmp_path) as store:
        await store._writer.run(lambda c: c.execute(add, ("override",)))
        assert await store.read(Statement("SELECT id FROM accounts WHERE period = 'override'", 0)) == [(13,)]
        with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
            await store._writer.run(lambda c: c.execute(add, ("year",)))


@pytest.mark.parametrize("sql", ["DELETE FROM journal", "UPDATE journal SET spent = 0"])
async def test_its_journal_is_still_append_only(tmp_path, sql):
    first_schema(tmp_path)
    async with opened(tmp_path) as store:
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            await store._writer.run(lambda c: c.execute(sql))


async def test_an_empty_database_of_the_first_schema_is_brought_up_too(tmp_path):
    first_schema(tmp_path, **{table: [] for table in FIRST})
    async with books(tmp_path) as ledger:
        assert (await ledger.call(Verify())).ok


async def test_one_whose_sets_name_accounts_that_are_not_there_is_left_as_it_is(tmp_path):
    first_schema(tmp_path, account_sets=[*FIRST["account_sets"], (3, 77)])
    with pytest.raises(
        StoreRefused, match=r"can't be brought to schema 2: .*account_sets to accounts.*restore a backup"
    ):
        await open_store(tmp_path, "process", str)
    with closing(sqlite3.connect(tmp_path / "quorumd.sqlite3")) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (1,)
        assert database.execute("SELECT count(*) FROM accounts").fetchone() == (5,)


async def test_a_database_of_the_third_schema_keeps_every_row_and_learns(tmp_path):
    schema_of(tmp_path, 3)
    path = tmp_path / "quorumd.sqlite3"
    before = everything(path)
    assert all(before[table] for table in before if table not in {"carried", "alerts_out"})
    async with opened(tmp_path) as store:
        assert await store.read(Statement("PRAGMA user_version", 0)) == [(len(migrations()),)]
        assert await store.read(Statement("PRAGMA integrity_check", 0)) == [("ok",)]
    after = everything(path)
    assert [after.pop(table) for table in ("feedback", *TOURNAMENTS)] == [[]] * 4
    for table in ("usage", "holds"):
        assert [row.pop("arm") for row in after[table]] == [None] * len(before[table])
    assert after == before
    assert everything(tmp_path / "quorumd.sqlite3.v3.backup") == before


async def test_a_database_of_the_fourth_schema_keeps_every_row_and_has_room_for_tournaments(tmp_path):
    schema_of(tmp_path, 4)
    path = tmp_path / "quorumd.sqlite3"
    before = everything(path)
    assert before["feedback"]
    async with opened(tmp_path) as store:
        assert await store.read(Statement("PRAGMA user_version", 0)) == [(len(migrations()),)]
        assert await store.read(Statement("PRAGMA integrity_check", 0)) == [("ok",)]
    after = everything(path)
    assert [after.pop(table) for table in TOURNAMENTS] == [[]] * 3
    assert after == before
    assert everything(tmp_path / "quorumd.sqlite3.v4.backup") == before


@pytest.mark.parametrize("version", [1, 3, 4])
async def test_tournaments_are_recorded_on_a_database_of_any_schema(tmp_path, version):
    schema_of(tmp_path, version) if version > 1 else first_schema(tmp_path)
    async with opened(tmp_path) as store, Supervisor() as actors:
        record = await actors.start(lambda: Record(store, TurnedClock(), {}))
        await record.call(OpenRecord(tournaments.opened()))
        ballots = (tournaments.ballot(0, "yes"), tournaments.ballot(1, "no"))
        await record.call(CloseRecord(tournaments.verdict(ballots=ballots), [0]))
        assert len((await record.call(ReadRecord("t1", "ana"))).ballots) == 2
        assert len(await record.call(ReadReliability(None))) == 2


TOURNAMENT = "INSERT INTO tournaments (id, created_at, user, app, mode, prompt, terms, members, state) VALUES"
BALLOT = "INSERT INTO ballots (tournament_id, slot, model, status, text, round, arrived, agreed) VALUES"


@pytest.mark.parametrize(
    "sql",
    [
        f"{TOURNAMENT} ('t', 1, 'ana', 'a', 'vote', '', '{{}}', '[]', 'lost')",
        f"{TOURNAMENT} ('t', 1, 'ana', 'a', 'vote', '', 'no JSON', '[]', 'done')",
        f"{TOURNAMENT} (NULL, 1, 'ana', 'a', 'vote', '', '{{}}', '[]', 'done')",
        f"{TOURNAMENT} ('t1', 1, 'ana', 'a', 'vote', '', '{{}}', '[]', 'done')",
        f"{BALLOT} ('nowhere', 0, 'm', 'ok', '', 0, 0, NULL)",
        f"{BALLOT} ('t1', 0, 'm', 'ok', '', 0, 0, NULL)",
        f"{BALLOT} ('t1', 1, 'm', 'ok', '', 0, 0, 2)",
    ],
)
async def test_what_is_no_record_of_a_tournament_is_no_row(tmp_path, sql):
    async with opened(tmp_path) as store:
        await store._writer.run(
            lambda c: c.execute(f"{TOURNAMENT} ('t1', 1, 'ana', 'a', 'vote', '', '{{}}', '[]', 'done')")
        )
        await store._writer.run(lambda c: c.execute(f"{BALLOT} ('t1', 0, 'm', 'ok', '', 0, 0, NULL)"))
        with pytest.raises(sqlite3.IntegrityError):
            await store._writer.run(lambda c: c.execute(sql))


@pytest.mark.parametrize("rating", [-1.01, 1.01, None, "good"])
async def test_feedback_without_a_rating_within_bounds_is_no_row(tmp_path, rating):
    async with opened(tmp_path) as store:
        with pytest.raises(sqlite3.IntegrityError):
            await store._writer.run(
                lambda c: c.execute("INSERT INTO feedback VALUES ('c', 'u', 'ana', ?, NULL, 1)", (rating,))
            )


async def test_a_second_start_migrates_nothing(tmp_path):
    first_schema(tmp_path)
    async with opened(tmp_path):
        pass
    copy = tmp_path / "quorumd.sqlite3.v1.backup"
    copy.unlink()
    async with opened(tmp_path):
        assert not copy.exists()
