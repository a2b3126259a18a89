"""`kill -9` at each stage of a call, round after round on the same books: nothing acknowledged is lost, nothing drifts."""

import random
import socket
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest
import running_daemon
import simulated_provider
from running_daemon import Daemon, JsonLines, eventually, priced, provider
from simulated_provider import Provider, model

ROUNDS, NIGHTLY_ROUNDS = 7, 34
"""Of each of the six stages: 42 in all, and 204."""
CALLS = 6
"""At once in each round."""
CHUNKS = 4
TOKEN_NANO = 100_000
MAX_TOKENS, RESPONSE_TOKENS = 100, 30
HOLD, COST = MAX_TOKENS * TOKEN_NANO, RESPONSE_TOKENS * TOKEN_NANO
"""Only an answer's tokens cost something, so both are known."""
SILENT = model(latency_ms=60_000)
ENDLESS = model(chunks=1_000, pace_ms=10)
LATE = model(latency_ms=600, chunks=CHUNKS, response_tokens=RESPONSE_TOKENS)
QUICK = [model(latency_ms=20 * at, chunks=CHUNKS, response_tokens=RESPONSE_TOKENS) for at in range(CALLS)]
CHARGED = {("not_sent", 0), ("unknown", HOLD), ("ok", COST)}

chance = random.Random(4)
Stage = Callable[[Daemon, JsonLines, Provider], None]
"""Brings calls to a stage and kills the daemon there."""


@pytest.fixture(scope="module")
def upstream() -> Iterator[Provider]:
    with simulated_provider.running() as running:
        yield running


@pytest.fixture
def daemon(upstream: Provider) -> Iterator[Daemon]:
    """One whose provider `mute` accepts connections and never says a word of TLS: no request to it ever leaves."""
    with socket.create_server(("127.0.0.1", 0), backlog=4_096) as mute:
        sections = [
            "[limits]\nmonth_usd = 10000\n",
            provider("paid", "openai", upstream.base_url()),
            provider("mute", "openai", f"https://127.0.0.1:{mute.getsockname()[1]}/v1"),
            priced(
                *[f"paid:{name}" for name in (SILENT, ENDLESS, LATE, *QUICK)],
                "mute:sim",
                usd_in=0.0,
                usd_out=TOKEN_NANO / 1_000,
            ),
        ]
        with running_daemon.running("\n".join(sections), start=False) as daemon:
            yield daemon


def asked(name: str) -> dict:
    return {"model": name, "messages": [{"role": "user", "content": "hi"}], "max_tokens": MAX_TOKENS, "stream": True}


def ask(lines: JsonLines, *names: str) -> None:
    """A stream of each."""
    lines.send(*[{"t": "call", "id": at, "method": "chat", "params": asked(name)} for at, name in enumerate(names)])


def hear_items(lines: JsonLines, each: int) -> None:
    """Waits until every call has told so many."""
    heard: Counter[int] = Counter()
    while len(heard) < CALLS or min(heard.values()) < each:
        message = lines.hear()
        assert message is not None
        assert message["t"] == "item", message
        heard[message["id"]] += 1


