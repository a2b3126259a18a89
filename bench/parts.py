"""The parts of the benchmark: each runs its loads, and gives a table and the figures that have a target."""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loads import Loader, Percentiles, Run, Shape, middle
from machine import DAEMON_CORE, LOAD_CORE, Memory, memory, on_core
from msgspec import Struct, field
from processes import HERE, Daemon, installed
from table import Table
from tournaments import MEMBERS, TOGETHER, Cost, chat, measure, tournament

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LEVELS = (1, 8, 16, 32, 64)
QUICK_LEVELS = (1, 64)
MANY = 64
SETTLE_S = 2.0

STREAM_CHUNKS = 200
PACE_MS = 5
SPREAD_MS = 965.0
"""64 streams of one second started over this time are 15.08 ms apart, so their chunks, 5 ms apart, fill the 5 ms evenly."""

SLOW_STREAMS = 1000
SLOW_LAYOUTS = ((20, 50), (1000, 1))
SLOW_CHUNKS, QUICK_SLOW_CHUNKS = 20, 8
SLOW_PACE_MS = 500

BURST = Shape(connections=MANY, model=f"sim-n{STREAM_CHUNKS}", chunks=STREAM_CHUNKS)
BURST_FEW = Shape(connections=MANY, model="sim-n1", chunks=1)
PACED = Shape(
    connections=MANY,
    model=f"sim-n{STREAM_CHUNKS}-i{PACE_MS * 1000}",
    chunks=STREAM_CHUNKS,
    warm_s=1.2,
    measure_s=4.0,
    ramp_ms=SPREAD_MS,
)
PACED_FEW = Shape(
    connections=MANY, model=f"sim-l{STREAM_CHUNKS * PACE_MS}-n1", chunks=1, warm_s=1.2, measure_s=4.0, ramp_ms=SPREAD_MS
)
PACED_IN_STEP = Shape(
    connections=MANY, model=PACED.model, chunks=STREAM_CHUNKS, warm_s=PACED.warm_s, measure_s=PACED.measure_s
)
FEW = "bench:sim-n1"
ALONE = Shape(model="sim-n4-i2000", chunks=4)


def _slow_model(chunks: int) -> str:
    return f"sim-n{chunks}-i{SLOW_PACE_MS * 1000}"


MODELS = sorted(
    {"sim", _slow_model(SLOW_CHUNKS), _slow_model(QUICK_SLOW_CHUNKS)}
    | {shape.model for shape in (BURST, BURST_FEW, PACED, PACED_FEW, PACED_IN_STEP, ALONE)}
)


class Outcome(Struct):
    """What a part found: a table, figures by the names of their targets, and every run."""

    table: Table
    figures: dict[str, float | None] = field(default_factory=dict)
    runs: dict[str, Any] = field(default_factory=dict)


class Bench(Struct):
    """What every part needs: how to start a daemon, how to load it, and how often."""

    loader: Loader
    command: str
    folder: Path
    reps: int
    quick: bool
    say: Callable[[str], None]

    def new_daemon(self, durability: str = "power") -> Daemon:
        """A daemon with an empty folder; not started."""
        folder = Path(tempfile.mkdtemp(dir=self.folder)) / "daemon"
        return Daemon(self.command, folder, self.loader.upstream, MODELS, durability)

    @contextmanager
    def daemon(self, durability: str = "power") -> Iterator[Daemon]:
        """A daemon that runs, whose books are checked at the end, and which must stop as asked."""
        daemon = self.new_daemon(durability)
        try:
            daemon.start()
            yield daemon
            self.loader.check_books(daemon)
        finally:
            self.stop(daemon)

    def stop(self, daemon: Daemon) -> None:
        """Stops it; an exit code other than 0 is a problem."""
        if code := daemon.stop():
            self.loader.problems.append(
                f"the daemon ended with {code} after SIGTERM; its log ends:\n{daemon.log_end()}"
            )


# ---- calls


