"""`status`: how the daemon is, on one screen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daemon.ctl.command import OK, REFUSED, Command
from daemon.ctl.output import Column, count, duration, put, result, table
from daemon.ctl.providers import show_providers
from daemon.ctl.spend import show_scopes

if TYPE_CHECKING:
    from argparse import Namespace

    from daemon.ctl.command import Connect

ACTORS = (
    Column("ACTOR", "name"),
    Column("STATE", "state"),
    Column("INBOX", "inbox", count, right=True),
    Column("RESTARTS", "restarts", count, right=True),
)


def run(arguments: Namespace, connect: Connect) -> int:
    """Shows the daemon's state; exits 1 when it is degraded."""
    with connect() as quorum:
        status = quorum.call("status")
    result(arguments, status, _show)
    return OK if status["healthy"] else REFUSED


def _show(status: Any) -> None:
    health = "healthy" if status["healthy"] else "DEGRADED"
    if status.get("simulated"):
        health += ", answers are simulated"
    put(f"quorumd {status['version']}, pid {status['pid']}, up {duration(status['uptime_s'])}: {health}")
    put(
        f"in flight {count(status['calls_in_flight'])}, connections {count(status['connections'])}, sessions {count(status['sessions'])}"
    )
    for warning in status.get("warnings", ()):
        put(f"warning: {warning}")
    put()
    show_providers(status["providers"])
    put()
    show_scopes(status["spend"])
    put()
    table(ACTORS, status["actors"], "no actors")


STATUS = Command(run)
