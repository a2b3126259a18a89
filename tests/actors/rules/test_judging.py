"""What judges make of answers: who is asked about what, what their words come to, and which answers they find the same."""

import random
from fractions import Fraction
from itertools import combinations, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.rules.consensus import Count, Rule, found
from actors.rules.judging import (
    MOST_CALLS,
    Candidate,
    Comparison,
    grouped,
    grouped_votes,
    held_for,
    is_own,
    most_calls,
    most_judges,
    pairs,
    shuffled,
    tally,
    told,
    two_orders,
)
from protocols.tournament import MOST_MEMBERS

MODELS = ("openai:gpt-4o", "anthropic:claude-haiku-5-5", "ollama:qwen3:32b", "mistral:mistral-large")
FAMILIES = ("openai", "anthropic", "qwen", "mistral")
JUDGES = ("far:one", "far:two", "far:three")
RULE = Rule()


def candidates(count, families=FAMILIES, qualities=(0.0,) * 4):
    return tuple(
        Candidate(slot, MODELS[slot], families[slot], f"answer {slot}", qualities[slot]) for slot in range(count)
    )


def prefers(*order):
    """A judge's word on a comparison: the earlier in its order, a tie for two that are not in it."""

    def verdict(call):
        places = [order.index(slot) if slot in order else len(order) for slot in (call.first, call.second)]
        return "tie" if places[0] == places[1] else "first" if places[0] < places[1] else "second"

    return verdict


def always(word):
    return lambda _: word


def ranking(count, *words, rule=RULE, asked=None, fails=(), families=FAMILIES, qualities=(0.0,) * 4, **more):
    """What the judges come to: one word (a function of the comparison) for each; `fails` are numbers of calls without an answer."""
    those = candidates(count, families, qualities)
    calls = pairs(those, JUDGES[: len(words)], 1)
    says = dict(zip(JUDGES, words, strict=False))
    verdicts = [None if at in fails else says[call.judge](call) for at, call in enumerate(calls)]
    return tally(calls, verdicts, those, rule, asked=count if asked is None else asked, **more)


def order(result):
    return [each.candidate.slot for each in result.ranked]


# ---- who is asked about what


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("judges", [0, 1, 3])
def test_each_judge_is_asked_about_each_pair_in_both_orders(count, judges):
    calls = pairs(candidates(count), JUDGES[:judges], 5)
    assert sorted((call.judge, call.first, call.second) for call in calls) == sorted(
        (judge, *slots) for judge in JUDGES[:judges] for slots in permutations(range(count), 2)
    )


@pytest.mark.parametrize(
    ("judge", "others"),
    [
        ("openai:gpt-4o", {1, 2, 3}),
        ("azure:gpt-4o", {1, 2, 3}),
        ("openai:gpt-4o-2024-08-06", {1, 2, 3}),
        ("client:desk:qwen3:32b", {0, 1, 3}),
        ("ollama:qwen3:8b", {0, 1, 2, 3}),
        ("openai:gpt-4o-mini", {0, 1, 2, 3}),
    ],
)
def test_a_judge_is_never_asked_about_an_answer_of_its_own_model_whoever_offers_it(judge, others):
    calls = pairs(candidates(4), [judge], 5)
    assert {slot for call in calls for slot in (call.first, call.second)} == others
    assert len(calls) == len(others) * (len(others) - 1)


def test_a_judge_that_is_named_twice_is_asked_once():
    assert pairs(candidates(2), [JUDGES[0], JUDGES[0]], 5) == pairs(candidates(2), JUDGES[:1], 5)


def test_the_seed_decides_the_sequence_and_each_judge_has_its_own():
    def sequences(seed):
        calls = pairs(candidates(4), JUDGES, seed)
        return [[(call.first, call.second) for call in calls if call.judge == judge] for judge in JUDGES]

    assert sequences(5) == sequences(5)
    assert len({tuple(each) for seed in range(5) for each in sequences(seed)}) == 15


def test_which_of_a_pair_comes_first_at_first_is_shuffled_too():
    firsts = [pairs(candidates(2), [f"far:{name}"], 5)[0].first for name in range(40)]
    assert 8 < sum(firsts) < 32


def test_who_arrives_first_changes_no_sequence():
    those = candidates(4)
    assert pairs(those, JUDGES, 5) == pairs(those[::-1], JUDGES, 5)


