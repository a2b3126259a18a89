"""`alerts` and `audit`."""

from __future__ import annotations

from daemon.methods.method import Caller
from daemon.world import World
from protocols.alerts import AlertList, Alerts
from protocols.audit import Audit, AuditEntries
from protocols.budget import ReadAlerts, ReadAudit


async def alerts(world: World, caller: Caller, params: Alerts) -> AlertList:
    """The caller's alerts and the daemon's; with `operate` everybody's."""
    return AlertList(await world.ledger.call(ReadAlerts(params.last, caller.whose(params.user))))


async def audit(world: World, caller: Caller, params: Audit) -> AuditEntries:
    """Who changed what about money and settings."""
    user = None if params.user is None else caller.peer.user(params.user)
    return await world.ledger.call(ReadAudit(params, user))
