import asyncio

import pykka
import pytest
from structlog.testing import capture_logs
from worlds import calm

from actors.base import Actor, handles
from actors.supervise import MAX_CRASHES, GaveUp, Supervisor
from protocols.errors import Internal, ShuttingDown
from protocols.request import Request

pytestmark = pytest.mark.anyio


class Add(Request[int], frozen=True):
    number: int


class Explode(Request[None], frozen=True):
    pass


class Counter(Actor):
    """State: the sum, kept in `book`."""

    def __init__(self, book, log=None, opening_fails=None):
        super().__init__()
        self.book = book
        self.log = log if log is not None else []
        self.opening_fails = opening_fails or []
        self.sum = -1

    async def opening(self):
        await asyncio.sleep(0)
        if self.opening_fails and self.opening_fails.pop(0):
            raise OSError("the book is shut")
        self.sum = sum(self.book)

    async def closing(self):
        self.log.append(("closed", self.ref.name))

    @handles(Add)
    def add(self, request):
        self.book.append(request.number)
        self.sum += request.number
        return self.sum

    @handles(Explode)
    def explode(self, _):
        self.sum = 999
        raise ZeroDivisionError("on purpose")


@pytest.fixture
async def actors():
    async with Supervisor() as supervisor:
        yield supervisor


async def explode(ref, times=1):
    for _ in range(times):
        with pytest.raises(Internal):
            await ref.call(Explode())


async def test_a_crashed_actor_comes_back_with_its_state_rebuilt(actors):
    book = []
    counter = await actors.start(lambda: Counter(book))
    assert await counter.call(Add(5)) == 5
    with capture_logs() as logged:
        await explode(counter)
        assert await counter.call(Add(2)) == 7
    assert (counter.restarts, [event["actor"] for event in logged]) == (1, ["Counter"])


async def test_as_many_crashes_as_are_forgiven_change_nothing(actors):
    counter = await actors.start(lambda: Counter([]))
    with capture_logs():
        await explode(counter, MAX_CRASHES)
        assert await counter.call(Add(1)) == 1
    assert not actors.failed.done()


async def test_one_crash_more_gives_up_and_names_the_actor(actors):
    counter = await actors.start(lambda: Counter([]), name="counter of beans")
    with capture_logs():
        await explode(counter, MAX_CRASHES + 1)
        await calm()
    with pytest.raises(GaveUp, match=r"counter of beans crashed 6 times within 60 s; last: ZeroDivisionError\('on p"):
        await actors.failed


async def test_nobody_waits_for_an_actor_that_was_given_up(actors):
    counter = await actors.start(lambda: Counter([]))
    with capture_logs():
        await explode(counter, MAX_CRASHES)
        with pytest.raises(Internal):
            await counter.call(Explode())
        waiting = asyncio.get_running_loop().create_task(counter.call(Add(1)))
        await calm()
    with pytest.raises(ShuttingDown):
        await waiting
    with pytest.raises(ShuttingDown):
        await counter.call(Add(1))


async def test_crashes_far_apart_are_each_forgiven(actors, monkeypatch):
    monkeypatch.setattr("actors.supervise.CRASH_WINDOW_S", 0.0)
    counter = await actors.start(lambda: Counter([]))
    with capture_logs():
        await explode(counter, 3 * MAX_CRASHES)
        assert await counter.call(Add(1)) == 1
    assert not actors.failed.done()


async def test_a_start_that_fails_is_raised_and_leaves_nothing(actors):
    with pytest.raises(OSError, match="shut"):
        await actors.start(lambda: Counter([], opening_fails=[True]))
    assert (actors.refs, pykka.ActorRegistry.get_all()) == ({}, [])


async def test_a_start_that_is_cancelled_leaves_nothing(actors):
    starting = asyncio.get_running_loop().create_task(actors.start(lambda: Counter([])))
    await asyncio.sleep(0)
    starting.cancel()
    await asyncio.wait([starting])
    assert (actors.refs, pykka.ActorRegistry.get_all()) == ({}, [])


