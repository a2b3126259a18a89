"""Stored ballots evaluated anew: the same as then where nothing is changed, and what another rule makes of them."""

import random

import pytest
from msgspec.structs import replace
from tournaments import MODELS, ballot, opened, played, terms, verdict

from actors.rules.replay import replayed
from protocols.errors import BadRequest
from protocols.record import CUT, Replay, Stored, TournamentRow
from protocols.tournament import AnswerSpec, Missing


def stored(asked, ballots, told=None, state="done"):
    """As the record has it."""
    row = TournamentRow(
        tournament_id=asked.tournament_id,
        created_at="",
        user=asked.user,
        app=asked.app,
        task_type=asked.task_type,
        mode=asked.mode,
        state=state,
        status=told and told.status,
        answer=told and told.answer,
        needs_review=False,
        members=[seat.model for seat in asked.terms.members],
        prompt=asked.prompt,
        cost_nano_usd=None,
    )
    return Stored(tournament=row, spec=asked.spec, terms=asked.terms, ballots=list(ballots), verdict=told)


def replay(kept, **change):
    return replayed(kept, Replay(tournament_id="t1", **change))


def held(said, told=None, state="done", **asked):
    """Ballots of yes and no by their first letters (`-` failed), one after the other."""
    words = {"y": "yes", "n": "no", "-": None}
    ballots = [ballot(slot, words[letter]) for slot, letter in enumerate(said)]
    return stored(opened(**({"terms": terms(len(said))} | asked)), ballots, told, state)


def differs(answer):
    return {difference.what: (difference.was, difference.now) for difference in answer.differs}


@pytest.mark.parametrize("seed", range(400))
def test_where_nothing_is_changed_nothing_differs(seed):
    asked, ballots, told = played(random.Random(seed))
    again = replay(stored(asked, ballots, told))
    assert again.differs == []
    assert again.not_heard == []
    assert again.verdict.agreement == told.agreement
    assert [(b.slot, b.status, b.answer) for b in again.verdict.ballots] == [
        (b.slot, b.status, b.answer) for b in ballots
    ]
    assert (again.verdict.cost_nano_usd, again.verdict.bound_nano_usd) == (told.cost_nano_usd, told.bound_nano_usd)


def test_the_ballots_that_are_stored_stay_as_they_are():
    kept = held("yyn")
    before = [(b.status, b.answer, b.cluster, b.why) for b in kept.ballots]
    replay(kept, answer="number")
    assert [(b.status, b.answer, b.cluster, b.why) for b in kept.ballots] == before


@pytest.mark.parametrize(
    ("said", "change", "status", "answer"),
    [
        ("yyn", {}, "consensus", "yes"),
        ("yyn", {"threshold": "3/4"}, "majority", "yes"),
        ("yyyn", {"threshold": "0.75"}, "consensus", "yes"),
        ("yyy", {"min_live": 4}, "inconclusive", None),
        ("yyn", {"veto": "No"}, "dispute", None),
        ("yyy", {"veto": "no"}, "unanimous", "yes"),
        ("yn", {}, "dispute", None),
        ("y-", {}, "inconclusive", None),
        ("--", {}, "failed", None),
        ("nyy", {"mode": "race"}, "unscored", "no"),
        ("yyn", {"mode": "cascade"}, "consensus", "yes"),
        ("yny", {"mode": "cascade"}, "consensus", "yes"),
    ],
)
def test_another_rule_makes_another_verdict_of_the_same_ballots(said, change, status, answer):
    again = replay(held(said, terms=terms(len(said), latency="fast")), **change).verdict
    assert (again.status, again.answer) == (status, answer)


def test_a_cascade_asks_only_for_those_that_it_needs_and_says_what_that_saves():
    kept = held("yyn")
    kept.verdict = verdict(ballots=tuple(kept.ballots))
    again = replay(kept, mode="cascade").verdict
    assert [b.model for b in again.ballots] == list(MODELS[:2])
    assert (again.flags, again.missing) == (["early_stopped"], [])
    assert (again.cost_nano_usd, again.saved_nano_usd, kept.verdict.cost_nano_usd) == (201, 102, 303)


