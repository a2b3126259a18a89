"""The record of tournaments: what is kept of them, reviews, how reliable that makes models, and replays."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct

from protocols.audit import Actor
from protocols.request import Request
from protocols.rpc import Name, Params, Right
from protocols.settings import Mode
from protocols.tournament import (
    MOST_MEMBERS,
    AnswerSpec,
    AnswerType,
    Ballot,
    Latency,
    Verdict,
)

LONGEST_PROMPT = 4_000
"""Characters of a prompt that are stored, from its beginning: what a person needs who says which answer was right."""

LONGEST_TEXT = 20_000
"""Characters of a ballot's text that are stored, from its end: there stands the answer."""

CUT = "[…] "
"""Stands before a ballot's text whose beginning is not stored."""

LONGEST_ANSWER = 65_536
"""Characters of an answer that are stored: the longest of any declared type."""


class Seat(Struct, frozen=True, omit_defaults=True):
    """A member as the rules know it. `whole`: its provider bills a cancelled call as if it had ended. `quality` is its score (0-10)."""

    slot: int
    model: str
    family: str | None = None
    whole: bool = False
    quality: float = 0.0


class Terms(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What a tournament is held under, so that it can be replayed. `members` in the order to ask them in, `bench` stands in for who fails.

    `asked` is how many members were asked for, before any were left out (`shrunk`). `threshold` and `veto` as the call wrote them.
    """

    members: tuple[Seat, ...]
    bench: tuple[Seat, ...] = ()
    asked: int
    threshold: str = "2/3"
    min_live: int = 2
    veto: str | None = None
    latency: Latency = "frugal"
    shrunk: bool = False
    critical: bool = False


class Opened(Struct, frozen=True, kw_only=True):
    """What is known of a tournament when it begins. `created_at` in µs since 1970; `spec` is None where a judge compares, or nobody."""

    tournament_id: str
    user: str
    app: str
    task_type: str | None
    mode: Mode
    prompt: str
    spec: AnswerSpec | None
    terms: Terms
    created_at: int


class OpenRecord(Request[None], frozen=True):
    """Record: a tournament begins; answered once that is durable. Raises LedgerReadonly.

    Who sends it closes or abandons it, also when cancelled meanwhile.
    """

    opened: Opened


class KeepBallot(Request[None], frozen=True):
    """Record: a ballot came in, or a member failed. One that a full disk refuses stands in the verdict, which is kept with its ballots."""

    tournament_id: str
    ballot: Ballot


class CloseRecord(Request[None], frozen=True):
    """Record: a tournament ended so; answered once that is durable, or at once on a full disk: then it is kept, and written when there is space.

    `agreed` are the slots whose ballot is the winner's. Where the status decides nothing, or a judge chose among answers without a type,
    they count for nothing, until a review.
    """

    verdict: Verdict
    agreed: list[int]


class AbandonRecord(Request[None], frozen=True):
    """Record: a tournament ended without a verdict: cancelled, refused, or the daemon stopped; on a full disk as CloseRecord."""

    tournament_id: str
    why: str


class Reliability(Struct, frozen=True):
    """How often a model agreed with the outcome, of those that its type or a vote decided, or a review; `score` is smoothed: (agreed + 1) / (of + 2)."""

    model: str
    agreed: int
    of: int
    score: float


class ReadReliability(Request[dict[str, Reliability]], frozen=True):
    """Record: the reliability of models at a task (None: at all tasks), of everybody's tournaments. A model without any is not in it."""

    task_type: str | None


State = Literal["running", "done", "unfinished"]
"""`unfinished`: it has no verdict, or none that could be stored; `why` says what came between."""


class TournamentRow(Struct, kw_only=True):
    """A row of `tournaments`. Lists cut `prompt` and `answer` to 300 characters. `needs_review` until it is reviewed.

    `why` says what left it unfinished; its cost is then that of its ballots.
    """

    tournament_id: str
    created_at: str
    user: str
    app: str
    task_type: str | None
    mode: Mode
    state: State
    status: str | None
    answer: str | None
    needs_review: bool
    members: list[str]
    prompt: str
    cost_nano_usd: int | None
    reviewed_answer: str | None = None
    reviewed_at: str | None = None
    reviewed_by: str | None = None
    why: str | None = None


class Tournaments(Params):
    """Lists tournaments, newest first; `needs_review` only those that a person should look at, `before` pages on from an id."""

    method: ClassVar[str] = "tournaments"
    right: ClassVar[Right] = "use"

    last: Annotated[int, Meta(ge=1, le=1000)] = 50
    before: Name | None = None
    needs_review: bool | None = None
    state: State | None = None
    task: Name | None = None
    user: Name | None = None


class TournamentList(Struct):
    """Result of `tournaments` and `reviews`."""

    tournaments: list[TournamentRow]


class Reviews(Params):
    """Lists the tournaments that nobody has looked at yet although they need it."""

    method: ClassVar[str] = "reviews"
    right: ClassVar[Right] = "use"

    last: Annotated[int, Meta(ge=1, le=1000)] = 50
    before: Name | None = None
    user: Name | None = None


class ReviewsResolve(Params):
    """Says which answer was right, in words of the tournament's answer type; feeds the members' reliability.

    Without a type: the model id of a member that was right, the number of a cluster, a ballot's own text, or `none`. Said again, it
    replaces what was said before.
    """

    method: ClassVar[str] = "reviews.resolve"
    right: ClassVar[Right] = "use"

    tournament_id: Name
    answer: Annotated[str, Meta(max_length=100_000)]
    why: Annotated[str, Meta(max_length=1000)] = ""
    user: Name | None = None


class Show(Params):
    """One tournament with its ballots, as its verdict said it."""

    method: ClassVar[str] = "tournament.show"
    right: ClassVar[Right] = "use"

    tournament_id: Name
    user: Name | None = None


class Replay(Params):
    """Evaluates stored ballots anew, with another threshold, mode or answer type; calls nobody and changes no record."""

    method: ClassVar[str] = "tournament.replay"
    right: ClassVar[Right] = "use"

    tournament_id: Name
    threshold: Name | None = None
    mode: Literal["vote", "race", "cascade"] | None = None
    answer: AnswerSpec | AnswerType | None = None
    min_live: Annotated[int, Meta(ge=2, le=MOST_MEMBERS)] | None = None
    veto: Name | None = None
    user: Name | None = None


class Difference(Struct, frozen=True):
    """A field of the verdict that a replay changes."""

    what: str
    was: str | bool | float | list[str] | None
    now: str | bool | float | list[str] | None


class Replayed(Struct, frozen=True):
    """Result of `tournament.replay`: the verdict as it would have been, and how it differs from the stored one (not at all if there is none).

    `cost_nano_usd` is what the ballots cost that would have been asked for. `not_heard` are members that would have been asked and of whom
    no ballot is stored; they count as failed, so the verdict is `degraded` and its cost too low.
    """

    verdict: Verdict
    differs: list[Difference]
    not_heard: list[str]


class Resolved(Struct):
    """Result of `reviews.resolve`: whose ballots gave this answer. Members whose ballot does not count are in neither."""

    tournament_id: str
    answer: str
    agreed: list[str]
    disagreed: list[str]


class ListTournaments(Request[list[TournamentRow]], frozen=True):
    """Record: rows; `user` and the names below, None everybody's. `reviews` only what waits for a review."""

    query: Tournaments | Reviews
    user: str | None


class ReadRecord(Request["Stored"], frozen=True):
    """Record: one tournament with its ballots; `user` and the names below, None anybody's. Raises NotFound."""

    tournament_id: str
    user: str | None


class ReplayRecord(Request[Replayed], frozen=True):
    """Record: the verdict as it would have been, of one of `user` and the names below, None anybody's; one replay at a time.

    Raises NotFound, BadRequest for what can't be evaluated so.
    """

    change: Replay
    user: str | None


class Stored(Struct, kw_only=True):
    """A tournament as it is stored, the result of `tournament.show`; the ballots stand beside the verdict, not in it."""

    tournament: TournamentRow
    spec: AnswerSpec | None
    terms: Terms
    ballots: list[Ballot]
    verdict: Verdict | None = None


class ResolveReview(Request[Resolved], frozen=True):
    """Record: the answer that was right, with an audit entry. Raises NotFound, BadRequest for an answer of another type."""

    tournament_id: str
    answer: str
    why: str
    user: str | None
    actor: Actor
