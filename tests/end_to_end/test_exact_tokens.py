"""With `exact_tokens`, OpenAI's tokenizer bounds what its models' prompts can cost, and counts what their provider doesn't."""

import pytest
import running_daemon
import simulated_provider
from running_daemon import eventually, priced, provider

from actors.tokenizer import installed

ENGLISH = (
    "Call me Ishmael. Some years ago I thought I would sail about a little and see the watery part of the world. " * 40
)
IN, OUT = 3_000, 15_000
"""Nano-dollars a token."""


@pytest.fixture(scope="module")
def daemons():
    with simulated_provider.running(models=("gpt-4o", "llama")) as upstream:
        config = "\n".join(
            [
                provider("openai", "openai", upstream.base_url("openai"), local=False),
                priced("openai:gpt-4o", "openai:llama"),
            ]
        )
        exact = config + "\n[daemon]\nexact_tokens = true\n"
        with running_daemon.running(config) as plain, running_daemon.running(exact) as counting:
            upstream.set(text="and on it goes", no_usage=True)
            yield plain, counting


def bound(daemon, text, model):
    with daemon.connect() as quorum:
        return quorum.call("explain", messages=[{"role": "user", "content": text}], model=model, max_tokens=1)[
            "decision"
        ]["bound_nano_usd"]


@pytest.mark.skipif(not installed(), reason="bpe-openai is not installed")
def test_the_hold_is_closer_and_a_row_says_that_a_tokenizer_counted(daemons):
    plain, counting = daemons
    loose = bound(plain, ENGLISH, "openai:gpt-4o")
    assert bound(counting, ENGLISH, "openai:gpt-4o") <= loose, "the first call starts the tokenizer and does not wait"
    tight = eventually(lambda: (found := bound(counting, ENGLISH, "openai:gpt-4o")) < loose and found, "it has loaded")
    tokens = (tight - OUT) // IN - 88
    assert bound(counting, ENGLISH, "openai:llama") == bound(plain, ENGLISH, "openai:llama")
    for stream in (True, False):
        with counting.connect() as quorum:
            if stream:
                asked = quorum.stream(ENGLISH, model="openai:gpt-4o")
                assert "".join(piece.text for piece in asked) == "and on it goes"
                answer = asked.answer
            else:
                answer = quorum.chat(ENGLISH, model="openai:gpt-4o")
            row = quorum.call("usage", last=1)["rows"][0]
        assert (row["token_source"], row["cost_source"]) == ("tokenizer", "estimated")
        assert (row["prompt_tokens"], row["response_tokens"]) == (tokens + 7, 4)
        assert row["cost_nano_usd"] == answer.cost_nano_usd == (tokens + 7) * IN + 4 * OUT
    with counting.connect() as quorum:
        quorum.chat(ENGLISH, model="openai:llama")
        assert quorum.call("usage", last=1)["rows"][0]["token_source"] == "estimate"
    counting.balanced()