def test_a_race_is_won_by_who_was_first_and_not_by_who_was_asked_first():
    kept = held("ynn")
    kept.ballots[0].latency_ms, kept.ballots[2].latency_ms = 900.0, 1.0
    again = replay(kept, mode="race").verdict
    assert (again.answer, again.answer_kind, again.winner) == ("no", "first", MODELS[2])
    assert [(b.status, b.answer) for b in again.ballots] == [("cancelled", None), ("cancelled", None), ("ok", "no")]
    assert [(m.model, m.code) for m in again.missing] == [(MODELS[0], "cancelled"), (MODELS[1], "cancelled")]


@pytest.mark.parametrize(
    ("change", "answer"),
    [({}, "no"), ({"answer": "short_text"}, "no"), ({"answer": "short_text", "min_live": 3}, "no")],
)
def test_a_race_that_was_one_is_won_by_who_came_first_however_long_others_took_in_their_turn(change, answer):
    kept = held("yn-n", mode="race", terms=terms(3, bench=1))
    for each, (arrived, took) in zip(kept.ballots, [(3, 10.0), (2, 500.0), (1, 900.0), (4, 1.0)], strict=True):
        each.arrived, each.latency_ms = arrived, took
    again = replay(kept, **change).verdict
    assert (again.answer, again.winner, again.answer_kind) == (answer, MODELS[1], "first")


def test_a_race_that_is_not_changed_gives_the_winner_that_is_stored():
    kept = held("yny", mode="race")
    for each, (arrived, took) in zip(kept.ballots, [(0, None), (1, 500.0), (2, 1.0)], strict=True):
        each.arrived, each.latency_ms = arrived, took
    kept.ballots[0].status = "cancelled"
    kept.verdict = verdict(ballots=tuple(kept.ballots), mode="race", answer="no", winner=MODELS[1])
    again = replay(kept)
    assert (again.verdict.answer, again.verdict.winner) == ("no", MODELS[1])
    assert not {"answer", "winner"} & differs(again).keys()


def test_who_could_not_be_asked_has_no_place_in_a_race():
    kept = held("-yn", mode="race")
    for each, (arrived, took, wave) in zip(kept.ballots, [(0, None, 0), (2, 1.0, 1), (1, 9.0, 1)], strict=True):
        each.arrived, each.latency_ms, each.round = arrived, took, wave
    assert replay(kept).verdict.winner == replay(kept, answer="short_text").verdict.winner == MODELS[2]


def test_of_two_that_took_as_long_who_came_first_wins():
    kept = held("yn")
    for each, arrived in zip(kept.ballots, (2, 1), strict=True):
        each.arrived, each.latency_ms = arrived, 10.0
    assert replay(kept, mode="race").verdict.winner == MODELS[1]


def test_who_was_never_asked_is_not_heard_and_counts_as_failed():
    kept = held("yn", terms=terms(3))
    again = replay(kept)
    assert again.not_heard == [MODELS[2]]
    assert (again.verdict.status, again.verdict.flags) == ("dispute", ["degraded"])
    assert again.verdict.missing == [
        Missing(MODELS[2], "not_heard", "no answer of it is stored, and a replay asks nobody")
    ]


def test_who_was_cancelled_is_not_heard_if_it_is_needed_now():
    kept = held("yyn", terms=terms(3, latency="fast"))
    kept.ballots[2].status, kept.ballots[2].answer = "cancelled", None
    assert replay(kept).not_heard == []
    again = replay(kept, min_live=3)
    assert again.not_heard == [MODELS[2]]
    assert again.verdict.status == "inconclusive"


def test_what_was_wrong_with_a_member_is_told_as_it_was_then():
    kept = held("yy-")
    kept.verdict = verdict(ballots=tuple(kept.ballots))
    kept.terms = terms(3, latency="fast", min_live=3)
    assert replay(kept).verdict.missing == [Missing(MODELS[2], "provider_error", "it broke")]


