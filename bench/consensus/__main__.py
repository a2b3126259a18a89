"""What tournaments are worth and cost, on simulated members: `make bench-consensus`. See bench/README.md."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from typing import TYPE_CHECKING

from figures import Target
from msgspec import Struct
from msgspec.structs import replace
from table import Table, cell

from consensus.intervals import Figure, auroc, mean, share
from consensus.members import MODELS, SAME_ERROR, Model, Question, questions, same_error
from consensus.policies import CASCADE, FAST, FAST_WHOLE, FRUGAL, Played, Player, Policy

if TYPE_CHECKING:
    from collections.abc import Sequence

SINGLE, ALL = "single best", "majority of all"
SHARED = 0.25
"""Part of a question's difficulty that all members share; 0 would make them wrong independently of each other."""

THREE = (MODELS[0], MODELS[1], replace(MODELS[4], family="r"))
AT_ONE_PRICE = tuple(replace(model, price=1.0) for model in MODELS)

TARGETS = (
    Target("vote, frugal: behind majority of all", "points", 0.2),
    Target("vote, frugal: cost of majority of all", "%", 70),
    Target("cascade: cost of majority of all", "%", 55),
    Target("vote, frugal: AUROC of dispute", "", 0.75, at_least=True),
)


class Setting(Struct, frozen=True):
    """Who is asked, and how far they find the same questions hard."""

    name: str
    models: tuple[Model, ...]
    shared: float


MAIN = Setting("five members", MODELS, SHARED)
OTHERS = (
    Setting("five, nothing shared", MODELS, 0.0),
    Setting("five, half shared", MODELS, 0.5),
    Setting("five at one price", AT_ONE_PRICE, SHARED),
    Setting("three members", THREE, SHARED),
)


class Run(Struct):
    """A policy on all questions of a setting, beside the plain majority on the same ones."""

    played: list[Played]
    majority: list[Played]

    @property
    def right(self) -> Figure | None:
        """How often its answer is right."""
        return share(sum(each.right for each in self.played), len(self.played))

    @property
    def behind(self) -> Figure:
        """By how much less often right than the majority, question by question."""
        return mean([all_.right - each.right for each, all_ in zip(self.played, self.majority, strict=True)])

    @property
    def cost(self) -> Figure:
        """Part of what the majority costs."""
        return mean([each.cost / self.majority[0].cost for each in self.played])

    @property
    def doubt(self) -> Figure | None:
        """How well a small lead (1 - margin; 1 is a tie) predicts a wrong answer."""
        return auroc((float(1 - each.finding.margin), not each.right) for each in self.played if each.finding)

    @property
    def disputed(self) -> Figure | None:
        """How well the bare status `dispute` does."""
        return auroc((each.finding.status == "dispute", not each.right) for each in self.played if each.finding)

    def statuses(self) -> dict[str, tuple[int, int]]:
        """How often each status was said, and how often the answer was wrong then."""
        said = Counter(each.finding.status for each in self.played if each.finding)
        wrong = Counter(each.finding.status for each in self.played if each.finding and not each.right)
        return {status: (count, wrong[status]) for status, count in said.most_common()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=20_000, help="for each setting (20 000)")
    parser.add_argument("--seed", type=int, default=1, help="other questions (1)")
    arguments = parser.parse_args()
    asked = questions(MAIN.models, arguments.questions, MAIN.shared, arguments.seed)
    runs = play(MAIN, asked, (FRUGAL, FAST, FAST_WHOLE, CASCADE))
    print("\n\n".join([header(asked, arguments.seed), str(quality(runs)), str(words(runs))]))
    print(f"\n{others(arguments.questions, arguments.seed)}\n\n{targets(runs)}")
    return 0


def play(setting: Setting, asked: Sequence[Question], policies: Sequence[Policy]) -> dict[str, Run]:
    player = Player(setting.models)
    best = max(range(len(setting.models)), key=lambda slot: setting.models[slot].accuracy)
    majority = [player.everyone(question) for question in asked]
    played = {SINGLE: [player.single(question, best) for question in asked], ALL: majority}
    played |= {policy.name: [player.play(policy, question) for question in asked] for policy in policies}
    return {name: Run(each, majority) for name, each in played.items()}


