"""Time and ids, passed in so that no test sleeps."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime

import anyio

MICRO = 1_000_000

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's base 32 in lower case: it sorts like the number, and no two letters look alike."""

_DIGITS = 13
_SEQUENCE_BITS = 8
_LOW_BITS = 20
_LAST_US = (1 << 57) - 1
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]


class Clock:
    """The wall clock in µs since 1970 (UTC), and a monotonic one in seconds."""

    def now_us(self) -> int:
        """Microseconds since 1970, UTC."""
        return time.time_ns() // 1000

    monotonic = staticmethod(time.monotonic)
    """Seconds on a clock that never goes back; the built-in itself, since every call asks often."""

    async def sleep(self, seconds: float) -> None:
        """Waits; a test's clock may be faster."""
        await anyio.sleep(seconds)

    def fail_after(self, seconds: float) -> AbstractContextManager[object]:
        """Raises TimeoutError if the block takes longer."""
        return anyio.fail_after(seconds)


class Ids:
    """Ids that sort by time and are never given twice, even when the clock goes back: 13 characters.

    State: the last number given, and the text of its upper bits. 56 bits of microseconds (until the year 4253) and 8 bits of sequence.
    """

    def __init__(self, now_us: Callable[[], int], last: str | None = None) -> None:
        self._now_us = now_us
        self._last = _number(last) if last else 0
        self._high = -1
        self._prefix = ""

    def next(self) -> str:
        """A new id, above all before it."""
        number = max(self._last + 1, self._now_us() << _SEQUENCE_BITS)
        self._last = number
        if number >> _LOW_BITS != self._high:
            self._high = number >> _LOW_BITS
            self._prefix = _ALPHABET[number >> 60] + "".join(
                _PAIRS[number >> shift & 1023] for shift in (50, 40, 30, 20)
            )
        return f"{self._prefix}{_PAIRS[number >> 10 & 1023]}{_PAIRS[number & 1023]}"


def id_after(text: str, seconds: int) -> str:
    """The id that a second so much later begins with. Raises ValueError for what is no id."""
    if len(text) != _DIGITS:
        raise ValueError(f"{text!r} is no id")
    return id_at((_number(text) >> _SEQUENCE_BITS) + seconds * MICRO)


def id_at(us: int) -> str:
    """The lowest id of an instant in µs since 1970; of one that no id can tell, the nearest."""
    return Ids(lambda: min(max(us, 0), _LAST_US)).next()


def _number(text: str) -> int:
    number = 0
    for character in text:
        number = number << 5 | _ALPHABET.index(character)
    return number


def rfc3339(us: int) -> str:
    """An instant in µs since 1970 as text in UTC with milliseconds."""
    moment = datetime.fromtimestamp(us // MICRO, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{us % MICRO // 1000:03d}Z"


def parse_rfc3339(text: str) -> int:
    """Text as an instant in µs since 1970; without a zone it is UTC. Raises ValueError that says what is expected."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no time; write it like 2027-01-31T12:00:00Z or 2027-01-31") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * MICRO)
