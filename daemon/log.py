"""Structured logs on stderr: JSON for the journal or a file, coloured text for a terminal. A failing log stops nothing."""

from __future__ import annotations

import asyncio
import logging
import os
import select
import stat
import sys
import threading
import time
from io import StringIO
from typing import Any, TextIO

import msgspec
import structlog
from structlog.tracebacks import ExceptionDictTransformer

from daemon import systemd


class Lines:
    """Writes lines, those of one turn of the loop together.

    State: the bytes of this turn, the loop whose turns count and its thread, how many lines were lost because stderr could not be
    written, and whether the last that was written is cut off.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._waiting = bytearray()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.get_ident()
        self._may_stall = _may_stall(stream)
        self._cut = False
        self.lost = 0

    def collect(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on the lines of one turn of this loop are written together."""
        self._loop = loop

    def msg(self, line: bytes) -> None:
        """Adds a line; structlog's name for it."""
        first = not self._waiting
        self._waiting += line + b"\n"
        if self._loop is None or self._loop.is_closed() or threading.get_ident() != self._thread:
            self.flush()
        elif first:
            self._loop.call_soon(self.flush)

    debug = info = warning = error = critical = exception = log = fatal = failure = err = warn = msg

    def flush(self) -> None:
        """Writes what waits; a full disk, a closed pipe or one that nobody reads loses lines, not calls."""
        data, self._waiting = self._waiting, bytearray()
        lines = data.count(b"\n")
        if self._cut:
            data[:0] = b"\n"
        left = self._write(data)
        self._cut = bool(left) and (self._cut or len(left) < len(data))
        self.lost += min(left.count(b"\n"), lines)

    def _write(self, data: bytearray) -> bytearray:
        """Writes what can be written at once; what is left."""
        step = select.PIPE_BUF if self._may_stall else len(data)
        try:
            while data and (not self._may_stall or select.select([], [self._stream], [], 0)[1]):
                self._stream.buffer.write(data[:step])
                self._stream.flush()
                data = data[step:]
        except (OSError, ValueError):
            pass
        return data


def _may_stall(stream: TextIO) -> bool:
    """Whether writing can wait for a reader. A pipe or socket with room at all takes PIPE_BUF bytes at once."""
    try:
        mode = os.fstat(stream.fileno()).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


class _Stamp:
    """Adds the time in UTC; the seconds' text is made once a second."""

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def __call__(self, _: Any, level: str, event: Any) -> Any:
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second, self._text = second, time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
        event["at"] = f"{self._text}{int(now % 1 * 1000):03d}Z"
        event["level"] = level
        return event


class _FromStdlib(logging.Handler):
    """Lines of libraries, in the same form; their arguments are left out where they may quote a URL or a header."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger(record.name).log(record.levelno, "library", text=record.getMessage()[:500])


def configure(stream: TextIO | None = None) -> Lines:
    """Sets up logging for the process and returns the writer, to be flushed at the end."""
    out = stream or sys.stderr
    lines = Lines(out)
    as_json = systemd.under_journal() or not out.isatty()
    structlog.configure(
        cache_logger_on_first_use=True,
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_: lines,
        processors=[_JsonLine()] if as_json else _text_processors(),
    )
    root = logging.getLogger()
    root.handlers[:] = [_FromStdlib(logging.WARNING)]
    return lines


_encode = msgspec.json.Encoder(enc_hook=repr).encode


class _JsonLine:
    """An event as a line of JSON, in one step: every call logs one."""

    def __init__(self) -> None:
        self._stamp = _Stamp()
        self._with_exception = structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False))

    def __call__(self, logger: Any, level: str, event: Any) -> bytes:
        self._stamp(logger, level, event)
        if "exc_info" in event:
            event = self._with_exception(logger, level, event)
        try:
            return _encode(event)
        except (UnicodeEncodeError, TypeError, RecursionError):
            # The name of a file may be no text; its line must not stop a call.
            return _encode({"event": ascii(event), "at": event["at"], "level": level})


def _text_processors() -> list[Any]:
    console = structlog.dev.ConsoleRenderer(timestamp_key="at", exception_formatter=_printable_traceback, colors=True)
    return [_Stamp(), _printable_values, lambda logger, level, event: str(console(logger, level, event)).encode()]


def _printable_values(_: Any, __: str, event: Any) -> Any:
    """What a client or a provider said must not steer the terminal."""
    return {key: _printable(value) if isinstance(value, str) else value for key, value in event.items()}


def _printable_traceback(out: TextIO, exc_info: Any) -> None:
    text = StringIO()
    structlog.dev.plain_traceback(text, exc_info)
    out.write("\n".join(map(_printable, text.getvalue().split("\n"))))


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