def header(asked: Sequence[Question], seed: int) -> str:
    both, same = same_error(asked)
    return (
        f"consensus: {len(asked):,} questions of five choices, seed {seed}; 95 % intervals in brackets\n"
        f"members: {', '.join(f'{m.name} {m.accuracy:.0%} ${m.price:.2f}' for m in MODELS)} (right, per thousand answers)\n"
        f"of all pairs {both:.1%} are both wrong, and then agree in {same:.1%} (set: {SAME_ERROR:.0%}); "
        f"{SHARED:.0%} of a question's difficulty is shared"
    )


def quality(runs: dict[str, Run]) -> Table:
    rows: list[list[str | float | None]] = []
    for name, run in runs.items():
        calls, seconds = (mean([getattr(each, what) for each in run.played]).value for what in ("calls", "seconds"))
        rows.append(
            [name, _text(run.right), run.behind.text(), run.cost.text(digits=1), f"{calls:.2f}", f"{seconds:.1f}"]
        )
    columns = ["policy", "right %", "behind majority, points", "cost, % of majority", "calls", "seconds"]
    return Table("Accuracy and cost, five members", columns, rows, "A tie is answered alike by all: see the README.")


def words(runs: dict[str, Run]) -> Table:
    rows: list[list[str | float | None]] = []
    for name, run in runs.items():
        statuses = run.statuses()
        if not statuses:
            continue
        agreed = [statuses.get(status, (0, 0)) for status in ("unanimous", "consensus")]
        said, wrong = (sum(column) for column in zip(*agreed, strict=True))
        shown = ", ".join(f"{status} {count / len(run.played):.1%}" for status, (count, _) in statuses.items())
        rows.append(
            [
                name,
                _text(share(wrong, said)),
                _part(run, wrong),
                _dispute(run),
                _text(run.doubt, 1, 3),
                _text(run.disputed, 1, 3),
                shown,
            ]
        )
    columns = [
        "policy",
        "wrong when consensus %",
        "of all %",
        "wrong when dispute %",
        "AUROC of 1 - margin",
        "of the word dispute",
        "said",
    ]
    return Table("What the statuses are worth (consensus: or unanimous)", columns, rows)


def others(count: int, seed: int) -> Table:
    rows: list[list[str | float | None]] = []
    for setting in OTHERS:
        runs = play(setting, questions(setting.models, count, setting.shared, seed), (FRUGAL, CASCADE))
        for name in (FRUGAL.name, CASCADE.name):
            run = runs[name]
            rows.append(
                [
                    f"{setting.name}: {name}",
                    _text(runs[SINGLE].right),
                    _text(runs[ALL].right),
                    run.behind.text(),
                    run.cost.text(digits=1),
                    _text(run.doubt, 1, 3),
                ]
            )
    columns = ["setting", "single best %", "majority %", "behind, points", "cost, % of majority", "AUROC"]
    return Table("Other settings", columns, rows)


def targets(runs: dict[str, Run]) -> Table:
    frugal, cascade = runs[FRUGAL.name], runs[CASCADE.name]
    doubt = frugal.doubt.value if frugal.doubt else None
    values = (100 * frugal.behind.value, 100 * frugal.cost.value, 100 * cascade.cost.value, doubt)
    rows: list[list[str | float | None]] = [
        [target.figure, cell(value), f"{'≥' if target.at_least else '≤'} {cell(target.limit)}", target.verdict(value)]
        for target, value in zip(TARGETS, values, strict=True)
    ]
    return Table("Targets", ["figure", "measured", "target", "verdict"], rows)


def _dispute(run: Run) -> str:
    said, wrong = run.statuses().get("dispute", (0, 0))
    return _text(share(wrong, said), digits=1)


def _part(run: Run, wrong: int) -> str:
    return _text(share(wrong, len(run.played)))


def _text(figure: Figure | None, factor: float = 100, digits: int = 2) -> str:
    return "-" if figure is None else figure.text(factor, digits)


if __name__ == "__main__":
    sys.exit(main())
