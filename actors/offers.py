"""One-time tokens with which a user confirms that one call may pass the budget."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from actors.clock import MICRO, Clock, rfc3339
from actors.rules.admission import account_name
from protocols.budget import Offer
from protocols.errors import OverrideInvalid
from protocols.money import NanoUSD

OFFER_S = 600.0
"""Seconds that a user has to say yes."""

MOST = 1_000
"""Offers of one account kept at once; its oldest go first, nobody else's."""


class _Open(Struct, frozen=True):
    """What a token is bound to; `until` is monotonic."""

    user: str
    model: str
    body: bytes
    most: NanoUSD
    periods: tuple[str, ...]
    until: float


class Offers:
    """The tokens that were given out.

    State: what each is bound to, and the tokens of each account, the oldest first. Memory alone: after a restart none is good, which is the safe side.
    """

    def __init__(self, clock: Clock, token: Callable[[], str]) -> None:
        self._clock = clock
        self._token = token
        self._open: dict[str, _Open] = {}
        self._of_account: dict[str, dict[str, None]] = {}

    def make(self, user: str, model: str, body: bytes, most: NanoUSD, periods: tuple[str, ...]) -> Offer:
        """A new token for a call that comes to `most` at most; `periods` are the labels of the periods of now."""
        now = self._clock.monotonic()
        of_account = self._of_account.setdefault(account_name(user), {})
        while of_account:
            oldest = next(iter(of_account))
            if len(of_account) < MOST and self._open[oldest].until > now:
                break
            self.use(oldest)
        token = self._token()
        of_account[token] = None
        self._open[token] = _Open(user, model, body, most, periods, now + OFFER_S)
        return Offer(token, rfc3339(self._clock.now_us() + round(OFFER_S * MICRO)))

    def model_of(self, token: str, user: str, body: bytes, periods: tuple[str, ...]) -> str:
        """The model that a good token lets this request go to. Raises OverrideInvalid, the same for whatever is wrong."""
        found = self._open.get(token)
        if found is None or (found.user, found.body, found.periods) != (user, body, periods):
            raise _invalid()
        if found.until <= self._clock.monotonic():
            self.use(token)
            raise _invalid()
        return found.model

    def covers(self, token: str, amount: NanoUSD) -> bool:
        """Whether the user was told of so much when the token, which is good, was given out."""
        return amount <= self._open[token].most

    def use(self, token: str) -> None:
        """It was good for one call, and that call has its hold."""
        gone = self._open.pop(token, None)
        if gone is not None:
            self._of_account[account_name(gone.user)].pop(token, None)


def _invalid() -> OverrideInvalid:
    return OverrideInvalid(
        "this override token is not good: it was used, is older than ten minutes or a period, or is for another user or request; "
        "send the request without it to get a new one"
    )
