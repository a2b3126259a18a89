"""A provider: whether it may be asked, how it has been answering, which models it lists. The asking itself is its caller's."""

from __future__ import annotations

from collections.abc import Callable

import structlog
from msgspec import Struct

from actors.base import Actor, handles
from actors.clock import Clock
from actors.providers.transport import Endpoint, Transport, TransportError
from actors.rules.breaker import Breaker, begun, failed, succeeded, undecided
from actors.rules.rate import Bucket, full
from protocols.dialects import Dialect, MalformedAnswer
from protocols.errors import Busy, Misconfigured, ProviderUnavailable, QuorumError, RateLimited
from protocols.provider import (
    AttemptEnded,
    BillingOnCancel,
    Lease,
    ModelsListed,
    Outcome,
    ProviderConfig,
    ProviderStatus,
    ProviderView,
    ReadStatus,
    Show,
    State,
    ViewChanged,
    about_it,
)

PROBE_TIMEOUT_S = 10.0
NO_LIST = frozenset({403, 404, 405})
"""Statuses of a provider that lists no models, or not for this key: it answers, so it is there."""

LONGEST_WAIT_S = 3600.0
"""Seconds that a Retry-After can make us wait: what is longer is looked at again."""

LOOK_MARGIN_S = 0.01
"""Seconds after the end of a wait, so that a timer that fires early still finds it over."""

AVERAGE_OVER = 20
"""Attempts over which the averages decay: each weighs 1/20."""

log = structlog.get_logger("provider")


class Source(Struct, frozen=True):
    """A configured provider, ready to be asked: config with its defaults filled in, the endpoint with the key, the dialect."""

    name: str
    config: ProviderConfig
    endpoint: Endpoint
    dialect: Dialect
    local: bool
    simulated: bool
    billing_on_cancel: BillingOnCancel
    misconfigured: str | None = None


