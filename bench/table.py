"""Plain text tables."""

from __future__ import annotations

from msgspec import Struct

WHOLE_FROM, TENTHS_FROM = 100, 10
"""Numbers from here on are shown whole, or with one digit behind the point."""


class Table(Struct):
    """A heading, what the columns are called, rows of numbers and text, and a remark on how they were made."""

    title: str
    columns: list[str]
    rows: list[list[str | float | None]]
    remark: str = ""

    def __str__(self) -> str:
        cells = [self.columns, *[[cell(value) for value in row] for row in self.rows]]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [_line(row, widths) for row in cells]
        lines.insert(1, "  ".join("-" * width for width in widths))
        return "\n".join([self.title, *([self.remark] if self.remark else []), *lines])


def cell(value: str | float | None) -> str:
    """A number with as many digits as say something."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if value == int(value) or abs(value) >= WHOLE_FROM:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= TENTHS_FROM else f"{value:.3f}"


def _line(row: list[str], widths: list[int]) -> str:
    numbers = [text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True)]
    return "  ".join([row[0].ljust(widths[0]), *numbers]).rstrip()