@contextmanager
def no_commit(daemon: Daemon) -> Iterator[None]:
    """What the daemon wants to commit waits (it does for 5 s): the write lock is ours."""
    with closing(sqlite3.connect(daemon.state / "quorumd.sqlite3", isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


def before_the_hold_is_durable(daemon: Daemon, lines: JsonLines, _: Provider) -> None:
    with no_commit(daemon):
        ask(lines, *[f"paid:{LATE}"] * CALLS)
        eventually(lambda: daemon.held() >= CALLS * HOLD, "all is held in memory")
        daemon.kill()


def after_the_hold_before_dispatch(daemon: Daemon, lines: JsonLines, _: Provider) -> None:
    ask(lines, *["mute:sim"] * CALLS)
    held = "SELECT id FROM holds WHERE state = 'held'"
    eventually(lambda: len(daemon.database(held)) == CALLS, "all holds are durable")
    daemon.kill()


def after_dispatch_before_any_answer(daemon: Daemon, lines: JsonLines, upstream: Provider) -> None:
    ask(lines, *[f"paid:{SILENT}"] * CALLS)
    upstream.wait_for(lambda chats: len(chats) == CALLS)
    daemon.kill()


def in_the_stream(daemon: Daemon, lines: JsonLines, _: Provider) -> None:
    ask(lines, *[f"paid:{ENDLESS}"] * CALLS)
    hear_items(lines, chance.randint(1, 10))
    daemon.kill()


def after_the_reply_before_the_settlement(daemon: Daemon, lines: JsonLines, upstream: Provider) -> None:
    ask(lines, *[f"paid:{LATE}"] * CALLS)
    upstream.wait_for(lambda chats: len(chats) == CALLS)
    with no_commit(daemon):
        hear_items(lines, CHUNKS)
        upstream.wait_for(lambda chats: {chat["outcome"] for chat in chats} == {"completed"})
        daemon.kill()


def while_answers_are_told(daemon: Daemon, lines: JsonLines, _: Provider) -> None:
    settled = len(daemon.rows()) + chance.randint(1, CALLS)
    ask(lines, *[f"paid:{name}" for name in QUICK])
    eventually(lambda: len(daemon.database("SELECT id FROM usage")) >= settled, "some are settled")
    daemon.kill()


NOTHING, NOT_SENT, UNKNOWN = {}, {"not_sent": CALLS}, {"unknown": CALLS}
STAGES: dict[str, tuple[Stage, dict[str, int] | None]] = {
    "before the hold is durable": (before_the_hold_is_durable, NOTHING),
    "after the hold, before dispatch": (after_the_hold_before_dispatch, NOT_SENT),
    "after dispatch, before any answer": (after_dispatch_before_any_answer, UNKNOWN),
    "in the stream": (in_the_stream, UNKNOWN),
    "after the reply, before the settlement": (after_the_reply_before_the_settlement, UNKNOWN),
    "while answers are told": (while_answers_are_told, None),
}
"""How calls get there, and the usage rows that they then have by status: None is any."""


def told(lines: JsonLines) -> dict[str, int]:
    """What each `done` that reached the client before the kill said: `usage_id` and cost."""
    heard = {}
    try:
        while (message := lines.hear()) is not None:
            assert message["t"] != "fault", message
            if message["t"] == "done":
                heard[message["value"]["usage_id"]] = message["value"]["cost_nano_usd"]
    except ConnectionResetError:
        pass
    return heard


def kill_at(stage: str, rounds: int, daemon: Daemon, upstream: Provider) -> None:
    bring, expected = STAGES[stage]
    acknowledged: dict[str, int] = {}
    rows: dict[str, dict] = {}
    daemon.start()
    for _ in range(rounds):
        with daemon.json_lines() as lines:
            answered = daemon.call("chat", **asked(f"paid:{QUICK[0]}"))
            acknowledged[answered["usage_id"]] = answered["cost_nano_usd"]
            upstream.reset()
            bring(daemon, lines, upstream)
            acknowledged |= told(lines)
        left = len(upstream.chats())
        daemon.start()
        daemon.balanced()
        before, rows = rows, {row["usage_id"]: row for row in daemon.rows()}
        assert {usage_id: rows[usage_id] for usage_id in before} == before  # what is posted stays as it is
        new = Counter(row["status"] for usage_id, row in rows.items() if usage_id not in before)
        if expected is None:
            assert new.total() <= 1 + CALLS
            assert left <= new["ok"] - 1 + new["unknown"]  # whatever left has a row that says so
        else:
            assert new == {"ok": 1} | expected
            assert left == new["unknown"]
        assert {(row["status"], row["cost_nano_usd"]) for row in rows.values()} <= CHARGED
        unknown = {usage_id for usage_id, row in rows.items() if row["status"] == "unknown"}
        assert {row["usage_id"] for row in daemon.call("holds")["holds"] if row["state"] == "unknown"} == unknown
        assert daemon.database("SELECT id FROM holds WHERE state = 'held'") == []
        assert daemon.database("SELECT usage_id FROM journal GROUP BY usage_id HAVING count(*) <> 2") == []
        assert {usage_id: rows[usage_id]["cost_nano_usd"] for usage_id in acknowledged} == acknowledged
        assert {rows[usage_id]["status"] for usage_id in acknowledged} <= {"ok"}
    assert (len(acknowledged) > rounds) == (expected is None)


@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_this_stage_it_loses_and_invents_nothing(stage, daemon, upstream):
    kill_at(stage, ROUNDS, daemon, upstream)


@pytest.mark.nightly
@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_this_stage_night_after_night_it_loses_and_invents_nothing(stage, daemon, upstream):
    kill_at(stage, NIGHTLY_ROUNDS, daemon, upstream)
