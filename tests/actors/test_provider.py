from contextlib import asynccontextmanager

import pytest
import simulated_provider
from msgspec.structs import replace
from structlog.testing import capture_logs
from worlds import TurnedClock, calm, ended, source_of, until

from actors.provider import PROBE_TIMEOUT_S, ProviderActor
from actors.providers.http import HttpxTransport
from actors.rules.breaker import FAILURES, FIRST_S
from actors.supervise import Supervisor
from protocols.errors import Busy, Misconfigured, ProviderUnavailable, RateLimited
from protocols.provider import Lease, ReadStatus

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def server():
    with simulated_provider.running(models=("one", "two")) as running:
        yield running


@pytest.fixture
def simulated(server):
    server.reset()
    return server


class Watched:
    """A provider under a clock that the test turns.

    State: the views that it showed.
    """

    def __init__(self, ref, clock, views):
        self.ref, self.clock, self.views = ref, clock, views

    async def lease(self, tokens=10):
        return await self.ref.call(Lease(tokens))

    def end(self, outcome="ok", probe=0, **fields):
        self.ref.tell(ended(outcome, probe, **fields))

    async def attempt(self, outcome, **fields):
        self.end(outcome, await self.lease(), **fields)
        await calm()

    async def status(self):
        return await self.ref.call(ReadStatus())

    async def state(self):
        return (await self.status()).state

    async def quiet(self):
        """Until no probe is under way: whoever is left sleeps until the next one is due."""
        await until(lambda: self.clock.sleeping and PROBE_TIMEOUT_S not in self.clock.sleeping)
        await calm()


@asynccontextmanager
async def watched(source, transport=None):
    clock, views = TurnedClock(), []
    through = transport or HttpxTransport()
    try:
        async with Supervisor() as actors:
            ref = await actors.start(
                lambda: ProviderActor(source, through, clock, lambda told: views.append(told.view))
            )
            provider = Watched(ref, clock, views)
            if source.misconfigured is None:
                await provider.quiet()
            yield provider
    finally:
        await through.aclose()


@pytest.fixture
async def provider(simulated):
    async with watched(source_of(simulated)) as provider:
        yield provider


def probes(simulated):
    return [request for request in simulated.requests() if request["path"] == "/v1/models"]


async def test_the_first_probe_finds_the_models_and_health_and_is_not_billed(simulated, provider):
    assert [(r["method"], r["path"]) for r in simulated.requests()] == [("GET", "/v1/models")]
    assert provider.views[0].state == "unknown"
    assert (provider.views[-1].state, provider.views[-1].models) == ("healthy", ("one", "two"))
    row = await provider.status()
    assert (row.state, row.models, row.calls, row.errors, row.why) == ("healthy", 2, 0, 0, None)


async def test_probes_come_at_their_interval(simulated, provider):
    for _ in range(3):
        await provider.clock.turn(15)
        await provider.quiet()
    assert len(probes(simulated)) == 4
    assert simulated.chats() == []


async def test_live_traffic_that_proves_health_saves_the_probe(simulated, provider):
    await provider.clock.turn(14)
    await provider.attempt("ok")
    await provider.clock.turn(1)
    await provider.quiet()
    assert len(probes(simulated)) == 1
    await provider.clock.turn(15)
    await provider.quiet()
    assert len(probes(simulated)) == 2


async def test_traffic_that_proves_nothing_saves_no_probe(simulated, provider):
    await provider.clock.turn(14)
    await provider.attempt("request")
    await provider.attempt("cancelled")
    await provider.clock.turn(1)
    await provider.quiet()
    assert len(probes(simulated)) == 2
    assert await provider.state() == "healthy"


