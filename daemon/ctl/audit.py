"""`audit`: who changed what about money and settings, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daemon.ctl.command import Command
from daemon.ctl.output import Column, moment, money, result, table

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from daemon.ctl.command import Connect

COLUMNS = (
    Column("ID", "entry_id", right=True),
    Column("TIME", "at", moment),
    Column("USER", "user"),
    Column("UID", "actor_uid", right=True),
    Column("APP", "app"),
    Column("ACTION", "action"),
    Column("SUBJECT", "subject"),
    Column("BEFORE", "before"),
    Column("AFTER", "after"),
    Column("COST", "cost_nano_usd", lambda nano: "-" if nano is None else money(nano), right=True, if_any=True),
    Column("WHY", "why", if_any=True),
)
FILTERS = ("last", "before", "user", "action")


def options(parser: ArgumentParser) -> None:
    """Which entries."""
    parser.add_argument("--last", metavar="N", type=int, help="so many entries at most (100)")
    parser.add_argument("--before", metavar="ID", type=int, help="only entries older than this one: the next page")
    parser.add_argument("--user", metavar="U", help="only what this user did")
    parser.add_argument("--action", metavar="A", help="only this action, such as settings.set")


def run(arguments: Namespace, connect: Connect) -> int:
    """Lists the newest entries."""
    asked = {key: getattr(arguments, key) for key in FILTERS if getattr(arguments, key) is not None}
    with connect() as quorum:
        return result(arguments, quorum.call("audit", **asked), _show)


def _show(answer: Any) -> None:
    entries = [{**entry, **{key: _value(entry, key) for key in ("before", "after")}} for entry in answer["entries"]]
    table(COLUMNS, entries, "nothing was changed yet")


def _value(entry: Any, key: str) -> str | None:
    """A setting's value as JSON has it; the numbers of all other actions are nano-dollars."""
    text: str | None = entry.get(key)
    of_money = text is not None and text.isdecimal() and not entry["action"].startswith("settings.")
    return money(int(text)) if text and of_money else text


AUDIT = Command(
    "audit",
    "Lists who changed settings, budgets and books, and why, newest first.",
    run,
    options,
    ("audit --last 20", "audit --action settings.set"),
)
