"""`users`: who chose a model, and which."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daemon.ctl.command import Command
from daemon.ctl.output import Column, count, moment, result, table

if TYPE_CHECKING:
    from argparse import Namespace

    from daemon.ctl.command import Connect

COLUMNS = (
    Column("USER", "user"),
    Column("DEFAULT MODEL", "default_model"),
    Column("MODELS", "models", count, right=True),
    Column("CONVERSATIONS", "conversations", count, right=True),
    Column("SINCE", "created_at", moment),
)


def run(arguments: Namespace, connect: Connect) -> int:
    """Lists the users."""
    with connect() as quorum:
        return result(arguments, quorum.call("users"), _show)


def _show(answer: Any) -> None:
    table(COLUMNS, answer["users"], "no users: nobody chose a model yet")


USERS = Command(run)
