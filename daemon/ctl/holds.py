"""`holds`: money promised to attempts under way, or whose outcome nobody knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daemon.ctl.command import Command
from daemon.ctl.output import Column, moment, money, result, table

if TYPE_CHECKING:
    from argparse import Namespace

    from daemon.ctl.command import Connect

COLUMNS = (
    Column("HOLD", "hold_id"),
    Column("STATE", "state"),
    Column("SCOPE", "scope"),
    Column("MODEL", "model"),
    Column("AMOUNT", "amount_nano_usd", money, right=True),
    Column("SINCE", "created_at", moment),
    Column("USAGE ROW", "usage_id"),
)


def run(arguments: Namespace, connect: Connect) -> int:
    """Lists the holds."""
    with connect() as quorum:
        return result(arguments, quorum.call("holds"), _show)


def _show(answer: Any) -> None:
    table(COLUMNS, answer["holds"], "no open holds")


HOLDS = Command("holds", "Lists money held for calls under way, and calls whose outcome nobody knows.", run)
