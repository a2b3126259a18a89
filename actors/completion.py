"""One call, from admission to settlement: plan, hold, ask the provider, settle, answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NoReturn

import structlog
from msgspec import UNSET, Struct, field

from actors.attempt import Held, Progress
from actors.base import Ref
from actors.budget import BudgetActor
from actors.clock import Clock, Ids
from actors.limit import Limit
from actors.pool import ProviderPool
from actors.provider import Source
from actors.providers.transport import ConnectFailed, Response, Transport, TransportError
from actors.rules.catalogue import Catalogue
from actors.rules.pricing import Price, bound
from actors.rules.routing import Asked, Plan, Target, World, nearest_models, plan
from actors.rules.tokens import prompt_upper_bound
from actors.session import Sessions
from actors.store.dispatched import Dispatched
from protocols.chat import (
    AnswerMessage,
    Attempt,
    Chat,
    ChatAnswer,
    Delta,
    Finished,
    Item,
    Reasoning,
    Reply,
    TokenCount,
    ToolCall,
    ToolCallDelta,
    Usage,
    Warned,
)
from protocols.chat import FunctionCall as Function
from protocols.dialects import MalformedAnswer, StreamFailed
from protocols.errors import Misconfigured, ProviderFailed, ProviderUnavailable, QuorumError, Truncated, UnknownModel
from protocols.money import NanoUSD
from protocols.provider import ProviderView, ReadViews
from protocols.routing import Decision, Reason
from protocols.session import OpenSession, Prefer, Preferences, Spent
from protocols.usage import AttemptEnd, AttemptStart

FALLBACK = frozenset({"provider_unavailable", "provider_error", "rate_limited", "misconfigured", "busy", "truncated"})
"""Faults after which the next target is tried, as long as no content has arrived."""

log = structlog.get_logger("completion")


class ChatCall(Struct):
    """A chat with who asks. `emit` takes the items of a streamed answer; `interrupted` says what a cancellation was."""

    chat: Chat
    user: str
    app: str
    emit: Callable[[Item], None]
    interrupted: Callable[[], type[QuorumError]]


class _Quote(Struct, frozen=True):
    """What an attempt at a target may come to: its price, and the most tokens of its prompt and its answer."""

    price: Price | None
    prompt_tokens: int
    longest_answer: int
    bound: NanoUSD | None


class _Run(Struct):
    """A call under way.

    State: what was asked, the plan, why its target was chosen in the end, quotes and attempts so far.
    """

    call: ChatCall
    call_id: str
    preferences: Preferences
    made: Plan
    reason: Reason
    views: tuple[ProviderView, ...]
    quotes: dict[Target, _Quote] = field(default_factory=dict)
    attempts: list[Attempt] = field(default_factory=list)


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
        sources: Mapping[str, Source],
        catalogue: Catalogue,
        aliases: Mapping[str, str],
        transports: Callable[[Source], Transport],
        prices_known: asyncio.Event,
        dispatched: Dispatched,
        clock: Clock,
        ids: Ids,
    ) -> None:
        self._sessions = sessions
        self._budget = budget
        self._pool = pool
        self._sources = sources
        self._catalogue = catalogue
        self._aliases = aliases
        self._transports = transports
        self._prices_known = prices_known
        self._dispatched = dispatched
        self._clock = clock
        self._ids = ids
        self._loop = asyncio.get_running_loop()
        self._views: tuple[ProviderView, ...] = ()
        self._plans: dict[Asked, Plan] = {}

    async def chat(self, call: ChatCall) -> ChatAnswer:
        """Answers a chat, or raises the QuorumError that the client is to hear."""
        began = self._clock.monotonic()
        session = await self._sessions.call(OpenSession(call.user, call.app))
        run = await self._begin(call, await session.call(Prefer(call.app)))
        if run.made.fault is not None:
            fault = run.made.fault
            raise type(fault)(fault.message, detail=dict(fault.detail), retry_after_s=fault.retry_after_s)
        answer = await self._first_that_answers(run, began)
        session.tell(Spent(answer.cost_nano_usd or 0))
        return answer

    async def explain(self, chat: Chat, user: str, app: str) -> tuple[Decision, QuorumError | None]:
        """The decision that `chat` would take, and the fault that it would answer with if there is no target."""
        session = await self._sessions.call(OpenSession(user, app))
        call = ChatCall(chat, user, app, lambda _: None, lambda: QuorumError)
        run = await self._begin(call, await session.call(Prefer(app)))
        return self._decision(run), run.made.fault

    async def _begin(self, call: ChatCall, preferences: Preferences) -> _Run:
        views = await self._pool.call(ReadViews())
        chat = call.chat
        made = self._plan(Asked(chat.model, chat.provider, chat.allow_fallback, preferences.default_model), views)
        if not self._prices_known.is_set() and not all(self._catalogue.priced_by_config(t.provider, t.model) for t in made.targets):
            await self._prices_known.wait()
        return _Run(call, self._ids.next(), preferences, made, made.reason, views)

    def _plan(self, asked: Asked, views: tuple[ProviderView, ...]) -> Plan:
        if views is not self._views or len(self._plans) >= self.PLANS:
            self._views, self._plans = views, {}
        made = self._plans.get(asked)
        if made is None:
            made = self._plans[asked] = plan(asked, World(views, self._catalogue.entries, self._aliases))
        return made

    async def _first_that_answers(self, run: _Run, began: float) -> ChatAnswer:
        targets = run.made.targets
        for position, target in enumerate(targets):
            held = self._held(run, target)
            try:
                reply = await self._attempt(run, target, held)
            except QuorumError as error:
                self._record(run, target, held, error)
                if position + 1 == len(targets) or held.progress.emitted or error.code not in FALLBACK:
                    self._explain_failure(run, error)
                    raise
                run.reason = "rate_limited_fallback" if error.code == "rate_limited" else "provider_unhealthy_fallback"
            except asyncio.CancelledError as cancelled:
                self._record(run, target, held, None)
                self._interrupt(run, held, cancelled)
            else:
                self._record(run, target, held, None)
                return self._answer(run, target, held, reply, began)
        raise AssertionError("a plan without a fault has a target")

    def _held(self, run: _Run, target: Target) -> Held:
        source = self._sources[target.provider]
        quote = self._quote(run, target)
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
            self._pool,
            self._clock,
            source=source,
            start=start,
            chat=run.call.chat,
            price=quote.price,
            amount=quote.bound,
            tokens=quote.prompt_tokens + quote.longest_answer,
        )

    async def _attempt(self, run: _Run, target: Target, held: Held) -> Reply:
        """Asks one provider within its timeouts. Raises QuorumError; the hold is settled in any case."""
        chat, source, progress = run.call.chat, self._sources[target.provider], held.progress
        request = source.dialect.chat(chat, target.model, self._quote(run, target).longest_answer)

        def sent() -> None:
            progress.sent = True
            self._dispatched.mark(held.usage_id)

        async with held:
            first = min(source.config.first_token_timeout_s, source.config.timeout_s)
            with _translated(source.name, progress, streamed=chat.stream):
                with Limit(self._loop, first if chat.stream else source.config.timeout_s) as limit:
                    async with self._transports(source).exchange(source.endpoint, request, sent) as response:
                        if response.status != 200:  # noqa: PLR2004  the only status that carries an answer
                            raise await self._fault(response, run, target)
                        progress.answering = True
                        if not chat.stream:
                            return _whole(source.dialect.reply(await response.read()), progress)
                        return await self._stream(run, source, response, progress, limit)

    async def _stream(
        self, run: _Run, source: Source, response: Response, progress: Progress, limit: Limit
    ) -> Reply:
        """Passes each piece on as it comes."""
        decoder, emit, calls = source.dialect.stream(), run.call.emit, _ToolCalls()
        began = self._clock.monotonic()
        while True:
            data = await (self._last(response) if decoder.complete else response.chunk())
            for event in decoder.feed(data):
                match event:
                    case Delta():
                        progress.pieces.append(event.text)
                    case Reasoning():
                        progress.reasoning.append(event.text)
                    case ToolCallDelta():
                        progress.other += len(event.arguments) + len(event.name or "")
                        calls.add(event)
                    case TokenCount():
                        progress.tokens = event
                        continue
                    case Finished():
                        progress.finish_reason = event.reason
                        continue
                if progress.first_token_at is None:
                    progress.first_token_at = self._clock.monotonic()
                    limit.extend(source.config.timeout_s - (progress.first_token_at - began))
                emit(event)
            if not data:  # the decoder was fed the end as well: what it held back is out
                break
        if not decoder.complete:
            raise Truncated(f"the answer of provider `{source.name}` broke off; what arrived is in `detail.partial`")
        progress.complete = True
        return Reply(progress.text(), "".join(progress.reasoning), calls.done(), progress.finish_reason, progress.tokens)

    async def _last(self, response: Response) -> bytes:
        """What comes after the end mark: a token count perhaps. Nobody waits long for it, and its loss is no truncation."""
        try:
            with Limit(self._loop, LINGER_S):
                return await response.chunk()
        except (TimeoutError, TransportError):
            return b""

    async def _fault(self, response: Response, run: _Run, target: Target) -> QuorumError:
        """The fault that an answer without a 200 means; an unknown model is told the nearest that there are."""
        source = self._sources[target.provider]
        if response.status < 400:  # noqa: PLR2004  HTTP's own boundary
            return Misconfigured(
                f"provider `{target.provider}` answered with status {response.status}; redirects are not followed, check `base_url`",
                detail={"status": response.status, "provider": target.provider},
            )
        body = await response.read()
        fault = source.dialect.fault(response.status, body, response.headers, target.model)
        fault.detail.setdefault("provider", target.provider)
        if isinstance(fault, UnknownModel):
            return _with_nearest(fault, target, run.views)
        return fault

    def _interrupt(self, run: _Run, held: Held, cancelled: asyncio.CancelledError) -> NoReturn:
        """A cancellation as the fault that it was: the client's, the deadline's, the shutdown's."""
        kind = run.call.interrupted()
        if kind is QuorumError:
            raise cancelled
        detail = {"partial": held.progress.text(), "usage_id": held.usage_id}
        raise kind(_INTERRUPTED.get(kind.code, "the call was cancelled"), detail=detail) from cancelled

    def _explain_failure(self, run: _Run, error: QuorumError) -> None:
        if run.attempts:
            error.detail.setdefault("usage_id", run.attempts[-1].usage_id)
        if len(run.attempts) > 1:
            error.detail["attempts"] = [{"model": a.model, "status": a.status} for a in run.attempts]

    def _record(self, run: _Run, target: Target, held: Held, error: QuorumError | None) -> None:
        """Notes an attempt that was held; one that was refused before costs nothing and leaves no row."""
        end = held.end
        if end is None:
            return
        if isinstance(error, Truncated):
            error.detail.update(partial=held.progress.text(), usage_id=held.usage_id)
        attempt = Attempt(held.usage_id, str(target), end.status, end.cost, end.latency_us / 1000)
        if error is not None:
            attempt.code = error.code
        run.attempts.append(attempt)
        log.info(
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
            decision=self._decision(run),
            attempts=run.attempts,
            latency_ms=round((self._clock.monotonic() - began) * 1000, 3),
            first_token_ms=None if first is None else round((first - began) * 1000, 3),
            warnings=_warnings(run, end, simulated=source.simulated),
        )

    def _decision(self, run: _Run) -> Decision:
        made = run.made
        return Decision(
            targets=[str(target) for target in made.targets],
            reason=run.reason,
            flags=[],
            steps=made.steps,
            rejected=made.rejected,
            bound_nano_usd=self._quote(run, made.targets[0]).bound if made.targets else None,
        )

    def _quote(self, run: _Run, target: Target) -> _Quote:
        quote = run.quotes.get(target)
        if quote is None:
            quote = run.quotes[target] = self._new_quote(run, target)
        return quote

    def _new_quote(self, run: _Run, target: Target) -> _Quote:
        view = next(v for v in run.views if v.name == target.provider)
        price = self._catalogue.price(view, target.model)
        factor = OWN_TOKENIZER if view.kind == "openai" else OTHER_TOKENIZER
        tokens, longest = prompt_upper_bound(run.call.chat, factor, target.model), self._longest_answer(run, target)
        return _Quote(price, tokens, longest, None if price is None else bound(price, tokens, longest))

    def _longest_answer(self, run: _Run, target: Target) -> int:
        """The request's own limit, else the user's default within what the model can."""
        asked = run.call.chat.max_tokens
        if asked is not None:
            return asked
        most = self._catalogue.entry(target.provider, target.model).max_output_tokens
        default = run.preferences.default_max_tokens
        return default if most is None else min(default, most)


