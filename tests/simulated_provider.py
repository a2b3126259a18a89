"""The simulated provider for tests: `with simulated_provider.running(latency_ms=5) as provider: …`.

Everything here blocks and needs no event loop, so it serves sync and async tests alike.
"""

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import urlencode

Dialect = Literal["openai", "anthropic", "ollama"]

ROOT = Path(__file__).resolve().parent.parent
MODULE = "actors.providers.simulated"
PATIENCE_S = 10.0
"""How long anything here waits at most before it fails the test."""
PATHS: dict[Dialect, str] = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages", "ollama": "/api/chat"}


class Answered(NamedTuple):
    """A response as far as it came; `broken` says what ended it before its end."""

    status: int
    headers: dict[str, str]
    body: bytes
    broken: Exception | None = None

    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


class Provider:
    """A running simulated provider."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.port = port

    def base_url(self, dialect: Dialect = "openai") -> str:
        """As a config would name it."""
        origin = f"http://127.0.0.1:{self.port}"
        return f"{origin}/v1" if dialect == "openai" else origin

    def connect(self) -> http.client.HTTPConnection:
        """A connection of one's own; close it."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)

    def chat(
        self, dialect: Dialect, model: str = "sim", *, headers: Mapping[str, str] | None = None, **fields: Any
    ) -> Answered:
        """One chat, asked directly; `fields` go into the request, `stream` is false unless said."""
        said = [{"role": "user", "content": "hello"}]
        request = {"model": model, "messages": said, "stream": False, "max_tokens": 1000} | fields
        version = {"anthropic-version": "2023-06-01"} if dialect == "anthropic" else {}
        return self.send("POST", PATHS[dialect], json.dumps(request), version | dict(headers or {}))

    def send(
        self, method: str, path: str, body: str | bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Answered:
        """Any request. A response that breaks off is returned as far as it came."""
        connection = self.connect()
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            named = {name.lower(): value for name, value in response.getheaders()}
            pieces: list[bytes] = []
            try:
                while piece := response.read1():
                    pieces.append(piece)
            except (http.client.HTTPException, OSError) as error:
                return Answered(response.status, named, b"".join(pieces), error)
            return Answered(response.status, named, b"".join(pieces))
        finally:
            connection.close()

    def requests(self, *, bodies: bool = False) -> list[dict[str, Any]]:
        """The last 1000 requests, oldest first; see `record.Record`."""
        log: list[dict[str, Any]] = self._ask("GET", f"/simulated/requests?bodies={int(bodies)}")["requests"]
        return log

    def chats(self, *, bodies: bool = False) -> list[dict[str, Any]]:
        """The requests without health probes."""
        return [request for request in self.requests(bodies=bodies) if request["method"] == "POST"]

    def counters(self) -> dict[str, Any]:
        """See `record.Counters`."""
        counters: dict[str, Any] = self._ask("GET", "/simulated/requests")["counters"]
        return counters

    def set(self, **behaviour: Any) -> None:
        """Replaces the server's behaviour; knobs that are not named go back to their defaults."""
        self._ask("POST", "/simulated/behaviour", behaviour)

    def reset(self) -> None:
        """Forgets the requests; the behaviour is again that of the start."""
        self._ask("POST", "/simulated/reset")

    def wait_for(
        self, seen: Callable[[list[dict[str, Any]]], Any], within_s: float = PATIENCE_S
    ) -> list[dict[str, Any]]:
        """Polls `chats` until `seen` is true of them, and returns them. Raises AssertionError with the last ones."""
        until = time.monotonic() + within_s
        while not seen(chats := self.chats()):
            assert time.monotonic() < until, f"not seen within {within_s} s; the chats are {chats}"
            time.sleep(0.01)
        return chats

    def stop(self) -> None:
        """Ends the process and waits for it."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(PATIENCE_S)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        answered = self.send(method, path, json.dumps(body or {}))
        answer: dict[str, Any] = answered.json()
        if answered.status >= 400:
            raise ValueError(answer)
        return answer


def model(name: str = "sim", **knobs: Any) -> str:
    """A model name that carries its behaviour: `model(latency_ms=5)` is `sim?latency_ms=5`."""
    said = {knob: value if isinstance(value, str) else json.dumps(value) for knob, value in knobs.items()}
    return f"{name}?{urlencode(said)}" if said else name


def start(*, models: Sequence[str] = (), key: str | None = None, **behaviour: Any) -> Provider:
    """Starts one that ends with this process at the latest. `running` is what tests want."""
    command = [sys.executable, "-m", MODULE, "--parent-pid", str(os.getpid())]
    command += ["--models", ",".join(models)] if models else []
    command += ["--key", key] if key is not None else []
    command += ["--behaviour", json.dumps(behaviour)] if behaviour else []
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    provider = Provider(process, 0)
    try:
        line = process.stdout.readline()
        assert line, "the simulated provider didn't start; its stderr says why"
        provider.port = json.loads(line)["port"]
    except BaseException:
        provider.stop()
        raise
    return provider


@contextmanager
def running(*, models: Sequence[str] = (), key: str | None = None, **behaviour: Any) -> Iterator[Provider]:
    """A simulated provider in a process of its own."""
    provider = start(models=models, key=key, **behaviour)
    try:
        yield provider
    finally:
        provider.stop()
