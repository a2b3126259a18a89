"""What is shown: JSON, text that is safe for a terminal, and tables."""

from __future__ import annotations

import json
import os
import re
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from daemon.ctl.command import OK
from protocols.money import usd_text

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Mapping, Sequence

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""What commands a terminal, and what turns the direction of a line, so that it reads as another."""
_BLOCKS, _ASCII = "█▒░", "#+."
"""What a bar is made of: full, promised, free."""
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_CENT, _LEAST = 10_000_000, 1_000_000
_ROOM = range(4, 21)
"""How narrow and how wide a column may be that takes the room the others leave."""


def result(arguments: Namespace, value: Any, show: Callable[[Any], None]) -> int:
    """Prints what the daemon answered: as JSON if asked for, else as `show` does."""
    if arguments.json:
        print_json(value)
    else:
        show(value)
    return OK


def print_json(value: Any) -> None:
    """One JSON document on a line; on a terminal on several. In ASCII, so that no control character gets through."""
    put(json.dumps(value, indent=2 if sys.stdout.isatty() else None))


def safe(text: str) -> str:
    """Text without control characters except new lines and tabs: what a model writes must not command the terminal."""
    return _CONTROL.sub("", text)


def put(text: str = "", *, at_once: bool = False) -> None:
    """A line on stdout."""
    print(safe(text), flush=at_once)  # noqa: T201  the one place that prints results


def say(text: str, *, dim: bool = False, end: str = "\n") -> None:
    """A line on stderr."""
    text = safe(text)
    if dim and sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
        text = f"\x1b[2m{text}\x1b[0m"
    print(text, end=end, file=sys.stderr, flush=True)  # noqa: T201  and the one that prints what is said beside them


def can_show(signs: str) -> bool:
    """Whether stdout can carry these signs."""
    try:
        signs.encode(sys.stdout.encoding)
    except UnicodeError:
        return False
    return True


def bar(full: int, promised: int, width: int) -> str:
    """A bar of so many cells: some full, some promised, the rest free."""
    signs = _BLOCKS if can_show(_BLOCKS) else _ASCII
    return signs[0] * full + signs[1] * promised + signs[2] * (width - full - promised)


def one_line(text: str, room: int) -> str:
    """The beginning of a text, on one line of so many characters."""
    line = " ".join(safe(text).split())
    end = "…" if can_show("…") else "..."
    return line if len(line) <= room else line[: room - len(end)] + end


def plain(value: Any) -> str:
    """A value in a cell."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(map(str, value))
        case float():
            return f"{value:g}"
        case _:
            return str(value)


def money(nano: int | None) -> str:
    """An amount in dollars."""
    return "unknown" if nano is None else usd_text(nano)


def rounded(nano: int) -> str:
    """An amount at a glance: cents, or of what is less two digits, but no more than three behind the point."""
    if 0 < abs(nano) < _LEAST:
        return f"{'-' if nano < 0 else ''}<{usd_text(_LEAST)}"
    unit = max(min(10 ** (len(str(abs(nano))) - 2), _CENT), _LEAST)
    return usd_text((2 * nano + unit) // (2 * unit) * unit)


def limit(nano: int | None) -> str:
    """A limit in dollars."""
    return "none" if nano is None else usd_text(nano)


def count(number: int | None) -> str:
    """A number with thousands apart."""
    return "-" if number is None else f"{number:,}"


def milliseconds(value: float | None) -> str:
    """A latency."""
    return "-" if value is None else f"{value:,.0f} ms"


def percent(share: float | None) -> str:
    """A share of one in per cent."""
    return "-" if share is None else f"{share:.1%}"


def moment(text: str | None) -> str:
    """An RFC 3339 time without its fraction of a second."""
    return "-" if text is None else re.sub(r"\.\d+", "", text)


def duration(seconds: float) -> str:
    """A duration in its two largest units."""
    whole = int(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE} s"
    if whole < _DAY:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"
    return f"{whole // _DAY} d {whole % _DAY // _HOUR} h"


def words(values: Sequence[str] | None) -> str:
    """A list in a cell that is often empty."""
    return plain(values or None)


class Column(NamedTuple):
    """A column of a table: its title, the key of its value in a row, and how that is written.

    `if_any` leaves it out when no row has a value. On a terminal `style` names a row's colour, and `fill` writes the cell as
    wide as there is room, or not at all.
    """

    title: str
    key: str
    write: Callable[[Any], str] = plain
    right: bool = False
    if_any: bool = False
    style: Callable[[Mapping[str, Any]], str] | None = None
    fill: Callable[[Mapping[str, Any], int], str] | None = None


def table(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]], nothing: str) -> None:
    """Prints rows in columns, or the sentence `nothing` when there are none."""
    if not rows:
        put(nothing)
        return
    columns = [column for column in columns if not column.if_any or any(row.get(column.key) for row in rows)]
    if sys.stdout.isatty():
        _print_rich(columns, rows)
    else:
        _print_plain(columns, [_cells(columns, row) for row in rows])


def _cells(columns: Sequence[Column], row: Mapping[str, Any]) -> list[str]:
    return [" ".join(safe(column.write(row.get(column.key))).split()) for column in columns]


def _print_plain(columns: Sequence[Column], cells: list[list[str]]) -> None:
    """Aligned and never cut: whoever reads it is a program or has a pager."""
    lines = [[column.title for column in columns], *cells]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        padded = (
            cell.rjust(width) if column.right else cell.ljust(width)
            for column, cell, width in zip(columns, line, widths, strict=True)
        )
        put("  ".join(padded).rstrip())


def _print_rich(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> None:
    from rich.console import Console  # 50 ms that only a table on a terminal is worth
    from rich.table import Table
    from rich.text import Text

    console = Console()
    fixed = [column for column in columns if not column.fill]
    lines = [[column.title for column in fixed], *(_cells(fixed, row) for row in rows)]
    needed = sum(max(Text(cell).cell_len for cell in cells) for cells in zip(*lines, strict=True))
    gap = 2 if needed + 2 * (len(columns) - 1) + (_ROOM[0] if fixed != columns else 0) <= console.width else 1
    room = min(console.width - needed - gap * (len(columns) - 1), _ROOM[-1])
    if room not in _ROOM:
        columns = fixed

    shown = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False, header_style="bold")
    for column in columns:
        shown.add_column(column.title, justify="right" if column.right else "left", overflow="fold")
    for row in rows:
        cells = [
            column.fill(row, room) if column.fill else cell
            for column, cell in zip(columns, _cells(columns, row), strict=True)
        ]
        # Text: a `[red]` in a cell is no markup
        shown.add_row(
            *(
                Text(cell, column.style(row) if column.style else "")
                for column, cell in zip(columns, cells, strict=True)
            )
        )
    console.print(shown)
