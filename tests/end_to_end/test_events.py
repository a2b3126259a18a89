"""Events as clients hear them, and alerts on their way out of a real daemon."""

import getpass
import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta

import anyio
import pytest
import running_daemon
import simulated_provider
from running_daemon import PATIENCE_S, Daemon, JsonLines, eventually, priced, provider
from simulated_provider import Provider

from protocols.client import connect
from protocols.errors import BadRequest

NOBODY = 65534
TYPES = "alert, attempt, provider, setting, override"


@pytest.fixture
def upstream() -> Iterator[Provider]:
    with simulated_provider.running() as running:
        yield running


def config(upstream: Provider, more: str = "") -> str:
    sim = provider("sim", "openai", upstream.base_url(), local=False, probe_every_s=0.05)
    return sim + priced("sim:sim") + '[daemon]\ndurability = "process"\n[rights]\nuse_group = "nogroup"\n' + more


@pytest.fixture
def daemon(upstream: Provider) -> Iterator[Daemon]:
    with running_daemon.running(config(upstream)) as running:
        yield running


@contextmanager
def listening(daemon: Daemon, *types: str, **call: float) -> Iterator[JsonLines]:
    """A client whose call 1 is a stream of events that has begun."""
    with daemon.json_lines() as lines:
        begin(daemon, lines, *types, **call)
        yield lines


def begin(daemon: Daemon, lines: JsonLines, *types: str, **call: float) -> None:
    before = in_flight(daemon)
    lines.send({"t": "call", "id": 1, "method": "events", "params": {"types": types} if types else {}, **call})
    eventually(lambda: in_flight(daemon) == before + 1, "the stream has begun")


def in_flight(daemon: Daemon) -> int:
    count: int = daemon.call("status")["calls_in_flight"]
    return count


def event(lines: JsonLines) -> dict[str, object]:
    message = lines.hear()
    assert message is not None
    assert (message["t"], message["id"]) == ("item", 1), message
    value: dict[str, object] = message["value"]
    return value


