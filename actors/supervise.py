"""Supervision: actors start in order, are restarted after a crash with their state rebuilt, and stop in reverse order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

import structlog

from actors.base import Actor, Ref
from protocols.errors import ShuttingDown

A = TypeVar("A", bound=Actor)

MAX_CRASHES = 5
CRASH_WINDOW_S = 60.0
"""More than MAX_CRASHES of one actor within CRASH_WINDOW_S seconds end the process: a restart does not help it."""

log = structlog.get_logger("supervise")


class GaveUp(Exception):
    """An actor keeps crashing. The message names it and its last error."""


class Supervisor:
    """Keeps actors alive between `async with` and its end.

    State: the refs in order of start, with what makes each one's next incarnation; the restarts under way; when those that ever
    crashed did so last; and the first failure that ends them all.
    """

    def __init__(self) -> None:
        self.refs: dict[Ref[Any], Callable[[], Actor]] = {}
        self._restarts: dict[Ref[Any], asyncio.Task[None]] = {}
        self._crashes: dict[Ref[Any], deque[float]] = {}
        self._hear = self._crashed  # one for all
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
        ref.crashed = self._hear
        ref.enter()
        self.refs[ref] = make
        try:
            await self._open(ref, first)
        except BaseException:
            await self.stop(ref)
            raise
        return ref

    async def stop(self, ref: Ref[Any]) -> None:
        """Stops one actor: no new messages, what waits is answered with ShuttingDown, its work is cancelled."""
        if self.refs.pop(ref, None) is None:
            return
        ref.actor_stopped.set()
        actor = ref.incarnation
        ref.close()
        self._crashes.pop(ref, None)
        restart = self._restarts.get(ref)
        try:
            if restart is not None:
                restart.cancel()
                await asyncio.wait([restart])  # a cancellation here is the caller's, and goes on to it
        finally:
            if actor is not None:
                await actor.stop_work()
                await actor.closing()
            ref.leave()

    async def _open(self, ref: Ref[Any], actor: Actor) -> None:
        """Lets an incarnation build its state and begin. Raises what `opening` raised, and ShuttingDown when it was stopped meanwhile."""
        actor.adopt(ref)
        try:
            await actor.opening()
        except BaseException:
            actor.cancel_work()
            raise
        if ref not in self.refs:
            actor.cancel_work()
            raise ShuttingDown(f"{ref.name} was stopped while it started")
        actor.begin()

    def _crashed(self, actor: Actor, error: Exception) -> None:
        """Starts the next incarnation."""
        ref = actor.ref
        task = asyncio.get_running_loop().create_task(self._restart(ref, actor, error), name=ref.name)
        self._restarts[ref] = task
        task.add_done_callback(lambda _: self._restarts.get(ref) is task and self._restarts.pop(ref))

    async def _restart(self, ref: Ref[Any], crashed: Actor, error: Exception) -> None:
        crashed.cancel_work()
        await asyncio.sleep(0)  # the work ends before the next incarnation begins
        while self._may_restart(ref, error):
            try:
                await self._open(ref, self.refs[ref]())
            except Exception as again:  # noqa: BLE001  this is where crashes are decided about
                error = again
            else:
                return
        ref.leave()

    def _may_restart(self, ref: Ref[Any], error: Exception) -> bool:
        now, crashes = asyncio.get_running_loop().time(), self._crashes.setdefault(ref, deque(maxlen=MAX_CRASHES))
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
