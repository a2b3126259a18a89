"""What a command is: a name, a sentence, and in a file of its own what it does. The exit codes that all share."""

from __future__ import annotations

from importlib import import_module
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
NEEDS_REVIEW = 5
INTERRUPTED = 130
READER_GONE = 141
"""As a shell reports a program that SIGPIPE ended."""


class UsageError(Exception):
    """The input is wrong; the message says what to do."""


def no_options(_parser: ArgumentParser) -> None:
    """The options of a command that has none."""


class Command(NamedTuple):
    """What a command does. `run` returns the exit code and raises UsageError or what the client raises."""

    run: Callable[[Namespace, Connect], int]
    options: Callable[[ArgumentParser], None] = no_options
    examples: tuple[str, ...] = ()


class Entry(NamedTuple):
    """A command in the list: its name and its sentence."""

    name: str
    summary: str

    def load(self) -> Command:
        """`holds resolve` is `HOLDS_RESOLVE` of `holds.py`: only the file of the command that is meant is ever loaded."""
        file = import_module(f"daemon.ctl.{self.name.split()[0]}")
        command: Command = getattr(file, self.name.upper().replace(" ", "_"))
        return command
