"""A tournament evaluated anew from its stored ballots, with another threshold, mode or answer type. Pure: nobody is called.

What moves no stop is evaluated where it stopped, and a race by the order in which its ballots came. Else members are asked again in the waves of `waves.step`, and each ballot comes as
long after its launch as it did then. A member of whom
no answer is stored (it was cancelled, or never asked) comes last and counts as failed: nobody knows what it would have said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from heapq import heappop, heappush
from typing import Literal, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from actors.rules.canonical import Canonical, canonical
from actors.rules.canonical.choice import distinct
from actors.rules.consensus import Finding, Vote, agreement, found, needs_review, unscored
from actors.rules.contract import extract
from actors.rules.verdict import LATE, asked_by, counted, first, outcome, rule_of
from actors.rules.waves import Asked, Launch, Played, Standing, Stop, Wait, step
from protocols.errors import BadRequest
from protocols.money import NanoUSD
from protocols.record import CUT, Difference, Replay, Replayed, Seat, Stored, Terms
from protocols.settings import Mode
from protocols.tournament import AnswerSpec, AnswerType, Ballot, Missing, Verdict

LAST_MS = 1e12
"""When one that is not stored comes, in milliseconds: after all that are."""

SLOW: frozenset[AnswerType] = frozenset({"code", "json"})
"""What takes long to be read again, and may be too long for it: its ballots are compared as they were then."""

UNHEARD = frozenset({"cancelled", "running"})
"""Ballots without anything that their member said."""


class Arrival(NamedTuple):
    """When a ballot came: milliseconds after its launch, and its place among all, from 1."""

    after_ms: float
    place: int


NEVER = Arrival(LAST_MS, 0)


class Setting(Struct, frozen=True):
    """What a replay goes by."""

    spec: AnswerSpec | None
    terms: Terms
    mode: Mode


def replayed(stored: Stored, change: Replay) -> Replayed:
    """The verdict with what is changed. Raises BadRequest for what can't be evaluated so."""
    setting = _changed(stored, change)
    votes = _votes(stored, setting)
    played = _played(stored, setting, votes)
    finding = _finding(stored, setting, played)
    verdict = _verdict(stored, setting, played, finding)
    return Replayed(verdict, _differences(stored.verdict, verdict), _not_heard(stored, setting.terms, played))


def play(
    asked: Asked, votes: Mapping[int, Vote], arrivals: Mapping[int, Arrival], *, absent: frozenset[int], cut: bool
) -> Played:
    """Plays to the stop. `arrivals`: when a slot's ballot comes after its launch.

    `absent` could not be asked. `cut`: who comes last was cut at the deadline.
    """
    standing, coming, now = Standing(failed=absent), list[tuple[float, int, int]](), 0.0
    while True:
        match step(asked, standing):
            case Launch(slots):
                for slot in slots:
                    after_ms, place = arrivals.get(slot, NEVER)
                    heappush(coming, (now + after_ms, place, slot))
                standing = replace(standing, running=standing.running | set(slots))
            case Wait():
                if cut and coming[0][0] >= LAST_MS:
                    return Played(standing, cut=True)
                now, _, slot = heappop(coming)
                standing = standing.after(slot, votes.get(slot))
            case Stop(_, early):
                return Played(standing, early)


def _played(stored: Stored, setting: Setting, votes: Mapping[int, Vote]) -> Played:
    """Where it stood then, if nothing that is changed moves the stop; else where it would have stood."""
    if stored.verdict is not None and _stops_alike(stored, setting):
        return _as_it_went(stored, stored.verdict, votes)
    absent = frozenset(b.slot for b in stored.ballots if b.status == "failed" and b.round == 0)
    return play(_asked(setting), votes, _coming(stored, setting), absent=absent, cut=_was_cut(stored))


def _stops_alike(stored: Stored, setting: Setting) -> bool:
    """Whether it stops where it did: another threshold moves no stop but that of a cascade."""
    terms = setting.terms if setting.mode == "cascade" else replace(setting.terms, threshold=stored.terms.threshold)
    return (setting.mode, setting.spec, terms) == (stored.tournament.mode, stored.spec, stored.terms)


def _as_it_went(stored: Stored, verdict: Verdict, votes: Mapping[int, Vote]) -> Played:
    arrivals = _arrivals(stored)
    heard = sorted(arrivals, key=lambda slot: (arrivals[slot].place, arrivals[slot].after_ms, slot))
    standing = Standing(
        votes=tuple(votes[slot] for slot in heard if slot in votes),
        running=frozenset(ballot.slot for ballot in stored.ballots if ballot.slot not in arrivals),
        failed=frozenset(slot for slot in heard if slot not in votes),
    )
    return Played(standing, "early_stopped" in verdict.flags, _was_cut(stored))


# ---- what it goes by


