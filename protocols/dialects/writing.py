"""What the dialects share in writing requests where they differ from OpenAI's shape. Each raises BadRequest with a place."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec
from msgspec import Raw, UnsetType

from protocols.chat import FunctionSpec, ImagePart, Tool, ToolCall, as_json
from protocols.dialects.reading import UNREADABLE
from protocols.errors import BadRequest

_OBJECT = msgspec.json.Decoder(dict[str, Raw])
_DATA_URL = re.compile(r"data:(image/[\w.+-]+)(?:;[^,;]*)*;base64,([A-Za-z0-9+/=_-]+)")


def schema(given: Raw | UnsetType) -> Raw | None:
    """A schema as JSON; None when it was left out or is null, on either wire."""
    if isinstance(given, UnsetType) or bytes(given) in {b"null", b"\xc0"}:
        return None
    return as_json(given)


def tool(offered: Tool) -> Tool:
    """A tool in OpenAI's shape with its schema as JSON."""
    spec = offered.function
    if (parameters := schema(spec.parameters)) is None:
        return Tool(FunctionSpec(spec.name, spec.description, strict=spec.strict))
    return Tool(FunctionSpec(spec.name, spec.description, parameters, spec.strict))


def arguments(call: ToolCall, place: str) -> Raw:
    """The arguments of a tool call as the JSON object that they must be here; none at all are an empty one."""
    text = call.function.arguments
    if not text or text.isspace():
        return Raw(b"{}")
    try:
        _OBJECT.decode(text)
    except UNREADABLE:
        raise BadRequest(f"`{place}.function.arguments` must be the text of a JSON object for this provider") from None
    return Raw(text.encode())


def base64_image(part: ImagePart, place: str) -> tuple[str, str]:
    """The media type and the base64 of an image in a `data:` URL."""
    found = _DATA_URL.fullmatch(part.image_url.url)
    if found is None:
        raise BadRequest(f"`{place}.image_url` must be a URL like `data:image/png;base64,…` for this provider")
    return found[1], found[2]


def stops(stop: str | list[str] | None) -> list[str] | None:
    """`stop` as a list, None when there is none."""
    return [stop] if isinstance(stop, str) else stop or None


def paragraphs(texts: Iterable[str]) -> str | None:
    """Texts one below the other, None when there is nothing in them."""
    return "\n\n".join(text for text in texts if text) or None
