"""The Anthropic dialect: the Messages API.

`seed` is left out: Anthropic has none, and nowhere is it more than best effort. What else can't be said is a BadRequest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Literal

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
    StreamEvent,
    TokenCount,
    Tool,
    ToolCall,
    ToolCallDelta,
)
from protocols.dialects import faults
from protocols.dialects.dialect import HttpRequest, MalformedAnswer, StreamDecoder, StreamFailed
from protocols.dialects.faults import ErrorBody
from protocols.dialects.reading import Count, JsonStream, raw_text, read
from protocols.dialects.sse import SseSplitter
from protocols.dialects.writing import arguments, base64_image, paragraphs, schema, stops
from protocols.errors import BadRequest, QuorumError

_VERSION: Final = ("anthropic-version", "2023-06-01")
_BUDGET: Final = {"low": 1024, "medium": 4096, "high": 16384}
"""Tokens of thinking for a `reasoning_effort`; with `minimal` the model does not think."""

_BUDGETED = re.compile(r"claude-(?:[23]|instant|(?:opus|sonnet|haiku)-4(?:-[0-5])?(?:[-@]\d{8}|-latest)?$)")
"""Models of Anthropic's own up to 4.5 take a budget of tokens; later ones an effort, and some refuse a budget."""


class _Source(Struct, omit_defaults=True):
    type: str
    url: str | None = None
    media_type: str | None = None
    data: str | None = None


class _Text(Struct, tag_field="type", tag="text"):
    text: str


class _Image(Struct, tag_field="type", tag="image"):
    source: _Source


class _ToolUse(Struct, tag_field="type", tag="tool_use"):
    id: str
    name: str
    input: Raw


class _ToolResult(Struct, tag_field="type", tag="tool_result"):
    tool_use_id: str
    content: list[_Text | _Image]


_Block = _Text | _Image | _ToolUse | _ToolResult


class _Turn(Struct):
    role: Literal["user", "assistant"]
    content: list[_Block]


class _Tool(Struct, omit_defaults=True):
    name: str
    input_schema: Raw
    description: str | None = None
    strict: bool | None = None


class _ToolChoice(Struct, omit_defaults=True):
    type: str
    name: str | None = None


class _Thinking(Struct, omit_defaults=True):
    type: str
    budget_tokens: int | None = None


class _Format(Struct, tag_field="type", tag="json_schema"):
    schema: Raw


class _OutputConfig(Struct, omit_defaults=True):
    format: _Format | None = None
    effort: str | None = None


class _Body(Struct, omit_defaults=True, kw_only=True):
    model: str
    max_tokens: int
    messages: list[_Turn]
    system: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop_sequences: list[str] | None = None
    tools: list[_Tool] | None = None
    tool_choice: _ToolChoice | None = None
    thinking: _Thinking | None = None
    output_config: _OutputConfig | None = None
    stream: bool = False


class _Usage(Struct):
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None


class _Piece(Struct):
    """A block of an answer or a delta of one; kinds that we do not know are passed over."""

    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: Raw = Raw(b"{}")
    partial_json: str | None = None
    stop_reason: str | None = None


class _Answer(Struct):
    content: list[_Piece] | None = None
    stop_reason: str | None = None
    usage: _Usage | None = None


class _Event(Struct):
    """Any event of a stream: the fields of all kinds, for an unknown kind must not be an error."""

    type: str
    index: int = 0
    delta: _Piece | None = None
    content_block: _Piece | None = None
    message: _Answer | None = None
    usage: _Usage | None = None
    error: ErrorBody | None = None


class _Model(Struct):
    id: str


class _Models(Struct):
    data: list[_Model]


_ENCODER = msgspec.json.Encoder()
_ANSWER = msgspec.json.Decoder(_Answer)
_EVENT = msgspec.json.Decoder(_Event)
_MODELS = msgspec.json.Decoder(_Models)

_REASONS: Final = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


# The request.


def _content(message: Message, place: str) -> list[_Text | _Image]:
    """Its blocks; empty texts are left out, for Anthropic refuses them."""
    if message.content is None or isinstance(message.content, str):
        return [_Text(message.content)] if message.content else []
    return [
        _image(part, f"{place}.content[{i}]") if isinstance(part, ImagePart) else _Text(part.text)
        for i, part in enumerate(message.content)
        if isinstance(part, ImagePart) or part.text
    ]


def _image(part: ImagePart, place: str) -> _Image:
    if part.image_url.url.startswith(("https://", "http://")):
        return _Image(_Source("url", url=part.image_url.url))
    media_type, data = base64_image(part, place)
    return _Image(_Source("base64", media_type=media_type, data=data))