# ---- how many calls that are

LINE_UPS = {
    "none of them is its own": ("far:one", MODELS[:3], (), 6),
    "one is its own, and nobody stands in": (MODELS[0], MODELS[:3], (), 2),
    "one is its own, and another stands in for it": (MODELS[0], MODELS[:3], MODELS[3:], 6),
    "one is its own, and only its twin stands in": (MODELS[0], MODELS[:3], ("client:desk:gpt-4o",), 2),
    "its own stands in": (MODELS[3], MODELS[:3], MODELS[3:], 6),
    "it has but one to judge": (MODELS[0], MODELS[:2], (), 0),
    "all are its own": (MODELS[0], (MODELS[0], MODELS[0]), (), 0),
}


@pytest.mark.parametrize("what", LINE_UPS)
def test_a_judge_s_calls_are_counted_for_the_worst_line_up(what):
    judge, members, bench, calls = LINE_UPS[what]
    assert most_calls(judge, members, bench) == calls


@given(st.sampled_from([*MODELS, *JUDGES]), st.data())
def test_no_line_up_asks_a_judge_more_often_than_was_counted(judge, data):
    members = data.draw(st.lists(st.sampled_from(MODELS), min_size=2, max_size=5))
    bench = data.draw(st.lists(st.sampled_from(MODELS), max_size=3))
    line_up = data.draw(st.permutations([*members, *bench]))[: data.draw(st.integers(0, len(members)))]
    those = [Candidate(slot, each, None, "text") for slot, each in enumerate(line_up)]
    assert len(pairs(those, [judge], 1)) <= most_calls(judge, members, bench)


@pytest.mark.parametrize(
    ("wanted", "n", "judges"),
    [(1, 2, 1), (3, 3, 3), (3, 9, 3), (3, 10, 2), (3, 11, 2), (3, 12, 1), (3, 16, 1), (1, 1, 1)],
)
def test_no_more_judges_are_chosen_than_may_be_asked(wanted, n, judges):
    assert most_judges(wanted, n) == judges


def test_one_judge_of_the_largest_tournament_may_be_asked():
    assert MOST_CALLS == MOST_MEMBERS * (MOST_MEMBERS - 1)


def test_only_comparisons_that_are_held_for_are_made():
    calls = pairs(candidates(3), JUDGES[:2], 1)
    kept = held_for(calls, {JUDGES[0]: 2, JUDGES[1]: 100})
    assert kept == (*calls[:2], *calls[6:])
    assert held_for(calls, {}) == ()


@pytest.mark.parametrize(
    ("judge", "models", "own"),
    [
        ("openai:gpt-4o", MODELS, True),
        ("client:desk:gpt-4o", MODELS, True),
        ("far:one", MODELS, False),
        ("far:one", (), False),
    ],
)
def test_a_model_is_its_own_judge_at_whatever_provider(judge, models, own):
    assert is_own(judge, models) is own


# ---- what one judge says of a pair


@pytest.mark.parametrize(
    ("forth", "back", "shares", "judged"),
    [
        ("first", "second", (1, 0), 1),
        ("second", "first", (0, 1), 1),
        ("tie", "tie", (Fraction(1, 2), Fraction(1, 2)), 1),
        ("first", "first", (Fraction(1, 2), Fraction(1, 2)), 1),
        ("second", "second", (Fraction(1, 2), Fraction(1, 2)), 1),
        ("first", "tie", (Fraction(1, 2), Fraction(1, 2)), 1),
        ("tie", "second", (Fraction(1, 2), Fraction(1, 2)), 1),
        ("first", None, (0, 0), 0),
        (None, "second", (0, 0), 0),
        ("tie", None, (0, 0), 0),
        (None, None, (0, 0), 0),
    ],
)
def test_both_orders_must_name_the_same_answer_a_flip_is_a_tie_and_half_a_judgement_is_none(
    forth, back, shares, judged
):
    those = candidates(2)
    calls = [Comparison("far:one", 0, 1), Comparison("far:one", 1, 0)]
    result = tally(calls, [forth, back], those, RULE, asked=2)
    assert {each.candidate.slot: each.share for each in result.ranked} == {0: shares[0], 1: shares[1]}
    assert (result.asked, result.judged) == (1, judged)
    assert ("degraded" in result.flags) == (judged == 0)


