"""Performance: what use has taught about models, what users say of answers, and how the arms of experiments compare."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta, Struct

from protocols.request import Request
from protocols.rpc import Name, Params, Right

MAX_COMMENT = 2000
"""Characters of a comment."""

FAULTS_OF_PROVIDERS = ("provider_error", "provider_unavailable", "rate_limited", "misconfigured", "truncated")
"""Statuses that count as errors of a model: its provider failed it. A request that was wrong, too long or refused for what it said
does not, nor what the client cancelled or a crash cut off."""

Rating = Annotated[float, Meta(ge=-1, le=1)]


class Feedback(Params):
    """What a user says of an answer, from −1 to 1; a second word of the same account on a call replaces its first.

    `call_id` is a call's, or the `usage_id` of one of its attempts.
    """

    method: ClassVar[str] = "feedback"
    right: ClassVar[Right] = "use"

    call_id: Name
    rating: Rating
    comment: Annotated[str, Meta(max_length=MAX_COMMENT)] | None = None


class FeedbackKept(Struct):
    """Result of `feedback`: the call, and the attempt and model that it counts for (the one that answered, or else the last)."""

    call_id: str
    usage_id: str
    model: str
    rating: float
    comment: str | None
    at: str


class PerformanceQuery(Params):
    """How models did between two times (RFC 3339; default: the last 30 days), by model and task; with `ab` by arm of an experiment."""

    method: ClassVar[str] = "performance"
    right: ClassVar[Right] = "use"

    model: Name | None = None
    task: Name | None = None
    since: Name | None = None
    until: Name | None = None
    user: Name | None = None
    ab: bool = False

    def __post_init__(self) -> None:
        """An arm is judged by all of its calls, whichever model came to answer."""
        if self.ab and self.model is not None:
            raise ValueError("`ab` compares arms by all of their calls, so it takes no `model`; leave one of them out")


class ModelPerformance(Struct, kw_only=True):
    """How a model did at a kind of task (null: calls that named none). Latencies in ms, exact quantiles by nearest rank.

    `calls` are attempts, `answers` those that ended well: latency and cost are theirs alone. `error_rate` is errors of answers and
    errors together. What is null is not known: the cost where no answer had a price, `agreement` (of `agreement_n` ballots those that gave what was decided or
    reviewed, in everybody's tournaments of all times) without tournaments.
    """

    model: str
    task_type: str | None
    calls: int
    answers: int
    errors: int
    error_rate: float | None
    p50_ms: float | None
    p95_ms: float | None
    first_token_p50_ms: float | None
    first_token_p95_ms: float | None
    cost_per_answer_nano_usd: int | None
    agreement: float | None
    agreement_n: int
    feedback_mean: float | None
    feedback_n: int


class Mean(Struct):
    """A mean of `n` values and its standard error: null of none, and the error of fewer than two."""

    mean: float | None
    error: float | None
    n: int


class ArmPerformance(Struct, kw_only=True):
    """How an arm of an experiment did, by call: whatever became of it counts for the arm that it was given.

    A call is an error if each of its attempts failed by its provider; one that ended otherwise (cancelled, a wrong request) is
    neither that nor an answer, and `error_rate` is errors of answers and errors together. The cost is that of all calls with a
    known one, the latency that of calls with an answer, from the start of the first attempt to the end of the last. Where several
    accounts say something of a call, its feedback is their mean.
    """

    experiment: str
    arm: str
    calls: int
    users: int
    answers: int
    errors: int
    error_rate: float | None
    cost_nano_usd: Mean
    latency_ms: Mean
    feedback: Mean


class PerformanceAnswer(Struct, omit_defaults=True):
    """Result of `performance`: the time that it is about, and `rows` by model and task, or with `ab` the `arms`."""

    since: str
    until: str
    rows: list[ModelPerformance] | None = None
    arms: list[ArmPerformance] | None = None


class UsageStatsQuery(Params):
    """A user's models, chosen or used, and what came of them."""

    method: ClassVar[str] = "usage_stats"
    right: ClassVar[Right] = "use"

    user: Name | None = None


class ModelStats(Struct, kw_only=True):
    """A user's model: `use_count` are the answers since it was chosen, null for one that is not among the user's models.

    `calls`, tokens and cost are of all times; `last_used_at`, `error_rate` and `mean_latency_ms` of attempts that still have a row.
    Attempts without a known price count in `unpriced` and not in the cost.
    """

    model: str
    calls: int
    prompt_tokens: int
    cached_tokens: int
    response_tokens: int
    reasoning_tokens: int
    cost_nano_usd: int
    unpriced: int
    last_used_at: str | None
    error_rate: float | None
    mean_latency_ms: float | None
    use_count: int | None
    is_default: bool


class UsageStats(Struct):
    """Result of `usage_stats`, the most used first."""

    user: str
    models: list[ModelStats]


class KeepFeedback(Request[FeedbackKept], frozen=True):
    """Performance: keep a rating. `whose` are the user whose calls may be rated (with the names below), None everybody's.

    Raises NotFound, LedgerReadonly.
    """

    call_id: str
    rating: float
    comment: str | None
    by: str
    whose: str | None


class Within(Struct, frozen=True):
    """Which attempts count: of this user and the names below (None: everybody), in this time (µs since 1970)."""

    user: str | None
    since: int
    until: int
    model: str | None = None
    task: str | None = None


class ReadModels(Request[list[ModelPerformance]], frozen=True):
    """Performance: figures by model and task."""

    within: Within


class ReadArms(Request[list[ArmPerformance]], frozen=True):
    """Performance: figures by arm."""

    within: Within


class ReadUsageStats(Request[list[ModelStats]], frozen=True):
    """Performance: a user's models."""

    user: str
