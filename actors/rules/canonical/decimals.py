"""Exact numbers as people write them: from digits and a power of ten, never through a float."""

from __future__ import annotations

from fractions import Fraction

_ZEROS = 21
"""Zeros that are written out, at most; five before the digits. Beyond stands a power of ten, as in JavaScript."""

_LONGEST = 100
"""Digits of a number that is shown as a decimal, or else as a fraction."""


def decimal_text(negative: bool, digits: str, exponent: int, mark: str = ".") -> str:
    """`digits` x 10^`exponent`, the same for the same value: 1.50 and 15e-1 are 1.5, 1e30 stays 1e30, -0 is 0."""
    zeros = len(digits) - len(digits.rstrip("0"))
    digits, exponent = digits.rstrip("0").lstrip("0"), exponent + zeros
    if not digits:
        return "0"
    return ("-" if negative else "") + _placed(digits, exponent, mark)


def fraction_text(value: Fraction, mark: str) -> str:
    """A decimal if it ends after a hundred digits at most, else numerator/denominator."""
    twos, rest = _times(value.denominator, 2)
    fives, rest = _times(rest, 5)
    places = max(twos, fives)
    digits = str(abs(value.numerator) * 10**places // value.denominator)
    if rest != 1 or len(digits.strip("0")) > _LONGEST:
        return str(value)
    return decimal_text(value < 0, digits, -places, mark)


def _placed(digits: str, exponent: int, mark: str) -> str:
    """The digits with their mark; `point` digits stand before it."""
    point = len(digits) + exponent
    if 0 <= exponent <= _ZEROS:
        return digits + "0" * exponent
    if exponent < 0 < point:
        return digits[:point] + mark + digits[point:]
    if -6 < point <= 0:  # noqa: PLR2004  five zeros, as said above
        return "0" + mark + "0" * -point + digits
    return digits[0] + (mark + digits[1:] if digits[1:] else "") + f"e{point - 1}"


def _times(number: int, prime: int) -> tuple[int, int]:
    """How often the prime divides the number, and what is left."""
    times = 0
    while number % prime == 0:
        number //= prime
        times += 1
    return times, number