def test_an_order_that_was_never_asked_for_makes_no_judgement():
    result = tally([Comparison("far:one", 0, 1)], ["first"], candidates(2), RULE, asked=2)
    assert (result.status, result.judged) == ("unscored", 0)


def test_a_word_too_few_is_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match="zip"):
        tally(pairs(candidates(2), JUDGES, 1), ["first"], candidates(2), RULE, asked=2)


# ---- what that makes

A, B, C = prefers(0, 1, 2), prefers(1, 0, 2), prefers(2, 1, 0)
CIRCLE = (prefers(0, 1, 2), prefers(1, 2, 0), prefers(2, 0, 1))


@pytest.mark.parametrize(
    ("count", "words", "more", "status", "winner"),
    [
        (0, (A,), {"asked": 3, "failed": 3}, "failed", None),
        (1, (A,), {}, "inconclusive", 0),
        (2, (A,), {"rule": Rule(min_live=3)}, "inconclusive", 0),
        (3, (), {}, "unscored", None),
        (3, (always(None),), {}, "unscored", None),
        (3, (A,), {}, "unanimous", 0),
        (3, (A, A, A), {}, "unanimous", 0),
        (3, (A, A, prefers(0)), {}, "unanimous", 0),  # what it says of the others does not matter
        (3, (A, A), {"asked": 4}, "consensus", 0),
        (3, (A, A), {"failed": 1}, "consensus", 0),
        (3, (A, A), {"failed": 2}, "majority", 0),  # 3 of 5 is less than the threshold, whatever the judges say
        (2, (A, A), {"failed": 1}, "consensus", 0),
        (2, (A, A), {"failed": 2}, "inconclusive", 0),
        (2, (A, B), {"failed": 2}, "dispute", None),
        (3, (A, A), {"asked": 4, "shrunk": True}, "consensus", 0),
        (3, (A, A, B), {}, "consensus", 0),
        (3, (A, A, C), {}, "consensus", 0),  # 2/3 against 1, exactly the threshold
        (3, (A, A, C), {"rule": Rule(threshold=Fraction(3, 4))}, "majority", 0),
        (3, (A, A, always(None)), {}, "consensus", 0),  # 2/3: a judge that fails counts below the line
        (3, (A, always(None)), {}, "dispute", 0),
        (3, (A, A, A), {"families": ("one", "one", "one")}, "majority", 0),
        (3, (A, A, A), {"families": ("one", None, None)}, "majority", 0),
        (3, (A, A, A), {"families": ("one", None, "two")}, "unanimous", 0),
        (3, (A, B), {}, "dispute", None),
        (3, (A, always("first")), {}, "dispute", 0),  # the second flips, and so finds no difference
        (3, (A, A, always("first")), {}, "consensus", 0),
        (3, (always("first"),), {}, "dispute", None),
        (3, (always("tie"),), {}, "dispute", None),
        (3, CIRCLE, {}, "dispute", None),
        (2, (A, B), {}, "dispute", None),
        (2, (A, always("tie")), {}, "dispute", 0),
        (2, (A, always("tie"), always("tie")), {}, "dispute", 0),  # a share of 2/3, but one judge of three prefers it
        (2, (A, A, always("tie")), {}, "consensus", 0),
        (2, (A, A, B), {"rule": Rule(threshold=Fraction(3, 4))}, "majority", 0),
    ],
)
def test_the_status_is_what_the_words_of_the_judges_come_to(count, words, more, status, winner):
    result = ranking(count, *words, **more)
    assert result.status == status
    assert (result.winner and result.winner.slot) == winner


def test_who_is_beaten_by_another_has_no_majority_however_large_its_share():
    """0 beats 2 and 3, 1 beats 0 and loses to 2 and 3: a share of 2/3 for 0 alone."""
    wins = {(0, 2), (0, 3), (1, 0), (2, 1), (3, 1)}

    def word(call):
        if (call.first, call.second) in wins:
            return "first"
        return "second" if (call.second, call.first) in wins else "tie"

    result = ranking(4, word)
    assert (order(result)[0], result.top_share, result.won, result.status) == (0, Fraction(2, 3), 0, "dispute")


