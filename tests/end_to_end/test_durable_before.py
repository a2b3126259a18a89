"""What the kernel is asked, and in which order: with `durability = "power"` the disk has a hold before the provider hears of it."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import pytest
import running_daemon
import simulated_provider
from running_daemon import Daemon, eventually, priced, provider
from simulated_provider import Provider

TRACED = "fsync,fdatasync,pwrite64,write,writev,sendto,sendmsg"
ALONE, AT_ONCE = 4, 8
WAL = r"\(\d+<[^>]*-wal>"


class Event(NamedTuple):
    """What the daemon had to do with the kernel, in this order: `synced` when the kernel had done it, the others when it began."""

    what: Literal["written", "synced", "asked", "told"]
    data: str


@pytest.fixture(scope="module")
def upstream() -> Iterator[Provider]:
    with simulated_provider.running() as running:
        yield running


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Daemons write down their system calls, in `trace` in their folder; -D keeps their processes our children."""
    strace = shutil.which("strace")
    assert strace, "strace is missing, and nothing else shows what the kernel is asked: apt-get install strace"
    plain = Daemon.command

    def command(daemon: Daemon) -> list[str]:
        options = ["-D", "-f", "-yy", "-s", "100000", "-e", f"trace={TRACED}", "-o", str(daemon.folder / "trace")]
        return [strace, *options, *plain.__get__(daemon)]

    monkeypatch.setattr(Daemon, "command", property(command))


def events(trace: Path) -> Iterator[Event]:
    """Writes to the WAL and its syncs, requests to the provider, and what clients hear."""
    syncing = set()
    for line in trace.read_text("utf-8").splitlines():
        process, _, call = line.partition(" ")
        call = call.lstrip()
        if re.match(f"pwrite64{WAL}", call):
            yield Event("written", call)
        elif re.match(f"f(data)?sync{WAL}", call):
            if call.endswith(" = 0"):
                yield Event("synced", call)
            else:
                assert call.endswith("<unfinished ...>"), call
                syncing.add(process)
        elif process in syncing and re.match(r"<\.\.\. f(data)?sync resumed>.* = 0$", call):
            syncing.remove(process)
            yield Event("synced", call)
        elif re.match(r"\w+\(\d+<TCP:", call) and "POST " in call:
            yield Event("asked", call)
        elif re.match(r"\w+\(\d+<UNIX", call) and r"\"t\":\"done\"" in call:
            yield Event("told", call)


def asked(prompt: str, call_id: int) -> dict:
    """Streamed or whole in turns."""
    params = {"model": "paid:sim", "messages": [{"role": "user", "content": prompt}], "stream": call_id % 2 == 0}
    return {"t": "call", "id": call_id, "method": "chat", "params": params | {"max_tokens": 100}}


def traced_calls(upstream: Provider, durability: str) -> tuple[dict[str, str], list[Event]]:
    """Calls one after the other and then many at once: their prompts by `usage_id`, and what was seen."""
    config = [
        f'[daemon]\ndurability = "{durability}"\n[limits]\nmonth_usd = 100\n',
        provider("paid", "openai", upstream.base_url()),
        priced("paid:sim"),
    ]
    prompts = [f"prompt {chr(ord('A') + at)}" for at in range(ALONE + AT_ONCE)]
    ids = {}
    with running_daemon.running("\n".join(config)) as daemon:
        with daemon.json_lines() as lines:
            for call_id in range(ALONE):
                lines.send(asked(prompts[call_id], call_id))
                ids[lines.until_end_of(call_id)[-1]["value"]["usage_id"]] = prompts[call_id]
            lines.send(*[asked(prompts[call_id], call_id) for call_id in range(ALONE, len(prompts))])
            while len(ids) < len(prompts):
                message = lines.hear()
                assert message is not None
                assert message["t"] in {"item", "done"}, message
                if message["t"] == "done":
                    ids[message["value"]["usage_id"]] = prompts[message["id"]]
        assert daemon.stop() == 0
        trace, process = daemon.folder / "trace", daemon.process
        assert process is not None
        end = re.compile(rf"^{process.pid} +\+\+\+ exited with 0", re.MULTILINE)
        eventually(lambda: end.search(trace.read_text("utf-8")), "the trace is whole")
        return ids, list(events(trace))


def at(seen: list[Event], what: str, data: str = "", after: int = 0) -> int:
    """Where this is, the first time from there on."""
    return next(n for n, event in enumerate(seen[after:], after) if event.what == what and data in event.data)


@pytest.mark.usefixtures("traced")
def test_the_disk_has_a_hold_before_the_provider_hears_and_the_settlement_before_the_client_does(upstream):
    prompts, seen = traced_calls(upstream, "power")
    for usage_id, prompt in prompts.items():
        held = at(seen, "written", usage_id)
        sent = at(seen, "asked", prompt)
        settled = at(seen, "written", usage_id, after=sent)  # of those at once perhaps another's, on the same page
        told = at(seen, "told", usage_id)
        assert held < at(seen, "synced", after=held) < sent < settled < at(seen, "synced", after=settled) < told


@pytest.mark.usefixtures("traced")
def test_with_durability_process_no_call_waits_for_the_disk(upstream):
    prompts, seen = traced_calls(upstream, "process")
    begun = at(seen, "written", next(iter(prompts)))
    told = max(at(seen, "told", usage_id) for usage_id in prompts)
    assert "synced" not in {event.what for event in seen[begun:told]}
    assert {event.what for event in seen[begun:told]} >= {"written", "asked"}
