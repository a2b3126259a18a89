"""Errors as the vendors send them, and the fault that each is."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.dialects import DIALECTS
from protocols.dialects.faults import QUOTED_CHARACTERS, retry_after_s, shown
from protocols.errors import (
    BadRequest,
    ContextTooLong,
    Misconfigured,
    ProviderFailed,
    QuorumError,
    RateLimited,
    Refused,
    UnknownModel,
)


def openai(message, type_="invalid_request_error", code=None):
    return msgspec.json.encode({"error": {"message": message, "type": type_, "param": None, "code": code}})


def anthropic(type_, message):
    return msgspec.json.encode({"type": "error", "error": {"type": type_, "message": message}, "request_id": "req_1"})


def ollama(message):
    return msgspec.json.encode({"error": message})


FAULTS = [
    # OpenAI
    ("openai", 400, openai("Invalid value for 'stop'."), BadRequest),
    ("openai", 401, openai("Incorrect API key provided: sk-abc.", code="invalid_api_key"), Misconfigured),
    ("openai", 403, openai("Country, region, or territory not supported"), Misconfigured),
    ("openai", 403, openai("Project `p` does not have access to model `x`", code="model_not_found"), UnknownModel),
    ("openai", 404, openai("The model `x` does not exist or you do not have access", code="model_not_found"), UnknownModel),
    ("openai", 400, openai("This model's maximum context length is 128000 tokens.", code="context_length_exceeded"), ContextTooLong),
    ("openai", 400, openai("Your request was rejected by our safety system.", code="content_policy_violation"), Refused),
    ("openai", 400, openai("Invalid prompt: your prompt was flagged as potentially violating our usage policy."), Refused),
    ("openai", 429, openai("Rate limit reached for gpt-4o", "tokens", "rate_limit_exceeded"), RateLimited),
    ("openai", 429, openai("You exceeded your current quota", "insufficient_quota", "insufficient_quota"), ProviderFailed),
    ("openai", 500, openai("The server had an error", "server_error"), ProviderFailed),
    ("openai", 503, openai("The engine is currently overloaded", "server_error"), ProviderFailed),
    # others that speak its dialect
    ("openai", 402, openai("Insufficient Balance", "unknown_error"), ProviderFailed),  # DeepSeek
    ("openai", 400, openai("Model Not Exist"), UnknownModel),  # DeepSeek
    ("openai", 400, b'{"error":{"message":"x is not a valid model ID","code":400}}', UnknownModel),  # OpenRouter
    ("openai", 403, b'{"error":{"message":"Your input was flagged","code":403}}', Refused),  # OpenRouter
    ("openai", 400, openai("The response was filtered due to Azure's content management policy.", None, "content_filter"), Refused),
    ("openai", 404, openai("The API deployment for this resource does not exist", None, "DeploymentNotFound"), UnknownModel),
    ("openai", 413, openai("Request too large for model `x` on tokens per minute", "tokens", "rate_limit_exceeded"), ContextTooLong),  # Groq
    ("openai", 500, b'{"error":{"code":500,"message":"the request exceeds the available context size"}}', ContextTooLong),  # llama.cpp
    ("openai", 400, b'{"object":"error","message":"max_tokens is too large","type":"BadRequestError","code":400}', BadRequest),  # vLLM
    ("openai", 400, b'{"message":"maximum context length is 4096 tokens","code":400}', ContextTooLong),  # vLLM
    ("openai", 400, b'{"message":"Inappropriate","type":"content_filter"}', Refused),
    ("openai", 422, b'{"detail":[{"loc":["body"],"msg":"Field required","input":"my prompt"}]}', BadRequest),
    ("openai", 400, b'[{"error":{"code":400,"message":"Unable to submit request","status":"INVALID_ARGUMENT"}}]', BadRequest),  # Gemini
    ("openai", 404, b"404 page not found", Misconfigured),
    ("openai", 405, b"<html>Method Not Allowed</html>", Misconfigured),
    ("openai", 408, b"", ProviderFailed),
    ("openai", 502, b"<html>Bad Gateway</html>", ProviderFailed),
    ("openai", 599, b"\xff\xfe", ProviderFailed),
    # Anthropic
    ("anthropic", 400, anthropic("invalid_request_error", "max_tokens: 100000 > 8192, which is the maximum"), BadRequest),
    ("anthropic", 400, anthropic("invalid_request_error", "prompt is too long: 208310 tokens > 200000 maximum"), ContextTooLong),
    ("anthropic", 400, anthropic("invalid_request_error", "input length and `max_tokens` exceed context limit: 199000 + 8000"), ContextTooLong),
    ("anthropic", 400, anthropic("invalid_request_error", "Output blocked by content filtering policy"), Refused),
    ("anthropic", 400, anthropic("invalid_request_error", "Your credit balance is too low to access the Anthropic API."), ProviderFailed),
    ("anthropic", 401, anthropic("authentication_error", "invalid x-api-key"), Misconfigured),
    ("anthropic", 403, anthropic("permission_error", "Your API key does not have permission"), Misconfigured),
    ("anthropic", 404, anthropic("not_found_error", "model: claude-9"), UnknownModel),
    ("anthropic", 413, anthropic("request_too_large", "Request exceeds the maximum size"), ContextTooLong),
    ("anthropic", 429, anthropic("rate_limit_error", "This request would exceed your rate limit"), RateLimited),
    ("anthropic", 500, anthropic("api_error", "Internal server error"), ProviderFailed),
    ("anthropic", 529, anthropic("overloaded_error", "Overloaded"), ProviderFailed),
    # Ollama
    ("ollama", 400, ollama('"llama2" does not support tools'), BadRequest),
    ("ollama", 404, ollama("model 'x' not found"), UnknownModel),
    ("ollama", 404, ollama('model "x" not found, try pulling it first'), UnknownModel),
    ("ollama", 404, b"404 page not found", Misconfigured),
    ("ollama", 500, ollama("llama runner process has terminated"), ProviderFailed),
    ("ollama", 503, ollama("server busy, please try again. maximum pending requests exceeded"), ProviderFailed),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "status", "body", "fault"), FAULTS)
def test_each_error_has_its_fault(kind, status, body, fault):
    found = DIALECTS[kind].fault(status, body, {}, "x")
    assert type(found) is fault, found.message
    assert found.detail["status"] == status


@pytest.mark.parametrize(
    ("kind", "status", "body", "words"),
    [
        ("openai", 404, openai("The model `x` does not exist"), ["model `x`", "`daemonctl models`"]),
        ("ollama", 404, ollama("model 'x' not found"), ["model `x`", "`ollama pull`", "`daemonctl models`"]),
        ("openai", 401, openai("no"), ["`api_key`"]),
        ("openai", 404, b"404 page not found", ["`base_url`"]),
        ("openai", 429, openai("q", code="insufficient_quota"), ["no credit"]),
        ("openai", 400, openai("Invalid value for 'stop'."), ["Invalid value for 'stop'."]),
        ("openai", 400, openai("too long", code="context_length_exceeded"), ["model `x`", "larger model"]),
        ("openai", 502, b"", ["502"]),
    ],
)
def test_a_message_says_what_happened_and_what_to_do(kind, status, body, words):
    message = DIALECTS[kind].fault(status, body, {}, "x").message
    assert [word for word in words if word not in message] == []


def test_the_providers_own_words_are_in_the_detail():
    fault = DIALECTS["openai"].fault(400, openai("Invalid\n value \x1b[31m for stop"), {}, "x")
    assert fault.detail == {"status": 400, "provider_message": "Invalid value [31m for stop"}


def test_a_validating_servers_complaint_is_quoted_without_its_input():
    body = b'{"detail":[{"loc":["body"],"msg":"Field required","input":"my prompt"},{"msg":"Too short"}]}'
    fault = DIALECTS["openai"].fault(422, body, {}, "x")
    assert fault.detail["provider_message"] == "Field required; Too short"


def test_long_words_are_cut():
    fault = DIALECTS["openai"].fault(400, openai("word " * 10_000), {}, "x")
    assert len(fault.detail["provider_message"]) == QUOTED_CHARACTERS
    assert fault.detail["provider_message"].endswith("…")


@pytest.mark.parametrize(
    "body",
    [
        b"secret prompt",
        b"<p>secret prompt</p>",
        b'{"model":"x","messages":[{"role":"user","content":"secret prompt"}]}',
        b'{"detail":[{"msg":"Field required","input":"secret prompt"}]}',
        b'{"error":{"message":{"echo":"secret prompt"}}}',
    ],
)
@pytest.mark.parametrize("status", [400, 404, 422, 429, 500])
def test_a_body_that_may_echo_the_prompt_is_not_quoted(body, status):
    fault = DIALECTS["openai"].fault(status, body, {}, "x")
    assert "secret" not in f"{fault.message}{fault.detail}"


@pytest.mark.parametrize(
    "secret",
    [
        "sk-proj-abcdefghijklmnop",
        "sk-ant-api03-AbCd_12-xyz",
        "sk-proj-********************abcd",
        "gsk_abcDEF123456",
        "AIzaSyA1234567890abcdef",
        "hf_AbCdEfGhIjKl",
        "Bearer abc.def.ghi",
        "bearer   abcdef",
        "dGhpcyBpcyBhIHZlcnkgc2VjcmV0IGtleSE5ODc2NTQzMjE=",
        "0123456789abcdef0123456789abcdef",
    ],
)
@pytest.mark.parametrize("sentence", ["{}", "Incorrect API key provided: {}. Find it at the site.", "key={}", "('{}')"])
def test_keys_are_removed_from_quoted_words(secret, sentence):
    clean = shown(sentence.format(secret))
    assert "[removed]" in clean
    assert secret.split()[-1].strip("=") not in clean


@pytest.mark.parametrize(
    "harmless",
    [
        "The model `gpt-4o-mini-2024-07-18` does not exist",
        "model: claude-sonnet-4-5-20250929",
        "see https://docs.anthropic.com/en/docs/build-with-claude/prompt-caching-for-long-prompts",
        "Rate limit reached: 30000 tokens per minute, requested 31337",
        "model 'hf.co/bartowski/Llama-3.2-1B:Q4' not found",
    ],
)
def test_other_words_stay(harmless):
    assert shown(harmless) == harmless


DATE = "Wed, 21 Oct 2015 07:28:00 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"Retry-After": " 1.5 "}, 1.5),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT", "date": DATE}, 30.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:27:00 GMT", "date": DATE}, 0.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:30", "date": DATE}, None),
        ({"retry-after": "soon", "date": DATE}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "1e9"}, None),
        ({"retry-after": "9" * 400}, None),
        ({"x-ratelimit-reset-requests": "8.64s", "x-ratelimit-reset-tokens": "6m0s"}, 360.0),
        ({"x-ratelimit-reset-requests": "20ms", "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-tokens": "6m0s"}, 0.02),
        ({"x-ratelimit-reset-tokens": "1h1m1.5s", "x-ratelimit-remaining-tokens": "0"}, 3661.5),
        ({"x-ratelimit-reset-tokens": "later"}, None),
        ({"x-ratelimit-reset-tokens": "1s", "retry-after": "3"}, 3.0),
    ],
)  # fmt: skip
def test_a_rate_limit_says_when_to_come_back(headers, seconds):
    found = DIALECTS["openai"].fault(429, b"", headers, "x")
    assert type(found) is RateLimited
    assert found.retry_after_s == pytest.approx(seconds)


def test_only_a_rate_limit_looks_at_the_counters():
    assert retry_after_s({"x-ratelimit-reset-tokens": "6m0s"}, limited=False) is None
    overloaded = DIALECTS["anthropic"].fault(
        529, anthropic("overloaded_error", "Overloaded"), {"retry-after": "9"}, "x"
    )
    assert overloaded.retry_after_s == 9.0
    assert DIALECTS["openai"].fault(400, openai("no"), {"retry-after": "9"}, "x").retry_after_s is None


@given(
    st.sampled_from(sorted(DIALECTS)),
    st.integers(400, 599),
    st.binary(max_size=200) | st.text(max_size=200).map(openai) | st.sampled_from([body for *_, body, _ in FAULTS]),
    st.dictionaries(
        st.sampled_from(["retry-after", "retry-after-ms", "date", "x-ratelimit-reset-tokens"]), st.text(max_size=40)
    ),
)
def test_any_error_is_some_fault(kind, status, body, headers):
    fault = DIALECTS[kind].fault(status, body, headers, "x{y}")
    assert isinstance(fault, QuorumError)
    assert len(fault.detail.get("provider_message", "")) <= QUOTED_CHARACTERS
