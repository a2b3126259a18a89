"""`ledger verify`: do the books balance?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daemon.ctl.command import OK, REFUSED, Command
from daemon.ctl.output import count, money, put, result

if TYPE_CHECKING:
    from argparse import Namespace

    from daemon.ctl.command import Connect


def run(arguments: Namespace, connect: Connect) -> int:
    """Has every balance recomputed; exits 1 when the books do not balance."""
    with connect() as quorum:
        verdict = quorum.call("ledger.verify")
    result(arguments, verdict, _show)
    return OK if verdict["ok"] else REFUSED


def _show(verdict: Any) -> None:
    put("the books balance" if verdict["ok"] else "the books do NOT balance:")
    for problem in verdict.get("problems", ()):
        put(f"  {problem}")
    put(
        f"{count(verdict['journal_entries'])} journal entries, {count(verdict['accounts'])} accounts,"
        f" {count(verdict['usage_rows'])} usage rows, {count(verdict['open_holds'])} open holds,"
        f" {money(verdict['spent_nano_usd'])} spent"
    )


LEDGER_VERIFY = Command(run)
