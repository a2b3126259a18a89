"""Convenes the panel of a tournament: members, bench, judges and aggregator, each planned and bounded before anybody is asked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct, field
from msgspec.structs import replace

from actors.asking import Asking, ChatCall
from actors.base import Ref
from actors.clock import Ids
from actors.panel import OWN_ANSWER, SHOWN, Bid, Narrower, Panel, TournamentCall, judges_preferences
from actors.planner import Planner, Prepared
from actors.record import Record
from actors.rules.candidates import World
from actors.rules.canonical.choice import distinct
from actors.rules.consensus import FEWEST_LIVE
from actors.rules.contract import with_contract
from actors.rules.judge_chats import comparison_chat, grouping_chat
from actors.rules.judging import MOST_CALLS, Candidate, is_own, most_calls, most_judges, two_orders
from actors.rules.matrix import Task, known, known_task
from actors.rules.members import choose_aggregator, choose_judges, choose_members, default_mode
from actors.rules.orchestrator import ANY_TASK, Wishes
from actors.rules.verdict import rule_of
from actors.rules.waves import Member, arranged
from protocols.chat import Chat, Message
from protocols.errors import BadRequest, NoEligibleModel, QuorumError
from protocols.model import ModelInfo
from protocols.record import ReadReliability, Seat, Terms
from protocols.session import Preferences
from protocols.settings import Mode
from protocols.tournament import AnswerSpec, Missing, Tournament

TYPICAL = "word " * (SHOWN // 5)
"""What an answer that is not there yet is taken to be, for the bound of who will judge it."""

CRITICAL_JUDGES = 3
"""Judges of a critical task; another has one."""

MOST_GROUPING = 2
"""Judges that are held to group the answers of a vote: one does, and the next where it fails."""

NOT_LOCAL = "it is not local, and only local models fit the budget"


class _Convening(Struct, kw_only=True):
    """What is known while a panel is convened.

    State: the members that are left out, and judges and aggregator that can't be asked, so far.
    """

    call: TournamentCall
    preferences: Preferences
    world: World
    task: Task
    wishes: Wishes
    spec: AnswerSpec | None
    critical: bool
    tournament_id: str
    models: Sequence[ModelInfo]
    local_only: bool
    left_out: list[Missing] = field(default_factory=list)
    unheard: list[Missing] = field(default_factory=list)


class Panels:
    """Convenes panels; it has no state of its own."""

    def __init__(self, planner: Planner, asking: Asking, record: Ref[Record], ids: Ids) -> None:
        self._planner = planner
        self._asking = asking
        self._record = record
        self._ids = ids

    async def convene(self, call: TournamentCall, preferences: Preferences, narrower: Narrower) -> Panel:
        """A panel for a call. Raises BadRequest, NoEligibleModel, UnknownProvider, UnknownModel."""
        about = await self._about(call, preferences, narrower)
        seats, bench = await self._seats(about)
        mode = self._mode(about, seats)
        question, chat = _question(call.params, about.spec)
        judges = await self._judges(about, mode, seats)
        bids, absent = await self._bids(about, chat, (*seats, *bench))
        seats = _fewer(seats, bids, narrower)
        if len(seats) < FEWEST_LIVE:
            raise NoEligibleModel(
                f"a tournament needs {FEWEST_LIVE} models that can be asked; {_how_to_get_more(about)}"
            )
        if mode in {"vote", "cascade"} and call.params.members is None:
            seats = _in_order(seats, bids)
        shrunk = narrower.most is not None or narrower.local_only
        terms = self._terms(about, seats, [seat for seat in bench if seat.slot in bids], shrunk=shrunk)
        panel = Panel(
            tournament_id=about.tournament_id,
            mode=mode,
            spec=about.spec,
            rule=rule_of(terms, about.spec),
            terms=terms,
            question=question,
            bids=bids,
            judges=judges,
            judging={},
            fusing=None,
            seed=int.from_bytes(hashlib.sha256(about.tournament_id.encode()).digest()[:8]),
            absent=absent,
            left_out=about.left_out,
            unheard=about.unheard,
        )
        await self._add_judging(about, panel)
        return panel

    async def _about(self, call: TournamentCall, preferences: Preferences, narrower: Narrower) -> _Convening:
        params, own = call.params, preferences.orchestrator
        world = await self._planner.world()
        wishes = Wishes(
            params.quality_tier or own.quality_tier,
            own.prefer_local,
            own.budget_tier_allows_paid and not narrower.local_only,
        )
        named = None if params.task_type is None else known_task(params.task_type, world.tasks)
        return _Convening(
            call=call,
            preferences=preferences,
            world=world,
            task=named or ANY_TASK,
            wishes=replace(wishes, tier="budget") if narrower.local_only else wishes,
            spec=_spec(params),
            critical=params.task_type in preferences.tournament.critical_tasks,
            tournament_id=call.tournament_id or self._ids.next(),
            models=[m for m in world.models if m.local or not narrower.local_only],
            local_only=narrower.local_only,
        )

    async def _named(self, about: _Convening, names: Iterable[str], left_out: list[Missing]) -> list[str]:
        """The models that these names mean; those that may not be asked are added to `left_out`."""
        targets = [(await self._planner.named(name, None))[0] for name in names]
        local = [target for target in targets if not about.local_only or about.world.is_local(target)]
        left_out += [Missing(str(target), "not_local", NOT_LOCAL) for target in targets if target not in local]
        return list(map(str, local))

    # ---- members

    async def _seats(self, about: _Convening) -> tuple[list[Seat], list[Seat]]:
        """Members, and who stands in for those that fail: nobody where members are named."""
        params, infos = about.call.params, {model.id: model for model in about.models}
        if params.members is not None:
            named = await self._named(about, params.members, about.left_out)
            return [_seat(about.world, slot, model, infos.get(model)) for slot, model in enumerate(named)], []
        reliability = await self._record.call(ReadReliability(params.task_type))
        n = params.n or about.preferences.tournament.num_models
        team = choose_members(about.models, about.task, n, reliability, about.wishes)
        seats = [_seat(about.world, slot, m.id, m) for slot, m in enumerate((*team.members, *team.bench))]
        return seats[: len(team.members)], seats[len(team.members) :]

    async def _bids(
        self, about: _Convening, chat: Chat, seats: Iterable[Seat]
    ) -> tuple[dict[int, Bid], dict[int, QuorumError]]:
        """What each is asked; those that can't be asked now are absent. Raises what a wrong name means."""
        bids, absent = {}, dict[int, QuorumError]()
        for seat in seats:
            try:
                bids[seat.slot] = await self._bid(about, replace(chat, model=seat.model), about.preferences)
            except QuorumError as fault:
                if fault.code in {"unknown_provider", "unknown_model", "bad_request"}:
                    raise
                absent[seat.slot] = fault
        return bids, absent

    async def _bid(self, about: _Convening, chat: Chat, preferences: Preferences) -> Bid:
        prepared = await self._planner.prepared(chat, preferences)
        return self._bid_of(about, prepared)

    def _bid_of(self, about: _Convening, prepared: Prepared) -> Bid:
        """Raises the plan's fault."""
        made = prepared.made
        if made.fault is not None:
            raise self._planner.told_now(made.fault, prepared.views)
        call, admission = about.call, about.call.params.admission or about.preferences.admission
        asked = ChatCall(
            prepared.chat, call.user, call.app, lambda _: None, call.interrupted, call.actor, about.tournament_id
        )
        reserve = self._asking.reserve(
            prepared,
            made.targets[0],
            asked,
            reason=made.reason,
            admission="soft" if admission == "soft" else "strict",
            lease_s=call.left_s,
        )
        return Bid(made.targets[0], prepared, asked, reserve)

    def _mode(self, about: _Convening, seats: Sequence[Seat]) -> Mode:
        params, typed = about.call.params, about.spec is not None
        mode = params.mode or about.preferences.tournament.mode
        if mode == "cascade" and not typed:
            if params.mode is not None:
                raise BadRequest(
                    "a cascade goes on until the answers agree, so it needs their type: name `answer`, or take the mode pick"
                )
            mode = None
        return mode or default_mode(
            critical=about.critical, typed=typed, judged=not typed and self._has_judge(about, seats)
        )

    def _has_judge(self, about: _Convening, seats: Sequence[Seat]) -> bool:
        return bool(about.call.params.judge) or bool(_judges_for(about, seats, 1))

    def _terms(self, about: _Convening, seats: Sequence[Seat], bench: Sequence[Seat], *, shrunk: bool) -> Terms:
        params, own = about.call.params, about.preferences.tournament
        asked = len(params.members) if params.members else params.n or own.num_models
        min_live = params.min_live or min(own.min_live, max(len(seats), FEWEST_LIVE))
        if min_live > max(asked, len(seats)):
            raise BadRequest(f"`min_live` is {min_live}, but only {max(asked, len(seats))} models are asked")
        return Terms(
            members=tuple(seats),
            bench=tuple(bench),
            asked=max(asked, len(seats)),
            threshold=params.threshold or own.threshold,
            min_live=min_live,
            veto=params.veto,
            latency=params.latency or "frugal",
            shrunk=shrunk,
            critical=about.critical,
        )

    # ---- judges

    async def _judges(self, about: _Convening, mode: Mode, seats: Sequence[Seat]) -> list[str]:
        """Who judges, where anybody does: in `pick` and `fuse` always, in a `vote` what no type compares."""
        said = about.call.params.judge
        if mode in {"race", "cascade"} or (mode == "vote" and about.spec is not None):
            await self._named(about, [said] if isinstance(said, str) else said or (), [])  # a slip is told all the same
            return []
        if said is not None:
            names = [said] if isinstance(said, str) else said
            return list(dict.fromkeys(await self._named(about, names, about.unheard)))
        wanted = CRITICAL_JUDGES if about.critical and mode != "vote" else 1
        return _judges_for(about, seats, most_judges(wanted, len(seats)))

    async def _add_judging(self, about: _Convening, panel: Panel) -> None:
        """The bids of judges and aggregator, for answers that are not there yet. Who can't be asked is named in `unheard`."""
        candidates = [
            Candidate(seat.slot, seat.model, seat.family, TYPICAL, seat.quality) for seat in panel.terms.members
        ]
        for judge, calls in judge_calls(panel).items():
            if panel.mode == "vote" and len(panel.judging) == MOST_GROUPING:
                break
            if bids := await self._judge(about, panel, _apart(_judging_chat(panel, candidates), judge), calls):
                panel.judging[judge] = bids
        if panel.mode == "fuse":
            panel.fusing = await self._aggregator(about, panel, candidates)

    async def _judge(self, about: _Convening, panel: Panel, chat: Chat, calls: int) -> list[Bid]:
        judge = chat.model or ""
        if not calls:
            panel.unheard.append(Missing(judge, "own_answer", OWN_ANSWER))
            return []
        try:
            first = await self._bid(about, chat, judges_preferences(about.preferences))
        except QuorumError as fault:
            panel.unheard.append(Missing(judge, fault.code, fault.message))
            return []
        return [first, *(self._bid_of(about, first.prepared) for _ in range(calls - 1))]

    async def _aggregator(self, about: _Convening, panel: Panel, candidates: Sequence[Candidate]) -> Bid | None:
        params = about.call.params
        if params.aggregator is not None:
            model = next(iter(await self._named(about, [params.aggregator], panel.unheard)), None)
        elif (model := choose_aggregator(about.models, about.task, about.wishes)) is None:
            panel.unheard.append(
                Missing("aggregator", NoEligibleModel.code, "no model could be asked to write the answer")
            )
        if model is None:
            return None
        chat = panel.fusing_chat(candidates, SHOWN, params.max_tokens)
        try:
            return await self._bid(about, _apart(chat, model), about.preferences)
        except QuorumError as fault:
            panel.unheard.append(Missing(model, fault.code, fault.message))
            return None


