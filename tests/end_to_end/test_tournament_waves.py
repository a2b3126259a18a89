"""Whom a tournament asks and when it stops: what is not needed any more is cancelled, paid for what it emitted, and told."""

import time
from collections.abc import Iterator

import pytest
import running_daemon
import several
import simulated_provider
from running_daemon import Daemon, eventually, priced, provider
from several import (
    BOUND,
    COST,
    FAILS,
    LATE_NO,
    LATE_YES,
    NO,
    SILENT,
    SLOW,
    TOKEN_NANO,
    WITHIN_S,
    YES,
    ask,
    asked,
    balanced,
    hear,
    missing,
    refused,
    row,
    said,
    says,
)
from simulated_provider import Provider

NEAR_YES, THINKS_NO = says("yes", latency_ms=300), says("no", latency_ms=20)
AT_HOME = (YES, SILENT, NEAR_YES)
QUALITIES = {f"one:{THINKS_NO}": 9.0, f"two:{YES}": 8.9, f"three:{NEAR_YES}": 8.5, f"four:{LATE_YES}": 8.0}
"""What the router may choose from, best first."""


@pytest.fixture(scope="module")
def upstream() -> Iterator[Provider]:
    with simulated_provider.running(models=["sim"]) as running:
        yield running


@pytest.fixture(scope="module")
def one_daemon(upstream: Provider) -> Iterator[Daemon]:
    home = provider("home", "openai", upstream.base_url(), local=True)
    families = [f'[models."home:{name}"]\nfamily = "{family}"\n' for name, family in zip(AT_HOME, "abc", strict=True)]
    paid = priced(*(f"{name}:{NEAR_YES}" for name in several.FAMILIES), usd_in=0.0, usd_out=TOKEN_NANO / 1_000)
    with running_daemon.running(several.config(upstream, home, *families, paid)) as running:
        yield running


@pytest.fixture
def daemon(one_daemon: Daemon, upstream: Provider) -> Iterator[Daemon]:
    upstream.reset()
    yield one_daemon
    balanced(one_daemon)


# ---- stopping


def test_two_to_one_with_two_outstanding_goes_on(daemon, upstream):
    five = (f"one:{YES}", f"two:{YES}", f"three:{NO}", f"four:{LATE_NO}", f"five:{LATE_NO}")
    verdict = ask(daemon, *five, latency="fast")
    assert said(verdict) == ("majority", "no", "voted", ())
    assert [chat["outcome"] for chat in upstream.chats()] == ["completed"] * 5


def test_two_to_none_with_two_outstanding_goes_on_for_they_could_make_a_tie(daemon):
    verdict = ask(daemon, f"one:{YES}", f"two:{YES}", f"three:{LATE_NO}", f"four:{LATE_NO}", latency="fast")
    assert said(verdict) == ("dispute", None, "none", ())


def test_three_to_none_of_five_stops_and_ends_what_runs_at_once(daemon, upstream):
    five = (f"one:{YES}", f"two:{YES}", f"three:{LATE_YES}", f"four:{SLOW}", f"five:{SILENT}")
    began = time.time()
    verdict = ask(daemon, *five, latency="fast")
    assert said(verdict) == ("majority", "yes", "voted", ("early_stopped",))  # of five that were launched
    assert missing(verdict) == {five[3]: "cancelled", five[4]: "cancelled"}
    assert daemon.held() == 0
    assert time.time() - began < 0.6 + WITHIN_S
    chats = upstream.wait_for(lambda chats: all(chat["ended_ms"] is not None for chat in chats), WITHIN_S)
    closed = [chat for chat in chats if chat["outcome"] == "client_closed"]
    assert len(closed) == 2
    decided = max(chat["at"] + chat["ended_ms"] / 1000 for chat in chats if chat["outcome"] == "completed")
    assert all(chat["at"] + chat["ended_ms"] / 1000 < decided + WITHIN_S for chat in closed)


