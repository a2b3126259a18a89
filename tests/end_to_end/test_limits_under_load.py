"""Limits while many ask at once: however they race, no more goes upstream than fits, and at the end nothing is held."""

import json
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import running_daemon
import simulated_provider
from running_daemon import ROOT, Daemon, JsonLines, priced, provider, watch
from simulated_provider import Provider, model

PROCESSES, CONNECTIONS, CALLS = 4, 5, 500
"""Each connection has all its calls under way at once: 10 000 together."""
FIT = 1_000
TOKEN_NANO = 100_000
"""An answer's token costs 0.0001 $ and a prompt nothing, so that a call's bound is known: its `max_tokens`."""
EXACT = model(response_tokens=10, latency_ms=300)
HALF_A_DOLLAR = model(response_tokens=5_000)
BELOW = model(response_tokens=800, latency_ms=300)
STREAM, LONG = model(chunks=20, pace_ms=10), model(chunks=500, pace_ms=20)
SILENT, HANGING = model(latency_ms=60_000), model(chunks=20, hang_at=4)
FAILING = [model(latency_ms=800, fail=status) for status in (400, 429, 500)] + [
    model(latency_ms=800, close_before_head=True)
]
MODELS = [EXACT, HALF_A_DOLLAR, BELOW, STREAM, LONG, SILENT, HANGING, *FAILING]


@pytest.fixture(scope="module")
def upstream() -> Iterator[Provider]:
    with simulated_provider.running() as running:
        yield running


@pytest.fixture(autouse=True)
def fresh(upstream: Provider) -> None:
    upstream.reset()


def config(upstream: Provider, limits: str = "") -> str:
    names = {"paid": {}, "failing": {}, "impatient": {"timeout_s": 1.5}}
    sections = [
        limits,
        *[provider(name, "openai", upstream.base_url(), max_in_flight=2_000, **more) for name, more in names.items()],
        priced(*[f"{name}:{each}" for name in names for each in MODELS], usd_in=0.0, usd_out=TOKEN_NANO / 1_000),
    ]
    return "\n".join(sections)


def asked(name: str, max_tokens: int, **more: object) -> dict:
    return {"model": name, "messages": [{"role": "user", "content": "hi"}], "max_tokens": max_tokens, **more}


def ask(lines: JsonLines, *calls: dict, **fields: object) -> None:
    """Sends calls, numbered from 0."""
    lines.send(*[{"t": "call", "id": at, "method": "chat", "params": each, **fields} for at, each in enumerate(calls)])


def ends(lines: JsonLines, calls: int) -> list[dict]:
    """What ends so many calls."""
    heard = []
    while len(heard) < calls:
        message = lines.hear()
        assert message is not None, f"the daemon closed after {len(heard)} of {calls} ends"
        heard += [message] if message["t"] in {"done", "fault"} else []
    return heard


CLIENT = """
import json, socket, sys
from collections import Counter
from contextlib import ExitStack
from running_daemon import JsonLines
from test_limits_under_load import ask, ends
path, connections, calls, params = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
with ExitStack() as open_ones:
    every = []
    for _ in range(connections):
        raw = open_ones.enter_context(socket.socket(socket.AF_UNIX))
        raw.settimeout(60)
        raw.connect(path)
        every.append(JsonLines(raw))
    print("ready", flush=True)
    input()
    for lines in every:
        ask(lines, *[params] * calls)
    print(json.dumps(Counter(end.get("code", end["t"]) for lines in every for end in ends(lines, calls))))
"""


