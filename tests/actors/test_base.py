import asyncio
import gc

import pytest
from structlog.testing import capture_logs
from worlds import calm

from actors import base
from actors.base import Actor, Reply, Wait, handles
from actors.supervise import Supervisor
from protocols.errors import BadRequest, Busy, Internal, ShuttingDown
from protocols.request import Request

pytestmark = pytest.mark.anyio


class Double(Request[int], frozen=True):
    number: int


class Refuse(Request[None], frozen=True):
    pass


class Explode(Request[None], frozen=True):
    pass


class Note(Request[None], frozen=True):
    text: str


class Notes(Request[list[str]], frozen=True):
    pass


class Slow(Request[str], frozen=True):
    gate: asyncio.Future


class SlowNote(Request[None], frozen=True):
    gate: asyncio.Future
    text: str


class NoteInside(Request[str], frozen=True):
    """Notes `before`, tells itself `inside`, notes `after`."""


class Spawn(Request[None], frozen=True):
    gate: asyncio.Future


class Scribe(Actor):
    """State: notes."""

    def __init__(self, shelf=None):
        super().__init__()
        self.notes = []
        self.shelf = shelf if shelf is not None else []

    async def opening(self):
        self.notes = list(self.shelf)

    @handles(Double)
    def double(self, request):
        return request.number * 2

    @handles(Refuse)
    def refuse(self, _):
        raise BadRequest("no")

    @handles(Explode)
    def explode(self, _):
        self.notes.append("half done")
        raise ZeroDivisionError("on purpose")

    @handles(Note)
    def note(self, request):
        self.notes.append(request.text)
        self.shelf.append(request.text)

    @handles(Notes)
    def all_notes(self, _):
        return list(self.notes)

    @handles(Slow)
    def slow(self, request):
        return Wait(self._later(request.gate))

    async def _later(self, gate):
        try:
            return await gate
        except asyncio.CancelledError:
            self.notes.append("cancelled")
            raise

    @handles(SlowNote)
    def slow_note(self, request):
        return Wait(self._note_later(request))

    async def _note_later(self, request):
        await request.gate
        self.notes.append(request.text)

    @handles(NoteInside)
    def inside(self, _):
        self.notes.append("before")
        self.ref.tell(Note("inside"))
        self.notes.append("after")
        return "done"

    @handles(Spawn)
    def start_work(self, request):
        self.spawn(self._work_until(request.gate))

    async def _work_until(self, gate):
        await gate
        raise ZeroDivisionError("in spawned work")


@pytest.fixture
async def actors():
    async with Supervisor() as supervisor:
        yield supervisor


@pytest.fixture
async def scribe(actors):
    shelf = []
    return await actors.start(lambda: Scribe(shelf))


def gate():
    return asyncio.get_running_loop().create_future()


def task(coroutine):
    return asyncio.get_running_loop().create_task(coroutine)


async def crash(ref):
    """After it there is no incarnation until the loop turns, so messages wait in the inbox."""
    with capture_logs(), pytest.raises(Internal):
        await ref.call(Explode())


async def test_a_call_is_answered_with_what_the_handler_returned(scribe):
    assert await scribe.call(Double(21)) == 42


async def test_a_call_through_the_inbox_is_answered_the_same(scribe):
    await crash(scribe)
    assert scribe.incarnation is None
    with capture_logs():
        assert await scribe.call(Double(21)) == 42


@pytest.mark.parametrize("queued", [False, True])
async def test_a_fault_is_an_answer_and_no_crash(scribe, queued):
    if queued:
        await crash(scribe)
    restarts = scribe.restarts + queued
    with capture_logs(), pytest.raises(BadRequest, match="no"):
        await scribe.call(Refuse())
    assert (scribe.restarts, await scribe.call(Double(1))) == (restarts, 2)


async def test_an_unexpected_error_is_answered_as_internal_without_its_text(scribe):
    with capture_logs(), pytest.raises(Internal) as caught:
        await scribe.call(Explode())
    assert "purpose" not in caught.value.message
    assert "Scribe" in caught.value.message


async def test_messages_that_wait_during_a_restart_are_handled_in_their_order(scribe):
    await crash(scribe)
    calls = [task(scribe.call(Note(str(n)))) for n in range(5)]
    await asyncio.sleep(0)
    scribe.tell(Note("told"))
    with capture_logs():
        await asyncio.gather(*calls)
        assert await scribe.call(Notes()) == ["0", "1", "2", "3", "4", "told"]


