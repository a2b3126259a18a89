"""For any interleaving: no limit is passed but as a row says, each sum is the journal's, nobody waits for nothing, nothing is lost."""

import asyncio
import shutil
import tempfile
from collections import Counter
from contextlib import AsyncExitStack, closing, suppress
from datetime import UTC, timedelta, timezone
from pathlib import Path

import msgspec
import pytest
import uvloop
from auditor import Asked, Audited, Time, Told, labels
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from worlds import TurnedClock, attempt_end, calm, month, open_books, rows, until

from actors.base import handles
from actors.budget import LEASE_LOOK_S, BudgetActor
from actors.clock import MICRO
from actors.ledger import Ledger
from actors.retention import Retention
from actors.rules.admission import Limit, Limits
from actors.settings import SettingsActor
from actors.store import sqlite
from protocols.audit import Actor
from protocols.budget import (
    TOURNAMENT,
    Confirmed,
    GrantOverride,
    OfferOverride,
    OverBudget,
    Reserve,
    ReserveGroup,
    Resolve,
    RevokeOverride,
    Settle,
    Verify,
)
from protocols.errors import BadRequest, BudgetExceeded, BudgetHeld, Busy, NotFound, OverrideInvalid, QuorumError
from protocols.money import NANO_PER_USD, NanoUSD
from protocols.request import Request
from protocols.retention import RollUp

USERS = ("ana", "ana/kid", "bob", "cleo")
APPS = ("editor", "agent")
PROVIDERS = ("openai", "anthropic")
LIMITS = Limits(  # as `auditor` knows them
    daemon=month(900, day=700),
    users={
        "ana": month(500),
        "*": month(300, day=250),
        "ana/kid": month(120),
        "bob": Limit(month=NanoUSD(400), hard=True),
    },
    apps={"agent": month(day=350)},
    providers={"openai": month(600)},
)
KEYS = {"month": "month_usd", "day": "day_usd", "enforced": "enforce_budget_limits"}
SOMEBODY = Actor(1000, "ana", "test")


class Break(Request[None], frozen=True):
    """A message that no actor survives."""


class BreakableBudget(BudgetActor):
    @handles(Break)
    def broken(self, _):
        self._accounts.balances.clear()
        raise ZeroDivisionError


class BreakableLedger(Ledger):
    @handles(Break)
    def broken(self, _):
        self._sets.clear()
        raise ZeroDivisionError


class BreakableSettings(SettingsActor):
    @handles(Break)
    def broken(self, _):
        self._values.clear()
        raise ZeroDivisionError


