"""The real daemon and clients that send nonsense, send slowly, do not read, or come by the thousand."""

from __future__ import annotations

import json
import resource
import socket
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from typing import Any, Self

import malformed
import pytest
import running_daemon
import simulated_provider
from msgspec import UNSET
from running_daemon import PATIENCE_S, eventually

from protocols.rpc import MAX_FRAME_BYTES, Fault, Welcome
from protocols.wire import Frames, decode_daemon

STALL_S = 2.0
CONNECTIONS, BATCHES, BATCH = 5_000, 40, 250
HELLO = {"t": "hello", "protocol": 1, "app": "hostile"}
PING = {"t": "call", "id": 4711, "method": "ping"}
PLEASE = [{"role": "user", "content": "hello"}]
TROUBLE = ("call_failed", "connection_failed", "tell_failed", "restarted", "library", "Traceback", "never retrieved")


@pytest.fixture(scope="module")
def provider():
    with simulated_provider.running() as provider:
        yield provider


@pytest.fixture(scope="module")
def daemon(provider):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 8192)), hard))
    config = f"[daemon]\nclient_stall_s = {STALL_S}\n" + running_daemon.provider(
        "sim", "openai", provider.base_url(), local=True
    )
    with running_daemon.running(config) as daemon:
        yield daemon


@pytest.fixture
def saying(provider):
    """Lets every answer be a text that is too long for a model's name."""
    yield lambda text: provider.set(text=text)
    provider.reset()


@pytest.fixture(autouse=True)
def unharmed(daemon):
    """Whatever a client did: the daemon is the same process, answers, holds nothing, and its log knows of no defect."""
    before = daemon.call("status")["pid"]
    yield
    status = daemon.call("status")
    assert status["pid"] == before
    assert not [a for a in status["actors"] if a["restarts"]]
    eventually(lambda: daemon.call("status")["calls_in_flight"] == 0, "all calls ended")
    eventually(lambda: daemon.call("status")["connections"] == 1, "all connections are gone")
    assert daemon.call("ledger.verify")["ok"]
    assert daemon.held() == 0
    log = daemon.log_text()
    assert not [trouble for trouble in TROUBLE if trouble in log], log[-3000:]


@contextmanager
def raw(daemon: running_daemon.Daemon):
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(PATIENCE_S)
        one.connect(str(daemon.socket))
        yield one


def framed(*messages: dict[str, Any]) -> bytes:
    return b"".join(malformed.frame(malformed.pack(message)) for message in messages)


def lined(*messages: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(message).encode() + b"\n" for message in messages)


def read_to_end(one: socket.socket) -> bytes:
    heard = b""
    try:
        while data := one.recv(1 << 16):
            heard += data
    except ConnectionResetError:  # we sent more than it wanted to read
        pass
    return heard


def frames_of(data: bytes) -> list[Any]:
    return [decode_daemon(bytes(payload)) for payload in Frames(MAX_FRAME_BYTES).split(data)]


def memory_kb(daemon: running_daemon.Daemon) -> int:
    assert daemon.process is not None
    with open(f"/proc/{daemon.process.pid}/status") as status:  # noqa: PTH123  /proc
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))


class Stream:
    """A paced stream on a connection of its own, read by a thread. State: the text so far, the longest pause between pieces."""

    def __init__(self, daemon: running_daemon.Daemon, chunks: int) -> None:
        self.text = ""
        self.done: dict[str, Any] | None = None
        self.longest_pause_s = 0.0
        self._chunks = chunks
        self._daemon = daemon
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> Self:
        self._thread.start()
        eventually(lambda: self.text, "the stream has begun")
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(60)

    def _read(self) -> None:
        model = "sim:" + simulated_provider.model(chunks=self._chunks, pace_ms=10)
        with self._daemon.json_lines() as lines:
            lines.raw.settimeout(60)
            lines.send(
                {
                    "t": "call",
                    "id": 1,
                    "method": "chat",
                    "params": {"messages": PLEASE, "model": model, "stream": True, "max_tokens": 10**6},
                }
            )
            last = None
            while (message := lines.hear()) is not None:
                now = time.monotonic()
                self.longest_pause_s = max(self.longest_pause_s, now - (last or now))
                last = now
                if message["t"] == "done":
                    self.done = message["value"]
                    return
                if message["t"] == "fault":
                    self.done = message
                    return
                self.text += message["value"]["text"]


