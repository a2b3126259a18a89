"""What a method is, and what its handler knows of the caller."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from msgspec import Struct

from daemon.connection import Connection, Running
from daemon.peer import Peer
from daemon.world import World
from protocols.errors import QuorumError
from protocols.rpc import Params


class Caller:
    """One call's caller: who it is, and the way back for items."""

    __slots__ = ("_connection", "_running")

    def __init__(self, connection: Connection, running: Running) -> None:
        self._connection = connection
        self._running = running

    @property
    def peer(self) -> Peer:
        """Who the kernel says is there."""
        return self._connection.peer

    @property
    def app(self) -> str:
        """What the client calls itself."""
        return self._connection.app or "unknown"

    def emit(self, value: Struct) -> None:
        """Sends an item of this call."""
        self._connection.emit(self._running.id, value)

    async def keeps_up(self) -> None:
        """Returns when the caller reads as fast as it is sent to: what is emitted before waits in memory."""
        await self._connection.keeps_up()

    def interrupted(self) -> type[QuorumError]:
        """What cancelled the call; QuorumError if nothing did."""
        return self._running.interrupted


class Method(Struct, frozen=True):
    """A method: its params, which declare its name and the right it needs, and its handler."""

    params: type[Params]
    handler: Callable[[World, Caller, Any], Awaitable[Any]]
