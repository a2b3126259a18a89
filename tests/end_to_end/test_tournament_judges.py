"""Judges and aggregators of whole processes: who can't judge is named, the next has its turn, and no provider gets more than it takes."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import running_daemon
import several
import simulated_provider
from running_daemon import Daemon, priced, provider
from several import (
    FAILS,
    LONGER,
    LONGEST,
    PROSE,
    RESPONSE_TOKENS,
    SHORT,
    SILENT,
    TOKEN_NANO,
    YES,
    ask,
    balanced,
    missing,
    refused,
)
from simulated_provider import Provider, model

ALIKE = model(text="ANSWER: [[1,2,3]]", response_tokens=RESPONSE_TOKENS)
FLIPS = model(text="ANSWER: [[1,2],[3]]", response_tokens=RESPONSE_TOKENS)
"""In the reverse order these are other answers."""
EMPTY = model(text=" ", response_tokens=RESPONSE_TOKENS)
CUT = model(text="Both, bec", finish_reason="length", response_tokens=RESPONSE_TOKENS)
CUT_EMPTY = model(text=" ", finish_reason="length", response_tokens=RESPONSE_TOKENS)
GONE, UNPRICED = "court:gone", model(text="ANSWER: A", response_tokens=RESPONSE_TOKENS)
THREE = (f"one:{SHORT}", f"two:{LONGER}", f"three:{LONGEST}")


@pytest.fixture(scope="module")
def upstream() -> Iterator[Provider]:
    with simulated_provider.running(models=["sim"]) as running:
        yield running


@pytest.fixture(scope="module")
def one_daemon(upstream: Provider) -> Iterator[Daemon]:
    judges = (ALIKE, FLIPS, PROSE, FAILS, SILENT, EMPTY, CUT, CUT_EMPTY)
    more = [
        provider("court", "openai", upstream.base_url()),
        priced(*(f"court:{judge}" for judge in judges), f"three:{ALIKE}", usd_in=0.0, usd_out=TOKEN_NANO / 1_000),
        f'[models."{GONE}"]\nretired = true\n',
    ]
    with running_daemon.running(several.config(upstream, *more)) as running:
        yield running


@pytest.fixture
def daemon(one_daemon: Daemon, upstream: Provider) -> Iterator[Daemon]:
    upstream.reset()
    yield one_daemon
    balanced(one_daemon)


# ---- a vote that a judge groups

SILENT_JUDGES = {
    "is retired": (GONE, "unknown_model"),
    "is not reached": (f"down:{YES}", "provider_unavailable"),
    "fails": (f"court:{FAILS}", "bad_request"),
    "says nothing that can be read": (f"court:{PROSE}", "unparsed"),
    "contradicts itself": (f"court:{FLIPS}", "inconsistent"),
    "would judge itself": (THREE[0], "own_answer"),
}


@pytest.mark.parametrize("what", SILENT_JUDGES)
def test_where_a_judge_can_not_tell_the_next_one_does_and_the_first_is_named(what, daemon):
    judge, code = SILENT_JUDGES[what]
    verdict = ask(daemon, *THREE, answer=None, mode="vote", judge=[judge, f"court:{ALIKE}"])
    assert (verdict["status"], verdict["agreement"]["method"]) == ("unanimous", "judge")
    assert missing(verdict) == {judge: code}
    assert verdict["flags"] == ["degraded"]


@pytest.mark.parametrize("what", SILENT_JUDGES)
def test_where_no_judge_can_tell_nothing_is_claimed_and_all_are_named(what, daemon):
    judge, code = SILENT_JUDGES[what]
    verdict = ask(daemon, *THREE, answer=None, mode="vote", judge=judge)
    assert (verdict["status"], verdict["answer_kind"]) == ("unscored", "selected")
    assert (missing(verdict), verdict["flags"]) == ({judge: code}, ["degraded"])


def test_the_second_judge_is_not_asked_where_the_first_can_tell_and_a_third_is_not_held(daemon, upstream):
    judges = [f"court:{ALIKE}", f"court:{FLIPS}", f"court:{PROSE}"]
    verdict = ask(daemon, *THREE, answer=None, mode="vote", judge=judges)
    assert (verdict["status"], verdict["missing"], verdict["flags"]) == ("unanimous", [], [])
    assert len(upstream.chats()) == len(THREE) + 2
    assert len({row["model"] for row in daemon.rows() if row["call_id"] == verdict["tournament_id"]}) == len(THREE) + 2


def test_a_judge_that_is_late_leaves_the_next_one_its_time(daemon):
    verdict = ask(daemon, *THREE, answer=None, mode="vote", judge=[f"court:{SILENT}", f"court:{ALIKE}"], deadline_s=2.0)
    assert verdict["status"] == "unanimous"
    assert missing(verdict) == {f"court:{SILENT}": "deadline"}
    assert verdict["flags"] == ["deadline", "degraded"]


# ---- a pick


@pytest.mark.parametrize("judge", [GONE, f"court:{PROSE}", f"court:{FAILS}"])
def test_a_judge_of_a_pick_that_gives_no_word_is_named_once(judge, daemon):
    verdict = ask(daemon, *THREE, answer=None, mode="pick", judge=judge)
    assert verdict["status"] == "unscored"
    assert "degraded" in verdict["flags"]
    assert [each["model"] for each in verdict["missing"]] == [judge]


def test_a_judge_that_has_only_its_own_answer_and_another_is_named(daemon):
    verdict = ask(daemon, *THREE[:2], answer=None, mode="pick", judge=THREE[0])
    assert (verdict["status"], missing(verdict)) == ("unscored", {THREE[0]: "own_answer"})


def test_more_comparisons_than_are_made_are_refused_with_what_to_change(daemon, upstream):
    judges = [f"court:{ALIKE}", f"court:{PROSE}"]
    fault = refused(daemon, *([*THREE[:2]] * 8), answer=None, mode="pick", judge=judges)
    assert fault["code"] == "bad_request"
    assert "480 comparisons, at most 240" in fault["message"]
    assert "`judge`" in fault["message"]
    assert upstream.chats() == []


@contextmanager
def court(upstream: Provider, most: int, reply: several.Reply = several.better) -> Iterator[tuple[Daemon, list[str]]]:
    """A daemon with a judge whose provider takes so many calls at once, and what the judge was shown."""
    with several.judge(reply) as (url, prompts):
        more = [
            provider("bench", "openai", url, max_in_flight=most),
            priced("bench:judge", usd_in=0.0, usd_out=TOKEN_NANO / 1_000),
        ]
        with running_daemon.running(several.config(upstream, *more)) as daemon:
            yield daemon, prompts
            balanced(daemon)


def test_a_provider_that_takes_one_call_at_once_judges_all_of_240(upstream):
    with court(upstream, 1) as (daemon, prompts):
        sixteen = [f"{several.FAMILIES[at % 5]}:{model(text='a' * (at + 1))}" for at in range(16)]
        verdict = ask(daemon, *sixteen, answer=None, mode="pick", judge="bench:judge")
        assert (verdict["missing"], verdict["flags"]) == ([], [])
        assert (verdict["status"], verdict["answer"]) == ("unanimous", "a" * 16)
        assert len(prompts) == len(set(prompts)) == 16 * 15


def test_a_jury_takes_half_of_what_its_provider_takes_at_once(upstream):
    pair, inside, seen = threading.Barrier(2), threading.Semaphore(2), []

    def reply(answers: list[str], n: int) -> str:
        seen.append(inside.acquire(blocking=False))
        pair.wait(running_daemon.PATIENCE_S)  # two are here at once
        inside.release()
        return several.better(answers, n)

    with court(upstream, 4, reply) as (daemon, _):
        verdict = ask(daemon, *THREE, answer=None, mode="pick", judge="bench:judge")
        assert (verdict["status"], verdict["missing"]) == ("unanimous", [])
        assert seen == [True] * 6


# ---- an aggregator

SCRIBES: dict[str, tuple[str, str, str]] = {
    "is retired": (GONE, "unknown_model", "selected"),
    "is empty": (f"court:{EMPTY}", "unparsed", "selected"),
    "is cut before it says anything": (f"court:{CUT_EMPTY}", "cut", "selected"),
    "is cut": (f"court:{CUT}", "cut", "fused"),
    "is late": (f"court:{SILENT}", "deadline", "selected"),
}


@pytest.mark.parametrize("what", SCRIBES)
def test_an_aggregator_that_writes_no_whole_answer_is_named(what, daemon):
    scribe, code, kind = SCRIBES[what]
    verdict = ask(
        daemon, *THREE, answer="short_text", mode="fuse", judge=f"court:{ALIKE}", aggregator=scribe, deadline_s=2.0
    )
    assert verdict["answer_kind"] == kind
    assert missing(verdict)[scribe] == code
    assert "degraded" in verdict["flags"]
    assert ("deadline" in verdict["flags"]) == (code == "deadline")


# ---- what nobody knows the price of


def test_a_verdict_says_whose_price_it_lacks(daemon):
    judge = f"court:{UNPRICED}"
    verdict = ask(daemon, *THREE, answer=None, mode="pick", judge=judge)
    assert verdict["lacks"] == [judge]
    told = daemon.ctl("ask", "--members", ",".join(THREE), "--mode", "pick", "--judge", judge, "Is it so?")
    assert f"without {judge}, whose price nobody knows" in told.out
    assert ask(daemon, f"one:{YES}", f"two:{YES}")["lacks"] == []


# ---- a judge that is a chosen member


def test_who_stands_in_for_the_judge_s_own_model_is_judged_too(upstream):
    def rated(name: str, family: str, quality: float) -> str:
        return priced(name, usd_in=0.0, usd_out=TOKEN_NANO / 1_000, family=family, quality=quality)

    out_of_order = model(fail=400, fail_reason="invalid", text="one")
    answers = [model(text=text) for text in ("two", "three", "four")]
    entries = [rated(f"one:{out_of_order}", "fa", 9.0)]
    entries += [
        rated(f"{name}:{each}", f"f{name}", 8.5 - at)
        for at, (name, each) in enumerate(zip(several.FAMILIES[1:], answers, strict=False))
    ]
    providers = [provider(name, "openai", upstream.base_url()) for name in several.FAMILIES[:4]]
    with running_daemon.running("\n".join([*providers, *entries])) as daemon:
        wanted: dict[str, Any] = {"n": 3, "mode": "pick", "quality_tier": "premium", "answer": None, "max_tokens": 100}
        verdict = ask(daemon, judge=f"one:{out_of_order}", **wanted)
        assert [ballot["status"] for ballot in verdict["ballots"]] == ["failed", "ok", "ok", "ok"]
        assert verdict["status"] == "unscored"
        assert missing(verdict) == {f"one:{out_of_order}": "bad_request"}
        balanced(daemon)
