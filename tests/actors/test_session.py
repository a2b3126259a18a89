import asyncio

import pytest
from structlog.testing import capture_logs
from worlds import calm, open_books, until

from actors.session import SessionContext, Sessions, preferences_of
from protocols.audit import Actor
from protocols.session import CloseSession, Describe, ListSessions, OpenSession, Prefer, Spent
from protocols.settings import DAEMON, EVERYBODY
from protocols.users import ChooseModel, ModelsOf

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


def kept(books):
    """The sessions that are in memory, known or not."""
    return [ref.name for ref in books.actors.refs if ref.actor_class is SessionContext]


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
    await session.call(Prefer("agent", begins=True))
    session.tell(Spent("ana", 30))
    session.tell(Spent("ana", 12))
    await books.clock.turn(5)
    (row,) = await sessions.call(ListSessions())
    assert (row.app, row.calls, row.cost_nano_usd, row.idle_s) == ("agent", 1, 42, 5.0)
    await session.call(Prefer("asks what would be"))
    (row,) = await sessions.call(ListSessions())
    assert (row.calls, row.idle_s) == (1, 0.0)
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


async def test_a_bound_that_is_lowered_holds_at_once(books, sessions):
    for user in ("ana", "bob", "cleo", "dan"):
        await sessions.call(OpenSession(user, "editor"))
    await books.change("session.max", 2, DAEMON)
    await calm()
    assert await live(sessions) == ["cleo", "dan"]
    assert kept(books) == ["session cleo", "session dan"]


async def test_of_many_who_come_at_once_no_more_are_live_than_may_be(books, sessions):
    await books.change("session.max", 3, DAEMON)
    await calm()
    users = [f"u{number}" for number in range(50)]
    calls = [asyncio.create_task(preferences_of(sessions, user, "editor")) for user in users]
    while not all(call.done() for call in calls):
        assert len(kept(books)) <= 3
        await asyncio.sleep(0)
    assert [call.result().user for call in calls] == users
    assert await live(sessions) == users[-3:]


async def test_the_end_of_a_call_is_a_use_too(books, sessions):
    await books.change("session.max", 2, DAEMON)
    await calm()
    for user in ("ana", "bob"):
        await preferences_of(sessions, user, "editor")
    await books.clock.turn(10)
    sessions.tell(Spent("ana", 5))
    assert await live(sessions) == ["bob", "ana"]
    await preferences_of(sessions, "cleo", "editor")
    assert [(row.user, row.idle_s) for row in await sessions.call(ListSessions())] == [("ana", 0.0), ("cleo", 0.0)]


async def test_a_look_for_idle_sessions_asks_none_that_was_used_since(books, sessions, monkeypatch):
    asked = []
    for number in range(30):
        await preferences_of(sessions, f"u{number}", "editor")
        await books.clock.turn(1)
    describe = SessionContext._handlers[Describe]
    noted = {
        **SessionContext._handlers,
        Describe: lambda one, request: (asked.append(one._user), describe(one, request))[1],
    }
    monkeypatch.setattr(SessionContext, "_handlers", noted)
    await books.clock.turn(1780)
    await until(lambda: len(sessions.incarnation._live) == 19)
    await calm()
    assert asked == [f"u{number}" for number in range(12)]


async def test_a_closed_session_is_opened_anew(sessions):
    first = await sessions.call(OpenSession("ana", "editor"))
    await first.call(Prefer("editor", begins=True))
    row = await sessions.call(CloseSession("ana"))
    assert (row.user, row.app, row.calls) == ("ana", "editor", 1)
    assert await sessions.call(CloseSession("ana")) is None
    assert not first.is_alive()
    second = await sessions.call(OpenSession("ana", "editor"))
    assert (await second.call(Prefer("editor"))).user == "ana"
    assert [row.calls for row in await sessions.call(ListSessions())] == [0]


async def test_a_session_that_is_closed_while_it_is_asked_is_opened_anew(books, sessions):
    first = await sessions.call(OpenSession("ana", "editor"))
    with capture_logs():
        first.incarnation.crash(ZeroDivisionError())
        asking = asyncio.create_task(preferences_of(sessions, "ana", "editor", begins=True))
        await asyncio.sleep(0)
        assert first.waiting == 1
        await asyncio.wait([asyncio.create_task(books.actors.stop(sessions.incarnation._live.pop("ana")))])
        assert (await asking).user == "ana"
    assert [row.calls for row in await sessions.call(ListSessions())] == [1]


async def test_what_a_call_used_counts_though_its_session_was_closed_meanwhile(books, sessions):
    await books.users.call(ChooseModel("ana", "openai", "gpt-4o", True, None, None, Actor(1000, "ana", "test")))
    await preferences_of(sessions, "ana", "editor", begins=True)
    await sessions.call(CloseSession("ana"))
    with capture_logs() as logged:
        sessions.tell(Spent("ana", 5, "openai:gpt-4o"))
        sessions.tell(Spent("ana", 5))
    (model,) = await books.users.call(ModelsOf("ana"))
    assert (model.use_count, logged, await live(sessions)) == (1, [], [])


async def test_a_session_that_crashed_reads_again_and_counts_from_then_on(books, sessions):
    session = await sessions.call(OpenSession("ana", "editor"))
    await session.call(Prefer("editor", begins=True))
    await books.clock.turn(60)
    with capture_logs():
        session.incarnation.crash(ZeroDivisionError())
        await books.change("default_max_tokens", 77)
        assert (await preferences_of(sessions, "ana", "agent")).default_max_tokens == 77
    await books.change("default_max_tokens", 78)
    assert (await preferences_of(sessions, "ana", "agent", begins=True)).default_max_tokens == 78
    (row,) = await sessions.call(ListSessions())
    assert (row.app, row.calls, row.opened_at, session.restarts) == ("agent", 1, "2027-03-10T12:01:00.000Z", 1)


async def test_a_setting_of_one_user_is_nothing_to_the_others(books, sessions):
    bob = await sessions.call(OpenSession("bob", "editor"))
    known = await bob.call(Prefer("editor"))
    await books.change("default_max_tokens", 77, "ana")
    assert await bob.call(Prefer("editor")) is known
    await books.change("default_max_tokens", 78, EVERYBODY)
    assert (await bob.call(Prefer("editor"))).default_max_tokens == 78


async def test_a_list_is_of_an_account_and_the_names_below_it(sessions):
    for user in ("ana", "ana/x", "anab", "bob/ana"):
        await sessions.call(OpenSession(user, "editor"))
    assert [row.user for row in await sessions.call(ListSessions("ana"))] == ["ana", "ana/x"]


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
