"""What a finding makes of a tournament: which answer, whose, and which terms the rules go by. Pure, and the same for a replay."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from math import isfinite
from typing import Literal

from msgspec import Struct

from actors.rules.canonical import Canonical, canonical
from actors.rules.consensus import EXACT, Count, Finding, Rule, Vote, threshold
from actors.rules.waves import Asked, Member, Played
from protocols.errors import BadRequest
from protocols.record import Seat, Terms
from protocols.settings import Mode
from protocols.tournament import AnswerSpec, Status

LATE = "deadline"
"""Why a member's ballot is missing that had not answered at the deadline."""

DECIDED: frozenset[Status] = frozenset({"unanimous", "consensus", "majority"})
"""Statuses that give an answer, and say of each ballot whether it agrees with it."""


class Outcome(Struct, frozen=True):
    """The answer as it is told, what kind it is, and the slot of whose it is."""

    answer: str | None
    kind: Literal["voted", "first", "none"]
    slot: int | None


NOTHING = Outcome(None, "none", None)


def outcome(finding: Finding) -> Outcome:
    """What was voted; nothing where the status decides nothing, also if one group is the largest."""
    if finding.winner is None or finding.status not in DECIDED:
        return NOTHING
    return Outcome(finding.winner.answer.shown, "voted", best(finding.winner.votes).slot)


def first(votes: Iterable[Vote]) -> Outcome:
    """What came first in a race."""
    vote = next(iter(votes), None)
    return NOTHING if vote is None else Outcome(vote.answer.shown, "first", vote.slot)


def best(votes: Iterable[Vote]) -> Vote:
    """The vote that is named for all that agree: of the best member, and of equals the first slot's."""
    return min(votes, key=lambda vote: (-vote.quality, vote.slot))


def counted(terms: Terms, played: Played) -> Count:
    """What was played, as consensus reads it."""
    standing, cut = played.standing, played.cut
    return Count(
        votes=standing.votes,
        asked=terms.asked,
        failed=len(standing.failed) + (len(standing.running) if cut else 0),
        cancelled=0 if cut else len(standing.running),
        early=played.early,
        shrunk=terms.shrunk,
        deadline=cut,
    )


def rule_of(terms: Terms, spec: AnswerSpec | None) -> Rule:
    """The terms as consensus reads them. Raises BadRequest for a threshold that is none, or a veto that is no answer of the type."""
    try:
        share = threshold(terms.threshold)
    except ValueError as error:
        raise BadRequest(f"`threshold`: {error}") from None
    return Rule(threshold=share, min_live=terms.min_live, tolerance=tolerance_of(spec), veto=_veto(terms.veto, spec))


def tolerance_of(spec: AnswerSpec | None) -> Fraction:
    """How far equal numbers may be apart, as the decimal that was written. Raises BadRequest for infinity."""
    if spec is None:
        return EXACT
    if not isfinite(spec.tolerance):
        raise BadRequest("`answer.tolerance` is a number, such as 0.5")
    return Fraction(str(spec.tolerance))


def asked_by(terms: Terms, mode: Mode, rule: Rule) -> Asked:
    """The terms as waves read them."""
    return Asked(
        mode=mode,
        members=tuple(map(_member, terms.members)),
        bench=tuple(map(_member, terms.bench)),
        latency=terms.latency,
        rule=rule,
    )


def _member(seat: Seat) -> Member:
    return Member(seat.slot, seat.family, seat.whole, quality=seat.quality)


def _veto(veto: str | None, spec: AnswerSpec | None) -> Canonical | None:
    if veto is None:
        return None
    found = None if spec is None else canonical(veto, spec)
    if found is None:
        wanted = "a declared answer type" if spec is None else f"an answer of the type {spec.type}"
        raise BadRequest(f"`veto`: `{veto[:100]}` blocks nothing; a veto needs {wanted}")
    return found