def judged(data: bytes) -> str:
    """What became of a connection: every call answered and then closed, or one fault without id at the very end."""
    heard = frames_of(data)
    final = [m for m in heard if isinstance(m, Fault) and m.id is UNSET]
    if final:  # read together with the hello, it is the one answer
        assert len(final) == 1
        assert heard[-1] is final[0]
        assert final[0].code in {"protocol", "too_large"}
        return str(final[0].code)
    assert isinstance(heard[0], Welcome)
    return "answered" if any(getattr(m, "id", None) == PING["id"] for m in heard) else "unfinished"


def is_unfinished(frames: bytes) -> bool:
    """Whether the last frame says that it is longer than what there is: a wrong length may swallow all that follows."""
    at = 0
    while at + 4 <= len(frames):
        at += 4 + int.from_bytes(frames[at : at + 4], "big")
    return at != len(frames)


class TestNonsense:
    def test_thousands_of_wrong_frames_and_nobody_else_notices(self, daemon):
        """A connection for each: a hello, the frame, a ping, the end of input."""
        outcomes: Counter[str] = Counter()
        with Stream(daemon, chunks=400) as stream:
            for frame in malformed.frames(seed=1, count=CONNECTIONS):
                with raw(daemon) as one:
                    one.sendall(framed(HELLO) + frame + framed(PING))
                    one.shutdown(socket.SHUT_WR)
                    outcomes[judged(read_to_end(one))] += 1
        assert stream.done is not None
        assert stream.done["text"] == stream.text
        assert stream.done["finish_reason"] == "stop"
        assert stream.longest_pause_s < 2
        assert all(outcomes[kind] >= 10 for kind in ("protocol", "too_large", "answered", "unfinished")), outcomes

    def test_many_wrong_frames_on_one_connection_end_at_the_first_that_is_no_message(self, daemon):
        frames = list(malformed.frames(seed=2, count=BATCHES * BATCH))
        for number in range(BATCHES):
            with raw(daemon) as one:
                batch = b"".join(frames[number * BATCH : (number + 1) * BATCH])
                try:
                    one.sendall(framed(HELLO) + batch)
                    one.shutdown(socket.SHUT_WR)
                except (BrokenPipeError, ConnectionResetError):
                    pass
                judged_or_cut = read_to_end(one)
                assert frames_of(judged_or_cut)[-1].code in {"protocol", "too_large"} or is_unfinished(batch)

    def test_wrong_lines(self, daemon):
        for line in malformed.lines(seed=3, count=1000):
            with raw(daemon) as one:
                one.sendall(line + lined(PING))
                one.shutdown(socket.SHUT_WR)
                heard = [json.loads(text) for text in read_to_end(one).splitlines()]
            closing = [m for m in heard if m["t"] == "fault" and "id" not in m]
            assert heard
            assert (closing == heard[-1:]) if closing else any(m.get("id") == PING["id"] for m in heard)

    def test_calls_with_wrong_params_leave_the_connection_as_it_is(self, daemon):
        with daemon.json_lines() as lines:
            for number in range(200):
                lines.send(
                    {"t": "call", "id": number, "method": "chat", "params": {"messages": PLEASE, "colour": number}}
                )
            heard = [lines.hear() for _ in range(200)]
            lines.send(PING)
            assert lines.hear() == {"t": "done", "id": PING["id"], "value": {}}
        assert {(m["code"], "`colour`" in m["message"]) for m in heard} == {("bad_request", True)}
        assert sorted(m["id"] for m in heard) == list(range(200))

    def test_a_call_and_its_cancel_in_one_write_are_answered_and_the_id_is_free(self, daemon):
        with daemon.json_lines() as lines:
            call = {"t": "call", "id": 1, "method": "chat", "params": {"messages": PLEASE, "model": "sim:sim"}}
            for _ in range(20):
                lines.send(call, {"t": "cancel", "id": 1})
                assert lines.until_end_of(1)[-1]["code"] == "cancelled"


