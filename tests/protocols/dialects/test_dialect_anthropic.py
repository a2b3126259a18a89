"""The Anthropic dialect: requests and answers as the Messages API documents them."""

import msgspec
import pytest

from protocols.chat import (
    Chat,
    Delta,
    Finished,
    FunctionCall,
    Reasoning,
    Reply,
    TokenCount,
    ToolCall,
    ToolCallDelta,
)
from protocols.dialects import MalformedAnswer, StreamFailed
from protocols.dialects.anthropic import ANTHROPIC
from protocols.errors import BadRequest, Misconfigured, ProviderFailed, RateLimited

HI = [{"role": "user", "content": "hi"}]
HI_SENT = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "weather", "description": "of a city", "parameters": SCHEMA}}
TOOL_SENT = {"name": "weather", "description": "of a city", "input_schema": SCHEMA}
BASE = {"model": "claude-sonnet-4-5", "max_tokens": 8000, "messages": HI_SENT}


def chat(codec=msgspec.json, **fields):
    return codec.decode(codec.encode({"messages": HI} | fields), type=Chat)


def sent(request, model="claude-sonnet-4-5", max_tokens=8000):
    return msgspec.json.decode(ANTHROPIC.chat(request, model, max_tokens).body)


def call(id_="toolu_1", arguments='{"city":"Oslo"}'):
    return {"id": id_, "type": "function", "function": {"name": "weather", "arguments": arguments}}


def json_schema(**fields):
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "c"} | fields}}


REQUESTS = {
    "nothing but messages": ({}, {}),
    "sampling": (
        {"temperature": 1.0, "top_p": 0.9, "stop": ["a", "b"]},
        {"temperature": 1.0, "top_p": 0.9, "stop_sequences": ["a", "b"]},
    ),
    "a single stop": ({"stop": "END"}, {"stop_sequences": ["END"]}),
    "a seed, which does not exist there": ({"seed": 7}, {}),
    "a stream": ({"stream": True}, {"stream": True}),
    "tools": ({"tools": [TOOL]}, {"tools": [TOOL_SENT]}),
    "a strict tool without parameters": (
        {"tools": [{"type": "function", "function": {"name": "now", "strict": True}}]},
        {"tools": [{"name": "now", "input_schema": {"type": "object"}, "strict": True}]},
    ),
    "any tool": (
        {"tools": [TOOL], "tool_choice": "required"},
        {"tools": [TOOL_SENT], "tool_choice": {"type": "any"}},
    ),
    "the model chooses": (
        {"tools": [TOOL], "tool_choice": "auto"},
        {"tools": [TOOL_SENT], "tool_choice": {"type": "auto"}},
    ),
    "no tool": ({"tools": [TOOL], "tool_choice": "none"}, {"tools": [TOOL_SENT], "tool_choice": {"type": "none"}}),
    "a named tool": (
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "weather"}}},
        {"tools": [TOOL_SENT], "tool_choice": {"type": "tool", "name": "weather"}},
    ),
    "a choice among no tools": ({"tool_choice": "auto"}, {}),
    "text": ({"response_format": {"type": "text"}}, {}),
    "JSON by a schema": (
        json_schema(schema=SCHEMA, strict=True),
        {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
    ),
    "no thinking": ({"reasoning_effort": "minimal"}, {}),
    "a little thinking": (
        {"reasoning_effort": "low"},
        {"thinking": {"type": "enabled", "budget_tokens": 1024}},
    ),
    "some thinking": ({"reasoning_effort": "medium"}, {"thinking": {"type": "enabled", "budget_tokens": 4096}}),
    "more thinking than the answer may be long": ({"reasoning_effort": "high"}, {}),
}


@pytest.mark.parametrize("codec", [msgspec.json, msgspec.msgpack], ids=["json", "msgpack"])
@pytest.mark.parametrize(("asked", "expected"), REQUESTS.values(), ids=REQUESTS)
def test_a_request_has_the_documented_shape(asked, expected, codec):
    assert sent(chat(codec, **asked)) == BASE | expected


@pytest.mark.parametrize(("max_tokens", "thinks"), [(16384, False), (16385, True)])
def test_a_thinking_budget_is_below_the_answer_limit(max_tokens, thinks):
    assert ("thinking" in sent(chat(reasoning_effort="high"), max_tokens=max_tokens)) is thinks


def test_after_the_result_of_a_tool_a_budgeted_model_does_not_think():
    messages = [*HI, {"role": "assistant", "tool_calls": [call()]}, {"role": "tool", "tool_call_id": "toolu_1"}]
    assert "thinking" not in sent(chat(messages=messages, reasoning_effort="low"))
    assert "thinking" in sent(chat(messages=messages, reasoning_effort="low"), "claude-opus-4-6")


