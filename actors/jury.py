"""Judges and the aggregator of a tournament: asked about the answers that are in, under the group's hold, until the time is over."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from msgspec.structs import replace

from actors.asking import Asking
from actors.attempt import Held
from actors.group import GroupHold
from actors.panel import OWN_ANSWER, SHOWN, Bid, Panel, judges_preferences
from actors.planner import Planner, Prepared
from actors.reading import UNPARSED, sought
from actors.rules.judge_chats import comparison_chat, grouping_chat, groups_of, verdict_of
from actors.rules.judging import (
    Candidate,
    Comparison,
    Partition,
    Preference,
    Ranking,
    grouped,
    held_for,
    is_own,
    pairs,
    tally,
    two_orders,
)
from actors.rules.verdict import LATE
from protocols.chat import Chat, Reply
from protocols.errors import DeadlineExceeded, NoEligibleModel, QuorumError, TooLarge
from protocols.session import Preferences
from protocols.tournament import Flag, Judging, Missing, Progress

LEAST_SHOWN = 250
"""Characters of an answer below which it can't be judged."""

SHARE = 0.5
"""Of the calls that a provider takes at once: a jury has so many under way there at most, and leaves the others room."""

NO_GROUPS = "what it replied names no groups in the form asked for"
OTHER_GROUPS = "it grouped the answers otherwise when their order changed"
NO_ANSWER = "its reply was empty"
CUT_ANSWER = "its reply was cut at `max_tokens`"

ChatShowing = Callable[[int], Chat]
"""What somebody is asked, showing so many characters of each answer."""


