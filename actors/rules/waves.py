"""Whom a tournament asks next, and when it has heard enough. Pure: what is asked and where it stands, to one step.

`vote`   frugal: the fewest members that could decide it, more only while undecided. fast: all at once.
`cascade`   two members of different families, then one more at a time until the ballots make a consensus.
`race`   all at once, until the first answer.   `pick`, `fuse`   all at once, and all are heard: each may be the best.

A vote is decided when no ballots still to come, whatever they say and in whatever order, can overturn or equal the leader: it leads
its rival by more than all of them. Then stopping and hearing all give the same winner. With a tolerance "the same" means that the
answer agrees with all of the group that would lead in the end; its number may still move, by no more than the tolerance.
It goes on, though the winner is certain, while more ballots could make a majority of what is a dispute or inconclusive so far, for
one that a person must look at is no outcome. A member that fails is replaced from the bench, one for one, while it is undecided.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from msgspec import Struct

from actors.rules.consensus import FEWEST_LIVE, HALF, Count, Rule, Vote, agrees, clusters, families, found, rival
from protocols.settings import Mode
from protocols.tournament import Latency

Why = Literal["decided", "first", "heard"]
"""The leader cannot be overturned; the race has its first answer; nobody is left to be heard."""


class Member(Struct, frozen=True):
    """Someone to ask. `whole`: its provider bills a cancelled call as if it had ended, so it is rather not launched than cancelled.

    `price` is what it may cost, in nano-dollars, `quality` its score (0-10): `arranged` goes by them.
    """

    slot: int
    family: str | None = None
    whole: bool = False
    price: int = 0
    quality: float = 0.0


class Asked(Struct, frozen=True, kw_only=True):
    """What a tournament asks. `members` in the order to ask them in (see `arranged`), `bench` stands in for who fails."""

    mode: Mode
    members: tuple[Member, ...]
    bench: tuple[Member, ...] = ()
    latency: Latency = "frugal"
    rule: Rule = Rule()


class Standing(Struct, frozen=True, kw_only=True):
    """Where it stands: ballots in, slots that run, slots that were launched and gave no answer that counts."""

    votes: tuple[Vote, ...] = ()
    running: frozenset[int] = frozenset()
    failed: frozenset[int] = frozenset()

    @property
    def launched(self) -> frozenset[int]:
        """Every slot that was ever asked."""
        return self.running | self.failed | {vote.slot for vote in self.votes}

    def after(self, slot: int, vote: Vote | None) -> Standing:
        """With this slot's ballot in, or, without one, its member failed."""
        running = self.running - {slot}
        if vote is None:
            return Standing(votes=self.votes, running=running, failed=self.failed | {slot})
        return Standing(votes=(*self.votes, vote), running=running, failed=self.failed)


class Played(Struct, frozen=True):
    """Where it stood when it stopped: `early` as `Stop` says it, or `cut` at its deadline."""

    standing: Standing
    early: bool = False
    cut: bool = False


class Launch(Struct, frozen=True):
    """Ask these, in this order."""

    slots: tuple[int, ...]


class Wait(Struct, frozen=True):
    """Nothing to do until a ballot comes in or a member fails."""


class Stop(Struct, frozen=True):
    """It is over: cancel what runs. `early`: there was more to be heard of the vote, and it would have changed no winner."""

    why: Why
    early: bool = False


Step = Launch | Wait | Stop


def step(asked: Asked, standing: Standing) -> Step:
    """What is to be done now; to be asked again after each ballot, each failure, and each launch."""
    match asked.mode:
        case "vote":
            return _vote(asked, standing)
        case "cascade":
            return _cascade(asked, standing)
        case "race":
            return _race(asked, standing)
        case _:
            return _all(asked, standing)


def _vote(asked: Asked, standing: Standing) -> Step:
    pool = _whole_last(_pool(asked, standing))
    if decided(standing, len(pool), asked.rule):
        return Stop("decided", early=True)
    more = fewest(standing, len(pool), asked.rule) - len(standing.running)
    if asked.latency == "fast":
        return _next(pool, standing, max(more, _cancellable(pool)))
    return _next(_spread(pool, _families(asked, standing)), standing, more)


def _cascade(asked: Asked, standing: Standing) -> Step:
    pool = _spread(_pool(asked, standing), _families(asked, standing))
    if _is_consensus(asked, standing) or decided(standing, len(pool), asked.rule):
        coming = len(standing.running) + len(pool)
        return Stop("decided", early=True) if coming else Stop("heard")
    first = _least(asked.rule) - len(standing.votes) - len(standing.running)
    return _next(pool, standing, max(first, 0 if standing.running else 1))


def _race(asked: Asked, standing: Standing) -> Step:
    if standing.votes:
        return Stop("first")
    pool = _whole_last(_pool(asked, standing))
    pair = FEWEST_LIVE - len(standing.running)  # one alone is no race, whatever its provider bills
    return _next(pool, standing, max(_cancellable(pool), pair))


