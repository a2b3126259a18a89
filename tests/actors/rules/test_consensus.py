"""Whether ballots agree, read off design §7: tables for each status and flag, and what must hold for all ballots in any order."""

import random
from fractions import Fraction
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.rules.canonical import Canonical
from actors.rules.consensus import (
    Count,
    Rule,
    Vote,
    agreement,
    agrees,
    clusters,
    found,
    needs_review,
    rival,
    threshold,
    unscored,
)
from protocols.tournament import Cluster, Status

FAMILIES = "pqrstuvwxyz"
RANK = ("failed", "unscored", "inconclusive", "dispute", "majority", "consensus", "unanimous")


def said(word):
    return Canonical(word, word.upper())


def number(value):
    return Canonical(str(value), str(value), Fraction(str(value)))


def votes(words, families=FAMILIES):
    return tuple(Vote(slot, said(word), families[slot]) for slot, word in enumerate(words))


def numbers(*values):
    return tuple(Vote(slot, number(value), FAMILIES[slot]) for slot, value in enumerate(values))


def finding(words, families=FAMILIES, *, rule=None, asked=None, failed=0, **more):
    count = Count(
        votes=votes(words, families), asked=len(words) + failed if asked is None else asked, failed=failed, **more
    )
    return found(count, rule or Rule())


def sizes(groups):
    return [(group.answer.key, group.size) for group in groups]


# ---- clusters


@pytest.mark.parametrize(
    ("words", "groups"),
    [
        ("", []),
        ("a", [("a", 1)]),
        ("abab", [("a", 2), ("b", 2)]),
        ("baab", [("a", 2), ("b", 2)]),
        ("cabbc", [("b", 2), ("c", 2), ("a", 1)]),
    ],
)
def test_equal_keys_are_one_group_and_the_largest_is_first(words, groups):
    assert sizes(clusters(votes(words, "p" * 5))) == groups


@pytest.mark.parametrize(
    ("values", "tolerance", "groups"),
    [
        ((1, 2, 3), "1", [("1", 2), ("3", 1)]),  # near is not transitive: 1 and 3 are not one answer
        ((1, 2, 3, "3.5"), "1", [("3", 2), ("1", 2)]),  # of equally full windows the narrower is taken first
        ((1, 1, 5, 6, 7), "2", [("6", 3), ("1", 2)]),
        ((1, 2), "0", [("1", 1), ("2", 1)]),
        (("0.1", "0.2", "0.3"), "0.2", [("0.2", 3)]),  # exactly: no rounding of 0.3 - 0.1
        (("0.1", "0.2", "0.30000000000000004"), "0.2", [("0.1", 2), ("0.30000000000000004", 1)]),
        ((-3, -2, 0), "1", [("-3", 2), ("0", 1)]),
        ((0, 0, 1), "1", [("0", 3)]),
    ],
)
def test_numbers_are_one_group_if_each_is_near_to_each(values, tolerance, groups):
    found_groups = clusters(numbers(*values), Fraction(tolerance))
    assert sorted(sizes(found_groups)) == sorted(groups)
    assert [group.size for group in found_groups] == sorted((group.size for group in found_groups), reverse=True)


def test_an_answer_without_a_number_is_compared_by_its_key():
    mixed = (*numbers(1, 2), Vote(2, said("none")), Vote(3, said("none")), Vote(4, said("none")))
    assert sizes(clusters(mixed, Fraction(1))) == [("none", 3), ("1", 2)]


def test_equal_groups_are_listed_by_families_then_by_the_best_member_then_by_key():
    def pair(word, slot, families, quality):
        return [Vote(slot + i, said(word), family, quality) for i, family in enumerate(families)]

    strong, spread, plain, late = (
        pair("c", 0, "pp", 9.0),
        pair("d", 2, "pq", 1.0),
        pair("a", 4, "pp", 1.0),
        pair("b", 6, "pp", 1.0),
    )
    groups = clusters([*late, *strong, *plain, *spread])
    assert [group.answer.key for group in groups] == ["d", "c", "a", "b"]


@given(st.lists(st.integers(0, 12), max_size=9), st.integers(0, 4), st.randoms(use_true_random=False))
def test_groups_hold_every_vote_once_agree_within_and_do_not_know_the_order_of_arrival(values, tolerance, rng):
    cast = list(numbers(*values[:9]))
    groups = clusters(cast, Fraction(tolerance))
    assert sorted(slot for group in groups for slot in group.slots) == list(range(len(cast)))
    for group in groups:
        assert group.answer in [vote.answer for vote in group.votes]
        assert all(agrees(a.answer, b.answer, Fraction(tolerance)) for a in group.votes for b in group.votes)
    rng.shuffle(cast)
    assert clusters(cast, Fraction(tolerance)) == groups


