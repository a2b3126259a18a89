"""Providers: their state, and what is asked of their actors."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta, Struct, field

from protocols.model import ModelInfo, Tier
from protocols.request import Request
from protocols.rpc import Name, Params, Right

Kind = Literal["openai", "anthropic", "ollama", "simulated"]

State = Literal["healthy", "degraded", "open", "rate_limited", "misconfigured", "unknown"]
AVAILABLE: frozenset[State] = frozenset({"healthy", "degraded", "unknown"})
"""The states in which a provider takes new attempts."""

BillingOnCancel = Literal["emitted", "whole"]


Outcome = Literal["ok", "transport", "server", "rate_limited", "auth", "request", "cancelled"]
"""How an attempt went for its provider: `transport` and `server` count against its breaker, `request` (the caller's own fault) and
`cancelled` say nothing about it."""


class ProviderConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[providers.<name>]` of the config, the key left out."""

    kind: Kind
    base_url: str | None = None
    billing_on_cancel: BillingOnCancel | None = None
    local: bool | None = None
    max_in_flight: Annotated[int, Meta(ge=1)] = 64
    requests_per_minute: Annotated[int, Meta(ge=1)] | None = None
    tokens_per_minute: Annotated[int, Meta(ge=1)] | None = None
    timeout_s: Annotated[float, Meta(gt=0)] = 120.0
    first_token_timeout_s: Annotated[float, Meta(gt=0)] = 30.0
    probe_every_s: Annotated[float, Meta(gt=0)] = 15.0
    proxy: str | None = None


class ProviderView(Struct, frozen=True):
    """A provider as routing sees it. `models` are those that it lists, in its order; `retry_at` is when its wait ends (monotonic)."""

    name: str
    kind: Kind
    host: str
    state: State
    why: str | None
    local: bool
    simulated: bool
    billing_on_cancel: BillingOnCancel
    needs_key: bool
    models: tuple[str, ...]
    retry_at: float | None = None


class ReadProviders(Request[Any], frozen=True):
    """Pool: the refs of the providers by name."""


def about_it(provider: str, why: str) -> str:
    """A reason as it is told behind the name of its provider: `it can't be reached`, not the name once more."""
    named = f"provider `{provider}`"
    rest = why.removeprefix(f"{named} ")
    return f"it {rest}" if rest != why else why.replace(f" of {named}", "")


class Show(Request[None], frozen=True):
    """Provider: tell the pool what you are now."""


class Lease(Request[int], frozen=True):
    """Provider: permission for one attempt, answered with its probe number, which `AttemptEnded` gives back.

    `tokens` is its upper bound. Raises ProviderUnavailable, RateLimited, Misconfigured, Busy.
    """

    tokens: int


class AttemptEnded(Request[None], frozen=True):
    """Provider: a leased attempt is over; latencies in seconds. `probe` is the lease's number."""

    outcome: Outcome
    why: str
    latency_s: float
    first_token_s: float | None
    retry_after_s: float | None
    probe: int


class ModelsListed(Request[None], frozen=True):
    """A provider to itself: what a health probe found; `models` None when it could not be told."""

    outcome: Outcome
    why: str
    models: tuple[str, ...] | None
    retry_after_s: float | None
    probe: int


class FirstListing(Request[None], frozen=True):
    """Pool: answered as soon as a provider has listed its models."""


class ReadViews(Request[tuple[ProviderView, ...]], frozen=True):
    """Pool: all providers as they are now, in config order; the same object until something changes."""


class ViewChanged(Request[None], frozen=True):
    """A provider to the pool: this is what I am now."""

    view: ProviderView


class ProviderStatus(Struct, kw_only=True):
    """A row of `providers`. Latencies in milliseconds, averages over recent attempts; None before the first."""

    name: str
    kind: Kind
    origin: str
    local: bool
    simulated: bool
    state: State
    why: str | None = None
    in_flight: int = 0
    calls: int = 0
    errors: int = 0
    latency_ms: float | None = None
    first_token_ms: float | None = None
    retry_after_s: float | None = None
    models: int = 0


class ReadStatus(Request[ProviderStatus], frozen=True):
    """Provider: its row for the list."""


class ReadStatuses(Request[list[ProviderStatus]], frozen=True):
    """Pool: the rows of all providers, in config order."""


class Providers(Params):
    """Lists the providers and their state."""

    method: ClassVar[str] = "providers"
    right: ClassVar[Right] = "observe"


class ProviderList(Struct):
    """Result of `providers`."""

    providers: list[ProviderStatus]


class Models(Params):
    """Lists the models; the filters narrow the list. With `tier` the best comes first, and only what can be called is there."""

    method: ClassVar[str] = "models"
    right: ClassVar[Right] = "observe"

    provider: Name | None = None
    local: bool | None = None
    task: Name | None = None
    tier: Tier | None = None


class ModelList(Struct):
    """Result of `models`."""

    models: list[ModelInfo] = field(default_factory=list)
