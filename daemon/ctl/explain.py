"""`explain`: which model would answer, and why, as a tree. Nobody is called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daemon.ctl.chat import question, question_options
from daemon.ctl.command import Command
from daemon.ctl.output import can_show, money, put, result

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator

    from daemon.ctl.command import Connect

BRANCH, LAST = "├─ ", "└─ "
ASCII_BRANCH, ASCII_LAST = "|- ", "`- "

WAYS_OUT = {
    "override_required": "`daemonctl chat --yes` lets it run once all the same",
    "budget_exceeded": "`daemonctl spend` shows what is left, and when it begins anew",
    "budget_held": "wait until calls under way have settled, or say --admission queue",
    "price_unknown": "set its price under [models] in the config",
    "no_eligible_model": "`daemonctl providers` tells which there are and how they are",
    "unknown_model": "`daemonctl models` lists what there is",
    "unknown_provider": "`daemonctl providers` lists them",
    "provider_unavailable": "`daemonctl providers` tells how they are; another model with -m",
    "misconfigured": "`daemonctl providers` tells what is wrong; another model with -m",
    "rate_limited": "`daemonctl providers` tells until when; another model with -m",
}
"""What to do where nobody would answer, by the fault's code."""

ALLOWS_PAID = "orchestrator.budget_tier_allows_paid"


def run(arguments: Namespace, connect: Connect) -> int:
    """Shows the plan of a chat."""
    messages, wishes = question(arguments, "explain")
    with connect() as quorum:
        return result(arguments, quorum.call("explain", messages=messages, **wishes), _show)


def _show(answer: Any) -> None:
    decision, fault = answer.get("decision", answer), answer.get("fault")
    _tree(*(_refused(decision, fault) if fault else _planned(decision)))


def _planned(decision: Any) -> tuple[str, list[str]]:
    """The model with why and for how much; then how it came to that, who stands by, and who was passed over."""
    chosen, *others = decision["targets"]
    deciding = next((s for s in decision["steps"] if (s["step"], s["value"]) == (decision["reason"], chosen)), None)
    why = deciding["why"] if deciding else _in_words(decision["reason"])
    steps = [step for step in decision["steps"] if step is not deciding]
    lines = [*_steps(steps), *(f"else {other}" for other in others), *_rejected(decision["rejected"], "")]
    return f"{chosen}: {why}; {_bound(decision.get('bound_nano_usd'))}", [*lines, *_flags(decision)]


def _refused(decision: Any, fault: Any) -> tuple[str, list[str]]:
    """What `chat` would answer, how it came to that, and the way out."""
    lines = [*_steps(decision["steps"]), *_rejected(decision["rejected"], fault["message"]), *_flags(decision)]
    if way_out := _way_out(decision["reason"], fault):
        lines.append(f"way out: {way_out}")
    return f"nobody would answer: {fault['code']}: {fault['message']}", lines


def _way_out(reason: str, fault: Any) -> str | None:
    """What to do about the fault; where the orchestrator has no model, its message tells whether paid ones are left to allow."""
    if (reason, fault["code"]) != ("orchestrator", "no_eligible_model"):
        return WAYS_OUT.get(fault["code"])
    paid = f"`daemonctl settings set {ALLOWS_PAID} true`, or " if ALLOWS_PAID in fault["message"] else ""
    return f"{paid}another --tier; `daemonctl recommend TASK` tells what each has"


def _bound(nano: int | None) -> str:
    if nano is None:
        return "no price is known"
    return f"at most {money(nano)}" if nano else "free"


def _in_words(reason: str) -> str:
    from protocols.routing import IN_WORDS  # msgspec's 20 ms are not for `--help`

    return next((words for known, words in IN_WORDS.items() if known == reason), reason)


def _steps(steps: Any) -> Iterator[str]:
    return (f"{step['step']} {step['value']}: {step['why']}" for step in steps)


def _rejected(rejected: Any, told: str) -> Iterator[str]:
    """Those passed over; a reason that was `told` already is not said again."""
    for each in rejected:
        why = "" if each["why"] == told else f": {each['why']}"
        yield f"not {each['model']} ({each['code']}){why}"


def _flags(decision: Any) -> Iterator[str]:
    return (f"flag {flag}" for flag in decision["flags"])


def _tree(root: str, lines: list[str]) -> None:
    branch, last = (BRANCH, LAST) if can_show(BRANCH + LAST) else (ASCII_BRANCH, ASCII_LAST)
    put(_line(root))
    for line in lines[:-1]:
        put(branch + _line(line))
    for line in lines[-1:]:
        put(last + _line(line))


def _line(text: str) -> str:
    return " ".join(text.split())


EXPLAIN = Command(run, question_options, ("explain --task theme_analysis hello",))
