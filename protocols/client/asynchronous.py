"""The client for anyio: one task reads, one writes, and calls wait side by side."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import anyio
from anyio.abc import UNIXSocketStream

from protocols.client.conversation import GRACE_S, Conversation
from protocols.client.reach import HANDSHAKE_S, ConnectionLost, NotReachable, knock, pauses, socket_path
from protocols.client.replies import ChatReply, Reply, StreamReply, chat_answer, chat_params, plain
from protocols.errors import DeadlineExceeded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from os import PathLike
    from types import TracebackType

    from msgspec import Raw

    from protocols.chat import ChatAnswer, Item
    from protocols.client.replies import Prompt
    from protocols.rpc import Welcome
    from protocols.tournament import Progress, Verdict

P = TypeVar("P")
A = TypeVar("A")
R = TypeVar("R", bound=Reply)

_GONE = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)


class Client:
    """Calls on one connection.

    State: the conversation, and whether it has bytes to send.
    """

    def __init__(self, socket: UNIXSocketStream, conversation: Conversation) -> None:
        self._socket = socket
        self._conversation = conversation
        self._unsent = anyio.Event()

    def __repr__(self) -> str:
        return f"<Client {self._conversation!r}>"

    @property
    def welcome(self) -> Welcome:
        """What the daemon said first: its version, who we are, what we may do."""
        assert self._conversation.welcome is not None
        return self._conversation.welcome

    async def call(
        self,
        method: str,
        /,
        *,
        deadline_s: float | None = None,
        idempotency_key: str | None = None,
        **params: Any,
    ) -> Any:
        """The result of any method as plain objects. Items on the way are dropped. Raises the fault."""
        return plain(await self._whole(method, params, deadline_s, idempotency_key))

    async def chat(
        self,
        prompt: Prompt,
        /,
        *,
        deadline_s: float | None = None,
        idempotency_key: str | None = None,
        **params: Any,
    ) -> ChatAnswer:
        """The whole answer to a prompt or to messages. Raises the fault."""
        asked = chat_params(prompt, params, stream=False)
        return chat_answer(await self._whole("chat", asked, deadline_s, idempotency_key))

    async def tournament(
        self,
        prompt: Prompt,
        /,
        *,
        deadline_s: float | None = None,
        idempotency_key: str | None = None,
        **params: Any,
    ) -> Verdict:
        """The verdict of several models on a prompt or on messages. Raises the fault."""
        from protocols.client.tournament import tournament_params, verdict  # its types are 10 ms

        return verdict(await self._whole("tournament", tournament_params(prompt, params), deadline_s, idempotency_key))

    def tournament_stream(
        self,
        prompt: Prompt,
        /,
        *,
        deadline_s: float | None = None,
        idempotency_key: str | None = None,
        **params: Any,
    ) -> Stream[Progress, Verdict]:
        """The progress of a tournament, and its verdict in `answer` afterwards; leaving the loop early cancels it."""
        from protocols.client.tournament import ProgressReply, tournament_params, verdict  # its types are 10 ms

        def begin() -> StreamReply:
            asked = tournament_params(prompt, params, stream=True)
            return self.begin(ProgressReply(), "tournament", asked, deadline_s, idempotency_key)

        return Stream(self, begin, verdict)

    def stream(
        self,
        prompt: Prompt,
        /,
        *,
        deadline_s: float | None = None,
        idempotency_key: str | None = None,
        **params: Any,
    ) -> Stream[Item, ChatAnswer]:
        """The answer piece by piece, and whole in `answer` afterwards; nothing is sent before the first is asked for."""

        def begin() -> StreamReply:
            asked = chat_params(prompt, params, stream=True)
            return self.begin(ChatReply(), "chat", asked, deadline_s, idempotency_key)

        return Stream(self, begin, chat_answer)

    def items(
        self,
        method: str,
        /,
        *,
        deadline_s: float | None = None,
        idempotency_key: str | None = None,
        **params: Any,
    ) -> Stream[Any, Any]:
        """The items of any method as plain objects, and its result in `answer` afterwards."""

        def begin() -> StreamReply:
            return self.begin(StreamReply(), method, params, deadline_s, idempotency_key)

        return Stream(self, begin, plain)

    def events(self, types: Sequence[str] | None = None, *, deadline_s: float | None = None) -> Stream[Any, Any]:
        """What happens, of these types or of all, as plain objects, until the daemon stops; leaving the loop ends it too."""
        params: dict[str, Any] = {} if types is None else {"types": list(types)}
        return self.items("events", deadline_s=deadline_s, **params)

    def begin(
        self, reply: R, method: str, params: dict[str, Any], deadline_s: float | None, idempotency_key: str | None
    ) -> R:
        """Starts a call; whoever starts one waits with `ready` and ends with `leave`."""
        self._conversation.begin(reply, method, params, deadline_s, idempotency_key)
        if deadline_s is not None:
            reply.give_up_at = time.monotonic() + deadline_s + GRACE_S
        self._unsent.set()
        return reply

    async def ready(self, reply: Reply) -> None:
        """Waits until the reply has something to take. Raises DeadlineExceeded when even the grace is over."""
        while not reply.ready:
            woken = anyio.Event()
            reply.wake = woken.set
            if reply.give_up_at is None:
                await woken.wait()
                continue
            with anyio.move_on_after(reply.give_up_at - time.monotonic()) as scope:
                await woken.wait()
            if scope.cancelled_caught and not reply.ready:
                raise DeadlineExceeded("the daemon did not answer within the deadline of this call")

    def leave(self, reply: Reply) -> None:
        """Cancels the call if it still runs; waits for nothing, so it works in a cancelled scope too."""
        self._conversation.leave(reply)
        self._unsent.set()

    async def _whole(
        self, method: str, params: dict[str, Any], deadline_s: float | None, idempotency_key: str | None
    ) -> Raw:
        reply = self.begin(Reply(), method, params, deadline_s, idempotency_key)
        try:
            await self.ready(reply)
        finally:
            self.leave(reply)
        return reply.result()

    async def read(self) -> None:
        """The reading task: until the connection is over."""
        try:
            while not self._conversation.over:
                self._conversation.feed(await self._socket.receive())
        except _GONE:
            self._conversation.end(ConnectionLost("the daemon closed the connection"))
        finally:
            self._conversation.end(ConnectionLost("this client is closed"))
            self._unsent.set()

    async def write(self) -> None:
        """The writing task. It alone sends, so a cancelled call leaves no half of a frame behind."""
        while not self._conversation.over:
            await self._unsent.wait()
            self._unsent = anyio.Event()
            if out := self._conversation.take():
                with suppress(*_GONE):  # the reading task finds out why
                    await self._socket.send(out)


class Stream(Generic[P, A]):
    """The pieces of one call: iterate once; leaving the loop early cancels the call.

    State: whether the call was made, and its answer at the end.
    """

    def __init__(self, client: Client, begin: Callable[[], StreamReply], decode: Callable[[Raw], A]) -> None:
        self._client = client
        self._begin = begin
        self._decode = decode
        self._begun = False
        self._answer: list[A] = []

    @property
    def answer(self) -> A:
        """The call's result, once the last piece was read."""
        if not self._answer:
            raise RuntimeError("a stream has its answer after its last piece: read it to the end first")
        return self._answer[0]

    async def __aiter__(self) -> AsyncIterator[P]:
        """The pieces as they come. Raises the fault."""
        if self._begun:
            raise RuntimeError("a stream is read once; make the call again for another answer")
        self._begun = True
        reply = self._begin()
        try:
            await self._client.ready(reply)
            while reply.pieces:
                yield reply.pieces.popleft()
                await self._client.ready(reply)
            self._answer.append(self._decode(reply.result()))
        finally:
            self._client.leave(reply)


