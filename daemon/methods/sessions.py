"""`sessions`, `sessions.open` and `sessions.close`."""

from __future__ import annotations

from actors.session import preferences_of
from daemon.methods.method import Caller
from daemon.world import World
from protocols.session import (
    CloseSession,
    Describe,
    ListSessions,
    OneSession,
    OpenSession,
    SessionList,
    Sessions,
    SessionsClose,
    SessionsOpen,
)


async def sessions(world: World, caller: Caller, _: Sessions) -> SessionList:
    """The live sessions of the caller's account; of everybody with `operate`."""
    return SessionList(await world.sessions.call(ListSessions(caller.whose(None))))


async def open_one(world: World, caller: Caller, params: SessionsOpen) -> OneSession:
    """Opens a session and reads its preferences ahead."""
    user = caller.peer.user(params.user)
    await preferences_of(world.sessions, user, caller.app)
    session = await world.sessions.call(OpenSession(user, caller.app))
    return OneSession(await session.call(Describe()))


async def close(world: World, caller: Caller, params: SessionsClose) -> OneSession:
    """Closes a session; what it knew is stored or read again."""
    return OneSession(await world.sessions.call(CloseSession(caller.peer.user(params.user))))
