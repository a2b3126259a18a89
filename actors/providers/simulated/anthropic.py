"""Anthropic's messages, from the vendor's side (docs.anthropic.com/en/api/messages)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from msgspec import Struct

from actors.providers.simulated.answers import Answer, Asked, CalledTool, Tokens
from actors.providers.simulated.dialect import Content, RequestError, Script, encode, halves, texts_of
from actors.providers.simulated.failures import Failure, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable


class _Message(Struct):
    role: str
    content: Content


class _Tool(Struct):
    name: str


class _Choice(Struct):
    type: str
    name: str | None = None


class _Format(Struct):
    schema: dict[str, Any] | None = None


class _OutputConfig(Struct):
    format: _Format | None = None


class _Request(Struct):
    model: str
    messages: list[_Message]
    max_tokens: int
    system: Content = None
    stream: bool = False
    tools: list[_Tool] = []
    tool_choice: _Choice | None = None
    output_config: _OutputConfig | None = None
    output_format: _Format | None = None
    """Where the format stood before `output_config`."""


_decode = msgspec.json.Decoder(_Request).decode

_FINISH = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
_ERRORS: dict[Kind, tuple[str, str]] = {
    "context": ("invalid_request_error", "prompt is too long: 208310 tokens > 200000 maximum"),
    "invalid": ("invalid_request_error", "The request body is not valid JSON"),
    "auth": ("authentication_error", "invalid x-api-key"),
    "forbidden": ("permission_error", "Your API key does not have permission to use the specified resource."),
    "model": ("not_found_error", "model: {model}"),
    "path": ("not_found_error", "Not Found"),
    "too_large": ("request_too_large", "Request exceeds the maximum size"),
    "rate": ("rate_limit_error", "This request would exceed your organization's rate limit. Please try again later."),
    "quota": ("invalid_request_error", "Your credit balance is too low to access the Anthropic API."),
    "policy": ("invalid_request_error", "Output blocked by content filtering policy"),
    "server": ("api_error", "Internal server error"),
    "overloaded": ("overloaded_error", "Overloaded"),
}


class Anthropic:
    """The dialect of `/v1/messages`."""

    name: ClassVar[str] = "anthropic"
    stream_type: ClassVar[str] = "text/event-stream; charset=utf-8"

    def key(self, headers: dict[str, str]) -> str | None:
        """`x-api-key`."""
        return headers.get("x-api-key") or None

    def asked(self, body: bytes, headers: dict[str, str]) -> Asked:
        """The request, read. The vendor insists on the version header and on `max_tokens`, and so do we."""
        if "anthropic-version" not in headers:
            raise RequestError("anthropic-version: header is required")
        try:
            request = _decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise RequestError(f"Invalid request: {error}") from error
        _check(request)
        texts = [*texts_of(request.system)]
        for message in request.messages:
            texts += texts_of(message.content)
        wanted = request.output_config.format if request.output_config is not None else request.output_format
        return Asked(
            model=request.model,
            stream=request.stream,
            texts=texts,
            last_user=_last_user(request.messages),
            max_tokens=request.max_tokens,
            json_wanted=wanted is not None,
            schema=wanted.schema if wanted is not None else None,
            forced_tool=_forced_tool(request),
        )

    def whole(self, answer: Answer) -> bytes:
        """A `message` object."""
        content: list[dict[str, Any]] = []
        if answer.reasoning:
            content.append({"type": "thinking", "thinking": answer.reasoning, "signature": "simulated"})
        if answer.text:
            content.append({"type": "text", "text": answer.text})
        content += [_tool_use(answer, at, call) for at, call in enumerate(answer.tool_calls)]
        usage = None if answer.tokens is None else _usage(answer.tokens, answer.tokens.response)
        return encode(_message(answer, content, _finish(answer), usage))

    def script(self, answer: Answer, asked: Asked) -> Script:  # noqa: ARG002  only OpenAI is asked for counts
        """The events of a message; blocks open and close with their first and last chunk."""
        usage = None if answer.tokens is None else _usage(answer.tokens, 1)
        start = _message(answer, [], None, usage)
        end: dict[str, Any] = {"delta": {"stop_reason": _finish(answer), "stop_sequence": None}}
        if answer.tokens is not None:
            end["usage"] = {"output_tokens": answer.tokens.response}
        return Script(
            opening=[_event("message_start", {"message": start}), _event("ping", {})],
            chunks=_blocks(answer),
            closing=[_event("message_delta", end), _event("message_stop", {})],
            error=b"event: error\ndata: " + self.error(Failure(529, "overloaded")) + b"\n\n",
        )

    def error(self, failure: Failure) -> bytes:
        """`{"type": "error", "error": {…}}`."""
        kind, usual = _ERRORS[failure.kind]
        message = failure.message or usual.format(model=failure.model)
        return encode({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_simulated"})

    def models(self, names: Iterable[str]) -> bytes:
        """`GET /v1/models`."""
        rows = [
            {"type": "model", "id": name, "display_name": name, "created_at": "2025-01-01T00:00:00Z"} for name in names
        ]
        ids = [row["id"] for row in rows]
        ends = {"first_id": ids[0] if ids else None, "last_id": ids[-1] if ids else None}
        return encode({"data": rows, "has_more": False} | ends)


def _check(request: _Request) -> None:
    if request.max_tokens < 1:
        raise RequestError("max_tokens: Input should be greater than or equal to 1")
    if not request.messages:
        raise RequestError("messages: at least one message is required")
    for at, message in enumerate(request.messages):
        if message.role not in ("user", "assistant"):
            raise RequestError(f"messages.{at}.role: Input should be 'user' or 'assistant'")


def _last_user(messages: list[_Message]) -> str:
    said = (message.content for message in reversed(messages) if message.role == "user")
    return "".join(texts_of(next(said, None)))


def _forced_tool(request: _Request) -> str | None:
    choice = request.tool_choice
    if choice is None:
        return None
    if choice.type == "tool":
        return choice.name
    return request.tools[0].name if choice.type == "any" and request.tools else None


def _finish(answer: Answer) -> str:
    return _FINISH.get(answer.finish_reason, answer.finish_reason)


def _message(answer: Answer, content: list[dict[str, Any]], reason: str | None, usage: Any) -> dict[str, Any]:
    message: dict[str, Any] = {
        "id": f"msg_sim{answer.number:010d}",
        "type": "message",
        "role": "assistant",
        "model": answer.model,
        "content": content,
        "stop_reason": reason,
        "stop_sequence": None,
    }
    return message if usage is None else message | {"usage": usage}


def _usage(counts: Tokens, response: int) -> dict[str, Any]:
    """Anthropic's `input_tokens` are those that neither came from the cache nor went into it."""
    return {
        "input_tokens": max(0, counts.prompt - counts.cached - counts.cache_write),
        "cache_creation_input_tokens": counts.cache_write,
        "cache_read_input_tokens": counts.cached,
        "output_tokens": response,
        "service_tier": "standard",
    }


