"""`user_models.*`, `conversations.set_default` and `users`: what users chose."""

from __future__ import annotations

from daemon.methods.method import Caller
from daemon.world import World
from protocols.users import (
    AddModel,
    ChooseForConversation,
    ChooseModel,
    ChosenModel,
    ConversationDefault,
    DefaultModel,
    ForgetModel,
    GetDefault,
    ListModels,
    ListUsers,
    ModelsOf,
    RemoveModel,
    Resolve,
    Resolved,
    SetConversationDefault,
    SetDefault,
    UserList,
    UserModels,
    Users,
)
from protocols.warned import Warned


async def set_default(world: World, caller: Caller, params: SetDefault) -> ChosenModel:
    """Makes a model the user's default."""
    return await _choose(world, caller, params, as_default=True)


async def add(world: World, caller: Caller, params: AddModel) -> ChosenModel:
    """Makes a model the user's for its provider."""
    return await _choose(world, caller, params, as_default=False)


async def _choose(world: World, caller: Caller, params: SetDefault | AddModel, *, as_default: bool) -> ChosenModel:
    user = caller.peer.user(params.user)
    target, warnings = await world.planner.named(params.model, params.provider)
    model, parameters, metadata = target.model or None, params.parameters, params.metadata
    choice = ChooseModel(user, target.provider, model, as_default, parameters, metadata, caller.actor)
    chosen = await world.users.call(choice)
    if model is None:  # which one it is, is known only now
        _, warnings = await world.planner.named(chosen.model, chosen.provider)
    return ChosenModel(chosen, warnings)


async def remove(world: World, caller: Caller, params: RemoveModel) -> dict[str, object]:
    """Forgets the user's model of a provider, also of one that is gone from the config."""
    user, provider = caller.peer.user(params.user), world.planner.provider_named(params.provider)
    await world.users.call(ForgetModel(user, provider, caller.actor))
    return {}


async def get_default(world: World, caller: Caller, params: GetDefault) -> DefaultModel:
    """The user's default, if there is one."""
    models = await world.users.call(ModelsOf(caller.peer.user(params.user)))
    return DefaultModel(next((model for model in models if model.is_default), None))


async def list_models(world: World, caller: Caller, params: ListModels) -> UserModels:
    """The user's models."""
    return UserModels(await world.users.call(ModelsOf(caller.peer.user(params.user))))


async def resolved(world: World, caller: Caller, params: Resolve) -> Resolved:
    """Where a call would go."""
    return await world.completions.resolved(params, caller.peer.user(params.user), caller.app)


async def set_conversation_default(world: World, caller: Caller, params: SetConversationDefault) -> ConversationDefault:
    """Sets a conversation's default model, or takes it back."""
    user = caller.peer.user(params.user)
    model: str | None = None
    warnings: list[Warned] = []
    if params.model is not None:
        target, warnings = await world.planner.named(params.model, None)
        model = str(target)
    await world.users.call(ChooseForConversation(user, params.conversation, model, caller.actor))
    return ConversationDefault(params.conversation, model, warnings)


async def users(world: World, caller: Caller, params: Users) -> UserList:
    """Those who chose anything, a page of them."""
    del caller
    return UserList(await world.users.call(ListUsers(params.first, params.after or "")))
