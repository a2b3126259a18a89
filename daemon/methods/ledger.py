"""`ledger.verify` and `holds`."""

from __future__ import annotations

from daemon.methods.method import Caller
from daemon.world import World
from protocols.budget import ReadHolds, Verify
from protocols.usage import HoldList, Holds, LedgerVerify, Verdict


async def verify(world: World, _: Caller, __: LedgerVerify) -> Verdict:
    """Whether the balances are what the journal says."""
    return await world.ledger.call(Verify())


async def holds(world: World, _: Caller, __: Holds) -> HoldList:
    """Holds that are open or unknown."""
    return await world.ledger.call(ReadHolds())
