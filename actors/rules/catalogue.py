"""What is known of models: the config's entries over the price book and the matrix. Pure but for a cache of looked-up prices."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Protocol

from msgspec import Meta, Struct
from msgspec.structs import replace

from actors.rules import matrix
from actors.rules.pricing import FREE, Price, overridden
from protocols.model import ModelInfo, Speed, Strength
from protocols.provider import AVAILABLE, ProviderView

UsdPerMtok = Annotated[float, Meta(ge=0, le=1e6)]


class ModelConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[models."<provider>:<model>"]` of the config: adds to or overrides what is known."""

    quality: Annotated[float, Meta(ge=0, le=10)] | None = None
    strengths: tuple[Strength, ...] | None = None
    speed: Speed | None = None
    family: str | None = None
    local: bool | None = None
    context_tokens: Annotated[int, Meta(ge=1)] | None = None
    max_output_tokens: Annotated[int, Meta(ge=1)] | None = None
    input_usd_per_mtok: UsdPerMtok | None = None
    output_usd_per_mtok: UsdPerMtok | None = None
    cached_input_usd_per_mtok: UsdPerMtok | None = None
    audio_input_usd_per_mtok: UsdPerMtok | None = None
    audio_output_usd_per_mtok: UsdPerMtok | None = None
    retired: bool | None = None
    successor: str | None = None


NOTHING = ModelConfig()


def described(entry: ModelConfig, view: ProviderView, model: str) -> ModelConfig:
    """The config's entry, what it leaves open filled in from the matrix. A `successor` is a model id.

    What the matrix calls local only could be: where a model runs is the provider's to say. What its vendor retired counts
    as retired there alone, for a router may still have it.
    """
    known = matrix.known(model)
    if known is None:
        return entry
    vendor = known.family in {view.name, None if view.kind == "openai" else view.kind}  # many speak OpenAI's dialect
    return replace(
        entry,
        quality=known.quality if entry.quality is None else entry.quality,
        strengths=known.strengths if entry.strengths is None else entry.strengths,
        speed=entry.speed or known.speed,
        family=entry.family or known.family,
        context_tokens=entry.context_tokens or known.context_tokens,
        max_output_tokens=entry.max_output_tokens or known.max_output_tokens,
        retired=known.retired and vendor if entry.retired is None else entry.retired,
        successor=entry.successor or (known.successor and f"{view.name}:{known.successor}"),
    )


class Prices(Protocol):
    """Where prices and context windows are looked up."""

    def find(self, origin_host: str, provider_name: str, kind: str, model: str) -> Price | None:
        """The price of a model as its provider names it, or None."""
        ...

    def context(self, origin_host: str, provider_name: str, kind: str, model: str) -> int | None:
        """Tokens of its context window, or None."""
        ...


class Catalogue:
    """The models by `provider:model`.

    State: where prices are looked up, a cache of them, bounded by CACHED, the providers as they were last seen, and how often
    any price may have changed (`edition`).
    """

    CACHED = 4096

    def __init__(self, entries: Mapping[str, ModelConfig], prices: Prices) -> None:
        self.entries = entries
        self._prices = prices
        self._cache: dict[tuple[str, str], Price | None] = {}
        self._seen: tuple[ProviderView, ...] = ()
        self.edition = 0

    def see(self, views: tuple[ProviderView, ...]) -> None:
        """The providers are like this now."""
        self._seen = views

    def learn(self, prices: Prices) -> None:
        """Looks prices up here from now on."""
        self._prices = prices
        self._cache.clear()
        self.edition += 1

    def entry(self, provider: str, model: str) -> ModelConfig:
        """The config's entry, or one that says nothing."""
        return self.entries.get(f"{provider}:{model}", NOTHING)

    def longest_answer(self, provider: str, model: str) -> int | None:
        """Tokens of the longest answer that it can give, or None."""
        known = matrix.known(model)
        return self.entry(provider, model).max_output_tokens or (known.max_output_tokens if known else None)

    def priced_by_config(self, provider: str, model: str) -> bool:
        """Whether the config alone says what it costs, so that nobody needs to wait for the price book."""
        entry = self.entry(provider, model)
        return bool(entry.local) or (entry.input_usd_per_mtok is not None and entry.output_usd_per_mtok is not None)

    def price(self, view: ProviderView, model: str) -> Price | None:
        """What a model costs at a provider: FREE where it is local, None where nobody knows."""
        key = (view.name, model)
        if key not in self._cache:
            if len(self._cache) >= self.CACHED:
                self._cache.clear()
            self._cache[key] = self._look_up(view, model)
        return self._cache[key]

    def _look_up(self, view: ProviderView, model: str) -> Price | None:
        entry = self.entry(view.name, model)
        if entry.local if entry.local is not None else view.local:
            return FREE
        known = self._prices.find(view.host, view.name, view.kind, model)
        return overridden(
            known,
            entry.input_usd_per_mtok,
            entry.output_usd_per_mtok,
            entry.cached_input_usd_per_mtok,
            entry.audio_input_usd_per_mtok,
            entry.audio_output_usd_per_mtok,
        )

    def infos(self, views: tuple[ProviderView, ...]) -> list[ModelInfo]:
        """A row for every model that a provider lists or the config names, in config order."""
        rows = []
        for view in views:
            prefix = f"{view.name}:"
            named = [name.removeprefix(prefix) for name in self.entries if name.startswith(prefix)]
            rows += [self._info(view, model) for model in dict.fromkeys([*named, *view.models])]
        return rows

    def free_model(self) -> str | None:
        """The best local model of the providers as they were last seen."""
        best = self.best_local(self._seen)
        return None if best is None else best.id

    def best_local(
        self,
        views: tuple[ProviderView, ...],
        tokens: Callable[[str, str], int] | None = None,
        failed: Collection[str] = (),
    ) -> ModelInfo | None:
        """The best local model that is available, has room for its `tokens` and has not `failed`: by quality, then in config order.

        One whose context nobody knows counts as large enough. Simulated ones count only where there is nothing else.
        """
        views = tuple(v for v in views if not v.simulated) or views
        fitting = [
            m
            for m in self.infos(views)
            if m.local
            and m.available
            and m.id not in failed
            and (
                m.context_tokens is None
                or tokens is None
                or m.context_tokens >= tokens(m.provider, m.id.partition(":")[2])
            )
        ]
        return max(fitting, key=lambda m: m.quality or 0.0, default=None)

    def _info(self, view: ProviderView, model: str) -> ModelInfo:
        said, price = self.entry(view.name, model), self.price(view, model)
        entry = described(said, view, model)
        available = view.state in AVAILABLE and not entry.retired
        gone = f"retired; its successor is `{entry.successor}`" if entry.successor else "retired"
        return ModelInfo(
            id=f"{view.name}:{model}",
            provider=view.name,
            family=entry.family,
            local=view.local if entry.local is None else entry.local,
            quality=entry.quality,
            strengths=list(entry.strengths or ()),
            speed=entry.speed,
            context_tokens=said.context_tokens
            or self._prices.context(view.host, view.name, view.kind, model)
            or entry.context_tokens,
            input_usd_per_mtok=None if price is None else price.input / 1_000_000,
            output_usd_per_mtok=None if price is None else price.output / 1_000_000,
            needs_key=view.needs_key,
            display_name=model,
            available=available,
            why_not=None if available else (gone if entry.retired else view.why or view.state),
            source="config" if f"{view.name}:{model}" in self.entries else "provider",
            rated_by=None if entry.quality is None else "quorumd" if said.quality is None else "config",
        )
