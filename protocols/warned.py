"""Something the caller should know although what was asked went well."""

from __future__ import annotations

from msgspec import Struct


class Warned(Struct):
    """A code for programs and a sentence for people."""

    code: str
    message: str
