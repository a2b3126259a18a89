"""Events: from whoever publishes to whoever listens. A listener that is slow misses some and is told how many."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from actors.base import Actor, Ref, handles
from actors.clock import Clock, rfc3339
from actors.rules.audience import may_see
from actors.settings import SettingsActor
from protocols.events import (
    AttemptEvent,
    AttemptSettled,
    Event,
    Lost,
    Publish,
    SettingEvent,
    Subscribe,
    Told,
    Unsubscribe,
    type_of,
)
from protocols.settings import SettingChanged, WatchSettings

MOST_WAITING = 1000
"""Events that wait for one reader; those that come then are counted and not kept."""


class Subscription:
    """One listener's events.

    State: those that wait to be read, with a `Lost` wherever some are missing.
    """

    __slots__ = ("_account", "_some", "_types", "_waiting")

    def __init__(self, account: str | None, types: frozenset[str] | None) -> None:
        self._account = account
        self._types = types
        self._waiting: deque[Told] = deque()
        self._some = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Subscription of {self._account or 'everything'}, {len(self._waiting)} waiting>"

    def offer(self, event: Event) -> None:
        """Keeps an event if it is one for this listener. Never waits, and never keeps more than the bound and one `Lost`."""
        if not self._wants(event):
            return
        waiting = self._waiting
        if len(waiting) < MOST_WAITING:
            waiting.append(event)
        elif isinstance(last := waiting[-1], Lost):
            waiting[-1] = Lost(event.at, last.count + 1)
        else:
            waiting.append(Lost(event.at, 1))
        self._some.set()

    async def next(self) -> Told:
        """The next event, as soon as there is one."""
        while not self._waiting:
            self._some.clear()
            await self._some.wait()
        return self._waiting.popleft()

    def _wants(self, event: Event) -> bool:
        return (self._types is None or type_of(event) in self._types) and (
            self._account is None or may_see(event, self._account)
        )


class Events(Actor):
    """Passes events on.

    State: the subscriptions, which outlive a crash: their readers do not notice it.
    """

    def __init__(self, settings: Ref[SettingsActor], clock: Clock, subscriptions: set[Subscription]) -> None:
        super().__init__()
        self._settings = settings
        self._clock = clock
        self._subscriptions = subscriptions

    def __repr__(self) -> str:
        return f"<Events {len(self._subscriptions)} subscriptions>"

    async def opening(self) -> None:
        """Hears of changed settings from now on."""
        await self._settings.call(WatchSettings(self.ref))

    @handles(Subscribe)
    def subscribe(self, request: Subscribe) -> Subscription:
        """A new listener."""
        subscription = Subscription(request.account, request.types)
        self._subscriptions.add(subscription)
        return subscription

    @handles(Unsubscribe)
    def unsubscribe(self, request: Unsubscribe) -> None:
        """A listener is gone."""
        self._subscriptions.discard(request.subscription)

    @handles(Publish)
    def publish(self, message: Publish) -> None:
        """Passes an event on."""
        for subscription in self._subscriptions:
            subscription.offer(message.event)

    @handles(AttemptSettled)
    def attempt_settled(self, settled: AttemptSettled) -> None:
        """Passes an attempt on. It is made into an event only here: most of the time nobody listens."""
        if self._subscriptions:
            self.publish(Publish(self._attempt(settled)))

    @handles(SettingChanged)
    def setting_changed(self, changed: SettingChanged) -> None:
        """Passes a changed setting on."""
        if self._subscriptions:
            event = SettingEvent(rfc3339(self._clock.now_us()), changed.owner, changed.key, changed.value)
            self.publish(Publish(event))

    def _attempt(self, settled: AttemptSettled) -> AttemptEvent:
        start, end = settled.start, settled.end
        return AttemptEvent(
            at=rfc3339(self._clock.now_us()),
            usage_id=start.usage_id,
            call_id=start.call_id,
            user=start.user,
            app=start.app,
            model=start.model,
            status=end.status,
            cost_nano_usd=end.cost,
            latency_ms=end.latency_us / 1000,
            marks=settled.marks,
        )


@asynccontextmanager
async def listening(
    events: Ref[Events], account: str | None, types: frozenset[str] | None = None
) -> AsyncIterator[Subscription]:
    """A subscription for as long as the block lasts; see `Subscribe`."""
    subscription: Subscription = await events.call(Subscribe(account, types))
    try:
        yield subscription
    finally:
        events.tell(Unsubscribe(subscription))
