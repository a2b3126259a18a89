"""One run of the load generator, and what the daemon paid for it; noisy runs are repeated."""

from __future__ import annotations

import statistics
import subprocess
import time
from typing import TYPE_CHECKING

import msgspec
from machine import LOAD_CORE, Memory, busy, cpu_s, memory, on_core
from msgspec import Struct
from processes import BIN, BenchError, Daemon, Upstream

if TYPE_CHECKING:
    from collections.abc import Callable

FOREIGN_LIMIT = 0.12
"""Of one core: when others (or the host, as steal) took more than this in a run, the run is repeated."""

SAMPLE_EVERY_S = 0.25


class Shape(Struct, frozen=True, kw_only=True):
    """What is asked: how many calls at once, of which model, streamed when `chunks` says how many chunks come."""

    connections: int = 1
    in_flight: int = 1
    model: str = "sim"
    chunks: int | None = None
    warm_s: float = 0.5
    measure_s: float = 2.5
    total: int | None = None
    ramp_ms: float = 0.0

    @property
    def at_once(self) -> int:
        """Calls in flight together."""
        return self.connections * self.in_flight


class Percentiles(Struct):
    """Microseconds."""

    p50: float
    p99: float
    max: float


class LoadResult(Struct):
    """What the generator prints; see load.h for the counters."""

    issued: int
    answered: int
    measured: int
    elapsed_s: float
    calls_per_s: float
    faults: int
    stray: int
    malformed: int
    wrong_text: int
    wrong_chunks: int
    lost: int
    unanswered: int
    unpriced: int
    cost_nano_usd: int
    in_flight_max: int
    latency_us: Percentiles | None
    first_token_us: Percentiles | None
    chunk_delay_us: Percentiles | None
    chunks_per_s: float
    own_cpu_s: float
    first_fault: str

    def wrong(self, *, daemon: bool) -> list[str]:
        """What must not happen: each as a count and a name."""
        names = ["faults", "stray", "malformed", "wrong_text", "wrong_chunks", "lost", "unanswered"]
        names += ["unpriced"] if daemon else []
        found = [f"{getattr(self, name)} {name}" for name in names if getattr(self, name)]
        return [*found, f"the first fault: {self.first_fault}"] if self.first_fault else found


class Run(Struct):
    """One run: the generator's word, and who used which CPU meanwhile."""

    load: LoadResult
    wall_s: float
    daemon_cpu_s: float
    upstream_cpu_s: float
    foreign: float
    peak: Memory | None = None

    @property
    def cpu_us_per_call(self) -> float:
        """Of the daemon, over the whole run: warm-up and end are in both terms."""
        return self.daemon_cpu_s / max(1, self.load.answered) * 1e6

    @property
    def daemon_core(self) -> float:
        """How busy the daemon's core was with it: near 1, the daemon is the limit, as it should be at many at once."""
        return self.daemon_cpu_s / self.wall_s

    @property
    def load_core(self) -> float:
        """How busy the other core was with upstream and generator: near 1, they are the limit and not the daemon."""
        return (self.upstream_cpu_s + self.load.own_cpu_s) / self.wall_s

    @property
    def noisy(self) -> bool:
        """Whether others were so busy that the run says little."""
        return self.foreign > FOREIGN_LIMIT


