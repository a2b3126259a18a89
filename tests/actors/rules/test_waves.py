"""Whom a tournament asks next and when it stops, against simulated arrivals: the outcome is that of hearing all, for fewer ballots."""

import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.rules.canonical import Canonical
from actors.rules.consensus import Count, Rule, Vote, clusters, found
from actors.rules.waves import Asked, Launch, Member, Standing, Stop, Wait, arranged, decided, fewest, step

FAMILIES = ("ada", "bel", "cyd", "dot", "eve", "fay", "gus")


def members(count, families=FAMILIES, whole=()):
    return tuple(Member(slot, families[slot % len(families)], slot in whole) for slot in range(count))


def asked(mode="vote", count=3, *, bench=0, families=FAMILIES, whole=(), latency="frugal", **rule):
    everyone = members(count + bench, families, whole)
    return Asked(mode=mode, members=everyone[:count], bench=everyone[count:], latency=latency, rule=Rule(**rule))


def vote(slot, said, families=FAMILIES):
    """A ballot: a word, or a number."""
    answer = Canonical(said, said) if isinstance(said, str) else Canonical(str(said), str(said), Fraction(said))
    return Vote(slot, answer, families[slot % len(families)])


def standing(said="", running=(), failed=(), families=FAMILIES):
    """Letters are ballots of slots 0, 1, …"""
    votes = tuple(vote(slot, letter, families) for slot, letter in enumerate(said))
    return Standing(votes=votes, running=frozenset(running), failed=frozenset(failed))


def play(question, says, rng=None):
    """Plays a tournament to its stop; `says` maps a slot to its answer, or to None where it fails. Gives what stood there, and why."""
    rng = rng or random.Random(0)
    stands, launched = Standing(), []
    while True:
        match step(question, stands):
            case Stop() as stop:
                return stands, stop, launched
            case Launch(slots):
                assert slots
                assert not stands.launched & set(slots)
                launched += slots
                stands = Standing(votes=stands.votes, running=stands.running | set(slots), failed=stands.failed)
            case Wait():
                slot = rng.choice(sorted(stands.running))
                running = stands.running - {slot}
                if says[slot] is None:
                    stands = Standing(votes=stands.votes, running=running, failed=stands.failed | {slot})
                else:
                    votes = (*stands.votes, vote(slot, says[slot]))
                    stands = Standing(votes=votes, running=running, failed=stands.failed)


def finding(question, stands, stop):
    count = Count(
        votes=stands.votes,
        asked=len(question.members),
        failed=len(stands.failed),
        cancelled=len(stands.running),
        early=stop.early,
    )
    return found(count, question.rule)


# ---- a vote


@pytest.mark.parametrize(
    ("said", "running", "waiting", "stops"),
    [
        ("aab", (3, 4), 0, False),  # 2-1 with 2 outstanding
        ("aab", (), 2, False),
        ("aab", (3,), 1, False),
        ("aaa", (), 2, True),  # 3-0 of 5
        ("aaa", (3, 4), 0, True),
        ("aa", (), 1, True),
        ("aa", (2, 3), 0, False),  # 2-2 is still possible
        ("aaab", (), 1, True),
        ("aabb", (), 1, False),
        ("aabc", (), 1, False),  # a tie is still possible
        ("a", (1,), 0, False),
        ("", (0, 1), 1, False),
        ("aaabcd", (), 1, False),  # 3 of 7 is a dispute, 4 of 7 a majority
        ("aab", (), 0, False),  # nothing to come: it is over, and not early
    ],
)
def test_it_is_decided_when_nothing_to_come_can_overturn_or_equal_the_leader(said, running, waiting, stops):
    assert decided(standing(said, running), waiting, Rule()) == stops


@pytest.mark.parametrize(("count", "first"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4), (7, 4)])
def test_frugal_asks_the_smallest_quorum_first(count, first):
    assert step(asked(count=count), Standing()) == Launch(tuple(range(first)))


