import asyncio
from contextlib import asynccontextmanager
from datetime import UTC

import msgspec
import pytest
from structlog.testing import capture_logs

from actors.base import Actor
from actors.clock import Clock, Ids, parse_rfc3339
from actors.idempotency import SWEEP_ROWS, SWEEP_S, Idempotency, Keys
from actors.rules.periods import local_date
from actors.store.sqlite import open_store
from actors.supervise import Supervisor
from protocols.errors import Busy, IdempotencyConflict, LedgerReadonly
from protocols.idempotency import Answered, Failed, FreeKey, KeepOutcome, LeaveKey, New, TakeKey

pytestmark = pytest.mark.anyio

NOON = "2027-03-10T12:00:00Z"
DAY_S = 24 * 3600
HELLO = Answered(msgspec.Raw(b'{"text":"Hello","latency_ms":1.0}'))
BROKEN = Failed("truncated", "it broke off", {"partial": "Hel", "usage_id": "u"}, 2.5)


class SetClock(Clock):
    """State: the wall clock, and who sleeps."""

    def __init__(self):
        self.wall_us = parse_rfc3339(NOON)
        self.asleep = []

    def now_us(self):
        return self.wall_us

    def pass_s(self, seconds):
        self.wall_us += round(seconds * 1_000_000)

    async def sleep(self, seconds):
        alarm = asyncio.get_running_loop().create_future()
        self.asleep.append((seconds, alarm))
        await alarm


class World:
    """The actor on a real store, and short ways to ask it."""

    def __init__(self, folder, clock, store, actors, keys, ref):
        self.folder, self.clock, self.store, self.actors, self.keys, self.ref = folder, clock, store, actors, keys, ref

    async def take(self, key="k", body=b"body", uid=1000, **fields):
        return await self.ref.call(TakeKey(uid, key, body, **fields))

    async def keep(self, outcome=HELLO, key="k", uid=1000):
        await self.ref.deliver(KeepOutcome(uid, key, outcome))

    async def free(self, key="k"):
        await self.ref.deliver(FreeKey(1000, key))

    async def leave(self, key="k"):
        await self.ref.deliver(LeaveKey(1000, key))

    async def rows(self):
        return [tuple(r) for r in await self.store.read("SELECT uid, key, outcome IS NOT NULL FROM idempotency")]

    async def attempt(self, call_id, usage_id, status):
        """An attempt as the ledger writes it; `held` is an open hold."""
        columns = "id, call_id, user, app, provider, model, endpoint, reason, created_at"
        common = f"'{usage_id}', '{call_id}', 'ana', 'a', 'p', 'p:m', 'e', 'r', 1"
        if status == "held":
            sql = f"INSERT INTO holds ({columns}, amount, set_id) VALUES ({common}, 1, 1)"
        else:
            sql = (
                f"INSERT INTO usage ({columns}, prompt_tokens, cached_tokens, cache_write_tokens, response_tokens, "
                "reasoning_tokens, token_source, cost, cost_source, latency_us, status) "
                f"VALUES ({common}, 1, 0, 0, 1, 0, 'provider', 1, 'price', 1, '{status}')"
            )
        await self.store._writer.execute(sql)


@asynccontextmanager
async def open_world(folder, clock):
    store = await open_store(folder, "process", lambda at_us: local_date(at_us, UTC))
    try:
        async with Supervisor() as actors:
            keys, ids = Keys(), Ids(clock.now_us)
            ref = await actors.start(lambda: Idempotency(store, clock, ids, keys))
            yield World(folder, clock, store, actors, keys, ref)
    finally:
        await store.close()


@pytest.fixture
def clock():
    return SetClock()


@pytest.fixture
async def world(tmp_path, clock):
    async with open_world(tmp_path, clock) as world:
        yield world


async def waiting(coroutine):
    """Begins it and lets it come to where it waits."""
    task = asyncio.create_task(coroutine)
    for _ in range(20):
        await asyncio.sleep(0)
    await asyncio.sleep(0.05)
    assert not task.done()
    return task


async def test_the_key_is_taken_durably_before_its_asker_hears_of_it(world):
    taken = await world.take()
    assert isinstance(taken, New)
    assert await world.rows() == [(1000, "k", 0)]
    assert [r[0] for r in await world.store.read("SELECT call_id FROM idempotency")] == [taken.call_id]


@pytest.mark.parametrize("outcome", [HELLO, BROKEN])
async def test_the_outcome_is_told_to_whoever_comes_later(world, outcome):
    await world.take()
    await world.keep(outcome)
    assert await world.take() == await world.take() == outcome


async def test_whoever_comes_while_the_first_runs_waits_for_its_outcome(world):
    await world.take()
    waiters = [await waiting(world.take()) for _ in range(3)]
    await world.keep()
    assert await asyncio.gather(*waiters) == [HELLO] * 3


