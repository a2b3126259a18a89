"""What a call that does not fit right now hears, waits for or may do all the same: `strict`, `queue` and `soft`."""

import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import running_daemon
import simulated_provider
from running_daemon import Daemon, JsonLines, eventually, priced, provider
from simulated_provider import Provider, model

TOKEN_NANO = 100_000
"""An answer's token costs 0.0001 $ and a prompt nothing, so that a call's bound is known: its `max_tokens`."""
CENT = 100
"""Tokens."""
CENT_NANO = CENT * TOKEN_NANO
HALF_A_DOLLAR = model(response_tokens=50 * CENT)
BELOW = model(response_tokens=8 * CENT, latency_ms=200)
CHEAP = model(response_tokens=1, latency_ms=30)
BRIEF = model(response_tokens=1, latency_ms=600)
ENDLESS = model(latency_ms=60_000)
"""Streamed, it costs nothing until it has said something."""
LIFE_S = 0.4
DEAR = model(response_tokens=8_000, latency_ms=LIFE_S * 1000)
DEAR_USD_OUT = 93.75
"""64 000 tokens for 6 $."""


@pytest.fixture(scope="module")
def upstream() -> Iterator[Provider]:
    with simulated_provider.running() as running:
        yield running


@pytest.fixture(autouse=True)
def fresh(upstream: Provider) -> None:
    upstream.reset()


def config(upstream: Provider, more: str = "", **options: object) -> str:
    models = [HALF_A_DOLLAR, BELOW, CHEAP, BRIEF, ENDLESS]
    sections = [more, provider("paid", "openai", upstream.base_url(), **options)]
    sections += [provider("other", "openai", upstream.base_url())]
    sections += [priced(f"{name}:{each}", usd_in=0.0, usd_out=100.0) for name in ("paid", "other") for each in models]
    sections += [priced(f"paid:{DEAR}", usd_in=0.0, usd_out=DEAR_USD_OUT)]
    return "\n".join(sections)


@pytest.fixture
def daemon(upstream: Provider) -> Iterator[Daemon]:
    """Everybody has a budget of a dollar."""
    with running_daemon.running(config(upstream)) as running:
        running.call("settings.set", key="month_usd", value=1.0, user="*")
        yield running


def asked(name: str, cents: int, **more: object) -> dict:
    """A call that may cost so much."""
    return {"model": f"paid:{name}", "messages": [{"role": "user", "content": "hi"}], "max_tokens": cents * CENT} | more


def ask(lines: JsonLines, *calls: dict, first: int = 0, **fields: object) -> None:
    """Sends calls, numbered from `first`, which also say their numbers to the provider."""
    lines.send(
        *[
            {"t": "call", "id": at, "method": "chat", **fields}
            | {"params": each | {"messages": [{"role": "user", "content": str(at)}]}}
            for at, each in enumerate(calls, first)
        ]
    )


def ends(lines: JsonLines, calls: int) -> list[dict]:
    """What ends so many calls."""
    heard = []
    while len(heard) < calls:
        message = lines.hear()
        assert message is not None, f"the daemon closed after {len(heard)} of {calls} ends"
        heard += [message] if message["t"] in {"done", "fault"} else []
    return heard


def said(heard: list[dict]) -> dict[int, str]:
    """How each call ended, in the order in which they did."""
    return {end["id"]: end.get("code", end["t"]) for end in heard}


def order(upstream: Provider) -> list[int]:
    """The numbers of the calls in the order in which the provider had them."""
    return [int(chat["body"]["messages"][0]["content"]) for chat in upstream.chats(bodies=True)]


def most_at_once(chats: list[dict]) -> int:
    """How many requests the provider had under way at most."""
    begun = [(chat["at"], 1) for chat in chats]
    ended = [(chat["at"] + chat["ended_ms"] / 1000, -1) for chat in chats]
    running = most = 0
    for _, change in sorted(begun + ended):
        running += change
        most = max(most, running)
    return most


def line(daemon: Daemon) -> int:
    """How many calls wait for room."""
    (state,) = [row["state"] for row in daemon.call("status")["actors"] if row["state"].startswith("<BudgetActor ")]
    found = re.search(r"(\d+) waiting", state)
    return int(found[1]) if found else 0


