"""The shapes, as their vendors document them, read here without any of our own decoders."""

import json
from typing import NamedTuple

import pytest
import simulated_provider
from simulated_provider import model

DIALECTS = ("openai", "anthropic", "ollama")
HELLO = 'This is a simulated answer: no provider is configured. You said: "hello".'
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}


class Read(NamedTuple):
    text: str
    reasoning: str
    tools: list
    reason: str
    counts: tuple[int, int] | None


@pytest.fixture(scope="module")
def provider():
    with simulated_provider.running() as running:
        yield running


def events(body):
    """Server-sent events: their names and data."""
    for block in body.decode().removesuffix("\n\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        yield fields.get("event"), fields["data"]


def read_openai(body, *, stream):
    if not stream:
        answer = json.loads(body)
        message = answer["choices"][0]["message"]
        called = [call["function"] for call in message.get("tool_calls", [])]
        return Read(
            message["content"] or "",
            message.get("reasoning_content", ""),
            [(call["name"], call["arguments"]) for call in called],
            answer["choices"][0]["finish_reason"],
            openai_counts(answer.get("usage")),
        )
    *chunks, (_, done) = events(body)
    assert done == "[DONE]"
    values = [json.loads(data) for _, data in chunks]
    choices = [choice for value in values for choice in value["choices"]]
    deltas = [choice["delta"] for choice in choices]
    tools = {}
    for piece in (piece for delta in deltas for piece in delta.get("tool_calls", [])):
        name, arguments = tools.get(piece["index"], ("", ""))
        function = piece["function"]
        tools[piece["index"]] = (name + function.get("name", ""), arguments + function["arguments"])
    return Read(
        "".join(delta.get("content", "") for delta in deltas),
        "".join(delta.get("reasoning_content", "") for delta in deltas),
        list(tools.values()),
        choices[-1]["finish_reason"],
        openai_counts(values[-1].get("usage")),
    )


def openai_counts(usage):
    return None if usage is None else (usage["prompt_tokens"], usage["completion_tokens"])


def read_anthropic(body, *, stream):
    if not stream:
        answer = json.loads(body)
        blocks = answer["content"]
        return Read(
            "".join(block["text"] for block in blocks if block["type"] == "text"),
            "".join(block["thinking"] for block in blocks if block["type"] == "thinking"),
            [(block["name"], json.dumps(block["input"])) for block in blocks if block["type"] == "tool_use"],
            answer["stop_reason"],
            anthropic_counts(answer.get("usage"), answer.get("usage")),
        )
    told = [(name, json.loads(data)) for name, data in events(body)]
    assert all(name == value["type"] for name, value in told)
    assert [name for name, _ in (told[0], told[-2], told[-1])] == ["message_start", "message_delta", "message_stop"]
    deltas = [value["delta"] for name, value in told if name == "content_block_delta"]
    starts = [value["content_block"] for name, value in told if name == "content_block_start"]
    arguments = "".join(delta.get("partial_json", "") for delta in deltas)
    end = told[-2][1]
    return Read(
        "".join(delta.get("text", "") for delta in deltas),
        "".join(delta.get("thinking", "") for delta in deltas),
        [(start["name"], arguments) for start in starts if start["type"] == "tool_use"],
        end["delta"]["stop_reason"],
        anthropic_counts(told[0][1]["message"].get("usage"), end.get("usage")),
    )


def anthropic_counts(first, last):
    if first is None:
        return None
    cache = first["cache_read_input_tokens"] + first["cache_creation_input_tokens"]
    return first["input_tokens"] + cache, last["output_tokens"]


def read_ollama(body, *, stream):
    lines = [json.loads(line) for line in body.splitlines()]
    assert stream or len(lines) == 1
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    messages = [line["message"] for line in lines]
    last = lines[-1]
    return Read(
        "".join(message["content"] for message in messages),
        "".join(message.get("thinking", "") for message in messages),
        [
            (call["function"]["name"], json.dumps(call["function"]["arguments"]))
            for message in messages
            for call in message.get("tool_calls", [])
        ],
        last["done_reason"],
        (last["prompt_eval_count"], last["eval_count"]) if "eval_count" in last else None,
    )


READERS = {"openai": read_openai, "anthropic": read_anthropic, "ollama": read_ollama}
REASONS = {
    "openai": {"stop": "stop", "length": "length", "tool_calls": "tool_calls"},
    "anthropic": {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"},
    "ollama": {"stop": "stop", "length": "length", "tool_calls": "stop"},
}


def read(provider, dialect, name="sim", *, stream=False, **fields):
    if dialect == "openai" and stream:
        fields.setdefault("stream_options", {"include_usage": True})
    answered = provider.chat(dialect, name, stream=stream, **fields)
    assert answered.status == 200
    assert answered.broken is None
    return READERS[dialect](answered.body, stream=stream)


both = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
every = pytest.mark.parametrize("dialect", DIALECTS)


@both
@every
def test_hello_is_answered_alike_everywhere(provider, dialect, stream):
    assert read(provider, dialect, stream=stream) == Read(HELLO, "", [], REASONS[dialect]["stop"], (2, 19))


@both
@every
def test_reasoning_is_told_apart_from_text_and_counted(provider, dialect, stream):
    found = read(provider, dialect, model(reasoning="hm, hello", text="Hi"), stream=stream)
    assert (found.text, found.reasoning, found.counts) == ("Hi", "hm, hello", (2, 4))


@both
@every
def test_tools_are_called(provider, dialect, stream):
    found = read(
        provider, dialect, model(tool_calls=[{"name": "look_up", "arguments": {"city": "Graz"}}]), stream=stream
    )
    [(name, arguments)] = found.tools
    assert (name, json.loads(arguments), found.text) == ("look_up", {"city": "Graz"}, "")
    assert found.reason == REASONS[dialect]["tool_calls"]


@both
@every
def test_an_answer_is_cut_at_its_limit(provider, dialect, stream):
    limit = {"options": {"num_predict": 3}} if dialect == "ollama" else {"max_tokens": 3}
    found = read(provider, dialect, stream=stream, **limit)
    assert (found.text, found.reason, found.counts) == (HELLO[:12], REASONS[dialect]["length"], (2, 3))


@both
@every
def test_counts_can_be_left_out(provider, dialect, stream):
    assert read(provider, dialect, model(no_usage=True), stream=stream).counts is None


@both
@every
def test_counts_can_be_declared(provider, dialect, stream):
    name = model(prompt_tokens=100, cached_tokens=40, response_tokens=7)
    assert read(provider, dialect, name, stream=stream).counts == (100, 7)


@every
def test_a_stream_has_as_many_chunks_as_asked_for(provider, dialect):
    provider.reset()
    assert read(provider, dialect, model(chunks=33), stream=True).text
    [chat] = provider.chats()
    assert (chat["chunks_sent"], chat["streamed"], chat["outcome"]) == (33, True, "completed")


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "look_up"}}])
@both
def test_openai_calls_the_tool_that_it_must(provider, stream, choice):
    found = read(provider, "openai", stream=stream, tools=[TOOL], tool_choice=choice)
    assert found.tools == [("look_up", "{}")]


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "look_up"}])
@both
def test_anthropic_calls_the_tool_that_it_must(provider, stream, choice):
    found = read(provider, "anthropic", stream=stream, tools=[{"name": "look_up"}], tool_choice=choice)
    assert found.tools == [("look_up", "{}")]