OWN_TOKENIZER = 1000
OTHER_TOKENIZER = 1200
"""Thousandths by which a prompt's estimate grows: the estimate is made for OpenAI's tokenizer, others cut finer."""

LINGER_S = 2.0
"""Seconds that a provider gets after its end mark to end the body, so that its connection can be used again."""

_INTERRUPTED = {
    "cancelled": "the call was cancelled; what arrived is in `detail.partial`",
    "deadline": "the call's deadline passed; what arrived is in `detail.partial`",
    "shutting_down": "the daemon is shutting down; what arrived is in `detail.partial`",
}


class _ToolCalls:
    """Tool calls put together from their pieces.

    State: id, name and arguments by index.
    """

    def __init__(self) -> None:
        self._calls: dict[int, tuple[list[str], list[str], list[str]]] = {}

    def add(self, piece: ToolCallDelta) -> None:
        ids, names, arguments = self._calls.setdefault(piece.index, ([], [], []))
        if piece.id is not None:
            ids[:] = [piece.id]
        if piece.name is not None:
            names[:] = [piece.name]
        arguments.append(piece.arguments)

    def done(self) -> list[ToolCall]:
        return [
            ToolCall(id="".join(ids) or f"call_{index}", function=Function("".join(names), "".join(arguments)))
            for index, (ids, names, arguments) in sorted(self._calls.items())
        ]


