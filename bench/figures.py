"""The figures that have a target, the targets, and how a figure stands to it."""

from __future__ import annotations

from msgspec import Struct
from table import cell


class Target(Struct, frozen=True):
    """A figure's name as the tables have it, its unit, and what is to be reached."""

    figure: str
    unit: str
    limit: float
    at_least: bool = False

    def reached(self, value: float) -> bool:
        """Whether the value is on the right side of the limit."""
        return value >= self.limit if self.at_least else value <= self.limit

    def verdict(self, value: float | None) -> str:
        """Reached, or by how much not."""
        if value is None:
            return "not measured"
        if self.reached(value):
            return "reached"
        missed = abs(value - self.limit)
        return f"missed by {cell(missed)} {self.unit} ({missed / self.limit:.0%})"


TARGETS = (
    Target("calls/s, 64 at once, power", "calls/s", 9000, at_least=True),
    Target("CPU per call, 64 at once, power", "ms", 0.11),
    Target("added p50 alone, power", "ms", 1.0),
    Target("added p50 alone, process", "ms", 0.6),
    Target("CPU per streamed chunk, burst", "µs", 5),
    Target("CPU per streamed chunk, paced", "µs", 60),
    Target("added first token p50 alone, power", "ms", 1.0),  # ours: what a call may add, the first token may
    Target("chunk delay p99, paced", "ms", 5.0),  # ours: within one pace, so each token leaves as it comes
    Target("CPU of hold + settle, 64 at once, power", "µs", 60),
    Target("hold + settle p50 alone, power", "ms", 1.0),
    Target("resolution, 200 models, the dearest", "µs", 30),
    Target("CPU of a tournament of 3, in single calls, alone", "calls", 3.5),
    Target("CPU of a tournament of 3, in single calls, 16 at once", "calls", 3.5),
    Target("a tournament beyond its slowest member, p50 alone", "ms", 10),
    Target("memory idle", "MB", 65),
    Target("memory, 1 000 slow streams", "MB", 130),
    Target("memory, 10 000 sessions", "MB", 60),
    Target("start to the first answer, new state", "s", 0.5),
    Target("start to the first answer, again", "s", 0.5),
    Target("daemonctl --help", "ms", 150),
    Target("daemonctl status", "ms", 150),
)


class Judged(Struct):
    """A figure beside its target, as the report and the JSON have it."""

    figure: str
    value: float | None
    unit: str
    target: float
    at_least: bool
    verdict: str


def judge(values: dict[str, float | None]) -> list[Judged]:
    """Every target whose figure this run was asked for, in the order of the targets."""
    known = {target.figure for target in TARGETS}
    assert values.keys() <= known, values.keys() - known
    return [
        Judged(t.figure, values[t.figure], t.unit, t.limit, t.at_least, t.verdict(values[t.figure]))
        for t in TARGETS
        if t.figure in values
    ]
