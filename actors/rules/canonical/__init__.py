"""Canonical answers: two answers agree when their keys are equal, or their numbers lie within the tolerance.

Text similarity never decides. What could mean two things by the spec is no answer: a lost vote is seen, a wrong one is not.
A rule is one function and one line in `_BY_TYPE`. Pure.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

from actors.rules.canonical.answer import Canonical
from actors.rules.canonical.choice import choice
from actors.rules.canonical.dates import date
from actors.rules.canonical.items import items
from actors.rules.canonical.json_value import json_value
from actors.rules.canonical.numbers import number
from actors.rules.canonical.source_code import source_code
from actors.rules.canonical.text import short_text
from actors.rules.canonical.yes_no import yes_no
from protocols.tournament import AnswerSpec, AnswerType

__all__ = ["Canonical", "canonical", "longest"]

Rule = Callable[[str, AnswerSpec], Canonical | None]

_BY_TYPE: dict[AnswerType, tuple[Rule, int]] = {
    "bool": (yes_no, 100),
    "choice": (choice, 1_000),
    "number": (number, 1_000),
    "date": (date, 100),
    "set": (items, 16_384),
    "json": (json_value, 65_536),
    "code": (source_code, 16_384),
    "short_text": (short_text, 256),
}
"""The rule of each type, and the characters that an answer may have: it bounds what a hostile reply costs."""

_MOST_MARKS = 30
"""Combining marks in a row, as in Unicode's Stream-Safe Text Format (UAX 15): sorting them takes quadratic time."""


def canonical(answer: str, spec: AnswerSpec) -> Canonical | None:
    """The answer's canonical form; None if it is not an answer of this type. Never raises, whatever the text is."""
    rule, most = _BY_TYPE[spec.type]
    answer = answer.strip() if spec.type != "code" else answer
    return rule(answer, spec) if len(answer) <= most and _is_sound(answer) else None


def longest(kind: AnswerType) -> int:
    """Characters that an answer of this type may have."""
    return _BY_TYPE[kind][1]


def _is_sound(text: str) -> bool:
    """Whether it is text that can be stored (no half of a surrogate pair) and normalised in linear time."""
    if text.isascii():
        return True
    marks = 0
    for char in text:
        marks = marks + 1 if unicodedata.combining(char) else 0
        if marks > _MOST_MARKS or "\ud800" <= char <= "\udfff":
            return False
    return True