class ProviderActor(Actor):
    """Knows how one provider is.

    State: breaker, rate limits, attempts in flight, averages, models listed, when it last proved its health, and what it last showed.
    """

    def __init__(
        self, source: Source, transport: Transport, clock: Clock, tell_view: Callable[[ViewChanged], None]
    ) -> None:
        super().__init__()
        self._source = source
        self._transport = transport
        self._clock = clock
        self._tell_view = tell_view
        self._breaker = Breaker()
        self._limited_until = 0.0
        self._buckets = _buckets(source.config, clock.monotonic())
        self._record = _Record(why=source.misconfigured)
        self._models: tuple[str, ...] = ()
        self._shown: tuple[State, tuple[str, ...], float | None] = ("unknown", (), None)

    def __repr__(self) -> str:
        return f"<ProviderActor {self._source.name} {self._state()}, {self._record.in_flight} in flight>"

    async def opening(self) -> None:
        """Starts probing."""
        self._show()
        if self._source.misconfigured is None:
            self.spawn(self._probe_now_and_then())

    @handles(Lease)
    def lease(self, request: Lease) -> int:
        """Lets an attempt pass, or says why not."""
        now = self._clock.monotonic()
        self._refuse_unless_available(now)
        self._take_rate(request.tokens, now)
        self._breaker = begun(self._breaker)
        self._record.in_flight += 1
        return self._breaker.probe

    def _refuse_unless_available(self, now: float) -> None:
        name, record = self._source.name, self._record
        if record.misconfigured or self._source.misconfigured:
            why = about_it(name, record.why or "see the log")
            raise Misconfigured(f"provider `{name}` is misconfigured: {why}", detail={"provider": name})
        if now < self._limited_until:
            wait = round(self._limited_until - now, 3)
            raise RateLimited(
                f"provider `{name}` asked to wait; try again in {wait:.1f} s",
                detail={"provider": name},
                retry_after_s=wait,
            )
        wait_s = self._breaker.wait_s(now)
        if wait_s is None or wait_s > 0:
            failing = f"keeps failing ({about_it(name, record.why or 'see the log')}) and is left alone for a while"
            why = f"provider `{name}` {failing}; `daemonctl providers` shows it"
            raise ProviderUnavailable(why, detail={"provider": name}, retry_after_s=round(wait_s or 1.0, 3))
        if record.in_flight >= self._source.config.max_in_flight:
            raise Busy(
                f"provider `{name}` has {record.in_flight} calls under way, its `max_in_flight`; try again shortly",
                detail={"provider": name},
                retry_after_s=1.0,
            )

    def _take_rate(self, tokens: int, now: float) -> None:
        amounts = (1, tokens)
        wait = max(
            (b.wait_s(n, now) for b, n in zip(self._buckets, amounts, strict=True) if b is not None), default=0.0
        )
        if wait > 0:
            name = self._source.name
            raise RateLimited(
                f"provider `{name}` is at its configured rate; try again in {wait:.1f} s",
                detail={"provider": name},
                retry_after_s=round(wait, 3),
            )
        for bucket, amount in zip(self._buckets, amounts, strict=True):
            if bucket is not None:
                bucket.take(amount)

    @handles(AttemptEnded)
    def attempt_ended(self, ended: AttemptEnded) -> None:
        """Takes an attempt's result into the record."""
        record = self._record
        record.in_flight = max(record.in_flight - 1, 0)  # 0 after a restart that forgot attempts under way
        record.calls += 1
        self._judge(ended.outcome, ended.probe, ended.why, ended.retry_after_s)
        if ended.outcome == "ok":
            record.latency_s = _averaged(record.latency_s, ended.latency_s)
            if ended.first_token_s is not None:
                record.first_token_s = _averaged(record.first_token_s, ended.first_token_s)
        elif ended.outcome in {"transport", "server", "rate_limited", "auth"}:
            record.errors += 1
        self._show_if_changed()

    @handles(ModelsListed)
    def models_listed(self, found: ModelsListed) -> None:
        """Takes a health probe's result."""
        self._judge(found.outcome, found.probe, found.why, found.retry_after_s)
        if found.models is not None:
            self._models = found.models
        self._show_if_changed()

    def _judge(self, outcome: Outcome, probe: int, why: str, retry_after_s: float | None) -> None:
        now = self._clock.monotonic()
        match outcome:
            case "ok":
                self._breaker = succeeded(self._breaker, probe)
                self._record.proved_at, self._record.why = now, None
            case "transport" | "server":
                self._breaker = failed(self._breaker, probe, now)
                self._record.why = why
                if self._breaker.open:
                    self.spawn(self._look_after(self._breaker.wait_s(now) or 0.0))
            case "rate_limited":
                # The longer wait stands: a second, longer Retry-After counts, a shorter one does not.
                self._limited_until = max(self._limited_until, now + min(retry_after_s or 1.0, LONGEST_WAIT_S))
                self._record.why = why
                self._breaker = undecided(self._breaker, probe)
                self.spawn(self._look_after(self._limited_until - now))
            case "auth":
                # Until the config changes, which is read at the start: a key that was refused does not get better.
                self._record.misconfigured, self._record.why = True, why
                self._breaker = undecided(self._breaker, probe)
            case "request" | "cancelled":
                self._breaker = undecided(self._breaker, probe)

    @handles(Show)
    def show(self, _: Show) -> None:
        """Tells the pool what it is now."""
        self._show()

    @handles(ReadStatus)
    def status(self, _: ReadStatus) -> ProviderStatus:
        """Its row for the list."""
        source, record = self._source, self._record
        return ProviderStatus(
            name=source.name,
            kind=source.config.kind,
            origin=source.endpoint.origin,
            local=source.local,
            simulated=source.simulated,
            state=self._state(),
            why=record.why if self._state() != "healthy" else None,
            in_flight=record.in_flight,
            calls=record.calls,
            errors=record.errors,
            latency_ms=_ms(record.latency_s),
            first_token_ms=_ms(record.first_token_s),
            retry_after_s=self._retry_after_s(),
            models=len(self._models),
        )

    def _state(self) -> State:
        if self._record.misconfigured or self._source.misconfigured:
            return "misconfigured"
        if self._breaker.open:
            return "open"
        if self._clock.monotonic() < self._limited_until:
            return "rate_limited"
        if self._breaker.degraded:
            return "degraded"
        return "unknown" if self._record.proved_at is None else "healthy"

    def _retry_after_s(self) -> float | None:
        until = self._retry_at()
        return None if until is None else round(until - self._clock.monotonic(), 3)

    def _retry_at(self) -> float | None:
        broken_until = None if self._breaker.probing else self._breaker.retry_at
        until = max(self._limited_until, broken_until or 0.0)
        return until if until > self._clock.monotonic() else None

    def _show_if_changed(self) -> None:
        if (self._state(), self._models, self._retry_at()) != self._shown:
            self._show()

    def _show(self) -> None:
        source = self._source
        self._shown = (self._state(), self._models, self._retry_at())
        self._tell_view(
            ViewChanged(
                ProviderView(
                    name=source.name,
                    kind=source.config.kind,
                    host=source.endpoint.host,
                    state=self._state(),
                    why=self._record.why,
                    local=source.local,
                    simulated=source.simulated,
                    billing_on_cancel=source.billing_on_cancel,
                    needs_key=source.dialect.needs_key and not source.simulated,
                    models=self._models,
                    retry_at=self._retry_at(),
                )
            )
        )

    async def _probe_now_and_then(self) -> None:
        while True:
            await self._look()
            await self._clock.sleep(self._source.config.probe_every_s)

    async def _look_after(self, seconds: float) -> None:
        """Looks again when a wait is over, so that nobody is refused longer than it lasts."""
        await self._clock.sleep(seconds + LOOK_MARGIN_S)
        await self._look()

    async def _look(self) -> None:
        self._show()  # a wait may be over
        if self._probe_is_due():
            self._breaker = begun(self._breaker)
            self.ref.tell(await self._probe(self._breaker.probe))

    def _probe_is_due(self) -> bool:
        """Not while live traffic proves health, nor while the provider asked to wait or an attempt is the probe."""
        now = self._clock.monotonic()
        if self._record.misconfigured or now < self._limited_until or self._breaker.wait_s(now) != 0:
            return False
        proved = self._record.proved_at
        return (
            proved is None
            or not self._models
            or self._breaker.failures > 0
            or now - proved >= self._source.config.probe_every_s
        )

    async def _probe(self, number: int) -> ModelsListed:
        """Asks for the list of models: unbilled, and it tells whether the key is good."""
        dialect = self._source.dialect
        try:
            with self._clock.fail_after(PROBE_TIMEOUT_S):
                async with self._transport.exchange(self._source.endpoint, dialect.models_request()) as response:
                    body = await response.read()
            if response.status >= 400:  # noqa: PLR2004  HTTP's own boundary
                body = self._source.endpoint.without_key(body)
                fault = dialect.fault(response.status, body, response.headers, "")
                outcome: Outcome = "auth" if fault.code == "misconfigured" else outcome_of(fault.code, response.status)
                if response.status in NO_LIST:
                    outcome = "ok"
                return ModelsListed(outcome, own_words(fault), None, fault.retry_after_s, number)
            return ModelsListed("ok", "", tuple(dialect.models(body)), None, number)
        except TimeoutError:
            return ModelsListed(
                "transport", f"no answer to the health probe within {PROBE_TIMEOUT_S:.0f} s", None, None, number
            )
        except TransportError as error:
            return ModelsListed("transport", str(error), None, None, number)
        except MalformedAnswer as error:
            return ModelsListed("server", str(error), None, None, number)


