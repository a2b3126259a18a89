"""Every hop of a fallback is admitted anew for the target that will bill; and what else a limit does to a call: no price, clamping."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, NamedTuple

import pytest
import running_daemon
import simulated_provider
from running_daemon import Daemon, eventually, priced, provider
from simulated_provider import Provider, model

from protocols.chat import ChatAnswer
from protocols.errors import BudgetExceeded, BudgetHeld, OverrideRequired, PriceUnknown, QuorumError

TOKEN_NANO = 100_000
"""An answer's token costs 0.0001 $ (at `dear` ten times that) and a prompt nothing: a call's bound is its `max_tokens`."""
FAILS, LATE_FAILS = model(fail=500), model(fail=500, latency_ms=300)
LATE = model(latency_ms=800, response_tokens=500)
BREAKS = model(break_at=0)
Home = Literal["fails", "unreachable", "known to be down"]
HOMES: list[Home] = ["fails", "unreachable", "known to be down"]
NOWHERE = "http://127.0.0.1:9/v1"


class Street(NamedTuple):
    """A daemon and its providers, each a process of its own."""

    daemon: Daemon
    home: Provider
    paid: Provider
    dear: Provider
    spare: Provider

    def sent(self) -> dict[str, list[str]]:
        """The models that each was asked for."""
        named = {"home": self.home, "paid": self.paid, "dear": self.dear, "spare": self.spare}
        asked = {name: [str(chat["model"]) for chat in each.chats()] for name, each in named.items()}
        return {name: models for name, models in asked.items() if models}


@pytest.fixture(scope="module")
def providers() -> Iterator[list[Provider]]:
    with (
        simulated_provider.running() as home,
        simulated_provider.running() as paid,
        simulated_provider.running() as dear,
        simulated_provider.running() as spare,
    ):
        yield [home, paid, dear, spare]


@contextmanager
def street(
    providers: list[Provider],
    limits: str = "",
    *,
    names: str = "home paid",
    home: Home = "fails",
    home_model: str = FAILS,
    paid_model: str = "sim",
    dear_model: str = "sim",
) -> Iterator[Street]:
    """A daemon whose calls without a model go along `names`: `home` and `spare` are free, `paid` and `dear` are not."""
    first, paid, dear, spare = providers
    for each in providers:
        each.reset()
    url = first.base_url() if home == "fails" else NOWHERE
    sections = {
        "home": provider("home", "openai", url, local=True, probe_every_s=0.1 if home == "known to be down" else 60.0),
        "paid": provider("paid", "openai", paid.base_url()),
        "dear": provider("dear", "openai", dear.base_url()),
        "spare": provider("spare", "openai", spare.base_url(), local=True),
    }
    usd_out = TOKEN_NANO / 1_000
    models = {
        "home": f'[models."home:{home_model}"]\nquality = 9\n',
        "paid": priced(*dict.fromkeys([f"paid:{paid_model}", "paid:sim"]), usd_in=0.0, usd_out=usd_out),
        "dear": priced(f"dear:{dear_model}", usd_in=0.0, usd_out=10 * usd_out),
        "spare": '[models."spare:sim"]\nquality = 1\n',
    }
    used = names.split()
    chosen = '[settings]\nprovider_selection_mode = "user_choice"\n'  # the hops are in the order of `names`
    chosen += f'default_model = "home:{home_model}"\n' if "home" in used else ""
    config = "\n".join(
        ['[daemon]\ntimezone = "UTC"\n', limits, chosen, *map(sections.get, used), *map(models.get, used)]
    )
    with running_daemon.running(config) as daemon:
        if home == "known to be down":
            eventually(lambda: daemon.call("providers")["providers"][0]["state"] == "open", "it is known")
        yield Street(daemon, *providers)


def ask(daemon: Daemon, **said: Any) -> ChatAnswer:
    """A chat without a model, that may cost 5 cents at `paid`, unless said otherwise."""
    with daemon.connect() as quorum:
        return quorum.chat("hello", **({"max_tokens": 500} | said))


def refused(daemon: Daemon, **said: Any) -> QuorumError:
    with pytest.raises(QuorumError) as fault:
        ask(daemon, **said)
    return fault.value


def told(daemon: Daemon, **said: Any) -> dict[str, Any]:
    answer: dict[str, Any] = daemon.call(
        "explain", messages=[{"role": "user", "content": "hello"}], **({"max_tokens": 500} | said)
    )
    return answer


def settle(daemon: Daemon, **settings: Any) -> None:
    with daemon.connect() as quorum:
        for key, value in settings.items():
            quorum.call("settings.set", key=key, value=value)


def at_once(daemon: Daemon, calls: int, **said: Any) -> Counter[str]:
    """How many of many calls on one connection ended how."""
    params = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 500} | said
    with daemon.json_lines() as lines:
        lines.send(*[{"t": "call", "id": at, "method": "chat", "params": params} for at in range(calls)])
        ends: list[dict[str, Any]] = []
        while len(ends) < calls:
            message = lines.hear()
            assert message is not None
            ends += [message] if message["t"] in {"done", "fault"} else []
    return Counter(end.get("code", end["t"]) for end in ends)


class TestFreeToPaid:
    @pytest.mark.parametrize("home", HOMES)
    def test_with_room_the_paid_one_answers_and_is_held_for(self, providers, home):
        with street(providers, "[limits]\nmonth_usd = 0.05\n", home=home) as on:
            answer = ask(on.daemon)
            assert (answer.model_used, answer.decision.reason) == ("paid:sim", "provider_unhealthy_fallback")
            assert on.sent()["paid"] == ["sim"]
            assert on.daemon.rows()[0]["held_nano_usd"] == 50_000_000
            on.daemon.balanced()

    @pytest.mark.parametrize("home", HOMES)
    @pytest.mark.parametrize("stream", [False, True])
    def test_a_hard_limit_lets_nothing_slip_through_and_says_so(self, providers, home, stream):
        with street(providers, "[limits]\nmonth_usd = 0.049\n", home=home) as on:
            settle(on.daemon, auto_fallback_to_local=False, enforce_budget_limits=False)
            fault = refused(on.daemon, stream=stream)
            assert isinstance(fault, BudgetExceeded)
            assert (fault.detail["scope"], fault.detail["limit_nano_usd"]) == ("daemon", 49_000_000)
            assert fault.detail["failed"][0]["model"].startswith("home:")
            assert "was to answer, but" in fault.message
            assert "daemon has spent" in fault.message
            assert on.sent() == ({"home": [FAILS]} if home == "fails" else {})
            assert on.daemon.held() == on.daemon.spent() == 0

    @pytest.mark.parametrize("home", HOMES)
    def test_above_a_users_budget_the_user_is_asked_and_the_answer_holds_for_the_hop(self, providers, home):
        with street(providers, home=home) as on:
            settle(on.daemon, month_usd=0.049)
            fault = refused(on.daemon)
            assert isinstance(fault, OverrideRequired)
            assert "Continue with sim ($0.05)" in fault.message
            assert "paid" not in on.sent()
            answer = ask(on.daemon, override_token=fault.detail["override_token"])
            assert (answer.model_used, on.sent()["paid"]) == ("paid:sim", ["sim"])
            assert on.daemon.rows()[0]["marks"] == ["override"]
            assert refused(on.daemon, override_token=fault.detail["override_token"]).code == "override_invalid"
            assert on.sent()["paid"] == ["sim"]
            on.daemon.balanced()

    @pytest.mark.parametrize("home", HOMES)
    def test_above_a_budget_that_nobody_may_pass_it_is_refused(self, providers, home):
        with street(providers, home=home) as on:
            settle(on.daemon, month_usd=0.049, budget_override_allowed=False)
            fault = refused(on.daemon)
            assert isinstance(fault, BudgetExceeded)
            assert "paid" not in on.sent()

    @pytest.mark.parametrize("home", HOMES)
    def test_the_local_model_that_just_failed_is_no_way_out(self, providers, home):
        with street(providers, home=home) as on:
            settle(on.daemon, month_usd=0.049, auto_fallback_to_local=True)
            fault = refused(on.daemon)
            assert isinstance(fault, BudgetExceeded)
            assert len(fault.detail["reasons"]) == 2
            assert on.sent() == ({"home": [FAILS]} if home == "fails" else {})

    @pytest.mark.parametrize("home", HOMES)
    def test_the_next_best_local_model_is(self, providers, home):
        with street(providers, names="home paid spare", home=home) as on:
            settle(on.daemon, month_usd=0.049, auto_fallback_to_local=True)
            answer = ask(on.daemon)
            assert (answer.model_used, answer.decision.reason) == ("spare:sim", "budget_exceeded_auto_fallback")
            assert "paid" not in on.sent()

    def test_fifty_at_once_with_room_for_three_hops_make_three(self, providers):
        with street(
            providers, "[limits]\nmonth_usd = 0.16\n", home_model=LATE_FAILS, paid_model=LATE, names="home paid"
        ) as on:
            heard = at_once(on.daemon, 50)
            assert heard["done"] == 3
            assert set(heard) <= {"done", "budget_held", "budget_exceeded"}
            assert on.sent()["paid"] == [LATE] * 3
            assert on.daemon.spent() == 150_000_000
            on.daemon.balanced()

    def test_fifty_at_once_make_no_more_hops_than_a_users_budget_has_room_for(self, providers):
        with street(providers, home_model=LATE_FAILS, paid_model=LATE) as on:
            settle(on.daemon, month_usd=0.16)
            heard = at_once(on.daemon, 50)
            assert heard["done"] == 3
            assert set(heard) <= {"done", "budget_held", "override_required"}
            assert on.sent()["paid"] == [LATE] * 3
            on.daemon.balanced()


class TestFurtherTargets:
    @pytest.mark.parametrize("home", HOMES)
    @pytest.mark.parametrize("limit", ["hard", "a user's", "a user's that may not be passed"])
    def test_a_hop_that_is_refused_is_passed_over_for_a_free_one(self, providers, home, limit):
        limits = "[limits]\nmonth_usd = 0.049\n" if limit == "hard" else ""
        with street(providers, limits, names="home paid spare", home=home) as on:
            if limit != "hard":
                settle(on.daemon, month_usd=0.049, budget_override_allowed=limit == "a user's")
            explained = told(on.daemon)
            answer = ask(on.daemon)
            assert (answer.model_used, answer.cost_nano_usd) == ("spare:sim", 0)
            assert "paid" not in on.sent()
            rejected = {each.model: each.code for each in answer.decision.rejected}
            assert rejected["paid:sim"] in {"budget_exceeded", "override_required"}
            if home == "known to be down":  # else explain can't know
                assert explained["fault"] is None
                assert {each["model"]: each["code"] for each in explained["decision"]["rejected"]} == rejected
            on.daemon.balanced()

    def test_a_hop_without_a_price_is_passed_over_too(self, providers):
        with street(providers, "[limits]\nmonth_usd = 10\n", names="home paid spare") as on:
            settle(on.daemon, default_model="paid:unpriced")
            answer = ask(on.daemon, model=f"home:{FAILS}", allow_fallback=True, max_tokens=200_000)
            assert answer.model_used == "spare:sim"
            assert [each.code for each in answer.decision.rejected] == ["price_unknown", "budget_exceeded"]
            assert "paid" not in on.sent()

    def test_each_hop_has_a_hold_and_a_row_of_its_own(self, providers):
        with street(providers, "[limits]\nmonth_usd = 1.00\n", names="paid dear", paid_model=FAILS) as on:
            answer = ask(on.daemon)
            assert on.sent() == {"paid": [FAILS], "dear": ["sim"]}
            second, first = on.daemon.rows()
            assert first["call_id"] == second["call_id"] == answer.call_id
            assert first["usage_id"] != second["usage_id"] == answer.usage_id
            assert [(row["model"], row["status"], row["held_nano_usd"]) for row in (first, second)] == [
                (f"paid:{FAILS}", "provider_error", 50_000_000),
                ("dear:sim", "ok", 500_000_000),
            ]
            assert (first["cost_nano_usd"], second["cost_nano_usd"]) == (0, answer.cost_nano_usd)
            assert [attempt.usage_id for attempt in answer.attempts] == [first["usage_id"], second["usage_id"]]
            holds = on.daemon.database("SELECT usage_id, held FROM journal ORDER BY usage_id, held DESC")
            taken = Counter(entry["usage_id"] for entry in holds)
            assert taken == {first["usage_id"]: 2, second["usage_id"]: 2}
            on.daemon.balanced()

    @pytest.mark.parametrize("failing", [FAILS, BREAKS], ids=["fails", "breaks off"])
    @pytest.mark.parametrize("stream", [False, True])
    def test_a_dearer_hop_is_admitted_for_its_own_price(self, providers, failing, stream):
        with street(providers, "[limits]\nmonth_usd = 0.499\n", names="paid dear", paid_model=failing) as on:
            fault = refused(on.daemon, stream=stream)
            assert (fault.code, fault.detail["bound_nano_usd"]) == ("budget_exceeded", 500_000_000)
            assert on.sent() == {"paid": [failing]}
            (row,) = on.daemon.rows()
            assert fault.detail["usage_id"] == row["usage_id"]
            assert ask(on.daemon, max_tokens=400).model_used == "dear:sim"
            on.daemon.balanced()


class TestTokenAndHop:
    SAID: ClassVar[dict[str, Any]] = {"model": f"paid:{FAILS}", "allow_fallback": True}

    def test_a_token_for_the_first_target_is_none_for_a_hop_to_another_paid_one(self, providers):
        with street(providers, names="dear paid", paid_model=FAILS) as on:
            settle(on.daemon, month_usd=0.01)
            question = refused(on.daemon, **self.SAID)
            assert question.detail["model"] == f"paid:{FAILS}"
            fault = refused(on.daemon, **self.SAID, override_token=question.detail["override_token"])
            assert on.sent() == {"paid": [FAILS]}
            assert isinstance(fault, OverrideRequired)
            assert (fault.detail["model"], fault.detail["estimated_nano_usd"]) == ("dear:sim", 500_000_000)
            on.daemon.balanced()

    def test_and_leaves_the_way_to_a_free_one_open(self, providers):
        with street(providers, names="spare paid", paid_model=FAILS) as on:
            settle(on.daemon, month_usd=0.01)
            question = refused(on.daemon, **self.SAID)
            answer = ask(on.daemon, **self.SAID, override_token=question.detail["override_token"])
            assert answer.model_used == "spare:sim"
            assert on.sent() == {"paid": [FAILS], "spare": ["sim"]}


class TestWithoutAPrice:
    @pytest.mark.parametrize(
        ("limits", "scope"),
        [
            ("[limits]\nmonth_usd = 100\n", "daemon"),
            ("[limits]\nproviders.paid = { day_usd = 100 }\n", "provider:paid"),
            ("[limits]\napps.test = { day_usd = 100 }\n", "app:test"),
            ('[limits]\nusers."*" = { month_usd = 100, hard = true }\n', "user:"),
        ],
        ids=["daemon", "provider", "app", "user"],
    )
    def test_below_a_hard_limit_nothing_runs_and_the_message_says_how_to_set_one(self, providers, limits, scope):
        with street(providers, limits, names="paid") as on:
            settle(on.daemon, enforce_budget_limits=False)
            for admission in ("strict", "queue", "soft"):
                fault = refused(on.daemon, model="paid:unpriced", admission=admission)
                assert isinstance(fault, PriceUnknown)
                assert fault.detail["scope"].startswith(scope)
                assert '[models."paid:unpriced"]' in fault.message
                assert "input_usd_per_mtok" in fault.message
                assert "output_usd_per_mtok" in fault.message
            explained = told(on.daemon, model="paid:unpriced")
            assert (explained["fault"]["code"], explained["decision"]["targets"]) == ("price_unknown", [])
            assert on.sent() == {}

    def test_the_price_that_the_message_asks_for_lets_it_run(self, providers):
        with street(providers, "[limits]\nmonth_usd = 100\n", names="paid") as on:
            assert refused(on.daemon, model="paid:sim?text=hi").code == "price_unknown"
            config = (on.daemon.folder / "config.toml").read_text("utf-8")
            on.daemon.configure(config + priced("paid:sim?text=hi"))
            on.daemon.restart()
            assert ask(on.daemon, model="paid:sim?text=hi").cost_nano_usd > 0

    @pytest.mark.parametrize("month_usd", [None, 0.01])
    def test_without_one_it_runs_at_an_unknown_cost_and_totals_say_so(self, providers, month_usd):
        with street(providers, names="paid") as on:
            settle(on.daemon, month_usd=month_usd)
            answer = ask(on.daemon, model="paid:sim?text=hi")
            assert answer.cost_nano_usd is None
            assert "price_unknown" in [warning.code for warning in answer.warnings]
            ask(on.daemon, max_tokens=10)
            known, unknown = on.daemon.rows()
            assert (unknown["cost_nano_usd"], unknown["cost_source"]) == (None, "unknown")
            assert unknown["price_version"] is None
            for by in ("user", "app", "provider", "day"):
                (group,) = on.daemon.call("spend", by=by)["groups"]
                assert (group["calls"], group["unpriced"]) == (2, 1)
                assert group["cost_nano_usd"] == known["cost_nano_usd"] > 0
            by_model = {group["key"]: group["unpriced"] for group in on.daemon.call("spend", by="model")["groups"]}
            assert by_model == {"paid:sim?text=hi": 1, "paid:sim": 0}
            on.daemon.balanced()


class TestClamp:
    @pytest.mark.parametrize("stream", [False, True])
    def test_an_answer_without_a_limit_is_cut_to_what_fits(self, providers, stream):
        with street(providers, names="paid") as on:
            settle(on.daemon, month_usd=0.05, clamp_to_budget=True)
            explained = told(on.daemon, max_tokens=None)
            answer = ask(on.daemon, max_tokens=None, stream=stream)
            assert explained["decision"]["bound_nano_usd"] == answer.decision.bound_nano_usd == 50_000_000
            assert self.upstream_limits(on) == [500]
            assert "clamped" in [warning.code for warning in answer.warnings]
            (row,) = on.daemon.rows()
            assert (row["marks"], row["held_nano_usd"]) == (["clamped"], 50_000_000)
            on.daemon.balanced()

    def test_one_that_fits_is_not(self, providers):
        with street(providers, names="paid") as on:
            settle(on.daemon, month_usd=1.0, clamp_to_budget=True)
            answer = ask(on.daemon, max_tokens=None)
            assert self.upstream_limits(on) == [1024]
            assert (answer.warnings, on.daemon.rows()[0]["marks"]) == ([], [])

    def test_a_limit_that_the_request_names_is_kept(self, providers):
        with street(providers, names="paid") as on:
            settle(on.daemon, month_usd=0.05, clamp_to_budget=True)
            assert refused(on.daemon, max_tokens=501).code == "override_required"
            assert ask(on.daemon, max_tokens=500).decision.bound_nano_usd == 50_000_000
            assert self.upstream_limits(on) == [500]

    def test_it_is_off_unless_the_user_wants_it(self, providers):
        with street(providers, names="paid") as on:
            settle(on.daemon, month_usd=0.05)
            assert refused(on.daemon, max_tokens=None).code == "override_required"
            assert on.sent() == {}

    def test_an_answer_too_short_to_be_of_use_is_refused(self, providers):
        with street(providers, names="paid") as on:
            settle(on.daemon, month_usd=0.0015, clamp_to_budget=True, budget_override_allowed=False)
            assert refused(on.daemon, max_tokens=None).code == "budget_exceeded"
            assert on.sent() == {}
            settle(on.daemon, month_usd=0.0016)
            ask(on.daemon, max_tokens=None)
            assert self.upstream_limits(on) == [16]
            on.daemon.balanced()

    def test_it_fits_below_a_hard_limit_too_and_never_passes_it(self, providers):
        with street(providers, "[limits]\nmonth_usd = 0.01\n", names="paid") as on:
            settle(on.daemon, clamp_to_budget=True)
            ask(on.daemon, max_tokens=None)
            (longest,) = self.upstream_limits(on)
            assert 16 <= longest < 1024
            (row,) = on.daemon.call("usage")["rows"]
            assert row["held_nano_usd"] <= 10_000_000
            assert row["marks"] == ["clamped"]
            fault = refused(on.daemon, max_tokens=1024)
            assert (fault.code, fault.detail["scope"]) == ("budget_exceeded", "daemon")

    def test_it_leaves_to_others_what_they_hold(self, providers):
        with street(providers, names="paid", paid_model=LATE) as on:
            settle(on.daemon, month_usd=0.10, clamp_to_budget=True)
            with ThreadPoolExecutor(1) as one:
                running = one.submit(ask, on.daemon, model=f"paid:{LATE}")
                on.paid.wait_for(lambda chats: len(chats) == 1)
                assert isinstance(refused(on.daemon, max_tokens=None), BudgetHeld)
                assert len(on.sent()["paid"]) == 1
                running.result()
            ask(on.daemon, model="paid:sim", max_tokens=None)
            assert self.upstream_limits(on) == [500, 500]
            on.daemon.balanced()

    def upstream_limits(self, on: Street) -> list[int]:
        """The `max_tokens` that went to the paid provider, in order."""
        bodies = [chat["body"] for chat in on.paid.chats(bodies=True)]
        return [body.get("max_completion_tokens", body.get("max_tokens")) for body in bodies]
