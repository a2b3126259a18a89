"""The daemon's own state, as `status` shows it."""

from __future__ import annotations

from typing import ClassVar

from msgspec import Struct

from protocols.provider import ProviderStatus
from protocols.rpc import Params, Right
from protocols.usage import ScopeSpend


class Status(Params):
    """How the daemon is."""

    method: ClassVar[str] = "status"
    right: ClassVar[Right] = "observe"


class ActorRow(Struct):
    """An actor: how much waits in its inbox and how often it was restarted."""

    name: str
    inbox: int
    restarts: int
    state: str


class DaemonStatus(Struct, kw_only=True):
    """Result of `status`. `healthy` is false when a warning stands or no provider is available."""

    version: str
    pid: int
    started_at: str
    uptime_s: float
    healthy: bool
    simulated: bool
    providers: list[ProviderStatus]
    spend: list[ScopeSpend]
    calls_in_flight: int
    connections: int
    sessions: int
    actors: list[ActorRow]
    warnings: list[str]
