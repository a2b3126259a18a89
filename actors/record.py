"""The record of tournaments: each with its ballots, its verdict and what a person said of it. The only writer of these tables."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec
import structlog

from actors.base import Actor, Wait, handles
from actors.clock import Clock
from actors.rules.replay import replayed
from actors.rules.review import review
from actors.rules.verdict import DECIDED
from actors.store.audit import audit_row
from actors.store.sqlite import Row, Store
from actors.store.tournament_rows import (
    SQL,
    as_json,
    ballot_of,
    ballot_row,
    bounded,
    left_row,
    opened_row,
    start_of,
    tournament_of,
)
from protocols.errors import BadRequest, LedgerReadonly, NotFound, QuorumError
from protocols.record import (
    LONGEST_ANSWER,
    AbandonRecord,
    CloseRecord,
    KeepBallot,
    ListTournaments,
    Opened,
    OpenRecord,
    ReadRecord,
    ReadReliability,
    Reliability,
    Replayed,
    ReplayRecord,
    Resolved,
    ResolveReview,
    Reviews,
    Stored,
    Terms,
    TournamentRow,
    Tournaments,
)
from protocols.tournament import AnswerSpec, Ballot, Verdict

LOST = "the daemon ended before its verdict was stored"
NO_ROOM = "its verdict could not be stored"
TRY_AGAIN_S = 30.0
"""Seconds between tries to write what could not be written, while the disk is full."""

MOST_BEHIND = 256
"""Verdicts that wait for space in memory, each of a megabyte at most; those above are left unfinished."""

log = structlog.get_logger("record")


class Record(Actor):
    """Keeps what tournaments say, and answers from it; how reliable models are is summed up in the same transactions.

    State: the tournaments of this process that are not written to their end, in `running`, which outlives a crash: each with its last rows
    once it is over; whether these are tried again; the review and the replay under way, which read long answers beside the loop.
    """

    def __init__(self, store: Store, clock: Clock, running: dict[str, list[Row]]) -> None:
        super().__init__()
        self._store = store
        self._clock = clock
        self._running = running
        self._behind = False
        self._reviewing = asyncio.Lock()
        self._reckoning = asyncio.Lock()

    def __repr__(self) -> str:
        over = sum(map(bool, self._running.values()))
        return f"<Record {len(self._running) - over} running{f', {over} to be written' if over else ''}>"

    async def opening(self) -> None:
        """What runs by the record and not in this process was left by an earlier one. A full disk must not keep the daemon from starting."""
        await self._store.written()
        try:
            await self._catch_up()
        except QuorumError as error:
            self._try_later(error)

    async def _catch_up(self) -> None:
        """Writes what could not be written. Raises QuorumError."""
        for one, rows in list(self._running.items()):
            if rows:
                await self._submit_last(one, rows)
        await self._leave_unfinished()

    async def _submit_last(self, one: str, rows: list[Row]) -> None:
        """Its last rows; of rows that no database takes, only that it is over. Raises QuorumError."""
        try:
            await self._store.submit(*rows)
        except LedgerReadonly:
            raise
        except QuorumError:
            self._running[one] = [left_row(one, NO_ROOM)]
            raise
        self._running.pop(one, None)

    async def _leave_unfinished(self) -> None:
        lost = [one for (one,) in await self._store.read(SQL["running"]) if one not in self._running]
        if lost:
            await self._store.submit(*(left_row(one, LOST) for one in lost))
            log.info("tournaments_unfinished", tournaments=len(lost))

    def _try_later(self, error: QuorumError) -> None:
        log.warning("record_stays_behind", why=str(error), try_again_s=TRY_AGAIN_S)
        if not self._behind:
            self._behind = True
            self.spawn(self._catch_up_later())

    async def _catch_up_later(self) -> None:
        while self._behind:
            await self._clock.sleep(TRY_AGAIN_S)
            with suppress(QuorumError):
                await self._catch_up()
                self._behind = False

    # ---- as it goes

    @handles(OpenRecord)
    def open(self, request: OpenRecord) -> Wait[None]:
        """A row that runs."""
        return Wait(self._open(request.opened))

    async def _open(self, opened: Opened) -> None:
        self._running[opened.tournament_id] = []
        try:
            await self._store.submit(opened_row(opened))
        except QuorumError:
            self._running.pop(opened.tournament_id, None)
            raise

    @handles(KeepBallot)
    def keep(self, request: KeepBallot) -> Wait[None]:
        """A ballot, in place of one of its slot."""
        return Wait(self._keep(request))

    async def _keep(self, request: KeepBallot) -> None:
        await self._store.submit(ballot_row(request.tournament_id, request.ballot))

    @handles(CloseRecord)
    def close(self, request: CloseRecord) -> Wait[None]:
        """The verdict with all its ballots, and who was right."""
        return Wait(self._close(request.verdict, request.agreed))

    async def _close(self, verdict: Verdict, agreed: list[int]) -> None:
        one = verdict.tournament_id
        rows = [ballot_row(one, ballot) for ballot in verdict.ballots]
        if agreed and _tells_who_agrees(verdict):
            rows.append((SQL["count_ballots"], (one, as_json(agreed))))
        kept = bounded(verdict)
        row = (one, kept.status, kept.answer, as_json(kept), kept.cost_nano_usd, int(kept.needs_review))
        await self._end(one, [*rows, (SQL["close"], row)])

    @handles(AbandonRecord)
    def abandon(self, request: AbandonRecord) -> Wait[None]:
        """No verdict came of it."""
        return Wait(self._end(request.tournament_id, [left_row(request.tournament_id, request.why)]))

    async def _end(self, one: str, rows: list[Row]) -> None:
        """Its last rows, now or, after a warning, when there is space: who asked hears its verdict in any case."""
        if self._running.get(one):
            return
        if sum(map(bool, self._running.values())) >= MOST_BEHIND and self._behind:
            rows = [left_row(one, NO_ROOM)]
        self._running[one] = rows
        try:
            await self._submit_last(one, rows)
        except QuorumError as error:
            self._try_later(error)
        except asyncio.CancelledError:
            self._running.pop(one, None)
            raise

    # ---- afterwards

    @handles(ReadReliability)
    def reliability(self, request: ReadReliability) -> Wait[dict[str, Reliability]]:
        """By model."""
        return Wait(self._reliability(request.task_type))

    async def _reliability(self, task_type: str | None) -> dict[str, Reliability]:
        rows = await self._store.read(SQL["reliability"], (task_type,))
        return {model: Reliability(model, agreed, of, (agreed + 1) / (of + 2)) for model, agreed, of in rows}

    @handles(ListTournaments)
    def list_all(self, request: ListTournaments) -> Wait[list[TournamentRow]]:
        """Newest first."""
        return Wait(self._rows(request.query, request.user))

    async def _rows(self, query: Tournaments | Reviews, user: str | None) -> list[TournamentRow]:
        asked: dict[str, Any] = {"before": query.before, "user": user, "last": query.last}
        if isinstance(query, Tournaments):
            asked |= {"needs_review": query.needs_review, "state": query.state, "task": query.task}
            return [tournament_of(row) for row in await self._store.survey(SQL["tournaments"], asked)]
        return [tournament_of(row) for row in await self._store.read(SQL["reviews"], asked)]

    @handles(ReadRecord)
    def read(self, request: ReadRecord) -> Wait[Stored]:
        """All that is stored of one."""
        return Wait(self._stored(request.tournament_id, request.user))

    async def _stored(self, one: str, user: str | None) -> Stored:
        found = await self._store.read(SQL["tournament"], {"id": one, "user": user})
        if not found:
            raise NotFound(f"there is no tournament `{one}` of yours; `daemonctl tournaments` lists them")
        *row, spec, terms, verdict = found[0]
        return Stored(
            tournament=tournament_of(row),
            spec=None if spec is None else msgspec.json.decode(spec, type=AnswerSpec),
            terms=msgspec.json.decode(terms, type=Terms),
            ballots=[ballot_of(ballot) for ballot in await self._store.read(SQL["ballots"], (one,))],
            verdict=None if verdict is None else msgspec.json.decode(verdict, type=Verdict),
        )

    @handles(ReplayRecord)
    def replay(self, request: ReplayRecord) -> Wait[Replayed]:
        """The verdict by another rule."""
        return Wait(self._replay(request))

    async def _replay(self, request: ReplayRecord) -> Replayed:
        stored = await self._stored(request.change.tournament_id, request.user)
        async with self._reckoning:
            return await asyncio.to_thread(replayed, stored, request.change)

    @handles(ResolveReview)
    def resolve(self, request: ResolveReview) -> Wait[Resolved]:
        """What was right, with an audit row, in one transaction; sums of reliability move by what that changes."""
        return Wait(self._resolve(request))

    async def _resolve(self, asked: ResolveReview) -> Resolved:
        one, who = asked.tournament_id, asked.actor
        async with self._reviewing:
            stored = await self._stored(one, asked.user)
            row = stored.tournament
            if row.state == "running":
                raise BadRequest(f"`{one}` still runs; review it when it is over")
            right = await asyncio.to_thread(review, asked.answer, stored.spec, stored.ballots)
            now, answer = self._clock.now_us(), start_of(right.answer, LONGEST_ANSWER)
            before = None if row.reviewed_answer is None else as_json(row.reviewed_answer)
            subject = f"{row.user}: {one}"
            audit = audit_row(
                who, now, "reviews.resolve", subject, before=before, after=as_json(answer), why=asked.why or None
            )
            counted: Row = (SQL["count_reviewed"], (one, as_json(right.slots)))
            await self._store.submit(counted, (SQL["review"], (one, answer, now, who.account)), audit)
        live = [ballot for ballot in stored.ballots if ballot.status == "ok"]
        return Resolved(one, answer, *_sides(live, right.slots))


def _sides(live: Sequence[Ballot], slots: Sequence[int]) -> tuple[list[str], list[str]]:
    """The models whose ballots agree, and the others."""
    return [b.model for b in live if b.slot in slots], [b.model for b in live if b.slot not in slots]


def _tells_who_agrees(verdict: Verdict) -> bool:
    """Whether its outcome says of each member whether it was right: one whose answer a judge liked less need not be wrong."""
    is_chosen = verdict.mode in {"pick", "fuse"} and verdict.agreement.method != "canonical"
    return verdict.status in DECIDED and not is_chosen