async def test_a_crash_in_the_middle_of_a_queue_loses_only_its_own_message(scribe):
    await crash(scribe)
    calls = [task(scribe.call(m)) for m in (Note("a"), Explode(), Note("b"), Refuse(), Note("c"))]
    with capture_logs():
        answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(answer) for answer in answers] == [type(None), Internal, type(None), BadRequest, type(None)]
    assert await scribe.call(Notes()) == ["a", "b", "c"]


async def test_a_slow_answer_does_not_block_the_mailbox(scribe):
    opened = gate()
    slow = task(scribe.call(Slow(opened)))
    await asyncio.sleep(0)
    assert await scribe.call(Double(2)) == 4
    assert not slow.done()
    opened.set_result("at last")
    assert await slow == "at last"


async def test_cancelling_the_asker_cancels_the_wait(scribe):
    slow = task(scribe.call(Slow(gate())))
    await asyncio.sleep(0)
    slow.cancel()
    await asyncio.wait([slow])
    assert await scribe.call(Notes()) == ["cancelled"]


async def test_a_queued_message_of_a_cancelled_asker_is_dropped(scribe):
    await crash(scribe)
    waiting = task(scribe.call(Note("dropped")))
    await asyncio.sleep(0)
    assert scribe.waiting == 1
    waiting.cancel()
    await asyncio.wait([waiting])
    with capture_logs():
        assert await scribe.call(Notes()) == []


async def test_an_asker_that_is_cancelled_as_its_wait_arrives_leaves_no_coroutine_behind(scribe):
    await crash(scribe)
    slow = task(scribe.call(Slow(gate())))
    with capture_logs():
        while scribe.waiting or scribe.incarnation is None:  # noqa: ASYNC110  each turn counts
            await asyncio.sleep(0)
    slow.cancel()
    await asyncio.wait([slow])
    assert slow.cancelled()


@pytest.mark.parametrize("turns", range(5))
async def test_an_answer_that_its_cancelled_asker_could_not_take_is_heard_by_who_gives_it_back(scribe, turns):
    missed, taken = [], []

    async def ask():
        taken.append(await scribe.call(Double(4), missed=missed.append))

    scribe.incarnation.handling = True
    asking = asyncio.create_task(ask())
    await asyncio.sleep(0)
    scribe.incarnation.handling = False
    for _ in range(turns):
        await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait([asking])
    assert (missed, taken) == {0: ([], []), 1: ([8], [])}.get(turns, ([], [8]))


@pytest.mark.parametrize("queued", [False, True])
async def test_what_is_delivered_is_handled_though_its_waiter_is_cancelled(scribe, queued):
    if queued:
        await crash(scribe)
    opened = gate()
    answer = scribe.deliver(SlowNote(opened, "kept"))
    answer.cancel()
    with capture_logs():
        await calm()
    opened.set_result(None)
    await calm()
    assert await scribe.call(Notes()) == ["kept"]


@pytest.mark.parametrize("queued", [False, True])
async def test_a_delivery_is_answered(scribe, queued):
    if queued:
        await crash(scribe)
    with capture_logs():
        assert await scribe.deliver(Double(4)) == 8


async def test_a_message_from_inside_a_handler_to_its_own_actor_waits_its_turn(scribe):
    assert await scribe.call(NoteInside()) == "done"
    await calm()
    assert await scribe.call(Notes()) == ["before", "after", "inside"]


async def test_a_call_does_not_overtake_what_waits_in_the_inbox(scribe):
    await scribe.call(NoteInside())
    assert scribe.waiting == 1
    await scribe.call(Note("later"))
    assert await scribe.call(Notes()) == ["before", "after", "inside", "later"]


@pytest.mark.parametrize("queued", [False, True])
async def test_a_failing_tell_is_logged_and_counted_and_not_fatal(scribe, queued):
    if queued:
        await crash(scribe)
    restarts = scribe.restarts + queued
    with capture_logs() as logged:
        scribe.tell(Explode())
        scribe.tell(Refuse())
        await calm()
    failed = [event for event in logged if event["event"] == "tell_failed"]
    assert [event["message_type"] for event in failed] == ["Explode", "Refuse"]
    assert (scribe.failed_tells, scribe.restarts) == (2, restarts)


