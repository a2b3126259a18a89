"""Sets: items without order or repeats, each compared as short text. JSON lists, lines with bullets, semicolons, commas.

The English `and` that joins the last item to a list is no part of it: `a, b, and c` are three. Where nothing else divides what an `and` joins
(`a and b`; `a, b and c`) it could be one item or two, so that is no answer; on lines, between semicolons and in JSON it is one.
"""

from __future__ import annotations

import json
import re

from actors.rules.canonical.answer import Canonical
from actors.rules.canonical.text import BRACKETS, folded, one_line, short_text, unfenced, unwrapped
from protocols.tournament import AnswerSpec

BULLET = re.compile(r"\s*(?:[-*•·]|\d{1,3}[.)])\s+(?=\S)")
_SEMICOLON = re.compile("[;；]")
_COMMA = re.compile("[,，、]")
_LIKE_A_NUMBER = re.compile(r"\d,\d")
_AND_LAST = re.compile(r"\s*(?:and|&)\s+", re.IGNORECASE)
_BEFORE_LAST = re.compile(r"\s*,\s*(?:and|&)\s*\Z", re.IGNORECASE)
_AND = re.compile(r"\s(?:and|&)\s", re.IGNORECASE)
_LONGEST = 256
"""Characters of an item."""

_EMPTY = frozenset(("[]", "{}", "∅"))


def items(answer: str, spec: AnswerSpec) -> Canonical | None:
    """The items as a JSON list, sorted. None for 1,500,2 (which commas divide?), and if an item is no short text."""
    inside = unfenced(answer)
    text = one_line(answer if inside is None else inside).strip()
    is_empty = text.replace(" ", "") in _EMPTY
    written = [] if is_empty else _listed(text) or _divided(text)
    found = [short_text(item, spec) if len(item) <= _LONGEST else None for item in written]
    if None in found or not (written or is_empty):
        return None
    shown = dict(sorted((item.key, item.shown) for item in found if item))
    return Canonical(_list(sorted(shown)), _list([shown[key] for key in sorted(shown)]))


def _list(texts: list[str]) -> str:
    return json.dumps(texts, ensure_ascii=False)


def _listed(text: str) -> list[str]:
    """The items of a JSON list of strings and numbers; none for anything else."""
    if not text.startswith("["):
        return []
    try:
        values = json.loads(text, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return []
    return values if all(isinstance(value, str) for value in values) else []


def _divided(text: str) -> list[str]:
    """By lines if there are several, else by semicolons, else by commas."""
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) > 1 or BULLET.match(text):
        return _non_empty([_after(BULLET, line) for line in lines])
    line = unwrapped(folded(text), BRACKETS)
    if _SEMICOLON.search(line):
        return _non_empty(_SEMICOLON.split(line))
    if _LIKE_A_NUMBER.search(line):
        return []
    parts = _non_empty(_COMMA.split(line))
    return [] if parts and _AND.search(parts[-1]) else parts


def _non_empty(parts: list[str]) -> list[str]:
    """What stands between the marks; an `and` before the last item, also at the end of the line above it, is none of it."""
    items = [part for part in parts if part.strip()]
    if len(parts) > 1 and items:
        items[-1] = _after(_AND_LAST, items[-1])
    return [_BEFORE_LAST.sub("", item) for item in items]


def _after(beginning: re.Pattern[str], text: str) -> str:
    found = beginning.match(text)
    return text[found.end() :] if found else text