class TestSize:
    def test_an_oversize_frame_is_one_fault_and_the_end(self, daemon):
        with raw(daemon) as one:
            one.sendall((MAX_FRAME_BYTES + 1).to_bytes(4, "big"))
            (fault,) = frames_of(read_to_end(one))
        assert (fault.code, fault.detail) == ("too_large", {"limit": MAX_FRAME_BYTES})

    def test_an_oversize_line_is_one_fault_and_the_end(self, daemon):
        with raw(daemon) as one:
            one.sendall(b'{"t":"')
            try:
                for _ in range(MAX_FRAME_BYTES // 65_536 + 4):
                    one.sendall(b"x" * 65_536)
            except (BrokenPipeError, ConnectionResetError):
                pass
            heard = read_to_end(one)
        assert json.loads(heard)["code"] == "too_large"

    def test_bombs_of_empty_arrays_do_not_become_memory(self, daemon):
        """8 MB of them in each place where a value could be anything, on both wires; untyped that would be 500 MB each."""
        count = 7_000_000
        inner = b"\xdd" + count.to_bytes(4, "big") + b"\x90" * count
        packed = malformed.frame
        for params in (
            {"key": "month_usd", "value": "BOMB"},
            {"messages": "BOMB"},
            {"messages": [{"role": "user", "content": "BOMB"}]},
        ):
            method = "settings.set" if "key" in params else "chat"
            call = malformed.pack({"t": "call", "id": 1, "method": method, "params": params}).replace(
                b"\xa4BOMB", inner
            )
            with raw(daemon) as one:
                one.sendall(framed(HELLO) + packed(call))
                one.shutdown(socket.SHUT_WR)
                assert [getattr(m, "code", "-") for m in frames_of(read_to_end(one))] == ["-", "bad_request"]
        assert peak_kb(daemon) < 200_000


def peak_kb(daemon: running_daemon.Daemon) -> int:
    assert daemon.process is not None
    with open(f"/proc/{daemon.process.pid}/status") as status:  # noqa: PTH123  /proc
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))


