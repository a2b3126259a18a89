"""`chat` and `explain`."""

from __future__ import annotations

from typing import Any

from actors.asking import ChatCall
from actors.idempotency import chat_once
from daemon.methods.method import Caller
from daemon.world import World
from protocols.chat import Chat, ChatAnswer, Explain, ExplainedFault, Explanation


async def chat(world: World, caller: Caller, params: Chat) -> ChatAnswer | dict[str, Any]:
    """One completion; its items are sent as they come when `stream` is true. With a key the same call is made once."""
    user = caller.peer.user(params.user)
    call = ChatCall(params, user, caller.app, caller.emit, caller.interrupted, caller.actor, left_s=caller.left_s)
    if caller.idempotency_key is None:
        return await world.chats.chat(call)
    return await chat_once(world.keys, world.chats, call, caller.peer.uid, caller.idempotency_key)


async def explain(world: World, caller: Caller, params: Explain) -> Explanation:
    """The plan of a chat; nobody is called."""
    user = caller.peer.user(params.user)
    decision, fault = await world.completions.explain(params, user, caller.app)
    if await world.chats.is_critical(params, user, caller.app):
        decision = world.chats.told(decision, params)
    return Explanation(decision, None if fault is None else ExplainedFault(fault.code, fault.message))
