"""The ledger: holds, journal, usage, balances. The only writer of these tables; what is posted in one message is one transaction."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import structlog
from msgspec.structs import asdict, replace

from actors.base import Actor, Ref, Wait, handles
from actors.clock import MICRO, Clock, id_at, parse_rfc3339, rfc3339
from actors.events import Events
from actors.recent import Recent
from actors.rules.admission import in_order
from actors.rules.settlement import NOT_SENT
from actors.store.audit import SQL as AUDIT
from actors.store.audit import audit_entry, audit_row
from actors.store.dispatched import Dispatched
from actors.store.queries import load
from actors.store.rows import alert_columns, alert_of, marks_of, start_columns, start_of, usage_columns, usage_row_of
from actors.store.sqlite import Row, Store
from protocols.alerts import Alert
from protocols.audit import AuditEntries
from protocols.budget import (
    Account,
    Balance,
    Books,
    CountUnknown,
    Grant,
    OpenHold,
    PostAlerts,
    PostCorrection,
    PostGrant,
    PostHold,
    PostHolds,
    PostRevocation,
    PostSettlement,
    ReadAlerts,
    ReadAudit,
    ReadBooks,
    ReadGroups,
    ReadHolds,
    ReadPaidCalls,
    ReadUnknown,
    ReadUsage,
    Unknown,
    Verify,
    WasSent,
)
from protocols.errors import BadRequest, NotFound
from protocols.events import AttemptSettled, OverrideAction, OverrideEvent, Publish, alert_event
from protocols.money import NanoUSD
from protocols.usage import (
    AttemptEnd,
    HoldList,
    HoldRow,
    PaidCalls,
    SpendGroup,
    UsageRows,
    Verdict,
)

SQL = load("ledger")
ADD_HOLD, ADD_ENTRY, ADD_USAGE, ADD_TO_BALANCES = (
    SQL["add_hold"],
    SQL["add_entry"],
    SQL["add_usage"],
    SQL["add_to_balances"],
)
ADD_ACCOUNT, ADD_TO_SET = SQL["add_account"], SQL["add_to_set"]
CLOSE_HOLD, MARK_UNKNOWN = SQL["close_hold"], SQL["mark_unknown"]
UNKNOWN = "unknown"

CLOCK_BACK_US = 3 * 86_400 * MICRO
"""A clock that is set back by less finds the overrides of then."""

ID_SLACK_US = 86_400 * MICRO
"""How much younger than its id a row may be: an id is taken first, and the clock may be set in between."""

SETS = 10_000
"""Sets of accounts that are known by their ids, in each of two ages, and read at the start."""

FORGET_S = 1800.0
"""Seconds after which sets age; who comes back within that finds the own one."""

log = structlog.get_logger("ledger")


class Ledger(Actor):
    """Posts to the books and reads them.

    State: the ids of the sets of accounts that attempts of late count in; the highest id. A set that is not known here any more is
    written again under another id.
    """

    def __init__(self, store: Store, clock: Clock, dispatched: Dispatched, events: Ref[Events]) -> None:
        super().__init__()
        self._store = store
        self._events = events
        self._clock = clock
        self._dispatched = dispatched
        self._sets: Recent[tuple[Account, ...], int] = Recent(SETS)
        self._last_set_id = 0

    def __repr__(self) -> str:
        return f"<Ledger {len(self._sets)} sets of accounts, {self._store!r}>"

    async def opening(self) -> None:
        """Reads the ids after everything that an earlier incarnation submitted is written."""
        await self._store.written()
        self._sets.clear()
        for set_id, accounts in _members(await self._store.read(SQL["recent_sets"], (SETS,))).items():
            self._sets.put(in_order(accounts), set_id)
        ((self._last_set_id,),) = await self._store.read(SQL["last_set_id"])
        self.spawn(self._forget_sets())

    @handles(PostHold)
    def post_hold(self, post: PostHold) -> Wait[None]:
        """One row in holds, the entry that takes the hold, the balances, and the audit's entry of an override."""
        self._store.check_room()  # before a new name's accounts, which must be written, use up what settlements need
        told = None if post.used is None else partial(self._tell_of_use, post.hold)
        return Wait(self._store.submit(*self._hold_rows(post), then=told))

    @handles(PostHolds)
    def post_holds(self, post: PostHolds) -> Wait[None]:
        """The rows of all of them as one submission: however a commit fails, none stands without the others."""
        self._store.check_room()
        rows = [row for each in post.posts for row in self._hold_rows(each)]
        return Wait(self._store.submit(*rows, then=partial(self._tell_of_uses, post.posts)))

    def _hold_rows(self, post: PostHold) -> tuple[Row, ...]:
        hold = post.hold
        set_id, start, amount = self._set(hold.accounts), hold.start, hold.amount
        rows: tuple[Row, ...] = (
            (ADD_HOLD, (*start_columns(start), amount, set_id, ",".join(hold.marks), hold.lease_until)),
            (ADD_ENTRY, (start.usage_id, 0, start.created_at, amount, 0, set_id)),
            (ADD_TO_BALANCES, (set_id, amount, 0)),
        )
        if post.used is not None:
            before = str(post.used.spent_before)
            now = self._clock.now_us()
            rows += (audit_row(post.used.actor, now, "override.confirmed", start.usage_id, before=before, after=None),)
        return rows

    def _tell_of_use(self, hold: OpenHold) -> None:
        self._tell_of_override("confirmed", hold.start.user, hold.amount, usage_id=hold.start.usage_id)

    def _tell_of_uses(self, posts: tuple[PostHold, ...]) -> None:
        for post in posts:
            if post.used is not None:
                self._tell_of_use(post.hold)

    @handles(PostSettlement)
    def post_settlement(self, post: PostSettlement) -> Wait[None]:
        """The terminal entry, the usage row, the closed hold, the balances, and the alerts that they reach."""
        hold, end = post.hold, post.end
        set_id, start, amount = self._set(hold.accounts), hold.start, hold.amount
        cost = end.cost or 0
        rows: tuple[Row, ...] = (
            (ADD_ENTRY, (start.usage_id, 1, self._clock.now_us(), -amount, cost, set_id)),
            (ADD_USAGE, usage_columns(hold, end)),
            (MARK_UNKNOWN if end.status == UNKNOWN else CLOSE_HOLD, (start.usage_id,)),
            (ADD_TO_BALANCES, (set_id, -amount, cost)),
        )
        if "override" in hold.marks:
            rows += ((AUDIT["settle_override"], (cost, start.usage_id)),)
        rows += tuple((SQL["add_alert"], alert_columns(alert)) for alert in post.alerts)
        return Wait(self._store.submit(*rows, must=True, then=partial(self._settled, post)))

    def _settled(self, post: PostSettlement) -> None:
        """What is durable is news."""
        hold = post.hold
        self._dispatched.clear(hold.start.usage_id)
        self._events.tell(AttemptSettled(hold.start, post.end, hold.marks))
        self._tell_of(post.alerts)

    @handles(PostAlerts)
    def post_alerts(self, post: PostAlerts) -> Wait[None]:
        """Alerts that a changed limit made."""
        rows = [(SQL["add_alert"], alert_columns(alert)) for alert in post.alerts]
        return Wait(self._store.submit(*rows, must=True, then=partial(self._tell_of, post.alerts)))

    def _tell_of(self, alerts: tuple[Alert, ...]) -> None:
        for alert in alerts:
            log.warning("alert", scope=alert.scope, period=alert.period, label=alert.label, reached=alert.level)
            self._events.tell(Publish(alert_event(alert)))

    def _tell_of_override(self, action: OverrideAction, user: str, amount: NanoUSD, **which: str) -> None:
        at = rfc3339(self._clock.now_us())
        self._events.tell(Publish(OverrideEvent(at, action, user, amount, **which)))

    @handles(WasSent)
    def was_sent(self, request: WasSent) -> bool:
        """Whether its request has left this process."""
        return request.usage_id in self._dispatched

    @handles(PostGrant)
    def post_grant(self, post: PostGrant) -> Wait[None]:
        """An override with its audit entry."""
        grant = post.grant
        row = (grant.id, grant.user, grant.amount, grant.granted_at, grant.until, grant.granted_by, grant.why)
        audited = audit_row(
            post.actor,
            grant.granted_at,
            "override.granted",
            f"{grant.user}: {grant.id}",
            before=None,
            after=str(grant.amount),
            why=grant.why,
        )
        told = partial(self._tell_of_override, "granted", grant.user, grant.amount, override_id=grant.id)
        return Wait(self._store.submit((SQL["add_override"], row), audited, then=told))

    @handles(PostRevocation)
    def post_revocation(self, post: PostRevocation) -> Wait[None]:
        """Its end, with its audit entry."""
        grant, now = post.grant, self._clock.now_us()
        subject, before = f"{grant.user}: {grant.id}", str(grant.amount)
        audited = audit_row(post.actor, now, "override.revoked", subject, before=before, after=None)
        told = partial(self._tell_of_override, "revoked", grant.user, grant.amount, override_id=grant.id)
        return Wait(self._store.submit((SQL["revoke_override"], (now, grant.id)), audited, then=told))

    @handles(ReadUnknown)
    def read_unknown(self, request: ReadUnknown) -> Wait[Unknown]:
        """An attempt whose outcome nobody knows."""
        return Wait(self._unknown(request.hold_id))

    async def _unknown(self, hold_id: str) -> Unknown:
        await self._store.written()
        rows = await self._store.read(SQL["unknown_hold"], (hold_id,))
        if not rows:
            raise NotFound(f"there is no hold `{hold_id}`; `daemonctl holds` lists what is open or unknown")
        ((state, cost, entry),) = rows
        if state != UNKNOWN:
            raise BadRequest(f"the call of hold `{hold_id}` is under way; it settles by itself")
        accounts = tuple(Account(*row) for row in await self._store.read(SQL["accounts_of_hold"], (hold_id,)))
        return Unknown(hold_id, NanoUSD(cost or 0), entry + 1, accounts)

    @handles(PostCorrection)
    def post_correction(self, post: PostCorrection) -> Wait[None]:
        """The correcting entry, the row's new cost, the audit entry; the hold is listed no more."""
        unknown, now = post.unknown, self._clock.now_us()
        set_id, change = self._set(unknown.accounts), post.cost - unknown.posted
        return Wait(
            self._store.submit(
                (ADD_ENTRY, (unknown.usage_id, unknown.entries, now, 0, change, set_id)),
                (SQL["correct_usage"], (post.cost, unknown.usage_id)),
                (CLOSE_HOLD, (unknown.usage_id,)),
                (ADD_TO_BALANCES, (set_id, 0, change)),
                audit_row(
                    post.actor,
                    now,
                    "holds.resolve",
                    unknown.usage_id,
                    before=str(unknown.posted),
                    after=str(post.cost),
                    why=post.why,
                ),
            )
        )

    def _set(self, accounts: tuple[Account, ...]) -> int:
        """The id of the set of these accounts; a new one is written before whatever is posted next."""
        known = self._sets.get(accounts)
        return known if known is not None else self._set_in_order(in_order(accounts))

    def _set_in_order(self, accounts: tuple[Account, ...]) -> int:
        set_id = self._sets.get(accounts)
        if set_id is None:
            self._last_set_id += 1
            set_id = self._last_set_id
            named = [(a.scope, a.period, a.label) for a in accounts]
            rows: list[Row] = [(ADD_ACCOUNT, name) for name in named]
            rows += [(ADD_TO_SET, (set_id, *name)) for name in named]
            self._store.submit(*rows, must=True)
            self._sets.put(accounts, set_id)
        return set_id

    async def _forget_sets(self) -> None:
        """Who comes back later gets a set anew: some rows more on the disk, where memory would grow with every name ever heard."""
        while True:
            await self._clock.sleep(FORGET_S)
            self._sets.age()

    @handles(ReadBooks)
    def read_books(self, request: ReadBooks) -> Wait[Books]:
        """Balances and open holds, after all that was posted before."""
        return Wait(self._books((request.month, request.day)))

    async def _books(self, since: tuple[str | None, str | None]) -> Books:
        await self._store.written()
        balances = {
            Account(scope, period, label): Balance(spent, held)
            for scope, period, label, spent, held in await self._store.read(SQL["balances"], since)
        }
        accounts_of = _members(await self._store.read(SQL["sets_of_open_holds"]))
        holds = [
            OpenHold(start_of(row[:12]), NanoUSD(row[12]), tuple(accounts_of[row[13]]), marks_of(row[14]), row[15])
            for row in await self._store.read(SQL["open_holds"])
        ]
        alerts = [alert_of(row) for row in await self._store.read(SQL["alerts_since"], since)]
        still = self._clock.now_us() - CLOCK_BACK_US
        grants = [Grant(*row) for row in await self._store.read(SQL["standing_overrides"], (still,))]
        return Books(balances, holds, alerts, grants)

    @handles(ReadAlerts)
    def read_alerts(self, request: ReadAlerts) -> Wait[list[Alert]]:
        """The newest alerts."""
        return Wait(self._alerts((request.user, request.last)))

    async def _alerts(self, parameters: tuple[str | None, int]) -> list[Alert]:
        return [alert_of(row) for row in await self._store.read(SQL["newest_alerts"], parameters)]

    @handles(ReadAudit)
    def read_audit(self, request: ReadAudit) -> Wait[AuditEntries]:
        """Audit entries, newest first."""
        query = request.query
        parameters = {"before": query.before, "action": query.action, "user": request.user, "last": query.last}
        return Wait(self._audit(parameters))

    async def _audit(self, parameters: dict[str, Any]) -> AuditEntries:
        return AuditEntries([audit_entry(row) for row in await self._store.read(AUDIT["audit"], parameters)])

    @handles(ReadUsage)
    def read_usage(self, request: ReadUsage) -> Wait[UsageRows]:
        """Usage rows, newest first."""
        query = request.query
        parameters = {
            "before": query.before,
            "since": _instant(query.since),
            "until": _instant(query.until),
            "user": request.user,
            "app": query.app,
            "model": query.model,
            "task": query.task,
            "conversation": query.conversation,
            "last": query.last,
        }
        return Wait(self._usage(parameters))

    async def _usage(self, parameters: dict[str, Any]) -> UsageRows:
        return UsageRows([usage_row_of(row) for row in await self._store.read(SQL["usage"], parameters)])

    @handles(ReadGroups)
    def read_groups(self, request: ReadGroups) -> Wait[list[SpendGroup]]:
        """Usage summed by a key."""
        parameters = {"by": request.query.by, "since": request.since, "until": request.until, "user": request.user}
        return Wait(self._groups(parameters))

    async def _groups(self, parameters: dict[str, Any]) -> list[SpendGroup]:
        rows = await self._store.read(SQL["groups"], parameters)
        return [
            SpendGroup(
                key,
                calls,
                prompt_tokens=prompt,
                response_tokens=response,
                cost_nano_usd=cost,
                unpriced=unpriced,
                overruns=overruns,
            )
            for key, calls, prompt, response, cost, unpriced, overruns in rows
        ]

    @handles(ReadPaidCalls)
    def read_paid_calls(self, request: ReadPaidCalls) -> Wait[list[PaidCalls]]:
        """What was paid for a task, by model."""
        first = id_at(request.since - ID_SLACK_US)
        return Wait(self._paid_calls(asdict(request) | {"first": first}))

    async def _paid_calls(self, parameters: dict[str, Any]) -> list[PaidCalls]:
        return [PaidCalls(*row) for row in await self._store.survey(SQL["paid_calls"], parameters)]

    @handles(ReadHolds)
    def read_holds(self, _: ReadHolds) -> Wait[HoldList]:
        """Holds that are open or unknown."""
        return Wait(self._holds())

    async def _holds(self) -> HoldList:
        return HoldList(
            [
                HoldRow(
                    hold_id=i,
                    usage_id=i,
                    scope=f"user:{user}",
                    model=model,
                    amount_nano_usd=amount,
                    state=state,
                    created_at=rfc3339(at),
                    marks=list(marks_of(marks)),
                )
                for i, user, model, amount, state, at, marks in await self._store.read(SQL["listed_holds"])
            ]
        )

    @handles(CountUnknown)
    def count_unknown(self, _: CountUnknown) -> Wait[int]:
        """How many holds are unknown."""
        return Wait(self._count_unknown())

    async def _count_unknown(self) -> int:
        ((count,),) = await self._store.read(SQL["count_unknown"])
        return int(count)

    @handles(Verify)
    def verify(self, _: Verify) -> Wait[Verdict]:
        """Recomputes the balances."""
        return Wait(self._verify())

    async def _verify(self) -> Verdict:
        await self._store.written()
        (totals,) = await self._store.read(SQL["totals"])
        entries, accounts, rows, holds, cost, spent, held, open_amount, *rolled = totals
        rolled_calls, rolled_cost, rolled_attempts, rolled_entries, rolled_spent = rolled
        problems = [
            f"{scope} {label}: balance says spent {s}, held {h}; the journal {js}, {jh}"
            for _, scope, _, label, s, h, js, jh in await self._store.read(SQL["recomputed"])
            if (s, h) != (js, jh)
        ]
        problems += [
            f"attempt {usage_id}: the journal holds {h} and spent {s}, its usage row cost {c}"
            for usage_id, h, s, c in await self._store.read(SQL["unbalanced_attempts"])
        ]
        if cost != spent:
            problems.append(f"usage rows cost {cost} together, the journal spent {spent}")
        if (rolled_calls, rolled_cost) != (rolled_attempts, rolled_spent):
            problems.append(
                f"daily sums have {rolled_calls} calls that cost {rolled_cost} together, "
                f"what the journal carried {rolled_attempts} that spent {rolled_spent}"
            )
        if held != open_amount:
            problems.append(f"open holds are {open_amount} together, the journal holds {held}")
        return Verdict(
            ok=not problems,
            journal_entries=entries + rolled_entries,
            accounts=accounts,
            usage_rows=rows + rolled_calls,
            open_holds=holds,
            spent_nano_usd=spent + rolled_spent,
            problems=problems,
        )


async def last_id(store: Store) -> str | None:
    """The highest id that the books know, so that new ones are above it."""
    ((highest,),) = await store.read(SQL["last_id"])
    return str(highest) if highest is not None else None


def outcome_of_lost(hold: OpenHold, *, sent: bool) -> AttemptEnd:
    """How a hold is closed that nobody settled: void if its request had not left, else posted at the hold, as unknown."""
    return replace(NOT_SENT, status=UNKNOWN, cost=hold.amount) if sent else NOT_SENT


def _members(rows: Iterable[Any]) -> dict[int, list[Account]]:
    """Accounts by the ids of their sets."""
    sets: dict[int, list[Account]] = {}
    for set_id, scope, period, label in rows:
        sets.setdefault(set_id, []).append(Account(scope, period, label))
    return sets


def _instant(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return parse_rfc3339(text)
    except ValueError as error:
        raise BadRequest(str(error)) from None
