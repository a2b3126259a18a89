"""How many tokens a prompt has at most, and how many an answer had about, without a tokenizer or from its count.

Bytes divided by three, the usual guess, is no upper bound: base64 has 0.68 tokens a byte, JSON 0.45, hex dumps 0.7,
lists of digits 1.0 (counted with o200k). So each class of bytes has a weight of its own. The weights were fitted to 60
kinds of text, as the least that stays above o200k's exact count for each; `tests` holds a table of them. English comes
out at 1.4 times the exact count, code at 1.5, JSON at 1.2 to 1.6, Chinese at 2. Letters set singly, made-up words and
rare ideographs can have more tokens than this says: only one token a byte, the cap here, bounds them all.
"""

from __future__ import annotations

import string
from typing import TYPE_CHECKING

from msgspec import UNSET, Struct

from protocols.chat import ImagePart, JsonSchemaFormat

if TYPE_CHECKING:
    from collections.abc import Iterator

    from msgspec import Raw, UnsetType

    from protocols.chat import Chat, Message

OPENAI_FACTOR_MILLI = 1_000
"""The weights are OpenAI's own tokenizer's."""

OTHER_FACTOR_MILLI = 1_200
"""Tokenizers of other vendors give up to a fifth more."""

CHAT_TOKENS = 80
"""What templates put before and after all messages; the longest known, gpt-oss's, is about 75."""

MESSAGE_TOKENS = 8
"""Role and separators of a message: 3 or 4 at OpenAI, 5 with Llama and Gemma."""

OPENAI_CHAT_TOKENS, OPENAI_MESSAGE_TOKENS = 3, 4
"""The same two as OpenAI's own models have them; its models that reason have 1 less."""

TOOLS_TOKENS = 530
"""The hidden system prompt that comes with tools: Anthropic documents 159 to 530, by model."""

TOOL_TOKENS = 16
"""The frame around one tool, or around one call of a tool."""

IMAGE_TOKENS = 5_000
"""An image at its largest, whatever its `detail`: up to 4 784 at Anthropic (patches of 28 pixels, long edge 2 576), 3 779
at OpenAI (1 536 patches, times 2.46 for gpt-4.1-nano). Only OpenAI heeds `detail: low`, so it promises nothing."""

ORIGINAL_IMAGE_TOKENS = 12_000
"""An image with `detail: original` at OpenAI: 10 000 patches, times 1.2."""

TILE_INFLATED = "gpt-4o-mini"
"""The one model that bills images at 33 times the tokens of its sister: 2 833, and 5 667 for each of up to 8 tiles."""

TILE_INFLATED_TOKENS = 2_833 + 8 * 5_667

_UNIT = 20
"""Weights are in twentieths of a token."""

_PIECE = 2_048
"""Characters that are weighed together: a run of noise must not hide among words far away."""

_LOWER, _SPACE, _DIGIT, _SPACE_BY_DIGIT, _UNBROKEN = 6, 2, 26, 13, 6

_LETTERS_PER_BREAK = 12
"""Letters to a break (a space, a capital, punctuation) above which they are no words any more."""

_PLAIN = string.ascii_lowercase.encode() + bytes(range(0x80, 0xC0))
"""Most bytes of most texts: small letters, and those that continue a character."""

_DIGITS = string.digits.encode()

_MARKS = (
    (16, string.punctuation.encode()),
    (21, string.ascii_uppercase.encode()),
    (10, bytes(range(0x20)) + b"\x7f"),
    (14, b"\xd0\xd1"),  # Cyrillic
    (45, b"\xcc\xcd\xe0\xe1\xe2\xee\xef"),  # combining marks; Indic, Ethiopic, Georgian, …; symbols; private use
    (80, bytes(range(0xF0, 0x100))),  # emoji and all above: up to one token a byte
    (25, bytes(range(0xC0, 0xF0))),  # what is left: Latin with accents, Greek, Arabic, …; Chinese, Japanese, Korean
)
"""Weights by byte, of a character's first byte for its whole; those of earlier lines are gone when a line is reached."""


