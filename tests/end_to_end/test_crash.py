"""`kill -9` under load: what was acknowledged is there, no hold is left open, the books balance. And the books' own troubles."""

import random
import signal
import socket
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from threading import Event

import pytest
import running_daemon
import simulated_provider
from running_daemon import Daemon, JsonLines, eventually, priced, provider
from simulated_provider import Provider, model

ROUNDS = 20
NIGHTLY_ROUNDS = 200
CLIENTS = 4
LOAD = [
    "sim",
    model(chunks=8, pace_ms=4),
    model(latency_ms=15),
    model(chunks=60, pace_ms=10),
    model(fail=500),
    model(chunks=9, break_at=3),
]
"""What the clients ask for in turn: at once, streamed, late, longer than a round, failing, broken off."""
SILENT = model(latency_ms=60_000)


@pytest.fixture(scope="module")
def upstream() -> Iterator[Provider]:
    with simulated_provider.running() as running:
        yield running


def config(upstream: Provider, limits: str = "", durability: str = "power") -> str:
    sections = [
        f'[daemon]\ndurability = "{durability}"',
        limits,
        provider("paid", "openai", upstream.base_url()),
        provider("home", "ollama", upstream.base_url("ollama")),
    ]
    return "\n".join([*sections, priced(*[f"paid:{name}" for name in [*LOAD, SILENT]])])


