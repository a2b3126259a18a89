"""What is asked of retention: to roll up attempts, and drop tournaments, that are older than `usage.retention_days`."""

from __future__ import annotations

from msgspec import Struct

from protocols.request import Request


class Rolled(Struct, frozen=True):
    """What a round did: attempts that are in the daily sums now, the first day (`2026-11-21`) whose attempts keep a row each, and
    tournaments that are gone."""

    attempts: int
    before: str
    tournaments: int = 0


class RollUp(Request[Rolled], frozen=True):
    """Retention: one round to its end, as of `now_us` (µs since 1970; None is now). Raises LedgerReadonly, Internal.

    What it had rolled before it failed stays so; the next round goes on.
    """

    now_us: int | None = None