class TestStream:
    def test_a_changed_setting_is_heard_by_who_listens(self, daemon):
        with listening(daemon, "setting") as lines:
            daemon.call("settings.set", key="month_usd", value=12.5)
            daemon.call("settings.unset", key="month_usd")
            first, second = event(lines), event(lines)
        assert datetime.now(UTC) - datetime.fromisoformat(first["at"]) < timedelta(minutes=1)
        assert [(e["type"], e["key"], e["value"]) for e in (first, second)] == [
            ("setting", "month_usd", 12.5),
            ("setting", "month_usd", None),
        ]

    def test_a_provider_that_fails_and_comes_back_is_heard(self, daemon, upstream):
        with listening(daemon, "provider") as lines:
            upstream.set(fail=503)
            states = []
            while "open" not in states:
                states.append(event(lines)["state"])
            upstream.reset()
            while states[-1] != "healthy":
                states.append(event(lines)["state"])
        assert states[0] == "degraded"

    def test_a_settled_attempt_is_heard_as_its_row_says(self, daemon):
        with listening(daemon, "attempt") as lines:
            answer = daemon.call("chat", messages=[{"role": "user", "content": "hi"}], model="sim:sim")
            heard = event(lines)
        (row,) = daemon.rows()
        assert heard.pop("type") == "attempt"
        assert heard.pop("at") >= row["created_at"]
        assert heard == {key: row[key] for key in heard}
        assert heard["usage_id"] == answer["usage_id"]

    def test_alerts_are_heard_in_the_order_in_which_spend_reaches_them(self, daemon):
        hi = {"messages": [{"role": "user", "content": "hi"}], "model": "sim:sim", "max_tokens": 50}
        cost = daemon.call("chat", **hi)["cost_nano_usd"]
        daemon.call("settings.set", key="enforce_budget_limits", value=False)
        daemon.call("settings.set", key="month_usd", value=2 * cost / 0.92 / 1e9)
        with listening(daemon, "alert") as lines:
            assert daemon.call("chat", **hi)["cost_nano_usd"] == cost
            alerts = [event(lines) for _ in range(3)]
        assert [(alert["level"], alert["severity"]) for alert in alerts] == [
            (75, "info"),
            (80, "warning"),
            (90, "critical"),
        ]
        assert {alert["scope"] for alert in alerts} == {f"user:{getpass.getuser()}"}
        assert [row["level"] for row in daemon.call("alerts")["alerts"]] == [90, 80, 75]

    def test_an_override_is_heard_when_it_is_granted_and_when_it_is_revoked(self, daemon):
        with listening(daemon, "override") as lines:
            until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
            granted = daemon.call("overrides.grant", amount_usd=1.5, until=until, why="a release")
            daemon.call("overrides.revoke", override_id=granted["override_id"])
            heard = [event(lines), event(lines)]
        assert [(e["action"], e["override_id"]) for e in heard] == [
            ("granted", granted["override_id"]),
            ("revoked", granted["override_id"]),
        ]
        assert {(e["user"], e["amount_nano_usd"]) for e in heard} == {(getpass.getuser(), 1_500_000_000)}

    def test_a_type_that_is_none_is_refused_with_the_right_ones(self, daemon):
        with pytest.raises(BadRequest, match=f"there is no event type `alerts`; there are: {TYPES}"):
            daemon.call("events", types=["alerts"])
        with pytest.raises(BadRequest, match="length >= 1"):
            daemon.call("events", types=[])

    def test_it_ends_when_it_is_cancelled_and_at_a_deadline_of_its_own(self, daemon):
        with listening(daemon) as lines:
            lines.send({"t": "cancel", "id": 1})
            assert lines.until_end_of(1)[-1]["code"] == "cancelled"
        with listening(daemon, deadline_s=0.5) as lines:
            assert lines.until_end_of(1)[-1]["code"] == "deadline"
        eventually(lambda: in_flight(daemon) == 0, "nothing is left behind")

    def test_a_slow_reader_is_told_what_it_missed_and_nothing_is_kept_for_it(self, daemon):
        changes = 3000
        with listening(daemon, "setting") as lines:
            with daemon.connect() as quorum:
                for number in range(changes):
                    quorum.call("settings.set", key="default_model", value=f"{number:01000d}")
            heard, missed = [], 0
            while not heard or int(heard[-1]["value"]) != changes - 1:
                heard.append(event(lines))
                if heard[-1]["type"] == "lost":
                    missed += heard.pop()["count"]
                    break
        assert missed + len(heard) == changes
        assert [int(e["value"]) for e in heard] == list(range(len(heard)))
        assert missed > 500

    @pytest.mark.anyio
    async def test_the_client_listens_while_it_makes_other_calls(self, daemon):
        values = []

        async def change() -> None:
            while (await quorum.call("status"))["calls_in_flight"] < 1:
                await anyio.lowlevel.checkpoint()
            for value in (1, 2):
                await quorum.call("settings.set", key="month_usd", value=value)

        async with connect(path=daemon.socket) as quorum, anyio.create_task_group() as tasks:
            tasks.start_soon(change)
            async for told in quorum.events(["setting"]):
                values.append(told["value"])
                if len(values) == 2:
                    break
        assert values == [1.0, 2.0]

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
    def test_another_account_hears_nothing_of_ours(self, daemon):
        daemon.folder.chmod(0o755)
        with socket.socket(socket.AF_UNIX) as raw:
            raw.settimeout(PATIENCE_S)
            os.setegid(NOBODY)
            os.seteuid(NOBODY)
            try:
                raw.connect(str(daemon.socket))
            finally:
                os.seteuid(0)
                os.setegid(0)
            lines = JsonLines(raw)
            begin(daemon, lines, "setting")
            daemon.call("settings.set", key="month_usd", value=1)
            daemon.call("settings.set", key="month_usd", value=2, user="@nobody/bob")
            assert (event(lines)["owner"]) == "nobody/bob"


