"""What the machine says: CPU and memory of a process and its children, who else is busy, which disk, which processor."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterator

_CORES = sorted(os.sched_getaffinity(0))
DAEMON_CORE, LOAD_CORE = _CORES[0], _CORES[-1]
"""The daemon has one core for itself; upstream, generator and this program share another (the same if there is only one)."""

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
GONE = (FileNotFoundError, ProcessLookupError)


@contextlib.contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """What is spawned inside runs on this core from its first instruction; None pins nothing."""
    before = os.sched_getaffinity(0)
    if core is not None:
        os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def family(pid: int) -> list[int]:
    """The process and everything that descends from it."""
    pids = [pid]
    for parent in pids:
        with contextlib.suppress(*GONE):
            for task in Path(f"/proc/{parent}/task").iterdir():
                pids += map(int, (task / "children").read_text().split())
    return pids


def cpu_s(pid: int) -> float:
    """User and system time of the process, all its threads and its children, living or waited for."""
    return sum(map(_own_cpu_s, family(pid)))


def _own_cpu_s(pid: int) -> float:
    with contextlib.suppress(*GONE):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / TICKS_PER_S  # utime, stime, cutime, cstime
    return 0.0


class Memory(Struct):
    """Megabytes of a process and its children. PSS divides shared pages by their users; None where it can't be read."""

    rss_mb: float
    pss_mb: float | None


def memory(pid: int) -> Memory:
    pids = family(pid)
    pss = [_pss_mb(each) for each in pids]
    known = [each for each in pss if each is not None]
    return Memory(round(sum(map(_rss_mb, pids)), 1), round(sum(known), 1) if known else None)


def _rss_mb(pid: int) -> float:
    with contextlib.suppress(*GONE):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES / 1e6
    return 0.0


def _pss_mb(pid: int) -> float | None:
    with contextlib.suppress(*GONE, PermissionError):  # a daemon that is not dumpable shows it to root alone
        found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
        return int(found[1]) * 1024 / 1e6 if found else None
    return None


class Busy(Struct):
    """Seconds that all cores were busy, and that the host took away, since boot."""

    cpu_s: float
    steal_s: float


def busy() -> Busy:
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    user, nice, system, steal = fields[0], fields[1], fields[2], fields[7]
    return Busy((user + nice + system) / TICKS_PER_S, steal / TICKS_PER_S)


class Machine(Struct):
    """What stands beside every figure."""

    processor: str
    cores: int
    kernel: str
    python: str
    filesystem: str
    fsync_us: float
    load_average: float


def describe(state: Path) -> Machine:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return Machine(
        processor=found[1] if found else platform.machine(),
        cores=os.cpu_count() or 1,
        kernel=platform.release(),
        python=platform.python_version(),
        filesystem=_filesystem(state),
        fsync_us=_fsync_us(state / "fsync-probe"),
        load_average=round(os.getloadavg()[0], 2),
    )


def _filesystem(folder: Path) -> str:
    """The type of the filesystem that holds the folder: of all mounts above it, the deepest."""
    folder = folder.resolve()
    mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    above = [(len(point), kind) for point, kind in mounts if folder.is_relative_to(point)]
    return max(above)[1] if above else "unknown"


def _fsync_us(path: Path, times: int = 200) -> float:
    """Median of appending 4 kB and waiting until they are on the disk, as a commit does."""
    took = []
    with path.open("wb", buffering=0) as file:
        for _ in range(times):
            file.write(bytes(4096))
            start = time.perf_counter()
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - start)
    path.unlink()
    return round(statistics.median(took) * 1e6, 1)
