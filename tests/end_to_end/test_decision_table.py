"""Design §4, "What happens at the limit": every row of its table, and the limits of the organisation above it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count, product
from typing import Any, NamedTuple

import pytest
import running_daemon
import simulated_provider
from running_daemon import Daemon, eventually, priced, provider
from simulated_provider import Provider, model

from protocols.chat import ChatAnswer
from protocols.errors import BudgetExceeded, BudgetHeld, OverrideInvalid, OverrideRequired, QuorumError

DOLLAR = 1_000_000_000
CENTS_5 = 50_000_000
TOKEN_NANO = 100_000
"""A paid answer's token costs 0.0001 $ and a prompt nothing: a call's bound is its `max_tokens`."""
SPENDS = model(response_tokens=10_170)
"""Costs 1.017 $."""
CHEAP, EXACT, MOST = model(response_tokens=100), model(response_tokens=500), model(response_tokens=9_600)
LATE = model(latency_ms=1_200)
SWITCHES = ("enforce_budget_limits", "auto_fallback_to_local", "budget_override_allowed")
ALL = list(product((True, False), repeat=3))
NUMBERED = count()


class House(NamedTuple):
    """A daemon, its paid provider and the one with the free models; `local` says whether that one is up."""

    daemon: Daemon
    paid: Provider
    free: Provider
    local: bool

    def sent(self) -> tuple[list[str], list[str]]:
        """The models that were asked of each since the last look."""
        asked = [[str(chat["model"]) for chat in each.chats()] for each in (self.paid, self.free)]
        self.paid.reset()
        self.free.reset()
        return asked[0], asked[1]


LIMITS = """
[daemon]
timezone = "UTC"
[limits]
month_usd = 100.0
users."*" = { month_usd = 50.0 }
users.named = { month_usd = 0.04 }
users.daily = { day_usd = 0.04 }
users.roomy = { month_usd = 60.0 }
users.stopped = { month_usd = 0.04, hard = true }
users."family/kid" = { month_usd = 0.04 }
apps.capped = { month_usd = 0.04 }
providers.capped = { month_usd = 0.04 }
providers.shared = { month_usd = 1.00 }
"""


def config(paid: Provider, free_url: str) -> str:
    names = ["claude", SPENDS, CHEAP, EXACT, MOST, LATE]
    return "\n".join(
        [
            LIMITS,
            *[provider(name, "openai", paid.base_url()) for name in ("paid", "capped", "shared")],
            provider("ollama", "ollama", free_url, probe_every_s=0.1),
            provider("pretend", "simulated", paid.base_url()),
            priced(
                *[f"{name}:{each}" for name in ("paid", "capped", "shared") for each in names],
                usd_in=0.0,
                usd_out=TOKEN_NANO / 1_000,
            ),
            '[models."ollama:llama3.2"]\nquality = 5\ncontext_tokens = 128_000\n',
            '[models."ollama:small"]\nquality = 8\ncontext_tokens = 400\n',
            '[models."ollama:tiny"]\nquality = 9\ncontext_tokens = 200\n',
            '[models."ollama:old"]\nquality = 10\nretired = true\n',
            '[models."pretend:best"]\nquality = 10\ncontext_tokens = 1_000_000\n',
        ]
    )


@contextmanager
def built(*, local: bool) -> Iterator[House]:
    with (
        simulated_provider.running(models=["claude", "sim"]) as paid,
        simulated_provider.running(models=["llama3.2", "unheard-of", "small", "tiny", "old"]) as free,
    ):
        url = free.base_url("ollama") if local else "http://127.0.0.1:9"
        with running_daemon.running(config(paid, url)) as daemon:
            state = "healthy" if local else "open"
            eventually(lambda: states(daemon)["ollama"] == state, f"the free models are {state}")
            yield House(daemon, paid, free, local)


def states(daemon: Daemon) -> dict[str, str]:
    return {each["name"]: each["state"] for each in daemon.call("providers")["providers"]}


@pytest.fixture(scope="module", params=[True, False], ids=["local", "no local"])
def either(request: pytest.FixtureRequest) -> Iterator[House]:
    with built(local=request.param) as house:
        yield house


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with built(local=True) as house:
        yield house


def new_user(daemon: Daemon, switches: tuple[bool, bool, bool] = (True, False, True), **settings: Any) -> str:
    """An account that nobody else has, with these switches."""
    user = f"@user-{next(NUMBERED)}"
    agree(daemon, user, switches, **settings)
    return user


def agree(daemon: Daemon, user: str, switches: tuple[bool, bool, bool], **settings: Any) -> None:
    with daemon.connect() as quorum:
        for key, value in (dict(zip(SWITCHES, switches, strict=True)) | settings).items():
            quorum.call("settings.set", key=key, value=value, user=user)


def spender(house: House, switches: tuple[bool, bool, bool] = (True, False, True), **settings: Any) -> str:
    """One who has spent 1.017 $ of 1 $."""
    user = new_user(house.daemon, switches, **settings)
    ask(house.daemon, user, model=f"paid:{SPENDS}", max_tokens=10_170)
    house.daemon.call("settings.set", key="month_usd", value=1.0, user=user)
    house.sent()
    return user


def ask(daemon: Daemon, user: str, *, app: str = "test", prompt: str = "hello", **said: Any) -> ChatAnswer:
    """A chat that may cost 5 cents, unless said otherwise."""
    with daemon.connect(app) as quorum:
        return quorum.chat(prompt, user=user, **({"model": "paid:claude", "max_tokens": 500} | said))


def told(daemon: Daemon, user: str, *, app: str = "test", prompt: str = "hello", **said: Any) -> dict[str, Any]:
    """What `explain` says to the same."""
    messages = [{"role": "user", "content": prompt}]
    with daemon.connect(app) as quorum:
        answer: dict[str, Any] = quorum.call(
            "explain", messages=messages, user=user, **({"model": "paid:claude", "max_tokens": 500} | said)
        )
    return answer


def outcome(house: House, user: str, **said: Any) -> ChatAnswer | QuorumError:
    """A chat's answer or fault, after `explain` has told the same and has asked nobody."""
    house.sent()
    explained = told(house.daemon, user, **said)
    assert house.sent() == ([], [])
    try:
        answer = ask(house.daemon, user, **said)
    except QuorumError as error:
        fault = error
    else:
        fault = None
    if fault is not None:
        assert explained["decision"]["targets"] == []
        assert (explained["fault"]["code"], explained["fault"]["message"]) == (fault.code, fault.message)
        return fault
    assert explained["fault"] is None
    assert explained["decision"]["targets"] == answer.decision.targets
    assert explained["decision"]["reason"] == answer.decision.reason
    assert explained["decision"]["bound_nano_usd"] == answer.decision.bound_nano_usd
    rejected = [(each["model"], each["code"]) for each in explained["decision"]["rejected"]]
    assert rejected == [(each.model, each.code) for each in answer.decision.rejected]
    return answer


