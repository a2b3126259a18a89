"""The OpenAI dialect: requests as OpenAI documents them, answers as OpenAI and its imitators send them."""

import msgspec
import pytest
from msgspec import Raw

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
from protocols.dialects.openai import OPENAI
from protocols.errors import BadRequest, ContextTooLong, ProviderFailed, RateLimited

HI = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "weather", "description": "of a city", "parameters": SCHEMA}}
CALL = {"id": "call_9", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}


def chat(codec=msgspec.json, **fields):
    return codec.decode(codec.encode({"messages": HI} | fields), type=Chat)


def sent(request, model="gpt-4o-mini", max_tokens=100):
    return msgspec.json.decode(OPENAI.chat(request, model, max_tokens).body)


BASE = {"model": "gpt-4o-mini", "max_tokens": 100, "messages": HI}

REQUESTS = {
    "nothing but messages": ({}, {}),
    "sampling": (
        {"temperature": 0.5, "top_p": 0.9, "stop": ["a", "b"], "seed": 7},
        {"temperature": 0.5, "top_p": 0.9, "stop": ["a", "b"], "seed": 7},
    ),
    "a temperature of zero is not left out": ({"temperature": 0.0}, {"temperature": 0.0}),
    "a single stop": ({"stop": "END"}, {"stop": "END"}),
    "a stream asks for its usage": ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
    "tools": ({"tools": [TOOL], "tool_choice": "required"}, {"tools": [TOOL], "tool_choice": "required"}),
    "a tool without parameters": (
        {"tools": [{"type": "function", "function": {"name": "now"}}]},
        {"tools": [{"type": "function", "function": {"name": "now"}}]},
    ),
    "a named tool": (
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "weather"}}},
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "weather"}}},
    ),
    "any JSON": ({"response_format": {"type": "json_object"}}, {"response_format": {"type": "json_object"}}),
    "JSON by a schema": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "c", "schema": SCHEMA, "strict": True}}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "c", "schema": SCHEMA, "strict": True}}},
    ),
    "a schema of null is none": (
        {
            "tools": [{"type": "function", "function": {"name": "now", "parameters": None}}],
            "response_format": {"type": "json_schema", "json_schema": {"name": "c", "schema": None}},
        },
        {
            "tools": [{"type": "function", "function": {"name": "now"}}],
            "response_format": {"type": "json_schema", "json_schema": {"name": "c"}},
        },
    ),
    "reasoning effort": ({"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
    "what only the daemon reads is not sent": (
        {"user": "ana", "conversation": "c", "task_type": "t", "allow_fallback": True, "model": "openai:x"},
        {},
    ),
}


@pytest.mark.parametrize("codec", [msgspec.json, msgspec.msgpack], ids=["json", "msgpack"])
@pytest.mark.parametrize(("asked", "expected"), REQUESTS.values(), ids=REQUESTS)
def test_a_request_has_the_documented_shape(asked, expected, codec):
    assert sent(chat(codec, **asked)) == BASE | expected


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "developer", "content": "be brief"}, *HI],
        [
            *HI,
            {"role": "assistant", "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call_9", "content": "rain"},
        ],
        [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "what is this?"},
                    {"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": "low"}},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                ],
            }
        ],
    ],
    ids=["developer", "tools", "images"],
)
def test_messages_pass_as_they_are(messages):
    assert sent(chat(messages=messages))["messages"] == messages


def test_a_tool_call_made_by_us_carries_its_type_and_its_arguments():
    request = chat()
    request.messages[0].tool_calls = [ToolCall("call_1", FunctionCall("now"))]
    assert sent(request)["messages"][0]["tool_calls"] == [
        {"id": "call_1", "type": "function", "function": {"name": "now", "arguments": ""}}
    ]


