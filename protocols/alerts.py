"""Alerts: committed spend that reached a part of a limit. Once per scope, period, level and limit."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct

from protocols.request import Request
from protocols.rpc import Name, Params, Right

Level = Literal[75, 80, 90, 100]
"""Per cent of a limit that spend has reached."""

Severity = Literal["info", "warning", "critical"]

WayOut = Literal["command", "webhook"]
"""Where alerts go besides the daemon's own clients."""

SEVERITY: dict[Level, Severity] = {75: "info", 80: "warning", 90: "critical", 100: "critical"}


class Alert(Struct, omit_defaults=True, frozen=True):
    """One alert: `scope` had spent `spent_nano_usd` of its limit of the `period` that `label` names (`2026-11`)."""

    scope: str
    period: str
    level: Level
    severity: Severity
    at: str
    spent_nano_usd: int
    limit_nano_usd: int
    label: str
    suggestion: str | None = None


class Alerts(Params):
    """The newest alerts: the caller's own and the daemon's, everybody's with `operate`."""

    method: ClassVar[str] = "alerts"
    right: ClassVar[Right] = "use"

    last: Annotated[int, Meta(ge=1, le=10_000)] = 100
    user: Name | None = None


class AlertList(Struct):
    """Result of `alerts`, newest first."""

    alerts: list[Alert]


class ReadUndelivered(Request[list[tuple[int, Alert]]], frozen=True):
    """Notifier: the oldest alerts since an instant (µs) that one way out has not taken, with their ids, in order."""

    way: WayOut
    since: int


class PostDelivered(Request[None], frozen=True):
    """Notifier: one way out took an alert, or was given up for it; answered when that is durable. Raises LedgerReadonly."""

    way: WayOut
    id: int
