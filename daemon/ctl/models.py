"""`models`: what can be called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daemon.ctl.command import Command
from daemon.ctl.output import Column, count, result, table, words

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from daemon.ctl.command import Connect

TIERS = ("budget", "balanced", "premium")
COLUMNS = (
    Column("MODEL", "id"),
    Column("AVAILABLE", "available"),
    Column("LOCAL", "local"),
    Column("QUALITY", "quality", right=True),
    Column("SPEED", "speed"),
    Column("CONTEXT", "context_tokens", count, right=True),
    Column("IN $/MTOK", "input_usd_per_mtok", right=True),
    Column("OUT $/MTOK", "output_usd_per_mtok", right=True),
    Column("RATED BY", "rated_by"),
    Column("STRENGTHS", "strengths", words),
    Column("WHY NOT", "why_not", lambda why: why or ""),
)


def options(parser: ArgumentParser) -> None:
    """The filters."""
    parser.add_argument("--provider", metavar="P", help="only the models of this provider")
    parser.add_argument("--local", action="store_true", help="only models on this machine, which are free")
    parser.add_argument("--task", metavar="T", help="only models with the strength that this task needs")
    parser.add_argument("--tier", choices=TIERS, help="only models of this quality tier, the best first")


def run(arguments: Namespace, connect: Connect) -> int:
    """Lists the models."""
    filters: dict[str, Any] = {}
    if arguments.provider:
        filters["provider"] = arguments.provider
    if arguments.local:
        filters["local"] = True
    if arguments.task:
        filters["task"] = arguments.task
    if arguments.tier:
        filters["tier"] = arguments.tier
    with connect() as quorum:
        return result(arguments, quorum.call("models", **filters), _show)


def _show(answer: Any) -> None:
    table(COLUMNS, answer["models"], "no such models; `daemonctl providers` tells which providers there are")


MODELS = Command(run, options, ("models --local", "models --tier balanced --task scene_writing"))
