"""OpenAI's chat completions, from the vendor's side (platform.openai.com/docs/api-reference/chat)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from msgspec import Struct

from actors.providers.simulated.answers import Answer, Asked, CalledTool, Tokens
from actors.providers.simulated.dialect import Content, RequestError, Script, bearer, encode, halves, texts_of
from actors.providers.simulated.failures import Failure, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable


class _Message(Struct):
    role: str
    content: Content = None


class _Function(Struct):
    name: str


class _Tool(Struct):
    function: _Function


class _Schema(Struct):
    schema: dict[str, Any] | None = None


class _Format(Struct):
    type: str
    json_schema: _Schema | None = None


class _StreamOptions(Struct):
    include_usage: bool = False


class _Request(Struct):
    model: str
    messages: list[_Message]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    response_format: _Format | None = None
    tools: list[_Tool] | None = None
    tool_choice: str | _Tool | None = None


_decode = msgspec.json.Decoder(_Request).decode

_ERRORS: dict[Kind, tuple[str, str | None, str | None, str]] = {
    "context": ("invalid_request_error", "messages", "context_length_exceeded", "This model's maximum context length is 8192 tokens. However, your messages resulted in more tokens. Please reduce the length of the messages."),
    "invalid": ("invalid_request_error", None, None, "We could not parse the JSON body of your request."),
    "auth": ("invalid_request_error", None, "invalid_api_key", "Incorrect API key provided. You can find your API key at https://platform.openai.com/account/api-keys."),
    "forbidden": ("request_forbidden", None, "unsupported_country_region_territory", "Country, region, or territory not supported"),
    "model": ("invalid_request_error", None, "model_not_found", "The model `{model}` does not exist or you do not have access to it."),
    "path": ("invalid_request_error", None, "unknown_url", "Invalid URL"),
    "too_large": ("invalid_request_error", None, None, "Request body is too large."),
    "rate": ("requests", None, "rate_limit_exceeded", "Rate limit reached for {model} on requests per min (RPM): Limit 3, Used 3, Requested 1. Please try again in {retry}s."),
    "quota": ("insufficient_quota", None, "insufficient_quota", "You exceeded your current quota, please check your plan and billing details."),
    "policy": ("invalid_request_error", None, "content_policy_violation", "Your request was rejected as a result of our safety system."),
    "server": ("server_error", None, None, "The server had an error while processing your request. Sorry about that!"),
    "overloaded": ("server_error", None, None, "The engine is currently overloaded, please try again later"),
}  # fmt: skip


class OpenAI:
    """The dialect of `/v1/chat/completions`."""

    name: ClassVar[str] = "openai"
    stream_type: ClassVar[str] = "text/event-stream; charset=utf-8"

    def key(self, headers: dict[str, str]) -> str | None:
        """The bearer token."""
        return bearer(headers)

    def asked(self, body: bytes, headers: dict[str, str]) -> Asked:  # noqa: ARG002  only Anthropic reads headers
        """The request, read."""
        try:
            request = _decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise RequestError(f"Invalid request: {error}") from error
        wanted = request.response_format
        limit = request.max_completion_tokens
        return Asked(
            model=request.model,
            stream=bool(request.stream),
            texts=[text for message in request.messages for text in texts_of(message.content)],
            last_user=_last_user(request.messages),
            max_tokens=request.max_tokens if limit is None else limit,
            json_wanted=wanted is not None and wanted.type != "text",
            schema=wanted.json_schema.schema if wanted is not None and wanted.json_schema is not None else None,
            forced_tool=_forced_tool(request),
            usage_wanted=request.stream_options is not None and request.stream_options.include_usage,
        )

    def whole(self, answer: Answer) -> bytes:
        """A `chat.completion` object."""
        message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
        if answer.reasoning:
            message["reasoning_content"] = answer.reasoning
        if answer.tool_calls:
            message["content"] = answer.text or None
            message["tool_calls"] = [_tool_call(answer, at, call) for at, call in enumerate(answer.tool_calls)]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish_reason}
        body = _head(answer, "chat.completion") | {"choices": [choice]}
        if answer.tokens is not None:
            body["usage"] = _usage(answer.tokens)
        return encode(body)

    def script(self, answer: Answer, asked: Asked) -> Script:
        """`chat.completion.chunk` events; the counts come in one of their own, if asked for."""
        head = _head(answer, "chat.completion.chunk")
        with_usage = asked.usage_wanted and answer.tokens is not None
        if with_usage:
            head["usage"] = None
        deltas = [{"reasoning_content": piece} for piece in halves(answer.reasoning)]
        deltas += [{"content": piece} for piece in answer.pieces]
        for at, call in enumerate(answer.tool_calls):
            deltas += _tool_deltas(answer, at, call)
        closing = [_event(head, {}, answer.finish_reason)]
        if with_usage and answer.tokens is not None:
            closing.append(_sse(head | {"choices": [], "usage": _usage(answer.tokens)}))
        return Script(
            opening=[_event(head, {"role": "assistant", "content": "", "refusal": None})],
            chunks=[_event(head, delta) for delta in deltas],
            closing=[*closing, b"data: [DONE]\n\n"],
            error=b"data: " + self.error(Failure(500, "server")) + b"\n\n",
        )

    def error(self, failure: Failure) -> bytes:
        """`{"error": {…}}`."""
        kind, param, code, usual = _ERRORS[failure.kind]
        message = failure.message or usual.format(model=failure.model, retry=failure.retry_after_s or 20)
        return encode({"error": {"message": message, "type": kind, "param": param, "code": code}})

    def models(self, names: Iterable[str]) -> bytes:
        """`GET /v1/models`."""
        rows = [{"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "simulated"} for name in names]
        return encode({"object": "list", "data": rows})


def _last_user(messages: list[_Message]) -> str:
    said = (message.content for message in reversed(messages) if message.role == "user")
    return "".join(texts_of(next(said, None)))


def _forced_tool(request: _Request) -> str | None:
    if isinstance(request.tool_choice, _Tool):
        return request.tool_choice.function.name
    if request.tool_choice == "required" and request.tools:
        return request.tools[0].function.name
    return None


def _head(answer: Answer, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-sim{answer.number:010d}",
        "object": kind,
        "created": int(answer.at),
        "model": answer.model,
        "service_tier": "default",
        "system_fingerprint": "fp_simulated",
    }


def _usage(counts: Tokens) -> dict[str, Any]:
    return {
        "prompt_tokens": counts.prompt,
        "completion_tokens": counts.response,
        "total_tokens": counts.prompt + counts.response,
        "prompt_tokens_details": {"cached_tokens": counts.cached, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": counts.reasoning, "audio_tokens": 0},
    }


def _tool_call(answer: Answer, at: int, call: CalledTool) -> dict[str, Any]:
    return {
        "id": f"call_sim{answer.number}_{at}",
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def _tool_deltas(answer: Answer, at: int, call: CalledTool) -> list[dict[str, Any]]:
    first = _tool_call(answer, at, CalledTool(call.name, ""))
    rest = [{"index": at, "function": {"arguments": piece}} for piece in halves(call.arguments)]
    return [{"tool_calls": [delta]} for delta in ({"index": at} | first, *rest)]


def _event(head: dict[str, Any], delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return _sse(head | {"choices": [choice]})


def _sse(value: dict[str, Any]) -> bytes:
    return b"data: " + encode(value) + b"\n\n"
