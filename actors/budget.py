"""The budget: what each scope has spent and holds, and whether an attempt still fits. Decides in memory, durable in the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import tzinfo

import structlog
from msgspec import Struct

from actors.base import Actor, Ref, Wait, handles
from actors.clock import MICRO, Clock, rfc3339
from actors.ledger import Ledger
from actors.rules.admission import Limit, Limits, Refusal, account_name, accounts_of, limit_of, refusal, scopes_of
from actors.rules.periods import Span, label_before, span_of
from actors.settings import SettingsActor
from actors.store.sqlite import Commit
from protocols.budget import (
    Account,
    Balance,
    Fits,
    Forget,
    OpenHold,
    Period,
    PostHold,
    PostSettlement,
    ReadBooks,
    Reserve,
    Settle,
    Standing,
)
from protocols.errors import BudgetExceeded, BudgetHeld, Busy, PriceUnknown, QuorumError
from protocols.money import NANO_PER_USD, NanoUSD, nano_from_usd, usd_text
from protocols.settings import EVERYBODY, OwnLimits, SettingChanged, WatchSettings
from protocols.usage import ScopeSpend

RETRY_AFTER_S = 1.0
"""When to come back after `budget_held`: holds live as long as answers take, mostly seconds."""

POSTINGS = 10_000
"""Combinations of user, app and provider whose accounts are looked up once."""

BACK_US = 300 * MICRO
"""A clock that is set back by less stays in its period."""

log = structlog.get_logger("budget")


class ClockWentBack(Exception):
    """The present period is older than the balances in memory: the next incarnation reads them."""


class _Posting(Struct, frozen=True):
    """Where attempts of one user, app and provider count in the current periods, and what bounds them there."""

    accounts: tuple[Account, ...]
    balances: tuple[Balance, ...]
    bound: tuple[tuple[Account, Balance, NanoUSD], ...]


class _Hold(Struct):
    """A hold that is open; `posted` is its commit, None for one that an earlier incarnation took."""

    hold: OpenHold
    posted: asyncio.Future[None] | None


class BudgetActor(Actor):
    """Takes holds and settles them.

    State: balances by account since a month and a day, open holds by usage id, users' own limits, the current periods and the
    instants (µs) between which they are, and postings cached for them.
    """

    def __init__(
        self, ledger: Ref[Ledger], settings: Ref[SettingsActor], limits: Limits, zone: tzinfo, clock: Clock
    ) -> None:
        super().__init__()
        self._ledger = ledger
        self._settings = settings
        self._limits = limits
        self._zone = zone
        self._clock = clock
        self._balances: dict[Account, Balance] = {}
        self._open: dict[str, _Hold] = {}
        self._own: dict[str, Limit] = {}
        self._spans: tuple[Span, ...] = ()
        self._since: dict[Period, str] = {}
        self._from_us = self._until_us = 0
        self._postings: dict[tuple[str, str, str], _Posting] = {}

    def __repr__(self) -> str:
        held = sum(open_hold.hold.amount for open_hold in self._open.values())
        return f"<BudgetActor {len(self._open)} holds of {usd_text(held)}, {len(self._balances)} accounts>"

    async def opening(self) -> None:
        """Reads balances and open holds from the ledger, limits from the settings."""
        self._turn_periods(self._clock.now_us())
        books = await self._ledger.call(ReadBooks(**self._since))
        self._balances = books.balances
        self._open = {hold.start.usage_id: _Hold(hold, None) for hold in books.open_holds}
        self._postings = {}
        self._learn(await self._settings.call(WatchSettings(self.ref)))

    @handles(Reserve)
    def reserve(self, request: Reserve) -> Wait[None]:
        """Decides for all scopes at once, then waits for the disk."""
        start, amount = request.start, request.amount
        posting = self._posting(start.user, start.app, start.provider, start.created_at)
        amount = self._admitted(posting, start.model, amount)
        hold = OpenHold(start, amount, posting.accounts)
        # First: if it raises, nothing is promised.
        posted = self._ledger.deliver(PostHold(start, amount, posting.accounts))
        for balance in posting.balances:
            balance.held += amount
        self._open[start.usage_id] = _Hold(hold, posted)
        # A commit refuses to be cancelled; a hold that waits in the ledger's inbox has none yet, and must tell what became of it.
        return Wait(self._durable(hold, posted if isinstance(posted, Commit) else asyncio.shield(posted)))

    @handles(Fits)
    def fits(self, request: Fits) -> None:
        """Decides like a reservation and takes nothing."""
        posting = self._posting(request.user, request.app, request.provider, self._clock.now_us())
        self._admitted(posting, request.model, request.amount)

    def _admitted(self, posting: _Posting, model: str, amount: NanoUSD | None) -> NanoUSD:
        """The amount to hold. Raises the fault of the limit that it does not fit below."""
        if amount is None:
            amount = self._without_price(posting, model)
        refused = refusal(posting.bound, amount)
        if refused is not None:
            raise self._fault(refused, amount)
        return amount

    async def _durable(self, hold: OpenHold, posted: asyncio.Future[None]) -> None:
        try:
            await posted
        except QuorumError:
            self.ref.tell(Forget(hold.start.usage_id))
            raise

    @handles(Forget)
    def forget(self, request: Forget) -> None:
        """The hold was not written: gives back what was promised in memory alone."""
        open_hold = self._open.pop(request.usage_id, None)
        if open_hold is not None:
            self._move(open_hold.hold, held=-open_hold.hold.amount, spent=0)

    @handles(Settle)
    def settle(self, request: Settle) -> Wait[None] | None:
        """Closes the hold in memory now and in the ledger with the next commit; the ledger keeps the order."""
        open_hold = self._open.get(request.usage_id)
        if open_hold is None:
            return None
        if open_hold.posted is not None and not open_hold.posted.done():
            return Wait(self._settle_once_posted(open_hold.posted, request))
        hold, end = open_hold.hold, request.end
        if open_hold.posted is not None and open_hold.posted.exception() is not None:
            del self._open[request.usage_id]
            self._move(hold, held=-hold.amount, spent=0)
            return None
        settled = self._ledger.deliver(PostSettlement(hold.start, end, hold.amount, hold.accounts))
        del self._open[request.usage_id]
        self._move(hold, held=-hold.amount, spent=end.cost or 0)
        if (end.cost or 0) > hold.amount:
            log.warning("overrun", usage_id=request.usage_id, hold_nano_usd=hold.amount, cost_nano_usd=end.cost)
        return Wait(settled)

    async def _settle_once_posted(self, posted: asyncio.Future[None], request: Settle) -> None:
        await asyncio.wait([posted])
        await self.ref.deliver(request)

    @handles(Standing)
    def standing(self, request: Standing) -> list[ScopeSpend]:
        """Spend of the scopes that have a limit, and of the user's (with `user` None: the daemon's) month always."""
        now = self._clock.now_us()
        self._turn_periods(now)
        rows = []
        for span in self._spans:
            for scope in self._scopes_to_show(request.user, span):
                limit = limit_of(scope, self._limits, self._own_of(scope)).of(span.period)
                always = "daemon" if request.user is None else f"user:{request.user}"
                if limit is not None or (span.period == "month" and scope == always):
                    balance = self._balances.get(Account(scope, span.period, span.label), Balance())
                    rows.append(_scope_spend(scope, span, balance, limit, now))
        return sorted(rows, key=lambda row: (_RANK[row.scope.partition(":")[0]], row.scope, row.period != "month"))

    @handles(SettingChanged)
    def setting_changed(self, change: SettingChanged) -> None:
        """A limit may have changed: it binds the next hold."""
        if change.own_limits is not None:
            self._learn(change.own_limits)

    def _learn(self, own: OwnLimits) -> None:
        self._own = {user: Limit(_nano(month), _nano(day)) for user, (month, day) in own.by_user.items()}
        self._postings.clear()

    def _turn_periods(self, now: int) -> None:
        """Needs no timer: whoever asks first in another period turns to it, forwards or back.

        Balances of the period before, by the calendar and by the clock so far, are kept: the clock may be set back.
        """
        if self._from_us <= now < self._until_us:
            return
        spans = (span_of("month", now, self._zone), span_of("day", now, self._zone))
        if any(span.label < self._since.get(span.period, "") for span in spans):
            self.crash(ClockWentBack(f"to {spans[-1].label}"))
            raise Busy(
                "the clock went back; the balances of that time are read, ask again", retry_after_s=RETRY_AFTER_S
            )
        so_far = {span.period: span.label for span in self._spans}
        for span in spans:
            before = min(label_before(span), so_far.get(span.period, span.label))
            self._since[span.period] = max(before, self._since.get(span.period, before))
        self._spans = spans
        self._from_us = max(span.starts_at for span in spans) * MICRO - BACK_US
        self._until_us = min(span.ends_at for span in spans) * MICRO
        self._postings.clear()
        self._balances = {a: b for a, b in self._balances.items() if a.label >= self._since[a.period] or b.held}

    def _posting(self, user: str, app: str, provider: str, now: int) -> _Posting:
        self._turn_periods(now)
        key = (user, app, provider)
        posting = self._postings.get(key)
        if posting is None:
            if len(self._postings) >= POSTINGS:  # names are the clients' own words
                self._postings.clear()
            posting = self._postings[key] = self._new_posting(accounts_of(scopes_of(user, app, provider), self._spans))
        return posting

    def _new_posting(self, accounts: tuple[Account, ...]) -> _Posting:
        balances = tuple(self._balances.setdefault(account, Balance()) for account in accounts)
        limits = (limit_of(a.scope, self._limits, self._own_of(a.scope)).of(a.period) for a in accounts)
        bound = tuple(
            (a, b, limit) for a, b, limit in zip(accounts, balances, limits, strict=True) if limit is not None
        )
        return _Posting(accounts, balances, bound)

    def _own_of(self, scope: str) -> Mapping[str, Limit]:
        """The users' own limits; the daemon-wide default (`*`) holds for accounts that set none."""
        name = scope.removeprefix("user:")
        if name in self._own or EVERYBODY not in self._own or account_name(name) != name:
            return self._own
        return {name: self._own[EVERYBODY]}

    def _move(self, hold: OpenHold, *, held: int, spent: int) -> None:
        for account in hold.accounts:
            balance = self._balances.get(account)
            if balance is not None:  # else of a period long over, that held nothing: the ledger has it
                balance.held += held
                balance.spent += spent

    def _without_price(self, posting: _Posting, model: str) -> NanoUSD:
        """A model without a known price is never counted as $0 below a limit."""
        if posting.bound:
            scope = posting.bound[0][0].scope
            raise PriceUnknown(
                f"no price is known for `{model}` and {scope} has a limit; set `input_usd_per_mtok` and `output_usd_per_mtok` "
                f'under [models."{model}"] in the config',
                detail={"model": model, "scope": scope},
            )
        return NanoUSD(0)

    def _fault(self, refused: Refusal, amount: int) -> BudgetExceeded | BudgetHeld:
        account = refused.account
        ends_at = next(s.ends_at for s in self._spans if s.period == account.period)
        detail = {
            "scope": account.scope,
            "period": account.period,
            "spent_nano_usd": refused.spent,
            "held_nano_usd": refused.held,
            "limit_nano_usd": refused.limit,
            "bound_nano_usd": amount,
            "resets_at": rfc3339(ends_at * MICRO),
        }
        what = (
            f"this call may cost up to {usd_text(amount)}, but {account.scope} has spent {usd_text(refused.spent)} and holds "
            f"{usd_text(refused.held)} of its {usd_text(refused.limit)} a {account.period}"
        )
        if refused.fits_later:
            return BudgetHeld(
                f"{what}; it would fit once calls under way have settled", detail=detail, retry_after_s=RETRY_AFTER_S
            )
        return BudgetExceeded(
            f"{what}; it resets at {detail['resets_at']}, or ask for a shorter answer (max_tokens)", detail=detail
        )

    def _scopes_to_show(self, user: str | None, span: Span) -> list[str]:
        if user is not None:
            return list(dict.fromkeys(("daemon", f"user:{account_name(user)}", f"user:{user}")))
        return list(
            {"daemon": None}
            | {a.scope: None for a in self._balances if a.label == span.label and a.period == span.period}
            | {f"app:{name}": None for name in self._limits.apps}
            | {f"provider:{name}": None for name in self._limits.providers}
        )


_RANK = {"daemon": 0, "user": 1, "app": 2, "provider": 3}


def _nano(usd: float | None) -> NanoUSD | None:
    return None if usd is None else nano_from_usd(usd)


def _scope_spend(scope: str, span: Span, balance: Balance, limit: int | None, now: int) -> ScopeSpend:
    """A row; the projection carries this period's pace on to its end."""
    elapsed = max(now // MICRO - span.starts_at, 1)
    projected = balance.spent * (span.ends_at - span.starts_at) // elapsed
    return ScopeSpend(
        scope=scope,
        period=span.period,
        starts_at=rfc3339(span.starts_at * MICRO),
        resets_at=rfc3339(span.ends_at * MICRO),
        spent_nano_usd=balance.spent,
        held_nano_usd=balance.held,
        limit_nano_usd=limit,
        projected_nano_usd=min(projected, 2**62 // NANO_PER_USD * NANO_PER_USD),
    )