def _tool_use(answer: Answer, at: int, call: CalledTool) -> dict[str, Any]:
    return _tool_start(answer, at, call) | {"input": _object(call.arguments)}


def _tool_start(answer: Answer, at: int, call: CalledTool) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"toolu_sim{answer.number}_{at}", "name": call.name, "input": {}}


def _object(arguments: str) -> Any:
    try:
        return msgspec.json.decode(arguments)
    except (msgspec.MsgspecError, RecursionError):
        return {}


def _blocks(answer: Answer) -> list[bytes]:
    chunks: list[bytes] = []
    if answer.reasoning:
        deltas = [{"type": "thinking_delta", "thinking": piece} for piece in halves(answer.reasoning)]
        deltas.append({"type": "signature_delta", "signature": "simulated"})
        chunks += _block(0, {"type": "thinking", "thinking": "", "signature": ""}, deltas)
    index = 1 if answer.reasoning else 0
    if answer.pieces:
        deltas = [{"type": "text_delta", "text": piece} for piece in answer.pieces]
        chunks += _block(index, {"type": "text", "text": ""}, deltas)
        index += 1
    for at, call in enumerate(answer.tool_calls):
        deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in ("", *halves(call.arguments))]
        chunks += _block(index + at, _tool_start(answer, at, call), deltas)
    return chunks


def _block(index: int, start: dict[str, Any], deltas: list[dict[str, str]]) -> list[bytes]:
    """One chunk a delta; the block's own events ride with the first and the last, so that chunks stay what is counted."""
    chunks = [_event("content_block_delta", {"index": index, "delta": delta}) for delta in deltas]
    chunks[0] = _event("content_block_start", {"index": index, "content_block": start}) + chunks[0]
    chunks[-1] += _event("content_block_stop", {"index": index})
    return chunks


def _event(name: str, value: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: ".encode() + encode({"type": name} | value) + b"\n\n"
