"""`performance`: how models did, and how the arms of experiments compare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daemon.ctl.command import Command, UsageError
from daemon.ctl.output import Column, count, milliseconds, moment, percent, put, result, rounded, table

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable

    from daemon.ctl.command import Connect


def _cost(nano: int | None) -> str:
    return "-" if nano is None else rounded(nano)


def _rating(mean: float | None) -> str:
    return "-" if mean is None else f"{mean:+.2f}"


def _mean(write: Callable[[Any], str]) -> Callable[[Any], str]:
    """A mean with its standard error, where there is one, and of how many."""

    def shown(value: Any) -> str:
        if value["mean"] is None:
            return "-"
        error = "" if value["error"] is None else f" ± {write(value['error']).lstrip('+')}"
        return f"{write(value['mean'])}{error} (n={value['n']})"

    return shown


MODELS = (
    Column("MODEL", "model"),
    Column("TASK", "task_type"),
    Column("CALLS", "calls", count, right=True),
    Column("ERRORS", "error_rate", percent, right=True),
    Column("P50", "p50_ms", milliseconds, right=True),
    Column("P95", "p95_ms", milliseconds, right=True),
    Column("FIRST P50", "first_token_p50_ms", milliseconds, right=True),
    Column("FIRST P95", "first_token_p95_ms", milliseconds, right=True),
    Column("COST/ANSWER", "cost_per_answer_nano_usd", _cost, right=True),
    Column("AGREEMENT", "agreement", percent, right=True, if_any=True),
    Column("OF", "agreement_n", count, right=True, if_any=True),
    Column("FEEDBACK", "feedback_mean", _rating, right=True),
    Column("N", "feedback_n", count, right=True),
)
ARMS = (
    Column("EXPERIMENT", "experiment"),
    Column("ARM", "arm"),
    Column("CALLS", "calls", count, right=True),
    Column("USERS", "users", count, right=True),
    Column("ERRORS", "error_rate", percent, right=True),
    Column("COST", "cost_nano_usd", _mean(lambda nano: rounded(round(nano))), right=True),
    Column("LATENCY", "latency_ms", _mean(milliseconds), right=True),
    Column("FEEDBACK", "feedback", _mean(_rating), right=True),
)
FILTERS = ("model", "task", "since", "until", "user")


def options(parser: ArgumentParser) -> None:
    """Which calls count, and how they are told apart."""
    parser.add_argument("--model", metavar="M", help="only of this model")
    parser.add_argument("--task", metavar="T", help="only of this task type")
    parser.add_argument("--since", metavar="TIME", help="from this time on, such as 2026-01-31 (default: 30 days back)")
    parser.add_argument("--until", metavar="TIME", help="up to this time")
    parser.add_argument("--user", metavar="U", help="only this user's")
    parser.add_argument("--ab", action="store_true", help="compare the arms of experiments")


def run(arguments: Namespace, connect: Connect) -> int:
    """Shows the figures."""
    if arguments.ab and arguments.model:
        raise UsageError("--ab compares arms by all of their calls; leave --model out")
    asked: dict[str, Any] = {key: getattr(arguments, key) for key in FILTERS if getattr(arguments, key)}
    if arguments.ab:
        asked["ab"] = True
    with connect() as quorum:
        return result(arguments, quorum.call("performance", **asked), _show_arms if arguments.ab else _show)


def _show(answer: Any) -> None:
    table(MODELS, answer["rows"], "no calls in this time")
    _show_range(answer)


def _show_arms(answer: Any) -> None:
    table(ARMS, answer["arms"], "no calls of an experiment in this time")
    _show_range(answer)


def _show_range(answer: Any) -> None:
    put(f"from {moment(answer['since'])} to {moment(answer['until'])}")


PERFORMANCE = Command(
    run, options, ("performance --task summary", "performance --since 2026-01-01", "performance --ab")
)