def waiting(daemon: Daemon, calls: int) -> None:
    """Until so many calls wait for room."""
    eventually(lambda: line(daemon) == calls, f"{calls} wait")


@contextmanager
def held_by(daemon: Daemon, upstream: Provider, cents: int, **more: object) -> Iterator[Callable[[], None]]:
    """A call 99 that holds so much until it is let go, which costs nothing."""
    with daemon.json_lines() as lines:
        ask(lines, asked(ENDLESS, cents, stream=True, **more), first=99)
        upstream.wait_for(len)

        def let_go() -> None:
            lines.send({"t": "cancel", "id": 99})
            assert said(ends(lines, 1)) == {99: "cancelled"}

        yield let_go


# --- strict


def test_eight_long_answers_on_a_small_budget_run_as_far_as_they_fit_and_the_others_hear_when_to_come_back(upstream):
    call = asked(DEAR, 0) | {"max_tokens": 64_000}
    with running_daemon.running(config(upstream)) as daemon, daemon.json_lines() as lines:
        ask(lines, *[asked(DEAR, 0) | {"max_tokens": 8_000}] * 64)  # so that it knows how long a hold lives
        assert {end["t"] for end in ends(lines, 64)} == {"done"}
        daemon.call("settings.set", key="month_usd", value=daemon.spent() / 1e9 + 25)
        ask(lines, *[call] * 8)
        refused = ends(lines, 4)
        assert said(refused) == dict.fromkeys(range(4, 8), "budget_held")
        for end in refused:
            assert end["detail"]["bound_nano_usd"] == 6_000_000_000
            assert end["detail"]["held_nano_usd"] == 24_000_000_000
            assert LIFE_S < end["retry_after_s"] < 2 * LIFE_S
        time.sleep(refused[0]["retry_after_s"] + 0.1)
        ask(lines, *[call] * 3, first=8)  # four have cost 0.75 $ each: 22 $ are left
        assert said(sorted(ends(lines, 7), key=lambda end: end["id"])) == dict.fromkeys((0, 1, 2, 3, 8, 9, 10), "done")
        daemon.balanced()


# --- queue


def test_eight_long_answers_on_a_small_budget_all_run_one_behind_the_other_and_nothing_is_stuck(upstream):
    call = asked(DEAR, 0, admission="queue") | {"max_tokens": 64_000}
    with running_daemon.running(config(upstream, "[limits]\nmonth_usd = 25\n")) as daemon, daemon.json_lines() as lines:
        ask(lines, *[call] * 8)
        assert {end["t"] for end in ends(lines, 8)} == {"done"}
        assert sorted(order(upstream)[:4]) == [0, 1, 2, 3]
        assert most_at_once(upstream.chats()) == 4
        daemon.balanced()
        assert daemon.spent() == 6_000_000_000  # eight times 0.75 $
        ask(lines, call | {"admission": "strict"})
        assert said(ends(lines, 1)) == {0: "done"}
        daemon.balanced()


@pytest.mark.parametrize("said_in", ["param", "setting", "everybody's setting"])
@pytest.mark.parametrize("limit", ["hard", "budget"])
def test_a_queued_burst_on_a_small_remainder_runs_in_its_order_as_long_as_there_is_money(limit, said_in, upstream):
    with (
        running_daemon.running(config(upstream, "[limits]\nmonth_usd = 1.00\n" if limit == "hard" else "")) as daemon,
        daemon.json_lines() as lines,
    ):
        if limit == "budget":
            daemon.call("settings.set", key="month_usd", value=1.0)
        if said_in != "param":
            whose = {"user": "*"} if said_in.startswith("everybody") else {}
            daemon.call("settings.set", key="admission", value="queue", **whose)
        ask(lines, asked(HALF_A_DOLLAR, 50))
        assert said(ends(lines, 1)) == {0: "done"}
        upstream.reset()
        ask(lines, *[asked(BELOW, 10, **({"admission": "queue"} if said_in == "param" else {}))] * 20)
        heard = ends(lines, 20)
        refused = [end for end in heard if end["t"] == "fault"]
        # Five hold the 0.50 that are left. Once they have cost 0.40, 0.10 is left for one more; then nobody fits any more.
        code = "budget_exceeded" if limit == "hard" else "override_required"
        assert said(refused) == dict.fromkeys(range(6, 20), code)
        assert [end["id"] for end in refused] == list(range(6, 20))
        assert {end["detail"]["spent_nano_usd"] for end in refused} == {98 * CENT_NANO}
        assert sorted(order(upstream)[:5]) == [0, 1, 2, 3, 4]
        assert order(upstream)[5:] == [5]
        assert most_at_once(upstream.chats()) == 5
        assert daemon.spent() == 98 * CENT_NANO
        assert len(daemon.rows()) == 7
        daemon.balanced()


