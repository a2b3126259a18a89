"""Where the daemon's time goes under load: py-spy samples its stacks from outside, and the hottest functions are printed."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from typing import TYPE_CHECKING

from loads import Shape
from machine import LOAD_CORE, on_core
from parts import BURST, MANY, PACED, Bench
from processes import BenchError
from table import Table

if TYPE_CHECKING:
    from pathlib import Path

    from processes import Daemon

SHAPES = {"calls": Shape(connections=MANY), "burst": BURST, "paced": PACED}
SAMPLES_PER_S = 500
LEAD_S = 2
SHOWN = 30

MISSING = """\
py-spy is not installed; it is no part of the project's lock. Put it into an environment of its own and name it:
  python3 -m venv ENV && ENV/bin/pip install py-spy && .venv/bin/python bench/run.py --profile --py-spy ENV/bin/py-spy
cProfile is no way round: it sees one thread, and slows calls so unevenly that its shares are not those of a real run."""


def profile(bench: Bench, kind: str, seconds: int, py_spy: str, stacks: Path, *, gil: bool) -> list[Table]:
    """Samples the daemon under a load of this kind; collapsed stacks are left in the file, for any flame graph viewer."""
    program = shutil.which(py_spy)
    if not program:
        raise BenchError(MISSING)
    shape = _lasting(SHAPES[kind], seconds + LEAD_S)
    with bench.daemon() as daemon:
        bench.say(f"profile: {kind}, {shape.at_once} at once, {seconds} s")
        sampler = _start(program, daemon, seconds, stacks, gil=gil)
        run = bench.loader.once(shape, daemon)  # noisy by the sampler itself
        errors = sampler.communicate()[1]
    if sampler.returncode or not stacks.exists():
        raise BenchError(f"py-spy failed (it needs to be root, or to be let ptrace): {errors[-500:]}")
    own, within = count(stacks.read_text())
    remark = f"{run.load.calls_per_s:,.0f} calls/s while sampled; stacks in {stacks.name}"
    return [_table("Own time", own, remark), _table("With what it calls", within, remark)]


def _lasting(shape: Shape, seconds: int) -> Shape:
    return Shape(
        connections=shape.connections,
        model=shape.model,
        chunks=shape.chunks,
        warm_s=shape.warm_s,
        measure_s=seconds,
        ramp_ms=shape.ramp_ms,
    )


def _start(program: str, daemon: Daemon, seconds: int, stacks: Path, *, gil: bool) -> subprocess.Popen[str]:
    command = [program, "record", "-p", str(daemon.pid), "-d", str(seconds), "-r", str(SAMPLES_PER_S)]
    command += ["-f", "raw", "-o", str(stacks), "--threads", *(["--gil"] if gil else [])]
    with on_core(LOAD_CORE):
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def count(collapsed: str) -> tuple[Counter[str], Counter[str]]:
    """Samples of each function by itself, and with what it calls; a line is `outer;…;inner samples`."""
    own: Counter[str] = Counter()
    within: Counter[str] = Counter()
    for line in collapsed.splitlines():
        stack, _, samples = line.rpartition(" ")
        frames = [_function(frame) for frame in stack.split(";")]
        own[frames[-1]] += int(samples)
        for frame in set(frames):
            within[frame] += int(samples)
    return own, within


def _function(frame: str) -> str:
    """`name (path/file.py:12)` without the line."""
    return frame.rpartition(":")[0] + ")" if frame.endswith(")") and ":" in frame else frame


def _table(title: str, samples: Counter[str], remark: str) -> Table:
    total = sum(samples.values()) if title == "Own time" else max(samples.values(), default=0)
    rows: list[list[str | float | None]] = [
        [name, f"{share / max(1, total):.1%}"] for name, share in samples.most_common(SHOWN)
    ]
    return Table(title, ["function", "share"], rows, remark)
