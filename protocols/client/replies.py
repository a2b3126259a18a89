"""What a call is answered with: plain values, or for a chat the typed answer and pieces."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec

from protocols.chat import ChatAnswer, Item, ToolCallDelta
from protocols.errors import Busy, ProtocolViolation
from protocols.wire import UNREADABLE, decode_value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from msgspec import Raw

    from protocols.chat import Message

    Prompt = str | Sequence[Message | dict[str, Any]]
    """A prompt of the user, or the messages of a conversation."""

MAX_PENDING = 10_000
"""Pieces that wait for their reader; a chat's are merged long before."""

_MERGE_AT = 256
_PIECE_IN: msgspec.msgpack.Decoder[Item] = msgspec.msgpack.Decoder(Item)
_KNOWN_PIECES = frozenset({"delta", "reasoning", "tool_call"})
_KNOWN_REASON = "explicit_model"


class Reply:
    """A call under way whose pieces nobody wants.

    State: the outcome once there is one (a value not yet decoded, or what to raise), whom to wake, and when to give up
    (on the monotonic clock).
    """

    def __init__(self) -> None:
        self.id = 0
        self.outcome: Raw | Exception | None = None
        self.wake: Callable[[], None] = _nobody
        self.give_up_at: float | None = None

    @property
    def ready(self) -> bool:
        """Whether there is something to take."""
        return self.outcome is not None

    def put(self, value: Raw) -> None:
        """A piece has come. Raises Busy when too many wait."""

    def result(self) -> Raw:
        """The outcome's value. Raises the fault."""
        if isinstance(self.outcome, Exception):
            raise self.outcome.with_traceback(None)
        assert self.outcome is not None
        return self.outcome


class StreamReply(Reply):
    """A call under way whose pieces are read.

    State: the pieces not yet taken.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pieces: deque[Any] = deque()

    @property
    def ready(self) -> bool:
        """Whether there is something to take."""
        return bool(self.pieces) or self.outcome is not None

    def put(self, value: Raw) -> None:
        """See `Reply.put`."""
        self.keep(plain(value))

    def keep(self, piece: Any) -> None:
        """Adds a piece. Raises Busy: waiting for the reader would hold up every other call of the connection."""
        if len(self.pieces) >= MAX_PENDING:
            raise Busy(f"{MAX_PENDING} items wait to be read and more come; read this stream faster")
        self.pieces.append(piece)


class ChatReply(StreamReply):
    """A chat under way. Text that waits for a slow reader is merged, so memory is bounded by the answer.

    State: how many pieces may wait before they are merged.
    """

    def __init__(self) -> None:
        super().__init__()
        self._merge_at = _MERGE_AT

    def put(self, value: Raw) -> None:
        """See `Reply.put`."""
        piece = chat_piece(value)
        if piece is None:
            return
        if len(self.pieces) >= self._merge_at:
            self.pieces = deque(merged(self.pieces))
            self._merge_at = max(_MERGE_AT, 2 * len(self.pieces))
        self.keep(piece)


def plain(value: Raw) -> Any:
    """A result or item as plain objects. Raises ProtocolViolation."""
    try:
        return decode_value(value, Any)
    except UNREADABLE as error:
        raise not_understood("value", error) from None


def chat_piece(value: Raw) -> Item | None:
    """A piece of a chat; None for a kind that only a newer daemon knows. Raises ProtocolViolation."""
    try:
        return _PIECE_IN.decode(value)
    except UNREADABLE as error:
        untyped = plain(value)
        if isinstance(untyped, dict) and untyped.get("type") not in _KNOWN_PIECES:
            return None
        raise not_understood("piece", error) from None


def chat_answer(value: Raw) -> ChatAnswer:
    """The answer of a chat. Raises ProtocolViolation."""
    try:
        return decode_value(value, ChatAnswer)
    except UNREADABLE:
        return _newer_answer(plain(value))


def _newer_answer(untyped: Any) -> ChatAnswer:
    """An answer whose `decision.reason` is one that this client does not know yet: the reason is kept as it is."""
    try:
        reason = untyped["decision"]["reason"]
        untyped["decision"]["reason"] = _KNOWN_REASON
        answer = msgspec.convert(untyped, ChatAnswer)
    except (*UNREADABLE, LookupError, TypeError) as error:
        raise not_understood("answer", error) from None
    answer.decision = msgspec.structs.replace(answer.decision, reason=reason)
    return answer


def merged(pieces: Iterable[Item]) -> list[Item]:
    """The same pieces with neighbours of one kind joined."""
    runs: list[list[Item]] = []
    for piece in pieces:
        if runs and _joins(runs[-1][0], piece):
            runs[-1].append(piece)
        else:
            runs.append([piece])
    return [_joined(run) for run in runs]


def _joins(first: Item, piece: Item) -> bool:
    if isinstance(first, ToolCallDelta):
        return isinstance(piece, ToolCallDelta) and piece.index == first.index and piece.id is None
    return type(piece) is type(first)


def _joined(run: list[Item]) -> Item:
    first = run[0]
    if len(run) == 1:
        return first
    if isinstance(first, ToolCallDelta):
        arguments = "".join(piece.arguments for piece in run if isinstance(piece, ToolCallDelta))
        return msgspec.structs.replace(first, arguments=arguments)
    return type(first)("".join(piece.text for piece in run if not isinstance(piece, ToolCallDelta)))


def chat_params(prompt: Prompt, params: dict[str, Any], *, stream: bool) -> dict[str, Any]:
    """The params of a chat."""
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return {"messages": messages, "stream": stream, **params}


def not_understood(what: str, error: Exception) -> ProtocolViolation:
    """The fault of a value that is none."""
    return ProtocolViolation(f"the daemon's {what} is not understood, perhaps it is newer than this client: {error}")


def _nobody() -> None:
    """Wakes nobody: a blocking client looks for itself."""
