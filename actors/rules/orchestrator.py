"""Which model does a task best at a quality tier. A pure function of the models that there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct, field

from actors.rules import matrix
from actors.rules.matrix import Task
from protocols.model import ModelInfo, Tier
from protocols.settings import SelectionMode

FLOORS: dict[Tier, float] = {"budget": 6.0, "balanced": 7.0, "premium": 0.0}
"""The quality that a model of the tier has at least."""

LOW_FLOOR = 6.0
EASY = frozenset({"coordination", "speed"})
"""What smaller models do well, too: of these strengths LOW_FLOOR is enough for `balanced`."""

NEAR = 1.0
"""So many points below the best a local model is as good, for it costs nothing."""

ANY_TASK = Task()
"""What a call that names no task is taken to be."""

NAMED = 3
"""Models that a way out names."""


class Wishes(Struct, frozen=True):
    """How to choose; `allow_paid` is whether the budget tier may have a paid model where no local one does."""

    tier: Tier = "balanced"
    prefer_local: bool = False
    allow_paid: bool = False


class Choice(Struct, frozen=True):
    """Models that will do, the best first, and why that one. With none, `why` says what to do about it."""

    models: list[ModelInfo] = field(default_factory=list)
    why: str = ""
    tier_exceeded: bool = False


def choose(models: Sequence[ModelInfo], task: Task, wishes: Wishes) -> Choice:
    """The models for a task at a tier. Those that are not available or not rated are no candidates."""
    fit = [m for m in models if m.available and (task.strength is None or task.strength in m.strengths)]
    able = sorted((m for m in fit if m.quality is not None), key=_merit)
    choice = _BY_TIER[wishes.tier](able, task, wishes)
    if not choice.models:
        return Choice(why=_way_out(task, wishes))
    return choice


def rank(models: Sequence[ModelInfo], mode: SelectionMode) -> Choice:
    """Models for a call that nobody chose one for, the best first by this mode, the unrated ones last; `user_choice` ranks nothing."""
    rated = sorted((m for m in models if m.quality is not None), key=_merit)
    unrated = [m for m in models if m.quality is None]
    if not rated:
        return Choice(unrated, "the first available model, for none is rated")
    ranked = _BY_MODE[mode](rated)
    return Choice([*ranked.models, *unrated], ranked.why)


def cost_usd(model: ModelInfo, task: Task) -> float | None:
    """What the task's assumed tokens cost, or None without a known price."""
    if model.local:
        return 0.0
    if model.input_usd_per_mtok is None or model.output_usd_per_mtok is None:
        return None
    return (model.input_usd_per_mtok * task.prompt_tokens + model.output_usd_per_mtok * task.response_tokens) / 1e6


def _budget(able: list[ModelInfo], task: Task, wishes: Wishes) -> Choice:
    good = [m for m in able if _quality(m) >= FLOORS["budget"]]
    if local := [m for m in good if m.local]:
        return Choice(local, f"the best free local model {_at(task)} ({_rating(local[0])})")
    paid = sorted(_priced(good, task), key=lambda m: cost_usd(m, task) or 0.0)
    if wishes.allow_paid and paid:
        return Choice(
            paid, f"no local model will do {_at(task)}; the cheapest paid one ({_rating(paid[0])})", tier_exceeded=True
        )
    return Choice()


def _balanced(able: list[ModelInfo], task: Task, _: Wishes) -> Choice:
    floor = LOW_FLOOR if task.strength in EASY else FLOORS["balanced"]
    good = [m for m in able if _quality(m) >= floor]
    paid = sorted(_priced(good, task), key=lambda m: _worth(m, task), reverse=True)
    local = [m for m in able if m.local and _quality(m) >= (floor if paid else LOW_FLOOR)]
    near = [m for m in local if _quality(m) >= max(map(_quality, good), default=0.0) - NEAR]
    if near and paid:
        why = f"free, local and within a point of the best {_at(task)} ({_rating(near[0])})"
        return Choice([*near, *paid, *(m for m in local if m not in near)], why)
    if not paid and local:
        return Choice(local, f"the best free local model {_at(task)}, and no paid one is there ({_rating(local[0])})")
    why = f"the most quality for the money {_at(task)} ({_rating(paid[0])})" if paid else ""
    return Choice([*paid, *local], why)


