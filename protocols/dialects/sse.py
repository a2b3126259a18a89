r"""Server-sent events: bytes split anywhere -> the data of each complete event. Pure, incremental.

Line ends become `\n` at the door (JSON never holds a bare CR), so one parser serves every framing. Event names and ids
are dropped: each vendor repeats the name inside the JSON.
"""

from __future__ import annotations

from protocols.dialects.dialect import MalformedAnswer

MAX_EVENT_BYTES = 4_194_304
"""What an event may hold before its end is seen: a provider that never ends one can't fill the memory."""


class SseSplitter:
    """State: the line under way, the data lines of the event under way, and whether an LF may follow a last CR."""

    __slots__ = ("_after_cr", "_fields", "_rest")

    def __init__(self) -> None:
        self._rest = b""
        self._fields: list[bytes] = []
        self._after_cr = False

    def split(self, data: bytes) -> list[bytes]:
        """The data of the events that are complete with these bytes. Raises MalformedAnswer for one without an end."""
        if self._after_cr or b"\r" in data:
            data = self._with_lf(data)
        # One byte to split at: a search for two is five times slower.
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        found = self._events(lines)
        if (self._rest or self._fields) and self._held() > MAX_EVENT_BYTES:
            raise MalformedAnswer(f"an event of the stream is longer than {MAX_EVENT_BYTES} bytes")
        return found

    def _held(self) -> int:
        return len(self._rest) + sum(len(field) + 1 for field in self._fields)

    def _events(self, lines: list[bytes]) -> list[bytes]:
        """An empty line ends an event; lines without data (comments, names, ids) and events without any are dropped."""
        fields = self._fields
        found = []
        for line in lines:
            if line:
                if line.startswith(b"data:"):
                    fields.append(line[6:] if line.startswith(b" ", 5) else line[5:])
            elif fields:
                found.append(b"\n".join(fields))
                fields.clear()
        return found

    def _with_lf(self, data: bytes) -> bytes:
        if self._after_cr and data:
            data = data.removeprefix(b"\n")
            self._after_cr = False
        self._after_cr = self._after_cr or data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
