"""`spend`: money against limits, and where it went."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from daemon.ctl.command import Command
from daemon.ctl.output import Column, bar, count, limit, moment, money, plain, put, result, rounded, table

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Mapping, Sequence

    from daemon.ctl.command import Connect

YELLOW_AT, RED_AT = 75, 90
"""Per cent of a limit."""


def _percent(tenths: int | None) -> str:
    return "-" if tenths is None else f"{tenths / 10:.1f}%"


def _left(nano: int | None) -> str:
    return "-" if nano is None else money(nano)


def _level(row: Mapping[str, Any]) -> str:
    """The colour of how much is spent."""
    if not row["limited"]:
        return ""
    percent = _share(row["spent_nano_usd"], row["limit_nano_usd"], 100)
    return "red" if percent >= RED_AT else "yellow" if percent >= YELLOW_AT else ""


def _bar(row: Mapping[str, Any], width: int) -> str:
    """Spent and held of a limit in whole cells: some once there is some, and full only when nothing is left."""
    if not row["limited"]:
        return ""
    most, spent, held = row["limit_nano_usd"], row["spent_nano_usd"], row["held_nano_usd"]
    full = min(_share(spent, most, width), width) or int(spent > 0)
    room = width - full - int(spent + held < most)
    promised = min(max(_share(spent + held, most, width) - full, int(held > 0)), room)
    return bar(full, promised, width)


def _share(part: int, whole: int, of: int) -> int:
    """A part of a whole, in pieces of which the whole has so many; rounded down. Of nothing it is all."""
    return part * of // whole if whole > 0 else of


def _resets(text: str) -> str:
    """A time that is near, as the clock on the wall has it."""
    from datetime import datetime  # only for a terminal

    at = datetime.fromisoformat(text).astimezone()
    return f"{at:%b} {at.day}" + (f" {at:%H:%M}" if at.hour or at.minute else "")


SCOPES = (
    Column("SCOPE", "scope"),
    Column("PERIOD", "period"),
    Column("SPENT", "spent_nano_usd", money, right=True),
    Column("HELD", "held_nano_usd", money, right=True),
    Column("LIMIT", "limit_nano_usd", limit, right=True),
    Column("LEFT", "left", _left, right=True),
    Column("USED", "used", _percent, right=True),
    Column("PROJECTED", "projected_nano_usd", money, right=True),
    Column("OVER", "over"),
    Column("RESETS", "resets_at", moment),
)
"""Exact, for programs and pagers."""

AT_A_GLANCE = (
    Column("SCOPE", "scope"),
    Column("PERIOD", "period"),
    Column("SPENT", "spent_nano_usd", rounded, right=True),
    Column("HELD", "held_nano_usd", rounded, right=True),
    Column("LIMIT", "limit_nano_usd", limit, right=True),
    Column("LEFT", "left", lambda nano: plain(nano) if nano is None else rounded(nano), right=True),
    Column("USED", "used", _percent, right=True, style=_level),
    Column("", "limited", if_any=True, style=_level, fill=_bar),
    Column("BY END", "projected_nano_usd", rounded, right=True),
    Column(
        "", "over", lambda over: "!" if over else "", if_any=True, style=lambda row: "yellow" if row["over"] else ""
    ),
    Column("RESETS", "resets_at", _resets),
)
"""For a terminal."""

GROUPS = (
    Column("CALLS", "calls", count, right=True),
    Column("PROMPT", "prompt_tokens", count, right=True),
    Column("RESPONSE", "response_tokens", count, right=True),
    Column("COST", "cost_nano_usd", money, right=True),
    Column("WITHOUT PRICE", "unpriced", count, right=True),
    Column("OVERRUNS", "overruns", count, right=True),
)
BY = ("user", "app", "provider", "model", "day")


def options(parser: ArgumentParser) -> None:
    """How to sum, and over what."""
    parser.add_argument("--by", choices=BY, help="sum the calls by this")
    parser.add_argument("--since", metavar="TIME", help="sum from this time on, such as 2026-01-31T00:00:00Z")
    parser.add_argument("--until", metavar="TIME", help="sum up to this time")
    parser.add_argument("--user", metavar="U", help="the spend of this user")


def run(arguments: Namespace, connect: Connect) -> int:
    """Shows spend against each limit, and sums."""
    asked = {key: getattr(arguments, key) for key in ("by", "since", "until", "user") if getattr(arguments, key)}
    with connect() as quorum:
        return result(arguments, quorum.call("spend", **asked), lambda answer: _show(answer, arguments.by))


def show_scopes(scopes: Sequence[Any]) -> None:
    """The table of spend against limits, also part of `status`."""
    rows = [{**scope, **_reckoned(scope)} for scope in scopes]
    on_a_terminal = sys.stdout.isatty()
    table(AT_A_GLANCE if on_a_terminal else SCOPES, rows, "no spend and no limits")
    if on_a_terminal and any(row["over"] for row in rows):
        put("! above the limit by the end of the period, at the pace of this period")


def _reckoned(scope: Mapping[str, Any]) -> dict[str, Any]:
    """What follows from a scope's figures: what is left, tenths of a per cent used, whether it will be too much."""
    most, spent = scope["limit_nano_usd"], scope["spent_nano_usd"]
    if most is None:
        return {"limited": False, "left": None, "used": None, "over": None}
    return {
        "limited": True,
        "left": most - spent - scope["held_nano_usd"],
        "used": (spent * 2000 + most) // (2 * most) if most > 0 else 1000,
        "over": scope["projected_nano_usd"] > most,
    }


def _show(answer: Any, by: str | None) -> None:
    show_scopes(answer["scopes"])
    if by:
        put()
        table((Column(by.upper(), "key"), *GROUPS), answer.get("groups") or [], "no calls in this time")


SPEND = Command(run, options, ("spend --by model", "spend --by day --since 2026-01-01T00:00:00Z"))
