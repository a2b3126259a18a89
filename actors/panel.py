"""Who takes part in a tournament, as it was convened: members, bench, judges and aggregator, each with what is asked and held."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct, field

from actors.asking import ChatCall
from actors.planner import Prepared
from actors.rules.candidates import Target
from actors.rules.consensus import Rule
from actors.rules.contract import with_contract
from actors.rules.judge_chats import fusing_chat
from actors.rules.judging import Candidate
from protocols.audit import Actor
from protocols.budget import Reserve
from protocols.chat import Chat, Message
from protocols.errors import QuorumError
from protocols.money import NanoUSD
from protocols.record import Seat, Terms
from protocols.session import Preferences
from protocols.settings import Mode
from protocols.tournament import AnswerSpec, Missing, Progress, Tournament

SHOWN = 4000
"""Characters of an answer that a judge is shown at most; fewer where more would cost more than is held."""

BEST = 3
"""Answers that an aggregator is given."""

OWN_ANSWER = "a judge does not judge its own model's answer"


class TournamentCall(Struct):
    """A tournament with who asks. `emit` takes its progress, `interrupted` says what a cancellation was, `left_s` is its time.

    State: `tournament_id`, which the caller may have chosen, and whether a request has left for a provider.
    """

    params: Tournament
    user: str
    app: str
    actor: Actor
    emit: Callable[[Progress], None]
    interrupted: Callable[[], type[QuorumError]]
    left_s: float
    tournament_id: str = ""
    sent: bool = False


class Bid(Struct):
    """Somebody to ask: what is asked, as it is planned, and what is to be held for it."""

    target: Target
    prepared: Prepared
    call: ChatCall
    reserve: Reserve

    @property
    def bound(self) -> int:
        """Nano-dollars that it costs at most; 0 where nobody knows."""
        return self.reserve.amount or 0


class Panel(Struct, kw_only=True):
    """Who takes part. `bids` of members and bench by slot; `judging` those of judges by model, `fusing` the aggregator's.

    `absent` are members that were named and can't be asked, with why; `left_out` those that a tight budget does not pay for, `unheard` judges
    and an aggregator that can't be asked. `seed` decides every order that must not mean anything.
    """

    tournament_id: str
    mode: Mode
    spec: AnswerSpec | None
    rule: Rule
    terms: Terms
    question: list[Message]
    bids: dict[int, Bid]
    judges: list[str]
    judging: dict[str, list[Bid]]
    fusing: Bid | None
    seed: int
    absent: dict[int, QuorumError] = field(default_factory=dict)
    left_out: list[Missing] = field(default_factory=list)
    unheard: list[Missing] = field(default_factory=list)

    @property
    def seats(self) -> dict[int, Seat]:
        """Members and bench, by slot."""
        return {seat.slot: seat for seat in (*self.terms.members, *self.terms.bench)}

    @property
    def group(self) -> tuple[Bid, ...]:
        """What is held in one step: members, judges, aggregator. Whoever stands in for a member is held for then."""
        members = [self.bids[seat.slot] for seat in self.terms.members if seat.slot in self.bids]
        judges = [bid for bids in self.judging.values() for bid in bids]
        return (*members, *judges, *([self.fusing] if self.fusing else []))

    def fusing_chat(self, ranked: Sequence[Candidate], shown: int, max_tokens: int | None) -> Chat:
        """What the aggregator is asked, showing so many characters of each answer; the answer's type has its form there, too."""
        chat = fusing_chat(self.question, ranked, BEST, shown, self.seed, max_tokens)
        return chat if self.spec is None else with_contract(chat, self.spec)

    @property
    def bound(self) -> NanoUSD:
        """What all of them cost at most, in nano-dollars."""
        return NanoUSD(sum(bid.bound for bid in self.group))


class Narrower(Struct, frozen=True):
    """How a panel is made to fit a budget: at most so many members, or local models alone."""

    most: int | None = None
    local_only: bool = False


def judges_preferences(preferences: Preferences) -> Preferences:
    """A judge is asked as it is: the user's own parameters are for answers."""
    return Preferences(preferences.user, preferences.default_max_tokens, None)
