"""One HTTP/1.1 connection to a provider, one exchange at a time, without a task or a lock of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from actors.providers.transport import BodyTruncated, ConnectionLost, MalformedHttp, Response, TransportError, joined

HEAD_LIMIT = 64 * 1024
"""Bytes of a head, informational ones before it included; and of framing or trailers without any body between."""

BUFFER_LIMIT = 1024 * 1024
"""Bytes of a body that wait unread before the socket is no longer read."""

_COPY_LIMIT = 64 * 1024  # bytes; a larger body is not copied behind its head
_FINAL = 200  # statuses below are informational


class _Unasked(Exception):
    """The server begins an answer that nobody asked for."""


class Answer(Response):
    """What has arrived of one answer; its parser writes here.

    State: the status once the head is complete, the header fields, the pieces not yet read and their size; how it ended
    (`ended`, `error`) and whether the connection can be used again; who waits.
    """

    __slots__ = (
        "_connection",
        "_fields",
        "_headers",
        "_pieces",
        "_waiter",
        "ended",
        "error",
        "keep_alive",
        "size",
        "status",
    )

    def __init__(self, connection: Connection) -> None:
        self.status = 0
        self.ended = False
        self.keep_alive = False
        self.error: TransportError | None = None
        self.size = 0
        self._connection = connection
        self._fields: list[tuple[bytes, bytes]] = []
        self._headers: dict[str, str] | None = None
        self._pieces: list[bytes] = []
        self._waiter: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        state = "ended" if self.ended else "failed" if self.error else "open"
        return f"<Answer {self.status or 'without head'}, {state}, {self.size} bytes unread>"

    @property
    def headers(self) -> Mapping[str, str]:  # noqa: D102  # said by Response
        if self._headers is None:  # few ask, so few pay
            self._headers = joined(self._fields)
        return self._headers

    async def head(self) -> None:
        """Returns when the head is complete. Raises ConnectionLost, MalformedHttp."""
        while not self.status:
            if self.error is not None:
                raise self.error
            await self._arrival()

    async def chunk(self) -> bytes:  # noqa: D102  # said by Response
        while not self._pieces:
            if self.error is not None:
                raise self.error
            if self.ended:
                return b""
            await self._arrival()
        pieces = self._pieces
        self._pieces = []
        if self.size > BUFFER_LIMIT:
            self._connection.resume()
        self.size = 0
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _arrival(self) -> None:
        self._waiter = self._connection.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def wake(self) -> None:
        """Something changed: lets the reader look."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def hung_up(self, *, clean: bool) -> None:
        """The connection is gone: the end of a body that has no other, else a failure. `clean`: by an orderly close."""
        if self.ended or self.error is not None:
            return
        if not self.status:
            reused = self._connection.exchanges > 1
            self.error = ConnectionLost("the connection closed before an answer came", reused=reused)
        elif clean and not self.framed:
            self.ended = True
        else:
            self.error = BodyTruncated("the connection closed before the answer's end")
        self.wake()

    def malformed(self, message: str) -> None:
        """What came can't be read any further."""
        if self.error is None:
            self.error = MalformedHttp(message)

    # what the parser calls

    def on_message_begin(self) -> None:  # noqa: D102
        if self.ended:
            raise _Unasked

    def on_header(self, name: bytes, value: bytes) -> None:  # noqa: D102
        if not self.status:  # trailers tell nothing that anyone here reads
            self._fields.append((name, value))

    def on_headers_complete(self) -> None:  # noqa: D102
        status = self._connection.parser.get_status_code()
        if status >= _FINAL:
            self.status = status
        else:
            self._fields.clear()  # 101 is not passed over: the parser stops at it

    def on_body(self, piece: bytes) -> None:  # noqa: D102
        self._pieces.append(piece)
        self.size += len(piece)

    def on_message_complete(self) -> None:  # noqa: D102
        if self.status:
            self.ended = True
            self.keep_alive = self._connection.parser.should_keep_alive()


class Connection(asyncio.Protocol):
    """The socket of one exchange after another.

    State: the transport while it lives; the answer under way and its parser; how many bytes of framing came since the last
    bytes of a body; how many exchanges began on it, and when the last ended (loop time, seconds).
    """

    __slots__ = ("_answer", "_framing", "_loop", "_transport", "alive", "exchanges", "idle_since", "parser")

    parser: HttpResponseParser

    def __init__(self) -> None:
        self.alive = False
        self.exchanges = 0
        self.idle_since = 0.0
        self._answer: Answer | None = None
        self._framing = 0
        self._transport: asyncio.Transport
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop it lives on; kept, since each look-up is a system call."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    def __repr__(self) -> str:
        state = "closed" if not self.alive else "idle" if self._answer is None else "in use"
        return f"<Connection {state}, {self.exchanges} exchanges>"

    def send(self, head: bytes, body: bytes) -> Answer:
        """Begins an exchange; the connection is alive and idle."""
        answer = self._answer = Answer(self)
        self.parser = HttpResponseParser(answer)
        self.exchanges += 1
        self._framing = 0
        if len(body) <= _COPY_LIMIT:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)
        return answer

    def release(self, answer: Answer, now: float) -> bool:
        """Ends the exchange; hangs up at once unless the answer has come to its end. Whether it can carry another one."""
        if answer.keep_alive and self.alive and not self._transport.get_write_buffer_size():
            self._forget()
            self.idle_since = now
            if answer.size > BUFFER_LIMIT:  # reading was stopped, and the end came all the same
                self._transport.resume_reading()
            return True
        self.abort()
        return False

    def abort(self) -> None:
        """Closes the socket now, whatever is under way."""
        if self.alive:
            self.alive = False
            self._transport.abort()
        self._end(clean=False)

    def resume(self) -> None:
        """Reads the socket again."""
        if self.alive:
            self._transport.resume_reading()

    def _end(self, *, clean: bool) -> None:
        answer = self._answer
        if answer is not None:
            self._forget()
            answer.hung_up(clean=clean)

    def _forget(self) -> None:
        """Lets go of the answer and of the parser, which know each other and would be left to the garbage collector."""
        self._answer = None
        del self.parser

    # what the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        self._transport = cast("asyncio.Transport", transport)  # asyncio and uvloop have set TCP_NODELAY
        self.alive = True

    def data_received(self, data: bytes) -> None:  # noqa: D102
        answer = self._answer
        if answer is None:  # nobody asked: what follows could be taken for the next answer
            self.abort()
            return
        had = answer.size
        try:
            self._feed(answer, data)
        except (HttpParserError, HttpParserUpgrade):
            answer.keep_alive = False
            if not answer.ended:
                answer.malformed("the answer is not HTTP/1.1")
        if answer.error is not None:
            self.abort()
        elif answer.size > BUFFER_LIMIT >= had and not answer.ended:
            self._transport.pause_reading()
        answer.wake()

    def _feed(self, answer: Answer, data: bytes) -> None:
        had = answer.size
        if not answer.status and self._framing + len(data) > HEAD_LIMIT:
            room = HEAD_LIMIT - self._framing
            self.parser.feed_data(data[:room])
            if answer.status:
                self.parser.feed_data(data[room:])
        else:
            self.parser.feed_data(data)
        if answer.size != had:
            self._framing = 0
            return
        self._framing += len(data)
        if self._framing > HEAD_LIMIT and not answer.ended:
            answer.malformed(f"{HEAD_LIMIT} bytes came and no content among them")

    def eof_received(self) -> None:  # noqa: D102
        self.alive = False  # the loop closes the socket after this
        self._end(clean=True)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: D102
        self.alive = False
        self._end(clean=error is None)
