"""The answer contract: how a member is told to write its answer, and how the answer is taken out of its reply. Pure.

A reply ends with one line of its own, `ANSWER: ...`. It is text, because not every provider knows `response_format`, and
Anthropic refuses `json_object`. A vote is what stands in that form, or a reply that is nothing but the answer; never a mention, nor
an example in a fenced block, unless that block is the whole reply.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import islice

from msgspec.structs import replace

from actors.rules.canonical import Canonical, canonical, longest
from actors.rules.canonical.items import BULLET
from actors.rules.canonical.locales import decimal_mark
from actors.rules.canonical.text import folded, one_line, unfenced, unwrapped
from protocols.chat import Chat, JsonObjectFormat, JsonSchemaFormat, Message
from protocols.errors import BadRequest
from protocols.tournament import AnswerSpec, AnswerType

_LINE = re.compile(
    r"^ {0,3}(?:#{1,6} )?([*_`]{0,3})(?:final )?answer([*_`]{0,3})[ \t]*[:：][ \t]*([*_`]{0,3})(.*)$",
    re.IGNORECASE | re.MULTILINE,
)
"""The contract's line, also as Markdown writes it. In a quotation (`> ANSWER: yes`) or a sentence it is none."""

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})([^\n]*)$", re.MULTILINE)
_MOST_LINES = 20
"""Lines of the contract's form in one reply; one with more is no answer, and costs no time."""

_MOST_ANSWERS = 3
"""Answers written differently in one reply; one with more is no answer: reading code or JSON takes up to a tenth of a second each."""

_LONGEST_BARE = 80
"""Characters of a short text that may be a whole reply."""

_AROUND = 1_000
"""Characters that fences and white space may add to a reply that is nothing but its answer."""

_SENTENCE_END = re.compile(r"[.!?;:]['\")\]]*\s|\?['\")\]]*\Z")
_OF_ITSELF = re.compile(r"(?:i|i['’]m|i['’]d|i['’]ve|we|sorry|as an)\b.", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"<[^<>]*>")

_NO_ANSWER = re.compile(
    r"""
    (?:(?:sorry|unfortunately),?\s)?
    (?:
        n\s?[/.]\s?a
        | unknown | not\s(?:applicable|available|known|sure|certain|enough\s.*)
        | no\s(?:idea|clue|answer)
        | insufficient\s(?:information|data|context|evidence).*
        | (?:(?:i|we|it)(?:\sam|\sare|\sis|'m|'re|'s)?\s)?
          (?:not\ssure | (?:unable|not\sable|impossible)\sto\s(?:determine|tell|say|answer|decide|know|verify)\b.*)
        | (?:(?:i|we|it)\s)?(?:do\snot|don't|can\s?not|can't|could\snot|couldn't)\s
          (?:be\s)?(?:determined?|know|tell|say|answer(?:ed)?|decided?|verif(?:y|ied)|known)\b.*
    )
    """,
    re.VERBOSE,
)
"""What says in English that no answer is known; `none` and `undefined` are answers. Other languages are not read."""

_FORMS: dict[AnswerType, Callable[[AnswerSpec], str]] = {
    "bool": lambda _: "`yes` or `no`",
    "choice": lambda spec: (
        f"exactly one of {json.dumps(spec.choices, ensure_ascii=False)}, as it is written here but without the quotes"
    ),
    "number": lambda spec: f"one number in digits, such as 1234{decimal_mark(spec.locale)}5, {_in_unit(spec)}",
    "date": lambda _: "the date as YYYY-MM-DD (--MM-DD if it has no year, YYYY-MM or YYYY if no more is known)",
    "set": lambda _: "all items on one line, with semicolons between them",
    "json": lambda _: "the JSON value",
    "code": lambda spec: f"the whole {spec.language or 'code'}{' code' if spec.language else ''}",
    "short_text": lambda _: "the answer in as few words as it needs, without explanation",
}
"""What follows `ANSWER: `, by type."""

