"""What the dialects share in reading answers: foreign errors become MalformedAnswer, and one loop for streams."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Protocol, TypeVar

import msgspec
from msgspec import Raw

from protocols.chat import StreamEvent
from protocols.dialects.dialect import MalformedAnswer, StreamFailed

T = TypeVar("T")

Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000)]
"""A number of tokens as a provider says it. Bounded: a negative or absurd one must not reach the books."""

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""All that msgspec raises on bytes it can't decode."""


def malformed(error: Exception) -> MalformedAnswer:
    """The error without content: msgspec's own messages name places and types, the others may quote bytes."""
    said = str(error) if isinstance(error, msgspec.MsgspecError) else "not JSON that can be read"
    return MalformedAnswer(f"the provider's answer is not what its dialect promises: {said}")


def read(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """A whole body decoded. Raises MalformedAnswer."""
    try:
        return decoder.decode(body)
    except UNREADABLE as error:
        raise malformed(error) from error


def raw_text(raw: Raw) -> str:
    """JSON text of a free-form part; msgspec skips over it without looking at its UTF-8. Raises MalformedAnswer."""
    try:
        return bytes(raw).decode()
    except UnicodeDecodeError as error:
        raise malformed(error) from error


class Splitter(Protocol):
    """Bytes split anywhere -> complete pieces of JSON."""

    def split(self, data: bytes) -> list[bytes]:
        """The pieces that are complete with these bytes."""
        ...


class JsonStream(ABC):
    """A StreamDecoder for streams of JSON pieces. State: the splitter's, and the failure that ended the stream."""

    __slots__ = ("_failure", "_splitter")

    def __init__(self, splitter: Splitter) -> None:
        self._splitter = splitter
        self._failure: MalformedAnswer | StreamFailed | None = None

    def feed(self, data: bytes) -> list[StreamEvent]:
        """The events complete with these bytes.

        What came before a failure in the same bytes is returned, because it is charged for; the failure is raised by the
        next feed, so feed `b""` once at the end of the input. Raises MalformedAnswer, StreamFailed.
        """
        if self._failure is not None:
            raise self._failure
        events: list[StreamEvent] = []
        try:
            for piece in self._splitter.split(data):
                self._take(piece, events)
        except (MalformedAnswer, StreamFailed) as failure:
            self._failure = failure
        except UNREADABLE as error:
            self._failure = malformed(error)
        if self._failure is not None and not events:
            raise self._failure
        return events

    @abstractmethod
    def _take(self, piece: bytes, events: list[StreamEvent]) -> None:
        """Append what one piece means. May raise whatever feed translates."""