def _turn(message: Message, place: str) -> _Turn:
    """One message on its own; a tool's result is said by the user here."""
    if message.role == "tool":
        if not message.tool_call_id:
            raise BadRequest(f"`{place}.tool_call_id` is missing; it names the call that this is the result of")
        return _Turn("user", [_ToolResult(message.tool_call_id, _content(message, place))])
    blocks: list[_Block] = [*_content(message, place)]
    for j, call in enumerate(message.tool_calls or ()):
        blocks.append(_ToolUse(call.id, call.function.name, arguments(call, f"{place}.tool_calls[{j}]")))
    return _Turn("assistant" if message.role == "assistant" else "user", blocks)


def _merged(turns: Iterable[_Turn]) -> list[_Turn]:
    """Consecutive turns of a role as one, empty ones left out."""
    merged: list[_Turn] = []
    for turn in turns:
        if merged and merged[-1].role == turn.role:
            merged[-1].content += turn.content
        elif turn.content:
            merged.append(turn)
    return merged


def _system(messages: list[Message]) -> Iterator[str]:
    for i, message in enumerate(messages):
        if _is_system(message):
            if any(isinstance(part, ImagePart) for part in message.content or ()):
                raise BadRequest(f"`messages[{i}]`: an image can't stand in a {message.role} message for this provider")
            yield message.text()


def _is_system(message: Message) -> bool:
    return message.role in {"system", "developer"}


def _turns(messages: list[Message]) -> list[_Turn]:
    turns = _merged(_turn(each, f"messages[{i}]") for i, each in enumerate(messages) if not _is_system(each))
    if not turns:
        raise BadRequest("`messages` must have a user message with content for this provider")
    return turns


def _tool(tool: Tool) -> _Tool:
    spec = tool.function
    return _Tool(spec.name, schema(spec.parameters) or Raw(b'{"type":"object"}'), spec.description, spec.strict)


def _tool_choice(request: Chat) -> _ToolChoice | None:
    if not request.tools or request.tool_choice is None:
        return None
    if isinstance(request.tool_choice, NamedTool):
        return _ToolChoice("tool", request.tool_choice.function.name)
    return _ToolChoice("any" if request.tool_choice == "required" else request.tool_choice)


def _temperature(asked: float | None) -> float | None:
    if asked is not None and asked > 1:
        raise BadRequest(f"`temperature` is {asked:g}, but Anthropic allows 0 to 1")
    return asked


def _format(request: Chat) -> _Format | None:
    asked = request.response_format
    if isinstance(asked, JsonObjectFormat):
        raise BadRequest("`response_format` json_object does not exist at Anthropic; use json_schema with a schema")
    if not isinstance(asked, JsonSchemaFormat):
        return None
    if (rules := schema(asked.json_schema.schema)) is None:
        raise BadRequest("`response_format.json_schema.schema` is missing; Anthropic needs one")
    return _Format(rules)


def _by_effort(model: str) -> bool:
    return model.startswith("claude-") and _BUDGETED.match(model) is None


def _thinking(request: Chat, model: str, max_tokens: int) -> _Thinking | None:
    """What `reasoning_effort` means for this model; a budget that does not fit the answer is left out."""
    effort = request.reasoning_effort
    if effort is None or effort == "minimal":
        return None
    if _by_effort(model):
        return _Thinking("adaptive")
    # With a budget, a tool's result must follow the signed thinking of its call, which our messages do not carry.
    if _BUDGET[effort] >= max_tokens or request.messages[-1].role == "tool":
        return None
    return _Thinking("enabled", _BUDGET[effort])


def _output_config(request: Chat, thinking: _Thinking | None) -> _OutputConfig | None:
    effort = request.reasoning_effort if thinking is not None and thinking.type == "adaptive" else None
    wanted = _OutputConfig(_format(request), effort)
    return wanted if wanted.format or wanted.effort else None


def _body(request: Chat, model: str, max_tokens: int) -> _Body:
    thinking = _thinking(request, model, max_tokens)
    return _Body(
        model=model,
        max_tokens=max_tokens,
        messages=_turns(request.messages),
        system=paragraphs(_system(request.messages)),
        temperature=_temperature(request.temperature),
        top_p=request.top_p,
        stop_sequences=stops(request.stop),
        tools=[_tool(tool) for tool in request.tools] if request.tools else None,
        tool_choice=_tool_choice(request),
        thinking=thinking,
        output_config=_output_config(request, thinking),
        stream=request.stream,
    )


# The answer.


def _reason(said: str) -> str:
    return _REASONS.get(said, said)


def _most(one: int | None, other: int | None) -> int:
    return max(one or 0, other or 0)


def _both(known: _Usage, news: _Usage) -> _Usage:
    """Each count of a stream is cumulative, and a later event may leave some out or send 0: the larger holds."""
    return _Usage(
        _most(known.input_tokens, news.input_tokens),
        _most(known.output_tokens, news.output_tokens),
        _most(known.cache_read_input_tokens, news.cache_read_input_tokens),
        _most(known.cache_creation_input_tokens, news.cache_creation_input_tokens),
    )