async def test_of_many_at_once_one_is_first(world):
    asked = [asyncio.create_task(world.take()) for _ in range(20)]
    done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
    assert [type(task.result()) for task in done] == [New]
    await world.keep()
    assert sum(isinstance(taken, New) for taken in await asyncio.gather(*asked)) == 1


async def test_another_body_conflicts_while_the_first_runs_and_after_it(world):
    await world.take()
    with pytest.raises(IdempotencyConflict, match="`k`"):
        await world.take(body=b"other")
    await world.keep()
    with pytest.raises(IdempotencyConflict):
        await world.take(body=b"other")
    assert await world.take() == HELLO


async def test_a_wrong_body_does_not_make_a_right_one_conflict(world):
    await world.take()
    await world.keep()
    asked = [world.take(body=b"other"), world.take(), world.take(body=b"other"), world.take()]
    wrong, right, wrong_too, right_too = await asyncio.gather(*asked, return_exceptions=True)
    assert right == right_too == HELLO
    assert isinstance(wrong, IdempotencyConflict)
    assert isinstance(wrong_too, IdempotencyConflict)


async def test_each_uid_has_keys_of_its_own(world):
    await world.take(uid=1)
    assert isinstance(await world.take(uid=2, body=b"other"), New)


async def test_after_a_refusal_the_next_who_waits_is_the_first(world):
    await world.take()
    second, third = await waiting(world.take()), await waiting(world.take())
    await world.free()
    assert isinstance(await second, New)
    assert not third.done()
    await world.keep()
    assert await third == HELLO


async def test_a_key_that_was_freed_stands_for_no_body(world):
    await world.take()
    await world.free()
    assert await world.rows() == []
    assert isinstance(await world.take(body=b"other"), New)


async def test_a_waiter_that_is_cancelled_takes_nobody_with_it(world):
    await world.take()
    gone, stays = await waiting(world.take()), await waiting(world.take())
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    await world.keep()
    assert await stays == HELLO


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
async def test_an_asker_that_is_cancelled_while_it_takes_the_key_leaves_it_free(world, steps):
    task = asyncio.create_task(world.take())
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert world.keys.under_way == {}
    assert isinstance(await world.take(body=b"other"), New)


async def test_an_asker_that_is_cancelled_while_its_key_is_written_leaves_it_free(world, monkeypatch):
    submitted = asyncio.Event()
    submit = world.store.submit

    def tell(*rows, **options):
        submitted.set()
        return submit(*rows, **options)

    monkeypatch.setattr(world.store, "submit", tell)
    task = asyncio.create_task(world.take())
    await submitted.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert isinstance(await world.take(body=b"other"), New)


async def test_an_outcome_is_stored_though_its_caller_is_cancelled(world):
    await world.take()
    task = asyncio.create_task(world.keep())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await world.take() == HELLO


async def test_outcomes_outlive_the_process(tmp_path, clock):
    async with open_world(tmp_path, clock) as world:
        await world.take()
        await world.keep(BROKEN)
    async with open_world(tmp_path, clock) as world:
        assert await world.take() == BROKEN
        with pytest.raises(IdempotencyConflict):
            await world.take(body=b"other")


@pytest.mark.parametrize("statuses", [[], ["not_sent"]])
async def test_a_call_that_a_crash_ended_before_it_was_sent_leaves_its_key_free(tmp_path, clock, statuses):
    async with open_world(tmp_path, clock) as world:
        taken = await world.take()
        for number, status in enumerate(statuses):
            await world.attempt(taken.call_id, f"{taken.call_id}{number}", status)
    async with open_world(tmp_path, clock) as world:
        assert isinstance(await world.take(body=b"other"), New)


@pytest.mark.parametrize(("status", "word"), [("unknown", "unknown"), ("ok", "lost"), ("truncated", "unknown")])
async def test_a_call_that_a_crash_ended_after_it_was_sent_has_failed_for_good(tmp_path, clock, status, word):
    async with open_world(tmp_path, clock) as world:
        taken = await world.take()
        await world.attempt(taken.call_id, f"{taken.call_id}9", status)
        await world.attempt("0000000000000", f"{taken.call_id}8", "ok")
    async with open_world(tmp_path, clock) as world:
        failed = await world.take()
        assert (failed.code, failed.detail) == ("provider_error", {"usage_id": f"{taken.call_id}9"})
        assert word in failed.message
        assert await world.rows() == [(1000, "k", 1)]
        assert await world.take() == failed
        with pytest.raises(IdempotencyConflict):
            await world.take(body=b"other")


