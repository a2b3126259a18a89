"""Tournaments: several models are asked one question, and the verdict says whether they agree."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from protocols.money import NanoUSD
from protocols.rpc import Name

AnswerType = Literal["bool", "choice", "number", "date", "set", "json", "code", "short_text"]
Mode = Literal["vote", "pick", "fuse", "race", "cascade"]

Status = Literal["unanimous", "consensus", "majority", "dispute", "inconclusive", "unscored", "failed"]
"""`unanimous`: every member asked for gave the same answer, nobody was left out. `consensus`: share >= threshold, live >= `min_live`,
and those who agree are of >= 2 families. `majority`: more than half of those launched. `dispute`: several answers, and none leads so, or a veto.
`inconclusive`: too few answers to tell. `unscored`: answers whose agreement nobody could tell. `failed`: no answer at all."""

Flag = Literal["degraded", "early_stopped", "shrunk", "same_family", "vetoed", "deadline"]

"""`degraded`: a member asked for gave no answer that counts. `early_stopped`: more ballots would have changed no winner, so they were not
paid for. `shrunk`: fewer asked than wanted, for the budget. `same_family`: those who agree are of one family, as far as is known.
`vetoed`: a ballot gives the answer that one is enough to block with. `deadline`: time was up."""

Latency = Literal["frugal", "fast"]
TightBudget = Literal["shrink", "local_only", "ask", "reject"]


class AnswerSpec(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """The declared type of the answer, by which ballots are compared.

    `choices` are those of `choice`. `tolerance` is absolute: two numbers agree when they are no further apart. `locale` says how
    numbers and dates are written (`de`: 1,5 and 3.6.2026; default `en`: 1.5 and 6/3/2026). `language` is that of `code`.
    """

    type: AnswerType
    choices: Annotated[tuple[Name, ...], Meta(max_length=100)] = ()
    tolerance: Annotated[float, Meta(ge=0)] = 0.0
    unit: Name | None = None
    locale: Name = "en"
    language: Name | None = None


BallotStatus = Literal["ok", "unparsed", "failed", "cancelled", "running"]


class Ballot(Struct, kw_only=True):
    """One member's answer. `answer` is its canonical form as it is shown, None unless `status` is ok; `cluster` counts from 0.

    `why` says what went wrong: the fault's code, or that no answer was found in `text`.
    """

    slot: int
    model: str
    family: str | None = None
    status: BallotStatus
    answer: str | None = None
    text: str = ""
    cluster: int | None = None
    why: str | None = None
    cost_nano_usd: int | None = None
    latency_ms: float | None = None
    usage_id: str | None = None
    round: int = 0


class Cluster(Struct, frozen=True):
    """Ballots that agree: their answer as it is shown, who gave it, and their share of the members launched."""

    answer: str
    members: list[str]
    share: float


class Agreement(Struct, frozen=True):
    """How far the ballots agree. `margin` is the leader's lead over the next, as a share; `method` canonical, judge or none."""

    method: Literal["canonical", "judge", "none"]
    top_share: float
    margin: float
    clusters: list[Cluster]


class Verdict(Struct, kw_only=True):
    """Result of `tournament`. Costs in nano-dollars; `missing` are members whose ballot does not count, each with why."""

    tournament_id: str
    status: Status
    answer: str | None
    answer_kind: Literal["voted", "picked", "fused", "first", "selected", "none"]
    winner: str | None
    agreement: Agreement
    flags: list[Flag] = field(default_factory=list)
    needs_review: bool = False
    ballots: list[Ballot] = field(default_factory=list)
    missing: list[Any] = field(default_factory=list)
    cost_nano_usd: NanoUSD
    bound_nano_usd: NanoUSD
    saved_nano_usd: NanoUSD
