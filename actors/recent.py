"""What was asked for lately, kept in memory; the rest is forgotten, for names are the clients' own words."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """A cache of two ages; values are never None.

    State: what was asked for since it aged last, at most so many, and what was asked for in the age before only.
    """

    __slots__ = ("_before", "_most", "_now")

    def __init__(self, most: int) -> None:
        self._most = most
        self._now: dict[K, V] = {}
        self._before: dict[K, V] = {}

    def __len__(self) -> int:
        return len(self._now) + len(self._before)

    def __iter__(self) -> Iterator[K]:
        yield from self._before
        yield from self._now

    def values(self) -> Iterable[V]:
        """All that are known."""
        yield from self._before.values()
        yield from self._now.values()

    @property
    def full(self) -> bool:
        """Whether this age can take no more."""
        return len(self._now) >= self._most

    def get(self, key: K) -> V | None:
        """The value, None if it is not known any more."""
        value = self._now.get(key)
        if value is None and self._before:
            value = self._before.pop(key, None)
            if value is not None:
                self._now[key] = value
        return value

    def put(self, key: K, value: V) -> None:
        """Knows it from now on; a full one ages first."""
        if self.full:
            self.age()
        self._now[key] = value

    def age(self) -> None:
        """Forgets what nobody asked for since it aged last."""
        self._before, self._now = self._now, {}

    def clear(self) -> None:
        """Forgets everything."""
        self._before, self._now = {}, {}
