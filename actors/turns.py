"""Who waits for room in a budget, first come first served: a line for each set of scopes."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

from msgspec import Struct

from actors.accounts import Key, Posting
from protocols.budget import Balance, Reserve
from protocols.money import NanoUSD

T = TypeVar("T")


class Waiter(Struct, Generic[T], eq=False):
    """A reservation that waits; `turn` is what its asker awaits."""

    order: int
    request: Reserve
    amount: NanoUSD
    turn: asyncio.Future[T]


class Line(Struct, Generic[T], eq=False):
    """Those with the same scopes, in the order in which they came, and where their amounts count as waiting.

    `bound` are the balances that a limit binds, by identity: what is free again elsewhere changes nothing for this line.
    """

    key: Key
    balances: tuple[Balance, ...]
    bound: frozenset[int]
    waiters: deque[Waiter[T]]
    total: int = 0


class Turns(Generic[T]):
    """The lines.

    State: lines by key, none empty; where each attempt waits; how many lines each balance binds; how many ever waited. Each amount
    that waits counts in `waiting` of its line's balances.
    """

    def __init__(self) -> None:
        self._lines: dict[Key, Line[T]] = {}
        self._places: dict[str, tuple[Line[T], Waiter[T]]] = {}
        self._binds: Counter[int] = Counter()
        self._came = 0

    def __bool__(self) -> bool:
        return bool(self._lines)

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Waiter[T]]:
        return (waiter for _, waiter in self._places.values())

    def join(self, key: Key, posting: Posting, request: Reserve, amount: NanoUSD) -> asyncio.Future[T]:
        """Waits at the end of its line; the future is its turn."""
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = Line(key, posting.balances, _bound(posting), deque())
            self._binds.update(line.bound)
        self._came += 1
        turn: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        waiter = Waiter(self._came, request, amount, turn)
        line.waiters.append(waiter)
        self._places[request.start.usage_id] = (line, waiter)
        _count(line, amount)
        return turn

    def wait_for(self, balances: Iterable[Balance]) -> bool:
        """Whether room in one of these balances may be somebody's turn."""
        return any(id(balance) in self._binds for balance in balances)

    def call(self, blocked_by: Callable[[Waiter[T], Key, int | None], Balance | None]) -> None:
        """Calls those whose turn it is, in the order in which they came.

        `blocked_by` gives the first of a line its turn, or says which balance has no room for it; it is told the amount of those that
        do not wait before it, None when nobody does. Who needs room in that balance, too, came later and is not asked.
        """
        heads = [(line.waiters[0].order, key) for key, line in self._lines.items()]
        heapify(heads)
        without_room: set[int] = set()
        while heads:
            _, key = heappop(heads)
            line = self._lines[key]
            if not without_room.isdisjoint(line.bound):
                continue
            balance = blocked_by(line.waiters[0], key, line.total if without_room else None)
            if balance is not None:
                without_room.add(id(balance))
                continue
            self._gone(line, line.waiters[0])
            if line.waiters:
                heappush(heads, (line.waiters[0].order, key))

    def leave(self, usage_id: str) -> None:
        """Whoever waits for this attempt no longer does."""
        place = self._places.get(usage_id)
        if place is not None:
            self._gone(*place)

    def move(self, posting_of: Callable[[Key], Posting]) -> None:
        """Periods or limits are others now: the amounts wait on these balances, bound by these limits."""
        self._binds.clear()
        for line in self._lines.values():
            total, posting = line.total, posting_of(line.key)
            _count(line, -total)
            line.balances, line.bound = posting.balances, _bound(posting)
            _count(line, total)
            self._binds.update(line.bound)

    def clear(self) -> None:
        """Nobody waits any more."""
        self._lines.clear()
        self._places.clear()
        self._binds.clear()

    def _gone(self, line: Line[T], waiter: Waiter[T]) -> None:
        line.waiters.remove(waiter)
        del self._places[waiter.request.start.usage_id]
        _count(line, -waiter.amount)
        if not line.waiters:
            del self._lines[line.key]
            self._binds -= Counter(line.bound)


def _bound(posting: Posting) -> frozenset[int]:
    return frozenset(id(bound.balance) for bound in posting.bounds)


def _count(line: Line[T], amount: int) -> None:
    line.total += amount
    for balance in line.balances:
        balance.waiting += amount
