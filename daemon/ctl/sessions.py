"""`sessions`, `sessions open`, `sessions close`: whose context is live."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daemon.ctl.command import Command
from daemon.ctl.output import Column, count, duration, moment, money, put, result, table

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from daemon.ctl.command import Connect

COLUMNS = (
    Column("USER", "user"),
    Column("APP", "app"),
    Column("OPENED", "opened_at", moment),
    Column("IDLE", "idle_s", duration, right=True),
    Column("CALLS", "calls", count, right=True),
    Column("COST", "cost_nano_usd", money, right=True),
)


def run(arguments: Namespace, connect: Connect) -> int:
    """Lists the sessions."""
    with connect() as quorum:
        return result(arguments, quorum.call("sessions"), _show)


def _options(parser: ArgumentParser) -> None:
    parser.add_argument("--user", metavar="U", help="this user's session instead of your own")


def open_(arguments: Namespace, connect: Connect) -> int:
    """Opens a session ahead of its first call."""
    with connect() as quorum:
        return result(arguments, quorum.call("sessions.open", **_asked(arguments)), _opened)


def close(arguments: Namespace, connect: Connect) -> int:
    """Closes a session."""
    with connect() as quorum:
        return result(arguments, quorum.call("sessions.close", **_asked(arguments)), _closed)


def _asked(arguments: Namespace) -> dict[str, Any]:
    return {"user": arguments.user} if arguments.user else {}


def _opened(answer: Any) -> None:
    session = answer["session"]
    put(f"the session of {session['user']} is open since {moment(session['opened_at'])}")


def _closed(answer: Any) -> None:
    session = answer["session"]
    if session is None:
        put("there was no session; the next call opens one")
    else:
        spent = f"{count(session['calls'])} calls, {money(session['cost_nano_usd'])}"
        put(f"the session of {session['user']} is closed ({spent}); the next call opens another")


def _show(answer: Any) -> None:
    table(COLUMNS, answer["sessions"], "no sessions: nobody has called yet")


SESSIONS = Command(run)
SESSIONS_OPEN = Command(open_, _options, ("sessions open", "sessions open --user bob"))
SESSIONS_CLOSE = Command(close, _options, ("sessions close --user bob",))
