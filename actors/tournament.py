"""Tournaments: several models are asked one question under one hold, and the verdict says honestly whether they agree."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import msgspec
from msgspec.structs import replace

from actors.asking import Asking
from actors.base import Actor, Ref, Wait, handles
from actors.budget import BudgetActor
from actors.clock import MICRO, Clock, Ids
from actors.contest import Contest
from actors.convening import Panels
from actors.group import GroupHold
from actors.jury import Jury
from actors.panel import Bid, Narrower, Panel, TournamentCall
from actors.planner import Planner
from actors.record import Record
from actors.rules.consensus import FEWEST_LIVE, needs_review
from actors.rules.members import Spared, lanes, saved
from actors.rules.tokens import prompt_estimate
from actors.scoring import Scored, score
from actors.session import Sessions, preferences_of
from protocols.budget import TOURNAMENT, CheckOverride, Confirmed, OfferOverride, OverBudget
from protocols.chat import Usage
from protocols.errors import (
    BudgetExceeded,
    BudgetHeld,
    Busy,
    NoEligibleModel,
    OverrideInvalid,
    OverrideRequired,
    QuorumError,
)
from protocols.money import NanoUSD, usd_text
from protocols.record import AbandonRecord, CloseRecord, KeepBallot, Opened, OpenRecord, Seat
from protocols.request import Request
from protocols.session import Preferences, Spent
from protocols.tournament import Ballot, Bounded, Cancelled, Decided, Tournament, Verdict
from protocols.usage import AttemptEnd

MOST_AT_ONCE = 256
"""Tournaments under way; each may have a dozen calls in flight."""

GRACE = 0.05
LEAST_GRACE_S, MOST_GRACE_S = 0.2, 1.0
"""The share of a call's time that is kept for cancelling, settling and telling the verdict; no more than half of it.

The least is what a few commits take on a busy disk.
"""

MEMBERS_SHARE = 0.6
"""Of the time of a tournament with judges: then these are to be heard, too."""


class RunTournament(Request[Verdict], frozen=True):
    """Hold a tournament. Raises what its panel can't be convened for, BudgetExceeded, BudgetHeld, OverrideRequired, LedgerReadonly."""

    call: TournamentCall


