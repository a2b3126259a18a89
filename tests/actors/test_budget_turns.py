"""Who waits for room, how long a hold may live, and what users let pass their own budget."""

import asyncio

import pytest
from structlog.testing import capture_logs
from worlds import TurnedClock, attempt_end, calm, month, open_books

from actors.budget import FORGET_S, LEASE_LOOK_S, MOST_GRANTS
from actors.offers import OFFER_S
from actors.rules.admission import Limit, Limits
from protocols.alerts import Alert
from protocols.audit import Actor, Audit
from protocols.budget import (
    CheckOverride,
    Confirmed,
    Fits,
    GrantOverride,
    ListOverrides,
    OfferOverride,
    OverBudget,
    ReadAlerts,
    ReadAudit,
    ReadHolds,
    Reserve,
    ReserveGroup,
    Resolve,
    RevokeOverride,
    Settle,
    Verify,
)
from protocols.errors import (
    BadRequest,
    BudgetExceeded,
    BudgetHeld,
    Busy,
    NotFound,
    OverrideInvalid,
    PriceUnknown,
    ShuttingDown,
)
from protocols.money import NanoUSD

pytestmark = pytest.mark.anyio

HARD = Limits(daemon=month(100))
ANAS = Limits(users={"ana": month(100)})
ROOT = Actor(0, "root", "test")
BODY = b"the body"


@pytest.fixture
def opened(tmp_path):
    def with_limits(limits=HARD, **how):
        return open_books(tmp_path, limits=limits, **how)

    return with_limits


class Waiter:
    """A queued reservation under way."""

    def __init__(self, books, amount, user="ana", **how):
        self.start = books.start(user)
        request = Reserve(self.start, amount, **({"admission": "queue"} | how))
        self.task = asyncio.get_running_loop().create_task(books.budget.call(request))

    @property
    def usage_id(self):
        return self.start.usage_id


async def waiting(books, *amounts, **how):
    found = [Waiter(books, amount, **how) for amount in amounts]
    await calm()
    await books.store.written()
    await calm()
    return found


def admitted(waiters):
    return [w.task.done() for w in waiters]


async def balanced(books):
    await books.store.written()
    assert (await books.ledger.call(Verify())).problems == []
    assert all(balance.waiting == 0 for balance in books.budget.incarnation._accounts.balances.values())


