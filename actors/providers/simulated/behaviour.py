"""What a simulated provider can be told: every knob with its default, and the ways to say it."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta, Struct

Count = Annotated[int, Meta(ge=0, le=1_000_000_000)]
Index = Annotated[int, Meta(ge=0, le=100_000)]
Milliseconds = Annotated[float, Meta(ge=0, le=86_400_000)]
Status = Annotated[int, Meta(ge=400, le=599)]
FailReason = Literal["usual", "invalid", "quota", "policy"]


class SimulatedToolCall(Struct, frozen=True, forbid_unknown_fields=True):
    """A tool call of the answer; `arguments` is an object, or JSON text that is passed on unchecked."""

    name: str
    arguments: str | dict[str, Any] = "{}"

    def text(self) -> str:
        """The arguments as JSON text."""
        return self.arguments if isinstance(self.arguments, str) else msgspec.json.encode(self.arguments).decode()


class Behaviour(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Every knob. Indexes count the chunks of a streamed answer (reasoning, text, tool arguments) that were sent before.

    A whole answer has no chunks: with `break_at`, `hang_at` and `end_early_at` (any index) half its body is sent.
    """

    text: str | None = None
    """The answer; without it, one derived from the last user message."""
    chunks: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    """Chunks that streamed text is cut into; default one a word. A derived answer is repeated until it has enough."""
    stamps: bool = False
    """Each chunk of streamed text begins with `@` and the CLOCK_MONOTONIC nanoseconds at which it was sent (not counted)."""
    reasoning: str = ""
    tool_calls: tuple[SimulatedToolCall, ...] = ()
    finish_reason: str | None = None
    """In OpenAI's words (stop, length, tool_calls, content_filter); said in the dialect's own."""

    prompt_tokens: Count | None = None
    """Declared counts; default by length, see `answers.tokens`. A set count is declared even above `max_tokens`."""
    cached_tokens: Count = 0
    cache_write_tokens: Count = 0
    """Anthropic only. Like `cached_tokens`, a part of `prompt_tokens`."""
    response_tokens: Count | None = None
    reasoning_tokens: Count | None = None
    no_usage: bool = False
    context_tokens: Annotated[int, Meta(ge=1)] | None = None
    """A longer prompt (by the declared count) is answered as too long."""

    latency_ms: Milliseconds = 0
    """Before the head."""
    first_token_ms: Milliseconds = 0
    """From the head to the first chunk. A whole answer comes when its last chunk would have come."""
    pace_ms: Milliseconds = 0
    slow_body_ms: Milliseconds = 0
    """A whole answer's body trickles in ten pieces over this long."""

    fail: Status | None = None
    fail_reason: FailReason = "usual"
    """400 is usually a context too long, 429 a rate limit; `invalid`, `quota`, `policy` say otherwise."""
    fail_message: str | None = None
    fail_times: Count | None = None
    """The faults (from `fail` down) strike this many requests of the same model and header, then none. Default: always."""
    retry_after_s: Annotated[float, Meta(ge=0)] | None = None
    refuse: bool = False
    """A 400 for content policy."""
    break_at: Index | None = None
    """The connection is reset."""
    end_early_at: Index | None = None
    """The HTTP message ends well, the dialect's end marker is missing."""
    error_in_stream_at: Index | None = None
    hang_at: Index | None = None
    """Nothing more is sent, the connection stays open."""
    garbage: bool = False
    """A 200 whose body is not JSON."""
    close_before_head: bool = False

    headers: dict[str, str] = {}
    """Sent besides, e.g. what is left of a rate limit."""

    def delays_s(self) -> tuple[float, float, float]:
        """Before the head, from there to the first chunk, between chunks; in seconds."""
        return self.latency_ms / 1000, self.first_token_ms / 1000, self.pace_ms / 1000

    def stop(self) -> tuple[int, str] | None:
        """Where a stream stops before its end, and how; the earliest of those set."""
        stops = [
            (at, how)
            for at, how in (
                (self.break_at, "break"),
                (self.end_early_at, "end_early"),
                (self.error_in_stream_at, "error"),
                (self.hang_at, "hang"),
            )
            if at is not None
        ]
        return min(stops) if stops else None


FAULTS = ("fail", "refuse", "break_at", "end_early_at", "error_in_stream_at", "hang_at", "garbage", "close_before_head")
"""What `fail_times` bounds."""

STRUCTURED = ("tool_calls", "headers")
"""Knobs that are JSON in a query too."""

Knobs = dict[str, Any]
"""Some knobs by name, not yet checked: a layer that others cover. `combine` checks."""


def from_json(text: str | bytes) -> Knobs:
    """Knobs said as a JSON object. Raises ValueError."""
    try:
        knobs: Knobs = msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"behaviour is not a JSON object: {error}") from error
    return knobs


def from_query(query: str) -> Knobs:
    """Knobs said as in a URL: `latency_ms=50&garbage`. Tools also `tool_calls=a,b`."""
    knobs: Knobs = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in STRUCTURED and value[:1] in ("{", "["):
            knobs[name] = _json(name, value)
        elif name == "tool_calls":
            knobs[name] = [{"name": tool} for tool in value.split(",")]
        else:
            knobs[name] = value or "true"
    return knobs


def _json(name: str, value: str) -> Any:
    try:
        return msgspec.json.decode(value)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"`{name}` is not JSON: {error}") from error


def combine(*layers: Knobs) -> Behaviour:
    """The behaviour of these layers, later ones first. Raises ValueError that names the wrong knob."""
    merged = {name: value for layer in layers for name, value in layer.items()}
    try:
        return msgspec.convert(merged, Behaviour, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(f"behaviour: {error}") from error


def recovered(behaviour: Behaviour) -> Behaviour:
    """The same without its faults."""
    healthy = msgspec.structs.asdict(behaviour)
    return Behaviour(**{name: value for name, value in healthy.items() if name not in FAULTS})
