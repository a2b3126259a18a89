"""Tournaments and budgets: a group is held whole or not at all, none passes a limit, and a tight budget is met as the call said."""

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
import running_daemon
import several
import simulated_provider
from running_daemon import Daemon, JsonLines, priced, provider, watch
from several import (
    BOUND,
    COST,
    FAILS,
    LATE_YES,
    SILENT,
    TOKEN_NANO,
    YES,
    ask,
    asked,
    balanced,
    missing,
    refused,
    said,
    says,
)
from simulated_provider import Provider

TOGETHER, FIT = 20, 8
THREE = (f"one:{LATE_YES}", f"two:{LATE_YES}", f"three:{LATE_YES}")
FOUR = (f"one:{YES}", f"two:{YES}", f"three:{YES}", f"four:{YES}")
JUDGE = f"five:{LATE_YES}"
HOME = (f"home:{YES}", f"house:{says('yes', latency_ms=1)}")


@pytest.fixture(scope="module")
def upstream() -> Iterator[Provider]:
    with simulated_provider.running(models=["sim"]) as running:
        yield running


@pytest.fixture(autouse=True)
def fresh(upstream: Provider) -> None:
    upstream.reset()


@contextmanager
def limited(upstream: Provider, nano: int, *, users: bool = False, home: bool = False) -> Iterator[Daemon]:
    """A daemon that may spend so much: by its own hard limit, or by every user's budget."""
    limit = f'users."*" = {{ month_usd = {nano / 1e9} }}' if users else f"month_usd = {nano / 1e9}"
    local = [
        section
        for name in HOME if home
        for section in (
            provider(name.partition(":")[0], "openai", upstream.base_url(), local=True),
            f'[models."{name}"]\nquality = 7\n',
        )
    ]  # fmt: skip
    with running_daemon.running(several.config(upstream, *local, limits=f"[limits]\n{limit}\n")) as daemon:
        yield daemon
        if daemon.rows():
            balanced(daemon)
        else:
            assert daemon.held() == 0


def most_seen(database: str) -> int:
    with closing(sqlite3.connect(database)) as connection:
        ((most,),) = connection.execute("SELECT max(spent + held) FROM seen_by_the_test")
    return most


def ends(lines: JsonLines, calls: int) -> list[dict]:
    heard: list[dict] = []
    while len(heard) < calls:
        message = lines.hear()
        assert message is not None
        heard += [message] if message["t"] in {"done", "fault"} else []
    return heard


def at_once(daemon: Daemon, params: dict) -> list[dict]:
    """The ends of twenty that are asked together."""
    with daemon.json_lines() as lines:
        lines.send(
            *[{"t": "call", "id": at, "method": "tournament", "params": params, "deadline_s": 15} for at in range(TOGETHER)]
        )  # fmt: skip
        return ends(lines, TOGETHER)


# ---- many at once


def test_twenty_at_once_on_a_budget_for_eight_hold_all_or_nothing_and_none_passes_the_limit(upstream):
    limit = FIT * 3 * BOUND
    with limited(upstream, limit) as daemon:
        database = watch(daemon)
        heard = at_once(daemon, asked(*THREE, on_tight_budget="reject"))
        assert Counter(end.get("code", end["t"]) for end in heard) == {"done": FIT, "budget_held": TOGETHER - FIT}
        verdicts = [end["value"] for end in heard if end["t"] == "done"]
        assert {verdict["status"] for verdict in verdicts} == {"consensus"}
        assert most_seen(database) == limit
        attempts = Counter(row["call_id"] for row in daemon.rows())
        assert attempts == {verdict["tournament_id"]: 3 for verdict in verdicts}
        assert Counter(row["status"] for row in daemon.rows()) == {"ok": 2 * FIT, "not_sent": FIT}
        assert daemon.spent() == sum(verdict["cost_nano_usd"] for verdict in verdicts) == 2 * FIT * COST
        assert len(upstream.chats()) == 2 * FIT
        assert all(end["retry_after_s"] > 0 for end in heard if end["t"] == "fault")
        balanced(daemon)


