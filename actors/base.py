"""pykka's actors on event-loop tasks: typed `call`, bounded inbox, waiting beside the mailbox. The only importer of pykka.

A handler is synchronous: it reads and writes the actor's state and returns the answer, or a `Wait` when the answer takes time.
The wait runs in the asker's own task, so the mailbox goes on, and cancelling the asker cancels the wait. A message to an idle
actor is handled at once, in the asker's stack: the same order and the same exclusion as through the inbox, without the hop.
What waits in an inbox gets its turn from the loop. An idle actor has no task and no queue, so ten thousand of them cost little.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NoReturn, Self, TypeVar, cast, final

import pykka
import structlog
from pykka._envelope import Envelope

from protocols.errors import Busy, Internal, QuorumError, ShuttingDown
from protocols.request import Request

if TYPE_CHECKING:
    from threading import Event

R = TypeVar("R")
A = TypeVar("A", bound="Actor")
INBOX_LIMIT = 10_000
"""Messages that may wait in an inbox; above it the sender hears `busy`."""

_TURN = 64
"""Messages handled before the loop gets its turn."""

log = structlog.get_logger("actors")


@final
class Wait(Generic[R]):
    """An answer that takes time: what it waits for runs in the asker's task, beside the mailbox."""

    __slots__ = ("awaitable",)

    def __init__(self, awaitable: Awaitable[R]) -> None:
        self.awaitable = awaitable

    def drop(self) -> None:
        """Nobody will await it: the asker is gone."""
        if inspect.iscoroutine(self.awaitable):
            self.awaitable.close()


def handles(message: type[Request[R]]) -> Callable[[Callable[[A, Any], R | Wait[R]]], Callable[[A, Any], R | Wait[R]]]:
    """Marks the method of an actor that answers this message; the type checker holds it to the message's answer."""

    def mark(method: Callable[[A, Any], R | Wait[R]]) -> Callable[[A, Any], R | Wait[R]]:
        method.__handles__ = message  # type: ignore[attr-defined]  # a mark that __init_subclass__ reads
        return method

    return mark


class Inbox:
    """A bounded queue with one reader.

    State: the envelopes that wait (a queue only while there are any), the reader, None while there is no incarnation, and whether the
    loop will call it.
    """

    __slots__ = ("_called", "queue", "reader")

    def __init__(self) -> None:
        self.queue: deque[Envelope[Any]] | tuple[()] = ()
        self.reader: Callable[[], None] | None = None
        self._called = False

    def put(self, envelope: Envelope[Any]) -> None:
        """Adds a message. Raises Busy when the inbox is full."""
        if len(self.queue) >= INBOX_LIMIT:
            raise Busy(f"{len(self.queue)} messages wait already; try again in a second", retry_after_s=1.0)
        self.push(envelope)

    def push(self, envelope: Envelope[Any]) -> None:
        """Adds a message although the inbox may be full."""
        if isinstance(self.queue, tuple):
            self.queue = deque()
        self.queue.append(envelope)
        self.wake()

    def wake(self) -> None:
        """Gives the reader a turn of the loop, if something waits."""
        if self.queue and not self._called and self.reader is not None:
            self._called = True
            asyncio.get_running_loop().call_soon(self._read)

    def _read(self) -> None:
        self._called = False
        if self.reader is not None:
            self.reader()
            self.wake()

    def get(self) -> Envelope[Any]:
        """The next message; pykka's name for it. Raises IndexError when there is none."""
        if isinstance(self.queue, tuple):
            raise IndexError("nothing waits")
        envelope = self.queue.popleft()
        if not self.queue:
            self.queue = ()
        return envelope

    def empty(self) -> bool:
        """Whether nothing waits; pykka's name for it."""
        return not self.queue


