"""The log: JSON lines where nobody looks, text on a terminal, and never a reason for anything to stop."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import running_daemon

ROOT = Path(__file__).resolve().parents[2]
SETUP = """
import asyncio, logging, os, sys, threading, structlog
from daemon import log
lines = log.configure()
say = structlog.get_logger("test")
"""


def written(script: str, stderr: int = subprocess.PIPE) -> subprocess.CompletedProcess[bytes]:
    """A process of its own, since logging is set up once a process."""
    return subprocess.run(
        [sys.executable, "-c", SETUP + script], cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, timeout=20, check=False
    )


def lines_of(script: str) -> list[dict[str, object]]:
    done = written(script)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stderr.splitlines()]


def on_a_terminal(script: str) -> bytes:
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as reader:
        done = written(script, stderr=theirs)
        os.close(theirs)
        shown = reader.read(65_536)
    assert done.returncode == 0
    return shown


def test_on_a_pipe_each_event_is_one_json_object_a_line():
    (line,) = lines_of('say.info("serving", calls=3, text="a\\nb", odd=object, none=None)')
    assert {key: line[key] for key in ("event", "level", "calls", "text", "none")} == {
        "event": "serving",
        "level": "info",
        "calls": 3,
        "text": "a\nb",
        "none": None,
    }
    assert str(line["at"]).endswith("Z")
    assert line["odd"] == "<class 'object'>"


def test_lines_of_one_turn_come_in_order_with_those_of_libraries():
    script = """
async def main():
    lines.collect(asyncio.get_running_loop()) if hasattr(lines, "collect") else None
    say.info("first")
    logging.getLogger("httpx").warning("second %s", 2)
    logging.getLogger("httpx").info("not this one")
    say.info("third")
    await asyncio.sleep(0)
asyncio.run(main())
say.info("fourth")
"""
    heard = lines_of(script)
    assert [line.get("text", line["event"]) for line in heard] == ["first", "second 2", "third", "fourth"]


def test_an_exception_has_its_place_and_no_values_of_variables():
    script = """
def fails():
    key = "sk-" + "canary"
    raise RuntimeError("what happened")
try:
    fails()
except RuntimeError:
    say.exception("failed")
"""
    done = written(script)
    (line,) = [json.loads(line) for line in done.stderr.splitlines()]
    (error,) = line["exception"]
    assert (error["exc_type"], error["exc_value"]) == ("RuntimeError", "what happened")
    assert error["frames"][-1]["name"] == "fails"
    assert b"canary" not in done.stderr


@pytest.mark.parametrize(
    "value",
    [r"'\ud800'", "{(1, 2): 3}", "b'\\xff'", "1 << 80", "float('nan')", "{'a': '\\ud800'}", "Exception('\\ud800')"],
)
def test_a_value_that_is_no_text_costs_at_most_its_form(value):
    script = f'say.info("odd", value={value}); say.info("next")'
    assert [line["event"] for line in lines_of(script)][-1] == "next"


ESCAPES = 'say.info("ev\\x1bent", value="\\x1b[2Jred \\x9b31m \\u202e\\nnew line")'


def test_no_escape_leaves_as_such_in_json():
    done = written(ESCAPES)
    assert b"\x1b" not in done.stderr
    assert json.loads(done.stderr)["value"].startswith("\x1b[2J")


def test_no_escape_of_a_value_reaches_a_terminal():
    shown = on_a_terminal(ESCAPES).decode()
    assert all(seen in shown for seen in ("ev\\x1bent", "\\x1b[2Jred", "\\x9b31m", "\\u202e", "\\nnew line"))
    assert "\x1b[2J" not in shown
    assert not set("\x9b\u202e") & set(shown)


def test_an_exception_on_a_terminal_is_text_without_escapes():
    script = """
try:
    raise RuntimeError("\\x1b[2Jred")
except RuntimeError:
    say.exception("failed")
"""
    shown = on_a_terminal(script).decode()
    assert "RuntimeError: \\x1b[2Jred" in shown
    assert "Traceback" in shown
    assert "\x1b[2J" not in shown


@pytest.mark.parametrize(
    "end",
    ["os.close(2)", "r, w = os.pipe(); os.close(r); os.dup2(w, 2)", "os.dup2(os.open('/dev/full', os.O_WRONLY), 2)"],
)
def test_a_stderr_that_takes_nothing_stops_nothing(end):
    script = f"""
{end}
for number in range(1000):
    say.info("line", number=number, text="x" * 100)
print(lines.lost, flush=True)
os._exit(0)
"""
    done = written(script)
    assert (done.returncode, int(done.stdout)) == (0, 1000)


@pytest.mark.parametrize("ends", ["os.pipe()", "[s.detach() for s in socket.socketpair()]"])
@pytest.mark.parametrize("size", [100, 9000])
def test_a_stderr_that_nobody_reads_holds_nothing_up_and_is_written_on_once_somebody_does(ends, size):
    script = f"""
import json, socket
reader, writer = {ends}
os.dup2(writer, 2)
lines = log.configure(os.fdopen(2, "w", closefd=False))
for number in range(20_000):
    say.info("line", number=number, text="x" * {size})
lost = lines.lost
os.set_blocking(reader, False)
heard = b""
try:
    while piece := os.read(reader, 1 << 20):
        heard += piece
except BlockingIOError:
    pass
say.info("again")
heard += os.read(reader, 1 << 20)
whole, cut = [], 0
for line in heard.splitlines():
    try:
        whole.append(json.loads(line)["event"])
    except ValueError:
        cut += 1
print(json.dumps([lost, whole.count("line"), cut, whole[-1]]), flush=True)
os._exit(0)
"""
    done = written(script)
    lost, heard, cut, last = json.loads(done.stdout)
    assert (lost + heard, last) == (20_000, "again")
    assert heard > 0
    assert cut <= (size > 4096)


def test_lines_of_threads_are_whole():
    script = """
def work(name):
    for number in range(200):
        say.info("line", name=name, number=number)
threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
[t.start() for t in threads]
[t.join() for t in threads]
"""
    heard = lines_of(script)
    assert len(heard) == 800


def fill(writer: int) -> None:
    """Until the pipe takes no byte more."""
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"x")
    os.set_blocking(writer, True)


@pytest.mark.parametrize("log", ["gone", "unread and full"])
def test_the_daemon_answers_and_stops_as_asked_with_its_log(log):
    with running_daemon.running(start=False) as daemon:
        reader, writer = os.pipe()
        daemon.process = subprocess.Popen(
            daemon.command,
            cwd=ROOT,
            env=daemon.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=writer,
        )
        running_daemon.eventually(daemon.socket.exists, "the daemon listens")
        assert daemon.call("ping") == {}
        if log == "gone":
            os.close(reader)
        else:
            fill(writer)
        os.close(writer)
        with daemon.connect() as quorum:
            assert quorum.call("chat", model="simulated:sim", messages=[{"role": "user", "content": "hi"}])["simulated"]
            assert quorum.call("ledger.verify")["ok"]
        assert daemon.stop() == 0
        if log != "gone":
            os.close(reader)
