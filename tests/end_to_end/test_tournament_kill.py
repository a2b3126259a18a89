"""Tournaments that end in the middle: whatever ends them, members are cut off, holds close, books balance, and the record says so."""

import socket
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
import running_daemon
import several
import simulated_provider
from running_daemon import Daemon, JsonLines, eventually, priced, provider
from several import BOUND, COST, LATE_YES, SILENT, SLOW, TOKEN_NANO, WITHIN_S, YES, ask, asked, balanced, begin, says
from simulated_provider import Provider

ROUNDS = 2
"""Of each moment, on the same books."""
JUDGE_TOKENS = 2048
STARTED, SLOWLY, OTHER = f"one:{YES}", f"two:{SLOW}", f"three:{SILENT}"
OPEN = (f"one:{several.LONGER}", f"two:{several.LONGEST}")
JUDGED = {"answer": None, "mode": "pick", "judge": f"three:{SILENT}"}
Params = dict[str, Any]


@pytest.fixture(scope="module")
def upstream() -> Iterator[Provider]:
    with simulated_provider.running(models=["sim"]) as running:
        yield running


def config(upstream: Provider, mute: int, **daemon: float) -> str:
    """`mute` is the port of a provider that accepts connections and never says a word of TLS: no request to it ever leaves."""
    section = "\n".join(["[daemon]", *(f"{key} = {value}" for key, value in daemon.items()), ""])
    more = [
        provider("mute", "openai", f"https://127.0.0.1:{mute}/v1"),
        priced("mute:a", "mute:b", usd_in=0.0, usd_out=TOKEN_NANO / 1_000),
    ]
    return several.config(upstream, *more, limits=f"{section}[limits]\nmonth_usd = 10000\n")


@pytest.fixture(scope="module")
def mute() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0), backlog=4_096) as listener:
        yield listener.getsockname()[1]


@pytest.fixture(scope="module")
def one_daemon(upstream: Provider, mute: int) -> Iterator[Daemon]:
    with running_daemon.running(config(upstream, mute), start=False) as running:
        yield running


@pytest.fixture
def daemon(one_daemon: Daemon, upstream: Provider, mute: int) -> Daemon:
    upstream.reset()
    one_daemon.configure(config(upstream, mute))
    one_daemon.restart()
    return one_daemon


# ---- moments


def holds(daemon: Daemon, count: int) -> None:
    held = "SELECT id FROM holds WHERE state = 'held'"
    eventually(lambda: len(daemon.database(held)) == count, f"{count} holds are durable")


def one_ballot_in(daemon: Daemon, lines: JsonLines, upstream: Provider) -> None:
    """The first has answered, the others run; the slow one has emitted something."""
    begin(lines, asked(STARTED, SLOWLY, OTHER, latency="fast", stream=True))
    upstream.wait_for(lambda chats: len(chats) == 3 and chats_sent(chats, 3))
    holds(daemon, 2)


def chats_sent(chats: list[dict[str, Any]], chunks: int) -> bool:
    return any(chat["outcome"] != "completed" and chat["chunks_sent"] >= chunks for chat in chats)


def judging(daemon: Daemon, lines: JsonLines, upstream: Provider) -> None:
    """Both answers are in, the judge is asked in both orders."""
    begin(lines, asked(*OPEN, **JUDGED))
    upstream.wait_for(lambda chats: len(chats) == 4)
    holds(daemon, 2)


def not_sent_yet(daemon: Daemon, lines: JsonLines, _: Provider) -> None:
    """All is held, nothing has left."""
    begin(lines, asked("mute:a", "mute:b"))
    holds(daemon, 2)
    eventually(lambda: daemon.call("tournaments", state="running")["tournaments"], "it is recorded")


Moment = Callable[[Daemon, JsonLines, Provider], None]
MOMENTS: dict[str, tuple[Moment, dict[str, int], dict[str, int]]] = {
    "all held, nothing sent": (not_sent_yet, {"not_sent": 2}, {"cancelled": 2}),
    "a ballot in, members run": (one_ballot_in, {"ok": 1, "unknown": 2}, {"ok": 1, "cancelled": 2}),
    "a judge is asked": (judging, {"ok": 2, "unknown": 2}, {"ok": 2, "cancelled": 2}),
}
"""How a tournament gets there, and its usage rows by status after a kill, and after a cancel."""


def newest(daemon: Daemon) -> dict[str, Any]:
    row: dict[str, Any] = daemon.call("tournaments", last=1)["tournaments"][0]
    return row


def attempts(daemon: Daemon, tournament_id: str) -> list[dict[str, Any]]:
    return [row for row in daemon.rows() if row["call_id"] == tournament_id]


# ---- kill -9


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_this_moment_the_books_balance_and_the_tournament_is_unfinished(moment, daemon, upstream):
    bring, expected, _ = MOMENTS[moment]
    for number in range(1, ROUNDS + 1):
        upstream.reset()
        with daemon.json_lines() as lines:
            bring(daemon, lines, upstream)
            daemon.kill()
        daemon.start()
        balanced(daemon)
        left = newest(daemon)
        assert (left["state"], left["status"], left["why"]) == (
            "unfinished",
            None,
            "the daemon ended before its verdict was stored",
        )
        rows = attempts(daemon, left["tournament_id"])
        assert Counter(row["status"] for row in rows) == expected
        charged = {"not_sent": {0}, "ok": {COST}, "unknown": {BOUND, JUDGE_TOKENS * TOKEN_NANO}}
        assert all(row["cost_nano_usd"] in charged[row["status"]] for row in rows)
        unknown = {row["usage_id"] for row in rows if row["status"] == "unknown"}
        listed = {row["usage_id"] for row in daemon.call("holds")["holds"] if row["state"] == "unknown"}
        assert unknown <= listed
        shown = daemon.call("tournament.show", tournament_id=left["tournament_id"])
        assert [ballot["status"] for ballot in shown["ballots"]].count("ok") <= expected.get("ok", 0)
        assert len(daemon.call("tournaments", state="unfinished")["tournaments"]) >= number


