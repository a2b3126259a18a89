"""The Ollama dialect: requests and answers as Ollama documents them."""

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
from protocols.dialects.ollama import OLLAMA
from protocols.errors import BadRequest, ProviderFailed

HI = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "weather", "description": "of a city", "parameters": SCHEMA}}
BASE = {"model": "llama3.2", "messages": HI, "stream": False, "options": {"num_predict": 100}}


def chat(codec=msgspec.json, **fields):
    return codec.decode(codec.encode({"messages": HI} | fields), type=Chat)


def sent(request, model="llama3.2"):
    return msgspec.json.decode(OLLAMA.chat(request, model, 100).body)


def call(id_="call_0", arguments='{"city":"Oslo"}', name="weather"):
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}


REQUESTS = {
    "nothing but messages": ({}, {}),
    "sampling": (
        {"temperature": 0.0, "top_p": 0.9, "stop": ["a"], "seed": 7},
        {"options": {"num_predict": 100, "temperature": 0.0, "top_p": 0.9, "stop": ["a"], "seed": 7}},
    ),
    "a single stop": ({"stop": "END"}, {"options": {"num_predict": 100, "stop": ["END"]}}),
    "a stream": ({"stream": True}, {"stream": True}),
    "tools": ({"tools": [TOOL], "tool_choice": "auto"}, {"tools": [TOOL]}),
    "no tool": ({"tools": [TOOL], "tool_choice": "none"}, {}),
    "any JSON": ({"response_format": {"type": "json_object"}}, {"format": "json"}),
    "JSON by a schema": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "c", "schema": SCHEMA}}},
        {"format": SCHEMA},
    ),
    "JSON by no schema": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "c"}}},
        {"format": "json"},
    ),
    "text": ({"response_format": {"type": "text"}}, {}),
    "no thinking": ({"reasoning_effort": "minimal"}, {"think": False}),
    "thinking": ({"reasoning_effort": "high"}, {"think": True}),
}


@pytest.mark.parametrize("codec", [msgspec.json, msgspec.msgpack], ids=["json", "msgpack"])
@pytest.mark.parametrize(("asked", "expected"), REQUESTS.values(), ids=REQUESTS)
def test_a_request_has_the_documented_shape(asked, expected, codec):
    assert sent(chat(codec, **asked)) == BASE | expected


@pytest.mark.parametrize(
    ("effort", "level"), [("minimal", "low"), ("low", "low"), ("medium", "medium"), ("high", "high")]
)
def test_gpt_oss_knows_levels_of_thinking(effort, level):
    assert sent(chat(reasoning_effort=effort), "gpt-oss:20b")["think"] == level


MESSAGES = {
    "developer is system": (
        [{"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
        [{"role": "system", "content": "ab"}],
    ),
    "images": (
        [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "what?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                ],
            }
        ],
        [{"role": "user", "content": "what?", "images": ["AAAA"]}],
    ),
    "tools, whose ids may be used again": (
        [
            {"role": "assistant", "tool_calls": [call()]},
            {"role": "tool", "tool_call_id": "call_0", "content": "rain"},
            {"role": "assistant", "tool_calls": [call(arguments="", name="now")]},
            {"role": "tool", "tool_call_id": "call_0", "content": "noon"},
        ],
        [
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "call_0", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}],
            },
            {"role": "tool", "content": "rain", "tool_name": "weather", "tool_call_id": "call_0"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "call_0", "function": {"name": "now", "arguments": {}}}],
            },
            {"role": "tool", "content": "noon", "tool_name": "now", "tool_call_id": "call_0"},
        ],
    ),
}


@pytest.mark.parametrize(("messages", "expected"), MESSAGES.values(), ids=MESSAGES)
def test_messages_are_written_for_ollama(messages, expected):
    assert sent(chat(messages=messages))["messages"] == expected


def image(url):
    return [*HI, {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"messages": image("https://example.org/a.png")}, r"`messages\[1\].content\[0\].*base64 only"),
        ({"messages": image("data:image/png,raw")}, r"`messages\[1\].content\[0\]"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [call(arguments="[1]")]}]},
            r"`messages\[0\].tool_calls\[0\]",
        ),
        ({"tools": [TOOL], "tool_choice": "required"}, "`tool_choice`"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "weather"}}}, "`tool_choice`"),
    ],
)
def test_what_can_not_be_said_is_a_bad_request_that_names_the_place(fields, named):
    with pytest.raises(BadRequest, match=named):
        OLLAMA.chat(chat(**fields), "llama3.2", 100)


def test_the_request_goes_to_the_documented_place():
    request = OLLAMA.chat(chat(), "llama3.2", 10)
    assert (request.method, request.path) == ("POST", "/api/chat")
    assert not OLLAMA.needs_key


def line(message=None, *, done=False, **fields):
    said = {"role": "assistant", "content": ""} | (message or {})
    return (
        msgspec.json.encode(
            {"model": "llama3.2", "created_at": "2025-10-26T17:15:24Z", "message": said, "done": done} | fields
        )
        + b"\n"
    )


