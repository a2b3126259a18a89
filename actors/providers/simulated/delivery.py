"""One plan being carried out on one connection."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from actors.providers.simulated import answers

if TYPE_CHECKING:
    from collections.abc import Callable

    from actors.providers.simulated.connection import Connection
    from actors.providers.simulated.plan import Plan
    from actors.providers.simulated.record import Log, Record

STAMP = answers.STAMP.encode()


class Delivery:
    """State: how many chunks have gone, when the next is due (loop time), and the timer that waits for it.

    Timers only, no task: a thousand slow streams cost as little as they can. What a client doesn't read waits in its
    transport; an answer is small.
    """

    def __init__(self, plan: Plan, connection: Connection, record: Record, log: Log) -> None:
        self._plan = plan
        self._connection = connection
        self._record = record
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begins; what has no delay is sent at once."""
        self._record.status = self._plan.status
        self._connection.on_gone = self._gone
        self._due = self._loop.time()
        if self._plan.delay:
            self._wait(self._plan.delay, self._open)
        else:
            self._open()

    def _open(self) -> None:
        plan = self._plan
        if not plan.chunks:
            self._end(plan.head)
        elif plan.first:
            self._connection.write(plan.head)
            self._wait(plan.first, self._send)
        elif not plan.pace:
            self._record.chunks_sent = len(plan.chunks)
            self._end(plan.head + self._stamped(b"".join(plan.chunks)))
        else:
            self._connection.write(plan.head)
            self._send()

    def _send(self) -> None:
        plan, sent = self._plan, self._record.chunks_sent
        step = 1 if plan.pace else len(plan.chunks)
        data = self._stamped(b"".join(plan.chunks[sent : sent + step]))
        self._record.chunks_sent = sent = sent + step
        if sent >= len(plan.chunks):
            self._end(data)
        else:
            self._connection.write(data)
            self._wait(plan.pace, self._send)

    def _stamped(self, data: bytes) -> bytes:
        return data.replace(STAMP, b"@%019d" % time.monotonic_ns()) if self._plan.stamped else data

    def _wait(self, delay: float, then: Callable[[], None]) -> None:
        """By the clock, not from now: being late once doesn't slow the rest down."""
        self._due += delay
        self._timer = self._loop.call_at(self._due, then)

    def _end(self, last: bytes) -> None:
        plan, connection = self._plan, self._connection
        connection.write(last + plan.end)
        if plan.after == "hang":
            return  # in flight until the client goes
        connection.on_gone = None
        self._log.ended(self._record, plan.outcome)
        if plan.after == "next":
            connection.done()
        elif plan.after == "reset":
            connection.reset()
        else:
            connection.close()

    def _gone(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._log.ended(self._record, "client_closed")