def test_what_is_cancelled_is_charged_for_what_it_emitted_and_the_rest_is_said_to_be_saved(daemon, upstream):
    verdict = ask(daemon, f"one:{YES}", f"two:{LATE_YES}", f"three:{SLOW}", latency="fast")
    ballots = {ballot["model"]: ballot for ballot in verdict["ballots"]}
    slow = ballots[f"three:{SLOW}"]
    settled = row(daemon, slow["usage_id"])
    (chat,) = (chat for chat in upstream.chats() if chat["outcome"] == "client_closed")
    assert (slow["status"], settled["status"], settled["cost_source"]) == ("cancelled", "cancelled", "estimated")
    assert slow["cost_nano_usd"] == settled["cost"] == settled["response_tokens"] * TOKEN_NANO
    assert 0 < chat["chunks_sent"] < several.CHUNKS / 4
    assert chat["chunks_sent"] / 2 <= settled["response_tokens"] <= 2 * chat["chunks_sent"]
    assert verdict["cost_nano_usd"] == 2 * COST + settled["cost"]
    assert verdict["saved_nano_usd"] == max(COST - settled["cost"], 0)
    silent = ask(daemon, f"one:{YES}", f"two:{YES}", f"three:{SILENT}", latency="fast")
    assert (silent["cost_nano_usd"], silent["saved_nano_usd"]) == (2 * COST, COST)


def test_who_bills_a_cancelled_call_whole_is_rather_not_asked_than_cancelled(daemon, upstream):
    five = (f"whole:{YES}", f"one:{YES}", f"whole:{LATE_YES}", f"two:{YES}", f"three:{YES}")
    for latency in ("fast", "frugal"):
        upstream.reset()
        verdict = ask(daemon, *five, latency=latency)
        assert said(verdict) == ("consensus", "yes", "voted", ("early_stopped",))
        assert {ballot["model"] for ballot in verdict["ballots"]} == {five[1], five[3], five[4]}
        assert len(upstream.chats()) == 3
        assert verdict["saved_nano_usd"] == 2 * COST


def test_who_bills_whole_and_must_be_cancelled_saves_nothing(daemon):
    verdict = ask(daemon, f"whole:{SILENT}", f"one:{YES}", mode="race")
    assert said(verdict)[:3] == ("unscored", "yes", "first")
    assert (verdict["cost_nano_usd"], verdict["saved_nano_usd"]) == (BOUND + COST, 0)


@pytest.mark.parametrize("waits", [0.5, 2.0])
def test_at_the_deadline_there_is_a_verdict_of_what_is_there_and_before_the_deadline(waits, daemon):
    four = (f"one:{YES}", f"two:{YES}", f"three:{SILENT}", f"four:{SILENT}")
    began = time.monotonic()
    verdict = ask(daemon, *four, latency="fast", deadline_s=waits)
    assert time.monotonic() - began < waits
    assert said(verdict) == ("inconclusive", None, "none", ("deadline", "degraded"))
    assert missing(verdict) == {four[2]: "deadline", four[3]: "deadline"}
    assert {row(daemon, ballot["usage_id"])["status"] for ballot in verdict["ballots"]} == {"ok", "deadline"}


# ---- who is asked


def test_members_of_one_machine_are_asked_in_turn(daemon, upstream):
    verdict = ask(daemon, f"home:{NEAR_YES}", f"home:{YES}", f"home:{NEAR_YES}", latency="fast", min_live=3)
    assert [ballot["status"] for ballot in verdict["ballots"]] == ["ok"] * 3
    chats = sorted(upstream.chats(), key=lambda chat: chat["at"])
    ends = [chat["at"] + chat["ended_ms"] / 1000 for chat in chats]
    assert all(chat["at"] >= end - 0.005 for chat, end in zip(chats[1:], ends, strict=False))


def test_members_in_turn_share_the_deadline(daemon):
    three = (f"home:{SILENT}", f"home:{YES}", f"home:{NEAR_YES}")
    verdict = ask(daemon, *three, deadline_s=3.0)
    assert said(verdict) == ("consensus", "yes", "voted", ("degraded",))
    assert missing(verdict) == {three[0]: "deadline"}
    late = next(ballot for ballot in verdict["ballots"] if ballot["model"] == three[0])
    assert 800 < late["latency_ms"] < 1_100  # a third of 2.8 s
    assert row(daemon, late["usage_id"])["status"] == "deadline"


def test_who_may_stand_in_takes_no_time_of_those_before_it(upstream):
    upstream.reset()
    rated = {f"home:{SILENT}": 9, f"home:{YES}": 8.5, f"home:{NEAR_YES}": 8}
    entries = [f'[models."{name}"]\nquality = {quality}\nfamily = "{quality}"\n' for name, quality in rated.items()]
    config = [provider("home", "openai", upstream.base_url(), local=True), *entries]
    with running_daemon.running("\n".join(config)) as daemon:
        verdict = ask(daemon, n=2, deadline_s=3.0)
        assert missing(verdict) == {f"home:{SILENT}": "deadline"}
        late = next(ballot for ballot in verdict["ballots"] if ballot["status"] == "failed")
        assert 1_300 < late["latency_ms"] < 1_600  # half of 2.8 s
        assert said(verdict) == ("consensus", "yes", "voted", ("degraded",))  # two of three: one stood in