@pytest.mark.parametrize(
    ("model", "by_effort"),
    [
        ("claude-3-7-sonnet-20250219", False),
        ("claude-sonnet-4-20250514", False),
        ("claude-opus-4-1-20250805", False),
        ("claude-haiku-4-5", False),
        ("claude-opus-4-5@20251101", False),
        ("claude-opus-4-6", True),
        ("claude-opus-4-7-20260101", True),
        ("claude-sonnet-5", True),
        ("some-model-that-speaks-this-dialect", False),
    ],
)
def test_newer_models_are_told_an_effort_and_older_ones_a_budget(model, by_effort):
    body = sent(chat(reasoning_effort="low", **json_schema(schema=SCHEMA)), model)
    form = {"format": {"type": "json_schema", "schema": SCHEMA}}
    assert body["thinking"] == ({"type": "adaptive"} if by_effort else {"type": "enabled", "budget_tokens": 1024})
    assert body["output_config"] == (form | {"effort": "low"} if by_effort else form)


def text(words):
    return {"type": "text", "text": words}


MESSAGES = {
    "system and developer go to the top": (
        [{"role": "system", "content": "be kind"}, *HI, {"role": "developer", "content": [text("be "), text("brief")]}],
        {"system": "be kind\n\nbe brief", "messages": HI_SENT},
    ),
    "neighbours of a role are one": (
        [*HI, {"role": "user", "content": [text("there"), text("")]}, {"role": "assistant", "content": "Hello"}],
        {
            "messages": [
                {"role": "user", "content": [text("hi"), text("there")]},
                {"role": "assistant", "content": [text("Hello")]},
            ]
        },
    ),
    "tools": (
        [
            *HI,
            {"role": "assistant", "content": "", "tool_calls": [call("a"), call("b", "")]},
            {"role": "tool", "tool_call_id": "a", "content": "rain"},
            {"role": "tool", "tool_call_id": "b", "content": ""},
            {"role": "user", "content": "and?"},
        ],
        {
            "messages": [
                *HI_SENT,
                {
                    "role": "assistant",
                    "content": [
                        {"type": "tool_use", "id": "a", "name": "weather", "input": {"city": "Oslo"}},
                        {"type": "tool_use", "id": "b", "name": "weather", "input": {}},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "a", "content": [text("rain")]},
                        {"type": "tool_result", "tool_use_id": "b", "content": []},
                        text("and?"),
                    ],
                },
            ]
        },
    ),
    "images": (
        [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": "low"}},
                    {"type": "image_url", "image_url": {"url": "data:image/webp;base64,AAAA"}},
                ],
            }
        ],
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
                        {"type": "image", "source": {"type": "base64", "media_type": "image/webp", "data": "AAAA"}},
                    ],
                }
            ]
        },
    ),
    "an empty message in between": (
        [*HI, {"role": "assistant", "content": ""}, *HI],
        {"messages": [{"role": "user", "content": [text("hi"), text("hi")]}]},
    ),
}


@pytest.mark.parametrize(("messages", "expected"), MESSAGES.values(), ids=MESSAGES)
def test_messages_become_turns(messages, expected):
    assert sent(chat(messages=messages)) == BASE | expected


def image(url):
    return {"type": "image_url", "image_url": {"url": url}}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"temperature": 1.5}, r"`temperature` is 1.5, but Anthropic allows 0 to 1"),
        ({"response_format": {"type": "json_object"}}, "`response_format` json_object"),
        (json_schema(), "`response_format.json_schema.schema` is missing"),
        (json_schema(schema=[1]), "a schema must be an object"),
        ({"messages": [{"role": "system", "content": "alone"}]}, "must have a user message"),
        ({"messages": [{"role": "user", "content": ""}]}, "must have a user message"),
        ({"messages": [*HI, {"role": "tool", "content": "rain"}]}, r"`messages\[1\].tool_call_id`"),
        (
            {"messages": [*HI, {"role": "user", "content": [text("a"), image("file:///a")]}]},
            r"`messages\[1\].content\[1\]",
        ),
        (
            {"messages": [{"role": "user", "content": [image("data:text/plain;base64,AA")]}]},
            r"`messages\[0\].content\[0\]",
        ),
        ({"messages": [*HI, {"role": "system", "content": [image("https://a")]}]}, r"`messages\[1\]`: an image"),
        *(
            (
                {"messages": [*HI, {"role": "assistant", "tool_calls": [call(), call("b", bad)]}]},
                r"`messages\[1\].tool_calls\[1\]",
            )
            for bad in ("{", "[]", "null", "1", '"x"', "[" * 100_000)
        ),
    ],
)
def test_what_can_not_be_said_is_a_bad_request_that_names_the_place(fields, named):
    with pytest.raises(BadRequest, match=named):
        ANTHROPIC.chat(chat(**fields), "claude-sonnet-4-5", 100)


