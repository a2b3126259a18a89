"""Every way out settles: the upstream request ends, the hold closes at what was emitted, and nothing stays held."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
import running_daemon
import simulated_provider
from running_daemon import Daemon, JsonLines, eventually, priced, provider
from simulated_provider import Provider, model

WITHIN_S = 1.0
"""How soon after a hang-up the provider must have lost its reader."""
CHUNKS = 400
SLOW = model(chunks=CHUNKS, pace_ms=25)
"""A stream of ten seconds: whoever ends it early pays for little of it."""
SILENT = model(latency_ms=60_000)
"""Nothing comes, not even the head."""
BROKEN = {
    "fails with 500": (model(fail=500, fail_message="out of order"), "provider_error"),
    "hangs up before its head": (model(close_before_head=True), "provider_error"),
    "fails at the first chunk": (model(error_in_stream_at=0), "provider_error"),
    "is reset before the first chunk": (model(break_at=0), "truncated"),
    "is reset in the middle": (model(chunks=20, break_at=5, pace_ms=5), "truncated"),
    "ends without its end mark": (model(chunks=20, end_early_at=5, pace_ms=5), "truncated"),
    "fails in the middle": (model(chunks=20, error_in_stream_at=5, pace_ms=5), "provider_error"),
}
KINDS = ("openai", "anthropic", "ollama")


@pytest.fixture(scope="module")
def upstream() -> Iterator[Provider]:
    with simulated_provider.running() as running:
        yield running


def config(upstream: Provider, **daemon: float) -> str:
    models = [SLOW, SILENT, "sim", *(name for name, _ in BROKEN.values())]
    sections = ["[daemon]", *(f"{key} = {value}" for key, value in daemon.items())]
    sections += [provider(kind, kind, upstream.base_url(kind), local=False) for kind in KINDS]
    return "\n".join([*sections, priced(*[f"{kind}:{name}" for kind in KINDS for name in models])])


@pytest.fixture(scope="module")
def one_daemon(upstream: Provider) -> Iterator[Daemon]:
    with running_daemon.running(config(upstream)) as running:
        yield running


@pytest.fixture
def daemon(one_daemon: Daemon, upstream: Provider) -> Daemon:
    upstream.reset()
    one_daemon.configure(config(upstream))
    one_daemon.restart()  # the breaker knows nothing of the test before
    return one_daemon


def ask(
    lines: JsonLines, name: str, *, stream: bool = True, deadline_s: float | None = None, call_id: int = 1, **more: str
) -> None:
    """Begins a chat."""
    params = more | {
        "model": name,
        "messages": [{"role": "user", "content": "tell me a story"}],
        "stream": stream,
        "max_tokens": 5000,
    }
    said = {"t": "call", "id": call_id, "method": "chat", "params": params}
    lines.send(said if deadline_s is None else said | {"deadline_s": deadline_s})


def settled(daemon: Daemon, status: str) -> dict:
    """The newest usage row, after the call has ended, all books were found to agree and nothing was found held."""
    eventually(lambda: daemon.call("status")["calls_in_flight"] == 0, "no call is under way")
    daemon.balanced()
    assert daemon.database("SELECT * FROM holds") == []
    (row,) = daemon.database("SELECT * FROM usage ORDER BY id DESC LIMIT 1")
    assert row["status"] == status
    return row


def hold_of(daemon: Daemon, row: dict) -> int:
    (entry,) = daemon.database("SELECT held FROM journal WHERE usage_id = ? AND entry = 0", row["id"])
    return entry["held"]


def charged_in_part(daemon: Daemon, row: dict, received: int) -> None:
    """For the prompt and what arrived (at most a few chunks more than the client saw), and less than for the whole."""
    assert row["cost_source"] == "estimated"
    assert 0 < row["cost"] < hold_of(daemon, row) // 4
    assert received / 8 <= row["response_tokens"] <= received + 60  # an estimate: about four letters a token
    assert row["cost"] == row["prompt_tokens"] * 3000 + row["response_tokens"] * 15_000


def begun(lines: JsonLines, items: int = 5) -> str:
    """The text of the first items."""
    return "".join(lines.hear()["value"]["text"] for _ in range(items))


def lost_its_reader(upstream: Provider, since: float) -> None:
    """The provider saw the connection close within a second, with most of the answer unsent."""
    (chat,) = upstream.wait_for(lambda chats: chats and chats[-1]["outcome"] == "client_closed", WITHIN_S + 1)
    assert chat["at"] + chat["ended_ms"] / 1000 - since < WITHIN_S
    assert chat["chunks_sent"] < CHUNKS / 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_hang_up_in_the_middle_of_a_stream_ends_the_request_and_charges_what_was_emitted(kind, daemon, upstream):
    with daemon.json_lines() as lines:
        ask(lines, f"{kind}:{SLOW}")
        text = begun(lines)
        eventually(lambda: daemon.held() > 0, "the hold is shown")
        gone = time.time()
    lost_its_reader(upstream, gone)
    charged_in_part(daemon, settled(daemon, "cancelled"), len(text))


def test_a_hang_up_after_the_end_of_input_is_noticed_too(daemon, upstream):
    with daemon.json_lines() as lines:
        ask(lines, f"openai:{SLOW}")
        lines.raw.shutdown(socket.SHUT_WR)
        text = begun(lines)
        gone = time.time()
    lost_its_reader(upstream, gone)
    charged_in_part(daemon, settled(daemon, "cancelled"), len(text))


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_a_hang_up_before_the_first_token_ends_the_request_too(stream, daemon, upstream):
    with daemon.json_lines() as lines:
        ask(lines, f"openai:{SILENT}", stream=stream)
        upstream.wait_for(len)
        gone = time.time()
    lost_its_reader(upstream, gone)
    row = settled(daemon, "cancelled")
    whole = hold_of(daemon, row)
    assert row["cost_source"] == "estimated"
    assert row["cost"] == (
        row["prompt_tokens"] * 3000 if stream else whole
    )  # a whole answer is billed although nobody reads it


def test_a_cancel_message_ends_the_call_and_leaves_the_connection_usable(daemon, upstream):
    with daemon.json_lines() as lines:
        ask(lines, f"openai:{SLOW}")
        text = begun(lines)
        gone = time.time()
        lines.send({"t": "cancel", "id": 1})
        *more, fault = lines.until_end_of(1)
        text += "".join(item["value"]["text"] for item in more)
        lost_its_reader(upstream, gone)
        lines.send({"t": "call", "id": 2, "method": "ping"})
        assert lines.until_end_of(2)[0]["t"] == "done"
    row = settled(daemon, "cancelled")
    assert (fault["t"], fault["code"]) == ("fault", "cancelled")
    assert fault["detail"] == {"partial": text, "usage_id": row["id"]}
    charged_in_part(daemon, row, len(text))


def test_leaving_a_stream_of_the_python_client_early_cancels_the_call(daemon, upstream):
    with daemon.connect() as quorum:
        pieces = iter(quorum.stream("tell me a story", model=f"openai:{SLOW}", max_tokens=5000))
        text = next(pieces).text
        gone = time.time()
        pieces.close()
        lost_its_reader(upstream, gone)
        assert quorum.call("ping") == {}
    charged_in_part(daemon, settled(daemon, "cancelled"), len(text))


@pytest.mark.parametrize(("name", "waits"), [(SLOW, 0.4), (SILENT, 0.3)], ids=["in the stream", "before it"])
def test_a_deadline_ends_the_call_in_time_and_charges_what_was_emitted(name, waits, daemon, upstream):
    with daemon.json_lines() as lines:
        began = time.time()
        ask(lines, f"openai:{name}", deadline_s=waits)
        *items, fault = lines.until_end_of(1)
        took = time.time() - began
    text = "".join(item["value"]["text"] for item in items)
    row = settled(daemon, "deadline")
    assert (fault["code"], fault["detail"]) == ("deadline", {"partial": text, "usage_id": row["id"]})
    assert waits <= took < waits + WITHIN_S
    lost_its_reader(upstream, began + waits)
    if name == SLOW:
        charged_in_part(daemon, row, len(text))
    else:
        assert row["cost"] == row["prompt_tokens"] * 3000


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("kind", KINDS)
def test_a_provider_that_breaks_is_told_as_it_is_and_settled(kind, how, stream, one_daemon, upstream):
    name, code = BROKEN[how]
    before = one_daemon.call("providers")["providers"]
    if any(row["state"] == "open" for row in before):
        one_daemon.restart()
    upstream.reset()
    with one_daemon.json_lines() as lines:
        ask(lines, f"{kind}:{name}", stream=stream)
        *items, fault = lines.until_end_of(1)
    text = "".join(item["value"]["text"] for item in items)
    if not stream and "stream" not in how and how in {"fails at the first chunk", "fails in the middle"}:
        assert fault["t"] == "done"  # these faults are of streams alone
        return
    assert fault["t"] == "fault", fault
    assert fault["code"] == (code if stream or code == "provider_error" else fault["code"])
    assert fault["code"] in {"provider_error", "truncated"}
    assert "Traceback" not in fault["message"]
    row = settled(one_daemon, fault["code"])
    assert fault["detail"]["usage_id"] == row["id"]
    if fault["code"] == "truncated" and stream:
        assert fault["detail"]["partial"] == text
    if text:
        assert 0 < row["cost"] < hold_of(one_daemon, row) // 4
        assert row["cost_source"] == "estimated"
    elif how in {"fails with 500", "fails at the first chunk"}:
        assert row["cost"] == 0
    assert len(upstream.chats()) == 1


@pytest.mark.parametrize("name", [SLOW, SILENT], ids=["in the stream", "before it"])
def test_sigterm_with_little_time_to_drain_ends_the_call_settles_and_exits_0(name, daemon, upstream):
    daemon.configure(config(upstream, drain_s=0.2))
    daemon.restart()
    with daemon.json_lines() as lines:
        ask(lines, f"openai:{name}")
        text = begun(lines) if name == SLOW else ""
        upstream.wait_for(len)
        gone = time.time()
        daemon.signal()
        *items, fault = lines.until_end_of(1)
        assert lines.hear() is None
    code = daemon.wait()
    text += "".join(item["value"]["text"] for item in items)
    assert code == 0
    assert (fault["t"], fault["code"], fault["detail"]["partial"]) == ("fault", "shutting_down", text)
    lost_its_reader(upstream, gone + 0.2)
    daemon.start()
    row = settled(daemon, "shutting_down")
    assert fault["detail"]["usage_id"] == row["id"]
    if name == SLOW:
        charged_in_part(daemon, row, len(text))


def test_sigterm_lets_a_call_finish_within_drain_s(daemon, upstream):
    with daemon.json_lines() as lines:
        upstream.set(chunks=10, pace_ms=40)
        ask(lines, "openai:sim")
        begun(lines, 1)
        before = len(daemon.log_text())
        daemon.signal()
        eventually(lambda: "draining" in daemon.log_text()[before:], "it drains")
        ask(lines, "openai:sim", call_id=2)
        heard = [lines.hear()]
        while heard[-1] is not None:
            heard.append(lines.hear())
    ends = {message["id"]: message for message in heard[:-1] if message["t"] in {"done", "fault"}}
    assert ends[1]["t"] == "done"
    assert ends[2]["code"] == "shutting_down"
    assert daemon.wait() == 0
    daemon.start()
    assert settled(daemon, "ok")["id"] == ends[1]["value"]["usage_id"]


@pytest.mark.parametrize("name", [SLOW, SILENT], ids=["in the stream", "before it"])
def test_a_second_sigterm_cancels_at_once_and_still_settles(name, daemon, upstream):
    with daemon.json_lines() as lines:
        ask(lines, f"openai:{name}")
        text = begun(lines) if name == SLOW else ""
        upstream.wait_for(len)
        before = len(daemon.log_text())
        daemon.signal()
        eventually(lambda: "draining" in daemon.log_text()[before:], "it drains")
        again = time.time()
        daemon.signal()
        *items, fault = lines.until_end_of(1)
        assert daemon.wait() == 0
        assert time.time() - again < WITHIN_S + 0.5  # far below the 20 s of drain_s
    text += "".join(item["value"]["text"] for item in items)
    assert (fault["code"], fault["detail"]["partial"]) == ("shutting_down", text)
    daemon.start()
    row = settled(daemon, "shutting_down")
    assert row["id"] == fault["detail"]["usage_id"]


def test_signals_in_a_storm_still_settle_and_exit_0(daemon, upstream):
    with daemon.json_lines() as lines:
        for call_id in range(1, 21):
            ask(lines, f"openai:{SLOW}", call_id=call_id)
        upstream.wait_for(lambda chats: len(chats) == 20)
        before = len(daemon.log_text())
        daemon.signal()
        eventually(lambda: "draining" in daemon.log_text()[before:], "it drains")
        for _ in range(200):
            daemon.signal()
        while lines.hear() is not None:
            daemon.signal()
    assert daemon.wait() == 0
    daemon.start()
    settled(daemon, "shutting_down")
    newest = daemon.database("SELECT status, cost_source FROM usage ORDER BY id DESC LIMIT 20")
    assert newest == [{"status": "shutting_down", "cost_source": "estimated"}] * 20


def test_the_end_of_input_alone_is_no_hang_up(daemon, upstream):
    upstream.set(chunks=10, pace_ms=30)
    with daemon.json_lines() as lines:
        ask(lines, "openai:sim")
        ask(lines, "openai:sim", stream=False, call_id=2)
        lines.raw.shutdown(socket.SHUT_WR)
        heard = [lines.hear()]
        while heard[-1] is not None:
            heard.append(lines.hear())
    ends = {message["id"]: message["t"] for message in heard[:-1] if message["t"] in {"done", "fault"}}
    assert ends == {1: "done", 2: "done"}
    assert [chat["outcome"] for chat in upstream.chats()] == ["completed", "completed"]
    settled(daemon, "ok")


HURRIED = {
    "a hello": ({"t": "hello", "protocol": 1, "app": "a"}, "welcome"),
    "a ping": ({"t": "call", "id": 1, "method": "ping"}, "done"),
    "a read": ({"t": "call", "id": 1, "method": "spend"}, "done"),
    "an unknown method": ({"t": "call", "id": 1, "method": "nope"}, "fault"),
    "wrong params": ({"t": "call", "id": 1, "method": "chat", "params": {"prompt": "hi"}}, "fault"),
    "a wrong deadline": ({"t": "call", "id": 1, "method": "ping", "deadline_s": -1}, "fault"),
    "a call of the wrong shape": ({"t": "call", "id": 1, "method": 5}, "fault"),
    "no message": ({"t": "nonsense"}, "fault"),
}


@pytest.mark.parametrize("what", HURRIED)
def test_whoever_ends_its_input_right_after_a_message_is_still_answered(what, one_daemon):
    message, kind = HURRIED[what]
    eventually(one_daemon._answers, "it runs")
    for _ in range(30):
        with one_daemon.json_lines() as lines:
            lines.send(message)
            lines.raw.shutdown(socket.SHUT_WR)
            heard = lines.hear()
            assert heard is not None, "the daemon closed without an answer"
            assert heard["t"] == kind
            assert lines.hear() is None


def test_a_hundred_hang_ups_at_random_moments_leave_nothing_behind(daemon, upstream):
    def hang_up(number: int) -> None:
        with daemon.json_lines() as lines:
            ask(lines, f"openai:{SLOW}", stream=number % 3 != 0, user=f"user {number % 9}")  # their sessions open now
            threading.Event().wait(number % 25 / 60)

    began = time.time()
    with ThreadPoolExecutor(20) as clients:
        list(clients.map(hang_up, range(100)))
    eventually(lambda: upstream.counters()["in_flight"] == 0, "all requests ended", WITHIN_S)
    eventually(lambda: daemon.call("status")["calls_in_flight"] == 0, "all calls ended", WITHIN_S)
    daemon.balanced()
    assert not daemon.database("SELECT id FROM usage WHERE created_at >= ? AND status <> 'cancelled'", int(began * 1e6))
    assert daemon.call("providers")["providers"][0]["in_flight"] == 0
    assert daemon.database("SELECT * FROM holds") == []


def test_hang_ups_while_the_session_of_a_new_user_opens_end_the_calls_too(daemon, upstream):
    for number in range(20):
        with ExitStack() as clients:
            together = [clients.enter_context(daemon.json_lines()) for _ in range(12)]
            for lines in together:
                ask(lines, f"openai:{SLOW}", user=f"new {number}")
    eventually(lambda: daemon.call("status")["connections"] == 1, "all hung up", WITHIN_S)
    eventually(lambda: upstream.counters()["in_flight"] == 0, "all requests ended", WITHIN_S)
    eventually(lambda: daemon.call("status")["calls_in_flight"] == 0, "all calls ended", WITHIN_S)
    daemon.balanced()