def _changed(stored: Stored, change: Replay) -> Setting:
    if stored.tournament.state == "running":
        raise BadRequest(f"`{change.tournament_id}` still runs; replay it when it is over")
    told = {name: getattr(change, name) for name in ("threshold", "min_live", "veto")}
    terms = replace(stored.terms, **{name: value for name, value in told.items() if value is not None})
    setting = Setting(_spec(stored, change), terms, _mode(stored, change))
    rule_of(setting.terms, setting.spec)  # terms that are none are told, also where nobody goes by them
    return setting


def _mode(stored: Stored, change: Replay) -> Mode:
    mode = change.mode or stored.tournament.mode
    if mode not in {"pick", "fuse"}:
        return mode
    if change.answer is None:
        raise BadRequest(
            f"a judge decided this {mode}, and a replay calls nobody; name an answer type, or the mode vote"
        )
    return "vote"


def _spec(stored: Stored, change: Replay) -> AnswerSpec | None:
    spec = AnswerSpec(type=change.answer) if isinstance(change.answer, str) else change.answer or stored.spec
    if spec is not None and spec.type == "choice" and not spec.choices:
        raise BadRequest("`answer` of the type choice names its `choices`")
    if spec is not None and not distinct(spec.choices):
        raise BadRequest("two of the `answer.choices` are the same, or one is empty; name each once")
    return spec


def _asked(setting: Setting) -> Asked:
    """As waves read it. What only a judge compared is compared when all are heard, as it was then."""
    mode: Mode = "fuse" if setting.spec is None and setting.mode == "vote" else setting.mode
    return asked_by(setting.terms, mode, rule_of(setting.terms, setting.spec))


def _arrivals(stored: Stored) -> dict[int, Arrival]:
    """When each stored ballot came; one that was cut at the deadline never did."""
    heard = [ballot for ballot in stored.ballots if ballot.status not in UNHEARD and not _is_late(ballot, stored)]
    return {ballot.slot: Arrival(ballot.latency_ms or 0.0, ballot.arrived) for ballot in heard}


def _coming(stored: Stored, setting: Setting) -> dict[int, Arrival]:
    """When each comes in a replay: in a race that was one, who waited for a turn came later than its own time says."""
    arrivals = _arrivals(stored)
    placed = {slot: Arrival(0.0, arrival.place) for slot, arrival in arrivals.items() if arrival.place}
    return placed if stored.tournament.mode == setting.mode == "race" and placed else arrivals


def _was_cut(stored: Stored) -> bool:
    return stored.verdict is not None and "deadline" in stored.verdict.flags


def _is_late(ballot: Ballot, stored: Stored) -> bool:
    return _was_cut(stored) and ballot.status == "failed" and ballot.why == LATE


# ---- what they said


def _votes(stored: Stored, setting: Setting) -> dict[int, Vote]:
    read = _reading(stored, setting)
    qualities = {seat.slot: seat.quality for seat in _seats(setting.terms)}
    answers = ((ballot, read(ballot)) for ballot in stored.ballots)
    return {b.slot: Vote(b.slot, a, b.family, qualities.get(b.slot, 0.0)) for b, a in answers if a is not None}


def _reading(stored: Stored, setting: Setting) -> Callable[[Ballot], Canonical | None]:
    """How an answer is found. By the same type it is what was found then; by another one it is sought in the text."""
    spec = setting.spec
    if spec is None:
        judged = any(ballot.cluster is not None for ballot in stored.ballots)
        return lambda ballot: _as_judged(ballot, judged)
    if stored.spec is not None and replace(spec, tolerance=stored.spec.tolerance) == stored.spec:
        if spec.type in SLOW and setting.terms.veto is None and _is_compared(stored):
            return lambda ballot: _as_judged(ballot, judged=True)
        return lambda ballot: canonical(ballot.answer or "", spec) if ballot.status == "ok" else None
    return lambda ballot: extract(ballot.text, spec) if _is_whole(ballot) else None


def _is_compared(stored: Stored) -> bool:
    """Whether each answer has its cluster: then those of one are equal, and no two others are."""
    return all(ballot.cluster is not None for ballot in stored.ballots if ballot.status == "ok")


def _as_judged(ballot: Ballot, judged: bool) -> Canonical | None:
    """What the judge put together has one key; where nobody judged, each is an answer of its own."""
    if ballot.status != "ok" or (judged and ballot.cluster is None):
        return None
    return Canonical(f"{ballot.cluster if judged else ballot.slot}", ballot.answer or ballot.text)


def _is_whole(ballot: Ballot) -> bool:
    """Whether it said something, and all of it is stored: what is cut could hide another answer."""
    return ballot.status in {"ok", "unparsed"} and not ballot.text.startswith(CUT)


# ---- what that makes


def _finding(stored: Stored, setting: Setting, played: Played) -> Finding:
    count = counted(setting.terms, played)
    if _method(stored, setting) == "none":
        return unscored(count)
    return found(count, rule_of(setting.terms, setting.spec))


def _method(stored: Stored, setting: Setting) -> Literal["canonical", "judge", "none"]:
    if setting.mode == "race":
        return "none"
    if setting.spec is not None:
        return "canonical"
    return "judge" if any(ballot.cluster is not None for ballot in stored.ballots) else "none"