_LIST = {"[": "]", "{": "}"}
_IN_WORDS: frozenset[AnswerType] = frozenset(("short_text", "set"))
_IN_A_BLOCK: frozenset[AnswerType] = frozenset(("json", "code"))


def with_contract(chat: Chat, spec: AnswerSpec) -> Chat:
    """The chat with the contract as a system message before all others. Its own `response_format` stays as it is.

    Raises BadRequest where that format asks for JSON but the answer is of another type: no reply could follow both.
    """
    if not isinstance(chat.response_format, JsonObjectFormat | JsonSchemaFormat):
        return _told(chat, _instruction(spec))
    if spec.type != "json":
        raise BadRequest(
            f"`response_format` asks for JSON, but `answer.type` is {spec.type}; leave one out, or use the type json"
        )
    return _told(chat, "Reply with the JSON value alone.")


def extract(reply: str, spec: AnswerSpec) -> Canonical | None:
    """The answer that a reply votes for, None if it doesn't: prose never does, nor a reply that goes on after its last line.

    A reply with several lines of the contract's form votes by the last, unless an earlier one gives a different answer.
    Reasoning in <think> is no part of the reply. Never raises.
    """
    text = _spoken(one_line(reply))
    whole = None if spec.type == "code" else unfenced(text)
    text = text if whole is None else whole
    lines = list(islice(_LINE.finditer(text), _MOST_LINES + 1))
    if len(lines) > _MOST_LINES:
        return None
    fenced = _fenced(text, lines)
    if spec.type == "code":
        lines = [line for line in lines if line not in fenced]
    if not lines:
        return _bare(text, spec)
    return None if lines[-1] in fenced else _last(text, lines, spec)


def _told(chat: Chat, instruction: str) -> Chat:
    return replace(chat, messages=[Message("system", instruction), *chat.messages])


def _instruction(spec: AnswerSpec) -> str:
    form = _FORMS[spec.type](spec)
    if spec.type in _IN_A_BLOCK:
        return f"End your reply with a line that says only `ANSWER:`, then {form} in one fenced code block, and nothing after it."
    return f"End your reply with one last line of its own: `ANSWER: ` followed by {form}, and nothing after it."


def _in_unit(spec: AnswerSpec) -> str:
    return f"in {folded(spec.unit)} and without the unit" if spec.unit else "without a unit"


def _spoken(text: str) -> str:
    """What follows the reasoning that some models write before their reply; nothing if it never ends."""
    _, ended, after = text.rpartition("</think>")
    if not ended and text.lstrip().startswith("<think>"):
        return ""
    return after.strip("\n ")


def _last(text: str, lines: list[re.Match[str]], spec: AnswerSpec) -> Canonical | None:
    """The answer of the last line, if nothing follows it and no earlier line contradicts it."""
    ends = [line.start() for line in lines[1:]] + [len(text)]
    *earlier, (answer, after) = [
        _taken(line, text[line.end() : end], spec) for line, end in zip(lines, ends, strict=True)
    ]
    others = {other for other, _ in earlier} - {answer}
    if after.strip() or len(others) >= _MOST_ANSWERS:
        return None
    vote = _vote(answer, spec)
    if vote is None:
        return None
    votes = (_vote(other, spec) for other in others)
    return vote if all(other is None or other.key == vote.key for other in votes) else None


def _vote(answer: str, spec: AnswerSpec) -> Canonical | None:
    """What stands after `ANSWER:`. Code is read in a fence alone: any word is code of some language."""
    inside = unfenced(answer)
    if (spec.type == "code" and inside is None) or _PLACEHOLDER.fullmatch(answer.strip()):
        return None
    return _known(canonical(answer if inside is None else inside, spec), spec)


