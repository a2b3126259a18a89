"""Canonical answers: two answers agree when their keys are equal, or their numbers lie within the tolerance."""

from __future__ import annotations

from fractions import Fraction

from msgspec import Struct


class Canonical(Struct, frozen=True):
    """An answer in its canonical form: `key` is compared, `shown` is what people read, `number` stands for a `number`'s value."""

    key: str
    shown: str
    number: Fraction | None = None