@pytest.mark.parametrize(
    ("count", "said", "running", "failed", "expected"),
    [
        (3, "aa", (), (), Stop("decided", early=True)),
        (3, "ab", (), (), Launch((2,))),
        (3, "a", (1,), (), Wait()),
        (3, "aba", (), (), Stop("heard")),
        (3, "abc", (), (), Stop("heard")),
        (5, "ab", (2,), (), Launch((3,))),  # whatever the third says, it takes a fourth
        (5, "aa", (2,), (), Wait()),
        (5, "aab", (), (), Launch((3,))),
        (5, "aabb", (), (), Launch((4,))),
        (5, "abc", (), (), Launch((3, 4))),
        (3, "a", (), (1,), Launch((2,))),  # a failure is made up by the next
        (3, "", (1,), (0,), Launch((2,))),
        (3, "aa", (), (2,), Stop("heard")),
        (3, "", (), (0, 1, 2), Stop("heard")),
        (5, "aa", (), (2, 3), Launch((4,))),  # 2 of 4 is inconclusive, 3 of 5 a majority
        (6, "aa", (), (2, 3, 4), Stop("decided", early=True)),  # 3 of 6 would be no majority either
    ],
)
def test_more_are_asked_only_while_it_is_undecided(count, said, running, failed, expected):
    assert step(asked(count=count), standing(said, running, failed)) == expected


def test_fast_asks_all_at_once_and_stops_as_early():
    question = asked(count=5, latency="fast")
    assert step(question, Standing()) == Launch((0, 1, 2, 3, 4))
    assert step(question, standing("aab", (3, 4))) == Wait()
    assert step(question, standing("aaa", (3, 4))) == Stop("decided", early=True)


@pytest.mark.parametrize(
    ("latency", "whole", "first", "after"),
    [
        ("fast", (0, 2), (1, 3, 4), (0,)),  # one who is billed anyway waits until needed
        ("fast", (0, 1, 2, 3, 4), (0, 1, 2), (3,)),
        ("fast", (0, 1, 2), (3, 4, 0), (1,)),
        ("frugal", (0,), (1, 2, 3), (4,)),
    ],
)
def test_who_bills_a_cancelled_call_is_rather_not_launched(latency, whole, first, after):
    question = asked(count=5, latency=latency, whole=whole)
    assert step(question, Standing()) == Launch(first)
    votes = tuple(vote(slot, said) for slot, said in zip(first, "aab", strict=True))
    assert step(question, Standing(votes=votes)) == Launch(after)


def test_no_ballot_is_cancelled_that_is_billed_anyway():
    rng = random.Random(7)
    for _ in range(500):
        count = rng.randint(2, 7)
        whole = {slot for slot in range(count) if rng.random() < 0.5}
        question = asked(count=count, whole=whole, latency=rng.choice(("fast", "frugal")))
        stands, _, _ = play(question, {slot: rng.choice("aaab") for slot in range(count)}, rng)
        assert not stands.running & whole


@pytest.mark.parametrize(
    ("families", "first"),
    [("aab", (0, 2)), ("abb", (0, 1)), ("aaaab", (0, 4, 1)), ("aaa", (0, 1))],
)
def test_the_first_wave_has_two_families_if_there_are_two(families, first):
    assert step(asked(count=len(families), families=families), Standing()) == Launch(first)


def test_a_member_that_fails_is_replaced_once_by_a_family_that_is_missing():
    question = asked(count=2, bench=2, families="abac")
    assert step(question, standing("x", failed=(1,), families="abac")) == Launch((3,))
    assert step(question, standing("x", running=(3,), failed=(1,), families="abac")) == Wait()
    assert step(question, standing("x", failed=(1, 3), families="abac")) == Launch((2,))
    assert step(question, standing("x", failed=(1, 2, 3), families="abac")) == Stop("heard")


def test_the_bench_is_asked_only_for_who_failed():
    assert step(asked(count=3, bench=2, latency="fast"), Standing()) == Launch((0, 1, 2))
    assert step(asked(count=3, bench=2), standing("abc")) == Stop("heard")


def test_fewer_than_min_live_decide_nothing_while_more_can_come():
    assert step(asked(count=3, min_live=3), Standing()) == Launch((0, 1, 2))
    assert step(asked(count=3, min_live=3), standing("aa", (2,))) == Wait()
    assert step(asked(count=3, min_live=3), standing("aa", (), (2,))) == Stop("heard")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("", Launch((0, 1, 2))),
        ("aa", Launch((2,))),  # one ballot is enough to veto: it is asked for
        ("vv", Stop("decided", early=True)),
    ],
)
def test_where_one_ballot_can_veto_all_are_heard_until_it_is_certain(said, expected):
    assert step(asked(count=3, veto=Canonical("v", "v")), standing(said)) == expected


def test_with_a_veto_in_a_leader_that_is_certain_stops_it():
    assert step(asked(count=5, veto=Canonical("v", "v")), standing("vaaa")) == Stop("decided", early=True)


