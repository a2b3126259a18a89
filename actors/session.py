"""Sessions: one context per active user, spawned on demand, gone when idle."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from actors.base import Actor, Ref, Wait, handles
from actors.clock import Clock, rfc3339
from actors.settings import SettingsActor
from actors.supervise import Supervisor
from actors.users import Users
from protocols.errors import ShuttingDown
from protocols.session import (
    CloseSession,
    Describe,
    ListSessions,
    OpenSession,
    Orchestration,
    Prefer,
    Preferences,
    SessionRow,
    Spent,
)
from protocols.settings import SettingChanged, SettingsInForce, SettingsOf, WatchSettings
from protocols.users import Choices, ChoicesChanged, ChoicesOf, Used, WatchChoices

SWEEP_S = 30.0
"""Seconds between looks for idle sessions."""


class SessionContext(Actor):
    """A user's live context.

    State: preferences as last read (None: to be read again), how often they changed and who reads them, when it was opened and last
    used, calls and cost since.
    """

    def __init__(self, user: str, app: str, settings: Ref[SettingsActor], users: Ref[Users], clock: Clock) -> None:
        super().__init__()
        self._user = user
        self._app = app
        self._settings = settings
        self._users = users
        self._clock = clock
        self._preferences: Preferences | None = None
        self._changes = 0
        self._reading = asyncio.Lock()
        self._opened_at = clock.now_us()
        self._used_at = clock.monotonic()
        self._calls = 0
        self._cost = 0

    def __repr__(self) -> str:
        return f"<SessionContext {self._user}, {self._calls} calls>"

    @handles(Prefer)
    def prefer(self, request: Prefer) -> Preferences | Wait[Preferences]:
        """The preferences for a call that begins."""
        self._app = request.app
        self._calls += 1
        self._used_at = self._clock.monotonic()
        return self._preferences or Wait(self._read())

    async def _read(self) -> Preferences:
        """Calls that come together read once; what changes while it is read is not kept."""
        async with self._reading:
            if self._preferences is not None:
                return self._preferences
            changes = self._changes
            choices = await self._users.call(ChoicesOf(self._user))
            found = preferences(self._user, await self._settings.call(SettingsOf(self._user)), choices)
            if changes == self._changes:
                self._preferences = found
            return found

    @handles(SettingChanged)
    def setting_changed(self, _: SettingChanged) -> None:
        """The next call reads its preferences again."""
        self._forget()

    @handles(ChoicesChanged)
    def choices_changed(self, _: ChoicesChanged) -> None:
        """So it does when the user chose another model."""
        self._forget()

    def _forget(self) -> None:
        self._preferences = None
        self._changes += 1

    @handles(Spent)
    def spent(self, request: Spent) -> None:
        """A call ended."""
        self._cost += request.cost_nano_usd
        self._used_at = self._clock.monotonic()
        chosen = self._preferences is None or request.answered_by in self._preferences.choices.models
        if chosen and request.answered_by is not None:
            self._users.tell(Used(self._user, request.answered_by))

    @handles(Describe)
    def describe(self, _: Describe) -> SessionRow:
        """Its row for the list."""
        idle = self._clock.monotonic() - self._used_at
        return SessionRow(self._user, self._app, rfc3339(self._opened_at), round(idle, 1), self._calls, self._cost)


class Sessions(Actor):
    """Knows the live sessions.

    State: sessions by user, the least recently used first; the bounds that the settings give.
    """

    def __init__(self, supervisor: Supervisor, settings: Ref[SettingsActor], users: Ref[Users], clock: Clock) -> None:
        super().__init__()
        self._keeper = supervisor
        self._settings = settings
        self._users = users
        self._clock = clock
        self._live: dict[str, Ref[SessionContext]] = {}
        self._idle_s = 1800.0
        self._max = 10_000

    def __repr__(self) -> str:
        return f"<Sessions {len(self._live)} live>"

    async def opening(self) -> None:
        """Learns the bounds; sessions of an earlier incarnation are closed, they hold nothing that is not stored."""
        for name in [ref for ref in self._keeper.refs if ref.actor_class is SessionContext]:
            await self._keeper.stop(name)
        await self._settings.call(WatchSettings(self.ref))
        await self._users.call(WatchChoices(self.ref))
        await self._learn()
        self.spawn(self._sweep())

    async def _learn(self) -> None:
        daemon = (await self._settings.call(SettingsOf("daemon"))).daemon
        self._idle_s, self._max = daemon.session_idle_s, daemon.session_max

    @handles(OpenSession)
    def open(self, request: OpenSession) -> Ref[SessionContext] | Wait[Ref[SessionContext]]:
        """The user's session; a new one if there is none."""
        ref = self._live.pop(request.user, None)
        if ref is None:
            return Wait(self._start(request))
        self._live[request.user] = ref  # last in the order of use
        return ref

    async def _start(self, request: OpenSession) -> Ref[SessionContext]:
        def make() -> SessionContext:
            return SessionContext(request.user, request.app, self._settings, self._users, self._clock)

        started = await self._keeper.start(make, name=f"session {request.user}")
        ref = self._live.setdefault(request.user, started)
        if ref is not started:  # another call of the same user was faster
            await self._keeper.stop(started)
        if len(self._live) > self._max:
            self.ref.tell(CloseSession(next(iter(self._live))))
        return ref

    @handles(CloseSession)
    def close(self, request: CloseSession) -> Wait[None] | None:
        """Forgets a session; the next call of the user opens a new one."""
        ref = self._live.pop(request.user, None)
        return None if ref is None else Wait(self._keeper.stop(ref))

    @handles(SettingChanged)
    def setting_changed(self, change: SettingChanged) -> None:
        """Lets every session read again what may have changed for it."""
        for ref in self._live.values():
            ref.tell(change)
        if change.key.startswith("session."):
            self.spawn(self._learn())

    @handles(ChoicesChanged)
    def choices_changed(self, change: ChoicesChanged) -> None:
        """Lets the user's session read again, if there is one."""
        ref = self._live.get(change.user)
        if ref is not None:
            ref.tell(change)

    @handles(ListSessions)
    def list_all(self, _: ListSessions) -> Wait[list[SessionRow]]:
        """The rows of all sessions."""
        return Wait(self._rows())

    async def _rows(self) -> list[SessionRow]:
        rows = []
        for ref in list(self._live.values()):
            with suppress(ShuttingDown):  # closed while we asked the others
                rows.append(await ref.call(Describe()))
        return rows

    async def _sweep(self) -> None:
        while True:
            await self._clock.sleep(min(SWEEP_S, self._idle_s / 4))
            for row in await self._rows():
                if row.idle_s >= self._idle_s:
                    self.ref.tell(CloseSession(row.user))


def preferences(user: str, settings: SettingsInForce, choices: Choices) -> Preferences:
    """What a call goes by, out of the settings and the user's choices."""
    own, daemon = settings.user, settings.daemon
    orchestrator = Orchestration(
        own.orchestrator_enabled,
        own.orchestrator_quality_tier,
        own.orchestrator_prefer_local,
        own.orchestrator_budget_tier_allows_paid,
        {task: model for task, model in own.orchestrator_task_models.items() if model is not None},
    )
    return Preferences(
        user,
        own.default_max_tokens,
        daemon.default_model,
        own.admission,
        own.auto_fallback_to_local,
        own.clamp_to_budget,
        choices,
        own.provider_selection_mode,
        orchestrator,
        settings.own,
    )
