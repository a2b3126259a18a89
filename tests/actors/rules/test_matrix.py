"""The data files, and which names of providers mean which model."""

import pytest

from actors.rules import matrix
from actors.rules.matrix import Task, TaskConfig, known, normal
from protocols.errors import BadRequest


def named(name):
    model = known(name)
    return model and model.names[0]


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("gpt-4o-mini", "gpt-4o-mini"),
        ("GPT-4o-mini", "gpt-4o-mini"),
        ("openai/gpt-4o-mini", "gpt-4o-mini"),
        ("openai/gpt-4o-mini:free", "gpt-4o-mini"),
        ("gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("gpt-4o-2024-05-13", "gpt-4o"),
        ("claude-3-5-sonnet-20241022", "claude-3-5-sonnet"),
        ("claude-3-5-sonnet-latest", "claude-3-5-sonnet"),
        ("anthropic/claude-3.5-sonnet", "claude-3-5-sonnet"),
        ("claude-3-5-sonnet@20240620", "claude-3-5-sonnet"),
        ("claude-3-5-sonnet-v2@20241022", "claude-3-5-sonnet"),
        ("us.anthropic.claude-3-5-sonnet-20241022-v2:0", "claude-3-5-sonnet"),
        ("claude-sonnet-4-20250514", "claude-sonnet-4-0"),
        ("claude-sonnet-4-6", "claude-sonnet-4-6"),
        ("llama3.2", "llama-3.2-3b"),
        ("llama3.2:latest", "llama-3.2-3b"),
        ("llama3.2:3b-instruct-q4_K_M", "llama-3.2-3b"),
        ("llama3.2:1b", "llama-3.2-1b"),
        ("meta-llama/Llama-3.2-3B-Instruct", "llama-3.2-3b"),
        ("accounts/fireworks/models/llama-v3p2-3b-instruct", "llama-3.2-3b"),
        ("llama4:scout", "llama-4-scout"),
        ("mistral", "mistral-7b"),
        ("mistral:7b", "mistral-7b"),
        ("mistral:7b-instruct-v0.3-q4_0", "mistral-7b"),
        ("mistralai/Mistral-7B-Instruct-v0.3", "mistral-7b"),
        ("open-mistral-7b", "mistral-7b"),
        ("mistral-large-2407", "mistral-large"),
        ("deepseek-ai/DeepSeek-V3", "deepseek-v3"),
        ("deepseek-chat", "deepseek-v3"),
        ("deepseek/deepseek-chat-v3-0324", "deepseek-v3"),
        ("qwen-plus-latest", "qwen-plus"),
        ("qwen-plus-2025-07-28", "qwen-plus"),
        ("qwen/qwen-turbo", "qwen-turbo"),
        ("gpt-oss:20b", "gpt-oss-20b"),
    ],
)
def test_a_providers_name_means_a_model(name, model):
    assert named(name) == model


@pytest.mark.parametrize(
    "name",
    [
        "gpt-4o-mini-tts",
        "gpt-4o-mini-audio-preview",
        "gpt-4o-audio-preview",
        "gpt-4o:extended",
        "chatgpt-4o-latest",
        "ft:gpt-4o-mini:acme::x",
        "gpt-4",
        "gpt-4o-",
        "claude-3-5-sonnet-20241399",
        "claude-opus-4-1-20250805",
        "llama3.2-vision:11b",
        "llama3.2:70b",
        "llama3.2:1b-text-q4_0",
        "mistral:text",
        "mistral-openorca",
        "dolphin-mistral:7b",
        "deepseek-r1:7b",
        "deepseek-v3:671b-cloud",
        "qwen-vl-plus",
        "qwen-plus-2025-07-28:thinking",
        "qwen3:0.6b",
        "gpt-oss:20b-cloud",
        "sim",
        "",
        ":",
        "/",
        "gpt-4o" + " " * 300,
        "llama3.2:" + "1" * 200 + "!",
        "llama3.2:" + "-1" * 100 + "!",
    ],
)
def test_another_model_of_a_like_name_is_not_meant(name):
    assert known(name) is None


def test_no_two_models_have_the_same_name():
    names = [normal(name) for model in matrix.models() for name in {*map(normal, model.names)}]
    assert len(names) == len(set(names))


def test_every_name_of_the_matrix_finds_its_model():
    assert all(known(name) is model for model in matrix.models() for name in model.names)


def test_the_successor_of_what_is_retired_is_there_and_of_the_same_family():
    retired = [model for model in matrix.models() if model.retired]
    assert "claude-3-5-sonnet" in {model.names[0] for model in retired}
    for model in retired:
        successor = known(model.successor)
        assert (successor.family, successor.retired) == (model.family, False)


STRENGTHS = {
    "coordinator": "coordination",
    "health_check_review": "semantic_reasoning",
    "theme_analysis": "thematic_analysis",
    "character_psychology": "character_psychology",
    **dict.fromkeys(("narrative_continuity", "scene_writing", "dialogue", "beat_structure"), "narrative"),
    **dict.fromkeys(("summarise", "extract_tasks", "suggest_subtasks", "estimate_time", "suggest_priority"), "speed"),
    **dict.fromkeys(("suggest_labels", "suggest_preparation", "suggest_formatting", "tag"), "speed"),
}


@pytest.mark.parametrize(("name", "strength"), STRENGTHS.items())
def test_a_task_needs_its_strength(name, strength):
    assert matrix.task(name, {}).strength == strength


def test_the_configs_task_wins_field_by_field_and_may_be_new():
    config = {"tag": TaskConfig(prompt_tokens=9), "poem": TaskConfig(strength="narrative")}
    assert matrix.task("tag", config) == Task(strength="speed", prompt_tokens=9, response_tokens=50)
    assert matrix.task("poem", config) == Task(strength="narrative", prompt_tokens=1000, response_tokens=500)


def test_an_unknown_task_names_the_nearest_and_all():
    with pytest.raises(BadRequest, match=r"did you mean `scene_writing`\? there are: coordinator, .*, poem;"):
        matrix.task("scene_writting", {"poem": TaskConfig()})


@pytest.mark.parametrize(
    ("model_id", "same"),
    [
        ("openai:gpt-4o-2024-08-06", "azure:gpt-4o"),
        ("router:openai/gpt-4o", "client:desk:gpt-4o"),
        ("client:desk:qwen3:32b", "ollama:qwen3:32b-q4_K_M"),
        ("gpt-4o", "openai:gpt-4o"),
    ],
)
def test_an_id_says_which_model_it_is_whoever_offers_it(model_id, same):
    assert matrix.identity(model_id) == matrix.identity(same)


@pytest.mark.parametrize(
    ("model_id", "other"),
    [
        ("openai:gpt-4o", "openai:gpt-4o-mini"),
        ("ollama:qwen3:32b", "ollama:qwen3:8b"),
        ("client:desk:a", "client:desk:b"),
    ],
)
def test_other_sizes_and_sisters_are_other_models(model_id, other):
    assert matrix.identity(model_id) != matrix.identity(other)
