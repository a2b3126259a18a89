"""A second process asks the daemon, the daemon asks the simulated provider, and every book says the same to the nano-dollar."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import running_daemon
import simulated_provider
from running_daemon import ROOT, Daemon, eventually, priced, provider
from simulated_provider import Provider

from protocols.chat import Delta, Reasoning, ToolCallDelta

DIALECTS = ("openai", "anthropic", "ollama")
PROMPT_TOKENS, CACHED_TOKENS, RESPONSE_TOKENS = 1_234, 100, 321
PICO = 1_000
"""A dollar per million tokens is a million pico-dollars a token, so a thousand nano-dollars."""


@pytest.fixture(scope="module")
def upstream() -> Iterator[Provider]:
    with simulated_provider.running() as running:
        yield running


@pytest.fixture(scope="module")
def daemon(upstream: Provider) -> Iterator[Daemon]:
    sections = [provider(kind, kind, upstream.base_url(kind), local=False) for kind in DIALECTS]
    sections += [provider("home", "ollama", upstream.base_url("ollama"))]
    sections += [priced(*[f"{kind}:sim" for kind in DIALECTS], cached_input_usd_per_mtok=0.3)]
    with running_daemon.running("\n".join(sections)) as running:
        yield running


@pytest.fixture(autouse=True)
def fresh(upstream: Provider) -> None:
    upstream.reset()


def expected_nano(cached: int) -> int:
    """3 $ in, 0.3 $ cached in, 15 $ out, per million tokens."""
    return (PROMPT_TOKENS - cached) * 3 * PICO + cached * 3 * PICO // 10 + RESPONSE_TOKENS * 15 * PICO


def counted(upstream: Provider, **more: object) -> None:
    upstream.set(
        prompt_tokens=PROMPT_TOKENS,
        cached_tokens=CACHED_TOKENS,
        response_tokens=RESPONSE_TOKENS,
        text="one two three four",
        **more,
    )


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_completion_is_answered_and_every_book_says_the_same(dialect, stream, daemon, upstream):
    counted(upstream)
    spent_before, app = daemon.spent(), f"{dialect}-{stream}"
    with daemon.connect(app=app) as quorum:
        if stream:
            asked = quorum.stream("hello", model=f"{dialect}:sim", max_tokens=1000)
            pieces = [piece.text for piece in asked if isinstance(piece, Delta)]
            answer = asked.answer
            assert len(pieces) > 1
            assert "".join(pieces) == answer.text
        else:
            answer = quorum.chat("hello", model=f"{dialect}:sim", max_tokens=1000)
        row = quorum.call("usage", last=1)["rows"][0]
        groups = quorum.call("spend", by="app")["groups"]
    cached = 0 if dialect == "ollama" else CACHED_TOKENS  # Ollama counts no cache
    cost = expected_nano(cached)
    assert (answer.text, answer.finish_reason, answer.model_used) == ("one two three four", "stop", f"{dialect}:sim")
    assert (answer.usage.prompt_tokens, answer.usage.response_tokens, answer.usage.source) == (
        PROMPT_TOKENS,
        RESPONSE_TOKENS,
        "provider",
    )
    assert (answer.cost_nano_usd, row["cost_nano_usd"]) == (cost, cost)
    assert (row["usage_id"], row["call_id"], row["status"]) == (answer.usage_id, answer.call_id, "ok")
    assert (row["cost_source"], row["token_source"]) == ("price", "provider")
    assert (row["prompt_tokens"], row["cached_tokens"], row["response_tokens"]) == (
        PROMPT_TOKENS,
        cached,
        RESPONSE_TOKENS,
    )
    journal = daemon.database(
        "SELECT entry, held, spent FROM journal WHERE usage_id = ? ORDER BY entry", answer.usage_id
    )
    assert [entry["entry"] for entry in journal] == [0, 1]
    assert journal[0]["held"] == -journal[1]["held"] >= cost
    assert (journal[0]["spent"], journal[1]["spent"]) == (0, cost)
    (stored,) = daemon.database("SELECT cost FROM usage WHERE id = ?", answer.usage_id)
    assert stored["cost"] == cost
    assert next(group["cost_nano_usd"] for group in groups if group["key"] == app) == cost
    assert daemon.spent() - spent_before == cost
    daemon.balanced()
    (asked_upstream,) = upstream.chats()
    assert (asked_upstream["streamed"], asked_upstream["outcome"]) == (stream, "completed")


SCRIPT = """
import sys
from protocols.client import connect_blocking
with connect_blocking(app="another", path=sys.argv[1]) as quorum:
    asked = quorum.stream("hello", model=sys.argv[2])
    for piece in asked:
        print(piece.text, end="")
    print("|", asked.answer.cost_nano_usd)
