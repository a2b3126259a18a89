"""Short text: NFKC, case, articles, quotes and the punctuation at its end do not count; every other word does."""

from __future__ import annotations

import re
import unicodedata

from actors.rules.canonical.answer import Canonical
from actors.rules.canonical.locales import language
from protocols.tournament import AnswerSpec

_INVISIBLE = re.compile(
    r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]"
)
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+")
_LOWERED = re.compile("(?<=[0-9])[₀-₉]+")
_FRACTION = re.compile("(?<=[0-9])(?=[¼-¾⅐-⅞])")
_FRACTION_SLASH = re.compile(r"(?<=\d)\u2044(?=\d)")

QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "„": "“", "«": "»", "»": "«", "「": "」", "`": "`", "*": "*"}
"""Quotation marks, and those of Markdown: what opens, and what closes it."""

BRACKETS = {"(": ")", "[": "]", "{": "}"}

_FENCE = re.compile(r"(`{3,}|~{3,})[^`]*\Z")

_LIKE_ASCII = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "‐": "-", "‒": "-", "–": "-", "—": "-", "−": "-"})
_NOT = (
    (re.compile(r"\b(can)(?:'t|not)\b"), r"\1 not"),
    (re.compile(r"\bwon't\b"), "will not"),
    (re.compile(r"n't\b"), " not"),
)
_ARTICLE = re.compile(r"(?:the|an|a) (?!(?:and|or|nor|is|are|to|not)\b|[-&+*/=<>])(?=.)")
"""No article is what is joined or compared with something: `a and b` is not `and b`."""


def short_text(answer: str, spec: AnswerSpec) -> Canonical | None:
    """Text by its words. Negations count: `is safe` is not `is not safe`, but `isn't safe` is."""
    shown = trimmed(folded(answer), QUOTES)
    if not any(unicodedata.category(char)[0] in "LNS" for char in shown):
        return None
    key = same_case(shown)
    return Canonical(_in_english(key) if language(spec.locale) == "en" else key, shown)


def folded(text: str) -> str:
    """NFKC without what cannot be seen, white space as single spaces.

    What NFKC would make another number is kept apart: 10² becomes 10^2, not 102, and 1½ becomes 1 1/2, not 11/2.
    """
    text = _INVISIBLE.sub("", text)
    text = _RAISED.sub(r"^\g<0>", text)
    text = _LOWERED.sub(r"_\g<0>", text)
    text = _FRACTION.sub(" ", text)
    text = _FRACTION_SLASH.sub("/", unicodedata.normalize("NFKC", text))
    return " ".join(text.split())


def same_case(text: str) -> str:
    """Folded text without case, and with the quotes and dashes of a keyboard."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).translate(_LIKE_ASCII)


def trimmed(text: str, pairs: dict[str, str]) -> str:
    """Folded text without the punctuation at its end and without pairs of marks around all of it."""
    before = None
    while text != before:
        before = text
        text = unwrapped(_unpunctuated(text.strip()), pairs)
    return text


def unwrapped(text: str, pairs: dict[str, str]) -> str:
    """Without one pair of marks, if the first character's mark is closed by the last one's and by none before."""
    closing = pairs.get(text[:1])
    if closing is None:
        return text
    opened = len(text) - len(text.lstrip(text[0]))
    width = opened if closing == text[0] else 1
    inside = text[width:-width]
    if len(text) <= 2 * width or text[-width:] != closing * width or not _is_balanced(inside, text[0], closing):
        return text
    return inside


def one_line(text: str) -> str:
    """Text with the line ends of Unix."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def unfenced(text: str) -> str | None:
    """What stands in the fenced code block that is the whole text, or in a block in it, and no deeper; None if there is none."""
    inside = _inside(text)
    deeper = None if inside is None else _inside(inside)
    return inside if deeper is None else deeper


def _inside(text: str) -> str | None:
    first, *lines = one_line(text).strip().split("\n")
    opening = _FENCE.match(first)
    if opening is None or not lines or lines.pop().strip() != opening[1]:
        return None
    if any(line.lstrip().startswith(opening[1]) for line in lines):
        return None
    return "\n".join(lines)


def _in_english(key: str) -> str:
    for contraction, words in _NOT:
        key = contraction.sub(words, key)
    return _ARTICLE.sub("", key, count=1) if _ARTICLE.match(key) else key


def _unpunctuated(text: str) -> str:
    """Without the punctuation at its end. `5!` is a factorial and a question mark is a doubt: neither is dropped."""
    before = None
    while text != before:
        before = text
        text = text.rstrip(" .,;:。、")
        text = text[:-1] if text.endswith("!") and not text[-2:-1].isdigit() else text
    return text


def _is_balanced(inside: str, opening: str, closing: str) -> bool:
    if opening == closing:
        return opening not in inside
    depth = 0
    for char in inside:
        depth += (char == opening) - (char == closing)
        if depth < 0:
            return False
    return depth == 0
