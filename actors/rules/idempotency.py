"""When two calls are the same, what a crash left of one, and how an answer is told again. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType, structs

from protocols.chat import (
    Chat,
    Delta,
    Item,
    JsonSchema,
    JsonSchemaFormat,
    Reasoning,
    Tool,
    ToolCall,
    ToolCallDelta,
    as_json,
)
from protocols.errors import Busy, ProviderFailed, QuorumError

KEPT_US = 24 * 3600 * 1_000_000
"""How long an outcome is kept, in µs of the wall clock: one that is set back keeps it longer."""

HELD = "held"
"""In place of a status: the attempt's hold is open."""

NOT_SENT = "not_sent"
"""The status of an attempt that ended before its request left."""

RECOVERY_S = 1.0
"""Seconds after which to ask again while holds of an earlier process are being closed."""

_ENCODER = msgspec.msgpack.Encoder()


class AttemptLeft(Struct, frozen=True):
    """What the books say of an attempt: the status of its usage row, or `held` while its hold is open."""

    usage_id: str
    status: str


def chat_body_hash(chat: Chat) -> bytes:
    """What a chat asks for, as 32 bytes: equal for equal params, whichever wire they came over. Raises BadRequest.

    `stream` and `override_token` don't count. Schemas count by their text: another order or other white space is another body.
    """
    tools = chat.tools and [_tool_by_text(tool) for tool in chat.tools]
    body = structs.replace(
        chat, stream=False, override_token=None, tools=tools, response_format=_format_by_text(chat.response_format)
    )
    return hashlib.sha256(_ENCODER.encode(body)).digest()


def _tool_by_text(tool: Tool) -> Tool:
    return Tool(structs.replace(tool.function, parameters=_by_text(tool.function.parameters)))


def _format_by_text(said: object) -> object:
    if not isinstance(said, JsonSchemaFormat):
        return said
    schema: JsonSchema = structs.replace(said.json_schema, schema=_by_text(said.json_schema.schema))
    return JsonSchemaFormat(schema)


def _by_text(free_form: Raw | UnsetType) -> Raw | UnsetType:
    """Its JSON as one msgpack string of bytes, so that nothing in it can look like what stands beside it."""
    return UNSET if free_form is UNSET else Raw(_ENCODER.encode(bytes(as_json(free_form))))


def is_over(at_us: int, now_us: int) -> bool:
    """Whether what was stored at `at_us` has been kept long enough."""
    return at_us + KEPT_US <= now_us


def left_by_a_crash(attempts: Sequence[AttemptLeft]) -> QuorumError | None:
    """What a key means whose call ended without a stored outcome: None when nothing was sent, so the key is free.

    `Busy` while a hold is still open; else the fault that is the call's outcome from now on.
    """
    if any(attempt.status == HELD for attempt in attempts):
        return Busy(
            "what came of the first call under this idempotency key is being settled; ask again in a second",
            retry_after_s=RECOVERY_S,
        )
    sent = [attempt for attempt in attempts if attempt.status != NOT_SENT]
    if not sent:
        return None
    paid = next((attempt for attempt in sent if attempt.status == "ok"), None)
    shown = paid or sent[-1]
    what = (
        "was answered and is paid, but its answer was lost in a crash"
        if paid
        else "was sent, and what came of it is unknown"
    )
    return ProviderFailed(
        f"the first call under this idempotency key {what}: see usage row {shown.usage_id}; "
        "it is not sent again, take another key to ask anew",
        detail={"usage_id": shown.usage_id},
    )


class _Message(Struct):
    """Of an answer's message, what is told besides the text."""

    reasoning: str = ""
    tool_calls: list[ToolCall] = msgspec.field(default_factory=list)


class _Told(Struct):
    """Of an answer, what a stream tells piece by piece."""

    text: str
    message: _Message


def items_of(document: Raw) -> Iterator[Item]:
    """A stored answer of a chat as the items of a stream: reasoning, text, tool calls, each whole."""
    told = msgspec.json.decode(document, type=_Told)
    if told.message.reasoning:
        yield Reasoning(told.message.reasoning)
    if told.text:
        yield Delta(told.text)
    for index, call in enumerate(told.message.tool_calls):
        yield ToolCallDelta(index, call.id, call.function.name, call.function.arguments)