"""


@pytest.mark.parametrize("dialect", DIALECTS)
def test_another_process_streams_a_completion_with_the_python_client_alone(dialect, daemon, upstream):
    counted(upstream)
    command = [sys.executable, "-c", SCRIPT, str(daemon.socket), f"{dialect}:sim"]
    said = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, check=True
    )
    text, _, cost = said.stdout.decode().partition("|")
    assert (text, int(cost)) == ("one two three four", daemon.rows()[0]["cost_nano_usd"])


def test_a_local_provider_is_free_and_still_has_its_row_and_journal(daemon, upstream):
    counted(upstream)
    with daemon.connect() as quorum:
        answer = quorum.chat("hello", model="home:sim")
    (row,) = daemon.database("SELECT cost, cost_source, response_tokens FROM usage WHERE id = ?", answer.usage_id)
    assert (answer.cost_nano_usd, row) == (0, {"cost": 0, "cost_source": "free", "response_tokens": RESPONSE_TOKENS})
    entries = daemon.database("SELECT held, spent FROM journal WHERE usage_id = ?", answer.usage_id)
    assert entries == [{"held": 0, "spent": 0}] * 2


def test_a_model_without_a_price_runs_without_a_limit_and_says_that_its_cost_is_unknown(daemon, upstream):
    counted(upstream)
    with daemon.connect() as quorum:
        answer = quorum.chat("hello", model="openai:sim?chunks=2")
    assert answer.cost_nano_usd is None
    assert "price_unknown" in {warning.code for warning in answer.warnings}
    (row,) = daemon.database("SELECT cost, cost_source FROM usage WHERE id = ?", answer.usage_id)
    assert row == {"cost": None, "cost_source": "unknown"}


@pytest.mark.parametrize("hello", [True, False], ids=["with hello", "without hello"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_json_lines_need_nothing_but_a_socket_and_json(dialect, hello, daemon, upstream):
    counted(upstream)
    params = {"model": f"{dialect}:sim", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    with daemon.json_lines() as lines:
        if hello:
            lines.send({"t": "hello", "protocol": 1, "app": "editor"})
            welcome = lines.hear()
            assert (welcome["t"], welcome["protocol"]) == ("welcome", 1)
            assert "use" in welcome["rights"]
        lines.send({"t": "call", "id": 1, "method": "chat", "params": params, "deadline_s": 60})
        *items, done = lines.until_end_of(1)
        lines.send({"t": "call", "id": 2, "method": "usage", "params": {"last": 1}})
        (usage,) = lines.until_end_of(2)
    assert done["t"] == "done"
    assert "".join(item["value"]["text"] for item in items) == done["value"]["text"] == "one two three four"
    row = usage["value"]["rows"][0]
    assert (
        row["cost_nano_usd"]
        == done["value"]["cost_nano_usd"]
        == expected_nano(0 if dialect == "ollama" else CACHED_TOKENS)
    )
    assert row["app"] == ("editor" if hello else "unknown")
    daemon.balanced()


def test_several_json_calls_on_one_connection_are_answered_side_by_side(daemon):
    slow = {"model": "home:sim?latency_ms=400", "messages": [{"role": "user", "content": "hi"}]}
    with daemon.json_lines() as lines:
        lines.send({"t": "call", "id": 1, "method": "chat", "params": slow}, {"t": "call", "id": 2, "method": "ping"})
        assert [lines.hear()["id"], lines.hear()["id"]] == [2, 1]


TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_tool_call_comes_through_and_its_result_goes_back(dialect, stream, daemon, upstream):
    upstream.set(tool_calls=[{"name": "weather", "arguments": {"city": "Genève"}}])
    with daemon.connect() as quorum:
        if stream:
            asked = quorum.stream("weather?", model=f"{dialect}:sim", tools=[TOOL])
            pieces = [piece for piece in asked if isinstance(piece, ToolCallDelta)]
            answer = asked.answer
            assert pieces[0].name == "weather"
            assert json.loads("".join(piece.arguments for piece in pieces)) == {"city": "Genève"}
        else:
            answer = quorum.chat("weather?", model=f"{dialect}:sim", tools=[TOOL])
        (call,) = answer.message.tool_calls
        assert (answer.finish_reason, call.function.name) == ("tool_calls", "weather")
        assert json.loads(call.function.arguments) == {"city": "Genève"}
        upstream.set()
        back = [
            {"role": "user", "content": "weather?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": call.id,
                        "type": "function",
                        "function": {"name": "weather", "arguments": call.function.arguments},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": call.id, "content": "22 degrees"},
        ]
        quorum.chat(back, model=f"{dialect}:sim", tools=[TOOL])
    first, second = (request["body"] for request in upstream.chats(bodies=True))
    offered = first["tools"][0]
    assert (
        offered == {"name": "weather", "description": "of a city", "input_schema": TOOL["function"]["parameters"]}
        if dialect == "anthropic"
        else offered == TOOL
    )
    assert "22 degrees" in json.dumps(second["messages"][-1])
    assert "Gen\\u00e8ve" in json.dumps(second["messages"][1])


@pytest.mark.parametrize("wire", ["frames", "json"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_stop_seed_temperature_and_images_reach_the_provider_in_its_own_words(dialect, wire, daemon, upstream):
    message = {
        "role": "user",
        "content": [
            {"type": "text", "text": "what is this?"},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
        ],
    }
    asked = {
        "messages": [{"role": "system", "content": "be brief"}, message],
        "model": f"{dialect}:sim",
        "stop": ["END"],
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 77,
    }
    asked |= {} if dialect == "anthropic" else {"seed": 42}
    if wire == "json":
        with daemon.json_lines() as lines:
            lines.send({"t": "call", "id": 1, "method": "chat", "params": asked})
            assert lines.until_end_of(1)[-1]["t"] == "done"
    else:
        with daemon.connect() as quorum:
            quorum.call("chat", **asked)
    body = upstream.chats(bodies=True)[0]["body"]
    assert PIXEL in json.dumps(body)
    assert "be brief" in json.dumps(body)
    options = body["options"] if dialect == "ollama" else body
    assert (options["temperature"], options["top_p"]) == (0.5, 0.9)
    match dialect:
        case "openai":
            assert (body["stop"], body["seed"], body.get("max_tokens") or body.get("max_completion_tokens")) == (
                ["END"],
                42,
                77,
            )
        case "anthropic":
            assert (body["stop_sequences"], body["max_tokens"], body["system"]) == (["END"], 77, "be brief")
        case "ollama":
            assert (options["stop"], options["seed"], options["num_predict"]) == (["END"], 42, 77)


@pytest.mark.parametrize("wire", ["frames", "json"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_json_schema_shapes_the_answer_on_either_wire(dialect, wire, daemon, upstream):
    shape = {"type": "json_schema", "json_schema": {"name": "count", "schema": SCHEMA, "strict": True}}
    asked = {"messages": [{"role": "user", "content": "count"}], "model": f"{dialect}:sim", "response_format": shape}
    if wire == "json":
        with daemon.json_lines() as lines:
            lines.send({"t": "call", "id": 1, "method": "chat", "params": asked})
            text = lines.until_end_of(1)[-1]["value"]["text"]
    else:
        with daemon.connect() as quorum:
            text = quorum.call("chat", **asked)["text"]
    assert json.loads(text) == {"n": 1}
    assert json.dumps(SCHEMA) in json.dumps(upstream.chats(bodies=True)[0]["body"])


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_reasoning_is_told_apart_from_the_answer_and_counted(dialect, stream, daemon, upstream):
    upstream.set(
        reasoning="first I think", text="then I speak", reasoning_tokens=7, response_tokens=20, prompt_tokens=10
    )
    with daemon.connect() as quorum:
        if stream:
            asked = quorum.stream("hello", model=f"{dialect}:sim", reasoning_effort="low")
            pieces = list(asked)
            answer = asked.answer
            said = "".join(piece.text for piece in pieces if isinstance(piece, Reasoning))
            if dialect != "openai" or said:
                assert said == "first I think"
        else:
            answer = quorum.chat("hello", model=f"{dialect}:sim", reasoning_effort="low")
    assert answer.text == "then I speak"
    assert answer.message.reasoning == "first I think"
    assert answer.usage.response_tokens == 20
    assert answer.cost_nano_usd == 10 * 3 * PICO + 20 * 15 * PICO
    if dialect == "openai":  # the one that counts it
        assert answer.usage.reasoning_tokens == 7


UNCOUNTED = {
    "text": {"text": "word " * 400},
    "reasoning": {"reasoning": "thought " * 400, "text": ""},
    "a tool call": {"tool_calls": [{"name": "weather", "arguments": {"city": "Genève " * 300}}]},
}


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("what", UNCOUNTED)
def test_an_answer_that_the_provider_did_not_count_is_charged_by_all_that_it_said(what, stream, daemon, upstream):
    upstream.set(no_usage=True, **UNCOUNTED[what])
    asked = {"messages": [{"role": "user", "content": "hi"}], "model": "openai:sim", "max_tokens": 4000}
    with daemon.connect() as quorum:
        answer = quorum.call("chat", **asked, stream=stream)
    assert answer["usage"]["source"] == "estimate"
    assert answer["usage"]["response_tokens"] > 300
    assert answer["cost_nano_usd"] > 300 * 15 * PICO
    assert "estimated" in {warning["code"] for warning in answer["warnings"]}


def test_the_first_call_after_a_start_needs_to_name_no_model():
    with running_daemon.running() as bare, bare.connect() as quorum:
        assert quorum.chat("hello").simulated


def test_with_no_config_and_no_key_the_simulated_provider_answers_and_everything_says_so():
    with running_daemon.running() as bare:
        with bare.connect() as quorum:
            eventually(lambda: quorum.call("models")["models"], "the models are listed")
            answer = quorum.chat("hello")
            status = quorum.call("status")
        assert answer.simulated
        assert answer.model_used.startswith("simulated:")
        assert "simulated" in {warning.code for warning in answer.warnings}
        assert status["simulated"]
        assert any("simulated" in line for line in status["warnings"])
        assert "simulated" in bare.log_text()
        shown = bare.ctl("chat", "hello")
        assert shown.code == 0
        assert "simulated" in shown.out + shown.err
        assert "simulated" in bare.ctl("status").out
