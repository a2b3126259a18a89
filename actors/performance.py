"""Performance: what use has taught about models. The only writer of feedback."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from actors.base import Actor, Ref, Wait, handles
from actors.clock import Clock, id_after, rfc3339
from actors.store.queries import load
from actors.store.sqlite import Store
from actors.users import Users
from protocols.errors import BadRequest, NotFound
from protocols.performance import (
    FAULTS_OF_PROVIDERS,
    ArmPerformance,
    FeedbackKept,
    KeepFeedback,
    Mean,
    ModelPerformance,
    ModelStats,
    ReadArms,
    ReadModels,
    ReadUsageStats,
    Within,
)
from protocols.users import ModelsOf, UserModel

SQL = load("performance", first=600)

FAULTS = msgspec.json.encode(FAULTS_OF_PROVIDERS).decode()

LONGEST_CALL_S = 86_400
"""Seconds in which the attempts of a call lie: ids tell the time, so that nobody looks through all rows for one call."""


class Performance(Actor):
    """Keeps feedback and reckons figures over usage rows.

    State: none of its own; all is in the store.
    """

    def __init__(self, store: Store, users: Ref[Users], clock: Clock) -> None:
        super().__init__()
        self._store = store
        self._users = users
        self._clock = clock

    def __repr__(self) -> str:
        return "<Performance>"

    @handles(KeepFeedback)
    def keep(self, request: KeepFeedback) -> Wait[FeedbackKept]:
        """Stores what is said of a call, in place of what the same account said before."""
        return Wait(self._keep(request))

    async def _keep(self, said: KeepFeedback) -> FeedbackKept:
        call_id, usage_id, model = await self._attempt(said)
        now = self._clock.now_us()
        row = (call_id, usage_id, said.by, said.rating, said.comment, now)
        await self._store.submit((SQL["put_feedback"], row))
        return FeedbackKept(call_id, usage_id, model, said.rating, said.comment, rfc3339(now))

    async def _attempt(self, said: KeepFeedback) -> tuple[str, str, str]:
        """The call that is meant, and the attempt and model that it came to. Raises NotFound, BadRequest for a tournament nobody won."""
        named = await self._store.read(SQL["call_of_attempt"], (said.call_id,))
        call_id = named[0][0] if named else said.call_id
        try:
            until = id_after(call_id, LONGEST_CALL_S)
        except ValueError:
            found = []
        else:
            asked = {"call_id": call_id, "until": until, "user": said.whose, "named": said.call_id}
            found = await self._store.read(SQL["rated_attempt"], asked)
        if not found:
            raise NotFound(
                f"no call of yours that has ended is `{said.call_id}`; an answer has its `call_id`, `daemonctl usage` lists them"
            )
        ((usage_id, model, nobodys),) = found
        if nobodys:
            raise BadRequest(
                "this tournament has no winner; rate a ballot by its usage row, which `daemonctl usage` lists"
            )
        return call_id, usage_id, model

    @handles(ReadModels)
    def models(self, request: ReadModels) -> Wait[list[ModelPerformance]]:
        """By model and task."""
        return Wait(self._models(request.within))

    async def _models(self, within: Within) -> list[ModelPerformance]:
        return [_model(row) for row in await self._store.survey(SQL["models"], _parameters(within))]

    @handles(ReadArms)
    def arms(self, request: ReadArms) -> Wait[list[ArmPerformance]]:
        """By arm."""
        return Wait(self._arms(request.within))

    async def _arms(self, within: Within) -> list[ArmPerformance]:
        return [_arm(row) for row in await self._store.survey(SQL["arms"], _parameters(within))]

    @handles(ReadUsageStats)
    def stats(self, request: ReadUsageStats) -> Wait[list[ModelStats]]:
        """A user's models."""
        return Wait(self._stats(request.user))

    async def _stats(self, user: str) -> list[ModelStats]:
        chosen = {f"{model.provider}:{model.model}": model for model in await self._users.call(ModelsOf(user))}
        rows = await self._store.survey(SQL["stats"], {"user": user, "faults": FAULTS})
        used = {model: figures for model, *figures in rows}
        stats = [_stats(model, used.get(model, NEVER_USED), chosen.get(model)) for model in {**used, **chosen}]
        return sorted(stats, key=lambda row: (-row.calls, row.model))


NEVER_USED = (0, 0, 0, 0, 0, 0, 0, None, 0, 0, 0)


def _parameters(within: Within) -> Mapping[str, Any]:
    return msgspec.structs.asdict(within) | {"faults": FAULTS}


def _model(row: Any) -> ModelPerformance:
    model, task, calls, answers, errors, p50, p95, first_p50, first_p95, cost, said, times_said, *agreed = row
    return ModelPerformance(
        model=model,
        task_type=task,
        calls=calls,
        answers=answers,
        errors=errors,
        error_rate=_rate(errors, answers),
        p50_ms=_ms(p50),
        p95_ms=_ms(p95),
        first_token_p50_ms=_ms(first_p50),
        first_token_p95_ms=_ms(first_p95),
        cost_per_answer_nano_usd=cost,
        agreement=agreed[0],
        agreement_n=agreed[1],
        feedback_mean=said,
        feedback_n=times_said,
    )


def _arm(row: Any) -> ArmPerformance:
    arm, calls, users, answers, errors, *means = row
    cost, latency, said = means[:3], means[3:6], means[6:]
    experiment, _, name = arm.rpartition("/")
    return ArmPerformance(
        experiment=experiment,
        arm=name,
        calls=calls,
        users=users,
        answers=answers,
        errors=errors,
        error_rate=_rate(errors, answers),
        cost_nano_usd=mean_of(cost),
        latency_ms=mean_of(latency, unit=1000),
        feedback=mean_of(said),
    )


def _stats(model: str, figures: Sequence[Any], chosen: UserModel | None) -> ModelStats:
    calls, prompt, cached, response, reasoning, cost, unpriced, last_at, answers, errors, latency = figures
    return ModelStats(
        model=model,
        calls=calls,
        prompt_tokens=prompt,
        cached_tokens=cached,
        response_tokens=response,
        reasoning_tokens=reasoning,
        cost_nano_usd=cost,
        unpriced=unpriced,
        last_used_at=None if last_at is None else rfc3339(last_at),
        error_rate=_rate(errors, answers),
        mean_latency_ms=_ms(latency / answers) if answers else None,
        use_count=None if chosen is None else chosen.use_count,
        is_default=chosen is not None and chosen.is_default,
    )


def mean_of(figures: Sequence[Any], unit: int = 1) -> Mean:
    """A mean with its standard error, in `unit`s; `figures` are the mean, the sum of squared differences from it, and of how many."""
    mean, squares, n = figures
    if not n:
        return Mean(None, None, 0)
    error = math.sqrt(squares / (n - 1) / n) / unit if n > 1 else None
    return Mean(mean / unit, error, n)


def _rate(errors: int, answers: int) -> float | None:
    return errors / (errors + answers) if errors + answers else None


def _ms(us: float | None) -> float | None:
    return None if us is None else us / 1000