@given(st.lists(st.integers(0, 9), min_size=1, max_size=9), st.integers(0, 3))
def test_the_first_group_is_the_largest_that_any_window_holds(values, tolerance):
    first = clusters(numbers(*values), Fraction(tolerance))[0]
    assert first.size == max(sum(low <= value <= low + tolerance for value in values) for low in values)


@pytest.mark.parametrize(
    ("values", "answer", "tolerance", "size"),
    [
        ((1, 1, 1), 1, 1, 0),
        ((1, 1, 2, 2, 3), 1, 1, 3),
        ((1, 2, 3), 2, 2, 1),
        ((1, 1, 2), 1, 0, 1),
        ((0, 1, 5, 6, 6), 5, 1, 2),
    ],
)
def test_the_rival_is_the_largest_group_that_can_do_without_the_answer(values, answer, tolerance, size):
    assert rival(numbers(*values), number(answer), Fraction(tolerance)) == size


# ---- status


@pytest.mark.parametrize(
    ("words", "failed", "status"),
    [
        ("aaa", 0, "unanimous"),
        ("aa", 0, "unanimous"),
        ("aaa", 1, "consensus"),  # a member asked for is missing
        ("aab", 0, "consensus"),  # exactly 2/3
        ("aaaab", 0, "consensus"),
        ("aa", 1, "consensus"),
        ("aaab", 1, "majority"),
        ("aaabb", 0, "majority"),
        ("aaabc", 0, "majority"),
        ("aab", 1, "dispute"),  # half is not more than half
        ("aabb", 0, "dispute"),
        ("abc", 0, "dispute"),
        ("ab", 0, "dispute"),
        ("aabc", 0, "dispute"),
        ("aa", 2, "inconclusive"),  # nobody disagrees, half is missing
        ("aa", 3, "inconclusive"),
        ("a", 0, "inconclusive"),
        ("a", 2, "inconclusive"),
        ("", 0, "failed"),
        ("", 3, "failed"),
    ],
)
def test_the_status_of_ballots_from_as_many_families(words, failed, status):
    assert finding(words, failed=failed).status == status


@pytest.mark.parametrize(
    ("words", "families", "status", "flagged"),
    [
        ("aaa", "ppp", "majority", True),
        ("aaa", "ppq", "unanimous", False),
        ("aab", "ppq", "majority", True),  # the dissent of another family makes no consensus of two sisters
        ("aab", "pqp", "consensus", False),
        ("ab", "pp", "dispute", True),
        ("aa", [None, None], "majority", True),  # unknown is no evidence of a second family
        ("aa", ["p", None], "majority", True),
        ("a", "p", "inconclusive", False),
    ],
)
def test_one_family_alone_is_a_majority_at_best(words, families, status, flagged):
    made = finding(words, families)
    assert (made.status, "same_family" in made.flags) == (status, flagged)


@pytest.mark.parametrize(
    ("words", "rule", "status"),
    [
        ("aab", Rule(threshold=Fraction("0.67")), "majority"),
        ("aab", Rule(threshold=Fraction("0.66")), "consensus"),
        ("aaab", Rule(threshold=Fraction(1)), "majority"),
        ("aaa", Rule(threshold=Fraction(1)), "unanimous"),
        ("aa", Rule(min_live=3), "inconclusive"),
        ("aab", Rule(min_live=3), "consensus"),
        ("a", Rule(min_live=1), "inconclusive"),  # one survivor is never a consensus
    ],
)
def test_threshold_and_min_live_are_the_rules(words, rule, status):
    assert finding(words, rule=rule).status == status


def test_of_four_two_that_time_out_leave_at_best_something_inconclusive_and_degraded():
    for words in ("aa", "ab"):
        made = finding(words, asked=4, failed=2, deadline=True)
        assert made.status in {"inconclusive", "dispute"}
        assert made.flags == ("degraded", "deadline")


@pytest.mark.parametrize(
    ("words", "more", "status", "flags"),
    [
        ("aa", {"asked": 3, "early": True}, "consensus", ("early_stopped",)),
        ("aa", {"asked": 3, "early": True, "cancelled": 1}, "consensus", ("early_stopped",)),
        ("aaa", {"asked": 5, "early": True}, "consensus", ("early_stopped",)),
        ("aaa", {"asked": 5, "early": True, "cancelled": 2}, "majority", ("early_stopped",)),  # launched: 3 of 5
        ("aaa", {"asked": 3, "early": True}, "consensus", ("early_stopped",)),
        ("aaa", {"asked": 5, "shrunk": True}, "consensus", ("shrunk",)),
        ("aaa", {"asked": 4}, "consensus", ("degraded",)),  # one could not be launched
        (
            "aaa",
            {"asked": 3, "failed": 1},
            "consensus",
            ("degraded",),
        ),  # replaced, and yet a member asked for is missing
    ],
)
def test_unanimous_takes_a_ballot_from_every_member_asked_for(words, more, status, flags):
    made = finding(words, **more)
    assert (made.status, made.flags) == (status, flags)


