"""`explain`: which model would answer, and why. Nobody is called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daemon.ctl.chat import question, question_options
from daemon.ctl.command import Command
from daemon.ctl.output import Column, money, put, result, table

if TYPE_CHECKING:
    from argparse import Namespace

    from daemon.ctl.command import Connect

STEPS = (Column("STEP", "step"), Column("GAVE", "value"), Column("WHY", "why"))
REJECTED = (Column("REJECTED", "model"), Column("CODE", "code"), Column("WHY", "why"))


def run(arguments: Namespace, connect: Connect) -> int:
    """Shows the plan of a chat."""
    messages, wishes = question(arguments)
    with connect() as quorum:
        return result(arguments, quorum.call("explain", messages=messages, **wishes), _show)


def _show(answer: Any) -> None:
    decision = answer.get("decision", answer)
    if fault := answer.get("fault"):
        put(f"nobody would answer: {fault['code']}: {fault['message']}")
    else:
        put(f"{', then '.join(decision['targets'])} ({decision['reason']})")
        put(f"at most {money(decision.get('bound_nano_usd'))}")
    for flag in decision.get("flags", ()):
        put(f"flag: {flag}")
    for columns, key in ((STEPS, "steps"), (REJECTED, "rejected")):
        if rows := decision.get(key):
            put()
            table(columns, rows, "")


EXPLAIN = Command(run, question_options, ("explain --task theme_analysis hello",))
