"""Who takes part in a tournament where the user does not say: members, their bench, judges, aggregator; and what not asking some saved. Pure.

Callers pass only models that may be asked: simulated ones never beside others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain, zip_longest
from math import inf

from msgspec import Struct

from actors.rules.consensus import FEWEST_LIVE
from actors.rules.matrix import Task, identity
from actors.rules.orchestrator import LOW_FLOOR, NEAR, Wishes, choose, cost_usd
from actors.rules.pricing import Price, cost
from protocols.chat import TokenCount
from protocols.model import ModelInfo
from protocols.money import NanoUSD
from protocols.provider import BillingOnCancel, ProviderView
from protocols.record import Reliability
from protocols.settings import Mode

UNKNOWN_SCORE = 0.5
"""The reliability of a model without a record: what the smoothed score of no tournaments is."""

QUICK = frozenset({"very_fast", "fast"})

JUDGING = Task(prompt_tokens=2000, response_tokens=200)
"""What one call of a judge is taken to have, to tell cheap judges from dear ones."""


class Team(Struct, frozen=True):
    """Members in order, and who stands in for them. Fewer than were asked for: there are no more. `tier_exceeded`: a member is paid
    although the tier is `budget`."""

    members: tuple[ModelInfo, ...]
    bench: tuple[ModelInfo, ...] = ()
    tier_exceeded: bool = False


class Spared(Struct, frozen=True, kw_only=True):
    """A member that was cancelled, or with `charged` None never launched. `bound` is the most that its call could have cost."""

    price: Price | None
    prompt_tokens: int
    bound: NanoUSD
    charged: NanoUSD | None = None
    billing: BillingOnCancel = "emitted"


# ---- members


def choose_members(
    models: Sequence[ModelInfo], task: Task, n: int, reliability: Mapping[str, Reliability], wishes: Wishes
) -> Team:
    """`n` models for a task, of as many families as there are, and up to `n` more to stand in for them.

    Those of the tier (design §5, see `orchestrator.choose`) take turns by family: the best of each, then the second of each. In
    a family the reliable come first (to a tenth: less is chance), then quality, then what is cheap; at the budget tier what is cheap,
    then quality. What they leave open is filled with others of quality 6 or more, at the budget tier paid ones where these are allowed,
    then with unrated ones. So is the last place if all before it are of one family, since one family makes no consensus. A model that
    several providers offer takes part once; its twins go to the bench, for a provider that fails takes only its own with it.
    """
    layers = _layers(models, task, wishes)
    ranked = sorted((m for m in models if m.id in layers), key=lambda m: _rank(m, task, reliability, wishes))
    order, twins = _without_twins(_in_order(ranked, layers))
    members = _with_second_family(order, n)
    waiting = {m.id for m in order} - {m.id for m in members}
    bench = [*_in_order([m for m in ranked if m.id in waiting], layers), *twins]
    return Team(tuple(members), tuple(bench[:n]), wishes.tier == "budget" and not all(m.local for m in members))


def _layers(models: Sequence[ModelInfo], task: Task, wishes: Wishes) -> dict[str, int]:
    """Who may be asked, by id: 0 for those of the tier, 1 for others that are good enough, 2 for unrated ones."""
    layers = {m.id: 0 for m in choose(models, task, wishes).models}
    for model in models:
        if model.id not in layers and _may_help(model, task, wishes):
            layers[model.id] = 2 if model.quality is None else 1
    return layers


def _in_order(ranked: Sequence[ModelInfo], layers: Mapping[str, int]) -> list[ModelInfo]:
    """Layer by layer, in each by turns."""
    each = (_by_turns(m for m in ranked if layers[m.id] == layer) for layer in sorted(set(layers.values())))
    return list(chain.from_iterable(each))


def _may_help(model: ModelInfo, task: Task, wishes: Wishes) -> bool:
    """Whether a model not of the tier may fill a place: nothing says that it can't do the task, or that the tier doesn't pay for it."""
    if not model.available or (model.quality is not None and model.quality < LOW_FLOOR):
        return False
    if task.strength and model.strengths and task.strength not in model.strengths:
        return False
    return _is_paid_for(model, wishes) and (wishes.tier == "premium" or cost_usd(model, task) is not None)


def _is_paid_for(model: ModelInfo, wishes: Wishes) -> bool:
    return model.local or wishes.tier != "budget" or wishes.allow_paid


def _rank(
    model: ModelInfo, task: Task, reliability: Mapping[str, Reliability], wishes: Wishes
) -> tuple[float, float, float, float, str]:
    record = reliability.get(model.id)
    score = UNKNOWN_SCORE if record is None else record.score
    local = NEAR if wishes.prefer_local and model.local else 0.0
    usd = _cost(model, task)
    cheap = usd if wishes.tier == "budget" else 0.0
    return -round(score, 1), cheap, -(model.quality or 0.0) - local, usd, model.id


def _cost(model: ModelInfo, task: Task) -> float:
    """Dollars; a price that nobody knows comes last."""
    usd = cost_usd(model, task)
    return inf if usd is None else usd


def _by_turns(ranked: Iterable[ModelInfo]) -> list[ModelInfo]:
    """One of each family, then a second of each, and so on; in each turn models of unknown family come last, as one family."""
    by_family: dict[str | None, list[ModelInfo]] = {}
    for model in ranked:
        by_family.setdefault(model.family, []).append(model)
    families = sorted(by_family.items(), key=lambda item: item[0] is None)
    turns = zip_longest(*(models for _, models in families))
    return [model for model in chain.from_iterable(turns) if model is not None]


def _without_twins(order: Iterable[ModelInfo]) -> tuple[list[ModelInfo], list[ModelInfo]]:
    """Each model once, at its first place; and its further offers."""
    firsts: dict[str, ModelInfo] = {}
    twins = [m for m in order if firsts.setdefault(identity(m.id), m) is not m]
    return list(firsts.values()), twins


def _with_second_family(order: Sequence[ModelInfo], n: int) -> list[ModelInfo]:
    members = list(order[:n])
    present = {m.family for m in members} - {None}
    if len(members) < FEWEST_LIVE or len(present) >= FEWEST_LIVE:
        return members
    other = next((m for m in order[n:] if m.family is not None and m.family not in present), None)
    return members if other is None else [*members[:-1], other]


# ---- judges and aggregator


def choose_judges(
    models: Sequence[ModelInfo], taken: Collection[str], families: Collection[str | None], n: int, wishes: Wishes
) -> list[str]:
    """Up to `n` judges, by id: small models (fast, then cheap) of families other than the candidates', by turns.

    Then larger ones of other families, then any that is none of the candidates (`taken`, ids) by another provider either. A judge has a
    quality of 6 or more, for the word of a weaker one is worth less than none; with none like that the list is empty. Nobody is a
    judge whom the tier does not pay for.
    """
    own = {identity(model) for model in taken}
    fit = [m for m in _rated(models, wishes) if (m.quality or 0.0) >= LOW_FLOOR and identity(m.id) not in own]
    ranked = sorted(fit, key=lambda m: (_cost(m, JUDGING), -(m.quality or 0.0), m.id))
    foreign = [m for m in ranked if m.family is not None and m.family not in families]
    small = [m for m in foreign if m.speed in QUICK]
    larger = [m for m in foreign if m not in small]
    rest = [m for m in ranked if m not in foreign]
    order, _ = _without_twins([*_by_turns(small), *_by_turns(larger), *_by_turns(rest)])
    return [m.id for m in order[:n]]


def choose_aggregator(models: Sequence[ModelInfo], task: Task, wishes: Wishes) -> str | None:
    """The strongest model available, by id; of equals the one with the task's strength, then the cheaper one. It may be a member."""
    ranked = sorted(
        _rated(models, wishes),
        key=lambda m: (-(m.quality or 0.0), task.strength not in m.strengths, _cost(m, task), m.id),
    )
    return ranked[0].id if ranked else None


