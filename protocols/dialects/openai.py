"""The OpenAI dialect: chat completions, as OpenAI and most others speak them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal

import msgspec
from msgspec import UNSET, Struct

from protocols.chat import (
    Chat,
    Delta,
    Finished,
    FunctionCall,
    JsonSchema,
    JsonSchemaFormat,
    Message,
    NamedTool,
    Reasoning,
    Reply,
    ResponseFormat,
    StreamEvent,
    TokenCount,
    Tool,
    ToolCall,
    ToolCallDelta,
)
from protocols.dialects import faults
from protocols.dialects.dialect import HttpRequest, MalformedAnswer, StreamDecoder, StreamFailed
from protocols.dialects.faults import ErrorBody
from protocols.dialects.reading import Count, JsonStream, read
from protocols.dialects.sse import SseSplitter
from protocols.dialects.writing import schema, tool
from protocols.errors import ProviderFailed, QuorumError

_REASONING_MODEL = re.compile(r"(?:ft:)?(?:o\d|gpt-(?:[5-9]|\d\d))(?![a-z\d])")
"""OpenAI's own models that know `max_completion_tokens` only. Behind another vendor's prefix `max_tokens` is right."""


class _StreamOptions(Struct):
    include_usage: bool = True


class _Body(Struct, omit_defaults=True, kw_only=True):
    """The request: our chat types have this vendor's shape already."""

    model: str
    messages: list[Message]
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: str | None = None
    stream: bool = False
    stream_options: _StreamOptions | None = None


