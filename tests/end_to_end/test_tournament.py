"""Tournaments of whole processes: what each mode answers, and that its status says no more than the ballots do."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import running_daemon
import several
import simulated_provider
from running_daemon import Daemon, priced, provider
from several import (
    COST,
    FAILS,
    LATE_YES,
    LONGER,
    LONGEST,
    NO,
    PROSE,
    SHORT,
    SILENT,
    TOKEN_NANO,
    YES,
    ask,
    balanced,
    missing,
    refused,
    said,
)
from simulated_provider import Provider

ON = "early_stopped"
"""A vote of three is decided by the first two that agree."""


@pytest.fixture(scope="module")
def upstream() -> Iterator[Provider]:
    with simulated_provider.running(models=["sim"]) as running:
        yield running


@pytest.fixture(scope="module")
def one_daemon(upstream: Provider) -> Iterator[Daemon]:
    with running_daemon.running(several.config(upstream)) as running:
        yield running


@pytest.fixture
def daemon(one_daemon: Daemon, upstream: Provider) -> Iterator[Daemon]:
    upstream.reset()
    yield one_daemon
    balanced(one_daemon)


def members(*names: str) -> list[str]:
    """Each of a family of its own."""
    return [f"{family}:{name}" for family, name in zip(several.FAMILIES, names, strict=False)]


VOTES = {
    "all that were asked agree": ([YES, YES], {}, ("unanimous", "yes", "voted", ()), {}),
    "all three agree, and all three are wanted": ([YES] * 3, {"min_live": 3}, ("unanimous", "yes", "voted", ()), {}),
    "two agree, and a third could change nothing": ([YES] * 3, {}, ("consensus", "yes", "voted", (ON,)), {}),
    "two of three agree": ([YES, NO, YES], {}, ("consensus", "yes", "voted", ()), {}),
    "two of three, where three quarters are wanted": (
        [YES, NO, YES], {"threshold": "0.75"}, ("majority", "yes", "voted", ()), {},
    ),
    "three of five agree": ([YES, NO, YES, NO, YES], {}, ("majority", "yes", "voted", ()), {}),
    "two disagree": ([YES, NO], {}, ("dispute", None, "none", ()), {}),
    "two against two": ([YES, NO, YES, NO], {}, ("dispute", None, "none", ()), {}),
    "one survivor": ([YES, FAILS], {}, ("inconclusive", None, "none", ("degraded",)), {1: "bad_request"}),
    "one survivor of three": (
        [YES, FAILS, FAILS], {}, ("inconclusive", None, "none", ("degraded",)), {1: "bad_request", 2: "bad_request"},
    ),
    "two agree, two fail": (
        [YES, YES, FAILS, FAILS], {"latency": "fast"}, ("inconclusive", None, "none", ("degraded",)), {2: "bad_request", 3: "bad_request"},
    ),
    "two agree, where three answers are wanted": (
        [YES, YES, FAILS], {"min_live": 3}, ("inconclusive", None, "none", ("degraded",)), {2: "bad_request"},
    ),
    "two agree, one fails": ([YES, FAILS, YES], {}, ("consensus", "yes", "voted", ("degraded",)), {1: "bad_request"}),
    "nobody answers": ([FAILS, FAILS], {}, ("failed", None, "none", ("degraded",)), {0: "bad_request", 1: "bad_request"}),
    "prose is no vote": ([YES, PROSE], {}, ("inconclusive", None, "none", ("degraded",)), {1: "unparsed"}),
    "prose of all": ([PROSE, PROSE], {}, ("failed", None, "none", ("degraded",)), {0: "unparsed", 1: "unparsed"}),
    "a veto": ([YES, YES, NO], {"veto": "no"}, ("dispute", None, "none", ("vetoed",)), {}),
    "a veto that nobody gives": ([YES] * 3, {"veto": "no"}, ("unanimous", "yes", "voted", ()), {}),
}  # fmt: skip


@pytest.mark.parametrize("what", VOTES)
def test_a_vote_says_of_its_ballots_what_they_are_and_no_more(what, daemon, upstream):
    names, more, expected, absent = VOTES[what]
    verdict = ask(daemon, *members(*names), mode="vote", **more)
    assert said(verdict) == expected
    assert missing(verdict) == {members(*names)[slot]: code for slot, code in absent.items()}
    ok = [ballot for ballot in verdict["ballots"] if ballot["status"] == "ok"]
    assert len(upstream.chats()) == len(verdict["ballots"])
    assert verdict["agreement"]["method"] == "canonical"
    assert sum(len(cluster["members"]) for cluster in verdict["agreement"]["clusters"]) == len(ok)
    assert verdict["cost_nano_usd"] == sum(ballot["cost_nano_usd"] or 0 for ballot in verdict["ballots"])
    assert verdict["bound_nano_usd"] == len(names) * several.BOUND
    assert verdict["needs_review"] == (expected[0] in {"dispute", "inconclusive"})
    if ON in verdict["flags"]:
        assert verdict["saved_nano_usd"] == (len(names) - len(verdict["ballots"])) * COST


def test_sisters_that_agree_make_a_majority_at_most(daemon):
    verdict = ask(daemon, f"one:{YES}", f"one:{YES}", f"one:{LATE_YES}", min_live=3)
    assert said(verdict) == ("majority", "yes", "voted", ("same_family",))


def test_a_cascade_asks_the_third_only_where_the_first_two_differ(daemon, upstream):
    agreed = ask(daemon, *members(YES, YES, NO), mode="cascade")
    assert said(agreed) == ("consensus", "yes", "voted", (ON,))
    assert len(upstream.chats()) == 2
    upstream.reset()
    settled = ask(daemon, *members(YES, NO, NO), mode="cascade")
    assert said(settled) == ("consensus", "no", "voted", ())
    assert [ballot["round"] for ballot in settled["ballots"]] == [1, 1, 2]


def test_a_race_takes_the_first_answer_and_claims_no_agreement(daemon, upstream):
    verdict = ask(daemon, *members(SILENT, PROSE, YES), mode="race")
    assert verdict["status"] == "unscored"
    assert (verdict["answer"], verdict["answer_kind"], verdict["winner"]) == ("yes", "first", f"three:{YES}")
    assert missing(verdict) == {f"one:{SILENT}": "cancelled", f"two:{PROSE}": "unparsed"}
    upstream.wait_for(lambda chats: {chat["outcome"] for chat in chats} == {"completed", "client_closed"}, 1.0)


def test_a_race_is_told_again_as_it_was_won(daemon):
    for _ in range(5):
        verdict = ask(daemon, *members(YES, NO, PROSE), mode="race")
        arrived = sorted(each["arrived"] for each in verdict["ballots"] if each["status"] != "cancelled")
        assert arrived == list(range(1, 1 + len(arrived)))
        again = daemon.call("tournament.replay", tournament_id=verdict["tournament_id"])
        assert (again["differs"], again["verdict"]["winner"]) == ([], verdict["winner"])


def test_a_cascade_without_a_type_is_refused_with_what_to_do(daemon, upstream):
    fault = refused(daemon, *members(YES, NO), mode="cascade", answer=None)
    assert fault["code"] == "bad_request"
    assert "`answer`" in fault["message"]
    assert upstream.chats() == []


# ---- judges


@contextmanager
def judged(upstream: Provider, reply: several.Reply = several.better) -> Iterator[tuple[Daemon, list[str]]]:
    """A daemon that can ask a judge and a scribe besides, and what the judge was shown."""
    with several.judge(reply) as (url, prompts):
        more = [
            provider("court", "openai", url),
            provider("press", "openai", upstream.base_url()),
            priced("court:judge", f"press:{several.says('both')}", f"press:{FAILS}", f"press:{SILENT}",
                   usd_in=0.0, usd_out=TOKEN_NANO / 1_000),
        ]  # fmt: skip
        with running_daemon.running(several.config(upstream, *more)) as daemon:
            yield daemon, prompts
            balanced(daemon)


@pytest.fixture(scope="module")
def court(upstream: Provider) -> Iterator[Daemon]:
    with judged(upstream) as (daemon, _):
        yield daemon


OPEN = {"answer": None, "judge": "court:judge"}


def test_a_pick_is_the_answer_that_the_judge_prefers_in_both_orders(court):
    verdict = ask(court, *members(SHORT, LONGEST, LONGER), mode="pick", **OPEN)
    assert said(verdict) == ("unanimous", "a b c", "picked", ())
    assert verdict["winner"] == f"two:{LONGEST}"
    assert verdict["agreement"]["method"] == "judge"
    assert [cluster["answer"] for cluster in verdict["agreement"]["clusters"]] == ["a b c", "a b", "a"]


def test_a_judge_that_prefers_a_place_has_found_no_difference(upstream):
    with judged(upstream, lambda _answers, _n: "ANSWER: A") as (daemon, prompts):
        verdict = ask(daemon, *members(SHORT, LONGEST), mode="pick", **OPEN)
        assert verdict["status"] == "dispute"
        assert verdict["needs_review"]
        assert len(prompts) == 2


def test_an_untyped_vote_counts_what_the_judge_puts_together(court):
    verdict = ask(court, *members(LONGEST, SHORT, LONGEST), mode="vote", **OPEN)
    assert said(verdict) == ("consensus", "a b c", "voted", ())
    assert verdict["agreement"]["method"] == "judge"
    assert [ballot["cluster"] for ballot in verdict["ballots"]] == [0, 1, 0]


def test_an_untyped_vote_without_a_judge_is_unscored_and_selected(daemon):
    verdict = ask(daemon, *members(LONGEST, SHORT), mode="vote", answer=None)
    assert said(verdict) == ("unscored", "a b c", "selected", ())
    assert verdict["agreement"] == {"method": "none", "top_share": 0.0, "margin": 0.0, "clusters": []}


def test_a_fuse_is_written_by_the_aggregator_of_the_best(court, upstream):
    upstream.reset()
    scribe = f"press:{several.says('both')}"
    verdict = ask(court, *members(SHORT, LONGEST, LONGER), mode="fuse", aggregator=scribe, **OPEN)
    assert said(verdict) == ("unanimous", "ANSWER: both", "fused", ())
    assert verdict["winner"] == scribe
    shown = upstream.chats(bodies=True)[-1]["body"]
    assert "a b c" in str(shown)


@pytest.mark.parametrize("mode", ["pick", "fuse"])
@pytest.mark.parametrize("how", ["fails", "is not understood", "there is none"])
def test_without_a_judge_s_word_the_best_candidate_is_selected_verbatim_and_nothing_is_claimed(how, mode, upstream):
    def reply(_answers: list[str], _n: int) -> str | None:
        return None if how == "fails" else "Both have their merits."

    with judged(upstream, reply) as (daemon, _):
        judge = {} if how == "there is none" else {"judge": "court:judge"}
        scribe = {"aggregator": f"press:{FAILS}"} if mode == "fuse" else {}
        answers = [ask(daemon, *members(LONGER, LONGEST), mode=mode, answer=None, **judge, **scribe) for _ in range(3)]
        for verdict in answers:
            assert (verdict["status"], verdict["answer"], verdict["answer_kind"]) == ("unscored", "a b", "selected")
            assert verdict["winner"] == f"one:{LONGER}"
            assert verdict["agreement"]["method"] == "none"
            if how == "fails":
                assert missing(verdict)["court:judge"] == "provider_error"
                assert "degraded" in verdict["flags"]


def test_the_progress_of_a_fuse_names_judge_and_aggregator_as_they_are_asked(court):
    scribe = f"press:{several.says('both')}"
    params = several.asked(
        *members(SHORT, LONGEST), answer=None, mode="fuse", judge="court:judge", aggregator=scribe, stream=True
    )
    items = several.hear(court, params)
    told = [item["value"] for item in items[:-1]]
    assert [item["type"] for item in told] == [
        "bound", "launched", "ballot", "ballot", "judging", "judging", "decided",
    ]  # fmt: skip
    assert [item["model"] for item in told if item["type"] == "judging"] == ["court:judge", scribe]
    assert (told[0]["judges"], told[0]["aggregator"]) == (["court:judge"], scribe)
    assert told[-1]["status"] == items[-1]["value"]["status"]


TYPED = {"typed": ([YES, YES], {"answer": "bool"}), "untyped": ([LONGER, LONGEST], {"answer": None})}


@pytest.mark.parametrize("mode", ["pick", "fuse"])
@pytest.mark.parametrize("typed", TYPED)
def test_two_of_four_that_time_out_make_no_consensus_of_the_rest(typed, mode, court):
    names, answer = TYPED[typed]
    scribe = {"aggregator": f"four:{SILENT}"} if mode == "fuse" else {}
    four = members(*names, SILENT, SILENT)
    verdict = ask(court, *four, mode=mode, judge="court:judge", deadline_s=2.0, **answer, **scribe)
    assert verdict["status"] == "inconclusive"
    assert {"degraded", "deadline"} <= set(verdict["flags"])
    assert {each["model"]: each["code"] for each in verdict["missing"]} == dict.fromkeys(four[2:], "deadline")
    if mode == "fuse":
        assert verdict["answer_kind"] == "selected"
        assert verdict["answer"] in {ballot["text"] for ballot in verdict["ballots"] if ballot["status"] == "ok"}


@pytest.mark.parametrize("typed", TYPED)
def test_one_survivor_of_a_pick_is_no_consensus(typed, court):
    names, answer = TYPED[typed]
    verdict = ask(court, *members(names[0], FAILS, FAILS), mode="pick", judge="court:judge", **answer)
    assert (verdict["status"], verdict["answer_kind"]) == ("inconclusive", "selected")
    assert "degraded" in verdict["flags"]
