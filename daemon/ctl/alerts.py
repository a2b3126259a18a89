"""`alerts`: when spend reached a part of a limit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daemon.ctl.command import Command
from daemon.ctl.output import Column, moment, money, result, table

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from daemon.ctl.command import Connect

COLOURS = {"critical": "red", "warning": "yellow"}

COLUMNS = (
    Column("TIME", "at", moment),
    Column("SEVERITY", "severity", style=lambda alert: COLOURS.get(alert.get("severity", ""), "")),
    Column("SCOPE", "scope"),
    Column("PERIOD", "label"),
    Column("REACHED", "level", lambda level: f"{level}%", right=True),
    Column("SPENT", "spent_nano_usd", money, right=True),
    Column("LIMIT", "limit_nano_usd", money, right=True),
    Column("SUGGESTION", "suggestion", if_any=True),
)


def options(parser: ArgumentParser) -> None:
    """Which alerts."""
    parser.add_argument("--last", metavar="N", type=int, help="so many at most (100)")
    parser.add_argument("--user", metavar="U", help="only this user's")


def run(arguments: Namespace, connect: Connect) -> int:
    """Lists the newest alerts."""
    asked = {key: getattr(arguments, key) for key in ("last", "user") if getattr(arguments, key) is not None}
    with connect() as quorum:
        return result(arguments, quorum.call("alerts", **asked), _show)


def _show(answer: Any) -> None:
    table(COLUMNS, answer["alerts"], "no alerts: no limit is three quarters spent")


ALERTS = Command(
    "alerts",
    "Lists when spend reached 75, 80, 90 and 100 % of a limit, newest first.",
    run,
    options,
    ("alerts --last 5",),
)
