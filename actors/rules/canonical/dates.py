"""Dates: ISO, written with the month's name, or numeric in the locale's order. June 3 is 3 June, and not June 3, 2026.

A date is as exact as it is said: a day, a day of any year, a month, a year. Two digits are no year.
"""

from __future__ import annotations

import re
from datetime import date as Day  # noqa: N812  `date` is this type's name

from actors.rules.canonical.answer import Canonical
from actors.rules.canonical.locales import day_order, language
from actors.rules.canonical.text import BRACKETS, QUOTES, folded, same_case, trimmed
from protocols.tournament import AnswerSpec

_LEAP_YEAR = 2000
"""Where a day of any year is looked for: 29 February is one."""

_ENGLISH_MONTHS = "january february march april may june july august september october november december"
_MONTHS = {
    "en": "jan feb mar apr may jun jul aug sep oct nov dec",
    "de": "januar februar märz april mai juni juli august september oktober november dezember",
    "fr": "janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
    "es": "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre",
    "it": "gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre dicembre",
    "pt": "janeiro fevereiro março abril maio junho julho agosto setembro outubro novembro dezembro",
    "nl": "januari februari maart april mei juni juli augustus september oktober november december",
}
"""English is read everywhere, the others by their locale."""

_ENGLISH = {name: at for names in (_ENGLISH_MONTHS, _MONTHS["en"]) for at, name in enumerate(names.split(), 1)} | {
    "sept": 9
}
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_FILLERS = frozenset(("of", "the", "de", "del", "di"))

_ISO = re.compile(r"(\d{4})-(\d{2})(?:-(\d{2}))?|--(\d{2})-(\d{2})")
_YEAR_FIRST = re.compile(r"(\d{4})([/.])(\d{1,2})\2(\d{1,2})")
_CHINESE = re.compile(r"(?:(\d{4})年)?(\d{1,2})月(\d{1,2})日")
_NUMERIC = re.compile(r"(\d{1,2})([./-])(\d{1,2})(?:\2(\d{4}))?")
_DAY = re.compile(r"(\d{1,2})(?:st|nd|rd|th|er|º|o|\.)?")
_YEAR = re.compile(r"\d{3,4}")
_SHAPES = frozenset(("MD", "MDY", "DM", "DMY", "YMD", "MY", "Y"))
"""What may stand in which order: month, day, year."""


def date(answer: str, spec: AnswerSpec) -> Canonical | None:
    """The date as ISO 8601 writes it: 2026-06-03, --06-03 of any year, 2026-06, 2026. None if there is no such day."""
    text = same_case(trimmed(folded(answer), QUOTES | BRACKETS))
    year, month, day = _iso(text) or _numeric(text, spec.locale) or _written(text, spec.locale) or (None, None, None)
    return _existing(year, month, day)


def _existing(year: int | None, month: int | None, day: int | None) -> Canonical | None:
    """The date, if it is in the calendar."""
    try:
        iso = Day(_LEAP_YEAR if year is None else year, month or 1, day or 1).isoformat()
    except ValueError:
        return None
    if year is None:
        return _same(f"-{iso[4:]}") if month and day else None
    return _same(iso if day else iso[:7] if month else iso[:4])


def _same(iso: str) -> Canonical:
    return Canonical(iso, iso)


def _iso(text: str) -> tuple[int | None, int | None, int | None] | None:
    """A date whose order is the same everywhere."""
    if match := _ISO.fullmatch(text):
        year, month, day, any_month, any_day = (int(part) if part else None for part in match.groups())
        return year, month if any_month is None else any_month, day if any_day is None else any_day
    if match := _YEAR_FIRST.fullmatch(text):
        return int(match[1]), int(match[3]), int(match[4])
    if match := _CHINESE.fullmatch(text):
        return int(match[1]) if match[1] else None, int(match[2]), int(match[3])
    return None


def _numeric(text: str, locale: str) -> tuple[int | None, int, int] | None:
    """Two numbers and perhaps a year, in the locale's order; none where the year comes first, and no 3.6 where months do."""
    match, order = _NUMERIC.fullmatch(text), day_order(locale)
    if match is None or order == "ymd" or (order == "mdy" and match[2] == "."):
        return None
    first, second = int(match[1]), int(match[3])
    month, day = (first, second) if order == "mdy" else (second, first)
    return int(match[4]) if match[4] else None, month, day


def _written(text: str, locale: str) -> tuple[int | None, int | None, int | None] | None:
    """With the month's name. A weekday before it must be right."""
    weekday, _, rest = text.partition(" ")
    named = weekday.rstrip(",") in _WEEKDAYS
    found = _by_shape(re.split(r"[\s,/-]+", rest if named else text), locale)
    if found is None or not named:
        return found
    return found if _is_weekday(found, weekday.rstrip(",")) else None


def _by_shape(words: list[str], locale: str) -> tuple[int | None, int | None, int | None] | None:
    said = _parts(words, locale)
    if "".join(kind for kind, _ in said) not in _SHAPES:
        return None
    parts = dict(said)
    return parts.get("Y"), parts.get("M"), parts.get("D")


def _parts(words: list[str], locale: str) -> list[tuple[str, int]]:
    """What each word is: M, D, Y and its number, or ? for one that does not belong in a date."""
    own = {name: at for at, name in enumerate(_MONTHS.get(language(locale), "").split(), 1)}
    months = _ENGLISH | own
    parts = []
    for word in words:
        month, day = months.get(word.rstrip(".")), _DAY.fullmatch(word)
        if month:
            parts.append(("M", month))
        elif day:
            parts.append(("D", int(day[1])))
        elif _YEAR.fullmatch(word):
            parts.append(("Y", int(word)))
        elif word not in _FILLERS:
            parts.append(("?", 0))
    return parts


def _is_weekday(found: tuple[int | None, int | None, int | None], weekday: str) -> bool:
    """Whether the day falls on it; of a day of any year nobody can tell."""
    year, month, day = found
    if year is None or not day:
        return bool(day)
    try:
        return _WEEKDAYS[Day(year, month or 1, day).weekday()] == weekday
    except ValueError:
        return False
