"""One of the choices: by its whole text, or where choices have labels (`A) Paris`) also by its label or by its text alone."""

from __future__ import annotations

import re
from collections.abc import Callable

from actors.rules.canonical.answer import Canonical
from actors.rules.canonical.text import BRACKETS, QUOTES, folded, same_case, trimmed
from protocols.tournament import AnswerSpec

_LABELLED = re.compile(r"(?:[(\[]?(\w|\d{2})[)\]][.:]? ?|(\w|\d{2})[.:] |([^\W\d]) - )(\S.*)")
"""A label and what it stands for. `1.5` and `2:30` have none, so that `1` and `30` mean neither."""

_LABEL = re.compile(r"(?:(?:option|choice|answer) )?[(\[]?(\w|\d{2})[)\].:]*")


def choice(answer: str, spec: AnswerSpec) -> Canonical | None:
    """The one choice that is meant, as the spec writes it; None when it could be two."""
    for reading in _READINGS:
        said = reading(answer)
        meant = {one for one in spec.choices if said and reading(one) == said}
        if meant:
            return _the_one(meant)
    return _the_one(_by_label(_bracketed(answer), spec.choices))


def distinct(choices: tuple[str, ...]) -> bool:
    """Whether no two are the same, nor alike but for what cannot be seen, wide letters or white space; and none is empty."""
    told = {folded(one) for one in choices}
    return len(told) == len(choices) and "" not in told


def _by_label(answer: str, choices: tuple[str, ...]) -> set[str]:
    """The choices that the answer names by their label, their text, or both. `B) Paris` is no choice if B is Berlin."""
    parts = [(one, *_labelled(_bracketed(one))) for one in choices]
    if not all(label for _, label, _ in parts):
        return set()
    alone = _LABEL.fullmatch(answer)
    said, text = _labelled(answer)
    by_label = {one for one, label, _ in parts if alone and label == alone[1]}
    return by_label | {one for one, label, body in parts if body == text and said in {"", label}}


def _labelled(said: str) -> tuple[str, str]:
    """The label and the text after it; the label is empty where there is none."""
    match = _LABELLED.fullmatch(said)
    return (match[1] or match[2] or match[3], _bracketed(match[4])) if match else ("", said)


def _the_one(meant: set[str]) -> Canonical | None:
    if len(meant) != 1:
        return None
    one = next(iter(meant))
    return Canonical(one, one)


def _exact(text: str) -> str:
    return text


def _quoted(text: str) -> str:
    return same_case(trimmed(folded(text), QUOTES))


def _bracketed(text: str) -> str:
    return same_case(trimmed(folded(text), QUOTES | BRACKETS))


_READINGS: tuple[Callable[[str], str], ...] = (_exact, _quoted, _bracketed)
"""From the strictest on, so that (0, 1) and [0, 1] stay two choices."""
