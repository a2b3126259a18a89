"""`usage` and `spend`."""

from __future__ import annotations

from actors.clock import MICRO, parse_rfc3339
from actors.rules.periods import span_of
from daemon.methods.method import Caller
from daemon.world import World
from protocols.budget import ReadGroups, ReadUsage, Standing
from protocols.errors import BadRequest
from protocols.usage import Spend, SpendGroup, SpendQuery, UsageQuery, UsageRows


async def usage(world: World, caller: Caller, params: UsageQuery) -> UsageRows:
    """The caller's own rows and those of the names below; everybody's with `operate` and no `user`."""
    return await world.ledger.call(ReadUsage(params, caller.whose(params.user)))


async def spend(world: World, caller: Caller, params: SpendQuery) -> Spend:
    """Spend against the limits, and sums by a key if asked."""
    user = caller.peer.user(params.user)
    scopes = await world.budget.call(Standing(user))
    if params.user is None and "operate" in caller.peer.rights:
        seen = {(row.scope, row.period) for row in scopes}
        scopes += [row for row in await world.budget.call(Standing(None)) if (row.scope, row.period) not in seen]
    return Spend(scopes, await _groups(world, caller, params) if params.by is not None else None)


async def _groups(world: World, caller: Caller, params: SpendQuery) -> list[SpendGroup]:
    now = world.clock.now_us()
    since = span_of("month", now, world.zone).starts_at * MICRO if params.since is None else _instant(params.since)
    until = now + MICRO if params.until is None else _instant(params.until)
    return await world.ledger.call(ReadGroups(params, caller.whose(params.user), since, until))


def _instant(text: str) -> int:
    try:
        return parse_rfc3339(text)
    except ValueError as error:
        raise BadRequest(str(error)) from None
