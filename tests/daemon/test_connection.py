"""A connection on a real socket, with a small server behind it whose answers a test can time."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import malformed
import pytest

from daemon import connection as module
from daemon.config import RightsSection
from daemon.connection import MAX_CALLS, Connection, Running
from daemon.peer import Peer, peer_of
from protocols.chat import Delta, Reasoning, ToolCallDelta
from protocols.errors import Busy, Forbidden, QuorumError
from protocols.wire import Frames, decode_daemon, decode_value

if TYPE_CHECKING:
    from pathlib import Path

    from protocols.rpc import Call

pytestmark = pytest.mark.anyio
PATIENCE_S = 10.0
HELLO = {"t": "hello", "protocol": 1, "app": "test"}


@pytest.fixture(params=["uvloop", "asyncio"])
def anyio_backend(request):
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


class Desk:
    """Answers `echo`, `wait` (until `go` is set), `flood` (that many pieces) and faults; knows what was cancelled.

    State: the open connections, what was cancelled and why, floods answered.
    """

    version = "test"
    draining = False

    def __init__(self, stall_s: float = 30.0, max_frame_bytes: int = 65_536, refuse: bool = False) -> None:
        self.client_stall_s = stall_s
        self.max_frame_bytes = max_frame_bytes
        self.go = asyncio.Event()
        self.connections: set[Connection] = set()
        self.interrupted: list[str] = []
        self.answered = 0
        self._refuse = refuse

    def identify(self, connection: socket.socket) -> Peer:
        if self._refuse:
            raise Forbidden("not you")
        return peer_of(connection, RightsSection())

    async def handle(self, connection: Connection, call: Call, running: Running) -> Any:
        try:
            return await self._answer(connection, call, running)
        except asyncio.CancelledError:
            self.interrupted.append(running.interrupted.code)
            raise

    async def _answer(self, connection: Connection, call: Call, running: Running) -> Any:  # noqa: C901  a table of answers
        name, _, count = call.method.partition(" ")
        match name:
            case "echo":
                return {"id": call.id}
            case "wait" | "last":
                if name == "last":
                    running.last(deadline=call.deadline_s is not None)
                await self.go.wait()
                return {"waited": call.id}
            case "trickle":
                for number in range(int(count)):
                    await connection.keeps_up()
                    connection.emit(call.id, Delta(f"{number:099d},"))
                self.answered += 1
                return {"sent": int(count)}
            case "flood":
                for number in range(int(count)):
                    connection.emit(call.id, Delta(f"{number:099d},"))
                    if number % 10 == 0:
                        await asyncio.sleep(0)
                self.answered += 1
                return {"sent": int(count)}
            case "mixed":
                for value in (
                    Delta("a"),
                    Reasoning("b"),
                    Delta("c"),
                    ToolCallDelta(0, "x", "f"),
                    ToolCallDelta(0, arguments="{"),
                    ToolCallDelta(1),
                ):
                    connection.emit(call.id, value)
                return None
            case "busy":
                raise Busy("later", detail={"queue": 1}, retry_after_s=1.5)
            case _:
                raise ZeroDivisionError("a defect: canary")

    def opened(self, connection: Connection) -> None:
        self.connections.add(connection)

    def closed(self, connection: Connection) -> None:
        self.connections.discard(connection)


class Client:
    """JSON lines on an asyncio stream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, *messages: dict[str, Any]) -> None:
        self.writer.write(b"".join(json.dumps(message).encode() + b"\n" for message in messages))

    def call(self, call_id: int, method: str, **more: Any) -> None:
        self.send({"t": "call", "id": call_id, "method": method, **more})

    async def hear(self) -> dict[str, Any] | None:
        line = await asyncio.wait_for(self.reader.readline(), PATIENCE_S)
        return json.loads(line) if line else None

    async def all(self) -> list[dict[str, Any]]:
        """Everything until the daemon closes."""
        heard = []
        while (message := await self.hear()) is not None:
            heard.append(message)
        return heard


@asynccontextmanager
async def serving(path: Path, **how: Any):
    desk = Desk(**how)
    server = await asyncio.get_running_loop().create_unix_server(lambda: Connection(desk), str(path))
    try:
        yield desk
    finally:
        server.close()
        for one in list(desk.connections):
            one.abort()
        await until(lambda: not desk.connections)


@asynccontextmanager
async def client(path: Path, **stream: Any):
    reader, writer = await asyncio.open_unix_connection(str(path), limit=1 << 26, **stream)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "rpc.sock"


async def until(look: Any) -> Any:
    for _ in range(int(PATIENCE_S * 200)):
        if found := look():
            return found
        await asyncio.sleep(0.005)
    raise AssertionError("not in time")


