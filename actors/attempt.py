"""One attempt: a hold before its first byte, its settlement after, in one `async with` whose exit settles on every path."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from actors.base import Ref
from actors.budget import BudgetActor
from actors.clock import MICRO, Clock
from actors.progress import Progress
from actors.provider import ProviderActor, Source, outcome_of, own_words
from actors.rules.pricing import Price
from actors.rules.settlement import NOT_SENT, Charge, charge
from actors.rules.tokens import prompt_estimate
from protocols.alerts import Alert
from protocols.budget import Mark, Reserve, Settle
from protocols.chat import Chat
from protocols.errors import ProviderFailed, ProviderUnavailable, QuorumError, RateLimited, Truncated
from protocols.money import NanoUSD
from protocols.provider import AttemptEnded, Lease, Outcome
from protocols.usage import AttemptEnd


class Held:
    """The lease and the hold of an attempt. With `taken`, the marks of a hold that a group has taken for it, entering leases alone.

    State: whether it was entered, the probe that it leased as (None before), the marks of its hold (None before), progress and a
    tokenizer's count of the answer, which its user writes; once it is closed, `end` is what the ledger has, and `alerts` are what its
    cost reached.
    """

    def __init__(
        self,
        budget: Ref[BudgetActor],
        provider: Ref[ProviderActor],
        clock: Clock,
        *,
        source: Source,
        reserve: Reserve,
        chat: Chat,
        price: Price | None,
        prompt_tokens: int,
        longest_answer: int,
        counted_prompt: int | None,
        taken: tuple[Mark, ...] | None = None,
    ) -> None:
        self._budget = budget
        self._provider = provider
        self._clock = clock
        self._source = source
        self._reserve = reserve
        self._chat = chat
        self._price = price
        self._prompt_tokens = prompt_tokens
        self._longest_answer = longest_answer
        self.counted_prompt = counted_prompt
        self._probe: int | None = None
        self._began = clock.monotonic()
        self.progress = Progress()
        self.marks = taken
        self._entered = False
        self.counted_answer: int | None = None
        self.alerts: tuple[Alert, ...] = ()
        self.end: AttemptEnd | None = None

    @property
    def model(self) -> str:
        """The id of the model that is asked."""
        return self._reserve.start.model

    @property
    def usage_id(self) -> str:
        """The attempt's id."""
        return self._reserve.start.usage_id

    @property
    def overrun(self) -> bool:
        """Whether the provider charged more than the bound."""
        return self.end is not None and self._reserve.amount is not None and (self.end.cost or 0) > self._reserve.amount

    @property
    def ended(self) -> AttemptEnd:
        """What the ledger has, after the exit."""
        assert self.end is not None
        return self.end

    async def __aenter__(self) -> Self:
        self._entered = True
        try:
            if self.marks is None and self._reserve.admission == "queue":  # who waits for money keeps no provider busy
                self.marks = await self._budget.call(self._reserve)
            self._began = self._clock.monotonic()  # the wait for money, or for its wave, is not the provider's latency
            self._leased(
                await self._provider.call(Lease(self._prompt_tokens + self._longest_answer), missed=self._leased)
            )
            if self.marks is None:
                self.marks = await self._budget.call(self._reserve)
        except BaseException as error:
            self._let_go(error)
            raise
        return self

    def _leased(self, probe: int) -> None:
        """From here on the lease is given back, whatever happens."""
        self._probe = probe

    async def void(self) -> None:
        """It is not launched: closes the hold at nothing. Does nothing for one that was entered, or once more.

        Cancelling it cancels the waiting alone.
        """
        if self._entered or self.marks is None:
            return
        self._entered, self.end = True, NOT_SENT
        await self._budget.deliver(Settle(self.usage_id, self.end))

    def _let_go(self, error: BaseException) -> None:
        """Not entered: the lease is given back, and the hold closed at nothing, if there are any."""
        if self._probe is not None:
            self._give_back(error)
        # Cancelled while the hold was on its way: if it was taken, this gives it back; if not, it does nothing.
        if self.marks is not None or isinstance(error, asyncio.CancelledError):
            end = self._end(error)
            self.end = None if self.marks is None else end
            self._budget.deliver(Settle(self.usage_id, end))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, asyncio.CancelledError | TimeoutError):
            self.progress.aborted = True
        self.end = self._end(error)
        settled = self._budget.deliver(Settle(self._reserve.start.usage_id, self.end))
        self._give_back(error)
        self.alerts = await settled or ()

    def _give_back(self, error: BaseException | None) -> None:
        first = self.progress.first_token_at
        self._provider.tell(
            AttemptEnded(
                outcome=_outcome(error, sent=self.progress.sent),
                why=own_words(error) if isinstance(error, QuorumError) else "",
                latency_s=self._clock.monotonic() - self._began,
                first_token_s=None if first is None else first - self._began,
                retry_after_s=error.retry_after_s if isinstance(error, RateLimited) else None,
                probe=self._probe or 0,
            )
        )

    def _end(self, error: BaseException | None) -> AttemptEnd:
        progress, first = self.progress, self.progress.first_token_at
        charged = self._charge(progress)
        return AttemptEnd(
            status=_status(error),
            tokens=charged.tokens,
            token_source=charged.token_source,
            cost=charged.cost,
            cost_source=charged.cost_source,
            price_version=None if self._price is None else self._price.version,
            latency_us=round((self._clock.monotonic() - self._began) * MICRO),
            first_token_us=None if first is None else round((first - self._began) * MICRO),
        )

    def _prompt_estimate(self) -> int:
        """About the prompt's tokens."""
        if self.counted_prompt is not None:
            return self.counted_prompt
        return prompt_estimate(self._chat, self._prompt_tokens)

    def _charge(self, progress: Progress) -> Charge:
        ending = progress.ending()
        tokens = progress.counted if ending == "complete" else progress.tokens
        counted = ending == "refused" or (ending == "complete" and tokens is not None)
        return charge(
            ending,
            price=self._price,
            held=self._reserve.amount or NanoUSD(0),
            tokens=tokens,
            prompt_tokens=0 if counted else self._prompt_estimate(),
            emitted="" if counted else progress.emitted_text(),
            emitted_tokens=self.counted_answer,
            by_tokenizer=self.counted_prompt is not None,
            streamed=self._chat.stream,
            policy=self._source.billing_on_cancel,
            at_s=self._reserve.start.created_at / MICRO,
        )


def _status(error: BaseException | None) -> str:
    """The status of the usage row: `ok` or the code of the fault."""
    if error is None:
        return "ok"
    if isinstance(error, QuorumError):
        return error.code
    return "cancelled" if isinstance(error, asyncio.CancelledError) else "internal"


def _outcome(error: BaseException | None, *, sent: bool) -> Outcome:
    """What the end of an attempt says about its provider."""
    match error:
        case None:
            return "ok"
        case ProviderUnavailable():
            return "transport"
        case Truncated():
            return "server"
        case ProviderFailed():
            return outcome_of(error.code, int(error.detail.get("status", 500)))
        case QuorumError():
            return outcome_of(error.code, int(error.detail.get("status", 400))) if sent else "cancelled"
        case _:
            return "cancelled"
