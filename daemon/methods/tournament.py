"""`tournament`."""

from __future__ import annotations

from actors.panel import TournamentCall
from actors.tournament import RunTournament
from daemon.methods.method import Caller
from daemon.world import World
from protocols.tournament import Progress, Tournament, Verdict


async def tournament(world: World, caller: Caller, params: Tournament) -> Verdict:
    """Several models are asked; progress is sent as it comes when `stream` is true."""

    def emit(item: Progress) -> None:
        if params.stream:
            caller.emit(item)

    user = caller.peer.user(params.user)
    call = TournamentCall(params, user, caller.app, caller.actor, emit, caller.interrupted, caller.left_s)
    return await world.tournaments.call(RunTournament(call))
