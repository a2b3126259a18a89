import re
import sqlite3
from contextlib import closing
from importlib.resources import files

import pytest

from actors.ledger import SQL as LEDGER
from actors.retention import SQL as RETENTION
from actors.settings import SQL as SETTINGS
from actors.store.audit import SQL as AUDIT
from actors.store.queries import MOST_ROWS, Statement, load, migrations

FILES = sorted(p.stem for p in files("actors.store").joinpath("sql").iterdir() if not p.name[:4].isdigit())


def test_statements_are_known_by_name_and_ordered_as_in_their_file():
    ledger = load("ledger")
    names = list(ledger)
    assert names.index("add_account") < names.index("add_to_set") < names.index("add_hold") < names.index("close_hold")
    assert [statement.order for statement in ledger.values()] == list(range(len(ledger)))
    assert all(sql.split()[0] in {"SELECT", "INSERT", "UPDATE", "DELETE", "WITH"} for sql in ledger.values())


def test_the_files_of_one_store_have_orders_of_their_own():
    orders = [s.order for s in (*LEDGER.values(), *SETTINGS.values(), *AUDIT.values(), *RETENTION.values())]
    assert len(orders) == len(set(orders))


def test_every_statement_fits_the_schema():
    with closing(sqlite3.connect(":memory:")) as database:
        database.create_function("local_day", 1, str)
        for step in migrations():
            database.executescript(step)
        for statement in (s for name in FILES for s in load(name).values()):
            names = re.findall(r":(\w+)", statement)
            numbers = [int(n) for n in re.findall(r"\?(\d)", statement)]
            values = dict.fromkeys(names) if names else [None] * (max(numbers) if numbers else statement.count("?"))
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
