"""Calls under an idempotency key: however often they are asked, at once, later, over a restart or a `kill -9`, one goes upstream."""

import grp
import json
import os
import pwd
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import msgspec
import pytest
import running_daemon
import simulated_provider
from running_daemon import Daemon, eventually, priced, provider
from simulated_provider import Provider, model

from protocols.chat import Delta, Reasoning
from protocols.errors import (
    BadRequest,
    BudgetExceeded,
    Busy,
    Cancelled,
    DeadlineExceeded,
    IdempotencyConflict,
    OverrideRequired,
    ProviderFailed,
    QuorumError,
    ShuttingDown,
)

LATE = model(latency_ms=700)
SILENT = model(latency_ms=60_000)
FAILS = model(fail=500)
LONG = model(chunks=100, pace_ms=50)
TOOLS = model(reasoning="I think", tool_calls='[{"name": "find", "arguments": "{\\"a\\": 1}"}]')
NOBODY = pwd.getpwnam("nobody")
NAMES = ("sim", LATE, SILENT, FAILS, LONG, TOOLS)


@pytest.fixture(scope="module")
def upstream() -> Iterator[Provider]:
    with simulated_provider.running() as running:
        yield running


@pytest.fixture
def daemon(upstream: Provider) -> Iterator[Daemon]:
    config = "\n".join(
        [
            "[daemon]\ndrain_s = 0.3",
            f'[rights]\nuse_group = "{grp.getgrgid(NOBODY.pw_gid).gr_name}"',
            provider("paid", "openai", upstream.base_url()),
            provider("gone", "openai", "http://127.0.0.1:9/v1"),
            priced(*[f"paid:{name}" for name in NAMES], "gone:sim"),
        ]
    )
    upstream.reset()
    with running_daemon.running(config) as running:
        yield running


def ask(daemon, prompt="hello", key="k", name="sim", **fields):
    """One chat under a key, on a connection of its own, as a plain document."""
    with daemon.connect() as quorum:
        said = [{"role": "user", "content": prompt}]
        return quorum.call("chat", messages=said, model=f"paid:{name}", idempotency_key=key, **fields)


def told(daemon, **fields):
    """The fault that a chat under a key ends with."""
    with pytest.raises(QuorumError) as fault:
        ask(daemon, **fields)
    return fault.value


def change(daemon, sql):
    """Changes the database of a daemon that is gone: what a kill at another moment would have left."""
    with closing(sqlite3.connect(daemon.state / "quorumd.sqlite3", isolation_level=None)) as connection:
        connection.execute(sql)


def parts(fault):
    return type(fault), fault.message, fault.detail, fault.retry_after_s


def streamed(daemon, name, key="k"):
    with daemon.connect() as quorum:
        pieces = quorum.stream("hello", model=f"paid:{name}", idempotency_key=key)
        return list(pieces), msgspec.to_builtins(pieces.answer)


def test_two_at_once_are_one_call_with_one_answer(daemon, upstream):
    with ThreadPoolExecutor(6) as clients:
        answers = list(clients.map(lambda _: ask(daemon, name=LATE), range(6)))
    assert all(answer == answers[0] for answer in answers)
    assert len(upstream.chats()) == 1
    assert len(daemon.rows()) == 1
    assert answers[0]["call_id"] == daemon.rows()[0]["call_id"]
    daemon.balanced()


def test_a_later_one_hears_the_first_answer_also_after_a_restart(daemon, upstream):
    first = ask(daemon)
    assert ask(daemon) == first
    daemon.restart()
    assert ask(daemon) == first
    assert len(upstream.chats()) == 1


def test_both_wires_hear_the_same_document(daemon, upstream):
    first = ask(daemon)
    with daemon.json_lines() as lines:
        params = {"messages": [{"role": "user", "content": "hello"}], "model": "paid:sim"}
        lines.send({"t": "call", "id": 1, "method": "chat", "params": params, "idempotency_key": "k"})
        assert lines.until_end_of(1) == [{"t": "done", "id": 1, "value": first}]
    assert len(upstream.chats()) == 1


def test_another_body_under_the_key_is_a_conflict_during_the_call_and_after(daemon, upstream):
    with ThreadPoolExecutor(1) as clients:
        first = clients.submit(ask, daemon, name=LATE)
        upstream.wait_for(lambda chats: chats)
        assert isinstance(told(daemon, prompt="other", name=LATE), IdempotencyConflict)
        assert not first.done()
        first.result()
    assert isinstance(told(daemon, prompt="other", name=LATE), IdempotencyConflict)
    assert len(upstream.chats()) == 1