@pytest.mark.parametrize(
    ("words", "failed", "status", "flagged"),
    [
        ("aaav", 0, "dispute", True),
        ("aaa", 0, "unanimous", False),
        ("vvv", 0, "unanimous", False),
        ("vva", 0, "consensus", False),
        ("av", 0, "dispute", True),
        ("v", 2, "inconclusive", False),
        ("aaaaav", 0, "dispute", True),
    ],
)
def test_one_ballot_can_veto_unless_it_leads(words, failed, status, flagged):
    made = finding(words, failed=failed, rule=Rule(veto=said("v")))
    assert (made.status, "vetoed" in made.flags) == (status, flagged)


def test_a_number_vetoes_within_the_tolerance():
    count = Count(votes=numbers(5, 5, 5, 1), asked=4)
    assert found(count, Rule(tolerance=Fraction(1), veto=number(2))).flags == ("vetoed",)
    assert found(count, Rule(tolerance=Fraction(1), veto=number(3))).flags == ()


@pytest.mark.parametrize(
    ("words", "failed", "winner", "share", "margin"),
    [
        ("aab", 0, "a", Fraction(2, 3), Fraction(1, 3)),
        ("aab", 1, "a", Fraction(1, 2), Fraction(1, 4)),
        ("aabb", 0, None, Fraction(1, 2), Fraction(0)),  # a tie for the lead is no win
        ("ab", 0, None, Fraction(1, 2), Fraction(0)),
        ("aabc", 0, "a", Fraction(1, 2), Fraction(1, 4)),
        ("a", 1, "a", Fraction(1, 2), Fraction(1, 2)),
        ("", 2, None, Fraction(0), Fraction(0)),
        ("", 0, None, Fraction(0), Fraction(0)),
    ],
)
def test_share_and_margin_are_of_the_launched_and_the_winner_leads_alone(words, failed, winner, share, margin):
    made = finding(words, failed=failed)
    assert (made.winner.answer.key if made.winner else None, made.top_share, made.margin) == (winner, share, margin)


def test_answers_that_nobody_compared_are_unscored():
    made = unscored(Count(votes=votes("ab"), asked=3, failed=1))
    assert (made.status, made.winner, made.groups, made.flags) == ("unscored", None, (), ("degraded",))
    assert unscored(Count(votes=(), asked=2, failed=2)).status == "failed"


@pytest.mark.parametrize(
    ("status", "usual", "critical"),
    [
        ("unanimous", False, False),
        ("consensus", False, False),
        ("majority", False, False),
        ("dispute", True, True),
        ("inconclusive", True, True),
        ("unscored", False, True),
        ("failed", False, False),
    ],
)
def test_who_is_asked_to_look(status, usual, critical):
    assert (needs_review(status, critical=False), needs_review(status, critical=True)) == (usual, critical)


def test_the_agreement_is_told_with_names_and_shares():
    told = agreement(finding("abaa", failed=1), {slot: f"m{slot}" for slot in range(4)})
    assert (told.method, told.top_share, told.margin) == ("canonical", 0.6, 0.4)
    assert told.clusters == [Cluster("A", ["m0", "m2", "m3"], 0.6), Cluster("B", ["m1"], 0.2)]
    assert agreement(unscored(Count(votes=(), asked=2)), {}, "none").clusters == []


# ---- what holds for all ballots


CAST = st.lists(st.tuples(st.sampled_from("aabc"), st.sampled_from(["p", "q", "r", None])), max_size=8)
RULES = st.builds(
    Rule,
    threshold=st.sampled_from([Fraction(2, 3), Fraction(3, 4), Fraction(1), Fraction("0.51")]),
    min_live=st.integers(1, 4),
    veto=st.sampled_from([None, said("b")]),
)


@given(CAST, RULES, st.integers(0, 3), st.randoms(use_true_random=False))
def test_the_order_of_arrival_changes_nothing(cast, rule, failed, rng):
    came = [Vote(slot, said(word), family) for slot, (word, family) in enumerate(cast)]
    before = found(Count(votes=tuple(came), asked=len(came) + failed, failed=failed), rule)
    rng.shuffle(came)
    assert found(Count(votes=tuple(came), asked=len(came) + failed, failed=failed), rule) == before


