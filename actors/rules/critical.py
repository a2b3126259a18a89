"""A chat of a critical task as a tournament, and its verdict as the chat's answer. Pure."""

from __future__ import annotations

from collections.abc import Collection

from protocols.chat import AnswerMessage, Attempt, Chat, ChatAnswer, ChatTournament
from protocols.errors import DeadlineExceeded, ProviderFailed, QuorumError
from protocols.routing import Decision, Step
from protocols.tournament import Ballot, Tournament, Verdict
from protocols.warned import Warned

HELD = "tournament"
"""The step and the flag of a chat that became one."""

NAMED = 3
"""Members that a fault names."""

SIMULATED = Warned("simulated", "this answer is simulated: no provider of models was asked")


def is_plain(chat: Chat) -> bool:
    """Whether several models may answer in place of one: a user asks, nobody chose a model, and nothing is wanted that has one answer's form alone."""
    chosen = chat.model or chat.provider or chat.hint
    is_asked = any(message.role == "user" for message in chat.messages)
    return is_asked and not (chosen or chat.tools or chat.response_format or chat.stop or chat.seed is not None)


def as_tournament(chat: Chat) -> Tournament:
    """What is asked of a tournament in place of the chat."""
    return Tournament(
        messages=chat.messages,
        conversation=chat.conversation,
        task_type=chat.task_type,
        quality_tier=chat.quality_tier,
        max_tokens=chat.max_tokens,
        temperature=chat.temperature,
        top_p=chat.top_p,
        reasoning_effort=chat.reasoning_effort,
        admission=chat.admission,
        override_token=chat.override_token,
    )


def why_held(chat: Chat) -> str:
    """Why the chat becomes one."""
    if chat.tournament:
        return "the call asks for a tournament (`tournament`)"
    return f"the task `{chat.task_type}` is critical (`tournament.critical_tasks`); `tournament = false` in the call asks one model"


def as_answer(verdict: Verdict, chat: Chat, latency_ms: float) -> ChatAnswer:
    """The verdict as a chat's answer: where the models don't agree, a member's text with a warning that says so.

    Raises ProviderFailed where nobody answered, DeadlineExceeded where nobody did in time.
    """
    shown = _shown(verdict)
    if shown is None:
        raise _nobody(verdict)
    text = shown.text if verdict.answer is None else verdict.answer
    models = [ballot.model for ballot in verdict.ballots]
    steps = [Step(HELD, verdict.tournament_id, why_held(chat))]
    return ChatAnswer(
        call_id=verdict.tournament_id,
        usage_id=shown.usage_id or "",
        text=text,
        message=AnswerMessage(content=text),
        finish_reason="stop",
        model_used=verdict.winner or shown.model,
        simulated=verdict.simulated,
        usage=verdict.usage,
        cost_nano_usd=verdict.cost_nano_usd,
        price_version=None,
        decision=Decision(models, "task_model", [HELD, *verdict.flags], steps, [], verdict.bound_nano_usd),
        attempts=[_attempt(ballot) for ballot in verdict.ballots],
        latency_ms=latency_ms,
        first_token_ms=None,
        warnings=[*([SIMULATED] if verdict.simulated else []), _told(verdict, chat)],
        tournament=ChatTournament(
            verdict.tournament_id,
            verdict.status,
            verdict.answer_kind,
            verdict.agreement.top_share,
            verdict.needs_review,
            models,
        ),
    )


def _shown(verdict: Verdict) -> Ballot | None:
    """The ballot that the answer is, or, where there is none, the first that says anything."""
    said: Collection[Ballot] = [ballot for ballot in verdict.ballots if ballot.status == "ok"]
    return next((b for b in said if b.model == verdict.winner), next(iter(said), None))


def _attempt(ballot: Ballot) -> Attempt:
    status = "ok" if ballot.status in {"ok", "unparsed"} else ballot.why or ballot.status
    return Attempt(ballot.usage_id or "", ballot.model, status, ballot.cost_nano_usd, ballot.latency_ms or 0.0)


def _nobody(verdict: Verdict) -> QuorumError:
    """What a chat hears whose models all failed."""
    late = all(missing.code == DeadlineExceeded.code for missing in verdict.missing)
    why = "; ".join(f"`{missing.model}`: {missing.why}" for missing in verdict.missing[:NAMED])
    detail = {"tournament_id": verdict.tournament_id, "cost_nano_usd": verdict.cost_nano_usd}
    kind = DeadlineExceeded if late and verdict.missing else ProviderFailed
    return kind(f"none of the {len(verdict.ballots)} models that were asked gave an answer: {why}", detail=detail)


def _told(verdict: Verdict, chat: Chat) -> Warned:
    review = f"; look at it: daemonctl reviews resolve {verdict.tournament_id}" if verdict.needs_review else ""
    return Warned(
        HELD, f"{len(verdict.ballots)} models were asked: {why_held(chat)}; it ended as {verdict.status}{review}"
    )
