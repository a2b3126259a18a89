"""`call`: any method of the daemon."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentTypeError
from typing import TYPE_CHECKING, Any

from daemon.ctl.command import OK, Command
from daemon.ctl.output import print_json, put

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from daemon.ctl.command import Connect


def params(text: str) -> dict[str, Any]:
    """The params as an object; `-` reads them from stdin. Raises ArgumentTypeError."""
    try:
        value = json.loads(sys.stdin.read() if text == "-" else text)
    except (ValueError, RecursionError) as error:
        raise ArgumentTypeError(f"the params are no JSON ({error}); write them like '{{\"last\": 5}}'") from None
    if not isinstance(value, dict):
        raise ArgumentTypeError("the params must be a JSON object, like '{\"last\": 5}'")
    return value


def options(parser: ArgumentParser) -> None:
    """The method and its params."""
    parser.add_argument("method", metavar="METHOD", help="its name, such as settings.show")
    parser.add_argument("params", metavar="JSON", nargs="?", type=params, default={}, help="its params; `-`: stdin")
    parser.add_argument("--deadline", metavar="S", type=float, help="seconds it may take")
    parser.add_argument("--idempotency-key", metavar="K", help="the same call under the same key is made once")


def run(arguments: Namespace, connect: Connect) -> int:
    """Calls a method; its items are a line each, its result is the last document."""
    with connect() as quorum:
        given = {"deadline_s": arguments.deadline, "idempotency_key": arguments.idempotency_key}
        items = quorum.items(arguments.method, **{**given, **arguments.params})
        for item in items:
            put(json.dumps(item), at_once=True)
        print_json(items.answer)
    return OK


CALL = Command(
    "call",
    "Calls any method of the daemon and prints its result as JSON.",
    run,
    options,
    ("call ping", """call usage '{"last": 5}'""", """call chat '{"messages": [{"role": "user", "content": "hi"}]}'"""),
)
