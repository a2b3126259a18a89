"""Idempotency keys: the first call under a key is made, the same call again hears what came of it. The only writer of their table."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import structlog
from msgspec import Raw, Struct, field

from actors.asking import ChatCall
from actors.base import Actor, Ref, Wait, handles
from actors.clock import Clock, Ids
from actors.critical import Chats
from actors.rules.body import chat_body_hash
from actors.rules.idempotency import KEPT_US, AttemptLeft, is_over, items_of, left_by_a_crash
from actors.store.queries import load
from actors.store.sqlite import Store
from protocols.chat import ChatAnswer
from protocols.errors import Busy, IdempotencyConflict, OverrideRequired, QuorumError, from_wire
from protocols.idempotency import Answered, Failed, FreeKey, KeepOutcome, LeaveKey, New, Outcome, TakeKey

SQL = load("idempotency", first=200)

SWEEP_S = 600.0
"""Seconds between looks for keys that were kept long enough."""

SWEEP_ROWS = 500
"""Keys that one commit forgets at most: a sweep delays nobody's settlement for long."""

Name = tuple[int, str]
"""A key is its uid's own."""

log = structlog.get_logger("idempotency")


class UnderWay(Struct, frozen=True):
    """A key in use: `body` is None until the key is taken. `over` gets the outcome, or None when the key is free again."""

    body: bytes | None
    over: asyncio.Future[Outcome | None]


class Kept(Struct, frozen=True):
    """An outcome with the hash of its body, and since when (µs)."""

    body: bytes
    at: int
    outcome: Outcome


class Keys(Struct):
    """What no row says: the keys in use, and outcomes that could not be stored. It outlives a crash of its actor."""

    under_way: dict[Name, UnderWay] = field(default_factory=dict)
    unstored: dict[Name, Kept] = field(default_factory=dict)


class Idempotency(Actor):
    """Takes keys, keeps outcomes, forgets them after 24 h.

    State: `keys`, what is known beside the rows; the rows are the truth for the rest.
    """

    def __init__(self, store: Store, clock: Clock, ids: Ids, keys: Keys) -> None:
        super().__init__()
        self._store = store
        self._clock = clock
        self._ids = ids
        self._under_way = keys.under_way
        self._unstored = keys.unstored

    def __repr__(self) -> str:
        return f"<Idempotency {len(self._under_way)} keys in use, {len(self._unstored)} outcomes not stored>"

    async def opening(self) -> None:
        """Sweeps now, since a daemon may not run for long, and then ever again."""
        self.spawn(self._sweep_for_ever())

    @handles(TakeKey)
    def take(self, request: TakeKey) -> Wait[New | Outcome]:
        """The key for its first asker; what came of it for the others."""
        return Wait(self._take(request, (request.uid, request.key)))

    async def _take(self, request: TakeKey, name: Name) -> New | Outcome:
        while (under_way := self._under_way.get(name)) is not None:
            if under_way.body is not None:
                _check(under_way.body, request)
            outcome = await asyncio.shield(under_way.over)
            if outcome is not None:
                return outcome
        self._enter(name, None)
        call_id = self._ids.next()
        try:
            known = await self._known(request, name)
            outcome = None if request.confirmed and _asks_to_confirm(known) else known
            if outcome is None:
                row = (*name, request.body, call_id, self._clock.now_us())
                await self._store.submit((SQL["take_key"], row))
        finally:
            self._leave(name, None)  # whoever waits looks again, and sees what stands there now
        if outcome is None:
            self._unstored.pop(name, None)
            self._enter(name, request.body)
            return New(call_id, known)
        return outcome

    async def _known(self, request: TakeKey, name: Name) -> Outcome | None:
        """What came of the call under this key; None when there is none. Raises IdempotencyConflict, Busy."""
        kept = self._unstored.get(name) or await self._stored(name)
        if kept is None or is_over(kept.at, self._clock.now_us()):
            return None
        _check(kept.body, request)
        return kept.outcome

    async def _stored(self, name: Name) -> Kept | None:
        rows = await self._store.read(SQL["key"], name)
        if not rows:
            return None
        body, call_id, at, outcome = rows[0]
        if outcome is not None:
            return Kept(body, at, msgspec.json.decode(outcome, type=Outcome))
        attempts = await self._store.read(SQL["attempts_left"], {"call_id": call_id})
        fault = left_by_a_crash([AttemptLeft(*row) for row in attempts])
        if fault is None:
            return None
        if isinstance(fault, Busy):
            raise fault
        found = Kept(body, at, _failed(fault))
        await self._keep(name, found)
        return found

    @handles(KeepOutcome)
    def keep(self, request: KeepOutcome) -> Wait[None]:
        """Stores an outcome; then those who wait hear it."""
        return Wait(self._end((request.uid, request.key), request.outcome))

    async def _end(self, name: Name, outcome: Outcome) -> None:
        under_way = self._under_way.get(name)
        if under_way is None or under_way.body is None:
            return
        try:
            await self._keep(name, Kept(under_way.body, self._clock.now_us(), outcome))
        finally:
            self._leave(name, outcome)

    async def _keep(self, name: Name, kept: Kept) -> None:
        try:
            await self._store.submit((SQL["keep_outcome"], (msgspec.json.encode(kept.outcome), kept.at, *name)))
        except QuorumError as error:
            log.error("outcome_not_stored", why=error.message, hint="it is kept until the daemon ends")  # noqa: TRY400
            self._unstored[name] = kept

    @handles(FreeKey)
    def free(self, request: FreeKey) -> Wait[None]:
        """Deletes the row; then the next who waits is the first."""
        return Wait(self._free((request.uid, request.key)))

    async def _free(self, name: Name) -> None:
        try:
            await self._store.submit((SQL["forget_key"], name))
        except QuorumError as error:
            log.warning("key_not_freed", why=error.message, hint="the books decide when it is used again")
        finally:
            self._leave(name, None)

    @handles(LeaveKey)
    def leave(self, request: LeaveKey) -> None:
        """The row stays without an outcome; the next who waits looks what the books say."""
        self._leave((request.uid, request.key), None)

    def _enter(self, name: Name, body: bytes | None) -> None:
        self._under_way[name] = UnderWay(body, asyncio.get_running_loop().create_future())

    def _leave(self, name: Name, outcome: Outcome | None) -> None:
        under_way = self._under_way.pop(name, None)
        if under_way is not None:
            under_way.over.set_result(outcome)

    async def _sweep_for_ever(self) -> None:
        while True:
            try:
                await self.sweep()
            except QuorumError as error:
                log.warning("sweep_postponed", why=error.message)
            await self._clock.sleep(SWEEP_S)

    async def sweep(self) -> None:
        """Forgets what was kept long enough, but no key in use, in batches."""
        now = self._clock.now_us()
        for name in [name for name, kept in self._unstored.items() if is_over(kept.at, now)]:
            del self._unstored[name]
        while True:
            old = await self._store.read(SQL["old_keys"], (now - KEPT_US, SWEEP_ROWS))
            idle = [tuple(name) for name in old if tuple(name) not in self._under_way]
            if not idle:
                return
            await self._store.submit(*((SQL["sweep_key"], (*name, now - KEPT_US)) for name in idle))


