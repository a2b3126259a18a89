"""The processes of a benchmark: the upstream, the daemon under test, and the C programs' build."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
from machine import DAEMON_CORE, LOAD_CORE, on_core

HERE = Path(__file__).parent
SOURCES = HERE / "c"
BIN = HERE / "bin"
PROGRAMS = {"upstream": ["upstream.c"], "load": ["load.c", "quorumd.c", "http.c"]}
COMPILE = ("gcc", "-O2", "-std=gnu11", "-Wall", "-Wextra")

INPUT_USD_PER_MTOK, OUTPUT_USD_PER_MTOK = 0.15, 0.60
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 40.0
_LENGTH = 4


class BenchError(Exception):
    """The benchmark can't go on; the message says why."""


def build() -> None:
    """Compiles what is older than its sources."""
    BIN.mkdir(exist_ok=True)
    newest = max(path.stat().st_mtime for path in SOURCES.iterdir())
    for name, sources in PROGRAMS.items():
        program = BIN / name
        if not program.exists() or program.stat().st_mtime < newest:
            subprocess.run([*COMPILE, "-o", str(program), *(str(SOURCES / source) for source in sources)], check=True)


class Upstream:
    """The fast upstream, on the generator's core.

    State: its process and port.
    """

    def __init__(self) -> None:
        with on_core(LOAD_CORE):
            self.process = subprocess.Popen([str(BIN / "upstream")], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline().split()[1])

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def stop(self) -> None:
        """Ends it."""
        self.process.terminate()
        self.process.wait()


class Answer(msgspec.Struct):
    """What the benchmark's own calls read of a message: a result or a fault."""

    t: str
    value: Any = None
    code: str = ""
    message: str = ""


class Client:
    """One blocking connection, for the few calls that are no load.

    State: the socket and the last id.
    """

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._last_id = 0
        try:
            self._socket.settimeout(START_TIMEOUT_S)
            self._socket.connect(str(path))
            self._send({"t": "hello", "protocol": 1, "app": "bench"})
            self._receive()
        except BaseException:
            self._socket.close()
            raise

    def call(self, method: str, **params: Any) -> Any:
        """The result. Raises BenchError on a fault."""
        self._last_id += 1
        self._send({"t": "call", "id": self._last_id, "method": method, "params": params})
        answer = self._receive()
        if answer.t != "done":
            raise BenchError(f"`{method}` was answered with {answer.code}: {answer.message}")
        return answer.value

    def close(self) -> None:
        """Hangs up."""
        self._socket.close()

    def _send(self, message: dict[str, Any]) -> None:
        payload = msgspec.msgpack.encode(message)
        self._socket.sendall(len(payload).to_bytes(_LENGTH, "big") + payload)

    def _receive(self) -> Answer:
        size = int.from_bytes(self._exactly(_LENGTH), "big")
        return msgspec.msgpack.decode(self._exactly(size), type=Answer)

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._socket.recv(size - len(data))
            if not more:
                raise ConnectionResetError("the daemon closed the connection")
            data += more
        return data


class Daemon:
    """The daemon under test, alone on its core, with a fresh folder and a config that has prices, a limit and a ledger.

    State: its process, and what its answers so far cost by their own word, to compare with its books.
    """

    def __init__(self, command: str, folder: Path, upstream: Upstream, models: list[str], durability: str) -> None:
        folder.mkdir(parents=True)
        (folder / "state").mkdir(mode=0o700)
        self.durability = durability
        self.socket = folder / "rpc.sock"
        self._config = folder / "config.toml"
        self._log = folder / "daemon.log"
        self._config.write_text(_config(upstream.port, models, durability))
        arguments = ["--config", str(self._config), "--state", str(folder / "state"), "--socket", str(self.socket)]
        self._command = [*shlex.split(command), *arguments]
        self.process: subprocess.Popen[bytes] | None = None
        self.acknowledged_nano_usd = 0

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self.process is not None
        return self.process.pid

    def start(self) -> float:
        """Seconds from spawning it to its first answer: connect as soon as it listens, hello, one chat, done."""
        environment = {**os.environ, "BENCH_KEY": "bench"}
        with self._log.open("ab") as log, on_core(DAEMON_CORE):
            begin = time.perf_counter()
            self.process = subprocess.Popen(self._command, env=environment, stdout=log, stderr=log)
        client = self._connect(begin + START_TIMEOUT_S)
        answer = client.call("chat", model="bench:sim", messages=[{"role": "user", "content": "hello"}])
        took = time.perf_counter() - begin
        client.close()
        self.acknowledged_nano_usd += answer["cost_nano_usd"] or 0
        return took

    def _connect(self, until: float) -> Client:
        while time.perf_counter() < until:
            try:
                return Client(self.socket)
            except OSError:
                time.sleep(0.001)
            if self.process and self.process.poll() is not None:
                raise BenchError(f"the daemon ended with {self.process.returncode}; its log ends:\n{self.log_end()}")
        raise BenchError(f"the daemon did not listen within {START_TIMEOUT_S:.0f} s; its log ends:\n{self.log_end()}")

    def log_end(self) -> str:
        """The last of what it logged."""
        return self._log.read_text(errors="replace")[-2000:]

    def stop(self) -> int:
        """Its exit code after SIGTERM; SIGKILL if it takes longer than it may."""
        if self.process is None:
            return 0
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def books(self) -> list[str]:
        """What is wrong with the daemon's books after a load; empty when they agree with what it answered."""
        client = Client(self.socket)
        try:
            scopes = client.call("spend")["scopes"]
        finally:
            client.close()
        wrong = [
            f"{scope['held_nano_usd']} n$ still held for {scope['scope']}" for scope in scopes if scope["held_nano_usd"]
        ]
        spent = [scope["spent_nano_usd"] for scope in scopes if scope["scope"] == "daemon"]
        if not spent:
            wrong.append("`spend` shows no scope `daemon` although it has a limit")
        elif spent[0] != self.acknowledged_nano_usd:
            wrong.append(f"answers cost {self.acknowledged_nano_usd} n$, the ledger has {spent[0]} n$")
        return wrong


def installed(program: str) -> str:
    """The command of a program that stands beside the running Python."""
    return shlex.quote(str(Path(sys.executable).parent / program))


def _config(port: int, models: list[str], durability: str) -> str:
    prices = "\n".join(
        f'[models."bench:{model}"]\n'
        f"input_usd_per_mtok = {INPUT_USD_PER_MTOK}\noutput_usd_per_mtok = {OUTPUT_USD_PER_MTOK}\n"
        for model in models
    )
    return f"""\
[daemon]
durability = "{durability}"

[limits]
month_usd = 1000000.0

[providers.bench]
kind = "openai"
base_url = "http://127.0.0.1:{port}/v1"
api_key = {{ env = "BENCH_KEY" }}
max_in_flight = 2000

{prices}"""
