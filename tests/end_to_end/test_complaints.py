"""What users of systems like this one complain of most, as far as it is about money: each complaint is a test that it can't be made."""

import json
import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import running_daemon
import simulated_provider
from running_daemon import ROOT, Daemon, JsonLines, eventually, priced, provider
from simulated_provider import Provider, model

CENT, CENT_NANO = 100, 10_000_000
"""Tokens of an answer, and what they cost; a prompt costs nothing."""
BELOW = model(response_tokens=8 * CENT, latency_ms=100)
QUICK = model(response_tokens=CENT)
STREAM, LONG, SILENT = model(chunks=10, pace_ms=10), model(chunks=500, pace_ms=20), model(latency_ms=60_000)
TRUNCATED = {
    "reset": model(chunks=20, break_at=8, pace_ms=2),
    "ended without its end mark": model(chunks=20, end_early_at=8, pace_ms=2),
}
FAILING = [model(fail=500), model(fail=400), model(close_before_head=True), *TRUNCATED.values()]
MODELS = [BELOW, QUICK, STREAM, LONG, SILENT, *FAILING]
KINDS = ("openai", "anthropic", "ollama")


@pytest.fixture(scope="module")
def upstream() -> Iterator[Provider]:
    with simulated_provider.running() as running:
        yield running


@pytest.fixture(autouse=True)
def fresh(upstream: Provider) -> None:
    upstream.reset()


def config(upstream: Provider, limits: str = "", **options: object) -> str:
    """`paid` for what goes well, `failing` for what does not, so that its breaker is its own."""
    names = ("paid", "failing")
    sections = [
        limits,
        *[provider(name, "openai", upstream.base_url(), max_in_flight=500, **options) for name in names],
    ]
    sections += [priced(*[f"{name}:{each}" for name in names for each in MODELS], usd_in=0.0, usd_out=100.0)]
    return "\n".join(sections)


def asked(name: str, cents: int = 10, **more: object) -> dict:
    """A call that may cost so much."""
    return {"model": name, "messages": [{"role": "user", "content": "hi"}], "max_tokens": cents * CENT} | more


def ask(lines: JsonLines, *calls: dict, first: int = 0, **fields: object) -> None:
    """Sends calls, numbered from `first`."""
    lines.send(*[{"t": "call", "id": i, "method": "chat", "params": c, **fields} for i, c in enumerate(calls, first)])


def ends(lines: JsonLines, calls: int) -> list[dict]:
    """What ends so many calls."""
    heard = []
    while len(heard) < calls:
        message = lines.hear()
        assert message is not None, f"the daemon closed after {len(heard)} of {calls} ends"
        heard += [message] if message["t"] in {"done", "fault"} else []
    return heard


def codes(heard: list[dict]) -> Counter[str]:
    return Counter(end.get("code", end["t"]) for end in heard)


def idle(daemon: Daemon) -> None:
    eventually(lambda: daemon.call("status")["calls_in_flight"] == 0, "no call is under way")


