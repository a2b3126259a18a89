"""The base of what actors say to each other: a message names its answer, so the type checker follows it across the mailbox."""

from __future__ import annotations

from typing import Generic, TypeVar

from msgspec import Struct

R = TypeVar("R")


class Request(Struct, Generic[R], frozen=True):
    """A message that is answered with an R. Sent with `Ref.call` (ask) or, when R is None, `Ref.tell`."""
