"""What makes two requests the same: a hash of the chat. Pure."""

from __future__ import annotations

import hashlib

import msgspec
from msgspec import UNSET, Raw, UnsetType
from msgspec.structs import replace

from protocols.chat import Chat, JsonSchemaFormat, ResponseFormat, Tool, as_json

_ENCODER = msgspec.msgpack.Encoder()


def chat_body_hash(chat: Chat) -> bytes:
    """32 bytes over all that is asked, but not how it is delivered (`stream`) nor what confirms it (`override_token`).

    Equal over both wires, but for schemas: they count by their JSON text, as it was sent. Raises BadRequest for one that is none.
    """
    body = replace(
        chat,
        stream=False,
        override_token=None,
        tools=chat.tools and [_tool(tool) for tool in chat.tools],
        response_format=_format(chat.response_format),
    )
    return hashlib.sha256(_ENCODER.encode(body)).digest()


def _tool(tool: Tool) -> Tool:
    return Tool(replace(tool.function, parameters=_text(tool.function.parameters)))


def _format(said: ResponseFormat | None) -> ResponseFormat | None:
    if not isinstance(said, JsonSchemaFormat):
        return said
    return JsonSchemaFormat(replace(said.json_schema, schema=_text(said.json_schema.schema)))


def _text(schema: Raw | UnsetType) -> Raw | UnsetType:
    """As one string of bytes, so that nothing in it can look like what stands beside it."""
    return UNSET if schema is UNSET else Raw(_ENCODER.encode(bytes(as_json(schema))))
