"""One HTTP/1.1 connection: requests read, answered in order, kept alive, and a hang-up noticed."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import sys
import termios
from collections import deque
from collections.abc import Callable
from typing import cast

import httptools
from msgspec import Struct

MAX_BODY = 32 * 1024 * 1024
MAX_HEADERS = 64 * 1024
DROPPING_S = 5.0
MAX_WAITING = 64
"""Requests that a client may send ahead on one connection."""
BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LINGER_NOT = struct.pack("ii", 1, 0)
"""With this, closing a socket resets the connection."""


class Request(Struct):
    """One request; header names in lower case."""

    method: str = ""
    path: str = ""
    query: str = ""
    headers: dict[str, str] = {}
    body: bytes = b""
    too_large: bool = False
    keep_alive: bool = True


Handle = Callable[[Request, "Connection"], None]


class Connection(asyncio.Protocol):
    """State: the request being read, those that wait, and who is told when the client goes (while one is answered)."""

    def __init__(self, handle: Handle, connections: set[Connection]) -> None:
        self._handle = handle
        self._connections = connections
        self._parser = httptools.HttpRequestParser(self)
        self._reading = Request()
        self._body = bytearray()
        self._header_bytes = 0
        self._waiting: deque[Request] = deque()
        self._answering: Request | None = None
        self._transport: asyncio.Transport | None = None
        self.on_gone: Callable[[], None] | None = None

    def __repr__(self) -> str:
        state = "gone" if self._transport is None else "idle" if self._answering is None else "answering"
        return f"<Connection {state}, {len(self._waiting)} waiting>"

    # from the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its bases
        self._connections.add(self)
        self._socket_option(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  the transport's signature
        """The client has gone, or was sent away."""
        self._connections.discard(self)
        self._transport = None
        self._waiting.clear()
        if self.on_gone is not None:
            self.on_gone()

    def eof_received(self) -> bool:
        """An end of input is a hang-up, as with the vendors' servers."""
        return False

    def data_received(self, data: bytes) -> None:
        """Bytes of requests."""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, UnicodeDecodeError):
            self.write(BAD_REQUEST)
            self.close()
        else:
            self._next()

    # from the parser

    def on_message_begin(self) -> None:
        """A request begins."""
        self._reading = Request(headers={})
        self._body = bytearray()
        self._header_bytes = 0

    def on_url(self, url: bytes) -> None:
        """A piece of the target; pieces are put together in `query` until the head is complete."""
        self._reading.query += url.decode("ascii")
        self._count_header(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._reading.headers[name.decode("ascii").lower()] = value.decode("latin-1")
        self._count_header(len(name) + len(value))

    def on_headers_complete(self) -> None:
        """The head is complete."""
        request = self._reading
        request.path, _, request.query = request.query.partition("?")
        request.method = self._parser.get_method().decode("ascii")
        if int(request.headers.get("content-length") or 0) > MAX_BODY:
            self._refuse_body()
        elif request.headers.get("expect", "").lower() == "100-continue":
            self.write(CONTINUE)

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if self._reading.too_large:
            return
        self._body += body
        if len(self._body) > MAX_BODY:
            self._refuse_body()

    def on_message_complete(self) -> None:
        """The request is complete."""
        if self._reading.too_large:
            self.close()
        elif len(self._waiting) < MAX_WAITING:
            self._reading.body = bytes(self._body)
            self._reading.keep_alive = self._parser.should_keep_alive()
            self._waiting.append(self._reading)
        else:
            self.close()

    def _count_header(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > MAX_HEADERS:
            raise httptools.HttpParserError("head too long")

    def _refuse_body(self) -> None:
        """Answered at once; the rest is read and dropped for a while, else a reset would overtake the answer."""
        self._reading.too_large = True
        self._reading.keep_alive = False
        self._waiting.append(self._reading)
        asyncio.get_running_loop().call_later(DROPPING_S, self.close)

    # from the server

    def write(self, data: bytes) -> None:
        """Sends bytes, unless the client has gone."""
        if self._transport is not None and data:
            self._transport.write(data)

    def done(self) -> None:
        """The request is answered; the next one's turn."""
        answered, self._answering, self.on_gone = self._answering, None, None
        if answered is not None and not answered.keep_alive:
            if not answered.too_large:  # see `_refuse_body`
                self.close()
        elif self._waiting:
            asyncio.get_running_loop().call_soon(self._next)

    def close(self) -> None:
        """Sends what is written, then closes."""
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        """Sends what is written, then breaks the connection off: a reset throws away what the client doesn't have yet."""
        transport = self._transport
        if transport is None:
            return
        if transport.get_write_buffer_size() or self._unacknowledged():
            asyncio.get_running_loop().call_later(0.001, self.reset)
            return
        self._socket_option(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
        transport.abort()

    def _next(self) -> None:
        gone = self._transport is None or self._transport.is_closing()
        if self._answering is None and self._waiting and not gone:
            self._answering = self._waiting.popleft()
            self._handle(self._answering, self)

    def _unacknowledged(self) -> int:
        """Bytes that the kernel has still to bring to the client."""
        if self._transport is None:
            return 0
        told = fcntl.ioctl(self._transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        return int.from_bytes(told, sys.byteorder)

    def _socket_option(self, level: int, name: int, value: int | bytes) -> None:
        if self._transport is not None:
            self._transport.get_extra_info("socket").setsockopt(level, name, value)
