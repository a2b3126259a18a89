"""`holds`, `holds resolve`: money promised to attempts under way, or whose outcome nobody knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daemon.ctl.command import Command
from daemon.ctl.output import Column, moment, money, put, result, table, words
from daemon.ctl.values import cost, why

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from daemon.ctl.command import Connect

COLUMNS = (
    Column("HOLD", "hold_id"),
    Column("STATE", "state"),
    Column("SCOPE", "scope"),
    Column("MODEL", "model"),
    Column("AMOUNT", "amount_nano_usd", money, right=True),
    Column("SINCE", "created_at", moment),
    Column("USAGE ROW", "usage_id"),
    Column("MARKS", "marks", words),
)


def run(arguments: Namespace, connect: Connect) -> int:
    """Lists the holds."""
    with connect() as quorum:
        return result(arguments, quorum.call("holds"), _show)


def _resolve_options(parser: ArgumentParser) -> None:
    parser.add_argument("hold_id", metavar="ID", help="the hold, as `holds` lists it")
    parser.add_argument(
        "--cost", metavar="USD", type=cost, required=True, help="what the provider charged, in dollars; 0 if nothing"
    )
    parser.add_argument("--why", metavar="TEXT", type=why, required=True, help="how you know; it stands in the audit")


def resolve(arguments: Namespace, connect: Connect) -> int:
    """Corrects the cost of an attempt whose outcome nobody knows."""
    asked = {"hold_id": arguments.hold_id, "cost_usd": arguments.cost, "why": arguments.why}
    with connect() as quorum:
        return result(arguments, quorum.call("holds.resolve", **asked), lambda _: _resolved(arguments))


def _show(answer: Any) -> None:
    table(COLUMNS, answer["holds"], "no open holds")


def _resolved(arguments: Namespace) -> None:
    from protocols.money import nano_from_usd

    put(f"{arguments.hold_id} cost {money(nano_from_usd(arguments.cost))}; spend is corrected, and the audit says why")


HOLDS = Command("holds", "Lists money held for calls under way, and calls whose outcome nobody knows.", run)
HOLDS_RESOLVE = Command(
    "holds resolve",
    "Says what a call with an unknown outcome cost, as the provider's bill has it.",
    resolve,
    _resolve_options,
    ("holds resolve 0cr65gmggex80 --cost 0.042 --why 'the bill of 3 January'",),
)
