"""One question to a provider and its answer, streamed or whole, within its timeouts; foreign errors become ours at this edge."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from msgspec import Struct

from actors.clock import Clock
from actors.limit import Limit
from actors.progress import Progress
from actors.provider import Source
from actors.providers.transport import ConnectFailed, Response, Transport, TransportError
from actors.store.dispatched import Dispatched
from protocols.chat import Item, Reply
from protocols.dialects import HttpRequest, MalformedAnswer, StreamFailed
from protocols.errors import Misconfigured, ProviderFailed, ProviderUnavailable, QuorumError, Truncated

LINGER_S = 2.0
"""Seconds that a provider gets after its end mark to end the body, so that its connection can be used again."""


class Question(Struct, frozen=True):
    """What is asked of whom, for which attempt; `emit` takes the pieces of a streamed answer, None asks for a whole one."""

    source: Source
    model: str
    request: HttpRequest
    usage_id: str
    emit: Callable[[Item], None] | None


class Exchange:
    """The way to the providers; it has no state of its own."""

    def __init__(self, transports: Callable[[Source], Transport], dispatched: Dispatched, clock: Clock) -> None:
        self._transports = transports
        self._dispatched = dispatched
        self._clock = clock
        self._loop = asyncio.get_running_loop()

    async def ask(self, question: Question, progress: Progress) -> Reply:
        """The answer; `progress` says at any time how far it has come. Raises QuorumError."""

        def sent() -> None:
            self._dispatched.mark(question.usage_id)
            progress.sent = True

        source, streamed = question.source, question.emit is not None
        whole_s = source.config.timeout_s
        first_s = min(source.config.first_token_timeout_s, whole_s) if streamed else whole_s
        try:
            with Limit(self._loop, first_s) as limit:
                async with self._transports(source).exchange(source.endpoint, question.request, sent) as response:
                    if response.status != 200:  # noqa: PLR2004  the only status that carries an answer
                        raise await _fault(question, response)
                    progress.answering = True
                    if question.emit is None:
                        return progress.finish(source.dialect.reply(await response.read()))
                    return await self._stream(question, question.emit, response, progress, limit)
        except FOREIGN as error:
            raise _ours(error, question, progress) from error

    async def _stream(
        self, question: Question, emit: Callable[[Item], None], response: Response, progress: Progress, limit: Limit
    ) -> Reply:
        """Passes each piece on as it comes."""
        decoder = question.source.dialect.stream()
        while True:
            data = await (self._last(response) if decoder.complete else response.chunk())
            for event in decoder.feed(data):
                item = progress.take(event)
                if item is None:
                    continue
                if progress.first_token_at is None:
                    progress.first_token_at = self._clock.monotonic()
                    limit.extend(question.source.config.timeout_s)
                emit(item)
            if not data:  # the decoder was fed the end as well: what it held back is out
                break
        if not decoder.complete and not progress.emitted:
            raise MalformedAnswer("it ended without content and without its end mark")
        if not decoder.complete:
            raise Truncated(
                f"the answer of provider `{question.source.name}` broke off; what arrived is in `detail.partial`"
            )
        progress.complete = True
        return progress.reply()

    async def _last(self, response: Response) -> bytes:
        """What comes after the end mark: a token count perhaps. Nobody waits long for it, and its loss is no truncation."""
        try:
            with Limit(self._loop, LINGER_S):
                return await response.chunk()
        except (TimeoutError, TransportError):
            return b""


async def _fault(question: Question, response: Response) -> QuorumError:
    """The fault that an answer without a 200 means."""
    name = question.source.name
    if response.status < 400:  # noqa: PLR2004  HTTP's own boundary
        return Misconfigured(
            f"provider `{name}` answered with status {response.status}; redirects are not followed, check `base_url`",
            detail={"status": response.status, "provider": name},
        )
    body = question.source.endpoint.without_key(await response.read())
    fault = question.source.dialect.fault(response.status, body, response.headers, question.model)
    fault.detail.setdefault("provider", name)
    return fault


FOREIGN = (TransportError, MalformedAnswer, StreamFailed, TimeoutError)
"""What asking a provider can raise that is not ours yet."""


def _ours(error: Exception, question: Question, progress: Progress) -> QuorumError:
    """A foreign error as the fault that the client hears; `progress` then says what it means for the money."""
    source, provider = question.source, question.source.name
    detail = {"provider": provider}
    match error:
        case ConnectFailed():
            return ProviderUnavailable(f"provider `{provider}` can't be reached: {error}", detail=detail)
        case TransportError() if progress.answering:
            return Truncated(f"the answer of provider `{provider}` broke off: {error}", detail=detail)
        case TransportError():
            # A whole answer may have been made and billed; of a stream nothing had begun, unless they bill it to its end.
            progress.answering = question.emit is None or source.billing_on_cancel == "whole"
            return ProviderFailed(f"provider `{provider}` hung up without an answer: {error}", detail=detail)
        case StreamFailed():
            progress.answering = progress.emitted
            return _without_key(error.fault, source)
        case TimeoutError():
            progress.aborted = True
            what = "went on too long" if progress.emitted else "did not begin in time"
            return ProviderFailed(
                f"the answer of provider `{provider}` {what}; see `timeout_s` and `first_token_timeout_s`",
                detail=detail,
            )
        case _:
            return ProviderFailed(f"provider `{provider}` sent an answer that can't be read: {error}", detail=detail)


def _without_key(fault: QuorumError, source: Source) -> QuorumError:
    """A fault out of a stream, which quotes the provider."""

    def clean(text: str) -> str:
        return source.endpoint.without_key(text.encode()).decode()

    said = {key: clean(value) if isinstance(value, str) else value for key, value in fault.detail.items()}
    return type(fault)(clean(fault.message), detail={"provider": source.name} | said, retry_after_s=fault.retry_after_s)
