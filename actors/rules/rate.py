"""Requests or tokens per minute, as a bucket that refills evenly. Pure; times in seconds on a monotonic clock."""

from __future__ import annotations

from msgspec import Struct

MINUTE_S = 60.0


class Bucket(Struct):
    """State: how much is left of a minute's allowance, as of `at`. A request larger than a whole minute's passes when it is full."""

    per_minute: int
    left: float
    at: float

    def wait_s(self, amount: int, now: float) -> float:
        """Seconds until `amount` is left; 0 when it is now."""
        self.left = min(self.per_minute, self.left + (now - self.at) * self.per_minute / MINUTE_S)
        self.at = now
        missing = min(amount, self.per_minute) - self.left
        return max(missing, 0.0) * MINUTE_S / self.per_minute

    def take(self, amount: int) -> None:
        """Uses up `amount`; call it after `wait_s` said 0."""
        self.left -= amount


def full(per_minute: int, now: float) -> Bucket:
    """A bucket with a whole minute's allowance."""
    return Bucket(per_minute, per_minute, now)
