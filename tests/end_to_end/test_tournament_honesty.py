"""What a verdict must not claim, and what no path may leave behind: findings of reviews, each with a real daemon."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote_plus

import pytest
import running_daemon
import simulated_provider
from running_daemon import Daemon, priced, provider

from protocols.errors import BadRequest, ProviderFailed, QuorumError

NAMES = ("one", "two", "three", "four")


def says(who: str, text: str, **more: Any) -> str:
    return f"{who}:sim?text={quote_plus(text)}" + "".join(f"&{key}={value}" for key, value in more.items())


YES = {name: says(name, "ANSWER: yes") for name in NAMES}
NO = {name: says(name, "ANSWER: no") for name in NAMES}


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with simulated_provider.running(models=["sim"]) as upstream:
        config = "".join(provider(name, "openai", upstream.base_url("openai")) for name in NAMES[:3])
        config += provider("four", "anthropic", upstream.base_url("anthropic"))
        judges = [
            says("four", "ANSWER: A"),
            says("four", "ANSWER: tie"),
            says("four", "The answer is no.\nANSWER: no"),
            says("four", "Yes, it is so."),
        ]
        config += priced(*YES.values(), *NO.values(), *judges)
        with running_daemon.running(config) as daemon:
            yield daemon


def held(daemon: Daemon, **params: Any) -> Any:
    return daemon.call("tournament", prompt="Is it?", **params)


def test_an_aggregator_that_answers_otherwise_makes_a_dispute_of_a_consensus(daemon):
    members, judge = [YES[name] for name in NAMES[:3]], says("four", "ANSWER: tie")
    aggregator = says("four", "The answer is no.\nANSWER: no")
    verdict = held(daemon, members=members, answer="bool", mode="fuse", judge=judge, aggregator=aggregator)
    assert (verdict["status"], verdict["needs_review"], verdict["answer"]) == ("dispute", True, "no")
    stored = daemon.call("tournament.show", tournament_id=verdict["tournament_id"])
    assert stored["tournament"]["status"] == "dispute"


def test_where_no_judge_names_the_best_it_is_one_of_those_that_agree(daemon):
    members = [NO["one"], YES["two"], YES["three"]]
    verdict = held(daemon, members=members, answer="bool", mode="pick", judge=says("four", "ANSWER: tie"))
    assert (verdict["status"], verdict["answer"], verdict["answer_kind"]) == ("consensus", "ANSWER: yes", "selected")


def test_a_member_whose_dialect_can_not_say_what_is_asked_leaves_no_hold(daemon):
    params = {"members": [YES["one"], YES["two"], YES["four"]], "answer": "bool", "temperature": 1.5, "latency": "fast"}
    verdict = held(daemon, **params)
    assert [missing["code"] for missing in verdict["missing"]] == ["bad_request"]
    assert daemon.held() == 0
    daemon.balanced()


def test_fewer_models_than_wanted_are_never_unanimous(daemon):
    verdict = held(daemon, members=[YES["one"], YES["two"]], answer="bool", latency="fast")
    assert verdict["status"] == "unanimous"
    assert held(daemon, n=4, answer="bool", latency="fast")["status"] != "unanimous"


def test_a_chat_whose_models_all_fail_hears_why():
    with simulated_provider.running(models=["sim?fail=500", "sim-large?fail=500"]) as upstream:
        config = "".join(provider(name, "openai", upstream.base_url("openai"), local=False) for name in ("one", "two"))
        config += priced("one:sim?fail=500", "two:sim-large?fail=500")
        with running_daemon.running(config) as daemon:
            running_daemon.eventually(lambda: len(daemon.call("models")["models"]) == 4, "both have listed")
            messages = [{"role": "user", "content": "hi"}]
            with pytest.raises(ProviderFailed, match="none of the 2 models") as failed:
                daemon.call("chat", messages=messages, tournament=True)
            assert failed.value.detail["tournament_id"]


def test_an_aggregator_that_writes_prose_for_a_type_gave_no_word(daemon):
    members, judge = [YES[name] for name in NAMES[:3]], says("four", "ANSWER: tie")
    scribe = says("four", "Yes, it is so.")
    verdict = held(daemon, members=members, answer="bool", mode="fuse", judge=judge, aggregator=scribe)
    assert (verdict["status"], verdict["answer"], verdict["answer_kind"]) == ("unanimous", "ANSWER: yes", "selected")
    assert (verdict["flags"], [missing["code"] for missing in verdict["missing"]]) == (["degraded"], ["unparsed"])


def test_feedback_on_a_tournament_is_the_winners_and_on_a_ballot_that_ballots(daemon):
    verdict = held(daemon, members=[YES["one"], NO["two"], YES["three"]], answer="bool", latency="fast")
    rated = daemon.call("feedback", call_id=verdict["tournament_id"], rating=1.0)
    assert rated["model"] == verdict["winner"]
    dissent = next(ballot for ballot in verdict["ballots"] if ballot["model"] == NO["two"])
    assert daemon.call("feedback", call_id=dissent["usage_id"], rating=-1.0)["model"] == NO["two"]
    rows = {row["model"]: row["feedback_mean"] for row in daemon.call("performance")["rows"]}
    assert (rows[verdict["winner"]], rows[NO["two"]]) == (1.0, -1.0)
    nobodys = held(daemon, members=[YES["one"], NO["two"]], answer="bool", latency="fast")
    with pytest.raises(BadRequest, match="rate a ballot"):
        daemon.call("feedback", call_id=nobodys["tournament_id"], rating=1.0)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"answer": {"type": "bool", "choices": ["a", "b"]}}, "of the type choice"),
        ({"answer": "bool", "judge": "nowhere:x"}, "there is no provider"),
    ],
)
def test_what_would_have_no_effect_is_refused(daemon, params, said):
    with pytest.raises(QuorumError, match=said):
        held(daemon, members=[YES["one"], YES["two"]], **params)


def test_terms_of_a_replay_that_are_none_are_refused_also_where_nobody_goes_by_them(daemon):
    verdict = held(daemon, members=[YES["one"], NO["two"]], mode="race")
    with pytest.raises(BadRequest, match="threshold"):
        daemon.call("tournament.replay", tournament_id=verdict["tournament_id"], threshold="abc")
