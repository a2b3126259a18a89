"""What judges make of answers that no type compares: which is the best (`pick`), or which say the same (`vote`). Pure.

Best: each judge is asked about each pair in both orders, for judges prefer a place; one that names another answer when the places
change has found no difference. No judge is asked about an answer of its own model. The same: a judge groups the answers, twice, in
two orders; one that groups them differently the second time has not understood them, and nobody has compared them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from itertools import permutations
from typing import Literal

from msgspec import Struct

from actors.rules.canonical import Canonical
from actors.rules.consensus import FEWEST_LIVE, HALF, Rule, Vote
from actors.rules.matrix import identity
from protocols.tournament import Agreement, Cluster, Flag, Status

Preference = Literal["first", "second", "tie"]
"""A judge's word on two answers, by their places."""

Partition = tuple[tuple[int, ...], ...]
"""Slots whose answers say the same, largest group first, then by the lowest slot."""

NOTHING = Fraction(0)

MOST_CALLS = 240
"""Calls of all judges of one tournament: what one judge is asked about sixteen answers, each pair in both orders."""


class Candidate(Struct, frozen=True):
    """An answer to be judged. Of equally good ones the best `quality` (0-10) is named first, then the lowest slot."""

    slot: int
    model: str
    family: str | None
    text: str
    quality: float = 0.0


class Comparison(Struct, frozen=True):
    """One call of a judge (a model id): two slots, in the order in which it is shown their answers as A and B."""

    judge: str
    first: int
    second: int


class Ranked(Struct, frozen=True):
    """A candidate and its share: its points against each other candidate out of the judgements asked for, averaged over the others."""

    candidate: Candidate
    share: Fraction


class Ranking(Struct, frozen=True, kw_only=True):
    """Candidates, best first, and what that makes. `winner` is None where nobody leads alone; `judged` of `asked` judgements count.

    A judgement is what one judge says of one pair, in both orders. `won` is the share of them that the winner won outright, against
    the candidate that it did worst against: the status goes by it. `top_share` and `margin` are of the shares that rank.
    """

    status: Status
    winner: Candidate | None
    ranked: tuple[Ranked, ...]
    top_share: Fraction
    margin: Fraction
    won: Fraction
    flags: tuple[Flag, ...]
    asked: int
    judged: int


class _Duel(Struct, frozen=True):
    """A judgement. `better` is None for a tie; one that lacks an order was not judged."""

    better: int | None
    judged: bool


_Pair = frozenset[int]
_Duels = Mapping[_Pair, Sequence[_Duel]]


# ---- which is the best


def pairs(candidates: Sequence[Candidate], judges: Iterable[str], seed: int) -> tuple[Comparison, ...]:
    """All calls, judge by judge: every pair in both orders, in a sequence of the judge's own that the seed decides.

    For n candidates that is n * (n - 1) calls a judge. A judge named twice is asked once: it would only say the same again.
    """
    calls: list[Comparison] = []
    for judge in dict.fromkeys(judges):
        others = [each for each in candidates if not is_own(judge, [each.model])]
        orders = [(one.slot, other.slot) for one, other in permutations(others, 2)]
        orders.sort(key=lambda slots: _drawn(seed, judge, *slots))
        calls += [Comparison(judge, first, second) for first, second in orders]
    return tuple(calls)


def is_own(judge: str, models: Iterable[str]) -> bool:
    """Whether a judge (all are model ids) is one of these models, also at another provider."""
    return identity(judge) in map(identity, models)


def most_calls(judge: str, members: Sequence[str], bench: Sequence[str]) -> int:
    """The calls of a judge in the worst line-up, by model ids: as many candidates as members, as few of them as can be its own model."""
    others = [model for model in (*members, *bench) if not is_own(judge, [model])]
    n = min(len(members), len(others))
    return n * (n - 1)