class TestTurns:
    async def test_those_who_fit_run_and_others_wait_in_the_order_in_which_they_came(self, opened):
        async with opened() as books:
            queue = await waiting(books, 60, 30, 50, 20, 10)
            assert admitted(queue) == [True, True, False, False, False]
            await books.settle(queue[1].usage_id, 10)  # 30 are free, the first in line needs 50
            await waiting(books)
            assert admitted(queue) == [True, True, False, False, False]
            await books.settle(queue[0].usage_id, 0)
            await waiting(books)
            assert admitted(queue) == [True] * 5
            for each in queue[2:]:
                await books.settle(each.usage_id, 1)
            await balanced(books)

    async def test_small_calls_do_not_pass_one_that_waits(self, opened):
        async with opened() as books:
            held = await books.reserve(60)
            (large,) = await waiting(books, 80)
            with pytest.raises(BudgetHeld):
                await books.reserve(10)
            (small,) = await waiting(books, 10)
            assert admitted([large, small]) == [False, False]
            await books.settle(held, 0)
            await waiting(books)
            assert admitted([large, small]) == [True, True]

    async def test_what_can_never_fit_any_more_is_told_at_once(self, opened):
        async with opened() as books:
            held = await books.reserve(60)
            first, second = await waiting(books, 50, 30)
            await books.settle(held, 60)
            with pytest.raises(BudgetExceeded):
                await first.task
            await second.task
            assert await books.spent_and_held("daemon") == (60, 30)

    async def test_a_line_that_needs_other_scopes_is_not_held_up(self, opened):
        limits = Limits(daemon=month(1000), users={"ana": month(50), "bob": month(50)})
        async with opened(limits) as books:
            held = await books.reserve(50)
            (ana,) = await waiting(books, 40)
            (bob,) = await waiting(books, 40, user="bob")
            assert admitted([ana, bob]) == [False, True]
            await books.settle(held, 0)
            await ana.task

    async def test_who_came_first_is_first_whatever_its_line(self, opened):
        async with opened() as books:
            held = await books.reserve(100)
            queue = [*(await waiting(books, 60)), *(await waiting(books, 60, user="bob")), *(await waiting(books, 30))]
            await books.settle(held, 0)
            await waiting(books)
            assert admitted(queue) == [True, False, False]
            await books.settle(queue[0].usage_id, 0)
            await waiting(books)
            assert admitted(queue) == [True, True, True]

    async def test_a_line_is_not_held_up_by_one_that_needs_room_elsewhere(self, opened):
        limits = Limits(daemon=month(100), users={"ana": month(50), "bob": month(90)})
        async with opened(limits) as books:
            held, bobs = await books.reserve(50), await books.reserve(40, user="bob")
            (ana,) = await waiting(books, 50)
            (bob,) = await waiting(books, 20, user="bob")
            assert admitted([ana, bob]) == [False, False]
            await books.settle(
                bobs, 0
            )  # 50 are free; ana, who came first, needs room of her own, and 50 of the daemon's
            await waiting(books)
            assert admitted([ana, bob]) == [False, False]
            bob.task.cancel()
            (bob,) = await waiting(books, 20, user="bob")
            await books.settle(held, 0)
            await waiting(books)
            assert admitted([ana, bob]) == [True, True]

    async def test_names_that_spend_nothing_leave_no_memory(self, opened, monkeypatch):
        monkeypatch.setattr("actors.accounts.POSTINGS", 10)
        async with opened() as books:
            kept = await books.reserve(7, user="ana/kept")
            for number in range(100):
                await books.budget.call(Fits(f"ana/{number}", "editor", "openai", "m", 1))
            assert len(books.budget.incarnation._accounts.balances) < 60
            await books.settle(kept, 7)
            assert await books.spent_and_held("daemon") == (7, 0)
            await balanced(books)

    async def test_names_that_nobody_asks_for_are_forgotten_and_what_is_held_for_nothing_counts(self, opened):
        async with opened() as books:
            spent, free = await books.reserve(7, user="ana/spends"), await books.reserve(0, user="ana/free")
            await books.settle(spent, 7)
            for number in range(100):
                await books.reserve(0, user="gone", app=f"app-{number}")
            for hold in [i for i in books.budget.incarnation._open if i != free]:
                await books.settle(hold, 0)
            for _ in range(2):
                books.budget.incarnation._accounts.forget_idle()
            scopes = {account.scope for account in books.budget.incarnation._accounts.balances}
            assert {"user:ana/spends", "user:ana/free"} <= scopes
            assert "app:app-1" not in scopes
            await books.settle(free, 5)
            standing = await books.standing("ana/free")
            assert standing["user:ana/free", "month"].spent_nano_usd == 5
            assert await books.spent_and_held("daemon") == (12, 0)
            await balanced(books)
            await books.budget.call(Fits("asks", "editor", "openai", "m", 0))
            for _ in range(2):
                await books.clock.turn(FORGET_S)
            scopes = {account.scope for account in books.budget.incarnation._accounts.balances}
            assert {"user:ana/spends", "user:ana/free"} <= scopes
            assert "user:asks" not in scopes

    @pytest.mark.parametrize("way", ["idle", "many others", "after a crash", "in a group"])
    async def test_what_an_open_hold_of_nothing_comes_to_cost_counts_however_much_was_forgotten(
        self, opened, monkeypatch, way
    ):
        monkeypatch.setattr("actors.accounts.POSTINGS", 10)
        async with opened() as books:
            start = books.start("ana/free", "its-app", "its-provider")
            reserve = Reserve(start, NanoUSD(0))
            await books.budget.call(ReserveGroup((reserve,)) if way == "in a group" else reserve)
            if way == "after a crash":
                books.budget.incarnation.crash(ZeroDivisionError())
                with capture_logs():
                    await books.standing("ana")
            for number in range(100 if way == "many others" else 0):
                await books.budget.call(Fits(f"ana/{number}", f"app-{number}", "openai", "m", 0))
            for _ in range(3):
                books.budget.incarnation._accounts.forget_idle()
            await books.settle(start.usage_id, 5)
            for scope in ("user:ana/free", "user:ana", "app:its-app", "provider:its-provider", "daemon"):
                counted = [b.spent for a, b in books.budget.incarnation._accounts.balances.items() if a.scope == scope]
                assert counted == [5, 5]  # the month and the day
            await balanced(books)

    @pytest.mark.parametrize("position", [0, 1])
    async def test_who_gives_up_leaves_its_place_to_those_behind(self, opened, position):
        async with opened() as books:
            await books.reserve(60)
            queue = await waiting(books, 80, 30)
            assert admitted(queue) == [False, False]
            queue[position].task.cancel()
            await calm()
            await waiting(books)
            assert admitted(queue) == ([True, True] if position == 0 else [False, True])
            assert len(books.budget.incarnation._turns) == (0 if position == 0 else 1)
            queue[0].task.cancel()

    async def test_who_waits_when_the_budget_stops_hears_it(self, opened):
        async with opened() as books:
            await books.reserve(60)
            (large,) = await waiting(books, 80)
        with pytest.raises(ShuttingDown):
            await large.task

    async def test_a_raised_limit_lets_in(self, opened):
        async with opened(Limits()) as books:
            await books.change("month_usd", 100e-9)
            await books.reserve(60)
            (large,) = await waiting(books, 80)
            await books.change("month_usd", 140e-9)
            await large.task

    async def test_a_lowered_limit_tells_who_can_never_fit(self, opened):
        async with opened(Limits()) as books:
            await books.change("month_usd", 100e-9)
            await books.reserve(60)
            (large,) = await waiting(books, 80)
            await books.change("month_usd", 70e-9)
            with pytest.raises(OverBudget):
                await large.task

    async def test_in_a_new_period_there_is_room(self, opened):
        clock = TurnedClock("2027-03-31T23:59:00Z")
        async with opened(clock=clock) as books:
            first = await books.reserve(60)
            queue = await waiting(books, 80, 30)
            clock.set("2027-04-01T00:00:01Z")
            await books.settle(first, 60)
            await waiting(books)
            assert admitted(queue) == [True, False]
            assert await books.spent_and_held("daemon") == (0, 80)
            await books.settle(queue[0].usage_id, 0)
            await queue[1].task
            await books.settle(queue[1].usage_id, 0)
            await balanced(books)

    async def test_a_crash_of_the_budget_tells_those_who_wait(self, opened):
        async with opened() as books:
            await books.reserve(60)
            (large,) = await waiting(books, 80)
            books.budget.incarnation.crash(ZeroDivisionError())
            with pytest.raises(Busy, match="restarted"):
                await large.task

    async def test_held_says_how_long_a_hold_lives(self, opened):
        async with opened() as books:
            for _ in range(60):
                usage_id = await books.reserve(60)
                await books.clock.turn(8)
                await books.settle(usage_id, 0)
            await books.reserve(60)
            with pytest.raises(BudgetHeld) as refused:
                await books.reserve(60)
            assert 7 < refused.value.retry_after_s <= 8


