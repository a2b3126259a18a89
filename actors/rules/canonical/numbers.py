"""Numbers, exactly: digits as the locale writes them, in the unit that the spec declares. 42 and 43 differ, 1.50 and 1.5 do not.

A number without a unit is in the declared one. With a unit of its own it is converted; if none is declared, or one of another
kind, it is no answer: 5 km and 5 m would else agree.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from actors.rules.canonical.answer import Canonical
from actors.rules.canonical.decimals import fraction_text
from actors.rules.canonical.locales import decimal_mark, group_marks, groups_by_two, language
from actors.rules.canonical.text import QUOTES, folded, trimmed
from actors.rules.canonical.units import worth
from protocols.tournament import AnswerSpec

_LARGEST = 10**400
"""Above every float. A numerator or denominator beyond is no answer, so that 1e999999999 costs nothing."""

_LARGE_NUMBERS: dict[str, dict[str, int]] = {
    "en": {"thousand": 3, "million": 6, "billion": 9, "trillion": 12},
    "de": {
        "tausend": 3,
        "million": 6,
        "millionen": 6,
        "mio": 6,
        "milliarde": 9,
        "milliarden": 9,
        "mrd": 9,
        "billion": 12,
        "billionen": 12,
    },
    "fr": {"mille": 3, "million": 6, "millions": 6, "milliard": 9, "milliards": 9, "billion": 12, "billions": 12},
    "es": {"mil": 3, "millón": 6, "millones": 6, "billón": 12, "billones": 12},
}
"""Powers of ten by their names. A billion is not the same everywhere, so only the locale's own words are read."""

_MATHS = QUOTES | {"$": "$"}
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_MINUS = re.compile(r"[\u2212\u2010\u2013](?=[0-9.,$€£])")


def number(answer: str, spec: AnswerSpec) -> Canonical | None:
    """The number in the declared unit. By locale `en`, 1,500 is 1500, and 1,5 is no number; by `de`, 1,5 is 1.5, and 1.5 is none."""
    written = _grammar(spec.locale).fullmatch(_plain(answer))
    if written is None or len(answer.splitlines()) > 1:  # two lines are two numbers, not groups of digits
        return None
    powers = _LARGE_NUMBERS.get(language(spec.locale), {})
    word, _, rest = (written["unit"] or "").partition(" ")
    power = powers.get(word.casefold().rstrip("."))
    factor = _factor(written["sign"] or "", rest if power else written["unit"] or "", folded(spec.unit or ""))
    amount = _amount(written)
    if factor is None or amount is None:
        return None
    return _bounded(amount * factor * 10 ** (power or 0), spec)


def _factor(before: str, after: str, declared: str) -> Fraction | None:
    """What the unit is worth that stands before, after, or on both sides: $5 USD, but not $5 EUR."""
    factors = {worth(written, declared) for written in (before, after) if written} or {Fraction(1)}
    return factors.pop() if len(factors) == 1 else None


def _bounded(value: Fraction, spec: AnswerSpec) -> Canonical | None:
    if max(abs(value.numerator), value.denominator) >= _LARGEST:
        return None
    return Canonical(str(value), fraction_text(value, decimal_mark(spec.locale)), value)


def _plain(answer: str) -> str:
    """As ASCII writes it: digits of any script, a hyphen for a minus, without the marks of Markdown and of TeX."""
    text = trimmed(folded(answer), _MATHS)
    boxed = _BOXED.fullmatch(text)
    text = trimmed(boxed[1], _MATHS) if boxed else text
    return re.sub(r"\d", lambda digit: str(int(digit[0])), _MINUS.sub("-", text))


@lru_cache(maxsize=64)
def _grammar(locale: str) -> re.Pattern[str]:
    """How a number is written there: groups of three are whole, of one mark, and do not begin with 0."""
    mark, groups = re.escape(decimal_mark(locale)), re.escape(group_marks(locale))
    grouped = rf"[1-9][0-9]{{0,2}}(?:(?P<mark>[{groups}])[0-9]{{3}}(?:(?P=mark)[0-9]{{3}})*)"
    by_two = r"[1-9][0-9]?(?:,[0-9]{2})*,[0-9]{3}|" if groups_by_two(locale) else ""
    whole = rf"(?P<whole>{by_two}{grouped}|[0-9]+)"
    power = r"(?:(?:[eE]| ?[x×*·] ?10 ?\^ ?)(?P<power>[+-]?[0-9]{1,4}))?"
    decimal = rf"(?:{whole}(?:{mark}(?P<places>[0-9]*))?|{mark}(?P<only>[0-9]+)){power}"
    fraction = r"(?:(?P<mixed>[0-9]+) )?(?P<over>[0-9]+) ?/ ?(?P<under>[0-9]+)"
    sign = r"(?:(?P<sign>[A-Z]{3}|[A-Z]{0,3}[$€£¥₹]) ?)?"
    return re.compile(
        rf"(?P<minus>[+-]?){sign}(?P<minus_too>[+-]?)(?:{fraction}|{decimal})(?: ?(?P<unit>[^\W\d_].*|[%‰°$€£¥₹].*))?"
    )


def _amount(written: re.Match[str]) -> Fraction | None:
    """The value of what the grammar has read; None for two signs, or nothing below the line."""
    if written["minus"] and written["minus_too"]:
        return None
    negative = "-" in (written["minus"], written["minus_too"])
    value = _fraction(written) if written["under"] else _decimal(written)
    return None if value is None else -value if negative else value


def _fraction(written: re.Match[str]) -> Fraction | None:
    over, under = int(written["over"]), int(written["under"])
    if under == 0 or (written["mixed"] and over >= under):
        return None
    return int(written["mixed"] or 0) + Fraction(over, under)


def _decimal(written: re.Match[str]) -> Fraction:
    whole = "".join(char for char in written["whole"] or "" if char.isdigit())
    places = written["only"] or written["places"] or ""
    return Fraction(int(whole + places)) * Fraction(10) ** (int(written["power"] or 0) - len(places))
