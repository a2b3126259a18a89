"""`models`: what can be called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daemon.ctl.command import Command
from daemon.ctl.output import Column, count, result, table, words

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from daemon.ctl.command import Connect

COLUMNS = (
    Column("MODEL", "id"),
    Column("AVAILABLE", "available"),
    Column("LOCAL", "local"),
    Column("QUALITY", "quality", right=True),
    Column("SPEED", "speed"),
    Column("CONTEXT", "context_tokens", count, right=True),
    Column("IN $/MTOK", "input_usd_per_mtok", right=True),
    Column("OUT $/MTOK", "output_usd_per_mtok", right=True),
    Column("STRENGTHS", "strengths", words),
    Column("WHY NOT", "why_not", lambda why: why or ""),
)


def options(parser: ArgumentParser) -> None:
    """The filters."""
    parser.add_argument("--provider", metavar="P", help="only the models of this provider")
    parser.add_argument("--local", action="store_true", help="only models on this machine, which are free")


def run(arguments: Namespace, connect: Connect) -> int:
    """Lists the models."""
    filters: dict[str, Any] = {}
    if arguments.provider:
        filters["provider"] = arguments.provider
    if arguments.local:
        filters["local"] = True
    with connect() as quorum:
        return result(arguments, quorum.call("models", **filters), _show)


def _show(answer: Any) -> None:
    table(COLUMNS, answer["models"], "no models; `daemonctl providers` tells which providers there are")


MODELS = Command(
    "models", "Lists the models, their prices and whether they can be called.", run, options, ("models --local",)
)