@pytest.mark.parametrize("outcome", ["transport", "server"])
async def test_failures_in_a_row_degrade_and_open_it_and_nothing_passes(provider, outcome):
    states = []
    for _ in range(FAILURES):
        await provider.attempt(outcome, why="it fell over")
        states.append(await provider.state())
    assert states == ["healthy", "degraded", "degraded", "degraded", "open"]
    with pytest.raises(ProviderUnavailable, match="it fell over") as refused:
        await provider.lease()
    assert refused.value.retry_after_s == FIRST_S
    row = await provider.status()
    assert (row.errors, row.calls, row.why, row.retry_after_s) == (FAILURES, FAILURES, "it fell over", FIRST_S)
    assert provider.views[-1].state == "open"


async def test_one_that_is_left_alone_is_named_once(provider):
    name = (await provider.status()).name
    for _ in range(FAILURES):
        await provider.attempt("transport", why=f"provider `{name}` can't be reached: refused")
    with pytest.raises(
        ProviderUnavailable, match=f"provider `{name}` keeps failing .it can't be reached: refused. and is"
    ):
        await provider.lease()


async def test_when_the_wait_is_over_a_probe_closes_it_again(simulated, provider):
    for _ in range(FAILURES):
        await provider.attempt("server")
    await provider.clock.turn(FIRST_S + 0.1)
    await until(lambda: provider.views[-1].state == "healthy")
    assert len(probes(simulated)) == 2
    await provider.lease()


async def test_a_provider_that_stays_down_is_asked_less_and_less(simulated, provider):
    simulated.set(fail=503)
    for _ in range(FAILURES):
        await provider.attempt("server")
    waits = []
    for _ in range(3):
        waits.append((await provider.status()).retry_after_s)
        await provider.clock.turn(waits[-1] + 0.1)
        await provider.quiet()
    assert [round(wait) for wait in waits] == [2, 4, 8]
    assert await provider.state() == "open"
    assert simulated.chats() == []


async def test_while_a_probe_is_under_way_no_attempt_passes_and_late_results_change_nothing(simulated, provider):
    early = await provider.lease()
    for _ in range(FAILURES):
        await provider.attempt("transport")
    simulated.set(latency_ms=300)
    await provider.clock.turn(FIRST_S + 0.1)
    with pytest.raises(ProviderUnavailable):
        await provider.lease()
    provider.end("ok", early)
    assert await provider.state() == "open"
    await until(lambda: provider.views[-1].state == "healthy")


async def test_a_provider_that_does_not_answer_the_probe_in_time_has_failed(simulated, provider):
    simulated.set(latency_ms=60_000)
    for _ in range(2):
        await provider.clock.turn(15)
        await until(lambda: PROBE_TIMEOUT_S in provider.clock.sleeping)
        await provider.clock.turn(PROBE_TIMEOUT_S)
        await provider.quiet()
    row = await provider.status()
    assert (row.state, row.why) == ("degraded", "no answer to the health probe within 10 s")


@pytest.mark.parametrize(
    ("behaviour", "state"),
    [
        ({"fail": 401}, "misconfigured"),
        ({"fail": 403}, "healthy"),  # a key that may not list models may well be good for calls
        ({"fail": 429, "retry_after_s": 20}, "rate_limited"),
        ({"fail": 500}, "unknown"),
        ({"garbage": True}, "unknown"),
        ({"close_before_head": True}, "unknown"),
        ({}, "healthy"),
    ],
)
async def test_the_first_probe_tells_the_state(simulated, behaviour, state):
    simulated.set(**behaviour)
    async with watched(source_of(simulated)) as provider:
        row = await provider.status()
        assert row.state == state
        assert (row.why is None) == (state == "healthy")
        assert row.retry_after_s == (20.0 if state == "rate_limited" else None)


async def test_a_provider_that_is_not_there_is_not_known_and_then_open():
    with simulated_provider.running() as gone:
        source = source_of(gone)
    async with watched(source) as provider:
        for _ in range(FAILURES - 1):
            assert await provider.state() in {"unknown", "degraded"}
            await provider.clock.turn(15)
            await provider.quiet()
        assert await provider.state() == "open"


