import asyncio
import math
import random
import statistics
import threading
from contextlib import asynccontextmanager

import anyio
import pytest
from worlds import attempt_end, calm, open_books, rows

from actors.clock import parse_rfc3339
from actors.performance import Performance
from actors.store.queries import Statement
from protocols.audit import Actor
from protocols.budget import Account, OpenHold, PostHold, PostSettlement
from protocols.chat import TokenCount
from protocols.errors import LedgerReadonly, NotFound
from protocols.performance import KeepFeedback, Mean, ReadArms, ReadModels, ReadUsageStats, Within
from protocols.users import ChooseModel, Used

pytestmark = pytest.mark.anyio

DAEMON = Account("daemon", "month", "2027-03")
EVER = Within(None, 0, 1 << 62)
M, N, O = "openai:m", "openai:n", "anthropic:o"  # noqa: E741  the models' own letters


class World:
    """Books, and the actor over them."""

    def __init__(self, books, ref):
        self.books = books
        self.ref = ref

    async def attempt(self, call_id=None, *, start=None, cost=100, **end):
        """An attempt of ana's as the ledger writes it; its call id and usage id. `start` and `end` are the fields of these structs."""
        known = {"model": M, "call_id": call_id or self.books.ids.next()} | (start or {})
        begun = self.books.start(provider=known["model"].partition(":")[0], **known)
        hold = OpenHold(begun, 100, (DAEMON,))
        await self.books.ledger.call(PostHold(hold))
        await self.books.ledger.call(PostSettlement(hold, attempt_end(cost, **end)))
        return begun.call_id, begun.usage_id

    async def say(self, call_id, rating=1.0, comment=None, whose=None, by="ana"):
        return await self.ref.call(KeepFeedback(call_id, rating, comment, by, whose))

    async def models(self, **within):
        """Rows by model and task."""
        found = await self.ref.call(ReadModels(Within(**({"user": None, "since": 0, "until": 1 << 62} | within))))
        return {(row.model, row.task_type): row for row in found}

    async def arms(self, **within):
        found = await self.ref.call(ReadArms(Within(**({"user": None, "since": 0, "until": 1 << 62} | within))))
        return {(row.experiment, row.arm): row for row in found}

    def feedback(self):
        return rows(
            self.books.folder,
            "SELECT call_id, usage_id, user, rating, comment, at FROM feedback ORDER BY call_id, user",
        )


@asynccontextmanager
async def opened(folder):
    async with open_books(folder) as books:
        yield World(books, await books.actors.start(lambda: Performance(books.store, books.users, books.clock)))


@pytest.fixture
async def world(tmp_path):
    async with opened(tmp_path) as world:
        yield world


def nearest_rank(values, share):
    """As the textbook has it: the smallest value that at least this share of all is not above."""
    ordered = sorted(values)
    return next(v for i, v in enumerate(ordered, 1) if i * 100 >= share * len(ordered)) / 1000


async def test_quantiles_are_values_that_were_measured_by_nearest_rank_in_each_group(world):
    chance = random.Random(5)
    expected = {}
    for model, task, n in [(M, None, 1), (M, "a", 2), (M, "b", 19), (N, None, 20), (N, "a", 21), (O, "b", 40)]:
        whole = [chance.randrange(5000) for _ in range(n)]
        first = [chance.randrange(900) for _ in range(max(n - 3, 0))]
        for i, us in enumerate(whole):
            took = {"latency_us": us, "first_token_us": first[i] if i < len(first) else None}
            await world.attempt(start={"model": model, "task_type": task}, **took)
        expected[model, task] = tuple(
            nearest_rank(values, share) if values else None for values in (whole, first) for share in (50, 95)
        )
    found = await world.models()
    assert {
        key: (row.p50_ms, row.p95_ms, row.first_token_p50_ms, row.first_token_p95_ms) for key, row in found.items()
    } == expected