def test_twenty_that_shrink_ask_as_many_as_fit_and_no_more(upstream):
    limit = FIT * 3 * BOUND
    with limited(upstream, limit) as daemon:
        database = watch(daemon)
        heard = at_once(daemon, asked(*THREE, on_tight_budget="shrink", min_live=2))
        verdicts = [end["value"] for end in heard if end["t"] == "done"]
        assert {end["code"] for end in heard if end["t"] == "fault"} <= {"budget_held"}
        assert len(verdicts) >= FIT
        for verdict in verdicts:
            shrunk = "shrunk" in verdict["flags"]
            assert verdict["bound_nano_usd"] == (2 if shrunk else 3) * BOUND
            assert verdict["status"] == "consensus"
        assert most_seen(database) <= limit


def test_twenty_that_fail_time_out_and_stop_early_leave_nothing_held(upstream):
    limit = TOGETHER * 4 * BOUND
    members = (f"one:{YES}", f"two:{FAILS}", f"three:{SILENT}", f"four:{LATE_YES}")
    with limited(upstream, limit) as daemon, daemon.json_lines() as lines:
        lines.send(
            *[
                {
                    "t": "call", "id": at, "method": "tournament", "deadline_s": 3,
                    "params": asked(*members, latency=("fast", "frugal")[at % 2], mode=("vote", "race", "cascade")[at % 3]),
                }
                for at in range(TOGETHER)
            ]
        )  # fmt: skip
        heard = ends(lines, TOGETHER)
        assert {end["t"] for end in heard} == {"done"}
        balanced(daemon)
        assert daemon.spent() == sum(end["value"]["cost_nano_usd"] for end in heard)


# ---- a tight budget, as the call said


def test_reject_refuses_and_sends_nothing(upstream):
    with limited(upstream, 3 * BOUND) as daemon:
        fault = refused(daemon, *FOUR, on_tight_budget="reject")
        assert fault["code"] == "budget_exceeded"
        assert fault["detail"]["bound_nano_usd"] == 4 * BOUND
        assert fault["detail"]["limit_nano_usd"] == 3 * BOUND
        assert upstream.chats() == []
        assert daemon.rows() == []


def test_shrink_leaves_out_the_dearest_and_says_so_but_never_goes_below_min_live(upstream):
    dear = priced(f"five:{YES}x", usd_in=0.0, usd_out=TOKEN_NANO / 500)
    with limited(upstream, 3 * BOUND) as daemon:
        config = (daemon.folder / "config.toml").read_text("utf-8")
        daemon.configure(f"{config}\n{dear}")
        daemon.restart()
        verdict = ask(daemon, f"five:{YES}x", *FOUR[:3])
        assert said(verdict) == ("consensus", "yes", "voted", ("early_stopped", "shrunk"))
        assert verdict["bound_nano_usd"] == 3 * BOUND
        assert {ballot["model"] for ballot in verdict["ballots"]} == set(FOUR[:2])
        fault = refused(daemon, *FOUR, min_live=4)
        assert fault["code"] == "budget_exceeded"
        assert len(upstream.chats()) == 2


