"""`usage`, `usage_stats` and `spend`."""

from __future__ import annotations

from datetime import tzinfo

from msgspec.structs import replace

from actors.clock import MICRO, parse_rfc3339, rfc3339
from actors.rules.periods import day_named, span_of
from daemon.methods.method import Caller
from daemon.world import World
from protocols.budget import ReadGroups, ReadUsage, Standing
from protocols.errors import BadRequest
from protocols.performance import ReadUsageStats, UsageStats, UsageStatsQuery
from protocols.usage import Spend, SpendGroup, SpendQuery, UsageQuery, UsageRows


async def usage(world: World, caller: Caller, params: UsageQuery) -> UsageRows:
    """The caller's own rows and those of the names below; everybody's with `operate` and no `user`."""
    query = params if params.day is None else _of_day(params, params.day, world.zone)
    return await world.ledger.call(ReadUsage(query, caller.whose(params.user)))


async def usage_stats(world: World, caller: Caller, params: UsageStatsQuery) -> UsageStats:
    """The models of one user, the caller unless said otherwise."""
    user = caller.peer.user(params.user)
    return UsageStats(user, await world.performance.call(ReadUsageStats(user)))


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
    since = span_of("month", now, world.zone).starts_at * MICRO if params.since is None else instant(params.since)
    until = now + MICRO if params.until is None else instant(params.until)
    return await world.ledger.call(ReadGroups(params, caller.whose(params.user), since, until))


def _of_day(query: UsageQuery, day: str, zone: tzinfo) -> UsageQuery:
    try:
        span = day_named(day, zone)
        return replace(query, day=None, since=rfc3339(span.starts_at * MICRO), until=rfc3339(span.ends_at * MICRO))
    except (ValueError, OverflowError) as error:  # a day at the end of the calendar has no next
        raise BadRequest(str(error)) from None


def instant(text: str) -> int:
    """A time that a caller gave, in µs since 1970. Raises BadRequest."""
    try:
        return parse_rfc3339(text)
    except ValueError as error:
        raise BadRequest(str(error)) from None