def test_one_bad_answer_more_makes_no_other_better():
    """Of 0 and 1 two judges prefer 0 and two find no difference; all prefer both to 2 and 3."""
    words = (prefers(0, 1), prefers(0, 1), always("tie"), always("tie"))
    for count in (2, 3, 4):
        those = candidates(count)
        calls = pairs(those, ["far:one", "far:two", "far:three", "far:four"], 1)
        says = dict(zip(["far:one", "far:two", "far:three", "far:four"], words, strict=True))
        verdicts = [
            says[call.judge](call) if {call.first, call.second} == {0, 1} else prefers(0, 1)(call) for call in calls
        ]
        result = tally(calls, verdicts, those, RULE, asked=count)
        assert (result.won, result.status) == (Fraction(1, 2), "dispute")


def test_a_candidate_that_no_judge_may_be_asked_about_is_not_beaten():
    those = candidates(3)
    calls = pairs(those, [MODELS[2]], 1)
    result = tally(calls, [prefers(0, 1)(call) for call in calls], those, RULE, asked=3)
    assert (order(result), result.top_share, result.status) == ([0, 1, 2], Fraction(1, 2), "dispute")


def test_each_other_weighs_the_same_though_more_judges_were_asked_about_one():
    """1's own model is a judge: of three judges two are asked about 1, all three about 0 and 2."""
    those = candidates(3)
    calls = pairs(those, [*JUDGES[:2], MODELS[1]], 1)
    result = tally(calls, [prefers(0, 2, 1)(call) for call in calls], those, RULE, asked=3)
    assert result.asked == 7
    assert [each.share for each in result.ranked] == [1, Fraction(1, 2), 0]
    assert result.status == "unanimous"


@pytest.mark.parametrize(
    ("more", "flags"),
    [
        ({}, ()),
        ({"failed": 1, "asked": 4}, ("degraded",)),
        ({"asked": 4}, ("degraded",)),
        ({"asked": 4, "shrunk": True}, ("shrunk",)),
        ({"fails": {0}}, ("degraded",)),
        ({"families": ("one", "one", "one")}, ("same_family",)),
        ({"families": ("one", "one", None)}, ("same_family",)),
        ({"families": (None, None, None)}, ("same_family",)),
        ({"deadline": True}, ("deadline",)),
        ({"deadline": True, "failed": 1, "families": ("one",) * 3}, ("degraded", "same_family", "deadline")),
    ],
)
def test_flags_say_what_was_not_as_it_should_be(more, flags):
    assert ranking(3, A, A, **more).flags == flags


def test_of_equals_the_best_model_then_the_lowest_slot_is_named_first():
    assert order(ranking(3, always("tie"))) == [0, 1, 2]
    assert order(ranking(3, always("tie"), qualities=(7.0, 8.0, 8.0, 0.0))) == [1, 2, 0]
    assert order(ranking(3, C, qualities=(7.0, 8.0, 6.0, 0.0))) == [2, 1, 0]


def test_margin_and_shares_are_exact_and_told_as_clusters_of_one():
    result = ranking(3, A, A, B)
    assert (result.top_share, result.margin) == (Fraction(5, 6), Fraction(5, 6) - Fraction(4, 6))
    agreement = told(result)
    assert (agreement.method, agreement.top_share, agreement.margin) == ("judge", 5 / 6, 1 / 6)
    assert [(each.answer, each.members, each.share) for each in agreement.clusters] == [
        ("answer 0", [MODELS[0]], 5 / 6),
        ("answer 1", [MODELS[1]], 4 / 6),
        ("answer 2", [MODELS[2]], 0.0),
    ]


def test_without_a_judgement_no_judge_is_named_as_the_method():
    assert told(ranking(3)).method == "none"
    assert told(ranking(3, always(None))).method == "none"
    assert told(ranking(0)).clusters == []


WORDS = st.sampled_from(["first", "second", "tie", None])


@st.composite
def judged(draw):
    those = candidates(draw(st.integers(0, 4)))
    calls = pairs(those, JUDGES[: draw(st.integers(0, 3))], draw(st.integers(0, 9)))
    return those, calls, draw(st.lists(WORDS, min_size=len(calls), max_size=len(calls)))


@given(judged(), st.randoms())
def test_no_order_of_arrival_changes_a_ranking(case, rng):
    those, calls, verdicts = case
    mixed, heard = list(those), list(zip(calls, verdicts, strict=True))
    rng.shuffle(mixed)
    rng.shuffle(heard)
    arrived = tally([call for call, _ in heard], [word for _, word in heard], mixed, RULE, asked=len(those))
    assert arrived == tally(calls, verdicts, those, RULE, asked=len(those))