def calls(bench: Bench, durability: str) -> Outcome:
    """Whole answers at several levels of concurrency: the upstream itself and the daemon in turns."""
    levels = QUICK_LEVELS if bench.quick else LEVELS
    shapes = {str(level): Shape(connections=level) for level in levels}
    shapes[f"{MANY} on 8 connections"] = Shape(connections=8, in_flight=MANY // 8)
    with bench.daemon(durability) as daemon:
        bench.loader.run(Shape(connections=8), daemon)  # warm
        direct, through = _in_turns(bench, f"calls, {durability}", shapes, daemon)
    rows = [_calls_row(name, direct[name], through[name]) for name in shapes]
    columns = ["at once", "p50 direct µs", "p50", "added p50", "p99 direct µs", "p99", "added p99"]
    columns += ["calls/s direct", "calls/s", "CPU µs/call", "daemon core", "load core", "foreign"]
    table = Table(f"Calls, durability = {durability}", columns, rows)
    alone = _added(direct["1"], through["1"], lambda run: run.load.latency_us)
    figures = {f"added p50 alone, {durability}": _scaled(alone, 1e-3)}
    if durability == "power":
        many = through[str(MANY)]
        figures["calls/s, 64 at once, power"] = middle(many, lambda run: run.load.calls_per_s)
        figures["CPU per call, 64 at once, power"] = _scaled(middle(many, lambda run: run.cpu_us_per_call), 1e-3)
    return Outcome(table, figures, {"direct": direct, "daemon": through})


def _in_turns(
    bench: Bench, what: str, shapes: dict[str, Shape], daemon: Daemon
) -> tuple[dict[str, list[Run]], dict[str, list[Run]]]:
    """Every shape, directly and through the daemon, again and again, so that a drift of the machine meets all alike."""
    direct: dict[str, list[Run]] = {name: [] for name in shapes}
    through: dict[str, list[Run]] = {name: [] for name in shapes}
    for rep in range(bench.reps):
        for name, shape in shapes.items():
            bench.say(f"{what}: {name} ({rep + 1} of {bench.reps})")
            direct[name].append(bench.loader.run(shape, None))
            through[name].append(bench.loader.run(shape, daemon))
    return direct, through


def _calls_row(name: str, direct: list[Run], through: list[Run]) -> list[str | float | None]:
    row: list[str | float | None] = [name]
    for quantile in ("p50", "p99"):
        before, after = (_quantile(runs, lambda run: run.load.latency_us, quantile) for runs in (direct, through))
        row += [before, after, None if before is None or after is None else after - before]
    row += [middle(direct, lambda run: run.load.calls_per_s), middle(through, lambda run: run.load.calls_per_s)]
    row += [middle(through, lambda run: run.cpu_us_per_call), *_shares(direct, through)]
    return row


def _shares(direct: list[Run], through: list[Run]) -> list[str | float | None]:
    """How busy both cores were with the run, and with others in the worst repeat; `!` where that is too much."""
    both = direct + through
    return [
        _percent(middle(through, lambda run: run.daemon_core)),
        _percent(middle(through, lambda run: run.load_core)),
        _percent(max(run.foreign for run in both)) + ("!" if any(run.noisy for run in both) else ""),
    ]


# ---- streams


def streams(bench: Bench) -> Outcome:
    """Streams in bursts and paced: what a chunk costs, and how long it is under way."""
    shapes = {
        "burst": BURST,
        "burst, 1 chunk": BURST_FEW,
        "paced": PACED,
        "paced, 1 chunk": PACED_FEW,
        "paced, in step": PACED_IN_STEP,
        "alone": ALONE,
    }
    with bench.daemon() as daemon:
        bench.loader.run(BURST_FEW, daemon)  # warm
        direct, through = _in_turns(bench, "streams", shapes, daemon)
    per_chunk = {
        "burst": _chunk_cpu_us(through["burst"], through["burst, 1 chunk"]),
        "paced": _chunk_cpu_us(through["paced"], through["paced, 1 chunk"]),
        "paced, in step": _chunk_cpu_us(through["paced, in step"], through["paced, 1 chunk"]),
    }
    rows = [_streams_row(name, shapes[name], direct[name], through[name], per_chunk.get(name)) for name in shapes]
    columns = ["streams", "model", "at once", "first token p50 direct µs", "p50", "added p50", "p99"]
    columns += [
        "chunk delay p50 direct µs",
        "p50",
        "p99",
        "chunks/s",
        "CPU µs/chunk",
        "daemon core",
        "load core",
        "foreign",
    ]
    table = Table("Streams, durability = power", columns, rows)
    alone = _added(direct["alone"], through["alone"], lambda run: run.load.first_token_us)
    delay = _quantile(through["paced"], lambda run: run.load.chunk_delay_us, "p99")
    figures = {
        "CPU per streamed chunk, burst": per_chunk["burst"],
        "CPU per streamed chunk, paced": per_chunk["paced"],
        "added first token p50 alone, power": _scaled(alone, 1e-3),
        "chunk delay p99, paced": _scaled(delay, 1e-3),
    }
    return Outcome(table, figures, {"direct": direct, "daemon": through})


def _chunk_cpu_us(long: list[Run], short: list[Run]) -> float | None:
    """What a chunk more costs: CPU of a long stream without that of a stream of one chunk, by the chunks between."""
    many, one = (middle(runs, lambda run: run.cpu_us_per_call) for runs in (long, short))
    return None if many is None or one is None else (many - one) / (STREAM_CHUNKS - 1)


def _streams_row(
    name: str, shape: Shape, direct: list[Run], through: list[Run], cpu_us: float | None
) -> list[str | float | None]:
    first = [_quantile(runs, lambda run: run.load.first_token_us, "p50") for runs in (direct, through)]
    row: list[str | float | None] = [name, shape.model, shape.at_once, *first]
    row.append(_added(direct, through, lambda run: run.load.first_token_us))
    row.append(_quantile(through, lambda run: run.load.first_token_us, "p99"))
    row += [_quantile(runs, lambda run: run.load.chunk_delay_us, "p50") for runs in (direct, through)]
    row.append(_quantile(through, lambda run: run.load.chunk_delay_us, "p99"))
    row += [middle(through, lambda run: run.load.chunks_per_s), cpu_us, *_shares(direct, through)]
    return row


# ---- memory


def memory_used(bench: Bench) -> Outcome:
    """Memory of a new daemon after its first answer, and its peak while 1 000 slow streams are open."""
    rows: list[list[str | float | None]] = []
    idle: list[float] = []
    peaks: list[float] = []
    for connections, in_flight in SLOW_LAYOUTS:
        bench.say(f"memory: {SLOW_STREAMS} slow streams on {connections} connections")
        before, run = _slow_streams(bench, connections, in_flight)
        peak = run.peak or before
        idle.append(before.rss_mb)
        peaks.append(peak.rss_mb)
        rows.append([f"{connections} x {in_flight}", before.rss_mb, before.pss_mb, peak.rss_mb, peak.pss_mb])
        rows[-1] += [run.load.in_flight_max, run.daemon_cpu_s]
        rows[-1] += [_us(run.load.first_token_us, "p99"), _us(run.load.chunk_delay_us, "p99")]
    columns = ["connections x streams", "idle RSS MB", "idle PSS", "peak RSS MB", "peak PSS", "in flight", "CPU s"]
    columns += ["first token p99 µs", "chunk delay p99 µs"]
    remark = "A new daemon each; the larger RSS counts."
    table = Table("Memory, durability = power", columns, rows, remark)
    return Outcome(table, {"memory idle": max(idle), "memory, 1 000 slow streams": max(peaks)})


def _slow_streams(bench: Bench, connections: int, in_flight: int) -> tuple[Memory, Run]:
    chunks = QUICK_SLOW_CHUNKS if bench.quick else SLOW_CHUNKS
    shape = Shape(
        connections=connections,
        in_flight=in_flight,
        model=_slow_model(chunks),
        chunks=chunks,
        warm_s=0,
        total=SLOW_STREAMS,
        ramp_ms=1000,
    )
    with bench.daemon() as daemon:
        time.sleep(SETTLE_S)
        idle = memory(daemon.pid)
        return idle, bench.loader.run(shape, daemon, watch_memory=True)


# ---- sessions


def sessions(bench: Bench) -> Outcome:
    """Users who are live, and users who came and have gone; the provider, and the frames, left out."""
    live, come_and_go = (2_000, 8_000) if bench.quick else (10_000, 90_000)
    bench.say(f"sessions: {live} live, {come_and_go} more that come and go")
    found = _figures_of("sessions.py", live, come_and_go)
    columns = ["sessions", "RSS MB", "in use MB", "CPU µs"]
    rows: list[list[str | float | None]] = [
        [f"{live} live, a call each", found["live_mb"], None, found["call_us"]],
        [f"{come_and_go} more have come", found["came_mb"], None, None],
        ["all have gone", found["left_mb"], found["left_in_use_mb"], found["end_us"]],
    ]
    remark = "Growth since 500 users came and went. In use: Python's blocks, which a process keeps room for once it had them."
    table = Table("Sessions, growth of memory", columns, rows, remark)
    return Outcome(table, {"memory, 10 000 sessions": None if bench.quick else found["live_mb"]})


# ---- money


def money(bench: Bench) -> Outcome:
    """A hold and its settlement, without a call around them."""
    each = {1: 400, 64: 60} if bench.quick else {1: 2000, 64: 300}
    rows: list[list[str | float | None]] = []
    figures: dict[str, float | None] = {}
    for durability in ("power", "process"):
        for at_once, times in each.items():
            bench.say(f"hold and settle, {durability}, {at_once} at once")
            runs = [_money(at_once, times, durability) for _ in range(bench.reps)]
            cpu_us, p50_us = (statistics.median(run[key] for run in runs) for key in ("cpu_us", "p50_us"))
            rows.append([f"{durability}, {at_once} at once", cpu_us, p50_us])
            if (durability, at_once) == ("power", 1):
                figures["hold + settle p50 alone, power"] = p50_us / 1e3
            if (durability, at_once) == ("power", MANY):
                figures["CPU of hold + settle, 64 at once, power"] = cpu_us
    return Outcome(Table("Hold and settlement, eight limits", ["", "CPU µs", "p50 µs"], rows), figures)


def _money(at_once: int, each: int, durability: str) -> dict[str, float]:
    return _figures_of("money.py", DAEMON_CORE, at_once, each, durability)


def _figures_of(script: str, *arguments: object) -> dict[str, float]:
    """What a script of this folder measured, in a process of its own."""
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    found: dict[str, float] = json.loads(
        subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=HERE.parent, env=_with_path()).stdout
    )
    return found


