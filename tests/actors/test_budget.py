import asyncio
from contextlib import asynccontextmanager
from zoneinfo import ZoneInfo

import pytest
from structlog.testing import capture_logs
from worlds import NOON, TurnedClock, attempt_end, calm, month, open_books, rows, until

from actors.base import handles
from actors.budget import BudgetActor
from actors.ledger import Ledger
from actors.rules.admission import Limits
from actors.store import sqlite
from protocols.budget import Account, PostHold, PostSettlement, Reserve, Settle, Standing, Verify
from protocols.errors import BudgetExceeded, BudgetHeld, Busy, Internal, LedgerReadonly, PriceUnknown
from protocols.request import Request

pytestmark = pytest.mark.anyio

BERLIN = ZoneInfo("Europe/Berlin")
MONTHLY = Limits(daemon=month(100))


class Break(Request[None], frozen=True):
    pass


class BreakableBudget(BudgetActor):
    @handles(Break)
    def broken(self, _):
        self._accounts.balances.clear()
        self._open.clear()
        raise ZeroDivisionError


class TornLedger(Ledger):
    """Crashes on the postings of the user `torn`."""

    @handles(PostHold)
    def post_hold(self, post):
        if post.hold.start.user == "torn hold":
            raise ZeroDivisionError
        return super().post_hold(post)

    @handles(PostSettlement)
    def post_settlement(self, post):
        if post.hold.start.user == "torn settlement" and post.end.cost == 13:
            raise ZeroDivisionError
        return super().post_settlement(post)


@pytest.fixture
def opened(tmp_path):
    """Opens the books of this test's folder."""

    def with_limits(limits=MONTHLY, **how):
        return open_books(tmp_path, limits=limits, **how)

    return with_limits


async def balanced(books):
    await books.store.written()
    verdict = await books.ledger.call(Verify())
    assert verdict.problems == []
    in_memory = books.budget.incarnation._accounts.balances
    for scope, period, label, spent, held in books.rows("SELECT scope, period, label, spent, held FROM accounts"):
        balance = in_memory.get(Account(scope, period, label))
        assert balance is None or (balance.spent, balance.held) == (spent, held)


async def settled(books, amount, **who):
    await books.settle(await books.reserve(amount, **who), amount)


@pytest.mark.parametrize(
    ("limits", "scope", "who"),
    [
        (Limits(daemon=month(100)), "daemon", {}),
        (Limits(daemon=month(day=100)), "daemon", {}),
        (Limits(users={"ana": month(100)}), "user:ana", {}),
        (Limits(users={"ana": month(day=100)}), "user:ana", {}),
        (Limits(users={"*": month(100)}), "user:ana", {}),
        (Limits(users={"ana": month(100)}), "user:ana", {"user": "ana/kid"}),
        (Limits(users={"*": month(100)}), "user:ana", {"user": "ana/kid"}),
        (Limits(users={"ana/kid": month(100)}), "user:ana/kid", {"user": "ana/kid"}),
        (Limits(apps={"editor": month(100)}), "app:editor", {}),
        (Limits(apps={"editor": month(day=100)}), "app:editor", {}),
        (Limits(providers={"openai": month(100)}), "provider:openai", {}),
        (Limits(daemon=month(500), apps={"editor": month(1000, day=100)}), "app:editor", {}),
    ],
)
async def test_what_fits_below_the_limit_to_the_last_nano_dollar_is_admitted_and_no_more(opened, limits, scope, who):
    async with opened(limits) as books:
        await settled(books, 60, **who)
        await settled(books, 40, **who)
        with pytest.raises(BudgetExceeded) as refused:
            await books.reserve(1, **who)
        assert (refused.value.detail["scope"], refused.value.detail["limit_nano_usd"]) == (scope, 100)
        await books.reserve(0, **who)
        await balanced(books)


@pytest.mark.parametrize(
    ("limits", "who"),
    [
        (Limits(users={"ana": month(10)}), {"user": "bob"}),
        (Limits(users={"ana": month(10)}), {"user": "anabel"}),
        (Limits(users={"ana/kid": month(10)}), {"user": "ana"}),
        (Limits(users={"*": month(10), "ana": month(200)}), {}),
        (Limits(apps={"agent": month(10)}), {}),
        (Limits(providers={"anthropic": month(10)}), {}),
        (Limits(), {}),
    ],
)
async def test_a_limit_binds_nobody_else(opened, limits, who):
    async with opened(limits) as books:
        await books.reserve(150, **who)


