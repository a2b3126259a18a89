"""The orchestrator with a real daemon: a writer's three tiers, what a task gets, and that `explain` and `chat` never disagree."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import pytest
import running_daemon
import simulated_provider
from running_daemon import Daemon, eventually, priced, provider

from protocols.errors import BadRequest, NoEligibleModel, ProviderFailed, ProviderUnavailable, QuorumError

HI = [{"role": "user", "content": "hello"}]
PAID = ("gpt-4o", "gpt-4o-mini", "claude-3-5-sonnet-20241022")
FAILING = simulated_provider.model(fail=500)
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
    assert explained["decision"]["reason"] == "orchestrator"
    tree = daemon.ctl("explain", "--user", "themes", "--task", "theme_analysis", "hello").out
    assert "way out: `daemonctl settings set orchestrator.budget_tier_allows_paid true`" in tree
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


@pytest.fixture(scope="module")
def town() -> Iterator[Daemon]:
    """A daemon with a provider that is down, one whose limit is used up by any call, a paid one, and a free one that fails."""
    with (
        simulated_provider.running(models=PAID) as cloud,
        simulated_provider.running(models=("sim",)) as home,
        simulated_provider.running(models=("x1",)) as tight,
    ):
        config = provider("cloud", "openai", cloud.base_url("openai"), local=False)
        config += provider("dead", "openai", "http://127.0.0.1:9/v1", local=False, probe_every_s=0.1)
        config += provider("tight", "openai", tight.base_url("openai"), local=False)
        config += provider("home", "ollama", home.base_url("ollama"), local=True)
        config += priced("tight:x1", usd_in=50, usd_out=60) + "[limits]\nproviders.tight = { month_usd = 0.000001 }\n"
        config += f'[models."home:{FAILING}"]\nstrengths = ["narrative"]\nquality = 6.2\n'
        priced_cloud = CONFIG.partition('[models."home')[0]
        with running_daemon.running(config + priced_cloud) as daemon:
            eventually(lambda: len(daemon.call("models")["models"]) == len(PAID) + 3, "all have listed")
            eventually(lambda: daemon.call("providers")["providers"][1]["state"] == "open", "it is known to be down")
            yield daemon


def test_a_hop_that_the_budget_refuses_is_a_target_of_nobody(town):
    """What `explain`, `estimate` and `chat` say of models, bound and steps is the same, be it where a hop is refused."""
    town.call("conversations.set_default", conversation="talk", model="dead:z", user="hops")
    town.call("user_models.set_default", model="tight:x1", user="hops")
    for model in ("tight:x1", *(f"cloud:{name}" for name in PAID)):
        town.call("user_models.add", model=model, user="hops", parameters={"overrides": {"temperature": 0.5}})
    town.call("settings.set", key="provider_selection_mode", value="quality_first", user="hops")
    said = {"messages": HI, "user": "hops", "conversation": "talk", "max_tokens": 100}
    for _ in range(2):  # a plan is of many calls: what a budget refused one of them is no part of it
        explained = town.call("explain", **said)["decision"]
        estimated = town.call("estimate", **said)["assumptions"][0]
        answer = town.call("chat", **said)
        assert answer["decision"] == explained
        assert [each["model"] for each in explained["rejected"]] == ["dead:z", "tight:x1"]
        assert "tight:x1" not in explained["targets"]
        assert explained["targets"][0] == answer["model_used"] == estimated["model"]
        assert f"your overrides for `{answer['model_used']}`" in explained["steps"][-1]["why"]
        assert explained["bound_nano_usd"] == estimated["bound_nano_usd"] > 0


def test_a_paid_model_that_answers_in_the_budget_tiers_stead_is_flagged_also_by_a_hop(town):
    orchestrated(town, "thrifty", quality_tier="budget", budget_tier_allows_paid=True)
    town.call("user_models.set_default", model="cloud:gpt-4o", user="thrifty")
    explained = town.call("explain", messages=HI, user="thrifty", task_type="dialogue")["decision"]
    assert (explained["targets"][0], explained["flags"]) == (f"home:{FAILING}", [])
    answer = ask(town, "thrifty", task_type="dialogue")
    assert (answer["model_used"], answer["decision"]["flags"]) == ("cloud:gpt-4o", ["tier_exceeded"])
    assert "tier_exceeded" in [warning["code"] for warning in answer["warnings"]]
    orchestrated(town, "thrifty", quality_tier="budget", budget_tier_allows_paid=False)
    with pytest.raises(ProviderFailed, match="500"):
        ask(town, "thrifty", task_type="dialogue")


def test_the_budget_tier_costs_nothing_also_where_the_conversations_model_is_down(town):
    orchestrated(town, "down", quality_tier="budget")
    town.call("user_models.set_default", model="cloud:gpt-4o", user="down")
    town.call("conversations.set_default", conversation="talk", model="dead:z", user="down")
    with pytest.raises(ProviderUnavailable, match="`dead` is open"):
        ask(town, "down", conversation="talk", task_type="theme_analysis")
    told = town.call("explain", messages=HI, user="down", conversation="talk", task_type="dialogue")["decision"]
    assert told["targets"] == [f"home:{FAILING}"]
    assert {row["user"] for row in town.call("usage")["rows"] if row["cost_nano_usd"]}.isdisjoint({"root/down"})


def test_plans_that_prices_decide_wait_for_them_right_after_the_start():
    themes, talk = {"task_type": "theme_analysis"}, {"task_type": "dialogue", "quality_tier": "balanced"}
    asked = [("explain", themes), ("explain", talk), ("explain", {}), ("chat", themes), ("chat", {})]
    with simulated_provider.running(models=("gpt-4o", "gpt-4o-mini")) as cloud:
        config = provider("openai", "openai", cloud.base_url("openai"), local=False)
        config += '[settings]\n"orchestrator.enabled" = true\nprovider_selection_mode = "cost_optimized"\n'
        with running_daemon.running(config, start=False) as daemon:
            (daemon.state / "prices.msgpack").unlink()
            daemon.start()
            with daemon.json_lines() as lines:
                calls = [*((how, {"messages": HI, **said}) for how, said in asked), ("user_models.resolved", talk)]
                lines.send(
                    *[{"t": "call", "id": n, "method": how, "params": said} for n, (how, said) in enumerate(calls)]
                )
                ends = [lines.hear() for _ in calls]
            first = {end["id"]: end.get("value", end) for end in ends if end is not None}
            eventually(lambda: len(daemon.call("models")["models"]) == 2, "it has listed")
            later = [daemon.call("explain", messages=HI, **said)["decision"] for _, said in asked]
            assert [first[n]["decision"] for n in range(len(asked))] == later
            assert [each["targets"][0] for each in later[:3]] == ["openai:gpt-4o", *["openai:gpt-4o-mini"] * 2]
            assert first[len(asked)]["targets"] == later[1]["targets"]


def test_a_wrong_task_is_named_with_the_nearest(daemon):
    orchestrated(daemon, "typo")
    with pytest.raises(BadRequest, match="did you mean `dialogue`"):
        ask(daemon, "typo", task_type="dialouge")
    with pytest.raises(BadRequest, match="did you mean `dialogue`"):
        daemon.call("settings.set", key="orchestrator.task_models.dialouge", value="home:mistral:7b")
