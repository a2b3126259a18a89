"""One call, from admission to settlement: plan, hold, ask the provider, settle, answer."""

from __future__ import annotations

import asyncio
from collections import deque

import structlog
from msgspec import UNSET, Struct, field

from actors.asking import Asking, ChatCall, interrupt
from actors.attempt import Held
from actors.base import Ref
from actors.budget import BudgetActor
from actors.clock import Clock, Ids
from actors.planner import Planner, Prepared
from actors.quotes import Quoted, Quotes
from actors.rules.alerts import alert_text
from actors.rules.body import chat_body_hash
from actors.rules.candidates import Target
from actors.rules.catalogue import Catalogue
from actors.rules.overbudget import question, refusal, way_out
from actors.rules.parameters import parameter_steps
from actors.rules.routing import TIER_IGNORED, Plan
from actors.session import Sessions, preferences_of
from protocols.audit import Actor
from protocols.budget import CheckOverride, Confirmed, Fits, Mark, OfferOverride, OverBudget
from protocols.chat import AnswerMessage, Attempt, Chat, ChatAnswer, ExplainedFault, Reply, Usage
from protocols.errors import BudgetExceeded, OverrideRequired, QuorumError, Truncated
from protocols.money import NanoUSD
from protocols.routing import IN_WORDS, Decision, Reason, Rejected
from protocols.session import Preferences, Spent
from protocols.settings import Admission
from protocols.usage import AttemptEnd
from protocols.users import NO_LAYERS, Resolve, Resolved
from protocols.warned import Warned

FALLBACK = frozenset({"provider_unavailable", "provider_error", "rate_limited", "misconfigured", "busy", "truncated"})
"""Faults after which the next target is tried, as long as no content has arrived."""

REFUSED_BY_BUDGET = frozenset({"budget_exceeded", "budget_held", "override_required", "price_unknown"})
"""Faults of a hop that was not admitted: nothing was sent."""

HOPS: frozenset[Reason] = frozenset({"provider_unhealthy_fallback", "rate_limited_fallback"})
"""Reasons of a plan whose first target already stands in for another."""

OF_THE_PROVIDER = frozenset({"provider_unavailable", "rate_limited", "misconfigured", "busy"})
"""Faults that another model of the same provider, with the same key, would meet too."""

log = structlog.get_logger("completion")


class _Run(Struct):
    """A call under way.

    State: what was asked and how it was planned, the targets and rejected candidates as it goes on, why its target was chosen in the
    end, what a token confirms, attempts so far, and the targets that failed before this one.
    """

    call: ChatCall
    prepared: Prepared
    targets: list[Target]
    rejected: list[Rejected]
    reason: Reason
    body: bytes = b""
    confirmed_model: str | None = None
    attempts: list[Attempt] = field(default_factory=list)
    failed: list[Rejected] = field(default_factory=list)

    @property
    def made(self) -> Plan:
        """The plan."""
        return self.prepared.made

    @property
    def quotes(self) -> Quotes:
        """What its targets may cost."""
        return self.prepared.quotes