class _Function(Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(Struct):
    function: _Function | None = None
    id: str | None = None
    index: Count | None = None


class _Said(Struct):
    """A message or a piece of one; `reasoning_content` is DeepSeek's name, `reasoning` OpenRouter's."""

    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(Struct):
    message: _Said | None = None
    delta: _Said | None = None
    finish_reason: str | None = None


class _PromptDetails(Struct):
    cached_tokens: Count | None = None
    cache_write_tokens: Count | None = None
    audio_tokens: Count | None = None


class _CompletionDetails(Struct):
    reasoning_tokens: Count | None = None
    audio_tokens: Count | None = None


class _Usage(Struct):
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    total_tokens: Count | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None
    prompt_cache_hit_tokens: Count | None = None


class _Completion(Struct):
    """A whole answer, or a chunk of a stream."""

    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: ErrorBody | str | None = None


class _Model(Struct):
    id: str


class _Models(Struct):
    data: list[_Model]


_ENCODER = msgspec.json.Encoder()
_COMPLETION = msgspec.json.Decoder(_Completion)
_MODELS: msgspec.json.Decoder[_Models | list[_Model]] = msgspec.json.Decoder(_Models | list[_Model])

_NO_PROMPT_DETAILS: Final = _PromptDetails()
_NO_COMPLETION_DETAILS: Final = _CompletionDetails()

_BROKEN_OFF = frozenset({"error", "insufficient_system_resource"})
"""Finish reasons of OpenRouter and DeepSeek which say that the provider, not the model, ended the answer."""


def _reason(said: str, *, refused: bool) -> str:
    """The finish reason in our words; a refusal ends with `stop` there, but it is no answer."""
    if refused and said == "stop":
        return "content_filter"
    return "tool_calls" if said == "function_call" else said


def _tokens(usage: _Usage) -> TokenCount | None:
    """None when nothing was counted. Gemini and xAI leave reasoning out of `completion_tokens` but not of the total."""
    if usage.prompt_tokens is None and usage.completion_tokens is None:
        return None
    prompt = usage.prompt_tokens or 0
    seen = usage.prompt_tokens_details or _NO_PROMPT_DETAILS
    response = max(usage.completion_tokens or 0, (usage.total_tokens or 0) - prompt)
    written = usage.completion_tokens_details or _NO_COMPLETION_DETAILS
    cached = min(seen.cached_tokens or usage.prompt_cache_hit_tokens or 0, prompt)
    return TokenCount(
        prompt=prompt,
        cached=cached,
        cache_write=min(seen.cache_write_tokens or 0, prompt - cached),
        response=response,
        reasoning=min(written.reasoning_tokens or 0, response),
        audio_prompt=min(seen.audio_tokens or 0, prompt),
        audio_response=min(written.audio_tokens or 0, response),
    )


def _format(wanted: ResponseFormat | None) -> ResponseFormat | None:
    if not isinstance(wanted, JsonSchemaFormat):
        return wanted
    asked = wanted.json_schema
    return JsonSchemaFormat(JsonSchema(asked.name, schema(asked.schema) or UNSET, asked.strict, asked.description))


def _calls(found: list[_ToolCall]) -> list[ToolCall]:
    """Whole tool calls; one without an id gets its place as id, so that a result can be sent back."""
    calls = []
    for place, call in enumerate(found):
        if call.function is None or not call.function.name:
            raise MalformedAnswer("the provider's answer has a tool call without a function name")
        calls.append(
            ToolCall(call.id or f"call_{place}", FunctionCall(call.function.name, call.function.arguments or ""))
        )
    return calls


class _Stream(JsonStream):
    """State: whether a finish reason, `[DONE]` and a refusal were seen, and the index of the tool call under way."""

    __slots__ = ("_done", "_finished", "_refused", "_tool_index")

    def __init__(self) -> None:
        super().__init__(SseSplitter())
        self._done = False
        self._finished = False
        self._refused = False
        self._tool_index = -1

    @property
    def complete(self) -> bool:
        """`[DONE]`, or a finish reason: several servers end without `[DONE]`, and none breaks off after a reason.

        The token count may follow the finish reason, so read on to the end of the input.
        """
        return self._done or self._finished

    def _take(self, piece: bytes, events: list[StreamEvent]) -> None:
        if piece == b"[DONE]":
            self._done = True
            return
        chunk = _COMPLETION.decode(piece)
        if chunk.error is not None:
            raise StreamFailed(faults.stream_fault(faults.problem_of(chunk.error)))
        for choice in chunk.choices or ():
            if choice.delta is not None:
                self._said(choice.delta, events)
            if choice.finish_reason and not self._finished:
                self._finish(choice.finish_reason, events)
        if chunk.usage is not None and (tokens := _tokens(chunk.usage)) is not None:
            events.append(tokens)

    def _said(self, delta: _Said, events: list[StreamEvent]) -> None:
        if thought := delta.reasoning_content or delta.reasoning:
            events.append(Reasoning(thought))
        if delta.content:
            events.append(Delta(delta.content))
        if delta.refusal:
            self._refused = True
            events.append(Delta(delta.refusal))
        if delta.tool_calls:
            events.extend(self._tool_delta(call) for call in delta.tool_calls)

    def _finish(self, reason: str, events: list[StreamEvent]) -> None:
        if reason in _BROKEN_OFF:
            raise StreamFailed(ProviderFailed(f"the provider broke the answer off ({reason}); try again later"))
        self._finished = True
        events.append(Finished(_reason(reason, refused=self._refused)))

    def _tool_delta(self, call: _ToolCall) -> ToolCallDelta:
        """Gemini sends no index: there each id begins a new call."""
        if call.index is not None:
            self._tool_index = call.index
        elif call.id or self._tool_index < 0:
            self._tool_index += 1
        function = call.function or _Function()
        return ToolCallDelta(self._tool_index, call.id or None, function.name or None, function.arguments or "")


class OpenAI:
    """See `Dialect`. The base URL includes `/v1`, as this vendor's own library wants it."""

    default_base_url: Final = "https://api.openai.com/v1"
    needs_key: Final = True

    def auth(self, key: str) -> tuple[tuple[str, str], ...]:
        """The headers that carry the key."""
        return (("authorization", f"Bearer {key}"),)

    def chat(self, request: Chat, model: str, max_tokens: int) -> HttpRequest:
        """The chat as a completion request; what a model may not support is sent as it was given."""
        renamed = _REASONING_MODEL.match(model) is not None
        body = _Body(
            model=model,
            messages=request.messages,
            max_tokens=None if renamed else max_tokens,
            max_completion_tokens=max_tokens if renamed else None,
            temperature=request.temperature,
            top_p=request.top_p,
            stop=request.stop,
            seed=request.seed,
            tools=[tool(each) for each in request.tools] if request.tools else None,
            tool_choice=request.tool_choice,
            response_format=_format(request.response_format),
            reasoning_effort=request.reasoning_effort,
            stream=request.stream,
            stream_options=_StreamOptions() if request.stream else None,
        )
        return HttpRequest("/chat/completions", _ENCODER.encode(body))

    def reply(self, body: bytes) -> Reply:
        """A whole answer: its first choice. Raises MalformedAnswer."""
        answer = read(_COMPLETION, body)
        if not answer.choices or (said := answer.choices[0].message) is None:
            label = faults.problem_of(answer.error).label if answer.error is not None else ""
            raise MalformedAnswer(f"the provider's answer has no message{label and f' but an error ({label})'}")
        reason = answer.choices[0].finish_reason
        if reason in _BROKEN_OFF:
            raise MalformedAnswer(f"the provider broke the answer off ({reason})")
        return Reply(
            text=said.content or said.refusal or "",
            reasoning=said.reasoning_content or said.reasoning or "",
            tool_calls=_calls(said.tool_calls) if said.tool_calls else [],
            finish_reason=_reason(reason, refused=bool(said.refusal)) if reason else None,
            tokens=_tokens(answer.usage) if answer.usage is not None else None,
        )

    def stream(self) -> StreamDecoder:
        """A decoder for one streamed answer."""
        return _Stream()

    def fault(self, status: int, body: bytes, headers: Mapping[str, str], model: str) -> QuorumError:
        """What an answer with a status of 400 or more means."""
        return faults.fault(status, body, headers, model)

    def models_request(self) -> HttpRequest:
        """An unbilled request that lists models."""
        return HttpRequest("/models", b"", headers=(), method="GET")

    def models(self, body: bytes) -> list[str]:
        """The names; Together sends the bare list. Raises MalformedAnswer."""
        found = read(_MODELS, body)
        return [model.id for model in (found if isinstance(found, list) else found.data)]


OPENAI: Final = OpenAI()