async def test_a_model_without_an_answer_has_no_latency_and_takes_none_from_its_neighbours(world):
    await world.attempt(start={"model": M}, latency_us=1000, first_token_us=500)
    await world.attempt(start={"model": N}, latency_us=9000, status="provider_error")
    await world.attempt(start={"model": O}, latency_us=3000)
    found = await world.models()
    assert (found[N, None].p50_ms, found[N, None].p95_ms, found[N, None].cost_per_answer_nano_usd) == (None, None, None)
    assert [found[m, None].p50_ms for m in (M, O)] == [1.0, 3.0]
    assert [found[m, None].first_token_p95_ms for m in (M, N, O)] == [0.5, None, None]


async def test_latency_and_cost_are_of_answers_alone(world):
    await world.attempt(cost=40, latency_us=2000, first_token_us=1000)
    await world.attempt(cost=41, latency_us=2000, first_token_us=1000)
    await world.attempt(cost=None, latency_us=2000)
    await world.attempt(cost=9999, latency_us=9_000_000, first_token_us=8_000_000, status="truncated")
    row = (await world.models())[M, None]
    assert (row.calls, row.answers, row.p95_ms, row.first_token_p95_ms) == (4, 3, 2.0, 1.0)
    assert row.cost_per_answer_nano_usd in {40, 41}


async def test_the_cost_of_answers_none_of_which_has_a_price_is_not_known(world):
    await world.attempt(cost=None)
    assert (await world.models())[M, None].cost_per_answer_nano_usd is None


@pytest.mark.parametrize(
    ("status", "errors", "rate"),
    [
        *((status, 1, 0.25) for status in ("provider_error", "provider_unavailable", "rate_limited", "misconfigured")),
        ("truncated", 1, 0.25),
        *((status, 0, 0.0) for status in ("bad_request", "context_too_long", "refused", "unknown_model")),
        *((status, 0, 0.0) for status in ("cancelled", "deadline", "unknown", "not_sent", "internal", "shutting_down")),
    ],
)
async def test_errors_are_what_the_provider_failed_at(world, status, errors, rate):
    for _ in range(3):
        await world.attempt()
    await world.attempt(status=status)
    row = (await world.models())[M, None]
    assert (row.calls, row.answers, row.errors, row.error_rate) == (4, 3, errors, rate)


async def test_a_rate_of_nothing_is_not_known(world):
    await world.attempt(status="cancelled")
    assert (await world.models())[M, None].error_rate is None


@pytest.mark.parametrize(
    ("within", "calls"),
    [
        ({}, 6),
        ({"user": "ana"}, 4),
        ({"user": "ana/kid"}, 1),
        ({"model": M}, 5),
        ({"task": "summary"}, 2),
        ({"since": parse_rfc3339("2027-03-12T12:00:00Z")}, 4),
        ({"until": parse_rfc3339("2027-03-12T12:00:00Z")}, 2),
        ({"user": "ana", "model": M, "task": "summary"}, 1),
    ],
)
async def test_which_attempts_count(world, within, calls):
    for day, (user, model, task) in enumerate(
        [("ana", M, None), ("ana", M, "summary"), ("ana/kid", M, None), ("anabel", M, "summary"), ("bob", M, None), ("ana/", N, None)]
    ):  # fmt: skip
        world.books.clock.set(f"2027-03-1{day}T12:00:00Z")
        call_id, _ = await world.attempt(start={"user": user, "model": model, "task_type": task, "arm": "e/a"})
        await world.say(call_id, 0.5)
    found = await world.models(**within)
    assert sum(row.calls for row in found.values()) == calls
    assert sum(row.feedback_n for row in found.values()) == calls
    if "model" not in within:
        (arm,) = (await world.arms(**within)).values()
        assert (arm.calls, arm.feedback.n) == (calls, calls)


