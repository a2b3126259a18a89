"""An attempt under a hold that its group took: leased on entering, settled on leaving, void if it is never launched."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs
from worlds import TurnedClock, calm, month, open_books, until

from actors.attempt import Held
from actors.budget import LEASE_LOOK_S
from actors.group import GroupHold
from actors.provider import ProviderActor, Source
from actors.providers.http import HttpxTransport
from actors.providers.transport import Endpoint
from actors.rules.admission import Limits
from actors.rules.pricing import Price
from protocols.budget import Reserve, Verify
from protocols.chat import Chat, Message, Reply, TokenCount
from protocols.dialects import DIALECTS
from protocols.errors import BudgetHeld, Busy, Misconfigured
from protocols.provider import Lease, ProviderConfig, ReadStatus

pytestmark = pytest.mark.anyio

NOWHERE = Endpoint("http://127.0.0.1:9")
CHAT = Chat(messages=[Message(role="user", content="hi")])
DEADLINE_S, TIMEOUT_S = 300.0, 120.0


def source(why=None, **config):
    return Source(
        name="openai",
        config=ProviderConfig(kind="openai", **config),
        endpoint=NOWHERE,
        dialect=DIALECTS["openai"],
        local=False,
        simulated=False,
        billing_on_cancel="emitted",
        misconfigured=why,
    )


class World:
    """Books and a provider that nobody listens for."""

    def __init__(self, books, provider, source):
        self.books, self.provider, self.source = books, provider, source

    def reserves(self, *amounts, **how):
        return tuple(Reserve(self.books.start(), amount, **how) for amount in amounts)

    def held(self, reserve, taken=None, price=None):
        return Held(
            self.books.budget,
            self.provider,
            self.books.clock,
            source=self.source,
            reserve=reserve,
            chat=CHAT,
            price=price,
            prompt_tokens=10,
            longest_answer=20,
            counted_prompt=None,
            taken=taken,
        )

    async def in_flight(self):
        await calm()
        return (await self.provider.call(ReadStatus())).in_flight

    async def statuses(self):
        await self.books.store.written()
        return self.books.rows("SELECT status, cost, latency_us FROM usage ORDER BY id")

    async def open_holds(self):
        await self.books.store.written()
        verdict = await self.books.ledger.call(Verify())
        assert verdict.problems == []
        return verdict.open_holds


@pytest.fixture
def world(tmp_path):
    @asynccontextmanager
    async def opened(why=None, **config):
        transport, clock = HttpxTransport(), TurnedClock()
        try:
            with capture_logs():
                async with open_books(tmp_path, limits=Limits(daemon=month(100)), clock=clock) as books:
                    asked = source(why, **config)
                    provider = await books.actors.start(
                        lambda: ProviderActor(asked, transport, clock, lambda _: None), name="provider"
                    )
                    yield World(books, provider, asked)
        finally:
            await transport.aclose()

    return opened


def answered(held):
    held.progress.sent = True
    held.progress.finish(Reply("yes", "", [], "stop", TokenCount(prompt=3, response=5)))


async def test_a_member_takes_over_its_hold_leases_and_settles_what_it_cost(world):
    async with world() as w, GroupHold(w.books.budget, w.reserves(50, 50)) as group:
        first, second = group.reserves
        held = w.held(first, group.hand_over(first.start.usage_id), PRICE)
        await w.books.clock.turn(7)  # its wave came later
        async with held:
            assert await w.in_flight() == 1
            assert await w.books.spent_and_held("daemon") == (0, 100)
            await w.books.clock.turn(2)
            answered(held)
        assert held.ended.cost == 3 * 1 + 5 * 2
        assert (await w.statuses(), await w.in_flight()) == ([("ok", 13, 2_000_000)], 0)
        assert await w.books.spent_and_held("daemon") == (13, 50)
        await group.void(second.start.usage_id)
        assert await w.open_holds() == 0


PRICE = Price(version="test", input=1000, output=2000)


async def test_a_provider_that_gives_no_lease_closes_the_hold_with_its_fault_at_no_cost(world):
    async with world("no key") as w, GroupHold(w.books.budget, w.reserves(50)) as group:
        (reserve,) = group.reserves
        held = w.held(reserve, group.hand_over(reserve.start.usage_id))
        with pytest.raises(Misconfigured):
            async with held:
                pytest.fail("it has no lease")
        assert [(status, cost) for status, cost, _ in await w.statuses()] == [("misconfigured", 0)]
        assert (held.ended.status, held.ended.cost) == ("misconfigured", 0)
        assert await w.books.spent_and_held("daemon") == (0, 0)
        await held.void()
        assert len(await w.statuses()) == 1


async def test_a_provider_without_a_free_place_closes_the_hold_too(world):
    async with world(max_in_flight=1) as w, GroupHold(w.books.budget, w.reserves(50)) as group:
        await w.provider.call(Lease(1))
        (reserve,) = group.reserves
        with pytest.raises(Busy):
            async with w.held(reserve, group.hand_over(reserve.start.usage_id)):
                pytest.fail("it has no lease")
        assert [(status, cost) for status, cost, _ in await w.statuses()] == [("busy", 0)]


@pytest.mark.parametrize("turns", range(4))
async def test_a_member_that_is_cancelled_while_it_enters_leaves_no_hold(world, turns):
    async with world() as w, GroupHold(w.books.budget, w.reserves(50)) as group:
        (reserve,) = group.reserves
        held = w.held(reserve, group.hand_over(reserve.start.usage_id))
        w.provider.incarnation.crash(ZeroDivisionError())  # it answers later

        async def enter():
            async with held:
                await asyncio.Event().wait()

        entering = asyncio.get_running_loop().create_task(enter())
        for _ in range(turns):
            await asyncio.sleep(0)
        entering.cancel()
        await asyncio.wait([entering])
        await until(lambda: w.provider.incarnation)
        if turns == 0:  # it never began
            await held.void()
        status = "not_sent" if turns == 0 else "cancelled"
        assert [(s, cost) for s, cost, _ in await w.statuses()] == [(status, 0)]
        assert await w.open_holds() == 0


@pytest.mark.parametrize("admission", ["strict", "queue"])
@pytest.mark.parametrize("turns", range(8))
async def test_one_that_is_cancelled_while_its_lease_is_on_the_way_gives_it_back(world, turns, admission):
    async with world(max_in_flight=1) as w:
        (reserve,) = w.reserves(50, admission=admission)
        inside = asyncio.Event()

        async def enter():
            async with w.held(reserve):
                inside.set()
                await asyncio.Event().wait()

        w.provider.incarnation.handling = True  # it has something to do, so that the lease waits in its inbox
        entering = asyncio.get_running_loop().create_task(enter())
        asyncio.get_running_loop().call_soon(setattr, w.provider.incarnation, "handling", False)
        for _ in range(turns):
            await asyncio.sleep(0)
        entering.cancel()
        await asyncio.wait([entering])
        assert (await w.in_flight(), await w.open_holds()) == (0, 0)
        async with w.held(*w.reserves(50)):  # the one place is free
            assert await w.in_flight() == 1


async def test_one_that_is_never_launched_is_void_once(world):
    async with world() as w, GroupHold(w.books.budget, w.reserves(50)) as group:
        (reserve,) = group.reserves
        held = w.held(reserve, group.hand_over(reserve.start.usage_id))
        await held.void()
        await held.void()
        assert [(status, cost) for status, cost, _ in await w.statuses()] == [("not_sent", 0)]
        assert held.ended.status == "not_sent"
        assert await w.books.spent_and_held("daemon") == (0, 0)


@pytest.mark.parametrize("restarts", [False, True])
async def test_voiding_is_not_stopped_by_a_cancellation(world, restarts):
    async with world() as w, GroupHold(w.books.budget, w.reserves(50)) as group:
        (reserve,) = group.reserves
        held = w.held(reserve, group.hand_over(reserve.start.usage_id))
        if restarts:
            w.books.budget.incarnation.crash(ZeroDivisionError())
        voiding = asyncio.get_running_loop().create_task(held.void())
        await asyncio.sleep(0)
        voiding.cancel()
        await asyncio.wait([voiding])
        await until(lambda: w.books.budget.incarnation and not w.books.budget.incarnation._open)
        assert await w.open_holds() == 0
        assert [status for status, *_ in await w.statuses()] == ["not_sent"]


async def test_one_that_was_launched_is_not_voided_under_its_feet(world):
    async with world() as w, GroupHold(w.books.budget, w.reserves(50)) as group:
        (reserve,) = group.reserves
        async with w.held(reserve, group.hand_over(reserve.start.usage_id), PRICE) as held:
            await held.void()
            assert await w.books.spent_and_held("daemon") == (0, 50)
            answered(held)
        await held.void()
        assert [(status, cost) for status, cost, _ in await w.statuses()] == [("ok", 13)]


async def test_one_without_a_hold_has_nothing_to_void(world):
    async with world() as w:
        held = w.held(*w.reserves(50))
        await held.void()
        async with held:
            assert await w.books.spent_and_held("daemon") == (0, 50)
            with pytest.raises(BudgetHeld):
                await w.books.reserve(51)
        assert await w.open_holds() == 0


async def test_a_hold_outlives_the_deadline_of_its_tournament_and_the_attempt_that_began_last(world):
    async with world() as w:
        (reserve,) = w.reserves(50, lease_s=DEADLINE_S + TIMEOUT_S)
        async with GroupHold(w.books.budget, (reserve,)) as group:
            await w.books.clock.turn(DEADLINE_S - 1)  # the last wave
            async with w.held(reserve, group.hand_over(reserve.start.usage_id), PRICE) as held:
                await w.books.clock.turn(TIMEOUT_S)
                assert await w.books.spent_and_held("daemon") == (0, 50)
                answered(held)
        assert [(status, cost) for status, cost, _ in await w.statuses()] == [("ok", 13)]
        (short,) = w.reserves(50, lease_s=DEADLINE_S)
        async with GroupHold(w.books.budget, (short,)):
            await w.books.clock.turn(DEADLINE_S + LEASE_LOOK_S)
            await until(lambda: not w.books.budget.incarnation._open)
        assert [status for status, *_ in await w.statuses()] == ["ok", "not_sent"]