class TournamentActor(Actor):
    """Holds tournaments.

    State: how many are under way, and of these the contests by id.
    """

    def __init__(
        self,
        *,
        sessions: Ref[Sessions],
        budget: Ref[BudgetActor],
        record: Ref[Record],
        planner: Planner,
        asking: Asking,
        clock: Clock,
        ids: Ids,
    ) -> None:
        super().__init__()
        self._sessions = sessions
        self._budget = budget
        self._record = record
        self._planner = planner
        self._asking = asking
        self._clock = clock
        self._panels = Panels(planner, asking, record, ids)
        self._under_way = 0
        self._running: dict[str, Contest] = {}

    def __repr__(self) -> str:
        return f"<TournamentActor {self._under_way} under way>"

    @handles(RunTournament)
    def run(self, request: RunTournament) -> Wait[Verdict]:
        """Answers with the verdict; ends with its asker."""
        return Wait(self._one_of_many(request.call))

    async def _one_of_many(self, call: TournamentCall) -> Verdict:
        if self._under_way >= MOST_AT_ONCE:
            raise Busy(f"{MOST_AT_ONCE} tournaments are under way; try again when some have ended", retry_after_s=1.0)
        self._under_way += 1
        try:
            return await self._run(call)
        finally:
            self._under_way -= 1

    async def _run(self, call: TournamentCall) -> Verdict:
        ends_at = self._clock.monotonic() + call.left_s - _grace_s(call.left_s)
        preferences = await preferences_of(self._sessions, call.user, call.app, begins=True)
        cost = 0
        try:
            async with self._convened(call, preferences) as (panel, group):
                try:
                    await self._record.call(OpenRecord(_opened(panel, call, self._clock.now_us())))
                    verdict, agreed = await self._played(call, preferences, panel, group, ends_at)
                except BaseException as error:
                    self._record.tell(AbandonRecord(panel.tournament_id, _why(call, error)))
                    raise
                cost = verdict.cost_nano_usd
            await self._record.deliver(CloseRecord(verdict, agreed))  # whatever becomes of who asked: it is decided
            return verdict
        finally:
            self._sessions.tell(Spent(call.user, cost, None))

    # ---- the hold

    @asynccontextmanager
    async def _convened(self, call: TournamentCall, preferences: Preferences) -> AsyncIterator[tuple[Panel, GroupHold]]:
        """The panel under its hold: a smaller one where the budget is tight and the call allows it."""
        confirmed = await self._confirmed(call)
        narrower, refused = Narrower(), None
        while True:
            try:
                panel = await self._panels.convene(call, preferences, narrower)
            except NoEligibleModel as nobody:
                if refused is None:
                    raise
                raise BudgetExceeded(f"{refused.message}; {nobody.message}", detail=refused.detail) from nobody
            group = GroupHold(self._budget, tuple(bid.reserve for bid in panel.group), confirmed)
            try:
                await group.__aenter__()
                break
            except (OverBudget, BudgetHeld) as over:
                refused, narrower = over, await self._narrower(call, panel, narrower, over)
        call.emit(_bounded(panel))
        try:
            yield panel, group
        finally:
            await group.__aexit__(None, None, None)

    async def _narrower(
        self, call: TournamentCall, panel: Panel, narrower: Narrower, refused: OverBudget | BudgetHeld
    ) -> Narrower:
        """How the panel may fit. Raises what the call answers where it may not: a question, if the budget's owner allows one."""
        members, tight = len(panel.terms.members), call.params.on_tight_budget
        if tight == "shrink" and members > max(panel.rule.min_live, FEWEST_LIVE):
            return Narrower(most=members - 1)
        if tight == "local_only" and not narrower.local_only:
            return Narrower(local_only=True)
        if isinstance(refused, BudgetHeld):
            raise refused
        if tight == "reject" or refused.hard or not refused.may_override:
            raise BudgetExceeded(refused.message, detail=refused.detail)
        raise await self._question(call, panel, refused)

    async def _question(self, call: TournamentCall, panel: Panel, over: OverBudget) -> OverrideRequired:
        offer = await self._budget.call(OfferOverride(call.user, TOURNAMENT, body_hash(call.params), panel.bound))
        return OverrideRequired(
            f"Budget exceeded ({over.detail['percent_used']:.1f}% used). Continue with a tournament of "
            f"{len(panel.terms.members)} ({usd_text(panel.bound)})?",
            detail={
                **over.detail,
                "estimated_nano_usd": panel.bound,
                "alternative": None,
                "model": TOURNAMENT,
                "override_token": offer.token,
                "expires_at": offer.expires_at,
            },
        )

    async def _confirmed(self, call: TournamentCall) -> Confirmed | None:
        """Raises OverrideInvalid for a token that is not good for this tournament."""
        token = call.params.override_token
        if token is None:
            return None
        body = body_hash(call.params)
        if await self._budget.call(CheckOverride(token, call.user, body)) != TOURNAMENT:
            raise OverrideInvalid("this token confirms another call; ask again without it")
        return Confirmed(token, body, call.actor)

    # ---- the play

    async def _played(
        self, call: TournamentCall, preferences: Preferences, panel: Panel, group: GroupHold, ends_at: float
    ) -> tuple[Verdict, list[int]]:
        left_s = ends_at - self._clock.monotonic()
        world = await self._planner.world()
        contest = Contest(
            panel,
            group,
            self._asking,
            lanes=lanes(
                {slot: seat.model for slot, seat in panel.seats.items()}, world.by_name, self._asking.most_in_flight
            ),
            left_s=left_s * MEMBERS_SHARE if panel.judging or panel.fusing else left_s,
            emit=call.emit,
            keep=lambda ballot: self._record.tell(KeepBallot(panel.tournament_id, ballot)),
        )
        self._running[panel.tournament_id] = contest
        try:
            played = await contest.play()
        finally:
            del self._running[panel.tournament_id]
            call.sent = any(run.held is not None and run.held.progress.sent for run in contest.runs.values())
        self._tell_spared(call, panel, contest)
        jury = Jury(
            panel,
            group,
            self._asking,
            self._planner,
            preferences,
            left_s=ends_at - self._clock.monotonic(),
            emit=call.emit,
        )
        scored = await score(panel, contest, played, jury, call.params.max_tokens)
        scored.flags = sorted({*scored.flags, *jury.flags})
        call.emit(Decided(scored.status, "deadline" if played.cut else "decided" if played.early else "heard"))
        return self._verdict(panel, contest, jury, scored, cut=played.cut), list(scored.agreed)

    def _tell_spared(self, call: TournamentCall, panel: Panel, contest: Contest) -> None:
        never = [
            seat.model for seat in panel.terms.members if seat.slot in panel.bids and seat.slot not in contest.runs
        ]
        cut = [run.seat.model for run in contest.runs.values() if run.ballot and run.ballot.status == "cancelled"]
        if never or cut:
            call.emit(Cancelled([*cut, *never]))

    # ---- the verdict

    def _verdict(self, panel: Panel, contest: Contest, jury: Jury, scored: Scored, *, cut: bool) -> Verdict:
        ballots = _ballots(contest, scored)
        spent = [run.held for run in contest.runs.values() if run.held is not None] + jury.held
        cost = NanoUSD(sum(held.end.cost or 0 for held in spent if held.end is not None))
        missing = [missing for _, missing in contest.absent]
        missing += [run.missing for run in contest.runs.values() if run.missing is not None]
        return Verdict(
            tournament_id=panel.tournament_id,
            status=scored.status,
            answer=scored.answer,
            answer_kind=scored.kind,
            winner=self._winner(panel, scored),
            agreement=scored.agreement,
            flags=list(scored.flags),
            needs_review=needs_review(scored.status, critical=panel.terms.critical),
            ballots=ballots,
            missing=[*missing, *panel.left_out, *jury.missing],
            mode=panel.mode,
            cost_nano_usd=cost,
            bound_nano_usd=panel.bound,
            saved_nano_usd=self._saved(panel, contest, cut=cut),
            simulated=self._asking.all_simulated(seat.model for seat in panel.terms.members),
            usage=_usage(held.end for held in spent if held.end is not None),
            lacks=list(dict.fromkeys(held.model for held in spent if held.end is not None and held.end.cost is None)),
        )

    def _winner(self, panel: Panel, scored: Scored) -> str | None:
        """Whose the answer is."""
        if scored.kind == "fused" and panel.fusing is not None:
            return str(panel.fusing.target)
        return None if scored.slot is None else panel.seats[scored.slot].model

    def _saved(self, panel: Panel, contest: Contest, *, cut: bool) -> NanoUSD:
        """What members that were not needed would have cost: an estimate, and a low one. Whom the time did not reach was needed."""
        if cut:
            return NanoUSD(0)
        spared = [
            _spared(panel.bids[seat.slot], seat, contest)
            for seat in panel.terms.members
            if seat.slot in panel.bids and _was_spared(contest, seat.slot)
        ]
        answers = [run.response_tokens for run in contest.runs.values() if run.response_tokens]
        return saved(spared, answers, self._clock.now_us() / MICRO)