class TestStop:
    @pytest.mark.parametrize("reads", [True, False], ids=["one that reads", "one that does not"])
    def test_a_stop_ends_the_stream_at_once_and_well(self, daemon, reads):
        with listening(daemon, "setting") as lines:
            if not reads:
                with daemon.connect() as quorum:
                    for _ in range(600):
                        quorum.call("settings.set", key="default_model", value="x" * 1000)
            before = time.monotonic()
            assert daemon.stop() == 0
            assert time.monotonic() - before < 5  # of the 20 s that other calls have
            if reads:
                assert lines.until_end_of(1) == [{"t": "done", "id": 1, "value": {}}]

    def test_watch_prints_what_happens_and_says_that_the_daemon_has_stopped(self, daemon):
        command = [sys.executable, "-m", "daemon.ctl", "--socket", daemon.socket, "watch", "--type", "setting"]
        with subprocess.Popen(
            command, cwd=running_daemon.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as watch:
            eventually(lambda: in_flight(daemon) == 1, "it listens")
            daemon.call("settings.set", key="month_usd", value=12.5)
            assert watch.stdout.readline().endswith("month_usd = 12.5\n")
            daemon.stop()
            _, said = watch.communicate(timeout=PATIENCE_S)
        assert watch.returncode == 3
        assert "the daemon has stopped" in said


class TestAlertsOut:
    def test_an_alert_that_waits_is_handed_to_the_command_after_a_start(self, daemon, upstream):
        seen = daemon.folder / "seen"
        daemon.environment |= {"OPENAI_API_KEY": "canary"}
        script = f"cat > {seen}.part; env >> {seen}.part; mv {seen}.part {seen}"
        self.restart(daemon, upstream, f"[alerts]\ncommand = {json.dumps(['sh', '-c', script])}\n")
        text = eventually(lambda: seen.exists() and seen.read_text(), "the command was run")
        assert json.loads(text.splitlines()[0])["level"] == 80
        assert "QUORUMD_ALERT_LEVEL=80" in text
        assert "canary" not in text
        eventually(lambda: self.undelivered(daemon, "command") == 0, "it is marked")

    def test_a_webhook_that_hangs_delays_nothing(self, daemon, upstream):
        with socket.create_server(("127.0.0.1", 0)) as hook:
            hook.settimeout(PATIENCE_S)
            port = hook.getsockname()[1]
            self.restart(daemon, upstream, f'[alerts]\nwebhook = "http://127.0.0.1:{port}/canary"\ntimeout_s = 600\n')
            connection, _ = hook.accept()
            with connection:
                assert connection.recv(65536).startswith(b"POST /canary HTTP/1.1\r\n")
                before = time.monotonic()
                daemon.call("chat", messages=[{"role": "user", "content": "hi"}], model="sim:sim")
                daemon.call("settings.set", key="month_usd", value=1)
                assert daemon.stop() == 0
                assert time.monotonic() - before < 5
        assert self.undelivered(daemon, "webhook") == 1
        assert "canary" not in daemon.log_text()

    def restart(self, daemon: Daemon, upstream: Provider, alerts: str) -> None:
        """With an alert that an earlier process left behind."""
        daemon.stop()
        with closing(sqlite3.connect(daemon.state / "quorumd.sqlite3")) as connection, connection:
            connection.execute(
                "INSERT INTO alerts (scope, period, label, level, limit_nano, spent, at) VALUES (?, ?, ?, ?, ?, ?, ?)",
                ("daemon", "month", "2000-01", 80, 100, 80, time.time_ns() // 1000),
            )
        daemon.configure(config(upstream, alerts))
        daemon.start()

    def undelivered(self, daemon: Daemon, way: str) -> int:
        (row,) = daemon.database(
            "SELECT count(*) AS n FROM alerts WHERE id > coalesce((SELECT last FROM alerts_out WHERE way = ?), 0)", way
        )
        count: int = row["n"]
        return count
