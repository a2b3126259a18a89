"""The ways to ask, each played through the very rules that the daemon uses: `waves.step` says whom, `consensus.found` what it means."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from msgspec import Struct

from actors.rules.consensus import Count, Finding, Rule, Vote, found
from actors.rules.waves import Asked, Launch, Member, Standing, Stop, Wait, arranged, step
from consensus.members import RIGHT, Model, Question

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from protocols.tournament import Latency, Mode

PROMPT_PART = 0.3
"""Of a price: what is billed as soon as a call has begun. The rest is for the answer, by the time it has been written for."""


class Played(Struct, frozen=True):
    """How one question went: whether the answer given is right, the finding (None for a single model), dollars per thousand, seconds."""

    right: bool
    finding: Finding | None
    cost: float
    seconds: float
    calls: int


class Policy(Struct, frozen=True):
    """A name and what is asked; `whole`: every provider bills a cancelled call as if it had ended."""

    name: str
    mode: Mode = "vote"
    latency: Latency = "frugal"
    whole: bool = False


FRUGAL = Policy("vote, frugal")
FAST = Policy("vote, fast", latency="fast")
FAST_WHOLE = Policy("vote, fast, cancelled is billed whole", latency="fast", whole=True)
CASCADE = Policy("cascade", mode="cascade")


class Player:
    """Plays policies on questions. State: none but who the members are."""

    def __init__(self, models: Sequence[Model]) -> None:
        self.models = models
        self.members = arranged(_member(slot, model, whole=False) for slot, model in enumerate(models))
        self.whole = arranged(_member(slot, model, whole=True) for slot, model in enumerate(models))

    def single(self, question: Question, slot: int) -> Played:
        """One member alone."""
        model = self.models[slot]
        return Played(question.answers[slot] == RIGHT, None, model.price, question.seconds[slot], 1)

    def everyone(self, question: Question) -> Played:
        """All members, all heard: what a plain majority does."""
        votes = tuple(self._vote(question, slot) for slot in range(len(self.models)))
        finding = found(Count(votes=votes, asked=len(votes)), Rule())
        cost = sum(model.price for model in self.models)
        return Played(_is_right(finding), finding, cost, max(question.seconds), len(votes))

    def play(self, policy: Policy, question: Question) -> Played:
        """A tournament, by the clock of the answers."""
        members = self.whole if policy.whole else self.members
        asked = Asked(mode=policy.mode, members=members, latency=policy.latency)
        table = _Table(question)
        while not isinstance(then := step(asked, table.standing()), Stop):
            match then:
                case Launch(slots):
                    table.launch(slots)
                case Wait():
                    table.hear(self._vote)
        votes, cut = tuple(table.votes), table.running()
        count = Count(votes=votes, asked=len(members), cancelled=len(cut), early=then.early)
        finding = found(count, asked.rule)
        return Played(_is_right(finding), finding, self._cost(policy, table), table.now, len(table.began))

    def _vote(self, question: Question, slot: int) -> Vote:
        model = self.models[slot]
        return Vote(slot, question.answers[slot], model.family, 10 * model.accuracy)

    def _cost(self, policy: Policy, table: _Table) -> float:
        running = table.running()
        return sum(
            self.models[slot].price * (1 if policy.whole or slot not in running else _emitted(table, slot))
            for slot in table.began
        )


def _member(slot: int, model: Model, *, whole: bool) -> Member:
    return Member(slot, model.family, whole, price=round(model.price * 1_000_000), quality=10 * model.accuracy)


class _Table:
    """State: the clock, when each member began, who is to answer when, and the ballots in."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.now = 0.0
        self.began: dict[int, float] = {}
        self.due: list[tuple[float, int]] = []
        self.votes: list[Vote] = []

    def standing(self) -> Standing:
        """What the rules look at."""
        return Standing(votes=tuple(self.votes), running=self.running())

    def running(self) -> frozenset[int]:
        """Who has not answered yet."""
        return frozenset(slot for _, slot in self.due)

    def launch(self, slots: Sequence[int]) -> None:
        """They begin now."""
        for slot in slots:
            self.began[slot] = self.now
            heapq.heappush(self.due, (self.now + self.question.seconds[slot], slot))

    def hear(self, vote: Callable[[Question, int], Vote]) -> None:
        """The next one answers."""
        self.now, slot = heapq.heappop(self.due)
        self.votes.append(vote(self.question, slot))


def _emitted(table: _Table, slot: int) -> float:
    """The part of the price that a cancelled call has cost."""
    written = (table.now - table.began[slot]) / table.question.seconds[slot]
    return PROMPT_PART + (1 - PROMPT_PART) * min(written, 1)


def _is_right(finding: Finding) -> bool:
    """Whether the first group is right: of groups of the same size, that of more families, then of the best member, for every policy."""
    return finding.groups[0].answer == RIGHT