async def test_a_hold_is_taken_in_every_scope_or_in_none(opened):
    limits = Limits(daemon=month(1000), users={"ana": month(500)}, providers={"openai": month(day=50)})
    async with opened(limits) as books:
        with pytest.raises(BudgetExceeded):
            await books.reserve(51)
        assert [await books.spent_and_held(s) for s in ("daemon", "user:ana")] == [(0, 0), (0, 0)]
        assert books.rows("SELECT * FROM journal") == []
        await books.reserve(50)
        assert await books.spent_and_held("daemon") == (0, 50)
        assert await books.spent_and_held("provider:openai", "day") == (0, 50)


async def test_a_call_that_would_fit_without_the_holds_is_told_to_come_back(opened):
    async with opened() as books:
        usage_id = await books.reserve(60)
        with pytest.raises(BudgetHeld, match="once calls under way have settled") as held:
            await books.reserve(41)
        assert held.value.retry_after_s == 1.0
        assert held.value.detail == {
            "percent_used": 0.0,
            "scope": "daemon",
            "period": "month",
            "spent_nano_usd": 0,
            "held_nano_usd": 60,
            "limit_nano_usd": 100,
            "bound_nano_usd": 41,
            "resets_at": "2027-04-01T00:00:00.000Z",
        }
        with pytest.raises(BudgetExceeded):
            await books.reserve(101)
        await books.settle(usage_id, 60)
        with pytest.raises(BudgetExceeded, match="resets at 2027-04-01"):
            await books.reserve(41)


async def test_of_two_calls_at_once_with_room_for_one_exactly_one_is_admitted(opened):
    async with opened() as books:
        answers = await asyncio.gather(*[books.reserve(60) for _ in range(2)], return_exceptions=True)
        assert sorted(type(answer).__name__ for answer in answers) == ["BudgetHeld", "str"]
        assert books.rows("SELECT sum(amount) FROM holds") == [(60,)]


@pytest.mark.parametrize(
    ("limits", "refused"),
    [
        (Limits(daemon=month(10)), True),
        (Limits(apps={"editor": month(day=0)}), True),
        (Limits(apps={"x": month(1)}), False),
    ],
)
async def test_a_model_without_a_price_is_refused_below_a_limit_alone(opened, limits, refused):
    async with opened(limits) as books:
        if refused:
            with pytest.raises(PriceUnknown, match=r'\[models."openai:gpt-4o"\]'):
                await books.reserve(None)
        else:
            await books.settle(await books.reserve(None), None)
            assert books.rows("SELECT cost, cost_source FROM usage") == [(None, "unknown")]
        await balanced(books)


@pytest.mark.parametrize(
    ("limits", "config", "key", "owner", "usd", "admitted"),
    [
        (Limits(), {}, "month_usd", "ana", 0.5, 500_000_000),
        (Limits(), {}, "day_usd", "ana", 0.5, 500_000_000),
        (Limits(users={"ana": month(300_000_000)}), {}, "month_usd", "ana", 0.5, 300_000_000),
        (Limits(users={"ana": month(700_000_000)}), {}, "month_usd", "ana", 0.5, 500_000_000),
        (Limits(), {}, "month_usd", "*", 0.5, 500_000_000),
        (Limits(), {"month_usd": 0.5}, "day_usd", "ana", 0.9, 500_000_000),
    ],
)
async def test_the_lower_of_the_config_and_the_users_own_limit_binds_the_next_hold(
    opened, limits, config, key, owner, usd, admitted
):
    async with opened(limits, config=config) as books:
        earlier = await books.reserve(1)
        await books.change(key, usd, owner)
        with pytest.raises((BudgetExceeded, BudgetHeld)):
            await books.reserve(admitted)
        await books.reserve(admitted - 1)
        await books.settle(earlier, 1)
        await balanced(books)


async def test_a_default_for_everybody_is_each_accounts_own_and_shown_as_such(opened):
    async with opened(Limits(), config={"month_usd": 0.5}) as books:
        await books.reserve(500_000_000, "ana")
        await books.reserve(500_000_000, "bob/kid")
        with pytest.raises(BudgetHeld):
            await books.reserve(1, "bob")
        for user in ("ana", "bob", "new"):
            assert (await books.standing(user))[f"user:{user}", "month"].limit_nano_usd == 500_000_000


