"""Which model a task gets: a golden table over the real matrix, and the rules of the tiers one by one."""

import re

import pytest
from msgspec.structs import replace

from actors.rules.catalogue import Catalogue
from actors.rules.matrix import Task, task
from actors.rules.orchestrator import Wishes, choose, cost_usd
from actors.rules.pricing import Price
from protocols.model import ModelInfo
from protocols.provider import ProviderView

USD = {"gpt-4o": (2.5, 10), "gpt-4o-mini": (0.15, 0.6), "claude-opus-5-5": (5, 25), "claude-haiku-5-5": (1, 5)}
"""Dollars per million tokens, in and out."""


class Book:
    """The price book of the table."""

    def find(self, origin_host, provider_name, kind, model):
        del origin_host, provider_name, kind
        if model not in USD:
            return None
        usd_in, usd_out = USD[model]
        return Price(input=int(usd_in * 1e6), output=int(usd_out * 1e6), version="table")

    def context(self, *_):
        return None


def view(name, *models, local=False):
    return ProviderView(
        name=name,
        kind=name,
        host="h",
        state="healthy",
        why=None,
        local=local,
        simulated=False,
        billing_on_cancel="emitted",
        needs_key=not local,
        models=models,
    )


VIEWS = (
    view("ollama", "llama3.2:latest", "mistral:7b", "qwen3:32b", local=True),
    view("openai", "gpt-4o", "gpt-4o-mini"),
    view("anthropic", "claude-opus-5-5", "claude-haiku-5-5"),
)
KEYS = ((), ("openai",), ("anthropic",), ("openai", "anthropic"))

# for each of KEYS, in their order
GOLDEN = {
    ("coordination", "budget"): ("qwen3:32b", "qwen3:32b", "qwen3:32b", "qwen3:32b"),
    ("coordination", "balanced"): ("qwen3:32b", "qwen3:32b", "claude-haiku-5-5", "gpt-4o-mini"),
    ("coordination", "premium"): ("qwen3:32b", "gpt-4o", "claude-opus-5-5", "claude-opus-5-5"),
    ("semantic_reasoning", "budget"): ("qwen3:32b", "qwen3:32b", "qwen3:32b", "qwen3:32b"),
    ("semantic_reasoning", "balanced"): ("qwen3:32b", "qwen3:32b", "claude-haiku-5-5", "gpt-4o-mini"),
    ("semantic_reasoning", "premium"): ("qwen3:32b", "gpt-4o", "claude-opus-5-5", "claude-opus-5-5"),
    ("thematic_analysis", "budget"): ("qwen3:32b", "qwen3:32b", "qwen3:32b", "qwen3:32b"),
    ("thematic_analysis", "balanced"): ("qwen3:32b", "qwen3:32b", "claude-opus-5-5", "gpt-4o"),
    ("thematic_analysis", "premium"): ("qwen3:32b", "gpt-4o", "claude-opus-5-5", "claude-opus-5-5"),
    ("character_psychology", "budget"): (None, None, None, None),
    ("character_psychology", "balanced"): (None, "gpt-4o", "claude-opus-5-5", "gpt-4o"),
    ("character_psychology", "premium"): (None, "gpt-4o", "claude-opus-5-5", "claude-opus-5-5"),
    ("narrative", "budget"): ("qwen3:32b", "qwen3:32b", "qwen3:32b", "qwen3:32b"),
    ("narrative", "balanced"): ("qwen3:32b", "qwen3:32b", "claude-haiku-5-5", "gpt-4o-mini"),
    ("narrative", "premium"): ("qwen3:32b", "gpt-4o", "claude-opus-5-5", "claude-opus-5-5"),
    ("speed", "budget"): ("llama3.2:latest", "llama3.2:latest", "llama3.2:latest", "llama3.2:latest"),
    ("speed", "balanced"): ("llama3.2:latest", "llama3.2:latest", "claude-haiku-5-5", "gpt-4o-mini"),
    ("speed", "premium"): ("llama3.2:latest", "gpt-4o-mini", "claude-haiku-5-5", "claude-haiku-5-5"),
}
TASKS = (
    *("coordinator", "health_check_review", "theme_analysis", "narrative_continuity", "character_psychology"),
    *("beat_structure", "scene_writing", "dialogue", "summarise", "extract_tasks", "suggest_subtasks", "estimate_time"),
    *("suggest_priority", "suggest_labels", "suggest_preparation", "suggest_formatting", "tag"),
)


@pytest.mark.parametrize("keys", KEYS, ids=" and ".join)
@pytest.mark.parametrize("tier", ["budget", "balanced", "premium"])
@pytest.mark.parametrize("name", TASKS)
def test_the_golden_table_of_tasks_tiers_and_keys(name, tier, keys):
    wanted = task(name, {})
    views = tuple(v if v.local or v.name in keys else replace(v, state="misconfigured") for v in VIEWS)
    choice = choose(Catalogue({}, Book()).infos(views), wanted, Wishes(tier))
    chosen = choice.models[0].display_name if choice.models else None
    assert chosen == GOLDEN[wanted.strength, tier][KEYS.index(keys)]
    assert choice.why
    assert not choice.tier_exceeded


