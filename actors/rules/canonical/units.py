"""What a unit is worth in another of its kind, exactly: SI units and their prefixes, time, data, money by its names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple


class Unit(NamedTuple):
    """Its kind, and how many of the kind's first unit it is worth."""

    kind: str
    worth: Fraction


_PREFIXES = {
    "n": ("nano", -9), "μ": ("micro", -6), "u": ("micro", -6), "m": ("milli", -3), "c": ("centi", -2), "d": ("deci", -1),
    "h": ("hecto", 2), "k": ("kilo", 3), "M": ("mega", 6), "G": ("giga", 9), "T": ("tera", 12),
}  # fmt: skip
"""Symbol, name and power of ten."""

_PREFIXED = (
    ("m", "metre meter", "length", "1", "n μ u m c d k"),
    ("g", "gram gramme", "mass", "1", "n μ u m k"),
    ("s", "second sec", "time", "1", "n μ u m"),
    ("L", "litre liter", "volume", "1/1000", "μ u m c d h"),
    ("l", "", "volume", "1/1000", "μ u m c d h"),
    ("Hz", "hertz", "frequency", "1", "k M G T"),
    ("W", "watt", "power", "1", "m k M G T"),
    ("J", "joule", "energy", "1", "k M G T"),
    ("Wh", "watt-hour", "energy", "3600", "k M G T"),
    ("V", "volt", "voltage", "1", "m k"),
    ("A", "ampere amp", "current", "1", "m k"),
    ("N", "newton", "force", "1", "k M"),
    ("Pa", "pascal", "pressure", "1", "h k M G"),
    ("B", "byte", "data", "8", "k M G T"),
    ("bit", "", "data", "1", "k M G T"),
)  # fmt: skip
"""Symbol, names, kind, worth, and the prefixes that it takes."""

_PLAIN = (
    ("min", "minute mins", "time", "60"), ("h", "hour hr hrs", "time", "3600"), ("d", "day", "time", "86400"), ("wk", "week", "time", "604800"),
    ("t", "tonne", "mass", "1000000"), ("lb", "lbs", "mass", "453.59237"), ("oz", "ounce", "mass", "28.349523125"),
    ("in", "inch inches", "length", "0.0254"), ("ft", "foot feet", "length", "0.3048"), ("yd", "yard", "length", "0.9144"),
    ("mi", "mile", "length", "1609.344"), ("ha", "hectare", "area", "10000"),
    ("m/s", "", "speed", "1"), ("km/h", "kph", "speed", "5/18"), ("mph", "", "speed", "0.44704"),
    ("KiB", "kibibyte", "data", "8192"), ("MiB", "mebibyte", "data", "8388608"), ("GiB", "gibibyte", "data", "8589934592"),
    ("%", "percent pct", "share", "1"), ("‰", "permille", "share", "1/10"),
    ("°C", "celsius", "celsius", "1"), ("°F", "fahrenheit", "fahrenheit", "1"), ("K", "kelvin", "kelvin", "1"),
    ("USD", "$ us$ usd$ dollar", "USD", "1"), ("EUR", "€ euro", "EUR", "1"), ("GBP", "£", "GBP", "1"),
    ("JPY", "yen", "JPY", "1"), ("INR", "₹ rupee", "INR", "1"),
)  # fmt: skip
"""Symbol, names, kind and worth. A mile or an ounce is the international one; a pound may be money, so its symbol alone is read."""


def _units() -> Iterator[tuple[str, list[str], Unit]]:
    """Each unit with its symbol and its names."""
    for symbol, names, kind, worth_of, prefixes in _PREFIXED:
        yield symbol, names.split(), Unit(kind, Fraction(worth_of))
        for prefix in prefixes.split():
            name, power = _PREFIXES[prefix]
            long = [name + base for base in (names or symbol).split()]
            yield prefix + symbol, long, Unit(kind, Fraction(worth_of) * Fraction(10) ** power)
    for symbol, names, kind, worth_of in _PLAIN:
        yield symbol, names.split(), Unit(kind, Fraction(worth_of))


def _with_powers() -> Iterator[tuple[str, list[str], Unit]]:
    """All units, and areas and volumes of the lengths."""
    for symbol, names, unit in _units():
        yield symbol, names, unit
        if unit.kind == "length":
            for power, word, kind in ((2, "square ", "area"), (3, "cubic ", "volume")):
                raised = Unit(kind, unit.worth**power)
                yield f"{symbol}^{power}", [f"{symbol}{power}", *(word + name for name in names)], raised


_BY_SYMBOL: dict[str, Unit] = {symbol: unit for symbol, _, unit in _with_powers()}

_BY_NAME: dict[str, set[Unit]] = defaultdict(set)
for _symbol, _names, _unit in _with_powers():
    for _name in (_symbol, *_names):
        _BY_NAME[_name.casefold()].add(_unit)


def worth(written: str, declared: str) -> Fraction | None:
    """How many declared units a written one is; None if it is of another kind. `""` stands for no unit: what is bare is as declared.

    A unit that the table lacks is worth one of itself, in the plural too, and nothing else.
    """
    if written in {"", declared}:
        return Fraction(1)
    one, other = _unit_of(written), _unit_of(declared)
    if one and other:
        return one.worth / other.worth if one.kind == other.kind else None
    same = one is None and other is None and _singular(written) == _singular(declared)
    return Fraction(1) if same else None


def _unit_of(text: str) -> Unit | None:
    """By its symbol as it is written, else by a name or a symbol in any case that means one unit: `mw` may be mW or MW.

    A single letter is read as it is written alone: 5k is no temperature.
    """
    if text in _BY_SYMBOL or (len(text) == 1 and text.isalpha()):
        return _BY_SYMBOL.get(text)
    meant = _BY_NAME.get(text.casefold()) or _BY_NAME.get(_singular(text), set())
    return next(iter(meant)) if len(meant) == 1 else None


def _singular(text: str) -> str:
    return text.casefold().removesuffix("s") if len(text) > 3 else text.casefold()  # noqa: PLR2004  gas is no plural
