"""JSON by value: objects without the order of their keys, numbers exactly, so that 1, 1.0 and 1e0 are one.

Numbers never become floats: 0.1 and 0.1000000000000000001 differ.
"""

from __future__ import annotations

import json
import re
from typing import Any

from actors.rules.canonical.answer import Canonical
from actors.rules.canonical.decimals import decimal_text
from actors.rules.canonical.text import unfenced
from protocols.tournament import AnswerSpec

_DEEPEST = 64
"""Levels of nesting, far below what Python's stack holds, so that the same answer is read the same wherever it is called from."""

_LARGEST_POWER = 1_000_000
_NUMBER = re.compile(r"(-?)(\d+)(?:\.(\d+))?(?:[eE]([+-]?\d{1,8}))?")


class _Number(str):
    """A number as it is written, told from a string."""

    __slots__ = ()


def json_value(answer: str, spec: AnswerSpec) -> Canonical | None:  # noqa: ARG001  every rule takes the spec
    """The value in one line, keys sorted. None for what is no JSON: NaN, a key twice, half a character, 65 levels."""
    inside = unfenced(answer)
    try:
        text = _written(_DECODER.decode((answer if inside is None else inside).strip()), _DEEPEST)
        text.encode()
    except (ValueError, RecursionError):
        return None
    return Canonical(text, text)


def _written(value: Any, deeper: int) -> str:
    """The one text of this value. Raises ValueError for too many levels."""
    if deeper < 0:
        raise ValueError("too deep")
    match value:
        case _Number():
            return _exact(value)
        case list():
            return "[" + ",".join(_written(one, deeper - 1) for one in value) + "]"
        case dict():
            return "{" + ",".join(f"{_quoted(key)}:{_written(value[key], deeper - 1)}" for key in sorted(value)) + "}"
        case _:
            return _quoted(value)


def _quoted(value: str | bool | None) -> str:
    return json.dumps(value, ensure_ascii=False)


def _exact(number: str) -> str:
    match = _NUMBER.fullmatch(number)
    if match is None:
        raise ValueError("a power of ten beyond reason")
    places = match[3] or ""
    digits = (match[2] + places).lstrip("0")
    power = int(match[4] or 0) - len(places)
    if digits and abs(power + len(digits)) > _LARGEST_POWER:
        raise ValueError("a power of ten beyond reason")
    return decimal_text(bool(match[1]), digits, power)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key stands twice")
    return value


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_Number, parse_float=_Number, parse_constant=_refused)