def ids(messages: list[dict[str, Any]]) -> list[int]:
    return [message["id"] for message in messages]


class TestCalls:
    async def test_hello_is_answered_with_who_the_kernel_says_is_there(self, path):
        async with serving(path), client(path) as c:
            c.send(HELLO)
            welcome = await c.hear()
        assert (welcome["t"], welcome["protocol"], welcome["max_frame_bytes"]) == ("welcome", 1, 65_536)
        assert welcome["rights"] == ["observe", "use", "operate", "admin"]

    async def test_calls_of_a_connection_are_concurrent(self, path):
        async with serving(path) as desk, client(path) as c:
            c.call(1, "wait")
            c.call(2, "echo")
            assert await c.hear() == {"t": "done", "id": 2, "value": {"id": 2}}
            desk.go.set()
            assert await c.hear() == {"t": "done", "id": 1, "value": {"waited": 1}}

    async def test_both_wires_are_spoken_at_once(self, path):
        async with serving(path) as desk, client(path) as json_client, client(path) as frame_client:
            frames = [HELLO, {"t": "call", "id": 5, "method": "wait"}, {"t": "call", "id": 6, "method": "echo"}]
            frame_client.writer.write(b"".join(malformed.frame(malformed.pack(message)) for message in frames))
            json_client.call(5, "wait")
            json_client.call(6, "echo")
            assert (await json_client.hear())["id"] == 6
            desk.go.set()
            assert (await json_client.hear())["id"] == 5
            codec, heard = Frames(65_536), []
            while len(heard) < 3:
                heard += [decode_daemon(bytes(p)) for p in codec.split(await frame_client.reader.read(65_536))]
        assert [type(m).__struct_config__.tag for m in heard] == ["welcome", "done", "done"]
        assert decode_value(heard[1].value, dict) == {"id": 6}

    async def test_a_fault_has_its_code_its_detail_and_when_to_come_back(self, path):
        async with serving(path), client(path) as c:
            c.call(1, "busy")
            heard = await c.hear()
        assert heard == {
            "t": "fault",
            "id": 1,
            "code": "busy",
            "message": "later",
            "detail": {"queue": 1},
            "retry_after_s": 1.5,
        }

    async def test_a_defect_is_internal_and_tells_the_client_nothing(self, path):
        async with serving(path), client(path) as c:
            c.call(1, "boom")
            c.call(2, "echo")
            heard = {message["id"]: message for message in [await c.hear(), await c.hear()]}
        assert heard[1]["code"] == "internal"
        assert "canary" not in json.dumps(heard)
        assert heard[2]["t"] == "done"

    async def test_an_id_under_way_is_refused_and_free_again_after(self, path):
        async with serving(path) as desk, client(path) as c:
            c.call(1, "wait")
            c.call(1, "echo")
            refused = await c.hear()
            assert (refused["id"], refused["code"]) == (1, "bad_request")
            desk.go.set()
            assert (await c.hear())["value"] == {"waited": 1}
            c.call(1, "echo")
            assert (await c.hear())["value"] == {"id": 1}

    async def test_more_calls_than_allowed_hear_busy(self, path):
        async with serving(path) as desk, client(path) as c:
            for number in range(MAX_CALLS + 20):
                c.call(number, "wait")
            refused = [await c.hear() for _ in range(20)]
            assert {m["code"] for m in refused} == {"busy"}
            assert ids(refused) == list(range(MAX_CALLS, MAX_CALLS + 20))
            assert refused[0]["retry_after_s"] > 0
            desk.go.set()
            answered = [await c.hear() for _ in range(MAX_CALLS)]
        assert sorted(ids(answered)) == list(range(MAX_CALLS))

    async def test_cancel_ends_one_call_and_no_other(self, path):
        async with serving(path) as desk, client(path) as c:
            c.call(1, "wait")
            c.call(2, "wait")
            c.send({"t": "cancel", "id": 1}, {"t": "cancel", "id": 77})
            ended = await c.hear()
            assert (ended["id"], ended["code"]) == (1, "cancelled")
            desk.go.set()
            assert (await c.hear())["value"] == {"waited": 2}

    @pytest.mark.parametrize("deadline_s", [0.02, 1e-9])
    async def test_a_deadline_ends_a_call(self, path, deadline_s):
        async with serving(path) as desk, client(path) as c:
            c.call(1, "wait", deadline_s=deadline_s)
            assert (await c.hear())["code"] == "deadline"
            assert desk.interrupted in (["deadline"], [])

    async def test_a_lasting_call_has_the_deadline_that_its_client_gives_it_and_no_other(self, path, monkeypatch):
        monkeypatch.setattr(module, "CALL_DEADLINE_S", 0.02)
        async with serving(path) as desk, client(path) as c:
            c.call(1, "last")
            c.call(2, "last", deadline_s=0.05)
            c.call(3, "wait")
            assert [(await c.hear())["id"] for _ in range(2)] == [3, 2]
            assert desk.interrupted == ["deadline", "deadline"]
            desk.go.set()
            assert await c.hear() == {"t": "done", "id": 1, "value": {"waited": 1}}

    @pytest.mark.parametrize("deadline_s", [0, -1])
    async def test_a_deadline_that_is_none_is_refused(self, path, deadline_s):
        async with serving(path), client(path) as c:
            c.call(1, "echo", deadline_s=deadline_s)
            heard = await c.hear()
        assert (heard["code"], heard["id"]) == ("bad_request", 1)
        assert "`deadline_s`" in heard["message"]

    async def test_a_deadline_of_a_thousand_years_is_one(self, path):
        async with serving(path), client(path) as c:
            c.call(1, "echo", deadline_s=1e300)
            assert (await c.hear())["t"] == "done"

    async def test_a_daemon_that_drains_takes_no_calls(self, path):
        async with serving(path) as desk, client(path) as c:
            desk.draining = True
            c.call(1, "echo")
            assert (await c.hear())["code"] == "shutting_down"