NARRATIVE = Task(strength="narrative")


def model(name, quality, usd=None, *, strengths=("narrative",), local=False, available=True):
    return ModelInfo(
        id=f"p:{name}",
        provider="p",
        display_name=name,
        quality=quality,
        strengths=list(strengths),
        local=local,
        input_usd_per_mtok=usd,
        output_usd_per_mtok=usd,
        available=available,
        source="config",
    )


def home(name, quality, **more):
    return model(name, quality, 0.0, local=True, **more)


@pytest.mark.parametrize(
    ("models", "wishes", "order"),
    [
        # budget: local, 6 or more, and by allowance the cheapest paid one
        ([home("a", 6.0), home("b", 6.5), model("c", 9.0, 1.0)], Wishes("budget"), ["b", "a"]),
        ([home("a", 5.9)], Wishes("budget"), []),
        ([model("c", 9.0, 1.0)], Wishes("budget"), []),
        ([home("a", 6.0), model("c", 9.0, 1.0)], Wishes("budget", allow_paid=True), ["a"]),
        ([model("c", 9.0, 2.0), model("d", 6.0, 1.0)], Wishes("budget", allow_paid=True), ["d", "c"]),
        ([model("c", 5.9, 1.0), model("d", 9.0)], Wishes("budget", allow_paid=True), []),
        # balanced: 7 or more; near enough and free, else quality for money; unpriced ones are none
        ([home("a", 8.0), model("c", 9.0, 1.0)], Wishes("balanced"), ["a", "c"]),
        ([home("a", 7.9), model("c", 9.0, 1.0)], Wishes("balanced"), ["c", "a"]),
        ([home("a", 6.9), model("c", 7.0, 1.0)], Wishes("balanced"), ["c"]),
        ([model("c", 9.0, 9.0), model("d", 7.0, 1.0)], Wishes("balanced"), ["d", "c"]),
        ([model("c", 9.0, 1.1), model("d", 7.0, 1.0)], Wishes("balanced"), ["c", "d"]),
        ([model("c", 9.0, 0.0), model("d", 9.5, 1.0)], Wishes("balanced"), ["c", "d"]),
        ([model("c", 9.0), model("d", 6.9, 1.0)], Wishes("balanced"), []),
        ([home("a", 6.5), model("c", 6.9, 1.0)], Wishes("balanced"), ["a"]),
        ([home("a", 5.9)], Wishes("balanced"), []),
        # premium: the best; of equals the local, then the cheaper one
        ([model("c", 9.0, 2.0), model("d", 9.1, 9.0), home("a", 8.5)], Wishes("premium"), ["d", "c", "a"]),
        ([model("c", 9.0, 2.0), model("d", 9.0, 1.0), home("a", 9.0)], Wishes("premium"), ["a", "d", "c"]),
        ([model("c", 9.0)], Wishes("premium"), ["c"]),
        ([model("c", 9.0, 1.0), home("a", 8.0)], Wishes("premium", prefer_local=True), ["a", "c"]),
        ([model("c", 9.0, 1.0), home("a", 7.9)], Wishes("premium", prefer_local=True), ["c", "a"]),
        ([], Wishes("premium", prefer_local=True), []),
        # no candidates anywhere
        (
            [home("a", 9.0, available=False), home("b", None), home("c", 9.0, strengths=("coding",))],
            Wishes("budget"),
            [],
        ),
    ],
)
def test_a_tier_ranks_by_its_rule(models, wishes, order):
    choice = choose(models, NARRATIVE, wishes)
    assert [m.display_name for m in choice.models] == order
    assert choice.tier_exceeded == (wishes.allow_paid and bool(order) and not choice.models[0].local)


@pytest.mark.parametrize(("strength", "enough"), [("coordination", True), ("speed", True), ("coding", False)])
def test_for_easy_tasks_six_is_enough_for_balanced(strength, enough):
    chosen = choose([model("c", 6.0, 1.0, strengths=(strength,))], Task(strength=strength), Wishes("balanced")).models
    assert bool(chosen) == enough


def test_a_task_without_a_strength_takes_any_model():
    assert choose([home("a", 7.0, strengths=())], Task(), Wishes("budget")).models


@pytest.mark.parametrize(
    ("wishes", "way"),
    [
        (Wishes("budget"), "get a local one, as qwen3-32b, .*, or take the tier `balanced`, or allow paid models"),
        (Wishes("balanced"), "or add a provider's key, or rate a model of yours"),
        (Wishes("premium"), "or add a provider's key"),
    ],
)
def test_where_no_model_will_do_the_way_out_is_named(wishes, way):
    why = choose([], Task(strength="thematic_analysis"), wishes).why
    assert re.search(way, why)
    assert "thematic_analysis" in why


def test_the_assumed_tokens_cost_what_the_prices_say():
    wanted = Task(prompt_tokens=2000, response_tokens=500)
    assert cost_usd(model("c", 9.0, 2.0), wanted) == pytest.approx(0.005)
    assert cost_usd(model("c", 9.0), wanted) is None
    assert cost_usd(home("a", 9.0), wanted) == 0.0