class TestSlow:
    def test_a_byte_now_and_then_is_cut_with_a_fault(self, daemon):
        began = time.monotonic()
        with raw(daemon) as one:
            one.sendall(framed(HELLO))
            one.settimeout(STALL_S / 8)
            heard = b""
            for byte in framed({"t": "call", "id": 1, "method": "chat", "params": {"messages": PLEASE}}):
                try:
                    one.sendall(bytes([byte]))
                    heard += one.recv(65_536)
                except TimeoutError:
                    continue
                except (BrokenPipeError, ConnectionResetError):
                    break
                if len(frames_of(heard)) == 2:
                    break
        assert frames_of(heard)[-1].code == "protocol"
        assert time.monotonic() - began < STALL_S * 4

    def test_one_that_never_reads_64_streams_is_cut_and_memory_does_not_grow(self, daemon, saying):
        """The first round shows what 64 streams cost at all, connections to the provider above all."""
        saying("0123456789" * 500)
        model = "sim:" + simulated_provider.model(chunks=250)
        params = {"messages": PLEASE, "model": model, "stream": True, "max_tokens": 10**6}
        calls = [{"t": "call", "id": n, "method": "chat", "params": params} for n in range(64)]
        used = []
        for _ in range(2):
            cut = daemon.log_text().count('"stalled_client_cut"')
            with raw(daemon) as one:
                one.sendall(lined(*calls))
                eventually(lambda: daemon.log_text().count('"stalled_client_cut"') > cut, "the client is cut")  # noqa: B023  awaited at once
                used.append(memory_kb(daemon))
        assert used[1] - used[0] < 15_000

    def test_one_that_piles_up_answers_and_reads_none_is_cut_before_it_costs_much(self, daemon, saying):
        """Each answer holds its text twice, so 64 of them are 128 MB."""
        saying("0123456789" * 100_000)
        # A user of its own: garbled calls may have given other users parameters, a shorter answer among them.
        params = {"messages": PLEASE, "model": "sim:sim", "max_tokens": 10**6, "user": "piler"}
        before = memory_kb(daemon)
        with raw(daemon) as one:
            one.sendall(lined(*[{"t": "call", "id": n, "method": "chat", "params": params} for n in range(64)]))
            eventually(lambda: '"client_owed_too_much_cut"' in daemon.log_text(), "the client is cut")
        assert memory_kb(daemon) - before < 250_000
        assert daemon.call("ping") == {}

    def test_a_slow_reader_gets_fewer_pieces_and_the_whole_text(self, daemon):
        """It begins to read when all is answered: until then what does not fit the socket is merged."""
        chunks = 12_000
        model = "sim:" + simulated_provider.model(chunks=chunks)
        params = {"messages": PLEASE, "model": model, "stream": True, "max_tokens": 10**7}
        with raw(daemon) as one:
            one.sendall(lined({"t": "call", "id": 1, "method": "chat", "params": params}))
            eventually(lambda: daemon.call("status")["calls_in_flight"] == 1, "it has begun")
            eventually(lambda: daemon.call("status")["calls_in_flight"] == 0, "it is answered")
            heard = b""
            while b'"t":"item"' in heard[heard.rfind(b'{"t":') :] or not heard.endswith(b"\n"):
                heard += one.recv(65_536)
        *items, done = [json.loads(line) for line in heard.splitlines()]
        assert done["t"] == "done", done
        assert "".join(item["value"]["text"] for item in items) == done["value"]["text"]
        assert 1 < len(items) < chunks * 9 // 10


class TestMany:
    def test_a_thousand_idle_connections_and_the_next_one_is_served_at_once(self, daemon):
        with ExitStack() as stack:
            idle = [stack.enter_context(raw(daemon)) for _ in range(1000)]
            for number, one in enumerate(idle):
                one.sendall(framed(HELLO) if number % 2 else lined(PING))
            for one in idle:
                assert one.recv(4096)
            before = time.monotonic()
            assert daemon.call("chat", messages=PLEASE, model="sim:sim")["text"]
            assert time.monotonic() - before < 2
            assert daemon.call("status")["connections"] == 1001

    def test_a_flood_of_calls_hears_busy_or_an_answer_for_each(self, daemon):
        count = 3000
        model = "sim:" + simulated_provider.model(latency_ms=200)
        calls = [
            {"t": "call", "id": n, "method": "chat", "params": {"messages": PLEASE, "model": model}}
            for n in range(count)
        ]
        with daemon.json_lines() as lines:
            sender = threading.Thread(target=lines.send, args=calls)
            sender.start()
            ends = [lines.hear() for _ in range(count)]
            sender.join()
        assert sorted(m["id"] for m in ends) == list(range(count))
        faults = Counter(m.get("code", "done") for m in ends)
        assert set(faults) <= {"done", "busy", "rate_limited"}
        assert faults["busy"] >= count - 1024 - faults["done"]
        assert all(m["retry_after_s"] > 0 for m in ends if m["t"] == "fault")

    def test_both_wires_at_once_with_many_calls_each(self, daemon):
        with daemon.json_lines() as lines, raw(daemon) as one:
            one.sendall(framed(HELLO, *({"t": "call", "id": n, "method": "ping"} for n in range(500))))
            lines.send(*({"t": "call", "id": n, "method": "ping"} for n in range(500)))
            assert [lines.hear() for _ in range(500)] == [{"t": "done", "id": n, "value": {}} for n in range(500)]
            one.shutdown(socket.SHUT_WR)
            assert [m.id for m in frames_of(read_to_end(one))[1:]] == list(range(500))
