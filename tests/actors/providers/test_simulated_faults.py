import json
import re
import time

import pytest
import simulated_provider
from simulated_provider import model

DIALECTS = ("openai", "anthropic", "ollama")
END_MARKERS = {"openai": b"[DONE]", "anthropic": b"message_stop", "ollama": b'"done":true'}
CHUNK_MARKS = {"openai": b'{"content":"x', "anthropic": b"text_delta", "ollama": b'"content":"x'}
EARLY = 0.8
"""A loop's clock has whole milliseconds and stands still while it works, so its timers may fire a little early."""

every = pytest.mark.parametrize("dialect", DIALECTS)
both = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@pytest.fixture(scope="module")
def server():
    with simulated_provider.running() as running:
        yield running


@pytest.fixture
def provider(server):
    server.reset()
    return server


def code_of(dialect, body):
    """What a client goes by, in each dialect."""
    error = body["error"]
    if dialect == "openai":
        assert set(error) == {"message", "type", "param", "code"}
        return error["code"] or error["type"]
    if dialect == "anthropic":
        assert body["type"] == "error"
        return error["type"]
    return error


FAILURES = [
    ({"fail": 400}, 400, "context_length_exceeded", "invalid_request_error", "the input length exceeds the context length"),
    ({"context_tokens": 1}, 400, "context_length_exceeded", "invalid_request_error", "the input length exceeds the context length"),
    ({"fail": 400, "fail_reason": "invalid"}, 400, "invalid_request_error", "invalid_request_error", "invalid request"),
    ({"refuse": True}, 400, "content_policy_violation", "invalid_request_error", "the request was refused by a content policy"),
    ({"fail": 401}, 401, "invalid_api_key", "authentication_error", "unauthorized"),
    ({"fail": 403}, 403, "unsupported_country_region_territory", "permission_error", "forbidden"),
    ({"fail": 404}, 404, "model_not_found", "not_found_error", "model 'sim' not found"),
    ({"fail": 429}, 429, "rate_limit_exceeded", "rate_limit_error", "too many requests"),
    ({"fail": 429, "fail_reason": "quota"}, 429, "insufficient_quota", "invalid_request_error", "you've reached your weekly usage limit, please upgrade to continue"),
    ({"fail": 500}, 500, "server_error", "api_error", "an error was encountered while running the model: unexpected EOF"),
    ({"fail": 503}, 503, "server_error", "overloaded_error", "server busy, please try again.  maximum pending requests exceeded"),
    ({"fail": 529}, 529, "server_error", "overloaded_error", "server busy, please try again.  maximum pending requests exceeded"),
]  # fmt: skip


@both
@every
@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: "-".join(map(str, failure[0].values())))
def test_a_failure_has_the_status_and_the_body_of_its_dialect(provider, failure, dialect, stream):
    knobs, status, *codes = failure
    answered = provider.chat(dialect, model(**knobs), stream=stream)
    assert answered.status == status
    assert code_of(dialect, answered.json()) == codes[DIALECTS.index(dialect)]


@every
def test_an_unknown_model_is_not_found(provider, dialect):
    answered = provider.chat(dialect, "gpt-9?text=hi")
    assert answered.status == 404
    assert "gpt-9" in answered.body.decode()


@every
def test_a_rate_limit_says_when_to_come_back(provider, dialect):
    assert provider.chat(dialect, model(fail=429, retry_after_s=1.5)).headers["retry-after"] == "1.5"


@both
@every
def test_after_its_first_requests_a_fault_is_over(provider, dialect, stream):
    name = model(fail=500, fail_times=2)
    assert [provider.chat(dialect, name, stream=stream).status for _ in range(4)] == [500, 500, 200, 200]


@both
@every
def test_a_broken_connection_is_no_clean_end(provider, dialect, stream):
    answered = provider.chat(dialect, model(chunks=5, text="xxxxx", break_at=2), stream=stream)
    assert isinstance(answered.broken, ConnectionResetError)
    assert END_MARKERS[dialect] not in answered.body
    if stream:
        assert answered.body.count(CHUNK_MARKS[dialect]) == 2
    assert provider.chats()[0]["outcome"] == "broken"


