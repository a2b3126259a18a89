"""Supervision: actors start in order, are restarted after a crash with their state rebuilt, and stop in reverse order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

import structlog

from actors.base import Actor, Ref

A = TypeVar("A", bound=Actor)

MAX_CRASHES = 5
CRASH_WINDOW_S = 60.0
"""More than MAX_CRASHES of one actor within CRASH_WINDOW_S seconds end the process: a restart does not help it."""

log = structlog.get_logger("supervise")


class GaveUp(Exception):
    """An actor keeps crashing. The message names it and its last error."""


class Supervisor:
    """Keeps actors alive between `async with` and its end.

    State: the refs in order of start, the task that lives each one, and the first failure that ends them all.
    """

    def __init__(self) -> None:
        self.refs: dict[Ref[Any], asyncio.Task[None]] = {}
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for ref in reversed(list(self.refs)):
            await self.stop(ref)
        if not self.failed.done():
            self.failed.cancel()
        elif not self.failed.cancelled():
            self.failed.exception()  # whoever waited for it has seen it; nobody else needs to

    async def start(self, make: Callable[[], A], *, name: str | None = None) -> Ref[A]:
        """Starts an actor and returns when its state is built. Raises what `opening` raised.

        `make` builds one incarnation; it is called again after each crash.
        """
        first = make()
        ref = first.ref
        ref.name = name or ref.name
        ref.enter()
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.refs[ref] = asyncio.get_running_loop().create_task(self._live(ref, first, make, opened), name=ref.name)
        try:
            await opened
        except BaseException:
            await self.stop(ref)
            raise
        return ref

    async def stop(self, ref: Ref[Any]) -> None:
        """Stops one actor: no new messages, what waits is answered with ShuttingDown, its work is cancelled."""
        task = self.refs.pop(ref, None)
        if task is None:
            return
        ref.actor_stopped.set()
        actor, ref.incarnation = ref.incarnation, None
        task.cancel()
        try:
            await asyncio.wait([task])  # a cancellation here is the caller's, and goes on to it
        finally:
            if actor is not None:
                await actor.closing()
            ref.leave()

    async def _live(self, ref: Ref[A], actor: A, make: Callable[[], A], opened: asyncio.Future[None]) -> None:
        crashes: deque[float] = deque(maxlen=MAX_CRASHES)
        while True:
            try:
                await self._one_life(ref, actor if not opened.done() else make(), opened)
            except Exception as error:  # noqa: BLE001  this is where crashes are decided about
                if not opened.done():
                    opened.set_exception(error)
                    return
                if not self._may_restart(ref, crashes, error):
                    ref.leave()
                    return

    async def _one_life(self, ref: Ref[A], actor: A, opened: asyncio.Future[None]) -> None:
        actor.adopt(ref)
        try:
            await actor.opening()
            ref.incarnation = actor
            if not opened.done():
                opened.set_result(None)
            await actor.run_mailbox()
        finally:
            ref.incarnation = None
            actor.stop_work()

    def _may_restart(self, ref: Ref[Any], crashes: deque[float], error: Exception) -> bool:
        now = asyncio.get_running_loop().time()
        log.error("actor_crashed", actor=ref.name, restarts=ref.restarts, exc_info=error)
        if len(crashes) == MAX_CRASHES and now - crashes[0] < CRASH_WINDOW_S:
            self.fail(
                GaveUp(f"{ref.name} crashed {MAX_CRASHES + 1} times within {CRASH_WINDOW_S:.0f} s; last: {error!r}")
            )
            return False
        crashes.append(now)
        ref.restarts += 1
        return True

    def fail(self, error: Exception) -> None:
        """Ends the process in order: whoever awaits `failed` hears the first error."""
        if not self.failed.done():
            self.failed.set_exception(error)