class TestWhatEndsAConnection:
    @pytest.mark.parametrize(
        ("data", "code"),
        [
            (b"{nonsense}\n", "protocol"),
            (b'{"t":"hello","protocol":2}\n', "protocol"),
            (b'{"t":"hello","protocol":1,"app":""}\n', "protocol"),
            (b'{"t":"hello","protocol":1,"app":"a\\u001b[2J"}\n', "protocol"),
            (b'{"t":"hello","protocol":1,"app":"' + b"x" * 129 + b'"}\n', "protocol"),
            (b"{" + b"x" * 70_000, "too_large"),
        ],
    )
    async def test_one_fault_then_the_end(self, path, data, code):
        async with serving(path) as desk, client(path) as c, client(path) as other:
            other.call(1, "wait")
            c.writer.write(data + b'{"t":"call","id":1,"method":"echo"}\n')
            (fault,) = await c.all()
            assert (fault["t"], fault["code"], "id" in fault) == ("fault", code, False)
            desk.go.set()
            assert (await other.hear())["value"] == {"waited": 1}

    async def test_frames_need_a_hello_first(self, path):
        async with serving(path), client(path) as c:
            c.writer.write(malformed.frame(malformed.pack({"t": "call", "id": 1, "method": "echo"})))
            (payload,) = Frames(65_536).split(await asyncio.wait_for(c.reader.read(), PATIENCE_S))
        assert decode_daemon(bytes(payload)).code == "protocol"

    async def test_an_oversize_frame_is_refused_by_its_length(self, path):
        async with serving(path), client(path) as c:
            c.writer.write((65_537).to_bytes(4, "big"))
            (payload,) = Frames(65_536).split(await asyncio.wait_for(c.reader.read(), PATIENCE_S))
        assert decode_daemon(bytes(payload)).code == "too_large"

    async def test_who_may_not_connect_hears_why_on_both_wires(self, path):
        async with serving(path, refuse=True), client(path) as c, client(path) as framed:
            c.call(1, "echo")
            (fault,) = await c.all()
            framed.writer.write(malformed.frame(malformed.pack(HELLO)))
            (payload,) = Frames(65_536).split(await asyncio.wait_for(framed.reader.read(), PATIENCE_S))
        assert (fault["code"], fault["message"], "id" in fault) == ("forbidden", "not you", False)
        assert decode_daemon(bytes(payload)).code == "forbidden"

    async def test_calls_under_way_are_cancelled(self, path):
        async with serving(path) as desk, client(path) as c:
            c.call(1, "wait")
            await until(lambda: [one for one in desk.connections if one.running])
            c.writer.write(b"{\n")
            assert [m["code"] for m in await c.all()] == ["protocol"]
            await until(lambda: desk.interrupted == ["cancelled"])


