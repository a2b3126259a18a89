"""What every dialect offers: a chat as an HTTP request, bytes of an answer as our types. Pure, no I/O.

A dialect is one module with one `Dialect` object; `protocols.dialects.DIALECTS` lists them. Unknown fields of a provider
are tolerated; what can't be understood at all is `MalformedAnswer`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from msgspec import Struct

from protocols.chat import Chat, Reply, StreamEvent
from protocols.errors import QuorumError


class MalformedAnswer(Exception):
    """A 200 whose body is not what the dialect promises. The message is safe to show: it quotes no content."""


class StreamFailed(Exception):
    """The provider reported an error inside a stream; `fault` is what it means."""

    def __init__(self, fault: QuorumError) -> None:
        super().__init__(fault.message)
        self.fault = fault


class HttpRequest(Struct, frozen=True):
    """One request below a provider's base URL. `path` begins with `/`; the key is not in it (see `Dialect.auth`)."""

    path: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = (("content-type", "application/json"),)
    method: str = "POST"


class StreamDecoder(Protocol):
    """One streamed answer being decoded; bytes may be split anywhere."""

    def feed(self, data: bytes) -> list[StreamEvent]:
        """The events that are complete with these bytes. Raises MalformedAnswer, StreamFailed."""
        ...

    @property
    def complete(self) -> bool:
        """Whether the provider marked the end: a stream that ends before is truncated, whatever the connection says."""
        ...


class Dialect(Protocol):
    """A provider's way of speaking."""

    @property
    def default_base_url(self) -> str:
        """The vendor's own address; a config may name another."""
        ...

    @property
    def needs_key(self) -> bool:
        """Whether the vendor asks for a key."""
        ...

    def auth(self, key: str) -> tuple[tuple[str, str], ...]:
        """The headers that carry the key."""
        ...

    def chat(self, request: Chat, model: str, max_tokens: int) -> HttpRequest:
        """The chat as this provider reads it. `max_tokens` (the largest answer) is always sent. Raises BadRequest
        for what the dialect can't express."""
        ...

    def reply(self, body: bytes) -> Reply:
        """A whole answer. Raises MalformedAnswer."""
        ...

    def stream(self) -> StreamDecoder:
        """A decoder for one streamed answer."""
        ...

    def fault(self, status: int, body: bytes, headers: Mapping[str, str], model: str) -> QuorumError:
        """What an answer with a status of 400 or more means, as one of: BadRequest, UnknownModel, Misconfigured (401, 403),
        RateLimited (with `retry_after_s`), ContextTooLong, Refused, ProviderFailed (5xx and the rest).

        The provider's own message is quoted shortened (300 characters) in `detail.provider_message` with anything that
        looks like a key removed; `detail.status` is the HTTP status.
        """
        ...

    def models_request(self) -> HttpRequest:
        """An unbilled request that lists models; also the health probe."""
        ...

    def models(self, body: bytes) -> list[str]:
        """The names in an answer to `models_request`. Raises MalformedAnswer."""
        ...
