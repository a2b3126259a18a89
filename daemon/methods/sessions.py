"""`sessions`."""

from __future__ import annotations

from actors.rules.admission import account_name
from daemon.methods.method import Caller
from daemon.world import World
from protocols.session import ListSessions, SessionList, Sessions


async def sessions(world: World, caller: Caller, _: Sessions) -> SessionList:
    """The live sessions of the caller's account; of everybody with `operate`."""
    rows = await world.sessions.call(ListSessions())
    if "operate" not in caller.peer.rights:
        rows = [row for row in rows if account_name(row.user) == caller.peer.account]
    return SessionList(rows)
