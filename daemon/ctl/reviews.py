"""`reviews`, `reviews resolve`: tournaments that a person should look at, and which answer was right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daemon.ctl.command import Command
from daemon.ctl.output import Column, moment, plain, put, result, table
from daemon.ctl.tournaments import rows, short, tournament_id
from daemon.ctl.values import why

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from daemon.ctl.command import Connect

COLUMNS = (
    Column("TIME", "created_at", moment),
    Column("TOURNAMENT", "tournament_id"),
    Column("USER", "user"),
    Column("STATUS", "status"),
    Column("MEMBERS", "members"),
    Column("PROMPT", "prompt", short),
)
FILTERS = ("last", "before", "user")


def _options(parser: ArgumentParser) -> None:
    parser.add_argument("--last", metavar="N", type=int, help="so many at most (50)")
    parser.add_argument("--before", metavar="ID", help="only those older than this one: the next page")
    parser.add_argument("--user", metavar="U", help="only this user's")


def _resolve_options(parser: ArgumentParser) -> None:
    tournament_id(parser)
    parser.add_argument(
        "--answer",
        metavar="A",
        required=True,
        help="the answer that was right; without an answer type a member's model id, a cluster's number, a ballot's text, or none",
    )
    parser.add_argument("--why", metavar="TEXT", type=why, help="how you know; it stands in the audit")


def run(arguments: Namespace, connect: Connect) -> int:
    """Lists what waits for a review."""
    asked = {key: getattr(arguments, key) for key in FILTERS if getattr(arguments, key) is not None}
    with connect() as quorum:
        return result(arguments, quorum.call("reviews", **asked), _show)


def resolve(arguments: Namespace, connect: Connect) -> int:
    """Says which answer was right."""
    asked = {
        key: getattr(arguments, key)
        for key in ("tournament_id", "answer", "why")
        if getattr(arguments, key) is not None
    }
    with connect() as quorum:
        return result(arguments, quorum.call("reviews.resolve", **asked), _resolved)


def _show(answer: Any) -> None:
    table(COLUMNS, rows(answer), "nothing waits for a review")
    if answer["tournaments"]:
        put(
            "`daemonctl tournaments show ID` has the ballots; `daemonctl reviews resolve ID --answer …` says which was right"
        )


def _resolved(answer: Any) -> None:
    put(f"{answer['tournament_id']}: {answer['answer']}")
    put(f"right: {plain(answer['agreed'] or None)}; wrong: {plain(answer['disagreed'] or None)}")


REVIEWS = Command(run, _options)
REVIEWS_RESOLVE = Command(
    resolve,
    _resolve_options,
    (
        "reviews resolve 0cr65gmggex80 --answer yes",
        "reviews resolve 0cr65gmggex80 --answer openai:gpt-4o --why 'the almanac'",
    ),
)