def test_differences_are_named_with_what_was_and_what_is():
    kept = held("yyn")
    kept.verdict = replay(kept, min_live=3).verdict
    assert differs(replay(kept, threshold="3/4")) == {"status": ("consensus", "majority")}
    changed = differs(replay(kept, mode="race"))
    assert changed["mode"] == ("vote", "race")
    assert changed["answer_kind"] == ("voted", "first")
    assert changed["status"] == ("consensus", "unscored")


@pytest.mark.parametrize("seed", range(400))
def test_played_again_it_stops_where_it_did(seed):
    asked, ballots, told = played(random.Random(seed))
    kept = stored(asked, ballots, told)
    kept.terms = terms_that_look_changed(kept.terms)
    again = replay(kept, min_live=asked.terms.min_live)
    assert again.differs == []
    assert again.not_heard == []


def terms_that_look_changed(held):
    """With another `min_live`, which the replay then puts back."""
    return replace(held, min_live=held.min_live + 1)


def test_a_member_that_could_not_be_asked_is_failed_from_the_start():
    kept = held("yy-", terms=terms(3))
    kept.ballots[2].round = 0
    again = replay(kept).verdict
    assert (again.status, again.flags) == ("consensus", ["degraded"])
    assert [m.model for m in again.missing] == [MODELS[2]]
    kept.ballots[2].round = 1
    assert replay(kept).verdict.missing == []


def test_an_unfinished_one_is_evaluated_from_what_came_and_differs_from_nothing():
    again = replay(held("yy", state="unfinished", terms=terms(3)))
    assert (again.verdict.status, again.verdict.answer, again.differs) == ("consensus", "yes", [])
    assert again.verdict.cost_nano_usd == again.verdict.bound_nano_usd == 201


# ---- another type


def numbers(*said, spec=None, **more):
    ballots = [ballot(slot, text, text=f"About that.\nANSWER: {text}") for slot, text in enumerate(said)]
    spec = spec or AnswerSpec(type="short_text")
    return stored(opened(spec=spec, terms=terms(len(said), latency="fast"), **more), ballots)


def test_another_type_reads_the_texts_anew():
    kept = numbers("12.0", "12", "twelve")
    assert replay(kept).verdict.status == "dispute"
    again = replay(kept, answer="number").verdict
    assert (again.status, again.answer) == ("consensus", "12")
    assert again.ballots[2].status in {"unparsed", "cancelled"}


def test_what_was_unparsed_may_be_an_answer_of_another_type():
    kept = numbers("12", "12")
    for each in kept.ballots:
        each.status, each.answer = "unparsed", None
    assert replay(kept).verdict.status == "failed"
    again = replay(kept, answer="number").verdict
    assert (again.status, [b.status for b in again.ballots]) == ("unanimous", ["ok", "ok"])


def test_another_tolerance_alone_reads_the_answers_and_not_the_texts():
    kept = numbers("1.1", "1.2", spec=AnswerSpec(type="number", unit="km"))
    for each in kept.ballots:
        each.text = "lost"
    assert replay(kept).verdict.status == "dispute"
    assert replay(kept, answer=AnswerSpec(type="number", unit="km", tolerance=0.1)).verdict.status == "unanimous"
    assert replay(kept, answer=AnswerSpec(type="number", unit="m", tolerance=0.1)).verdict.status == "failed"


@pytest.mark.parametrize(
    ("change", "clusters", "status"),
    [
        ({}, (0, 0, 1), "consensus"),
        ({"threshold": "1"}, (0, 0, 1), "majority"),
        ({"min_live": 3, "threshold": "1"}, (0, 0, 1), "majority"),
        ({}, (0, 1, 2), "dispute"),
        ({"min_live": 3}, (None, 0, 1), "unanimous"),
        ({"min_live": 3, "answer": AnswerSpec(type="json", locale="de")}, (0, 0, 1), "unanimous"),
    ],
)
def test_long_answers_are_compared_as_they_were_and_read_again_where_they_were_not(change, clusters, status):
    kept = numbers("[1]", "[1]", "[1]", spec=AnswerSpec(type="json"))
    for each, cluster in zip(kept.ballots, clusters, strict=True):
        each.cluster = cluster
    again = replay(kept, **change).verdict
    assert again.status == status
    assert {each.answer for each in again.ballots} <= {"[1]", None}


