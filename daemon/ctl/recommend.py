"""`recommend`: which model does a task at each quality tier, and what it would have saved. Nobody is called."""

from __future__ import annotations

from argparse import BooleanOptionalAction
from typing import TYPE_CHECKING, Any

from daemon.ctl.command import Command
from daemon.ctl.models import TIERS
from daemon.ctl.output import Column, count, put, result, table

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from daemon.ctl.command import Connect

COLUMNS = (Column("TIER", "tier"), Column("MODEL", "model"), Column("WHY", "why"))


def options(parser: ArgumentParser) -> None:
    """The task."""
    parser.add_argument("task_type", metavar="TASK", help="the kind of task, as scene_writing or summarise")
    parser.add_argument(
        "--prefer-local",
        action=BooleanOptionalAction,
        help="take a local model within a point of the best; without it as you set `orchestrator.prefer_local`",
    )
    parser.add_argument(
        "--allow-paid",
        action=BooleanOptionalAction,
        help="a paid model in the budget tier if no local one will do; without it as you set "
        "`orchestrator.budget_tier_allows_paid`",
    )


def run(arguments: Namespace, connect: Connect) -> int:
    """Shows a model a tier."""
    wishes = {"prefer_local": arguments.prefer_local, "budget_tier_allows_paid": arguments.allow_paid}
    said: dict[str, Any] = {name: wished for name, wished in wishes.items() if wished is not None}
    with connect() as quorum:
        return result(arguments, quorum.call("recommend", task_type=arguments.task_type, **said), _show)


def _show(answer: Any) -> None:
    none = {"model": None}
    rows = [{"tier": t, **(answer.get(t) or {**none, "why": answer["ways_out"].get(t, "")})} for t in TIERS]
    table(COLUMNS, rows, "")
    put()
    needs = answer["strength"] or "no strength of its own"
    prompt, response = count(answer["prompt_tokens"]), count(answer["response_tokens"])
    put(f"{answer['task_type']} needs {needs}; assumed are {prompt} tokens of prompt and {response} of answer")
    if saving := answer.get("saving"):
        put(saving["why"])


RECOMMEND = Command(run, options, ("recommend scene_writing", "recommend theme_analysis --allow-paid"))