class Loader:
    """Runs loads against the upstream and the daemon.

    State: what went wrong in any run; how many runs count, and how many of these were noisy.
    """

    def __init__(
        self, upstream: Upstream, *, prompt_bytes: int, users: int, tries: int, say: Callable[[str], None]
    ) -> None:
        self.upstream = upstream
        self.problems: list[str] = []
        self.runs = self.noisy = 0
        self._prompt_bytes = prompt_bytes
        self._users = users
        self.tries = tries
        self._say = say

    def run(self, shape: Shape, daemon: Daemon | None, *, watch_memory: bool = False) -> Run:
        """The first run that is quiet enough, or the quietest of all tries. Without a daemon, the upstream itself."""
        runs: list[Run] = []
        for _ in range(self.tries):
            runs.append(self.once(shape, daemon, watch_memory=watch_memory))
            if not runs[-1].noisy:
                break
            self._say(f"  others took {runs[-1].foreign:.0%} of a core meanwhile")
            time.sleep(0.5)
        quietest = min(runs, key=lambda run: run.foreign)
        self.runs += 1
        self.noisy += quietest.noisy
        return quietest

    def once(self, shape: Shape, daemon: Daemon | None, *, watch_memory: bool = False) -> Run:
        """One run, however noisy, its answers checked."""
        daemon_before = cpu_s(daemon.pid) if daemon else 0.0
        upstream_before, own_before, busy_before = cpu_s(self.upstream.pid), time.process_time(), busy()
        begin = time.perf_counter()
        with on_core(LOAD_CORE):
            process = subprocess.Popen(self._command(shape, daemon), stdout=subprocess.PIPE, text=True)
        peak = _watch(process, daemon.pid) if daemon and watch_memory else None
        output, _ = process.communicate()
        wall_s = time.perf_counter() - begin
        if process.returncode:
            raise BenchError(f"the generator failed; the daemon's log ends:\n{daemon.log_end() if daemon else '-'}")
        load = msgspec.json.decode(output, type=LoadResult)
        self._check(shape, daemon, load)
        daemon_cpu = cpu_s(daemon.pid) - daemon_before if daemon else 0.0
        upstream_cpu = cpu_s(self.upstream.pid) - upstream_before
        after, own_cpu = busy(), time.process_time() - own_before
        others = after.cpu_s - busy_before.cpu_s - daemon_cpu - upstream_cpu - load.own_cpu_s - own_cpu
        foreign = (max(0.0, others) + after.steal_s - busy_before.steal_s) / wall_s
        return Run(load, wall_s, daemon_cpu, upstream_cpu, foreign, peak)

    def _command(self, shape: Shape, daemon: Daemon | None) -> list[str]:
        """The generator's arguments; directly, a call in flight needs a connection of its own."""
        command = [
            str(BIN / "load"),
            "-w",
            str(shape.warm_s),
            "-d",
            str(shape.measure_s),
            "-B",
            str(self._prompt_bytes),
        ]
        if daemon:
            command += ["-u", str(daemon.socket), "-m", f"bench:{shape.model}", "-U", str(self._users)]
            command += ["-C", str(shape.connections), "-W", str(shape.in_flight)]
        else:
            command += ["-p", str(self.upstream.port), "-m", shape.model, "-C", str(shape.at_once)]
        if shape.chunks is not None:
            command += ["-s", "-k", str(shape.chunks)]
        if shape.total is not None:
            command += ["-n", str(shape.total)]
        return [*command, "-r", str(shape.ramp_ms)]

    def _check(self, shape: Shape, daemon: Daemon | None, load: LoadResult) -> None:
        if daemon:
            daemon.acknowledged_nano_usd += load.cost_nano_usd
        if wrong := load.wrong(daemon=daemon is not None):
            side = f"daemon, {daemon.durability}" if daemon else "direct"
            self.problems.append(f"{shape.model}, {shape.at_once} at once ({side}): {', '.join(wrong)}")

    def check_books(self, daemon: Daemon) -> None:
        """Keeps what is wrong with the books as problems."""
        self.problems += daemon.books()


def _watch(process: subprocess.Popen[str], pid: int) -> Memory:
    """The largest memory of the process (and children) while the load runs."""
    peak = memory(pid)
    while process.poll() is None:
        now = memory(pid)
        peak = Memory(max(peak.rss_mb, now.rss_mb), max(peak.pss_mb or 0, now.pss_mb or 0) or None)
        time.sleep(SAMPLE_EVERY_S)
    return peak


def middle(runs: list[Run], figure: Callable[[Run], float | None]) -> float | None:
    """The median over the runs that have the figure."""
    values = [value for run in runs if (value := figure(run)) is not None]
    return statistics.median(values) if values else None
