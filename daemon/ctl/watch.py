"""`watch`: what happens, as it happens, a line an event."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from daemon.ctl.command import Command
from daemon.ctl.output import milliseconds, moment, money, plain, put, safe

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable, Mapping
    from typing import NoReturn

    from daemon.ctl.command import Connect

    Fields = Mapping[str, Any]


def options(parser: ArgumentParser) -> None:
    """Which events."""
    parser.add_argument(
        "--type",
        metavar="T",
        action="append",
        help="only alert, attempt, provider, setting or override; may be said again for more",
    )


def run(arguments: Namespace, connect: Connect) -> NoReturn:
    """Prints events until it is interrupted. Raises ConnectionLost when the daemon goes away."""
    from protocols.client import ConnectionLost  # msgspec's 20 ms are not for `--help`

    with connect() as quorum:
        for event in quorum.events(arguments.type):
            put(json.dumps(event) if arguments.json else line(event), at_once=True)
    raise ConnectionLost("the daemon has stopped, so nothing more will happen")


def line(event: Fields) -> str:
    """An event in a line: when, which kind, what. What a newer daemon tells is shown as it is."""
    kind = plain(event.get("type"))
    write = WRITERS.get(kind, _anything)
    return " ".join(f"{moment(event.get('at'))}  {kind:8}  {safe(write(event))}".splitlines())


def _alert(event: Fields) -> str:
    what = f"{event.get('scope')} has reached {event.get('level')} % of its {event.get('period')}'s limit"
    spent, limit = money(event.get("spent_nano_usd")), money(event.get("limit_nano_usd"))
    said = f"{event.get('severity')}: {what}, {spent} of {limit}"
    return f"{said}; {event['suggestion']}" if event.get("suggestion") else said


def _attempt(event: Fields) -> str:
    cost, latency = money(event.get("cost_nano_usd")), milliseconds(event.get("latency_ms"))
    said = f"{event.get('user')} by {event.get('app')}: {event.get('model')} {event.get('status')}, {cost}, {latency}"
    return f"{said} ({plain(event['marks'])})" if event.get("marks") else said


def _provider(event: Fields) -> str:
    said = f"{event.get('provider')} is {event.get('state')}"
    return f"{said}: {event['why']}" if event.get("why") else said


def _setting(event: Fields) -> str:
    value = event.get("value")
    said = f"{event.get('owner')}: {event.get('key')}"
    return f"{said} is unset" if value is None else f"{said} = {value if isinstance(value, str) else json.dumps(value)}"


def _override(event: Fields) -> str:
    what = f"override {event['override_id']}" if event.get("override_id") else f"attempt {event.get('usage_id')}"
    return f"{event.get('action')} for {event.get('user')}: {money(event.get('amount_nano_usd'))} ({what})"


def _lost(event: Fields) -> str:
    return f"{event.get('count')} events are missing here: they came faster than they were read"


def _anything(event: Fields) -> str:
    return json.dumps({key: value for key, value in event.items() if key not in {"type", "at"}})


WRITERS: Mapping[str, Callable[[Fields], str]] = {
    "alert": _alert,
    "attempt": _attempt,
    "provider": _provider,
    "setting": _setting,
    "override": _override,
    "lost": _lost,
}
"""How each kind is said."""

WATCH = Command(
    "watch",
    "Prints events as they happen: alerts, attempts, providers, settings, overrides.",
    run,
    options,
    ("watch", "watch --type alert --type provider", "watch --json --type attempt"),
)