def test_how_it_is_delivered_and_what_confirms_it_are_not_compared(daemon, upstream):
    first = ask(daemon)
    assert ask(daemon, stream=True) == first
    assert ask(daemon, override_token="made up") == first
    assert len(upstream.chats()) == 1


def test_a_streamed_answer_is_streamed_again_as_what_it_was(daemon, upstream):
    items, answer = streamed(daemon, "sim")
    again, same = streamed(daemon, "sim")
    assert same == answer
    assert again == [Delta("".join(item.text for item in items))]
    assert len(upstream.chats()) == 1


def test_reasoning_and_tool_calls_are_streamed_again(daemon, upstream):
    _, answer = streamed(daemon, TOOLS)
    again, same = streamed(daemon, TOOLS)
    assert same == answer
    assert again[0] == Reasoning("I think")
    assert (again[-1].index, again[-1].name, json.loads(again[-1].arguments)) == (0, "find", {"a": 1})
    assert len(upstream.chats()) == 1


def test_a_fault_of_a_call_that_was_sent_is_told_again(daemon, upstream):
    first = told(daemon, name=FAILS)
    sent = len(upstream.chats())
    assert isinstance(first, ProviderFailed)
    assert parts(told(daemon, name=FAILS)) == parts(first)
    daemon.restart()
    assert parts(told(daemon, name=FAILS)) == parts(first)
    assert len(upstream.chats()) == sent


def test_a_refusal_before_anything_was_sent_frees_the_key(daemon, upstream):
    daemon.call("settings.set", key="month_usd", value=0.0)
    assert isinstance(told(daemon), BudgetExceeded | OverrideRequired)
    assert daemon.database("SELECT * FROM idempotency") == []
    daemon.call("settings.unset", key="month_usd")
    assert ask(daemon, prompt="another body")["text"]
    assert len(upstream.chats()) == 1


def test_a_confirmed_override_may_use_the_key_of_its_question(daemon, upstream):
    daemon.call("settings.set", key="month_usd", value=0.0)
    question = told(daemon)
    assert isinstance(question, OverrideRequired)
    answer = ask(daemon, override_token=question.detail["override_token"])
    assert ask(daemon, override_token=question.detail["override_token"]) == ask(daemon) == answer
    assert len(upstream.chats()) == 1


def test_a_provider_that_could_not_be_reached_frees_the_key(daemon):
    asked = {"messages": [{"role": "user", "content": "hello"}], "model": "gone:sim"}
    for _ in range(2):
        with daemon.connect() as quorum, pytest.raises(QuorumError) as fault:
            quorum.call("chat", **asked, idempotency_key="k")
        assert fault.value.code == "provider_unavailable"
        assert daemon.database("SELECT * FROM idempotency") == []


def test_after_a_refusal_one_that_waited_is_not_lost(daemon, upstream):
    daemon.call("settings.set", key="month_usd", value=0.0)
    with ThreadPoolExecutor(8) as clients:
        faults = list(clients.map(lambda _: told(daemon), range(8)))
    assert {fault.code for fault in faults} <= {"budget_exceeded", "override_required"}
    assert upstream.chats() == []


def test_kill_9_in_a_call_never_sends_it_again(daemon, upstream):
    with ThreadPoolExecutor(1) as clients:
        first = clients.submit(told, daemon, name=SILENT)
        upstream.wait_for(lambda chats: chats)
        daemon.kill()
        first.exception()
    daemon.start()

    def settled():
        fault = told(daemon, name=SILENT)
        return None if isinstance(fault, Busy) else fault

    fault = eventually(settled, "the hold of the killed call is settled")
    assert isinstance(fault, ProviderFailed)
    (row,) = daemon.rows()
    assert (row["status"], fault.detail) == ("unknown", {"usage_id": row["usage_id"]})
    assert parts(told(daemon, name=SILENT)) == parts(fault)
    assert len(upstream.chats()) == 1


def test_kill_9_before_anything_was_sent_frees_the_key(daemon, upstream):
    ask(daemon, key="other")
    daemon.kill()
    change(daemon, "UPDATE idempotency SET key = 'k', call_id = 'zzzzzzzzzzzzz', outcome = NULL")
    daemon.start()
    ask(daemon)
    assert len(upstream.chats()) == 2


