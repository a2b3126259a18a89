"""`tournaments`, `tournament.show`, `tournament.replay`, `reviews` and `reviews.resolve`: what the record has, and what people say of it."""

from __future__ import annotations

from daemon.methods.method import Caller
from daemon.world import World
from protocols.record import (
    ListTournaments,
    ReadRecord,
    Replay,
    Replayed,
    ReplayRecord,
    Resolved,
    ResolveReview,
    Reviews,
    ReviewsResolve,
    Show,
    Stored,
    TournamentList,
    Tournaments,
)


async def tournaments(world: World, caller: Caller, params: Tournaments) -> TournamentList:
    """The caller's own and those of the names below; everybody's with `operate` and no `user`."""
    return TournamentList(await world.record.call(ListTournaments(params, caller.whose(params.user))))


async def reviews(world: World, caller: Caller, params: Reviews) -> TournamentList:
    """Those that wait for a review."""
    return TournamentList(await world.record.call(ListTournaments(params, caller.whose(params.user))))


async def show(world: World, caller: Caller, params: Show) -> Stored:
    """One with its ballots."""
    return await world.record.call(ReadRecord(params.tournament_id, caller.whose(params.user)))


async def replay(world: World, caller: Caller, params: Replay) -> Replayed:
    """The verdict as it would have been."""
    return await world.record.call(ReplayRecord(params, caller.whose(params.user)))


async def resolve(world: World, caller: Caller, params: ReviewsResolve) -> Resolved:
    """Which answer was right; of the caller's own, of anybody's with `operate`."""
    user = caller.whose(params.user)
    return await world.record.call(ResolveReview(params.tournament_id, params.answer, params.why, user, caller.actor))
