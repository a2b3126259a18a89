"""`feedback`: what a user says of an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daemon.ctl.command import Command, UsageError
from daemon.ctl.output import put, result
from daemon.ctl.values import rating

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from daemon.ctl.command import Connect

LONGEST_COMMENT = 2000


def options(parser: ArgumentParser) -> None:
    """Of which call, and what."""
    parser.add_argument("call_id", metavar="ID", help="the call, or its row, as `usage` lists it")
    parser.add_argument("rating", metavar="RATING", type=rating, help="from -1 (bad) to 1 (good)")
    parser.add_argument("comment", metavar="COMMENT", nargs="*", default=[], help="why")


def run(arguments: Namespace, connect: Connect) -> int:
    """Says it; a second word on the same call replaces the first."""
    asked: dict[str, Any] = {"call_id": arguments.call_id, "rating": arguments.rating}
    if comment := " ".join(arguments.comment):
        asked["comment"] = comment
    if len(comment) > LONGEST_COMMENT:
        raise UsageError(f"the comment is longer than {LONGEST_COMMENT} characters")
    with connect() as quorum:
        return result(arguments, quorum.call("feedback", **asked), _show)


def _show(answer: Any) -> None:
    put(f"{answer['call_id']}: {answer['rating']:+g} for {answer['model']}")


FEEDBACK = Command(run, options, ("feedback 0cr65gmggex80 1", "feedback 0cr65gmggex80 -0.5 'right, but far too long'"))