async def test_a_wrong_key_is_misconfigured_until_the_config_changes(simulated, provider):
    await provider.attempt("auth", why="the key was refused")
    with pytest.raises(Misconfigured, match="the key was refused"):
        await provider.lease()
    before = len(probes(simulated))
    await provider.clock.turn(60)
    await provider.quiet()
    provider.end("ok", 0)
    assert await provider.state() == "misconfigured"
    assert len(probes(simulated)) == before


async def test_a_source_without_its_key_is_misconfigured_and_never_asked(simulated):
    async with watched(replace(source_of(simulated), misconfigured="no key")) as provider:
        with pytest.raises(Misconfigured, match="no key"):
            await provider.lease()
        await calm()
        assert (simulated.requests(), await provider.state()) == ([], "misconfigured")


async def test_the_longer_retry_after_wins(simulated, provider):
    await provider.attempt("rate_limited", retry_after_s=30)
    early = [ended("rate_limited", retry_after_s=wait) for wait in (5, 60, 10)]
    for one in early:
        provider.ref.tell(one)
    await calm()
    assert (await provider.status()).retry_after_s == 60.0
    with pytest.raises(RateLimited) as refused:
        await provider.lease()
    assert refused.value.retry_after_s == 60.0
    await provider.clock.turn(59)
    assert await provider.state() == "rate_limited"
    assert len(probes(simulated)) == 1
    await provider.clock.turn(1.1)
    await provider.quiet()
    assert (await provider.state(), provider.views[-1].state) == ("healthy", "healthy")
    await provider.lease()


async def test_routing_sees_the_end_of_a_short_wait_at_once(provider):
    await provider.attempt("rate_limited", retry_after_s=1)
    assert provider.views[-1].state == "rate_limited"
    await provider.clock.turn(1.1)
    await provider.quiet()
    assert provider.views[-1].state == "healthy"


async def test_above_max_in_flight_it_is_busy(simulated):
    async with watched(source_of(simulated, max_in_flight=2)) as provider:
        for _ in range(2):
            await provider.lease()
        with pytest.raises(Busy, match="max_in_flight") as busy:
            await provider.lease()
        assert busy.value.retry_after_s == 1.0
        provider.end("ok")
        await provider.lease()
        assert (await provider.status()).in_flight == 2


@pytest.mark.parametrize(
    ("config", "tokens", "passed", "wait_s"),
    [({"requests_per_minute": 3}, 1, 3, 20.0), ({"tokens_per_minute": 100}, 40, 2, 12.0)],
)
async def test_a_configured_rate_is_kept(simulated, config, tokens, passed, wait_s):
    async with watched(source_of(simulated, **config)) as provider:
        for _ in range(passed):
            await provider.lease(tokens)
        with pytest.raises(RateLimited, match="configured rate") as limited:
            await provider.lease(tokens)
        assert limited.value.retry_after_s == wait_s
        await provider.clock.turn(wait_s)
        await provider.lease(tokens)


async def test_averages_are_of_attempts_that_went_well(provider):
    await provider.attempt("ok", latency_s=1.0, first_token_s=0.5)
    await provider.attempt("ok", latency_s=2.0)
    await provider.attempt("request", latency_s=90.0)
    row = await provider.status()
    assert (row.latency_ms, row.first_token_ms, row.calls, row.errors, row.in_flight) == (1050.0, 500.0, 3, 0, 0)


async def test_after_a_restart_attempts_that_were_under_way_are_not_counted_below_nothing(provider):
    await provider.lease()
    provider.ref.incarnation.crash(ZeroDivisionError())
    with capture_logs():
        assert (await provider.status()).in_flight == 0
    provider.end("ok")
    assert (await provider.status()).in_flight == 0


async def test_a_provider_tells_its_state(provider):
    await provider.lease()
    assert repr(provider.ref) == "<ProviderActor sim healthy, 1 in flight>"