async def test_feedback_counts_for_the_attempt_that_answered(world):
    call_id, _ = await world.attempt(start={"model": M}, status="provider_error")
    _, answered = await world.attempt(call_id, start={"model": N})
    _, _ = await world.attempt(call_id, start={"model": O}, status="cancelled")
    kept = await world.say(call_id, -0.5, "too long")
    assert (kept.call_id, kept.usage_id, kept.model, kept.rating, kept.comment) == (
        call_id,
        answered,
        N,
        -0.5,
        "too long",
    )
    assert kept.at == "2027-03-10T12:00:00.000Z"
    found = await world.models()
    assert {key[0]: (row.feedback_mean, row.feedback_n) for key, row in found.items()} == {
        M: (None, 0),
        N: (-0.5, 1),
        O: (None, 0),
    }


async def test_feedback_of_a_call_without_an_answer_counts_for_its_last_attempt(world):
    call_id, _ = await world.attempt(start={"model": M}, status="provider_error")
    _, last = await world.attempt(call_id, start={"model": N}, status="truncated")
    assert (await world.say(call_id)).usage_id == last


async def test_an_attempts_id_names_its_call_too(world):
    call_id, first = await world.attempt(status="provider_error")
    _, answered = await world.attempt(call_id)
    kept = await world.say(first)
    assert (kept.call_id, kept.usage_id) == (call_id, answered)


async def test_a_second_word_replaces_the_first(world):
    call_id, usage_id = await world.attempt()
    await world.say(call_id, 1.0, "good")
    world.books.clock.set("2027-03-11T12:00:00Z")
    await world.say(usage_id, -1.0)
    assert world.feedback() == [(call_id, usage_id, "ana", -1.0, None, parse_rfc3339("2027-03-11T12:00:00Z"))]
    row = (await world.models())[M, None]
    assert (row.feedback_mean, row.feedback_n) == (-1.0, 1)


async def test_each_says_once_what_they_think_of_a_call_and_all_of_it_counts(world):
    call_id, _ = await world.attempt(start={"arm": "e/a"})
    for rating, by in ((1.0, "ana"), (0.5, "ops"), (-1.0, "ops")):
        await world.say(call_id, rating, by=by)
    assert [(user, rating) for _, _, user, rating, *_ in world.feedback()] == [("ana", 1.0), ("ops", -1.0)]
    row = (await world.models())[M, None]
    assert (row.calls, row.feedback_mean, row.feedback_n) == (1, 0.0, 2)


async def test_a_call_of_an_arm_counts_once_however_many_say_something_of_it(world):
    both, _ = await world.attempt(start={"arm": "e/a"})
    one, _ = await world.attempt(start={"arm": "e/a"})
    for call_id, rating, by in ((both, 1.0, "ana"), (both, 0.0, "ops"), (one, -0.5, "ana")):
        await world.say(call_id, rating, by=by)
    ((_, row),) = (await world.arms()).items()
    assert (row.calls, row.answers, row.cost_nano_usd.n) == (2, 2, 2)
    assert row.feedback == Mean(0.0, pytest.approx(0.5), 2)


async def test_feedback_outlives_a_restart(tmp_path):
    async with opened(tmp_path) as world:
        call_id, _ = await world.attempt()
        await world.say(call_id, 0.25)
    async with opened(tmp_path) as world:
        assert (await world.models())[M, None].feedback_mean == 0.25


async def test_a_call_that_is_anothers_under_way_or_none_is_not_found(world):
    held = world.books.start()
    await world.books.ledger.call(PostHold(OpenHold(held, 100, (DAEMON,))))
    bobs, bobs_attempt = await world.attempt(start={"user": "bob"})
    beside, _ = await world.attempt(start={"user": "ana0"})
    for call_id in (held.call_id, held.usage_id, bobs, bobs_attempt, beside, "nope", "", "z" * 13, "0" * 13, "é" * 13):
        with pytest.raises(NotFound, match="daemonctl usage"):
            await world.say(call_id, whose="ana")
    assert world.feedback() == []
    kids, _ = await world.attempt(start={"user": "ana/kid"})
    for call_id, whose in ((kids, "ana"), (bobs, None)):
        assert (await world.say(call_id, whose=whose)).call_id == call_id


