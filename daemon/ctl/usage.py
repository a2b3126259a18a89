"""`usage`, `usage stats`: the history, a row an attempt, and what it says of a user's models."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

from daemon.ctl.command import Command
from daemon.ctl.output import Column, count, milliseconds, moment, money, percent, result, safe, table, words

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from daemon.ctl.command import Connect

COLUMNS = (
    Column("TIME", "created_at", moment),
    Column("USER", "user"),
    Column("APP", "app"),
    Column("MODEL", "model"),
    Column("PROMPT", "prompt_tokens", count, right=True),
    Column("RESPONSE", "response_tokens", count, right=True),
    Column("COST", "cost_nano_usd", money, right=True),
    Column("LATENCY", "latency_ms", milliseconds, right=True),
    Column("STATUS", "status"),
    Column("REASON", "reason"),
    Column("ID", "usage_id"),
    Column("MARKS", "marks", words, if_any=True),
)
CSV = (
    *("usage_id", "call_id", "created_at", "user", "app", "conversation", "model", "endpoint", "task_type"),
    *("prompt_tokens", "cached_tokens", "response_tokens", "reasoning_tokens", "token_source"),
    *("cost_nano_usd", "cost_source", "price_version", "latency_ms", "first_token_ms", "status", "reason"),
    *("held_nano_usd", "marks", "arm"),
)
TEXTS = ("user", "app", "conversation", "task_type", "model", "arm")
"""Fields of the CSV that are others' words."""

_FORMULA = re.compile(r"(^|[;\t\r\n])(?=\s*[=+\-@\uff1d\uff0b\uff0d\uff20])")
"""Where a spreadsheet would begin to reckon: the usual signs and the wide ones, also behind what may separate cells there."""

STATS = (
    Column("MODEL", "model"),
    Column("DEFAULT", "is_default"),
    Column("CALLS", "calls", count, right=True),
    Column("USED", "use_count", count, right=True),
    Column("PROMPT", "prompt_tokens", count, right=True),
    Column("RESPONSE", "response_tokens", count, right=True),
    Column("COST", "cost_nano_usd", money, right=True),
    Column("WITHOUT PRICE", "unpriced", count, right=True, if_any=True),
    Column("ERRORS", "error_rate", percent, right=True),
    Column("LATENCY", "mean_latency_ms", milliseconds, right=True),
    Column("LAST USED", "last_used_at", moment),
)

FILTERS = ("last", "before", "since", "until", "day", "user", "app", "model", "task", "conversation")


def options(parser: ArgumentParser) -> None:
    """Which rows, and in which form."""
    parser.add_argument("--last", metavar="N", type=int, help="so many rows at most (100)")
    parser.add_argument("--before", metavar="ID", help="only rows older than this one: the next page")
    parser.add_argument("--since", metavar="TIME", help="only from this time on, such as 2026-01-31T00:00:00Z")
    parser.add_argument("--until", metavar="TIME", help="only up to this time")
    parser.add_argument("--day", metavar="DAY", help="only of this day in the daemon's time zone, such as 2026-01-31")
    parser.add_argument("--user", metavar="U", help="only this user's")
    parser.add_argument("--app", metavar="A", help="only this app's")
    parser.add_argument("--model", metavar="M", help="only of this model")
    parser.add_argument("--task", metavar="T", help="only of this task type")
    parser.add_argument("--conversation", metavar="C", help="only of this conversation")
    parser.add_argument("--csv", action="store_true", help="print every field as CSV, money in nano-dollars")


def run(arguments: Namespace, connect: Connect) -> int:
    """Lists the newest attempts."""
    asked = {key: getattr(arguments, key) for key in FILTERS if getattr(arguments, key) is not None}
    with connect() as quorum:
        return result(arguments, quorum.call("usage", **asked), _show_csv if arguments.csv else _show)


def _show(answer: Any) -> None:
    table(COLUMNS, answer["rows"], "no calls yet")


def _show_csv(answer: Any) -> None:
    from csv import DictWriter  # only here

    writer = DictWriter(sys.stdout, CSV, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(_as_text, answer["rows"]))


def _as_text(row: Any) -> dict[str, Any]:
    """A row whose texts are no formulas to a spreadsheet: an apostrophe before one makes it text."""
    show = safe if sys.stdout.isatty() else str
    texts = {key: _FORMULA.sub(r"\1'", show(row[key])) for key in TEXTS if row.get(key)}
    return {**row, **texts, "marks": ";".join(row.get("marks") or ())}


def _stats_options(parser: ArgumentParser) -> None:
    parser.add_argument("--user", metavar="U", help="this user's models instead of your own")


def stats(arguments: Namespace, connect: Connect) -> int:
    """Lists a user's models."""
    asked = {"user": arguments.user} if arguments.user else {}
    with connect() as quorum:
        return result(arguments, quorum.call("usage_stats", **asked), _show_stats)


def _show_stats(answer: Any) -> None:
    table(STATS, answer["models"], f"{answer['user']} has chosen and used no model yet")


USAGE_STATS = Command(stats, _stats_options)
USAGE = Command(
    run,
    options,
    (
        "usage --last 20",
        "usage --day 2026-01-31 --task summary",
        "usage --since 2026-01-01T00:00:00Z --csv > january.csv",
    ),
)
