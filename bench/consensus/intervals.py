"""Figures with their 95 % intervals, of many questions played."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Z = 1.96


class Figure(Struct, frozen=True):
    """A figure between the ends of its interval."""

    value: float
    low: float
    high: float

    def text(self, factor: float = 100, digits: int = 2) -> str:
        """As `93.65 [92.50, 94.64]`; a factor of 100 makes it percent."""
        low, value, high = (f"{factor * end:.{digits}f}" for end in (self.low, self.value, self.high))
        return f"{value} [{low}, {high}]"


def share(hits: int, count: int) -> Figure | None:
    """A proportion, by Wilson's interval."""
    if not count:
        return None
    value = hits / count
    middle = (value + Z * Z / (2 * count)) / (1 + Z * Z / count)
    half = Z * math.sqrt(value * (1 - value) / count + Z * Z / (4 * count * count)) / (1 + Z * Z / count)
    return Figure(value, middle - half, middle + half)


def mean(values: Sequence[float]) -> Figure:
    """A mean, or a mean of differences question by question."""
    count, value = len(values), math.fsum(values) / len(values)
    variance = math.fsum((each - value) ** 2 for each in values) / (count - 1)
    half = Z * math.sqrt(variance / count)
    return Figure(value, value - half, value + half)


def auroc(judged: Iterable[tuple[float, bool]]) -> Figure | None:
    """How well a score predicts that the answer is wrong, from (score, wrong); 0.5 is chance. Interval of Hanley and McNeil (1982)."""
    wrong: Counter[float] = Counter()
    right: Counter[float] = Counter()
    for score, is_wrong in judged:
        (wrong if is_wrong else right)[score] += 1
    bad, good = wrong.total(), right.total()
    if not bad or not good:
        return None
    ahead = below = 0.0
    for score in sorted({*wrong, *right}):
        ahead += wrong[score] * (below + right[score] / 2)
        below += right[score]
    return _hanley(ahead / (bad * good), bad, good)


def _hanley(area: float, bad: int, good: int) -> Figure:
    one, two = area / (2 - area), 2 * area * area / (1 + area)
    variance = area * (1 - area) + (bad - 1) * (one - area**2) + (good - 1) * (two - area**2)
    half = Z * math.sqrt(variance / (bad * good))
    return Figure(area, area - half, area + half)