class Connection:
    """`async with` it to get a Client. State: the tasks and socket of the client while it is open."""

    def __init__(self, app: str, path: str | PathLike[str] | None, wait_s: float) -> None:
        self._app = app
        self._path = path
        self._wait_s = wait_s

    async def __aenter__(self) -> Client:
        """Knocks until the daemon opens, says hello, and starts the two tasks."""
        conversation = Conversation(self._app)
        self._socket = await _open(self._path, self._wait_s)
        try:
            await _greet(self._socket, conversation, socket_path(self._path))
        except BaseException:
            await anyio.aclose_forcefully(self._socket)
            raise
        client = Client(self._socket, conversation)
        self._tasks = await anyio.create_task_group().__aenter__()
        self._tasks.start_soon(client.read)
        self._tasks.start_soon(client.write)
        return client

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the tasks and closes the socket, which cancels what runs.

        An error of the caller goes on as it is: the task group would wrap it in a group.
        """
        self._tasks.cancel_scope.cancel()
        try:
            if isinstance(error, Exception):
                await self._tasks.__aexit__(None, None, None)
            else:
                await self._tasks.__aexit__(kind, error, trace)
        finally:
            await anyio.aclose_forcefully(self._socket)


async def _open(path: str | PathLike[str] | None, wait_s: float) -> UNIXSocketStream:
    for pause in pauses(wait_s):
        try:
            return await UNIXSocketStream.from_socket(knock(path))
        except NotReachable as error:
            if not error.starting:
                raise
        await anyio.sleep(pause)
    return await UNIXSocketStream.from_socket(knock(path))


async def _greet(socket: UNIXSocketStream, conversation: Conversation, path: str) -> None:
    try:
        with anyio.fail_after(HANDSHAKE_S):
            with suppress(*_GONE):  # a refusal may already lie there to be read
                await socket.send(conversation.take())
            while not conversation.welcome and not conversation.over:
                conversation.feed(await socket.receive())
    except TimeoutError:
        raise NotReachable(path, f"it takes connections but says nothing for {HANDSHAKE_S:.0f} s") from None
    except _GONE:
        raise NotReachable(path, "it closed the connection at once") from None
    if conversation.over:
        raise conversation.over
