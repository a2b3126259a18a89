"""What the names of models and providers mean: ids, aliases, bare names beside a provider; and what is near where they mean nothing."""

from __future__ import annotations

import difflib

from actors.rules.candidates import Target, World
from actors.rules.catalogue import NOTHING, described
from actors.rules.near import nearest_models
from protocols.errors import BadRequest, UnknownModel, UnknownProvider
from protocols.model import split_model_id
from protocols.provider import ProviderView
from protocols.routing import Step


def resolve_choice(model: str | None, provider: str | None, world: World) -> Target:
    """What a user chooses, as a target; its model is empty when only a provider is named. Raises as `resolve` does."""
    if model is not None:
        return resolve(model, provider, world, [])
    if provider is None:
        raise BadRequest("name a model, or a provider of which you have one")
    return Target(provider_named(provider, world, []).name, "")


def retired_why(target: Target, world: World) -> str | None:
    """Why calls to a model will be refused although it is kept: it is retired. Its successor is named."""
    entry, view = world.entries.get(str(target), NOTHING), world.view(target.provider)
    if view is not None and target.model:
        entry = described(entry, view, target.model)
    if not entry.retired:
        return None
    successor = f"; its successor is `{entry.successor}`" if entry.successor else ""
    return f"`{target}` is retired{successor}; it is kept, but calls to it are refused"


def unlisted_why(target: Target, world: World) -> str | None:
    """Why a model may not be there: neither its provider, which lists others, nor the config has it. The nearest are named."""
    view = world.view(target.provider)
    if not target.model or view is None or not view.models:
        return None
    prefix = f"{view.name}:"
    known = (*view.models, *(key.removeprefix(prefix) for key in world.entries if key.startswith(prefix)))
    if target.model in known:
        return None
    near = nearest_models(target.model, known, 1)
    hint = f"; the nearest is `{prefix}{near[0]}`" if near else "; `daemonctl models` lists what there is"
    return f"`{view.name}` does not list `{target.model}`, which is kept all the same{hint}"


def resolve(name: str, provider: str | None, world: World, steps: list[Step]) -> Target:
    """A model's name as a target: `provider:model` split at the first colon, an alias, or the bare name beside `provider`.

    A name that this provider itself has goes before an alias.
    Raises UnknownProvider, UnknownModel, BadRequest.
    """
    view = None if provider is None else provider_named(provider, world, steps)
    alias = None if view is not None and _offers(view, name, world) else world.aliases.get(name)
    if alias is not None and split_model_id(alias) is not None:
        steps.append(Step("alias", alias, f"`{name}` is an alias"))
        name = alias
    parts = split_model_id(name)
    named = _known(parts[0], world) if parts else None
    if view is not None:
        if named is not None and named != view.name:
            raise BadRequest(
                f"`model` names the provider `{named}`, `provider` says `{view.name}`; leave one of them out"
            )
        return Target(view.name, parts[1] if parts and named is not None else name)
    if parts is None:
        raise UnknownModel(
            f"`{name}` names no provider; write <provider>:<model>{_near_model(name, world)}", detail={"model": name}
        )
    return Target(provider_named(parts[0], world, steps).name, parts[1])


def provider_named(name: str, world: World, steps: list[Step]) -> ProviderView:
    """The provider of this name or alias. Raises UnknownProvider, naming the nearest."""
    known = _known(name, world)
    view = world.view(known) if known is not None else None
    if view is None:
        names = [v.name for v in world.views]
        near = difflib.get_close_matches(name, [*names, *(a for a in world.aliases if _known(a, world))], n=1)
        hint = f"did you mean `{near[0]}`? " if near else ""
        whose = f", which the alias `{name}` stands for" if name in world.aliases else ""
        raise UnknownProvider(
            f"there is no provider `{world.aliases.get(name, name)}`{whose}; {hint}there are: {', '.join(names) or 'none'}",
            detail={"provider": name},
        )
    if known != name:
        steps.append(Step("alias", view.name, f"`{name}` is an alias"))
    return view


def _known(name: str, world: World) -> str | None:
    """A provider's name, or the one that an alias stands for."""
    if name in world.by_name:
        return name
    alias = world.aliases.get(name)
    return alias if alias in world.by_name else None


def _offers(view: ProviderView, model: str, world: World) -> bool:
    return model in view.models or f"{view.name}:{model}" in world.entries


def _near_model(name: str, world: World) -> str:
    exact = next((f"{view.name}:{name}" for view in world.views if name in view.models), None)
    near = nearest_models(name, world.offered, 1) if exact is None else [exact]
    return f", perhaps `{near[0]}`" if near else ""
