"""The Ollama dialect: `/api/chat`, a JSON object a line when streamed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Raw, Struct

from protocols.chat import (
    Chat,
    Delta,
    Finished,
    FunctionCall,
    ImagePart,
    JsonObjectFormat,
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
from protocols.dialects.faults import ErrorBody, Meaning
from protocols.dialects.ndjson import LineSplitter
from protocols.dialects.reading import Count, JsonStream, raw_text, read
from protocols.dialects.writing import arguments, base64_image, schema, stops, tool
from protocols.errors import BadRequest, QuorumError, UnknownModel

_UNKNOWN_MODEL: Final = Meaning(
    UnknownModel,
    "model `{model}` is not on this Ollama; `ollama pull` fetches it, `daemonctl models` lists what is there",
)


class _Function(Struct):
    name: str
    arguments: Raw


class _ToolCall(Struct):
    id: str
    function: _Function


class _Message(Struct, omit_defaults=True):
    """`tool_name` is how a result finds its call; newer versions also read the ids."""

    role: str
    content: str = msgspec.field(default_factory=str)
    images: list[str] | None = None
    tool_calls: list[_ToolCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class _Options(Struct, omit_defaults=True):
    num_predict: int
    temperature: float | None = None
    top_p: float | None = None
    stop: list[str] | None = None
    seed: int | None = None


class _Body(Struct, omit_defaults=True, kw_only=True):
    """`stream` has no default: Ollama streams unless told not to."""

    model: str
    messages: list[_Message]
    stream: bool
    options: _Options
    format: Raw | None = None
    tools: list[Tool] | None = None
    think: bool | str | None = None


class _SaidFunction(Struct):
    name: str | None = None
    arguments: Raw = Raw(b"{}")


class _SaidCall(Struct):
    function: _SaidFunction | None = None
    id: str | None = None


class _Said(Struct):
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[_SaidCall] | None = None


class _Answer(Struct):
    """A whole answer, or a line of a stream."""

    message: _Said | None = None
    done: bool = False
    done_reason: str | None = None
    prompt_eval_count: Count | None = None
    eval_count: Count | None = None
    error: ErrorBody | str | None = None


class _Model(Struct):
    name: str


class _Models(Struct):
    models: list[_Model]


_ENCODER = msgspec.json.Encoder()
_ANSWER = msgspec.json.Decoder(_Answer)
_MODELS = msgspec.json.Decoder(_Models)


# The request.


def _messages(messages: list[Message]) -> list[_Message]:
    """Each message; a tool's result is given the name of the latest call with its id."""
    names: dict[str | None, str] = {}
    written = []
    for i, message in enumerate(messages):
        names |= {call.id: call.function.name for call in message.tool_calls or ()}
        written.append(_message(message, f"messages[{i}]", names.get(message.tool_call_id)))
    return written


def _message(message: Message, place: str, tool_name: str | None) -> _Message:
    return _Message(
        role="system" if message.role == "developer" else message.role,
        content=message.text(),
        images=_images(message, place),
        tool_calls=_tool_calls(message, place),
        tool_name=tool_name if message.role == "tool" else None,
        tool_call_id=message.tool_call_id,
    )


def _images(message: Message, place: str) -> list[str] | None:
    if message.content is None or isinstance(message.content, str):
        return None
    parts = ((i, part) for i, part in enumerate(message.content) if isinstance(part, ImagePart))
    return [_image(part, f"{place}.content[{i}]") for i, part in parts] or None


def _image(part: ImagePart, place: str) -> str:
    if part.image_url.url.startswith(("https://", "http://")):
        raise BadRequest(
            f"`{place}.image_url` is a web address, but Ollama takes images as base64 only (a `data:` URL)"
        )
    return base64_image(part, place)[1]


def _tool_calls(message: Message, place: str) -> list[_ToolCall] | None:
    return [
        _ToolCall(call.id, _Function(call.function.name, arguments(call, f"{place}.tool_calls[{j}]")))
        for j, call in enumerate(message.tool_calls or ())
    ] or None


def _tools(request: Chat) -> list[Tool] | None:
    """Ollama always lets the model choose, so `none` is to offer none."""
    if isinstance(request.tool_choice, NamedTool) or request.tool_choice == "required":
        raise BadRequest("`tool_choice`: Ollama can't force a tool; use `auto` or `none`")
    if not request.tools or request.tool_choice == "none":
        return None
    return [tool(each) for each in request.tools]


def _format(asked: ResponseFormat | None) -> Raw | None:
    match asked:
        case JsonObjectFormat():
            return Raw(b'"json"')
        case JsonSchemaFormat():
            return schema(asked.json_schema.schema) or Raw(b'"json"')
        case _:
            return None


