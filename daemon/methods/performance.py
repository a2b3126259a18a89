"""`performance` and `feedback`."""

from __future__ import annotations

from actors.clock import MICRO, rfc3339
from daemon.methods.method import Caller
from daemon.methods.usage import instant
from daemon.world import World
from protocols.performance import (
    Feedback,
    FeedbackKept,
    KeepFeedback,
    PerformanceAnswer,
    PerformanceQuery,
    ReadArms,
    ReadModels,
    Within,
)

RANGE_S = 30 * 86_400
"""How far it looks back, unless the caller says since when."""


async def performance(world: World, caller: Caller, params: PerformanceQuery) -> PerformanceAnswer:
    """Over the caller's own rows and those of the names below; everybody's with `operate` and no `user`."""
    now = world.clock.now_us() + 1
    until = now if params.until is None else max(0, min(instant(params.until), now))
    since = until - RANGE_S * MICRO if params.since is None else instant(params.since)
    since = max(0, min(since, until))
    within = Within(caller.whose(params.user), since, until, params.model, params.task)
    times = (rfc3339(since), rfc3339(until))
    if params.ab:
        arms = await world.performance.call(ReadArms(within))
        return PerformanceAnswer(*times, arms=arms)
    rows = await world.performance.call(ReadModels(within))
    return PerformanceAnswer(*times, rows=rows)


async def feedback(world: World, caller: Caller, params: Feedback) -> FeedbackKept:
    """What is said of a call of the caller's own or of the names below; of anybody's with `operate`."""
    by, whose = caller.peer.account, caller.whose(None)
    return await world.performance.call(KeepFeedback(params.call_id, params.rating, params.comment, by, whose))