@contextmanager
def _translated(provider: str, progress: Progress, *, streamed: bool) -> Iterator[None]:
    """Foreign errors of an attempt as ours, at this one edge."""
    try:
        yield
    except ConnectFailed as error:
        raise ProviderUnavailable(f"provider `{provider}` can't be reached: {error}", detail={"provider": provider}) from error
    except TransportError as error:
        if progress.answering:
            raise Truncated(f"the answer of provider `{provider}` broke off: {error}", detail={"provider": provider}) from error
        progress.answering = not streamed  # a whole answer may have been made and billed; of a stream nothing had begun
        raise ProviderFailed(f"provider `{provider}` hung up without an answer: {error}", detail={"provider": provider}) from error
    except MalformedAnswer as error:
        raise ProviderFailed(f"provider `{provider}` sent an answer that can't be read: {error}", detail={"provider": provider}) from error
    except StreamFailed as error:
        error.fault.detail.setdefault("provider", provider)
        progress.answering = progress.emitted
        raise error.fault from error
    except TimeoutError as error:
        progress.aborted = True
        what = "went on too long" if progress.emitted else "did not begin in time"
        raise ProviderFailed(f"the answer of provider `{provider}` {what}; see `timeout_s` and `first_token_timeout_s`", detail={"provider": provider}) from error


def _whole(reply: Reply, progress: Progress) -> Reply:
    progress.complete = True
    progress.tokens = reply.tokens
    progress.pieces.append(reply.text)
    progress.reasoning.append(reply.reasoning)
    progress.other = sum(len(call.function.name) + len(call.function.arguments) for call in reply.tool_calls)
    return reply


def _with_nearest(fault: UnknownModel, target: Target, views: tuple[ProviderView, ...]) -> UnknownModel:
    offered = next((v.models for v in views if v.name == target.provider), ())
    near = nearest_models(target.model, offered)
    hint = f"; the nearest are {', '.join(f'`{n}`' for n in near)}" if near else "; `daemonctl models` lists what there is"
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


def _warnings(run: _Run, end: AttemptEnd, *, simulated: bool) -> list[Warned]:
    found = []
    if simulated:
        found.append(Warned("simulated", "this answer is simulated: no provider of models was asked"))
    if end.cost is None:
        found.append(Warned("price_unknown", f"no price is known for `{run.attempts[-1].model}`; its cost is not counted"))
    if end.token_source == "estimate":
        found.append(Warned("estimated", "the provider gave no token counts; they are estimated"))
    return found