async def test_a_limit_that_is_lowered_refuses_new_holds_and_leaves_spend_and_holds(opened):
    async with opened(Limits()) as books:
        under_way = await books.reserve(600_000_000)
        await settled(books, 600_000_000)
        await books.change("month_usd", 1)
        with pytest.raises(BudgetExceeded):
            await books.reserve(500_000_000)
        await books.settle(under_way, 600_000_000)
        assert await books.spent_and_held("user:ana") == (1_200_000_000, 0)
        await balanced(books)


async def test_settings_are_heard_after_the_settings_actor_crashed(opened):
    async with opened(Limits()) as books:
        books.settings.incarnation.crash(ZeroDivisionError())
        with capture_logs():
            await books.change("month_usd", 1)
        with pytest.raises(BudgetExceeded):
            await books.reserve(1_000_000_001)


async def test_spend_below_the_hold_gives_the_rest_back(opened):
    async with opened() as books:
        usage_id = await books.reserve(90)
        await books.settle(usage_id, 30)
        assert await books.spent_and_held("daemon") == (30, 0)
        await books.reserve(70)


async def test_an_overrun_is_stored_and_counted_and_logged(opened):
    async with opened() as books:
        usage_id = await books.reserve(90)
        with capture_logs() as logged:
            await books.settle(usage_id, 130)
        assert logged[0]["event"] == "overrun"
        assert (logged[0]["hold_nano_usd"], logged[0]["cost_nano_usd"]) == (90, 130)
        assert await books.spent_and_held("daemon") == (130, 0)
        with pytest.raises(BudgetExceeded):
            await books.reserve(1)
        await balanced(books)


async def test_settling_twice_is_settling_once(opened):
    async with opened() as books:
        usage_id = await books.reserve(90)
        await asyncio.gather(books.settle(usage_id, 30), books.settle(usage_id, 50))
        await books.settle(usage_id, 60)
        await books.settle("0000000000000", 60)
        assert await books.spent_and_held("daemon") == (30, 0)
        assert books.rows("SELECT cost FROM usage") == [(30,)]
        await balanced(books)


@pytest.mark.parametrize(
    ("zone", "late", "period", "next_start"),
    [
        (ZoneInfo("UTC"), "2027-03-31T23:59:59Z", "month", "2027-04-01T00:00:00.000Z"),
        (BERLIN, "2027-03-31T21:59:59Z", "month", "2027-03-31T22:00:00.000Z"),
        (BERLIN, "2027-03-28T21:59:59Z", "day", "2027-03-28T22:00:00.000Z"),
        (BERLIN, "2027-10-31T22:59:59Z", "day", "2027-10-31T23:00:00.000Z"),
    ],
)
async def test_a_new_period_begins_empty(opened, zone, late, period, next_start):
    async with opened(Limits(daemon=month(**{"nano" if period == "month" else "day": 100})), zone=zone) as books:
        books.clock.set(late)
        await settled(books, 100)
        with pytest.raises(BudgetExceeded):
            await books.reserve(1)
        await books.clock.turn(1)
        row = (await books.standing())["daemon", period]
        assert (row.starts_at, row.spent_nano_usd) == (next_start, 0)
        await books.reserve(100)
        await balanced(books)


@pytest.mark.parametrize(
    ("noon", "hours"), [("2027-03-28T10:00:00Z", 23), ("2027-03-29T10:00:00Z", 24), ("2027-10-31T11:00:00Z", 25)]
)
async def test_a_day_of_a_clock_change_is_as_long_as_it_is(opened, noon, hours):
    async with opened(Limits(daemon=month(day=100)), zone=BERLIN) as books:
        books.clock.set(noon)
        row = (await books.standing())["daemon", "day"]
        start, end = (row.starts_at, row.resets_at)
        books.clock.set(start)
        await settled(books, 100)
        await books.clock.turn(hours * 3600 - 1)
        with pytest.raises(BudgetExceeded):
            await books.reserve(1)
        await books.clock.turn(1)
        assert (await books.standing())["daemon", "day"].starts_at == end
        await books.reserve(100)


async def spend(books):
    return [(await books.spent_and_held("daemon", period))[0] for period in ("month", "day")]


DAILY = Limits(daemon=month(1000, day=1000))