def _known(found: Canonical | None, spec: AnswerSpec) -> Canonical | None:
    """The answer, unless it says in words that there is none."""
    if found is None or spec.type not in _IN_WORDS:
        return found
    said = found.key.removeprefix('["').removesuffix('"]') if spec.type == "set" else found.key
    return None if _NO_ANSWER.fullmatch(said) else found


def _taken(line: re.Match[str], below: str, spec: AnswerSpec) -> tuple[str, str]:
    """The answer that begins on a line, and what follows the answer."""
    said = (_without_marks(line) + below).strip()
    opening = _FENCE.match(said)
    if opening:
        return _block(said, opening[1])
    if spec.type == "json":
        return said, ""
    if spec.type == "set" and BULLET.match(said):
        return _bulleted(said)
    answer, _, after = said.partition("\n")
    return answer, after


def _without_marks(line: re.Match[str]) -> str:
    """What stands on the line; marks that opened before `ANSWER` close at its end."""
    before, after, opening, said = line.groups()
    if before and not (after or opening):
        return said.rstrip().removesuffix(before)
    return said if before or after else opening + said


def _block(said: str, fence: str) -> tuple[str, str]:
    """A fenced block with its fences, and what follows it."""
    end = said.find(f"\n{fence}", len(fence))
    if end < 0:
        return said, ""
    end += 1 + len(fence)
    return said[:end], said[end:]


def _bulleted(said: str) -> tuple[str, str]:
    """The lines with bullets from the first on, and what follows them."""
    lines = said.split("\n")
    count = next((at for at, line in enumerate(lines) if not BULLET.match(line)), len(lines))
    return "\n".join(lines[:count]), "\n".join(lines[count:])


def _fenced(text: str, lines: list[re.Match[str]]) -> list[re.Match[str]]:
    """The lines that stand in a fenced block, or after a fence that never closes."""
    blocks = list(_blocks(text)) if lines else []
    starts = [start for start, _ in blocks]
    before = ((line, bisect_right(starts, line.start()) - 1) for line in lines)
    return [line for line, at in before if at >= 0 and line.start() < blocks[at][1]]


def _blocks(text: str) -> Iterator[tuple[int, int]]:
    """Where fenced blocks begin and end, as CommonMark reads them."""
    fence, start = "", 0
    for match in _FENCE.finditer(text):
        marks, info = match.groups()
        if fence:
            if marks.startswith(fence) and not info.strip():
                yield start, match.end()
                fence = ""
        elif "`" not in info:
            fence, start = marks, match.start()
    if fence:
        yield start, len(text)


def _bare(text: str, spec: AnswerSpec) -> Canonical | None:
    """The answer, if the reply is nothing else."""
    if len(text) > longest(spec.type) + _AROUND:
        return None
    inside = unfenced(text)
    body = (text if inside is None else inside).strip("\n")
    found = _known(canonical(body, spec), spec)
    return found if found and _is_alone(body, inside is not None, spec.type) else None


def _is_alone(body: str, fenced: bool, kind: AnswerType) -> bool:
    """Whether a reply could be an answer and no prose. Much prose is Python (`nothing is certain`) or a list with commas."""
    match kind:
        case "json":
            return True
        case "code":
            return fenced
        case "set":
            return unwrapped(body.strip(), _LIST) != body.strip() or all(_is_item(line) for line in body.split("\n"))
        case "short_text":
            return "\n" not in body.strip() and _is_short(body)
        case _:
            return "\n" not in body.strip()


def _is_item(line: str) -> bool:
    """Whether it is a bullet with an item, not with a sentence."""
    bullet = BULLET.match(line)
    return bullet is not None and _is_short(line[bullet.end() :]) and not line.rstrip().endswith((".", ":"))


def _is_short(phrase: str) -> bool:
    """Whether it is an answer's length, one phrase, and not about the one who answers."""
    phrase = phrase.strip()
    return len(phrase) <= _LONGEST_BARE and not _SENTENCE_END.search(phrase) and not _OF_ITSELF.match(phrase)
