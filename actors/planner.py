"""What a call is planned with: what there is to choose from now, the plan of its question, and what each target may cost."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog
from msgspec import Struct

from actors.base import Ref
from actors.clock import Clock
from actors.limit import Limit
from actors.pool import ProviderPool
from actors.quotes import Quotes
from actors.rules.asked import asked_by
from actors.rules.candidates import Target, World
from actors.rules.catalogue import Catalogue
from actors.rules.experiments import Experiment
from actors.rules.hints import in_language
from actors.rules.matrix import TaskConfig
from actors.rules.names import resolve_choice, retired_why, unlisted_why
from actors.rules.routing import Asked, Plan, plan
from actors.rules.tokens import PromptTokens
from actors.tokenizer import Tokenizer
from protocols.chat import Chat
from protocols.errors import NoEligibleModel, QuorumError
from protocols.provider import FirstListing, ProviderView, ReadViews
from protocols.session import Preferences
from protocols.users import Resolve
from protocols.warned import Warned

FIRST_LISTING_S = 5.0
"""Seconds that a call without a model waits, right after the start, for a provider to list its models."""

_NOT_COUNTED: Mapping[str, PromptTokens] = {}

log = structlog.get_logger("planner")


class Prepared(Struct):
    """A call that is planned: `chat` as it is sent (with the language that its hint names), the plan, quotes of its targets."""

    chat: Chat
    preferences: Preferences
    made: Plan
    views: tuple[ProviderView, ...]
    quotes: Quotes


class Planner:
    """Plans calls.

    State: what there is to choose from now, by an edition of the catalogue, and the plans made of it, so that equal questions are
    planned once.
    """

    PLANS = 1024

    def __init__(
        self,
        *,
        pool: Ref[ProviderPool],
        catalogue: Catalogue,
        aliases: Mapping[str, str],
        tasks: Mapping[str, TaskConfig],
        experiments: Mapping[str, Experiment],
        prices_known: asyncio.Event,
        tokenizer: Tokenizer | None,
        clock: Clock,
    ) -> None:
        self._pool = pool
        self._catalogue = catalogue
        self._aliases = aliases
        self._tasks = tasks
        self._experiments = experiments
        self._prices_known = prices_known
        self._tokenizer = tokenizer
        self._clock = clock
        self._world = World((), catalogue.entries, aliases)
        self._edition = catalogue.edition
        self._plans: dict[Asked, Plan] = {}

    async def prepared(self, chat: Chat, preferences: Preferences) -> Prepared:
        """The plan of a chat and its quotes, once the prices of its targets can be looked up."""
        made, views = await self.planned(chat, preferences)
        if not self._prices_known.is_set() and not all(
            self._catalogue.priced_by_config(t.provider, t.model) for t in made.targets
        ):
            await self._prices_known.wait()
        if chat.language_hint and made.language is not None:
            chat = in_language(chat, made.language)
        counted = _NOT_COUNTED
        if self._tokenizer is not None:
            at_openai = {view.name for view in views if view.kind == "openai" and not view.local}
            counted = await self._tokenizer.counts(chat, {t.model for t in made.targets if t.provider in at_openai})
        return Prepared(chat, preferences, made, views, Quotes(self._catalogue, chat, preferences, views, counted))

    async def planned(self, says: Chat | Resolve, preferences: Preferences) -> tuple[Plan, tuple[ProviderView, ...]]:
        """The plan of what a call says, once the prices that decide it are known, and the providers that it was made of."""
        asked = asked_by(says, preferences, self._experiments)
        made, views = await self._by_known_prices(asked, await self._pool.call(ReadViews()))
        if isinstance(made.fault, NoEligibleModel) and any(view.state == "unknown" for view in views):
            made, views = await self._by_known_prices(asked, await self._views_once_listed())
        return made, views

    def told_now(self, fault: QuorumError, views: tuple[ProviderView, ...]) -> QuorumError:
        """A plan's fault of one's own: a plan is told many times, and the wait that it means goes on meanwhile."""
        until = next((view.retry_at for view in views if view.name == fault.detail.get("provider")), None)
        wait_s = None if until is None else round(max(until - self._clock.monotonic(), 0.0), 3)
        return type(fault)(fault.message, detail=dict(fault.detail), retry_after_s=wait_s)

    async def named(self, model: str | None, provider: str | None) -> tuple[Target, list[Warned]]:
        """The target that these names mean, its model empty without one; a warning when it is retired or its provider does not list it.

        Raises UnknownProvider, UnknownModel, BadRequest.
        """
        world = self._world_of(await self._pool.call(ReadViews()))
        target = resolve_choice(model, provider, world)
        found = (("retired", retired_why(target, world)), ("not_listed", unlisted_why(target, world)))
        return target, [Warned(code, why) for code, why in found if why is not None][:1]

    def provider_named(self, name: str) -> str:
        """The provider that an alias stands for; any other name as it is, since what was chosen may be gone from the config."""
        return self._aliases.get(name, name)

    async def world(self) -> World:
        """What there is to choose from, with prices."""
        return self._world_of(await self.views_priced())

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

    async def _by_known_prices(
        self, asked: Asked, views: tuple[ProviderView, ...]
    ) -> tuple[Plan, tuple[ProviderView, ...]]:
        """A plan that need not be made again for its prices: right after the start none are known."""
        made = self._plan(asked, views)
        if made.by_price and not self._prices_known.is_set():
            await self._prices_known.wait()
            views = await self._pool.call(ReadViews())
            made = self._plan(asked, views)
        return made, views

    def _plan(self, asked: Asked, views: tuple[ProviderView, ...]) -> Plan:
        world = self._world_of(views)
        if len(self._plans) >= self.PLANS:
            self._plans = {}
        made = self._plans.get(asked)
        if made is None:
            made = self._plans[asked] = plan(asked, world)
            if made.arm is not None and made.fault is not None:  # its callers hear of it, but who runs it must, too
                log.warning("arm_failed", arm=made.arm, code=made.fault.code, why=made.fault.message)
        return made

    def _world_of(self, views: tuple[ProviderView, ...]) -> World:
        """What there is to choose from; the one of before, while neither the providers nor the prices changed."""
        catalogue = self._catalogue
        if views is not self._world.views or catalogue.edition != self._edition:
            catalogue.see(views)
            self._edition = catalogue.edition
            self._world = World(views, catalogue.entries, self._aliases, self._tasks, catalogue.infos)
            self._plans = {}
        return self._world
