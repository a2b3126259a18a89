import asyncio

import pytest
import simulated_provider
from structlog.testing import capture_logs
from worlds import TurnedClock, calm, ended, source_of, until

from actors.base import Actor, handles
from actors.pool import ProviderPool
from actors.providers.http import HttpxTransport
from actors.rules.breaker import FAILURES
from actors.supervise import Supervisor
from protocols.events import Publish
from protocols.provider import FirstListing, Lease, ReadProviders, ReadStatuses, ReadViews

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def server():
    with simulated_provider.running(models=("one",)) as running:
        yield running


@pytest.fixture
def simulated(server):
    server.reset()
    return server


@pytest.fixture
async def transport():
    transport = HttpxTransport()
    yield transport
    await transport.aclose()


@pytest.fixture
async def actors():
    async with Supervisor() as actors:
        yield actors


class Listener(Actor):
    """State: the events it heard."""

    def __init__(self):
        super().__init__()
        self.heard = []

    @handles(Publish)
    def publish(self, message):
        event = message.event
        self.heard.append((event.provider, event.state, event.why))


@pytest.fixture
async def events(actors):
    return await actors.start(Listener)


@pytest.fixture
async def pool(actors, transport, simulated, events):
    sources = [source_of(simulated, name) for name in ("second", "first", "third")]
    clock = TurnedClock()
    pool = await actors.start(lambda: ProviderPool(actors, sources, transport, events, clock))
    await healthy(pool, 3)
    return pool


async def healthy(pool, count):
    async with asyncio.timeout(5):
        while sum(view.state == "healthy" for view in await pool.call(ReadViews())) != count:  # noqa: ASYNC110  it sets no event
            await asyncio.sleep(0.001)


async def provider(pool, name):
    return (await pool.call(ReadProviders()))[name]


async def test_views_and_rows_are_in_config_order(pool):
    assert [view.name for view in await pool.call(ReadViews())] == ["second", "first", "third"]
    rows = await pool.call(ReadStatuses())
    assert [(row.name, row.state, row.models, row.simulated) for row in rows] == [
        (name, "healthy", 1, True) for name in ("second", "first", "third")
    ]


async def test_views_are_the_same_object_until_something_changes(pool):
    before = await pool.call(ReadViews())
    ref = await provider(pool, "first")
    ref.tell(ended("ok", await ref.call(Lease(1))))
    assert await pool.call(ReadViews()) is before
    for _ in range(FAILURES):
        ref.tell(ended("server", await ref.call(Lease(1))))
    await calm()
    after = await pool.call(ReadViews())
    assert after is not before
    assert [view.state for view in after] == ["healthy", "open", "healthy"]
    assert repr(pool) == "<ProviderPool 2 available of 3>"


async def test_a_provider_in_another_state_is_told_once_and_with_the_reason_if_it_is_not_well(pool, events):
    heard = events.incarnation.heard
    assert sorted(heard) == [(name, "healthy", None) for name in ("first", "second", "third")]
    heard.clear()
    ref = await provider(pool, "first")
    for _ in range(FAILURES):
        ref.tell(ended("server", await ref.call(Lease(1))))
    await calm()
    assert heard[-1] == ("first", "open", "server")
    assert len({state for _, state, _ in heard}) == len(heard)


async def test_the_first_listing_is_waited_for(actors, transport, simulated, events):
    simulated.set(latency_ms=100)
    clock = TurnedClock()
    pool = await actors.start(lambda: ProviderPool(actors, [source_of(simulated)], transport, events, clock))
    assert [view.models for view in await pool.call(ReadViews())] == [()]
    await pool.call(FirstListing())
    assert [view.models for view in await pool.call(ReadViews())] == [("one",)]
    await pool.call(FirstListing())


async def test_a_crashed_pool_shows_the_same_providers_again_with_what_they_know(pool):
    ref = await provider(pool, "first")
    await ref.call(Lease(1))
    pool.incarnation.crash(ZeroDivisionError())
    with capture_logs():
        await healthy(pool, 3)
    assert await provider(pool, "first") is ref
    rows = {row.name: row.in_flight for row in await pool.call(ReadStatuses())}
    assert rows == {"second": 0, "first": 1, "third": 0}
    await pool.call(FirstListing())


async def test_a_crashed_provider_shows_itself_again(pool):
    ref = await provider(pool, "first")
    ref.incarnation.crash(ZeroDivisionError())
    with capture_logs():
        await until(lambda: ref.incarnation)
        await healthy(pool, 3)
    assert ref.restarts == 1


async def test_an_empty_pool_shows_nothing(actors, transport, events):
    pool = await actors.start(lambda: ProviderPool(actors, [], transport, events, TurnedClock()))
    assert (await pool.call(ReadViews()), await pool.call(ReadStatuses())) == ((), [])