def _judges_for(about: _Convening, seats: Sequence[Seat], wanted: int) -> list[str]:
    taken, families = [seat.model for seat in seats], {seat.family for seat in seats}
    return choose_judges(about.models, taken, families, wanted, about.wishes)


def judge_calls(panel: Panel) -> dict[str, int]:
    """How often each judge is asked at most, whoever stands in for whom; 0 for one that had only its own model's answers to judge.

    Raises BadRequest where that is too often.
    """
    members, bench = [seat.model for seat in panel.terms.members], [seat.model for seat in panel.terms.bench]
    if panel.mode == "vote":
        return {judge: 0 if is_own(judge, members) else 2 for judge in panel.judges}
    calls = {judge: most_calls(judge, members, bench) for judge in panel.judges}
    if sum(calls.values()) > MOST_CALLS:
        raise BadRequest(
            f"{len(members)} answers and {len(calls)} judges are {sum(calls.values())} comparisons, at most {MOST_CALLS} are made; "
            "name fewer judges (`judge`) or fewer members (`members`, `n`)"
        )
    return calls


def _judging_chat(panel: Panel, candidates: Sequence[Candidate]) -> Chat:
    """What one call of a judge is like."""
    if panel.mode == "vote":
        return grouping_chat(panel.question, two_orders(candidates, panel.seed)[0], SHOWN, panel.seed)
    return comparison_chat(panel.question, candidates[0], candidates[1], SHOWN, panel.seed)