@pytest.mark.parametrize(
    ("back_to", "label"),
    [("2027-03-09T23:55:00Z", "2027-03-10"), ("2027-03-09T23:54:59Z", "2027-03-09")],
)
async def test_a_small_step_back_stays_in_the_period_and_a_large_one_leaves_it(opened, back_to, label):
    async with opened(DAILY) as books:
        books.clock.set("2027-03-10T00:00:01Z")
        await settled(books, 100)
        books.clock.set(back_to)
        assert (await books.standing())["daemon", "day"].starts_at.startswith(label)


@pytest.mark.parametrize("away", ["2027-03-11T12:00:00Z", "2027-04-01T12:00:00Z", "2036-01-01T00:00:00Z"])
@pytest.mark.parametrize("restart", [(), ("away",), ("back",), ("away", "back")])
async def test_a_clock_that_goes_forward_and_back_finds_the_spend_again(opened, away, restart):
    clock = TurnedClock()
    async with opened(DAILY, clock=clock) as books:
        await settled(books, 100)
        clock.set(away)
        if "away" not in restart:
            await settled(books, 30)
            clock.set(NOON)
            if "back" not in restart:
                assert await spend(books) == [130 if away < "2027-04" else 100, 100]
                await settled(books, 1)
                await balanced(books)
    if "away" in restart:
        async with opened(DAILY, clock=clock) as books:
            await settled(books, 30)
            clock.set(NOON)
            if "back" not in restart:
                await reopened_if_needed(books)
                assert await spend(books) == [130 if away < "2027-04" else 100, 100]
                await settled(books, 1)
                await balanced(books)
    async with opened(DAILY, clock=clock) as books:
        in_march = 30 if away < "2027-04" else 0
        once_more = 0 if "back" in restart else 1
        assert await spend(books) == [100 + in_march + once_more, 100 + once_more]
        await settled(books, 1)
        await balanced(books)


async def reopened_if_needed(books):
    with capture_logs():
        try:
            await books.standing()
        except Busy:
            await until(lambda: books.budget.incarnation)


async def test_a_clock_that_goes_back_beyond_what_is_in_memory_has_it_read(opened):
    async with opened(DAILY) as books:
        await settled(books, 100)
        for _ in range(3):
            await books.clock.turn(40 * 86_400)
            await settled(books, 1)
        books.clock.set(NOON)
        with capture_logs() as logged:
            with pytest.raises(Busy):
                await books.reserve(1)
            await until(lambda: books.budget.incarnation)
        assert [event["event"] for event in logged] == ["actor_crashed"]
        assert await spend(books) == [100, 100]
        with pytest.raises(BudgetExceeded):
            await books.reserve(901)
        await settled(books, 900)
        await balanced(books)


@pytest.mark.parametrize(
    "zones",
    [("UTC", "Europe/Berlin"), ("Pacific/Kiritimati", "Pacific/Pago_Pago"), ("Pacific/Pago_Pago", "Asia/Tokyo")],
)
@pytest.mark.parametrize("at", ["2027-03-10T12:00:00Z", "2027-03-31T09:30:00Z"])
async def test_a_change_of_the_time_zone_keeps_the_months_spend(opened, tmp_path, zones, at):
    clock = TurnedClock(at)
    async with opened(MONTHLY, clock=clock, zone=ZoneInfo(zones[0])) as books:
        await settled(books, 60)
    async with opened(MONTHLY, clock=clock, zone=ZoneInfo(zones[1])) as books:
        if at < "2027-03-11":
            assert await books.spent_and_held("daemon") == (60, 0)
            with pytest.raises(BudgetExceeded):
                await books.reserve(41)
        await settled(books, 40)
        await balanced(books)
    if at < "2027-03-11":
        assert rows(tmp_path, "SELECT label, spent FROM accounts WHERE scope = 'daemon' AND period = 'month'") == [
            ("2027-03", 100)
        ]


async def test_a_hold_belongs_to_the_period_in_which_it_was_taken(opened):
    async with opened(Limits(daemon=month(1000, day=100))) as books:
        books.clock.set("2027-03-31T23:59:59Z")
        usage_id = await books.reserve(90)
        await books.clock.turn(2)
        assert await books.spent_and_held("daemon") == (0, 0)
        await books.settle(usage_id, 80)
        assert await books.spent_and_held("daemon") == (0, 0)
        found = books.rows("SELECT period, label, spent, held FROM accounts WHERE scope = 'daemon' AND spent > 0")
        assert sorted(found) == [("day", "2027-03-31", 80, 0), ("month", "2027-03", 80, 0)]
        await balanced(books)


