"""The budget: what each scope has spent and holds, and whether an attempt still fits. Decides in memory, durable in the ledger."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import tzinfo

import structlog

from actors.accounts import Accounts, ClockWentBack, Key, Posting
from actors.base import Actor, Ref, Wait, handles
from actors.clock import MICRO, Clock, rfc3339
from actors.grants import Grants, row_of
from actors.holding import Holding, made
from actors.ledger import Ledger, outcome_of_lost
from actors.levels import Levels
from actors.offers import Offers
from actors.rules.admission import (
    FITS,
    Admitted,
    Allowance,
    Bound,
    Limits,
    Refusal,
    account_name,
    decide,
    has_room,
)
from actors.rules.group import GroupRefusal, Part, decide_group
from actors.rules.overbudget import told
from actors.settings import SettingsActor
from actors.store.sqlite import Commit
from actors.turns import Turns, Waiter
from protocols.alerts import Alert
from protocols.budget import (
    TOURNAMENT,
    Account,
    Balance,
    CheckOverride,
    Confirmed,
    Fits,
    FitsGroup,
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
    PostAlerts,
    PostCorrection,
    PostGrant,
    PostHolds,
    PostRevocation,
    PostSettlement,
    ReadBooks,
    ReadUnknown,
    Reserve,
    ReserveGroup,
    Resolve,
    RevokeOverride,
    Settle,
    Standing,
    Unknown,
    WasSent,
)
from protocols.errors import (
    BadRequest,
    BudgetHeld,
    Busy,
    NotFound,
    PriceUnknown,
    QuorumError,
    ShuttingDown,
)
from protocols.money import NanoUSD, usd_text
from protocols.overrides import OverrideRow
from protocols.settings import OwnBudgets, SettingChanged, WatchSettings
from protocols.usage import ScopeSpend

LEASE_LOOK_S = 15.0
"""Seconds between looks for holds that outlived their lease."""

FORGET_S = 300.0
"""Seconds between looks for names that nobody asks for any more."""

TYPICAL_S = 1.0
"""How long a hold is taken to live before any has settled."""

LEAST_WAIT_S, MOST_WAIT_S = 0.05, 60.0
"""The shortest and the longest time after which whoever hears `budget_held` is asked to come back."""

LONGEST_OVERRIDE_US = 366 * 86_400 * MICRO

GRANTS_BACK_US = 3 * 86_400 * MICRO
"""A clock that is set back by less finds the overrides of then."""

MOST_GRANTS = 100
"""Overrides of one account that hold at once: each call that needs one looks at them."""

log = structlog.get_logger("budget")


class BudgetActor(Actor):
    """Takes holds and settles them.

    State: the accounts with their balances and limits, open holds by usage id, who waits for room, overrides that were granted or
    offered, the alerts raised, and how long a hold lives, on average of the last 16 or so.
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
        self._clock = clock
        self._levels = Levels(clock, free_model)
        self._accounts = Accounts(limits, zone, self._levels, self._counted_on)
        self._open: dict[str, Holding] = {}
        self._turns: Turns[Holding] = Turns()
        self._grants = Grants()
        self._offers = Offers(clock, token)
        self._typical_s = TYPICAL_S
        self._settled = 0
        self._correcting = asyncio.Lock()

    def __repr__(self) -> str:
        held = sum(open_hold.hold.amount for open_hold in self._open.values())
        waiting = f", {len(self._turns)} waiting" if self._turns else ""
        return f"<BudgetActor {len(self._open)} holds of {usd_text(held)}{waiting}, {len(self._accounts.balances)} accounts>"

    async def opening(self) -> None:
        """Reads balances, open holds, alerts and overrides from the ledger, limits from the settings."""
        self._turn(self._clock.now_us())
        books = await self._ledger.call(ReadBooks(**{str(p): label for p, label in self._accounts.since.items()}))
        self._accounts.restore(books.balances)
        self._grants.restore(books.grants)
        self._levels.restore(books.alerts)
        self._learn(await self._settings.call(WatchSettings(self.ref)))
        # Last: a budget that is only learned now was not lowered below them.
        self._open = {hold.start.usage_id: self._reopened(hold) for hold in books.open_holds}
        self.spawn(self._end_leases())
        self.spawn(self._forget_idle())

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
            return Wait(self._in_turn(start.usage_id, self._turns.join(key, posting, request, amount)))
        raise self._fault(verdict, amount)

    def _judge(
        self, request: Reserve, amount: NanoUSD, posting: Posting, *, not_ahead: int | None = 0
    ) -> Admitted | Refusal:
        """Whether it may be held. Raises OverrideInvalid, whether there is room or not."""
        start = request.start
        confirmed = self._is_confirmed(request.confirmed, start.user, start.model, amount)
        if not_ahead == 0 and has_room(posting.bounds, amount):
            return FITS
        soft = request.admission == "soft"
        return self._decide(posting, amount, soft=soft, confirmed=confirmed, not_ahead=not_ahead)

    @handles(Fits)
    def fits(self, request: Fits) -> None:
        """Decides like a reservation and takes nothing."""
        posting = self._posting(request.user, request.app, request.provider, self._clock.now_us())
        amount = self._priced(posting, request.model, request.amount)
        confirmed = self._is_confirmed(request.confirmed, request.user, request.model, amount)
        if has_room(posting.bounds, amount):
            return
        verdict = self._decide(posting, amount, soft=request.admission == "soft", confirmed=confirmed)
        if isinstance(verdict, Refusal) and not (verdict.kind == "held" and request.admission == "queue"):
            raise self._fault(verdict, amount)

    def _decide(
        self, posting: Posting, amount: NanoUSD, *, soft: bool, confirmed: bool, not_ahead: int | None = 0
    ) -> Admitted | Refusal:
        allowances = self._allowances(posting.bounds)
        return decide(
            posting.bounds, amount, soft=soft, confirmed=confirmed, allowances=allowances, not_ahead=not_ahead
        )

    def _allowances(self, bounds: Iterable[Bound]) -> dict[str, list[Allowance]]:
        if not self._grants:
            return {}
        scopes = {bound.account.scope for bound in bounds if not bound.hard}
        return self._grants.allowances(scopes, self._accounts.balances, self._clock.now_us())

    def _take(self, request: Reserve, amount: NanoUSD, posting: Posting, admitted: Admitted) -> Holding:
        """Promises the amount in memory, and hands it to the ledger."""
        taken, post = made(request, amount, posting, admitted, request.confirmed, self._clock)
        # First: if it raises, nothing is promised.
        taken.posted = self._ledger.deliver(post)
        if request.confirmed is not None:
            self._offers.use(request.confirmed.token)
        self._promise(taken)
        return taken

    def _promise(self, taken: Holding) -> None:
        amount = taken.hold.amount
        for balance in taken.balances:
            balance.held += amount
        self._open[taken.hold.start.usage_id] = taken

    async def _durable(self, taken: Holding) -> tuple[Mark, ...]:
        await self._written(taken.posted, (taken,))
        return taken.marks

    async def _written(self, posted: asyncio.Future[None] | None, holdings: Iterable[Holding]) -> None:
        """Waits for the one commit in which they all stand; if there is none, nothing was taken."""
        assert posted is not None
        try:
            # A commit refuses to be cancelled; a hold that waits in the ledger's inbox has none yet, and must tell what became of it.
            await (posted if isinstance(posted, Commit) else asyncio.shield(posted))
        except QuorumError:
            for taken in holdings:
                self.ref.tell(Forget(taken.hold.start.usage_id))
            raise

    @handles(Forget)
    def forget(self, request: Forget) -> None:
        """The hold was not written: gives back what was promised in memory alone."""
        taken = self._open.pop(request.usage_id, None)
        if taken is not None:
            self._move(taken, spent=0)

    def _priced(self, posting: Posting, model: str, amount: NanoUSD | None) -> NanoUSD:
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

    # --- taking the holds of a group

    @handles(ReserveGroup)
    def reserve_group(self, group: ReserveGroup) -> Wait[tuple[tuple[Mark, ...], ...]]:
        """Decides for all of them, and hands them to the ledger as one."""
        asked = [
            Fits(r.start.user, r.start.app, r.start.provider, r.start.model, r.amount, r.admission)
            for r in group.reserves
        ]
        takings = [
            made(reserve, part.amount, posting, admitted, group.confirmed, self._clock)
            for reserve, (posting, part, admitted) in zip(
                group.reserves, self._admit(asked, group.confirmed), strict=True
            )
        ]
        posted = self._ledger.deliver(PostHolds(tuple(post for _, post in takings)))
        if group.confirmed is not None:
            self._offers.use(group.confirmed.token)
        for taken, _ in takings:
            taken.posted = posted
            self._promise(taken)
        return Wait(self._all_durable(posted, [taken for taken, _ in takings]))

    async def _all_durable(self, posted: asyncio.Future[None], holdings: list[Holding]) -> tuple[tuple[Mark, ...], ...]:
        await self._written(posted, holdings)
        return tuple(taken.marks for taken in holdings)

    @handles(FitsGroup)
    def fits_group(self, group: FitsGroup) -> None:
        """Decides like a reservation and takes nothing."""
        self._admit(group.fits, group.confirmed)

    def _admit(self, asked: Sequence[Fits], confirmed: Confirmed | None) -> list[tuple[Posting, Part, Admitted]]:
        """How each of a group is admitted, on top of those before it. Raises what `ReserveGroup` does."""
        if not asked:
            raise BadRequest("a group of no holds is none; name at least one")
        self._turn(self._clock.now_us())
        postings = self._accounts.postings([(each.user, each.app, each.provider) for each in asked])
        parts = [
            Part(to.accounts, to.bounds, self._priced(to, each.model, each.amount), each.admission == "soft")
            for each, to in zip(asked, postings, strict=True)
        ]
        total = NanoUSD(sum(part.amount for part in parts))
        is_confirmed = self._is_confirmed(confirmed, asked[0].user, TOURNAMENT, total)
        allowances = self._allowances(bound for part in parts for bound in part.bounds)
        verdict = decide_group(parts, confirmed=is_confirmed, allowances=allowances)
        if isinstance(verdict, GroupRefusal):
            raise self._fault(verdict.refusal, verdict.amount)
        return list(zip(postings, parts, verdict, strict=True))

    # --- waiting for a turn

    async def _in_turn(self, usage_id: str, turn: asyncio.Future[Holding]) -> tuple[Mark, ...]:
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
        """Gives everybody their turn whose turn it is."""
        if not self._turns:
            return
        try:
            self._turn(self._clock.now_us())
        except Busy:  # the clock went back: the crash has told those who wait
            return
        self._turns.call(self._blocked_by)

    def _blocked_by(self, waiter: Waiter[Holding], key: Key, not_ahead: int | None) -> Balance | None:
        """Gives a turn: a hold, or a fault that waiting does not change. Else the balance that has no room yet."""
        if waiter.turn.done():
            return None
        posting = self._accounts.posting(key)
        try:
            verdict = self._judge(waiter.request, waiter.amount, posting, not_ahead=not_ahead)
            if isinstance(verdict, Admitted):
                waiter.turn.set_result(self._take(waiter.request, waiter.amount, posting, verdict))
            elif verdict.kind == "held":
                return next(bound.balance for bound in posting.bounds if bound.account == verdict.account)
            else:
                raise self._fault(verdict, waiter.amount)
        except QuorumError as error:
            waiter.turn.set_exception(error)
        return None

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
        alerts = self._accounts.alerts_of(hold.accounts, taken.balances, cost) if cost else ()
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

    async def _forget_idle(self) -> None:
        while True:
            await self._clock.sleep(FORGET_S)
            self._accounts.forget_idle()

    def _counted_on(self) -> Iterator[Balance]:
        return (balance for taken in self._open.values() for balance in taken.balances)

    def _reopened(self, hold: OpenHold) -> Holding:
        """A hold that an earlier incarnation took."""
        now, left_s = self._clock.monotonic(), (hold.lease_until - self._clock.now_us()) / MICRO
        balances = tuple(self._accounts.balances.setdefault(account, Balance()) for account in hold.accounts)
        return Holding(hold, balances, None, now, now + max(left_s, 0.0), hold.marks)

    def _move(self, taken: Holding, *, spent: int) -> None:
        amount = taken.hold.amount
        for balance in taken.balances:
            balance.held -= amount
            balance.spent += spent
        if self._turns and self._turns.wait_for(taken.balances):
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
            balance = self._accounts.balances.get(account)
            if balance is not None:  # else of a period long over: the ledger has it
                balance.spent += spent
        if spent < 0:
            self._let_in()

    # --- overrides

    def _is_confirmed(self, confirmed: Confirmed | None, user: str, model: str, amount: NanoUSD) -> bool:
        """Whether there is a token and it is for this target and for so much; for another one it changes nothing.

        Raises OverrideInvalid.
        """
        if confirmed is None:
            return False
        good_for = self._offers.model_of(confirmed.token, user, confirmed.body, self._accounts.labels)
        return good_for == model and self._offers.covers(confirmed.token, amount)

    @handles(OfferOverride)
    def offer(self, request: OfferOverride) -> Offer:
        """A token for one call."""
        self._turn(self._clock.now_us())
        return self._offers.make(request.user, request.model, request.body, request.most, self._accounts.labels)

    @handles(CheckOverride)
    def check_override(self, request: CheckOverride) -> str:
        """Whether it may be used, and for which model."""
        self._turn(self._clock.now_us())
        return self._offers.model_of(request.token, request.user, request.body, self._accounts.labels)

    @handles(GrantOverride)
    def grant(self, request: GrantOverride) -> Wait[OverrideRow]:
        """Checks, then stores; it holds from then on."""
        now = self._clock.now_us()
        if not now < request.until <= now + LONGEST_OVERRIDE_US:
            raise BadRequest("`until` must lie in the future, and within a year")
        if request.amount <= 0:
            raise BadRequest("`amount_usd` must be above 0")
        if self._grants.standing(account_name(request.user), now) >= MOST_GRANTS:
            raise BadRequest(f"{MOST_GRANTS} overrides of this account hold already; revoke some of them first")
        grant = Grant(
            secrets.token_hex(6), request.user, request.amount, now, request.until, request.actor.account, request.why
        )
        return Wait(self._grant(grant, request))

    async def _grant(self, grant: Grant, request: GrantOverride) -> OverrideRow:
        await self._ledger.call(PostGrant(grant, request.actor))
        self._grants.add(grant)
        return row_of(grant, self._accounts.balances)

    @handles(ListOverrides)
    def list_overrides(self, request: ListOverrides) -> list[OverrideRow]:
        """The overrides that hold."""
        return self._grants.rows(request.user, self._accounts.balances, self._clock.now_us())

    @handles(RevokeOverride)
    def revoke(self, request: RevokeOverride) -> Wait[None]:
        """Ends one; what is held through it still settles."""
        grant = self._grants.find(request.override_id, request.user)
        if grant is None:
            raise NotFound(f"there is no override `{request.override_id}`; `daemonctl overrides` lists those that hold")
        return Wait(self._revoke(grant, request))

    async def _revoke(self, grant: Grant, request: RevokeOverride) -> None:
        self._grants.remove(grant)  # no hold is taken through it from now on, whatever becomes of the rest
        try:
            await self._ledger.call(PostRevocation(grant, request.actor))
        except BaseException:
            self._grants.add(grant)
            raise

    def _alert(self, accounts: Iterable[Account]) -> None:
        alerts = self._accounts.raise_alerts(accounts)
        if alerts:
            self._ledger.tell(PostAlerts(alerts))

    # --- limits and periods

    @handles(Standing)
    def standing(self, request: Standing) -> list[ScopeSpend]:
        """Spend of the scopes that have a limit, and of the user's (with `user` None: the daemon's) month always."""
        now = self._clock.now_us()
        self._turn(now)
        return self._accounts.standing(request.user, now)

    @handles(SettingChanged)
    def setting_changed(self, change: SettingChanged) -> None:
        """A limit may have changed: it binds the next hold."""
        if change.own_budgets is not None:
            self._learn(change.own_budgets)

    def _learn(self, own: OwnBudgets) -> None:
        """What one user changed concerns that user's accounts alone."""
        balances, limit = self._accounts.balances, self._accounts.limit
        changed = self._accounts.of_users(own.by_user)
        before = {account: limit(account) for account in changed if balances[account].held}
        self._accounts.learn(own, changed)
        self._turns.move(self._accounts.posting)
        self._mark_lowered(before)
        labels = self._accounts.labels  # a new limit is no news of a day that is over
        self._alert([account for account in changed if account.label in labels])
        self._let_in()

    def _mark_lowered(self, before: dict[Account, NanoUSD | None]) -> None:
        """Holds that a limit was lowered below say so on their rows."""
        balances = self._accounts.balances
        lowered = {
            account
            for account, old in before.items()
            if (new := self._accounts.limit(account)) is not None
            and (old is None or new < old)
            and balances[account].spent + balances[account].held > new
        }
        for taken in self._open.values() if lowered else ():
            if taken.hold.amount and "limit_lowered" not in taken.marks and not lowered.isdisjoint(taken.hold.accounts):
                taken.marks += ("limit_lowered",)

    def _posting(self, user: str, app: str, provider: str, now: int) -> Posting:
        if not self._accounts.is_now(now):
            self._turn(now)
        return self._accounts.posting((user, app, provider))

    def _turn(self, now: int) -> None:
        """Needs no timer: whoever asks first in another period turns to it."""
        if self._accounts.is_now(now):
            return
        self._grants.forget(now - GRANTS_BACK_US)
        try:
            self._accounts.turn(now, self._grants.__contains__)
        except ClockWentBack as error:
            self.crash(error)  # the next incarnation reads the balances of then
            raise Busy(
                "the clock went back; the balances of that time are read, ask again", retry_after_s=TYPICAL_S
            ) from None
        self._turns.move(self._accounts.posting)
        labels = self._accounts.labels  # while the clock was back, limits may have changed
        self._alert([account for account in self._accounts.balances if account.label in labels])
        self._let_in()  # who waited has room here before whoever comes now

    def _fault(self, refused: Refusal, amount: int) -> OverBudget | BudgetHeld:
        resets_at = rfc3339(self._accounts.ends_at(refused.account.period) * MICRO)
        # Holds live as long as answers take: that is when to come back.
        return told(refused, amount, resets_at, round(min(max(self._typical_s, LEAST_WAIT_S), MOST_WAIT_S), 3))
