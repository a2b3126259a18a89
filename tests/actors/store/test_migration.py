import re
import sqlite3
import stat
from contextlib import asynccontextmanager, closing

import pytest
from worlds import TurnedClock

from actors.events import Events
from actors.ledger import Ledger
from actors.settings import SettingsActor
from actors.store.dispatched import open_dispatched
from actors.store.queries import Statement, load, migrations
from actors.store.sqlite import APPLICATION_ID, StoreRefused, open_store
from actors.supervise import Supervisor
from protocols.budget import Account, Balance, ReadBooks, ReadGroups, Verify
from protocols.usage import SpendQuery

pytestmark = pytest.mark.anyio

AT = 1_805_000_000_000_000
DAY, MONTH = "2027-03-14", "2027-03"
COUNTED = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"

FIRST = {
    "accounts": [
        (1, "daemon", "month", MONTH, 1250, 400),
        (2, "daemon", "day", DAY, 1250, 400),
        (3, "user:ana", "month", MONTH, 1250, 400),
        (9, "provider:openai", "month", MONTH, 250, 400),
        (12, "provider:anthropic", "month", MONTH, 1000, 0),
    ],
    "account_sets": [(1, 1), (1, 2), (1, 3), (1, 9), (2, 1), (2, 2), (2, 3), (2, 12)],
    "holds": [
        ("0000000000004", "0000000000003", "ana", "editor", "c1", "chat", "openai", "openai:m", "e", "why", AT, 400, 1, "held"),
        ("0000000000006", "0000000000005", "ana", "editor", None, None, "anthropic", "anthropic:m", "e", "why", AT, 900, 2, "unknown"),
    ],
    "journal": [
        ("0000000000002", 0, AT, 300, 0, 1),
        ("0000000000002", 1, AT + 1, -300, 250, 1),
        ("0000000000004", 0, AT, 400, 0, 1),
        ("0000000000006", 0, AT, 900, 0, 2),
        ("0000000000006", 1, AT + 1, -900, 900, 2),
        ("0000000000008", 0, AT, 70, 0, 2),
        ("0000000000008", 1, AT + 1, -70, 100, 2),
    ],
    "usage": [
        (
            *("0000000000002", "0000000000001", AT, "ana", "editor", "c1", "chat", "openai", "openai:m", "e", "why"),
            *(10, 1, 2, 20, 3, "provider", 250, "price", "v1", 1500, 700, "ok"),
        ),
        (
            *("0000000000006", "0000000000005", AT, "ana", "editor", None, None, "anthropic", "anthropic:m", "e", "why"),
            *(0, 0, 0, 0, 0, "estimate", 900, "estimated", None, 0, None, "unknown"),
        ),
        (
            *("0000000000008", "0000000000007", AT, "ana/kid", "notes", None, None, "anthropic", "anthropic:m", "e", "why"),
            *(5, 0, 0, 9, 0, "provider", 100, "price", "v1", 1500, 700, "ok"),
        ),
    ],
    "settings": [("*daemon", "default_model", '"openai:m"'), ("ana", "month_usd", "25.0")],
    "audit": [(1, AT, 1000, "ana", "cli", "settings.set", "ana: month_usd", None, "25.0", None)],
}  # fmt: skip
"""Every table of the first schema with a bit of everything: the holds are one open and one of an outcome that nobody knows."""


def first_schema(folder, **instead):
    """A database as the first version left it."""
    with closing(sqlite3.connect(folder / "quorumd.sqlite3")) as database:
        database.executescript(migrations()[0])
        assert [name for (name,) in database.execute(COUNTED)] == sorted(FIRST)
        for table, rows in (FIRST | instead).items():
            for row in rows:
                database.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
        database.commit()
        database.executescript(f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 1;")


CHOSEN = (
    "INSERT INTO users VALUES ('ana', 5)",
    "INSERT INTO user_models VALUES ('ana', 'openai', 'm', 1, 7, '{}', '{\"temperature\":0}', '{}', 5, 6)",
    "INSERT INTO conversations VALUES ('ana', 'c1', 'anthropic:m', 6)",
    "INSERT INTO alerts VALUES (1, 'user:ana', 'month', '2027-03', 75, 1000, 800, 5, NULL)",
    "INSERT INTO overrides VALUES ('o1', 'ana', 500, 5, 900, 'root', 'the release', NULL)",
    "INSERT INTO idempotency VALUES (1000, 'k', x'00', '0000000000001', 5, x'7b7d')",
    "INSERT INTO usage_daily VALUES ('2026-01-31', 'ana', 'editor', 'openai', 'openai:m', 3, 9, 0, 6, 0, 40, 1, 0)",
    "UPDATE usage SET marks = 'soft,overrun', audio_prompt_tokens = 4 WHERE id = '0000000000008'",
    "UPDATE holds SET marks = 'override', lease_until = 77 WHERE state = 'held'",
)
"""What later schemas can hold beside."""


def schema_of(folder, version):
    """A database as that version left it: one of the first, brought on, with something in each of the later tables."""
    first_schema(folder)
    with closing(sqlite3.connect(folder / "quorumd.sqlite3")) as database:
        for number, step in enumerate(migrations()[1:version], 2):
            database.executescript(f"BEGIN; {step} PRAGMA user_version = {number}; COMMIT;")
        for sql in CHOSEN:
            database.execute(sql)
        database.commit()


def everything(path):
    """All rows by table, each as a dict by column."""
    with closing(sqlite3.connect(path)) as database:
        database.row_factory = sqlite3.Row
        return {name: [dict(row) for row in database.execute(f"SELECT * FROM {name} ORDER BY 1, 2")]
                for (name,) in database.execute(COUNTED).fetchall()}  # fmt: skip


@asynccontextmanager
async def opened(folder):
    store = await open_store(folder, "process", lambda _: DAY)
    try:
        yield store
    finally:
        await store.close()


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
    assert after.pop("feedback") == []
    for table in ("usage", "holds"):
        assert [row.pop("arm") for row in after[table]] == [None] * len(before[table])
    assert after == before
    assert everything(tmp_path / "quorumd.sqlite3.v3.backup") == before


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