def _apart(chat: Chat, model: str | None) -> Chat:
    """Streamed, so that what is cancelled need not be paid to its end; nobody else answers in its place."""
    return replace(chat, model=model, stream=True, allow_fallback=False)


def _question(params: Tournament, spec: AnswerSpec | None) -> tuple[list[Message], Chat]:
    """The messages as they were asked, and the chat that each member is sent."""
    question = params.messages or [Message("user", params.prompt)]
    chat = Chat(
        question,
        conversation=params.conversation,
        task_type=params.task_type,
        max_tokens=params.max_tokens,
        temperature=params.temperature,
        top_p=params.top_p,
        reasoning_effort=params.reasoning_effort,
    )
    return question, _apart(chat if spec is None else with_contract(chat, spec), None)


def _spec(params: Tournament) -> AnswerSpec | None:
    spec = AnswerSpec(type=params.answer) if isinstance(params.answer, str) else params.answer
    if spec is not None and spec.type == "choice" and len(spec.choices) < 2:  # noqa: PLR2004  of one there is no choice
        raise BadRequest('`answer` of the type choice names its choices: {"type": "choice", "choices": ["A", "B"]}')
    if spec is not None and spec.choices and spec.type != "choice":
        raise BadRequest(f"`answer.choices` are of the type choice, but `answer.type` is {spec.type}; leave one out")
    if spec is not None and not distinct(spec.choices):
        raise BadRequest("two of the `answer.choices` are the same, or one is empty; name each once")
    return spec


