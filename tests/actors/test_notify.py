import asyncio
import json
import os
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from scripted_server import answering, serving
from structlog.testing import capture_logs
from worlds import TurnedClock, rows, until

from actors.clock import parse_rfc3339
from actors.events import Events
from actors.notify import MARK_AGAIN_S, RETRY_AFTER_S, Command, Notifier, Webhook, sentence, split_url, variables
from actors.providers.http import HttpxTransport
from actors.settings import SettingsActor
from actors.store.queries import Statement
from actors.store.sqlite import open_store
from actors.supervise import Supervisor
from protocols.alerts import Alert, ReadUndelivered
from protocols.events import Publish, alert_event

pytestmark = pytest.mark.anyio
NOON = "2027-03-10T12:00:00.000Z"
TIMEOUT_S = 7.0
"""No other wait is as long, so a test can tell who sleeps."""
ADD = Statement(
    "INSERT INTO alerts (scope, period, label, level, limit_nano, spent, at, suggestion) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    0,
)
OK = b"HTTP/1.1 204 No Content\r\n\r\n"
NOTE = 'echo "$QUORUMD_ALERT_LEVEL" >> "$1"'
ALERT = Alert("user:ana", "month", 90, "critical", NOON, 4_510_000_000, 5_000_000_000, "2027-03", "use ollama:llama")


class Desk:
    """The notifier with what it needs. State: the refs, the store, the clock."""

    def __init__(self, folder):
        self.folder = folder
        self.clock = TurnedClock()
        self.seen = folder / "seen"

    async def happens(self, *levels, at=NOON, scope="user:ana"):
        """Alerts as the ledger writes and tells them."""
        for level in levels:
            row = (scope, "month", "2027-03", level, 100, level, parse_rfc3339(at), None)
            await self.store.submit((ADD, row))
            self.events.tell(Publish(alert_event(Alert(scope, "month", level, "info", at, level, 100, "2027-03"))))

    def delivered(self, by="command"):
        """Which levels wait no more for a way out, in the order of their ids."""
        passed = "SELECT level FROM alerts WHERE id <= (SELECT last FROM alerts_out WHERE way = ?) ORDER BY id"
        return [level for (level,) in rows(self.folder, passed, by)]

    async def marked(self, *levels, by="command"):
        await until(lambda: self.delivered(by) == list(levels))

    def lines(self):
        """What the commands wrote down."""
        return self.seen.read_text().splitlines() if self.seen.exists() else []

    def shell(self, script, environment=None):
        """A command that has `$SEEN` as its first argument."""
        return Command(["sh", "-c", script, "sh", str(self.seen)], environment or os.environ)

    async def passes(self, seconds):
        """Lets time pass once somebody sleeps for so long."""
        await until(lambda: seconds in self.clock.sleeping)
        await self.clock.turn(seconds)

    @asynccontextmanager
    async def working(self, *ways, timeout_s=TIMEOUT_S):
        self.store = await open_store(self.folder, "process", lambda _: "2027-03-10")
        subscriptions, watchers = set(), {}
        try:
            async with Supervisor() as actors:
                settings = await actors.start(lambda: SettingsActor(self.store, self.clock, {}, watchers))
                self.events = await actors.start(lambda: Events(settings, self.clock, subscriptions))
                self.notifier = await actors.start(
                    lambda: Notifier(self.store, self.events, self.clock, ways, timeout_s)
                )
                yield
        finally:
            await self.store.close()


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path)


@pytest.fixture
async def transport():
    transport = HttpxTransport()
    yield transport
    await transport.aclose()


