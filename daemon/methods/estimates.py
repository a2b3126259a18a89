"""`estimate`."""

from __future__ import annotations

from msgspec.structs import replace

from actors.clock import MICRO
from actors.rules.estimate import assumed_answer, assumed_prompt, of_task, priced, summed
from actors.rules.matrix import known_task, task
from actors.rules.orchestrator import Wishes, choose
from daemon.methods.method import Caller
from daemon.methods.providers import comparable, price_of, wishes_of
from daemon.world import World
from protocols.chat import Chat, ExplainedFault
from protocols.estimate import Assumed, Estimate, Estimated, Missing


async def estimate(world: World, caller: Caller, params: Estimate) -> Estimated:
    """What a chat, or the calls of some tasks, would cost at the prices of now; nobody is called."""
    user = caller.peer.user(params.user)
    if params.usage is None or params.quality_tier is None:
        return await _of_request(world, params.request(), user, caller.app)
    wishes = await wishes_of(world, user, caller.app, params)
    return await _of_mix(world, params.usage, replace(wishes, tier=params.quality_tier))


async def _of_request(world: World, chat: Chat, user: str, app: str) -> Estimated:
    quoted = await world.completions.quoted(chat, user, app)
    quote, named = quoted.quote, chat.task_type
    prompt, prompt_source = assumed_prompt(quoted.chat, quote.about, quote.prompt_tokens)
    known = None if named is None else known_task(named, world.tasks)
    answer, answer_source = assumed_answer(known, quote.longest_answer)
    row = Assumed(
        task=named,
        model=quoted.model,
        calls=1,
        prompt_tokens=prompt,
        prompt_source=prompt_source,
        response_tokens=answer,
        response_source=answer_source,
        why=quoted.why,
        bound_nano_usd=quote.bound,
    )
    made = summed([priced(row, quote.price, world.clock.now_us() / MICRO)])
    if quoted.refused is not None:
        made.fault = ExplainedFault(quoted.refused.code, quoted.refused.message)
    return made


async def _of_mix(world: World, usage: dict[str, int], wishes: Wishes) -> Estimated:
    """The calls of each task at the model that `recommend` names for it."""
    kinds = {name: task(name, world.tasks) for name in usage}
    views = await comparable(world)
    models, now_s = world.catalogue.infos(views), world.clock.now_us() / MICRO
    rows: list[Assumed] = []
    missing: list[Missing] = []
    for name, calls in usage.items():
        match of_task(name, kinds[name], calls, choose(models, kinds[name], wishes)):
            case Missing() as none:
                missing.append(none)
            case row:
                rows.append(priced(row, price_of(world, views, row.model), now_s))
    return summed(rows, missing)
