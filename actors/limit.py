"""A time limit on part of a task: what `asyncio.timeout` does, for the way that every call takes.

On Python 3.11 each `get_running_loop` is a system call (getpid), and `asyncio.timeout` makes four: 10 µs of a call's 100.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self


class Limit:
    """`with Limit(loop, seconds)`: cancels the task when the time is over, and raises TimeoutError at the block's end.

    State: when it began, the timer, and whether it fired.
    """

    __slots__ = ("_began", "_cancelling", "_expired", "_loop", "_seconds", "_task", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._loop = loop
        self._seconds = seconds
        self._expired = False

    def __enter__(self) -> Self:
        task = asyncio.current_task(self._loop)
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._began = self._loop.time()
        self._timer = self._loop.call_at(self._began + self._seconds, self._expire)
        return self

    @property
    def expired(self) -> bool:
        """Whether the time was over before the block's end."""
        return self._expired

    def extend(self, seconds: float) -> None:
        """So many seconds instead, from the block's beginning."""
        if not self._expired:
            self._timer.cancel()
            self._timer = self._loop.call_at(self._began + seconds, self._expire)

    def _expire(self) -> None:
        self._expired = True
        self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        # As asyncio does it: if somebody else cancelled the task too, theirs goes on.
        if self._expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error
