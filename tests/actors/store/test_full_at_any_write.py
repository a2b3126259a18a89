"""A disk that is full at any write: SQLite gets no page more than so many, whichever row asks for the next one."""

import asyncio

import anyio
import pytest
from structlog.testing import capture_logs
from worlds import month, open_books, until

from actors.rules.admission import Limits
from actors.store import sqlite
from protocols.budget import ReadHolds, Verify
from protocols.errors import LedgerReadonly

pytestmark = pytest.mark.anyio

ROUNDS, PAGES = 20, 16
LONG = "x" * 1_500
"""The name of an app: rows take a good part of a page, so that the few pages that are left go to holds and settlements in turn."""
HOLD, COST = 10, 7


async def pages_left(books, pages):
    """Bounds the database file to what it has and so many pages; None lifts the bound."""

    def bound(connection):
        used = connection.execute("PRAGMA page_count").fetchone()[0]
        most = 1 << 30 if pages is None else used + pages
        connection.execute(f"PRAGMA max_page_count = {most}").fetchone()

    await books.store._writer.run(bound)


async def hold(books):
    """The usage id of a hold that was granted, and then stands in the database; None if it was refused."""
    try:
        usage_id = await books.reserve(HOLD, app=LONG)
    except LedgerReadonly as refused:
        assert "disk is full" in refused.message  # noqa: PT017  what is raised is an answer here
        return None
    assert books.rows("SELECT amount, state FROM holds WHERE id = ?", usage_id) == [(HOLD, "held")]
    return usage_id


async def fill_and_recover(folder, pages, at_once):
    """Holds and settlements until there is no page, and after; whether one that was granted had to wait for space to be settled."""
    granted, refused, settling = [], 0, []
    async with open_books(folder, limits=Limits(daemon=month(1_000_000))) as books:
        with capture_logs() as logged:
            await pages_left(books, pages)
            for _ in range(ROUNDS):
                asked = await asyncio.gather(*[hold(books) for _ in range(at_once)])
                new = [usage_id for usage_id in asked if usage_id is not None]
                granted += new
                refused += at_once - len(new)
                settling += [asyncio.create_task(books.settle(usage_id, COST)) for usage_id in new]
                if settling:
                    await asyncio.wait(settling, timeout=0.01)
            assert refused
            stuck = not all(task.done() for task in settling)
            assert await books.standing()  # reads go on
            assert {row.usage_id for row in (await books.ledger.call(ReadHolds())).holds} <= set(granted)
            await pages_left(books, None)
            with anyio.fail_after(5):
                await asyncio.gather(*settling)
                await until(lambda: not books.store.full)
        assert {event["event"] for event in logged} == {"disk_full", "disk_has_room"}
        assert books.rows("SELECT id, cost FROM usage ORDER BY id") == [
            (usage_id, COST) for usage_id in sorted(granted)
        ]
        await books.settle(await hold(books), COST)
        verdict = await books.ledger.call(Verify())
        assert (verdict.problems, verdict.open_holds) == ([], 0)
        assert await books.spent_and_held("daemon") == (verdict.spent_nano_usd, 0) == ((len(granted) + 1) * COST, 0)
    return stuck


@pytest.mark.parametrize("at_once", [1, 3])
async def test_no_hold_is_granted_that_is_not_durable_and_each_that_was_is_settled_once_there_is_space(
    at_once, tmp_path, monkeypatch
):
    monkeypatch.setattr(sqlite, "RETRY_S", 0.001)
    stuck = []
    for pages in range(PAGES):
        folder = tmp_path / str(pages)
        folder.mkdir()
        stuck.append(await fill_and_recover(folder, pages, at_once))
    assert set(stuck) == {True, False}  # it was full at holds and at settlements
