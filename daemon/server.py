"""The socket server: connections in, calls to their methods."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Any, cast

import structlog

from daemon import __version__
from daemon.config import RightsSection
from daemon.connection import Connection, Running
from daemon.methods import METHODS, Caller, Method
from daemon.peer import Peer, peer_of
from daemon.world import World
from protocols.errors import BadRequest, QuorumError, ShuttingDown, UnknownMethod
from protocols.rpc import Call
from protocols.wire import Codec

MAX_CONNECTIONS = 20_000
BACKLOG = 4096

log = structlog.get_logger("server")


class Server:
    """Connections and what runs on them.

    State: the open connections, and whether it is draining.
    """

    version = __version__

    def __init__(self, world: World, rights: RightsSection, max_frame_bytes: int, client_stall_s: float) -> None:
        self._world = world
        self._rights = rights
        self.max_frame_bytes = max_frame_bytes
        self.client_stall_s = client_stall_s
        self.draining = False
        self.connections: set[Connection] = set()
        self._listeners: list[asyncio.AbstractServer] = []

    async def listen(self, sockets: Sequence[socket.socket]) -> None:
        """Accepts on these sockets from now on."""
        loop = asyncio.get_running_loop()
        for one in sockets:
            self._listeners.append(await loop.create_unix_server(lambda: Connection(self), sock=one, backlog=BACKLOG))

    def identify(self, connection: socket.socket) -> Peer:
        """Who is at the other end. Raises Forbidden, Busy."""
        return peer_of(connection, self._rights)

    def opened(self, connection: Connection) -> None:
        """A connection is there."""
        self.connections.add(connection)
        self._world.counts.connections = len(self.connections)
        if len(self.connections) > MAX_CONNECTIONS:
            log.warning("too_many_connections", limit=MAX_CONNECTIONS)
            connection.abort()

    def closed(self, connection: Connection) -> None:
        """A connection is gone."""
        self.connections.discard(connection)
        self._world.counts.connections = len(self.connections)

    async def handle(self, connection: Connection, call: Call, running: Running) -> Any:
        """Finds the method, checks the right, reads the params, and runs the handler."""
        method = METHODS.get(call.method)
        if method is None:
            raise _unknown(call.method)
        connection.peer.needs(method.params.right, f"`{call.method}`")
        if call.idempotency_key is not None:
            _check_key(call.idempotency_key, method)
        params = cast("Codec", connection.codec).params(method.params, call.params)
        if method.params.lasting:
            running.last(deadline=call.deadline_s is not None)
            if self.draining:  # since the call was read
                raise ShuttingDown("the daemon is shutting down", retry_after_s=1.0)
        counts = self._world.counts
        counts.calls += 1
        try:
            return await method.handler(self._world, Caller(connection, running, call.idempotency_key), params)
        finally:
            counts.calls -= 1

    async def drain(self, seconds: float) -> None:
        """Stops accepting, lets calls finish for `seconds`, then cancels them; each settles before its connection closes.

        Lasting calls end at once: nothing is gained by waiting for them.
        """
        self.draining = True
        for listener in self._listeners:
            listener.close()
        self._interrupt([running for running in self._running() if running.lasting])
        tasks = self._tasks()
        if tasks and seconds > 0:
            log.info("draining", calls=len(tasks), drain_s=seconds)
            await asyncio.wait(tasks, timeout=seconds)
        self._interrupt(self._running())
        tasks = self._tasks()
        if tasks:
            await asyncio.wait(tasks)
        for connection in list(self.connections):
            connection.close()

    def cancel_now(self) -> None:
        """Ends what runs without waiting any longer; it still settles."""
        self._interrupt(self._running())

    def _interrupt(self, calls: Sequence[Running]) -> None:
        for running in calls:
            running.interrupt(ShuttingDown)

    def _running(self) -> list[Running]:
        return [running for connection in self.connections for running in connection.running.values()]

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [running.task for running in self._running() if running.task is not None]


def _check_key(key: str, method: Method) -> None:
    if not method.params.keyed:
        raise BadRequest(f"`idempotency_key` means nothing for `{method.params.method}`; leave it out")
    if not key:
        raise BadRequest("`idempotency_key` is empty; give each call a key of its own, or leave it out")


def _unknown(name: str) -> QuorumError:
    import difflib

    if not name:
        return BadRequest("`method` is empty")
    near = difflib.get_close_matches(name, METHODS, n=1)
    hint = f"; did you mean `{near[0]}`?" if near else f"; there are: {', '.join(sorted(METHODS))}"
    return UnknownMethod(f"there is no method `{name[:100]}`{hint}")