def last_row(daemon: Daemon, user: str) -> dict[str, Any]:
    row: dict[str, Any] = daemon.call("usage", user=user, last=1)["rows"][0]
    return row


@pytest.mark.parametrize("switches", ALL, ids=lambda each: "-".join("yes" if on else "no" for on in each))
def test_the_decision_table(either, switches):
    enforce, auto, may_override = switches
    user = spender(either, switches)
    ended = outcome(either, user)
    sent, row = either.sent(), last_row(either.daemon, user)
    if not enforce:
        assert sent == (["claude"], [])
        ran(ended, row)
    elif auto and either.local:
        assert sent == ([], ["llama3.2"])
        was_replaced(ended, row, user)
    else:
        assert sent == ([], [])
        assert row["model"] == f"paid:{SPENDS}"
        was_refused(ended, user)
        rejected = told(either.daemon, user)["decision"]["rejected"]
        assert [(each["model"], each["code"]) for each in rejected] == [("paid:claude", ended.code)]
        if auto:
            lists_both_reasons(ended, user)
        elif may_override:
            asks(ended, local=either.local)
        else:
            assert isinstance(ended, BudgetExceeded)
            assert f"user:{user[1:]}" in ended.message
            assert ended.detail.keys().isdisjoint({"reasons", "override_token", "alternative"})
    either.daemon.balanced()