def _grace_s(left_s: float) -> float:
    return min(max(left_s * GRACE, LEAST_GRACE_S), MOST_GRACE_S, left_s / 2)


def _why(call: TournamentCall, error: BaseException) -> str:
    """Why there is no verdict."""
    if isinstance(error, QuorumError):
        return error.message
    return _INTERRUPTED.get(call.interrupted().code, "it was cancelled")


_INTERRUPTED = {"deadline": "its deadline passed", "shutting_down": "the daemon was shutting down"}


def body_hash(params: Tournament) -> bytes:
    """What a confirmation is bound to: all that is asked, but not how it is delivered nor what confirms it."""
    asked = replace(params, stream=False, override_token=None)
    return hashlib.sha256(msgspec.msgpack.encode(asked)).digest()


def _usage(ends: Iterable[AttemptEnd]) -> Usage:
    """Of all who were asked together; as good as the worst of its counts."""
    known = list(ends)
    sources = {end.token_source for end in known}
    source = next((each for each in ("estimate", "tokenizer") if each in sources), "provider")
    counts = [end.tokens for end in known]
    return Usage(
        sum(count.prompt for count in counts),
        sum(count.cached for count in counts),
        sum(count.response for count in counts),
        sum(count.reasoning for count in counts),
        source,
    )


def _opened(panel: Panel, call: TournamentCall, now_us: int) -> Opened:
    last = next((message.text() for message in reversed(panel.question) if message.role == "user"), "")
    return Opened(
        tournament_id=panel.tournament_id,
        user=call.user,
        app=call.app,
        task_type=call.params.task_type,
        mode=panel.mode,
        prompt=last,
        spec=panel.spec,
        terms=panel.terms,
        created_at=now_us,
    )


def _bounded(panel: Panel) -> Bounded:
    return Bounded(
        tournament_id=panel.tournament_id,
        mode=panel.mode,
        members=[seat.model for seat in panel.terms.members],
        bench=[seat.model for seat in panel.terms.bench],
        judges=list(panel.judging),
        aggregator=None if panel.fusing is None else str(panel.fusing.target),
        bound_nano_usd=panel.bound,
        shrunk=panel.terms.shrunk,
    )


def _ballots(contest: Contest, scored: Scored) -> list[Ballot]:
    """All that were launched, each with the cluster that it is in."""
    clusters = {slot: number for number, group in enumerate(scored.clusters) for slot in group}
    ballots = [ballot for ballot, _ in contest.absent]
    ballots += [run.ballot for run in contest.runs.values() if run.ballot is not None]
    for ballot in ballots:
        ballot.cluster = clusters.get(ballot.slot)
    return sorted(ballots, key=lambda ballot: ballot.slot)


def _was_spared(contest: Contest, slot: int) -> bool:
    run = contest.runs.get(slot)
    return run is None or (run.ballot is not None and run.ballot.status == "cancelled")


def _spared(bid: Bid, seat: Seat, contest: Contest) -> Spared:
    quote, run = bid.prepared.quotes.of(bid.target), contest.runs.get(seat.slot)
    about = quote.about if quote.about is not None else prompt_estimate(bid.prepared.chat, quote.prompt_tokens)
    end = None if run is None or run.held is None else run.held.end
    return Spared(
        price=quote.price,
        prompt_tokens=about,
        bound=quote.bound or NanoUSD(0),
        charged=None if end is None else end.cost or NanoUSD(0),
        billing="whole" if seat.whole else "emitted",
    )
