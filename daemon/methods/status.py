"""`ping` and `status`."""

from __future__ import annotations

import os

from actors.clock import MICRO, rfc3339
from actors.session import SessionContext
from daemon import __version__
from daemon.methods.method import Caller
from daemon.world import World
from protocols.budget import CountUnknown, Standing
from protocols.provider import AVAILABLE, ProviderStatus, ReadStatuses, about_it
from protocols.rpc import Ping
from protocols.status import ActorRow, DaemonStatus, Status


async def ping(_: World, __: Caller, ___: Ping) -> dict[str, object]:
    """Answers."""
    return {}


async def status(world: World, caller: Caller, _: Status) -> DaemonStatus:
    """How the daemon is; whoever has `operate` sees the spend of all scopes."""
    providers = await world.pool.call(ReadStatuses())
    everybody = "operate" in caller.peer.rights
    spend = await world.budget.call(Standing(None if everybody else caller.peer.account))
    warnings = [*world.notes, *_warnings(world, providers), *await _unknown(world)]
    now = world.clock.now_us()
    actors = [_row(ref) for ref in world.supervisor.refs if ref.actor_class is not SessionContext]
    return DaemonStatus(
        version=__version__,
        pid=os.getpid(),
        started_at=rfc3339(world.started_us),
        uptime_s=round((now - world.started_us) / MICRO, 1),
        healthy=not _degraded(world, providers),
        simulated=all(p.simulated for p in providers),
        providers=providers,
        spend=spend,
        calls_in_flight=world.counts.calls - 1,
        connections=world.counts.connections,
        sessions=sum(ref.actor_class is SessionContext for ref in world.supervisor.refs),
        actors=actors,
        warnings=warnings,
    )


async def _unknown(world: World) -> list[str]:
    count = await world.ledger.call(CountUnknown())
    calls = "1 call" if count == 1 else f"{count} calls"
    return [f"what came of {calls} is unknown: posted at the hold, `daemonctl holds` lists them"] if count else []


def _row(ref: object) -> ActorRow:
    name, waiting, restarts = getattr(ref, "name", "?"), getattr(ref, "waiting", 0), getattr(ref, "restarts", 0)
    return ActorRow(name, waiting, restarts, repr(ref))


def _degraded(world: World, providers: list[ProviderStatus]) -> bool:
    return bool(world.store.broken) or world.store.full or not any(p.state in AVAILABLE for p in providers)


def _warnings(world: World, providers: list[ProviderStatus]) -> list[str]:
    found = []
    if world.store.broken:
        found.append(world.store.broken)
    if world.store.full:
        found.append("the disk is full: no paid call starts until there is space")
    if providers and all(p.simulated for p in providers):
        found.append("no provider is configured: answers are simulated")
    found += [
        f"provider {p.name} is {p.state}: {about_it(p.name, p.why or 'see the log')}"
        for p in providers
        if p.state not in AVAILABLE
    ]
    # Not the sessions: their names are users, and this is for everybody's eyes.
    actors = [ref for ref in world.supervisor.refs if ref.actor_class is not SessionContext]
    found += [f"{ref.name} was restarted {ref.restarts} times" for ref in actors if ref.restarts]
    return found