class TestHangingUp:
    async def test_a_full_close_cancels(self, path):
        async with serving(path) as desk:
            async with client(path) as c:
                c.call(1, "wait")
                await until(lambda: [one for one in desk.connections if one.running])
            await until(lambda: desk.interrupted == ["cancelled"] and not desk.connections)

    async def test_the_end_of_input_alone_is_answered_and_then_closed(self, path):
        async with serving(path) as desk, client(path) as c:
            c.call(1, "wait")
            c.writer.write_eof()
            await until(lambda: any("hangup" in one._timers for one in desk.connections))
            desk.go.set()
            assert await c.all() == [{"t": "done", "id": 1, "value": {"waited": 1}}]

    async def test_a_full_close_after_the_end_of_input_cancels_too(self, path):
        async with serving(path) as desk:
            async with client(path) as c:
                c.call(1, "wait")
                c.writer.write_eof()
                await until(lambda: any("hangup" in one._timers for one in desk.connections))
            await until(lambda: desk.interrupted == ["cancelled"] and not desk.connections)

    async def test_answers_that_wait_to_be_sent_are_sent_before_the_close(self, path):
        """As `nc -N` does it: all is said and the input ended before the daemon reads the first byte."""
        async with serving(path):
            for _ in range(50):
                async with client(path) as c:
                    c.call(1, "echo")
                    c.call(2, "echo", deadline_s=-1)
                    c.writer.write_eof()
                    assert sorted(ids(await c.all())) == [1, 2]

    async def test_the_end_of_input_with_nothing_running_closes(self, path):
        async with serving(path) as desk, client(path) as c:
            c.call(1, "echo")
            assert (await c.hear())["t"] == "done"
            c.writer.write_eof()
            assert await c.all() == []
            await until(lambda: not desk.connections)


class TestSlowWriters:
    async def test_a_message_that_does_not_end_is_cut_with_a_fault(self, path):
        async with serving(path, stall_s=0.1), client(path) as c:
            c.writer.write(b'{"t":')
            (fault,) = await c.all()
        assert fault["code"] == "protocol"
        assert "longer than 0.1 s" in fault["message"]

    async def test_a_byte_now_and_then_does_not_help(self, path):
        async with serving(path, stall_s=0.2) as desk, client(path) as c:
            c.writer.write(b"{")
            sent = 0
            await until(lambda: desk.connections)
            while desk.connections:
                c.writer.write(b" ")
                sent += 1
                await asyncio.sleep(0.02)
                assert sent < 200
            assert [m["code"] for m in await c.all()] == ["protocol"]

    async def test_messages_that_do_end_are_each_given_their_time(self, path):
        """A client that is never between two messages when we look is not slow."""
        async with serving(path, stall_s=0.3), client(path) as c:
            line = json.dumps({"t": "call", "id": 1, "method": "echo"}).encode() + b"\n"
            c.writer.write(line[:5])
            for _ in range(12):
                await asyncio.sleep(0.05)
                c.writer.write(line[5:] + line[:5])
                assert (await c.hear())["t"] == "done"
            c.writer.write(line[5:])
            assert (await c.hear())["t"] == "done"

    async def test_silence_between_messages_is_allowed(self, path):
        async with serving(path, stall_s=0.05), client(path) as c:
            c.call(1, "echo")
            assert (await c.hear())["t"] == "done"
            await asyncio.sleep(0.2)
            c.call(2, "echo")
            assert (await c.hear())["t"] == "done"


