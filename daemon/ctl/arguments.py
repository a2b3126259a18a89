"""The command line as a command and its arguments. Only the parser of the command that is meant is ever built."""

from __future__ import annotations

import argparse
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NoReturn

from daemon import __version__
from daemon.ctl.command import UsageError
from daemon.ctl.output import put

if TYPE_CHECKING:
    from collections.abc import Sequence

    from daemon.ctl.command import Command, Entry

EXIT_CODES = """\
exit codes:
  0 well  1 the daemon said no (status: degraded)  2 wrong usage  3 daemon not reachable  4 needs your confirmation
  5 needs review"""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are ours: one sentence, said in one place."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(
            allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, add_help=False, **settings
        )
        self.add_argument("-h", "--help", action="help", help="show this help and end")

    def error(self, message: str) -> NoReturn:
        """Raises UsageError."""
        raise UsageError(f"{message}; see `{self.prog} --help`")


def parse(argv: Sequence[str], commands: Sequence[Entry]) -> tuple[Command, argparse.Namespace]:
    """The command meant and its arguments. Raises UsageError; `--help` and `--version` print and exit."""
    top = _top_parser(commands)
    arguments, strange = top.parse_known_args(argv)
    _refuse(top, strange)
    entry, rest = _find(arguments.words, commands)
    command = entry.load()
    parser = _parser(entry, command, commands)
    # argparse can't mix options and positionals when a `--` stands among them
    read = parser.parse_known_args if "--" in rest else parser.parse_known_intermixed_args
    arguments, strange = read(rest, arguments)
    _refuse(parser, strange)
    return command, arguments


def _top_parser(commands: Sequence[Entry]) -> Parser:
    parser = Parser(
        prog="daemonctl",
        usage="daemonctl [--socket PATH] [--json] COMMAND …",
        description="Talks to quorumd, the daemon between your programs and the language models they call.",
        epilog=f"commands:\n{_listed(commands)}\n\n`daemonctl COMMAND --help` tells more.\n\n{EXIT_CODES}",
    )
    parser.add_argument("--version", action="version", version=f"daemonctl {__version__}", help="show the version")
    parser.add_argument("--socket", metavar="PATH", help="the daemon's socket, if it is not at a usual place")
    parser.add_argument("--json", action="store_true", help="print the daemon's answer as one JSON document")
    parser.add_argument("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def _parser(entry: Entry, command: Command, commands: Sequence[Entry]) -> Parser:
    after = []
    if group := _group(entry.name, commands):
        after.append(f"commands:\n{_listed(group)}")
    if command.examples:
        after.append("\n".join(["examples:", *(f"  daemonctl {example}" for example in command.examples)]))
    parser = Parser(prog=f"daemonctl {entry.name}", description=entry.summary, epilog="\n\n".join(after) or None)
    command.options(parser)
    here = "as before the command"
    parser.add_argument("--socket", metavar="PATH", help=here)
    parser.add_argument("--json", action="store_true", help=here)
    return parser


def _find(words: list[str], commands: Sequence[Entry]) -> tuple[Entry, list[str]]:
    """The command that the first words name, and the words after it."""
    if not words:
        raise UsageError("which command? `daemonctl --help` lists them, `daemonctl status` is a good start")
    by_name = {command.name: command for command in commands}
    if command := by_name.get(" ".join(words[:2])):
        return command, words[2:]
    group = _group(words[0], commands)
    if (command := by_name.get(words[0])) and not (group and _is_word(words[1:2])):
        return command, words[1:]
    if not group:
        raise UsageError(
            f"there is no command `{words[0]}`; {_nearest(words[0], {name.split()[0] for name in by_name})}"
        )
    if words[1:2] in (["-h"], ["--help"]):
        put(f"commands:\n{_listed(group)}")
        raise SystemExit(0)
    alone = [command] if command else []
    raise UsageError(f"`{words[0]}` is one of: {', '.join(f'`{command.name}`' for command in [*alone, *group])}")


def _group(first: str, commands: Sequence[Entry]) -> list[Entry]:
    """The commands of two words that begin with this one."""
    return [command for command in commands if command.name.startswith(f"{first} ")]


def _is_word(words: list[str]) -> bool:
    return any(not word.startswith("-") for word in words)


def _refuse(parser: Parser, strange: list[str]) -> None:
    if not strange:
        return
    if not strange[0].startswith("-"):
        parser.error(f"`{strange[0]}` is one word too many")
    name = strange[0].partition("=")[0]
    known = [option for action in parser._actions for option in action.option_strings]  # noqa: SLF001  argparse offers no other way
    raise UsageError(f"`{parser.prog}` has no option `{name}`; {_nearest(name, known)}")


def _nearest(word: str, known: Any) -> str:
    near = get_close_matches(word, known, n=1)
    return f"the nearest is `{near[0]}`" if near else "`--help` lists what there is"


def _listed(commands: Sequence[Entry]) -> str:
    width = max(len(command.name) for command in commands) + 2
    return "\n".join(f"  {command.name:{width}}{command.summary}" for command in commands)