def _think(effort: str | None, model: str) -> bool | str | None:
    """gpt-oss knows levels and can't be silenced, the others know on and off."""
    if effort is None:
        return None
    if "gpt-oss" in model:
        return "low" if effort == "minimal" else effort
    return effort != "minimal"


def _body(request: Chat, model: str, max_tokens: int) -> _Body:
    return _Body(
        model=model,
        messages=_messages(request.messages),
        stream=request.stream,
        options=_Options(max_tokens, request.temperature, request.top_p, stops(request.stop), request.seed),
        format=_format(request.response_format),
        tools=_tools(request),
        think=_think(request.reasoning_effort, model),
    )


# The answer.


def _tokens(answer: _Answer) -> TokenCount | None:
    """Ollama leaves zeros out; without the prompt's count (older versions, cached prompts) nothing is known."""
    if answer.prompt_eval_count is None:
        return None
    return TokenCount(prompt=answer.prompt_eval_count, response=answer.eval_count or 0)


def _reason(said: str | None, *, called: bool) -> str:
    """The finish reason; a call of a tool ends with `stop` there, and older versions say nothing."""
    return "tool_calls" if called and said in {None, "stop"} else said or "stop"


def _call(call: _SaidCall, place: int) -> ToolCall:
    if call.function is None or not call.function.name:
        raise MalformedAnswer("the provider's answer has a tool call without a function name")
    return ToolCall(call.id or f"call_{place}", FunctionCall(call.function.name, raw_text(call.function.arguments)))


class _Stream(JsonStream):
    """State: how many tool calls were seen, and whether the end was marked."""

    __slots__ = ("_calls", "_complete")

    def __init__(self) -> None:
        super().__init__(LineSplitter())
        self._calls = 0
        self._complete = False

    @property
    def complete(self) -> bool:
        """Whether an object with `done` was seen."""
        return self._complete

    def _take(self, piece: bytes, events: list[StreamEvent]) -> None:
        answer = _ANSWER.decode(piece)
        if answer.error is not None:
            raise StreamFailed(faults.stream_fault(faults.problem_of(answer.error)))
        if answer.message is not None:
            self._said(answer.message, events)
        if answer.done:
            self._complete = True
            events.append(Finished(_reason(answer.done_reason, called=self._calls > 0)))
            if (tokens := _tokens(answer)) is not None:
                events.append(tokens)

    def _said(self, said: _Said, events: list[StreamEvent]) -> None:
        if said.thinking:
            events.append(Reasoning(said.thinking))
        if said.content:
            events.append(Delta(said.content))
        for call in said.tool_calls or ():  # each comes whole
            whole = _call(call, self._calls)
            events.append(ToolCallDelta(self._calls, whole.id, whole.function.name, whole.function.arguments))
            self._calls += 1


class Ollama:
    """See `Dialect`. A key is for Ollama's own cloud, or for a proxy before it."""

    default_base_url: Final = "http://127.0.0.1:11434"
    needs_key: Final = False

    def auth(self, key: str) -> tuple[tuple[str, str], ...]:
        """The headers that carry the key."""
        return (("authorization", f"Bearer {key}"),)

    def chat(self, request: Chat, model: str, max_tokens: int) -> HttpRequest:
        """The chat as Ollama reads it. Raises BadRequest."""
        return HttpRequest("/api/chat", _ENCODER.encode(_body(request, model, max_tokens)))

    def reply(self, body: bytes) -> Reply:
        """A whole answer. Raises MalformedAnswer."""
        answer = read(_ANSWER, body)
        if answer.message is None or not answer.done:
            raise MalformedAnswer("the provider's answer has no finished message")
        said = answer.message
        calls = [_call(call, place) for place, call in enumerate(said.tool_calls or ())]
        return Reply(
            text=said.content or "",
            reasoning=said.thinking or "",
            tool_calls=calls,
            finish_reason=_reason(answer.done_reason, called=bool(calls)),
            tokens=_tokens(answer),
        )

    def stream(self) -> StreamDecoder:
        """A decoder for one streamed answer."""
        return _Stream()

    def fault(self, status: int, body: bytes, headers: Mapping[str, str], model: str) -> QuorumError:
        """What an answer with a status of 400 or more means."""
        return faults.fault(status, body, headers, model, _UNKNOWN_MODEL)

    def models_request(self) -> HttpRequest:
        """An unbilled request that lists models."""
        return HttpRequest("/api/tags", b"", headers=(), method="GET")

    def models(self, body: bytes) -> list[str]:
        """The names, each with its tag. Raises MalformedAnswer."""
        return [model.name for model in read(_MODELS, body).models]


OLLAMA: Final = Ollama()
