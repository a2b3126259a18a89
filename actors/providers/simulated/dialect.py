"""What the simulated dialects have in common: a request read, an answer written, an error written."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol

import msgspec
from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterable

    from actors.providers.simulated.answers import Answer, Asked
    from actors.providers.simulated.failures import Failure

JSON = "application/json"
encode = msgspec.json.Encoder().encode


class RequestError(Exception):
    """A request that the provider can't read; the message is sent back."""


class Part(Struct):
    """A part of a message; only what this server looks at."""

    type: str = ""
    text: str | None = None
    content: str | list[Part] | None = None
    """Of a tool's result."""


Content = str | list[Part] | None


class Script(Struct):
    """A streamed answer in the order in which it is sent; each entry is what the vendor sends as one HTTP chunk."""

    opening: list[bytes]
    chunks: list[bytes]
    closing: list[bytes]
    error: bytes
    """Sent in place of the rest when the stream fails."""


class Dialect(Protocol):
    """A vendor's way of speaking, from the vendor's side."""

    name: ClassVar[str]
    stream_type: ClassVar[str]

    def key(self, headers: dict[str, str]) -> str | None:
        """The key that the request carries."""
        ...

    def asked(self, body: bytes, headers: dict[str, str]) -> Asked:
        """The request, read. Raises RequestError."""
        ...

    def whole(self, answer: Answer) -> bytes:
        """The body of an answer in one piece."""
        ...

    def script(self, answer: Answer, asked: Asked) -> Script:
        """The answer as a stream."""
        ...

    def error(self, failure: Failure) -> bytes:
        """The body of an error."""
        ...

    def models(self, names: Iterable[str]) -> bytes:
        """The list of models."""
        ...


def texts_of(content: Content) -> list[str]:
    """All texts of a message, those inside tool results too."""
    if isinstance(content, str):
        return [content]
    found: list[str] = []
    for part in content or ():
        if part.text is not None:
            found.append(part.text)
        found += texts_of(part.content)
    return found


def bearer(headers: dict[str, str]) -> str | None:
    """The key of an `Authorization: Bearer` header."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None


def halves(text: str) -> list[str]:
    """Tool arguments and reasoning are streamed in two pieces, so that readers have to put them together."""
    middle = (len(text) + 1) // 2
    return [piece for piece in (text[:middle], text[middle:]) if piece]
