"""`users`: who chose a model, and which."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daemon.ctl.command import Command
from daemon.ctl.output import Column, count, moment, result, table

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from daemon.ctl.command import Connect

COLUMNS = (
    Column("USER", "user"),
    Column("DEFAULT MODEL", "default_model"),
    Column("MODELS", "models", count, right=True),
    Column("CONVERSATIONS", "conversations", count, right=True),
    Column("SINCE", "created_at", moment),
)


def options(parser: ArgumentParser) -> None:
    """Which page."""
    parser.add_argument("--first", metavar="N", type=int, help="so many, up to 10000 (1000)")
    parser.add_argument("--after", metavar="USER", help="those whose names come after this one")


def run(arguments: Namespace, connect: Connect) -> int:
    """Lists the users."""
    asked = {key: value for key in ("first", "after") if (value := getattr(arguments, key)) is not None}
    with connect() as quorum:
        return result(arguments, quorum.call("users", **asked), _show)


def _show(answer: Any) -> None:
    table(COLUMNS, answer["users"], "no users: nobody chose a model yet")


USERS = Command(run, options, ("users", "users --first 100 --after bob"))
