"""Who waits for room in a budget, first come first served: a line for each set of scopes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

from msgspec import Struct

from actors.accounts import Key
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
    """Those with the same scopes, in the order in which they came, and where their amounts count as waiting."""

    key: Key
    balances: tuple[Balance, ...]
    waiters: deque[Waiter[T]]
    total: int = 0


class Turns(Generic[T]):
    """The lines.

    State: lines by key, none empty; how many ever waited. Each amount that waits counts in `waiting` of the line's balances.
    """

    def __init__(self) -> None:
        self._lines: dict[Key, Line[T]] = {}
        self._came = 0

    def __bool__(self) -> bool:
        return bool(self._lines)

    def __len__(self) -> int:
        return sum(len(line.waiters) for line in self._lines.values())

    def __iter__(self) -> Iterator[Waiter[T]]:
        for line in self._lines.values():
            yield from line.waiters

    def join(self, key: Key, balances: tuple[Balance, ...], request: Reserve, amount: NanoUSD) -> asyncio.Future[T]:
        """Waits at the end of its line; the future is its turn."""
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = Line(key, balances, deque())
        self._came += 1
        turn: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        line.waiters.append(Waiter(self._came, request, amount, turn))
        _count(line, amount)
        return turn

    def heads(self) -> list[Line[T]]:
        """The lines, by whose first waiter came first."""
        return sorted(self._lines.values(), key=lambda line: line.waiters[0].order)

    def call(self, line: Line[T]) -> Waiter[T]:
        """Takes the first of a line out of it."""
        waiter = line.waiters.popleft()
        self._gone(line, waiter)
        return waiter

    def leave(self, usage_id: str) -> None:
        """Whoever waits for this attempt no longer does."""
        for line in list(self._lines.values()):
            for waiter in [w for w in line.waiters if w.request.start.usage_id == usage_id]:
                line.waiters.remove(waiter)
                self._gone(line, waiter)

    def move(self, line: Line[T], balances: tuple[Balance, ...]) -> None:
        """A new period began: the amounts wait on other balances now."""
        total = line.total
        _count(line, -total)
        line.balances = balances
        _count(line, total)

    def clear(self) -> None:
        """Nobody waits any more."""
        self._lines.clear()

    def _gone(self, line: Line[T], waiter: Waiter[T]) -> None:
        _count(line, -waiter.amount)
        if not line.waiters:
            del self._lines[line.key]


def _count(line: Line[T], amount: int) -> None:
    line.total += amount
    for balance in line.balances:
        balance.waiting += amount