def test_a_member_whose_provider_is_down_is_named_and_the_others_decide(daemon, upstream):
    for _ in range(3):  # the breaker may know of it or not
        verdict = ask(daemon, f"down:{YES}", f"one:{YES}", f"two:{YES}")
        assert said(verdict) == ("consensus", "yes", "voted", ("degraded",))
        assert missing(verdict) == {f"down:{YES}": "provider_unavailable"}
    assert len(upstream.chats()) == 6
    alone = ask(daemon, f"down:{YES}", f"one:{YES}")
    assert said(alone) == ("inconclusive", None, "none", ("degraded",))


WRONG = {
    "a provider that there is not": ({"members": [f"onne:{YES}", f"two:{YES}"]}, "unknown_provider", "onne"),
    "a name that nobody has": ({"members": ["soonet", f"two:{YES}"]}, "unknown_model", "soonet"),
    "a judge of no provider": (
        {"members": [f"one:{YES}", f"two:{YES}"], "mode": "pick", "judge": "curt:judge"}, "unknown_provider", "curt",
    ),
    "an aggregator of no provider": (
        {"members": [f"one:{YES}", f"two:{YES}"], "mode": "fuse", "aggregator": "pres:x"}, "unknown_provider", "pres",
    ),
    "one member": ({"members": [f"one:{YES}"]}, "bad_request", "members"),
    "more wanted than asked": ({"members": [f"one:{YES}", f"two:{YES}"], "min_live": 3}, "bad_request", "min_live"),
    "a threshold that is none": ({"members": [f"one:{YES}", f"two:{YES}"], "threshold": "1/3"}, "bad_request", "threshold"),
    "a choice named twice": (
        {"members": [f"one:{YES}", f"two:{YES}"], "answer": {"type": "choice", "choices": ["A", "A "]}}, "bad_request", "choices",
    ),
    "a veto of another type": ({"members": [f"one:{YES}", f"two:{YES}"], "veto": "perhaps"}, "bad_request", "veto"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_can_t_be_asked_so_is_told_and_nothing_is_sent_or_held(what, daemon, upstream):
    params, code, word = WRONG[what]
    fault = refused(daemon, **params)
    assert fault["code"] == code
    assert word in fault["message"]
    assert upstream.chats() == []


# ---- chosen by the router


@pytest.fixture
def choosing(upstream: Provider) -> Iterator[Daemon]:
    """A daemon that knows four good models, whose providers may be replaced."""
    upstream.reset()
    with running_daemon.running(chosen(upstream)) as running:
        yield running
        balanced(running)


def chosen(upstream: Provider, *, bad: str = "") -> str:
    """`bad` is where nobody listens."""
    sections = [
        provider(name, "openai", "http://127.0.0.1:9/v1" if name == bad else upstream.base_url())
        for name in ("one", "two", "three", "four")
    ]
    rated = [
        priced(name, usd_in=0.0, usd_out=TOKEN_NANO / 1_000, quality=quality) for name, quality in QUALITIES.items()
    ]
    return "\n".join([*sections, *rated])


def models(verdict: dict) -> set[str]:
    return {ballot["model"] for ballot in verdict["ballots"]}


def test_the_router_chooses_the_best_of_each_family_and_someone_stands_in_for_who_is_down(choosing, upstream):
    best = list(QUALITIES)
    verdict = ask(choosing, n=3, min_live=3)
    assert models(verdict) == set(best[:3])
    choosing.configure(chosen(upstream, bad="two"))
    choosing.restart()
    replaced = ask(choosing, n=3, min_live=3)
    assert missing(replaced) == {best[1]: "provider_unavailable"}
    assert {ballot["model"] for ballot in replaced["ballots"] if ballot["status"] == "ok"} == {best[0], *best[2:]}
    assert said(replaced) == ("dispute", None, "none", ("degraded",))  # 2 of 4 that were asked are no majority


def test_someone_stands_in_for_a_member_that_fails_and_takes_a_hold_of_its_own(choosing, upstream):
    best = list(QUALITIES)
    upstream.set(fail=400, fail_reason="invalid", fail_times=1)
    first, *_ = items = hear(choosing, asked(n=3, min_live=3, stream=True))
    verdict = items[-1]["value"]
    assert first["value"]["bench"] == best[3:]
    assert first["value"]["bound_nano_usd"] == 3 * BOUND
    assert [ballot["status"] for ballot in verdict["ballots"]].count("failed") >= 1
    assert best[3] in models(verdict)
    assert "degraded" in verdict["flags"]
    assert len(choosing.rows()) == 4


def test_reviews_move_who_is_chosen(choosing):
    best = list(QUALITIES)
    verdict = ask(choosing, n=2)
    assert verdict["status"] == "dispute"
    assert models(verdict) == set(best[:2])
    (waiting,) = choosing.call("reviews")["tournaments"]
    resolved = choosing.call("reviews.resolve", tournament_id=waiting["tournament_id"], answer="yes")
    assert (resolved["agreed"], resolved["disagreed"]) == ([best[1]], [best[0]])
    assert choosing.call("reviews")["tournaments"] == []
    again = ask(choosing, n=2)
    assert models(again) == {best[1], best[2]}
    assert again["status"] == "unanimous"


# ---- what is told as it goes, and afterwards


def types(items: list[dict]) -> list[str]:
    return [item["value"]["type"] for item in items[:-1]]


PLAYED = {
    "a vote stopped early": (
        [f"one:{YES}", f"two:{YES}", f"three:{SILENT}"], {"latency": "fast"},
        ["bound", "launched", "ballot", "ballot", "ballot", "cancelled", "decided"],
    ),
    "a vote heard to the end": (
        [f"one:{YES}", f"two:{NO}", f"three:{YES}"], {},
        ["bound", "launched", "ballot", "ballot", "launched", "ballot", "decided"],
    ),
    "a cascade": (
        [f"one:{YES}", f"two:{YES}", f"three:{YES}"], {"mode": "cascade"},
        ["bound", "launched", "ballot", "ballot", "cancelled", "decided"],
    ),
    "a race": (
        [f"one:{YES}", f"two:{SILENT}"], {"mode": "race"},
        ["bound", "launched", "ballot", "ballot", "cancelled", "decided"],
    ),
    "a failure": ([f"one:{YES}", f"two:{FAILS}"], {}, ["bound", "launched", "ballot", "ballot", "decided"]),
    "a deadline": (
        [f"one:{YES}", f"two:{SILENT}"], {}, ["bound", "launched", "ballot", "ballot", "decided"],
    ),
    "one that is down": (
        [f"one:{YES}", f"down:{YES}", f"two:{YES}"], {"latency": "fast"},
        ["bound", "ballot", "launched", "ballot", "ballot", "decided"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", PLAYED)
def test_progress_is_told_in_order_recorded_as_told_and_replayed_to_the_same_verdict(what, daemon):
    names, more, expected = PLAYED[what]
    deadline = {"deadline_s": 1.0} if what == "a deadline" else {}
    if what == "one that is down":  # known to be: the breaker counts five
        for _ in range(5):
            ask(daemon, *names, **more)
    items = hear(daemon, asked(*names, stream=True, **more), **deadline)
    assert types(items) == expected
    verdict = items[-1]["value"]
    told = sorted((i["value"]["ballot"] for i in items[:-1] if i["value"]["type"] == "ballot"), key=lambda b: b["slot"])
    without = [{k: v for k, v in ballot.items() if k != "cluster"} for ballot in verdict["ballots"]]
    assert [{k: v for k, v in ballot.items() if k != "cluster"} for ballot in told] == without
    shown = daemon.call("tournament.show", tournament_id=verdict["tournament_id"])
    assert shown["ballots"] == verdict["ballots"]
    assert shown["verdict"] == verdict | {"ballots": []} or shown["verdict"] == verdict
    assert shown["tournament"]["state"] == "done"
    replayed = daemon.call("tournament.replay", tournament_id=verdict["tournament_id"])
    assert replayed["differs"] == []
    assert (daemon.call("tournaments", last=1)["tournaments"][0]["status"]) == verdict["status"]


def test_the_bound_is_told_and_held_before_anybody_is_asked(daemon):
    with daemon.json_lines() as lines:
        several.begin(lines, asked(f"one:{LATE_YES}", f"two:{LATE_YES}", f"three:{YES}", stream=True))
        bound = lines.hear()
        assert bound is not None
        eventually(lambda: daemon.held() > 0, "it is held")
        assert bound["value"]["type"] == "bound"
        assert bound["value"]["bound_nano_usd"] == 3 * BOUND
        assert bound["value"]["mode"] == "vote"
        assert lines.until_end_of(1)[-1]["t"] == "done"


def test_without_stream_there_is_the_verdict_alone(daemon):
    (end,) = hear(daemon, asked(f"one:{YES}", f"two:{YES}"))
    assert end["t"] == "done"
