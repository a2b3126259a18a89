"""The two forms of `estimate`: a request as `chat` takes it, or calls by task; never a bit of each."""

import msgspec
import pytest

from protocols.chat import Chat
from protocols.estimate import Estimate
from protocols.routing import IN_WORDS, Reason

SAID = {"messages": [{"role": "user", "content": "hi"}]}
MIX = {"quality_tier": "budget", "usage": {"tag": 3}}


def params(**said):
    return msgspec.convert(said, Estimate)


def test_a_request_is_the_chat_that_it_would_be():
    said = {**SAID, "model": "a:b", "task_type": "tag", "max_tokens": 5, "stream": True, "seed": 4, "user": "bob"}
    assert params(**said).request() == msgspec.convert(said, Chat)


def test_calls_by_task_take_the_wishes_of_a_recommendation():
    made = params(**MIX, user="bob", prefer_local=True, budget_tier_allows_paid=True)
    assert (made.usage, made.quality_tier, made.messages) == ({"tag": 3}, "budget", [])


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({}, "`messages`, as to `chat`, or `quality_tier` and `usage`"),
        ({"messages": []}, "`messages`, as to `chat`"),
        ({"quality_tier": "budget"}, "`messages`, as to `chat`"),
        ({"usage": {"tag": 3}}, "`usage` needs a `quality_tier`"),
        ({**MIX, **SAID}, "`messages` does not go with `usage`"),
        ({**MIX, "model": "a:b"}, "`model` does not go with `usage`"),
        ({**MIX, "max_tokens": 3}, "`max_tokens` does not go with `usage`"),
        ({**MIX, "stream": True}, "`stream` does not go with `usage`"),
        ({**SAID, "prefer_local": True}, "go with `usage`"),
        ({**SAID, "budget_tier_allows_paid": True}, "go with `usage`"),
        ({**SAID, "max_tokens": 0}, "`max_tokens` must be between"),
        ({**MIX, "usage": {}}, "length >= 1"),
        ({**MIX, "usage": {str(n): 1 for n in range(101)}}, "length <= 100"),
        ({**MIX, "usage": {"tag": -1}}, ">= 0"),
        ({**MIX, "usage": {"tag": 1_000_000_001}}, "<= 1000000000"),
        ({**MIX, "usage": {"tag": 1.5}}, "`int`"),
        ({**MIX, "usage": {"tag": True}}, "`int`"),
        ({**MIX, "quality_tier": "best"}, "Invalid enum value 'best'"),
        ({**MIX, "tier": "budget"}, "unknown field `tier`"),
    ],
)
def test_what_is_neither_form_is_told_what_to_do(said, told):
    with pytest.raises(msgspec.ValidationError, match=told):
        params(**said)


@pytest.mark.parametrize("calls", [0, 1_000_000_000])
def test_calls_are_counted_from_none_to_a_billion(calls):
    assert params(**{**MIX, "usage": {"tag": calls}}).usage == {"tag": calls}


def test_every_reason_has_its_words():
    assert list(IN_WORDS) == list(Reason.__args__)