class TestLeases:
    @pytest.mark.parametrize(("sent", "status", "spent"), [(False, "not_sent", 0), (True, "unknown", 60)])
    async def test_a_hold_that_nobody_settles_ends_with_its_lease(self, opened, sent, status, spent):
        async with opened() as books:
            start = books.start()
            await books.budget.call(Reserve(start, 60, lease_s=100.0))
            if sent:
                books.dispatched.mark(start.usage_id)
            await books.clock.turn(99)
            assert await books.spent_and_held("daemon") == (0, 60)
            with capture_logs() as logged:
                await books.clock.turn(LEASE_LOOK_S + 1)
                await books.store.written()
            assert await books.spent_and_held("daemon") == (spent, 0)
            assert books.rows("SELECT status, cost FROM usage") == [(status, spent)]
            assert [e["usage_id"] for e in logged if e["event"] == "lease_ended"] == [start.usage_id]
            assert [h.state for h in (await books.ledger.call(ReadHolds())).holds] == (["unknown"] if sent else [])
            await books.settle(start.usage_id, 5)
            assert await books.spent_and_held("daemon") == (spent, 0)
            await balanced(books)

    async def test_a_clock_that_is_set_forward_ends_no_lease(self, opened):
        async with opened() as books:
            await books.reserve(60)
            books.clock.set("2027-03-10T18:00:00Z")
            await books.clock.turn(LEASE_LOOK_S + 1)
            assert await books.spent_and_held("daemon") == (0, 60)


