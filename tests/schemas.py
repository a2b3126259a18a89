"""Databases as earlier versions left them, with a bit of everything in them."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

from actors.store.queries import migrations
from actors.store.sqlite import APPLICATION_ID, Store, open_store

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


def first_schema(folder: Path, **instead: list[Any]) -> None:
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
"""What the third schema can hold beside."""

LEARNED = (
    "UPDATE usage SET arm = 'prices/cheap' WHERE id = '0000000000002'",
    "UPDATE holds SET arm = 'prices/dear' WHERE state = 'held'",
    "INSERT INTO feedback VALUES ('0000000000001', '0000000000002', 'ana', 0.5, 'good', 5)",
)
"""What the fourth can."""


def schema_of(folder: Path, version: int) -> None:
    """A database as that version left it: one of the first, brought on, with something in each of the later tables."""
    first_schema(folder)
    with closing(sqlite3.connect(folder / "quorumd.sqlite3")) as database:
        for number, step in enumerate(migrations()[1:version], 2):
            database.executescript(f"BEGIN; {step} PRAGMA user_version = {number}; COMMIT;")
        for sql in (*CHOSEN, *(LEARNED if version >= 4 else ())):
            database.execute(sql)
        database.commit()


def everything(path: Path) -> dict[str, list[dict[str, Any]]]:
    """All rows by table, each as a dict by column."""
    with closing(sqlite3.connect(path)) as database:
        database.row_factory = sqlite3.Row
        return {name: [dict(row) for row in database.execute(f"SELECT * FROM {name} ORDER BY 1, 2")]
                for (name,) in database.execute(COUNTED).fetchall()}  # fmt: skip


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Store]:
    """The store as the daemon opens it."""
    store = await open_store(folder, "process", lambda _: DAY)
    try:
        yield store
    finally:
        await store.close()