async def test_a_stop_while_an_actor_starts_is_a_shutdown_for_who_starts_it(actors):
    starting = asyncio.get_running_loop().create_task(actors.start(lambda: Counter([])))
    await asyncio.sleep(0)
    (ref,) = actors.refs
    await actors.stop(ref)
    with pytest.raises(ShuttingDown, match="while it started"):
        await starting
    assert (actors.refs, pykka.ActorRegistry.get_all(), ref.incarnation) == ({}, [], None)


async def test_work_that_crashes_while_an_actor_opens_restarts_it(actors):
    class Hasty(Counter):
        async def opening(self):
            if not self.book:
                self.book.append(1)
                self.spawn(self.fail())
            await super().opening()
            await asyncio.sleep(0)

        async def fail(self):
            raise OSError("too early")

    book = []
    with capture_logs() as logged:
        hasty = await actors.start(lambda: Hasty(book))
        assert await hasty.call(Add(1)) == 2
    assert (hasty.restarts, [event["event"] for event in logged]) == (1, ["actor_crashed"])


async def test_a_stop_during_a_restart_ends_it(actors):
    counter = await actors.start(lambda: Counter([], opening_fails=[False, True]))
    with capture_logs():
        await explode(counter)
        await asyncio.sleep(0)
        await actors.stop(counter)
        await calm()
    assert (actors.refs, counter.incarnation, pykka.ActorRegistry.get_all()) == ({}, None, [])


async def test_an_idle_actor_has_no_task_and_no_queue(actors):
    before = asyncio.all_tasks()
    counter = await actors.start(lambda: Counter([]))
    with capture_logs():
        await explode(counter)
        assert await counter.call(Add(1)) == 1
    assert asyncio.all_tasks() == before
    assert counter.actor_inbox.queue == ()


async def test_a_restart_that_fails_is_tried_again(actors):
    fails = [False, True, True, False]
    counter = await actors.start(lambda: Counter([], opening_fails=fails))
    with capture_logs() as logged:
        await explode(counter)
        assert await counter.call(Add(3)) == 3
    assert (counter.restarts, len(logged)) == (3, 3)


async def test_a_next_incarnation_that_cannot_be_made_is_a_crash_too(actors):
    made = []

    def make():
        made.append(None)
        if len(made) == 2:
            raise OSError("no more")
        return Counter([])

    counter = await actors.start(make)
    with capture_logs():
        await explode(counter)
        assert await counter.call(Add(3)) == 3
    assert counter.restarts == 2


async def test_actors_stop_in_reverse_order_and_leave_the_registry():
    log = []
    async with Supervisor() as actors:
        for name in ("first", "second", "third"):
            await actors.start(lambda: Counter([], log), name=name)
        assert [ref.name for ref in pykka.ActorRegistry.get_all()] == ["first", "second", "third"]
    assert log == [("closed", "third"), ("closed", "second"), ("closed", "first")]
    assert pykka.ActorRegistry.get_all() == []


async def test_a_crashed_actor_says_no_goodbye():
    log = []
    async with Supervisor() as actors:
        counter = await actors.start(lambda: Counter([], log))
        with capture_logs():
            await explode(counter)
    assert log == []


async def test_stopping_twice_is_once(actors):
    log = []
    counter = await actors.start(lambda: Counter([], log))
    await actors.stop(counter)
    await actors.stop(counter)
    assert len(log) == 1


async def test_no_task_is_left_after_the_end():
    before = asyncio.all_tasks()
    async with Supervisor() as actors:
        counter = await actors.start(lambda: Counter([]))
        with capture_logs():
            await explode(counter)
    assert asyncio.all_tasks() == before
    assert actors.failed.cancelled()


async def test_the_first_failure_is_the_one_that_is_told(actors):
    actors.fail(GaveUp("one"))
    actors.fail(GaveUp("two"))
    with pytest.raises(GaveUp, match="one"):
        await actors.failed