class Jury:
    """Who judges one tournament.

    State: the holds of its calls that were made, what was missing of it, the calls (usage ids) that its time cut, and how many more each
    provider may take now.
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
        self.missing: list[Missing] = list(panel.unheard)
        self._late: set[str] = set()
        self._preparing = asyncio.Lock()
        self._turns = {
            name: asyncio.Semaphore(max(int(most * SHARE), 1)) for name, most in asking.most_in_flight.items()
        }

    def __repr__(self) -> str:
        return f"<Jury {len(self.held)} asked, {len(self.missing)} missing>"

    @property
    def flags(self) -> set[Flag]:
        """What it has to say of the whole."""
        raised: dict[Flag, bool] = {"degraded": bool(self.missing), "deadline": bool(self._late)}
        return {flag for flag, up in raised.items() if up}

    async def ranking(self, candidates: Sequence[Candidate], *, failed: int, cut: bool) -> Ranking:
        """Which answer is best, as far as the judges say before the time is over."""
        panel = self._panel
        held = {judge: len(bids) for judge, bids in panel.judging.items()}
        comparisons = held_for(pairs(candidates, panel.judging, panel.seed), held)
        verdicts = await self._compared(comparisons, {each.slot: each for each in candidates})
        terms = panel.terms
        return tally(
            comparisons,
            verdicts,
            candidates,
            panel.rule,
            asked=terms.asked,
            failed=failed,
            shrunk=terms.shrunk,
            deadline=cut or bool(self._late),
        )

    async def partition(self, candidates: Sequence[Candidate]) -> Partition | None:
        """Which answers say the same, by the first judge that can tell; None where nobody could."""
        for turn, judge in enumerate(self._panel.judging):
            if is_own(judge, [each.model for each in candidates]):
                self._miss(Missing(judge, "own_answer", OWN_ANSWER))
                continue
            now = self._loop.time()
            until = now + (self._until - now) / (len(self._panel.judging) - turn)
            if (partition := await self._grouped(judge, candidates, until)) is not None:
                return partition
        return None

    async def fused(self, ranked: Sequence[Candidate], max_tokens: int | None) -> str | None:
        """One answer written of the best; None where the aggregator fails."""
        panel, bid = self._panel, self._panel.fusing
        if bid is None:
            return None
        self._emit(Judging(str(bid.target), "writes one answer of the best"))
        (reply,) = await self._all(
            [(bid, lambda shown: panel.fusing_chat(ranked, shown, max_tokens))],
            self._preferences,
            self._until,
        )
        if reply is None:
            return None
        if reply.finish_reason == "length":
            self._miss(Missing(str(bid.target), "cut", CUT_ANSWER))
        elif not reply.text.strip():
            self._miss(Missing(str(bid.target), "unparsed", NO_ANSWER))
        elif panel.spec is not None and await sought(reply.text, panel.spec) is None:
            self._miss(Missing(str(bid.target), "unparsed", UNPARSED))
            return None
        return reply.text if reply.text.strip() else None

    # ---- judges

    async def _compared(
        self, comparisons: Sequence[Comparison], by_slot: Mapping[int, Candidate]
    ) -> list[Preference | None]:
        """A judge's word on each, None for a call that gave none."""
        panel = self._panel
        left = {judge: iter(bids) for judge, bids in panel.judging.items()}
        calls: list[tuple[Bid, ChatShowing]] = []
        for each in comparisons:
            first, second = by_slot[each.first], by_slot[each.second]
            calls.append((next(left[each.judge]), partial(self._comparison, first, second)))
        replies = await self._judged((each.judge for each in comparisons), calls, "which answer is better", self._until)
        verdicts = [None if reply is None else verdict_of(reply.text) for reply in replies]
        self._tell_unread(comparisons, replies, verdicts)
        return verdicts

    def _comparison(self, first: Candidate, second: Candidate, shown: int) -> Chat:
        return comparison_chat(self._panel.question, first, second, shown, self._panel.seed)

    def _tell_unread(
        self,
        comparisons: Sequence[Comparison],
        replies: Sequence[Reply | None],
        verdicts: Sequence[Preference | None],
    ) -> None:
        of = Counter(each.judge for each in comparisons)
        unread = Counter(
            each.judge
            for each, reply, verdict in zip(comparisons, replies, verdicts, strict=True)
            if reply is not None and verdict is None
        )
        for judge, count in unread.items():
            self._miss(
                Missing(judge, "unparsed", f"{count} of its {of[judge]} replies don't say which answer is better")
            )

    async def _grouped(self, judge: str, candidates: Sequence[Candidate], until: float) -> Partition | None:
        """Which answers say the same, as one judge finds them."""
        panel = self._panel
        orders = two_orders(candidates, panel.seed)
        calls = list(zip(panel.judging[judge], (partial(self._grouping, order) for order in orders), strict=True))
        replies = await self._judged([judge], calls, "which answers say the same", until)
        said = [None if reply is None else groups_of(reply.text, len(candidates)) for reply in replies]
        partition = grouped(orders, said)
        if any(reply is not None and groups is None for reply, groups in zip(replies, said, strict=True)):
            self._miss(Missing(judge, "unparsed", NO_GROUPS))
        elif partition is None and None not in said:
            self._miss(Missing(judge, "inconsistent", OTHER_GROUPS))
        return partition

    def _grouping(self, order: Sequence[Candidate], shown: int) -> Chat:
        return grouping_chat(self._panel.question, order, shown, self._panel.seed)

    async def _judged(
        self, judges: Iterable[str], calls: Sequence[tuple[Bid, ChatShowing]], what: str, until: float
    ) -> list[Reply | None]:
        for judge in dict.fromkeys(judges):
            self._emit(Judging(judge, what))
        return await self._all(calls, judges_preferences(self._preferences), until)

    # ---- asking

    async def _all(
        self, calls: Sequence[tuple[Bid, ChatShowing]], preferences: Preferences, until: float
    ) -> list[Reply | None]:
        """The replies to all, None for one that failed: as many at once as their providers take, until that time; all have settled."""
        tasks = [self._loop.create_task(self._one(bid, chat, preferences)) for bid, chat in calls]
        if not tasks:
            return []
        try:
            _, late = await asyncio.wait(tasks, timeout=max(until - self._loop.time(), 0.0))
            self._late |= {_usage_id(bid) for (bid, _), task in zip(calls, tasks, strict=True) if task in late}
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        return [self._reply(bid, task) for (bid, _), task in zip(calls, tasks, strict=True)]

    async def _one(self, bid: Bid, chat: ChatShowing, preferences: Preferences) -> Reply:
        """One reply, in its provider's turn. Raises QuorumError."""
        async with self._turns[bid.target.provider]:
            async with self._preparing:
                prepared = await self._fitting(bid, chat, preferences)
                await asyncio.sleep(0)  # long answers take their time, and others wait for the loop
            return await self._ask(bid, prepared)

    async def _fitting(self, bid: Bid, chat: ChatShowing, preferences: Preferences) -> Prepared:
        """The call as it can be paid from its hold: with shorter answers if these are dearer than was thought, all equally.

        Raises what it can't be asked for now, TooLarge where not even short ones are paid for.
        """
        shown = SHOWN
        while shown >= LEAST_SHOWN:
            asked = replace(chat(shown), model=str(bid.target), stream=True, allow_fallback=False)
            prepared = await self._planner.prepared(asked, preferences)
            made = prepared.made
            if made.fault is not None:
                raise self._planner.told_now(made.fault, prepared.views)
            if made.targets[:1] != [bid.target]:
                raise NoEligibleModel(f"`{bid.target}` can't be asked any more")
            bound = prepared.quotes.of(bid.target).bound
            if bound is None or bid.reserve.amount is None or bound <= bid.reserve.amount:
                return prepared
            shown //= 2
        raise TooLarge("the answers are too long for what is held")

    async def _ask(self, bid: Bid, prepared: Prepared) -> Reply:
        outer = bid.call.interrupted
        bid.call.interrupted = lambda: DeadlineExceeded if _usage_id(bid) in self._late else outer()
        taken = self._group.hand_over(_usage_id(bid))
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
        if _usage_id(bid) in self._late:
            code, why = LATE, "it had not answered at the deadline"
        elif isinstance(error, QuorumError):
            code, why = error.code, error.message
        else:
            code, why = "cancelled", "it was cancelled"
        self._miss(Missing(str(bid.target), code, why))
        return None

    def _miss(self, missing: Missing) -> None:
        """Says once what was wrong, also where it was with many calls."""
        if all((each.model, each.code) != (missing.model, missing.code) for each in self.missing):
            self.missing.append(missing)


def _usage_id(bid: Bid) -> str:
    return bid.reserve.start.usage_id