class Stopped:
    """Whether an actor was stopped: as much of `threading.Event` as a loop needs, which is a twentieth of its size.

    State: that.
    """

    __slots__ = ("_is_set",)

    def __init__(self) -> None:
        self._is_set = False

    def set(self) -> None:
        """It was."""
        self._is_set = True

    def is_set(self) -> bool:
        """Whether it was."""
        return self._is_set


class Reply(pykka.Future[Any]):
    """pykka's future, awaited on the loop. `wanted` tells that the message is handled even if its asker has gone."""

    def __init__(self) -> None:
        super().__init__()
        self._future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.wanted = False

    @property
    def abandoned(self) -> bool:
        """The asker was cancelled and the message may be dropped."""
        return self._future.cancelled() and not self.wanted

    def get(self, *, timeout: float | None = None) -> Any:
        """The answer if it is there; there is no blocking on the loop. Raises InvalidStateError before."""
        del timeout
        return self._future.result()

    def set(self, value: Any = None) -> None:
        """Answers; a Wait whose asker has gone is dropped."""
        if not self._future.done():
            self._future.set_result(value)
        elif isinstance(value, Wait):
            value.drop()

    def drop(self, missed: Callable[[Any], None] | None = None) -> None:
        """The asker was cancelled, maybe after the answer: then the Wait in it goes to nobody, and any other answer to `missed`."""
        future = self._future
        if not future.done() or future.cancelled() or future.exception() is not None:
            return
        answer = future.result()
        if isinstance(answer, Wait):
            answer.drop()
        elif missed is not None:
            missed(answer)

    def set_exception(self, exc_info: Any = None) -> None:
        """Answers with an error: the one given, or the one being handled."""
        error = cast("BaseException", (exc_info or sys.exc_info())[1])
        if not self._future.done():
            self._future.set_exception(error)

    def set_get_hook(self, func: Any) -> NoReturn:  # noqa: ARG002  pykka's signature
        """The hook of blocking futures: there is none here."""
        raise TypeError("a reply on the event loop has no get hook")

    def __await__(self) -> Generator[Any, None, Any]:
        return self._future.__await__()

    __iter__ = __await__