async def test_a_hold_that_is_still_open_is_waited_for(tmp_path, clock):
    async with open_world(tmp_path, clock) as world:
        taken = await world.take()
        await world.attempt(taken.call_id, f"{taken.call_id}9", "held")
    async with open_world(tmp_path, clock) as world:
        with pytest.raises(Busy) as busy:
            await world.take()
        assert busy.value.retry_after_s == 1.0
        await world.store._writer.execute("DELETE FROM holds")
        assert isinstance(await world.take(), New)


async def test_a_call_that_ended_nobody_knows_how_is_looked_up_in_the_books(world):
    taken = await world.take()
    waiter = await waiting(world.take())
    await world.attempt(taken.call_id, f"{taken.call_id}9", "internal")
    await world.leave()
    assert (await waiter).code == "provider_error"


async def test_a_confirmation_takes_anew_a_key_that_asked_for_one(world):
    await world.take()
    await world.keep(Failed("override_required", "98 % used", {"override_token": "t"}))
    assert (await world.take()).code == "override_required"
    assert isinstance(await world.take(confirmed=True), New)
    await world.keep()
    assert await world.take(confirmed=True) == await world.take() == HELLO


async def test_a_crash_of_the_actor_lets_no_call_be_made_twice(world):
    await world.take()
    waiter = await waiting(world.take())
    assert isinstance(world.ref.incarnation, Actor)
    world.ref.incarnation.crash(RuntimeError("on purpose"))
    with capture_logs():
        later = await waiting(world.take())
    assert world.ref.restarts == 1
    await world.keep()
    assert (await waiter, await later) == (HELLO, HELLO)


async def test_an_outcome_that_cant_be_stored_is_kept_in_memory(world, monkeypatch):
    await world.take()
    waiter = await waiting(world.take())
    monkeypatch.setattr(world.store, "full", True)
    with capture_logs() as logs:
        await world.keep()
    assert [line["event"] for line in logs] == ["outcome_not_stored"]
    assert await waiter == HELLO
    assert await world.take() == HELLO
    with pytest.raises(IdempotencyConflict):
        await world.take(body=b"other")
    monkeypatch.setattr(world.store, "full", False)
    assert await world.take() == HELLO
    world.clock.pass_s(DAY_S)
    assert isinstance(await world.take(body=b"other"), New)
    assert world.keys.unstored == {}


async def test_a_key_that_cant_be_written_is_not_taken(world, monkeypatch):
    monkeypatch.setattr(world.store, "full", True)
    with pytest.raises(LedgerReadonly):
        await world.take()
    monkeypatch.setattr(world.store, "full", False)
    assert isinstance(await world.take(), New)


async def test_an_outcome_is_forgotten_after_24_hours_and_the_key_may_be_used_anew(world):
    await world.take()
    world.clock.pass_s(60)
    await world.keep()
    world.clock.pass_s(DAY_S - 1)
    assert await world.take() == HELLO
    world.clock.pass_s(1)
    assert isinstance(await world.take(body=b"other"), New)
    assert await world.rows() == [(1000, "k", 0)]


async def test_a_clock_that_is_set_back_keeps_it_longer(world):
    await world.take()
    world.clock.pass_s(-5 * DAY_S)
    await world.keep()
    world.clock.pass_s(6 * DAY_S - 1)
    await world.ref.incarnation.sweep()
    assert await world.take() == HELLO


async def test_a_sweep_forgets_what_is_old_in_batches_but_no_key_in_use(world):
    old = SWEEP_ROWS * 2 + 10
    for number in range(old):
        row = (f"old {number}", world.clock.now_us())
        await world.store._writer.execute("INSERT INTO idempotency VALUES (1, ?, x'00', 'c', ?, x'00')", row)
    await world.take(key="in use")
    world.clock.pass_s(DAY_S)
    await world.take(key="new")
    await world.ref.incarnation.sweep()
    assert sorted(await world.rows()) == [(1000, "in use", 0), (1000, "new", 0)]
    await world.keep(key="in use")
    assert await world.take(key="in use") == HELLO


async def test_it_sweeps_when_it_starts(tmp_path, clock):
    async with open_world(tmp_path, clock) as world:
        await world.take()
        await world.keep()
    clock.pass_s(DAY_S)
    clock.asleep.clear()
    async with open_world(tmp_path, clock) as world:
        while not clock.asleep:  # noqa: ASYNC110  the store's threads set no event
            await asyncio.sleep(0.001)
        assert await world.rows() == []


async def test_it_sweeps_now_and_then(world):
    for sweeps in (1, 2):
        while len(world.clock.asleep) < sweeps:  # noqa: ASYNC110  the store's threads set no event
            await asyncio.sleep(0.001)
        assert await world.rows() == []
        await world.take()
        await world.keep()
        world.clock.pass_s(DAY_S)
        seconds, alarm = world.clock.asleep[-1]
        assert seconds == SWEEP_S
        alarm.set_result(None)