@pytest.mark.parametrize(
    ("numbers", "waiting", "stops"),
    [
        ((10, 10, 10), 2, True),
        ((10, 10, 11), 1, True),
        ((10, 10, 11), 2, False),  # 12 and 12 would make as large a group, without the 10
        ((9, 10, 11, 20), 1, False),
    ],
)
def test_with_a_tolerance_a_window_that_shifts_is_feared(numbers, waiting, stops):
    stands = Standing(votes=tuple(vote(slot, number) for slot, number in enumerate(numbers)))
    assert decided(stands, waiting, Rule(tolerance=Fraction(1))) == stops


# ---- the promise: the same winner


@pytest.mark.parametrize(("latency", "bench"), [("frugal", 0), ("fast", 0), ("frugal", 2), ("fast", 2)])
def test_stopping_early_gives_the_winner_of_hearing_all(latency, bench):
    rng = random.Random(f"{latency}{bench}")
    saved = 0
    for _ in range(2_500):
        count = rng.randint(1, 7)
        question = asked(count=count, bench=bench, latency=latency)
        says = {slot: rng.choice(("a", "a", "a", "b", "b", "c", None)) for slot in range(count + bench)}
        stands, stop, _ = play(question, says, rng)
        early = finding(question, stands, stop)
        rest = [slot for slot in range(count) if slot not in {vote.slot for vote in stands.votes}]
        spare = [slot for slot in range(count, count + bench) if slot not in {vote.slot for vote in stands.votes}]
        rng.shuffle(rest)
        missing = count - len(stands.votes)
        more = [vote(slot, says[slot]) for slot in rest + spare if says[slot] is not None][:missing]
        full = found(Count(votes=(*stands.votes, *more), asked=count, failed=0), question.rule)
        if stop.early:
            saved += 1
            assert early.winner is not None
            assert full.winner is not None
            assert full.winner.answer == early.winner.answer
            assert early.status != "unanimous"
        else:
            assert not stands.running
            assert not more
    assert saved > 300


@given(st.integers(2, 7), st.randoms(use_true_random=False), st.sampled_from(["frugal", "fast"]))
def test_with_a_tolerance_the_winner_agrees_with_all_who_lead_in_the_end(count, rng, latency):
    question = asked(count=count, latency=latency, tolerance=Fraction(2))
    says = {slot: rng.choice((1, 2, 3, 4, 5, 6, 9)) for slot in range(count)}
    stands, stop, _ = play(question, says, rng)
    if stop.early:
        answer = finding(question, stands, stop).winner.answer
        end = clusters([vote(slot, said) for slot, said in says.items()], Fraction(2))
        assert len(end) == 1 or end[0].size > end[1].size
        assert all(abs(one.answer.number - answer.number) <= 2 for one in end[0].votes)


@given(
    st.sampled_from(["vote", "cascade", "race", "pick", "fuse"]),
    st.integers(1, 6),
    st.integers(0, 3),
    st.sampled_from(["frugal", "fast"]),
    st.randoms(use_true_random=False),
)
def test_every_tournament_ends_and_asks_nobody_twice(mode, count, bench, latency, rng):
    question = asked(mode, count, bench=bench, latency=latency)
    says = {slot: rng.choice(("a", "b", None)) for slot in range(count + bench)}
    stands, stop, launched = play(question, says, rng)
    assert len(launched) == len(set(launched)) <= count + len(stands.failed)
    assert len(stands.votes) <= count
    if stop.why == "heard":
        assert not stands.running


@given(st.text("abc", max_size=6), st.integers(1, 6))
def test_with_the_fewest_all_for_the_leader_it_is_decided_and_with_one_less_not(said, waiting):
    stands, rule = standing(said), Rule()
    if decided(stands, waiting, rule):
        return
    least = fewest(stands, waiting, rule)
    leader = clusters(stands.votes)[0].answer.key if said else "a"
    for more in range(1, least + 1):
        then = standing(said + leader * more)
        over = more == waiting
        assert over or decided(then, waiting - more, rule) == (more == least)


# ---- the other modes


