"""`providers`, `models` and `recommend`."""

from __future__ import annotations

from typing import get_args

from msgspec import UNSET
from msgspec.structs import replace

from actors.clock import MICRO
from actors.rules.matrix import Task, task
from actors.rules.orchestrator import Wishes, choose
from actors.rules.pricing import DAY_S, Price
from actors.rules.saving import DAYS, saving
from actors.session import preferences_of
from daemon.methods.method import Caller
from daemon.world import World
from protocols.budget import ReadPaidCalls
from protocols.errors import UnknownProvider
from protocols.estimate import Estimate
from protocols.model import Tier
from protocols.provider import ModelList, Models, ProviderList, Providers, ProviderView, ReadStatuses, ReadViews
from protocols.routing import Recommend, Recommendation, Recommended


async def providers(world: World, _: Caller, __: Providers) -> ProviderList:
    """The providers and their state."""
    return ProviderList(await world.pool.call(ReadStatuses()))


async def models(world: World, _: Caller, params: Models) -> ModelList:
    """The models that the filters leave."""
    ranked = params.tier is not None
    views = await (world.planner.views_priced() if ranked else world.pool.call(ReadViews()))
    if params.provider is not None and params.provider not in {v.name for v in views}:
        raise UnknownProvider(
            f"there is no provider `{params.provider}`; there are: {', '.join(v.name for v in views)}"
        )
    if params.provider is not None:
        views = tuple(v for v in views if v.name == params.provider)
    elif ranked:
        views = real(views)
    rows = world.catalogue.infos(views)
    wanted = Task() if params.task is None else task(params.task, world.tasks)
    if params.tier is not None:
        rows = choose(rows, wanted, Wishes(params.tier)).models
    return ModelList(
        [
            row
            for row in rows
            if (params.local is None or row.local == params.local)
            and (wanted.strength is None or wanted.strength in row.strengths)
        ]
    )


async def recommend(world: World, caller: Caller, params: Recommend) -> Recommendation:
    """The model for a task at each tier, and what it would have saved of the caller's own spend."""
    wanted = task(params.task_type, world.tasks)
    wishes = await wishes_of(world, caller.peer.user(None), caller.app, params)
    views = await comparable(world)
    rows = world.catalogue.infos(views)
    found: dict[Tier, Recommended] = {}
    ways_out = {}
    for tier in get_args(Tier):
        choice = choose(rows, wanted, replace(wishes, tier=tier))
        if choice.models:
            found[tier] = Recommended(choice.models[0].id, choice.why, choice.tier_exceeded)
        else:
            ways_out[tier] = choice.why
    since = world.clock.now_us() - DAYS * DAY_S * MICRO
    paid = await world.ledger.call(ReadPaidCalls(params.task_type, caller.peer.account, since))
    offers = {tier: (each.model, price_of(world, views, each.model)) for tier, each in found.items()}
    return Recommendation(
        params.task_type,
        wanted.strength,
        wanted.prompt_tokens,
        wanted.response_tokens,
        **found,
        ways_out=ways_out,
        saving=saving(paid, offers) or UNSET,
    )


async def wishes_of(world: World, user: str, app: str, said: Recommend | Estimate) -> Wishes:
    """How the orchestrator chooses for a user: as the request says, else as the user's settings do, the tier too."""
    own = (await preferences_of(world.sessions, user, app)).orchestrator
    return Wishes(
        own.quality_tier,
        own.prefer_local if said.prefer_local is None else said.prefer_local,
        own.budget_tier_allows_paid if said.budget_tier_allows_paid is None else said.budget_tier_allows_paid,
    )


async def comparable(world: World) -> tuple[ProviderView, ...]:
    """The providers whose models are compared; simulated ones only where there is nothing else."""
    return real(await world.planner.views_priced())


def real(views: tuple[ProviderView, ...]) -> tuple[ProviderView, ...]:
    """Simulated providers are no candidates beside others."""
    return tuple(view for view in views if not view.simulated) or views


def price_of(world: World, views: tuple[ProviderView, ...], model_id: str) -> Price | None:
    """What a model of these providers costs, or None where nobody knows."""
    provider, _, model = model_id.partition(":")
    return world.catalogue.price(next(v for v in views if v.name == provider), model)