class Completions:
    """What every call needs; it has no state of its own."""

    def __init__(
        self,
        *,
        sessions: Ref[Sessions],
        budget: Ref[BudgetActor],
        planner: Planner,
        asking: Asking,
        catalogue: Catalogue,
        clock: Clock,
        ids: Ids,
    ) -> None:
        self._sessions = sessions
        self._budget = budget
        self._planner = planner
        self._asking = asking
        self._catalogue = catalogue
        self._clock = clock
        self._ids = ids

    async def chat(self, call: ChatCall) -> ChatAnswer:
        """Answers a chat, or raises the QuorumError that the client is to hear."""
        began = self._clock.monotonic()
        run = await self._begin(call, await preferences_of(self._sessions, call.user, call.app, begins=True))
        await self._check_token(run)
        if run.made.fault is not None:
            raise self._planner.told_now(run.made.fault, run.prepared.views)
        try:
            return await self._first_that_answers(run, began)
        finally:
            answered_by = next((attempt.model for attempt in run.attempts if attempt.status == "ok"), None)
            cost = sum(attempt.cost_nano_usd or 0 for attempt in run.attempts)
            self._sessions.tell(Spent(call.user, cost, answered_by))

    async def explain(self, chat: Chat, user: str, app: str) -> tuple[Decision, QuorumError | None]:
        """The decision that `chat` would take, and the fault that it would answer with if there is no target."""
        run, fault = await self._rehearsed(chat, user, app)
        return self._decision(run, run.targets[0] if run.targets else None), fault

    async def quoted(self, chat: Chat, user: str, app: str) -> Quoted:
        """The quote of the target that `chat` would ask first. A budget's refusal is told beside it; other faults of `chat` are raised."""
        run, fault = await self._rehearsed(chat, user, app)
        first = (run.targets or run.made.targets)[:1]
        if fault is not None and (fault.code not in REFUSED_BY_BUDGET or not first):
            raise fault
        (target,) = first
        why = next((step.why for step in reversed(run.made.steps) if step.step == run.reason), IN_WORDS[run.reason])
        return Quoted(str(target), why, run.quotes.of(target), run.prepared.chat, fault)

    async def _rehearsed(self, chat: Chat, user: str, app: str) -> tuple[_Run, QuorumError | None]:
        """A call up to where its first request would leave."""
        call = ChatCall(chat, user, app, lambda _: None, lambda: QuorumError, Actor(-1, user, app))
        run = await self._begin(call, await preferences_of(self._sessions, user, app))
        fault = None if run.made.fault is None else self._planner.told_now(run.made.fault, run.prepared.views)
        try:
            await self._check_token(run)
        except QuorumError as invalid:
            fault, run.targets = invalid, []
        todo = deque(run.targets)
        while fault is None and todo:
            target = todo.popleft()
            try:
                bound, admission, confirmed = (
                    run.quotes.of(target).bound,
                    self._admission(run),
                    _confirmed(run, target),
                )
                await self._budget.call(Fits(user, app, target.provider, str(target), bound, admission, confirmed))
                break
            except OverBudget as over:
                fault = self._at_the_limit(run, target, over, todo)
            except QuorumError as refused:
                fault = refused
            if fault is not None:
                run.rejected = [*run.rejected, Rejected(str(target), fault.code, fault.message)]
                if todo and run.made.reason in HOPS and fault.code in REFUSED_BY_BUDGET:
                    fault, run.targets = None, _without(run.targets, target)
                    continue
                run.targets = []
                if run.failed and fault.code in REFUSED_BY_BUDGET:
                    _tell_what_failed(fault, run.failed)
        return run, fault

    async def _begin(self, call: ChatCall, preferences: Preferences) -> _Run:
        prepared = await self._planner.prepared(call.chat, preferences)
        made = prepared.made
        call.call_id = call.call_id or self._ids.next()
        run = _Run(call, prepared, made.targets, made.rejected, made.reason)
        if made.reason in HOPS:
            run.failed += made.rejected
        return run

    async def resolved(self, params: Resolve, user: str, app: str) -> Resolved:
        """Where a call that says this would go, and with which parameters of the user; no budget is asked."""
        preferences = await preferences_of(self._sessions, user, app)
        made, views = await self._planner.planned(params, preferences)
        first = str(made.targets[0]) if made.targets else None
        fault = None if made.fault is None else self._planner.told_now(made.fault, views)
        return Resolved(
            first,
            made.reason,
            [str(target) for target in made.targets],
            made.steps,
            made.rejected,
            preferences.choices.parameters.get(first or "", NO_LAYERS),
            None if fault is None else ExplainedFault(fault.code, fault.message),
        )

    async def _first_that_answers(self, run: _Run, began: float) -> ChatAnswer:
        todo = deque(run.targets)
        given_up: set[str] = set()
        first = run.targets[0] if run.reason not in HOPS else None  # what was chosen is down: all are hops
        while todo:
            target = todo.popleft()
            held = self._held(run, target)
            try:
                reply = await self._asking.ask(run.prepared, target, run.call, held)
            except QuorumError as error:
                self._record(run, target, held, error)
                if error.code in OF_THE_PROVIDER:
                    given_up.add(target.provider)
                others = deque(t for t in todo if t.provider not in given_up)
                todo = await self._after(run, target, held, error, others, hop=target is not first)
            except asyncio.CancelledError as cancelled:
                self._record(run, target, held, None)
                interrupt(run.call, held, cancelled)
            else:
                self._record(run, target, held, None)
                return self._answer(run, target, held, reply, began)
        raise AssertionError("what ends the last target is raised")

    async def _after(
        self, run: _Run, target: Target, held: Held, error: QuorumError, others: deque[Target], *, hop: bool
    ) -> deque[Target]:
        """The targets that are tried after a failure. Raises what the call answers if there are none.

        A budget that refuses the call's first choice is a question to its user; a hop that it refuses is passed over.
        """
        if isinstance(error, OverBudget):
            todo = deque(others)
            fault: QuorumError | None = self._at_the_limit(run, target, error, todo)
            if fault is None:
                return todo
            error = await self._with_offer(run, target, fault)
        refused = error.code in REFUSED_BY_BUDGET
        if others and not held.progress.emitted and (error.code in FALLBACK or (hop and refused)):
            if refused:
                run.targets = _without(run.targets, target)
                run.rejected = [*run.rejected, Rejected(str(target), error.code, error.message)]
            else:
                run.failed.append(Rejected(str(target), error.code, error.message))
                limited = error.code == "rate_limited"
                run.reason = "rate_limited_fallback" if limited else "provider_unhealthy_fallback"
            return others
        self._explain_failure(run, error)
        if refused and run.failed:
            _tell_what_failed(error, run.failed)
        raise error

    def _at_the_limit(self, run: _Run, target: Target, over: OverBudget, todo: deque[Target]) -> QuorumError | None:
        """What a limit that it does not fit below means for the call: another target to do first, or the fault to answer."""
        if run.quotes.clamp(target, over.room):
            todo.appendleft(target)
            return None
        if over.hard:
            return BudgetExceeded(over.message, detail=over.detail)
        quote, auto = run.quotes.of(target), run.prepared.preferences.auto_fallback_to_local
        forbidden = run.call.chat.allow_fallback is False
        failed = {attempt.model for attempt in run.attempts}
        best = self._catalogue.best_local(run.prepared.views, run.quotes.tokens, failed)
        local = None if best is None else Target(best.provider, best.id.partition(":")[2])
        way = way_out(auto_fallback=auto, forbidden=forbidden, local=local, may_override=over.may_override)
        if way == "local" and local is not None:
            run.reason = "budget_exceeded_auto_fallback"
            run.rejected = [*run.rejected, Rejected(str(target), over.code, over.message)]
            run.targets = [local]
            todo.clear()
            todo.append(local)
            return None
        if way == "ask":
            return question(over, target, quote.bound or NanoUSD(0), local, None)
        return refusal(over, auto_fallback=auto, forbidden=forbidden)

    async def _with_offer(self, run: _Run, target: Target, fault: QuorumError) -> QuorumError:
        """The question to the user, with the token that answers it."""
        if isinstance(fault, OverrideRequired):
            run.body = run.body or chat_body_hash(run.call.chat)
            offer = await self._budget.call(
                OfferOverride(run.call.user, str(target), run.body, run.quotes.of(target).bound or NanoUSD(0))
            )
            fault.detail |= {"override_token": offer.token, "expires_at": offer.expires_at}
        return fault

    async def _check_token(self, run: _Run) -> None:
        """Raises OverrideInvalid for a token that is not good, before anything is done with it."""
        chat = run.call.chat
        if chat.override_token is not None:
            run.body = chat_body_hash(chat)
            check = CheckOverride(chat.override_token, run.call.user, run.body)
            run.confirmed_model = await self._budget.call(check)

    def _admission(self, run: _Run) -> Admission:
        return run.call.chat.admission or run.prepared.preferences.admission

    def _held(self, run: _Run, target: Target) -> Held:
        confirmed, admission = _confirmed(run, target), self._admission(run)
        reserve = self._asking.reserve(
            run.prepared, target, run.call, reason=run.reason, admission=admission, confirmed=confirmed
        )
        return self._asking.held(run.prepared, target, reserve)

    def _explain_failure(self, run: _Run, error: QuorumError) -> None:
        if run.attempts:
            error.detail.setdefault("usage_id", run.attempts[-1].usage_id)
        if len(run.attempts) > 1:
            error.detail["attempts"] = [{"model": a.model, "status": a.status} for a in run.attempts]

    def _record(self, run: _Run, target: Target, held: Held, error: QuorumError | None) -> None:
        """Notes an attempt that was held; one that was refused before costs nothing and leaves no row."""
        run.call.sent |= held.progress.sent
        end = held.end
        if end is None:
            return
        if isinstance(error, Truncated):
            error.detail.update(partial=held.progress.text(), usage_id=held.usage_id)
        attempt = Attempt(held.usage_id, str(target), end.status, end.cost, end.latency_us / 1000)
        if error is not None:
            attempt.code = error.code
        run.attempts.append(attempt)
        self._asking.tell(run.call, target, held)

    def _answer(self, run: _Run, target: Target, held: Held, reply: Reply, began: float) -> ChatAnswer:
        end, simulated, first = held.ended, self._asking.simulated(target), held.progress.first_token_at
        return ChatAnswer(
            call_id=run.call.call_id,
            usage_id=held.usage_id,
            text=reply.text,
            message=_message(reply),
            finish_reason=reply.finish_reason,
            model_used=str(target),
            simulated=simulated,
            usage=_usage(end),
            cost_nano_usd=end.cost,
            price_version=end.price_version,
            decision=self._decision(run, target),
            attempts=run.attempts,
            latency_ms=round((self._clock.monotonic() - began) * 1000, 3),
            first_token_ms=None if first is None else round((first - began) * 1000, 3),
            warnings=_warnings(run, held, target, simulated=simulated),
        )

    def _decision(self, run: _Run, target: Target | None) -> Decision:
        """As it stands now; `target` is the one that answers, whose parameters it tells."""
        layers = run.prepared.preferences.choices.parameters.get(str(target))
        changed = [] if layers is None else parameter_steps(run.call.chat, layers, str(target))
        return Decision(
            targets=[str(target) for target in run.targets],
            reason=run.reason,
            flags=run.made.flags_at(target or next(iter(run.made.targets), None)),
            steps=[*run.made.steps, *changed],
            rejected=run.rejected,
            bound_nano_usd=run.quotes.of(run.targets[0]).bound if run.targets else None,
        )


