"""A disk that fills: what was sent is settled from the reserve, nothing new is sent, all resumes when there is space again."""

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import running_daemon
import simulated_provider
from running_daemon import Daemon, JsonLines, eventually, priced, provider
from simulated_provider import Provider, model

from actors.store import reserve
from actors.store.dispatched import open_dispatched

SLOW, SILENT = model(latency_ms=1500), model(latency_ms=60_000)
MODELS = ["sim", SLOW, SILENT]
DISK = 24 << 20


@pytest.fixture(scope="module")
def upstream() -> Iterator[Provider]:
    with simulated_provider.running() as running:
        yield running


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, small enough to fill at once."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=0700", "quorumd-test", str(mounted)], check=True)
    try:
        yield mounted
    finally:
        subprocess.run(["umount", "--lazy", str(mounted)], check=True)


@pytest.fixture
def daemon(upstream: Provider, disk: Path) -> Iterator[Daemon]:
    upstream.reset()
    config = "\n".join([provider("paid", "openai", upstream.base_url()), priced(*[f"paid:{name}" for name in MODELS])])
    with running_daemon.running(config, state=disk / "state") as running:
        ask(running)
        yield running


def asked(name: str) -> dict:
    return {"model": f"paid:{name}", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 300}


def ask(daemon: Daemon, name: str = "sim") -> dict:
    """What ends one call."""
    with daemon.json_lines() as lines:
        return begin(lines, name).until_end_of(1)[-1]


def begin(lines: JsonLines, name: str) -> JsonLines:
    lines.send({"t": "call", "id": 1, "method": "chat", "params": asked(name)})
    return lines


def fill(disk: Path) -> Path:
    """Takes all that is free."""
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            while True:
                try:
                    if file.write(bytes(size)) < size:
                        break
                except OSError:
                    break
    return filler


@contextmanager
def filling(disk: Path) -> Iterator[Path]:
    """Something that takes whatever comes free, all the time."""
    over = threading.Event()

    def go_on() -> None:
        while not over.is_set():
            fill(disk)

    filler = threading.Thread(target=go_on)
    filler.start()
    try:
        yield disk / "filler"
    finally:
        over.set()
        filler.join()


def in_flight(upstream: Provider, calls: int) -> None:
    upstream.wait_for(lambda chats: len(chats) == calls)


def events(daemon: Daemon) -> list[str]:
    return [line["event"] for line in daemon.log()]


def degraded(daemon: Daemon) -> bool:
    status = daemon.call("status")
    return not status["healthy"] and any("disk is full" in warning for warning in status["warnings"])


@pytest.mark.box
@pytest.mark.parametrize("greedy", [False, True], ids=["a disk that is full", "a disk that fills all the time"])
def test_a_call_under_way_is_answered_and_settled_and_paid_calls_resume_when_there_is_space(
    greedy, daemon, upstream, disk
):
    with daemon.json_lines() as lines:
        begin(lines, SLOW)
        in_flight(upstream, 2)
        filler = fill(disk)
        if greedy:
            with filling(disk):
                done = lines.until_end_of(1)[-1]
        else:
            done = lines.until_end_of(1)[-1]
        assert done["t"] == "done", done
    assert done["value"]["usage_id"] in {row["id"] for row in daemon.database("SELECT id FROM usage")}
    daemon.balanced()
    assert degraded(daemon)
    refused = ask(daemon)
    assert (refused["t"], refused.get("code")) == ("fault", "ledger_readonly"), refused
    assert len(upstream.chats()) == 2
    assert len(daemon.rows()) == 2  # reads go on
    daemon.balanced()
    filler.unlink()
    eventually(lambda: not degraded(daemon), "the disk has room")
    assert (disk / "state/reserve").stat().st_size == reserve.SIZE
    assert ask(daemon)["t"] == "done"
    daemon.balanced()
    assert events(daemon).count("disk_full") == events(daemon).count("disk_has_room") == 1
    assert daemon.stop() == 0


@pytest.mark.box
def test_a_stop_on_a_full_disk_settles_what_was_under_way(daemon, upstream, disk):
    with daemon.json_lines() as lines:
        begin(lines, SLOW)
        in_flight(upstream, 2)
        fill(disk)
        daemon.signal()
        assert lines.until_end_of(1)[-1]["t"] == "done"
        assert daemon.wait() == 0
    assert "settlement_not_written" not in events(daemon)
    assert daemon.database("SELECT id FROM holds WHERE state = 'held'") == []
    assert len(daemon.database("SELECT id FROM usage")) == 2


