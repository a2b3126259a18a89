"""`providers`: who answers, and how well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daemon.ctl.command import Command
from daemon.ctl.output import Column, count, milliseconds, result, table

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

    from daemon.ctl.command import Connect

COLUMNS = (
    Column("PROVIDER", "name"),
    Column("KIND", "kind"),
    Column("STATE", "state"),
    Column("IN FLIGHT", "in_flight", count, right=True),
    Column("CALLS", "calls", count, right=True),
    Column("ERRORS", "errors", count, right=True),
    Column("LATENCY", "latency_ms", milliseconds, right=True),
    Column("FIRST TOKEN", "first_token_ms", milliseconds, right=True),
    Column("MODELS", "models", count, right=True),
    Column("ORIGIN", "origin"),
    Column("WHY", "why", lambda why: why or ""),
)


def show_providers(rows: Sequence[Any]) -> None:
    """The table of providers, also part of `status`."""
    table(COLUMNS, rows, "no providers")


def run(arguments: Namespace, connect: Connect) -> int:
    """Lists the providers."""
    with connect() as quorum:
        return result(arguments, quorum.call("providers"), lambda answer: show_providers(answer["providers"]))


PROVIDERS = Command(run)
