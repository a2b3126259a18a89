"""Tournaments: several models are asked one question, and the verdict says whether they agree."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct, field

from protocols.chat import MAX_TOKENS, Message, ReasoningEffort, Usage
from protocols.model import Tier
from protocols.money import NanoUSD
from protocols.rpc import Name, Params, Right
from protocols.settings import Admission, Mode

AnswerType = Literal["bool", "choice", "number", "date", "set", "json", "code", "short_text"]

Status = Literal["unanimous", "consensus", "majority", "dispute", "inconclusive", "unscored", "failed"]
"""`unanimous`: every member asked for gave the same answer, nobody was left out. `consensus`: share >= threshold, live >= `min_live`,
and those who agree are of >= 2 families. `majority`: more than half of those launched. `dispute`: several answers, and none leads so, or a veto.
`inconclusive`: too few answers to tell. `unscored`: answers whose agreement nobody could tell. `failed`: no answer at all."""

Flag = Literal["degraded", "early_stopped", "shrunk", "same_family", "vetoed", "deadline"]

"""`degraded`: a member asked for gave no answer that counts, or a judge or aggregator no word. `early_stopped`: more ballots would have changed no winner, so they were not
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

    `why` says what went wrong: the fault's code, or that no answer was found in `text`. `round` is the wave that it was asked in, from 1;
    0 for a member that could not be asked. `arrived` counts the ballots as they came, from 1; 0 for one that did not come.
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
    arrived: int = 0


class Cluster(Struct, frozen=True):
    """Ballots that agree: their answer as it is shown, who gave it, and their share of the members launched."""

    answer: str
    members: list[str]
    share: float


Method = Literal["canonical", "judge", "none"]
"""How ballots were compared: by a declared type, by a judge, by nobody."""

AnswerKind = Literal["voted", "picked", "fused", "first", "selected", "none"]
"""Where an answer comes from: the ballots that agree, the judges, an aggregator, the first of a race; `selected`: a member's, verbatim,
because nobody could tell more."""


class Agreement(Struct, frozen=True):
    """How far the ballots agree. `margin` is the leader's lead over the next, as a share; `method` canonical, judge or none."""

    method: Method
    top_share: float
    margin: float
    clusters: list[Cluster]


class Missing(Struct, frozen=True):
    """A member whose ballot does not count, or a judge or aggregator whose word does not: the code, and what was wrong.

    The code is the fault's; `unparsed`: nothing was read in its reply; `cancelled`; `cut`: its reply ended at `max_tokens`; `own_answer`: a
    judge of its own model's answer; `inconsistent`: a judge that says another thing when the order changes; `not_local`: left out, for
    only local models fit the budget.
    """

    model: str
    code: str
    why: str


class Verdict(Struct, kw_only=True):
    """Result of `tournament`. Costs in nano-dollars, `usage` is that of all who were asked, `simulated` says that nobody real was.

    `missing` are members whose ballot does not count, and judges and aggregators whose word does not, each with why. `lacks` are models
    that were asked although nobody knows their price: it is in neither cost nor bound.
    """

    tournament_id: str
    status: Status
    answer: str | None
    answer_kind: AnswerKind
    winner: str | None
    agreement: Agreement
    flags: list[Flag] = field(default_factory=list)
    needs_review: bool = False
    ballots: list[Ballot] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    mode: Mode = "vote"
    cost_nano_usd: NanoUSD
    bound_nano_usd: NanoUSD
    saved_nano_usd: NanoUSD
    usage: Usage = field(default_factory=lambda: Usage(0, 0, 0, 0, "estimate"))
    simulated: bool = False
    lacks: list[str] = field(default_factory=list)


MOST_MEMBERS = 16
"""More would cost more than they could tell."""


class Tournament(Params):
    """Asks several models one question. `messages`, or `prompt` for a single one.

    `members` (model ids or aliases, the same one several times if wanted) or `n` of them chosen by the router; `answer` an AnswerSpec
    or only its type; `judge` one or several models that compare what has no type. `threshold` is a fraction or a decimal ("2/3",
    "0.75"); `veto` is an answer that one ballot is enough to block with. What is left out, the user's settings say.
    """

    method: ClassVar[str] = "tournament"
    right: ClassVar[Right] = "use"

    messages: list[Message] = field(default_factory=list)
    prompt: str | None = None
    members: Annotated[list[Name], Meta(max_length=MOST_MEMBERS)] | None = None
    n: Annotated[int, Meta(ge=2, le=MOST_MEMBERS)] | None = None
    mode: Mode | None = None
    answer: AnswerSpec | AnswerType | None = None
    judge: Name | Annotated[list[Name], Meta(max_length=MOST_MEMBERS)] | None = None
    aggregator: Name | None = None
    min_live: Annotated[int, Meta(ge=2, le=MOST_MEMBERS)] | None = None
    threshold: Name | None = None
    latency: Latency | None = None
    on_tight_budget: TightBudget = "shrink"
    veto: Name | None = None
    user: Name | None = None
    conversation: Name | None = None
    task_type: Name | None = None
    quality_tier: Tier | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=MAX_TOKENS)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    reasoning_effort: ReasoningEffort | None = None
    admission: Admission | None = None
    override_token: Name | None = None
    stream: bool = False

    def __post_init__(self) -> None:
        """The checks that a type can't say; msgspec turns a ValueError into a fault that names the place."""
        if bool(self.messages) == (self.prompt is not None):
            raise ValueError("give either `messages` or `prompt`")
        if self.prompt is not None and not self.prompt.strip():
            raise ValueError("`prompt` is empty; ask something")
        if self.messages and all(message.role != "user" for message in self.messages):
            raise ValueError("`messages` has none of the role `user`, so nothing is asked")
        if self.members is not None and len(self.members) < 2:  # noqa: PLR2004  one alone is no tournament
            raise ValueError("`members` names two models or more; one alone is a `chat`")
        if self.members is not None and self.n is not None and self.n != len(self.members):
            raise ValueError("`n` is the number of `members` where these are named; leave one of them out")


class Bounded(Struct, tag_field="type", tag="bound", kw_only=True):
    """Progress: what is held, in nano-dollars, before anybody is asked; whoever stands in for a member that fails is held for then."""

    tournament_id: str
    mode: Mode
    members: list[str]
    bench: list[str]
    judges: list[str]
    aggregator: str | None
    bound_nano_usd: NanoUSD
    shrunk: bool = False


class Launched(Struct, tag_field="type", tag="launched"):
    """Progress: these members were asked."""

    models: list[str]


class Cast(Struct, tag_field="type", tag="ballot"):
    """Progress: a ballot came in, or its member failed."""

    ballot: Ballot


class Decided(Struct, tag_field="type", tag="decided"):
    """Progress: what there is cannot be overturned, or nobody is left to be heard."""

    status: Status
    why: str


class Cancelled(Struct, tag_field="type", tag="cancelled"):
    """Progress: these members run no more, or were never asked."""

    models: list[str]


class Judging(Struct, tag_field="type", tag="judging"):
    """Progress: a judge or an aggregator is asked."""

    model: str
    what: str


Progress = Bounded | Launched | Cast | Decided | Cancelled | Judging
"""What a streaming client of `tournament` is sent."""
