"""What live sessions cost, and that nothing is left of users who have gone."""

import gc
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from worlds import open_books

from actors.budget import FORGET_S
from actors.ledger import FORGET_S as SETS_FORGET_S
from actors.session import Sessions, preferences_of
from protocols.session import ListSessions, Spent
from protocols.settings import DAEMON

ROOT = Path(__file__).parents[2]
LIVE, AGAIN = 200, 3
MOST_BYTES = 6000
"""60 MB for ten thousand; in truth it is half of that."""

LEFT_BYTES = 100_000
"""The tables that once held all of them, and caches of the store; a hundred bytes kept of each user would be more."""


async def comes(books, sessions, user):
    """A call to a free model."""
    await preferences_of(sessions, user, "editor", begins=True)
    await books.settle(await books.reserve(0, user), 0)
    sessions.tell(Spent(user, 0, "openai:gpt-4o"))


async def all_go(books, sessions):
    while sessions.incarnation._live:
        await books.clock.turn(90)
    for _ in range(3):
        for seconds in (FORGET_S, SETS_FORGET_S):
            await books.clock.turn(seconds)
            await books.store.written()


def in_use():
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


@pytest.mark.anyio
async def test_a_live_session_is_small_and_nothing_is_left_of_those_who_have_gone(tmp_path):
    async with open_books(tmp_path) as books:
        sessions = await books.actors.start(lambda: Sessions(books.actors, books.settings, books.users, books.clock))
        await books.change("session.max", LIVE, DAEMON)
        await books.change("session.idle_s", 60, DAEMON)
        users = iter(range(100_000))
        tracemalloc.start()
        try:
            for _ in range(LIVE):
                await comes(books, sessions, f"ana/warm-{next(users)}")
            await all_go(books, sessions)
            before = in_use()
            for _ in range(LIVE):
                await comes(books, sessions, f"ana/user-{next(users)}")
            assert len(await sessions.call(ListSessions())) == LIVE
            assert in_use() - before < MOST_BYTES * LIVE
            for _ in range(LIVE * AGAIN):
                await comes(books, sessions, f"ana/user-{next(users)}")
            assert len(await sessions.call(ListSessions())) == LIVE
            await all_go(books, sessions)
            assert in_use() - before < LEFT_BYTES
        finally:
            tracemalloc.stop()


@pytest.mark.nightly
def test_ten_thousand_sessions_fit_in_60_mb_and_100_000_users_leave_what_they_found():
    command = [sys.executable, str(ROOT / "bench" / "sessions.py"), "10000", "90000"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=ROOT, env=environment).stdout)
    assert found["live_mb"] < 60
    assert found["came_mb"] < 60
    assert found["left_in_use_mb"] < 3
