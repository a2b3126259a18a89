"""Judges and the aggregator of a tournament: asked about the answers that are in, under the group's hold, until the time is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from actors.asking import Asking
from actors.attempt import Held
from actors.group import GroupHold
from actors.panel import BEST, SHOWN, Bid, Panel, judges_preferences
from actors.planner import Planner, Prepared
from actors.rules.judge_chats import comparison_chat, fusing_chat, grouping_chat, groups_of, verdict_of
from actors.rules.judging import Candidate, Partition, Ranking, grouped, pairs, tally, two_orders
from protocols.chat import Chat, Reply
from protocols.errors import DeadlineExceeded, QuorumError
from protocols.session import Preferences
from protocols.tournament import Flag, Judging, Missing, Progress

LEAST_SHOWN = 250
"""Characters of an answer below which it can't be judged."""


class Jury:
    """Who judges one tournament.

    State: the holds of its calls that were made, what was missing of it, and whether time is up.
    """

    def __init__(
        self,
        panel: Panel,
        group: GroupHold,
        asking: Asking,
        planner: Planner,
        preferences: Preferences,
        *,
        left_s: float,
        emit: Callable[[Progress], None],
    ) -> None:
        self._panel = panel
        self._group = group
        self._asking = asking
        self._planner = planner
        self._preferences = preferences
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + left_s
        self._emit = emit
        self.held: list[Held] = []
        self.missing: list[Missing] = []
        self._late = False

    @property
    def flags(self) -> set[Flag]:
        """What it has to say of the whole."""
        return {"degraded"} if self.missing else set()

    async def ranking(self, candidates: Sequence[Candidate], *, failed: int, cut: bool) -> Ranking:
        """Which answer is best, as far as the judges say before the time is over."""
        panel = self._panel
        comparisons = [each for each in pairs(candidates, panel.judging, panel.seed) if panel.judging.get(each.judge)]
        by_slot = {each.slot: each for each in candidates}

        def chats(shown: int) -> list[tuple[str, Chat]]:
            return [
                (
                    each.judge,
                    comparison_chat(panel.question, by_slot[each.first], by_slot[each.second], shown, panel.seed),
                )
                for each in comparisons
            ]

        replies = await self._ask_all(chats, "which answer is better")
        verdicts = [None if reply is None else verdict_of(reply.text) for reply in replies]
        terms = panel.terms
        return tally(
            comparisons,
            verdicts,
            candidates,
            panel.rule,
            asked=terms.asked,
            failed=failed,
            shrunk=terms.shrunk,
            deadline=cut or self._late,
        )

    async def partition(self, candidates: Sequence[Candidate]) -> Partition | None:
        """Which answers say the same; None where no judge could tell."""
        judge = next(iter(self._panel.judging), None)
        if judge is None:
            return None
        orders = two_orders(candidates, self._panel.seed)

        def chats(shown: int) -> list[tuple[str, Chat]]:
            question, seed = self._panel.question, self._panel.seed
            return [(judge, grouping_chat(question, order, shown, seed)) for order in orders]

        replies = await self._ask_all(chats, "which answers say the same")
        return grouped(orders, [None if r is None else groups_of(r.text, len(candidates)) for r in replies])

    async def fused(self, ranked: Sequence[Candidate], max_tokens: int | None) -> str | None:
        """One answer written of the best; None where the aggregator fails."""
        panel, bid = self._panel, self._panel.fusing
        if bid is None:
            self.missing.append(
                Missing("aggregator", "no_eligible_model", "no model could be asked to write the answer")
            )
            return None
        prepared = await self._fitting(
            bid,
            lambda shown: fusing_chat(panel.question, ranked, BEST, shown, panel.seed, max_tokens),
            self._preferences,
        )
        if prepared is None:
            self.missing.append(Missing(str(bid.target), "too_large", "the answers are too long for what is held"))
            return None
        self._emit(Judging(str(bid.target), "writes one answer of the best"))
        (reply,) = await self._within([(bid, prepared)])
        return reply.text if reply is not None and reply.text.strip() else None

    # ---- asking

    async def _ask_all(self, chats: Callable[[int], list[tuple[str, Chat]]], what: str) -> list[Reply | None]:
        """The replies to all of them, None for one that failed; each under a hold that its judge has left."""
        left = {judge: list(bids) for judge, bids in self._panel.judging.items()}
        for judge in left:
            self._emit(Judging(judge, what))
        preferences = judges_preferences(self._preferences)
        calls: list[tuple[Bid, Prepared] | None] = []
        for at, (judge, _) in enumerate(chats(SHOWN)):
            bid = left[judge].pop()
            prepared = await self._fitting(bid, lambda shown, at=at: chats(shown)[at][1], preferences)  # type: ignore[misc]
            calls.append(None if prepared is None else (bid, prepared))
        replies = iter(await self._within([call for call in calls if call is not None]))
        return [None if call is None else next(replies) for call in calls]

    async def _fitting(self, bid: Bid, chat: Callable[[int], Chat], preferences: Preferences) -> Prepared | None:
        """The call as it can be paid from its hold: with shorter answers if these are dearer than was thought, all equally."""
        shown = SHOWN
        while shown >= LEAST_SHOWN:
            asked = replace(chat(shown), model=str(bid.target), stream=True, allow_fallback=False)
            prepared = await self._planner.prepared(asked, preferences)
            if prepared.made.targets[:1] != [bid.target]:
                return None
            bound = prepared.quotes.of(bid.target).bound
            if bound is None or bid.reserve.amount is None or bound <= bid.reserve.amount:
                return prepared
            shown //= 2
        return None

    async def _within(self, calls: Sequence[tuple[Bid, Prepared]]) -> list[Reply | None]:
        """Asks them at once, until the time is over; all have settled on return."""
        tasks = [self._loop.create_task(self._ask(bid, prepared)) for bid, prepared in calls]
        if not tasks:
            return []
        try:
            _, late = await asyncio.wait(tasks, timeout=max(self._until - self._loop.time(), 0.0))
            self._late = bool(late)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        return [self._reply(bid, task) for (bid, _), task in zip(calls, tasks, strict=True)]

    async def _ask(self, bid: Bid, prepared: Prepared) -> Reply:
        outer = bid.call.interrupted
        bid.call.interrupted = lambda: DeadlineExceeded if self._late else outer()
        taken = self._group.hand_over(bid.reserve.start.usage_id)
        held = self._asking.held(prepared, bid.target, bid.reserve, taken)
        self.held.append(held)
        try:
            return await self._asking.ask(prepared, bid.target, bid.call, held)
        finally:
            if held.end is not None:
                self._asking.tell(bid.call, bid.target, held)

    def _reply(self, bid: Bid, task: asyncio.Task[Reply]) -> Reply | None:
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is None:
            return task.result()
        if not isinstance(error, QuorumError | asyncio.CancelledError):
            raise error
        code, why = (error.code, error.message) if isinstance(error, QuorumError) else ("cancelled", "it was cancelled")
        self.missing.append(Missing(str(bid.target), code, why))
        return None