def test_phantom_spend_from_leaked_holds(upstream):
    """Calls that end in every way; then the rest of the budget is there to the last token."""
    chance = random.Random(1)
    with running_daemon.running(config(upstream, "[limits]\nmonth_usd = 5\n")) as daemon, daemon.json_lines() as lines:
        with daemon.json_lines() as gone:
            ask(gone, *[asked(f"paid:{chance.choice([LONG, SILENT])}", 5, stream=True)] * 8)
            ask(lines, *[asked(f"failing:{FAILING[at % len(FAILING)]}", 5, stream=at % 2 == 0) for at in range(12)])
            ask(lines, *[asked(f"paid:{LONG}", 5, stream=True)] * 8, first=100)
            ask(lines, *[asked(f"paid:{LONG}", 5, stream=True)] * 8, first=200, deadline_s=0.3)
            upstream.wait_for(lambda chats: len(chats) >= 24)
        time.sleep(0.1)
        lines.send(*[{"t": "cancel", "id": at} for at in range(100, 108)])
        ends(lines, 28)
        idle(daemon)
        daemon.balanced()
        left = 5_000_000_000 - daemon.spent()
        assert left < 5_000_000_000
        all_of_it = asked(f"paid:{QUICK}") | {"max_tokens": left // (CENT_NANO // CENT)}
        ask(lines, all_of_it | {"max_tokens": all_of_it["max_tokens"] + 1}, all_of_it)
        assert codes(ends(lines, 2)) == {"budget_exceeded": 1, "done": 1}


def test_overspend_by_read_then_write(upstream):
    limits = "[limits]\nmonth_usd = 1.0\n"
    with running_daemon.running(config(upstream, limits)) as daemon, ExitStack() as opened:
        several = [opened.enter_context(daemon.json_lines()) for _ in range(8)]
        for lines in several:
            ask(lines, *[asked(f"paid:{BELOW}")] * 25)
        assert sum((codes(ends(lines, 25)) for lines in several), Counter()) == {"done": 10, "budget_held": 190}
        assert len(upstream.chats()) == 10
        assert daemon.spent() == 80 * CENT_NANO
        daemon.balanced()


@pytest.mark.parametrize("admission", ["strict", "queue", "soft"])
@pytest.mark.parametrize("limit", ["month_usd = 0.3", "providers.paid = { month_usd = 0.3 }"])
def test_a_free_primary_with_a_paid_fallback_that_passes_the_budget(limit, admission):
    broken = model("broken", fail=503, latency_ms=20)
    with (
        simulated_provider.running(models=["broken"]) as free,
        simulated_provider.running(models=["m"], response_tokens=8 * CENT, latency_ms=100) as paid,
    ):
        sections = [
            f"[limits]\n{limit}\n",
            provider("free", "openai", free.base_url(), local=True),
            provider("paid", "openai", paid.base_url()),
            priced("paid:m", usd_in=0.0, usd_out=100.0) + '[models."free:broken"]\nretired = true\n',
        ]
        with running_daemon.running("\n".join(sections)) as daemon, daemon.json_lines() as lines:
            eventually(lambda: len({m["provider"] for m in daemon.call("models")["models"]}) == 2, "both have listed")
            daemon.call("settings.set", key="default_model", value=f"free:{broken}")
            call = asked("", admission=admission)
            del call["model"]
            ask(lines, *[call] * 20)
            heard = codes(ends(lines, 20))
            assert heard["done"] == 3, heard
            assert len(free.chats()) > 3
            ask(lines, call)
            assert codes(ends(lines, 1))["done"] == 0
            assert len(paid.chats()) == 3
            assert daemon.spent() == 24 * CENT_NANO
            daemon.balanced()


def test_usage_rows_lost_on_sigterm(upstream):
    with running_daemon.running(config(upstream, "[daemon]\ndrain_s = 0.4\n")) as daemon, daemon.json_lines() as lines:
        ask(lines, *[asked(f"paid:{BELOW}")] * 20)
        ask(lines, *[asked(f"paid:{LONG}", stream=True)] * 20, first=100)
        upstream.wait_for(lambda chats: len(chats) == 40)
        time.sleep(0.1)
        daemon.signal()
        heard = codes(ends(lines, 40))
        assert heard == {"done": 20, "shutting_down": 20}
        assert daemon.wait() == 0
        daemon.start()
        rows = daemon.rows()
        assert Counter(row["status"] for row in rows) == {"ok": 20, "shutting_down": 20}
        assert all(row["cost_nano_usd"] > 0 for row in rows)
        daemon.balanced()


def test_usage_rows_lost_on_a_failed_commit(upstream):
    """Nobody hears of success, the money counts as spent at once, and after a start the row is there at what was held."""
    with (
        running_daemon.running(config(upstream, "[limits]\nmonth_usd = 1.0\n")) as daemon,
        daemon.json_lines() as lines,
    ):

        def change(sql: str) -> None:
            with closing(sqlite3.connect(daemon.state / "quorumd.sqlite3")) as connection:
                connection.executescript(sql)

        change("CREATE TRIGGER no_rows BEFORE INSERT ON usage BEGIN SELECT RAISE(ABORT, 'the test says no'); END;")
        ask(lines, *[asked(f"paid:{BELOW}")] * 3)
        assert codes(ends(lines, 3)) == {"internal": 3}
        assert daemon.spent() == 24 * CENT_NANO
        daemon.kill()
        change("DROP TRIGGER no_rows")
        daemon.start()
        assert [(row["status"], row["cost_nano_usd"]) for row in daemon.rows()] == [("unknown", 10 * CENT_NANO)] * 3
        daemon.balanced()


def test_alerts_on_every_request(upstream):
    """One a level for a budget, though every call after it is above them all."""
    with running_daemon.running(config(upstream)) as daemon, daemon.connect() as quorum:
        quorum.call("settings.set", key="month_usd", value=0.2)
        quorum.call("settings.set", key="enforce_budget_limits", value=False)
        told: Counter[int] = Counter()
        for at in range(60):
            if at in {30, 45}:  # the same limit said again is no other limit
                quorum.call("settings.set", key="month_usd", value=0.2)
            warnings = quorum.call("chat", **asked(f"paid:{QUICK}", 1))["warnings"]
            told.update(at for each in warnings if each["code"].startswith("budget_"))
        assert told == {14: 1, 15: 1, 17: 1, 19: 1}
        assert [alert["level"] for alert in quorum.call("alerts")["alerts"]] == [100, 90, 80, 75]


@contextmanager
def one_id_for_all() -> Iterator[str]:
    """A provider whose every answer has the same id; its base URL."""

    class Answers(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.say({"object": "list", "data": [{"id": "m", "object": "model"}]})

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            message = {"role": "assistant", "content": "hello"}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            usage = {"prompt_tokens": 1, "completion_tokens": CENT, "total_tokens": CENT + 1}
            head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m"}
            self.say(head | {"choices": [choice], "usage": usage})

        def say(self, document: dict) -> None:
            body = json.dumps(document).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


def test_provider_ids_as_primary_keys():
    """Two providers and all answers with one id: a row each, and all of the money."""
    with one_id_for_all() as url:
        sections = [provider("one", "openai", url), provider("two", "openai", url)]
        sections += [priced("one:m", "two:m", usd_in=0.0, usd_out=100.0)]
        with running_daemon.running("\n".join(sections)) as daemon, daemon.json_lines() as lines:
            ask(lines, *[asked("one:m"), asked("two:m")] * 10)
            heard = ends(lines, 20)
            assert codes(heard) == {"done": 20}
            rows = daemon.rows()
            assert {row["usage_id"] for row in rows} == {end["value"]["usage_id"] for end in heard}
            assert Counter(row["model"] for row in rows) == {"one:m": 10, "two:m": 10}
            assert daemon.spent() == 20 * CENT_NANO
            daemon.balanced()


@pytest.mark.parametrize("how", TRUNCATED)
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_truncated_streams_that_end_as_success(how, stream, upstream):
    with running_daemon.running(config(upstream)) as daemon, daemon.json_lines() as lines:
        ask(lines, asked(f"paid:{TRUNCATED[how]}", stream=stream))
        *items, end = lines.until_end_of(0)
        assert end["t"] == "fault"
        (row,) = daemon.rows()
        assert row["status"] == end["code"]
        if stream:  # billed for what was emitted
            assert end["code"] == "truncated"
            assert end["detail"]["partial"] == "".join(item["value"]["text"] for item in items) != ""
            assert end["detail"]["usage_id"] == row["usage_id"]
            assert 0 < row["cost_nano_usd"] < row["held_nano_usd"] // 4
        else:  # an answer was made, and what it cost nobody said
            assert row["cost_nano_usd"] == row["held_nano_usd"]
        daemon.balanced()


def test_health_checks_that_cost_money(upstream):
    """Probe after probe of every kind of provider in every state: lists of models alone, and nothing is spent."""
    sections = [provider(kind, kind, upstream.base_url(kind), local=False, probe_every_s=0.02) for kind in KINDS]
    sections += [priced(*[f"{kind}:sim" for kind in KINDS])]
    with running_daemon.running("\n".join(sections)) as daemon:
        seen: Counter[tuple[str, str]] = Counter()
        for behaviour in ({}, {"fail": 404}, {"fail": 429, "retry_after_s": 0.05}, {"garbage": True}, {"fail": 503}):
            upstream.set(**behaviour)
            time.sleep(0.5)
            seen.update((request["method"], request["path"].partition("?")[0]) for request in upstream.requests())
            upstream.reset()
        assert set(seen) == {("GET", "/v1/models"), ("GET", "/api/tags")}
        assert seen.total() > 50
        assert daemon.rows() == []
        assert daemon.spent() == 0
        assert daemon.database("SELECT * FROM journal") == []


def test_a_second_longer_retry_after_ignored(upstream):
    """Of three answers that say when to come back the longest wait counts, and nothing is sent before it is over."""
    waits = [(0, 0.2), (100, 1.2), (200, 0.1)]
    limited = [model(fail=429, latency_ms=after_ms, retry_after_s=wait_s) for after_ms, wait_s in waits]
    sections = [
        provider("paid", "openai", upstream.base_url()),
        priced(*[f"paid:{each}" for each in ["sim", *limited]]),
    ]
    with running_daemon.running("\n".join(sections)) as daemon, daemon.json_lines() as lines:
        ask(lines, *[asked(f"paid:{each}") for each in limited])
        assert codes(ends(lines, 3)) == {"rate_limited": 3}
        time.sleep(0.3)  # the first and the last wait are over
        ask(lines, asked("paid:sim"))
        (end,) = ends(lines, 1)
        assert end["code"] == "rate_limited"
        assert 0 < end["retry_after_s"] < 1.0
        assert len(upstream.chats()) == 3
        time.sleep(end["retry_after_s"] + 0.1)
        ask(lines, asked("paid:sim"))
        assert codes(ends(lines, 1)) == {"done": 1}
        assert [row["cost_nano_usd"] for row in daemon.rows()][1:] == [0, 0, 0]
        daemon.balanced()


@pytest.mark.parametrize(
    ("what", "ours"),
    [
        (["-c", "import protocols.client"], {"protocols", "msgspec", "anyio", "sniffio", "idna", "typing_extensions"}),
        (["-m", "daemon.ctl", "--help"], {"daemon", "protocols", "msgspec"}),
    ],
    ids=["protocols.client", "daemonctl --help"],
)
def test_slow_imports(what, ours):
    """What is not loaded costs no time: of all that the daemon needs, a client and `daemonctl` load next to nothing."""
    command = [sys.executable, "-X", "importtime", *what]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = [line.split("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")]
    began = {"sitecustomize", "_distutils_hack", "imported package"}  # what the interpreter brings
    foreign = {name.partition(".")[0] for name in loaded} - set(sys.stdlib_module_names) - began
    assert foreign <= ours
    assert not {"asyncio", "ssl", "sqlite3", "http", "multiprocessing"} & set(loaded)
    assert len(loaded) < 200