class TestSlowReaders:
    async def test_who_reads_nothing_is_cut_and_its_calls_cancelled(self, path):
        async with serving(path, stall_s=0.2) as desk, client(path) as c:
            c.writer.transport.pause_reading()
            c.call(2, "wait")
            c.call(1, "flood 30000")
            await until(lambda: not desk.connections)
            await until(lambda: desk.interrupted)
            assert set(desk.interrupted) == {"cancelled"}

    async def test_what_waits_for_it_is_one_piece_a_call_however_long_the_stream(self, path):
        async with serving(path, stall_s=30) as desk, client(path) as c:
            c.writer.transport.pause_reading()
            for number in range(64):
                c.call(number, "flood 500")
            one = await until(lambda: next((x for x in desk.connections if x._paused), None))
            await until(lambda: not one.running)
            assert len(one._unsent) > 40
            assert max(len(waiting) for waiting in one._unsent.values()) <= 12  # of 500
            assert one._transport.get_write_buffer_size() < 2 * module.UNSENT_BYTES
            assert len(one._out) == 0

    async def test_merging_a_long_text_costs_no_more_than_a_few_copies_of_it(self, path):
        async with serving(path) as desk, client(path) as c:
            c.writer.transport.pause_reading()
            c.call(1, "flood 100000")
            before = time.process_time()
            await until(lambda: any(x._paused and not x.running for x in desk.connections))
            assert time.process_time() - before < 5
            (one,) = desk.connections
            assert sum(len(v.text) for v in one._unsent[1] if isinstance(v, Delta)) > 9_000_000
            assert len(one._unsent[1]) < 30

    async def test_it_gets_fewer_and_longer_items_and_the_whole_text(self, path):
        async with serving(path) as desk, client(path) as c:
            c.writer.transport.pause_reading()
            c.call(1, "flood 30000")
            await until(lambda: any(x._paused and not x.running for x in desk.connections))
            c.writer.transport.resume_reading()
            texts = []
            while (message := await c.hear())["t"] == "item":
                texts.append(message["value"]["text"])
        assert message["value"] == {"sent": 30_000}
        assert "".join(texts) == "".join(f"{number:099d}," for number in range(30_000))
        assert len(texts) < 15_000

    async def test_a_call_that_waits_until_it_keeps_up_leaves_nothing_in_memory(self, path):
        async with serving(path) as desk, client(path) as c:
            c.writer.transport.pause_reading()
            for number in range(3):
                c.call(number, "trickle 20000")
            one = await until(lambda: next((x for x in desk.connections if x._paused), None))
            await asyncio.sleep(0.05)
            assert (one._unsent, desk.answered) == ({}, 0)
            c.writer.transport.resume_reading()
            ends = []
            while len(ends) < 3:
                message = await c.hear()
                if message["t"] == "done":
                    ends.append(message["value"])
        assert ends == [{"sent": 20_000}] * 3

    async def test_one_that_catches_up_may_call_again(self, path):
        async with serving(path) as desk, client(path) as c:
            c.writer.transport.pause_reading()
            c.call(1, "flood 30000")
            await until(lambda: any(x._paused for x in desk.connections))
            c.call(2, "echo")
            c.writer.transport.resume_reading()
            done = []
            while len(done) < 2:
                message = await c.hear()
                if message["t"] == "done":
                    done.append(message["id"])
        assert sorted(done) == [1, 2]

    async def test_while_it_is_not_read_its_own_message_has_no_clock(self, path):
        async with serving(path, stall_s=0.5) as desk, client(path) as c:
            c.writer.transport.pause_reading()
            c.call(1, "flood 30000")
            c.writer.write(b'{"t":"call",')
            one = await until(lambda: next((x for x in desk.connections if x._paused), None))
            assert "message" not in one._timers
            c.writer.transport.resume_reading()
            c.writer.write(b'"id":2,"method":"echo"}\n')
            while (message := await c.hear())["id"] == 1:
                pass
        assert message["t"] == "done"

    async def test_a_client_that_never_reads_its_fault_is_not_waited_for(self, path):
        async with serving(path, stall_s=0.2) as desk, client(path) as c:
            c.writer.transport.pause_reading()
            one = await until(lambda: next(iter(desk.connections), None))
            for number in range(200):
                c.call(number, "flood 100")
                await until(lambda: desk.answered > number and not one.running and not one._out)  # noqa: B023  awaited at once
                if one._transport.get_write_buffer_size():
                    break
            assert not one._paused
            c.writer.write(b"{\n")
            await until(lambda: not desk.connections)

    @pytest.mark.parametrize("slow", [True, False])
    async def test_only_pieces_of_one_kind_are_merged(self, path, slow):
        async with serving(path) as desk, client(path) as c:
            if slow:
                c.writer.transport.pause_reading()
                c.call(1, "flood 30000")
                await until(lambda: any(x._paused for x in desk.connections))
                c.writer.transport.resume_reading()
            c.call(2, "mixed")
            heard = []
            while not heard or heard[-1]["t"] != "done":
                message = await c.hear()
                heard += [message] if message["id"] == 2 else []
        values = [m["value"] for m in heard[:-1]]
        assert [v["type"] for v in values][:3] == ["delta", "reasoning", "delta"]
        assert "".join(v.get("arguments", "") for v in values if v["type"] == "tool_call" and v["index"] == 0) == "{"


def test_merging_keeps_kinds_and_tool_calls_apart():
    waiting: list[Any] = []
    for value in (
        Delta("a"),
        Delta("b"),
        Reasoning("c"),
        Reasoning("d"),
        Delta("e"),
        ToolCallDelta(0, "x", "f"),
        ToolCallDelta(0, arguments="{}"),
        ToolCallDelta(1, "y", "g"),
    ):
        module._merge(waiting, value)
    assert waiting == [
        Delta("ab"),
        Reasoning("cd"),
        Delta("e"),
        ToolCallDelta(0, "x", "f", "{}"),
        ToolCallDelta(1, "y", "g"),
    ]


def test_the_first_reason_for_an_end_stands():
    running = Running(1)
    assert running.interrupted is QuorumError
    running.interrupt(Busy)
    running.interrupt(Forbidden)
    assert running.interrupted is Busy
