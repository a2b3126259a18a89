"""`ledger.verify`, `holds` and `holds.resolve`."""

from __future__ import annotations

from daemon.methods.method import Caller
from daemon.world import World
from protocols.budget import ReadHolds, Resolve, Verify
from protocols.money import nano_from_usd
from protocols.usage import HoldList, Holds, HoldsResolve, LedgerVerify, Verdict


async def verify(world: World, _: Caller, __: LedgerVerify) -> Verdict:
    """Whether the balances are what the journal says."""
    return await world.ledger.call(Verify())


async def holds(world: World, _: Caller, __: Holds) -> HoldList:
    """Holds that are open or unknown."""
    return await world.ledger.call(ReadHolds())


async def resolve(world: World, caller: Caller, params: HoldsResolve) -> dict[str, object]:
    """What an attempt with an unknown outcome cost after all."""
    cost = nano_from_usd(params.cost_usd)
    await world.budget.call(Resolve(params.hold_id, cost, params.why, caller.actor))
    return {}