async def test_a_hold_over_the_end_of_its_period_survives_a_crash(opened):
    async with opened(Limits(daemon=month(day=100)), budget_class=BreakableBudget) as books:
        usage_id = await books.reserve(90)
        await books.clock.turn(86_400)
        await books.reserve(1)
        with capture_logs(), pytest.raises(Internal):
            await books.budget.call(Break())
        await books.settle(usage_id, 80)
        await balanced(books)
        assert await books.spent_and_held("daemon", "day") == (0, 1)


@pytest.mark.parametrize("turns", range(12))
async def test_a_caller_that_is_cancelled_while_the_hold_is_written_gives_it_back(opened, turns):
    async with opened() as books:
        start = books.start()
        asking = asyncio.get_running_loop().create_task(books.budget.call(Reserve(start, 90)))
        for _ in range(turns):
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])
        await books.budget.deliver(Settle(start.usage_id, attempt_end(0, status="cancelled")))
        assert await books.spent_and_held("daemon") == (0, 0)
        await balanced(books)
        await books.reserve(100)


@pytest.mark.parametrize("turns", range(6))
async def test_a_caller_that_is_cancelled_while_the_ledger_restarts_gives_its_hold_back(opened, turns):
    async with opened() as books:
        books.ledger.incarnation.crash(ZeroDivisionError())
        start = books.start()
        with capture_logs():
            asking = asyncio.get_running_loop().create_task(books.budget.call(Reserve(start, 90)))
            for _ in range(turns):
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait([asking])
            await books.budget.deliver(Settle(start.usage_id, attempt_end(0, status="cancelled")))
        assert await books.spent_and_held("daemon") == (0, 0)
        await balanced(books)
        await books.reserve(100)


@asynccontextmanager
async def full_disk(books, monkeypatch):
    """Every commit finds the disk full, as SQLite says it."""
    real = sqlite._apply

    def full(connection, group):
        if group:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        error = sqlite.sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite.sqlite3.SQLITE_FULL
        raise error

    monkeypatch.setattr(sqlite, "RETRY_S", 0.001)
    monkeypatch.setattr(sqlite, "_apply", full)
    with capture_logs():
        yield
    monkeypatch.setattr(sqlite, "_apply", real)
    await until(lambda: not books.store._waiting)
    await books.store.written()


async def test_on_a_full_disk_no_hold_is_promised_and_settlements_wait_for_room(opened, monkeypatch):
    async with opened() as books:
        earlier = await books.reserve(50)
        async with full_disk(books, monkeypatch):
            for user in ("ana", "somebody new"):
                with pytest.raises(LedgerReadonly):
                    await books.reserve(50, user)
            settling = asyncio.get_running_loop().create_task(books.settle(earlier, 20))
            await calm()
            assert not settling.done()
            assert await books.spent_and_held("daemon") == (20, 0)
        await settling
        await balanced(books)
        await books.reserve(80)
        await balanced(books)


async def test_a_cancelled_caller_on_a_full_disk_leaves_no_promise(opened, monkeypatch):
    async with opened() as books:
        async with full_disk(books, monkeypatch):
            start = books.start()
            asking = asyncio.get_running_loop().create_task(books.budget.call(Reserve(start, 90)))
            await asyncio.sleep(0)
            asking.cancel()
            await books.budget.deliver(Settle(start.usage_id, attempt_end(0)))
        assert await books.spent_and_held("daemon") == (0, 0)
        await balanced(books)


async def test_an_account_and_a_name_below_it_are_both_counted(opened):
    async with opened(Limits(users={"ana": month(100), "ana/kid": month(30)})) as books:
        await settled(books, 30, user="ana/kid")
        await settled(books, 50, user="ana/new")
        with pytest.raises(BudgetExceeded) as refused:
            await books.reserve(1, "ana/kid")
        assert refused.value.detail["scope"] == "user:ana/kid"
        with pytest.raises(BudgetExceeded) as refused:
            await books.reserve(21, "ana/invented")
        assert refused.value.detail["scope"] == "user:ana"
        assert await books.spent_and_held("user:ana") == (80, 0)


