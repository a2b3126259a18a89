"""`chat` and `explain`."""

from __future__ import annotations

from actors.completion import ChatCall
from daemon.methods.method import Caller
from daemon.world import World
from protocols.chat import Chat, ChatAnswer, Explain, ExplainedFault, Explanation


async def chat(world: World, caller: Caller, params: Chat) -> ChatAnswer:
    """One completion; its items are sent as they come when `stream` is true."""
    user = caller.peer.user(params.user)
    return await world.completions.chat(
        ChatCall(params, user, caller.app, caller.emit, caller.interrupted, caller.actor)
    )


async def explain(world: World, caller: Caller, params: Explain) -> Explanation:
    """The plan of a chat; nobody is called."""
    decision, fault = await world.completions.explain(params, caller.peer.user(params.user), caller.app)
    return Explanation(decision, None if fault is None else ExplainedFault(fault.code, fault.message))
