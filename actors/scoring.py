"""What is made of the ballots that are in: the status by the declared type, else by the judges, and the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct, field
from msgspec.structs import replace

from actors.contest import Contest
from actors.jury import Jury
from actors.panel import Panel
from actors.reading import sought
from actors.rules.consensus import FEWEST_LIVE, Finding, agreement, agrees, found, unscored
from actors.rules.judging import Candidate, Ranking, grouped_votes, told
from actors.rules.verdict import DECIDED, NOTHING, Outcome, counted, first, outcome
from actors.rules.waves import Played
from protocols.tournament import Agreement, AnswerKind, Flag, Method, Status


class Scored(Struct):
    """What the ballots come to. `clusters` are those that agree, by slot, largest first; `agreed` those that gave what was decided.

    `slot` is whose the answer is, None where nobody's alone.
    """

    status: Status
    agreement: Agreement
    flags: Sequence[Flag]
    answer: str | None
    kind: AnswerKind
    slot: int | None
    clusters: list[tuple[int, ...]]
    agreed: tuple[int, ...] = field(default_factory=tuple)


async def score(panel: Panel, contest: Contest, played: Played, jury: Jury, max_tokens: int | None) -> Scored:
    """The status by the declared type, else by the judges; in `pick` and `fuse` the answer is the judges' and the aggregator's."""
    count = counted(panel.terms, played)
    models = {slot: seat.model for slot, seat in panel.seats.items()}
    if panel.mode == "race":
        return _of(unscored(count), models, first(played.standing.votes), "none")
    candidates = _candidates(contest)
    by_type = None if panel.spec is None else found(count, panel.rule)
    if panel.mode in {"pick", "fuse"}:
        ranking = await jury.ranking(candidates, failed=count.failed, cut=played.cut)
        picked = await _picked(panel, jury, ranking, by_type, max_tokens)
        return picked if by_type is None else await _by_type(panel, by_type, picked, models)
    if by_type is not None:
        return _of(by_type, models, outcome(by_type), "canonical")
    partition = await jury.partition(candidates) if len(candidates) >= FEWEST_LIVE else None
    if partition is None:
        return _of(unscored(count), models, _best(candidates), "none")
    by_judge = found(replace(count, votes=grouped_votes(partition, candidates)), panel.rule)
    return _of(by_judge, models, outcome(by_judge), "judge")


async def _picked(
    panel: Panel, jury: Jury, ranking: Ranking, by_type: Finding | None, max_tokens: int | None
) -> Scored:
    """The best answer by the judges; of `fuse` one that is written of the best, or, where that fails, the best verbatim."""
    ranked = [each.candidate for each in ranking.ranked]
    best = ranking.winner if ranking.judged else None
    kind: AnswerKind = "picked" if best is not None else "selected" if ranked else "none"
    best = best or _first_of(ranked, by_type)
    answer = None if best is None else best.text
    if panel.mode == "fuse" and ranked:
        written = await jury.fused(ranked, max_tokens)
        answer, kind = (written, "fused") if written is not None else (answer, "selected")
    return Scored(
        status=ranking.status,
        agreement=told(ranking),
        flags=ranking.flags,
        answer=answer,
        kind=kind,
        slot=None if best is None or kind == "fused" else best.slot,
        clusters=[(each.slot,) for each in ranked] if ranking.judged else [],
    )


def _first_of(ranked: Sequence[Candidate], by_type: Finding | None) -> Candidate | None:
    """Where the judges name none: the best of those that agree, if the type says who does."""
    decided = by_type is not None and by_type.status in DECIDED and by_type.winner is not None
    agreed = by_type.winner.slots if decided and by_type and by_type.winner else ()
    return next((each for each in ranked if each.slot in agreed), next(iter(ranked), None))


async def _by_type(panel: Panel, finding: Finding, picked: Scored, models: Mapping[int, str]) -> Scored:
    """The type says whether they agree. Judges or an aggregator that answer otherwise make a dispute of it, not another consensus."""
    assert panel.spec is not None
    said = None if picked.answer is None else await sought(picked.answer, panel.spec)
    winner = finding.winner
    same = said is not None and winner is not None and agrees(said, winner.answer, panel.rule.tolerance)
    decided = finding.status in DECIDED
    return Scored(
        status="dispute" if decided and not same else finding.status,
        agreement=agreement(finding, models),
        flags=sorted({*picked.flags, *finding.flags}),
        answer=picked.answer if said is None or picked.kind == "selected" else said.shown,  # selected: verbatim
        kind=picked.kind,
        slot=picked.slot,
        clusters=[group.slots for group in finding.groups],
        agreed=winner.slots if decided and same and winner is not None else (),
    )


def _of(finding: Finding, models: Mapping[int, str], outcome: Outcome, method: Method) -> Scored:
    kind: AnswerKind = "selected" if method == "none" and outcome.kind == "none" and outcome.answer else outcome.kind
    decided = finding.winner is not None and finding.status in DECIDED
    return Scored(
        status=finding.status,
        agreement=agreement(finding, models, method),
        flags=finding.flags,
        answer=outcome.answer,
        kind=kind,
        slot=outcome.slot,
        clusters=[group.slots for group in finding.groups],
        agreed=finding.winner.slots if decided and finding.winner is not None else (),
    )


def _best(candidates: Sequence[Candidate]) -> Outcome:
    """Where nobody compared the answers: the best member's, verbatim."""
    best = min(candidates, key=lambda each: (-each.quality, each.slot), default=None)
    return NOTHING if best is None else Outcome(best.text, "none", best.slot)


def _candidates(contest: Contest) -> list[Candidate]:
    return [
        Candidate(slot, run.seat.model, run.seat.family, run.ballot.text, run.seat.quality)
        for slot, run in sorted(contest.runs.items())
        if run.ballot is not None and run.ballot.status == "ok"
    ]
