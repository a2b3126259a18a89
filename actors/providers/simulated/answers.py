"""What is answered: pure functions of the request and the behaviour, the same in every dialect and for every run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

if TYPE_CHECKING:
    from actors.providers.simulated.behaviour import Behaviour

BYTES_PER_TOKEN = 4
STAMP = f"@{0:019d}"
"""Where the time of sending goes; as long as that is."""
QUOTED = 200
"""Characters of the user's message that a derived answer repeats."""


class Asked(Struct):
    """A request, whichever dialect it came in."""

    model: str
    stream: bool
    texts: list[str]
    """Every text of every message, the system's too: what the prompt count is made of."""
    last_user: str
    max_tokens: int | None = None
    json_wanted: bool = False
    schema: dict[str, Any] | None = None
    forced_tool: str | None = None
    usage_wanted: bool = True
    """Whether a stream carries token counts; OpenAI's must be asked for them."""


class CalledTool(Struct):
    """One tool call of an answer."""

    name: str
    arguments: str


class Tokens(Struct):
    """Declared counts. `prompt` includes `cached` and `cache_write`, `response` includes `reasoning`."""

    prompt: int
    cached: int
    cache_write: int
    response: int
    reasoning: int


class Answer(Struct):
    """A whole answer, free of dialect. `tokens` is None when the behaviour leaves the counts out."""

    number: int
    at: float
    """Unix time in seconds."""
    model: str
    text: str
    reasoning: str
    tool_calls: list[CalledTool]
    finish_reason: str
    tokens: Tokens | None
    pieces: list[str]
    """The text as it is streamed."""


def tokens(text: str) -> int:
    """UTF-8 bytes / 4, rounded up. Declared counts are at least 1, see `declared`."""
    return -(-len(text.encode()) // BYTES_PER_TOKEN)


def answer(asked: Asked, behaviour: Behaviour, number: int, at: float) -> Answer:
    """The answer number `number`, given at `at` (Unix time)."""
    calls = _tool_calls(asked, behaviour)
    reasoning, short_of_room = _cut(behaviour.reasoning, asked.max_tokens)
    room = None if asked.max_tokens is None else max(0, asked.max_tokens - tokens(reasoning))
    full = "" if calls and behaviour.text is None else _text(asked, behaviour)
    text, cut = _cut(full, room)
    reason = "length" if cut or short_of_room else "tool_calls" if calls else "stop"
    prefix = f"{STAMP} " if behaviour.stamps else ""
    return Answer(
        number=number,
        at=at,
        model=asked.model,
        text=text,
        reasoning=reasoning,
        tool_calls=calls,
        finish_reason=behaviour.finish_reason or reason,
        tokens=None if behaviour.no_usage else declared(asked, behaviour, text, reasoning, calls),
        pieces=[prefix + piece for piece in pieces(text, behaviour.chunks)],
    )


def declared(asked: Asked, behaviour: Behaviour, text: str, reasoning: str, calls: list[CalledTool]) -> Tokens:
    """The counts that the provider declares: what is set, else by length and at least 1."""
    thought = behaviour.reasoning_tokens
    if thought is None:
        thought = tokens(reasoning)
    response = behaviour.response_tokens
    if response is None:
        response = max(1, thought + tokens(text) + sum(tokens(call.arguments) for call in calls))
    return Tokens(
        prompt=prompt_tokens(asked, behaviour),
        cached=behaviour.cached_tokens,
        cache_write=behaviour.cache_write_tokens,
        response=response,
        reasoning=thought,
    )


def prompt_tokens(asked: Asked, behaviour: Behaviour) -> int:
    """The declared length of the prompt: of all its texts together, without tools and images."""
    if behaviour.prompt_tokens is not None:
        return behaviour.prompt_tokens
    return max(1, tokens("".join(asked.texts)))


def pieces(text: str, chunks: int | None) -> list[str]:
    """The text cut into `chunks` nearly equal pieces (never an empty one), or one a word."""
    if not text:
        return []
    if chunks is None:
        first, *words = text.split(" ")
        return [piece for piece in (first, *(f" {word}" for word in words)) if piece]
    count = min(chunks, len(text))
    bounds = [len(text) * cut // count for cut in range(count + 1)]
    return [text[bounds[cut] : bounds[cut + 1]] for cut in range(count)]


def _text(asked: Asked, behaviour: Behaviour) -> str:
    if behaviour.text is not None:
        return behaviour.text
    if asked.json_wanted:
        value = {"simulated": True, "said": _quoted(asked)} if asked.schema is None else instance(asked.schema)
        return msgspec.json.encode(value).decode()
    said = f'This is a simulated answer: no provider is configured. You said: "{_quoted(asked)}".'
    if behaviour.chunks is None or len(said) >= behaviour.chunks:
        return said
    times = behaviour.chunks * BYTES_PER_TOKEN // len(said) + 1
    return " ".join([said] * times)


def _quoted(asked: Asked) -> str:
    said = asked.last_user.strip()
    return said if len(said) <= QUOTED else said[:QUOTED].rstrip() + "…"


def _cut(text: str, room: int | None) -> tuple[str, bool]:
    """The text within `room` tokens, and whether it was cut; never inside a character."""
    if room is None or tokens(text) <= room:
        return text, False
    return text.encode()[: room * BYTES_PER_TOKEN].decode(errors="ignore"), True


def _tool_calls(asked: Asked, behaviour: Behaviour) -> list[CalledTool]:
    if behaviour.tool_calls:
        return [CalledTool(call.name, call.text()) for call in behaviour.tool_calls]
    if asked.forced_tool is not None and behaviour.text is None:
        return [CalledTool(asked.forced_tool, "{}")]
    return []


SIMPLE: dict[str, Any] = {"string": "simulated", "integer": 1, "number": 1.0, "boolean": True, "null": None}


def instance(schema: Any) -> Any:
    """A small value by a JSON schema; what isn't understood becomes a string."""
    if not isinstance(schema, dict):
        return SIMPLE["string"]
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    kind = schema.get("type")
    if isinstance(kind, list) and kind:
        kind = kind[0]
    if kind == "object" or isinstance(schema.get("properties"), dict):
        return {name: instance(inner) for name, inner in schema.get("properties", {}).items()}
    if kind == "array":
        return [instance(schema.get("items"))]
    return SIMPLE.get(str(kind), SIMPLE["string"])