@pytest.mark.box
def test_a_settlement_that_finds_no_room_at_all_is_named_when_the_daemon_ends_and_posted_by_the_next(
    daemon, upstream, disk
):
    with daemon.json_lines() as lines:
        begin(lines, SLOW)
        in_flight(upstream, 2)
        os.truncate(disk / "state/reserve", 0)
        fill(disk)
        daemon.signal()
        eventually(lambda: "stopping" in events(daemon), "it heard")
        daemon.signal()
        assert daemon.wait() == 1
    (lost,) = [line for line in daemon.log() if line["event"] == "settlement_not_written"]
    (hold,) = daemon.database("SELECT id, amount FROM holds WHERE state = 'held'")
    assert hold["id"] in lost["parameters"]
    (disk / "filler").unlink()
    daemon.start()
    daemon.balanced()
    (row,) = [row for row in daemon.rows() if row["usage_id"] == hold["id"]]
    assert (row["status"], row["cost_nano_usd"]) == ("unknown", hold["amount"])
    assert daemon.stop() == 0


@pytest.mark.box
def test_a_start_on_a_full_disk_serves_settles_what_a_killed_one_left_and_stops_cleanly(daemon, upstream, disk):
    with daemon.json_lines() as lines:
        begin(lines, SILENT)
        in_flight(upstream, 2)
        (hold,) = daemon.database("SELECT id, amount FROM holds WHERE state = 'held'")
        daemon.kill()
    filler = fill(disk)
    daemon.start()
    assert degraded(daemon)
    daemon.balanced()
    (row,) = [row for row in daemon.rows() if row["usage_id"] == hold["id"]]
    assert (row["status"], row["cost_nano_usd"]) == ("unknown", hold["amount"])
    assert ask(daemon)["code"] == "ledger_readonly"
    assert daemon.stop() == 0
    daemon.start()  # nothing is beside the database now: the files for it come from the reserve
    assert degraded(daemon)
    daemon.balanced()
    filler.unlink()
    eventually(lambda: not degraded(daemon), "the disk has room")
    assert ask(daemon)["t"] == "done"
    daemon.balanced()
    assert daemon.stop() == 0


@pytest.mark.box
def test_a_start_without_disk_or_reserve_serves_and_its_recovery_keeps_until_there_is_space(daemon, upstream, disk):
    with daemon.json_lines() as lines:
        begin(lines, SILENT)
        in_flight(upstream, 2)
        (hold,) = daemon.database("SELECT id, amount FROM holds WHERE state = 'held'")
        daemon.kill()
    (disk / "state/reserve").write_bytes(b"")
    filler = fill(disk)
    for end in (daemon.kill, daemon.kill, lambda: daemon.stop() == 1 or pytest.fail("it ended well")):
        daemon.start()
        assert degraded(daemon)
        assert ask(daemon)["code"] == "ledger_readonly"
        assert len(daemon.rows()) == 1
        end()
    assert "settlement_not_written" in events(daemon)
    daemon.start()
    filler.unlink()
    eventually(lambda: not degraded(daemon), "the disk has room")
    daemon.balanced()
    (row,) = [row for row in daemon.rows() if row["usage_id"] == hold["id"]]
    assert (row["status"], row["cost_nano_usd"]) == (
        "unknown",
        hold["amount"],
    )  # the marks of the first outlived all starts
    assert ask(daemon)["t"] == "done"
    assert daemon.stop() == 0


def test_marks_set_before_the_old_ones_may_go_keep_them_and_outlive_them(tmp_path):
    def opened():
        return open_dispatched(tmp_path / "dispatched", "boot")

    first, _ = opened()
    with first:
        first.start_over()
        first.mark("old")
    second, _ = opened()
    with second:
        second.mark("new")
    third, before = opened()
    assert before == {"old", "new"}
    with third:
        room = third.room
        third.mark("newest")
        third.start_over()
        assert third.room == room + 2 - 1
        third.clear("unmarked")
    last, before = opened()
    with last:
        assert before == {"newest"}
