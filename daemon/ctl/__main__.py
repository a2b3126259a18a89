"""`daemonctl`: from the command line to an exit code."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from daemon.ctl.arguments import parse
from daemon.ctl.command import (
    INTERRUPTED,
    NOT_REACHABLE,
    READER_GONE,
    REFUSED,
    UNCONFIRMED,
    USAGE,
    UsageError,
)
from daemon.ctl.commands import COMMANDS
from daemon.ctl.output import say
from protocols.errors import OverrideRequired, QuorumError

if TYPE_CHECKING:
    from argparse import Namespace

    from daemon.ctl.command import Command
    from protocols.client.blocking import BlockingConnection

WAIT_S = 0.1
"""Enough for a moment's rush at the daemon's door, and too short to notice when nobody is there."""

START_IT = "start it with `systemctl start quorumd.socket`, or `make run` in its source folder"
JOIN_IT = "its socket is for the group `quorumd`: ask the administrator to put you into it"


def main() -> int:
    """Runs daemonctl; the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that can't show a character gets a `?`
    try:
        code = _main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        # `| head -1` has what it wanted; Python must not flush into the closed pipe once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def _main(argv: list[str]) -> int:
    try:
        command, arguments = parse(argv, COMMANDS)
    except UsageError as problem:
        say(f"daemonctl: {problem}")
        return USAGE
    return _run(command, arguments)


def _run(command: Command, arguments: Namespace) -> int:
    try:
        return command.run(arguments, lambda: _connect(arguments))
    except UsageError as problem:
        say(f"daemonctl: {problem}")
        return USAGE
    except UnicodeError:
        say("daemonctl: the input is not UTF-8; convert it first, for example with iconv")
        return USAGE
    except OverflowError:
        say("daemonctl: a number is too large; 64 bits are what the daemon takes")
        return USAGE
    except QuorumError as fault:
        _say_fault(arguments, fault)
        return UNCONFIRMED if isinstance(fault, OverrideRequired) else REFUSED
    except BrokenPipeError:
        raise
    except ConnectionError as error:
        _say_unreachable(arguments, error)
        return NOT_REACHABLE


def _connect(arguments: Namespace) -> BlockingConnection:
    from protocols.client import connect_blocking  # msgspec's 20 ms are not for `--help`

    return connect_blocking(app="daemonctl", path=arguments.socket, wait_s=WAIT_S)


def _say_fault(arguments: Namespace, fault: QuorumError) -> None:
    if not arguments.json:
        say(f"daemonctl: {fault.code}: {fault.message}")
        if isinstance(fault, OverrideRequired) and "yes" in arguments:
            say("to continue all the same, say it again with --yes")
            if alternative := fault.detail.get("alternative"):
                say(f"to use {_instead(arguments, alternative)}")
        return
    document: dict[str, Any] = {"code": fault.code, "message": fault.message, "detail": fault.detail}
    if fault.retry_after_s is not None:
        document["retry_after_s"] = fault.retry_after_s
    say(json.dumps(document))


def _instead(arguments: Namespace, alternative: str) -> str:
    if "model" in arguments:
        return f"the free model instead, say it again with -m {alternative}"
    return "free local models alone, say it again with --on-tight-budget local_only"


def _say_unreachable(arguments: Namespace, error: ConnectionError) -> None:
    hint = JOIN_IT if error.errno == errno.EACCES else START_IT
    if arguments.json:
        say(json.dumps({"code": "not_reachable", "message": str(error), "detail": {"hint": hint}}))
    else:
        say(f"daemonctl: {error}\n{hint}")


if __name__ == "__main__":
    sys.exit(main())
