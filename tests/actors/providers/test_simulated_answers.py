import pytest

from actors.providers.simulated.answers import Asked, answer, instance, pieces, tokens
from actors.providers.simulated.behaviour import Behaviour, SimulatedToolCall

HELLO = 'This is a simulated answer: no provider is configured. You said: "hello".'


def ask(**fields):
    known = {"model": "sim", "stream": False, "texts": ["hello"], "last_user": "hello"}
    return Asked(**(known | fields))


def told(asked=None, **knobs):
    return answer(asked or ask(), Behaviour(**knobs), number=1, at=0.0)


def test_the_answer_says_that_it_is_simulated_and_repeats_what_was_said():
    assert told().text == HELLO


def test_a_long_message_is_repeated_shortened():
    assert told(ask(last_user="x" * 5000)).text.endswith('x…".')


@pytest.mark.parametrize(("text", "count"), [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2), ("€", 1), ("€€", 2)])
def test_tokens_are_utf8_bytes_by_four_rounded_up(text, count):
    assert tokens(text) == count


def test_declared_counts_are_at_least_one():
    counts = told(ask(texts=[""]), text="").tokens
    assert (counts.prompt, counts.response) == (1, 1)


def test_set_counts_are_declared_even_above_the_limit():
    knobs = {"prompt_tokens": 7, "response_tokens": 900, "cached_tokens": 3, "reasoning_tokens": 2}
    counts = told(ask(max_tokens=5), **knobs).tokens
    assert (counts.prompt, counts.response, counts.cached, counts.reasoning) == (7, 900, 3, 2)


def test_counts_can_be_left_out():
    assert told(no_usage=True).tokens is None


@pytest.mark.parametrize(
    ("limit", "text", "reasoning", "reason"),
    [
        (100, "abcdefgh", "thinking", "stop"),
        (4, "abcdefgh", "thinking", "stop"),
        (3, "abcd", "thinking", "length"),
        (2, "", "thinking", "length"),
        (1, "", "thin", "length"),
    ],
)
def test_reasoning_and_text_share_the_limit(limit, text, reasoning, reason):
    cut = told(ask(max_tokens=limit), text="abcdefgh", reasoning="thinking")
    assert (cut.text, cut.reasoning, cut.finish_reason) == (text, reasoning, reason)
    assert cut.tokens.response <= limit


def test_a_cut_never_splits_a_character():
    assert told(ask(max_tokens=1), text="€€").text == "€"


@pytest.mark.parametrize(
    ("text", "chunks", "cut"),
    [
        ("", None, []),
        ("one two", None, ["one", " two"]),
        (" lead", None, [" lead"]),
        ("abcdef", 3, ["ab", "cd", "ef"]),
        ("abc", 5, ["a", "b", "c"]),
    ],
)
def test_text_is_cut_into_pieces_none_of_them_empty(text, chunks, cut):
    assert pieces(text, chunks) == cut


@pytest.mark.parametrize("chunks", [1, 20, 200, 5000])
def test_a_derived_answer_has_exactly_as_many_pieces_as_asked_for(chunks):
    long = told(chunks=chunks)
    assert len(long.pieces) == chunks
    assert "".join(long.pieces) == long.text


def test_tool_calls_replace_the_text_and_count_by_their_arguments():
    called = told(tool_calls=(SimulatedToolCall("look_up", {"city": "Graz"}),))
    assert called.text == ""
    assert called.finish_reason == "tool_calls"
    assert called.tool_calls[0].arguments == '{"city":"Graz"}'
    assert called.tokens.response == tokens('{"city":"Graz"}')


def test_a_forced_tool_is_called_with_an_empty_object():
    called = told(ask(forced_tool="look_up"))
    assert [(call.name, call.arguments) for call in called.tool_calls] == [("look_up", "{}")]


def test_a_set_text_wins_over_a_forced_tool():
    assert told(ask(forced_tool="look_up"), text="no").text == "no"


def test_json_is_answered_where_json_is_wanted():
    assert told(ask(json_wanted=True)).text == '{"simulated":true,"said":"hello"}'


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "object", "properties": {"ok": {"type": "boolean"}, "n": {"type": "integer"}}}, {"ok": True, "n": 1}),
        ({"type": "array", "items": {"enum": ["red", "blue"]}}, ["red"]),
        ({"type": ["number", "null"]}, 1.0),
        ({"const": 4}, 4),
        ({"$ref": "#/unknown"}, "simulated"),
        (True, "simulated"),
    ],
)
def test_a_schema_is_answered_by_an_instance(schema, value):
    assert instance(schema) == value