class Load:
    """Clients that ask until the daemon is gone. State: every `usage_id` with its cost that a `done` acknowledged, and the faults' codes."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.acknowledged: dict[str, int] = {}
        self.codes: set[str] = set()
        self.over = Event()

    def one_client(self, number: int) -> None:
        """Several calls at once on one connection, a new one for each that ends."""
        try:
            with self.daemon.json_lines() as lines:
                for call_id in range(number, number + 3):
                    self._ask(lines, call_id)
                call_id = number + 3
                while (message := lines.hear()) is not None and not self.over.is_set():
                    if message["t"] in {"done", "fault"}:
                        self._note(message)
                        self._ask(lines, call_id)
                        call_id += 1
        except (OSError, AssertionError):  # killed in the middle of a line, or before it took the connection
            return

    def _ask(self, lines: JsonLines, call_id: int) -> None:
        params = {
            "model": f"paid:{LOAD[call_id % len(LOAD)]}",
            "messages": [{"role": "user", "content": "hi"}],
            "stream": call_id % 2 == 0,
            "max_tokens": 300,
        }
        lines.send({"t": "call", "id": call_id, "method": "chat", "params": params})

    def _note(self, message: dict) -> None:
        if message["t"] == "done":
            self.acknowledged[message["value"]["usage_id"]] = message["value"]["cost_nano_usd"]
        else:
            self.codes.add(message["code"])


def kill_under_load(rounds: int, upstream: Provider, durability: str) -> None:
    """The same state folder through all rounds; each ends with `kill -9` at a random moment."""
    chance = random.Random(rounds)
    acknowledged: dict[str, int] = {}
    with (
        running_daemon.running(config(upstream, durability=durability), start=False) as daemon,
        ThreadPoolExecutor(CLIENTS) as clients,
    ):
        for _ in range(rounds):
            daemon.start()
            load = Load(daemon)
            running = [clients.submit(load.one_client, number * 7) for number in range(CLIENTS)]
            time.sleep(chance.uniform(0.0, 0.4))  # the moment of the kill is what varies: nothing is waited for
            daemon.kill()
            load.over.set()
            for client in running:
                client.result()
            acknowledged |= load.acknowledged
            assert load.codes <= {"provider_error", "truncated", "provider_unavailable"}
        daemon.start()
        daemon.balanced()
        stored = {row["id"]: row for row in daemon.database("SELECT id, cost, status, cost_source FROM usage")}
        assert len(acknowledged) > rounds * 5
        assert {usage_id: stored[usage_id]["cost"] for usage_id in acknowledged} == acknowledged
        assert {stored[usage_id]["status"] for usage_id in acknowledged} == {"ok"}
        assert daemon.database("SELECT id FROM holds WHERE state = 'held'") == []
        unknown = {row["id"] for row in stored.values() if row["status"] == "unknown"}
        assert unknown
        assert {row["hold_id"] for row in daemon.call("holds")["holds"]} == unknown
        assert daemon.database("SELECT usage_id FROM journal GROUP BY usage_id HAVING count(*) <> 2") == []


@pytest.mark.parametrize("durability", ["power"])
def test_killed_again_and_again_under_load_it_loses_nothing_that_was_acknowledged(durability, upstream):
    kill_under_load(ROUNDS, upstream, durability)


@pytest.mark.nightly
@pytest.mark.parametrize("durability", ["power", "process"])
def test_killed_two_hundred_times_under_load_it_loses_nothing_that_was_acknowledged(durability, upstream):
    kill_under_load(NIGHTLY_ROUNDS, upstream, durability)


def ask(lines: JsonLines, name: str, call_id: int = 1, max_tokens: int = 1000) -> None:
    params = {
        "model": f"paid:{name}",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "max_tokens": max_tokens,
    }
    lines.send({"t": "call", "id": call_id, "method": "chat", "params": params})


def test_a_request_that_had_left_when_it_was_killed_is_posted_at_its_hold_and_listed(upstream):
    upstream.reset()
    with running_daemon.running(config(upstream)) as daemon:
        with daemon.json_lines() as lines:
            ask(lines, SILENT)
            upstream.wait_for(len)
            daemon.kill()
        daemon.start()
        (row,) = daemon.rows()
        (hold,) = daemon.call("holds")["holds"]
        (entry,) = daemon.database("SELECT held FROM journal WHERE entry = 0")
        assert (row["status"], row["cost_source"], row["cost_nano_usd"]) == ("unknown", "estimated", entry["held"])
        assert (hold["usage_id"], hold["state"], hold["amount_nano_usd"]) == (row["usage_id"], "unknown", entry["held"])
        daemon.balanced()
        daemon.restart()  # it is posted once, not again at each start
        assert len(daemon.rows()) == 1
        daemon.balanced()


@contextmanager
def nobody_accepts() -> Iterator[int]:
    """A port whose backlog is full: a connection to it stays under way, so no byte of a request leaves."""
    with socket.socket() as listener, ExitStack() as waiting:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            one = waiting.enter_context(socket.socket())
            one.settimeout(0)
            one.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def test_a_request_that_had_not_left_when_it_was_killed_costs_nothing(upstream):
    with (
        nobody_accepts() as port,
        running_daemon.running(config(upstream).replace(f":{upstream.port}/v1", f":{port}/v1")) as daemon,
    ):
        with daemon.json_lines() as lines:
            ask(lines, "sim")
            eventually(lambda: daemon.database("SELECT id FROM holds"), "the hold is durable")
            daemon.kill()
        daemon.start()
        (row,) = daemon.rows()
        assert (row["status"], row["cost_nano_usd"]) == ("not_sent", 0)
        assert daemon.call("holds")["holds"] == []
        daemon.balanced()


def test_two_calls_with_room_for_one_send_exactly_one_upstream(upstream):
    upstream.reset()
    limits = "[limits]\nmonth_usd = 0.02\n"  # a call may cost 0.0153 and a little
    with (
        running_daemon.running(config(upstream, limits)) as daemon,
        daemon.json_lines() as one,
        daemon.json_lines() as other,
    ):
        upstream.set(chunks=20, pace_ms=20)
        ask(one, "sim")
        ask(other, "sim")
        ends = [lines.until_end_of(1)[-1] for lines in (one, other)]
        assert sorted(end["t"] for end in ends) == ["done", "fault"]
        (fault,) = [end for end in ends if end["t"] == "fault"]
        detail = fault["detail"]
        assert fault["code"] == "budget_held"
        assert fault["retry_after_s"] > 0
        assert (detail["spent_nano_usd"], detail["limit_nano_usd"], detail["scope"]) == (0, 20_000_000, "daemon")
        assert 15_000_000 < detail["held_nano_usd"] < 20_000_000
        assert detail["held_nano_usd"] + detail["bound_nano_usd"] > detail["limit_nano_usd"]
        assert len(upstream.chats()) == 1
        assert len(daemon.rows()) == 1
        ask(other, "sim", call_id=2)  # the first has settled far below its hold
        assert other.until_end_of(2)[-1]["t"] == "done"
        daemon.balanced()


def test_of_many_calls_at_once_no_more_go_upstream_than_fit(upstream):
    upstream.reset()
    upstream.set(latency_ms=300)
    with (
        running_daemon.running(config(upstream, "[limits]\nmonth_usd = 0.1\n")) as daemon,
        daemon.json_lines() as lines,
    ):
        for call_id in range(1, 41):
            ask(lines, "sim", call_id)
        ends = []
        while len(ends) < 40:
            message = lines.hear()
            ends += [message] if message["t"] in {"done", "fault"} else []
        assert [end["code"] for end in ends if end["t"] == "fault"] == ["budget_held"] * 34
        assert len(upstream.chats()) == 6
        daemon.balanced()


def test_a_call_that_could_never_fit_hears_budget_exceeded_and_when_it_resets(upstream):
    upstream.reset()
    with (
        running_daemon.running(config(upstream, "[limits]\nmonth_usd = 0.01\n")) as daemon,
        daemon.json_lines() as lines,
    ):
        ask(lines, "sim")
        (fault,) = lines.until_end_of(1)
        detail = fault["detail"]
        assert fault["code"] == "budget_exceeded"
        assert (detail["spent_nano_usd"], detail["held_nano_usd"], detail["limit_nano_usd"]) == (0, 0, 10_000_000)
        assert detail["resets_at"].endswith("Z")
        assert detail["resets_at"] in fault["message"]
        assert "max_tokens" in fault["message"]
        assert upstream.chats() == []
        assert daemon.database("SELECT * FROM usage") == daemon.database("SELECT * FROM journal") == []
        ask(lines, "sim", call_id=2, max_tokens=100)
        assert lines.until_end_of(2)[-1]["t"] == "done"


def test_a_limit_counts_what_was_spent_before_a_restart(upstream):
    upstream.set(prompt_tokens=1000, response_tokens=1000)
    with running_daemon.running(config(upstream, "[limits]\nmonth_usd = 0.02\n")) as daemon:
        with daemon.json_lines() as lines:
            ask(lines, "sim")
            assert lines.until_end_of(1)[-1]["value"]["cost_nano_usd"] == 18_000_000
        for end in (daemon.stop, daemon.kill):
            if end == daemon.kill:
                daemon.start()
            end()
            daemon.start()
            with daemon.json_lines() as lines:
                ask(lines, "sim")
                (fault,) = lines.until_end_of(1)
            assert (fault["code"], fault["detail"]["spent_nano_usd"]) == ("budget_exceeded", 18_000_000)
            daemon.stop()


def contents(daemon: Daemon) -> bytes:
    return (daemon.state / "quorumd.sqlite3").read_bytes()


def whole_books(upstream: Provider, daemon: Daemon) -> None:
    """Some rows, all in the database file itself."""
    upstream.reset()
    daemon.start()
    with daemon.json_lines() as lines:
        for call_id in range(1, 21):
            ask(lines, "sim", call_id)
            assert lines.until_end_of(call_id)[-1]["t"] == "done"
    assert daemon.stop() == 0
    assert not (daemon.state / "quorumd.sqlite3-wal").exists()


@pytest.mark.parametrize("damage", ["its head is overwritten", "it is no database", "its pages are overwritten"])
def test_a_damaged_ledger_is_kept_as_it_is_and_no_paid_call_runs(damage, upstream):
    with running_daemon.running(config(upstream), start=False) as daemon:
        whole_books(upstream, daemon)
        data = bytearray(contents(daemon))
        match damage:
            case "its head is overwritten":
                data[:64] = b"x" * 64
            case "it is no database":
                data[:] = b"these are no books\n" * 100
            case "its pages are overwritten":
                data[4096:] = b"\xa5" * (len(data) - 4096)
        (daemon.state / "quorumd.sqlite3").write_bytes(data)
        upstream.reset()
        daemon.start()
        with daemon.json_lines() as lines:
            ask(lines, "sim")
            (fault,) = lines.until_end_of(1)
            assert fault["code"] == "ledger_readonly", fault
            assert "backup" in fault["message"]
            status = daemon.call("status")
            assert not status["healthy"]
            assert any("damaged" in warning for warning in status["warnings"])
        assert daemon.ctl("status").code == 1
        assert upstream.chats() == []
        assert daemon.stop() == 0
        assert contents(daemon) == bytes(data)


def test_a_newer_schema_is_refused_and_left_alone(upstream):
    with running_daemon.running(config(upstream), start=False) as daemon:
        whole_books(upstream, daemon)
        with closing(sqlite3.connect(daemon.state / "quorumd.sqlite3")) as connection:
            connection.execute("PRAGMA user_version = 99")
            connection.commit()
        before = contents(daemon)
        ended = daemon.refused()
        assert ended.code == 1
        assert "schema 99" in ended.err
        assert "newer quorumd" in ended.err
        assert "Traceback" not in ended.err
        assert not daemon.socket.exists()
        assert contents(daemon) == before


def test_the_database_of_another_program_is_refused_and_left_alone(upstream):
    with running_daemon.running(config(upstream), start=False) as daemon:
        with closing(sqlite3.connect(daemon.state / "quorumd.sqlite3")) as connection:
            connection.execute("CREATE TABLE theirs (a)")
            connection.execute("PRAGMA user_version = 3")
            connection.commit()
        before = contents(daemon)
        ended = daemon.refused()
        assert (ended.code, contents(daemon)) == (1, before)
        assert "another program" in ended.err


def test_killed_while_it_starts_it_starts_again(upstream):
    chance = random.Random(5)
    with running_daemon.running(config(upstream), start=False) as daemon:
        whole_books(upstream, daemon)
        for _ in range(8):
            daemon.launch()
            time.sleep(chance.uniform(0.02, 0.25))  # any moment of the start
            daemon.signal(signal.SIGKILL)
            daemon.wait()
        daemon.start()
        assert len(daemon.rows()) == 20
        daemon.balanced()