def test_what_was_sent_before_a_break_arrives_however_late_it_is_read(provider):
    provider.set(text="x" * (16 * 2**20), chunks=64, break_at=63)
    connection = provider.connect()
    request = {"model": "sim", "messages": [{"role": "user", "content": "hello"}], "stream": True}
    connection.request("POST", "/v1/chat/completions", json.dumps(request))
    response = connection.getresponse()
    provider.wait_for(lambda chats: chats[0]["outcome"] == "broken")
    pieces = []
    with pytest.raises(ConnectionResetError):
        pieces.extend(iter(response.read1, b""))
    connection.close()
    assert b"".join(pieces).count(b'{"content":"x') == 63


@every
def test_an_early_end_is_clean_http_without_the_end_marker(provider, dialect):
    answered = provider.chat(dialect, model(chunks=5, text="xxxxx", end_early_at=2), stream=True)
    assert answered.broken is None
    assert answered.body.count(CHUNK_MARKS[dialect]) == 2
    assert END_MARKERS[dialect] not in answered.body


@every
def test_an_early_end_of_a_whole_answer_is_half_a_body(provider, dialect):
    answered = provider.chat(dialect, model(end_early_at=0))
    assert answered.broken is None
    with pytest.raises(json.JSONDecodeError):
        answered.json()


@every
def test_an_error_can_come_inside_a_stream(provider, dialect):
    answered = provider.chat(dialect, model(chunks=5, text="xxxxx", error_in_stream_at=2), stream=True)
    assert answered.status == 200
    assert answered.body.count(CHUNK_MARKS[dialect]) == 2
    assert "error" in json.loads(answered.body.strip().splitlines()[-1].removeprefix(b"data: "))
    assert END_MARKERS[dialect] not in answered.body


@both
@every
def test_garbage_is_a_200_that_is_not_json(provider, dialect, stream):
    answered = provider.chat(dialect, model(garbage=True), stream=stream)
    assert (answered.status, answered.body[:6], answered.broken) == (200, b"<html>", None)


@both
@every
def test_the_connection_can_close_before_the_head(provider, dialect, stream):
    with pytest.raises(ConnectionError):
        provider.chat(dialect, model(close_before_head=True), stream=stream)


@both
@every
def test_a_hanging_answer_is_in_flight_until_the_client_goes(provider, dialect, stream):
    connection = provider.connect()
    request = {"model": model(chunks=5, text="xxxxx", hang_at=2), "stream": stream, "max_tokens": 9}
    request["messages"] = [{"role": "user", "content": "hello"}]
    headers = {"anthropic-version": "2023-06-01"}
    connection.request("POST", simulated_provider.PATHS[dialect], json.dumps(request), headers)
    response = connection.getresponse()
    assert response.read1()
    [chat] = provider.wait_for(lambda chats: len(chats) == 1)
    assert (chat["outcome"], chat["chunks_sent"]) == ("in_flight", 2 if stream else 0)
    assert provider.counters()["in_flight"] == 1
    response.close()
    connection.close()
    [chat] = provider.wait_for(lambda chats: chats[0]["outcome"] == "client_closed")
    assert provider.counters()["in_flight"] == 0


@both
@every
def test_latency_comes_before_the_head_and_pace_between_chunks(provider, dialect, stream):
    began = time.monotonic()
    name = model(latency_ms=20, first_token_ms=20, pace_ms=10, chunks=5)
    assert provider.chat(dialect, name, stream=stream).status == 200
    assert time.monotonic() - began >= 0.08 * EARLY


def test_a_body_can_trickle(provider):
    began = time.monotonic()
    assert provider.chat("openai", model(slow_body_ms=50)).json()["object"] == "chat.completion"
    assert time.monotonic() - began >= 0.05 * EARLY


def test_sim_slow_is_slow_by_name_unless_told_otherwise(provider):
    began = time.monotonic()
    assert provider.chat("openai", model("sim-slow", latency_ms=0, pace_ms=0)).status == 200
    between = time.monotonic()
    assert provider.chat("openai", "sim-slow", max_tokens=1).status == 200
    slow = time.monotonic() - between
    assert slow >= 0.3 * EARLY
    assert slow > between - began