def test_killed_before_its_holds_are_durable_there_was_no_tournament(daemon, upstream):
    before = len(daemon.rows()), len(daemon.call("tournaments", last=1000)["tournaments"])
    database = daemon.state / "quorumd.sqlite3"
    with daemon.json_lines() as lines, closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")  # what the daemon wants to commit waits
        begin(lines, asked(f"one:{LATE_YES}", f"two:{LATE_YES}"))
        eventually(lambda: daemon.held() >= 2 * BOUND, "all is held in memory")
        daemon.kill()
    daemon.start()
    assert (len(daemon.rows()), len(daemon.call("tournaments", last=1000)["tournaments"])) == before
    assert upstream.chats() == []
    assert daemon.held() == 0


# ---- cancelled, hung up, stopped


def lost_their_reader(upstream: Provider, since: float) -> None:
    """Whatever ran was closed within a second."""
    chats = upstream.wait_for(lambda chats: all(chat["ended_ms"] is not None for chat in chats), WITHIN_S + 1)
    for chat in chats:
        assert chat["outcome"] in {"completed", "client_closed"}
        assert chat["at"] + chat["ended_ms"] / 1000 - since < WITHIN_S


def charged_in_part(rows: list[dict[str, Any]]) -> None:
    """What was cut off is charged for what it emitted: of a slow stream something, and far from all."""
    slow = [row for row in rows if row["model"] == SLOWLY]
    assert all(0 < row["cost_nano_usd"] < BOUND / 2 for row in slow)
    assert all(row["cost_nano_usd"] == 0 for row in rows if row["status"] != "ok" and row["model"] != SLOWLY)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("how", ["cancel", "hang-up"])
def test_whoever_leaves_in_the_middle_ends_all_members_and_pays_what_they_emitted(how, moment, daemon, upstream):
    bring, _, expected = MOMENTS[moment]
    with daemon.json_lines() as lines:
        bring(daemon, lines, upstream)
        gone = time.time()
        if how == "cancel":
            lines.send({"t": "cancel", "id": 1})
            assert lines.until_end_of(1)[-1]["code"] == "cancelled"
            assert daemon.held() == 0
    lost_their_reader(upstream, gone)
    eventually(lambda: daemon.call("tournaments", state="running")["tournaments"] == [], "it has ended")
    balanced(daemon)
    left = newest(daemon)
    assert (left["state"], left["status"]) == ("unfinished", None)
    assert "cancelled" in left["why"]
    rows = attempts(daemon, left["tournament_id"])
    assert Counter(row["status"] for row in rows) == expected
    charged_in_part(rows)


@pytest.mark.parametrize("moment", list(MOMENTS)[1:])
def test_sigterm_with_little_time_to_drain_settles_exits_0_and_leaves_it_unfinished(moment, daemon, upstream, mute):
    bring, _, _ = MOMENTS[moment]
    daemon.configure(config(upstream, mute, drain_s=0.2))
    daemon.restart()
    with daemon.json_lines() as lines:
        bring(daemon, lines, upstream)
        gone = time.time()
        daemon.signal()
        fault = lines.until_end_of(1)[-1]
        assert (fault["t"], fault["code"]) == ("fault", "shutting_down")
    assert daemon.wait() == 0
    lost_their_reader(upstream, gone + 0.2)
    daemon.start()
    balanced(daemon)
    left = newest(daemon)
    assert left["state"] == "unfinished"
    assert "shutting down" in left["why"]
    rows = attempts(daemon, left["tournament_id"])
    assert {row["status"] for row in rows} == {"ok", "shutting_down"}
    charged_in_part(rows)


def test_sigterm_lets_a_tournament_finish_within_drain_s(daemon, upstream):
    with daemon.json_lines() as lines:
        begin(lines, asked(f"one:{LATE_YES}", f"two:{LATE_YES}"))
        upstream.wait_for(lambda chats: len(chats) == 2)
        daemon.signal()
        end = lines.until_end_of(1)[-1]
    assert daemon.wait() == 0
    assert end["value"]["status"] == "unanimous"
    daemon.start()
    assert newest(daemon)["status"] == "unanimous"
    balanced(daemon)


def test_sixty_hang_ups_at_random_moments_leave_nothing_behind(daemon, upstream):
    kinds: list[Params] = [
        asked(STARTED, SLOWLY, OTHER, latency="fast"),
        asked(*OPEN, **JUDGED),
        asked(f"one:{LATE_YES}", f"two:{says('no', latency_ms=40)}", STARTED, mode="cascade"),
        asked(STARTED, OTHER, mode="race", user="somebody"),
    ]

    def hang_up(number: int) -> None:
        with daemon.json_lines() as lines:
            begin(lines, kinds[number % 4])
            threading.Event().wait(number % 23 / 80)

    with ThreadPoolExecutor(12) as clients:
        list(clients.map(hang_up, range(60)))
    eventually(lambda: upstream.counters()["in_flight"] == 0, "all requests ended", WITHIN_S)
    eventually(lambda: daemon.call("status")["calls_in_flight"] == 0, "all calls ended", WITHIN_S)
    eventually(lambda: daemon.call("tournaments", state="running")["tournaments"] == [], "all ended", WITHIN_S)
    balanced(daemon)
    assert ask(daemon, STARTED, f"two:{YES}")["status"] == "unanimous"
