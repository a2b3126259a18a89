"""Chats, of which those of a critical task become tournaments where their user wants that."""

from __future__ import annotations

from msgspec.structs import replace

from actors.asking import ChatCall
from actors.base import Ref
from actors.clock import Clock
from actors.completion import Completions
from actors.panel import TournamentCall
from actors.rules.critical import HELD, as_answer, as_tournament, is_plain, why_held
from actors.session import Sessions, preferences_of
from actors.tournament import RunTournament, TournamentActor
from protocols.chat import Chat, ChatAnswer, Delta
from protocols.routing import Decision, Step


class Chats:
    """The way of a chat; it has no state of its own."""

    def __init__(
        self,
        completions: Completions,
        tournaments: Ref[TournamentActor],
        sessions: Ref[Sessions],
        clock: Clock,
    ) -> None:
        self._completions = completions
        self._tournaments = tournaments
        self._sessions = sessions
        self._clock = clock

    async def chat(self, call: ChatCall) -> ChatAnswer:
        """Answers a chat, or raises the QuorumError that the client is to hear."""
        if not await self.is_critical(call.chat, call.user, call.app):
            return await self._completions.chat(call)
        return await self._held(call)

    async def is_critical(self, chat: Chat, user: str, app: str) -> bool:
        """Whether it becomes a tournament: its task is critical to its user, and nothing in it stands against that."""
        if chat.tournament is False or (chat.task_type is None and not chat.tournament) or not is_plain(chat):
            return False
        wishes = (await preferences_of(self._sessions, user, app)).tournament
        return bool(chat.tournament) or (wishes.enabled and chat.task_type in wishes.critical_tasks)

    def told(self, decision: Decision, chat: Chat) -> Decision:
        """The decision of a chat that becomes a tournament, as `explain` tells it."""
        step = Step(HELD, chat.task_type or "", why_held(chat))
        return replace(decision, steps=[*decision.steps, step], flags=[*decision.flags, HELD])

    async def _held(self, call: ChatCall) -> ChatAnswer:
        began = self._clock.monotonic()
        asked = TournamentCall(
            as_tournament(call.chat),
            call.user,
            call.app,
            call.actor,
            lambda _: None,
            call.interrupted,
            call.left_s,
            call.call_id,
        )
        try:
            verdict = await self._tournaments.call(RunTournament(asked))
        finally:
            call.sent |= asked.sent
        latency_ms = round((self._clock.monotonic() - began) * 1000, 3)
        answer = as_answer(verdict, call.chat, latency_ms)
        if call.chat.stream and answer.text:
            call.emit(Delta(answer.text))
        return answer