class TestMarks:
    async def test_a_soft_call_runs_while_less_than_the_limit_is_spent(self, opened):
        async with opened(ANAS) as books:
            holds = [books.start() for _ in range(3)]
            marks = [await books.budget.call(Reserve(start, 60, admission="soft")) for start in holds]
            assert marks == [(), ("soft",), ("soft",)]
            for start in holds:
                await books.settle(start.usage_id, 50)
            with pytest.raises(OverBudget):
                await books.budget.call(Reserve(books.start(), 60, admission="soft"))
            assert books.rows("SELECT marks FROM usage ORDER BY id") == [("",), ("soft",), ("soft",)]

    async def test_an_overrun_is_marked_and_counted(self, opened):
        async with opened() as books:
            await books.settle(await books.reserve(10), 12)
            assert books.rows("SELECT cost, held, marks FROM usage") == [(12, 10, "overrun")]

    async def test_a_hold_above_a_limit_that_is_lowered_says_so(self, opened):
        async with opened(Limits()) as books:
            await books.change("month_usd", 100e-9)
            low, high = await books.reserve(10), await books.reserve(0)
            await books.change("day_usd", 9e-9)
            other = await books.reserve(30, user="bob")
            for usage_id in (low, high, other):
                await books.settle(usage_id, 0)
            assert books.rows("SELECT marks FROM usage ORDER BY id") == [("limit_lowered",), ("",), ("",)]

    async def test_a_budget_that_its_user_does_not_enforce_stops_nothing_but_hard_limits_do(self, opened):
        async with opened(Limits(daemon=month(300), users={"ana": month(100)})) as books:
            await books.change("enforce_budget_limits", False)
            start = books.start()
            assert await books.budget.call(Reserve(start, 150)) == ("unenforced",)
            with pytest.raises(BudgetHeld):
                await books.reserve(151)
            await books.change("enforce_budget_limits", True)
            with pytest.raises(OverBudget):
                await books.reserve(101)

    async def test_a_name_below_an_account_does_not_unenforce_the_accounts_budget(self, opened):
        async with opened(ANAS) as books:
            await books.change("enforce_budget_limits", False, "ana/kid")
            with pytest.raises(OverBudget):
                await books.reserve(101, user="ana/kid")

    @pytest.mark.parametrize("limits", [ANAS, Limits()])
    async def test_without_a_price_only_a_hard_limit_refuses(self, opened, limits):
        async with opened(limits) as books:
            await books.settle(await books.reserve(None), None)
        hard = Limits(users={"ana": Limit(100, hard=True)})
        async with opened(hard) as books:
            with pytest.raises(PriceUnknown, match="input_usd_per_mtok"):
                await books.reserve(None)


async def offered(books, user="ana"):
    return (await books.budget.call(OfferOverride(user, "openai:gpt-4o", BODY, NanoUSD(60)))).token


