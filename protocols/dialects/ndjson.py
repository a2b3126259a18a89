"""JSON, a line each: bytes split anywhere -> complete lines. Pure, incremental."""

from __future__ import annotations

from protocols.dialects.dialect import MalformedAnswer

MAX_LINE_BYTES = 4_194_304
"""What a line may hold before its end is seen: a provider that never ends one can't fill the memory."""


class LineSplitter:
    """State: the bytes of the line under way."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def split(self, data: bytes) -> list[bytes]:
        """The lines that are complete with these bytes, empty ones left out. Raises MalformedAnswer for one too long."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > MAX_LINE_BYTES:
            raise MalformedAnswer(f"a line of the stream is longer than {MAX_LINE_BYTES} bytes")
        return [line for line in lines if line and not line.isspace()]