def end(reason="stop", **fields):
    counts = {"prompt_eval_count": 26, "eval_count": 8, "total_duration": 5_191_566_416}
    return line(done=True, done_reason=reason, **(counts | fields))


def tool(name, arguments, **fields):
    return {"tool_calls": [{"function": {"name": name, "arguments": arguments}} | fields]}


COUNT = TokenCount(prompt=26, response=8)

REPLIES = {
    "text": (line(done=True, message={"content": "Hello"}, done_reason="stop", prompt_eval_count=26, eval_count=8),
             Reply("Hello", finish_reason="stop", tokens=COUNT)),
    "cut": (line(done=True, message={"content": "Hel"}, done_reason="length", prompt_eval_count=26),
            Reply("Hel", finish_reason="length", tokens=TokenCount(prompt=26))),
    "thinking": (line(done=True, message={"content": "4", "thinking": "hm"}, eval_count=2), Reply("4", "hm", finish_reason="stop")),
    "tools": (
        line(done=True, message={"tool_calls": tool("weather", {"city": "Oslo"})["tool_calls"] + tool("now", {}, id="x")["tool_calls"]}),
        Reply(
            tool_calls=[ToolCall("call_0", FunctionCall("weather", '{"city":"Oslo"}')), ToolCall("x", FunctionCall("now", "{}"))],
            finish_reason="tool_calls",
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("body", "reply"), REPLIES.values(), ids=REPLIES)
def test_a_whole_answer_is_understood(body, reply):
    assert OLLAMA.reply(body) == reply


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        line({"content": "half"}),
        b'{"done":true,"message":null}',
        b'{"error":"out of memory"}',
        line(done=True, message={"content": "a"}, eval_count=-1, prompt_eval_count=1),
        line(done=True, message={"tool_calls": [{"function": None}]}),
        b'{"done":true,"message":{"tool_calls":[{"function":{"name":"x","arguments":{"a":"\xff"}}}]}}',
        line(done=True, message={"content": "a"}) + line(done=True, message={"content": "b"}),
    ],
)
def test_what_is_no_answer_is_malformed(body):
    with pytest.raises(MalformedAnswer):
        OLLAMA.reply(body)


STREAMS = {
    "text": ([line({"content": "Hel"}), line({"content": "lo"}), end()],
             [Delta("Hel"), Delta("lo"), Finished("stop"), COUNT]),
    "text on the last line": ([line(done=True, message={"content": "x"})], [Delta("x"), Finished("stop")]),
    "thinking": ([line({"thinking": "hm"}), line({"content": "4"})], [Reasoning("hm"), Delta("4")]),
    "cut": ([end("length")], [Finished("length"), COUNT]),
    "tools": (
        [line(tool("weather", {"city": "Oslo"})), line(tool("now", {}, id="x")), end()],
        [ToolCallDelta(0, "call_0", "weather", '{"city":"Oslo"}'), ToolCallDelta(1, "x", "now", "{}"),
         Finished("tool_calls"), COUNT],
    ),
    "empty lines": ([b"\n\r\n", line({"content": "a"})], [Delta("a")]),
}  # fmt: skip


@pytest.mark.parametrize(("chunks", "events"), STREAMS.values(), ids=STREAMS)
def test_a_stream_gives_its_events_in_order(chunks, events):
    assert OLLAMA.stream().feed(b"".join(chunks)) == events


@pytest.mark.parametrize(
    ("chunk", "complete"), [(b"", False), (line({"content": "a"}), False), (end()[:-1], False), (end(), True)]
)
def test_a_stream_is_complete_when_its_last_object_came(chunk, complete):
    stream = OLLAMA.stream()
    stream.feed(chunk)
    assert stream.complete is complete


def test_an_error_inside_a_stream_fails_it():
    stream = OLLAMA.stream()
    with pytest.raises(StreamFailed) as caught:
        stream.feed(b'{"error":"an error was encountered while running the model: CUDA error"}\n')
    assert type(caught.value.fault) is ProviderFailed
    assert "CUDA error" in caught.value.fault.message
    assert not stream.complete


@pytest.mark.parametrize(
    "data", [b"{\n", b"[]\n", b"data: {}\n", b'{"message":1}\n', b'{"message":{"content":"\xff"}}\n']
)
def test_a_stream_of_something_else_is_malformed(data):
    with pytest.raises(MalformedAnswer):
        OLLAMA.stream().feed(data)


def test_models_are_listed_with_their_tags():
    body = b'{"models":[{"name":"llama3.2:latest","model":"llama3.2:latest","size":1,"details":{}}]}'
    assert OLLAMA.models(body) == ["llama3.2:latest"]
    request = OLLAMA.models_request()
    assert (request.method, request.path, request.headers) == ("GET", "/api/tags", ())
