"""What a method is, and what its handler knows of the caller."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from msgspec import Struct

from daemon.connection import Connection, Running
from daemon.peer import Peer
from daemon.world import World
from protocols.audit import Actor
from protocols.errors import QuorumError
from protocols.rpc import Params


class Caller:
    """One call's caller: who it is, the key that it gave the call, and the way back for items."""

    __slots__ = ("_connection", "_running", "idempotency_key")

    def __init__(self, connection: Connection, running: Running, idempotency_key: str | None = None) -> None:
        self._connection = connection
        self._running = running
        self.idempotency_key = idempotency_key

    @property
    def peer(self) -> Peer:
        """Who the kernel says is there."""
        return self._connection.peer

    @property
    def app(self) -> str:
        """What the client calls itself."""
        return self._connection.app or "unknown"

    @property
    def actor(self) -> Actor:
        """Who the audit names."""
        return Actor(self.peer.uid, self.peer.account, self.app)

    def whose(self, named: str | None) -> str | None:
        """Whose rows are meant: the named user's, else the caller's own, or with `operate` everybody's (None)."""
        if named is not None:
            return self.peer.user(named)
        return None if "operate" in self.peer.rights else self.peer.account

    def emit(self, value: Struct) -> None:
        """Sends an item of this call."""
        self._connection.emit(self._running.id, value)

    async def keeps_up(self) -> None:
        """Returns when the caller reads as fast as it is sent to: what is emitted before waits in memory."""
        await self._connection.keeps_up()

    @property
    def left_s(self) -> float:
        """Seconds until the call's deadline."""
        return self._running.left_s()

    def interrupted(self) -> type[QuorumError]:
        """What cancelled the call; QuorumError if nothing did."""
        return self._running.interrupted


class Method(Struct, frozen=True):
    """A method: its params, which declare its name and the right it needs, and its handler."""

    params: type[Params]
    handler: Callable[[World, Caller, Any], Awaitable[Any]]
