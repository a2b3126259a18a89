"""`estimate`: what a call, or many calls of some tasks, would cost. Nobody is called."""

from __future__ import annotations

from argparse import ArgumentTypeError, BooleanOptionalAction
from typing import TYPE_CHECKING, Any

from daemon.ctl.chat import PARAMS, question, question_options
from daemon.ctl.command import Command, UsageError
from daemon.ctl.output import Column, count, money, put, result, table

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from daemon.ctl.command import Connect

COLUMNS = (
    Column("TASK", "task", if_any=True),
    Column("MODEL", "model"),
    Column("CALLS", "calls", count, right=True),
    Column("PROMPT", "prompt_tokens", count, right=True),
    Column("ANSWER", "response_tokens", count, right=True),
    Column("A CALL", "cost_nano_usd", money, right=True),
    Column("COST", "cost", money, right=True),
    Column("WHY", "why"),
)
PROMPTS = {
    "tokenizer": "counted by its tokenizer",
    "estimate": "a token for four bytes",
    "upper_bound": "at most: images, tools and schemas can't be counted here",
}
ANSWERS = {
    "task": "as the task's are",
    "default": "since no known task is named",
    "limit": "the longest that is allowed",
}
"""Where the tokens of a request come from, as people are told."""

INSTEAD = "; or say how often each task is done, `daemonctl estimate --tier balanced --use dialogue=100`"

MOST_CALLS = 1_000_000_000


def use(text: str) -> tuple[str, int]:
    """`dialogue=100` as a task and its calls. Raises ArgumentTypeError."""
    task, _, calls = text.rpartition("=")
    if not task or not calls.isdecimal() or len(calls) > len(str(MOST_CALLS)) or int(calls) > MOST_CALLS:
        raise ArgumentTypeError(
            f"`{text}` is no task with its calls, at most {MOST_CALLS:,}; write it like dialogue=100"
        )
    return task, int(calls)


def options(parser: ArgumentParser) -> None:
    """The options of a question, or how often each task is done."""
    question_options(parser)
    parser.add_argument(
        "--use",
        metavar="TASK=N",
        type=use,
        action="append",
        default=[],
        help="so many calls of a task, at the quality of --tier; may be said for several tasks, and needs no prompt",
    )
    parser.add_argument(
        "--prefer-local",
        action=BooleanOptionalAction,
        help="with --use: a local model within a point of the best; without it as you set `orchestrator.prefer_local`",
    )
    parser.add_argument(
        "--allow-paid",
        action=BooleanOptionalAction,
        help="with --use: a paid model in the budget tier if no local one will do; without it as you set "
        "`orchestrator.budget_tier_allows_paid`",
    )


def run(arguments: Namespace, connect: Connect) -> int:
    """Shows what would be spent, and on which assumptions."""
    params = _mix(arguments) if arguments.use else _request(arguments)
    with connect() as quorum:
        return result(arguments, quorum.call("estimate", **params), _show)


def _request(arguments: Namespace) -> dict[str, Any]:
    if (arguments.prefer_local, arguments.allow_paid) != (None, None):
        raise UsageError("--prefer-local and --allow-paid go with --use; a prompt's model is chosen as `chat` does")
    messages, wishes = question(arguments, "estimate", INSTEAD)
    return {"messages": messages, **wishes}


def _mix(arguments: Namespace) -> dict[str, Any]:
    usage = dict(arguments.use)
    if len(usage) < len(arguments.use):
        raise UsageError("a task is named twice; say --use once for each, with all its calls")
    if not arguments.tier:
        raise UsageError("how good must it be? say --tier budget, balanced or premium beside --use")
    beside = [name for name in (*PARAMS, "system", "prompt") if name not in {"tier", "user"}]
    given = [name for name in beside if getattr(arguments, name) not in (None, [])]
    if given:
        name = "a prompt" if given[0] == "prompt" else f"--{given[0].replace('_', '-')}"
        raise UsageError(f"{name} does not go with --use, which reckons calls by task; leave one of them out")
    wishes = {"prefer_local": arguments.prefer_local, "budget_tier_allows_paid": arguments.allow_paid}
    said = {"user": arguments.user, **wishes}
    return {
        "quality_tier": arguments.tier,
        "usage": usage,
        **{name: value for name, value in said.items() if value is not None},
    }


def _show(answer: Any) -> None:
    rows = answer["assumptions"]
    table(COLUMNS, [{**row, "cost": _cost(row)} for row in rows], "no task has a model")
    put()
    missing = answer["missing"]
    put(f"total {money(answer['total_nano_usd'])}{', without what follows' if missing else ''}")
    for each in missing:
        put(f"missing: {each['task'] or each['model']} ({count(each['calls'])}): {each['why']}")
    if fault := answer.get("fault"):
        put(f"now it would be refused: {fault['code']}: {fault['message']}")
    if rows:
        put(f"assumed: {_assumption(rows)}")


def _cost(row: Any) -> int | None:
    return None if row["cost_nano_usd"] is None else row["calls"] * row["cost_nano_usd"]


def _assumption(rows: Any) -> str:
    """What the tokens of the rows were taken from, in a sentence."""
    if rows[0]["prompt_source"] == "task":
        return "the tokens of each task as above, nothing cached, at the prices of now"
    (row,) = rows
    prompt = f"a prompt of {count(row['prompt_tokens'])} tokens ({PROMPTS.get(row['prompt_source'], '?')})"
    answer = f"an answer of {count(row['response_tokens'])} ({ANSWERS.get(row['response_source'], '?')})"
    if row["local"]:
        return f"{prompt} and {answer}; a local model is free"
    if row["cost_nano_usd"] is None:
        return f"{prompt} and {answer}"
    return f"{prompt} and {answer}, prices of {row['price_version']}; at most {money(row['bound_nano_usd'])}"


ESTIMATE = Command(
    run,
    options,
    (
        "estimate -m openai:gpt-4o-mini Tell me a story",
        "estimate --tier balanced --use dialogue=100 --use summarise=20",
    ),
)