@pytest.mark.parametrize(
    ("said", "running", "failed", "expected"),
    [
        ("", (), (), Launch((0, 1))),
        ("a", (1,), (), Wait()),
        ("aa", (), (), Stop("decided", early=True)),
        ("ab", (), (), Launch((2,))),
        ("aba", (), (), Stop("decided", early=True)),  # 2 of 3 is a consensus
        ("abc", (), (), Launch((3,))),
        ("abca", (), (), Launch((4,))),
        ("abcab", (), (), Stop("heard")),
        ("a", (), (1,), Launch((2,))),
        ("a", (2,), (1,), Wait()),
        ("aa", (), (2,), Stop("decided", early=True)),
        ("aa", (), (2, 3), Launch((4,))),  # 2 of 4 launched is no consensus
        ("aaa", (), (3, 4), Stop("heard")),
        ("aaaa", (), (4,), Stop("heard")),  # early is only what leaves somebody unheard
    ],
)
def test_a_cascade_asks_a_stronger_one_while_the_ballots_make_no_consensus(said, running, failed, expected):
    assert step(asked("cascade", 5), standing(said, running, failed)) == expected


def test_a_cascade_begins_with_two_families_and_keeps_the_order_after():
    assert step(asked("cascade", 4, families="aabc"), Standing()) == Launch((0, 2))
    assert step(asked("cascade", 4, families="aabc", whole=(0, 1)), Standing()) == Launch((0, 2))
    votes = (vote(0, "x", "aabc"), vote(2, "y", "aabc"))
    assert step(asked("cascade", 4, families="aabc"), Standing(votes=votes)) == Launch((1,))


def test_a_cascade_of_one_family_stops_when_the_rest_cannot_overturn_it():
    question = asked("cascade", 5, families="a")
    assert step(question, standing("xx", families="a")) == Launch((2,))
    assert step(question, standing("xxx", families="a")) == Stop("decided", early=True)


def test_a_race_asks_all_and_ends_with_the_first_answer():
    question = asked("race", 3)
    assert step(question, Standing()) == Launch((0, 1, 2))
    assert step(question, standing("", (1, 2), (0,))) == Wait()
    assert step(question, standing("a", (1, 2))) == Stop("first")
    assert step(question, standing("", (), (0, 1, 2))) == Stop("heard")


@pytest.mark.parametrize(
    ("whole", "first", "after"), [((0,), (1, 2), (0,)), ((0, 1), (2, 0), (1,)), ((0, 1, 2), (0, 1), (2,))]
)
def test_a_race_is_of_two_at_least_and_else_leaves_out_who_bills_what_is_cancelled(whole, first, after):
    question = asked("race", 3, whole=whole)
    assert step(question, Standing()) == Launch(first)
    assert step(question, Standing(running=frozenset(first[1:]), failed=frozenset(first[:1]))) == Launch(after)


@pytest.mark.parametrize("mode", ["pick", "fuse"])
def test_candidates_are_all_asked_at_once_and_all_heard(mode):
    question = asked(mode, 3, bench=1, whole=(0,))
    assert step(question, Standing()) == Launch((0, 1, 2))
    assert step(question, standing("aa", (2,))) == Wait()
    assert step(question, standing("aa", (), (2,))) == Launch((3,))
    assert step(question, standing("aaa")) == Stop("heard")


# ---- the order


@pytest.mark.parametrize(
    ("cast", "order"),
    [
        ([], ()),
        ([("p", 1, 7.0)], (0,)),
        ([("p", 5, 9.0), ("q", 1, 6.0)], (1, 0)),
        ([("p", 9, 9.0), ("q", 5, 8.0), ("r", 2, 7.0), ("p", 1, 6.0), ("q", 3, 6.5)], (3, 2, 0, 4, 1)),
        (
            [("p", 1, 6.0), ("p", 2, 6.0), ("q", 3, 6.0), ("p", 4, 9.0)],
            (0, 2, 3, 1),
        ),  # the cheap ones are of two families
        ([("p", 0, 6.0), ("p", 0, 7.0), ("p", 0, 6.0)], (1, 0, 2)),  # free ones by quality
        (
            [("p", 1, 5.0), ("q", 2, 5.0), ("r", 9, 8.0), ("s", 3, 8.0)],
            (0, 1, 3, 2),
        ),  # of equally strong ones the cheaper
    ],
)
def test_two_cheap_ones_are_first_then_the_strongest_then_by_price(cast, order):
    everyone = [
        Member(slot, family, price=price, quality=quality) for slot, (family, price, quality) in enumerate(cast)
    ]
    assert tuple(member.slot for member in arranged(everyone)) == order
    assert arranged(reversed(everyone)) == arranged(everyone)
