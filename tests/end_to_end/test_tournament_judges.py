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
        provider("narrow", "openai", upstream.base_url(), max_in_flight=1),
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


def test_who_would_judge_itself_takes_no_other_judge_s_place(daemon):
    judges = [THREE[0], f"court:{FLIPS}", f"court:{ALIKE}"]
    verdict = ask(daemon, *THREE, answer=None, mode="vote", judge=judges)
    assert verdict["status"] == "unanimous"
    assert missing(verdict) == {THREE[0]: "own_answer", f"court:{FLIPS}": "inconsistent"}


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


def test_comparisons_that_had_no_turn_in_time_are_late_like_the_one_that_had(daemon):
    judge = f"narrow:{SILENT}"
    verdict = ask(daemon, *THREE, answer=None, mode="pick", judge=judge, deadline_s=2.0)
    assert [(each["model"], each["code"]) for each in verdict["missing"]] == [(judge, "deadline")]
    assert verdict["flags"] == ["deadline", "degraded"]


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


CHAT = {"messages": [{"role": "user", "content": "Are you there?"}], "model": "bench:judge", "stream": True}


def test_a_jury_leaves_half_of_its_provider_to_others(upstream):
    arrived, release = threading.Semaphore(0), threading.Event()

    def reply(answers: list[str], n: int) -> str:
        if not answers:
            return "here"
        arrived.release()
        assert release.wait(running_daemon.PATIENCE_S)
        return several.better(answers, n)

    with court(upstream, 2, reply) as (daemon, _), daemon.json_lines() as lines:
        several.begin(lines, several.asked(*THREE, answer=None, mode="pick", judge="bench:judge"))
        assert arrived.acquire(timeout=running_daemon.PATIENCE_S)
        lines.send({"t": "call", "id": 2, "method": "chat", "params": CHAT})
        assert lines.until_end_of(2)[-1]["t"] == "done"
        release.set()
        verdict = lines.until_end_of(1)[-1]["value"]
        assert (verdict["status"], verdict["missing"]) == ("unanimous", [])


def test_a_jury_asks_several_at_once(upstream):
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


def test_answers_that_are_dearer_than_was_thought_are_shown_shorter(upstream):
    with several.judge() as (url, prompts):
        paid = [provider("bench", "openai", url), priced("bench:judge", usd_in=100.0, usd_out=0.0)]
        with running_daemon.running(several.config(upstream, *paid)) as daemon:
            long = [f"{name}:{model(chunks=count)}" for name, count in (("one", 2000), ("two", 2100))]
            verdict = ask(
                daemon, *long, prompt="是非曲直 " * 3, answer=None, mode="pick", judge="bench:judge", max_tokens=20_000
            )
            assert (verdict["status"], verdict["missing"]) == ("dispute", [])
            assert all("characters left out" in prompt and len(prompt) < 5000 for prompt in prompts)
            assert len(prompts) == 2
            balanced(daemon)


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


# ---- a judge that is a chosen member, or stands in for one

OUT_OF_ORDER = f"one:{model(fail=400, fail_reason='invalid', text='one')}"
CHOSEN = [OUT_OF_ORDER, *(f"{name}:{model(text=name)}" for name in several.FAMILIES[1:4])]
"""In the order in which they are chosen; the fourth stands in for the first."""


@pytest.fixture(scope="module")
def rated(upstream: Provider) -> Iterator[Daemon]:
    entries = [
        priced(name, usd_in=0.0, usd_out=TOKEN_NANO / 1_000, family=f"family-{at}", quality=9.0 - at / 2)
        for at, name in enumerate(CHOSEN)
    ]
    providers = [provider(name, "openai", upstream.base_url()) for name in several.FAMILIES[:4]]
    with running_daemon.running("\n".join([*providers, *entries])) as daemon:
        yield daemon


STANDS_IN = {
    "a judge is the member that fails": ("pick", OUT_OF_ORDER, "bad_request"),
    "a judge of a vote is the one that stands in": ("vote", CHOSEN[3], "own_answer"),
}


@pytest.mark.parametrize("what", STANDS_IN)
def test_who_stands_in_is_judged_too_and_never_by_itself(what, rated):
    mode, judge, code = STANDS_IN[what]
    wanted: dict[str, Any] = {"n": 3, "quality_tier": "premium", "answer": None, "max_tokens": 100}
    verdict = ask(rated, mode=mode, judge=judge, **wanted)
    assert [ballot["status"] for ballot in verdict["ballots"]] == ["failed", "ok", "ok", "ok"]
    assert (verdict["status"], verdict["agreement"]["method"]) == ("unscored", "none")
    assert missing(verdict) == {OUT_OF_ORDER: "bad_request"} | {judge: code}
    balanced(rated)


def test_all_comparisons_of_a_line_up_with_who_stands_in_are_held_for(rated, upstream):
    upstream.reset()
    verdict = ask(rated, n=3, quality_tier="premium", answer=None, max_tokens=100, mode="pick", judge=OUT_OF_ORDER)
    tried = [chat for chat in upstream.chats() if "fail=400" in str(chat)]
    assert len(tried) == 1 + 3 * 2
    assert verdict["bound_nano_usd"] > 6 * 2048 * TOKEN_NANO


def test_a_critical_task_has_as_many_judges_as_may_be_asked(rated):
    twelve = [CHOSEN[1]] * 12
    rated.call("settings.set", key="tournament.critical_tasks", value=["theme_analysis"])
    wanted: dict[str, Any] = {"answer": None, "mode": "pick", "task_type": "theme_analysis", "quality_tier": "premium"}
    items = several.hear(rated, several.asked(*twelve, stream=True, **wanted))
    assert items[-1]["t"] == "done"
    assert len(items[0]["value"]["judges"]) == 1
    fewer = several.hear(rated, several.asked(*twelve[:3], stream=True, **wanted))
    assert len(fewer[0]["value"]["judges"]) == 3
