"""A connection without its socket: bytes to send, bytes received, and which reply each message belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import UNSET

from protocols.errors import ProtocolViolation, QuorumError, TooLarge, from_wire
from protocols.rpc import PROTOCOL, Cancel, DoneRaw, Fault, Hello, ItemRaw, Welcome
from protocols.wire import Frames, decode_daemon, encode_frame

if TYPE_CHECKING:
    from protocols.client.replies import Reply
    from protocols.rpc import DaemonMessage

    R = TypeVar("R", bound=Reply)

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""The longest message that a client reads, whatever the daemon sends."""

GRACE_S = 5.0
"""Seconds after a call's deadline in which the daemon, who watches it, still gets to say so itself."""


class Conversation:
    """What both clients share; they only move its bytes.

    State: the replies still owed by id, the last id, the bytes to send, the welcome, and what ended it.
    """

    def __init__(self, app: str) -> None:
        self.welcome: Welcome | None = None
        self.over: Exception | None = None
        self._owed: dict[int, Reply] = {}
        self._last_id = 0
        self._out = bytearray(encode_frame(Hello(PROTOCOL, app)))
        self._frames = Frames(MAX_ANSWER_BYTES)

    def __repr__(self) -> str:
        state = "over" if self.over else "open" if self.welcome else "greeting"
        return f"<Conversation {state}, {len(self._owed)} under way>"

    def begin(
        self, reply: R, method: str, params: dict[str, Any], deadline_s: float | None, idempotency_key: str | None
    ) -> R:
        """Adds a call to the bytes to send. Raises what ended the connection, TooLarge, or TypeError for strange params."""
        if self.over:
            raise self.over.with_traceback(None)
        call: dict[str, Any] = {"t": "call", "id": self._last_id + 1, "method": method, "params": params}
        if deadline_s is not None:
            call["deadline_s"] = deadline_s
        if idempotency_key is not None:
            call["idempotency_key"] = idempotency_key
        frame = encode_frame(call)
        self._check_size(len(frame))
        self._last_id = reply.id = call["id"]
        self._owed[reply.id] = reply
        self._out += frame
        return reply

    def leave(self, reply: Reply) -> None:
        """Nobody waits for this reply any more: if it still runs, it is cancelled and what comes of it is dropped."""
        if self._owed.pop(reply.id, None):
            self._out += encode_frame(Cancel(reply.id))

    def take(self) -> bytes:
        """The bytes to send; they count as sent."""
        out = bytes(self._out)
        self._out.clear()
        return out

    def feed(self, data: bytes) -> None:
        """Hands each message complete with these bytes to whom it is for; after nonsense the conversation is over."""
        try:
            for payload in self._frames.split(data):
                self._hear(decode_daemon(payload))
        except QuorumError as error:
            self.end(error)

    def end(self, error: Exception) -> None:
        """Nothing more will come: every reply still owed fails with this error."""
        if self.over:
            return
        self.over = error
        for reply in self._owed.values():
            reply.outcome = error
            reply.wake()
        self._owed.clear()

    def _hear(self, message: DaemonMessage) -> None:
        match message:
            case ItemRaw(id=id_, value=value):
                self._piece(id_, value)
            case DoneRaw(id=id_, value=value):
                self._settle(id_, value)
            case Welcome():
                _check_protocol(message)
                self.welcome = message
            case Fault(id=id_):
                error = _raised(message)
                if id_ is UNSET:
                    self.end(error)
                else:
                    self._settle(id_, error)

    def _piece(self, id_: int, value: Any) -> None:
        reply = self._owed.get(id_)
        if reply is None:
            return
        try:
            reply.put(value)
        except QuorumError as error:
            self.leave(reply)
            reply.outcome = error
        reply.wake()

    def _settle(self, id_: int, outcome: Any) -> None:
        if reply := self._owed.pop(id_, None):
            reply.outcome = outcome
            reply.wake()

    def _check_size(self, size: int) -> None:
        """The daemon would close the connection on a frame above its limit, and every other call with it."""
        limit = self.welcome.max_frame_bytes if self.welcome else size
        if size > limit:
            raise TooLarge(f"this call has {size} bytes; the daemon reads at most {limit}", detail={"limit": limit})


def _check_protocol(welcome: Welcome) -> None:
    if welcome.protocol != PROTOCOL:
        raise ProtocolViolation(
            f"this client speaks protocol {PROTOCOL}, the daemon {welcome.version} speaks {welcome.protocol};"
            " update the older of them"
        )


def _raised(fault: Fault) -> QuorumError:
    return from_wire(
        fault.code,
        fault.message,
        None if fault.detail is UNSET else fault.detail,
        None if fault.retry_after_s is UNSET else fault.retry_after_s,
    )
