"""`settings show`, `get`, `set`, `unset`: what holds for you, for another user, or by default for everybody."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from daemon.ctl.command import Command
from daemon.ctl.output import Column, put, result, say, table

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from daemon.ctl.command import Connect


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


KEY, VALUE, ORIGIN = Column("KEY", "key"), Column("VALUE", "value", _written), Column("ORIGIN", "origin")
DESCRIPTION = Column("DESCRIPTION", "description")


def _user(parser: ArgumentParser) -> None:
    parser.add_argument("--user", metavar="U", help="this user's instead of your own; '*' is everybody's default")


def _show_options(parser: ArgumentParser) -> None:
    parser.add_argument("--origin", action="store_true", help="also show where each value comes from")
    _user(parser)


def _key_options(parser: ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY", help="its name, as `settings show` lists it")
    _user(parser)


def _set_options(parser: ArgumentParser) -> None:
    _key_options(parser)
    parser.add_argument("value", metavar="VALUE", help='JSON (true, 12.5, null, [1], "x"), or else plain text')


def show(arguments: Namespace, connect: Connect) -> int:
    """Lists the settings."""
    columns = (KEY, VALUE, ORIGIN, DESCRIPTION) if arguments.origin else (KEY, VALUE, DESCRIPTION)
    with connect() as quorum:
        answer = quorum.call("settings.show", **_of(arguments))
    return result(arguments, answer, lambda answer: table(columns, answer["settings"], "no settings"))


def get(arguments: Namespace, connect: Connect) -> int:
    """Prints one value."""
    with connect() as quorum:
        row = quorum.call("settings.get", key=arguments.key, **_of(arguments))
    return result(arguments, row, lambda row: put(_written(row["value"])))


def set_(arguments: Namespace, connect: Connect) -> int:
    """Sets a value."""
    with connect() as quorum:
        row = quorum.call("settings.set", key=arguments.key, value=_value(arguments.value), **_of(arguments))
    return result(arguments, row, _set)


def unset(arguments: Namespace, connect: Connect) -> int:
    """Takes a value back."""
    with connect() as quorum:
        row = quorum.call("settings.unset", key=arguments.key, **_of(arguments))
    return result(arguments, row, _now)


def _of(arguments: Namespace) -> dict[str, Any]:
    return {"user": arguments.user} if arguments.user else {}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _set(row: Any) -> None:
    _now(row)
    for warning in row.get("warnings", ()):
        say(f"warning: {warning['message']}")


def _now(row: Any) -> None:
    put(f"{row['key']} = {_written(row['value'])} ({row['origin']})")


SETTINGS_SHOW = Command(show, _show_options, ("settings show --origin",))
SETTINGS_GET = Command(get, _key_options, ("settings get default_max_tokens",))
SETTINGS_SET = Command(
    set_, _set_options, ("settings set month_usd 12.5", "settings set default_model openai:gpt-4o-mini")
)
SETTINGS_UNSET = Command(unset, _key_options, ("settings unset month_usd",))
