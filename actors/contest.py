"""A tournament under way: its members are asked in waves, until the outcome is certain or its time is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping

from msgspec import Struct

from actors.asking import Asking
from actors.attempt import Held
from actors.group import GroupHold
from actors.limit import Limit
from actors.panel import Bid, Panel
from actors.reading import UNPARSED, sought
from actors.rules.canonical import Canonical
from actors.rules.consensus import Vote
from actors.rules.verdict import LATE, asked_by
from actors.rules.waves import Asked, Launch, Played, Standing, Stop, Wait, step
from protocols.chat import Reply
from protocols.errors import DeadlineExceeded, QuorumError
from protocols.record import Seat
from protocols.settings import Mode
from protocols.tournament import Ballot, BallotStatus, Cast, Launched, Missing, Progress

EMPTY = "its reply was empty"
CUT_SHORT = "its reply was cut at `max_tokens`, and no answer of the declared type stands in it"


class Lane:
    """Members that run in turn, for they share a machine or a narrow provider.

    State: how many have not had their turn yet.
    """

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.waiting = 0


class Run(Struct):
    """A member that was launched.

    State: its hold, and the limit of its turn, once it has that; its ballot, and what is missing of it, once it has ended.
    """

    seat: Seat
    bid: Bid
    round: int
    held: Held | None = None
    limit: Limit | None = None
    ballot: Ballot | None = None
    missing: Missing | None = None
    answer: Canonical | None = None
    response_tokens: int = 0


class Contest:
    """The members of one tournament.

    State: where it stands, the runs by slot and their tasks, how many waves and ballots there were, and whether time is up.
    """

    def __init__(
        self,
        panel: Panel,
        group: GroupHold,
        asking: Asking,
        *,
        lanes: Mapping[int, str | None],
        left_s: float,
        emit: Callable[[Progress], None],
        keep: Callable[[Ballot], None],
    ) -> None:
        self._panel = panel
        self._group = group
        self._asking = asking
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + left_s
        self._emit = emit
        self._keep = keep
        self._seats = panel.seats
        self._members = {seat.slot for seat in panel.terms.members}
        self._lanes = _lanes(lanes, self._members & panel.bids.keys())
        self.runs: dict[int, Run] = {}
        self.absent: list[tuple[Ballot, Missing]] = []
        self._tasks: dict[asyncio.Task[Reply], int] = {}
        self._absent = {s.slot: panel.absent[s.slot] for s in panel.terms.members if s.slot in panel.absent}
        self._standing = Standing(failed=frozenset(self._absent))
        self._round = self._arrived = 0
        self._late = False

    def __repr__(self) -> str:
        return f"<Contest {len(self._standing.votes)} ballots, {len(self._tasks)} running>"

    async def play(self) -> Played:
        """Asks until it is decided, all are heard or time is up; whoever runs then is cancelled, and has settled on return."""
        self._tell_absent()
        try:
            early = await self._waves(self._asked())
        finally:
            await self._end()
        return Played(self._standing, early, self._late)

    async def _waves(self, asked: Asked) -> bool:
        """Launches and hears until the stop; whether there was more to be heard."""
        while True:
            match step(asked, self._standing):
                case Launch(slots):
                    self._launch(slots)
                case Wait():
                    if not await self._hear():
                        self._late = True
                        return False
                case Stop(_, early):
                    return early

    def _asked(self) -> Asked:
        """As waves read it: what only a judge compares is compared when all are heard."""
        mode: Mode = self._panel.mode
        if self._panel.spec is None and mode != "race":
            mode = "fuse"
        return asked_by(self._panel.terms, mode, self._panel.rule)

    def _tell_absent(self) -> None:
        for slot, fault in self._absent.items():
            seat = self._seats[slot]
            ballot = Ballot(slot=slot, model=seat.model, family=seat.family, status="failed", why=fault.code)
            self.absent.append((ballot, Missing(seat.model, fault.code, fault.message)))
            self._tell(ballot)

    # ---- asking

    def _launch(self, slots: tuple[int, ...]) -> None:
        self._round += 1
        for slot in slots:
            bid = self._panel.bids[slot]
            run = self.runs[slot] = Run(self._seats[slot], bid, self._round)
            bid.call.interrupted = self._interrupted(run, bid.call.interrupted)
            if slot in self._lanes and slot not in self._members:
                self._lanes[slot].waiting += 1
            self._tasks[self._loop.create_task(self._ask(run))] = slot
        self._standing = Standing(
            votes=self._standing.votes,
            running=self._standing.running | set(slots),
            failed=self._standing.failed,
        )
        self._emit(Launched([self._seats[slot].model for slot in slots]))

    def _held(self, run: Run) -> Held:
        """A member's hold is its group's; whoever stands in for one takes its own."""
        bid, is_member = run.bid, run.seat.slot in self._members
        taken = self._group.hand_over(bid.reserve.start.usage_id) if is_member else None
        return self._asking.held(bid.prepared, bid.target, bid.reserve, taken)

    async def _ask(self, run: Run) -> Reply:
        """One member's reply. Raises QuorumError, TimeoutError where its turn's share of the time is over, CancelledError."""
        lane = self._lanes.get(run.seat.slot)
        if lane is None:
            return await self._attempt(run)
        async with lane.turn:
            share_s = (self._until - self._loop.time()) / max(lane.waiting, 1)
            lane.waiting -= 1
            with Limit(self._loop, share_s) as run.limit:
                return await self._attempt(run)

    async def _attempt(self, run: Run) -> Reply:
        run.held = held = self._held(run)
        try:
            return await self._asking.ask(run.bid.prepared, run.bid.target, run.bid.call, held)
        finally:
            if held.end is not None:
                self._asking.tell(run.bid.call, run.bid.target, held)

    def _interrupted(self, run: Run, outer: Callable[[], type[QuorumError]]) -> Callable[[], type[QuorumError]]:
        """What cancels a member: the deadline of the whole or of its turn, what ended the call around it, or that it is not needed."""

        def interrupted() -> type[QuorumError]:
            is_late = self._late or (run.limit is not None and run.limit.expired)
            return DeadlineExceeded if is_late else outer()

        return interrupted

    # ---- hearing

    async def _hear(self) -> bool:
        """Waits for the next ballots; False when time is up."""
        left_s = max(self._until - self._loop.time(), 0.0)
        done, _ = await asyncio.wait(self._tasks, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            await self._read(self.runs[self._tasks.pop(task)], task)
        return bool(done)

    async def _read(self, run: Run, task: asyncio.Task[Reply]) -> None:
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        run.ballot, run.missing = await self._heard(run, task.result()) if error is None else self._failed(run, error)
        if run.ballot.status != "cancelled" and not (
            self._late and error is not None
        ):  # else it stands as one that ran
            answer, seat, self._arrived = run.answer, run.seat, self._arrived + 1
            run.ballot.arrived = self._arrived
            vote = None if answer is None else Vote(seat.slot, answer, seat.family, seat.quality)
            self._standing = self._standing.after(run.seat.slot, vote)
        self._tell(run.ballot)

    async def _heard(self, run: Run, reply: Reply) -> tuple[Ballot, Missing | None]:
        """The ballot of a member that replied; without an answer in it, it is no vote."""
        spec, said = self._panel.spec, bool(reply.text.strip())
        run.response_tokens = run.held.ended.tokens.response if run.held is not None else 0
        if spec is not None:
            run.answer = await sought(reply.text, spec)
        elif said:
            run.answer = Canonical(f"slot-{run.seat.slot}", reply.text)
        if run.answer is None:
            why = EMPTY if not said else CUT_SHORT if reply.finish_reason == "length" else UNPARSED
            return self._ballot(run, "unparsed", why, reply.text), Missing(run.seat.model, "unparsed", why)
        ballot = self._ballot(run, "ok", None, reply.text)
        ballot.answer = None if spec is None else run.answer.shown
        return ballot, None

    def _failed(self, run: Run, error: BaseException) -> tuple[Ballot, Missing]:
        """The ballot of a member that gave none, and what is told about it."""
        if self._late or isinstance(error, TimeoutError | DeadlineExceeded):
            missing = Missing(run.seat.model, LATE, "it had not answered at the deadline")
            return self._ballot(run, "failed", LATE), missing
        if isinstance(error, QuorumError):
            return self._ballot(run, "failed", error.code), Missing(run.seat.model, error.code, error.message)
        if isinstance(error, asyncio.CancelledError):
            missing = Missing(run.seat.model, "cancelled", "its answer was not needed any more")
            return self._ballot(run, "cancelled", None), missing
        raise error

    def _ballot(self, run: Run, status: BallotStatus, why: str | None, text: str = "") -> Ballot:
        end = None if run.held is None else run.held.end
        return Ballot(
            slot=run.seat.slot,
            model=run.seat.model,
            family=run.seat.family,
            status=status,
            text=text,
            why=why,
            cost_nano_usd=None if end is None else end.cost,
            latency_ms=None if end is None else end.latency_us / 1000,
            usage_id=None if end is None else run.bid.reserve.start.usage_id,
            round=run.round,
        )

    def _tell(self, ballot: Ballot) -> None:
        self._keep(ballot)
        self._emit(Cast(ballot))

    # ---- the end

    async def _end(self) -> None:
        """Cancels who runs, and waits until they have settled."""
        tasks, self._tasks = self._tasks, {}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for task, slot in tasks.items():
            await self._read(self.runs[slot], task)


def _lanes(named: Mapping[int, str | None], waiting: Collection[int]) -> dict[int, Lane]:
    """By slot. Those of the bench wait for no turn before they stand in for somebody."""
    lanes: dict[str, Lane] = {}
    placed: dict[int, Lane] = {}
    for slot, name in named.items():
        if name is not None:
            lane = placed[slot] = lanes.setdefault(name, Lane())
            lane.waiting += slot in waiting
    return placed
