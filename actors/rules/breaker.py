"""A provider's circuit breaker as a pure state machine. Times in seconds on a monotonic clock.

Closed: attempts pass; FAILURES in a row open it. Open: nothing passes for a back-off that doubles from FIRST_S to LAST_S. After it,
half-open: one probe passes, numbered, so that a late result of an earlier one changes nothing; its success closes the breaker.
"""

from __future__ import annotations

from msgspec import Struct, structs

FAILURES = 5
FIRST_S = 2.0
LAST_S = 60.0
DEGRADED = 2
"""Failures in a row from which a provider counts as degraded; it still takes attempts."""


class Breaker(Struct, frozen=True):
    """State: failures in a row, when it may be tried again (None: closed), the back-off, and the number of the probe under way."""

    failures: int = 0
    retry_at: float | None = None
    backoff_s: float = FIRST_S
    probe: int = 0
    probing: bool = False

    def wait_s(self, now: float) -> float | None:
        """Seconds until an attempt may pass: 0 now, None while a probe is under way."""
        if self.retry_at is None:
            return 0.0
        return None if self.probing else max(self.retry_at - now, 0.0)

    @property
    def open(self) -> bool:
        """Whether attempts are held back."""
        return self.retry_at is not None

    @property
    def degraded(self) -> bool:
        """Whether it fails, but not yet enough to hold attempts back."""
        return not self.open and self.failures >= DEGRADED


def begun(breaker: Breaker) -> Breaker:
    """An attempt passes; through a breaker that is open it is the next probe, and its number is `breaker.probe`."""
    return structs.replace(breaker, probe=breaker.probe + 1, probing=True) if breaker.open else breaker


def succeeded(breaker: Breaker, probe: int) -> Breaker:
    """An attempt with this number went well."""
    if breaker.open and (probe != breaker.probe or not breaker.probing):
        return breaker
    return Breaker(probe=breaker.probe)


def failed(breaker: Breaker, probe: int, now: float) -> Breaker:
    """An attempt with this number failed."""
    if breaker.open:
        if probe != breaker.probe or not breaker.probing:
            return breaker
        backoff = min(breaker.backoff_s * 2, LAST_S)
        return structs.replace(
            breaker, failures=breaker.failures + 1, retry_at=now + backoff, backoff_s=backoff, probing=False
        )
    failures = breaker.failures + 1
    if failures < FAILURES:
        return structs.replace(breaker, failures=failures)
    return structs.replace(breaker, failures=failures, retry_at=now + FIRST_S, backoff_s=FIRST_S)


def undecided(breaker: Breaker, probe: int) -> Breaker:
    """An attempt with this number ended without saying anything about the provider: the next one may probe."""
    return structs.replace(breaker, probing=False) if breaker.open and probe == breaker.probe else breaker