@pytest.mark.parametrize(
    ("dialect", "fields"),
    [
        ("openai", {"response_format": {"type": "json_object"}}),
        ("anthropic", {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}}),
        ("ollama", {"format": "json"}),
    ],
)
def test_json_is_answered_on_request(provider, dialect, fields):
    assert isinstance(json.loads(read(provider, dialect, **fields).text), dict)


def test_openai_counts_a_stream_only_if_asked(provider):
    assert read(provider, "openai", stream=True, stream_options={}).counts is None


def test_openai_details_cached_and_reasoning_tokens(provider):
    usage = provider.chat("openai", model(cached_tokens=1, reasoning="hm")).json()["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == 1
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 1


def test_anthropic_counts_cached_tokens_apart(provider):
    name = model(prompt_tokens=100, cached_tokens=40, cache_write_tokens=10)
    usage = provider.chat("anthropic", name).json()["usage"]
    assert [usage[f"{kind}input_tokens"] for kind in ("", "cache_read_", "cache_creation_")] == [50, 40, 10]


def test_the_system_prompt_counts_alike_in_all_dialects(provider):
    user = {"role": "user", "content": "hello"}
    messages = [{"role": "system", "content": "Be brief."}, user]
    counts = {read(provider, dialect, messages=messages).counts for dialect in ("openai", "ollama")}
    assert counts == {read(provider, "anthropic", system="Be brief.", messages=[user]).counts}


def test_texts_in_parts_and_tool_results_are_read(provider):
    result = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "42"}]}
    parts = [result, {"type": "text", "text": "So?"}]
    assert '"42So?"' in read(provider, "anthropic", messages=[{"role": "user", "content": parts}]).text


@pytest.mark.parametrize(
    ("path", "headers", "names"),
    [
        ("/v1/models", {}, lambda body: [row["id"] for row in body["data"]]),
        ("/models", {}, lambda body: [row["id"] for row in body["data"]]),
        ("/v1/models", {"anthropic-version": "2023-06-01"}, lambda body: [row["display_name"] for row in body["data"]]),
        ("/api/tags", {}, lambda body: [row["name"] for row in body["models"]]),
    ],
)
def test_models_are_listed(provider, path, headers, names):
    assert names(provider.send("GET", path, headers=headers).json()) == ["sim", "sim-fast", "sim-slow"]


def test_ollama_streams_unless_told_not_to(provider):
    body = json.dumps({"model": "sim", "messages": [{"role": "user", "content": "hello"}]})
    answered = provider.send("POST", "/api/chat", body)
    assert answered.headers["content-type"] == "application/x-ndjson"
    assert read_ollama(answered.body, stream=True).text == HELLO


def test_ollama_finds_the_latest_by_its_bare_name_and_tag(provider):
    assert provider.chat("ollama", "sim:latest").status == 200


def test_openai_answers_without_the_version_in_its_path(provider):
    body = json.dumps({"model": "sim", "messages": [{"role": "user", "content": "hello"}]})
    assert provider.send("POST", "/chat/completions", body).json()["object"] == "chat.completion"
