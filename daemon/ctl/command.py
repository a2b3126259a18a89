"""What a command is: a name, a sentence, its options, and what it does. The exit codes that all share."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from protocols.client import BlockingClient

    Connect = Callable[[], AbstractContextManager[BlockingClient]]
    """Opens a connection: called after the input was checked, so wrong usage is told without a daemon too."""

OK = 0
REFUSED = 1
USAGE = 2
NOT_REACHABLE = 3
UNCONFIRMED = 4
INTERRUPTED = 130
READER_GONE = 141
"""As a shell reports a program that SIGPIPE ended."""


class UsageError(Exception):
    """The input is wrong; the message says what to do."""


def no_options(_parser: ArgumentParser) -> None:
    """The options of a command that has none."""


class Command(NamedTuple):
    """A command of daemonctl. `run` returns the exit code and raises UsageError or what the client raises."""

    name: str
    summary: str
    run: Callable[[Namespace, Connect], int]
    options: Callable[[ArgumentParser], None] = no_options
    examples: tuple[str, ...] = ()
