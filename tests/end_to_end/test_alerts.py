"""Alerts as users meet them: each level of a limit once, in order, everywhere they are told, whatever happens to the daemon."""

import getpass
import json
import os
import socket
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import running_daemon
import simulated_provider
from running_daemon import PATIENCE_S, Daemon, JsonLines, eventually, priced, provider
from simulated_provider import Provider, model

ME = getpass.getuser()
NOBODY = 65534
CENT_NANO = 10_000_000
CENT = 100
"""Tokens of an answer; a prompt costs nothing, so that a call costs what its model's name says."""
ENDLESS = model(latency_ms=60_000)
LEVELS = [75, 80, 90, 100]
WORDS = {75: "info", 80: "warning", 90: "critical", 100: "critical"}


def cost(cents: int) -> str:
    """The model whose answer costs so much."""
    return model(response_tokens=cents * CENT)


COSTS = [1, 5, 10, 15, 74, 76, 80, 95, 100]


@pytest.fixture(scope="module")
def upstream() -> Iterator[Provider]:
    with simulated_provider.running() as running:
        yield running


def config(upstream: Provider, more: str = "") -> str:
    sections = [
        more,
        provider("paid", "openai", upstream.base_url(), max_in_flight=200),
        provider("free", "openai", upstream.base_url(), local=True),
        priced(*[f"paid:{name}" for name in (ENDLESS, *map(cost, COSTS))], usd_in=0.0, usd_out=100.0),
    ]
    return "\n".join(sections)


@pytest.fixture
def daemon(upstream: Provider) -> Iterator[Daemon]:
    """We have a budget of a dollar."""
    upstream.reset()
    with running_daemon.running(config(upstream)) as running:
        running.call("settings.set", key="month_usd", value=1.0)
        yield running


def asked(cents: int, **more: object) -> dict:
    messages = [{"role": "user", "content": "hi"}]
    return {"model": f"paid:{cost(cents)}", "messages": messages, "max_tokens": cents * CENT} | more


def spend(daemon: Daemon, cents: int, **more: object) -> list[str]:
    """One call; the alerts that its answer tells."""
    answer = daemon.call("chat", **asked(cents, **more))
    return [warned["code"] for warned in answer["warnings"] if warned["code"].startswith("budget_")]


