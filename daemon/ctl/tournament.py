"""`tournament`, or `ask`: several models are asked, with live progress; then what came of it as a picture."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from daemon.ctl.chat import confirmed, prompt_option, typed_prompt, write
from daemon.ctl.command import NEEDS_REVIEW, OK, REFUSED, Command, UsageError
from daemon.ctl.output import milliseconds, money, one_line, print_json, put, safe, say
from daemon.ctl.values import names
from daemon.ctl.verdict import ROOM, headline, named, review_hint, show_verdict

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable, Mapping

    from daemon.ctl.command import Connect
    from protocols.client import BlockingClient

    Fields = Mapping[str, Any]

ANSWERS = ("bool", "choice", "number", "date", "set", "json", "code", "short_text")
MODES = ("vote", "pick", "fuse", "race", "cascade")
LATENCIES = ("frugal", "fast")
TIGHT_BUDGETS = ("shrink", "local_only", "ask", "reject")

PARAMS = {
    "members": "members",
    "num": "n",
    "mode": "mode",
    "aggregator": "aggregator",
    "min_live": "min_live",
    "threshold": "threshold",
    "latency": "latency",
    "on_tight_budget": "on_tight_budget",
    "veto": "veto",
    "task": "task_type",
    "tier": "quality_tier",
    "user": "user",
    "conversation": "conversation",
    "max_tokens": "max_tokens",
}
"""Options and the params they become; only those given are sent."""

DETAILS = ("choices", "tolerance", "unit", "locale", "language")
"""Options that say more of the answer's type."""


def options(parser: ArgumentParser) -> None:
    """Who is asked and how, what is compared and by whom, and how it is shown."""
    parser.add_argument("--members", metavar="A,B,C", type=names, help="the models to ask; else the daemon chooses")
    parser.add_argument("-n", "--num", metavar="N", type=int, help="how many models to ask")
    parser.add_argument("--mode", choices=MODES, help="how it is held; else as your settings and the answer have it")
    parser.add_argument("--latency", choices=LATENCIES, help="ask few at first, or all at once")
    parser.add_argument("--on-tight-budget", choices=TIGHT_BUDGETS, help="what to do where the budget is not enough")
    parser.add_argument("--user", metavar="U", help="on behalf of this user")
    parser.add_argument("--conversation", metavar="C", help="of this conversation")
    parser.add_argument("--task", metavar="T", help="the kind of task, such as theme_analysis")
    parser.add_argument("--tier", choices=("budget", "balanced", "premium"), help="how good the members must be")
    parser.add_argument("--max-tokens", metavar="N", type=int, help="the longest answer of a member, in tokens")
    _answer_options(parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="print the answer alone, without progress")
    parser.add_argument("--yes", action="store_true", help="run it even if your budget is used up")
    prompt_option(parser)


def _answer_options(parser: ArgumentParser) -> None:
    parser.add_argument("--answer", choices=ANSWERS, help="the type of the answer, by which the ballots are compared")
    parser.add_argument("--choices", metavar="A,B,C", type=names, help="what a choice is of")
    parser.add_argument("--tolerance", metavar="X", type=float, help="how far equal numbers may be apart")
    parser.add_argument("--unit", metavar="U", help="the unit of a number")
    parser.add_argument("--locale", metavar="L", help="how numbers and dates are written, such as de")
    parser.add_argument("--language", metavar="L", help="the language of code")
    parser.add_argument(
        "--judge", metavar="M", action="append", type=names, help="who compares what has no type; may be said again"
    )
    parser.add_argument("--aggregator", metavar="M", help="who writes the answer of a fuse")
    parser.add_argument("--min-live", metavar="N", type=int, help="the fewest ballots that tell anything")
    parser.add_argument("--threshold", metavar="T", help="the share of a consensus, such as 2/3 or 0.75")
    parser.add_argument("--veto", metavar="ANSWER", help="an answer that one ballot is enough to block with")


def run(arguments: Namespace, connect: Connect) -> int:
    """Asks and shows; a budget that is used up is confirmed first, on a terminal or with `--yes`."""
    params = _params(arguments)
    with connect() as quorum:
        return confirmed(arguments, lambda **change: _ask(arguments, quorum, {**params, **change}), _local_models)