async def chat_once(
    keys: Ref[Idempotency], chats: Chats, call: ChatCall, uid: int, key: str
) -> ChatAnswer | dict[str, Any]:
    """Answers a chat under a key: by making the call if it is the first, else with the document of the first, or its fault."""
    confirmed = call.chat.override_token is not None
    taken = await keys.call(TakeKey(uid, key, chat_body_hash(call.chat), confirmed))
    match taken:
        case Answered(document):
            if call.chat.stream:
                for item in items_of(document):
                    call.emit(item)
            return msgspec.json.decode(document, type=dict[str, Any])
        case Failed():
            raise from_wire(taken.code, taken.message, dict(taken.detail), taken.retry_after_s)
        case New():
            call.call_id = taken.call_id
    try:
        answer = await chats.chat(call)
    except (Exception, asyncio.CancelledError) as error:
        ending = _ending(uid, key, error, sent=call.sent)
        if isinstance(ending, FreeKey) and taken.earlier is not None:
            ending = KeepOutcome(uid, key, taken.earlier)  # something had been sent before: that stays known
        await keys.deliver(ending)
        raise
    await keys.deliver(KeepOutcome(uid, key, Answered(Raw(msgspec.json.encode(answer)))))
    return answer


def _ending(uid: int, key: str, error: BaseException, *, sent: bool) -> KeepOutcome | FreeKey | LeaveKey:
    """What a call that failed leaves of its key; only a fault, or a cancellation before anything was sent, says how it ended."""
    if isinstance(error, QuorumError) and sent:
        return KeepOutcome(uid, key, _failed(error))
    if isinstance(error, QuorumError | asyncio.CancelledError) and not sent:
        return FreeKey(uid, key)
    return LeaveKey(uid, key)


def _asks_to_confirm(outcome: Outcome | None) -> bool:
    return isinstance(outcome, Failed) and outcome.code == OverrideRequired.code


def _failed(fault: QuorumError) -> Failed:
    return Failed(fault.code, fault.message, fault.detail, fault.retry_after_s)


def _check(body: bytes, request: TakeKey) -> None:
    if body != request.body:
        raise IdempotencyConflict(
            f"the idempotency key `{request.key}` was used with another body; give each call its own key"
        )