def ask_from_processes(daemon: Daemon, params: dict) -> Counter[str]:
    """How many calls of several processes at once ended how."""
    command = [sys.executable, "-c", CLIENT, str(daemon.socket), str(CONNECTIONS), str(CALLS), json.dumps(params)]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)])
    counted: Counter[str] = Counter()
    with ExitStack() as running:
        clients = [
            running.enter_context(
                subprocess.Popen(
                    command,
                    env=os.environ | {"PYTHONPATH": path},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for _ in range(PROCESSES)
        ]
        for client in clients:
            assert client.stdout is not None
            assert client.stdout.readline() == "ready\n"
        for client in clients:
            assert client.stdin is not None
            client.stdin.write("\n")
            client.stdin.flush()
        for client in clients:
            assert client.stdout is not None
            counted.update(json.loads(client.stdout.read()))
    return counted


def test_ten_thousand_calls_at_once_from_several_processes_on_a_budget_for_a_thousand(upstream):
    limit = FIT * 10 * TOKEN_NANO
    with running_daemon.running(config(upstream, f"[limits]\nmonth_usd = {limit / 1e9}\n")) as daemon:
        database = watch(daemon)
        heard = ask_from_processes(daemon, asked(f"paid:{EXACT}", max_tokens=10))
        assert heard.total() == PROCESSES * CONNECTIONS * CALLS
        assert set(heard) == {"done", "budget_held"} or set(heard) == {"done", "budget_held", "budget_exceeded"}
        assert heard["done"] == upstream.counters()["chats"] == FIT
        daemon.balanced()
        assert daemon.spent() == limit
        with closing(sqlite3.connect(database)) as connection:
            ((changes, most),) = connection.execute("SELECT count(*), max(spent + held) FROM seen_by_the_test")
            assert (
                connection.execute("SELECT * FROM seen_by_the_test WHERE spent + held > ?", (limit,)).fetchall() == []
            )
        assert changes > 1
        assert most == limit


def test_a_burst_on_a_small_remainder_sends_what_fits_and_tells_the_others_spent_held_and_limit(upstream):
    with (
        running_daemon.running(config(upstream, "[limits]\nmonth_usd = 1.00\n")) as daemon,
        daemon.json_lines() as lines,
    ):
        ask(lines, asked(f"paid:{HALF_A_DOLLAR}", max_tokens=5_000))
        assert [end["t"] for end in ends(lines, 1)] == ["done"]
        assert daemon.spent() == 500_000_000
        upstream.reset()
        ask(lines, *[asked(f"paid:{BELOW}", max_tokens=1_000)] * 20)
        heard = ends(lines, 20)
        refused = [end for end in heard if end["t"] == "fault"]
        assert [end["code"] for end in refused] == ["budget_held"] * 15
        for end in refused:
            detail = end["detail"]
            told = (detail["spent_nano_usd"], detail["held_nano_usd"], detail["limit_nano_usd"])
            assert told == (500_000_000, 500_000_000, 1_000_000_000)
            assert detail["bound_nano_usd"] == 100_000_000
            assert end["retry_after_s"] > 0
        assert len(upstream.chats()) == 5
        assert len(daemon.rows()) == 6
        assert daemon.spent() == 900_000_000  # 0.50 and five times 0.08
        daemon.balanced()
        ask(lines, *[asked(f"paid:{BELOW}", max_tokens=1_000)] * 20)  # 0.10 is left: one fits
        assert Counter(end.get("code", end["t"]) for end in ends(lines, 20)) == {"done": 1, "budget_held": 19}
        ask(lines, asked(f"paid:{BELOW}", max_tokens=1_000))
        (last,) = ends(lines, 1)
        assert (last["code"], last["detail"]["spent_nano_usd"]) == ("budget_exceeded", 980_000_000)
        assert len(upstream.chats()) == 6
        daemon.balanced()


def test_two_hundred_streams_that_end_in_every_way_leave_nothing_held_and_every_row_in_the_balance(upstream):
    with running_daemon.running(config(upstream, "[limits]\nmonth_usd = 100\n")) as daemon, ExitStack() as opened:
        fine, failing, cancelled, late, overdue = (opened.enter_context(daemon.json_lines()) for _ in range(5))
        ask(failing, *[asked(f"failing:{FAILING[at % 4]}", 100, stream=True) for at in range(66)])
        ask(cancelled, *[asked(f"paid:{(LONG, SILENT)[at % 2]}", 2_000, stream=True) for at in range(66)])
        ask(fine, *[asked(f"paid:{STREAM}", 100, stream=True)] * 44)
        ask(late, *[asked(f"impatient:{HANGING}", 100, stream=True)] * 12)
        ask(overdue, *[asked(f"paid:{HANGING}", 100, stream=True)] * 12, deadline_s=1.5)
        streaming = set()
        while len(streaming) < 33:  # those that stream have begun
            message = cancelled.hear()
            assert message is not None
            assert message["t"] == "item"
            streaming.add(message["id"])
        upstream.wait_for(lambda chats: len(chats) == 200)
        cancelled.send(*[{"t": "cancel", "id": at} for at in range(66)])
        calls = {fine: 44, failing: 66, cancelled: 66, late: 12, overdue: 12}
        heard = {
            lines: Counter(end.get("code", end["t"]) for end in ends(lines, many)) for lines, many in calls.items()
        }
        assert heard[fine] == {"done": 44}
        assert heard[failing] == {"provider_error": 32, "context_too_long": 17, "rate_limited": 17}
        assert heard[cancelled] == {"cancelled": 66}
        assert heard[late] == {"provider_error": 12}
        assert heard[overdue] == {"deadline": 12}
        rows = daemon.rows()
        told = sum(heard.values(), Counter())
        told["ok"] = told.pop("done")
        assert Counter(row["status"] for row in rows) == told
        free = {row["status"] for row in rows if row["cost_nano_usd"] == 0}
        assert free == {"provider_error", "context_too_long", "rate_limited", "cancelled"}
        charged = Counter(row["status"] for row in rows if row["cost_nano_usd"])
        assert charged == {"ok": 44, "cancelled": 33, "provider_error": 12, "deadline": 12}
        daemon.balanced()
