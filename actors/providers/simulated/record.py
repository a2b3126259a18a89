"""What the server remembers of the requests it had, so that tests can look."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from typing import Any

import msgspec
from msgspec import Raw, Struct

KEPT = 1000
KEPT_BODY_BYTES = 64 * 1024 * 1024
FINGERPRINT = 12
"""Hexadecimal digits of a key's SHA-256 that are shown; never the key."""


class Record(Struct):
    """One request. `at` is Unix time; `ended_ms` counts from there to the outcome, or to the client's hang-up."""

    number: int
    at: float
    method: str
    path: str
    dialect: str | None = None
    model: str | None = None
    streamed: bool = False
    key_sha256: str | None = None
    status: int = 0
    outcome: str = "in_flight"
    chunks_sent: int = 0
    ended_ms: float | None = None
    body: bytes = b""


class Counters(Struct):
    """Since the start or the last reset; `in_flight` and `connections` are of now."""

    requests: int = 0
    chats: int = 0
    in_flight: int = 0
    connections: int = 0
    outcomes: dict[str, int] = {}
    statuses: dict[int, int] = {}


class Log:
    """State: the counters, the last records, and how many bytes of bodies these hold."""

    def __init__(self) -> None:
        self.counters = Counters(outcomes={}, statuses={})
        self._numbered = 0
        self._records: deque[Record] = deque(maxlen=KEPT)
        self._bodies: deque[Record] = deque()
        self._body_bytes = 0

    def began(self, method: str, path: str, body: bytes) -> Record:
        """A request has come; its record, to be completed by who answers it."""
        self._numbered += 1
        record = Record(self._numbered, time.time(), method, path, body=body)
        self.counters.requests += 1
        self.counters.in_flight += 1
        self._records.append(record)
        self._keep_body(record)
        return record

    def ended(self, record: Record, outcome: str) -> None:
        """A request has its outcome."""
        record.outcome = outcome
        record.ended_ms = round((time.time() - record.at) * 1000, 3)
        counters = self.counters
        counters.in_flight -= 1
        counters.outcomes[outcome] = counters.outcomes.get(outcome, 0) + 1
        counters.statuses[record.status] = counters.statuses.get(record.status, 0) + 1

    def reset(self) -> None:
        """Forgets all but what is in flight."""
        self.counters = Counters(in_flight=self.counters.in_flight, outcomes={}, statuses={})
        self._records.clear()
        self._bodies.clear()
        self._body_bytes = 0

    def shown(self, connections: int, *, bodies: bool) -> bytes:
        """Counters and records as JSON, oldest first."""
        self.counters.connections = connections
        rows = [_row(record, bodies=bodies) for record in self._records]
        return msgspec.json.encode({"counters": self.counters, "requests": rows})

    def _keep_body(self, record: Record) -> None:
        """As many of the newest bodies as fit, of at most as many requests as are kept."""
        self._bodies.append(record)
        self._body_bytes += len(record.body)
        while self._body_bytes > KEPT_BODY_BYTES or len(self._bodies) > KEPT:
            oldest = self._bodies.popleft()
            self._body_bytes -= len(oldest.body)
            oldest.body = b""


def _row(record: Record, *, bodies: bool) -> dict[str, Any]:
    row = msgspec.structs.asdict(record)
    body = row.pop("body")
    if bodies:
        row["body"] = _readable(body)
    return row


def _readable(body: bytes) -> Raw | str:
    """The body as the JSON that it is, or as text."""
    text = body.decode(errors="replace")
    try:
        return msgspec.json.decode(text, type=Raw)
    except (msgspec.MsgspecError, RecursionError):
        return text


def fingerprint(key: str) -> str:
    """The beginning of a key's SHA-256."""
    return hashlib.sha256(key.encode()).hexdigest()[:FINGERPRINT]