def most_judges(wanted: int, n: int) -> int:
    """How many judges may be asked about `n` candidates: as many as are wanted, if `MOST_CALLS` are enough for them."""
    return max(min(wanted, MOST_CALLS // max(n * (n - 1), 1)), 1)


def held_for(comparisons: Iterable[Comparison], calls: Mapping[str, int]) -> tuple[Comparison, ...]:
    """Of each judge the first that it has so many `calls` for."""
    asked = Counter[str]()
    kept: list[Comparison] = []
    for each in comparisons:
        if asked[each.judge] < calls.get(each.judge, 0):
            asked[each.judge] += 1
            kept.append(each)
    return tuple(kept)


def tally(
    comparisons: Sequence[Comparison],
    verdicts: Sequence[Preference | None],
    candidates: Sequence[Candidate],
    rule: Rule,
    *,
    asked: int,
    failed: int = 0,
    shrunk: bool = False,
    deadline: bool = False,
) -> Ranking:
    """The ranking that the judges' words come to: `verdicts` are in the order of `comparisons`, None for a call that gave none.

    A win is a point, a tie or a flip half a point: that ranks. A judgement that failed gives no point and counts below the line, as
    a pair does that nobody was asked about. `asked` and `failed` are members: asked for at first, and launched without an answer.

    The status goes by what the winner won outright, against each other candidate by itself: with half points, judges that toss a coin
    would mostly agree, and a bad answer more would make every other one better.
    `unanimous`: every judge, in every order, prefers the winner to every other, and every member asked for gave an answer.
    `consensus`: it won the threshold's share of the judgements against each, and the candidates are of two families and the threshold's
    share of the members launched. `majority`: more than half against each. `dispute`: not even that; also where two equally good ones
    tie. `inconclusive`: fewer candidates than `min_live`, or no more than half of those launched. `unscored`: nothing was judged.
    `failed`: there is no candidate. Members that failed lower no share here, for the winner is the best of what there is; but where
    too many did, what there is says too little.
    """
    duels = _duels(comparisons, verdicts)
    ranked = _ranked(candidates, duels)
    top, second = ([each.share for each in ranked] + [NOTHING, NOTHING])[:2]
    winner = ranked[0].candidate if len(ranked) == 1 or top > second else None
    won = min((_won(winner, each.candidate, duels) for each in ranked[1:]), default=NOTHING) if winner else NOTHING
    held = [duel for same in duels.values() for duel in same]
    judged = sum(duel.judged for duel in held)
    complete = len(candidates) == asked and not failed
    live = Fraction(len(candidates), max(len(candidates) + failed, 1))
    missing = len(candidates) < asked and not shrunk
    raised: dict[Flag, bool] = {
        "degraded": failed > 0 or missing or judged < len(held),
        "shrunk": shrunk,
        "same_family": len(candidates) > 1 and _families(candidates) < FEWEST_LIVE,
        "deadline": deadline,
    }
    return Ranking(
        status=_status(candidates, won, live, rule, judged=judged > 0, complete=complete),
        winner=winner,
        ranked=ranked,
        top_share=top,
        margin=top - second,
        won=won,
        flags=tuple(flag for flag, up in raised.items() if up),
        asked=len(held),
        judged=judged,
    )


def told(ranking: Ranking) -> Agreement:
    """The ranking as it is told: each candidate is a cluster of its own, shares are those of judgements."""
    clusters = [Cluster(each.candidate.text, [each.candidate.model], float(each.share)) for each in ranking.ranked]
    method: Literal["judge", "none"] = "judge" if ranking.judged else "none"
    return Agreement(method, float(ranking.top_share), float(ranking.margin), clusters)


def _duels(comparisons: Sequence[Comparison], verdicts: Sequence[Preference | None]) -> _Duels:
    """The judgements of each pair: one for each judge that was asked about it."""
    named: dict[tuple[_Pair, str], dict[int, int | None]] = {}
    for call, verdict in zip(comparisons, verdicts, strict=True):
        orders = named.setdefault((frozenset((call.first, call.second)), call.judge), {})
        if verdict is not None:
            orders[call.first] = {"first": call.first, "second": call.second, "tie": None}[verdict]
    duels: dict[_Pair, list[_Duel]] = {}
    for (pair, _), orders in named.items():
        judged = pair == orders.keys()
        better = set(orders.values())
        duels.setdefault(pair, []).append(_Duel(better.pop() if judged and len(better) == 1 else None, judged))
    return duels


def _ranked(candidates: Sequence[Candidate], duels: _Duels) -> tuple[Ranked, ...]:
    others = max(len(candidates) - 1, 1)
    ranked = [
        Ranked(one, sum((_score(one, other, duels) for other in candidates), NOTHING) / others) for one in candidates
    ]
    return tuple(sorted(ranked, key=lambda each: (-each.share, -each.candidate.quality, each.candidate.slot)))


def _score(one: Candidate, other: Candidate, duels: _Duels) -> Fraction:
    """The points of one against another, out of the judgements asked for."""
    same = duels.get(frozenset((one.slot, other.slot)), ())
    points = sum((_points(duel, one.slot) for duel in same), NOTHING)
    return points / len(same) if same else NOTHING


def _won(one: Candidate, other: Candidate, duels: _Duels) -> Fraction:
    """The judgements that one won outright against another, out of those asked for."""
    same = duels.get(frozenset((one.slot, other.slot)), ())
    return Fraction(sum(duel.judged and duel.better == one.slot for duel in same), max(len(same), 1))


def _points(duel: _Duel, slot: int) -> Fraction:
    if not duel.judged:
        return NOTHING
    return HALF if duel.better is None else Fraction(duel.better == slot)


def _status(
    candidates: Sequence[Candidate], won: Fraction, live: Fraction, rule: Rule, *, judged: bool, complete: bool
) -> Status:
    """Read top to bottom, first match wins. `live` is the share of the members launched that gave an answer."""
    if not candidates:
        return "failed"
    if len(candidates) < max(rule.min_live, FEWEST_LIVE):
        return "inconclusive"
    if not judged:
        return "unscored"
    if min(won, live) <= HALF:
        return "dispute" if won <= HALF else "inconclusive"
    if min(won, live) < rule.threshold or _families(candidates) < FEWEST_LIVE:
        return "majority"
    return "unanimous" if won == 1 and complete else "consensus"


def _families(candidates: Iterable[Candidate]) -> int:
    """How many are known of."""
    return len({each.family for each in candidates} - {None})


# ---- which say the same


def two_orders(candidates: Sequence[Candidate], seed: int) -> tuple[tuple[Candidate, ...], tuple[Candidate, ...]]:
    """The orders in which a judge is shown answers to group: one that the seed decides, and its reverse."""
    order = shuffled(candidates, seed)
    return order, order[::-1]


def grouped(orders: Sequence[Sequence[Candidate]], said: Sequence[list[list[int]] | None]) -> Partition | None:
    """The groups that a judge finds in every order alike, by slot; None if it found none, or others when the order changed.

    `said` are its groups as numbers from 1 on in the order that it was shown.
    """
    found = {_partition(order, groups) for order, groups in zip(orders, said, strict=True) if groups is not None}
    return found.pop() if len(found) == 1 and None not in said else None


def grouped_votes(partition: Partition, candidates: Iterable[Candidate]) -> tuple[Vote, ...]:
    """Ballots by the group that they are in, for `consensus.found`. A group is shown as its best member's answer, verbatim."""
    by_slot = {each.slot: each for each in candidates}
    votes: list[Vote] = []
    for number, slots in enumerate(partition, 1):
        same = [by_slot[slot] for slot in slots]
        best = min(same, key=lambda each: (-each.quality, each.slot))
        answer = Canonical(f"group-{number}", best.text)
        votes += [Vote(each.slot, answer, each.family, each.quality) for each in same]
    return tuple(sorted(votes, key=lambda vote: vote.slot))


def _partition(order: Sequence[Candidate], groups: list[list[int]]) -> Partition:
    slots = [tuple(sorted(order[number - 1].slot for number in group)) for group in groups]
    return tuple(sorted(slots, key=lambda group: (-len(group), group)))


# ---- by the seed


def shuffled(candidates: Sequence[Candidate], seed: int) -> tuple[Candidate, ...]:
    """An order that the seed decides, whatever order they came in."""
    return tuple(sorted(candidates, key=lambda each: _drawn(seed, "", each.slot)))


def _drawn(seed: int, judge: str, *slots: int) -> bytes:
    """A number for each, the same on every machine."""
    return hashlib.sha256(repr((seed, judge, slots)).encode("utf-8", "surrogatepass")).digest()