def ran(ended: ChatAnswer | QuorumError, row: dict[str, Any]) -> None:
    """Because its user does not enforce the budget."""
    assert isinstance(ended, ChatAnswer)
    assert (ended.model_used, ended.decision.reason, ended.decision.rejected) == ("paid:claude", "explicit_model", [])
    assert [warning.code for warning in ended.warnings] == ["unenforced"]
    assert (row["model"], row["marks"], row["held_nano_usd"]) == ("paid:claude", ["unenforced"], CENTS_5)


def was_replaced(ended: ChatAnswer | QuorumError, row: dict[str, Any], user: str) -> None:
    """By the local model, and says so."""
    assert isinstance(ended, ChatAnswer)
    assert (ended.model_used, ended.cost_nano_usd, len(ended.attempts)) == ("ollama:llama3.2", 0, 1)
    assert ended.decision.targets == ["ollama:llama3.2"]
    assert ended.decision.reason == row["reason"] == "budget_exceeded_auto_fallback"
    (rejected,) = ended.decision.rejected
    assert (rejected.model, rejected.code) == ("paid:claude", "budget_exceeded")
    assert f"user:{user[1:]}" in rejected.why
    assert (row["model"], row["marks"], row["cost_nano_usd"]) == ("ollama:llama3.2", [], 0)


def was_refused(ended: ChatAnswer | QuorumError, user: str) -> None:
    """By the user's month, whose figures it tells."""
    assert isinstance(ended, QuorumError)
    known = {key: ended.detail[key] for key in ("scope", "period", "spent_nano_usd", "held_nano_usd")}
    assert known == {
        "scope": f"user:{user[1:]}",
        "period": "month",
        "spent_nano_usd": 1_017_000_000,
        "held_nano_usd": 0,
    }
    assert (ended.detail["limit_nano_usd"], ended.detail["percent_used"]) == (DOLLAR, 101.7)
    assert ended.detail["resets_at"].endswith("-01T00:00:00.000Z")


def lists_both_reasons(ended: QuorumError, user: str) -> None:
    assert isinstance(ended, BudgetExceeded)
    budget, local = ended.detail["reasons"]
    assert f"user:{user[1:]}" in budget
    assert "no local model is available" in local
    assert budget in ended.message
    assert local in ended.message


def asks(ended: QuorumError, *, local: bool) -> None:
    assert isinstance(ended, OverrideRequired)
    instead = " or use the free llama3.2" if local else ""
    assert ended.message == f"Budget exceeded (101.7% used). Continue with claude ($0.05){instead}?"
    assert ended.detail["estimated_nano_usd"] == CENTS_5
    assert ended.detail["alternative"] == ("ollama:llama3.2" if local else None)
    assert len(ended.detail["override_token"]) >= 20
    assert ended.detail["expires_at"].endswith("Z")


HARD = [
    ("daemon", {"max_tokens": 1_000_001}),
    ("provider:capped", {"model": "capped:claude"}),
    ("app:capped", {"app": "capped"}),
    ("user:stopped", {}),
]


@pytest.mark.parametrize(("scope", "said"), HARD, ids=[scope for scope, _ in HARD])
@pytest.mark.parametrize("admission", [None, "soft", "strict", "queue"])
def test_limits_of_the_organisation_are_passed_by_no_switch(house, scope, said, admission):
    user = "@stopped" if scope == "user:stopped" else new_user(house.daemon)
    for switches in ALL:
        agree(house.daemon, user, switches, month_usd=0.01)
        fault = outcome(house, user, **said, **({} if admission is None else {"admission": admission}))
        assert (fault.code, fault.detail["scope"]) == ("budget_exceeded", scope), switches
        assert "reasons" not in fault.detail
        assert house.sent() == ([], [])


def test_a_token_does_not_pass_a_limit_of_the_organisation_that_is_reached_meanwhile(house):
    user, other = new_user(house.daemon, month_usd=0.01), new_user(house.daemon)
    asked = {"model": "shared:claude"}
    tokens = {}
    for admission in ("strict", "queue"):
        with pytest.raises(OverrideRequired) as offered:
            ask(house.daemon, user, **asked, admission=admission)
        tokens[admission] = offered.value.detail["override_token"]
    ask(house.daemon, other, model=f"shared:{MOST}", max_tokens=9_600)
    house.sent()
    for admission, token in tokens.items():
        with pytest.raises(BudgetExceeded) as refused:
            ask(house.daemon, user, **asked, override_token=token, admission=admission)
        assert refused.value.detail["scope"] == "provider:shared"
    assert house.sent() == ([], [])


