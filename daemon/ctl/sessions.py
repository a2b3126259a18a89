"""`sessions`: whose context is live."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daemon.ctl.command import Command
from daemon.ctl.output import Column, count, duration, moment, money, result, table

if TYPE_CHECKING:
    from argparse import Namespace

    from daemon.ctl.command import Connect

COLUMNS = (
    Column("USER", "user"),
    Column("APP", "app"),
    Column("OPENED", "opened_at", moment),
    Column("IDLE", "idle_s", duration, right=True),
    Column("CALLS", "calls", count, right=True),
    Column("COST", "cost_nano_usd", money, right=True),
)


def run(arguments: Namespace, connect: Connect) -> int:
    """Lists the sessions."""
    with connect() as quorum:
        return result(arguments, quorum.call("sessions"), _show)


def _show(answer: Any) -> None:
    table(COLUMNS, answer["sessions"], "no sessions: nobody has called yet")


SESSIONS = Command(run)
