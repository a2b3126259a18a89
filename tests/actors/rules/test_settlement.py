from itertools import product

import pytest
from msgspec.structs import replace

from actors.rules.pricing import FREE, Price
from actors.rules.settlement import charge
from actors.rules.tokens import emitted_estimate
from protocols.chat import TokenCount

PAID = Price(input=1_000, output=10_000, version="test")
COUNTED = TokenCount(prompt=30, response=20)
PROMPT_TOKENS, EMITTED = 6, "an answer of a few words"
ESTIMATED = PROMPT_TOKENS + 10 * emitted_estimate(EMITTED)
HELD = 5_000


def charged(ending, **case):
    usual = {
        "price": PAID,
        "held": HELD,
        "tokens": None,
        "prompt_tokens": PROMPT_TOKENS,
        "emitted": EMITTED,
        "streamed": True,
        "policy": "emitted",
        "at_s": 0.0,
    }
    return charge(ending, **(usual | case))


@pytest.mark.parametrize(
    ("ending", "case", "cost", "cost_source", "token_source"),
    [
        ("complete", {"tokens": COUNTED}, 230, "price", "provider"),
        ("complete", {"tokens": COUNTED, "held": 100}, 230, "price", "provider"),
        ("complete", {"tokens": COUNTED, "price": FREE}, 0, "free", "provider"),
        ("complete", {"tokens": COUNTED, "price": None}, None, "unknown", "provider"),
        ("complete", {}, ESTIMATED, "estimated", "estimate"),
        ("complete", {"streamed": False}, ESTIMATED, "estimated", "estimate"),
        ("complete", {"price": FREE}, 0, "free", "estimate"),
        ("complete", {"price": None}, None, "unknown", "estimate"),
        ("refused", {}, 0, "price", "estimate"),
        ("refused", {"price": FREE}, 0, "free", "estimate"),
        ("refused", {"price": None}, 0, "price", "estimate"),
        ("aborted", {}, ESTIMATED, "estimated", "estimate"),
        ("aborted", {"policy": "whole"}, HELD, "estimated", "estimate"),
        ("aborted", {"streamed": False}, HELD, "estimated", "estimate"),
        ("aborted", {"price": None, "held": 0}, None, "unknown", "estimate"),
        ("aborted", {"price": FREE, "streamed": False}, 0, "free", "estimate"),
        ("broken", {}, ESTIMATED, "estimated", "estimate"),
        ("broken", {"policy": "whole"}, ESTIMATED, "estimated", "estimate"),
        ("broken", {"streamed": False}, HELD, "estimated", "estimate"),
        ("aborted", {"tokens": TokenCount(prompt=30), "emitted": ""}, 30, "estimated", "estimate"),
    ],
)
def test_an_attempt_is_charged_by_how_far_it_came(ending, case, cost, cost_source, token_source):
    found = charged(ending, **case)
    assert (found.cost, found.cost_source, found.token_source) == (cost, cost_source, token_source)


@pytest.mark.parametrize(
    ("ending", "streamed", "policy", "tokens", "price", "held"),
    list(
        product(
            ("complete", "refused", "aborted", "broken"),
            (True, False),
            ("emitted", "whole"),
            (None, TokenCount(prompt=30), COUNTED),
            (PAID, FREE, None),
            (0, 50, 10**9),
        )
    ),
)
def test_what_is_estimated_is_never_above_the_hold_and_what_was_refused_costs_nothing(
    ending, streamed, policy, tokens, price, held
):
    found = charged(ending, streamed=streamed, policy=policy, tokens=tokens, price=price, held=held)
    if ending == "refused":
        assert (found.cost, found.tokens) == (0, TokenCount())
    elif price is None:
        assert (found.cost, found.cost_source) == (None, "unknown")
    elif price is FREE:
        assert (found.cost, found.cost_source) == (0, "free")
    elif found.cost_source == "estimated":
        assert 0 <= found.cost <= held
    else:
        assert (ending, found.tokens, found.cost) == ("complete", tokens, tokens.prompt + 10 * tokens.response)


def test_the_providers_count_of_the_prompt_is_kept_and_the_answer_counted_as_far_as_seen():
    found = charged("aborted", tokens=TokenCount(prompt=30, cached=10, response=1, reasoning=9), emitted=EMITTED)
    seen = emitted_estimate(EMITTED)
    assert found.tokens == TokenCount(prompt=30, cached=10, response=seen, reasoning=min(9, seen))


@pytest.mark.parametrize(
    ("ending", "case", "tokens", "source"),
    [
        ("complete", {"emitted_tokens": 3}, TokenCount(prompt=6, response=3), "tokenizer"),
        ("aborted", {"emitted_tokens": 3}, TokenCount(prompt=6, response=3), "tokenizer"),
        ("aborted", {"emitted_tokens": 0, "emitted": ""}, TokenCount(prompt=6), "tokenizer"),
        ("aborted", {"emitted": ""}, TokenCount(prompt=6), "tokenizer"),
        ("aborted", {"policy": "whole", "emitted_tokens": 3}, TokenCount(prompt=6, response=3), "tokenizer"),
        (
            "aborted",
            {"emitted_tokens": 3, "tokens": TokenCount(prompt=5)},
            TokenCount(prompt=5, response=3),
            "tokenizer",
        ),
        ("complete", {}, TokenCount(prompt=6, response=emitted_estimate(EMITTED)), "estimate"),
        ("complete", {"emitted_tokens": 3, "by_tokenizer": False}, TokenCount(prompt=6, response=3), "estimate"),
        ("complete", {"tokens": COUNTED, "emitted_tokens": 3}, COUNTED, "provider"),
        ("refused", {}, TokenCount(), "estimate"),
    ],
)
def test_a_count_is_the_tokenizers_where_it_counted_all_that_the_provider_did_not(ending, case, tokens, source):
    found = charged(ending, **{"by_tokenizer": True, **case})
    assert (found.tokens, found.token_source) == (tokens, source)
    assert found.cost_source == ("price" if source == "provider" or ending == "refused" else "estimated")


def test_the_audio_that_the_provider_counted_is_charged_when_the_answer_breaks_off():
    tokens = TokenCount(prompt=30, response=20, audio_prompt=5, audio_response=7)
    found = charged("aborted", tokens=tokens, price=replace(PAID, audio_input=2_000, audio_output=50_000))
    assert (found.tokens, found.cost) == (tokens, 30 + 5 + 200 + 7 * 40)
