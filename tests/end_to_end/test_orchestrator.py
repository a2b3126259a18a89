"""The orchestrator with a real daemon: a writer's three tiers, what a task gets, and that `explain` and `chat` never disagree."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import pytest
import running_daemon
import simulated_provider
from running_daemon import Daemon, eventually, provider

from protocols.errors import BadRequest, NoEligibleModel, QuorumError

HI = [{"role": "user", "content": "hello"}]
PAID = ("gpt-4o", "gpt-4o-mini", "claude-3-5-sonnet-20241022")
HOME = ("mistral:7b", "llama3.2:latest")
WRITER = ("scene_writing", "dialogue", "beat_structure", "summarise", "tag", "suggest_labels")

CONFIG = """
[models."cloud:gpt-4o"]
input_usd_per_mtok = 2.5
output_usd_per_mtok = 10.0
[models."cloud:gpt-4o-mini"]
input_usd_per_mtok = 0.15
output_usd_per_mtok = 0.6
[models."cloud:claude-3-5-sonnet-20241022"]
input_usd_per_mtok = 3.0
output_usd_per_mtok = 15.0
retired = false
[models."home:mistral:7b"]
strengths = ["narrative", "speed"]
quality = 6.2
[aliases]
sonnet = "cloud:claude-3-5-sonnet-20241022"
[tasks.poem]
strength = "narrative"
[experiments.poems]
task = "poem"
arms.small = { model = "cloud:gpt-4o-mini", weight = 1 }
arms.large = { tier = "premium", weight = 1 }
"""


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with simulated_provider.running(models=PAID) as cloud, simulated_provider.running(models=HOME) as home:
        config = provider("cloud", "openai", cloud.base_url("openai"), local=False)
        config += provider("home", "ollama", home.base_url("ollama"), local=True)
        with running_daemon.running(config + CONFIG) as daemon:
            eventually(lambda: len(daemon.call("models")["models"]) == len(PAID + HOME), "both have listed")
            yield daemon


def orchestrated(daemon: Daemon, user: str, **settings: Any) -> None:
    for key, value in {"enabled": True, **settings}.items():
        daemon.call("settings.set", key=f"orchestrator.{key}", value=value, user=user)


def ask(daemon: Daemon, user: str, **more: Any) -> Any:
    return daemon.call("chat", messages=HI, user=user, **more)


def gave(answer: Any) -> tuple[str, str]:
    return answer["model_used"], answer["decision"]["reason"]


def test_the_budget_tier_of_a_writer_costs_nothing(daemon):
    orchestrated(daemon, "thrifty", quality_tier="budget")
    answers = [ask(daemon, "thrifty", task_type=task) for task in WRITER]
    assert [answer["cost_nano_usd"] for answer in answers] == [0] * len(WRITER)
    assert {gave(answer)[1] for answer in answers} == {"orchestrator"}
    assert all(target.startswith("home:") for answer in answers for target in answer["decision"]["targets"])


@pytest.mark.parametrize(
    ("tier", "found"), [("budget", "home:mistral:7b"), ("balanced", "cloud:gpt-4o-mini"), ("premium", "cloud:gpt-4o")]
)
def test_a_tier_gives_its_model_whether_it_is_the_users_or_the_calls(daemon, tier, found):
    if tier == "premium":
        found = max(
            (m for m in daemon.call("models")["models"] if "narrative" in m["strengths"]), key=lambda m: m["quality"]
        )["id"]
    orchestrated(daemon, f"tier-{tier}", quality_tier=tier)
    assert gave(ask(daemon, f"tier-{tier}", task_type="dialogue")) == (found, "orchestrator")
    orchestrated(daemon, "of-the-call")
    assert gave(ask(daemon, "of-the-call", task_type="dialogue", quality_tier=tier)) == (found, "orchestrator")


def test_a_task_that_no_local_model_does_is_refused_with_the_way_out_and_paid_where_that_is_allowed(daemon):
    orchestrated(daemon, "themes", quality_tier="budget")
    with pytest.raises(NoEligibleModel, match="allow paid models") as refused:
        ask(daemon, "themes", task_type="theme_analysis")
    assert refused.value.detail["task_type"] == "theme_analysis"
    explained = daemon.call("explain", messages=HI, user="themes", task_type="theme_analysis")
    assert (explained["decision"]["targets"], explained["fault"]["message"]) == ([], refused.value.message)
    orchestrated(daemon, "themes", budget_tier_allows_paid=True)
    answer = ask(daemon, "themes", task_type="theme_analysis")
    cheapest = daemon.call("recommend", task_type="theme_analysis", budget_tier_allows_paid=True)["budget"]
    assert gave(answer) == (cheapest["model"], "orchestrator")
    assert answer["decision"]["flags"] == ["tier_exceeded"]
    assert [warning["code"] for warning in answer["warnings"]] == ["tier_exceeded"]


def test_a_task_has_its_own_model_while_the_orchestrator_is_off(daemon):
    daemon.call("settings.set", key="orchestrator.task_models.tag", value="sonnet", user="tags")
    assert gave(ask(daemon, "tags", task_type="tag")) == ("cloud:claude-3-5-sonnet-20241022", "task_model")
    assert "alias" in [step["step"] for step in ask(daemon, "tags", task_type="tag")["decision"]["steps"]]
    assert gave(ask(daemon, "tags", task_type="dialogue"))[1] == "first_available"
    orchestrated(daemon, "tags", quality_tier="budget")
    assert gave(ask(daemon, "tags", task_type="tag"))[1] == "orchestrator"


def test_a_tier_without_the_orchestrator_is_said_to_have_no_effect(daemon):
    answer = ask(daemon, "untold", quality_tier="premium")
    assert answer["decision"]["flags"] == ["tier_ignored"]
    assert "orchestrator.enabled" in answer["warnings"][0]["message"]


@pytest.mark.parametrize(("mode", "found"), [("user_choice", "cloud:gpt-4o"), ("cost_optimized", "home:mistral:7b")])
def test_the_mode_ranks_where_nothing_was_chosen(daemon, mode, found):
    daemon.call("settings.set", key="provider_selection_mode", value=mode, user=mode)
    assert gave(ask(daemon, mode)) == (found, "first_available")
    daemon.call("user_models.set_default", model="home:llama3.2:latest", user=mode)
    assert gave(ask(daemon, mode)) == ("home:llama3.2:latest", "user_default")


def test_users_of_an_experiment_stay_in_their_arm_which_their_rows_name(daemon):
    first = {f"poet{n}": gave(ask(daemon, f"poet{n}", task_type="poem")) for n in range(12)}
    again = {user: gave(ask(daemon, user, task_type="poem")) for user in first}
    assert first == again
    assert {reason for _, reason in first.values()} == {"task_model", "orchestrator"}
    rows = daemon.call("usage", task="poem")["rows"]
    assert {row["arm"] for row in rows} == {"poems/small", "poems/large"}
    assert all((row["arm"] == "poems/small") == (row["reason"] == "task_model") for row in rows)
    daemon.call("settings.set", key="orchestrator.task_models.poem", value="home:mistral:7b", user="poet0")
    assert gave(ask(daemon, "poet0", task_type="poem")) == ("home:mistral:7b", "task_model")
    assert daemon.call("usage", task="poem", last=1)["rows"][0]["arm"] is None


MODELS = (None, "cloud:gpt-4o", "home:mistral:7b", "sonnet", "cloud:unheard-of", "nowhere:x", "gpt-4o")
PROVIDERS = (None, "cloud", "home", "nowhere")
TASKS = (None, "tag", "theme_analysis", "poem", "no such task")
TIERS = (None, "budget", "premium")
HINTS = (None, "en-home", "pt-BR", "xx-nobody")


def test_explain_and_chat_never_disagree(daemon):
    """Same words, same plan: of all combinations a sample that is the same each time."""
    orchestrated(daemon, "on", quality_tier="balanced")
    daemon.call("settings.set", key="orchestrator.task_models.tag", value="home:mistral:7b", user="off")
    daemon.call("user_models.set_default", model="cloud:gpt-4o-mini", user="off")
    daemon.call("conversations.set_default", conversation="talk", model="home:llama3.2:latest", user="on")
    every = list(itertools.product(("on", "off"), MODELS, PROVIDERS, TASKS, TIERS, HINTS, (None, "talk"), (None, True)))
    names = ("user", "model", "provider", "task_type", "quality_tier", "hint", "conversation", "allow_fallback")
    for words in random.Random(4).sample(every, 300):
        said = {name: value for name, value in zip(names, words, strict=True) if value is not None}
        explained = daemon.call("explain", messages=HI, **said)
        targets = explained["decision"]["targets"]
        if targets and targets[0] not in {row["id"] for row in daemon.call("models")["models"]}:
            continue  # whether there is such a model is the provider's own say, which nobody asks in advance
        if explained["fault"] is None:
            answer = daemon.call("chat", messages=HI, **said)
            assert (answer["decision"], answer["model_used"]) == (explained["decision"], targets[0]), said
        else:
            with pytest.raises(QuorumError) as refused:
                daemon.call("chat", messages=HI, **said)
            assert (refused.value.code, refused.value.message) == tuple(explained["fault"].values()), said
            assert targets == []


def test_a_wrong_task_is_named_with_the_nearest(daemon):
    orchestrated(daemon, "typo")
    with pytest.raises(BadRequest, match="did you mean `dialogue`"):
        ask(daemon, "typo", task_type="dialouge")
    with pytest.raises(BadRequest, match="did you mean `dialogue`"):
        daemon.call("settings.set", key="orchestrator.task_models.dialouge", value="home:mistral:7b")
