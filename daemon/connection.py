"""One connection of a client: bytes to calls, results to bytes. Coalesced writes, merged items for a slow reader, one task a call."""

from __future__ import annotations

import asyncio
import math
import select
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, cast

import structlog
from msgspec import UNSET, Struct

from daemon.peer import Peer
from protocols.chat import Delta, Reasoning, ToolCallDelta
from protocols.errors import (
    BadRequest,
    Busy,
    Cancelled,
    DeadlineExceeded,
    Internal,
    ProtocolViolation,
    QuorumError,
    ShuttingDown,
    TooLarge,
)
from protocols.rpc import PROTOCOL, Call, Cancel, Done, Fault, Hello, Item, Welcome
from protocols.wire import Codec, JsonLines, codec_for

MAX_CALLS = 1024
"""Calls of one connection under way at once; the next one hears `busy`."""

CALL_DEADLINE_S = 300.0
"""Seconds that a call has whose client names no deadline, unless its method is a lasting one."""

UNSENT_BYTES = 262_144
"""Bytes that wait for a reader before items are merged and its calls are no longer read."""

OWED_BYTES = 16 * 1024 * 1024
"""Bytes of finished answers, the largest left out, that may wait for a slow reader; above it the reader is cut."""

HANGUP_POLL_S = 0.25
"""Seconds between looks whether a peer that ended its input is gone altogether."""

APP_LENGTH = 128

log = structlog.get_logger("server")


class Running:
    """A call under way.

    State: its task and whether it has begun, whether it is a lasting one, and what ended it if something did.
    """

    __slots__ = ("begun", "id", "interrupted", "lasting", "task", "timer")

    def __init__(self, call_id: int) -> None:
        self.id = call_id
        self.begun = False
        self.lasting = False
        self.interrupted: type[QuorumError] = QuorumError
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """The task's first step: one that is cancelled before it would never answer. Raises CancelledError."""
        self.begun = True
        if self.interrupted is not QuorumError:
            raise asyncio.CancelledError

    def last(self, *, deadline: bool) -> None:
        """It is a lasting call: without a `deadline` of its client it has none."""
        self.lasting = True
        if self.timer is not None and not deadline:
            self.timer.cancel()

    def left_s(self) -> float:
        """Seconds until its deadline."""
        return math.inf if self.timer is None else self.timer.when() - asyncio.get_running_loop().time()

    def interrupt(self, kind: type[QuorumError]) -> None:
        """Cancels the call; the first reason stands, and a second one must not hurry its settlement but at the shutdown."""
        if self.interrupted is QuorumError:
            self.interrupted = kind
        elif kind is not ShuttingDown:
            return
        if self.task is not None and self.begun:
            self.task.cancel()


class Dispatch(Protocol):
    """What a connection needs from the server."""

    max_frame_bytes: int
    client_stall_s: float
    version: str
    draining: bool

    def identify(self, connection: socket.socket) -> Peer:
        """Who is there. Raises Forbidden."""
        ...

    def handle(self, connection: Connection, call: Call, running: Running) -> Awaitable[Any]:
        """The result of a call. Raises QuorumError."""
        ...

    def opened(self, connection: Connection) -> None:
        """A connection is there."""
        ...

    def closed(self, connection: Connection) -> None:
        """A connection is gone."""
        ...