def prompt_upper_bound(chat: Chat, factor_milli: int, model: str = "") -> int:
    """The most tokens that the prompt can have: text times the provider's factor (thousandths), and images.

    `model` matters for images alone. Tools and schemas count with all their bytes, as JSON or as msgpack.
    """
    texts, small, tokens, images = _parts(chat, model)
    # The long ones together: a pass over many short ones costs more than over one long one.
    weight = _weight("".join(texts))
    if small:
        weight += sum(map(_weight, small))
    if chat.tools or chat.response_format:
        weight += sum(map(_weight, _schema_texts(chat)))
    tokens += -(-weight // _UNIT)
    return -(-tokens * factor_milli // 1_000) + images


class PromptTokens(Struct, frozen=True):
    """What a tokenizer's count says of a whole prompt: `at_most`, for its hold; `about`, where its provider doesn't count."""

    about: int
    at_most: int


def prompt_texts(chat: Chat) -> list[str]:
    """The texts of a prompt that a tokenizer can count: all but schemas, which providers rewrite before they count."""
    texts, small, _, _ = _parts(chat, "")
    return texts + small


def prompt_tokens(chat: Chat, counted: int, model: str) -> PromptTokens:
    """A prompt of whose texts a tokenizer `counted` so many tokens: with its frame, which only its provider knows exactly.

    With images, tools or a schema `about` is the upper bound too.
    """
    _, _, frame, images = _parts(chat, model)
    schemas = sum(map(_weight, _schema_texts(chat)))
    at_most = counted + frame + images - (-schemas // _UNIT)
    plain = frame == CHAT_TOKENS + MESSAGE_TOKENS * len(chat.messages) and not images
    about = counted + OPENAI_CHAT_TOKENS + OPENAI_MESSAGE_TOKENS * len(chat.messages)
    return PromptTokens(about if plain else at_most, at_most)


def text_upper_bound(text: str) -> int:
    """The most tokens that natural or technical text has in OpenAI's tokenizer."""
    return -(-_weight(text) // _UNIT)


def emitted_estimate(text: str) -> int:
    """About how many tokens a stream had emitted: bytes / 4, rounded up. An estimate, not a bound."""
    return -(-len(text.encode(errors="surrogatepass")) // 4)


def prompt_estimate(chat: Chat, at_most: int) -> int:
    """About the prompt's tokens; with images, tools or a schema the upper bound, since only the provider knows better."""
    if is_plain(chat):
        return emitted_estimate("\n".join(message.text() for message in chat.messages))
    return at_most


def is_plain(chat: Chat) -> bool:
    """Whether all there is to a prompt is its text."""
    parts = (p for m in chat.messages if isinstance(m.content, list) for p in m.content)
    calls = any(message.tool_calls for message in chat.messages)
    return not (chat.tools or chat.response_format or calls or any(isinstance(part, ImagePart) for part in parts))


def _weight(text: str) -> int:
    if len(text) <= _PIECE:
        return _piece_weight(text)
    return sum(_piece_weight(text[start : start + _PIECE]) for start in range(0, len(text), _PIECE))


def _piece_weight(text: str) -> int:
    """Twentieths of a token. One pass over all bytes, then one per class over what is left."""
    data = text.encode(errors="surrogatepass")
    marks = data.translate(None, _PLAIN)
    solid = marks.translate(None, b" ")
    rest = solid.translate(None, _DIGITS)
    lower, spaces, digits = len(text) - len(marks), len(marks) - len(solid), len(solid) - len(rest)
    # A space before a word is part of the word's token, one before a number is a token.
    weight = lower * _LOWER + spaces * _SPACE + digits * _DIGIT + min(spaces, digits) * _SPACE_BY_DIGIT
    unbroken = lower - _LETTERS_PER_BREAK * (1 + spaces + len(rest))
    if unbroken > 0:
        weight += unbroken * _UNBROKEN
    for each, members in _MARKS:
        if not rest:
            break
        shorter = rest.translate(None, members)
        weight += (len(rest) - len(shorter)) * each
        rest = shorter
    return min(weight, len(data) * _UNIT)


def _parts(chat: Chat, model: str) -> tuple[list[str], list[str], int, int]:
    """The texts of messages, the small ones beside them, the most tokens of the frame around all, and of images."""
    tokens = CHAT_TOKENS + MESSAGE_TOKENS * len(chat.messages)
    images = 0
    texts: list[str] = []
    small: list[str] = []
    for message in chat.messages:
        if isinstance(message.content, str):
            texts.append(message.content)
        elif message.content is not None:
            texts.append(message.text())
            images += _image_tokens(message, model)
        if message.role == "tool" or message.name or message.tool_calls:
            tokens += TOOL_TOKENS * (1 + len(message.tool_calls or ()))
            small += _small_texts(message)
    if chat.tools or isinstance(chat.response_format, JsonSchemaFormat):
        tokens += TOOLS_TOKENS + TOOL_TOKENS * len(chat.tools or ())
    return texts, small, tokens, images


def _image_tokens(message: Message, model: str) -> int:
    """All images of a message."""
    details = [part.image_url.detail for part in message.content or () if isinstance(part, ImagePart)]
    if TILE_INFLATED in model:
        return TILE_INFLATED_TOKENS * len(details)
    return sum(ORIGINAL_IMAGE_TOKENS if detail == "original" else IMAGE_TOKENS for detail in details)


def _small_texts(message: Message) -> Iterator[str]:
    yield message.name or ""
    yield message.tool_call_id or ""
    for call in message.tool_calls or ():
        yield call.id
        yield call.function.name
        yield call.function.arguments


def _schema_texts(chat: Chat) -> Iterator[str]:
    for tool in chat.tools or ():
        yield tool.function.name
        yield tool.function.description or ""
        yield _raw_text(tool.function.parameters)
    if isinstance(chat.response_format, JsonSchemaFormat):
        schema = chat.response_format.json_schema
        yield schema.name
        yield schema.description or ""
        yield _raw_text(schema.schema)


def _raw_text(free_form: Raw | UnsetType | None) -> str:
    """Free-form bytes as text to weigh.

    Msgpack is weighed as if each byte were a mark: its structure is a byte where JSON's is a quote, a colon and a comma.
    """
    if free_form is None or free_form is UNSET:
        return ""
    return bytes(free_form).decode("utf-8", errors="replace")