@given(judged(), st.integers(0, 100))
def test_a_judge_that_fails_never_makes_more_of_it(case, at):
    those, calls, verdicts = case
    rank = ("failed", "inconclusive", "unscored", "dispute", "majority", "consensus", "unanimous")
    before = tally(calls, verdicts, those, RULE, asked=len(those))
    if not calls or before.winner is None:
        return
    fewer = list(verdicts)
    fewer[at % len(calls)] = None
    after = tally(calls, fewer, those, RULE, asked=len(those))
    if after.winner == before.winner:
        assert rank.index(after.status) <= rank.index(before.status)
        assert after.top_share <= before.top_share


@given(judged())
def test_points_are_given_once_for_each_judgement(case):
    those, calls, verdicts = case
    result = tally(calls, verdicts, those, RULE, asked=len(those))
    judges = len({call.judge for call in calls}) or 1
    assert sum(each.share for each in result.ranked) * max(len(those) - 1, 1) * judges == result.judged
    assert result.asked == judges * len(list(combinations(those, 2))) * bool(calls)


# ---- which say the same


def numbers(shown, *groups):
    """Groups of slots as a judge names them."""
    slots = [each.slot for each in shown]
    return [[slots.index(slot) + 1 for slot in group] for group in groups]


def test_the_second_order_is_the_first_reversed_and_the_seed_decides_it():
    those = candidates(4)
    first, second = two_orders(those, 3)
    assert second == first[::-1]
    assert two_orders(those[::-1], 3) == (first, second)
    assert len({two_orders(those, seed)[0] for seed in range(30)}) > 10
    assert sorted(each.slot for each in first) == [0, 1, 2, 3]


def test_groups_count_when_both_orders_give_the_same():
    orders = two_orders(candidates(4), 3)
    said = [numbers(orders[0], [1, 3], [0], [2]), numbers(orders[1], [2], [3, 1], [0])]
    assert grouped(orders, said) == ((1, 3), (0,), (2,))


@pytest.mark.parametrize(
    "second",
    [
        None,
        [[0, 3], [1], [2]],
        [[1, 3, 0], [2]],
        [[0], [1], [2], [3]],
    ],
)
def test_a_judge_that_groups_otherwise_when_the_order_changes_has_compared_nothing(second):
    orders = two_orders(candidates(4), 3)
    said = [numbers(orders[0], [1, 3], [0], [2]), second and numbers(orders[1], *second)]
    assert grouped(orders, said) is None
    assert grouped(orders[::-1], said[::-1]) is None


def test_the_same_numbers_in_two_orders_are_other_answers():
    orders = two_orders(candidates(4), 3)
    assert grouped(orders, [[[1, 2], [3], [4]]] * 2) is None


def test_groups_are_votes_for_the_rules_of_consensus():
    those = candidates(4, qualities=(6.0, 7.0, 9.0, 8.0))
    votes = grouped_votes(((1, 3), (0,), (2,)), those)
    assert [(vote.slot, vote.answer.key, vote.answer.shown) for vote in votes] == [
        (0, "group-2", "answer 0"),
        (1, "group-1", "answer 3"),  # the best of those who say so
        (2, "group-3", "answer 2"),
        (3, "group-1", "answer 3"),
    ]
    assert [(vote.family, vote.quality) for vote in votes] == list(zip(FAMILIES, (6.0, 7.0, 9.0, 8.0), strict=True))
    finding = found(Count(votes=votes, asked=4), RULE)
    assert finding.status == "dispute"
    assert finding.winner is not None
    assert finding.winner.slots == (1, 3)
    assert found(Count(votes=grouped_votes(((0, 1, 3), (2,)), those), asked=4), RULE).status == "consensus"


@given(st.integers(0, 1000), st.randoms())
def test_a_shuffle_keeps_everyone_and_depends_on_the_seed_alone(seed, rng):
    those = list(candidates(4))
    before = shuffled(those, seed)
    rng.shuffle(those)
    assert shuffled(those, seed) == before
    assert set(before) == set(those)


def test_judges_that_toss_a_coin_seldom_agree():
    rng = random.Random(4)
    outcomes = [ranking(3, *[lambda _: rng.choice(["first", "second"])] * 3).status for _ in range(300)]
    assert outcomes.count("dispute") > 250