def _tokens(usage: _Usage) -> TokenCount | None:
    """Anthropic counts cache reads and writes beside the input, we count them in it. None when nothing was counted."""
    if usage.input_tokens is None and usage.output_tokens is None:
        return None
    cached = usage.cache_read_input_tokens or 0
    written = usage.cache_creation_input_tokens or 0
    return TokenCount(
        prompt=(usage.input_tokens or 0) + cached + written,
        cached=cached,
        cache_write=written,
        response=usage.output_tokens or 0,
    )


def _call(block: _Piece, place: int) -> ToolCall:
    if not block.name:
        raise MalformedAnswer("the provider's answer has a tool call without a name")
    return ToolCall(block.id or f"call_{place}", FunctionCall(block.name, raw_text(block.input)))


class _ToolBlock(Struct):
    """A tool call being streamed: its place among the tool calls, and whether arguments came."""

    index: int
    begun: bool = False


class _Stream(JsonStream):
    """State: the counts known so far, the tool calls by block index, and whether the end was marked."""

    __slots__ = ("_complete", "_tools", "_usage")

    def __init__(self) -> None:
        super().__init__(SseSplitter())
        self._usage = _Usage()
        self._tools: dict[int, _ToolBlock] = {}
        self._complete = False

    @property
    def complete(self) -> bool:
        """Whether `message_stop` was seen."""
        return self._complete

    def _take(self, piece: bytes, events: list[StreamEvent]) -> None:
        event = _EVENT.decode(piece)
        match event.type:
            case "content_block_delta" if event.delta is not None:
                self._delta(event.index, event.delta, events)
            case "content_block_start" if event.content_block is not None:
                self._block(event.index, event.content_block, events)
            case "content_block_stop":
                self._block_end(event.index, events)
            case "message_start" if event.message is not None:
                self._count(event.message.usage, events)
            case "message_delta":
                self._count(event.usage, events)
                if event.delta is not None and event.delta.stop_reason:
                    events.append(Finished(_reason(event.delta.stop_reason)))
            case "message_stop":
                self._complete = True
            case "error":
                raise StreamFailed(faults.stream_fault(faults.problem_of(event.error or ErrorBody())))
            case _:  # ping, and kinds that are newer than this
                pass

    def _delta(self, index: int, delta: _Piece, events: list[StreamEvent]) -> None:
        if delta.text:
            events.append(Delta(delta.text))
        elif delta.thinking:
            events.append(Reasoning(delta.thinking))
        elif delta.partial_json and (tool := self._tools.get(index)) is not None:
            tool.begun = True
            events.append(ToolCallDelta(tool.index, arguments=delta.partial_json))

    def _block(self, index: int, block: _Piece, events: list[StreamEvent]) -> None:
        if block.type == "tool_use":
            tool = self._tools[index] = _ToolBlock(len(self._tools))
            events.append(ToolCallDelta(tool.index, block.id, block.name))
        else:
            self._delta(index, block, events)

    def _block_end(self, index: int, events: list[StreamEvent]) -> None:
        """A call without arguments streams no JSON at all, but its arguments are an empty object."""
        if (tool := self._tools.get(index)) is not None and not tool.begun:
            tool.begun = True
            events.append(ToolCallDelta(tool.index, arguments="{}"))

    def _count(self, usage: _Usage | None, events: list[StreamEvent]) -> None:
        if usage is not None and _tokens(usage) is not None:
            self._usage = _both(self._usage, usage)
            if (tokens := _tokens(self._usage)) is not None:
                events.append(tokens)


class Anthropic:
    """See `Dialect`. The base URL includes `/v1`, as for the other vendors."""

    default_base_url: Final = "https://api.anthropic.com/v1"
    needs_key: Final = True

    def auth(self, key: str) -> tuple[tuple[str, str], ...]:
        """The headers that carry the key."""
        return (("x-api-key", key),)

    def chat(self, request: Chat, model: str, max_tokens: int) -> HttpRequest:
        """The chat as a message request. Raises BadRequest."""
        body = _ENCODER.encode(_body(request, model, max_tokens))
        return HttpRequest("/messages", body, (("content-type", "application/json"), _VERSION))

    def reply(self, body: bytes) -> Reply:
        """A whole answer. Raises MalformedAnswer."""
        answer = read(_ANSWER, body)
        if answer.content is None:
            raise MalformedAnswer("the provider's answer has no content")
        return Reply(
            text="".join(block.text or "" for block in answer.content if block.type == "text"),
            reasoning="".join(block.thinking or "" for block in answer.content if block.type == "thinking"),
            tool_calls=[_call(block, i) for i, block in enumerate(b for b in answer.content if b.type == "tool_use")],
            finish_reason=_reason(answer.stop_reason) if answer.stop_reason else None,
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
        return HttpRequest("/models?limit=1000", b"", headers=(_VERSION,), method="GET")

    def models(self, body: bytes) -> list[str]:
        """The names. Raises MalformedAnswer."""
        return [model.id for model in read(_MODELS, body).data]


ANTHROPIC: Final = Anthropic()
