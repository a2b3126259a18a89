import asyncio

import pytest
from structlog.testing import capture_logs
from worlds import calm, open_books

from actors.session import Sessions
from protocols.session import CloseSession, ListSessions, OpenSession, Prefer, Spent
from protocols.settings import DAEMON

pytestmark = pytest.mark.anyio


@pytest.fixture
async def books(tmp_path):
    async with open_books(tmp_path) as books:
        yield books


@pytest.fixture
async def sessions(books):
    return await books.actors.start(lambda: Sessions(books.actors, books.settings, books.users, books.clock))


async def live(sessions):
    return [row.user for row in await sessions.call(ListSessions())]


async def test_a_user_has_one_session_whoever_asks_first(sessions):
    first, second = await asyncio.gather(*[sessions.call(OpenSession("ana", "editor")) for _ in range(2)])
    assert first is second is await sessions.call(OpenSession("ana", "agent"))
    assert await live(sessions) == ["ana"]
    assert await sessions.call(OpenSession("bob", "editor")) is not first


async def test_preferences_come_from_the_settings_and_follow_their_changes(books, sessions):
    session = await sessions.call(OpenSession("ana", "editor"))
    assert (await session.call(Prefer("editor"))).default_max_tokens == 1024
    await books.change("default_max_tokens", 77)
    await books.change("default_model", "ollama:llama", DAEMON)
    preferences = await session.call(Prefer("editor"))
    assert (preferences.default_max_tokens, preferences.default_model) == (77, "ollama:llama")


async def test_a_session_counts_calls_and_cost_and_how_long_it_is_idle(books, sessions):
    session = await sessions.call(OpenSession("ana", "editor"))
    await session.call(Prefer("agent"))
    session.tell(Spent(30))
    session.tell(Spent(12))
    await books.clock.turn(5)
    (row,) = await sessions.call(ListSessions())
    assert (row.app, row.calls, row.cost_nano_usd, row.idle_s) == ("agent", 1, 42, 5.0)
    assert row.opened_at == "2027-03-10T12:00:00.000Z"


async def test_a_session_that_is_idle_for_long_leaves(books, sessions):
    await sessions.call(OpenSession("idle", "editor"))
    await books.clock.turn(1790)
    busy = await sessions.call(OpenSession("busy", "editor"))
    await busy.call(Prefer("editor"))
    await books.clock.turn(30)
    await calm()
    assert await live(sessions) == ["busy"]


async def test_the_idle_time_is_a_setting_that_holds_at_once(books, sessions):
    await sessions.call(OpenSession("ana", "editor"))
    await books.change("session.idle_s", 1.0, DAEMON)
    await calm()
    await books.clock.turn(30)
    assert await live(sessions) == []


async def test_above_the_bound_the_least_recently_used_leaves(books, sessions):
    await books.change("session.max", 2, DAEMON)
    await calm()
    for user in ("ana", "bob", "ana", "cleo"):
        await sessions.call(OpenSession(user, "editor"))
        await calm()
    assert await live(sessions) == ["ana", "cleo"]


async def test_a_closed_session_is_opened_anew(sessions):
    first = await sessions.call(OpenSession("ana", "editor"))
    await sessions.call(CloseSession("ana"))
    await sessions.call(CloseSession("ana"))
    assert not first.is_alive()
    second = await sessions.call(OpenSession("ana", "editor"))
    assert (await second.call(Prefer("editor"))).user == "ana"


async def test_after_a_crash_sessions_begin_anew_and_none_is_left_behind(books, sessions):
    first = await sessions.call(OpenSession("ana", "editor"))
    sessions.incarnation.crash(ZeroDivisionError())
    with capture_logs():
        assert await live(sessions) == []
    assert not first.is_alive()
    assert [ref.name for ref in books.actors.refs if ref.name.startswith("session")] == []
    await sessions.call(OpenSession("ana", "editor"))


async def test_sessions_tell_their_state(sessions):
    session = await sessions.call(OpenSession("ana", "editor"))
    assert (repr(sessions), repr(session)) == ("<Sessions 1 live>", "<SessionContext ana, 0 calls>")