class _Record(Struct):
    """How a provider has been answering."""

    why: str | None = None
    misconfigured: bool = False
    proved_at: float | None = None
    in_flight: int = 0
    calls: int = 0
    errors: int = 0
    latency_s: float | None = None
    first_token_s: float | None = None


def outcome_of(code: str, status: int) -> Outcome:
    """What a fault says about the provider. A 403 of one call may be about its model alone; a 401 is about the key."""
    match code:
        case "misconfigured" if status == 401:  # noqa: PLR2004  HTTP's own
            return "auth"
        case "rate_limited":
            return "rate_limited"
        case _ if status >= 500:  # noqa: PLR2004  HTTP's own boundary
            return "server"
    return "request"


def own_words(error: QuorumError) -> str:
    """A fault's message without what the provider said: that may quote a prompt, and everybody sees a provider's state."""
    quoted = error.detail.get("provider_message")
    return error.message.replace(f": {quoted}", "") if quoted else error.message


def _buckets(config: ProviderConfig, now: float) -> tuple[Bucket | None, Bucket | None]:
    requests, tokens = config.requests_per_minute, config.tokens_per_minute
    return (full(requests, now) if requests else None, full(tokens, now) if tokens else None)


def _averaged(average: float | None, value: float) -> float:
    return value if average is None else average + (value - average) / AVERAGE_OVER


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