def test_the_request_goes_to_the_documented_place():
    request = ANTHROPIC.chat(chat(), "claude-sonnet-4-5", 10)
    assert (request.method, request.path) == ("POST", "/messages")
    assert request.headers == (("content-type", "application/json"), ("anthropic-version", "2023-06-01"))
    assert ANTHROPIC.auth("sk-ant-1") == (("x-api-key", "sk-ant-1"),)


USAGE = {
    "input_tokens": 21,
    "cache_creation_input_tokens": 188,
    "cache_read_input_tokens": 1000,
    "output_tokens": 393,
    "service_tier": "standard",
}
COUNT = TokenCount(prompt=1209, cached=1000, cache_write=188, response=393)


def answer(*content, stop_reason="end_turn", usage=USAGE):
    return msgspec.json.encode(
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "claude-sonnet-4-5-20250929",
            "content": content,
            "stop_reason": stop_reason,
            "stop_sequence": None,
            "usage": usage,
        }
    )


REPLIES = {
    "text": (answer(text("Hel"), text("lo")), Reply("Hello", finish_reason="stop", tokens=COUNT)),
    "thinking": (
        answer(
            {"type": "thinking", "thinking": "hm", "signature": "abc"},
            {"type": "redacted_thinking", "data": "xyz"},
            text("4"),
        ),
        Reply("4", "hm", finish_reason="stop", tokens=COUNT),
    ),
    "tools": (
        answer(
            text("Let me look."),
            {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Øystre"}},
            {"type": "tool_use", "id": "toolu_2", "name": "now", "input": {}},
            stop_reason="tool_use",
        ),
        Reply(
            "Let me look.",
            tool_calls=[
                ToolCall("toolu_1", FunctionCall("weather", '{"city":"Øystre"}')),
                ToolCall("toolu_2", FunctionCall("now", "{}")),
            ],
            finish_reason="tool_calls",
            tokens=COUNT,
        ),
    ),
    "nothing cached": (
        answer(text("a"), usage={"input_tokens": 3, "output_tokens": 2, "cache_read_input_tokens": None}),
        Reply("a", finish_reason="stop", tokens=TokenCount(prompt=3, response=2)),
    ),
    "nothing at all": (answer(usage=None, stop_reason=None), Reply()),
}


@pytest.mark.parametrize(("body", "reply"), REPLIES.values(), ids=REPLIES)
def test_a_whole_answer_is_understood(body, reply):
    assert ANTHROPIC.reply(body) == reply


REASONS = [
    ("end_turn", "stop"),
    ("stop_sequence", "stop"),
    ("max_tokens", "length"),
    ("model_context_window_exceeded", "length"),
    ("tool_use", "tool_calls"),
    ("refusal", "content_filter"),
    ("one_of_tomorrow", "one_of_tomorrow"),
]


@pytest.mark.parametrize(("theirs", "ours"), REASONS)
def test_each_stop_reason_has_its_finish_reason(theirs, ours):
    assert ANTHROPIC.reply(answer(stop_reason=theirs)).finish_reason == ours


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"content":null}',
        b'{"content":"x"}',
        b'{"content":[{"type":"text","text":5}]}',
        b'{"content":[{"type":"tool_use","id":"a"}]}',
        b'{"content":[{"type":"tool_use","id":"a","name":"n","input":{"a":"\xff"}}]}',
        b'{"content":[],"usage":{"input_tokens":-1}}',
        b'{"content":[{"input":' + b"[" * 100_000,
        b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}',
    ],
)
def test_what_is_no_answer_is_malformed(body):
    with pytest.raises(MalformedAnswer):
        ANTHROPIC.reply(body)


def event(type_, **fields):
    return f"event: {type_}\n".encode() + b"data: " + msgspec.json.encode({"type": type_} | fields) + b"\n\n"


def start(index, **block):
    return event("content_block_start", index=index, content_block=block)


def delta(index, **fields):
    return event("content_block_delta", index=index, delta=fields)


def stop(index):
    return event("content_block_stop", index=index)


BEGIN = event(
    "message_start",
    message={
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "content": [],
        "stop_reason": None,
        "usage": {
            "input_tokens": 25,
            "cache_creation_input_tokens": 5,
            "cache_read_input_tokens": 10,
            "output_tokens": 1,
        },
    },
)
PING = event("ping")
END = event("message_stop")


