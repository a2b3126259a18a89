"""Hints: a language tag, a provider or alias, or both, such as `pt-BR`, `claude`, `zh-Hans-deepseek`. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator

from msgspec import Struct
from msgspec.structs import replace

from actors.rules.languages import language_tag
from protocols.chat import Chat, Message
from protocols.errors import BadRequest, UnknownProvider


class Hint(Struct, frozen=True):
    """What a hint says: a language tag as it is written by convention, a provider or an alias; one of them may be None."""

    language: str | None
    name: str | None


def parse_hint(text: str, names: Collection[str]) -> Hint:
    """Takes the longest of the names that the hint ends in, and a language before it or alone.

    Raises UnknownProvider for an end that is neither, BadRequest for a beginning that is no language and for an end that is nothing.
    """
    ends = list(_ends(text))
    named = [(before, end) for before, end in ends if end in names]
    for before, end in named:
        language = language_tag(before)
        if language is not None or end == text:
            return Hint(language, end)
    if named:
        before, end = named[0]
        raise BadRequest(f"hint `{text}`: `{before}`, before `{end}`, is no language tag such as en or pt-BR")
    language = language_tag(text)
    if language is not None:
        return Hint(language, None)
    if not text:
        raise BadRequest("the hint is empty; write a language, a provider or an alias, or both, such as en-claude")
    if text.endswith("-"):
        raise BadRequest(
            f"hint `{text}` ends before a name: write a provider or an alias after the last `-`, or leave it out"
        )
    unknown = next((end for before, end in reversed(ends) if language_tag(before)), text)
    near = difflib.get_close_matches(unknown, names, n=1)
    meant = f"did you mean `{near[0]}`? " if near else ""
    raise UnknownProvider(
        f"hint `{text}`: there is no provider or alias `{unknown}`; {meant}there are: {', '.join(names) or 'none'}",
        detail={"provider": unknown},
    )


def in_language(chat: Chat, language: str) -> Chat:
    """The chat with a system message before all others that asks for this language."""
    return replace(chat, messages=[Message("system", f"Answer in {language}."), *chat.messages])


def _ends(text: str) -> Iterator[tuple[str, str]]:
    """What stands before and after each place where a name can begin; the longest end first."""
    parts = text.split("-")
    for at in range(len(parts)):
        yield "-".join(parts[:at]), "-".join(parts[at:])