def test_who_waits_gets_the_turn_in_the_order_of_coming_whatever_the_size(daemon, upstream):
    chance = random.Random(3)
    with daemon.json_lines() as lines:
        sizes = [chance.randint(51, 98) for _ in range(12)]  # no two fit together
        ask(lines, *[asked(CHEAP, cents, admission="queue") for cents in sizes])
        assert list(said(ends(lines, 12)).items()) == [(at, "done") for at in range(12)]
    assert order(upstream) == list(range(12))
    daemon.balanced()


@pytest.mark.parametrize("way", ["deadline", "cancelled", "hang-up"])
def test_who_stops_waiting_sent_nothing_leaves_no_row_and_those_behind_go_on(way, daemon, upstream):
    with (
        held_by(daemon, upstream, 60) as let_go,
        daemon.json_lines() as lines,
        daemon.json_lines() as others,
    ):
        held = daemon.held()
        ask(lines, asked(CHEAP, 90, admission="queue"), **({"deadline_s": 0.3} if way == "deadline" else {}))
        waiting(daemon, 1)
        ask(others, asked(CHEAP, 40, admission="queue"), asked(CHEAP, 41, admission="queue"), first=1)
        waiting(daemon, 3) if way != "deadline" else None
        match way:
            case "cancelled":
                lines.send({"t": "cancel", "id": 0})
            case "hang-up":
                lines.raw.close()
        if way != "hang-up":
            assert said(ends(lines, 1)) == {0: way}
        # 60 + 40 is a dollar: the second goes at once, the third when the first is let go.
        assert said(ends(others, 1)) == {1: "done"}
        waiting(daemon, 1)
        assert daemon.held() == held
        assert [row["status"] for row in daemon.rows()] == ["ok"]
        assert order(upstream) == [99, 1]
        let_go()
        assert said(ends(others, 1)) == {2: "done"}
    assert order(upstream) == [99, 1, 2]
    eventually(lambda: daemon.call("status")["calls_in_flight"] == 0, "no call is under way")
    daemon.balanced()


def test_a_limit_that_is_raised_and_a_budget_that_is_no_longer_enforced_let_those_in_who_wait(daemon, upstream):
    with held_by(daemon, upstream, 60), daemon.json_lines() as lines:
        ask(lines, asked(CHEAP, 90, admission="queue"))
        waiting(daemon, 1)
        daemon.call("settings.set", key="month_usd", value=1.5)
        assert said(ends(lines, 1)) == {0: "done"}
        ask(lines, asked(CHEAP, 92, admission="queue"))
        waiting(daemon, 1)
        daemon.call("settings.set", key="enforce_budget_limits", value=False)
        assert said(ends(lines, 1)) == {0: "done"}
        assert [row["marks"] for row in daemon.rows()] == [["unenforced"], []]


def test_a_limit_that_is_lowered_tells_those_who_wait_that_they_never_fit(daemon, upstream):
    with held_by(daemon, upstream, 60), daemon.json_lines() as lines:
        ask(lines, asked(CHEAP, 90, admission="queue"), asked(CHEAP, 45, admission="queue"))
        waiting(daemon, 2)
        daemon.call("settings.set", key="month_usd", value=0.8)
        assert said(ends(lines, 1)) == {0: "override_required"}
        waiting(daemon, 1)