async def test_nothing_is_kept_on_a_full_disk_and_that_is_said(world):
    call_id, _ = await world.attempt()
    world.books.store.full = True
    with pytest.raises(LedgerReadonly):
        await world.say(call_id)
    world.books.store.full = False
    assert world.feedback() == []


class TestArms:
    async def test_a_call_counts_once_with_all_of_its_attempts(self, world):
        arm = {"arm": "prices/cheap"}
        call_id, _ = await world.attempt(start=arm, cost=30, latency_us=2000, status="provider_error")
        world.books.clock.wall_us += 5000
        await world.attempt(call_id, start=arm | {"model": N}, cost=70, latency_us=4000)
        (row,) = (await world.arms()).values()
        assert (row.experiment, row.arm, row.calls, row.users) == ("prices", "cheap", 1, 1)
        assert (row.answers, row.errors, row.error_rate) == (1, 0, 0.0)
        assert row.cost_nano_usd == Mean(100.0, None, 1)
        assert row.latency_ms == Mean(9.0, None, 1)
        assert row.feedback == Mean(None, None, 0)

    @pytest.mark.parametrize(
        ("statuses", "answers", "errors", "rate"),
        [
            (["ok"], 1, 0, 0.0),
            (["provider_error", "ok"], 1, 0, 0.0),
            (["provider_error", "rate_limited"], 0, 1, 1.0),
            (["provider_error", "cancelled"], 0, 0, None),
            (["cancelled"], 0, 0, None),
        ],
    )
    async def test_a_call_is_an_error_when_its_providers_failed_it_to_the_end(
        self, world, statuses, answers, errors, rate
    ):
        call_id = world.books.ids.next()
        for status in statuses:
            await world.attempt(call_id, start={"arm": "e/a"}, status=status)
        (row,) = (await world.arms()).values()
        assert (row.calls, row.answers, row.errors, row.error_rate) == (1, answers, errors, rate)
        assert row.latency_ms.n == answers

    async def test_means_come_with_their_standard_error_and_how_many(self, world):
        costs, latencies, ratings = [5_000_000_001, 5_000_000_003, 5_000_000_009], [1000, 4000, 2500], [-1.0, 0.5, 1.0]
        for cost, us, rating, user in zip(costs, latencies, ratings, ("ana", "bob", "ana"), strict=True):
            call_id, _ = await world.attempt(start={"arm": "e/a", "user": user}, cost=cost, latency_us=us)
            await world.say(call_id, rating)
        await world.attempt(start={"arm": "e/b"}, cost=None)
        await world.attempt()
        found = await world.arms()
        assert list(found) == [("e", "a"), ("e", "b")]
        row = found["e", "a"]
        assert (row.calls, row.users) == (3, 2)
        for mean, values, unit in (
            (row.cost_nano_usd, costs, 1),
            (row.latency_ms, latencies, 1000),
            (row.feedback, ratings, 1),
        ):
            assert mean.n == 3
            assert mean.mean == pytest.approx(statistics.mean(values) / unit)
            assert mean.error == pytest.approx(statistics.stdev(values) / math.sqrt(3) / unit, rel=1e-3)
        assert found["e", "b"].cost_nano_usd == Mean(None, None, 0)

    async def test_a_call_with_an_attempt_without_a_price_has_no_known_cost(self, world):
        call_id, _ = await world.attempt(start={"arm": "e/a"}, cost=None, status="provider_error")
        await world.attempt(call_id, start={"arm": "e/a"}, cost=50)
        await world.attempt(start={"arm": "e/a"}, cost=10)
        assert (await world.arms())["e", "a"].cost_nano_usd == Mean(10.0, None, 1)