@given(CAST, RULES, st.integers(0, 3), st.sampled_from(["p", "q", "z", None]))
def test_a_ballot_more_that_agrees_never_lowers_the_status(cast, rule, failed, family):
    came = tuple(Vote(slot, said(word), whose) for slot, (word, whose) in enumerate(cast))
    before = found(Count(votes=came, asked=len(came) + failed, failed=failed), rule)
    if before.winner is None:
        return
    after = (*came, Vote(len(came), before.winner.answer, family))
    made = found(Count(votes=after, asked=len(after) + failed, failed=failed), rule)
    assert RANK.index(made.status) >= RANK.index(before.status)
    assert made.winner.answer == before.winner.answer


@given(st.lists(st.integers(0, 8), min_size=1, max_size=8), st.integers(0, 3), st.sampled_from("pqz"))
def test_nor_does_it_among_numbers_with_a_tolerance(values, tolerance, family):
    came, rule = numbers(*values), Rule(tolerance=Fraction(tolerance))
    before = found(Count(votes=came, asked=len(came)), rule)
    if before.winner is not None:
        after = (*came, Vote(len(came), before.winner.answer, family))
        made = found(Count(votes=after, asked=len(after)), rule)
        assert RANK.index(made.status) >= RANK.index(before.status)


@given(CAST, RULES, st.integers(0, 3), st.sampled_from(["p", "q", "z", None]))
def test_a_ballot_more_that_dissents_makes_no_agreement_of_what_was_none(cast, rule, failed, family):
    came = tuple(Vote(slot, said(word), whose) for slot, (word, whose) in enumerate(cast))
    before = found(Count(votes=came, asked=len(came) + failed, failed=failed), rule)
    if before.status in {"unanimous", "consensus", "majority"}:
        after = (*came, Vote(len(came), said("other"), family))
        made = found(Count(votes=after, asked=len(after) + failed, failed=failed), rule)
        assert RANK.index(made.status) <= RANK.index(before.status)


@given(CAST, RULES, st.integers(0, 3), st.booleans())
def test_agreement_is_never_said_of_less_than_it_is(cast, rule, failed, early):
    came = tuple(Vote(slot, said(word), whose) for slot, (word, whose) in enumerate(cast))
    made = found(Count(votes=came, asked=len(came) + failed, failed=failed, early=early), rule)
    assert made.status in get_args(Status)
    if made.status in {"consensus", "unanimous"}:
        assert made.top_share >= rule.threshold
        assert len(came) >= max(rule.min_live, 2)
        assert len({vote.family for vote in made.winner.votes} - {None}) >= 2
        assert "same_family" not in made.flags
    if made.status == "majority":
        assert made.top_share > Fraction(1, 2)
    assert made.status != "unanimous" or not (failed or early)
    assert ("degraded" in made.flags) == (failed > 0)


def test_ten_thousand_random_votes_have_one_finding_in_whatever_order_they_come():
    rng = random.Random(2027)
    for _ in range(10_000):
        came = [Vote(slot, said(rng.choice("aaabc")), rng.choice("pqr")) for slot in range(rng.randint(1, 7))]
        first = found(Count(votes=tuple(came), asked=len(came)), Rule())
        rng.shuffle(came)
        again = found(Count(votes=tuple(came), asked=len(came)), Rule())
        assert (again.status, again.winner) == (first.status, first.winner)


# ---- the threshold as it is written


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("2/3", Fraction(2, 3)),
        ("0.75", Fraction(3, 4)),
        ("1", Fraction(1)),
        ("1.0", Fraction(1)),
        ("4/6", Fraction(2, 3)),
        ("0.6666666666666667", Fraction("0.6666666666666667")),
        ("02/03", Fraction(2, 3)),
    ],
)
def test_a_threshold_is_read_exactly(text, share):
    assert threshold(text) == share


@pytest.mark.parametrize("text", ["1/2", "0.5", "0", "4/3", "1.01", "50/100"])
def test_a_threshold_of_half_or_less_or_more_than_all_is_refused(text):
    with pytest.raises(ValueError, match="more than 1/2"):
        threshold(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "two thirds",
        "2/0",
        "2/00",
        "-2/3",
        "1e0",
        "1e999999999",
        "0.7_5",
        " 2/3",
        "2/3\n",
        "٢/٣",
        "0." + "9" * 99,
        "inf",
        "nan",
    ],
)
def test_what_is_no_share_is_refused(text):
    with pytest.raises(ValueError, match="is no share"):
        threshold(text)