@pytest.mark.parametrize(
    ("model", "field"),
    [
        ("o1", "max_completion_tokens"),
        ("o3-mini", "max_completion_tokens"),
        ("o4-mini-2025-04-16", "max_completion_tokens"),
        ("ft:o4-mini-2025-04-16:org::id", "max_completion_tokens"),
        ("gpt-5", "max_completion_tokens"),
        ("gpt-5.1-chat-latest", "max_completion_tokens"),
        ("gpt-4.1", "max_tokens"),
        ("gpt-4o", "max_tokens"),
        ("gpt-oss-20b", "max_tokens"),
        ("openai/gpt-5", "max_tokens"),
        ("olmo-2", "max_tokens"),
        ("deepseek-chat", "max_tokens"),
    ],
)
def test_the_answer_limit_is_always_sent_under_the_name_that_the_model_knows(model, field):
    body = sent(chat(), model, 55)
    assert {name: body[name] for name in body if name.startswith("max_")} == {field: 55}


def test_a_schema_that_is_no_object_is_a_bad_request():
    request = chat(msgspec.msgpack, tools=[TOOL])
    request.tools[0].function.parameters = Raw(msgspec.msgpack.encode([1]))
    with pytest.raises(BadRequest, match="must be an object"):
        OPENAI.chat(request, "gpt-4o", 10)


def test_the_request_goes_to_the_documented_place():
    request = OPENAI.chat(chat(), "gpt-4o", 10)
    assert (request.method, request.path) == ("POST", "/chat/completions")
    assert request.headers == (("content-type", "application/json"),)
    assert OPENAI.auth("sk-1") == (("authorization", "Bearer sk-1"),)


USAGE = {
    "prompt_tokens": 19,
    "completion_tokens": 10,
    "total_tokens": 29,
    "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 3, "audio_tokens": 0},
}


def completion(message, finish_reason="stop", usage=USAGE):
    choice = {"index": 0, "message": {"role": "assistant"} | message, "logprobs": None, "finish_reason": finish_reason}
    return msgspec.json.encode(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [choice],
            "usage": usage,
        }
    )


COUNT = TokenCount(prompt=19, cached=4, response=10, reasoning=3)

REPLIES = {
    "text": (completion({"content": "Hello", "refusal": None}), Reply("Hello", finish_reason="stop", tokens=COUNT)),
    "a refusal": (
        completion({"content": None, "refusal": "I can't."}),
        Reply("I can't.", finish_reason="content_filter", tokens=COUNT),
    ),
    "tool calls": (
        completion({"content": None, "tool_calls": [CALL]}, "tool_calls"),
        Reply(
            tool_calls=[ToolCall("call_9", FunctionCall("weather", '{"city":"Oslo"}'))],
            finish_reason="tool_calls",
            tokens=COUNT,
        ),
    ),
    "a tool call without id": (
        completion({"tool_calls": [{"function": {"name": "now", "arguments": None}}]}, "function_call"),
        Reply(tool_calls=[ToolCall("call_0", FunctionCall("now"))], finish_reason="tool_calls", tokens=COUNT),
    ),
    "DeepSeek": (
        completion(
            {"content": "4", "reasoning_content": "2+2"},
            "length",
            {"prompt_tokens": 8, "completion_tokens": 5, "total_tokens": 13, "prompt_cache_hit_tokens": 6},
        ),
        Reply("4", "2+2", finish_reason="length", tokens=TokenCount(prompt=8, cached=6, response=5)),
    ),
    "OpenRouter": (
        completion({"content": "4", "reasoning": "2+2"}, usage=None),
        Reply("4", "2+2", finish_reason="stop"),
    ),
    "reasoning counted beside the completion": (
        completion(
            {"content": "4"},
            usage={
                "prompt_tokens": 8,
                "completion_tokens": 1,
                "total_tokens": 59,
                "completion_tokens_details": {"reasoning_tokens": 50},
            },
        ),
        Reply("4", finish_reason="stop", tokens=TokenCount(prompt=8, response=51, reasoning=50)),
    ),
    "more cached than asked": (
        completion({"content": "4"}, None, {"prompt_tokens": 8, "prompt_cache_hit_tokens": 9, "completion_tokens": 1}),
        Reply("4", tokens=TokenCount(prompt=8, cached=8, response=1)),
    ),
    "audio": (
        completion(
            {"content": "4"},
            usage={
                "prompt_tokens": 80,
                "completion_tokens": 40,
                "prompt_tokens_details": {"audio_tokens": 60, "cached_tokens": 0},
                "completion_tokens_details": {"audio_tokens": 30, "reasoning_tokens": 0},
            },
        ),
        Reply("4", finish_reason="stop", tokens=TokenCount(prompt=80, response=40, audio_prompt=60, audio_response=30)),
    ),
    "more audio than there is": (
        completion(
            {"content": "4"},
            usage={
                "prompt_tokens": 8,
                "completion_tokens": 4,
                "prompt_tokens_details": {"audio_tokens": 60},
                "completion_tokens_details": {"audio_tokens": 30},
            },
        ),
        Reply("4", finish_reason="stop", tokens=TokenCount(prompt=8, response=4, audio_prompt=8, audio_response=4)),
    ),
    "nothing counted": (completion({"content": "4"}, usage={}), Reply("4", finish_reason="stop")),
    "nulls everywhere": (b'{"choices":[{"message":{}}],"usage":null}', Reply()),
}