_MARKED: dict[Mark, str] = {
    "soft": "this call may pass your budget: `admission` is soft",
    "override": "this call passed your budget, as an override allows",
    "unenforced": "your budget is used up; the call ran because you don't enforce it (`enforce_budget_limits`)",
    "clamped": "the longest answer was cut to what fits your budget (`clamp_to_budget`)",
}


_FLAGGED = {
    "tier_exceeded": "no free local model will do for this task: a paid one answered (`orchestrator.budget_tier_allows_paid`)",
    "tier_ignored": f"`quality_tier`: {TIER_IGNORED}",
}
"""What the flags of a decision mean."""


def _without(targets: list[Target], refused: Target) -> list[Target]:
    """The targets but for one that is not admitted; a list of their own, for a plan is of many calls."""
    return [target for target in targets if target != refused]


def _tell_what_failed(refused: QuorumError, failed: list[Rejected]) -> None:
    """A budget that refuses the last target is not all that there is to know: the one before it had failed."""
    first = failed[0]
    refused.message += f" ({first.model} was to answer, but: {first.why})"
    refused.detail["failed"] = [{"model": each.model, "code": each.code, "why": each.why} for each in failed]


def _confirmed(run: _Run, target: Target) -> Confirmed | None:
    """The confirmation that the call brings for this target: its token is used up by it and by no other."""
    token = run.call.chat.override_token
    return (
        Confirmed(token, run.body, run.call.actor) if token is not None and run.confirmed_model == str(target) else None
    )


