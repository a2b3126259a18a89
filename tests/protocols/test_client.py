"""The client against a scripted daemon on a real socket."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
import pytest
from scripted_daemon import CLOSE, HANG, Pieces, ScriptedDaemon, chat_answer, delta, fault
from tournaments import ballot, verdict

from protocols import errors
from protocols.chat import Delta, Message, Reasoning, ToolCallDelta
from protocols.client import (
    ConnectionLost,
    NotReachable,
    asynchronous,
    blocking,
    connect,
    connect_blocking,
    conversation,
    replies,
    socket_path,
)
from protocols.money import NanoUSD
from protocols.tournament import AnswerSpec, Bounded, Cancelled, Cast, Decided, Judging, Launched
from protocols.wire import encode_frame

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[ScriptedDaemon]:
    with ScriptedDaemon(tmp_path / "rpc.sock") as daemon:
        yield daemon


SENT = {"deadline_s": 9, "idempotency_key": "k"}
PROGRESS = [
    Bounded(
        tournament_id="t1",
        mode="vote",
        members=["openai:a", "ollama:b"],
        bench=[],
        judges=[],
        aggregator=None,
        bound_nano_usd=NanoUSD(9000),
    ),
    Launched(["openai:a", "ollama:b"]),
    Judging("openai:c", "which answers say the same"),
    Cast(ballot(0, "yes")),
    Decided("majority", "all were heard"),
    Cancelled(["ollama:b"]),
]
STORY = Pieces([delta("Once "), delta("upon")], chat_answer("Once upon"))


class TestCalls:
    async def test_a_call_gives_plain_objects(self, daemon):
        daemon.table["models"] = {"models": [{"id": "a:b"}]}
        async with connect(app="editor", path=daemon.path) as quorum:
            assert await quorum.call("models", local=True) == {"models": [{"id": "a:b"}]}
        assert daemon.params("models") == {"local": True}
        assert daemon.hellos == [{"t": "hello", "protocol": 1, "app": "editor"}]

    def test_a_blocking_call_gives_plain_objects(self, daemon):
        daemon.table["models"] = {"models": []}
        with connect_blocking(app="script", path=daemon.path) as quorum:
            assert quorum.call("models", local=True) == {"models": []}
        assert daemon.params("models") == {"local": True}

    async def test_a_chat_gives_an_answer_with_attributes(self, daemon):
        daemon.table["chat"] = chat_answer("Hi")
        async with connect(path=daemon.path) as quorum:
            answer = await quorum.chat("Say hi", model="openai:gpt-4o-mini", deadline_s=9, idempotency_key="k")
        assert (answer.text, answer.model_used, answer.cost_nano_usd) == ("Hi", "openai:gpt-4o-mini", 2400)
        (call,) = daemon.calls
        assert (call["deadline_s"], call["idempotency_key"]) == (9, "k")
        assert call["params"] == {
            "messages": [{"role": "user", "content": "Say hi"}],
            "stream": False,
            "model": "openai:gpt-4o-mini",
        }

    def test_a_blocking_chat_takes_messages(self, daemon):
        daemon.table["chat"] = chat_answer("Hi")
        with connect_blocking(path=daemon.path) as quorum:
            answer = quorum.chat([Message("system", "short"), {"role": "user", "content": "hi"}])
        assert answer.text == "Hi"
        assert daemon.params("chat")["messages"] == [
            {"role": "system", "content": "short"},
            {"role": "user", "content": "hi"},
        ]

    async def test_a_tournament_takes_a_prompt_or_messages(self, daemon):
        daemon.table["tournament"] = verdict()
        async with connect(path=daemon.path) as quorum:
            told = await quorum.tournament("Is 7 prime?", answer="bool", **SENT)
        with connect_blocking(path=daemon.path) as blocking_quorum:
            answer = AnswerSpec(type="choice", choices=("yes", "no"))
            assert (
                blocking_quorum.tournament([Message("user", "Is 8 prime?")], answer=answer, **SENT) == told == verdict()
            )
        choice = {"type": "choice", "choices": ["yes", "no"]}
        assert [call["params"] for call in daemon.calls] == [
            {"prompt": "Is 7 prime?", "answer": "bool"},
            {"messages": [{"role": "user", "content": "Is 8 prime?"}], "answer": choice},
        ]
        assert [{key: call[key] for key in SENT} for call in daemon.calls] == [SENT, SENT]

    async def test_calls_run_side_by_side_and_answers_find_their_callers(self, daemon):
        everybody = threading.Barrier(20, timeout=10)
        daemon.table["echo"] = lambda params: [everybody.wait(), params["n"]][1]
        answers: dict[int, int] = {}
        async with connect(path=daemon.path) as quorum, anyio.create_task_group() as tasks:

            async def ask(n: int) -> None:
                answers[n] = await quorum.call("echo", n=n)

            for n in range(20):
                tasks.start_soon(ask, n)
        assert answers == {n: n for n in range(20)}

    async def test_items_of_a_plain_call_are_dropped(self, daemon):
        daemon.table["chat"] = Pieces([delta("x")] * 20_000, {"text": "whole"})
        async with connect(path=daemon.path) as quorum:
            assert await quorum.call("chat", stream=True) == {"text": "whole"}

    async def test_the_welcome_tells_who_we_are(self, daemon):
        async with connect(path=daemon.path) as quorum:
            assert (quorum.welcome.user, quorum.welcome.rights) == ("ana", ["observe", "use"])

    async def test_params_that_are_no_data_are_a_type_error_and_the_connection_goes_on(self, daemon):
        daemon.table["ping"] = {}
        async with connect(path=daemon.path) as quorum:
            with pytest.raises(TypeError):
                await quorum.call("ping", x=object())
            assert await quorum.call("ping") == {}


class TestStreams:
    async def test_pieces_come_and_then_the_answer(self, daemon):
        daemon.table["chat"] = STORY
        async with connect(path=daemon.path) as quorum:
            stream = quorum.stream("Tell", hint="en-claude")
            with pytest.raises(RuntimeError, match="to the end first"):
                _ = stream.answer
            assert [piece.text async for piece in stream] == ["Once ", "upon"]
            assert stream.answer.text == "Once upon"
        assert daemon.params("chat") == {
            "messages": [{"role": "user", "content": "Tell"}],
            "stream": True,
            "hint": "en-claude",
        }

    def test_blocking_pieces_come_and_then_the_answer(self, daemon):
        daemon.table["chat"] = STORY
        with connect_blocking(path=daemon.path) as quorum:
            stream = quorum.stream("Tell")
            assert [piece.text for piece in stream] == ["Once ", "upon"]
            assert stream.answer.text == "Once upon"

    async def test_reasoning_and_tool_calls_are_pieces_too(self, daemon):
        tool_call = {"type": "tool_call", "index": 0, "id": "t", "name": "f", "arguments": "{}"}
        daemon.table["chat"] = Pieces([{"type": "reasoning", "text": "hm"}, tool_call], chat_answer(""))
        async with connect(path=daemon.path) as quorum:
            pieces = [piece async for piece in quorum.stream("Use it")]
        assert pieces == [Reasoning("hm"), ToolCallDelta(0, "t", "f", "{}")]

    async def test_leaving_early_cancels_and_the_connection_goes_on(self, daemon):
        daemon.table |= {"chat": Pieces([delta("a"), delta("b")], HANG), "ping": {}}
        async with connect(path=daemon.path) as quorum:
            async for _ in quorum.stream("Tell"):
                break
            await anyio.to_thread.run_sync(daemon.until, lambda: daemon.cancels == [1])
            assert await quorum.call("ping") == {}
            assert quorum._conversation._owed == {}

    def test_leaving_early_cancels_when_blocking_too(self, daemon):
        daemon.table |= {"chat": Pieces([delta("a"), delta("b")], HANG), "ping": {}}
        with connect_blocking(path=daemon.path) as quorum:
            for _ in quorum.stream("Tell"):
                break
            daemon.until(lambda: daemon.cancels == [1])
            assert quorum.call("ping") == {}
            assert quorum._conversation._owed == {}

    async def test_a_stream_is_read_once(self, daemon):
        daemon.table["chat"] = STORY
        async with connect(path=daemon.path) as quorum:
            stream = quorum.stream("Tell")
            [_ async for _ in stream]
            with pytest.raises(RuntimeError, match="read once"):
                [_ async for _ in stream]
        with connect_blocking(path=daemon.path) as blocking_quorum:
            blocking_stream = blocking_quorum.stream("Tell")
            list(blocking_stream)
            with pytest.raises(RuntimeError, match="read once"):
                list(blocking_stream)

    async def test_progress_of_a_tournament_comes_and_then_its_verdict(self, daemon):
        daemon.table["tournament"] = Pieces(PROGRESS, verdict())
        async with connect(path=daemon.path) as quorum:
            stream = quorum.tournament_stream("Is 7 prime?", answer="bool", **SENT)
            with pytest.raises(RuntimeError, match="to the end first"):
                _ = stream.answer
            assert [item async for item in stream] == PROGRESS
            assert stream.answer == verdict()
        with connect_blocking(path=daemon.path) as blocking_quorum:
            blocking_stream = blocking_quorum.tournament_stream([Message("user", "Is 8 prime?")], **SENT)
            assert list(blocking_stream) == PROGRESS
            assert blocking_stream.answer == verdict()
        assert [call["params"] for call in daemon.calls] == [
            {"prompt": "Is 7 prime?", "answer": "bool", "stream": True},
            {"messages": [{"role": "user", "content": "Is 8 prime?"}], "stream": True},
        ]
        assert [{key: call[key] for key in SENT} for call in daemon.calls] == [SENT, SENT]

    async def test_leaving_a_tournament_early_cancels_it(self, daemon):
        daemon.table["tournament"] = Pieces(PROGRESS, HANG)
        async with connect(path=daemon.path) as quorum:
            async for _ in quorum.tournament_stream("Is 7 prime?"):
                break
            await anyio.to_thread.run_sync(daemon.until, lambda: daemon.cancels == [1])
        with connect_blocking(path=daemon.path) as blocking_quorum:
            for _ in blocking_quorum.tournament_stream("Is 7 prime?"):
                break
            daemon.until(lambda: daemon.cancels == [1, 1])

    async def test_items_of_any_method_are_plain(self, daemon):
        daemon.table["events"] = Pieces([{"type": "alert"}, 7], {"n": 2})
        async with connect(path=daemon.path) as quorum:
            stream = quorum.items("events", types=["alert"])
            assert [item async for item in stream] == [{"type": "alert"}, 7]
            assert stream.answer == {"n": 2}
        with connect_blocking(path=daemon.path) as blocking_quorum:
            blocking_stream = blocking_quorum.items("events")
            assert list(blocking_stream) == [{"type": "alert"}, 7]
            assert blocking_stream.answer == {"n": 2}

    async def test_events_are_asked_for_by_type_or_all(self, daemon):
        daemon.table["events"] = Pieces([{"type": "alert"}], {})
        async with connect(path=daemon.path) as quorum:
            assert [event async for event in quorum.events(["alert"], deadline_s=9)] == [{"type": "alert"}]
        with connect_blocking(path=daemon.path) as blocking_quorum:
            assert list(blocking_quorum.events()) == [{"type": "alert"}]
            assert list(blocking_quorum.events(types=("alert", "lost"))) == [{"type": "alert"}]
        asked = [(call["params"], call.get("deadline_s")) for call in daemon.calls]
        assert asked == [({"types": ["alert"]}, 9), ({}, None), ({"types": ["alert", "lost"]}, None)]

    async def test_a_fault_in_the_middle_is_raised_after_the_pieces(self, daemon):
        broken = errors.Truncated("broke", detail={"partial": "a"})
        daemon.table["chat"] = Pieces([delta("a")], broken)
        async with connect(path=daemon.path) as quorum:
            pieces = aiter(quorum.stream("Tell"))
            assert await anext(pieces) == Delta("a")
            with pytest.raises(errors.Truncated) as caught:
                await anext(pieces)
        assert caught.value.detail == {"partial": "a"}

    async def test_other_calls_are_answered_while_a_stream_waits_for_its_reader(self, daemon):
        read = threading.Event()
        daemon.table |= {"chat": Pieces([delta("a")], chat_answer("a"), read.wait), "ping": {}}
        async with connect(path=daemon.path) as quorum:
            async for _ in quorum.stream("Tell"):
                assert await quorum.call("ping") == {}
                read.set()

    def test_a_blocking_call_inside_a_stream_keeps_its_pieces(self, daemon):
        daemon.table |= {"chat": STORY, "ping": {}}
        with connect_blocking(path=daemon.path) as quorum:
            seen = [(piece.text, quorum.call("ping")) for piece in quorum.stream("Tell")]
        assert seen == [("Once ", {}), ("upon", {})]

    async def test_text_that_waits_for_its_reader_is_merged(self, daemon):
        daemon.table |= slow_reading(delta("ab"), 50_000, chat_answer("ab" * 50_000))
        async with connect(path=daemon.path) as quorum:
            pieces = [piece.text async for piece in late_reader(quorum, quorum.stream("Tell"))]
        assert "".join(pieces) == "ab" * 50_000
        assert len(pieces) < 600

    async def test_items_that_wait_without_end_fail_their_stream_and_no_other_call(self, daemon):
        daemon.table |= slow_reading({"n": 1}, replies.MAX_PENDING + 1000, {})
        async with connect(path=daemon.path) as quorum:
            with pytest.raises(errors.Busy, match="faster"):
                [_ async for _ in late_reader(quorum, quorum.items("chat"))]
            assert await quorum.call("late") == {}
        assert daemon.cancels == [1]

    def test_merging_keeps_kinds_and_tool_calls_apart(self):
        def piece(index, id_, arguments):
            return ToolCallDelta(index, id_, None, arguments)

        pieces = [Reasoning("h"), Reasoning("m"), Delta("a"), Delta("b"), Delta("c")]
        calls = [piece(0, "x", "{"), piece(0, None, "}"), piece(1, "y", ""), piece(1, "z", "1")]
        assert replies.merged([*pieces, *calls]) == [
            Reasoning("hm"),
            Delta("abc"),
            piece(0, "x", "{}"),
            piece(1, "y", ""),
            piece(1, "z", "1"),
        ]


def slow_reading(item: Any, count: int, end: Any) -> dict[str, Any]:
    """A table whose `late` is answered once all items of `chat` are sent."""
    sent = threading.Event()
    return {"chat": Pieces([item] * count, end, sent.set), "late": lambda _: [sent.wait(10), {}][1]}


async def late_reader(quorum: Any, stream: Any) -> Any:
    """The pieces of a stream, the second and later read once all have come."""
    late = False
    async for piece in stream:
        if not late:
            await quorum.call("late")
            late = True
        yield piece


class TestCancelling:
    async def test_a_cancelled_scope_cancels_the_call(self, daemon):
        daemon.table |= {"chat": HANG, "ping": {}}
        async with connect(path=daemon.path) as quorum:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(quorum.chat, "Tell")
                await anyio.to_thread.run_sync(daemon.until, lambda: daemon.calls)
                tasks.cancel_scope.cancel()
            await anyio.to_thread.run_sync(daemon.until, lambda: daemon.cancels == [1])
            assert await quorum.call("ping") == {}

    async def test_a_call_cancelled_while_it_is_sent_leaves_no_half_frame(self, tmp_path):
        with ScriptedDaemon(tmp_path / "big.sock", {"ping": {}}, max_frame_bytes=1 << 25) as daemon:
            async with connect(path=daemon.path) as quorum:
                with anyio.move_on_after(0.001):
                    await quorum.call("ping", text="x" * (1 << 24))
                assert await quorum.call("ping") == {}

    async def test_without_an_answer_the_deadline_ends_the_call_after_a_grace(self, daemon, monkeypatch):
        monkeypatch.setattr(asynchronous, "GRACE_S", 0.01)
        monkeypatch.setattr(blocking, "GRACE_S", 0.01)
        daemon.table["chat"] = HANG
        async with connect(path=daemon.path) as quorum:
            with pytest.raises(errors.DeadlineExceeded):
                await quorum.chat("Tell", deadline_s=0.01)
            await anyio.to_thread.run_sync(daemon.until, lambda: daemon.cancels == [1])
        with connect_blocking(path=daemon.path) as blocking_quorum, pytest.raises(errors.DeadlineExceeded):
            list(blocking_quorum.stream("Tell", deadline_s=0.01))

    async def test_an_answer_within_the_deadline_is_given(self, daemon):
        daemon.table["ping"] = {}
        async with connect(path=daemon.path) as quorum:
            assert await quorum.call("ping", deadline_s=5) == {}


class TestFaults:
    @pytest.mark.parametrize("code", sorted(errors.BY_CODE))
    async def test_each_code_has_its_exception(self, daemon, code):
        daemon.table["chat"] = errors.BY_CODE[code]("no", detail={"n": 1}, retry_after_s=2.5)
        async with connect(path=daemon.path) as quorum:
            with pytest.raises(errors.BY_CODE[code]) as caught:
                await quorum.chat("hi")
        with connect_blocking(path=daemon.path) as blocking_quorum, pytest.raises(errors.BY_CODE[code]):
            blocking_quorum.chat("hi")
        error = caught.value
        assert (error.code, error.message, error.detail, error.retry_after_s) == (code, "no", {"n": 1}, 2.5)

    async def test_an_error_of_the_caller_is_not_wrapped_in_a_group(self, daemon):
        with pytest.raises(ZeroDivisionError):
            async with connect(path=daemon.path):
                raise ZeroDivisionError

    async def test_a_call_above_the_daemons_limit_is_refused_before_it_is_sent(self, daemon):
        daemon.table["ping"] = {}
        async with connect(path=daemon.path) as quorum:
            with pytest.raises(errors.TooLarge):
                await quorum.call("ping", text="x" * 70_000)
            assert await quorum.call("ping") == {}
        assert len(daemon.calls) == 1


class TestTheConnection:
    async def test_lost_in_the_middle_of_a_call(self, daemon):
        daemon.table |= {"chat": CLOSE, "ping": {}}
        async with connect(path=daemon.path) as quorum:
            with pytest.raises(ConnectionLost, match="closed the connection"):
                await quorum.chat("hi")
            for _ in range(3):
                with pytest.raises(ConnectionLost) as caught:
                    await quorum.call("ping")
        assert len(caught.traceback) < 6  # raised again and again, it does not grow

    def test_lost_in_the_middle_of_a_blocking_stream(self, daemon):
        daemon.table["chat"] = Pieces([delta("a")], CLOSE)
        with connect_blocking(path=daemon.path) as quorum:
            pieces = iter(quorum.stream("hi"))
            assert next(pieces) == Delta("a")
            with pytest.raises(ConnectionLost):
                next(pieces)

    async def test_every_call_under_way_fails_with_a_fault_of_the_connection(self, daemon):
        stopping = errors.ShuttingDown("the daemon is stopping")
        daemon.table |= {"hang": HANG, "stop": lambda _: HANG}
        caught = []
        async with connect(path=daemon.path) as quorum, anyio.create_task_group() as tasks:

            async def ask(method: str) -> None:
                with pytest.raises(errors.ShuttingDown) as raised:
                    await quorum.call(method)
                caught.append(raised.value.message)

            tasks.start_soon(ask, "hang")
            tasks.start_soon(ask, "stop")
            await anyio.to_thread.run_sync(daemon.until, lambda: len(daemon.calls) == 2)
            daemon.say(fault(stopping))
        assert caught == ["the daemon is stopping"] * 2

    async def test_leaving_the_connection_wakes_whoever_waits_on_it(self, daemon):
        daemon.table["chat"] = HANG
        async with anyio.create_task_group() as tasks:
            quorum_open = connect(path=daemon.path)
            quorum = await quorum_open.__aenter__()

            async def ask() -> None:
                with pytest.raises(ConnectionLost, match="this client is closed"):
                    await quorum.chat("hi")

            tasks.start_soon(ask)
            await anyio.to_thread.run_sync(daemon.until, lambda: daemon.calls)
            await quorum_open.__aexit__(None, None, None)
        await anyio.to_thread.run_sync(daemon.until, lambda: daemon.gone == 1)

    async def test_bytes_that_are_no_message_end_it(self, daemon):
        daemon.table["chat"] = HANG
        async with connect(path=daemon.path) as quorum, anyio.create_task_group() as tasks:

            async def ask() -> None:
                with pytest.raises(errors.ProtocolViolation, match="no message"):
                    await quorum.chat("hi")

            tasks.start_soon(ask)
            await anyio.to_thread.run_sync(daemon.until, lambda: daemon.calls)
            daemon.say({"t": "strange"})

    async def test_a_frame_without_bounds_ends_it(self, daemon, monkeypatch):
        monkeypatch.setattr(conversation, "MAX_ANSWER_BYTES", 1000)
        daemon.table["ping"] = "x" * 2000
        async with connect(path=daemon.path) as quorum:
            with pytest.raises(errors.TooLarge):
                await quorum.call("ping")

    async def test_another_protocol_is_a_clear_error(self, tmp_path):
        with ScriptedDaemon(tmp_path / "new.sock", protocol=2, version="7.0") as daemon:
            with pytest.raises(errors.ProtocolViolation, match=r"protocol 1, the daemon 7\.0 speaks 2"):
                async with connect(path=daemon.path):
                    pass
            with pytest.raises(errors.ProtocolViolation), connect_blocking(path=daemon.path):
                pass

    async def test_a_refused_connection_raises_the_daemons_reason(self, daemon):
        daemon.greeting = fault(errors.Forbidden("ask to be put into the group quorumd"))
        with pytest.raises(errors.Forbidden, match="group quorumd"):
            async with connect(path=daemon.path):
                pass
        with pytest.raises(errors.Forbidden), connect_blocking(path=daemon.path):
            pass

    async def test_a_daemon_that_closes_without_reading_is_understood_all_the_same(self, tmp_path):
        """On a Unix socket that is a reset, and what was said before it is still there."""
        refusal = fault(errors.Forbidden("no"))
        with rude_daemon(tmp_path / "rude.sock", refusal) as path, pytest.raises(errors.Forbidden):
            async with connect(path=path):
                pass
        with rude_daemon(tmp_path / "rude.sock", refusal) as path, pytest.raises(errors.Forbidden):
            connect_blocking(path=path).__enter__()

    def test_a_refusal_that_came_before_the_hello_was_sent_is_read(self):
        ours, theirs = socket.socketpair()
        theirs.sendall(encode_frame(fault(errors.Forbidden("no"))))
        theirs.close()
        with ours, pytest.raises(errors.Forbidden):
            blocking._greet(ours, conversation.Conversation("test"), "pair")

    @pytest.mark.parametrize("hello_first", [True, False])
    async def test_a_reset_in_the_middle_is_a_lost_connection(self, tmp_path, daemon, hello_first):
        welcome = daemon.greeting
        with rude_daemon(tmp_path / "rude.sock", welcome, hello_first) as path:
            async with connect(path=path) as quorum:
                with pytest.raises(ConnectionLost):
                    await quorum.call("ping")
        with (
            rude_daemon(tmp_path / "rude.sock", welcome, hello_first) as path,
            connect_blocking(path=path) as other,
            pytest.raises(ConnectionLost),
        ):
            other.call("ping")

    @pytest.mark.parametrize(("greeting", "why"), [(CLOSE, "closed the connection"), (HANG, "says nothing")])
    async def test_no_welcome_is_not_reachable(self, daemon, monkeypatch, greeting, why):
        monkeypatch.setattr(asynchronous, "HANDSHAKE_S", 0.05)
        monkeypatch.setattr(blocking, "HANDSHAKE_S", 0.05)
        daemon.greeting = greeting
        with pytest.raises(NotReachable, match=why):
            async with connect(path=daemon.path):
                pass
        with pytest.raises(NotReachable, match=why), connect_blocking(path=daemon.path):
            pass


class TestANewerDaemon:
    async def test_unknown_fields_are_tolerated(self, daemon):
        newer = chat_answer("Hi", mood="good")
        newer["usage"]["audio_tokens"] = 3
        newer["decision"]["reason"] = "by_the_moon"
        piece = {**delta("Hi"), "confidence": 0.5}
        daemon.table["chat"] = Pieces([piece, {"type": "smell", "of": "roses"}], newer)
        daemon.greeting = {"t": "welcome", "colour": 1, **as_map(daemon.greeting)}
        async with connect(path=daemon.path) as quorum:
            stream = quorum.stream("hi")
            assert [piece async for piece in stream] == [Delta("Hi")]
        assert (stream.answer.text, stream.answer.decision.reason) == ("Hi", "by_the_moon")

    async def test_an_unknown_code_is_a_fault_all_the_same(self, daemon):
        class Newer(errors.QuorumError):
            code = "moon_phase"

        daemon.table["chat"] = Newer("wait for the full moon")
        async with connect(path=daemon.path) as quorum:
            with pytest.raises(errors.QuorumError, match="full moon"):
                await quorum.chat("hi")

    @pytest.mark.parametrize("value", [7, {}, {"decision": {"reason": "x"}}, chat_answer(text=7)])
    async def test_an_answer_that_is_none_is_a_clear_error(self, daemon, value):
        daemon.table["chat"] = value
        async with connect(path=daemon.path) as quorum:
            with pytest.raises(errors.ProtocolViolation, match="answer is not understood"):
                await quorum.chat("hi")

    async def test_of_a_verdict_unknown_words_are_kept_and_unknown_progress_is_passed_over(self, daemon):
        words = {"status": "hung", "answer_kind": "sung", "mode": "duel", "flags": ["degraded", "tired"]}
        newer = {**msgspec.to_builtins(verdict()), **words, "mood": "good"}
        daemon.table["tournament"] = Pieces([{"type": "smell", "of": "roses"}, PROGRESS[1]], newer)
        async with connect(path=daemon.path) as quorum:
            stream = quorum.tournament_stream("Is 7 prime?")
            assert [item async for item in stream] == [PROGRESS[1]]
        assert {name: getattr(stream.answer, name) for name in words} == words
        assert stream.answer.ballots == verdict().ballots

    @pytest.mark.parametrize(
        "change", [{"ballots": 7}, {"status": 7}, {"status": "hung", "flags": [7]}, {"status": "hung", "answer": 7}]
    )
    async def test_a_verdict_that_is_none_is_a_clear_error(self, daemon, change):
        daemon.table["tournament"] = {**msgspec.to_builtins(verdict()), **change}
        async with connect(path=daemon.path) as quorum:
            with pytest.raises(errors.ProtocolViolation, match="verdict is not understood"):
                await quorum.tournament("Is 7 prime?")
            daemon.table["tournament"] = 7
            with pytest.raises(errors.ProtocolViolation, match="verdict is not understood"):
                await quorum.tournament("Is 7 prime?")

    @pytest.mark.parametrize("item", [{"type": "launched"}, 7])
    async def test_known_progress_that_is_wrong_is_a_clear_error(self, daemon, item):
        daemon.table["tournament"] = Pieces([item], verdict())
        async with connect(path=daemon.path) as quorum:
            with pytest.raises(errors.ProtocolViolation, match="progress is not understood"):
                [_ async for _ in quorum.tournament_stream("Is 7 prime?")]

    async def test_a_known_piece_that_is_wrong_is_a_clear_error(self, daemon):
        daemon.table["chat"] = Pieces([{"type": "delta"}], chat_answer())
        async with connect(path=daemon.path) as quorum:
            with pytest.raises(errors.ProtocolViolation, match="piece is not understood"):
                [_ async for _ in quorum.stream("hi")]


def as_map(welcome: Any) -> dict[str, Any]:
    return {name: getattr(welcome, name) for name in welcome.__struct_fields__}


class TestReachingTheDaemon:
    async def test_a_daemon_that_starts_late_is_waited_for(self, tmp_path):
        path = tmp_path / "late.sock"
        daemon = ScriptedDaemon(path, {"ping": {}})
        async with anyio.create_task_group() as tasks:

            async def ask() -> None:
                async with connect(path=path) as quorum:
                    assert await quorum.call("ping") == {}

            tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            with daemon:
                await anyio.to_thread.run_sync(daemon.until, lambda: daemon.gone)

    def test_a_blocking_client_waits_too(self, tmp_path):
        path = tmp_path / "late.sock"
        daemon = ScriptedDaemon(path, {"ping": {}})
        threading.Timer(0.05, daemon.__enter__).start()
        with connect_blocking(path=path) as quorum:
            assert quorum.call("ping") == {}
        daemon.__exit__()

    async def test_nobody_there_is_not_reachable(self, tmp_path):
        with pytest.raises(NotReachable, match=r"no daemon answers at .*none\.sock"):
            async with connect(path=tmp_path / "none.sock", wait_s=0.02):
                pass
        with pytest.raises(ConnectionError), connect_blocking(path=tmp_path / "none.sock", wait_s=0):
            pass

    async def test_a_full_backlog_is_waited_for(self, tmp_path):
        path = tmp_path / "full.sock"
        with listening(path, backlog=0) as listener:
            filler = [filled(path), filled(path)]
            with pytest.raises(NotReachable) as caught:
                connect_blocking(path=path, wait_s=0).__enter__()
            assert caught.value.starting
            for connection in (*filler, listener):
                connection.close()

    @pytest.mark.parametrize("path", ["x" * 200, __file__ + "/below"])
    async def test_a_path_that_can_never_answer_is_not_waited_for(self, path):
        with anyio.fail_after(2), pytest.raises(NotReachable) as caught:
            async with connect(path=path, wait_s=60):
                pass
        assert not caught.value.starting
        assert caught.value.errno or "too long" in str(caught.value)

    @pytest.mark.parametrize(
        ("explicit", "named", "own", "expected"),
        [
            ("/a", "/b", True, "/a"),
            (None, "/b", True, "/b"),
            (None, None, True, "{run}/quorumd/rpc.sock"),
            (None, None, False, "/run/quorumd/rpc.sock"),
            (None, "", False, "/run/quorumd/rpc.sock"),
        ],
    )
    def test_the_path_is_found_in_this_order(self, tmp_path, monkeypatch, explicit, named, own, expected):
        monkeypatch.delenv("QUORUMD_SOCKET", raising=False)
        if named is not None:
            monkeypatch.setenv("QUORUMD_SOCKET", named)
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
        if own:
            (tmp_path / "quorumd").mkdir()
            (tmp_path / "quorumd" / "rpc.sock").touch()
        assert socket_path(explicit) == expected.format(run=tmp_path)

    def test_without_a_runtime_folder_it_is_the_systems(self, monkeypatch):
        monkeypatch.delenv("QUORUMD_SOCKET", raising=False)
        monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
        assert socket_path() == "/run/quorumd/rpc.sock"


@contextmanager
def rude_daemon(path: Path, message: Any, hello_first: bool = False) -> Iterator[Path]:
    """Takes one connection, says one thing and closes, at most having waited for bytes that it does not read."""

    def serve() -> None:
        connection, _ = listener.accept()
        if hello_first:
            connection.recv(1, socket.MSG_PEEK)
        connection.sendall(encode_frame(message))
        connection.close()

    with listening(path, backlog=1) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield path
        thread.join()
    path.unlink()


@contextmanager
def listening(path: Path, backlog: int) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(backlog)
        yield listener


def filled(path: Path) -> socket.socket:
    """A connection that takes a place in the backlog, if there is one."""
    connection = socket.socket(socket.AF_UNIX)
    connection.setblocking(False)
    with suppress(BlockingIOError):
        connection.connect(str(path))
    return connection


SCRIPT = """
import sys
from protocols.client import connect, connect_blocking
with connect_blocking(path=sys.argv[1]) as quorum:
    quorum.call("ping")
loaded = {name if name == "protocols.tournament" else name.partition(".")[0] for name in sys.modules}
print(*sorted(loaded & {"actors", "daemon", "protocols.tournament", "rich", "httpx", "anyio", "asyncio", "pykka", "structlog", "uvloop"}))
"""


def test_blocking_use_loads_neither_anyio_nor_anything_above_nor_what_only_tournaments_need(daemon):
    daemon.table["ping"] = {}
    loaded = subprocess.run([sys.executable, "-c", SCRIPT, daemon.path], capture_output=True, text=True, check=True)
    assert loaded.stdout == "\n"
