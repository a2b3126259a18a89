"""`alerts`: when spend reached a part of a limit."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from daemon.ctl.command import Command
from daemon.ctl.output import Column, moment, money, put, result, table

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
)
SUGGESTION = Column("SUGGESTION", "suggestion", if_any=True)


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
    alerts, nothing = answer["alerts"], "no alerts: no limit is three quarters spent"
    if not sys.stdout.isatty():
        table((*COLUMNS, SUGGESTION), alerts, nothing)
        return
    table(COLUMNS, alerts, nothing)
    for suggestion in dict.fromkeys(alert.get("suggestion") for alert in alerts):  # a sentence is too long for a column
        if suggestion:
            put(suggestion)


ALERTS = Command(
    "alerts",
    "Lists when spend reached 75, 80, 90 and 100 % of a limit, newest first.",
    run,
    options,
    ("alerts --last 5",),
)
