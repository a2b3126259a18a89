"""Rows of the record of tournaments: what is asked, ballots and verdicts as they are stored, bounded, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from actors.clock import rfc3339
from actors.store.queries import load
from actors.store.sqlite import Row
from protocols.record import CUT, LONGEST_ANSWER, LONGEST_PROMPT, LONGEST_TEXT, Opened, TournamentRow
from protocols.tournament import Agreement, Ballot, Verdict

SQL = load("record", first=700)


def left_row(one: str, why: str) -> Row:
    """One that ended without a verdict."""
    return SQL["leave_unfinished"], (one, why)


def opened_row(opened: Opened) -> Row:
    """One that begins."""
    members = [seat.model for seat in opened.terms.members]
    return (
        SQL["add_tournament"],
        (
            *(opened.tournament_id, opened.created_at, opened.user, opened.app, opened.task_type, opened.mode),
            start_of(opened.prompt, LONGEST_PROMPT),
            None if opened.spec is None else as_json(opened.spec),
            as_json(opened.terms),
            as_json(members),
        ),
    )


def ballot_row(one: str, ballot: Ballot) -> Row:
    """A ballot, in place of one of its slot."""
    latency = None if ballot.latency_ms is None else round(ballot.latency_ms * 1000)
    answer = None if ballot.answer is None else start_of(ballot.answer, LONGEST_ANSWER)
    return (
        SQL["put_ballot"],
        (
            *(one, ballot.slot, ballot.model, ballot.family, ballot.status, answer, _end(ballot.text), ballot.cluster),
            *(ballot.why, ballot.cost_nano_usd, latency, ballot.usage_id, ballot.round, ballot.arrived),
        ),
    )


def bounded(verdict: Verdict) -> Verdict:
    """As it is stored: without ballots, and with no answer above the bound."""
    groups = [
        replace(cluster, answer=start_of(cluster.answer, LONGEST_ANSWER)) for cluster in verdict.agreement.clusters
    ]
    told = verdict.agreement
    return replace(
        verdict,
        answer=None if verdict.answer is None else start_of(verdict.answer, LONGEST_ANSWER),
        agreement=Agreement(told.method, told.top_share, told.margin, groups),
        ballots=[],
    )


def start_of(text: str, longest: int) -> str:
    """Text that any database takes, cut at its end."""
    return _storable(text if len(text) <= longest else f"{text[: longest - 1]}…")


def _end(text: str) -> str:
    return _storable(text if len(text) <= LONGEST_TEXT else f"{CUT}{text[len(CUT) - LONGEST_TEXT :]}")


def _storable(text: str) -> str:
    """Without halves of surrogate pairs, which no database takes."""
    return text.encode("utf-8", "replace").decode()


def as_json(value: Any) -> str:
    """JSON, as a column has it."""
    return msgspec.json.encode(value).decode()


def tournament_of(row: Sequence[Any]) -> TournamentRow:
    """The row of a list."""
    (
        one,
        at,
        user,
        app,
        task_type,
        mode,
        state,
        status,
        answer,
        needs_review,
        members,
        prompt,
        cost,
        *reviewed,
        why,
    ) = row
    reviewed_answer, reviewed_at, reviewed_by = reviewed
    return TournamentRow(
        tournament_id=one,
        created_at=rfc3339(at),
        user=user,
        app=app,
        task_type=task_type,
        mode=mode,
        state=state,
        status=status,
        answer=answer,
        needs_review=bool(needs_review),
        members=msgspec.json.decode(members),
        prompt=prompt,
        cost_nano_usd=cost,
        reviewed_answer=reviewed_answer,
        reviewed_at=None if reviewed_at is None else rfc3339(reviewed_at),
        reviewed_by=reviewed_by,
        why=why,
    )


def ballot_of(row: Sequence[Any]) -> Ballot:
    """The ballot of a row."""
    slot, model, family, status, answer, text, cluster, why, cost, latency, usage_id, wave, arrived = row
    return Ballot(
        slot=slot,
        model=model,
        family=family,
        status=status,
        answer=answer,
        text=text,
        cluster=cluster,
        why=why,
        cost_nano_usd=cost,
        latency_ms=None if latency is None else latency / 1000,
        usage_id=usage_id,
        round=wave,
        arrived=arrived,
    )