@pytest.mark.parametrize(("body", "reply"), REPLIES.values(), ids=REPLIES)
def test_a_whole_answer_is_understood(body, reply):
    assert OPENAI.reply(body) == reply


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"choices":null}',
        b'{"choices":[]}',
        b'{"choices":[{"message":null}]}',
        b'{"choices":[{"message":{"content":5}}]}',
        b'{"choices":[{"message":{"tool_calls":[{"id":"x"}]}}]}',
        b'{"choices":[{"message":{}}],"usage":{"prompt_tokens":-1}}',
        b'{"choices":[{"message":{}}],"usage":{"prompt_tokens":1000000000000}}',
        b'{"choices":[{"message":{"content":"\xff"}}]}',
        completion({"content": "half"}, "insufficient_system_resource"),
        b'{"choices":' + b"[" * 100_000,
        b'{"x":' + b"[" * 100_000,
    ],
)
def test_what_is_no_answer_is_malformed(body):
    with pytest.raises(MalformedAnswer):
        OPENAI.reply(body)


def test_an_error_with_a_good_status_is_named_without_its_words():
    with pytest.raises(MalformedAnswer, match=r"no message but an error \(502\)") as caught:
        OPENAI.reply(b'{"error":{"message":"the prompt was: secret plan","code":502}}')
    assert "secret" not in str(caught.value)


def event(delta, finish_reason=None, **fields):
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return b"data: " + msgspec.json.encode({"object": "chat.completion.chunk", "choices": [choice]} | fields) + b"\n\n"


def tool(index, id_=None, name=None, arguments=None):
    function = {"name": name, "arguments": arguments}
    place = {} if index is None else {"index": index}
    return event({"tool_calls": [place | {"id": id_, "type": "function", "function": function}]})


LAST = b"data: " + msgspec.json.encode({"choices": [], "usage": USAGE}) + b"\n\n"
DONE = b"data: [DONE]\n\n"

STREAMS = {
    "text": (
        [event({"role": "assistant", "content": ""}), event({"content": "He"}), event({"content": "llo"}),
         event({}, "stop"), LAST, DONE],
        [Delta("He"), Delta("llo"), Finished("stop"), COUNT],
    ),
    "usage on the last chunk": (
        [event({"content": "a"}), event({}, "length", usage=USAGE), DONE],
        [Delta("a"), Finished("length"), COUNT],
    ),
    "tools": (
        [tool(0, "call_1", "weather", ""), tool(0, None, None, '{"city":'), tool(0, "", "", '"Oslo"}'),
         tool(1, "call_2", "now", "{}"), event({}, "tool_calls"), DONE],
        [ToolCallDelta(0, "call_1", "weather"), ToolCallDelta(0, arguments='{"city":'),
         ToolCallDelta(0, arguments='"Oslo"}'), ToolCallDelta(1, "call_2", "now", "{}"), Finished("tool_calls")],
    ),
    "tools without an index": (
        [tool(None, "a", "one", "{"), tool(None, None, None, "}"), tool(None, "b", "two", "{}")],
        [ToolCallDelta(0, "a", "one", "{"), ToolCallDelta(0, arguments="}"), ToolCallDelta(1, "b", "two", "{}")],
    ),
    "reasoning": (
        [event({"reasoning_content": "hm"}), event({"reasoning": "so"}), event({"content": "4", "reasoning": None})],
        [Reasoning("hm"), Reasoning("so"), Delta("4")],
    ),
    "a refusal": (
        [event({"refusal": "I can't."}), event({}, "stop"), DONE],
        [Delta("I can't."), Finished("content_filter")],
    ),
    "a finish reason said twice": ([event({}, "stop"), event({"content": ""}, "stop")], [Finished("stop")]),
    "comments and unknown fields": ([b": OPENROUTER PROCESSING\n\n", event({"content": "a", "x": [1]})], [Delta("a")]),
    "nulls": ([b'data: {"choices":null,"usage":null,"error":null}\n\n', b'data: {"choices":[{"delta":null}]}\n\n'], []),
}  # fmt: skip


