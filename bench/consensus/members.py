"""Simulated members with set accuracies, whose errors are correlated as those of real models are.

A question has five choices. How hard it is, all members share (a normal factor, of which `shared` is the part of the variance): they tend
to be wrong on the same questions. And who is wrong tends to be wrong in the same way: one wrong choice lures, the others do not.
"""

from __future__ import annotations

import math
import random
from itertools import combinations
from statistics import NormalDist
from typing import TYPE_CHECKING

from msgspec import Struct

from actors.rules.canonical import Canonical

if TYPE_CHECKING:
    from collections.abc import Sequence

CHOICES = tuple(Canonical(letter, letter) for letter in "ABCDE")
RIGHT, LURE = CHOICES[0], CHOICES[1]
PLAIN = CHOICES[2:]
SAME_ERROR = 0.6
"""How often two members agree where both are wrong; measured on real models by Kim, Garg, Peng and Garg (2025), arXiv 2506.07962."""

LURED = (1 + math.sqrt(1 + (len(PLAIN) + 1) * (len(PLAIN) * SAME_ERROR - 1))) / (len(PLAIN) + 1)
"""How often an error takes the lure: the p of p² + (1 - p)² / (plain wrong choices) = SAME_ERROR."""


class Model(Struct, frozen=True):
    """A member: how often it is right, dollars for a thousand answers, seconds that half of its answers take."""

    name: str
    family: str
    accuracy: float
    price: float
    seconds: float


MODELS = (
    Model("small-p", "p", 0.76, 0.195, 1.5),
    Model("small-q", "q", 0.79, 0.65, 1.8),
    Model("middle-r", "r", 0.83, 1.2, 2.5),
    Model("middle-p", "p", 0.85, 2.6, 3.0),
    Model("large-q", "q", 0.89, 4.5, 4.0),
)
"""Cheap to dear, in three families. Prices are of 500 tokens in and 200 out, at 0.15 + 0.60, 0.30 + 2.50, 0.80 + 4, 2 + 8 and 3 + 15
dollars a million: what models of such sizes have cost."""


class Question(Struct, frozen=True):
    """What each member would answer, and after how many seconds; by slot."""

    answers: tuple[Canonical, ...]
    seconds: tuple[float, ...]


def questions(models: Sequence[Model], count: int, shared: float, seed: int) -> list[Question]:
    """The same ones for the same seed."""
    rng = random.Random(seed)  # noqa: S311  a simulation is to be repeatable
    bars = [NormalDist().inv_cdf(model.accuracy) for model in models]
    return [_question(models, bars, shared, rng) for _ in range(count)]


def _question(models: Sequence[Model], bars: Sequence[float], shared: float, rng: random.Random) -> Question:
    hard = math.sqrt(shared) * rng.gauss(0, 1)
    own = math.sqrt(1 - shared)
    answers = tuple(RIGHT if hard + own * rng.gauss(0, 1) < bar else _error(rng) for bar in bars)
    return Question(answers, tuple(model.seconds * math.exp(rng.gauss(0, 0.4)) for model in models))


def _error(rng: random.Random) -> Canonical:
    return LURE if rng.random() < LURED else rng.choice(PLAIN)


def same_error(asked: Sequence[Question]) -> tuple[float, float]:
    """Of all pairs of members: how often both are wrong, and how often they then agree."""
    pairs = both = same = 0
    for question in asked:
        for one, other in combinations(question.answers, 2):
            pairs += 1
            if RIGHT not in {one, other}:
                both += 1
                same += one == other
    return both / pairs, same / both
