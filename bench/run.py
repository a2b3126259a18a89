"""What quorumd adds to a call, what it costs, and whether that is as little as we want. See README.md."""

from __future__ import annotations

import argparse
import datetime as dt
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from figures import Judged, judge
from loads import FOREIGN_LIMIT, Loader
from machine import DAEMON_CORE, LOAD_CORE, Machine, describe
from parts import PARTS, Bench, Outcome
from processes import HERE, BenchError, Upstream, build, installed
from sampling import SHAPES, profile
from table import Table, cell

RESULTS = HERE / "results"
PROMPT_BYTES = 590
ANSWER_BYTES = 134


class Report(msgspec.Struct):
    """One run of the benchmark, as it is printed and as it is kept."""

    at: str
    machine: Machine
    setting: dict[str, Any]
    outcomes: list[Outcome]
    figures: list[Judged]
    runs: int
    noisy: int
    problems: list[str]

    def __str__(self) -> str:
        parts = [self._header(), *(str(outcome.table) for outcome in self.outcomes), str(self._targets())]
        if self.noisy:
            parts.append(
                f"{self.noisy} of {self.runs} runs met other work on the machine (marked !): run again when it is quiet."
            )
        problems = "\n".join(f"- {problem}" for problem in self.problems)
        parts.append(
            f"WRONG (a figure counts only if every answer was right):\n{problems}"
            if problems
            else "Every call was answered once, whole and priced; the books agree."
        )
        return "\n\n".join(parts)

    def _header(self) -> str:
        machine, setting = self.machine, self.setting
        return (
            f"quorumd benchmark, {self.at}\n"
            f"{machine.cores} cores of {machine.processor}, Linux {machine.kernel}, Python {machine.python}, load {machine.load_average} at the start\n"
            f"state on {machine.filesystem}, write + fsync of 4 kB {machine.fsync_us:.0f} µs (median); a figure near or below 100 µs is a cache of the host's\n"
            f"daemon on core {DAEMON_CORE}, upstream and generator on core {LOAD_CORE}; closed loop; "
            f"prompt {setting['prompt_bytes']} + 85 bytes, answer {ANSWER_BYTES} bytes; {setting['users']}\n"
            f"ledger, one monthly limit and prices on; medians of {setting['reps']}, direct and daemon in turns; "
            f"up to {setting['tries']} tries of a run while others take over {FOREIGN_LIMIT:.0%} of a core"
        )

    def _targets(self) -> Table:
        rows: list[list[str | float | None]] = [
            [
                each.figure,
                f"{cell(each.value)} {each.unit}",
                f"{'≥' if each.at_least else '≤'} {cell(each.target)}",
                each.verdict,
            ]
            for each in self.figures
        ]
        return Table("Targets", ["figure", "measured", "target", "verdict"], rows)


def main() -> int:
    arguments = parse()
    os.sched_setaffinity(0, {LOAD_CORE})
    try:
        build()
        return execute(arguments)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one repeat and fewer levels: about a minute")
    parser.add_argument("--reps", type=int, help="repeats of each load (3; 1 with --quick)")
    parser.add_argument("--tries", type=int, help="runs of a load until one is quiet (3; 1 with --quick)")
    parser.add_argument("--only", choices=PARTS, action="append", help="a part; may be given several times")
    parser.add_argument("--json", action="store_true", help="print the report as JSON, not as tables")
    parser.add_argument("--daemon", default=installed("quorumd"), help="command of the daemon under test")
    parser.add_argument("--disk", type=Path, help="folder for the state folders (the system's temporary one)")
    parser.add_argument("--prompt-bytes", type=int, default=PROMPT_BYTES, help="length of the user's message")
    parser.add_argument(
        "--users", type=int, default=0, help="spread calls over so many users below the caller's account"
    )
    parser.add_argument(
        "--profile", nargs="?", const="calls", choices=tuple(SHAPES), help="sample the daemon under a load instead"
    )
    parser.add_argument("--seconds", type=int, default=10, help="how long --profile samples")
    parser.add_argument("--gil", action="store_true", help="sample only threads that hold the interpreter")
    parser.add_argument("--py-spy", default="py-spy", help="where py-spy is")
    return parser.parse_args()


def execute(arguments: argparse.Namespace) -> int:
    """Runs what was asked for. 0 when every answer was right, whatever the targets; 1 otherwise."""
    upstream = Upstream()
    RESULTS.mkdir(exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="quorumd-bench-", dir=arguments.disk) as folder:
            bench = prepare(arguments, upstream, Path(folder))
            if arguments.profile:
                return print_profile(bench, arguments)
            return print_report(measure(bench, arguments), as_json=arguments.json)
    finally:
        upstream.stop()


def prepare(arguments: argparse.Namespace, upstream: Upstream, folder: Path) -> Bench:
    tries = arguments.tries or (1 if arguments.quick else 3)
    loader = Loader(upstream, prompt_bytes=arguments.prompt_bytes, users=arguments.users, tries=tries, say=say)
    reps = arguments.reps or (1 if arguments.quick else 3)
    return Bench(loader, arguments.daemon, folder, reps, arguments.quick, say)


def measure(bench: Bench, arguments: argparse.Namespace) -> Report:
    machine = describe(bench.folder)
    outcomes = [outcome for name, part in PARTS.items() if name in (arguments.only or PARTS) for outcome in part(bench)]
    figures = {name: value for outcome in outcomes for name, value in outcome.figures.items()}
    users = f"{arguments.users} users" if arguments.users else "one user"
    setting = {
        "reps": bench.reps,
        "tries": bench.loader.tries,
        "quick": bench.quick,
        "prompt_bytes": arguments.prompt_bytes,
        "users": users,
    }
    at = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    return Report(
        at, machine, setting, outcomes, judge(figures), bench.loader.runs, bench.loader.noisy, bench.loader.problems
    )


def print_report(report: Report, *, as_json: bool) -> int:
    encoded = msgspec.json.format(msgspec.json.encode(report), indent=1)
    (RESULTS / f"{report.at.replace(':', '')}.json").write_bytes(encoded)
    print(encoded.decode() if as_json else f"\n{report}")
    return 1 if report.problems else 0


def print_profile(bench: Bench, arguments: argparse.Namespace) -> int:
    stacks = RESULTS / f"profile-{arguments.profile}.txt"
    tables = profile(bench, arguments.profile, arguments.seconds, arguments.py_spy, stacks, gil=arguments.gil)
    print("\n" + "\n\n".join(map(str, tables)))
    return 0


def say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
