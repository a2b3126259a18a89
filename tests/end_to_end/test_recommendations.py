"""A writer's tiers with a real daemon: what `models` and `recommend` say, and that a retired model is refused before anything is sent."""

import pytest
import running_daemon
import simulated_provider
from running_daemon import eventually

from protocols.errors import BadRequest, UnknownModel

POEM = '[tasks.poem]\nstrength = "narrative"\nresponse_tokens = 100\n'
PAID = ("gpt-4o", "gpt-4o-mini", "claude-3-5-sonnet-20241022")
HOME = ("llama3.2:latest", "sim")


@pytest.fixture(scope="module")
def paid():
    with simulated_provider.running(models=PAID) as running:
        yield running


@pytest.fixture(scope="module")
def daemon(paid):
    with simulated_provider.running(models=HOME) as home:
        config = running_daemon.provider("anthropic", "openai", paid.base_url(), local=False)
        config += running_daemon.provider("home", "openai", home.base_url(), local=True)
        config += running_daemon.priced("anthropic:gpt-4o", usd_in=2.5, usd_out=10.0)
        config += running_daemon.priced("anthropic:gpt-4o-mini", usd_in=0.15, usd_out=0.6)
        with running_daemon.running(config + POEM) as daemon:
            eventually(lambda: len(daemon.call("models")["models"]) == len(PAID + HOME), "both have listed")
            yield daemon


def listed(daemon, **filters):
    return [row["id"] for row in daemon.call("models", **filters)["models"]]


def test_models_of_a_tier_come_best_first(daemon):
    assert listed(daemon, tier="premium", task="theme_analysis") == ["anthropic:gpt-4o"]
    assert listed(daemon, tier="balanced", task="poem") == ["anthropic:gpt-4o-mini", "anthropic:gpt-4o"]
    assert listed(daemon, tier="budget", task="tag") == ["home:llama3.2:latest"]
    assert listed(daemon, tier="balanced", task="tag", local=True) == ["home:llama3.2:latest"]


def test_models_of_a_task_have_its_strength(daemon):
    assert listed(daemon, task="tag") == ["anthropic:gpt-4o-mini", "home:llama3.2:latest"]
    with pytest.raises(BadRequest, match="did you mean `poem`"):
        daemon.call("models", task="pome")


def test_each_tier_has_a_recommendation_with_its_reason_or_a_way_out(daemon):
    told = daemon.call("recommend", task_type="theme_analysis")
    assert told["budget"] is None
    assert "get a local one" in told["ways_out"]["budget"]
    assert told["balanced"]["model"] == told["premium"]["model"] == "anthropic:gpt-4o"
    assert told["premium"]["why"] == "the highest quality at thematic_analysis (quality 8)"
    assert (told["strength"], told["prompt_tokens"], told["response_tokens"]) == ("thematic_analysis", 2000, 800)
    assert daemon.call("recommend", task_type="poem")["budget"]["model"] == "home:llama3.2:latest"


def test_a_paid_model_of_the_budget_tier_says_that_it_exceeds_it(daemon):
    told = daemon.call("recommend", task_type="theme_analysis", budget_tier_allows_paid=True)["budget"]
    assert (told["model"], told["tier_exceeded"]) == ("anthropic:gpt-4o", True)


def test_a_local_model_is_preferred_where_asked_for(daemon):
    assert daemon.call("recommend", task_type="tag")["premium"]["model"] == "anthropic:gpt-4o-mini"
    told = daemon.call("recommend", task_type="tag", prefer_local=True)["premium"]
    assert (told["model"], told["tier_exceeded"]) == ("home:llama3.2:latest", False)


def test_what_is_not_said_is_as_the_user_set_it(daemon):
    def mix(**said):
        told = daemon.call("estimate", quality_tier="budget", usage={"theme_analysis": 1}, **said)
        return [row["model"] for row in told["assumptions"]]

    def models(**said):
        told = {t: daemon.call("recommend", task_type=t, **said) for t in ("tag", "theme_analysis")}
        return told["tag"]["premium"]["model"], told["theme_analysis"]["budget"] and "paid"

    refusing = {"prefer_local": False, "budget_tier_allows_paid": False}
    daemon.call("settings.set", key="orchestrator.budget_tier_allows_paid", value=True, user="bob")
    assert (mix(), mix(user="bob")) == ([], ["anthropic:gpt-4o"])
    try:
        for name in refusing:
            daemon.call("settings.set", key=f"orchestrator.{name}", value=True)
        assert (models(), models(**refusing)) == (
            ("home:llama3.2:latest", "paid"),
            ("anthropic:gpt-4o-mini", None),
        )
        assert (mix(), mix(**refusing)) == (["anthropic:gpt-4o"], [])
    finally:
        for name in refusing:
            daemon.call("settings.unset", key=f"orchestrator.{name}")
    assert models() == ("anthropic:gpt-4o-mini", None)


def test_a_retired_model_is_refused_before_anything_is_sent(daemon, paid):
    with pytest.raises(UnknownModel, match=r"is retired; its successor is `anthropic:claude-sonnet-4-6`"):
        daemon.call("chat", messages=[{"role": "user", "content": "hi"}], model="anthropic:claude-3-5-sonnet-20241022")
    assert paid.chats() == []


def test_right_after_the_start_a_comparison_waits_for_prices_and_models(paid):
    config = running_daemon.provider("openai", "openai", paid.base_url(), local=False)
    with running_daemon.running(config, start=False) as daemon:
        (daemon.state / "prices.msgpack").unlink()
        daemon.start()
        assert daemon.call("recommend", task_type="tag")["balanced"]["model"] == "openai:gpt-4o-mini"
        daemon.restart()
        assert listed(daemon, tier="balanced")[0] == "openai:gpt-4o-mini"


def test_a_simulated_model_is_of_no_tier_beside_a_real_one_unless_its_provider_is_named(paid):
    real = running_daemon.provider("openai", "openai", paid.base_url(), local=False)
    real += running_daemon.priced("openai:gpt-4o")
    made_up = running_daemon.provider("made", "simulated", paid.base_url())
    made_up += '[models."made:gpt-4o"]\nquality = 10\nstrengths = ["narrative"]\n'
    with running_daemon.running(real + made_up) as daemon:
        eventually(lambda: len(daemon.call("models")["models"]) >= 2 * len(PAID), "both have listed")
        assert {name.partition(":")[0] for name in listed(daemon, tier="premium")} == {"openai"}
        assert {name.partition(":")[0] for name in listed(daemon, tier="premium", provider="made")} == {"made"}
        assert {name.partition(":")[0] for name in listed(daemon)} == {"openai", "made"}
    with running_daemon.running(made_up) as daemon:
        eventually(lambda: listed(daemon), "it has listed")
        assert listed(daemon, tier="premium")
