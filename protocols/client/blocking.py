"""The client over a plain socket: for scripts, without an event loop. One thread at a time may use it."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from protocols.client.conversation import GRACE_S, Conversation
from protocols.client.reach import HANDSHAKE_S, ConnectionLost, NotReachable, knock, pauses, socket_path
from protocols.client.replies import ChatReply, Reply, StreamReply, chat_answer, chat_params, plain
from protocols.errors import DeadlineExceeded

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Sequence
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

_READ_BYTES = 65_536


class BlockingClient:
    """Calls on one connection. A stream may be open while other calls are made; its pieces wait for it.

    State: the conversation; every other attribute stays.
    """

    def __init__(self, sock: socket.socket, conversation: Conversation) -> None:
        self._sock = sock
        self._conversation = conversation

    def __repr__(self) -> str:
        return f"<BlockingClient {self._conversation!r}>"

    @property
    def welcome(self) -> Welcome:
        """What the daemon said first: its version, who we are, what we may do."""
        assert self._conversation.welcome is not None
        return self._conversation.welcome

    def call(
        self,
        method: str,
        /,
        *,
        deadline_s: float | None = None,
        idempotency_key: str | None = None,
        **params: Any,
    ) -> Any:
        """The result of any method as plain objects. Items on the way are dropped. Raises the fault."""
        return plain(self._whole(method, params, deadline_s, idempotency_key))

    def chat(
        self,
        prompt: Prompt,
        /,
        *,
        deadline_s: float | None = None,
        idempotency_key: str | None = None,
        **params: Any,
    ) -> ChatAnswer:
        """The whole answer to a prompt or to messages. Raises the fault."""
        return chat_answer(self._whole("chat", chat_params(prompt, params, stream=False), deadline_s, idempotency_key))

    def tournament(
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

        return verdict(self._whole("tournament", tournament_params(prompt, params), deadline_s, idempotency_key))

    def tournament_stream(
        self,
        prompt: Prompt,
        /,
        *,
        deadline_s: float | None = None,
        idempotency_key: str | None = None,
        **params: Any,
    ) -> BlockingStream[Progress, Verdict]:
        """The progress of a tournament, and its verdict in `answer` afterwards; leaving the loop early cancels it."""
        from protocols.client.tournament import ProgressReply, tournament_params, verdict  # its types are 10 ms

        def begin() -> StreamReply:
            asked = tournament_params(prompt, params, stream=True)
            return self.begin(ProgressReply(), "tournament", asked, deadline_s, idempotency_key)

        return BlockingStream(self, begin, verdict)

    def stream(
        self,
        prompt: Prompt,
        /,
        *,
        deadline_s: float | None = None,
        idempotency_key: str | None = None,
        **params: Any,
    ) -> BlockingStream[Item, ChatAnswer]:
        """The answer piece by piece, and whole in `answer` afterwards; nothing is sent before the first is asked for."""

        def begin() -> StreamReply:
            asked = chat_params(prompt, params, stream=True)
            return self.begin(ChatReply(), "chat", asked, deadline_s, idempotency_key)

        return BlockingStream(self, begin, chat_answer)

    def items(
        self,
        method: str,
        /,
        *,
        deadline_s: float | None = None,
        idempotency_key: str | None = None,
        **params: Any,
    ) -> BlockingStream[Any, Any]:
        """The items of any method as plain objects, and its result in `answer` afterwards."""

        def begin() -> StreamReply:
            return self.begin(StreamReply(), method, params, deadline_s, idempotency_key)

        return BlockingStream(self, begin, plain)

    def events(
        self, types: Sequence[str] | None = None, *, deadline_s: float | None = None
    ) -> BlockingStream[Any, Any]:
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
        return reply

    def ready(self, reply: Reply) -> None:
        """Waits until the reply has something to take. Raises DeadlineExceeded when even the grace is over."""
        self._send()
        while not reply.ready:
            left = None if reply.give_up_at is None else max(reply.give_up_at - time.monotonic(), 0.001)
            self._sock.settimeout(left)
            try:
                data = self._sock.recv(_READ_BYTES)
            except TimeoutError:
                raise DeadlineExceeded("the daemon did not answer within the deadline of this call") from None
            except OSError:
                data = b""
            self._hear(data)

    def leave(self, reply: Reply) -> None:
        """Cancels the call if it still runs."""
        self._conversation.leave(reply)
        self._send()

    def _whole(self, method: str, params: dict[str, Any], deadline_s: float | None, idempotency_key: str | None) -> Raw:
        reply = self.begin(Reply(), method, params, deadline_s, idempotency_key)
        try:
            self.ready(reply)
        finally:
            self.leave(reply)
        return reply.result()

    def _send(self) -> None:
        out = self._conversation.take()
        if not out or self._conversation.over:
            return
        self._sock.settimeout(None)
        try:
            self._sock.sendall(out)
        except OSError:  # what the daemon said before it closed is still read
            return
        except BaseException:  # interrupted with half a frame sent: nothing can follow it
            self._conversation.end(ConnectionLost("a call was interrupted while it was sent"))
            raise

    def _hear(self, data: bytes) -> None:
        if data:
            self._conversation.feed(data)
        else:
            self._conversation.end(ConnectionLost("the daemon closed the connection"))


class BlockingStream(Generic[P, A]):
    """The pieces of one call: iterate once; leaving the loop early cancels the call.

    State: whether the call was made, and its answer at the end.
    """

    def __init__(self, client: BlockingClient, begin: Callable[[], StreamReply], decode: Callable[[Raw], A]) -> None:
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

    def __iter__(self) -> Iterator[P]:
        """The pieces as they come. Raises the fault."""
        if self._begun:
            raise RuntimeError("a stream is read once; make the call again for another answer")
        self._begun = True
        reply = self._begin()
        try:
            self._client.ready(reply)
            while reply.pieces:
                yield reply.pieces.popleft()
                self._client.ready(reply)
            self._answer.append(self._decode(reply.result()))
        finally:
            self._client.leave(reply)


class BlockingConnection:
    """`with` it to get a BlockingClient. State: the socket and conversation while it is open."""

    def __init__(self, app: str, path: str | PathLike[str] | None, wait_s: float) -> None:
        self._app = app
        self._path = path
        self._wait_s = wait_s

    def __enter__(self) -> BlockingClient:
        """Knocks until the daemon opens, and says hello."""
        self._conversation = Conversation(self._app)
        self._sock = _open(self._path, self._wait_s)
        try:
            _greet(self._sock, self._conversation, socket_path(self._path))
        except BaseException:
            self._sock.close()
            raise
        return BlockingClient(self._sock, self._conversation)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the socket, which cancels what runs."""
        self._conversation.end(ConnectionLost("this client is closed"))
        self._sock.close()


def _open(path: str | PathLike[str] | None, wait_s: float) -> socket.socket:
    for pause in pauses(wait_s):
        try:
            return knock(path)
        except NotReachable as error:
            if not error.starting:
                raise
        time.sleep(pause)
    return knock(path)


def _greet(sock: socket.socket, conversation: Conversation, path: str) -> None:
    sock.settimeout(HANDSHAKE_S)
    try:
        with suppress(BrokenPipeError):  # a refusal may already lie there to be read
            sock.sendall(conversation.take())
        while not conversation.welcome and not conversation.over:
            data = sock.recv(_READ_BYTES)
            if not data:
                raise NotReachable(path, "it closed the connection at once")
            conversation.feed(data)
    except TimeoutError:
        raise NotReachable(path, f"it takes connections but says nothing for {HANDSHAKE_S:.0f} s") from None
    except ConnectionResetError:
        raise NotReachable(path, "it closed the connection at once") from None
    if conversation.over:
        raise conversation.over
