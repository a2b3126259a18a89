"""A hold as the budget has it in memory: made of a reservation that was admitted, before the ledger has it."""

from __future__ import annotations

import asyncio

from msgspec import Struct

from actors.accounts import Posting
from actors.clock import MICRO, Clock
from actors.rules.admission import Admitted
from protocols.budget import Balance, Confirmed, Mark, OpenHold, OverrideUse, PostHold, Reserve
from protocols.money import NanoUSD


class Holding(Struct):
    """A hold that is open; Times are monotonic.

    `posted` is its commit, None until it is on its way, and for one that an earlier incarnation took.
    """

    hold: OpenHold
    balances: tuple[Balance, ...]
    posted: asyncio.Future[None] | None
    since: float
    lease_until: float
    marks: tuple[Mark, ...]


def made(
    request: Reserve, amount: NanoUSD, posting: Posting, admitted: Admitted, confirmed: Confirmed | None, clock: Clock
) -> tuple[Holding, PostHold]:
    """The hold of a reservation, yet to be posted; with `confirmed` the audit hears of the budget that it passes, if it does."""
    now, accounts, balances = clock.monotonic(), posting.accounts, posting.balances
    if admitted.allowances:
        accounts += tuple(each.account for each in admitted.allowances)
        balances += tuple(each.balance for each in admitted.allowances)
    marks = request.marks + admitted.marks
    lease_until = clock.now_us() + round(request.lease_s * MICRO)  # from its turn on, not from when it was asked for
    hold = OpenHold(request.start, amount, accounts, marks, lease_until)
    used = None
    if confirmed is not None and "override" in marks:
        used = OverrideUse(confirmed.actor, admitted.spent_before)
    return Holding(hold, balances, None, now, now + request.lease_s, marks), PostHold(hold, used)