class Play:
    """Plays steps against the actors; each is a method of its name.

    State: the books that are open and in which process's life, what runs at the same time by task (with the attempt it is about),
    the holds that callers have, what they were told, and the tokens they were offered.
    """

    def __init__(self, folder, audited):
        self.top = folder
        self.folders = 0
        self.folder = self.new_folder()
        self.audited = audited
        self.told = audited.told
        self.clock = TurnedClock()
        self.zone = UTC
        self.boot = "boot 0"
        self.life = 0
        self.exits = AsyncExitStack()
        self.running = {}
        self.failed = []
        self.holds = []
        self.acknowledged = set()
        self.answered = set()
        self.refused = set()
        self.lines = {}
        self.tokens = []
        self.alerts = set()
        self.turned_since_settled = False
        self.told.begins(self.time({}))
        self.told.holds()

    def new_folder(self):
        self.folders += 1
        folder = self.top / str(self.folders)
        folder.mkdir()
        return folder

    def time(self, own):
        return Time(own, *labels(self.clock.wall_us, self.zone))

    @property
    def now(self):
        return self.told.times[self.told.now]

    # --- processes

    async def open(self):
        books = open_books(
            self.folder,
            limits=LIMITS,
            clock=self.clock,
            zone=self.zone,
            ledger_class=BreakableLedger,
            budget_class=BreakableBudget,
            settings_class=BreakableSettings,
            boot=self.boot,
        )
        self.books = books = await self.exits.enter_async_context(books)
        self.retention = await books.actors.start(
            lambda: Retention(books.store, books.settings, self.clock, self.zone), name="retention"
        )

    async def close(self):
        await self.verify()
        while waiting := self.waiting():  # as a daemon that stops does
            for task, usage_id in list(self.running.items()):
                if usage_id in waiting:
                    task.cancel()
            await self.verify()
        await self.exits.aclose()
        self.forget_memory()
        self.holds.clear()
        self.forget_unwritten()

    def forget_memory(self):
        """What only this incarnation of the budget knew."""
        self.told.maybe_lowered |= self.told.lowered
        self.told.lowered.clear()
        self.tokens.clear()
        self.lines.clear()

    async def crash(self, who):
        if who != "settings":
            self.forget_memory()
        with pytest.raises(QuorumError):
            await getattr(self.books, who).call(Break())

    async def restart(self):
        await self.close()
        await self.open()

    async def moved(self, hours):
        await self.close()
        self.zone = timezone(timedelta(hours=hours))
        self.turns()
        await self.open()

    async def image(self, turns, goes_on, rebooted):
        """What a kill right now leaves: the books are opened from it, beside the ones that go on, or in their place."""
        for _ in range(turns):
            await asyncio.sleep(0)
        folder = self.new_folder()
        with self.audited.lock:
            for name in ("quorumd.sqlite3", "quorumd.sqlite3-wal", "dispatched"):
                shutil.copy(self.folder / name, folder / name)
            acknowledged, answered, before = set(self.acknowledged), set(self.answered), self.folder
            if goes_on:
                self.audited.retired.add(str(self.folder / "quorumd.sqlite3"))
                self.life += 1
        boot = f"boot {self.folders}" if rebooted else self.boot
        if rebooted:
            self.audited.rebooted.add(str(folder / "quorumd.sqlite3"))
        if goes_on:
            await self.killed(folder, boot)
            books = self.books
        else:
            beside = open_books(folder, limits=LIMITS, clock=self.clock, zone=self.zone, boot=boot)
            lowered, self.told.lowered = self.told.lowered, set()  # only the process that goes on knows
            self.told.maybe_lowered |= lowered
            books = await self.exits.enter_async_context(beside)
            self.told.lowered = lowered
        self.audited.rebooted.clear()  # the next process of that folder starts in the same boot
        there = {usage_id for (usage_id,) in rows(folder, "SELECT usage_id FROM journal")}
        if not rows(folder, "SELECT * FROM carried"):
            assert acknowledged <= there
        assert rows(folder, "SELECT * FROM holds WHERE state = 'held'") == []
        assert (await books.ledger.call(Verify())).problems == []
        outcomes = [dict(rows(each, "SELECT id, status FROM usage")) for each in (folder, before)]
        for usage_id in answered & there:
            assert outcomes[0].get(usage_id) == outcomes[1].get(usage_id) is not None, usage_id

    async def killed(self, folder, boot):
        for task in list(self.running):
            task.cancel()
        await self.exits.aclose()
        self.forget_memory()
        self.running.clear()
        self.holds.clear()
        self.folder = folder
        self.boot = boot
        self.forget_unwritten()
        await self.open()

    def forget_unwritten(self):
        """The next process gives its ids again, while the clock stands still."""
        there = {usage_id for (usage_id,) in rows(self.folder, "SELECT usage_id FROM journal")}
        for known in (self.told.asked, self.told.settled, self.told.resolved):
            for usage_id in [i for i in known if i not in there]:
                del known[usage_id]
        for known in (
            self.acknowledged,
            self.answered,
            self.refused,
            self.told.sent,
            self.told.lowered,
            self.told.maybe_lowered,
        ):
            known.intersection_update(there)
        written = {i for (i,) in rows(self.folder, "SELECT id FROM overrides")}
        self.told.grants = {i: grant for i, grant in self.told.grants.items() if i in written}
        revoked = {i for (i,) in rows(self.folder, "SELECT id FROM overrides WHERE revoked_at IS NOT NULL")}
        self.told.revoked = {i: at for i, at in self.told.revoked.items() if i in revoked}

    # --- what runs at the same time

    def at_once(self, work, usage_id=None):
        task = asyncio.get_running_loop().create_task(work)
        self.running[task] = usage_id
        life = self.life
        task.add_done_callback(lambda task: self.ended(task, life))
        return task

    def ended(self, task, life):
        self.running.pop(task, None)
        if not task.cancelled() and task.exception() is not None and life == self.life:
            self.failed.append(task.exception())

    def waiting(self):
        """Who waits for a turn, by usage id, in the order in which they came."""
        budget = self.books.budget.incarnation
        waiters = [w for w in budget._turns if not w.turn.done()] if budget is not None else []
        return {w.request.start.usage_id: w for w in sorted(waiters, key=lambda w: w.order)}

    async def rest(self):
        """Until nobody has anything to do but those who wait for a turn; then all that is promised must be so."""
        async with asyncio.timeout(10):
            await self.quiet()
        assert self.failed == []
        self.told.quiet = self.told.now

    async def quiet(self):
        books = self.books
        while True:
            refs = (books.budget, books.ledger, books.settings)
            await until(lambda: all(ref.incarnation and not ref.waiting for ref in refs))  # noqa: B023  awaited here
            await calm()
            waiting = self.waiting()
            busy = [task for task, usage_id in self.running.items() if usage_id not in waiting]
            if busy:
                await asyncio.wait(busy, timeout=0.005, return_when=asyncio.FIRST_COMPLETED)
                continue
            idle = books.store._idle.is_set()
            await books.store.written()
            if idle and all(ref.incarnation and not ref.waiting for ref in refs):
                return

    # --- holds

    async def calls(self, calls):
        """Several callers at once."""
        for who, amount, admission, lease_s in calls:
            asked = self.asks(who, amount, admission, lease_s)
            self.at_once(self.reserve(*asked), asked[0].usage_id)

    async def call(self, who, amount, admission, confirms):
        """One when nothing else happens: it hears exactly what it must."""
        await self.verify()
        token = self.tokens[confirms % len(self.tokens)] if confirms and self.tokens else None  # -1 is the newest
        if amount < 0:
            room = [limit - spent - held - self.ahead(name) for name, spent, held, limit, _ in self.bounds(who)]
            amount = max(min(room) - amount - 1, 0)
        start, asked = self.asks(who, amount, admission, 50_000.0, token)
        expected = self.expected(asked, token)
        task = self.at_once(self.reserve(start, asked), start.usage_id)
        if expected == "waits":
            await self.rest()
            assert start.usage_id in self.waiting()
        else:
            await asyncio.wait([task], timeout=5)
            assert task.done(), f"{asked} waits; expected {expected}"
            assert self.failed == []
            assert task.result() == expected, f"{asked} in {self.balances()}"

    def asks(self, who, amount, admission, lease_s, token=None):
        start = self.books.start(*who)
        asked = Asked(who, amount, admission, self.told.now, self.clock.wall_us, lease_s, token and token["token"])
        self.told.asked[start.usage_id] = asked
        if admission == "queue" and amount:
            self.lines.setdefault(who, []).append(start.usage_id)
        return start, asked

    async def reserve(self, start, asked):
        life, usage_id = self.life, start.usage_id
        confirmed = Confirmed(asked.token, b"body", SOMEBODY) if asked.token else None
        reserve = Reserve(start, NanoUSD(asked.amount), asked.admission, asked.lease_s, confirmed=confirmed)
        try:
            marks = await self.books.budget.call(reserve)
        except (BudgetExceeded, BudgetHeld, OverrideInvalid, Busy) as error:
            if life == self.life:
                self.refused.add(usage_id)
                self.leaves(usage_id)
            return "hard" if isinstance(error, OverBudget) and error.hard else type(error).__name__
        except asyncio.CancelledError:
            if life == self.life:
                self.leaves(usage_id)
                await self.settle_with(usage_id, 0)
            raise
        if life == self.life:
            if "override" in marks:  # it passes the budget, and with it those who wait for room in it
                self.leaves(usage_id)
            else:
                self.comes_first(usage_id)
            self.holds.append(usage_id)
            self.acknowledged.add(usage_id)
        return "taken" + "".join(f" {mark}" for mark in marks)

    # --- groups

    async def groups(self, groups):
        """Several tournaments ask at once."""
        for user, amounts, admission in groups:
            self.at_once(self.reserve_group(*self.asks_group(user, amounts, admission)))

    async def group(self, user, amounts, admission, confirms):
        """One when nothing else happens: it hears exactly what it must."""
        await self.verify()
        token = self.tokens[confirms % len(self.tokens)] if confirms and self.tokens else None
        asked = self.asks_group(user, amounts, admission, token)
        expected = self.expected_of_group([each for _, each in asked[0]], token)
        task = self.at_once(self.reserve_group(*asked))
        await asyncio.wait([task], timeout=5)
        assert task.done(), f"{asked} waits"
        assert self.failed == []
        if token is not None and isinstance(task.result(), tuple):
            token["used"] = True
        assert expected is None or task.result() == expected, f"{asked} in {self.balances()}"

    async def cancelled_group(self, user, amounts, turns):
        task = self.at_once(self.reserve_group(*self.asks_group(user, amounts, "strict")))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()

    def asks_group(self, user, amounts, admission, token=None):
        """Its members go to the providers in turn."""
        members = []
        for place, amount in enumerate(amounts):
            who = (user, "agent" if len(amounts) % 2 else "editor", PROVIDERS[place % 2])
            start = self.books.start(*who)
            at_us, code = self.clock.wall_us, token and token["token"]
            name = members[0][0].usage_id if members else start.usage_id
            asked = Asked(who, amount, admission, self.told.now, at_us, 50_000.0, code, name)
            self.told.asked[start.usage_id] = asked
            members.append((start, asked))
        return members, token and Confirmed(token["token"], b"body", SOMEBODY)

    async def reserve_group(self, members, confirmed):
        life, usage_ids = self.life, [start.usage_id for start, _ in members]
        reserves = (Reserve(start, NanoUSD(a.amount), a.admission, a.lease_s) for start, a in members)
        try:
            marks = await self.books.budget.call(ReserveGroup(tuple(reserves), confirmed))
        except (BudgetExceeded, BudgetHeld, OverrideInvalid, Busy) as error:
            if life == self.life:
                self.refused.update(usage_ids)
            return "hard" if isinstance(error, OverBudget) and error.hard else type(error).__name__
        except asyncio.CancelledError:
            if life == self.life:
                await asyncio.gather(*[self.settle_with(usage_id, 0) for usage_id in usage_ids])
            raise
        if life == self.life:
            self.holds += usage_ids
            self.acknowledged.update(usage_ids)
        return marks

    def expected_of_group(self, members, token):
        """What a group must hear when nothing else happens; None where a granted override may be used."""
        if self.told.grants:
            return None
        confirmed, before, found = False, Counter(), []
        if token is not None:
            if not self.is_good(token, members[0].who[0]):
                return "OverrideInvalid"
            confirmed = token["model"] == TOURNAMENT
        for asked in members:
            bounds = self.bounds(asked.who)
            found.append({self.case(asked, bound, confirmed=confirmed, before=before[bound[0]]) for bound in bounds})
            before.update(dict.fromkeys(self.now.accounts(asked.who), asked.amount))
        for case, refused in (("hard", "hard"), ("budget", "OverBudget"), ("held", "BudgetHeld")):
            if any(case in cases for cases in found):
                return refused
        return tuple(tuple(m for m in ("unenforced", "soft", "override") if m in cases) for cases in found)

    def leaves(self, usage_id):
        for line in self.lines.values():
            if usage_id in line:
                line.remove(usage_id)

    def comes_first(self, usage_id):
        line = self.lines.get(self.told.asked[usage_id].who, [])
        if usage_id in line:
            assert line[0] == usage_id, f"{line[0]} came before {usage_id}"
            line.remove(usage_id)

    async def cancelled(self, who, amount, turns):
        start, asked = self.asks(who, amount, "strict", 50_000.0)
        task = self.at_once(self.reserve(start, asked), start.usage_id)
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()

    async def gives_up(self, which):
        """Somebody no longer waits."""
        waiting = self.waiting()
        tasks = [task for task, usage_id in self.running.items() if usage_id in waiting]
        if tasks:
            tasks[which % len(tasks)].cancel()
            await self.verify()

    async def settle(self, which, share):
        if self.holds:
            usage_id = self.holds.pop(which % len(self.holds))
            self.at_once(self.settle_with(usage_id, self.told.asked[usage_id].amount * share // 100))

    async def twice(self, which):
        if self.holds:
            usage_id = self.holds.pop(which % len(self.holds))
            self.at_once(self.settle_with(usage_id, self.told.asked[usage_id].amount))
            self.at_once(self.settle_with(usage_id, 0))

    async def again(self, which):
        """Long after it was settled."""
        settled = sorted(self.told.settled)
        if settled:
            await self.settle_with(settled[which % len(settled)], 77)

    async def settle_with(self, usage_id, cost):
        life, first = self.life, usage_id not in self.told.settled
        self.told.settled.setdefault(usage_id, cost)
        self.turned_since_settled = False
        alerts = await self.books.budget.deliver(Settle(usage_id, attempt_end(cost)))
        if life != self.life:
            return
        if first:
            self.answered.add(usage_id)
        for alert in alerts or ():
            key = (alert.scope, alert.period, alert.label, alert.level, alert.limit_nano_usd)
            assert key not in self.alerts, f"{key} twice"
            self.alerts.add(key)

    async def send(self, which):
        if self.holds:
            usage_id = self.holds[which % len(self.holds)]
            still = self.books.rows("SELECT 1 FROM holds WHERE id = ? AND state = 'held'", usage_id)
            budget = self.books.budget.incarnation
            if still and budget is not None and usage_id in budget._open:
                self.books.dispatched.mark(usage_id)
                self.told.sent.add(usage_id)

    async def resolve(self, which, cost):
        """Somebody knows what a lost one cost."""
        await self.rest()
        unknown = self.books.rows("SELECT id FROM holds WHERE state = 'unknown' ORDER BY id")
        if unknown:
            usage_id = unknown[which % len(unknown)][0]
            self.told.resolved[usage_id] = cost
            await self.books.budget.call(Resolve(usage_id, NanoUSD(cost), "test", SOMEBODY))
            with pytest.raises(NotFound):
                await self.books.budget.call(Resolve(usage_id, NanoUSD(cost), "test", SOMEBODY))

    # --- time

    def turns(self):
        self.told.begins(self.time(self.now.own))
        self.told.holds()
        self.turned_since_settled = True

    async def passes(self, seconds):
        """Time, and with it leases."""
        self.clock.wall_us += seconds * MICRO
        self.turns()
        self.clock.wall_us -= seconds * MICRO
        await self.clock.turn(seconds)
        if seconds >= LEASE_LOOK_S:
            await self.verify()

    async def back(self, days):
        await self.rest()
        self.clock.wall_us -= days * 86_400 * MICRO
        self.turns()
        incarnation = self.books.budget.incarnation
        with suppress(Busy):
            await self.books.standing()
        await until(lambda: self.books.budget.incarnation)
        if self.books.budget.incarnation is not incarnation:
            self.forget_memory()

    async def rolled(self):
        """Everything that is closed becomes sums."""
        await self.rest()
        await self.retention.call(RollUp(self.clock.wall_us + 500 * 86_400 * MICRO))

    # --- what users say

    async def limit(self, owner, key, value, calmly, amount):
        if calmly:
            await self.verify()
        before, old = self.balances(), self.now
        own = dict(old.own)
        own.pop((owner, key), None)
        if value is not None:
            own[owner, key] = value % 3 > 0 if key == "enforced" else value
        self.told.begins(self.time(own))
        said = own.get((owner, key), msgspec.UNSET)
        if key != "enforced" and value is not None:
            said = f"{value / NANO_PER_USD:.9f}"
            said = float(said)
        await self.books.change(KEYS[key], said, owner)
        self.told.holds()
        self.is_lowered(before, old, calmly)
        await self.call((owner if owner in USERS else "cleo", "editor", "openai"), amount, "strict", 0)

    def is_lowered(self, before, old, calmly):
        new = self.now
        if not calmly:  # what is being taken stands nowhere yet
            names = {name for asked in self.told.asked.values() for name in new.accounts(asked.who)}
            before = dict.fromkeys(names, (0, 0)) | before
        lowered = {
            (scope, period, label)
            for (scope, period, label), (spent, held) in before.items()
            if period != "override"
            and (limit := new.limit(scope, period)) is not None
            and ((was := old.limit(scope, period)) is None or limit < was)
            and (spent + held > limit or not calmly)
        }
        for usage_id, asked in self.told.asked.items() if lowered else ():
            if asked.amount and calmly:
                names = self.books.rows(
                    "SELECT scope, period, label FROM holds JOIN account_sets USING (set_id) JOIN accounts "
                    "ON accounts.id = account_id WHERE holds.id = ? AND state = 'held'",
                    usage_id,
                )
                self.told.lowered |= {usage_id} if lowered & set(names) else set()
            else:
                self.told.maybe_lowered.add(usage_id)

    async def offer(self, user, amount, model):
        await self.rest()
        offer = await self.books.budget.call(OfferOverride(user, model, b"body", NanoUSD(10**18)))
        bound_to = (user, self.now.month, self.now.day)
        until = self.clock.seconds + 600
        self.tokens.append({"token": offer.token, "bound_to": bound_to, "until": until, "model": model})
        if amount and model == TOURNAMENT:
            await self.group(user, (amount, amount), "strict", -1)
            await self.group(user, (amount, amount), "strict", -1)
        elif amount:
            await self.call((user, "editor", "anthropic"), amount, "strict", -1)
            await self.call((user, "editor", "anthropic"), amount, "strict", -1)

    async def grant(self, user, amount, hours, first):
        await self.rest()
        until_us = self.clock.wall_us + hours * 3600 * MICRO
        budget = self.books.budget
        row = await budget.call(GrantOverride(user, NanoUSD(amount), until_us, "test", SOMEBODY))
        self.told.grants[row.override_id] = (user, amount, until_us)
        await self.call((user, "editor", "anthropic"), first, "strict", 0)

    async def revoke(self, which, amount):
        grants = [i for i in self.told.grants if i not in self.told.revoked]
        if grants:
            override_id = grants[which % len(grants)]
            with suppress(NotFound, BadRequest):  # it ended
                await self.books.budget.call(RevokeOverride(override_id, None, SOMEBODY))
            self.told.revoked[override_id] = len(self.told.times) - 1
            self.turns_nothing()
            await self.call((self.told.grants[override_id][0], "editor", "anthropic"), amount, "strict", 0)

    def turns_nothing(self):
        """Asked from now on is asked later."""
        self.told.begins(self.now)
        self.told.holds()

    # --- what must be so when nobody has anything to do

    def balances(self):
        return {
            (scope, period, label): (spent, held)
            for scope, period, label, spent, held in self.books.rows(
                "SELECT scope, period, label, spent, held FROM accounts"
            )
        }

    def bounds(self, who):
        """Spent, held, limit, whether it is hard, and the scope, for each limit of an attempt."""
        now, balances = self.now, self.balances()
        for name in now.accounts(who):
            spent, held = balances.get(name, (0, 0))
            for limit, hard in zip(now.limits(*name[:2]), (True, False), strict=True):
                if limit is not None:
                    yield name, spent, held, limit, hard

    def ahead(self, name):
        """What waits for room on an account."""
        waiting = [(w.amount, w.request.start) for w in self.waiting().values()]
        return sum(amount for amount, s in waiting if name in self.now.accounts((s.user, s.app, s.provider)))

    def expected(self, asked, token):
        """What a call must hear when nothing else happens."""
        confirmed = False
        if token is not None:
            if not self.is_good(token, asked.who[0]):
                return "OverrideInvalid"
            confirmed = token["model"] == "openai:gpt-4o"
        cases = {self.case(asked, bound, confirmed=confirmed) for bound in self.bounds(asked.who)}
        if "hard" in cases:
            return "hard"
        if "budget" in cases:
            return "OverBudget"
        if "held" in cases:
            return "waits" if asked.admission == "queue" else "BudgetHeld"
        if token is not None:
            token["used"] = True
        return "taken" + "".join(f" {mark}" for mark in ("unenforced", "soft", "override") if mark in cases)

    def case(self, asked, bound, *, confirmed, before=0):
        """What a limit says to what is asked on top of `before` of its own group."""
        name, spent, held, limit, hard = bound
        amount = before + asked.amount
        if asked.amount == 0 or spent + held + self.ahead(name) + amount <= limit:
            return None
        if not hard and not self.now.enforced(name[0]):
            return "unenforced"
        if not hard and asked.admission == "soft" and spent < limit:
            return "soft"
        if spent + amount <= limit:
            return "held"
        if hard:
            return "hard"
        return "override" if confirmed or self.has_grant(name[0], asked.amount) else "budget"

    def is_good(self, token, user):
        now = self.now
        bound_to = token["bound_to"] == (user, now.month, now.day)
        return bound_to and token["until"] > self.clock.seconds and not token.get("used")

    def has_grant(self, scope, amount):
        balances = self.balances()
        for override_id, (user, most, until_us) in self.told.grants.items():
            used = sum(balances.get((scope, "override", override_id), (0, 0)))
            stands = override_id not in self.told.revoked and self.clock.wall_us < until_us
            if scope == f"user:{user}" and stands and used + amount <= most:
                return True
        return False

    async def verify(self):
        await self.rest()
        self.told.quiet = self.told.now
        standing = await self.books.standing()
        await self.rest()
        books, balances, waiting = self.books, self.balances(), self.waiting()
        assert (await books.ledger.call(Verify())).problems == []
        in_memory = books.budget.incarnation._accounts.balances
        for account, balance in in_memory.items():
            name = (account.scope, account.period, account.label)
            assert (balance.spent, balance.held) == balances.get(name, (0, 0)), name
            assert balance.waiting == self.ahead(name), name
        known = {(a.scope, a.period, a.label) for a in in_memory}
        assert {name for name, (_, held) in balances.items() if held} <= known
        for (scope, period), row in standing.items():
            name = (scope, period, self.now.month if period == "month" else self.now.day)
            assert (row.spent_nano_usd, row.held_nano_usd) == balances.get(name, (0, 0))
            assert row.limit_nano_usd == self.now.limit(scope, period)
        self.verify_alerts(balances)
        self.verify_turns(waiting)
        journal = {usage_id for (usage_id,) in books.rows("SELECT usage_id FROM journal")}
        assert journal.isdisjoint(self.refused)
        if not books.rows("SELECT * FROM carried"):
            assert self.acknowledged <= journal
        self.verify_leases()

    def verify_alerts(self, balances):
        """What was spent in the periods of now has been said, against the limits of now."""
        auditor = self.audited.of(self.folder / "quorumd.sqlite3")
        for (scope, period, label), (spent, _) in balances.items():
            limit = self.now.limit(scope, period) if label in (self.now.month, self.now.day) else None
            if limit is not None and auditor is not None:
                assert auditor.all_raised((scope, period, label), spent, limit), f"{scope} {label}: {spent} of {limit}"

    def verify_turns(self, waiting):
        """Nobody waits who would fit behind those who wait before; in a new period that is looked at with the next settlement."""
        if self.turned_since_settled:
            return
        lines = {}
        for waiter in waiting.values():
            start = waiter.request.start
            lines.setdefault((start.user, start.app, start.provider), []).append(waiter)
        for position, (who, line) in enumerate(sorted(lines.items(), key=lambda item: item[1][0].order)):
            amount = line[0].amount
            others = [
                (w.amount, self.now.accounts(key))
                for key, line in lines.items()
                for w in line
                if key != who and position
            ]
            bounds = [
                (spent + held + sum(a for a, names in others if name in names), limit)
                for name, spent, held, limit, _ in self.bounds(who)
            ]
            assert any(before + amount > limit for before, limit in bounds), f"{who} waits for {amount} with {bounds}"

    def verify_leases(self):
        for usage_id, taken in self.books.budget.incarnation._open.items():
            # Looked for every LEASE_LOOK_S of a clock that a test turns in one go.
            assert taken.lease_until > self.clock.seconds - LEASE_LOOK_S, usage_id

    async def end(self):
        """Every hold is settled, and so everybody who waits is answered."""
        await self.verify()
        while self.holds or self.waiting():
            assert self.holds or self.books.rows("SELECT 1 FROM holds WHERE state = 'held'"), (
                "somebody waits for nothing"
            )
            for usage_id in [*self.holds, *self.books.budget.incarnation._open]:
                await self.settle_with(usage_id, self.told.asked[usage_id].amount)
            self.holds.clear()
            await self.verify()
        for usage_id in list(self.books.budget.incarnation._open):
            await self.settle_with(usage_id, 0)
        await self.verify()
        assert self.running == {}
        assert self.books.rows("SELECT * FROM holds WHERE state = 'held'") == []
        balances = self.books.budget.incarnation._accounts.balances
        assert [(a, b) for a, b in balances.items() if b.held or b.waiting] == []


def step(name, *arguments):
    return st.tuples(st.just(name), *arguments)


FEW = st.sampled_from((("ana", "editor", "openai"), ("bob", "agent", "openai")))
WHO = st.one_of(FEW, st.tuples(st.sampled_from(USERS), st.sampled_from(APPS), st.sampled_from(PROVIDERS)))
AMOUNT = st.one_of(st.integers(0, 200), st.integers(50, 150), st.sampled_from((250, 300, 400)))
ADMISSION = st.sampled_from(("strict", "queue", "queue", "soft"))
WHICH = st.integers(0, 9)
OWN = st.one_of(st.none(), st.integers(0, 600), st.integers(50, 200))
OWNER = st.sampled_from(("ana", "ana", "ana/kid", "bob", "*"))
LEASE_S = st.sampled_from((60.0, 50_000.0))
CALLS = step("calls", st.lists(st.tuples(WHO, AMOUNT, ADMISSION, LEASE_S), min_size=1, max_size=4))
CROWD = step("calls", st.lists(st.tuples(FEW, AMOUNT, st.just("queue"), LEASE_S), min_size=4, max_size=7))
CALL = step("call", WHO, st.one_of(AMOUNT, st.sampled_from((-1, -2))), ADMISSION, st.sampled_from((0, 0, 1, 2)))
SETTLE = step("settle", WHICH, st.sampled_from((0, 40, 80, 100, 100, 130)))
AMOUNTS = st.lists(st.one_of(st.integers(0, 120), st.sampled_from((0, 30, 200))), min_size=1, max_size=5).map(tuple)
GROUP = st.tuples(st.sampled_from(USERS), AMOUNTS, st.sampled_from(("strict", "strict", "soft", "queue")))
STEPS = st.one_of(
    CALLS,
    CALLS,
    CALLS,
    CROWD,
    CALL,
    CALL,
    CALL,
    SETTLE,
    SETTLE,
    SETTLE,
    SETTLE,
    step("cancelled", WHO, AMOUNT, st.integers(0, 4)),
    step("gives_up", st.sampled_from((0, 0, 1, 2))),
    step("twice", WHICH),
    step("again", WHICH),
    step("send", WHICH),
    step("send", WHICH),
    step("resolve", WHICH, st.sampled_from((0, 10, 150, 400))),
    step("verify"),
    step("limit", OWNER, st.sampled_from(("month", "day")), OWN, st.booleans(), AMOUNT),
    step("limit", OWNER, st.sampled_from(("month", "day", "enforced")), OWN, st.booleans(), AMOUNT),
    step("offer", st.sampled_from(USERS), AMOUNT, st.sampled_from(("openai:gpt-4o", TOURNAMENT))),
    step("groups", st.lists(GROUP, min_size=1, max_size=4)),
    GROUP.flatmap(lambda asked: step("group", *map(st.just, asked), st.sampled_from((0, 0, -1, 1)))),
    step("cancelled_group", st.sampled_from(USERS), AMOUNTS, st.integers(0, 4)),
    step("grant", st.sampled_from(USERS), st.integers(1, 400), st.sampled_from((1, 48)), AMOUNT),
    step("revoke", WHICH, AMOUNT),
    step("passes", st.sampled_from((5, 20, 100, 3600))),
    step("passes", st.sampled_from((86_400, 30 * 86_400))),
    step("back", st.sampled_from((1, 2, 12))),
    step("moved", st.sampled_from((-12, 0, 14))),
    step("crash", st.sampled_from(("budget", "budget", "ledger", "settings"))),
    step("restart"),
    step("image", st.integers(0, 3), st.booleans(), st.sampled_from((False, False, True))),
    step("rolled"),
)  # fmt: skip
PLAYS = st.lists(STEPS, min_size=30, max_size=40)


@pytest.fixture(scope="module")
def runner():
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner


async def play(steps):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch, capture_logs() as logged:
        audited = Audited(sqlite._apply, Told([]))
        patch.setattr(sqlite, "_apply", audited)
        # More crashes than a supervisor forgives are another test's; here each one is.
        patch.setattr("actors.supervise.CRASH_WINDOW_S", 0.0)
        game = Play(Path(folder), audited)
        with closing(audited):
            try:
                await game.open()
                for name, *arguments in steps:
                    await getattr(game, name)(*arguments)
                    assert audited.wrong == []
                await game.end()
                assert audited.auditors or not game.books.rows("SELECT * FROM journal")
            finally:
                await game.exits.aclose()
        assert audited.wrong == []
        assert [event for event in logged if event["event"] == "write_refused"] == []


PLAYED = {
    "phases": [Phase.explicit, Phase.generate],
    "deadline": None,
    "database": None,
    "suppress_health_check": list(HealthCheck),
}


ANA = ("ana", "editor", "anthropic")
CROWDED = [("call", ANA, 300, "strict", 0), ("calls", [(ANA, a, "queue", 60.0) for a in (250, 150)]), ("verify",)]


@settings(max_examples=100, derandomize=True, **PLAYED)
@given(steps=PLAYS)
@example(steps=[("call", ANA, -2, "strict", 0), ("call", ANA, -1, "strict", 0)])
@example(steps=[("call", ANA, 500, "strict", 0), ("settle", 0, 100), ("grant", "ana", 100, 48, 50), ("revoke", 0, 40)])
@example(steps=[*CROWDED, ("gives_up", 0)])
@example(steps=[*CROWDED, ("gives_up", 1)])
@example(
    steps=[("limit", "ana", "month", 101, True, 0), ("call", ANA, 75, "strict", 0), ("settle", 1, 100), ("verify",)]
)
@example(steps=[("calls", [(ANA, 51, "strict", 60.0)]), ("limit", "ana", "month", 50, False, 0)])
@example(
    steps=[("calls", [(ANA, 1, "strict", 60.0)]), ("limit", "ana", "month", 0, True, 0), ("image", 0, False, False)]
)
@example(
    steps=[
        ("calls", [(ANA, 1, "strict", 60.0)]),
        ("grant", "ana", 2, 1, 0),
        ("limit", "ana", "month", 1, False, 0),
        ("calls", [(ANA, 1, "queue", 60.0)]),
        ("call", ANA, 2, "queue", 0),
    ]
)
@example(steps=[step for a in (400, 10) for step in (("call", ANA, a, "strict", 0), ("settle", 0, 100), ("restart",))])
@example(steps=[("limit", "ana", "month", 100, True, 0), ("offer", "ana", 60, TOURNAMENT), ("settle", 0, 100)])
@example(steps=[("groups", [("ana", (60, 60, 60), "strict")] * 4), ("image", 1, True, False)])
def test_whatever_happens_the_promises_about_money_hold(runner, steps):
    runner.run(play(steps))


@pytest.mark.nightly
@settings(max_examples=2000, **(PLAYED | {"phases": [Phase.generate, Phase.shrink]}))
@given(steps=PLAYS)
def test_whatever_happens_in_two_thousand_plays_the_promises_about_money_hold(runner, steps):
    runner.run(play(steps))