def _premium(able: list[ModelInfo], task: Task, wishes: Wishes) -> Choice:
    if not able:
        return Choice()
    near = [m for m in able if m.local and _quality(m) >= _quality(able[0]) - NEAR] if wishes.prefer_local else []
    if near and near[0] is not able[0]:
        why = f"local, as you prefer, and within a point of the best {_at(task)} ({_rating(near[0])})"
        return Choice([*near, *(m for m in able if m not in near)], why)
    return Choice(able, f"the highest quality {_at(task)} ({_rating(able[0])})")


_BY_TIER: dict[Tier, Callable[[list[ModelInfo], Task, Wishes], Choice]] = {
    "budget": _budget,
    "balanced": _balanced,
    "premium": _premium,
}


def _by_cost(rated: list[ModelInfo]) -> Choice:
    priced = sorted((m for m in rated if cost_usd(m, ANY_TASK) is not None), key=lambda m: cost_usd(m, ANY_TASK) or 0.0)
    if not priced:
        return Choice(rated, "the available model of the highest quality, for no price is known")
    unpriced = [m for m in rated if cost_usd(m, ANY_TASK) is None]
    return Choice([*priced, *unpriced], "the cheapest available model")


def _by_quality(rated: list[ModelInfo]) -> Choice:
    return Choice(rated, "the available model of the highest quality")


def _in_balance(rated: list[ModelInfo]) -> Choice:
    near = [m for m in rated if m.local and _quality(m) >= _quality(rated[0]) - NEAR]
    paid = sorted(_priced(rated, ANY_TASK), key=lambda m: _worth(m, ANY_TASK), reverse=True)
    good = [m for m in paid if _quality(m) >= FLOORS["balanced"]]
    why = f"the available model of the highest quality, for no price is known of one of {FLOORS['balanced']:g} or more"
    if near:
        why = "free, local and within a point of the best that is available"
    elif good:
        why = "the available model with the most quality for the money"
    return Choice(list({m.id: m for m in [*near, *good, *rated]}.values()), why)


_BY_MODE: dict[SelectionMode, Callable[[list[ModelInfo]], Choice]] = {
    "cost_optimized": _by_cost,
    "quality_first": _by_quality,
    "balanced": _in_balance,
}


def _quality(model: ModelInfo) -> float:
    return model.quality or 0.0


def _merit(model: ModelInfo) -> tuple[float, bool, float]:
    """Sorts by quality; of equals the local one comes first, then the cheaper one."""
    price = model.input_usd_per_mtok
    return -_quality(model), not model.local, float("inf") if price is None else price


def _priced(models: list[ModelInfo], task: Task) -> list[ModelInfo]:
    """The paid ones whose price is known."""
    return [m for m in models if not m.local and cost_usd(m, task) is not None]


def _worth(model: ModelInfo, task: Task) -> float:
    """Quality per dollar."""
    cost = cost_usd(model, task)
    return _quality(model) / cost if cost else float("inf")


def _at(task: Task) -> str:
    return f"at {task.strength}" if task.strength else "there is"


def _rating(model: ModelInfo) -> str:
    return f"quality {_quality(model):g}"


def _way_out(task: Task, wishes: Wishes) -> str:
    """What to do where no model will do; it names models of the matrix that would."""
    floor = LOW_FLOOR if wishes.tier != "premium" else 0.0
    would = [m for m in matrix.models() if not m.retired and (task.strength is None or task.strength in m.strengths)]
    local = sorted((m for m in would if m.local and m.quality >= floor), key=lambda m: m.quality)[:NAMED]
    what = f"no available model of the tier `{wishes.tier}` is rated for {task.strength or 'any task'}"
    ways = [f"get a local one, as {', '.join(m.names[0] for m in local)}"] if local else []
    if wishes.tier == "budget":
        ways.append(
            "take the tier `balanced`"
            if wishes.allow_paid
            else "take the tier `balanced`, or allow paid models (`orchestrator.budget_tier_allows_paid`)"
        )
    else:
        ways.append("add a provider's key")
    return f"{what}; {', or '.join(ways)}, or rate a model of yours under [models] in the config"