class TestStats:
    async def choose(self, world, provider, model, user="ana"):
        who = Actor(1000, user, "test")
        await world.books.users.call(ChooseModel(user, provider, model, True, None, None, who))

    async def test_of_each_model_that_was_chosen_or_used(self, world):
        await self.choose(world, "anthropic", "o")
        await self.choose(world, "openai", "m")
        tokens = TokenCount(prompt=10, cached=4, response=20, reasoning=5)
        await world.attempt(cost=50, tokens=tokens, latency_us=1000)
        world.books.clock.set("2027-03-12T12:00:00Z")
        await world.attempt(cost=None, tokens=tokens, latency_us=3000)
        await world.attempt(cost=1, status="provider_error", latency_us=9_000_000)
        await world.attempt(start={"model": N}, status="cancelled", cost=3, tokens=TokenCount())
        await world.attempt(start={"user": "ana/kid"})
        for _ in range(2):
            world.books.users.tell(Used("ana", M))
        m, n, o = await world.ref.call(ReadUsageStats("ana"))
        assert (m.model, m.calls, m.prompt_tokens, m.cached_tokens, m.response_tokens, m.reasoning_tokens) == (
            *(M, 3, 23, 8, 45, 10),
        )
        assert (m.cost_nano_usd, m.unpriced, m.last_used_at) == (51, 1, "2027-03-12T12:00:00.000Z")
        assert (m.error_rate, m.mean_latency_ms, m.use_count, m.is_default) == (pytest.approx(1 / 3), 2.0, 2, True)
        assert (n.model, n.calls, n.error_rate, n.mean_latency_ms, n.use_count, n.is_default) == (
            N,
            1,
            None,
            None,
            None,
            False,
        )
        assert (o.model, o.calls, o.cost_nano_usd, o.last_used_at, o.use_count, o.is_default) == (
            O,
            0,
            0,
            None,
            0,
            False,
        )

    async def test_rolled_up_attempts_still_count(self, world):
        await world.attempt(cost=50)
        sql = "INSERT INTO usage_daily VALUES ('2026-01-31', 'ana', 'editor', 'openai', ?, 3, 9, 1, 6, 2, 40, 1, 0)"
        for model in (M, N):
            await world.books.store._writer.run(lambda c, model=model: c.execute(sql, (model,)))
        m, n = sorted(await world.ref.call(ReadUsageStats("ana")), key=lambda row: row.model)
        assert (m.calls, m.prompt_tokens, m.cost_nano_usd, m.unpriced) == (4, 12, 90, 1)
        assert m.last_used_at == "2027-03-10T12:00:00.000Z"
        assert (n.calls, n.cached_tokens, n.response_tokens, n.reasoning_tokens) == (3, 1, 6, 2)
        assert (n.last_used_at, n.error_rate, n.mean_latency_ms) == (None, None, None)

    async def test_of_who_has_none_there_are_none(self, world):
        assert await world.ref.call(ReadUsageStats("nobody")) == []


async def test_those_that_calls_wait_for_do_not_wait_behind_figures(world):
    asked, go_on = threading.Event(), threading.Event()
    await world.books.store._surveyor.create_function("long", 0, lambda: asked.set() or go_on.wait(10))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.books.store.survey, Statement("SELECT long()", 0))
        try:
            while not asked.is_set():
                await calm()
            figures = [
                asyncio.create_task(world.ref.call(asked))
                for asked in (ReadModels(EVER), ReadArms(EVER), ReadUsageStats("ana"))
            ]
            await world.attempt()
            assert await world.books.store.read(Statement("SELECT count(*) FROM usage", 0)) == [(1,)]
            await calm()
            assert not any(task.done() for task in figures)
        finally:
            go_on.set()
    assert [len(await task) for task in figures] == [1, 0, 1]


async def test_it_tells_its_state(world):
    assert repr(world.ref) == "<Performance>"