def confirming(books, token, body=BODY, user="ana", **fields):
    return Reserve(books.start(user, **fields), 60, confirmed=Confirmed(token, body, ROOT))


class TestOffers:
    async def test_a_token_lets_one_call_pass_with_an_audit_entry_that_its_settlement_completes(self, opened):
        async with opened(ANAS) as books:
            await books.settle(await books.reserve(70), 70)
            request = confirming(books, await offered(books))
            assert await books.budget.call(request) == ("override",)
            ((entry,),) = [(await books.ledger.call(ReadAudit(Audit(), None))).entries]
            assert (entry.before, entry.after, entry.cost_nano_usd) == ("70", None, None)
            await books.settle(request.start.usage_id, 42)
            ((entry,),) = [(await books.ledger.call(ReadAudit(Audit(), None))).entries]
            assert (entry.action, entry.subject) == ("override.confirmed", request.start.usage_id)
            assert (entry.actor_uid, entry.user, entry.app) == (0, "root", "test")
            assert (entry.before, entry.after, entry.cost_nano_usd) == ("70", "112", 42)
            with pytest.raises(OverrideInvalid):
                await books.budget.call(confirming(books, request.confirmed.token))

    @pytest.mark.parametrize("wrong", ["user", "body", "token", "late", "tomorrow"])
    async def test_a_token_is_good_for_its_user_request_and_period_alone(self, opened, wrong):
        clock = TurnedClock("2027-03-10T23:59:00Z")
        async with opened(ANAS, clock=clock) as books:
            token = await offered(books)
            await books.budget.call(CheckOverride(token, "ana", BODY))
            user, body = ("bob" if wrong == "user" else "ana"), (b"other" if wrong == "body" else BODY)
            if wrong == "late":
                clock.seconds += OFFER_S + 1
            if wrong == "tomorrow":
                clock.set("2027-03-11T00:00:30Z")
            token = "other" if wrong == "token" else token
            with pytest.raises(OverrideInvalid, match="not good"):
                await books.budget.call(CheckOverride(token, user, body))
            with pytest.raises(OverrideInvalid):
                await books.budget.call(confirming(books, token, body, user))
            assert books.rows("SELECT * FROM journal") == []

    async def test_a_token_for_one_model_lets_no_other_pass(self, opened):
        async with opened(ANAS) as books:
            await books.settle(await books.reserve(70), 70)
            token = await offered(books)
            with pytest.raises(OverBudget):
                await books.budget.call(confirming(books, token, model="openai:gpt-4o-dear"))
            assert await books.budget.call(confirming(books, token)) == ("override",)

    async def test_a_token_does_not_pass_a_hard_limit_and_stays_good(self, opened):
        async with opened(Limits(daemon=month(110), users={"ana": month(100)})) as books:
            await books.settle(await books.reserve(45), 45)
            held = await books.reserve(20, user="bob")
            token = await offered(books)
            with pytest.raises(BudgetHeld):
                await books.budget.call(confirming(books, token))
            await books.settle(held, 0)
            assert await books.budget.call(confirming(books, token)) == ("override",)


async def granted(books, amount=100, user="ana", until_s=3600):
    until = books.clock.now_us() + until_s * 1_000_000
    return await books.budget.call(GrantOverride(user, amount, until, "the release", ROOT))


