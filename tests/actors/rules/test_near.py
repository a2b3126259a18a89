import difflib

import pytest

from actors.rules.near import COMPARED, LONGEST, nearest_models

FAMILIES = (
    "openai/gpt-4o",
    "anthropic/claude-3-5-sonnet",
    "meta-llama/llama-3.3-70b-instruct",
    "google/gemini-2.5-flash",
)
MANY = (
    *(f"{FAMILIES[i % 4]}-{i:04d}-preview" for i in range(2000)),
    "mistralai/mixtral-8x22b",
    "openai/gpt-4o-mini",
    "zephyr",
)


@pytest.fixture
def compared(monkeypatch):
    """How many names each look compares letter by letter."""
    seen = []
    exact = difflib.get_close_matches

    def watched(word, names, **rest):
        seen.append(len(names))
        assert len(word) <= LONGEST
        return exact(word, names, **rest)

    monkeypatch.setattr(difflib, "get_close_matches", watched)
    return seen


def test_the_nearest_names_are_the_most_alike():
    assert nearest_models("gpt-4p", ("opus", "gpt-4o", "llama")) == ["gpt-4o"]


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("mistralai/mixtral-8x23b", "mistralai/mixtral-8x22b"),
        ("zephir", "zephyr"),
        ("mixtral-8x22b", "mistralai/mixtral-8x22b"),
        ("mistralai/mixtrl", "mistralai/mixtral-8x22b"),
        ("gpt-4o-mini", "openai/gpt-4o-mini"),
        ("openai/gpt-4o-mini-2024", "openai/gpt-4o-mini"),
        ("openai/gpt4o-0016-preview", "openai/gpt-4o-0016-preview"),
        ("claude-3-5-sonnet-0001", "anthropic/claude-3-5-sonnet-0001-preview"),
    ],
)
def test_among_thousands_the_nearest_is_found_all_the_same(wrong, near):
    assert nearest_models(wrong, MANY, 1) == [near]


def test_a_name_like_none_has_no_nearest():
    assert nearest_models("zzz", MANY) == []


@pytest.mark.parametrize("wrong", ["openai/gpt-4o-preview", "preview", "o", "", "openai/" * 1000, "p-r-e-v-i-e-w" * 30])
def test_however_many_there_are_few_are_compared_letter_by_letter(wrong, compared):
    nearest_models(wrong, MANY)
    nearest_models(wrong, MANY[:COMPARED])
    assert max(compared) <= COMPARED