async def test_a_wait_that_was_told_goes_on_and_its_failure_is_counted(scribe):
    opened, broken = gate(), gate()
    scribe.tell(SlowNote(opened, "told"))
    scribe.tell(SlowNote(broken, "never"))
    opened.set_result(None)
    broken.set_exception(ZeroDivisionError())
    with capture_logs():
        await calm()
    assert await scribe.call(Notes()) == ["told"]
    assert (scribe.failed_tells, scribe.restarts) == (1, 0)


async def test_a_full_inbox_answers_busy_counts_lost_tells_and_still_takes_what_is_delivered(scribe, monkeypatch):
    monkeypatch.setattr(base, "INBOX_LIMIT", 2)
    await crash(scribe)
    with capture_logs() as logged:
        for _ in range(3):
            scribe.tell(Note("told"))
        with pytest.raises(Busy) as busy:
            await scribe.call(Double(1))
        assert busy.value.retry_after_s == 1.0
        delivered = scribe.deliver(Double(4))
        await calm()
    assert await delivered == 8
    assert [event["event"] for event in logged].count("tell_lost") == 1
    assert (scribe.failed_tells, await scribe.call(Notes())) == (1, ["told", "told"])


async def test_the_failure_of_spawned_work_is_a_crash(scribe):
    opened = gate()
    await scribe.call(Spawn(opened))
    opened.set_result(None)
    with capture_logs() as logged:
        await calm()
    assert scribe.restarts == 1
    assert [event["event"] for event in logged] == ["actor_crashed"]
    assert await scribe.call(Double(1)) == 2


async def test_spawned_work_ends_with_its_incarnation(scribe):
    opened = gate()
    await scribe.call(Spawn(opened))
    await crash(scribe)
    with capture_logs():
        await calm()
    assert opened.cancelled()


async def test_the_late_failure_of_an_earlier_incarnations_work_leaves_the_next_one_alone(scribe):
    first = scribe.incarnation
    await crash(scribe)
    with capture_logs():
        await calm()
    first.crash(ZeroDivisionError())
    assert scribe.incarnation is not None
    assert (await scribe.call(Double(1)), scribe.restarts) == (2, 1)


async def test_a_stop_answers_what_waits_and_what_comes_later(actors, scribe):
    await crash(scribe)
    waiting = task(scribe.call(Double(1)))
    await asyncio.sleep(0)
    assert scribe.waiting == 1
    scribe.actor_stopped.set()
    scribe.leave()
    with pytest.raises(ShuttingDown, match="Scribe"):
        await waiting
    await actors.stop(scribe)
    with pytest.raises(ShuttingDown):
        await scribe.call(Double(1))
    with capture_logs() as logged:
        scribe.tell(Note("lost"))
    assert (scribe.failed_tells, logged) == (1, [])  # it was stopped on purpose: counted, and no news


async def test_an_actor_is_started_by_a_supervisor_alone():
    with pytest.raises(RuntimeError, match=r"Supervisor\.start"):
        Scribe()._start_actor_loop()


async def test_a_reply_gives_its_answer_without_blocking():
    reply = Reply()
    with pytest.raises(asyncio.InvalidStateError):
        reply.get()
    reply.set(1)
    reply.set(2)
    assert (reply.get(), await reply) == (1, 1)
    with pytest.raises(TypeError):
        reply.set_get_hook(print)


async def test_a_ref_tells_the_state_of_its_actor_and_the_lack_of_one(scribe):
    assert "Scribe" in repr(scribe)
    await crash(scribe)
    assert repr(scribe) == "<Scribe starting>"


async def test_order_is_kept_among_inline_and_queued_messages(scribe):
    sent = [str(n) for n in range(200)]

    async def send(text):
        if int(text) % 50 == 49:
            scribe.incarnation.crash(ZeroDivisionError())
        if int(text) % 3:
            scribe.tell(Note(text))
        else:
            await scribe.call(Note(text))

    with capture_logs():
        for text in sent:
            await send(text)
        assert await scribe.call(Notes()) == sent


class Busybody(Actor):
    """Begins work as it opens."""

    async def opening(self):
        self.spawn(asyncio.sleep(3600))


async def test_work_of_an_actor_that_is_stopped_before_it_began_is_let_go_without_a_word(actors):
    for _ in range(20):
        await actors.stop(await actors.start(Busybody))
    gc.collect()  # a coroutine that nobody awaited would be told of now, and warnings are errors
