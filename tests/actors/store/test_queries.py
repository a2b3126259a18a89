import sqlite3
from contextlib import closing

import pytest

from actors.store.queries import MOST_ROWS, Statement, load, migrations


def test_statements_are_known_by_name_and_ordered_as_in_their_file():
    ledger = load("ledger")
    names = list(ledger)
    assert names.index("add_account") < names.index("add_to_set") < names.index("add_hold") < names.index("close_hold")
    assert [statement.order for statement in ledger.values()] == list(range(len(ledger)))
    assert all(sql.split()[0] in {"SELECT", "INSERT", "UPDATE", "DELETE", "WITH"} for sql in ledger.values())


def test_the_files_of_one_store_have_orders_of_their_own():
    files = {"ledger": 0, "settings": 100, "retention": 300}
    orders = [s.order for name, first in files.items() for s in load(name, first=first).values()]
    assert len(orders) == len(set(orders))


def test_every_statement_fits_the_schema():
    with closing(sqlite3.connect(":memory:")) as database:
        database.create_function("local_day", 1, str)
        for step in migrations():
            database.executescript(step)
        for statement in (*load("ledger").values(), *load("settings").values(), *load("retention").values()):
            named = dict.fromkeys(("before", "since", "until", "user", "app", "model", "task", "conversation", "after"))
            values = named | {"last": 1, "by": "day"} if ":" in statement else [None] * statement.count("?")
            if "?1" in statement:
                values = [None, None, None]
            database.execute(f"EXPLAIN {statement}", values)


@pytest.mark.parametrize("count", [0, 1, 2, 3, MOST_ROWS - 1, MOST_ROWS, MOST_ROWS + 1, 3 * MOST_ROWS + 5])
@pytest.mark.parametrize(
    "sql", ["INSERT INTO t (a, b) VALUES (?, ?)", "INSERT INTO t (a, b) SELECT ?, ?"], ids=["many rows", "one by one"]
)
def test_all_rows_are_written_in_their_order(count, sql):
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute("CREATE TABLE t (a, b)")
        given = [(n, str(n)) for n in range(count)]
        Statement(sql, 0).execute(database, given)
        assert database.execute("SELECT a, b FROM t ORDER BY rowid").fetchall() == given
