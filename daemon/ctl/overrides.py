"""`overrides`, `overrides grant`, `overrides revoke`: a user's budget extended by an amount until a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daemon.ctl.command import Command
from daemon.ctl.output import Column, moment, money, put, result, table
from daemon.ctl.values import amount, from_now, why

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from daemon.ctl.command import Connect

COLUMNS = (
    Column("OVERRIDE", "override_id"),
    Column("USER", "user"),
    Column("AMOUNT", "amount_nano_usd", money, right=True),
    Column("SPENT", "spent_nano_usd", money, right=True),
    Column("HELD", "held_nano_usd", money, right=True),
    Column("UNTIL", "until", moment),
    Column("GRANTED BY", "granted_by"),
    Column("WHY", "why"),
)


def _list_options(parser: ArgumentParser) -> None:
    parser.add_argument("--user", metavar="U", help="only this user's")


def _grant_options(parser: ArgumentParser) -> None:
    parser.add_argument("amount_usd", metavar="AMOUNT", type=amount, help="dollars, in all")
    end = parser.add_mutually_exclusive_group(required=True)
    end.add_argument("--until", metavar="TIME", help="when it ends, such as 2026-01-31T00:00:00Z")
    end.add_argument(
        "--for", metavar="DURATION", type=from_now, dest="until", help="or how long it holds, such as 30m, 2h, 1d"
    )
    parser.add_argument("--why", metavar="TEXT", type=why, required=True, help="the reason; it stands in the audit")
    parser.add_argument("--user", metavar="U", help="this user's budget instead of your own")


def _revoke_options(parser: ArgumentParser) -> None:
    parser.add_argument("override_id", metavar="ID", help="the override, as `overrides` lists it")


def list_(arguments: Namespace, connect: Connect) -> int:
    """Lists the overrides that hold."""
    asked = {"user": arguments.user} if arguments.user else {}
    with connect() as quorum:
        return result(arguments, quorum.call("overrides.list", **asked), _show)


def grant(arguments: Namespace, connect: Connect) -> int:
    """Grants one."""
    asked = {key: getattr(arguments, key) for key in ("amount_usd", "until", "why")}
    if arguments.user:
        asked["user"] = arguments.user
    with connect() as quorum:
        return result(arguments, quorum.call("overrides.grant", **asked), _granted)


def revoke(arguments: Namespace, connect: Connect) -> int:
    """Ends one."""
    with connect() as quorum:
        answer = quorum.call("overrides.revoke", override_id=arguments.override_id)
    return result(arguments, answer, lambda _: put(f"{arguments.override_id} is revoked"))


def _show(answer: Any) -> None:
    table(COLUMNS, answer["overrides"], "no overrides: budgets hold as they are")


def _granted(row: Any) -> None:
    put(
        f"{row['override_id']}: calls of {row['user']} may pass the budget by {money(row['amount_nano_usd'])} in all"
        f" until {moment(row['until'])}"
    )


OVERRIDES = Command("overrides", "Lists who may pass a budget, by how much and until when.", list_, _list_options)
OVERRIDES_GRANT = Command(
    "overrides grant",
    "Lets calls pass your budget, or another user's, by an amount until a time.",
    grant,
    _grant_options,
    (
        "overrides grant 5 --for 2h --why 'the release is today'",
        "overrides grant 20 --until 2026-01-31T00:00:00Z --user @bob --why 'agreed with Ana'",
    ),
)
OVERRIDES_REVOKE = Command("overrides revoke", "Ends an override now.", revoke, _revoke_options)
