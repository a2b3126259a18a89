"""The pool: starts the providers and shows them as one, in config order."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial

from actors.base import Actor, Ref, Wait, handles
from actors.clock import Clock, rfc3339
from actors.events import Events
from actors.provider import ProviderActor, Source
from actors.providers.transport import Transport
from actors.supervise import Supervisor
from protocols.events import ProviderEvent, Publish
from protocols.provider import (
    AVAILABLE,
    FirstListing,
    ProviderStatus,
    ProviderView,
    ReadProviders,
    ReadStatus,
    ReadStatuses,
    ReadViews,
    Show,
    ViewChanged,
)


class ProviderPool(Actor):
    """Leads to the providers, and shows all of them to routing.

    State: the providers' refs and their last views, both in config order; whether any has listed its models yet.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        sources: Sequence[Source],
        transport: Transport,
        events: Ref[Events],
        clock: Clock,
    ) -> None:
        super().__init__()
        self._keeper = supervisor
        self._sources = sources
        self._transport = transport
        self._events = events
        self._clock = clock
        self._providers: dict[str, Ref[ProviderActor]] = {}
        self._views: dict[str, ProviderView] = {}
        self._shown: tuple[ProviderView, ...] = ()
        self._listed = asyncio.Event()

    def __repr__(self) -> str:
        up = sum(view.state in AVAILABLE for view in self._views.values())
        return f"<ProviderPool {up} available of {len(self._sources)}>"

    async def opening(self) -> None:
        """Starts the providers; those that an earlier incarnation started go on, and show themselves again."""
        running = {ref.name: ref for ref in self._keeper.refs if ref.actor_class is ProviderActor}
        for source in self._sources:
            name = f"provider {source.name}"
            if name in running:
                self._providers[source.name] = running[name]
                running[name].tell(Show())
            else:
                make = partial(ProviderActor, source, self._transport, self._clock, self._take)
                self._providers[source.name] = await self._keeper.start(make, name=name)

    def _take(self, changed: ViewChanged) -> None:
        self.ref.tell(changed)

    @handles(ViewChanged)
    def view_changed(self, changed: ViewChanged) -> None:
        """Shows a provider as it is now, and tells of its new state."""
        view = changed.view
        before = self._views.get(view.name)
        if before == view:
            return
        self._views[view.name] = view
        if before is not None and before.state != view.state:
            self._tell_state(view)
        self._shown = tuple(self._views[s.name] for s in self._sources if s.name in self._views)
        if any(view.models for view in self._shown):
            self._listed.set()

    def _tell_state(self, view: ProviderView) -> None:
        why = view.why if view.state != "healthy" else None
        self._events.tell(Publish(ProviderEvent(rfc3339(self._clock.now_us()), view.name, view.state, why)))

    @handles(ReadViews)
    def views(self, _: ReadViews) -> tuple[ProviderView, ...]:
        """All providers."""
        return self._shown

    @handles(FirstListing)
    def first_listing(self, _: FirstListing) -> Wait[None]:
        """Answers when there are models to choose from."""
        return Wait(self._until_listed())

    async def _until_listed(self) -> None:
        await self._listed.wait()

    @handles(ReadProviders)
    def providers(self, _: ReadProviders) -> Mapping[str, Ref[ProviderActor]]:
        """The ways to the providers themselves; they outlive crashes."""
        return self._providers

    @handles(ReadStatuses)
    def statuses(self, _: ReadStatuses) -> Wait[list[ProviderStatus]]:
        """The rows of all providers."""
        return Wait(self._rows())

    async def _rows(self) -> list[ProviderStatus]:
        return [await ref.call(ReadStatus()) for ref in self._providers.values()]