@pytest.mark.parametrize("in_time", [True, False], ids=["the call before them ends in time", "it does not"])
def test_a_stop_answers_those_who_wait(in_time, upstream):
    drain_s = 15.0 if in_time else 0.5
    with running_daemon.running(config(upstream, f"[daemon]\ndrain_s = {drain_s}\n")) as daemon:
        daemon.call("settings.set", key="month_usd", value=1.0)
        with daemon.json_lines() as lines:
            calls = [asked(CHEAP, 60, admission="queue")] * 4
            ask(lines, asked(BRIEF if in_time else ENDLESS, 60, stream=True), *calls)
            waiting(daemon, 4)
            daemon.signal()
            assert set(said(ends(lines, 5)).values()) == {"done" if in_time else "shutting_down"}
        assert daemon.wait() == 0
        daemon.start()
        daemon.balanced()
        assert len(upstream.chats()) == len(daemon.rows()) == (5 if in_time else 1)


def test_a_kill_while_calls_wait_loses_nothing_and_leaves_nothing_of_them(daemon, upstream):
    with held_by(daemon, upstream, 60), daemon.json_lines() as lines:
        ask(lines, *[asked(CHEAP, 60, admission="queue")] * 5)
        waiting(daemon, 5)
        daemon.kill()
    daemon.start()
    (row,) = daemon.rows()
    assert (row["status"], row["cost_nano_usd"]) == ("unknown", 60 * CENT_NANO)
    assert len(upstream.chats()) == 1
    daemon.balanced()
    with daemon.json_lines() as lines:
        ask(lines, asked(CHEAP, 40, admission="queue"))
        assert said(ends(lines, 1)) == {0: "done"}


def test_a_large_call_that_waits_is_not_starved_by_a_stream_of_small_ones(daemon, upstream):
    with held_by(daemon, upstream, 60) as let_go, daemon.json_lines() as lines, daemon.json_lines() as small:
        ask(lines, asked(CHEAP, 80, admission="queue"))
        waiting(daemon, 1)
        # 60 + 10 would fit, but not before the one that waits.
        ask(small, *[asked(CHEAP, 10)] * 30, first=100)
        assert Counter(said(ends(small, 30)).values()) == {"budget_held": 30}
        ask(small, *[asked(CHEAP, 10, admission="queue")] * 4, first=200)
        waiting(daemon, 5)
        assert order(upstream) == [99]
        let_go()
        assert said(ends(lines, 1)) == {0: "done"}
        assert set(said(ends(small, 4))) == {200, 201, 202, 203}
    assert set(order(upstream)[1:4]) == {0, 200, 201}  # 80 + 10 + 10
    assert set(order(upstream)[4:]) == {202, 203}
    daemon.balanced()


def test_a_line_in_front_of_one_budget_keeps_nobody_else_waiting_while_there_is_room_for_all(upstream):
    limits = "[limits]\nmonth_usd = 2.0\n"
    with running_daemon.running(config(upstream, limits)) as daemon:
        daemon.call("settings.set", key="month_usd", value=1.0, user="*")
        with held_by(daemon, upstream, 60, user="@ana"), daemon.json_lines() as lines:
            ask(lines, asked(CHEAP, 80, user="@ana", admission="queue"), first=1)
            waiting(daemon, 1)
            ask(lines, asked(CHEAP, 60, user="@bob"), asked(CHEAP, 50, user="@bob", admission="queue"), first=2)
            assert said(ends(lines, 2)) == {2: "done", 3: "done"}  # 60 + 80 + 60 are the 2.00 of the daemon


def test_who_came_first_to_a_limit_that_is_shared_goes_first_whoever_it_is(upstream):
    with running_daemon.running(config(upstream, "[limits]\nmonth_usd = 1.0\n")) as daemon:
        with held_by(daemon, upstream, 60, user="@ana") as let_go, daemon.json_lines() as lines:
            ask(lines, asked(CHEAP, 80, user="@ana", admission="queue"), first=1)
            waiting(daemon, 1)
            ask(lines, asked(CHEAP, 30, user="@bob", admission="queue"), first=2)
            waiting(daemon, 2)
            let_go()
            assert list(said(ends(lines, 2)).items()) == [(1, "done"), (2, "done")]
        assert order(upstream) == [99, 1, 2]
        daemon.balanced()