def raised(daemon: Daemon, scope: str = f"user:{ME}") -> list[tuple[int, int]]:
    """Level and limit in cents of a scope's alerts, in the order in which they were raised."""
    alerts = reversed(daemon.call("alerts")["alerts"])
    return [(a["level"], a["limit_nano_usd"] // CENT_NANO) for a in alerts if a["scope"] == scope]


@contextmanager
def listening(daemon: Daemon) -> Iterator[JsonLines]:
    """A client that hears of alerts."""
    with daemon.json_lines() as lines:
        listen(daemon, lines)
        yield lines


def listen(daemon: Daemon, lines: JsonLines) -> None:
    before = daemon.call("status")["calls_in_flight"]
    lines.send({"t": "call", "id": 1, "method": "events", "params": {"types": ["alert"]}})
    eventually(lambda: daemon.call("status")["calls_in_flight"] == before + 1, "the stream has begun")


def heard(lines: JsonLines, within_s: float = 0.3) -> list[dict]:
    """The alerts that came on it, until it ends."""
    time.sleep(within_s)  # what must not come would come by then
    lines.send({"t": "cancel", "id": 1})
    return [message["value"] for message in lines.until_end_of(1)[:-1]]


def test_each_level_is_raised_once_and_in_order_however_many_calls_run_at_once_and_never_again(upstream):
    with running_daemon.running(config(upstream, "[limits]\nmonth_usd = 1.25\n")) as daemon:
        daemon.call("settings.set", key="month_usd", value=1.0)
        daemon.call("settings.set", key="enforce_budget_limits", value=False)
        with listening(daemon) as events, daemon.json_lines() as lines:
            lines.send(*[{"t": "call", "id": at, "method": "chat", "params": asked(1)} for at in range(120)])
            told: Counter[tuple[str, str]] = Counter()
            for _ in range(120):
                end = lines.hear()
                assert end is not None
                assert end["t"] == "done", end
                warnings = [each for each in end["value"]["warnings"] if each["code"].startswith("budget_")]
                told.update((each["message"].split()[0], each["code"]) for each in warnings)
            alerts = heard(events)
        mine = [a for a in alerts if a["scope"] == f"user:{ME}"]
        ours = [a for a in alerts if a["scope"] == "daemon"]
        assert [(a["level"], a["severity"]) for a in mine] == list(WORDS.items())
        assert [a["spent_nano_usd"] for a in mine] == [level * CENT_NANO for level in LEVELS]
        assert [(a["level"], -(-a["spent_nano_usd"] // CENT_NANO)) for a in ours] == [(75, 94), (80, 100), (90, 113)]
        assert told == {(a["scope"], f"budget_{a['level']}"): 1 for a in alerts}
        assert list(reversed(daemon.call("alerts")["alerts"])) == [
            {key: value for key, value in alert.items() if key != "type"} for alert in alerts
        ]


def test_a_jump_raises_each_level_that_it_crosses_in_order_and_names_them_in_its_answer(daemon):
    with listening(daemon) as events:
        assert spend(daemon, 74) == []
        assert spend(daemon, 15) == ["budget_75", "budget_80"]
        assert spend(daemon, 10) == ["budget_90"]
        assert spend(daemon, 1) == ["budget_100"]
        alerts = heard(events)
    assert [a["level"] for a in alerts] == LEVELS
    assert [a["spent_nano_usd"] // CENT_NANO for a in alerts] == [89, 89, 99, 100]
    daemon.call("settings.set", key="month_usd", value=1.0, user="@bob")
    assert spend(daemon, 100, user="@bob") == [f"budget_{level}" for level in LEVELS]
    assert raised(daemon, "user:bob") == [(level, 100) for level in LEVELS]


def test_at_the_limit_the_free_alternative_is_named(daemon):
    eventually(lambda: any(m["id"] == "free:sim" for m in daemon.call("models")["models"]), "the free one is listed")
    spend(daemon, 100)
    suggestions = {alert["level"]: alert.get("suggestion") for alert in daemon.call("alerts")["alerts"]}
    assert suggestions == {75: None, 80: None, 90: None, 100: "`free:sim` is free"}
    assert "`free:sim` is free" in daemon.ctl("alerts").out


@pytest.mark.parametrize("way", ["stop", "kill -9"])
def test_a_restart_right_after_the_call_that_crossed_repeats_none_and_loses_none(way, daemon):
    expected: list[int] = []
    for cents, levels in ((76, [75]), (1, []), (5, [80]), (10, [90]), (5, []), (1, []), (1, []), (1, [100])):
        assert spend(daemon, cents) == [f"budget_{level}" for level in levels]
        expected += levels
        if way == "stop":
            assert daemon.stop() == 0
        else:
            daemon.kill()
        daemon.start()
        assert [level for level, _ in raised(daemon)] == expected
    assert expected == LEVELS
    told = Counter(line["reached"] for line in daemon.log() if line["event"] == "alert")
    assert told == dict.fromkeys(LEVELS, 1)  # not told again at a start either


def test_a_call_whose_end_a_crash_hid_is_posted_at_its_hold_and_raises_what_that_reaches(daemon, upstream):
    with daemon.json_lines() as lines:
        call = asked(80, stream=True) | {"model": f"paid:{ENDLESS}"}
        lines.send({"t": "call", "id": 1, "method": "chat", "params": call})
        upstream.wait_for(len)
        daemon.kill()
    for _ in range(2):
        daemon.restart()
        assert raised(daemon) == [(75, 100), (80, 100)]


def test_a_changed_limit_is_another_limit_and_the_same_limit_is_not(daemon):
    expected: list[tuple[int, int]] = []

    def change(usd: float, *levels: int) -> None:
        """Sets the limit; these levels are raised by it, soon."""
        daemon.call("settings.set", key="month_usd", value=usd)
        expected.extend((level, round(usd * 100)) for level in levels)
        eventually(lambda: len(raised(daemon)) >= len(expected), f"raised by {usd}")
        assert raised(daemon) == expected

    def spent(cents: int, limit: int, *levels: int) -> None:
        assert spend(daemon, cents) == [f"budget_{level}" for level in levels]
        expected.extend((level, limit) for level in levels)

    spent(80, 100, 75, 80)
    change(2.0)
    change(1.0)
    change(0.85, 75, 80, 90)
    change(0.5, *LEVELS)
    change(1.05, 75)
    spent(5, 105, 80)
    daemon.restart()
    change(1.0)
    spent(5, 100, 90)
    change(1.05)
    change(0.5)
    assert len({(a["scope"], a["level"], a["limit_nano_usd"]) for a in daemon.call("alerts")["alerts"]}) == len(
        expected
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_who_may_see_which_alert(upstream):
    limits = (
        '[limits]\nmonth_usd = 2.6\nday_usd = 10.0\napps.test = { month_usd = 3.0 }\n[rights]\nuse_group = "nogroup"\n'
    )
    with running_daemon.running(config(upstream, limits)) as daemon, socket.socket(socket.AF_UNIX) as raw:
        daemon.folder.chmod(0o755)
        raw.settimeout(PATIENCE_S)
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
        try:
            raw.connect(str(daemon.socket))
        finally:
            os.seteuid(0)
            os.setegid(0)
        theirs = JsonLines(raw)
        with listening(daemon) as events:
            listen(daemon, theirs)
            daemon.call("settings.set", key="month_usd", value=1.0, user="*")
            daemon.call("settings.set", key="month_usd", value=1.0, user="@nobody/kid")
            daemon.call("settings.set", key="enforce_budget_limits", value=False, user="*")
            spend(daemon, 76, user="@nobody/kid")
            spend(daemon, 76, user="@ana")
            spend(daemon, 76)
            all_heard, they_heard = heard(events), heard(theirs)
        assert {a["scope"] for a in all_heard} == {
            *("daemon", "app:test", "user:nobody", "user:nobody/kid", "user:ana", f"user:{ME}")
        }
        assert {a["scope"] for a in they_heard} == {"daemon", "user:nobody", "user:nobody/kid"}
        theirs.send({"t": "call", "id": 2, "method": "alerts", "params": {}})
        (answer,) = theirs.until_end_of(2)
        told = [{key: value for key, value in alert.items() if key != "type"} for alert in reversed(they_heard)]
        assert answer["value"]["alerts"] == told
        theirs.send({"t": "call", "id": 3, "method": "alerts", "params": {"user": "@ana"}})
        assert theirs.until_end_of(3)[-1]["code"] == "forbidden"
        assert {a["scope"] for a in daemon.call("alerts", user="@ana")["alerts"]} == {"daemon", "user:ana"}


def test_daemonctl_lists_them_newest_first(daemon):
    spend(daemon, 95)
    rows = [row.split() for row in daemon.ctl("alerts").out.splitlines()[1:]]
    assert [[word for word in row if word.endswith("%")] for row in rows] == [["90%"], ["80%"], ["75%"]]
    assert all(f"user:{ME}" in row for row in rows)
    listed = json.loads(daemon.ctl("--json", "alerts", "--last", "1").out)["alerts"]
    assert [alert["level"] for alert in listed] == [90]


def test_the_command_is_run_once_for_each_in_order_also_across_a_kill(daemon, upstream):
    seen = daemon.folder / "seen"
    script = f'echo "$QUORUMD_ALERT_SCOPE $QUORUMD_ALERT_LEVEL" >> {seen}'
    daemon.configure(config(upstream, f"[alerts]\ncommand = {json.dumps(['sh', '-c', script])}\n"))
    daemon.restart()

    def delivered() -> int:
        (row,) = daemon.database("SELECT count(*) AS n FROM alerts JOIN alerts_out ON way = 'command' AND id <= last")
        return row["n"]

    spend(daemon, 80)
    eventually(lambda: delivered() == 2, "two are taken")
    daemon.kill()
    daemon.start()
    spend(daemon, 15)
    spend(daemon, 5)
    eventually(lambda: delivered() == 4, "all are taken")
    assert seen.read_text().splitlines() == [f"user:{ME} {level}" for level in LEVELS]


def test_a_webhook_that_hangs_delays_no_call(daemon, upstream):
    def latencies() -> list[float]:
        found = []
        with daemon.connect() as quorum:
            for _ in range(40):
                began = time.perf_counter()
                quorum.call("chat", **asked(1))
                found.append(time.perf_counter() - began)
        return found

    with socket.create_server(("127.0.0.1", 0)) as hook:
        hook.settimeout(PATIENCE_S)
        port = hook.getsockname()[1]
        alerts = f'[alerts]\nwebhook = "http://127.0.0.1:{port}/hook"\ntimeout_s = 600\n'
        daemon.configure(config(upstream, alerts))
        daemon.restart()
        daemon.call("settings.set", key="month_usd", value=100.0)
        calm = latencies()
        daemon.call("settings.set", key="month_usd", value=0.8)  # crossed at the 20th, 24th, 32nd and 40th from here
        busy = latencies()
        connection, _ = hook.accept()
        with connection:
            assert connection.recv(65536).startswith(b"POST /hook HTTP/1.1\r\n")
            daemon.call("settings.set", key="month_usd", value=100.0)
            busy += latencies()
            assert statistics.median(busy) < 2 * statistics.median(calm) + 0.005
            assert max(busy) < max(calm) + 0.5
            assert len(raised(daemon)) == 4
            assert daemon.stop() == 0
