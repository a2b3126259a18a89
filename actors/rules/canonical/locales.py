"""How numbers and dates are written where: the decimal mark, what groups digits, the order of day and month. After the CLDR."""

from __future__ import annotations

_DECIMAL_COMMA = frozenset(
    """
    af az be bg br bs ca cs da de el es et eu fi fo fr fy gl hr hu hy id is it ka kk kl ky lb lt lv mk nb nl nn no pl pt ro ru sk sl
    sq sr sv tk tr uk uz vi
    """.split()  # noqa: SIM905  a list of literals would be eight times as long
)
_DECIMAL_POINT_REGIONS = frozenset(
    ("es-mx", "es-us", "es-pr", "es-gt", "es-hn", "es-ni", "es-sv", "es-pa", "es-do", "es-pe")
)
_APOSTROPHES = frozenset(("de-ch", "de-li", "it-ch"))
"""Where digits are grouped by an apostrophe and the decimal mark is a point: 1'234.5."""

_MONTH_FIRST = frozenset(("en", "en-us", "en-ph", "en-pr", "es-us", "es-pr"))
_YEAR_FIRST = frozenset(("ja", "zh", "ko", "hu", "lt", "sv", "mn", "eu"))
_YEAR_FIRST_REGIONS = frozenset(("en-ca", "fr-ca", "en-za"))


def language(locale: str) -> str:
    """Its language, `de` of `de-CH` or `de_CH.UTF-8`."""
    return _parts(locale)[0]


def region(locale: str) -> str:
    """Its language and region, `de-ch`; the language alone if it names no region."""
    parts = _parts(locale)
    regions = [part for part in parts[1:] if len(part) == 2]  # noqa: PLR2004  a region has two letters, a script four
    return "-".join([parts[0], *regions[:1]])


def decimal_mark(locale: str) -> str:
    """The decimal mark, `.` or `,`; a point where the language is not known."""
    if region(locale) in _DECIMAL_POINT_REGIONS | _APOSTROPHES:
        return "."
    return "," if language(locale) in _DECIMAL_COMMA else "."


def group_marks(locale: str) -> str:
    """The characters that may stand between groups of three digits; a space may everywhere (ISO 80000-1)."""
    if region(locale) in _APOSTROPHES:
        return " '’"
    return " ." if decimal_mark(locale) == "," else " ,"


def groups_by_two(locale: str) -> bool:
    """Whether the groups above the thousands have two digits, as in India: 1,50,000."""
    return language(locale) == "hi" or region(locale) == "en-in"


def day_order(locale: str) -> str:
    """The order in numeric dates: `mdy`, `dmy` or `ymd`."""
    if region(locale) in _MONTH_FIRST:
        return "mdy"
    return "ymd" if language(locale) in _YEAR_FIRST or region(locale) in _YEAR_FIRST_REGIONS else "dmy"


def _parts(locale: str) -> list[str]:
    return locale.partition(".")[0].replace("_", "-").casefold().split("-")