class Connection(asyncio.Protocol):
    """A client.

    State: how it speaks, who it is, its calls, what waits to be sent (items as they are, to be merged; answers as bytes, with
    their sizes), the timers that bound a slow client, and who waits until it keeps up.
    """

    def __init__(self, server: Dispatch) -> None:
        self._server = server
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._loop = asyncio.get_running_loop()
        self._codec: Codec | None = None
        self._out = bytearray()
        self._unsent: dict[int, list[Struct | bytearray]] = {}
        self._owed: list[int] = []
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._paused = False
        self._keeping_up: asyncio.Future[None] | None = None
        self.running: dict[int, Running] = {}
        self.peer: Peer = cast("Peer", None)
        self.app: str | None = None
        self._refused: QuorumError | None = None

    def __repr__(self) -> str:
        return f"<Connection {self.app} of {getattr(self.peer, 'account', '?')}, {len(self.running)} calls>"

    # --- what the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asks the kernel who it is; one that may not connect hears why."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=UNSENT_BYTES)
        self._server.opened(self)
        try:
            self.peer = self._server.identify(transport.get_extra_info("socket"))
        except QuorumError as refused:
            self._refused = refused  # told when its first byte shows which way it speaks

    def data_received(self, data: bytes) -> None:
        """Takes messages in; the first that can't be read ends the connection."""
        if self._codec is None:
            self._codec = codec_for(data, self._server.max_frame_bytes)
            if isinstance(self._codec, JsonLines):
                self.app = "unknown"
        if self._refused is not None:
            self._end(self._refused)
            return
        try:
            messages = self._codec.feed(data)
            for message in messages:
                self._take(message)
        except (ProtocolViolation, TooLarge) as broken:
            self._end(broken)
        except Exception:
            log.exception("connection_failed", app=self.app)
            self._end(Internal("the daemon failed on this message; the log has the details"))
        else:
            self._bound_message(begun=bool(messages))

    def eof_received(self) -> bool:
        """The end of input alone is no hang-up: what runs is answered first."""
        self._flush()
        if self._gone():
            return False
        self._watch_for_hangup()
        return not self._transport.is_closing()

    def connection_lost(self, _: Exception | None) -> None:
        """A hang-up cancels whatever runs."""
        for running in list(self.running.values()):
            running.interrupt(Cancelled)
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._server.closed(self)

    def pause_writing(self) -> None:
        """The reader is slow: from now on its items are merged, and no further calls of its are read."""
        self._paused = True
        self._transport.pause_reading()
        self._stop("message")  # we don't read: that it does not arrive is not the client's doing
        self._later(
            "stalled", self._server.client_stall_s, self._cut_if_stalled, self._transport.get_write_buffer_size()
        )

    def resume_writing(self) -> None:
        """The reader caught up."""
        self._paused = False
        if self._keeping_up is not None:
            self._keeping_up.set_result(None)
            self._keeping_up = None
        self._stop("stalled")
        waiting, self._unsent = self._unsent, {}
        self._owed.clear()
        for call_id, messages in waiting.items():
            for message in messages:
                if isinstance(message, bytearray):
                    self._send(message)
                else:
                    self._write(Item(call_id, message))
        if not self._transport.is_closing():
            self._transport.resume_reading()
            self._bound_message(begun=True)

    # --- messages in

    def _take(self, message: Hello | Call | Cancel | BadRequest) -> None:
        match message:
            case Call():
                self._begin(message)
            case Cancel():
                running = self.running.get(message.id)
                if running is not None:
                    running.interrupt(Cancelled)
            case Hello():
                self._greet(message)
            case BadRequest():
                self._write(_fault(message, message.detail.pop("id")))

    def _greet(self, hello: Hello) -> None:
        if hello.protocol != PROTOCOL:
            raise ProtocolViolation(
                f"this daemon speaks protocol {PROTOCOL}, the client {hello.protocol}; update the older one"
            )
        if not hello.app or len(hello.app) > APP_LENGTH or not hello.app.isprintable():
            raise ProtocolViolation(f"`app` is a name of 1 to {APP_LENGTH} printable characters")
        self.app = hello.app
        rights: list[str] = [right for right in ("observe", "use", "operate", "admin") if right in self.peer.rights]
        self._write(Welcome(PROTOCOL, self._server.version, self.peer.account, rights, self._server.max_frame_bytes))

    def _begin(self, call: Call) -> None:
        if self.app is None:
            raise ProtocolViolation("say hello before the first call")
        refused = self._refusal(call)
        if refused is not None:
            self._write(_fault(refused, call.id))
            return
        running = self.running[call.id] = Running(call.id)
        seconds = CALL_DEADLINE_S if call.deadline_s is None else call.deadline_s
        running.timer = self._loop.call_later(seconds, running.interrupt, DeadlineExceeded)
        running.task = self._loop.create_task(self._run(call, running))

    def _refusal(self, call: Call) -> QuorumError | None:
        if call.id in self.running:
            return BadRequest(f"a call with id {call.id} is under way on this connection; give each its own")
        if call.deadline_s is not None and not 0 < call.deadline_s < float("inf"):
            return BadRequest("`deadline_s` is a number of seconds above 0")
        if len(self.running) >= MAX_CALLS:
            return Busy(f"{MAX_CALLS} calls of this connection are under way; wait for one to end", retry_after_s=1.0)
        if self._server.draining:
            return ShuttingDown("the daemon is shutting down and takes no new calls", retry_after_s=1.0)
        return None

    async def _run(self, call: Call, running: Running) -> None:
        answer: Done | Fault
        try:
            running.begin()
            answer = Done(call.id, await self._server.handle(self, call, running))
        except QuorumError as error:
            answer = _fault(error, call.id)
        except asyncio.CancelledError:
            answer = _fault(running.interrupted("the call was ended before it could answer"), call.id)
        except Exception:
            log.exception("call_failed", method=call.method, app=self.app)
            answer = _fault(Internal("the daemon failed on this call; the log has the details"), call.id)
        if running.timer is not None:
            running.timer.cancel()
        del self.running[call.id]
        self._write(answer)
        if "hangup" in self._timers and not self.running:
            self._watch_for_hangup()

    # --- messages out

    def emit(self, call_id: int, value: Struct) -> None:
        """Sends an item, or merges it while the reader is slow."""
        if self._paused:
            _merge(self._unsent.setdefault(call_id, []), value)
        else:
            self._write(Item(call_id, value))

    async def keeps_up(self) -> None:
        """Returns when the reader is not slow, or not any more."""
        if len(self._out) >= UNSENT_BYTES:
            self._flush()
        while self._paused:
            if self._keeping_up is None:
                self._keeping_up = self._loop.create_future()
            await asyncio.shield(self._keeping_up)  # others wait for it too

    def _write(self, message: Struct) -> None:
        if self._transport.is_closing() or self._codec is None:
            return
        if self._paused and isinstance(message, Done | Fault) and message.id is not UNSET:
            self._owe(self._codec, message)
            return
        if not self._out:
            self._loop.call_soon(self._flush)
        self._codec.append(self._out, message)

    def _owe(self, codec: Codec, answer: Done | Fault) -> None:
        """Keeps an answer, as bytes, for a reader that is slow; one that would pile up answers is cut."""
        ready = bytearray()
        codec.append(ready, answer)
        self._unsent.setdefault(cast("int", answer.id), []).append(ready)
        self._owed.append(len(ready))
        owed = sum(self._owed) - max(self._owed)  # a single answer may be as large as it is
        if owed > OWED_BYTES:
            log.warning("client_owed_too_much_cut", app=self.app, answers=len(self._owed), bytes=owed)
            self._transport.abort()

    def _send(self, ready: bytearray) -> None:
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out += ready

    def _flush(self) -> None:
        if self._out and not self._transport.is_closing():
            data, self._out = bytes(self._out), bytearray()
            self._transport.write(data)

    # --- the end

    @property
    def codec(self) -> Codec | None:
        """How it speaks, once its first byte is there."""
        return self._codec

    def abort(self) -> None:
        """Closes at once."""
        self._transport.abort()

    def close(self) -> None:
        """Sends what waits and closes; a client that does not read it is not waited for."""
        if self._transport.is_closing():
            return
        self._flush()
        self._transport.close()
        self._later("closing", self._server.client_stall_s, self._transport.abort)

    def _end(self, error: QuorumError) -> None:
        """One fault without id, then the connection closes; nobody else notices."""
        for running in list(self.running.values()):
            running.interrupt(Cancelled)
        self._write(_fault(error, None))
        self.close()

    def _bound_message(self, *, begun: bool) -> None:
        """Each message has the same time from its first byte to its last; `begun` says that an unfinished one is new."""
        if self._codec is None or not self._codec.unfinished:
            self._stop("message")
        elif begun or "message" not in self._timers:
            seconds = self._server.client_stall_s
            late = ProtocolViolation(f"a message took longer than {seconds:g} s to arrive")
            self._later("message", seconds, self._end, late)

    def _cut_if_stalled(self, before: int) -> None:
        now = self._transport.get_write_buffer_size()
        if now >= before:
            log.warning("stalled_client_cut", app=self.app, unsent_bytes=now)
            self._transport.abort()
        else:
            self._later("stalled", self._server.client_stall_s, self._cut_if_stalled, now)

    def _watch_for_hangup(self) -> None:
        """After the end of input the loop looks no more: a full close must still be seen while calls run. Then we close."""
        if self._gone():
            self._transport.abort()
        elif not self.running and not self._unsent:
            self.close()
        else:
            self._later("hangup", HANGUP_POLL_S, self._watch_for_hangup)

    def _gone(self) -> bool:
        """Whether the peer closed both ways: on a Unix socket that is POLLHUP, the end of input alone is not."""
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), 0)
        return any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll(0))

    def _later(self, name: str, seconds: float, act: Callable[..., None], *args: Any) -> None:
        self._stop(name)
        self._timers[name] = self._loop.call_later(seconds, act, *args)

    def _stop(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()


def _merge(waiting: list[Struct | bytearray], value: Struct) -> None:
    """Pieces of the same kind become few, so that what waits is bounded by the answer.

    Each is more than twice as long as the next: a long text is not copied for every piece that comes.
    """
    waiting.append(value)
    while len(waiting) > 1 and _joined(waiting[-2], waiting[-1]):
        waiting.pop()


def _joined(before: Struct | bytearray, after: Struct | bytearray) -> bool:
    match before, after:
        case Delta(), Delta() if 2 * len(after.text) >= len(before.text):
            before.text += after.text
        case Reasoning(), Reasoning() if 2 * len(after.text) >= len(before.text):
            before.text += after.text
        case ToolCallDelta(), ToolCallDelta() if before.index == after.index and 2 * len(after.arguments) >= len(
            before.arguments
        ):
            before.arguments += after.arguments
        case _:
            return False
    return True


def _fault(error: QuorumError, call_id: int | None) -> Fault:
    return Fault(
        error.code,
        error.message,
        id=UNSET if call_id is None else call_id,
        detail=error.detail or UNSET,
        retry_after_s=UNSET if error.retry_after_s is None else error.retry_after_s,
    )
