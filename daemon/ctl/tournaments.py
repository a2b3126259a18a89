"""`tournaments`, `tournaments show`, `tournaments replay`: what several models were asked, and what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daemon.ctl.command import Command
from daemon.ctl.output import Column, milliseconds, moment, money, one_line, plain, put, result, table

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from daemon.ctl.command import Connect

ROOM = 60
"""Characters of others' texts in a table."""


def short(text: str | None) -> str:
    """The beginning of a text, on one line."""
    return one_line(text or "-", ROOM)


COLUMNS = (
    Column("TIME", "created_at", moment),
    Column("TOURNAMENT", "tournament_id"),
    Column("USER", "user"),
    Column("MODE", "mode"),
    Column("STATUS", "outcome"),
    Column("ANSWER", "answer", short),
    Column("REVIEWED", "reviewed_answer", short, if_any=True),
    Column("COST", "cost_nano_usd", lambda nano: "-" if nano is None else money(nano), right=True),
    Column("PROMPT", "prompt", short),
)
BALLOTS = (
    Column("MODEL", "model"),
    Column("STATUS", "status"),
    Column("ANSWER", "answer", short),
    Column("CLUSTER", "cluster", right=True),
    Column("COST", "cost_nano_usd", money, right=True),
    Column("LATENCY", "latency_ms", milliseconds, right=True),
    Column("USAGE ROW", "usage_id", if_any=True),
    Column("WHY", "why", if_any=True),
)
FILTERS = ("last", "before", "state", "task", "user")
CHANGES = ("threshold", "mode", "answer", "min_live", "veto")


def _list_options(parser: ArgumentParser) -> None:
    parser.add_argument("--last", metavar="N", type=int, help="so many at most (50)")
    parser.add_argument("--before", metavar="ID", help="only those older than this one: the next page")
    parser.add_argument("--state", choices=("running", "done", "unfinished"), help="only those")
    parser.add_argument("--task", metavar="T", help="only of this task type")
    parser.add_argument("--user", metavar="U", help="only this user's")


def tournament_id(parser: ArgumentParser) -> None:
    """Which one."""
    parser.add_argument("tournament_id", metavar="ID", help="the tournament, as `tournaments` lists it")


def _show_options(parser: ArgumentParser) -> None:
    tournament_id(parser)
    parser.add_argument("--text", action="store_true", help="print each ballot's text too")


def _replay_options(parser: ArgumentParser) -> None:
    tournament_id(parser)
    parser.add_argument("--threshold", metavar="T", help="the share of a consensus, such as 2/3 or 0.75")
    parser.add_argument("--mode", choices=("vote", "race", "cascade"), help="as if they had been asked so")
    parser.add_argument(
        "--answer", metavar="TYPE", help="the type of the answer, such as bool, number, date; choices need `call`"
    )
    parser.add_argument("--min-live", metavar="N", type=int, help="the fewest ballots that tell anything")
    parser.add_argument("--veto", metavar="ANSWER", help="an answer that one ballot is enough to block with")


def run(arguments: Namespace, connect: Connect) -> int:
    """Lists the newest tournaments."""
    asked = {key: getattr(arguments, key) for key in FILTERS if getattr(arguments, key) is not None}
    with connect() as quorum:
        return result(arguments, quorum.call("tournaments", **asked), _list)


def show(arguments: Namespace, connect: Connect) -> int:
    """Shows one with its ballots."""
    with connect() as quorum:
        answer = quorum.call("tournament.show", tournament_id=arguments.tournament_id)
    return result(arguments, answer, lambda stored: _show(stored, texts=arguments.text))


def replay(arguments: Namespace, connect: Connect) -> int:
    """Evaluates stored ballots anew."""
    changes = {key: getattr(arguments, key) for key in CHANGES if getattr(arguments, key) is not None}
    with connect() as quorum:
        answer = quorum.call("tournament.replay", tournament_id=arguments.tournament_id, **changes)
    return result(arguments, answer, _show_replay)


def rows(answer: Any) -> list[dict[str, Any]]:
    """The rows of a list, with how each ended."""
    return [{**row, "outcome": _outcome(row)} for row in answer["tournaments"]]


def _outcome(row: Any) -> str:
    """The status, marked if a person should look; what has none is running or unfinished."""
    return f"{row['status'] or row['state']}{' !' if row['needs_review'] else ''}"


def _list(answer: Any) -> None:
    table(COLUMNS, rows(answer), "no tournaments yet")
    if any(row["needs_review"] for row in answer["tournaments"]):
        put("! a person should look: `daemonctl reviews`")


def _show(stored: Any, *, texts: bool) -> None:
    row, verdict = stored["tournament"], stored["verdict"]
    put(f"{row['tournament_id']}: {_outcome(row)}, {row['mode']} of {row['user']}, {moment(row['created_at'])}")
    for title, value in _facts(row, verdict):
        put(f"{title:10}{value}")
    put()
    table(BALLOTS, stored["ballots"], "no ballots")
    for ballot in stored["ballots"] if texts else ():
        put(f"\n== {ballot['model']}\n{ballot['text']}")


def _facts(row: Any, verdict: Any) -> list[tuple[str, str]]:
    reviewed = (
        row["reviewed_answer"] and f"{row['reviewed_answer']}, says {row['reviewed_by']}, {moment(row['reviewed_at'])}"
    )
    facts = [
        ("prompt", row["prompt"]),
        ("answer", row["answer"]),
        ("reviewed", reviewed),
        ("agreement", verdict and _agreement(verdict)),
        ("cost", None if row["cost_nano_usd"] is None else money(row["cost_nano_usd"])),
        ("why", row["why"]),
        ("missing", verdict and "; ".join(f"{m['model']} ({m['code']}: {m['why']})" for m in verdict["missing"])),
    ]
    return [(title, value) for title, value in facts if value]


def _agreement(verdict: Any) -> str:
    share = f"{verdict['agreement']['top_share']:.0%} by {verdict['agreement']['method']}"
    return ", ".join([share, *verdict["flags"]])


def _show_replay(answer: Any) -> None:
    verdict = answer["verdict"]
    answered = "no answer" if verdict["answer"] is None else verdict["answer"]
    put(f"{verdict['tournament_id']}: {verdict['status']} by {verdict['mode']}, {_agreement(verdict)}: {answered}")
    put()
    table(BALLOTS, verdict["ballots"], "no ballots")
    put()
    for difference in answer["differs"]:
        put(f"{difference['what']}: {_value(difference, 'was')} -> {_value(difference, 'now')}")
    if not answer["differs"]:
        put("nothing differs from the stored verdict")
    if answer["not_heard"]:
        put(f"not heard: {plain(answer['not_heard'])}; no answer of these is stored, and a replay asks nobody")


def _value(difference: Any, which: str) -> str:
    value = difference[which]
    return (
        money(value)
        if difference["what"] == "cost_nano_usd"
        else plain(value or None if isinstance(value, list) else value)
    )


TOURNAMENTS = Command(run, _list_options, ("tournaments --last 20", "tournaments --state unfinished"))
TOURNAMENTS_SHOW = Command(show, _show_options)
TOURNAMENTS_REPLAY = Command(
    replay,
    _replay_options,
    ("tournaments replay 0cr65gmggex80 --threshold 3/4", "tournaments replay 0cr65gmggex80 --mode cascade"),
)