def _verdict(stored: Stored, setting: Setting, played: Played, finding: Finding) -> Verdict:
    terms, launched = setting.terms, played.standing.launched
    models = {seat.slot: seat.model for seat in _seats(terms)}
    told = first(played.standing.votes) if setting.mode == "race" else outcome(finding)
    spent, unneeded = _spent(stored), sum(b.cost_nano_usd or 0 for b in stored.ballots if b.slot not in launched)
    was = stored.verdict
    return Verdict(
        tournament_id=stored.tournament.tournament_id,
        status=finding.status,
        answer=told.answer,
        answer_kind=told.kind,
        winner=None if told.slot is None else models[told.slot],
        agreement=agreement(finding, models, _method(stored, setting)),
        flags=list(finding.flags),
        needs_review=needs_review(finding.status, critical=terms.critical),
        ballots=[_ballot(ballot, played, finding, setting) for ballot in stored.ballots if ballot.slot in launched],
        missing=_missing(stored, setting, played),
        mode=setting.mode,
        cost_nano_usd=NanoUSD(max(spent - unneeded, 0)),
        bound_nano_usd=NanoUSD(spent) if was is None else was.bound_nano_usd,
        saved_nano_usd=NanoUSD(unneeded + (0 if was is None else was.saved_nano_usd)),
    )


def _spent(stored: Stored) -> int:
    if stored.verdict is not None:
        return stored.verdict.cost_nano_usd
    return sum(ballot.cost_nano_usd or 0 for ballot in stored.ballots)


def _ballot(ballot: Ballot, played: Played, finding: Finding, setting: Setting) -> Ballot:
    """The ballot as this verdict counts it."""
    standing = played.standing
    for vote in standing.votes:
        if vote.slot == ballot.slot:
            groups = [at for at, group in enumerate(finding.groups) if vote.slot in group.slots]
            answer = ballot.answer if setting.spec is None else vote.answer.shown
            return replace(ballot, status="ok", answer=answer, cluster=next(iter(groups), None), why=None)
    if ballot.slot in standing.failed and ballot.status in {"ok", "unparsed"}:
        return replace(ballot, status="unparsed", answer=None, cluster=None, why=_why_unparsed(ballot, setting.spec))
    if ballot.slot in standing.running:
        status, why = ("failed", LATE) if played.cut else ("cancelled", ballot.why)
        return replace(ballot, status=status, answer=None, cluster=None, why=why)
    return ballot


def _missing(stored: Stored, setting: Setting, played: Played) -> list[Missing]:
    standing = played.standing
    voted = {vote.slot for vote in standing.votes}
    ballots = {ballot.slot: ballot for ballot in stored.ballots}
    told = {} if stored.verdict is None else {missing.model: missing for missing in stored.verdict.missing}
    launched = [seat for seat in _seats(setting.terms) if seat.slot in standing.launched - voted]
    return [_reason(seat, ballots.get(seat.slot), played, setting.spec, told.get(seat.model)) for seat in launched]


def _reason(
    seat: Seat, ballot: Ballot | None, played: Played, spec: AnswerSpec | None, told: Missing | None
) -> Missing:
    if seat.slot in played.standing.running:
        if played.cut:
            return Missing(seat.model, LATE, "it had not answered at the deadline")
        return Missing(seat.model, "cancelled", "its answer was not needed any more")
    if ballot is None or ballot.status in UNHEARD:
        return Missing(seat.model, "not_heard", "no answer of it is stored, and a replay asks nobody")
    if ballot.status != "failed":
        return Missing(seat.model, "unparsed", _why_unparsed(ballot, spec))
    return told or Missing(seat.model, ballot.why or "failed", "it failed")


def _why_unparsed(ballot: Ballot, spec: AnswerSpec | None) -> str:
    if spec is None:
        return "nobody compared it with the others"
    if ballot.text.startswith(CUT):
        return "the beginning of its text is not stored, and could hold another answer"
    return f"its text gives no answer of the type {spec.type}"


def _not_heard(stored: Stored, terms: Terms, played: Played) -> list[str]:
    heard = {ballot.slot for ballot in stored.ballots if ballot.status not in UNHEARD}
    return [seat.model for seat in _seats(terms) if seat.slot in played.standing.failed - heard]


def _seats(terms: Terms) -> tuple[Seat, ...]:
    return (*terms.members, *terms.bench)


def _differences(was: Verdict | None, now: Verdict) -> list[Difference]:
    if was is None:
        return []
    pairs = zip(_compared(was).items(), _compared(now).values(), strict=True)
    return [Difference(what, before, after) for (what, before), after in pairs if before != after]


def _compared(verdict: Verdict) -> dict[str, str | bool | float | list[str] | None]:
    return {
        "mode": verdict.mode,
        "status": verdict.status,
        "answer": verdict.answer,
        "answer_kind": verdict.answer_kind,
        "winner": verdict.winner,
        "top_share": verdict.agreement.top_share,
        "flags": sorted(verdict.flags),
        "needs_review": verdict.needs_review,
        "cost_nano_usd": verdict.cost_nano_usd,
    }
