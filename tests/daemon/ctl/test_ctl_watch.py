"""`daemonctl watch`: a line an event, and how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest
from scripted_daemon import CLOSE, HANG, Pieces

from daemon.ctl.watch import line
from protocols import errors

CTL = [sys.executable, "-W", "error", "-m", "daemon.ctl"]
AT = "2027-03-10T12:00:00.123Z"
PROVIDER = {"type": "provider", "at": AT, "provider": "openai", "state": "open", "why": "5 errors in a row"}
ALERT = {
    "type": "alert",
    "at": AT,
    "scope": "user:ana",
    "period": "month",
    "level": 90,
    "severity": "critical",
    "spent_nano_usd": 4_510_000_000,
    "limit_nano_usd": 5_000_000_000,
    "label": "2027-03",
}
ATTEMPT = {
    "type": "attempt",
    "at": AT,
    "usage_id": "u1",
    "call_id": "c1",
    "user": "ana",
    "app": "editor",
    "model": "openai:gpt-4o",
    "status": "ok",
    "cost_nano_usd": 2_400_000,
    "latency_ms": 412.4,
    "marks": [],
}
SETTING = {"type": "setting", "at": AT, "owner": "ana", "key": "month_usd", "value": 12.5}
OVERRIDE = {"type": "override", "at": AT, "action": "granted", "user": "ana", "amount_nano_usd": 10**9}


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (ALERT, "alert     critical: user:ana has reached 90 % of its month's limit, $4.51 of $5.00"),
        (
            ALERT | {"suggestion": "ollama:llama is free"},
            "alert     critical: user:ana has reached 90 % of its month's limit, $4.51 of $5.00; ollama:llama is free",
        ),
        (ATTEMPT, "attempt   ana by editor: openai:gpt-4o ok, $0.0024, 412 ms"),
        (
            ATTEMPT | {"cost_nano_usd": None, "marks": ["soft", "overrun"]},
            "attempt   ana by editor: openai:gpt-4o ok, unknown, 412 ms (soft, overrun)",
        ),
        (PROVIDER, "provider  openai is open: 5 errors in a row"),
        (PROVIDER | {"state": "healthy", "why": None}, "provider  openai is healthy"),
        (SETTING, "setting   ana: month_usd = 12.5"),
        (SETTING | {"key": "admission", "value": "queue"}, "setting   ana: admission = queue"),
        (SETTING | {"key": "clamp_to_budget", "value": True}, "setting   ana: clamp_to_budget = true"),
        (SETTING | {"value": None}, "setting   ana: month_usd is unset"),
        (OVERRIDE | {"override_id": "o1"}, "override  granted for ana: $1.00 (override o1)"),
        (OVERRIDE | {"action": "confirmed", "usage_id": "u1"}, "override  confirmed for ana: $1.00 (attempt u1)"),
        (
            {"type": "lost", "at": AT, "count": 5},
            "lost      5 events are missing here: they came faster than they were read",
        ),
        ({"type": "weather", "at": AT, "sun": True}, 'weather   {"sun": true}'),
        (PROVIDER | {"why": "a\n\x1b[31mb"}, "provider  openai is open: a [31mb"),
    ],
)
def test_an_event_is_one_line_for_people(event, said):
    assert line(event) == f"2027-03-10T12:00:00Z  {said}"


def test_events_are_printed_as_they_come_and_the_end_of_the_daemon_is_told(daemon, ctl):
    daemon.table["events"] = Pieces([PROVIDER, SETTING])
    ran = ctl("watch")
    assert ran.returncode == 3
    assert ran.stdout.splitlines() == [line(PROVIDER), line(SETTING)]
    assert "the daemon has stopped" in ran.stderr
    assert "start it with" in ran.stderr
    assert daemon.params("events") == {}


def test_the_types_are_handed_on(daemon, ctl):
    daemon.table["events"] = Pieces([])
    assert ctl("watch", "--type", "alert", "--type", "provider").returncode == 3
    assert daemon.params("events") == {"types": ["alert", "provider"]}


def test_json_is_a_line_an_event(daemon, ctl):
    daemon.table["events"] = Pieces([PROVIDER, ALERT])
    ran = ctl("watch", "--json")
    assert ran.returncode == 3
    assert [json.loads(said) for said in ran.stdout.splitlines()] == [PROVIDER, ALERT]
    assert json.loads(ran.stderr)["code"] == "not_reachable"


def test_a_daemon_that_is_killed_is_told_too(daemon, ctl):
    daemon.table["events"] = Pieces([PROVIDER], CLOSE)
    ran = ctl("watch")
    assert (ran.returncode, ran.stdout) == (3, line(PROVIDER) + "\n")
    assert "the daemon closed the connection" in ran.stderr


def test_a_refusal_exits_1(daemon, ctl):
    daemon.table["events"] = errors.BadRequest("there is no event type `x`")
    ran = ctl("watch", "--type", "x")
    assert (ran.returncode, ran.stderr) == (1, "daemonctl: bad_request: there is no event type `x`\n")


def test_ctrl_c_ends_it_and_cancels_the_stream(daemon):
    daemon.table["events"] = Pieces([PROVIDER], HANG)
    with subprocess.Popen([*CTL, "watch"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline().decode() == line(PROVIDER) + "\n"
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=10)
    assert (process.returncode, stderr) == (130, b"")
    daemon.until(lambda: daemon.cancels == [1])
