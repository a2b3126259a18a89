"""`events`."""

from __future__ import annotations

import asyncio

from actors.events import listening
from daemon.methods.method import Caller
from daemon.world import World
from protocols.errors import ShuttingDown
from protocols.events import Events, EventsEnded


async def events(world: World, caller: Caller, params: Events) -> EventsEnded:
    """What happens, for as long as the caller listens; a stop of the daemon is a good end."""
    account = None if "operate" in caller.peer.rights else caller.peer.account
    types = None if params.types is None else frozenset(params.types)
    try:
        async with listening(world.events, account, types) as subscription:
            while True:
                await caller.keeps_up()
                caller.emit(await subscription.next())
    except asyncio.CancelledError:
        if caller.interrupted() is not ShuttingDown:
            raise
    return EventsEnded()
