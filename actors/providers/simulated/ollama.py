"""Ollama's chat, from the vendor's side (github.com/ollama/ollama, docs/api.md)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from msgspec import Struct

from actors.providers.simulated.answers import Answer, Asked, Tokens
from actors.providers.simulated.dialect import RequestError, Script, bearer, encode, halves
from actors.providers.simulated.failures import Failure, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable


class _Message(Struct):
    role: str
    content: str = ""


class _Options(Struct):
    num_predict: int | None = None


class _Request(Struct):
    model: str
    messages: list[_Message] = []
    stream: bool | None = None
    options: _Options | None = None
    format: str | dict[str, Any] | None = None


_decode = msgspec.json.Decoder(_Request).decode

_ERRORS: dict[Kind, str] = {
    "context": "the input length exceeds the context length",
    "invalid": "invalid request",
    "auth": "unauthorized",
    "forbidden": "forbidden",
    "model": "model '{model}' not found",
    "path": "404 page not found",
    "too_large": "http: request body too large",
    "rate": "too many requests",
    "quota": "you've reached your weekly usage limit, please upgrade to continue",
    "policy": "the request was refused by a content policy",
    "server": "an error was encountered while running the model: unexpected EOF",
    "overloaded": "server busy, please try again.  maximum pending requests exceeded",
}


class Ollama:
    """The dialect of `/api/chat`."""

    name: ClassVar[str] = "ollama"
    stream_type: ClassVar[str] = "application/x-ndjson"

    def key(self, headers: dict[str, str]) -> str | None:
        """The bearer token of a hosted Ollama; a local one has none."""
        return bearer(headers)

    def asked(self, body: bytes, headers: dict[str, str]) -> Asked:  # noqa: ARG002  only Anthropic reads headers
        """The request, read. It streams unless told not to."""
        try:
            request = _decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise RequestError(str(error)) from error
        limit = request.options.num_predict if request.options is not None else None
        said = (message.content for message in reversed(request.messages) if message.role == "user")
        return Asked(
            model=request.model,
            stream=request.stream is not False,
            texts=[message.content for message in request.messages],
            last_user=next(said, ""),
            max_tokens=limit if limit is not None and limit >= 0 else None,  # negative: without a limit
            json_wanted=bool(request.format),
            schema=request.format if isinstance(request.format, dict) else None,
        )

    def whole(self, answer: Answer) -> bytes:
        """One object with everything."""
        message: dict[str, Any] = {"role": "assistant", "content": answer.text}
        if answer.reasoning:
            message["thinking"] = answer.reasoning
        if answer.tool_calls:
            message["tool_calls"] = _tool_calls(answer)
        return encode(_line(answer, message) | _last(answer))

    def script(self, answer: Answer, asked: Asked) -> Script:  # noqa: ARG002  only OpenAI is asked for counts
        """A line a piece; a tool call comes whole; the last line has the counts."""
        messages: list[dict[str, Any]] = [{"content": "", "thinking": piece} for piece in halves(answer.reasoning)]
        messages += [{"content": piece} for piece in answer.pieces]
        messages += [{"content": "", "tool_calls": [call]} for call in _tool_calls(answer)]
        lines = [_line(answer, {"role": "assistant"} | message) | {"done": False} for message in messages]
        last = _line(answer, {"role": "assistant", "content": ""}) | _last(answer)
        return Script(
            opening=[],
            chunks=[encode(line) + b"\n" for line in lines],
            closing=[encode(last) + b"\n"],
            error=self.error(Failure(500, "server")) + b"\n",
        )

    def error(self, failure: Failure) -> bytes:
        """`{"error": "…"}`."""
        return encode({"error": failure.message or _ERRORS[failure.kind].format(model=failure.model)})

    def models(self, names: Iterable[str]) -> bytes:
        """`GET /api/tags`."""
        return encode({"models": [_listed(name) for name in names]})


def _listed(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "model": name,
        "modified_at": "2025-01-01T00:00:00Z",
        "size": 2_019_393_189,
        "digest": "0" * 64,
        "details": {
            "parent_model": "",
            "format": "gguf",
            "family": "simulated",
            "families": ["simulated"],
            "parameter_size": "3.2B",
            "quantization_level": "Q4_K_M",
        },
    }


def _line(answer: Answer, message: dict[str, Any]) -> dict[str, Any]:
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(answer.at))
    fraction = int(answer.at % 1 * 1e9)
    return {"model": answer.model, "created_at": f"{moment}.{fraction:09d}Z", "message": message}


def _last(answer: Answer) -> dict[str, Any]:
    """Ollama has two reasons: a tool call ends with `stop` too."""
    reason = "stop" if answer.finish_reason == "tool_calls" else answer.finish_reason
    end: dict[str, Any] = {"done_reason": reason, "done": True}
    return end if answer.tokens is None else end | _counts(answer.tokens)


def _counts(counts: Tokens) -> dict[str, Any]:
    """Durations are in nanoseconds: 1 ms a prompt token, 10 ms a response token."""
    prompt_ns, response_ns = counts.prompt * 1_000_000, counts.response * 10_000_000
    return {
        "total_duration": 1_000_000 + prompt_ns + response_ns,
        "load_duration": 1_000_000,
        "prompt_eval_count": counts.prompt,
        "prompt_eval_duration": prompt_ns,
        "eval_count": counts.response,
        "eval_duration": response_ns,
    }


def _tool_calls(answer: Answer) -> list[dict[str, Any]]:
    return [{"function": {"name": call.name, "arguments": _object(call.arguments)}} for call in answer.tool_calls]


def _object(arguments: str) -> Any:
    try:
        return msgspec.json.decode(arguments)
    except (msgspec.MsgspecError, RecursionError):
        return {}
