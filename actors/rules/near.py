"""The names most like a wrong one. Wrong names are the clients' own words, and there can be thousands to compare with. Pure."""

from __future__ import annotations

import difflib
import re
from bisect import bisect
from collections import Counter
from functools import lru_cache
from itertools import islice

from msgspec import Struct

COMPARED = 10
"""Names that are compared letter by letter, at up to 60 µs each."""

BESIDE = 3
"""Names before and behind where a wrong name would stand among the others, sorted: they begin as it does."""

COUNTED = 500
"""Names that share a word with the wrong one, of which is counted how many words they share; rare words first."""

LONGEST = 100
"""Letters of a wrong name that count: no model has a longer one."""

ALIKE = 0.4
"""How like a name must be, 0 to 1."""

_WORD = re.compile(r"[a-z]+|[0-9]+", re.IGNORECASE)


class _Index(Struct, frozen=True):
    """Names in order, and which of them have a word."""

    ordered: list[str]
    having: dict[str, list[str]]


def nearest_models(name: str, models: tuple[str, ...], n: int = 3) -> list[str]:
    """The names most like this one. Where there are many, those alone are looked at that begin like it or share its words."""
    name = name[:LONGEST]
    few = models if len(models) <= COMPARED else _alike(name, _indexed(models))
    return difflib.get_close_matches(name, few, n=n, cutoff=ALIKE)


def _alike(name: str, index: _Index) -> list[str]:
    """At most `COMPARED` names."""
    at = bisect(index.ordered, name)
    beside = index.ordered[max(at - BESIDE, 0) : at + BESIDE]
    sharing = sorted((index.having[word] for word in set(_WORD.findall(name)) if word in index.having), key=len)
    shared: Counter[str] = Counter(islice((other for names in sharing for other in names), COUNTED))
    return list(dict.fromkeys([*beside, *(other for other, _ in shared.most_common(COMPARED))]))[:COMPARED]


@lru_cache(maxsize=64)
def _indexed(models: tuple[str, ...]) -> _Index:
    """Kept while a provider lists the same: it takes some ms for thousands."""
    having: dict[str, list[str]] = {}
    for model in models:
        for word in set(_WORD.findall(model)):
            having.setdefault(word, []).append(model)
    return _Index(sorted(models), having)
