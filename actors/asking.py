"""How one target is asked, for a chat as for a member of a tournament: its hold, the request, the fault that a cancellation was."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import NoReturn

import structlog
from msgspec import Struct

from actors.attempt import Held
from actors.base import Ref
from actors.budget import BudgetActor
from actors.clock import Clock, Ids
from actors.exchange import Exchange, Question
from actors.planner import Prepared
from actors.provider import ProviderActor, Source
from actors.rules.candidates import Target
from actors.rules.near import nearest_models
from actors.tokenizer import Tokenizer
from protocols.audit import Actor
from protocols.budget import Confirmed, Mark, Reserve
from protocols.chat import Chat, Item, Reply
from protocols.errors import QuorumError, UnknownModel
from protocols.provider import ProviderView
from protocols.routing import Reason
from protocols.settings import Admission
from protocols.usage import AttemptStart

LEASE_GRACE_S = 60.0
"""Seconds that a hold outlives the longest attempt."""

log = structlog.get_logger("completion")


class ChatCall(Struct):
    """A chat with who asks. `emit` takes the items of a streamed answer; `interrupted` says what a cancellation was,
    `left_s` how long it may take.

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
    left_s: float = 300.0


class Asking:
    """The way to a target; it has no state of its own."""

    def __init__(
        self,
        *,
        budget: Ref[BudgetActor],
        providers: Mapping[str, Ref[ProviderActor]],
        sources: Mapping[str, Source],
        exchange: Exchange,
        tokenizer: Tokenizer | None,
        clock: Clock,
        ids: Ids,
    ) -> None:
        self._budget = budget
        self._providers = providers
        self._sources = sources
        self._exchange = exchange
        self._tokenizer = tokenizer
        self._clock = clock
        self._ids = ids
        self._log = log.bind()  # the logger itself, not the proxy that looks for it at each line

    def reserve(
        self,
        prepared: Prepared,
        target: Target,
        call: ChatCall,
        *,
        reason: Reason,
        admission: Admission,
        confirmed: Confirmed | None = None,
        lease_s: float = 0.0,
    ) -> Reserve:
        """What is held for an attempt, for its longest time, or for `lease_s` if that is longer."""
        source, quote, chat = self._sources[target.provider], prepared.quotes.of(target), call.chat
        start = AttemptStart(
            usage_id=self._ids.next(),
            call_id=call.call_id,
            user=call.user,
            app=call.app,
            conversation=chat.conversation,
            task_type=chat.task_type,
            provider=target.provider,
            model=str(target),
            endpoint=source.endpoint.origin,
            reason=reason,
            created_at=self._clock.now_us(),
            arm=prepared.made.arm,
        )
        return Reserve(
            start,
            quote.bound,
            admission,
            lease_s=max(source.config.timeout_s, lease_s) + LEASE_GRACE_S,
            marks=("clamped",) if quote.clamped else (),
            confirmed=confirmed,
        )

    def held(self, prepared: Prepared, target: Target, reserve: Reserve, taken: tuple[Mark, ...] | None = None) -> Held:
        """The hold of an attempt, to be entered; with `taken`, the marks of one that its group has."""
        quote = prepared.quotes.of(target)
        return Held(
            self._budget,
            self._providers[target.provider],
            self._clock,
            source=self._sources[target.provider],
            reserve=reserve,
            chat=prepared.chat,
            price=quote.price,
            prompt_tokens=quote.prompt_tokens,
            longest_answer=quote.longest_answer,
            counted_prompt=quote.about,
            taken=taken,
        )

    async def ask(self, prepared: Prepared, target: Target, call: ChatCall, held: Held) -> Reply:
        """Asks one provider. Raises QuorumError; the hold is settled in any case."""
        chat, source = prepared.quotes.request(target), self._sources[target.provider]
        request = None
        try:
            request = source.dialect.chat(chat, target.model, prepared.quotes.of(target).longest_answer)
        finally:
            if request is None:
                await held.void()  # a group may have taken it
        question = Question(source, target.model, request, held.usage_id, call.emit if chat.stream else None)
        async with held:
            try:
                reply = await self._exchange.ask(question, held.progress)
                if self._tokenizer is not None and held.counted_prompt is not None and held.progress.counted is None:
                    held.counted_answer = await self._tokenizer.count_text(held.progress.emitted_text(), target.model)
            except UnknownModel as fault:
                raise _with_nearest(fault, target, prepared.views) from fault
            except asyncio.CancelledError as cancelled:
                held.progress.aborted = True
                interrupt(call, held, cancelled)
            return reply

    @property
    def most_in_flight(self) -> dict[str, int]:
        """How many calls each provider takes at once."""
        return {name: source.config.max_in_flight for name, source in self._sources.items()}

    def simulated(self, target: Target) -> bool:
        """Whether nobody real is behind it."""
        return self._sources[target.provider].simulated

    def all_simulated(self, models: Iterable[str]) -> bool:
        """Whether nobody real is behind any of these ids."""
        return all(self._sources[model.partition(":")[0]].simulated for model in models)

    def tell(self, call: ChatCall, target: Target, held: Held) -> None:
        """A line in the log for an attempt that was held."""
        end = held.ended
        self._log.info(
            "attempt",
            call_id=call.call_id,
            usage_id=held.usage_id,
            user=call.user,
            app=call.app,
            model=str(target),
            status=end.status,
            prompt_tokens=end.tokens.prompt,
            response_tokens=end.tokens.response,
            cost_nano_usd=end.cost,
            latency_us=end.latency_us,
        )


def interrupt(call: ChatCall, held: Held, cancelled: asyncio.CancelledError) -> NoReturn:
    """A cancellation as the fault that it was: the client's, the deadline's, the shutdown's."""
    kind = call.interrupted()
    if kind is QuorumError:
        raise cancelled
    # One that was cancelled while it waited for its hold has no row.
    detail = {"partial": held.progress.text(), "usage_id": None if held.marks is None else held.usage_id}
    raise kind(_INTERRUPTED.get(kind.code, "the call was cancelled"), detail=detail) from cancelled


_INTERRUPTED = {
    "cancelled": "the call was cancelled; what arrived is in `detail.partial`",
    "deadline": "the call's deadline passed; what arrived is in `detail.partial`",
    "shutting_down": "the daemon is shutting down; what arrived is in `detail.partial`",
}


def _with_nearest(fault: UnknownModel, target: Target, views: tuple[ProviderView, ...]) -> UnknownModel:
    offered: tuple[str, ...] = next((v.models for v in views if v.name == target.provider), ())
    near = nearest_models(target.model, offered)
    hint = (
        f"; the nearest are {', '.join(f'`{n}`' for n in near)}" if near else "; `daemonctl models` lists what there is"
    )
    return UnknownModel(
        f"model `{target.model}` is not offered by `{target.provider}`{hint}",
        detail={**fault.detail, "model": str(target), "nearest": [f"{target.provider}:{n}" for n in near]},
    )
