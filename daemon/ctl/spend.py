"""`spend`: money against limits, and where it went."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daemon.ctl.command import Command
from daemon.ctl.output import Column, count, limit, moment, money, put, result, table

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Sequence

    from daemon.ctl.command import Connect

SCOPES = (
    Column("SCOPE", "scope"),
    Column("PERIOD", "period"),
    Column("SPENT", "spent_nano_usd", money, right=True),
    Column("HELD", "held_nano_usd", money, right=True),
    Column("LIMIT", "limit_nano_usd", limit, right=True),
    Column("PROJECTED", "projected_nano_usd", money, right=True),
    Column("RESETS", "resets_at", moment),
)
GROUPS = (
    Column("CALLS", "calls", count, right=True),
    Column("PROMPT", "prompt_tokens", count, right=True),
    Column("RESPONSE", "response_tokens", count, right=True),
    Column("COST", "cost_nano_usd", money, right=True),
    Column("WITHOUT PRICE", "unpriced", count, right=True),
)
BY = ("user", "app", "provider", "model", "day")


def options(parser: ArgumentParser) -> None:
    """How to sum, and over what."""
    parser.add_argument("--by", choices=BY, help="sum the calls by this")
    parser.add_argument("--since", metavar="TIME", help="sum from this time on, such as 2026-01-31T00:00:00Z")
    parser.add_argument("--until", metavar="TIME", help="sum up to this time")
    parser.add_argument("--user", metavar="U", help="the spend of this user")


def run(arguments: Namespace, connect: Connect) -> int:
    """Shows spend against each limit, and sums."""
    asked = {key: getattr(arguments, key) for key in ("by", "since", "until", "user") if getattr(arguments, key)}
    with connect() as quorum:
        return result(arguments, quorum.call("spend", **asked), lambda answer: _show(answer, arguments.by))


def show_scopes(rows: Sequence[Any]) -> None:
    """The table of spend against limits, also part of `status`."""
    table(SCOPES, rows, "no spend and no limits")


def _show(answer: Any, by: str | None) -> None:
    show_scopes(answer["scopes"])
    if by:
        put()
        table((Column(by.upper(), "key"), *GROUPS), answer.get("groups") or [], "no calls in this time")


SPEND = Command(
    "spend",
    "Shows what is spent and held against each limit, and sums it up.",
    run,
    options,
    ("spend --by model", "spend --by day --since 2026-01-01T00:00:00Z"),
)
