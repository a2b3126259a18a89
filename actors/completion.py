"""One call, from admission to settlement: plan, hold, ask the provider, settle, answer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import NoReturn

import structlog
from msgspec import UNSET, Struct, field

from actors.attempt import Held
from actors.base import Ref
from actors.budget import BudgetActor
from actors.clock import Clock, Ids
from actors.exchange import Exchange, Question
from actors.limit import Limit
from actors.pool import ProviderPool
from actors.provider import ProviderActor, Source
from actors.quotes import Quotes
from actors.rules.alerts import alert_text
from actors.rules.body import chat_body_hash
from actors.rules.catalogue import Catalogue
from actors.rules.hints import in_language
from actors.rules.overbudget import question, refusal, way_out
from actors.rules.parameters import parameter_steps
from actors.rules.routing import (
    Asked,
    Plan,
    Target,
    World,
    nearest_models,
    plan,
    resolve_choice,
    retired_why,
    unlisted_why,
)
from actors.rules.tokens import PromptTokens
from actors.session import Sessions, preferences_of
from actors.tokenizer import Tokenizer
from protocols.audit import Actor
from protocols.budget import CheckOverride, Confirmed, Fits, Mark, OfferOverride, OverBudget, Reserve
from protocols.chat import AnswerMessage, Attempt, Chat, ChatAnswer, ExplainedFault, Item, Reply, Usage, Warned
from protocols.errors import BudgetExceeded, NoEligibleModel, OverrideRequired, QuorumError, Truncated, UnknownModel
from protocols.money import NanoUSD
from protocols.provider import FirstListing, ProviderView, ReadViews
from protocols.routing import Decision, Reason, Rejected
from protocols.session import Preferences, Spent
from protocols.settings import Admission
from protocols.usage import AttemptEnd, AttemptStart
from protocols.users import NO_LAYERS, Resolve, Resolved

FALLBACK = frozenset({"provider_unavailable", "provider_error", "rate_limited", "misconfigured", "busy", "truncated"})
"""Faults after which the next target is tried, as long as no content has arrived."""

REFUSED_BY_BUDGET = frozenset({"budget_exceeded", "budget_held", "override_required", "price_unknown"})
"""Faults of a hop that was not admitted: nothing was sent."""

LEASE_GRACE_S = 60.0
"""Seconds that a hold outlives the longest attempt."""

HOPS: frozenset[Reason] = frozenset({"provider_unhealthy_fallback", "rate_limited_fallback"})
"""Reasons of a plan whose first target already stands in for another."""

OF_THE_PROVIDER = frozenset({"provider_unavailable", "rate_limited", "misconfigured", "busy"})
"""Faults that another model of the same provider, with the same key, would meet too."""

log = structlog.get_logger("completion")


class ChatCall(Struct):
    """A chat with who asks. `emit` takes the items of a streamed answer; `interrupted` says what a cancellation was.

    State: `call_id`, which the caller may have chosen, and whether a request has left for a provider.
    """

    chat: Chat
    user: str
    app: str
    emit: Callable[[Item], None]
    interrupted: Callable[[], type[QuorumError]]
    actor: Actor
    call_id: str = ""
    sent: bool = False


class _Run(Struct):
    """A call under way.

    State: what was asked, `chat` as it is sent (with the language that its hint names), the plan, the targets and rejected candidates
    as it goes on, why its target was chosen in the end, what a token confirms, attempts so far, and the targets that failed
    before this one.
    """

    call: ChatCall
    chat: Chat
    call_id: str
    preferences: Preferences
    made: Plan
    targets: list[Target]
    rejected: list[Rejected]
    reason: Reason
    views: tuple[ProviderView, ...]
    quotes: Quotes
    body: bytes = b""
    confirmed_model: str | None = None
    attempts: list[Attempt] = field(default_factory=list)
    failed: list[Rejected] = field(default_factory=list)


class Completions:
    """What every call needs.

    State: the plans made for the providers as they are now, so that equal questions are planned once.
    """

    PLANS = 1024

    def __init__(
        self,
        *,
        sessions: Ref[Sessions],
        budget: Ref[BudgetActor],
        pool: Ref[ProviderPool],
        providers: Mapping[str, Ref[ProviderActor]],
        sources: Mapping[str, Source],
        catalogue: Catalogue,
        aliases: Mapping[str, str],
        exchange: Exchange,
        prices_known: asyncio.Event,
        tokenizer: Tokenizer | None,
        clock: Clock,
        ids: Ids,
    ) -> None:
        self._sessions = sessions
        self._budget = budget
        self._pool = pool
        self._providers = providers
        self._sources = sources
        self._catalogue = catalogue
        self._aliases = aliases
        self._exchange = exchange
        self._prices_known = prices_known
        self._tokenizer = tokenizer
        self._clock = clock
        self._ids = ids
        self._log = log.bind()  # the logger itself, not the proxy that looks for it at each line
        self._views: tuple[ProviderView, ...] = ()
        self._plans: dict[Asked, Plan] = {}

    async def chat(self, call: ChatCall) -> ChatAnswer:
        """Answers a chat, or raises the QuorumError that the client is to hear."""
        began = self._clock.monotonic()
        run = await self._begin(call, await preferences_of(self._sessions, call.user, call.app, begins=True))
        await self._check_token(run)
        if run.made.fault is not None:
            raise self._told_now(run.made.fault, run.views)
        try:
            return await self._first_that_answers(run, began)
        finally:
            answered_by = next((attempt.model for attempt in run.attempts if attempt.status == "ok"), None)
            cost = sum(attempt.cost_nano_usd or 0 for attempt in run.attempts)
            self._sessions.tell(Spent(call.user, cost, answered_by))

    async def explain(self, chat: Chat, user: str, app: str) -> tuple[Decision, QuorumError | None]:
        """The decision that `chat` would take, and the fault that it would answer with if there is no target."""
        call = ChatCall(chat, user, app, lambda _: None, lambda: QuorumError, Actor(-1, user, app))
        run = await self._begin(call, await preferences_of(self._sessions, user, app))
        fault = None if run.made.fault is None else self._told_now(run.made.fault, run.views)
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
                    fault = None
                    continue
                run.targets = []
                if run.failed and fault.code in REFUSED_BY_BUDGET:
                    _tell_what_failed(fault, run.failed)
        return self._decision(run, run.targets[0] if run.targets else None), fault

    def _told_now(self, fault: QuorumError, views: tuple[ProviderView, ...]) -> QuorumError:
        """A plan's fault of one's own: a plan is told many times, and the wait that it means goes on meanwhile."""
        until = next((view.retry_at for view in views if view.name == fault.detail.get("provider")), None)
        wait_s = None if until is None else round(max(until - self._clock.monotonic(), 0.0), 3)
        return type(fault)(fault.message, detail=dict(fault.detail), retry_after_s=wait_s)

    async def _begin(self, call: ChatCall, preferences: Preferences) -> _Run:
        chat = call.chat
        made, views = await self._planned(asked_by(chat, preferences))
        if not self._prices_known.is_set() and not all(
            self._catalogue.priced_by_config(t.provider, t.model) for t in made.targets
        ):
            await self._prices_known.wait()
        if chat.language_hint and made.language is not None:
            chat = in_language(chat, made.language)
        call_id = call.call_id or self._ids.next()
        counted = _NOT_COUNTED
        if self._tokenizer is not None:
            at_openai = {view.name for view in views if view.kind == "openai" and not view.local}
            counted = await self._tokenizer.counts(chat, {t.model for t in made.targets if t.provider in at_openai})
        quotes = Quotes(self._catalogue, chat, preferences, views, counted)
        run = _Run(call, chat, call_id, preferences, made, made.targets, made.rejected, made.reason, views, quotes)
        if made.reason in HOPS:
            run.failed += made.rejected
        return run

    async def _planned(self, asked: Asked) -> tuple[Plan, tuple[ProviderView, ...]]:
        views = await self._pool.call(ReadViews())
        made = self._plan(asked, views)
        if isinstance(made.fault, NoEligibleModel) and any(view.state == "unknown" for view in views):
            views = await self._views_once_listed()
            made = self._plan(asked, views)
        return made, views

    async def resolved(self, params: Resolve, user: str, app: str) -> Resolved:
        """Where a call that says this would go, and with which parameters of the user; no budget is asked."""
        preferences = await preferences_of(self._sessions, user, app)
        made, views = await self._planned(asked_by(params, preferences))
        first = str(made.targets[0]) if made.targets else None
        fault = None if made.fault is None else self._told_now(made.fault, views)
        return Resolved(
            first,
            made.reason,
            [str(target) for target in made.targets],
            made.steps,
            made.rejected,
            preferences.choices.parameters.get(first or "", NO_LAYERS),
            None if fault is None else ExplainedFault(fault.code, fault.message),
        )

    async def named(self, model: str | None, provider: str | None) -> tuple[Target, list[Warned]]:
        """The target that these names mean, its model empty without one; a warning when it is retired or its provider does not list it.

        Raises UnknownProvider, UnknownModel, BadRequest.
        """
        world = World(await self._pool.call(ReadViews()), self._catalogue.entries, self._aliases)
        target = resolve_choice(model, provider, world)
        found = (("retired", retired_why(target, world)), ("not_listed", unlisted_why(target, world)))
        return target, [Warned(code, why) for code, why in found if why is not None][:1]

    def provider_named(self, name: str) -> str:
        """The provider that an alias stands for; any other name as it is, since what was chosen may be gone from the config."""
        return name if name in self._sources else self._aliases.get(name, name)

    async def views_priced(self) -> tuple[ProviderView, ...]:
        """The providers once prices can be looked up, and after one of them has said what it has: for who compares models."""
        await self._prices_known.wait()
        views = await self._pool.call(ReadViews())
        waits = any(view.state == "unknown" for view in views) and not any(view.models for view in views)
        return await self._views_once_listed() if waits else views

    async def _views_once_listed(self) -> tuple[ProviderView, ...]:
        """The providers after one of them has said what it has: a call that comes right after the start waits for that."""
        try:
            with Limit(asyncio.get_running_loop(), FIRST_LISTING_S):
                await self._pool.call(FirstListing())
        except TimeoutError:
            log.warning("no_models_listed", waited_s=FIRST_LISTING_S)
        return await self._pool.call(ReadViews())

    def _plan(self, asked: Asked, views: tuple[ProviderView, ...]) -> Plan:
        if views is not self._views or len(self._plans) >= self.PLANS:
            self._views, self._plans = views, {}
            self._catalogue.see(views)
        made = self._plans.get(asked)
        if made is None:
            made = self._plans[asked] = plan(asked, World(views, self._catalogue.entries, self._aliases))
        return made

    async def _first_that_answers(self, run: _Run, began: float) -> ChatAnswer:
        todo = deque(run.targets)
        given_up: set[str] = set()
        first = run.targets[0] if run.reason not in HOPS else None  # what was chosen is down: all are hops
        while todo:
            target = todo.popleft()
            held = self._held(run, target)
            try:
                reply = await self._attempt(run, target, held)
            except QuorumError as error:
                self._record(run, target, held, error)
                if error.code in OF_THE_PROVIDER:
                    given_up.add(target.provider)
                others = deque(t for t in todo if t.provider not in given_up)
                todo = await self._after(run, target, held, error, others, hop=target is not first)
            except asyncio.CancelledError as cancelled:
                self._record(run, target, held, None)
                self._interrupt(run, held, cancelled)
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
        quote, auto = run.quotes.of(target), run.preferences.auto_fallback_to_local
        forbidden = run.call.chat.allow_fallback is False
        failed = {attempt.model for attempt in run.attempts}
        best = self._catalogue.best_local(run.views, run.quotes.tokens, failed)
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
        return run.call.chat.admission or run.preferences.admission

    def _held(self, run: _Run, target: Target) -> Held:
        source = self._sources[target.provider]
        quote = run.quotes.of(target)
        start = AttemptStart(
            usage_id=self._ids.next(),
            call_id=run.call_id,
            user=run.call.user,
            app=run.call.app,
            conversation=run.call.chat.conversation,
            task_type=run.call.chat.task_type,
            provider=target.provider,
            model=str(target),
            endpoint=source.endpoint.origin,
            reason=run.reason,
            created_at=self._clock.now_us(),
        )
        return Held(
            self._budget,
            self._providers[target.provider],
            self._clock,
            source=source,
            reserve=Reserve(
                start,
                quote.bound,
                self._admission(run),
                lease_s=source.config.timeout_s + LEASE_GRACE_S,
                marks=("clamped",) if quote.clamped else (),
                confirmed=_confirmed(run, target),
            ),
            chat=run.chat,
            price=quote.price,
            prompt_tokens=quote.prompt_tokens,
            longest_answer=quote.longest_answer,
            counted_prompt=quote.about,
        )

    async def _attempt(self, run: _Run, target: Target, held: Held) -> Reply:
        """Asks one provider. Raises QuorumError; the hold is settled in any case."""
        chat, source = run.quotes.request(target), self._sources[target.provider]
        request = source.dialect.chat(chat, target.model, run.quotes.of(target).longest_answer)
        question = Question(source, target.model, request, held.usage_id, run.call.emit if chat.stream else None)
        async with held:
            try:
                reply = await self._exchange.ask(question, held.progress)
                if self._tokenizer is not None and held.counted_prompt is not None and held.progress.counted is None:
                    held.counted_answer = await self._tokenizer.count_text(held.progress.emitted_text(), target.model)
            except UnknownModel as fault:
                raise _with_nearest(fault, target, run.views) from fault
            except asyncio.CancelledError as cancelled:
                held.progress.aborted = True
                self._interrupt(run, held, cancelled)
            return reply

    def _interrupt(self, run: _Run, held: Held, cancelled: asyncio.CancelledError) -> NoReturn:
        """A cancellation as the fault that it was: the client's, the deadline's, the shutdown's."""
        kind = run.call.interrupted()
        if kind is QuorumError:
            raise cancelled
        # One that was cancelled while it waited for its hold has no row.
        detail = {"partial": held.progress.text(), "usage_id": None if held.marks is None else held.usage_id}
        raise kind(_INTERRUPTED.get(kind.code, "the call was cancelled"), detail=detail) from cancelled

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
        self._log.info(
            "attempt",
            call_id=run.call_id,
            usage_id=held.usage_id,
            user=run.call.user,
            app=run.call.app,
            model=attempt.model,
            status=end.status,
            prompt_tokens=end.tokens.prompt,
            response_tokens=end.tokens.response,
            cost_nano_usd=end.cost,
            latency_us=end.latency_us,
        )

    def _answer(self, run: _Run, target: Target, held: Held, reply: Reply, began: float) -> ChatAnswer:
        end, source, first = held.ended, self._sources[target.provider], held.progress.first_token_at
        return ChatAnswer(
            call_id=run.call_id,
            usage_id=held.usage_id,
            text=reply.text,
            message=_message(reply),
            finish_reason=reply.finish_reason,
            model_used=str(target),
            simulated=source.simulated,
            usage=_usage(end),
            cost_nano_usd=end.cost,
            price_version=end.price_version,
            decision=self._decision(run, target),
            attempts=run.attempts,
            latency_ms=round((self._clock.monotonic() - began) * 1000, 3),
            first_token_ms=None if first is None else round((first - began) * 1000, 3),
            warnings=_warnings(run, held, simulated=source.simulated),
        )

    def _decision(self, run: _Run, target: Target | None) -> Decision:
        """As it stands now; `target` is the one that answers, whose parameters it tells."""
        layers = run.preferences.choices.parameters.get(str(target))
        changed = [] if layers is None else parameter_steps(run.call.chat, layers, str(target))
        return Decision(
            targets=[str(target) for target in run.targets],
            reason=run.reason,
            flags=[],
            steps=[*run.made.steps, *changed],
            rejected=run.rejected,
            bound_nano_usd=run.quotes.of(run.targets[0]).bound if run.targets else None,
        )


