"""Which levels of a limit committed spend has reached. Pure."""

from __future__ import annotations

from typing import get_args

from protocols.alerts import Alert, Level
from protocols.money import usd_text

LEVELS: tuple[Level, ...] = get_args(Level)
"""Per cent of a limit, rising."""

NEVER = 1 << 62
"""More nano-dollars than anybody can spend."""


def reached(spent: int, limit: int, raised: int) -> list[Level]:
    """The levels above `raised` that a spend has reached (≥), in order: a jump reaches each that it crosses."""
    return [level for level in LEVELS if level > raised and spent >= threshold(limit, level)]


def next_alert(limit: int | None, raised: int) -> int:
    """The spend at which the next level above `raised` is reached; NEVER when there is none."""
    level = next((level for level in LEVELS if level > raised), None)
    return NEVER if limit is None or level is None else threshold(limit, level)


def threshold(limit: int, level: Level) -> int:
    """The least spend in nano-dollars that reaches a level. Nothing spent reaches nothing, not even of a limit of 0."""
    return max(-(-limit * level // 100), 1)


def alert_text(alert: Alert) -> str:
    """An alert as a sentence."""
    said = (
        f"{alert.scope} has spent {usd_text(alert.spent_nano_usd)} of its {usd_text(alert.limit_nano_usd)} a {alert.period}: "
        f"{alert.level} % is reached"
    )
    return f"{said}; {alert.suggestion}" if alert.suggestion else said