def test_however_users_sizes_providers_and_ways_to_leave_mix_nobody_who_waits_is_forgotten(upstream):
    chance = random.Random(5)
    limits = '[limits]\nmonth_usd = 1.0\nusers."*" = { month_usd = 0.7, hard = true }\nproviders.other = { month_usd = 0.6 }\n'
    with running_daemon.running(config(upstream, limits)) as daemon, daemon.json_lines() as lines:
        for at in range(150):
            call = asked(CHEAP, chance.randint(5, 50), user=f"@{chance.choice(['ana', 'bob', 'cem/kid'])}")
            call |= {"model": f"{chance.choice(['paid', 'other'])}:{CHEAP}"}
            call |= {"admission": chance.choices(["queue", "strict"], (9, 1))[0]}
            ask(lines, call, first=at, deadline_s=0.5 if at % 13 == 0 else 60.0)
        lines.send(*[{"t": "cancel", "id": at} for at in range(0, 150, 11)])
        counted = Counter(said(ends(lines, 150)).values())
        assert set(counted) == {"done", "budget_held", "deadline", "cancelled"}
        assert counted["done"] > 100
        assert most_at_once(upstream.chats()) > 1
        assert line(daemon) == 0
        daemon.balanced()


def test_who_waits_for_money_keeps_no_place_at_the_provider(upstream):
    with running_daemon.running(config(upstream, max_in_flight=2)) as daemon:
        daemon.call("settings.set", key="month_usd", value=1.0, user="*")
        with held_by(daemon, upstream, 60, user="@ana"), daemon.json_lines() as lines:
            ask(lines, *[asked(CHEAP, 60, user="@ana", admission="queue")] * 5)
            waiting(daemon, 5)
            for at in range(100, 105):
                ask(lines, asked(CHEAP, 10, user="@bob"), first=at)
                assert said(ends(lines, 1)) == {at: "done"}


def test_a_queue_for_money_at_a_provider_with_one_place_meets_it_free(upstream):
    with running_daemon.running(config(upstream, max_in_flight=1)) as daemon, daemon.json_lines() as lines:
        daemon.call("settings.set", key="month_usd", value=1.0)
        ask(lines, *[asked(CHEAP, 60, admission="queue")] * 10)
        assert Counter(said(ends(lines, 10)).values()) == {"done": 10}
        daemon.balanced()


# --- soft


@pytest.mark.parametrize("said_in", ["param", "setting"])
def test_soft_admits_while_less_than_the_budget_is_spent_and_says_so_on_the_rows(said_in, daemon, upstream):
    how = {"admission": "soft"} if said_in == "param" else {}
    if said_in == "setting":
        daemon.call("settings.set", key="admission", value="soft")
    with daemon.json_lines() as lines:
        ask(lines, *[asked(BELOW, 10, **how)] * 20)
        heard = ends(lines, 20)
        assert {end["t"] for end in heard} == {"done"}
        passed = [end["id"] for end in heard if "soft" in [each["code"] for each in end["value"]["warnings"]]]
        assert sorted(passed) == list(range(10, 20))
        assert Counter(tuple(row["marks"]) for row in daemon.rows()) == {(): 10, ("soft",): 10}
        assert daemon.spent() == 20 * 8 * CENT_NANO  # of 1.00: passed by no more than what was under way
        daemon.balanced()
        ask(lines, *[asked(BELOW, 10, **how)] * 5)
        assert Counter(said(ends(lines, 5)).values()) == {"override_required": 5}
    assert len(upstream.chats()) == 20


@pytest.mark.parametrize(
    "limits",
    [
        "month_usd = 0.5",
        "day_usd = 0.5",
        "apps.unknown = { month_usd = 0.5 }",
        "providers.paid = { month_usd = 0.5 }",
        'users."*" = { month_usd = 0.5, hard = true }',
    ],
)
def test_soft_passes_no_hard_limit(limits, upstream):
    with running_daemon.running(config(upstream, f"[limits]\n{limits}\n")) as daemon, daemon.json_lines() as lines:
        daemon.call("settings.set", key="month_usd", value=0.3)
        ask(lines, *[asked(BELOW, 10, admission="soft")] * 20)
        assert Counter(said(ends(lines, 20)).values()) == {"done": 5, "budget_held": 15}
        assert len(upstream.chats()) == 5
        assert daemon.spent() == 40 * CENT_NANO
        ask(lines, asked(BELOW, 11, admission="soft"))  # of both limits the hard one says no
        assert said(ends(lines, 1)) == {0: "budget_exceeded"}
        daemon.balanced()
