"""A daemon that answers from a table, over a real Unix socket and the real wire: for tests of the client and daemonctl.

The table maps a method to what it is answered with: a plain value (done), a QuorumError (fault), `Pieces` (items, then an
end), `HANG` (nothing, until it is cancelled), `CLOSE` (the connection ends), or a function of the params that gives one of these.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Self

import msgspec

from protocols.errors import Cancelled, QuorumError, UnknownMethod
from protocols.rpc import PROTOCOL, Done, Fault, Item, Welcome
from protocols.wire import Frames, encode_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

PATIENCE_S = 10.0


class Silence(Enum):
    """Answers that are none."""

    HANG = auto()
    CLOSE = auto()


HANG, CLOSE = Silence


@dataclass
class Pieces:
    """Items, then an end; `before_end` may wait for something."""

    items: Iterable[Any]
    end: Any = field(default_factory=dict)
    before_end: Callable[[], Any] = bool


class ScriptedDaemon:
    """State: what clients have said (`hellos`, `calls`, `cancels`), and the connections that are open."""

    def __init__(self, path: Path, table: dict[str, Any] | None = None, **welcome: Any) -> None:
        self.path = path
        self.table = table or {}
        self.greeting: Any = Welcome(
            **{
                "protocol": PROTOCOL,
                "version": "0.1.0",
                "user": "ana",
                "rights": ["observe", "use"],
                "max_frame_bytes": 65_536,
                **welcome,
            }
        )
        self.hellos: list[dict[str, Any]] = []
        self.calls: list[dict[str, Any]] = []
        self.cancels: list[int] = []
        self.gone = 0
        self._changed = threading.Condition()
        self._open: list[socket.socket] = []

    def __enter__(self) -> Self:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            hang_up(connection)
        self.path.unlink()

    def until(self, condition: Callable[[], Any]) -> None:
        """Waits until a client has said something."""
        with self._changed:
            assert self._changed.wait_for(condition, PATIENCE_S), "the client did not say it"

    def params(self, method: str) -> dict[str, Any]:
        """The params of the only call of a method."""
        (call,) = [call for call in self.calls if call["method"] == method]
        return call.get("params", {})

    def say(self, message: Any) -> None:
        """Sends a message on every connection."""
        for connection in self._open:
            send(connection, message)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._open.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        talk = Talk(connection, self)
        frames = Frames(1 << 30)
        with suppress(OSError):
            while data := connection.recv(65_536):
                for payload in frames.split(data):
                    talk.hear(msgspec.msgpack.decode(payload))
        with self._changed:
            self.gone += 1
            self._changed.notify_all()

    def note(self, to: list[Any], said: Any) -> None:
        """Writes down what a client said."""
        with self._changed:
            to.append(said)
            self._changed.notify_all()


class Talk:
    """One connection. State: the ids that hang."""

    def __init__(self, connection: socket.socket, daemon: ScriptedDaemon) -> None:
        self._connection = connection
        self._daemon = daemon
        self._hanging: set[int] = set()
        self._sending = threading.Lock()

    def hear(self, message: dict[str, Any]) -> None:
        daemon = self._daemon
        match message["t"]:
            case "hello":
                daemon.note(daemon.hellos, message)
                self._greet(daemon.greeting)
            case "call":
                threading.Thread(target=self._answer, args=(message,), daemon=True).start()
            case "cancel":
                if message["id"] in self._hanging:
                    self._end(message["id"], Cancelled("the client cancelled the call"))
                daemon.note(daemon.cancels, message["id"])

    def send(self, message: Any) -> None:
        with self._sending:
            send(self._connection, message)

    def _greet(self, greeting: Any) -> None:
        if greeting is CLOSE:
            hang_up(self._connection)
        elif greeting is not HANG:
            self.send(greeting)

    def _answer(self, call: dict[str, Any]) -> None:
        method, number = call["method"], call["id"]
        answer = self._daemon.table.get(method, UnknownMethod(f"there is no method `{method}`"))
        if answer is HANG:
            self._hanging.add(number)
        self._daemon.note(self._daemon.calls, call)
        if callable(answer):
            answer = answer(call.get("params", {}))
        if isinstance(answer, Pieces):
            for piece in answer.items:
                self.send(Item(number, piece))
            answer.before_end()
            answer = answer.end
        if answer is HANG:
            self._hanging.add(number)
        self._end(number, answer)

    def _end(self, number: int, answer: Any) -> None:
        if answer is CLOSE:
            hang_up(self._connection)
        elif isinstance(answer, QuorumError):
            self.send(fault(answer, number))
        elif answer is not HANG:
            self.send(Done(number, answer))


def fault(error: QuorumError, number: int | msgspec.UnsetType = msgspec.UNSET) -> Fault:
    """The message for an error."""
    retry = msgspec.UNSET if error.retry_after_s is None else error.retry_after_s
    return Fault(error.code, error.message, number, error.detail, retry)


def send(connection: socket.socket, message: Any) -> None:
    """One message as a frame; a client that has gone does not matter."""
    with suppress(OSError):
        connection.sendall(encode_frame(message))


def hang_up(connection: socket.socket) -> None:
    """A full close: the client sees the end at once."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def chat_answer(text: str = "Hello", **changes: Any) -> dict[str, Any]:
    """The result of a chat."""
    return {
        "call_id": "c1",
        "usage_id": "u1",
        "text": text,
        "message": {"role": "assistant", "content": text},
        "finish_reason": "stop",
        "model_used": "openai:gpt-4o-mini",
        "simulated": False,
        "usage": {
            "prompt_tokens": 8,
            "cached_tokens": 0,
            "response_tokens": 2,
            "reasoning_tokens": 0,
            "source": "provider",
        },
        "cost_nano_usd": 2400,
        "price_version": "2025-01",
        "decision": {"targets": ["openai:gpt-4o-mini"], "reason": "explicit_model", "bound_nano_usd": 9000},
        "attempts": [
            {
                "usage_id": "u1",
                "model": "openai:gpt-4o-mini",
                "status": "ok",
                "cost_nano_usd": 2400,
                "latency_ms": 12.5,
            }
        ],
        "latency_ms": 412.5,
        "first_token_ms": 80.25,
        "warnings": [],
        **changes,
    }


def delta(text: str) -> dict[str, str]:
    """A piece of a chat's text."""
    return {"type": "delta", "text": text}