def _with_path() -> dict[str, str]:
    """The packages of this checkout, for a script in the folder below."""
    return {**os.environ, "PYTHONPATH": str(HERE.parent)}


# ---- plans


def plans(bench: Bench) -> Outcome:
    """Deciding which model answers, with 200 models in the catalogue."""
    bench.say("plans")
    runs = [_figures_of("plans.py", DAEMON_CORE) for _ in range(bench.reps)]
    took = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    *each, (first, first_us) = took.items()
    rows: list[list[str | float | None]] = [[name, us] for name, us in (*each, (first, first_us))]
    figures: dict[str, float | None] = {"resolution, 200 models, the dearest": max(us for _, us in each)}
    return Outcome(Table("Which model answers, 200 models", ["", "CPU µs"], rows), figures)


# ---- tournaments


def tournaments(bench: Bench) -> Outcome:
    """A tournament of three beside single calls, alone and with others, in turns."""
    loads = {1: 60, TOGETHER: 10} if bench.quick else {1: 200, TOGETHER: 40}
    kinds = {"single call": (chat, MEMBERS), f"tournament of {MEMBERS}": (tournament, 1)}
    found: dict[tuple[str, int], list[Cost]] = {}
    with bench.daemon() as daemon:
        for rep in range(bench.reps + 1):
            for (name, (ask, times)), (at_once, each) in itertools.product(kinds.items(), loads.items()):
                bench.say(f"{name}, {at_once} at once ({rep} of {bench.reps})")
                cost = measure(daemon, lambda client, ask=ask: ask(client, FEW), at_once, each * times)  # type: ignore[misc]
                if rep:  # the first warms up
                    found.setdefault((name, at_once), []).append(cost)
    rows = [[f"{name}, {at_once} at once", *_cost_row(costs)] for (name, at_once), costs in found.items()]
    figures: dict[str, float | None] = {
        f"CPU of a tournament of 3, in single calls, {what}": _times(found, *kinds, at_once)
        for what, at_once in (("alone", 1), (f"{TOGETHER} at once", TOGETHER))
    }
    alone = found[f"tournament of {MEMBERS}", 1]
    figures["a tournament beyond its slowest member, p50 alone"] = statistics.median(c.added_p50_ms or 0 for c in alone)
    columns = ["", "CPU µs", "p50 ms", "beyond the slowest member p50 ms", "p99"]
    return Outcome(Table("Tournaments, durability = power", columns, rows), figures)


