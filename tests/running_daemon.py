"""The real daemon for tests, as a process: `with running_daemon.running(config) as daemon, daemon.connect() as quorum: …`.

Its state, socket and log lie in a temporary folder. Everything here blocks and needs no event loop.
"""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from protocols.client import connect_blocking
from protocols.client.blocking import BlockingConnection

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 15.0
"""How long anything here waits at most before it fails the test."""
KEPT_VARIABLES = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "COVERAGE_RUN", "COVERAGE_FILE")
"""What the daemon and `daemonctl` see of our environment: no key of the machine gets into a test."""
T = TypeVar("T")


class Ended(NamedTuple):
    """A process that has ended."""

    code: int
    out: str
    err: str


class Daemon:
    """A daemon and its folder; it may be stopped, killed and started again there."""

    def __init__(self, folder: Path, config: str, environment: Mapping[str, str], state: Path | None = None) -> None:
        self.folder = folder
        self.state = state or folder / "state"
        self.socket = folder / "rpc.sock"
        self.environment = _environment(environment)
        self.process: subprocess.Popen[bytes] | None = None
        self.program = _module("daemon")
        self.configure(config)

    def configure(self, config: str) -> None:
        """Writes the config; it counts from the next start."""
        (self.folder / "config.toml").write_text(config, "utf-8")

    @property
    def command(self) -> list[str]:
        """How it is started."""
        config = self.folder / "config.toml"
        said = ["--config", str(config), "--state", str(self.state), "--socket", str(self.socket)]
        return [sys.executable, *self.program, *said]

    def launch(self) -> None:
        """Starts it and waits for nothing."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command, cwd=ROOT, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def start(self) -> None:
        """Starts it and waits until it answers; AssertionError with the log if it does not."""
        self.launch()
        eventually(self._answers, "the daemon answers")

    def refused(self) -> Ended:
        """Starts it when it is expected to end by itself at once, and waits for that."""
        return _ended(self.command, self.environment)

    def check(self) -> Ended:
        """Runs it with `--check`."""
        return _ended([*self.command, "--check"], self.environment)

    def ctl(self, *arguments: str) -> Ended:
        """Runs `daemonctl`."""
        return _ended(
            [sys.executable, *_module("daemon.ctl"), "--socket", str(self.socket), *arguments], self.environment
        )

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Sends a signal."""
        self._running.send_signal(number)

    def wait(self, within_s: float = PATIENCE_S) -> int:
        """Waits for the end of the process; its exit code."""
        return self._running.wait(within_s)

    def stop(self) -> int:
        """Asks it to stop and waits; its exit code."""
        self.signal()
        return self.wait()

    def kill(self) -> None:
        """`kill -9`."""
        self.signal(signal.SIGKILL)
        self.wait()

    def restart(self) -> None:
        """Stops it if it runs, and starts it."""
        if self.process is not None and self.process.poll() is None:
            self.stop()
        self.start()

    def discard(self) -> None:
        """Leaves no process behind, whatever state it is in."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def connect(self, app: str = "test") -> BlockingConnection:
        """A client, for `with`."""
        return connect_blocking(app=app, path=self.socket, wait_s=PATIENCE_S)

    @contextmanager
    def json_lines(self) -> Iterator["JsonLines"]:
        """A client made of nothing but a socket and `json`."""
        with socket.socket(socket.AF_UNIX) as raw:
            raw.settimeout(PATIENCE_S)
            raw.connect(str(self.socket))
            yield JsonLines(raw)

    def call(self, method: str, **params: Any) -> Any:
        """One call on a connection of its own."""
        with self.connect() as quorum:
            return quorum.call(method, **params)

    def log(self) -> list[dict[str, Any]]:
        """The log so far, a dict a line."""
        lines = self.log_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def log_text(self) -> str:
        """The same as it is written."""
        return (self.folder / "log").read_text("utf-8")

    def database(self, query: str, *parameters: Any) -> list[dict[str, Any]]:
        """The rows of a query, read beside the running daemon."""
        with closing(sqlite3.connect(f"file:{self.state}/quorumd.sqlite3?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(query, parameters)]

    def held(self) -> int:
        """Nano-dollars held in all accounts together, as the daemon has it in memory."""
        return sum(row["held_nano_usd"] for row in self.call("spend")["scopes"])

    def spent(self, scope: str = "daemon") -> int:
        """Nano-dollars that a scope has spent this month, as the daemon has it in memory."""
        rows = self.call("spend")["scopes"]
        return sum(row["spent_nano_usd"] for row in rows if (row["scope"], row["period"]) == (scope, "month"))

    def rows(self) -> list[dict[str, Any]]:
        """The usage rows as the daemon shows them, newest first."""
        found: list[dict[str, Any]] = self.call("usage", last=10_000)["rows"]
        return found

    def balanced(self) -> None:
        """Asserts that nothing is held and that every book says the same: usage rows, journal, accounts, spend."""
        verdict = self.call("ledger.verify")
        assert (verdict["ok"], verdict["problems"], verdict["open_holds"]) == (True, [], 0)
        assert self.held() == 0
        costs = sum(row["cost_nano_usd"] or 0 for row in self.rows())
        (journal,) = self.database("SELECT sum(spent) AS spent, sum(held) AS held FROM journal")
        (usage,) = self.database("SELECT sum(cost) AS cost FROM usage")
        (account,) = self.database("SELECT spent, held FROM accounts WHERE scope = 'daemon' AND period = 'month'")
        assert (
            costs == self.spent() == verdict["spent_nano_usd"] == journal["spent"] == usage["cost"] == account["spent"]
        )
        assert journal["held"] == account["held"] == 0

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        assert self.process is not None, "the daemon was not started"
        return self.process

    def _answers(self) -> bool:
        ended = self._running.poll()
        assert ended is None, f"the daemon ended with {ended}:\n{self.log_text()}"
        with socket.socket(socket.AF_UNIX) as knock:
            return knock.connect_ex(str(self.socket)) == 0


class JsonLines:
    """A connection of JSON lines. State: what arrived of the next line."""

    def __init__(self, raw: socket.socket) -> None:
        self.raw = raw
        self._unread = b""

    def send(self, *messages: Mapping[str, Any]) -> None:
        """Sends messages, all at once."""
        self.raw.sendall(b"".join(json.dumps(message).encode() + b"\n" for message in messages))

    def hear(self) -> dict[str, Any] | None:
        """The next message; None at the end."""
        while b"\n" not in self._unread:
            data = self.raw.recv(65536)
            if not data:
                assert not self._unread, f"the daemon closed in the middle of a line: {self._unread[:200]!r}"
                return None
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def until_end_of(self, call_id: int) -> list[dict[str, Any]]:
        """The messages of a call up to its `done` or `fault`."""
        heard = []
        while (message := self.hear()) is not None:
            if message.get("id") == call_id:
                heard.append(message)
                if message["t"] in {"done", "fault"}:
                    return heard
        raise AssertionError(f"the daemon closed before call {call_id} ended; heard: {heard}")


@contextmanager
def running(
    config: str = "", *, environment: Mapping[str, str] | None = None, state: Path | None = None, start: bool = True
) -> Iterator[Daemon]:
    """A daemon with this config; `environment` is what it sees besides the usual, `state` a folder shared with another."""
    with tempfile.TemporaryDirectory(prefix="quorumd-", ignore_cleanup_errors=True) as folder:
        daemon = Daemon(Path(folder), config, environment or {}, state)
        _lay_prices(daemon.state)
        try:
            if start:
                daemon.start()
            yield daemon
        finally:
            daemon.discard()


def eventually(look: Callable[[], T], what: str, within_s: float = PATIENCE_S) -> T:
    """Polls until `look` gives something true, and returns it. Raises AssertionError with the last it gave."""
    until = time.monotonic() + within_s
    while not (seen := look()):
        assert time.monotonic() < until, f"not within {within_s} s: {what}; last seen: {seen!r}"
        time.sleep(0.01)
    return seen


def watch(daemon: Daemon) -> Path:
    """Has the database itself write down what the daemon's month has spent and holds at every change, in a table of ours.

    It sees each change within a commit, so also what the commit leaves, which a reader beside it may miss.
    """
    database = daemon.state / "quorumd.sqlite3"
    with closing(sqlite3.connect(database)) as connection:
        connection.executescript("""
            CREATE TABLE seen_by_the_test (spent INTEGER, held INTEGER);
            CREATE TRIGGER the_test_sees AFTER UPDATE ON accounts WHEN NEW.scope = 'daemon' AND NEW.period = 'month'
            BEGIN INSERT INTO seen_by_the_test VALUES (NEW.spent, NEW.held); END;
        """)
    return database


def provider(name: str, kind: str, base_url: str, **options: Any) -> str:
    """A `[providers.…]` section. A value is written as JSON, which for text, numbers and booleans is TOML."""
    said = {"kind": kind, "base_url": base_url} | options
    lines = [f"{key} = {value if key == 'api_key' else json.dumps(value)}" for key, value in said.items()]
    return "\n".join([f"[providers.{name}]", *lines, ""])


def priced(*models: str, usd_in: float = 3.0, usd_out: float = 15.0, **options: Any) -> str:
    """`[models]` entries with prices in dollars per million tokens."""
    said = {"input_usd_per_mtok": usd_in, "output_usd_per_mtok": usd_out} | options
    lines = [f"{key} = {json.dumps(value)}" for key, value in said.items()]
    return "\n".join("\n".join([f"[models.{json.dumps(name)}]", *lines, ""]) for name in models)


def _environment(added: Mapping[str, str]) -> dict[str, str]:
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    return kept | {"PYTHONPATH": str(ROOT), "OLLAMA_HOST": "127.0.0.1:9"} | dict(added)


def _module(name: str) -> list[str]:
    """Python's arguments to run a module, measured when COVERAGE_RUN is set."""
    measured = ["-m", "coverage", "run", f"--rcfile={ROOT}/pyproject.toml"] if os.environ.get("COVERAGE_RUN") else []
    return [*measured, "-m", name]


def _ended(command: list[str], environment: Mapping[str, str]) -> Ended:
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())


@cache
def _prices() -> bytes:
    """The price book as the daemon builds it, once for all tests: it takes longer than the rest of a start."""
    with tempfile.TemporaryDirectory(prefix="quorumd-prices-", ignore_cleanup_errors=True) as folder:
        daemon = Daemon(Path(folder), provider("any", "openai", "http://127.0.0.1:9/v1"), {})
        try:
            daemon.start()
        finally:
            daemon.discard()
        return (daemon.state / "prices.msgpack").read_bytes()


def _lay_prices(state: Path) -> None:
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    (state / "prices.msgpack").write_bytes(_prices())
