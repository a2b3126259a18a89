"""What a finding makes of a tournament."""

from fractions import Fraction

import pytest
from tournaments import BOOL, MODELS, terms

from actors.rules.canonical import Canonical
from actors.rules.consensus import Count, Finding, Rule, Vote, found
from actors.rules.verdict import NOTHING, Outcome, asked_by, best, first, outcome, rule_of, tolerance_of
from actors.rules.waves import Member
from protocols.errors import BadRequest
from protocols.record import Seat, Terms
from protocols.tournament import AnswerSpec

YES, NO = Canonical("yes", "Yes"), Canonical("no", "No")


def votes(*said, qualities=()):
    qualities = (*qualities, *[0.0] * len(said))
    return tuple(Vote(slot, answer, MODELS[slot], qualities[slot]) for slot, answer in enumerate(said))


def of(*said, qualities=(), failed=0) -> Finding:
    return found(Count(votes=votes(*said, qualities=qualities), asked=len(said) + failed, failed=failed), Rule())


@pytest.mark.parametrize(
    ("finding", "is_told"),
    [
        (of(YES, YES), Outcome("Yes", "voted", 0)),
        (of(NO, YES, YES), Outcome("Yes", "voted", 1)),
        (of(NO, YES, YES, qualities=(9, 5, 7)), Outcome("Yes", "voted", 2)),
        (of(YES, YES, NO, failed=2), NOTHING),
        (of(YES, NO), NOTHING),
        (of(YES, failed=1), NOTHING),
        (of(failed=2), NOTHING),
    ],
)
def test_only_what_is_decided_is_an_answer_and_the_best_of_those_who_gave_it_is_named(finding, is_told):
    assert outcome(finding) == is_told


def test_of_equally_good_ones_the_first_is_named():
    assert best(votes(YES, YES, YES, qualities=(5, 7, 7))).slot == 1


def test_a_race_is_told_by_its_first():
    assert first(votes(NO, YES)) == Outcome("No", "first", 0)
    assert first(()) == NOTHING


def test_terms_are_read_as_the_rules_want_them():
    held = Terms(
        members=(Seat(0, "a:m", "a", True, 7.5),),
        bench=(Seat(1, "b:m"),),
        asked=3,
        threshold="0.75",
        min_live=3,
        veto="NO",
    )
    rule = rule_of(held, BOOL)
    assert (rule.threshold, rule.min_live, rule.tolerance) == (Fraction(3, 4), 3, 0)
    assert rule.veto is not None
    assert rule.veto.shown == "no"
    asked = asked_by(held, "cascade", rule)
    assert (asked.mode, asked.latency, asked.rule) == ("cascade", "frugal", rule)
    assert (asked.members, asked.bench) == ((Member(0, "a", whole=True, quality=7.5),), (Member(1),))


def test_a_tolerance_is_the_decimal_that_was_written():
    assert tolerance_of(AnswerSpec(type="number", tolerance=0.1)) == Fraction(1, 10)
    assert tolerance_of(None) == 0


@pytest.mark.parametrize("tolerance", [float("inf"), float("nan")])
def test_a_tolerance_without_end_is_refused(tolerance):
    with pytest.raises(BadRequest, match="tolerance"):
        tolerance_of(AnswerSpec(type="number", tolerance=tolerance))


@pytest.mark.parametrize(
    ("more", "spec", "says"),
    [
        ({"threshold": "half"}, BOOL, "`threshold`: `half` is no share"),
        ({"threshold": "1/2"}, BOOL, "more than 1/2"),
        ({"veto": "maybe"}, BOOL, "`maybe` blocks nothing; a veto needs an answer of the type bool"),
        ({"veto": "no"}, None, "a veto needs a declared answer type"),
    ],
)
def test_terms_that_make_no_sense_are_refused(more, spec, says):
    with pytest.raises(BadRequest, match=says):
        rule_of(terms(2, **more), spec)
