"""What every rule gives: an answer in its canonical form."""

from __future__ import annotations

from fractions import Fraction

from msgspec import Struct


class Canonical(Struct, frozen=True):
    """An answer in its canonical form: `key` is compared, `shown` is what people read, `number` stands for a `number`'s value.

    `shown` is an answer of the same spec and has the same canonical form. A `number` is in the unit that the spec declares.
    """

    key: str
    shown: str
    number: Fraction | None = None
