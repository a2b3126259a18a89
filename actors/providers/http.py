"""HTTP/1.1 to providers: our own client on httptools, a few microseconds a request, and the names that others use.

What it can't do, proxies, `HttpxTransport` does.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType

from actors.providers.connection import Answer, Connection
from actors.providers.through_httpx import HttpxTransport
from actors.providers.tls import Tls
from actors.providers.transport import (
    READ_LIMIT,
    BodyTooLarge,
    BodyTruncated,
    ConnectFailed,
    ConnectionLost,
    Endpoint,
    MalformedHttp,
    Response,
    Transport,
    TransportError,
    reason,
    unnoticed,
)
from protocols.dialects.dialect import HttpRequest

__all__ = [
    "READ_LIMIT",
    "BodyTooLarge",
    "BodyTruncated",
    "ConnectFailed",
    "ConnectionLost",
    "Endpoint",
    "HttpClient",
    "HttpxTransport",
    "MalformedHttp",
    "Response",
    "Transport",
    "TransportError",
]


class HttpClient(Transport):
    """Connections to any number of origins, kept for the next exchange. Of one event loop.

    State: the idle connections of each origin, oldest first; one timer that closes those idle for `idle_s` seconds, fewer
    than servers wait; whether the client is closed. How many are in use is not limited here.
    """

    def __init__(
        self, *, connect_timeout_s: float = 10.0, idle_s: float = 4.0, max_idle: int = 128, tls: Tls | None = None
    ) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._idle_s = idle_s
        self._max_idle = max_idle
        self._tls = tls or Tls()
        self._idle: dict[str, list[Connection]] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    def __repr__(self) -> str:
        idle = sum(len(connections) for connections in self._idle.values())
        return f"<HttpClient {'closed' if self._closed else 'open'}, {idle} idle>"

    def exchange(  # noqa: D102  # said by Transport
        self, endpoint: Endpoint, request: HttpRequest, on_dispatch: Callable[[], None] = unnoticed
    ) -> AbstractAsyncContextManager[Response]:
        if endpoint.proxy is not None:
            raise ValueError("this endpoint has a proxy, which takes HttpxTransport")
        return _Exchange(self, endpoint, endpoint.head(request), request.body, on_dispatch)

    async def aclose(self) -> None:  # noqa: D102  # said by Transport
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for connections in self._idle.values():
            for connection in connections:
                connection.abort()
        self._idle.clear()
        await asyncio.sleep(0)  # sockets close in the loop's next turn

    async def take(self, endpoint: Endpoint) -> Connection:
        """A connection for one exchange, the one used last if any is idle. Raises ConnectFailed."""
        if self._closed:
            raise ConnectFailed("the client is closed")
        idle = self._idle.get(endpoint.origin)
        if idle:
            oldest = idle[-1].loop.time() - self._idle_s
            while idle:
                connection = idle.pop()
                if connection.alive and connection.idle_since > oldest:
                    return connection
                connection.abort()
        return await self._connect(endpoint)

    def put_back(self, endpoint: Endpoint, connection: Connection, answer: Answer) -> None:
        """Ends an exchange, and keeps the connection for the next one if it can be used again."""
        loop = connection.loop
        if not connection.release(answer, loop.time()):
            return
        idle = self._idle.setdefault(endpoint.origin, [])
        if self._closed or len(idle) >= self._max_idle:
            connection.abort()
            return
        idle.append(connection)
        if self._sweeper is None:
            self._sweeper = loop.call_later(self._idle_s, self._sweep)

    def _sweep(self) -> None:
        """Closes what was idle too long, forgets what the server closed, and comes back when the next is due."""
        loop = asyncio.get_running_loop()
        oldest = loop.time() - self._idle_s
        kept: dict[str, list[Connection]] = {}
        for origin, connections in self._idle.items():
            for connection in connections:
                if connection.alive and connection.idle_since > oldest:
                    kept.setdefault(origin, []).append(connection)
                else:
                    connection.abort()
        self._idle = kept
        self._sweeper = None
        if kept:
            due = min(connections[0].idle_since for connections in kept.values()) + self._idle_s
            self._sweeper = loop.call_at(due, self._sweep)

    async def _connect(self, endpoint: Endpoint) -> Connection:
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                tls = await self._tls.context() if endpoint.secure else None
                addresses = await _addresses(endpoint)
                return await _connected(endpoint, addresses, tls, self._connect_timeout_s)
        except TimeoutError:
            why = f"no connection within {self._connect_timeout_s:g} s"
        except OSError as error:
            why = reason(error)
        raise ConnectFailed(f"{endpoint.origin}: {why}")


class _Exchange(AbstractAsyncContextManager[Response]):
    """One `async with`; a class, because a generator would cost more than the rest of the exchange."""

    __slots__ = ("_answer", "_body", "_client", "_connection", "_endpoint", "_head", "_on_dispatch")

    def __init__(
        self, client: HttpClient, endpoint: Endpoint, head: bytes, body: bytes, on_dispatch: Callable[[], None]
    ) -> None:
        self._client = client
        self._endpoint = endpoint
        self._head = head
        self._body = body
        self._on_dispatch = on_dispatch
        self._connection: Connection
        self._answer: Answer

    async def __aenter__(self) -> Response:
        connection = self._connection = await self._client.take(self._endpoint)
        try:
            self._on_dispatch()
            answer = self._answer = connection.send(self._head, self._body)
            await answer.head()
        except BaseException:
            connection.abort()
            raise
        return answer

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.put_back(self._endpoint, self._connection, self._answer)


async def _addresses(endpoint: Endpoint) -> list[tuple[int, str]]:
    """The endpoint's address families and addresses, best first. Raises OSError.

    Names are looked up here and not by `create_connection`: uvloop's leaves the look-up behind when it is cancelled.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    return [(family, str(address[0])) for family, _, _, _, address in found]


async def _connected(
    endpoint: Endpoint, addresses: list[tuple[int, str]], tls: ssl.SSLContext | None, timeout_s: float
) -> Connection:
    """A connection to the first address that takes one. Raises OSError, TimeoutError."""
    loop = asyncio.get_running_loop()
    until = loop.time() + timeout_s
    failure: OSError = OSError("the name has no address")
    for tried, (family, address) in enumerate(addresses):
        try:
            # an address that swallows packets leaves the others their share of the time
            async with asyncio.timeout((until - loop.time()) / (len(addresses) - tried)):
                return await _connected_to(endpoint, address, family, tls)
        except OSError as error:
            failure = error
    raise failure


async def _connected_to(endpoint: Endpoint, address: str, family: int, tls: ssl.SSLContext | None) -> Connection:
    name = endpoint.host if tls is not None else None
    _, connection = await asyncio.get_running_loop().create_connection(
        Connection, address, endpoint.port, family=family, ssl=tls, server_hostname=name
    )
    return connection