def _all(asked: Asked, standing: Standing) -> Step:
    pool = _pool(asked, standing)
    return _next(pool, standing, len(pool))


def _next(pool: Sequence[Member], standing: Standing, count: int) -> Step:
    if count > 0 and pool:
        return Launch(tuple(member.slot for member in pool[:count]))
    return Wait() if standing.running else Stop("heard")


# ---- when it is decided


def decided(standing: Standing, waiting: int, rule: Rule) -> bool:
    """Whether more ballots, from those who run and `waiting` others, are not worth hearing. False when there are none to come."""
    coming = len(standing.running) + waiting
    live = len(standing.votes)
    if not coming or live < min(_least(rule), live + coming) or live == 0 or _veto_is_open(standing, rule):
        return False
    size, other = _lead(standing, rule)
    launched = len(standing.launched)
    answered = size > HALF * launched or size + coming <= HALF * (launched + waiting)
    return answered and size > other + coming


def fewest(standing: Standing, waiting: int, rule: Rule) -> int:
    """The least number of ballots, of those to come, with which it could be decided: they would all have to join the leader."""
    coming = len(standing.running) + waiting
    if _veto_is_open(standing, rule):
        return coming
    size, other = _lead(standing, rule)
    live, failed = len(standing.votes), len(standing.failed)
    to_lead = (other + coming - size) // 2 + 1
    to_answer = live + failed - 2 * size + 1
    return min(max(to_lead, to_answer, _least(rule) - live), coming)


def _lead(standing: Standing, rule: Rule) -> tuple[int, int]:
    """The sizes of the leading group and of the one to fear."""
    if not standing.votes:
        return 0, 0
    leader = clusters(standing.votes, rule.tolerance)[0]
    return leader.size, rival(standing.votes, leader.answer, rule.tolerance)


def _veto_is_open(standing: Standing, rule: Rule) -> bool:
    """Whether a ballot to come could veto: then every one is to be heard, for one is enough."""
    veto = rule.veto
    return veto is not None and not any(agrees(vote.answer, veto, rule.tolerance) for vote in standing.votes)


def _is_consensus(asked: Asked, standing: Standing) -> bool:
    ran = Count(
        votes=standing.votes, asked=len(asked.members), failed=len(standing.failed), cancelled=len(standing.running)
    )
    return found(ran, asked.rule).status in {"consensus", "unanimous"}


def _least(rule: Rule) -> int:
    return max(rule.min_live, FEWEST_LIVE)


# ---- who is next


def arranged(members: Iterable[Member]) -> tuple[Member, ...]:
    """An order to ask in, where nobody named one: two cheap ones (of two families), the strongest of the others, then by price.

    The strongest comes third: in a cascade it settles what the cheap ones leave open, and in a vote's first wave its word is what makes
    the wave's agreement worth something. `bench/consensus` has the figures.
    """
    cheap = _spread(sorted(members, key=lambda member: (member.price, -member.quality, member.slot)), frozenset())
    if len(cheap) <= FEWEST_LIVE:
        return tuple(cheap)
    strongest = max(cheap[FEWEST_LIVE:], key=lambda member: (member.quality, -member.price, -member.slot))
    rest = [member for member in cheap[FEWEST_LIVE:] if member is not strongest]
    return (*cheap[:FEWEST_LIVE], strongest, *rest)


def _pool(asked: Asked, standing: Standing) -> list[Member]:
    """Who may still be launched, in order: members, then as many of the bench as have failed and are not replaced yet."""
    launched = standing.launched
    members = [member for member in asked.members if member.slot not in launched]
    bench = [member for member in asked.bench if member.slot not in launched]
    due = len(standing.failed) - (len(asked.bench) - len(bench))
    return members + _spread(bench, _families(asked, standing))[: max(due, 0)]


def _families(asked: Asked, standing: Standing) -> frozenset[str]:
    """The families of those who answered or run."""
    running = (m.family for m in (*asked.members, *asked.bench) if m.slot in standing.running and m.family is not None)
    return families(standing.votes) | frozenset(running)


def _spread(pool: Sequence[Member], present: frozenset[str]) -> list[Member]:
    """The same order, but for one member: a second family comes as early as it can, for one alone makes no consensus."""
    order = list(pool)
    if len(present) >= FEWEST_LIVE or not order:
        return order
    start = 0 if present else 1
    others = present or {order[0].family}
    second = next((m for m in order[start:] if m.family is not None and m.family not in others), None)
    if second is not None:
        order.remove(second)
        order.insert(start, second)
    return order


def _whole_last(pool: Sequence[Member]) -> list[Member]:
    return sorted(pool, key=lambda member: member.whole)


def _cancellable(pool: Iterable[Member]) -> int:
    """How many may be launched without need: those whose provider does not bill what is cancelled."""
    return sum(not member.whole for member in pool)