@pytest.mark.parametrize(("chunks", "events"), STREAMS.values(), ids=STREAMS)
def test_a_stream_gives_its_events_in_order(chunks, events):
    assert OPENAI.stream().feed(b"".join(chunks)) == events


@pytest.mark.parametrize(
    ("chunks", "complete"),
    [
        ([event({"content": "a"})], False),
        ([event({"content": "a"}), event({}, "stop")], True),
        ([event({"content": "a"}), DONE], True),
        ([event({"content": "a"}), DONE[:-1]], False),
        ([], False),
    ],
)
def test_a_stream_is_complete_when_its_end_was_marked(chunks, complete):
    stream = OPENAI.stream()
    stream.feed(b"".join(chunks))
    assert stream.complete is complete


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (b'{"error":{"message":"The server had an error","type":"server_error"}}', ProviderFailed),
        (b'{"error":{"message":"slow down","code":"rate_limit_exceeded"}}', RateLimited),
        (
            b'{"error":{"message":"Provider returned error","code":502},"choices":[{"delta":{"content":""}}]}',
            ProviderFailed,
        ),
        (b'{"error":{"message":"too long","code":"context_length_exceeded"}}', ContextTooLong),
        (b'{"error":"it broke"}', ProviderFailed),
        (b'{"choices":[{"finish_reason":"insufficient_system_resource"}]}', ProviderFailed),
    ],
)
def test_an_error_inside_a_stream_fails_it(error, fault):
    stream = OPENAI.stream()
    with pytest.raises(StreamFailed) as caught:
        stream.feed(b"data: " + error + b"\n\n")
    assert type(caught.value.fault) is fault
    assert not stream.complete


def test_what_came_before_an_error_in_the_same_bytes_is_not_lost():
    stream = OPENAI.stream()
    assert stream.feed(event({"content": "paid"}) + b'data: {"error":{"message":"x"}}\n\n' + DONE) == [Delta("paid")]
    with pytest.raises(StreamFailed):
        stream.feed(b"")
    with pytest.raises(StreamFailed):
        stream.feed(DONE)
    assert not stream.complete


@pytest.mark.parametrize(
    "data", [b"data: {\n\n", b"data: [1]\n\n", b'data: {"choices":[{"delta":"x"}]}\n\n', b"data: \xff\n\n"]
)
def test_a_stream_of_something_else_is_malformed(data):
    with pytest.raises(MalformedAnswer):
        OPENAI.stream().feed(data)


@pytest.mark.parametrize(
    "body", [b'{"object":"list","data":[{"id":"gpt-4o"},{"id":"o3"}]}', b'[{"id":"gpt-4o"},{"id":"o3"}]']
)
def test_models_are_listed_by_name(body):
    assert OPENAI.models(body) == ["gpt-4o", "o3"]


def test_listing_models_is_a_read():
    request = OPENAI.models_request()
    assert (request.method, request.path, request.body) == ("GET", "/models", b"")


def test_a_list_of_something_else_is_malformed():
    with pytest.raises(MalformedAnswer):
        OPENAI.models(b'{"data":null}')