def _params(arguments: Namespace) -> dict[str, Any]:
    _refuse_a_slip(arguments.prompt)
    given = {param: getattr(arguments, option) for option, param in PARAMS.items()}
    given["answer"] = _answer(arguments)
    given["judge"] = None if arguments.judge is None else [judge for judges in arguments.judge for judge in judges]
    return {
        "prompt": typed_prompt(arguments, "ask"),
        **{param: value for param, value in given.items() if value is not None},
    }


def _refuse_a_slip(words: list[str]) -> None:
    """What `tournaments` can do must not be put to models that cost money, for want of an s."""
    match words:
        case ["show" | "replay" as word, _]:
            raise UsageError(f"`tournaments {word}` has an s; if models should be asked this, put it in quotes")


def _answer(arguments: Namespace) -> Any:
    """The declared type, with what else is said of it."""
    details = {key: getattr(arguments, key) for key in DETAILS if getattr(arguments, key) is not None}
    if not details:
        return arguments.answer
    kind = arguments.answer or ("choice" if "choices" in details else None)
    if kind is None:
        raise UsageError(f"--{next(iter(details))} needs the type of the answer, such as --answer number")
    return {"type": kind, **details}


def _local_models(_alternative: str) -> tuple[str, dict[str, Any]]:
    return "free local models", {"on_tight_budget": "local_only"}


def _ask(arguments: Namespace, quorum: BlockingClient, params: dict[str, Any]) -> int:
    """Progress is only asked for where somebody hears of it."""
    tell = None if arguments.quiet else _tell_json if arguments.json else _tell if sys.stderr.isatty() else None
    items = quorum.items("tournament", **(params | {"stream": True} if tell else params))
    for item in items:
        if tell:
            tell(item)
    verdict = items.answer
    show = print_json if arguments.json else _show_answer if arguments.quiet else show_verdict
    show(verdict)
    if verdict["needs_review"]:
        return NEEDS_REVIEW
    return REFUSED if verdict["answer"] is None else OK


def _show_answer(verdict: Fields) -> None:
    """The answer as it was written; that there is none, or one to be looked at, is said beside it."""
    answer = verdict["answer"]
    if answer is None:
        say(f"daemonctl: {headline(verdict)}")
    else:
        write(answer if answer.endswith("\n") else f"{answer}\n")
    if verdict["needs_review"]:
        say(review_hint(verdict))


# ---- progress


def _tell_json(item: Any) -> None:
    put(json.dumps(item), at_once=True)


def _tell(item: Fields) -> None:
    say(line(item), dim=True)


def line(item: Fields) -> str:
    """A piece of progress in a line. What a newer daemon tells is shown as it is."""
    return " ".join(safe(WRITERS.get(item["type"], _anything)(item)).split())


def _bound(item: Fields) -> str:
    said = [f"{item['mode']} of {named(item['members'])}, at most {money(item['bound_nano_usd'])}"]
    said += [f"{named(item['bench'])} if one fails"] if item["bench"] else []
    said += [f"judged by {named(item['judges'])}"] if item["judges"] else []
    said += [f"written by {item['aggregator']}"] if item["aggregator"] else []
    said += ["fewer than wanted, for the budget"] if item.get("shrunk") else []
    return "; ".join(said)


def _ballot(item: Fields) -> str:
    ballot = item["ballot"]
    if ballot["status"] != "ok":
        return f"{ballot['model']}: {ballot['status']}" + (f", {ballot['why']}" if ballot["why"] else "")
    answer = one_line(ballot["answer"] or ballot["text"], ROOM)
    return f"{ballot['model']}: {answer} ({money(ballot['cost_nano_usd'])}, {milliseconds(ballot['latency_ms'])})"


def _anything(item: Fields) -> str:
    return json.dumps(item)


WRITERS: Mapping[str, Callable[[Fields], str]] = {
    "bound": _bound,
    "launched": lambda item: f"asked {named(item['models'])}",
    "ballot": _ballot,
    "decided": lambda item: f"{item['status']}: {item['why']}",
    "cancelled": lambda item: f"not needed: {named(item['models'])}",
    "judging": lambda item: f"{item['model']}: {item['what']}",
}
"""How each kind is said."""

TOURNAMENT = Command(
    run,
    options,
    (
        'tournament --answer bool "Is 2027 prime?"',
        'tournament --members openai:gpt-4o,claude,gemini --choices red,green "Which is safer?"',
        "tournament --mode pick --judge openai:gpt-4o < question.txt",
        'ask -q --answer number --unit km "How far is the moon?"',
    ),
)