class TestGrants:
    async def test_calls_pass_the_budget_until_the_amount_is_used_up(self, opened):
        async with opened(ANAS) as books:
            await books.settle(await books.reserve(100), 100)
            row = await granted(books)
            start = books.start()
            assert await books.budget.call(Reserve(start, 60)) == ("override",)
            with pytest.raises(OverBudget):
                await books.reserve(41)
            await books.settle(start.usage_id, 30)
            (shown,) = await books.budget.call(ListOverrides("ana"))
            assert (shown.override_id, shown.spent_nano_usd, shown.held_nano_usd) == (row.override_id, 30, 0)
            await books.settle(await books.reserve(70), 70)
            with pytest.raises(OverBudget):
                await books.reserve(1)
            await balanced(books)

    async def test_what_fits_below_the_budget_uses_no_override(self, opened):
        async with opened(ANAS) as books:
            await granted(books)
            await books.settle(await books.reserve(100), 100)
            (shown,) = await books.budget.call(ListOverrides(None))
            assert shown.spent_nano_usd == 0

    async def test_it_ends_and_survives_a_restart_with_what_is_spent_of_it(self, opened):
        clock = TurnedClock()
        async with opened(ANAS, clock=clock) as books:
            await books.settle(await books.reserve(100), 100)
            await granted(books)
            await books.settle(await books.reserve(60), 60)
        async with opened(ANAS, clock=clock) as books:
            with pytest.raises(OverBudget):
                await books.reserve(41)
            await books.settle(await books.reserve(40), 10)
            await clock.turn(3601)
            assert await books.budget.call(ListOverrides(None)) == []
            with pytest.raises(OverBudget):
                await books.reserve(1)

    async def test_a_revoked_one_lets_nothing_pass_and_is_audited(self, opened):
        async with opened(ANAS) as books:
            await books.settle(await books.reserve(100), 100)
            row = await granted(books)
            with pytest.raises(NotFound):
                await books.budget.call(RevokeOverride(row.override_id, "bob", ROOT))
            await books.budget.call(RevokeOverride(row.override_id, "ana", ROOT))
            with pytest.raises(OverBudget):
                await books.reserve(1)
            entries = (await books.ledger.call(ReadAudit(Audit(), None))).entries
            assert [(e.action, e.why) for e in entries] == [
                ("override.revoked", None),
                ("override.granted", "the release"),
            ]
        async with opened(ANAS) as books:
            assert await books.budget.call(ListOverrides(None)) == []

    @pytest.mark.parametrize(("amount", "until_s"), [(0, 60), (5, 0), (5, -60), (5, 400 * 86_400)])
    async def test_one_without_amount_or_end_is_refused(self, opened, amount, until_s):
        async with opened(ANAS) as books:
            with pytest.raises(BadRequest):
                await granted(books, amount, until_s=until_s)

    async def test_an_account_has_so_many_at_once_and_no_more(self, opened):
        async with opened(ANAS) as books:
            for number in range(MOST_GRANTS):
                await granted(books, user="ana" if number % 2 else f"ana/{number}")
            with pytest.raises(BadRequest, match="revoke some"):
                await granted(books)
            await granted(books, user="bob")
            await books.clock.turn(3601)
            await granted(books)

    async def test_it_is_the_users_own(self, opened):
        limits = Limits(users={"ana": month(100), "bob": month(100), "ana/kid": month(10)})
        async with opened(limits) as books:
            await granted(books, 1000, user="bob")
            with pytest.raises(OverBudget):
                await books.reserve(101)
            await granted(books, 1000, user="ana/kid")
            with pytest.raises(OverBudget):
                await books.reserve(101, user="ana/kid")
            assert await books.reserve(50, user="ana/kid")


