"""What is typed, as values: amounts, reasons, names, times. Each raises ArgumentTypeError with what to type instead."""

from __future__ import annotations

from argparse import ArgumentTypeError

MOST_USD = 1e9
LONGEST_WHY = 1000
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def cost(text: str) -> float:
    """Dollars, or none."""
    try:
        usd = float(text)
    except ValueError:
        usd = -1.0
    if not 0 <= usd <= MOST_USD:  # false of NaN as well
        raise ArgumentTypeError(f"`{text}` is no amount in dollars; write it like 0.05")
    return usd


def amount(text: str) -> float:
    """Dollars, and more than none."""
    if not (usd := cost(text)):
        raise ArgumentTypeError("the amount must be more than 0; write it like 5 or 0.50")
    return usd


def rating(text: str) -> float:
    """What an answer was worth."""
    try:
        value = float(text)
    except ValueError:
        value = 2.0
    if not -1 <= value <= 1:  # false of NaN as well
        raise ArgumentTypeError(f"`{text}` is no rating; write a number from -1 (bad) to 1 (good)")
    return value


def why(text: str) -> str:
    """A reason for the audit."""
    if not text.strip():
        raise ArgumentTypeError("the reason is empty; it stands in the audit, so say in a few words why")
    if len(text) > LONGEST_WHY:
        raise ArgumentTypeError(f"the reason is longer than {LONGEST_WHY} characters")
    return text


def names(text: str) -> list[str]:
    """Names with commas between them."""
    found = [name for part in text.split(",") if (name := part.strip())]
    if not found:
        raise ArgumentTypeError("it is empty; write names with commas between them, like a,b,c")
    return found


def from_now(text: str) -> str:
    """The time after a duration such as 30m, 2h or 1d12h, as RFC 3339 in UTC."""
    import re  # with datetime, only for who gives one
    from datetime import UTC, datetime, timedelta

    parts = re.findall(r"(\d+)([smhdw])", text)
    try:
        length = timedelta(**{UNITS[unit]: int(number) for number, unit in parts})
        if "".join(map("".join, parts)) != text or not length:
            raise ArgumentTypeError(f"`{text}` is no duration; write it like 30m, 2h or 1d")
        return f"{datetime.now(UTC) + length:%Y-%m-%dT%H:%M:%SZ}"
    except OverflowError:
        raise ArgumentTypeError(f"`{text}` is too long") from None
