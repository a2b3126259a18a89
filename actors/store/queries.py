"""Named SQL: the statements of a `.sql` file by their `-- name:` lines."""

from __future__ import annotations

import re
import sqlite3
from importlib.resources import files
from typing import Any, Self

_VALUES = re.compile(r"VALUES (\([?, ]+\))")

MOST_ROWS = 64
"""Rows that one execution takes: more saves nothing, and SQLite keeps a prepared statement for each number of rows."""


class Statement(str):
    """SQL with its place in a transaction: statements of a grouped commit run in the order in which their files list them.

    One with `VALUES (?, …)` takes many rows at once: each execution lets go of the interpreter's lock and has to wait to get it
    back, so a commit is a handful of executions, not one a row.
    """

    __slots__ = ("_by_rows", "order")

    order: int

    def __new__(cls, sql: str, order: int) -> Self:
        """The statement at this place."""
        statement = super().__new__(cls, sql)
        statement.order = order
        statement._by_rows = {}
        return statement

    _by_rows: dict[int, str]

    def for_rows(self, rows: int) -> str | None:
        """The SQL that takes so many rows at once, or None if there is no such form."""
        sql = self._by_rows.get(rows)
        if sql is None:
            sql, found = _VALUES.subn(lambda m: "VALUES " + ", ".join([m[1]] * rows), self)
            if found != 1:
                return None
            self._by_rows[rows] = sql
        return sql

    def execute(self, connection: sqlite3.Connection, rows: list[tuple[Any, ...]]) -> None:
        """Runs it for all rows."""
        start = 0
        while start < len(rows):
            # Powers of two, so that few prepared statements serve every number of rows.
            size = 1 << min(len(rows) - start, MOST_ROWS).bit_length() - 1
            sql = self.for_rows(size)
            if sql is None:
                connection.executemany(self, rows[start:])
                return
            connection.execute(sql, [value for row in rows[start : start + size] for value in row])
            start += size


def load(name: str, *, first: int = 0) -> dict[str, Statement]:
    """The statements of `sql/<name>.sql`; `first` is the order of the first one."""
    text = files("actors.store").joinpath("sql", f"{name}.sql").read_text("utf-8")
    statements = {}
    for order, block in enumerate(text.split("-- name: ")[1:], first):
        title, _, sql = block.partition("\n")
        statements[title.strip()] = Statement(sql.strip(), order)
    return statements


def migrations() -> list[str]:
    """The numbered migrations in order; the n-th takes a database from version n-1 to n."""
    found = sorted(p.name for p in files("actors.store").joinpath("sql").iterdir() if p.name[:4].isdigit())
    return [files("actors.store").joinpath("sql", name).read_text("utf-8") for name in found]