def _seat(world: World, slot: int, model: str, info: ModelInfo | None) -> Seat:
    """A model of which no family is known counts as of its provider's."""
    provider, _, name = model.partition(":")
    view, matrix = world.view(provider), known(name)
    family = (info.family if info else None) or (matrix.family if matrix else provider)
    quality = (info.quality if info else None) or (matrix.quality if matrix else 0.0)
    return Seat(slot, model, family, view is not None and view.billing_on_cancel == "whole", quality)


def _fewer(seats: Sequence[Seat], bids: Mapping[int, Bid], narrower: Narrower) -> list[Seat]:
    """At most so many: the dearest go first."""
    left = list(seats)
    while narrower.most is not None and len(left) > narrower.most:
        left.remove(max(left, key=lambda seat: (bids[seat.slot].bound if seat.slot in bids else 0, seat.slot)))
    return left


def _in_order(seats: Sequence[Seat], bids: Mapping[int, Bid]) -> list[Seat]:
    by_slot = {seat.slot: seat for seat in seats}
    members = [Member(s.slot, s.family, s.whole, bids[s.slot].bound if s.slot in bids else 0, s.quality) for s in seats]
    return [by_slot[member.slot] for member in arranged(members)]


def _how_to_get_more(about: _Convening) -> str:
    if about.call.params.members is not None and about.local_only:
        return f"of those named, {len(about.left_out)} are not local, and only local models fit the budget"
    if about.call.params.members is not None:
        return "name others (`members`)"
    return f"at the tier `{about.wishes.tier}` there are fewer: name `members`, take another tier, or add a provider"
