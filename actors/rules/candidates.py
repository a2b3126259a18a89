"""What there is to choose from, and what follows from it: worked out when it is first asked for, and kept while nothing changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

from msgspec import Struct, field
from msgspec.structs import replace

from actors.rules.catalogue import NOTHING, ModelConfig, described
from actors.rules.matrix import TaskConfig, task
from actors.rules.orchestrator import ANY_TASK, Choice, Wishes, choose, rank
from protocols.model import ModelInfo, split_model_id
from protocols.provider import AVAILABLE, ProviderView, about_it
from protocols.routing import Rejected
from protocols.settings import SelectionMode

MOST_PASSED_OVER = 3
"""Models of which a choice says why it was not them."""


class Target(Struct, frozen=True, cache_hash=True):
    """A model at a provider."""

    provider: str
    model: str

    def __str__(self) -> str:
        return f"{self.provider}:{self.model}"


class Chosen(Struct, frozen=True):
    """What the orchestrator chooses, and models that would have gone before it, were their providers available."""

    choice: Choice
    passed_over: list[Rejected]


class Ranked(Struct, frozen=True):
    """The best model of each provider for who chose nothing, and why the first is the first."""

    targets: list[Target]
    why: str


class World(Struct, frozen=True, dict=True):
    """Providers in config order, the config's models in its order, aliases and tasks; `rows` is what the catalogue has of providers.

    State: what was worked out so far.
    """

    views: tuple[ProviderView, ...]
    entries: Mapping[str, ModelConfig]
    aliases: Mapping[str, str]
    tasks: Mapping[str, TaskConfig] = field(default_factory=dict)
    rows: Callable[[tuple[ProviderView, ...]], list[ModelInfo]] = lambda _: []

    @cached_property
    def by_name(self) -> dict[str, ProviderView]:
        """The providers by name."""
        return {view.name: view for view in self.views}

    @cached_property
    def _real(self) -> tuple[ProviderView, ...]:
        """Those that count: simulated ones only where there is nothing else."""
        return tuple(view for view in self.views if not view.simulated) or self.views

    @cached_property
    def models(self) -> list[ModelInfo]:
        """What there is at those providers that count."""
        return self.rows(self._real)

    @cached_property
    def offered(self) -> tuple[str, ...]:
        """The ids of what the providers list, in their order."""
        return tuple(f"{view.name}:{model}" for view in self.views for model in view.models)

    @cached_property
    def _firsts(self) -> dict[str, Target | None]:
        """Each provider's first model that is not retired: of the config's entries, else of those that it lists."""
        named: dict[str, list[str]] = {}
        for provider, model in filter(None, map(split_model_id, self.entries)):
            named.setdefault(provider, []).append(model)
        return {
            view.name: next(
                (
                    Target(view.name, model)
                    for model in (*named.get(view.name, ()), *view.models)
                    if not self._described(view, model).retired
                ),
                None,
            )
            for view in self.views
        }

    @cached_property
    def _chosen(self) -> dict[tuple[str | None, Wishes], Chosen]:
        return {}

    @cached_property
    def _ranked(self) -> dict[SelectionMode, Ranked]:
        return {}

    def view(self, provider: str) -> ProviderView | None:
        """A provider by its name."""
        return self.by_name.get(provider)

    def counts(self, target: Target) -> bool:
        """Whether it may stand in for another."""
        return any(view.name == target.provider for view in self._real)

    def first_of(self, provider: str) -> Target | None:
        """The model of a provider for who names no other."""
        return self._firsts[provider]

    def is_local(self, target: Target) -> bool:
        """Whether it costs nothing."""
        said, view = self.entries.get(str(target), NOTHING).local, self.by_name.get(target.provider)
        return said if said is not None else view is not None and view.local

    def chosen(self, task_type: str | None, wishes: Wishes) -> Chosen:
        """The orchestrator's choice. Raises BadRequest for a task that there is not."""
        key = (task_type, wishes)
        if key not in self._chosen:
            self._chosen[key] = self._choose(task_type, wishes)
        return self._chosen[key]

    def ranked(self, mode: SelectionMode) -> Ranked:
        """What there is for who chose nothing; models of providers that are not available come last."""
        if mode not in self._ranked:
            self._ranked[mode] = self._rank(mode)
        return self._ranked[mode]

    def _choose(self, task_type: str | None, wishes: Wishes) -> Chosen:
        wanted = ANY_TASK if task_type is None else task(task_type, self.tasks)
        choice = choose(self.models, wanted, wishes)
        away = {m.id for m in self.models if self.by_name[m.provider].state not in AVAILABLE and not self._retired(m)}
        passed: list[Rejected] = []
        if away:
            as_if = [replace(model, available=True) if model.id in away else model for model in self.models]
            for model in choose(as_if, wanted, wishes).models[:MOST_PASSED_OVER]:
                if model.id not in away:
                    break
                passed.append(self._away(model))
        return Chosen(choice, passed)

    def _away(self, model: ModelInfo) -> Rejected:
        view = self.by_name[model.provider]
        code = view.state if view.state in {"misconfigured", "rate_limited"} else "provider_unavailable"
        why = f"would have been chosen, but provider `{view.name}` is {view.state.replace('_', ' ')}"
        return Rejected(model.id, code, f"{why}: {about_it(view.name, view.why)}" if view.why else why)

    def _rank(self, mode: SelectionMode) -> Ranked:
        if mode == "user_choice":
            firsts = [first for view in self._real if (first := self._firsts[view.name]) is not None]
            firsts.sort(key=lambda target: self.by_name[target.provider].state not in AVAILABLE)
            return Ranked(firsts, "the first available model, in the config's order")
        models = [m for m in self.models if not self._retired(m)]
        here = rank([m for m in models if m.available], mode)
        best: dict[str, Target] = {}
        for model in (*here.models, *rank([m for m in models if not m.available], mode).models):
            best.setdefault(model.provider, self._target(model))
        return Ranked(list(best.values()), here.why)

    def _target(self, model: ModelInfo) -> Target:
        return Target(model.provider, model.id.removeprefix(f"{model.provider}:"))

    def _retired(self, model: ModelInfo) -> bool:
        return bool(self._described(self.by_name[model.provider], self._target(model).model).retired)

    def _described(self, view: ProviderView, model: str) -> ModelConfig:
        return described(self.entries.get(f"{view.name}:{model}", NOTHING), view, model)