def test_what_would_fit_with_nothing_held_is_neither_asked_about_nor_replaced(house):
    user = new_user(house.daemon, month_usd=1.0)
    with ThreadPoolExecutor(1) as one:
        running = one.submit(ask, house.daemon, user, model=f"paid:{LATE}", max_tokens=6_000)
        house.paid.wait_for(lambda chats: len(chats) == 1)
        house.paid.reset()
        for switches in ALL:
            agree(house.daemon, user, switches)
            if not switches[0]:
                continue
            fault = outcome(house, user, max_tokens=6_000)
            assert isinstance(fault, BudgetHeld), switches
            assert fault.retry_after_s > 0
            known = [fault.detail[f"{key}_nano_usd"] for key in ("spent", "held", "limit", "bound")]
            assert known == [0, 600_000_000, DOLLAR, 600_000_000]
            assert "override_token" not in fault.detail
        assert house.sent() == ([], [])
        running.result()
    agree(house.daemon, user, (True, True, True))
    assert ask(house.daemon, user, max_tokens=6_000).model_used == "paid:claude"


def test_a_held_limit_of_the_organisation_comes_after_a_budget_that_is_used_up(house):
    user, other = spender(house, (True, False, False)), new_user(house.daemon)
    with ThreadPoolExecutor(1) as one:
        running = one.submit(ask, house.daemon, other, app="capped", model=f"paid:{LATE}", max_tokens=300)
        house.paid.wait_for(lambda chats: len(chats) == 1)
        with pytest.raises(BudgetExceeded) as refused:
            ask(house.daemon, user, app="capped", max_tokens=300)
        assert refused.value.detail["scope"] == f"user:{user[1:]}"
        running.result()
    house.sent()


def test_a_call_may_forbid_the_local_model_and_hears_both_reasons(house):
    user = spender(house, (True, True, True))
    fault = outcome(house, user, allow_fallback=False)
    assert isinstance(fault, BudgetExceeded)
    assert len(fault.detail["reasons"]) == 2
    assert "allow_fallback" in fault.detail["reasons"][1]
    assert house.sent() == ([], [])
    assert outcome(house, user, allow_fallback=True).model_used == "ollama:llama3.2"


@pytest.mark.parametrize(
    ("max_tokens", "local"), [(20, "tiny"), (200, "small"), (5_000, "llama3.2"), (200_000, "unheard-of")]
)
def test_the_local_model_is_the_best_that_has_room_for_the_call(house, max_tokens, local):
    user = new_user(house.daemon, (True, True, True), month_usd=0.000_001)
    answer = outcome(house, user, max_tokens=max_tokens)
    assert answer.model_used == f"ollama:{local}"
    assert house.sent() == ([], [local])
    agree(house.daemon, user, (True, False, True))
    assert outcome(house, user, max_tokens=max_tokens).detail["alternative"] == f"ollama:{local}"


def test_a_long_prompt_counts_for_the_context_of_the_local_model_too(house):
    user = new_user(house.daemon, (True, True, True), month_usd=0.000_001)
    assert outcome(house, user, max_tokens=20, prompt="word " * 300).model_used == "ollama:llama3.2"


@pytest.mark.parametrize(
    ("user", "period"), [("@named", "month"), ("@daily", "day"), ("own month", "month"), ("own day", "day")]
)
def test_every_kind_of_budget_is_asked_about(house, user, period):
    if user.startswith("own"):
        user = new_user(house.daemon, **{f"{period}_usd": 0.04})
    fault = outcome(house, user)
    assert isinstance(fault, OverrideRequired)
    assert (fault.detail["scope"], fault.detail["period"]) == (f"user:{user[1:]}", period)
    assert fault.detail["limit_nano_usd"] == 40_000_000
    assert fault.detail["percent_used"] == 0.0
    agree(house.daemon, user, (False, False, True))
    assert outcome(house, user).model_used == "paid:claude"