def gone(pid):
    """Whether a process has ended; one that nobody has waited for yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


async def silence(server, peer):
    """A webhook that hangs."""
    server.requests.append(await peer.request())
    server.events.put_nowait("asked")
    await peer.gone()
    server.events.put_nowait("hung up")


def posted(server):
    """Which levels a webhook was asked to take."""
    return [json.loads(request.partition(b"\r\n\r\n")[2])["level"] for request in server.requests]


class TestCommand:
    async def test_it_gets_the_alert_as_json_and_as_variables_and_no_key_of_the_daemon(self, desk):
        command = desk.shell(
            'cat > "$1.json"; env > "$1"', {"PATH": os.environ["PATH"], "HOME": "/", "OPENAI_API_KEY": "canary"}
        )
        await command.deliver(ALERT)
        assert json.loads((desk.folder / "seen.json").read_text()) == {
            "scope": "user:ana",
            "period": "month",
            "level": 90,
            "severity": "critical",
            "at": NOON,
            "spent_nano_usd": 4_510_000_000,
            "limit_nano_usd": 5_000_000_000,
            "label": "2027-03",
            "suggestion": "use ollama:llama",
        }
        seen = dict(line.split("=", 1) for line in desk.lines())
        assert seen["QUORUMD_ALERT_SCOPE"] == "user:ana"
        assert seen["QUORUMD_ALERT_LEVEL"] == "90"
        assert seen["QUORUMD_ALERT_TEXT"] == (
            "user:ana has reached 90 % of its month's limit: $4.51 of $5.00; use ollama:llama"
        )
        assert {name for name in seen if not name.startswith("QUORUMD_ALERT_")} <= {"PATH", "HOME", "PWD", "_", "SHLVL"}

    async def test_its_words_go_through_no_shell(self, desk):
        await Command(
            [sys.executable, "-c", "import sys; open(sys.argv[1], 'w').write(sys.argv[2])", desk.seen, "$HOME; `id`"],
            {},
        ).deliver(ALERT)
        assert desk.lines() == ["$HOME; `id`"]

    async def test_alerts_come_in_order_one_at_a_time(self, desk):
        script = 'echo "in $QUORUMD_ALERT_LEVEL" >> "$1"; sleep 0.02; echo "out $QUORUMD_ALERT_LEVEL" >> "$1"'
        async with desk.working(desk.shell(script)):
            await desk.happens(75, 80, 90)
            await desk.happens(100)
            await desk.marked(75, 80, 90, 100)
        assert desk.lines() == [f"{way} {level}" for level in (75, 80, 90, 100) for way in ("in", "out")]

    async def test_one_that_reads_nothing_has_taken_it(self, desk):
        async with desk.working(desk.shell("exec <&-; exit 0")):
            await desk.happens(75)
            await desk.marked(75)

    async def test_one_that_fails_is_run_again_and_then_it_is_well(self, desk):
        script = 'echo "$QUORUMD_ALERT_LEVEL" >> "$1"; [ $(wc -l < "$1") -ge 3 ]'
        with capture_logs() as logs:
            async with desk.working(desk.shell(script)):
                await desk.happens(75)
                await desk.passes(RETRY_AFTER_S[0])
                await desk.passes(RETRY_AFTER_S[1])
                await desk.marked(75)
        assert desk.lines() == ["75"] * 3
        assert [(line["event"], line["why"]) for line in logs] == [("alert_not_taken", "`sh` ended with 1")] * 2

    async def test_after_four_tries_it_is_given_up_and_the_next_alert_has_its_turn(self, desk):
        script = 'echo "$QUORUMD_ALERT_LEVEL" >> "$1"; [ "$QUORUMD_ALERT_LEVEL" != 75 ]'
        with capture_logs() as logs:
            async with desk.working(desk.shell(script)):
                await desk.happens(75, 80)
                for seconds in RETRY_AFTER_S:
                    assert desk.delivered() == []
                    await desk.passes(seconds)
                await desk.marked(75, 80)
        assert desk.lines() == ["75"] * 4 + ["80"]
        assert [line["event"] for line in logs] == ["alert_not_taken"] * 3 + ["alert_given_up"]

    async def test_one_that_is_not_there_is_named_in_the_log(self, desk):
        with capture_logs() as logs:
            async with desk.working(Command(["/nonexistent/notify"], {})):
                await desk.happens(75)
                for seconds in RETRY_AFTER_S:
                    await desk.passes(seconds)
                await desk.marked(75)
        assert "`/nonexistent/notify` can't be run" in logs[-1]["why"]

    async def test_one_that_hangs_is_killed_at_the_timeout_with_all_that_it_started(self, desk):
        script = 'sleep 1000 & echo $! >> "$1"; echo $$ >> "$1"; exec sleep 1000'
        with capture_logs() as logs:
            async with desk.working(desk.shell(script)):
                await desk.happens(75)
                await until(lambda: len(desk.lines()) == 2)
                pids = [int(pid) for pid in desk.lines()]
                assert not any(map(gone, pids))
                await desk.passes(TIMEOUT_S)
                await until(lambda: all(map(gone, pids)))
                await until(lambda: RETRY_AFTER_S[0] in desk.clock.sleeping)
        assert logs[0]["why"] == "it took more than 7 s"

    async def test_one_that_runs_is_killed_when_the_daemon_stops_and_the_alert_waits_for_the_next_start(self, desk):
        async with desk.working(desk.shell('echo $$ >> "$1"; exec sleep 1000')):
            await desk.happens(75)
            await until(desk.lines)
        assert gone(int(desk.lines()[0]))
        assert desk.delivered() == []
        async with desk.working(desk.shell("true")):
            await desk.marked(75)


class TestQueue:
    async def test_without_a_way_out_rows_stay_undelivered_and_nobody_listens(self, desk):
        async with desk.working():
            await desk.happens(75)
            assert desk.events.incarnation._subscriptions == set()
            waiting = await desk.notifier.call(ReadUndelivered("command", 0))
            assert [alert.level for _, alert in waiting] == [75]
            assert repr(desk.notifier) == "<Notifier with no way out>"
        assert desk.delivered() == desk.delivered(by="webhook") == []

    async def test_a_restart_delivers_what_waits_and_is_not_older_than_a_day(self, desk):
        async with desk.working():
            await desk.happens(75, at="2027-03-09T11:59:59Z")
            await desk.happens(80, at="2027-03-09T12:00:01Z")
            await desk.happens(90)
        async with desk.working(desk.shell(NOTE)):
            await desk.marked(75, 80, 90)
        assert desk.lines() == ["80", "90"]
        async with desk.working(desk.shell(NOTE)):
            await desk.happens(100)
            await desk.marked(75, 80, 90, 100)
        assert desk.lines() == ["80", "90", "100"]

    async def test_more_than_one_reading_holds_are_all_delivered(self, desk, transport):
        async with serving(answering(OK)) as server, desk.working(Webhook(server.url, transport)):
            for number in range(150):
                await desk.happens(75, scope=f"user:u{number}")
            await until(lambda: len(desk.delivered(by="webhook")) == 150)
            said = [json.loads(request.partition(b"\r\n\r\n")[2])["scope"] for request in server.requests]
        assert said == [f"user:u{number}" for number in range(150)]

    async def test_a_crash_of_the_notifier_loses_nothing(self, desk):
        async with desk.working(desk.shell(NOTE)):
            await desk.happens(75)
            await desk.marked(75)
            with capture_logs():
                desk.notifier.incarnation.crash(ZeroDivisionError())
                await desk.happens(80)
                await desk.marked(75, 80)
            await desk.happens(90)
            await desk.marked(75, 80, 90)
            assert len(desk.events.incarnation._subscriptions) == 1
        assert desk.lines() == ["75", "80", "90"]

    async def test_on_a_full_disk_a_delivered_alert_is_marked_when_there_is_room_and_not_delivered_again(self, desk):
        async with desk.working(desk.shell('echo "$QUORUMD_ALERT_LEVEL" >> "$1"; sleep 0.2')):
            await desk.happens(75)
            await until(desk.lines)
            desk.store.full = True
            await until(lambda: MARK_AGAIN_S in desk.clock.sleeping)
            desk.store.full = False
            await desk.passes(MARK_AGAIN_S)
            await desk.marked(75)
        assert desk.lines() == ["75"]


class TestTwoWays:
    async def test_a_webhook_that_hangs_delays_no_alert_for_the_command(self, desk, transport):
        async with serving(silence) as server:
            async with desk.working(Webhook(server.url, transport), desk.shell(NOTE)):
                await desk.happens(75)
                assert await server.happened() == "asked"
                await desk.happens(80, 90, 100)
                await desk.marked(75, 80, 90, 100)
                assert desk.delivered(by="webhook") == []
            assert posted(server) == [75]
        assert desk.lines() == ["75", "80", "90", "100"]

    async def test_a_command_that_hangs_delays_no_alert_for_the_webhook(self, desk, transport):
        async with (
            serving(answering(OK)) as server,
            desk.working(Webhook(server.url, transport), desk.shell(NOTE + "; exec sleep 1000")),
        ):
            await desk.happens(75, 80, 90, 100)
            await desk.marked(75, 80, 90, 100, by="webhook")
            await until(desk.lines)
            assert desk.delivered() == []
            assert posted(server) == [75, 80, 90, 100]
        assert desk.lines() == ["75"]

    async def test_one_that_hung_goes_on_where_it_was_though_the_other_is_ahead(self, desk, transport):
        async def silence_once(server, peer):
            await (answering(OK) if server.requests else silence)(server, peer)

        with capture_logs():
            async with serving(silence_once) as server:
                async with desk.working(Webhook(server.url, transport), desk.shell(NOTE)):
                    await desk.happens(75, 80)
                    assert await server.happened() == "asked"
                    await desk.marked(75, 80)
                    await desk.passes(TIMEOUT_S)
                    await desk.passes(RETRY_AFTER_S[0])
                    await desk.marked(75, 80, by="webhook")
                assert posted(server) == [75, 75, 80]
        assert desk.lines() == ["75", "80"]

    async def test_after_a_restart_each_gets_what_it_has_not_taken(self, desk, transport):
        async with serving(silence) as server, desk.working(Webhook(server.url, transport), desk.shell(NOTE)):
            await desk.happens(75, 80)
            await desk.marked(75, 80)
        async with (
            serving(answering(OK)) as server,
            desk.working(Webhook(server.url, transport), desk.shell(NOTE)),
        ):
            await desk.happens(90)
            await desk.marked(75, 80, 90)
            await desk.marked(75, 80, 90, by="webhook")
            assert posted(server) == [75, 80, 90]
        assert desk.lines() == ["75", "80", "90"]

    async def test_one_that_is_new_gets_what_nobody_has_taken(self, desk, transport):
        async with desk.working(desk.shell(NOTE)):
            await desk.happens(75, 80)
            await desk.marked(75, 80)
        async with desk.working():
            await desk.happens(90)
        async with (
            serving(answering(OK)) as server,
            desk.working(Webhook(server.url, transport), desk.shell(NOTE)),
        ):
            await desk.happens(100)
            await desk.marked(75, 80, 90, 100, by="webhook")
            await desk.marked(75, 80, 90, 100)
            assert posted(server) == [90, 100]
        assert desk.lines() == ["75", "80", "90", "100"]

    async def test_one_that_was_ahead_and_comes_back_gets_nothing_again(self, desk, transport):
        async with serving(answering(OK)) as server:
            async with desk.working(Webhook(server.url, transport), desk.shell("exec sleep 1000")):
                await desk.happens(75, 80)
                await desk.marked(75, 80, by="webhook")
            async with desk.working(desk.shell('[ "$QUORUMD_ALERT_LEVEL" = 75 ] || exec sleep 1000')):
                await desk.marked(75)
            async with desk.working(Webhook(server.url, transport), desk.shell("true")):
                await desk.happens(90)
                await desk.marked(75, 80, 90, by="webhook")
                await desk.marked(75, 80, 90)
            assert posted(server) == [75, 80, 90]


class TestWebhook:
    async def test_it_is_posted_as_json_to_the_whole_address(self, transport):
        async with serving(answering(OK)) as server:
            await Webhook(f"{server.url}/hooks/a?token=b%20c", transport).deliver(ALERT)
        head, _, body = server.requests[0].partition(b"\r\n\r\n")
        assert head.startswith(b"POST /hooks/a?token=b%20c HTTP/1.1\r\n")
        assert b"content-type: application/json" in head.lower()
        assert json.loads(body) == msgspec.to_builtins(ALERT)

    @pytest.mark.parametrize("status", [b"302 Found\r\nlocation: /elsewhere", b"404 Not Found", b"500 Oh"])
    async def test_another_answer_is_no_delivery_and_no_redirect_is_followed(self, desk, transport, status):
        answer = b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\n\r\n"
        with capture_logs() as logs:
            async with serving(answering(answer)) as server:
                async with desk.working(Webhook(f"{server.url}/canary", transport)):
                    await desk.happens(75)
                    for seconds in RETRY_AFTER_S:
                        await desk.passes(seconds)
                    await desk.marked(75, by="webhook")
                assert len(server.requests) == 4
        assert logs[-1]["why"] == f"{server.url} answered {int(status[:3])}"
        assert "canary" not in str(logs)

    async def test_one_that_is_not_there_is_given_up(self, desk, transport):
        with capture_logs() as logs:
            async with desk.working(Webhook("http://127.0.0.1:9/canary", transport)):
                await desk.happens(75)
                for seconds in RETRY_AFTER_S:
                    await desk.passes(seconds)
                await desk.marked(75, by="webhook")
        assert logs[-1]["event"] == "alert_given_up"
        assert "canary" not in str(logs)

    async def test_one_that_hangs_delays_nothing_else(self, desk, transport):
        with capture_logs():
            async with serving(silence) as server, desk.working(Webhook(server.url, transport)):
                await desk.happens(75)
                assert await server.happened() == "asked"
                async with asyncio.timeout(1):  # the ledger, and the notifier's own mailbox
                    await desk.happens(80)
                    waiting = await desk.notifier.call(ReadUndelivered("webhook", 0))
                assert [alert.level for _, alert in waiting] == [75, 80]
                await desk.passes(TIMEOUT_S)
                assert await server.happened() == "hung up"

    @pytest.mark.parametrize(
        "url",
        [
            "ftp://x/canary",
            "canary",
            "http://",
            "https://u:canary@x/",
            "http://x/canary b",
            "http://x/é",
            "http://x:99999/",
            "http://[x/",
        ],
    )
    def test_what_is_no_address_is_refused_without_quoting_it(self, url):
        with pytest.raises(ValueError, match=r"URL|host|path") as refused:
            split_url(url)
        assert "canary" not in str(refused.value)

    def test_an_address_without_a_path_means_the_root(self):
        endpoint, path = split_url("https://example.org?x=1")
        assert (endpoint.origin, path) == ("https://example.org:443", "/?x=1")


def test_the_sentence_without_a_suggestion_ends_with_the_limit():
    alert = Alert("daemon", "day", 75, "info", NOON, 75, 100, "2027-03-10")
    assert sentence(alert) == "daemon has reached 75 % of its day's limit: $0.000000075 of $0.0000001"
    assert "QUORUMD_ALERT_SUGGESTION" not in variables(alert)
