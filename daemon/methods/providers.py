"""`providers` and `models`."""

from __future__ import annotations

from daemon.methods.method import Caller
from daemon.world import World
from protocols.errors import UnknownProvider
from protocols.provider import ModelList, Models, ProviderList, Providers, ReadStatuses, ReadViews


async def providers(world: World, _: Caller, __: Providers) -> ProviderList:
    """The providers and their state."""
    return ProviderList(await world.pool.call(ReadStatuses()))


async def models(world: World, _: Caller, params: Models) -> ModelList:
    """The models that the filters leave."""
    views = await world.pool.call(ReadViews())
    if params.provider is not None and params.provider not in {v.name for v in views}:
        raise UnknownProvider(
            f"there is no provider `{params.provider}`; there are: {', '.join(v.name for v in views)}"
        )
    rows = world.catalogue.infos(tuple(v for v in views if params.provider in {None, v.name}))
    return ModelList([row for row in rows if params.local is None or row.local == params.local])