def test_a_veto_is_read_with_the_answers_that_it_blocks():
    kept = numbers("[1]", "[1]", "[2]", spec=AnswerSpec(type="json"))
    for each, cluster in zip(kept.ballots, (0, 0, 1), strict=True):
        each.cluster = cluster
    assert replay(kept, veto="[2]").verdict.status == "dispute"


def test_an_answer_whose_end_is_not_stored_still_agrees_as_it_did():
    kept = numbers('["x…', '["x…', "[]", spec=AnswerSpec(type="json"))
    for each, cluster in zip(kept.ballots, (0, 1, 1), strict=True):
        each.cluster = cluster
    assert replay(kept).verdict.winner == MODELS[1]


def test_a_text_that_is_not_whole_is_no_answer_of_another_type():
    kept = numbers("12", "12", "12")
    kept.ballots[0].text = CUT + kept.ballots[0].text
    again = replay(kept, answer="number", min_live=3).verdict
    assert again.ballots[0].status == "unparsed"
    assert again.missing == [
        Missing(MODELS[0], "unparsed", "the beginning of its text is not stored, and could hold another answer")
    ]
    assert replay(kept, min_live=3).verdict.status == "unanimous"


# ---- without a type


def judged(*clusters, mode="vote"):
    """Ballots that a judge put into clusters."""
    ballots = [ballot(slot, f"text {slot}", cluster=cluster) for slot, cluster in enumerate(clusters)]
    return stored(opened(spec=None, mode=mode, terms=terms(len(clusters))), ballots)


def test_what_a_judge_put_together_agrees():
    again = replay(judged(0, 0, 1))
    assert (again.verdict.status, again.verdict.winner, again.verdict.agreement.method) == (
        "consensus",
        MODELS[0],
        "judge",
    )
    assert (again.verdict.answer, [b.answer for b in again.verdict.ballots]) == (
        "text 0",
        ["text 0", "text 1", "text 2"],
    )
    assert replay(judged(0, 0, 1), threshold="1").verdict.status == "majority"


def test_what_nobody_compared_is_unscored():
    again = replay(judged(None, None))
    assert (again.verdict.status, again.verdict.agreement.method, again.verdict.answer) == ("unscored", "none", None)
    race = replay(judged(None, None), mode="race").verdict
    assert (race.answer, race.winner) == ("text 0", MODELS[0])


@pytest.mark.parametrize("mode", ["pick", "fuse"])
def test_what_a_judge_decided_is_evaluated_only_in_another_way(mode):
    kept = judged(0, 0, 1, mode=mode)
    with pytest.raises(BadRequest, match="a judge decided"):
        replay(kept)
    assert replay(kept, mode="vote").verdict.status == "consensus"
    assert replay(kept, answer="short_text").verdict.mode == "vote"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"threshold": "much"}, "`threshold`: `much` is no share"),
        ({"threshold": "1/3"}, "more than 1/2"),
        ({"veto": "perhaps"}, "an answer of the type bool"),
        ({"answer": "choice"}, "`choices`"),
        ({"answer": AnswerSpec(type="choice", choices=("yes", "yes "))}, "are the same"),
        ({"answer": AnswerSpec(type="number", tolerance=float("inf"))}, "tolerance"),
    ],
)
def test_what_can_not_be_evaluated_is_refused(change, says):
    with pytest.raises(BadRequest, match=says):
        replay(held("yy"), **change)


def test_a_veto_needs_a_type_and_what_runs_is_not_replayed():
    with pytest.raises(BadRequest, match="a declared answer type"):
        replay(judged(0, 0), veto="no")
    with pytest.raises(BadRequest, match="still runs"):
        replay(held("yy", state="running"))
