"""Yes or no: a word that says so, alone. `not safe` says neither."""

from __future__ import annotations

from actors.rules.canonical.answer import Canonical
from actors.rules.canonical.locales import language
from actors.rules.canonical.text import BRACKETS, QUOTES, folded, same_case, trimmed
from protocols.tournament import AnswerSpec

_WORDS: dict[str, tuple[str, str]] = {
    "de": ("ja wahr", "nein falsch"),
    "es": ("sí si verdadero", "no falso"),
    "fr": ("oui vrai", "non faux"),
    "it": ("sì si vero", "no falso"),
    "nl": ("ja waar", "nee onwaar"),
    "pt": ("sim verdadeiro", "não falso"),
}
"""What says yes and no in the language of a locale, beside English. `si` is yes in Spanish, but if in French."""

_ENGLISH = ("yes y true", "no n false")


def yes_no(answer: str, spec: AnswerSpec) -> Canonical | None:
    """`yes` or `no`, however it is said in English or in the locale's language."""
    word = same_case(trimmed(folded(answer), QUOTES | BRACKETS))
    for says_yes, says_no in (_ENGLISH, _WORDS.get(language(spec.locale), ("", ""))):
        if word in says_yes.split():
            return Canonical("yes", "yes")
        if word in says_no.split():
            return Canonical("no", "no")
    return None