def last(reason, **usage):
    return event("message_delta", delta={"stop_reason": reason, "stop_sequence": None}, usage=usage)


FIRST_COUNT = TokenCount(prompt=40, cached=10, cache_write=5, response=1)

STREAMS = {
    "text": (
        [BEGIN, start(0, type="text", text=""), PING, delta(0, type="text_delta", text="Hel"),
         delta(0, type="text_delta", text="lo"), stop(0), last("end_turn", output_tokens=15), END],
        [FIRST_COUNT, Delta("Hel"), Delta("lo"), TokenCount(40, 10, 5, 15), Finished("stop")],
    ),
    "thinking": (
        [start(0, type="thinking", thinking="", signature=""), delta(0, type="thinking_delta", thinking="hm"),
         delta(0, type="signature_delta", signature="EqQB"), stop(0), start(1, type="redacted_thinking", data="x"),
         start(2, type="text", text="4"), END],
        [Reasoning("hm"), Delta("4")],
    ),
    "tools": (
        [start(0, type="text", text=""), delta(0, type="text_delta", text="Look."), stop(0),
         start(1, type="tool_use", id="toolu_1", name="weather", input={}),
         delta(1, type="input_json_delta", partial_json=""), delta(1, type="input_json_delta", partial_json='{"city":'),
         delta(1, type="input_json_delta", partial_json='"Oslo"}'), stop(1),
         start(2, type="tool_use", id="toolu_2", name="now", input={}), stop(2),
         last("tool_use", output_tokens=9), END],
        [Delta("Look."), ToolCallDelta(0, "toolu_1", "weather"), ToolCallDelta(0, arguments='{"city":'),
         ToolCallDelta(0, arguments='"Oslo"}'), ToolCallDelta(1, "toolu_2", "now"), ToolCallDelta(1, arguments="{}"),
         TokenCount(response=9), Finished("tool_calls")],
    ),
    "counts that grow, and some left out or zero": (
        [BEGIN, last(None, input_tokens=0, output_tokens=5), last("max_tokens", input_tokens=30, output_tokens=7)],
        [FIRST_COUNT, TokenCount(40, 10, 5, 5), TokenCount(45, 10, 5, 7), Finished("length")],
    ),
    "kinds that are not known": (
        [event("message_applause", index=3), delta(0, type="citations_delta", citation={"a": 1}),
         start(0, type="server_tool_use", id="s", name="web_search", input={}), stop(0), b": hi\n\n"],
        [],
    ),
    "fields that are null": (
        [event("message_start", message=None), event("content_block_delta", delta=None), last(None),
         event("content_block_start", content_block=None), event("message_delta", delta=None, usage=None)],
        [],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("chunks", "events"), STREAMS.values(), ids=STREAMS)
def test_a_stream_gives_its_events_in_order(chunks, events):
    assert ANTHROPIC.stream().feed(b"".join(chunks)) == events


@pytest.mark.parametrize("chunks", [[BEGIN, last("end_turn", output_tokens=1)], [BEGIN, END[:-1]], []])
def test_a_stream_without_its_last_event_is_not_complete(chunks):
    stream = ANTHROPIC.stream()
    stream.feed(b"".join(chunks))
    assert not stream.complete
    stream.feed(b"\n" + END)
    assert stream.complete


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        ({"type": "overloaded_error", "message": "Overloaded"}, ProviderFailed),
        ({"type": "api_error", "message": "Internal server error"}, ProviderFailed),
        ({"type": "rate_limit_error", "message": "slow"}, RateLimited),
        ({"type": "authentication_error", "message": "invalid x-api-key"}, Misconfigured),
        (None, ProviderFailed),
    ],
)
def test_an_error_event_fails_the_stream(error, fault):
    stream = ANTHROPIC.stream()
    stream.feed(BEGIN)
    with pytest.raises(StreamFailed) as caught:
        stream.feed(event("error", error=error))
    assert type(caught.value.fault) is fault
    assert not stream.complete


@pytest.mark.parametrize("data", [b"data: {\n\n", b"data: {}\n\n", b"data: [DONE]\n\n", b'data: {"type":1}\n\n'])
def test_a_stream_of_something_else_is_malformed(data):
    with pytest.raises(MalformedAnswer):
        ANTHROPIC.stream().feed(data)


def test_models_are_listed_by_name():
    body = b'{"data":[{"type":"model","id":"claude-sonnet-4-5","display_name":"x"}],"has_more":false}'
    assert ANTHROPIC.models(body) == ["claude-sonnet-4-5"]
    request = ANTHROPIC.models_request()
    assert (request.method, request.path) == ("GET", "/models?limit=1000")
    assert request.headers == (("anthropic-version", "2023-06-01"),)