class TestAlerts:
    async def alerts(self, books):
        await books.store.written()
        rows = await books.ledger.call(ReadAlerts(100))
        return [(a.scope, a.level, a.spent_nano_usd, a.limit_nano_usd) for a in reversed(rows)]

    async def test_each_level_once_and_a_jump_each_that_it_crosses(self, opened):
        async with opened() as books:
            for cost in (74, 1, 4, 1, 15, 0):
                await books.settle(await books.reserve(cost), cost)
            assert await self.alerts(books) == [
                ("daemon", 75, 75, 100),
                ("daemon", 80, 80, 100),
                ("daemon", 90, 95, 100),
            ]
            answer = await books.budget.call(Settle(await books.reserve(5), attempt_end(5)))
            assert [alert.level for alert in answer] == [100]
            assert isinstance(answer[0], Alert)
            assert answer[0].suggestion

    async def test_a_restart_repeats_none_and_a_changed_limit_or_period_arms_again(self, opened):
        clock = TurnedClock("2027-03-31T12:00:00Z")
        async with opened(ANAS, clock=clock) as books:
            await books.settle(await books.reserve(85), 85)
        async with opened(ANAS, clock=clock) as books:
            await books.settle(await books.reserve(1), 1)
            assert [level for _, level, _, _ in await self.alerts(books)] == [75, 80]
            await books.change("month_usd", 90e-9)
            assert await self.alerts(books) == [
                ("user:ana", 75, 85, 100),
                ("user:ana", 80, 85, 100),
                ("user:ana", 75, 86, 90),
                ("user:ana", 80, 86, 90),
                ("user:ana", 90, 86, 90),
            ]
            clock.set("2027-04-01T12:00:00Z")
            await books.settle(await books.reserve(80), 80)
            assert [(level, limit) for _, level, _, limit in (await self.alerts(books))[5:]] == [(75, 90), (80, 90)]

    async def test_a_limit_that_was_lowered_while_it_was_down_is_told_at_the_start(self, opened):
        async with opened() as books:
            await books.settle(await books.reserve(50), 50)
        async with opened(Limits(daemon=month(60))) as books:
            assert await self.alerts(books) == [("daemon", 75, 50, 60), ("daemon", 80, 50, 60)]

    async def test_nothing_spent_reaches_nothing(self, opened):
        async with opened(Limits(daemon=month(0))) as books:
            await books.settle(await books.reserve(0), 0)
            assert await self.alerts(books) == []


class TestResolve:
    async def lost(self, books):
        start = books.start()
        await books.budget.call(Reserve(start, 60, lease_s=1.0))
        books.dispatched.mark(start.usage_id)
        await books.clock.turn(LEASE_LOOK_S + 1)
        await books.store.written()
        return start.usage_id

    @pytest.mark.parametrize("cost", [0, 25, 60, 80])
    async def test_what_nobody_knew_is_corrected_with_an_audit_entry(self, opened, cost):
        async with opened() as books:
            usage_id = await self.lost(books)
            await books.budget.call(Resolve(usage_id, cost, "the bill", ROOT))
            assert await books.spent_and_held("daemon") == (cost, 0)
            assert books.rows("SELECT cost, cost_source, status FROM usage") == [(cost, "corrected", "unknown")]
            assert (await books.ledger.call(ReadHolds())).holds == []
            (entry,) = (await books.ledger.call(ReadAudit(Audit(), None))).entries
            assert (entry.action, entry.subject, entry.before, entry.after, entry.why) == (
                "holds.resolve",
                usage_id,
                "60",
                str(cost),
                "the bill",
            )
            with pytest.raises(NotFound):
                await books.budget.call(Resolve(usage_id, 1, "again", ROOT))
            await balanced(books)

    async def test_two_at_once_correct_once(self, opened):
        async with opened() as books:
            usage_id = await self.lost(books)
            tries = [books.budget.call(Resolve(usage_id, 10, "the bill", ROOT)) for _ in range(2)]
            told = await asyncio.gather(*tries, return_exceptions=True)
            assert [type(t) for t in told] == [type(None), NotFound]
            await balanced(books)

    async def test_a_call_under_way_is_nobodys_to_resolve(self, opened):
        async with opened() as books:
            with pytest.raises(BadRequest, match="under way"):
                await books.budget.call(Resolve(await books.reserve(10), 1, "why", ROOT))
            with pytest.raises(NotFound):
                await books.budget.call(Resolve("nothing", 1, "why", ROOT))

    async def test_a_dearer_one_reaches_its_alerts(self, opened):
        async with opened() as books:
            await books.budget.call(Resolve(await self.lost(books), 92, "the bill", ROOT))
            await books.store.written()
            assert [a.level for a in await books.ledger.call(ReadAlerts(9))] == [90, 80, 75]