def test_local_only_asks_the_models_that_are_free(upstream):
    with limited(upstream, BOUND // 2, home=True) as daemon:
        verdict = ask(daemon, *FOUR[:2], *HOME, on_tight_budget="local_only")
        assert said(verdict) == ("consensus", "yes", "voted", ("shrunk",))
        assert {ballot["model"] for ballot in verdict["ballots"]} == set(HOME)
        assert (verdict["bound_nano_usd"], verdict["cost_nano_usd"]) == (0, 0)
        chosen = ask(daemon, n=4, on_tight_budget="local_only")  # one of them would be paid
        assert {ballot["model"] for ballot in chosen["ballots"]} == set(HOME)
        assert chosen["bound_nano_usd"] == 0
        assert "shrunk" in chosen["flags"]


def test_local_only_without_enough_that_is_free_is_refused_with_both_reasons(upstream):
    with limited(upstream, BOUND, home=True) as daemon:
        fault = refused(daemon, *FOUR, HOME[0], on_tight_budget="local_only")
        assert fault["code"] == "budget_exceeded"
        assert "of those named, 4 are not local" in fault["message"]
        assert fault["detail"]["limit_nano_usd"] == BOUND
        assert upstream.chats() == []


def test_local_only_goes_by_where_a_model_runs_and_not_by_who_lists_it(upstream):
    unlisted = tuple(f"{name.partition(':')[0]}:{says('yes', latency_ms=2)}" for name in HOME)
    with limited(upstream, BOUND // 2, home=True) as daemon:
        assert not {model["id"] for model in daemon.call("models")["models"]} & set(unlisted)
        verdict = ask(daemon, *FOUR[:2], *unlisted, on_tight_budget="local_only")
        assert {ballot["model"] for ballot in verdict["ballots"]} == set(unlisted)
        assert missing(verdict) == dict.fromkeys(FOUR[:2], "not_local")
        assert "degraded" not in verdict["flags"]  # they were left out for the budget


@pytest.mark.parametrize("mode", ["pick", "fuse"])
def test_local_only_leaves_out_judges_and_aggregators_that_are_paid_and_names_them(mode, upstream):
    with limited(upstream, BOUND // 2, home=True) as daemon:
        scribe = {"aggregator": FOUR[1]} if mode == "fuse" else {}
        verdict = ask(daemon, *HOME, mode=mode, answer=None, judge=JUDGE, on_tight_budget="local_only", **scribe)
        assert (verdict["status"], verdict["answer_kind"]) == ("unscored", "selected")
        assert missing(verdict) == dict.fromkeys((JUDGE, *scribe.values()), "not_local")
        assert verdict["flags"] == ["degraded", "shrunk"]
        assert len(upstream.chats()) == len(HOME)


def test_ask_is_answered_with_a_token_that_is_good_for_one_tournament_and_leaves_an_audit_row(upstream):
    with limited(upstream, 3 * BOUND, users=True) as daemon:
        question = refused(daemon, *FOUR, on_tight_budget="ask", latency="fast")
        assert question["code"] == "override_required"
        detail = question["detail"]
        assert (detail["estimated_nano_usd"], detail["limit_nano_usd"]) == (4 * BOUND, 3 * BOUND)
        assert upstream.chats() == []
        token = {"on_tight_budget": "ask", "latency": "fast", "override_token": detail["override_token"]}
        assert refused(daemon, *FOUR[::-1], **token)["code"] == "override_invalid"
        verdict = ask(daemon, *FOUR, **token)
        assert verdict["status"] in {"consensus", "unanimous"}
        assert len(upstream.chats()) == 4
        again = refused(daemon, *FOUR, **token)
        assert again["code"] == "override_invalid"
        assert len(upstream.chats()) == 4
        used = [entry for entry in daemon.call("audit")["entries"] if "override" in entry["action"]]
        assert len(used) == 1
        assert {row["status"] for row in daemon.rows()} <= {"ok", "cancelled"}


def test_a_shrunk_tournament_that_is_confirmed_is_the_one_that_was_asked_about(upstream):
    with limited(upstream, BOUND, users=True) as daemon:
        question = refused(daemon, *FOUR)
        assert question["code"] == "override_required"
        assert question["detail"]["estimated_nano_usd"] == 2 * BOUND
        verdict = ask(daemon, *FOUR, override_token=question["detail"]["override_token"])
        assert (verdict["status"], verdict["bound_nano_usd"]) == ("consensus", 2 * BOUND)
        assert "shrunk" in verdict["flags"]


def test_ask_at_a_hard_limit_is_refused_for_nobody_may_pass_it(upstream):
    with limited(upstream, 3 * BOUND) as daemon:
        assert refused(daemon, *FOUR, on_tight_budget="ask")["code"] == "budget_exceeded"


def test_who_stands_in_for_a_member_is_held_for_too_and_does_not_pass_the_limit(upstream):
    rated = [f"{name}:{each}" for name, each in (("one", YES), ("two", FAILS), ("three", YES))]
    sections = [provider(name, "openai", upstream.base_url()) for name in ("one", "two", "three")]
    sections += [priced(name, usd_in=0.0, usd_out=TOKEN_NANO / 1_000, quality=9 - at) for at, name in enumerate(rated)]
    with running_daemon.running("\n".join([f"[limits]\nmonth_usd = {2 * BOUND / 1e9}\n", *sections])) as daemon:
        database = watch(daemon)
        verdict = ask(daemon, n=2)
        assert [ballot["status"] for ballot in verdict["ballots"]] == ["ok", "failed", "ok"]
        assert said(verdict) == ("consensus", "yes", "voted", ("degraded",))
        assert most_seen(database) <= 2 * BOUND
        balanced(daemon)
