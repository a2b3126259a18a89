import msgspec
import pytest

from actors.rules.body import chat_body_hash
from protocols.chat import Chat
from protocols.errors import BadRequest

ASKED = {
    "messages": [{"role": "user", "content": "hi"}],
    "model": "openai:gpt-4o",
    "tools": [{"function": {"name": "find", "parameters": {"type": "object"}}}],
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
}


def over_json(**fields):
    return chat_body_hash(msgspec.json.decode(msgspec.json.encode(ASKED | fields), type=Chat))


def over_msgpack(**fields):
    return chat_body_hash(msgspec.msgpack.decode(msgspec.msgpack.encode(ASKED | fields), type=Chat))


def test_the_same_question_is_the_same_over_both_wires():
    assert over_json() == over_msgpack()
    assert len(over_json()) == 32


def test_how_it_is_delivered_and_what_confirms_it_do_not_count():
    assert over_json(stream=True) == over_json(override_token="t") == over_json()


@pytest.mark.parametrize(
    "changed",
    [
        {"messages": [{"role": "user", "content": "ho"}]},
        {"model": "openai:gpt-4o-mini"},
        {"user": "bob"},
        {"max_tokens": 5},
        {"tools": [{"function": {"name": "find", "parameters": {"type": "string"}}}]},
        {"tools": [{"function": {"name": "find"}}]},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "array"}}}},
        {"response_format": {"type": "text"}},
        {"allow_fallback": False},
    ],
)
def test_everything_else_that_is_asked_counts(changed):
    assert over_json(**changed) == over_msgpack(**changed) != over_json()


def test_the_question_itself_is_left_as_it_was():
    chat = msgspec.json.decode(msgspec.json.encode(ASKED | {"stream": True, "override_token": "t"}), type=Chat)
    before = msgspec.json.encode(chat)
    chat_body_hash(chat)
    assert msgspec.json.encode(chat) == before


def test_a_schema_that_is_no_object_is_refused():
    tools = [{"function": {"name": "find", "parameters": [1, 2]}}]
    with pytest.raises(BadRequest, match="schema"):
        over_msgpack(tools=tools)