async def test_a_crashed_budget_comes_back_with_balances_and_open_holds(opened):
    async with opened(budget_class=BreakableBudget) as books:
        await settled(books, 20)
        open_hold = await books.reserve(30)
        with capture_logs():
            in_flight = asyncio.get_running_loop().create_task(books.reserve(25))
            await asyncio.sleep(0)
            settling = books.budget.deliver(Settle(open_hold, attempt_end(10)))
            with pytest.raises(Internal):
                await books.budget.call(Break())
            waiting = asyncio.get_running_loop().create_task(books.reserve(45))
            usage_ids = await asyncio.gather(in_flight, waiting)
            await settling
        assert books.budget.restarts == 1
        assert await books.spent_and_held("daemon") == (30, 70)
        with pytest.raises(BudgetHeld):
            await books.reserve(1)
        for usage_id in usage_ids:
            await books.settle(usage_id, 5)
        assert await books.spent_and_held("daemon") == (40, 0)
        await balanced(books)


async def test_a_hold_that_crashes_the_ledger_is_no_promise(opened):
    async with opened(ledger_class=TornLedger) as books:
        with capture_logs():
            for _ in range(2):
                with pytest.raises(Internal):
                    await books.reserve(60, "torn hold")
            await books.reserve(100)
        await balanced(books)


async def test_a_hold_that_crashes_the_ledger_from_its_inbox_is_no_promise(opened):
    async with opened(ledger_class=TornLedger) as books:
        books.ledger.incarnation.crash(ZeroDivisionError())
        with capture_logs():
            with pytest.raises(Internal):
                await books.reserve(60, "torn hold")
            await books.reserve(100)
        await balanced(books)


async def test_a_settlement_that_crashes_the_ledger_can_be_made_again(opened):
    async with opened(ledger_class=TornLedger) as books:
        usage_id = await books.reserve(60, "torn settlement")
        with capture_logs(), pytest.raises(Internal):
            await books.settle(usage_id, 13)
        assert await books.spent_and_held("daemon") == (0, 60)
        await balanced(books)
        await books.settle(usage_id, 20)
        assert await books.spent_and_held("daemon") == (20, 0)
        await balanced(books)


@pytest.mark.parametrize(
    ("sent", "boot", "spent"),
    [(False, "boot 1", 20), (True, "boot 1", 50), (False, "boot 2", 50), (True, "boot 2", 50)],
)
async def test_after_a_restart_spend_is_known_and_unknown_is_spent(opened, tmp_path, sent, boot, spent):
    async with opened() as books:
        await settled(books, 20)
        usage_id = await books.reserve(30)
        if sent:
            books.dispatched.mark(usage_id)
    async with opened(boot=boot) as books:
        assert await books.spent_and_held("daemon") == (spent, 0)
        await books.settle(usage_id, 1)
        await balanced(books)
    async with opened(boot=boot) as books:
        assert await books.spent_and_held("daemon") == (spent, 0)
    assert rows(tmp_path, "SELECT count(*) FROM usage") == [(2,)]


async def test_a_user_sees_the_daemon_and_their_own_scopes(opened):
    limits = Limits(daemon=month(100), users={"ana": month(50, day=20)}, apps={"editor": month(70)})
    async with opened(limits) as books:
        await settled(books, 5, user="ana/kid")
        assert list(await books.standing("ana")) == [("daemon", "month"), ("user:ana", "month"), ("user:ana", "day")]
        assert list(await books.standing("ana/kid")) == [
            ("daemon", "month"),
            ("user:ana", "month"),
            ("user:ana", "day"),
            ("user:ana/kid", "month"),
        ]
        assert list(await books.standing("bob")) == [("daemon", "month"), ("user:bob", "month")]
        assert list(await books.standing()) == [
            ("daemon", "month"),
            ("user:ana", "month"),
            ("user:ana", "day"),
            ("app:editor", "month"),
        ]


async def test_the_projection_carries_the_pace_of_the_period_to_its_end(opened):
    async with opened() as books:
        books.clock.set("2027-03-11T08:00:00Z")
        await settled(books, 31)
        (row,) = [r for r in await books.budget.call(Standing(None)) if r.scope == "daemon"]
        assert row.projected_nano_usd == 31 * 31 * 24 // 248


async def test_a_budget_tells_its_state(opened):
    async with opened() as books:
        await books.reserve(50)
        assert repr(books.budget) == "<BudgetActor 1 holds of $0.00000005, 8 accounts>"