def _message(reply: Reply) -> AnswerMessage:
    return AnswerMessage(
        content=reply.text if reply.text or not reply.tool_calls else None,
        tool_calls=reply.tool_calls or UNSET,
        reasoning=reply.reasoning or UNSET,
    )


def _usage(end: AttemptEnd) -> Usage:
    tokens = end.tokens
    return Usage(tokens.prompt, tokens.cached, tokens.response, tokens.reasoning, end.token_source)


def _warnings(run: _Run, held: Held, target: Target, *, simulated: bool) -> list[Warned]:
    found, end = [], held.ended
    if simulated:
        found.append(Warned("simulated", "this answer is simulated: no provider of models was asked"))
    if held.overrun:
        found.append(
            Warned("overrun", "the provider charged more than the bound that was held; the limit may be passed by it")
        )
    found += [Warned(flag, _FLAGGED[flag]) for flag in run.made.flags_at(target)]
    found += [Warned(mark, _MARKED[mark]) for mark in held.marks or () if mark in _MARKED]
    found += [Warned(f"budget_{alert.level}", alert_text(alert)) for alert in held.alerts]
    if end.cost is None:
        found.append(
            Warned("price_unknown", f"no price is known for `{run.attempts[-1].model}`; its cost is not counted")
        )
    if end.token_source != "provider":  # noqa: S105  tokens of a model, not of a login
        how = "counted here" if end.token_source == "tokenizer" else "estimated"  # noqa: S105
        found.append(Warned("estimated", f"the provider gave no token counts; they are {how}"))
    return found
