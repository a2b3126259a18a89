"""Promises that an outsider would check: what is free stays free, what is said in private stays there, explain tells the truth."""

from collections.abc import Iterator

import pytest
import running_daemon
import simulated_provider
from running_daemon import Daemon, eventually, priced, provider
from simulated_provider import Provider, model

from protocols.errors import BadRequest, Misconfigured, OverrideRequired, ProviderFailed, UnknownModel

PROMPT = "the canary prompt that a provider repeats"
REFUSES = model(fail=401)
UNCOUNTED = model(prompt_tokens=0, response_tokens=0)
OVERRUN = model(response_tokens=5_000)
SLOW = model(chunks=50, pace_ms=50)
LATE = model(latency_ms=600, chunks=50, pace_ms=50)


@pytest.fixture(scope="module")
def upstream() -> Iterator[Provider]:
    with simulated_provider.running() as running:
        yield running


@pytest.fixture
def daemon(upstream: Provider) -> Iterator[Daemon]:
    names = ("sim", UNCOUNTED, OVERRUN, SLOW)
    config = "\n".join(
        [
            provider("paid", "openai", upstream.base_url()),
            provider("free", "openai", upstream.base_url(), local=True),
            provider("quick", "openai", upstream.base_url(), timeout_s=1.0),
            priced(*[f"paid:{name}" for name in names], f"quick:{LATE}"),
            priced(f"paid:{REFUSES}"),
        ]
    )
    upstream.reset()
    with running_daemon.running(config) as running:
        yield running


def test_a_free_model_runs_although_the_limit_is_used_up(daemon):
    with daemon.connect() as quorum:
        quorum.chat("hello", model="paid:sim")
        quorum.call("settings.set", key="month_usd", value=0.0)
        with pytest.raises(OverrideRequired):
            quorum.chat("hello", model="paid:sim")
        assert quorum.chat("hello", model="free:sim").cost_nano_usd == 0


def test_explain_tells_the_fault_of_the_budget_as_chat_would(daemon):
    asked = {"messages": [{"role": "user", "content": "hello"}], "model": "paid:sim"}
    assert daemon.call("explain", **asked)["fault"] is None
    daemon.call("settings.set", key="month_usd", value=0.000_001)
    told = daemon.call("explain", **asked)
    assert (told["fault"]["code"], told["decision"]["targets"]) == ("override_required", [])
    assert told["decision"]["rejected"][0]["model"] == "paid:sim"
    assert daemon.call("holds") == {"holds": []}


def test_what_a_provider_says_of_a_prompt_is_told_to_its_caller_alone(daemon, upstream):
    upstream.set(fail=500, fail_message=f"can't handle: {PROMPT}")
    with daemon.connect() as quorum:
        for _ in range(3):
            with pytest.raises(ProviderFailed, match="canary prompt"):
                quorum.chat(PROMPT, model="paid:sim")
        for method in ("status", "providers", "models"):
            assert "canary" not in repr(quorum.call(method)), method
    assert "canary prompt" not in daemon.log_text()


def test_a_count_of_nothing_beside_an_answer_is_no_count(daemon):
    with daemon.connect() as quorum:
        answer = quorum.chat("how many tokens is this?", model=f"paid:{UNCOUNTED}")
    assert answer.usage.source == "estimate"
    assert answer.cost_nano_usd > 0
    daemon.balanced()


def test_an_overrun_is_told_with_the_answer(daemon):
    with daemon.connect() as quorum:
        answer = quorum.chat("hello", model=f"paid:{OVERRUN}", max_tokens=10)
    assert [warning.code for warning in answer.warnings] == ["overrun"]
    daemon.balanced()


def test_a_cancelled_call_with_tools_is_charged_for_them_too(daemon):
    schema = {"type": "object", "description": "word " * 2_000}
    tool = {"type": "function", "function": {"name": "look", "parameters": schema}}
    with daemon.connect() as quorum:
        pieces = iter(quorum.stream("hello", model=f"paid:{SLOW}", tools=[tool]))
        next(pieces)
        pieces.close()
    eventually(lambda: daemon.call("status")["calls_in_flight"] == 0, "the call has ended")
    (row,) = daemon.call("usage")["rows"]
    assert row["status"] == "cancelled"
    assert row["prompt_tokens"] > 2_000


def test_the_timeout_of_an_attempt_counts_from_its_beginning(daemon):
    with daemon.connect() as quorum, pytest.raises(ProviderFailed, match="timeout_s"):
        list(quorum.stream("hello", model=f"quick:{LATE}"))
    (row,) = daemon.call("usage")["rows"]
    assert row["latency_ms"] < 1_500


def test_a_refused_key_is_not_tried_again_with_another_model(daemon):
    eventually(lambda: len({m["provider"] for m in daemon.call("models")["models"]}) == 3, "all have listed")
    daemon.call("settings.set", key="default_model", value=f"paid:{REFUSES}")
    with daemon.connect() as quorum:
        answer = quorum.chat("hello")
        assert answer.model_used.startswith("free:")
        assert [attempt.status for attempt in answer.attempts] == ["misconfigured", "ok"]
        with pytest.raises(Misconfigured):
            quorum.chat("hello", model="paid:sim")


def test_a_wrong_default_model_is_told_as_what_it_is(daemon):
    daemon.call("settings.set", key="default_model", value="nonsense")
    with daemon.connect() as quorum, pytest.raises(UnknownModel, match="the setting `default_model`"):
        quorum.chat("hello")


@pytest.mark.parametrize("field", ["model", "provider", "conversation", "task_type", "user"])
def test_a_name_has_a_length_that_it_can_have(daemon, field):
    with daemon.connect() as quorum, pytest.raises(BadRequest, match=f"<= 256 - at `\\$.{field}`"):
        quorum.chat("hello", **{field: "x" * 257})


def test_an_answer_can_be_sent_back_with_its_reasoning(daemon, upstream):
    upstream.set(reasoning="let me think")
    with daemon.connect() as quorum:
        first = quorum.call("chat", messages=[{"role": "user", "content": "hello"}], model="paid:sim")
        history = [{"role": "user", "content": "hello"}, first["message"], {"role": "user", "content": "and now?"}]
        assert first["message"]["reasoning"] == "let me think"
        quorum.call("chat", messages=history, model="paid:sim")
    sent = upstream.requests(bodies=True)
    assert "let me think" not in repr(sent[-1])