class Actor(pykka.Actor):
    """An actor on the event loop. Subclasses mark handlers with `@handles` and name their state at the top.

    State of the base: the work it spawned (None: never any), whether it is in a handler (then a message from inside it must wait
    in the inbox), and what crashed it.
    """

    _handlers: ClassVar[dict[type[Request[Any]], Callable[[Any, Any], Any]]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        found = {m.__handles__: m for m in vars(cls).values() if hasattr(m, "__handles__")}
        cls._handlers = {**cls._handlers, **found}

    def __init__(self) -> None:
        super().__init__()
        self.actor_stopped = cast("Event", Stopped())
        self.handling = False
        self._work: set[asyncio.Task[None]] | None = None
        self._crash: Exception | None = None
        self._actor_ref = Ref(self)

    @staticmethod
    def _create_actor_inbox() -> Any:
        return Inbox()

    @staticmethod
    def _create_future() -> Reply:
        return Reply()

    def _start_actor_loop(self) -> None:
        raise RuntimeError("start actors with Supervisor.start, which restarts them")

    @property
    def ref(self) -> Ref[Self]:
        """The way in for others."""
        return cast("Ref[Self]", self._actor_ref)

    async def opening(self) -> None:
        """Builds the state from the store; until it returns, messages wait in the inbox."""

    async def closing(self) -> None:
        """Says goodbye at an orderly stop, shielded; not called after a crash."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs work beside the mailbox for as long as this incarnation lives; its failure is a crash of the actor."""
        task = asyncio.get_running_loop().create_task(self._guard(work))
        if self._work is None:
            self._work = set()
        self._work.add(task)
        task.add_done_callback(self._work.discard)
        task.add_done_callback(lambda _: work.close())  # one that was cancelled before its first step was never awaited

    async def _guard(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001  the supervisor decides what a crash means
            self.crash(error)

    def crash(self, error: Exception) -> None:
        """Ends this incarnation; the supervisor starts the next one."""
        if self._crash is None:
            self._crash = error
        if self.ref.incarnation is self:
            self.ref.close()
            self.ref.crashed(self, self._crash)

    def answer(self, message: Request[R]) -> R | Wait[R]:
        """Handles one message now. Raises QuorumError as an answer; anything else is a crash, told as Internal."""
        self.handling = True
        try:
            return self._handlers[type(message)](self, message)  # type: ignore[no-any-return]  # `handles` checked it
        except QuorumError:
            raise
        except Exception as error:
            self.crash(error)
            raise Internal(f"{type(self).__name__} failed and was restarted; the log has the details") from error
        finally:
            self.handling = False

    def begin(self) -> None:
        """Takes messages from now on, first those that wait; what crashed while it opened is told now."""
        inbox = cast("Inbox", self.actor_inbox)
        inbox.reader, self.ref.incarnation = self._read_inbox, self
        inbox.wake()
        if self._crash is not None:
            self.crash(self._crash)

    def _read_inbox(self) -> None:
        """Handles some of what waits; the loop comes back for the rest."""
        inbox = cast("Inbox", self.actor_inbox)
        for _ in range(min(len(inbox.queue), _TURN)):
            if self._crash is None:
                self._handle(inbox.get())

    def _handle(self, envelope: Envelope[Any]) -> None:
        reply = cast("Reply | None", envelope.reply_to)
        if reply is None:
            self.hear(envelope.message)
        elif not reply.abandoned:
            try:
                reply.set(self.answer(envelope.message))
            except QuorumError:
                reply.set_exception()

    def hear(self, message: Request[None]) -> None:
        """Handles one message that nobody waits for: a failure is logged and counted, not fatal."""
        self.handling = True
        try:
            answer = self._handlers[type(message)](self, message)
            if isinstance(answer, Wait):
                self.spawn(self._finish(answer))
        except Exception as error:  # noqa: BLE001  nobody waits for the answer
            self._tell_failed(message, error)
        finally:
            self.handling = False

    async def _finish(self, wait: Wait[Any]) -> None:
        try:
            await wait.awaitable
        except Exception as error:  # noqa: BLE001  nobody waits for the answer
            self._tell_failed(wait, error)

    def _tell_failed(self, message: object, error: Exception) -> None:
        self.ref.failed_tells += 1
        log.error("tell_failed", actor=self.ref.name, message_type=type(message).__name__, exc_info=error)

    def cancel_work(self) -> None:
        """Cancels what the actor spawned."""
        for task in self._work or ():
            task.cancel()

    async def stop_work(self) -> None:
        """Cancels what the actor spawned and lets it end."""
        if self._work:
            self.cancel_work()
            await asyncio.sleep(0)

    def adopt(self, ref: Ref[Any]) -> None:
        """Takes the place of an earlier incarnation: its ref and its inbox with all that waits."""
        self._actor_ref = ref
        self.actor_inbox = ref.actor_inbox
        self.actor_urn = ref.actor_urn


class Ref(pykka.ActorRef[A]):
    """The way to an actor; it outlives crashes.

    State: the incarnation that takes messages (None while there is none), who hears of its crash, restarts, failed tells.
    """

    def __init__(self, actor: A) -> None:
        super().__init__(actor)
        self.incarnation: A | None = None
        self._inbox = cast("Inbox", self.actor_inbox)
        self.crashed: Callable[[Any, Exception], None] = _unheard
        self.name = type(actor).__name__
        self.restarts = 0
        self.failed_tells = 0

    def __repr__(self) -> str:
        return repr(self.incarnation) if self.incarnation is not None else f"<{self.name} starting>"

    @property
    def waiting(self) -> int:
        """Messages in the inbox."""
        return len(self._inbox.queue)

    async def call(self, message: Request[R], *, missed: Callable[[R], None] | None = None) -> R:
        """Asks and waits for the answer. Raises what the handler raised, Busy, ShuttingDown.

        An asker that is cancelled after the answer, and before it could take it, hears it by `missed`: what it was given must go back.
        A `Wait` is not an answer yet.
        """
        actor = self.incarnation
        answer: R | Wait[R]
        if actor is None or actor.handling or self._inbox.queue:
            answer = await self._answered(message, missed)
        else:
            answer = actor.answer(message)
        return await answer.awaitable if isinstance(answer, Wait) else answer

    def deliver(self, message: Request[R]) -> asyncio.Future[R]:
        """Hands the message over now, to be handled whatever becomes of the sender; await the result for the answer.

        This is how a settlement is shielded from cancellation: only the waiting can be cancelled, not the work.
        """
        actor = self.incarnation
        if actor is not None and not actor.handling and not self._inbox.queue:
            answer = actor.answer(message)
            return _lasting(answer.awaitable) if isinstance(answer, Wait) else _ready(answer)
        if not self.is_alive():
            raise self._gone()
        reply = Reply()
        reply.wanted = True
        # Whatever the inbox's bound says: who delivers has work in its hands that must not be lost.
        self._inbox.push(Envelope(message, reply_to=reply))
        return _lasting(_unwrap(reply))

    def tell(self, message: Request[None]) -> None:
        """Sends without an answer. A full inbox, a stopped actor or a failing handler is logged and counted, not raised."""
        actor = self.incarnation
        if actor is not None and not actor.handling and not self._inbox.queue:
            actor.hear(message)
            return
        try:
            super().tell(message)
        except pykka.ActorDeadError:
            self.failed_tells += 1  # stopped on purpose: a session that was passivated, say
        except Busy as error:
            self.failed_tells += 1
            log.warning("tell_lost", actor=self.name, message_type=type(message).__name__, why=str(error))

    def enter(self) -> None:
        """Stands in pykka's registry from now on."""
        pykka.ActorRegistry.register(self)

    def close(self) -> None:
        """No incarnation takes messages: they wait."""
        self._inbox.reader = self.incarnation = None

    def leave(self) -> None:
        """Takes no more messages; what still waits is answered with ShuttingDown, so that nobody waits for ever."""
        self.actor_stopped.set()
        while self._inbox.queue:
            reply = self._inbox.get().reply_to
            if reply is not None:
                gone = self._gone()
                reply.set_exception((type(gone), gone, None))
        pykka.ActorRegistry.unregister(self)

    def _gone(self) -> ShuttingDown:
        return ShuttingDown(f"{self.name} has stopped; the daemon is shutting down")

    async def _answered(self, message: Request[R], missed: Callable[[R], None] | None) -> Any:
        reply = self._queued(message)
        try:
            return await reply
        except asyncio.CancelledError:
            reply.drop(missed)
            raise

    def _queued(self, message: Request[R]) -> Reply:
        if not self.is_alive():
            raise self._gone()
        return cast("Reply", self.ask(message, block=False))


def _unheard(actor: Any, error: Exception) -> None:
    """Nobody supervises it yet."""


def _ready(value: R) -> asyncio.Future[R]:
    future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
    future.set_result(value)
    return future


def _lasting(work: Awaitable[R]) -> asyncio.Future[R]:
    """Work that goes on when its waiter is cancelled. A bare future has its work elsewhere; a coroutine gets a task."""
    if isinstance(work, asyncio.Future):
        return work
    task = asyncio.get_running_loop().create_task(_awaited(work))
    task.add_done_callback(_seen)
    return asyncio.shield(task)


def _seen(task: asyncio.Task[Any]) -> None:
    """Its failure is no news when its waiter has gone."""
    if not task.cancelled():
        task.exception()


async def _awaited(work: Awaitable[R]) -> R:
    return await work


async def _unwrap(reply: Reply) -> Any:
    answer = await reply
    return await answer.awaitable if isinstance(answer, Wait) else answer