def _cost_row(costs: list[Cost]) -> list[str | float | None]:
    names = ("cpu_us", "p50_ms", "added_p50_ms", "added_p99_ms")
    told = [[value for cost in costs if (value := getattr(cost, name)) is not None] for name in names]
    return [statistics.median(values) if values else None for values in told]


def _times(found: dict[tuple[str, int], list[Cost]], single: str, several: str, at_once: int) -> float:
    """The CPU of one as so many of the other."""
    one, three = (statistics.median(c.cpu_us for c in found[name, at_once]) for name in (single, several))
    return three / one


# ---- start


def start(bench: Bench) -> Outcome:
    """From spawning the daemon to its first answer, with an empty state folder and with the one it left."""
    times = 3 if bench.quick else 5
    new: list[float] = []
    again: list[float] = []
    for number in range(times):
        bench.say(f"start ({number + 1} of {times})")
        daemon = bench.new_daemon()
        for took in (new, again):
            try:
                took.append(daemon.start())
            finally:
                bench.stop(daemon)
    rows: list[list[str | float | None]] = [
        [name, statistics.median(took), min(took), max(took)] for name, took in (("new state", new), ("again", again))
    ]
    table = Table("Start to the first answer", ["state folder", "median s", "best", "worst"], rows)
    figures = {
        f"start to the first answer, {name}": statistics.median(took)
        for name, took in (("new state", new), ("again", again))
    }
    return Outcome(table, dict(figures), {"new state": new, "again": again})