def test_a_limit_for_everybody_holds_for_accounts_that_have_none_of_their_own(house):
    user = new_user(house.daemon)
    assert outcome(house, user, max_tokens=500_001).detail["limit_nano_usd"] == 50 * DOLLAR
    assert outcome(house, "@roomy", max_tokens=500_001).model_used == "paid:claude"
    assert outcome(house, "@roomy", max_tokens=600_001).detail["limit_nano_usd"] == 60 * DOLLAR


def test_the_lower_of_the_own_limit_and_the_configs_applies(house):
    agree(house.daemon, "@roomy", (True, False, True), month_usd=70.0)
    assert outcome(house, "@roomy", max_tokens=600_001).detail["limit_nano_usd"] == 60 * DOLLAR
    agree(house.daemon, "@roomy", (True, False, True), month_usd=2.0)
    assert outcome(house, "@roomy", max_tokens=600_001).detail["limit_nano_usd"] == 2 * DOLLAR
    house.daemon.call("settings.unset", key="month_usd", user="@roomy")


def test_a_name_below_an_account_counts_in_both_and_has_limits_of_its_own(house):
    user = new_user(house.daemon)
    ask(house.daemon, f"{user}/bob", model=f"paid:{CHEAP}", max_tokens=100)
    house.sent()
    spent = {row["scope"]: row["spent_nano_usd"] for row in house.daemon.call("spend", user=f"{user}/bob")["scopes"]}
    assert spent[f"user:{user[1:]}"] == spent[f"user:{user[1:]}/bob"] == 10_000_000
    assert outcome(house, "@family/kid").detail["scope"] == "user:family/kid"
    assert outcome(house, "@family/dad").model_used == "paid:claude"


def test_a_name_below_an_account_does_not_escape_its_budget(house):
    user = spender(house, (True, False, False))
    for name, switches in zip("abcdefgh", ALL, strict=True):
        below = f"{user}/{name}"
        agree(house.daemon, below, switches, month_usd=1_000.0)
        ended = outcome(house, below)
        if switches[1]:  # its own agreement to the free model is enough
            assert ended.model_used == "ollama:llama3.2", switches
        else:
            assert (ended.code, ended.detail["scope"]) == ("budget_exceeded", f"user:{user[1:]}"), switches
        assert house.sent()[0] == []


def test_what_the_account_allows_does_not_pass_a_budget_that_a_name_below_it_keeps(house):
    user = spender(house, (True, False, True))
    below = f"{user}/strict"
    agree(house.daemon, below, (True, False, False), month_usd=0.01)
    assert isinstance(outcome(house, below), BudgetExceeded)
    assert house.sent() == ([], [])


def test_a_budget_that_is_kept_after_the_question_holds_against_its_token(house):
    user = spender(house)
    token = outcome(house, user).detail["override_token"]
    agree(house.daemon, user, (True, False, False))
    fault = outcome(house, user, override_token=token)
    assert isinstance(fault, BudgetExceeded)
    assert house.sent() == ([], [])


def test_soft_admission_runs_while_less_than_the_budget_is_spent(house):
    user = new_user(house.daemon, (True, True, True), month_usd=0.04)
    answer = outcome(house, user, model=f"paid:{EXACT}", admission="soft")
    assert "soft" in [warning.code for warning in answer.warnings]
    assert last_row(house.daemon, user)["marks"] == ["soft"]
    assert house.sent()[0] != []
    assert outcome(house, user, admission="soft").decision.reason == "budget_exceeded_auto_fallback"


def test_explain_goes_by_a_token_as_chat_does(house):
    user = spender(house)
    token = outcome(house, user).detail["override_token"]
    for _ in range(2):
        assert told(house.daemon, user, override_token=token)["decision"]["targets"] == ["paid:claude"]
    assert isinstance(outcome(house, user, override_token=token), ChatAnswer)
    assert house.sent() == (["claude"], [])
    assert isinstance(outcome(house, user, override_token=token), OverrideInvalid)
    assert isinstance(outcome(house, user, override_token="nonsense"), OverrideInvalid)
    assert house.sent() == ([], [])
