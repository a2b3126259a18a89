"""A chat: what a client asks, what a provider's stream is turned into, what the client is answered.

`messages`, `tools`, `tool_choice`, `response_format` and `finish_reason` have the shapes of OpenAI chat completions.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from protocols.errors import BadRequest
from protocols.model import Tier
from protocols.routing import Decision
from protocols.rpc import Conversation, Name, Params, Right
from protocols.settings import Admission
from protocols.warned import Warned

FREE_FORM_LIMIT = 131_072
"""Bytes that a schema sent as msgpack may have: untyped nesting costs 72 bytes of memory a byte, so it is bounded."""

MAX_TOKENS = 1_000_000_000
"""Above every model's longest answer; keeps the bound of a call in 64 bits."""


class TextPart(Struct, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """A piece of text in a message of several parts."""

    text: str


class ImageURL(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Where an image is: an http(s) URL, or a `data:` URL with base64. The daemon never fetches it."""

    url: str
    detail: str | None = None


class ImagePart(Struct, forbid_unknown_fields=True, tag_field="type", tag="image_url"):
    """An image in a message of several parts."""

    image_url: ImageURL


class FunctionCall(Struct):
    """What the model wants called; `arguments` is JSON text as the model wrote it, not checked."""

    name: str
    arguments: str = ""


class ToolCall(Struct):
    """One call of a tool, asked for by the model."""

    id: str
    function: FunctionCall
    type: Literal["function"] = "function"


class Message(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One message of a conversation. `reasoning` may stand in an answer that is sent back; it goes to no provider."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart | ImagePart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning: str | None = None

    def text(self) -> str:
        """All its text, images left out."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content or () if isinstance(part, TextPart))


class FunctionSpec(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A tool that the model may call; `parameters` is a JSON schema (see `as_json`)."""

    name: str
    description: str | None = None
    parameters: Raw | UnsetType = UNSET
    strict: bool | None = None


class Tool(Struct, forbid_unknown_fields=True):
    """A tool offered to the model."""

    function: FunctionSpec
    type: Literal["function"] = "function"


class FunctionName(Struct, forbid_unknown_fields=True):
    """The name of a function."""

    name: str


class NamedTool(Struct, forbid_unknown_fields=True):
    """A `tool_choice` that names the one tool to call."""

    function: FunctionName
    type: Literal["function"] = "function"


class JsonSchema(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A schema that the answer must follow."""

    name: str
    schema: Raw | UnsetType = UNSET
    strict: bool | None = None
    description: str | None = None


class TextFormat(Struct, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """`response_format`: plain text."""


class JsonObjectFormat(Struct, forbid_unknown_fields=True, tag_field="type", tag="json_object"):
    """`response_format`: any JSON object."""


class JsonSchemaFormat(Struct, forbid_unknown_fields=True, tag_field="type", tag="json_schema"):
    """`response_format`: JSON by a schema."""

    json_schema: JsonSchema


ResponseFormat = TextFormat | JsonObjectFormat | JsonSchemaFormat


ReasoningEffort = Literal["minimal", "low", "medium", "high"]
"""How long a model that reasons should think."""


class Chat(Params):
    """Params of `chat`; `max_tokens` bounds the answer, `allow_fallback` None means: unless a model or provider is named.

    `hint` names a language, a provider or alias, or both: `pt-BR`, `claude`, `en-claude`. With `language_hint` the model is told to
    answer in that language. `tournament` false keeps a critical task with one model, true asks several whatever the settings say.
    `quality_tier` is what the orchestrator, where it is on, looks for instead of the user's tier.
    """

    method: ClassVar[str] = "chat"
    right: ClassVar[Right] = "use"
    keyed: ClassVar[bool] = True

    messages: list[Message]
    model: Name | None = None
    provider: Name | None = None
    user: Name | None = None
    conversation: Conversation | None = None
    task_type: Name | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: str | list[str] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: ReasoningEffort | None = None
    stream: bool = False
    allow_fallback: bool | None = None
    admission: Admission | None = None
    override_token: Name | None = None
    hint: Name | None = None
    language_hint: bool = False
    quality_tier: Tier | None = None
    tournament: bool | None = None

    def __post_init__(self) -> None:
        """The checks that a type can't say; msgspec turns a ValueError into a fault that names the place."""
        if not self.messages:
            raise ValueError("`messages` must have at least one message")
        for message in self.messages:
            if message.reasoning is not None:
                message.reasoning = None
        if self.max_tokens is not None and not 1 <= self.max_tokens <= MAX_TOKENS:
            raise ValueError(f"`max_tokens` must be between 1 and {MAX_TOKENS}")
        if self.temperature is not None and not 0 <= self.temperature <= 2:  # noqa: PLR2004  the figures are in the message
            raise ValueError("`temperature` must be between 0 and 2")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError("`top_p` must be above 0 and at most 1")


class Explain(Chat):
    """Params of `explain`: those of `chat`; nobody is called."""

    method: ClassVar[str] = "explain"
    keyed: ClassVar[bool] = False


class Delta(Struct, tag_field="type", tag="delta"):
    """A piece of the answer's text, as it came."""

    text: str


class Reasoning(Struct, tag_field="type", tag="reasoning"):
    """A piece of the model's reasoning, as it came."""

    text: str


class ToolCallDelta(Struct, tag_field="type", tag="tool_call", omit_defaults=True):
    """A piece of a tool call: `id` and `name` with the first piece of an index, `arguments` appended."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


Item = Delta | Reasoning | ToolCallDelta
"""What a streaming client is sent."""


class TokenCount(Struct, frozen=True, omit_defaults=False):
    """Tokens as a provider counts them.

    `prompt` includes `cached` (read from the provider's cache) and `cache_write`; `response` includes `reasoning`. Each includes
    its audio.
    """

    prompt: int = 0
    cached: int = 0
    cache_write: int = 0
    response: int = 0
    reasoning: int = 0
    audio_prompt: int = 0
    audio_response: int = 0


class Finished(Struct, frozen=True):
    """The provider said why the answer ended: stop, length, tool_calls, content_filter."""

    reason: str


StreamEvent = Item | TokenCount | Finished
"""What a dialect's stream decoder yields."""


class Reply(Struct):
    """A provider's whole answer, free of dialect. `tokens` is None when the provider did not count."""

    text: str = ""
    reasoning: str = ""
    tool_calls: list[ToolCall] = msgspec.field(default_factory=list)
    finish_reason: str | None = None
    tokens: TokenCount | None = None


class Usage(Struct):
    """Token counts of an answer; `source` is provider, tokenizer or estimate."""

    prompt_tokens: int
    cached_tokens: int
    response_tokens: int
    reasoning_tokens: int
    source: str


class Attempt(Struct, omit_defaults=True):
    """One request to one provider within a call."""

    usage_id: str
    model: str
    status: str
    cost_nano_usd: int | None
    latency_ms: float
    code: str | UnsetType = UNSET


class ExplainedFault(Struct):
    """The fault that `chat` would answer with."""

    code: str
    message: str


class Explanation(Struct):
    """Result of `explain`: the decision with its bound, and with no target the fault."""

    decision: Decision
    fault: ExplainedFault | None = None


class AnswerMessage(Struct):
    """The assistant's message, in the shape in which it can be sent back."""

    content: str | None
    role: str = "assistant"
    tool_calls: list[ToolCall] | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET


class ChatTournament(Struct):
    """What came of a chat that became a tournament; `tournament.show` has its ballots."""

    tournament_id: str
    status: str
    answer_kind: str
    top_share: float
    needs_review: bool
    models: list[str]


class ChatAnswer(Struct):
    """Result of `chat`. Latencies in milliseconds, the cost in nano-dollars or None when no price is known."""

    call_id: str
    usage_id: str
    text: str
    message: AnswerMessage
    finish_reason: str | None
    model_used: str
    simulated: bool
    usage: Usage
    cost_nano_usd: int | None
    price_version: str | None
    decision: Decision
    attempts: list[Attempt]
    latency_ms: float
    first_token_ms: float | None
    warnings: list[Warned]
    tournament: ChatTournament | UnsetType = UNSET


def as_json(free_form: Raw) -> Raw:
    """A free-form object of a request as JSON, whichever wire it came over. Raises BadRequest.

    A JSON object begins with `{` (or white space), a msgpack map with 0x80-0x8f, 0xde or 0xdf: no confusion is possible.
    """
    data = bytes(free_form)
    if data.lstrip()[:1] == b"{":
        return free_form
    if len(data) > FREE_FORM_LIMIT:
        raise BadRequest(f"a schema of {len(data)} bytes is too long; at most {FREE_FORM_LIMIT} are accepted")
    try:
        return Raw(msgspec.json.encode(msgspec.msgpack.decode(data, type=dict[str, Any])))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError) as error:
        raise BadRequest("a schema must be an object of JSON") from error
