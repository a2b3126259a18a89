"""A verdict as a picture: what it is in a sentence, who said what, whose ballot does not count, and what it cost."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

from daemon.ctl.output import bar, money, one_line, put

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    Verdict = Mapping[str, Any]

CELLS = 20
"""How wide a share's bar is."""

INDENT = " " * (len("100% ") + CELLS + 1)
COLUMNS = 80
"""The width of a page where there is no terminal to be measured."""

LEAST_ROOM = 20
ROOM = 60
"""Characters of an answer in a sentence."""

MEANS = {
    "dispute": "the answers differ, look at them",
    "inconclusive": "too few answers to tell",
    "unscored": "nobody compared the answers",
    "failed": "nobody gave an answer",
}
"""What a status says that settles nothing."""

NONE_IS_BEST = "the judges name no answer as the best, look at them"

GIVEN = {
    "voted": "{answer}",
    "picked": "the best is {winner}'s: {answer}",
    "fused": "written from the best answers: {answer}",
    "selected": "{winner}'s, as it is, for nobody could tell more: {answer}",
    "first": "{winner} came first: {answer}",
}
"""How an answer came about, by its kind."""

FLAGS = {
    "degraded": "not everybody gave an answer that counts",
    "early_stopped": "stopped early, for more ballots would have changed no winner",
    "shrunk": "fewer were asked than wanted, for the budget",
    "same_family": "those who agree are of one family, as far as is known",
    "vetoed": "a ballot gives the answer that blocks",
    "deadline": "time was up",
}


SIMULATED = "simulated: no provider of models was asked"


def show_verdict(verdict: Verdict) -> None:
    """Prints the picture, and at its end the answer in full if it is longer than a line."""
    put(headline(verdict))
    for line in _who_said_what(verdict):
        put(line)
    for title, fact in _facts(verdict):
        put(f"{title}: {fact}")
    answer = verdict["answer"] or ""
    if one_line(answer, ROOM) != answer.strip():
        put(f"\n{answer.rstrip()}")


def headline(verdict: Verdict) -> str:
    """The verdict in plain words."""
    told = [
        _means(verdict),
        _given(verdict),
        SIMULATED if verdict.get("simulated") else "",
        *(FLAGS.get(flag, flag) for flag in verdict["flags"]),
    ]
    return f"{verdict['status']}: {'; '.join(part for part in told if part) or 'no answer'}"


def review_hint(verdict: Verdict) -> str:
    """What to do where a person should look."""
    return f"`daemonctl reviews resolve {verdict['tournament_id']} --answer …` says which answer was right"


def named(models: Iterable[str]) -> str:
    """Models, each once; one that was asked several times with how often."""
    return ", ".join(f"{model} ({times} times)" if times > 1 else model for model, times in Counter(models).items())


def _means(verdict: Verdict) -> str:
    if (verdict["mode"], verdict["status"]) == ("pick", "dispute"):
        return NONE_IS_BEST
    return MEANS.get(verdict["status"], "")


def _given(verdict: Verdict) -> str:
    """The answer, how it came about and how many are behind it."""
    if verdict["answer"] is None:
        return ""
    said = GIVEN.get(verdict["answer_kind"], "{answer}")
    behind = _behind(verdict)
    answer = said.format(answer=one_line(verdict["answer"], ROOM), winner=verdict["winner"] or "nobody")
    return f"{answer} ({behind})" if behind else answer


def _behind(verdict: Verdict) -> str:
    """How many of those asked, and of how many families; of a pick, the judges' share."""
    agreement = verdict["agreement"]
    match verdict["answer_kind"], agreement["clusters"]:
        case "voted", [first, *_] if first["share"]:
            agreed = len(first["members"])
            families = {b["family"] for b in verdict["ballots"] if b["cluster"] == 0} - {None}
            of = f", {len(families)} {'family' if len(families) == 1 else 'families'}" if families else ""
            return f"{agreed} of {round(agreed / first['share'])}{of}"
        case "picked", [_, *_]:
            return f"{agreement['top_share']:.0%} of the judges' points"
    return ""


def _who_said_what(verdict: Verdict) -> Iterator[str]:
    """Each answer with its share and who gave it; where nobody compared them, each member's."""
    room = max(_columns() - len(INDENT), LEAST_ROOM)
    for cluster in verdict["agreement"]["clusters"]:
        yield f"{cluster['share']:4.0%} {_bar(cluster['share'])} {one_line(cluster['answer'], room)}"
        yield from _wrapped(named(cluster["members"]), room)
    if not verdict["agreement"]["clusters"]:
        for ballot in verdict["ballots"]:
            if ballot["status"] == "ok":
                yield f"  {ballot['model']}: {one_line(ballot['answer'] or ballot['text'], ROOM)}"


def _columns() -> int:
    if not sys.stdout.isatty():
        return COLUMNS
    from shutil import get_terminal_size  # only for a terminal

    return get_terminal_size((COLUMNS, 0)).columns


def _bar(share: float) -> str:
    """A share of one in cells: one at least once there is some, and all of them only for all."""
    full = min(round(share * CELLS), CELLS - int(share < 1)) or int(share > 0)
    return bar(full, 0, CELLS)


def _wrapped(names: str, room: int) -> list[str]:
    from textwrap import wrap

    lines = wrap(names, room, break_long_words=False, break_on_hyphens=False)
    return [INDENT + line for line in lines]


def _facts(verdict: Verdict) -> Iterator[tuple[str, str]]:
    for missing in verdict["missing"]:
        yield "not counted", f"{missing['model']} ({missing['code']}): {one_line(missing['why'], 2 * ROOM)}"
    yield "cost", _cost(verdict)
    yield "ballots", f"`daemonctl tournaments show {verdict['tournament_id']} --text`"
    if verdict["needs_review"]:
        yield "review", review_hint(verdict)


def _cost(verdict: Verdict) -> str:
    """The cost against its bound, what was saved, and whose price is in neither."""
    cost, bound, saved = (verdict[f"{what}_nano_usd"] for what in ("cost", "bound", "saved"))
    unpriced = verdict.get("lacks", ())
    against = f"of at most {money(bound)}" if cost <= bound else f"although at most {money(bound)} was held"
    said = [f"{money(cost)} {against}" if cost or bound or unpriced else "free"]
    if saved:
        said.append(f"about {money(saved)} saved by stopping early")
    if unpriced:
        said.append(f"without {named(unpriced)}, whose price nobody knows")
    return "; ".join(said)