def _rated(models: Iterable[ModelInfo], wishes: Wishes) -> list[ModelInfo]:
    return [m for m in models if m.available and m.quality is not None and _is_paid_for(m, wishes)]


# ---- how it is played


def default_mode(*, critical: bool, typed: bool, judged: bool) -> Mode:
    """The mode where nobody names one: `typed` is whether an answer type is declared, `judged` whether there is a judge.

    A declared type is compared without a judge: two cheap members and a stronger one where they differ for critical tasks, which a
    person looks at when they end undecided, else a vote. Without a type there is nothing to compare until it is decided, so the
    best answer is picked; without a judge a vote ends `unscored`, and says so.
    """
    if typed:
        return "cascade" if critical else "vote"
    return "pick" if judged else "vote"


def lanes(
    members: Mapping[int, str], views: Mapping[str, ProviderView], in_flight: Mapping[str, int]
) -> dict[int, str | None]:
    """For each slot the lane in which it waits its turn, None for one that need not wait. `members` are their model ids.

    Members at one local provider share one lane, for they share a machine. A provider that takes fewer at once (`in_flight`, by
    its name) than it has members has as many lanes as it takes; nobody would be answered sooner by asking it for more.
    """
    queues: dict[str, list[int]] = {}
    for slot, model in members.items():
        queues.setdefault(model.partition(":")[0], []).append(slot)
    placed: dict[int, str | None] = {}
    for provider, slots in queues.items():
        view = views.get(provider)
        room = 1 if view is not None and view.local else in_flight.get(provider, len(slots))
        for turn, slot in enumerate(slots):
            placed[slot] = f"{provider}/{turn % room}" if room < len(slots) else None
    return placed


# ---- what was saved


def saved(spared: Iterable[Spared], response_tokens: Sequence[int], at_s: float | None = None) -> NanoUSD:
    """What the members that were not needed would have cost beside what they did, in nano-dollars: an estimate, and a low one.

    Each is taken to answer as long as the ballots that are in did on average (`response_tokens`; with none, only its prompt
    counts), at its price at `at_s` (Unix seconds), and never above its bound. Where cancelled calls are billed whole nothing was saved,
    and nothing is claimed where no price is known. The bench was never asked for: not asking it saves nothing.
    """
    mean = sum(response_tokens) // max(len(response_tokens), 1)
    return NanoUSD(sum(_saved(each, mean, at_s) for each in spared))


def _saved(spared: Spared, response_tokens: int, at_s: float | None) -> int:
    if spared.price is None or (spared.charged is not None and spared.billing == "whole"):
        return 0
    tokens = TokenCount(prompt=spared.prompt_tokens, response=response_tokens)
    expected = min(cost(spared.price, tokens, at_s), spared.bound)
    return max(expected - (spared.charged or 0), 0)