# ---- daemonctl


def control(bench: Bench) -> Outcome:
    """Whole processes of `daemonctl`, from spawning to exit, beside an idle daemon."""
    times = 3 if bench.quick else 10
    rows: list[list[str | float | None]] = []
    figures: dict[str, float | None] = {}
    with bench.daemon() as daemon:
        for arguments in (["--help"], ["--socket", str(daemon.socket), "status"]):
            name = f"daemonctl {arguments[-1]}"
            bench.say(name)
            took, code = _whole_process_ms([installed("daemonctl"), *arguments], times)
            if code:
                bench.loader.problems.append(f"`{name}` exits with {code}")
            figures[name] = statistics.median(took)
            rows.append([name, figures[name], min(took), max(took)])
    return Outcome(Table("daemonctl, whole process", ["command", "median ms", "best", "worst"], rows), figures)


def _whole_process_ms(command: list[str], times: int) -> tuple[list[float], int]:
    """How long each took, and the last exit code."""
    took, code = [], 0
    with on_core(LOAD_CORE):
        for _ in range(times):
            begin = time.perf_counter()
            code = subprocess.run(
                command, check=False, capture_output=True, env={**os.environ, "COLUMNS": "100"}
            ).returncode
            took.append((time.perf_counter() - begin) * 1000)
    return took, code


# ---- figures of several runs


def _us(percentiles: Percentiles | None, quantile: str) -> float | None:
    return getattr(percentiles, quantile) if percentiles else None


def _quantile(runs: list[Run], percentiles: Callable[[Run], Percentiles | None], quantile: str) -> float | None:
    return middle(runs, lambda run: _us(percentiles(run), quantile))


def _added(direct: list[Run], through: list[Run], percentiles: Callable[[Run], Percentiles | None]) -> float | None:
    """What the daemon adds to the median, in microseconds."""
    before, after = (_quantile(runs, percentiles, "p50") for runs in (direct, through))
    return None if before is None or after is None else after - before


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


PARTS: dict[str, Callable[[Bench], list[Outcome]]] = {
    "calls": lambda bench: [calls(bench, "power"), calls(bench, "process")],
    "streams": lambda bench: [streams(bench)],
    "money": lambda bench: [money(bench)],
    "plans": lambda bench: [plans(bench)],
    "memory": lambda bench: [memory_used(bench)],
    "sessions": lambda bench: [sessions(bench)],
    "tournaments": lambda bench: [tournaments(bench)],
    "start": lambda bench: [start(bench)],
    "ctl": lambda bench: [control(bench)],
}
"""The parts and their outcomes: calls have one for each durability."""