def test_headers_can_be_added(provider):
    name = model(headers={"x-ratelimit-remaining-requests": "3"})
    assert provider.chat("openai", name).headers["x-ratelimit-remaining-requests"] == "3"


def test_the_header_covers_the_name_which_covers_the_server(provider):
    provider.set(text="server", finish_reason="length")
    by_name, header = model(text="name"), {"x-simulated": '{"text":"header"}'}
    answers = [
        provider.chat("openai", "sim"),
        provider.chat("openai", by_name),
        provider.chat("openai", by_name, headers=header),
    ]
    choices = [answered.json()["choices"][0] for answered in answers]
    assert [choice["message"]["content"] for choice in choices] == ["server", "name", "header"]
    assert {choice["finish_reason"] for choice in choices} == {"length"}


def test_a_new_behaviour_replaces_the_old_one_and_a_reset_all(provider):
    provider.set(fail=500)
    assert provider.chat("openai").status == 500
    provider.set(text="fine")
    assert provider.chat("openai").status == 200
    provider.reset()
    assert provider.requests() == []
    assert "simulated" in provider.chat("openai").body.decode()


def test_a_provider_that_is_down_fails_its_probes_too(provider):
    provider.set(fail=503)
    assert provider.send("GET", "/v1/models").status == 503
    provider.set(close_before_head=True)
    with pytest.raises(ConnectionError):
        provider.send("GET", "/api/tags")


@pytest.mark.parametrize("wrong", ['{"speed":1}', "[]", "{"])
def test_a_wrong_behaviour_changes_nothing(provider, wrong):
    provider.set(text="kept")
    assert provider.send("POST", "/simulated/behaviour", wrong).status == 400
    assert provider.send("GET", "/simulated/behaviour").json() == {"text": "kept"}


@every
@pytest.mark.parametrize("name", ["sim?speed=1", "sim?fail=abc", "sim?tool_calls=["])
def test_a_wrong_knob_in_a_name_is_a_bad_request(provider, dialect, name):
    answered = provider.chat(dialect, name)
    assert answered.status == 400
    assert "error" in answered.json()


@every
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'{"model":"sim","messages":3}', b"[" * 100_000])
def test_an_unreadable_request_is_a_bad_request(provider, dialect, body):
    path = simulated_provider.PATHS[dialect]
    answered = provider.send("POST", path, body, {"anthropic-version": "2023-06-01"})
    assert answered.status == 400
    assert code_of(dialect, answered.json())


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages.0.role"),
    ],
)
def test_anthropic_is_strict_about_what_it_requires(provider, fields, word):
    answered = provider.chat("anthropic", **fields)
    assert answered.status == 400
    assert word in answered.json()["error"]["message"]


def test_anthropic_requires_its_version_header(provider):
    answered = provider.send("POST", "/v1/messages", "{}")
    assert (answered.status, "anthropic-version" in answered.json()["error"]["message"]) == (400, True)


def test_an_unknown_path_is_not_found(provider):
    assert provider.send("GET", "/v1/embeddings").status == 404
    assert provider.send("GET", "/simulated/nothing").status == 404


@every
def test_streamed_text_can_be_stamped_with_the_time_of_sending(provider, dialect):
    before = time.monotonic_ns()
    answered = provider.chat(dialect, model(chunks=3, text="xxx", pace_ms=1, stamps=True), stream=True)
    stamps = [int(stamp) for stamp in re.findall(rb"@(\d{19}) x", answered.body)]
    assert len(stamps) == 3
    assert before < stamps[0] < stamps[1] < stamps[2] < time.monotonic_ns()


def test_a_header_may_say_any_text(provider):
    header = json.dumps({"text": "grün"}, ensure_ascii=False).encode()
    answered = provider.chat("openai", headers={"x-simulated": header})
    assert answered.json()["choices"][0]["message"]["content"] == "grün"


def test_the_log_shows_what_is_no_json_as_text(provider):
    provider.send("POST", "/v1/chat/completions", b'{"model":"\xff')
    assert provider.chats(bodies=True)[0]["body"] == '{"model":"\ufffd'