def asked_by(says: Chat | Resolve, preferences: Preferences) -> Asked:
    """What a call says about its model and the user's choices below it; only what can matter, so that equal questions are equal."""
    choices, hint = preferences.choices, says.hint if isinstance(says, Chat) else None
    return Asked(
        says.model,
        says.provider,
        says.allow_fallback if isinstance(says, Chat) else None,
        preferences.default_model,
        choices.models if says.provider is not None or hint is not None else (),
        None if says.conversation is None else choices.conversations.get(says.conversation),
        choices.default,
        hint,
    )


FIRST_LISTING_S = 5.0
"""Seconds that a call without a model waits, right after the start, for a provider to list its models."""

_INTERRUPTED = {
    "cancelled": "the call was cancelled; what arrived is in `detail.partial`",
    "deadline": "the call's deadline passed; what arrived is in `detail.partial`",
    "shutting_down": "the daemon is shutting down; what arrived is in `detail.partial`",
}


_NOT_COUNTED: Mapping[str, PromptTokens] = {}

_MARKED: dict[Mark, str] = {
    "soft": "this call may pass your budget: `admission` is soft",
    "override": "this call passed your budget, as an override allows",
    "unenforced": "your budget is used up; the call ran because you don't enforce it (`enforce_budget_limits`)",
    "clamped": "the longest answer was cut to what fits your budget (`clamp_to_budget`)",
}


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


def _with_nearest(fault: UnknownModel, target: Target, views: tuple[ProviderView, ...]) -> UnknownModel:
    offered = next((v.models for v in views if v.name == target.provider), ())
    near = nearest_models(target.model, offered)
    hint = (
        f"; the nearest are {', '.join(f'`{n}`' for n in near)}" if near else "; `daemonctl models` lists what there is"
    )
    return UnknownModel(
        f"model `{target.model}` is not offered by `{target.provider}`{hint}",
        detail={**fault.detail, "model": str(target), "nearest": [f"{target.provider}:{n}" for n in near]},
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


def _warnings(run: _Run, held: Held, *, simulated: bool) -> list[Warned]:
    found, end = [], held.ended
    if simulated:
        found.append(Warned("simulated", "this answer is simulated: no provider of models was asked"))
    if held.overrun:
        found.append(
            Warned("overrun", "the provider charged more than the bound that was held; the limit may be passed by it")
        )
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