def test_a_crash_after_the_answer_was_paid_tells_that_it_is_lost(daemon, upstream):
    answer = ask(daemon)
    daemon.kill()
    change(daemon, "UPDATE idempotency SET outcome = NULL")
    daemon.start()
    fault = told(daemon)
    assert isinstance(fault, ProviderFailed)
    assert fault.detail == {"usage_id": answer["usage_id"]}
    assert "paid" in fault.message
    assert len(upstream.chats()) == 1


def test_a_waiter_has_its_own_deadline_and_takes_nobody_with_it(daemon, upstream):
    with ThreadPoolExecutor(1) as clients:
        first = clients.submit(ask, daemon, name=LATE)
        upstream.wait_for(lambda chats: chats)
        assert isinstance(told(daemon, name=LATE, deadline_s=0.1), DeadlineExceeded)
        assert first.result() == ask(daemon, name=LATE)
    assert len(upstream.chats()) == 1


def test_what_a_cancelled_first_came_to_is_the_outcome_for_all(daemon, upstream):
    params = {"messages": [{"role": "user", "content": "hello"}], "model": f"paid:{LONG}"}
    call = {"t": "call", "id": 1, "method": "chat", "params": params | {"stream": True}, "idempotency_key": "k"}
    with daemon.json_lines() as lines, ThreadPoolExecutor(1) as clients:
        lines.send(call)
        assert lines.hear()["t"] == "item"
        waiter = clients.submit(told, daemon, name=LONG)
        eventually(lambda: daemon.call("status")["calls_in_flight"] == 2, "the second one waits")
        lines.send({"t": "cancel", "id": 1})
        fault = lines.until_end_of(1)[-1]
        heard = waiter.result()
    assert isinstance(heard, Cancelled)
    assert (heard.code, heard.message, heard.detail) == (fault["code"], fault["message"], fault["detail"])
    assert heard.detail["partial"]
    assert len(upstream.chats()) == 1
    daemon.balanced()


def test_a_shutdown_ends_the_first_and_those_who_wait(daemon, upstream):
    with ThreadPoolExecutor(2) as clients:
        first = clients.submit(told, daemon, name=SILENT)
        upstream.wait_for(lambda chats: chats)
        waiter = clients.submit(told, daemon, name=SILENT)
        eventually(lambda: daemon.call("status")["calls_in_flight"] == 2, "the second one waits")
        assert daemon.stop() == 0
        assert isinstance(first.result(), ShuttingDown)
        assert isinstance(waiter.result(), ShuttingDown)
    assert "exception" not in daemon.log_text().lower()
    daemon.start()
    assert parts(told(daemon, name=SILENT)) == parts(first.result())
    assert len(upstream.chats()) == 1


@pytest.mark.parametrize("method", ["status", "explain", "settings.show"])
def test_a_key_where_it_means_nothing_is_refused(daemon, method):
    with daemon.connect() as quorum, pytest.raises(BadRequest, match=f"means nothing for `{method}`"):
        quorum.call(method, idempotency_key="k")


@pytest.mark.parametrize("key", ["", "k" * 257])
def test_a_key_has_a_length_that_it_can_have(daemon, upstream, key):
    assert isinstance(told(daemon, key=key), BadRequest)
    assert ask(daemon, key="k" * 256)["text"]
    assert len(upstream.chats()) == 1


def test_daemonctl_takes_a_key(daemon, upstream):
    said = ["--idempotency-key", "k", "-m", "paid:sim", "hello"]
    first, second = daemon.ctl("chat", *said), daemon.ctl("chat", "--no-stream", *said)
    assert (first.code, first.out) == (second.code, second.out)
    params = json.dumps({"messages": [{"role": "user", "content": "hello"}], "model": "paid:sim"})
    assert json.loads(daemon.ctl("call", "chat", params, "--idempotency-key", "k").out)["text"] in first.out
    assert len(upstream.chats()) == 1


@pytest.mark.skipif(os.getuid() != 0, reason="another uid can only be taken by root")
def test_another_uid_has_keys_of_its_own(daemon, upstream):
    mine = ask(daemon)
    daemon.folder.chmod(0o755)
    os.setegid(NOBODY.pw_gid)
    os.seteuid(NOBODY.pw_uid)
    try:
        theirs = ask(daemon, prompt="other")
    finally:
        os.seteuid(0)
        os.setegid(0)
    assert theirs["call_id"] != mine["call_id"]
    assert len(upstream.chats()) == 2
    assert ask(daemon) == mine
