"""The budget: what each scope has spent and holds, and whether an attempt still fits. Decides in memory, durable in the ledger."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable
from datetime import tzinfo

import structlog
from msgspec import Struct

from actors.base import Actor, Ref, Wait, handles
from actors.clock import MICRO, Clock, rfc3339
from actors.ledger import Ledger, outcome_of_lost
from actors.offers import Offers
from actors.rules.admission import (
    FITS,
    Admitted,
    Allowance,
    Bound,
    Limit,
    Limits,
    Own,
    Refusal,
    account_name,
    accounts_of,
    bounds_of,
    decide,
    has_room,
    limit_of,
    percent_used,
    scopes_of,
)
from actors.rules.alerts import next_alert, reached
from actors.rules.periods import Span, label_before, span_of
from actors.settings import SettingsActor
from actors.store.sqlite import Commit
from actors.turns import Key, Turns, Waiter
from protocols.alerts import SEVERITY, Alert
from protocols.budget import (
    Account,
    Balance,
    CheckOverride,
    Confirmed,
    Fits,
    Forget,
    Grant,
    GrantOverride,
    LeaveQueue,
    ListOverrides,
    Mark,
    Offer,
    OfferOverride,
    OpenHold,
    OverBudget,
    OverrideUse,
    Period,
    PostAlerts,
    PostCorrection,
    PostGrant,
    PostHold,
    PostRevocation,
    PostSettlement,
    ReadBooks,
    ReadUnknown,
    Reserve,
    Resolve,
    RevokeOverride,
    Settle,
    Standing,
    Unknown,
    WasSent,
)
from protocols.errors import (
    BadRequest,
    BudgetExceeded,
    BudgetHeld,
    Busy,
    NotFound,
    PriceUnknown,
    QuorumError,
    ShuttingDown,
)
from protocols.money import NANO_PER_USD, NanoUSD, nano_from_usd, usd_text
from protocols.overrides import OverrideRow
from protocols.settings import EVERYBODY, OwnBudget, OwnBudgets, SettingChanged, WatchSettings
from protocols.usage import ScopeSpend

POSTINGS = 10_000
"""Combinations of user, app and provider whose accounts are looked up once."""

BACK_US = 300 * MICRO
"""A clock that is set back by less stays in its period."""

LEASE_LOOK_S = 15.0
"""Seconds between looks for holds that outlived their lease."""

TYPICAL_S = 1.0
"""How long a hold is taken to live before any has settled."""

MOST_WAIT_S = 60.0
"""The longest time after which whoever hears `budget_held` is asked to come back."""

LONGEST_OVERRIDE_US = 366 * 86_400 * MICRO

log = structlog.get_logger("budget")


class ClockWentBack(Exception):
    """The present period is older than the balances in memory: the next incarnation reads them."""


class _Posting(Struct, frozen=True):
    """Where attempts of one user, app and provider count in the current periods, and what bounds them there."""

    accounts: tuple[Account, ...]
    balances: tuple[Balance, ...]
    bounds: tuple[Bound, ...]


class _Hold(Struct):
    """A hold that is open; `posted` is its commit, None for one that an earlier incarnation took. Times are monotonic."""

    hold: OpenHold
    balances: tuple[Balance, ...]
    posted: asyncio.Future[None] | None
    since: float
    lease_until: float
    marks: tuple[Mark, ...]


class BudgetActor(Actor):
    """Takes holds and settles them.

    State: balances by account since a month and a day, open holds by usage id, who waits for room; users' own budgets, overrides
    that were granted or offered; the highest alert raised by account and limit; the current periods and the instants (µs) between
    which they are, with postings cached for them; and how long a hold lives, on average of the last 16 or so.
    """

    def __init__(
        self,
        ledger: Ref[Ledger],
        settings: Ref[SettingsActor],
        limits: Limits,
        zone: tzinfo,
        clock: Clock,
        *,
        free_model: Callable[[], str | None] = lambda: None,
        token: Callable[[], str] = lambda: secrets.token_urlsafe(24),
    ) -> None:
        super().__init__()
        self._ledger = ledger
        self._settings = settings
        self._limits = limits
        self._zone = zone
        self._clock = clock
        self._free_model = free_model
        self._token = token
        self._balances: dict[Account, Balance] = {}
        self._open: dict[str, _Hold] = {}
        self._turns: Turns[_Hold] = Turns()
        self._own: dict[str, Own] = {}
        self._grants: dict[str, Grant] = {}
        self._offers = Offers(clock, token)
        self._raised: dict[tuple[Account, int], int] = {}
        self._spans: tuple[Span, ...] = ()
        self._since: dict[Period, str] = {}
        self._from_us = self._until_us = 0
        self._postings: dict[tuple[str, str, str], _Posting] = {}
        self._typical_s = TYPICAL_S
        self._settled = 0
        self._correcting = asyncio.Lock()

    def __repr__(self) -> str:
        held = sum(open_hold.hold.amount for open_hold in self._open.values())
        waiting = f", {len(self._turns)} waiting" if self._turns else ""
        return f"<BudgetActor {len(self._open)} holds of {usd_text(held)}{waiting}, {len(self._balances)} accounts>"

    async def opening(self) -> None:
        """Reads balances, open holds, alerts and overrides from the ledger, limits from the settings."""
        self._turn_periods(self._clock.now_us())
        books = await self._ledger.call(ReadBooks(**{str(p): label for p, label in self._since.items()}))
        self._balances = books.balances
        self._grants = {grant.id: grant for grant in books.grants}
        for alert in books.alerts:
            account = Account(alert.scope, "month" if alert.period == "month" else "day", alert.label)
            key = (account, alert.limit_nano_usd)
            self._raised[key] = max(self._raised.get(key, 0), alert.level)
        self._learn(await self._settings.call(WatchSettings(self.ref)))
        # Last: a budget that is only learned now was not lowered below them.
        self._open = {hold.start.usage_id: self._reopened(hold) for hold in books.open_holds}
        self.spawn(self._end_leases())

    def crash(self, error: Exception) -> None:
        """Ends this incarnation; who waited for a turn hears it, for the next one knows nobody."""
        super().crash(error)
        self._send_away(Busy("the budget was restarted while this call waited; ask again", retry_after_s=TYPICAL_S))

    async def closing(self) -> None:
        """Nobody waits for a budget that has stopped."""
        self._send_away(ShuttingDown("the daemon is shutting down"))

    def _send_away(self, why: QuorumError) -> None:
        for waiter in self._turns:
            if not waiter.turn.done():
                waiter.turn.set_exception(why)
        self._turns.clear()

    # --- taking holds

    @handles(Reserve)
    def reserve(self, request: Reserve) -> Wait[tuple[Mark, ...]]:
        """Decides for all scopes at once, then waits for the disk, or first for its turn."""
        start = request.start
        posting = self._posting(start.user, start.app, start.provider, start.created_at)
        amount = self._priced(posting, start.model, request.amount)
        if request.confirmed is None and has_room(posting.bounds, amount):
            return Wait(self._durable(self._take(request, amount, posting, FITS)))
        verdict = self._judge(request, amount, posting)
        if isinstance(verdict, Admitted):
            return Wait(self._durable(self._take(request, amount, posting, verdict)))
        if verdict.kind == "held" and request.admission == "queue":
            key = (start.user, start.app, start.provider)
            return Wait(self._in_turn(start.usage_id, self._turns.join(key, posting.balances, request, amount)))
        raise self._fault(verdict, amount)

    def _judge(
        self, request: Reserve, amount: NanoUSD, posting: _Posting, *, not_ahead: int | None = 0
    ) -> Admitted | Refusal:
        """Whether it may be held. Raises OverrideInvalid, whether there is room or not."""
        start = request.start
        confirmed = self._is_confirmed(request.confirmed, start.user, start.model)
        if not_ahead == 0 and has_room(posting.bounds, amount):
            return FITS
        soft = request.admission == "soft"
        return self._decide(posting, amount, soft=soft, confirmed=confirmed, not_ahead=not_ahead)

    @handles(Fits)
    def fits(self, request: Fits) -> None:
        """Decides like a reservation and takes nothing."""
        posting = self._posting(request.user, request.app, request.provider, self._clock.now_us())
        amount = self._priced(posting, request.model, request.amount)
        confirmed = self._is_confirmed(request.confirmed, request.user, request.model)
        if has_room(posting.bounds, amount):
            return
        verdict = self._decide(posting, amount, soft=request.admission == "soft", confirmed=confirmed)
        if isinstance(verdict, Refusal) and not (verdict.kind == "held" and request.admission == "queue"):
            raise self._fault(verdict, amount)

    def _decide(
        self, posting: _Posting, amount: NanoUSD, *, soft: bool, confirmed: bool, not_ahead: int | None = 0
    ) -> Admitted | Refusal:
        allowances = self._allowances() if self._grants else None
        return decide(
            posting.bounds, amount, soft=soft, confirmed=confirmed, allowances=allowances, not_ahead=not_ahead
        )

    def _take(self, request: Reserve, amount: NanoUSD, posting: _Posting, admitted: Admitted) -> _Hold:
        """Promises the amount in memory, and hands it to the ledger."""
        now, accounts, balances = self._clock.monotonic(), posting.accounts, posting.balances
        if admitted.allowances:
            accounts += tuple(each.account for each in admitted.allowances)
            balances += tuple(each.balance for each in admitted.allowances)
        marks = request.marks + admitted.marks
        lease_until = self._clock.now_us() + round(
            request.lease_s * MICRO
        )  # from its turn on, not from when it was asked for
        hold = OpenHold(request.start, amount, accounts, marks, lease_until)
        used = None
        if request.confirmed is not None and "override" in marks:
            used = OverrideUse(request.confirmed.actor, admitted.spent_before)
        # First: if it raises, nothing is promised.
        posted = self._ledger.deliver(PostHold(hold, used))
        if request.confirmed is not None:
            self._offers.use(request.confirmed.token)
        for balance in balances:
            balance.held += amount
        taken = self._open[request.start.usage_id] = _Hold(hold, balances, posted, now, now + request.lease_s, marks)
        return taken

    async def _durable(self, taken: _Hold) -> tuple[Mark, ...]:
        posted = taken.posted
        assert posted is not None
        try:
            # A commit refuses to be cancelled; a hold that waits in the ledger's inbox has none yet, and must tell what became of it.
            await (posted if isinstance(posted, Commit) else asyncio.shield(posted))
        except QuorumError:
            self.ref.tell(Forget(taken.hold.start.usage_id))
            raise
        return taken.marks

    @handles(Forget)
    def forget(self, request: Forget) -> None:
        """The hold was not written: gives back what was promised in memory alone."""
        taken = self._open.pop(request.usage_id, None)
        if taken is not None:
            self._move(taken, spent=0)

    def _priced(self, posting: _Posting, model: str, amount: NanoUSD | None) -> NanoUSD:
        """A model without a known price is never counted as $0 below a hard limit."""
        if amount is not None:
            return amount
        hard = next((bound.account.scope for bound in posting.bounds if bound.hard), None)
        if hard is not None:
            raise PriceUnknown(
                f"no price is known for `{model}` and {hard} has a hard limit; set `input_usd_per_mtok` and "
                f'`output_usd_per_mtok` under [models."{model}"] in the config',
                detail={"model": model, "scope": hard},
            )
        return NanoUSD(0)

    # --- waiting for a turn

    async def _in_turn(self, usage_id: str, turn: asyncio.Future[_Hold]) -> tuple[Mark, ...]:
        try:
            taken = await turn
        except asyncio.CancelledError:
            self.ref.tell(LeaveQueue(usage_id))
            raise
        return await self._durable(taken)

    @handles(LeaveQueue)
    def leave_queue(self, request: LeaveQueue) -> None:
        """Whoever waited is gone; those behind may have room now."""
        self._turns.leave(request.usage_id)
        self._let_in()

    def _let_in(self) -> None:
        """Gives everybody their turn whose turn it is: the first of each line, whoever came first before the others."""
        while self._turns and self._let_one_in():
            pass

    def _let_one_in(self) -> bool:
        try:
            self._turn_periods(self._clock.now_us())
        except Busy:  # the clock went back: the crash has told those who wait
            return False
        for position, line in enumerate(self._turns.heads()):
            # Whoever came first has nobody ahead; others leave room for all who wait in other lines.
            if self._has_turn(line.waiters[0], line.key, line.total if position else None):
                self._turns.call(line)
                return True
        return False

    def _has_turn(self, waiter: Waiter[_Hold], key: Key, not_ahead: int | None) -> bool:
        """Whether it needs to wait no longer: it has its hold, or a fault that waiting does not change."""
        if waiter.turn.done():
            return True
        posting = self._posting_of(*key)
        try:
            verdict = self._judge(waiter.request, waiter.amount, posting, not_ahead=not_ahead)
            if isinstance(verdict, Admitted):
                waiter.turn.set_result(self._take(waiter.request, waiter.amount, posting, verdict))
            elif verdict.kind == "held":
                return False
            else:
                raise self._fault(verdict, waiter.amount)
        except QuorumError as error:
            waiter.turn.set_exception(error)
        return True

    # --- closing holds

    @handles(Settle)
    def settle(self, request: Settle) -> Wait[tuple[Alert, ...] | None] | None:
        """Closes the hold in memory now and in the ledger with the next commit; the ledger keeps the order."""
        taken = self._open.get(request.usage_id)
        if taken is None:
            return None
        if taken.posted is not None and not taken.posted.done():
            return Wait(self._settle_once_posted(taken.posted, request))
        hold, end = taken.hold, request.end
        if taken.posted is not None and taken.posted.exception() is not None:
            del self._open[request.usage_id]
            self._move(taken, spent=0)
            return None
        cost = end.cost or 0
        marks = taken.marks
        if cost > hold.amount:
            marks += ("overrun",)
            log.warning("overrun", usage_id=request.usage_id, hold_nano_usd=hold.amount, cost_nano_usd=cost)
        if marks != hold.marks:
            hold = OpenHold(hold.start, hold.amount, hold.accounts, marks, hold.lease_until)
        alerts = self._due(taken, cost) if cost else ()
        settled = self._ledger.deliver(PostSettlement(hold, end, alerts))
        del self._open[request.usage_id]
        self._settled = min(self._settled + 1, 16)  # the first one says all that is known
        self._typical_s += (self._clock.monotonic() - taken.since - self._typical_s) / self._settled
        self._move(taken, spent=cost)
        return Wait(self._alerted(settled, alerts)) if alerts else Wait(settled)

    async def _settle_once_posted(self, posted: asyncio.Future[None], request: Settle) -> tuple[Alert, ...] | None:
        await asyncio.wait([posted])
        return await self.ref.deliver(request)

    async def _alerted(self, settled: asyncio.Future[None], alerts: tuple[Alert, ...]) -> tuple[Alert, ...]:
        await settled
        return alerts

    async def _end_leases(self) -> None:
        """Closes holds that nobody settled in time: void if nothing was sent, else posted at the hold and listed.

        Who waits is looked at, too: in a new period there is room though nothing settled.
        """
        while True:
            await self._clock.sleep(LEASE_LOOK_S)
            self._let_in()
            now = self._clock.monotonic()
            for usage_id, taken in [(i, t) for i, t in self._open.items() if t.lease_until <= now]:
                sent = await self._ledger.call(WasSent(usage_id))
                log.warning("lease_ended", usage_id=usage_id, sent=sent, hold_nano_usd=taken.hold.amount)
                await self.ref.deliver(Settle(usage_id, outcome_of_lost(taken.hold, sent=sent)))

    def _reopened(self, hold: OpenHold) -> _Hold:
        """A hold that an earlier incarnation took."""
        now, left_s = self._clock.monotonic(), (hold.lease_until - self._clock.now_us()) / MICRO
        balances = tuple(self._balances.setdefault(account, Balance()) for account in hold.accounts)
        return _Hold(hold, balances, None, now, now + max(left_s, 0.0), hold.marks)

    def _move(self, taken: _Hold, *, spent: int) -> None:
        amount = taken.hold.amount
        for balance in taken.balances:
            balance.held -= amount
            balance.spent += spent
        if self._turns:
            self._let_in()

    # --- correcting what nobody knew

    @handles(Resolve)
    def resolve(self, request: Resolve) -> Wait[None]:
        """Posts the difference between what was posted at the hold and what it really cost."""
        return Wait(self._resolve(request))

    async def _resolve(self, request: Resolve) -> None:
        async with self._correcting:
            unknown = await self._ledger.call(ReadUnknown(request.hold_id))
            dearer, cheaper = max(request.cost - unknown.posted, 0), max(unknown.posted - request.cost, 0)
            # No hold is taken on money that is spent: dearer counts from now, cheaper once it is durable.
            self._correct(unknown, dearer)
            try:
                await self._ledger.call(PostCorrection(unknown, request.cost, request.why, request.actor))
            except BaseException:
                self._correct(unknown, -dearer)
                raise
            self._correct(unknown, -cheaper)
            self._alert(unknown.accounts)

    def _correct(self, unknown: Unknown, spent: int) -> None:
        for account in unknown.accounts:
            balance = self._balances.get(account)
            if balance is not None:  # else of a period long over: the ledger has it
                balance.spent += spent
        if spent < 0:
            self._let_in()

    # --- overrides

    def _is_confirmed(self, confirmed: Confirmed | None, user: str, model: str) -> bool:
        """Whether there is a token and it is for this target; for another one it changes nothing. Raises OverrideInvalid."""
        if confirmed is None:
            return False
        return self._offers.model_of(confirmed.token, user, confirmed.body, self._labels()) == model

    @handles(OfferOverride)
    def offer(self, request: OfferOverride) -> Offer:
        """A token for one call."""
        self._turn_periods(self._clock.now_us())
        return self._offers.make(request.user, request.model, request.body, self._labels())

    @handles(CheckOverride)
    def check_override(self, request: CheckOverride) -> str:
        """Whether it may be used, and for which model."""
        self._turn_periods(self._clock.now_us())
        return self._offers.model_of(request.token, request.user, request.body, self._labels())

    def _labels(self) -> tuple[str, ...]:
        return tuple(span.label for span in self._spans)

    def _allowances(self) -> dict[str, list[Allowance]]:
        """What the overrides that hold now allow, by scope."""
        now, found = self._clock.now_us(), dict[str, list[Allowance]]()
        for grant in self._grants.values():
            if now < grant.until:
                account = _account_of(grant)
                balance = self._balances.setdefault(account, Balance())
                found.setdefault(account.scope, []).append(Allowance(account, balance, grant.amount))
        return found

    @handles(GrantOverride)
    def grant(self, request: GrantOverride) -> Wait[OverrideRow]:
        """Checks, then stores; it holds from then on."""
        now = self._clock.now_us()
        if not now < request.until <= now + LONGEST_OVERRIDE_US:
            raise BadRequest("`until` must lie in the future, and within a year")
        if request.amount <= 0:
            raise BadRequest("`amount_usd` must be above 0")
        grant = Grant(
            secrets.token_hex(6), request.user, request.amount, now, request.until, request.actor.account, request.why
        )
        return Wait(self._grant(grant, request))

    async def _grant(self, grant: Grant, request: GrantOverride) -> OverrideRow:
        await self._ledger.call(PostGrant(grant, request.actor))
        self._grants[grant.id] = grant
        return self._row_of(grant)

    @handles(ListOverrides)
    def list_overrides(self, request: ListOverrides) -> list[OverrideRow]:
        """The overrides that hold."""
        now, user = self._clock.now_us(), request.user
        return [
            self._row_of(grant)
            for grant in self._grants.values()
            if now < grant.until and (user is None or grant.user == user or grant.user.startswith(f"{user}/"))
        ]

    @handles(RevokeOverride)
    def revoke(self, request: RevokeOverride) -> Wait[None]:
        """Ends one; what is held through it still settles."""
        grant, user = self._grants.get(request.override_id), request.user
        if grant is None or not (user is None or grant.user == user or grant.user.startswith(f"{user}/")):
            raise NotFound(f"there is no override `{request.override_id}`; `daemonctl overrides` lists those that hold")
        return Wait(self._revoke(grant, request))

    async def _revoke(self, grant: Grant, request: RevokeOverride) -> None:
        self._grants.pop(grant.id, None)  # no hold is taken through it from now on, whatever becomes of the rest
        try:
            await self._ledger.call(PostRevocation(grant, request.actor))
        except BaseException:
            self._grants[grant.id] = grant
            raise

    def _row_of(self, grant: Grant) -> OverrideRow:
        balance = self._balances.get(_account_of(grant), Balance())
        return OverrideRow(
            override_id=grant.id,
            user=grant.user,
            amount_nano_usd=grant.amount,
            spent_nano_usd=balance.spent,
            held_nano_usd=balance.held,
            granted_at=rfc3339(grant.granted_at),
            until=rfc3339(grant.until),
            granted_by=grant.granted_by,
            why=grant.why,
        )

    # --- alerts

    def _due(self, taken: _Hold, cost: int) -> tuple[Alert, ...]:
        """The alerts of spend that is about to rise by `cost`; each counts as raised from now on."""
        for balance in taken.balances:
            if balance.spent + cost >= balance.alert_at:
                break
        else:
            return ()
        found: list[Alert] = []
        for account, balance in zip(taken.hold.accounts, taken.balances, strict=True):
            if balance.spent + cost >= balance.alert_at:
                found += self._reached(account, balance, balance.spent + cost)
        return tuple(found)

    def _reached(self, account: Account, balance: Balance, spent: int) -> list[Alert]:
        limit = self._limit(account)
        if limit is None:
            return []
        key, at = (account, limit), rfc3339(self._clock.now_us())
        levels = reached(spent, limit, self._raised.get(key, 0))
        if levels:
            self._raised[key] = levels[-1]
        self._arm(account, balance)
        return [
            Alert(
                scope=account.scope,
                period=account.period,
                level=level,
                severity=SEVERITY[level],
                at=at,
                spent_nano_usd=spent,
                limit_nano_usd=limit,
                label=account.label,
                suggestion=self._suggestion() if level >= 100 else None,  # noqa: PLR2004  the limit itself
            )
            for level in levels
        ]

    def _suggestion(self) -> str:
        free = self._free_model()
        return f"`{free}` is free" if free else "local models are free: `daemonctl models --local`"

    def _arm(self, account: Account, balance: Balance) -> None:
        """Notes the spend of the next alert."""
        limit = self._limit(account)
        balance.alert_at = next_alert(limit, 0 if limit is None else self._raised.get((account, limit), 0))

    def _alert(self, accounts: Iterable[Account]) -> None:
        """Raises what a changed limit or a corrected spend has reached in these accounts."""
        found: list[Alert] = []
        for account in accounts:
            balance = self._balances.get(account)
            if balance is not None and balance.spent >= balance.alert_at:
                found += self._reached(account, balance, balance.spent)
        if found:
            self._ledger.tell(PostAlerts(tuple(found)))

    def _limit(self, account: Account) -> NanoUSD | None:
        if account.period == "override":
            return None
        return limit_of(account.scope, self._limits, self._own_of(account.scope)).of(account.period)

    # --- limits and periods

    @handles(Standing)
    def standing(self, request: Standing) -> list[ScopeSpend]:
        """Spend of the scopes that have a limit, and of the user's (with `user` None: the daemon's) month always."""
        now = self._clock.now_us()
        self._turn_periods(now)
        rows = []
        for span in self._spans:
            for scope in self._scopes_to_show(request.user, span):
                account = Account(scope, span.period, span.label)
                limit = self._limit(account)
                always = "daemon" if request.user is None else f"user:{request.user}"
                if limit is not None or (span.period == "month" and scope == always):
                    balance = self._balances.get(account, Balance())
                    rows.append(_scope_spend(scope, span, balance, limit, now))
        return sorted(rows, key=lambda row: (_RANK[row.scope.partition(":")[0]], row.scope, row.period != "month"))

    @handles(SettingChanged)
    def setting_changed(self, change: SettingChanged) -> None:
        """A limit may have changed: it binds the next hold."""
        if change.own_budgets is not None:
            self._learn(change.own_budgets)

    def _learn(self, own: OwnBudgets) -> None:
        before = {account: self._limit(account) for account, balance in self._balances.items() if balance.held}
        self._own = {user: _in_nano(budget) for user, budget in own.by_user.items()}
        self._postings.clear()
        self._mark_lowered(before)
        for account, balance in self._balances.items():
            self._arm(account, balance)
        labels = self._labels()  # a new limit is no news of a day that is over
        self._alert([account for account in self._balances if account.label in labels])
        self._let_in()

    def _mark_lowered(self, before: dict[Account, NanoUSD | None]) -> None:
        """Holds that a limit was lowered below say so on their rows."""
        lowered = {
            account
            for account, old in before.items()
            if (new := self._limit(account)) is not None
            and (old is None or new < old)
            and self._balances[account].spent + self._balances[account].held > new
        }
        for taken in self._open.values() if lowered else ():
            if taken.hold.amount and "limit_lowered" not in taken.marks and not lowered.isdisjoint(taken.hold.accounts):
                taken.marks += ("limit_lowered",)

    def _turn_periods(self, now: int) -> None:
        """Needs no timer: whoever asks first in another period turns to it, forwards or back.

        Balances of the period before, by the calendar and by the clock so far, are kept: the clock may be set back.
        """
        if self._from_us <= now < self._until_us:
            return
        spans = (span_of("month", now, self._zone), span_of("day", now, self._zone))
        if any(span.label < self._since.get(span.period, "") for span in spans):
            self.crash(ClockWentBack(f"to {spans[-1].label}"))
            raise Busy("the clock went back; the balances of that time are read, ask again", retry_after_s=TYPICAL_S)
        so_far = {span.period: span.label for span in self._spans}
        for span in spans:
            before = min(label_before(span), so_far.get(span.period, span.label))
            self._since[span.period] = max(before, self._since.get(span.period, before))
        self._spans = spans
        self._from_us = max(span.starts_at for span in spans) * MICRO - BACK_US
        self._until_us = min(span.ends_at for span in spans) * MICRO
        self._postings.clear()
        self._forget_before(now)
        for line in self._turns.heads():
            self._turns.move(line, self._posting_of(*line.key).balances)

    def _forget_before(self, now: int) -> None:
        """Drops what only periods long over need."""
        self._grants = {i: grant for i, grant in self._grants.items() if now < grant.until + BACK_US}
        self._balances = {a: b for a, b in self._balances.items() if self._is_recent(a) or b.held or b.waiting}
        self._raised = {key: level for key, level in self._raised.items() if self._is_recent(key[0])}

    def _is_recent(self, account: Account) -> bool:
        if account.period == "override":
            return account.label in self._grants
        return account.label >= self._since[account.period]

    def _posting(self, user: str, app: str, provider: str, now: int) -> _Posting:
        if not self._from_us <= now < self._until_us:
            self._turn_periods(now)
        return self._posting_of(user, app, provider)

    def _posting_of(self, user: str, app: str, provider: str) -> _Posting:
        """In the periods that were turned to last."""
        key = (user, app, provider)
        posting = self._postings.get(key)
        if posting is None:
            if len(self._postings) >= POSTINGS:  # names are the clients' own words
                self._postings.clear()
            posting = self._postings[key] = self._new_posting(accounts_of(scopes_of(user, app, provider), self._spans))
        return posting

    def _new_posting(self, accounts: tuple[Account, ...]) -> _Posting:
        balances = tuple(self._balances.setdefault(account, Balance()) for account in accounts)
        bounds: list[Bound] = []
        for account, balance in zip(accounts, balances, strict=True):
            bounds += bounds_of(account, balance, self._limits, self._own_of(account.scope))
            self._arm(account, balance)
        return _Posting(accounts, balances, tuple(bounds))

    def _own_of(self, scope: str) -> Own:
        """What a user says of the own budget; who says nothing goes by the daemon-wide default (`*`)."""
        kind, _, name = scope.partition(":")
        if kind != "user":
            return _NOTHING
        own = self._own.get(name)
        if own is not None:
            return own
        everybody = self._own.get(EVERYBODY, _NOTHING)
        return everybody if account_name(name) == name else Own(Limit(), everybody.enforced, everybody.may_override)

    # --- faults

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
            "percent_used": percent_used(refused.spent, refused.limit),
            "resets_at": rfc3339(ends_at * MICRO),
        }
        what = (
            f"this call may cost up to {usd_text(amount)}, but {account.scope} has spent {usd_text(refused.spent)} and holds "
            f"{usd_text(refused.held)} of its {usd_text(refused.limit)} a {account.period}"
        )
        if refused.kind == "held":
            # Holds live as long as answers take: that is when to come back.
            retry_after_s = round(min(max(self._typical_s, 0.05), MOST_WAIT_S), 3)
            return BudgetHeld(
                f"{what}; it would fit once calls under way have settled", detail=detail, retry_after_s=retry_after_s
            )
        message = f"{what}; it resets at {detail['resets_at']}, or ask for a shorter answer (max_tokens)"
        if refused.kind == "hard":
            return BudgetExceeded(message, detail=detail)
        over = OverBudget(message, detail=detail)
        over.room, over.may_override = refused.room, refused.may_override
        return over

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
_NOTHING = Own()


def _account_of(grant: Grant) -> Account:
    """Where what is spent through an override counts."""
    return Account(f"user:{grant.user}", "override", grant.id)


def _in_nano(budget: OwnBudget) -> Own:
    limit = Limit(_nano(budget.month_usd), _nano(budget.day_usd))
    return Own(limit, budget.enforced, budget.may_override)


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
