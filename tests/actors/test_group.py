"""The holds of a tournament: all or none, whatever happens between asking and closing."""

import asyncio
from contextlib import asynccontextmanager, closing
from datetime import UTC
from itertools import zip_longest

import pytest
from auditor import Asked, Audited, Time, Told, labels
from msgspec.structs import replace
from structlog.testing import capture_logs
from worlds import NOON, TurnedClock, attempt_end, calm, month, open_books, rows, until

from actors import accounts
from actors.base import handles
from actors.budget import LEASE_LOOK_S, BudgetActor
from actors.events import Subscribe
from actors.group import GroupHold
from actors.ledger import Ledger
from actors.rules.admission import Limit, Limits
from actors.store import sqlite
from protocols.audit import Actor, Audit
from protocols.budget import (
    TOURNAMENT,
    Confirmed,
    Fits,
    FitsGroup,
    GrantOverride,
    ListOverrides,
    OfferOverride,
    OverBudget,
    PostHolds,
    ReadAudit,
    Reserve,
    ReserveGroup,
    Settle,
    Verify,
)
from protocols.errors import BadRequest, BudgetHeld, Internal, LedgerReadonly, OverrideInvalid, PriceUnknown
from protocols.money import NanoUSD
from protocols.request import Request

pytestmark = pytest.mark.anyio

ROOT, BODY = Actor(0, "root", "test"), b"the body"
ANAS = Limits(users={"ana": month(100)})
THREE = ("openai", "anthropic", "ollama")
EMPTY = {"holds": 0, "journal": 0, "usage": 0, "audit": 0}


class Break(Request[None], frozen=True):
    pass


class BreakableBudget(BudgetActor):
    @handles(Break)
    def broken(self, _):
        self._accounts.balances.clear()
        self._open.clear()
        raise ZeroDivisionError


class TornLedger(Ledger):
    """Crashes on a group of the user `torn`."""

    @handles(PostHolds)
    def post_holds(self, post):
        answer = super().post_holds(post) if post.posts[0].hold.start.user == "torn late" else None
        if post.posts[0].hold.start.user.startswith("torn"):
            raise ZeroDivisionError
        return answer or super().post_holds(post)


@pytest.fixture
def opened(tmp_path):
    def with_limits(limits=ANAS, **how):
        return open_books(tmp_path, limits=limits, **how)

    return with_limits


def group(books, *amounts, user="ana", providers=THREE, confirmed=None, app="editor", **how):
    reserves = (
        Reserve(books.start(user, app, provider), amount, **how)
        for provider, amount in zip(providers * 6, amounts, strict=False)
    )
    return ReserveGroup(tuple(reserves), confirmed)


def ids(asked):
    return [reserve.start.usage_id for reserve in asked.reserves]


def fitting(asked):
    """The same question, with nothing held."""
    parts = ((r.start, r) for r in asked.reserves)
    fits = (Fits(s.user, s.app, s.provider, s.model, r.amount, r.admission) for s, r in parts)
    return FitsGroup(tuple(fits), asked.confirmed)


async def taken(books, *amounts, **how):
    asked = group(books, *amounts, **how)
    await books.budget.call(asked)
    return ids(asked)


async def settle(books, usage_ids, cost):
    for usage_id in usage_ids:
        await books.settle(usage_id, cost)


def counted(books):
    return {table: books.rows(f"SELECT count(*) FROM {table}")[0][0] for table in EMPTY}


def in_memory(books):
    balances = books.budget.incarnation._accounts.balances
    return {account: (b.spent, b.held) for account, b in balances.items() if b.spent or b.held}


def on_disk(books):
    named = books.rows("SELECT scope, period, label, spent, held FROM accounts WHERE spent > 0 OR held > 0")
    return {(scope, period, label): (spent, held) for scope, period, label, spent, held in named}


async def balanced(books, held=0):
    """The books balance, memory says the same, and so much is held."""
    await books.store.written()
    verdict = await books.ledger.call(Verify())
    assert verdict.problems == []
    assert {(a.scope, a.period, a.label): sums for a, sums in in_memory(books).items()} == on_disk(books)
    assert sum(amount for (amount,) in books.rows("SELECT amount FROM holds WHERE state = 'held'")) == held
    assert sum(each.hold.amount for each in books.budget.incarnation._open.values()) == held
    assert all(b.waiting == 0 for b in books.budget.incarnation._accounts.balances.values())


async def test_all_of_a_group_are_held_in_one_commit_and_each_returns_as_it_ends(opened):
    async with opened() as books:
        asked = group(books, 50, 30, 20)
        assert await books.budget.call(asked) == ((), (), ())
        assert await books.spent_and_held("user:ana") == (0, 100)
        assert books.rows("SELECT id, amount FROM holds ORDER BY id") == list(
            zip(ids(asked), (50, 30, 20), strict=True)
        )
        await balanced(books, held=100)
        for usage_id, cost, expected in zip(ids(asked), (10, 0, 25), ((10, 50), (10, 20), (35, 0)), strict=True):
            await books.settle(usage_id, cost)
            assert await books.spent_and_held("user:ana") == expected
        await balanced(books)


SCOPES = [
    (Limits(daemon=month(100)), "daemon", "month"),
    (Limits(daemon=month(day=100)), "daemon", "day"),
    (Limits(users={"ana": month(100)}), "user:ana", "month"),
    (Limits(users={"*": month(day=100)}), "user:ana", "day"),
    (Limits(users={"ana": Limit(NanoUSD(100), hard=True)}), "user:ana", "month"),
    (Limits(apps={"editor": month(100)}), "app:editor", "month"),
    (Limits(apps={"editor": month(day=100)}), "app:editor", "day"),
    (Limits(providers={"openai": month(100)}), "provider:openai", "month"),
    (Limits(providers={"openai": month(day=100)}), "provider:openai", "day"),
]


@pytest.mark.parametrize("amounts", [(101, 0, 0), (0, 101, 0), (60, 41, 0), (40, 30, 31), (0, 0, 101)])
@pytest.mark.parametrize(("limits", "scope", "period"), SCOPES)
async def test_a_group_too_dear_from_any_member_on_takes_nothing_at_all(opened, limits, scope, period, amounts):
    async with opened(limits) as books:
        before = in_memory(books)
        asked = group(books, *amounts, providers=("openai",))
        for question in (asked, fitting(asked)):
            with pytest.raises(OverBudget) as refused:
                await books.budget.call(question)
            assert (refused.value.detail["scope"], refused.value.detail["period"]) == (scope, period)
            assert (refused.value.detail["held_nano_usd"], refused.value.detail["bound_nano_usd"]) == (0, 101)
            assert (refused.value.room, refused.value.rooms) == (100, {scope: 100})
        assert in_memory(books) == before == {}
        assert counted(books) == EMPTY
        await balanced(books)
        await settle(books, await taken(books, 40, 30, 30, providers=("openai",)), 0)
        await balanced(books)


async def test_a_group_counts_in_both_user_scopes_of_a_name_below_an_account(opened):
    limits = Limits(users={"ana": month(100), "ana/kid": month(50)})
    async with opened(limits) as books:
        with pytest.raises(OverBudget) as refused:
            await books.budget.call(group(books, 30, 21, user="ana/kid"))
        assert refused.value.rooms == {"user:ana": 100, "user:ana/kid": 50}
        await taken(books, 30, 20, user="ana/kid")
        assert await books.spent_and_held("user:ana") == (0, 50)


async def test_members_on_other_providers_count_there_and_what_fits_in_each_scope_is_told(opened):
    limits = Limits(daemon=month(1000), providers={"openai": month(50), "anthropic": month(70)})
    async with opened(limits) as books:
        await books.settle(await books.reserve(20), 20)
        with pytest.raises(OverBudget) as refused:
            await books.budget.call(group(books, 30, 60, 500, 10))
        over = refused.value
        assert (over.detail["scope"], over.detail["bound_nano_usd"]) == ("provider:openai", 40)
        assert over.rooms == {"daemon": 980, "provider:openai": 30, "provider:anthropic": 70}
        assert over.room == 30
        await taken(books, 30, 60, 500)
        assert await books.spent_and_held("provider:openai") == (20, 30)
        assert await books.spent_and_held("provider:anthropic") == (0, 60)


async def test_a_group_that_fits_once_other_holds_settle_is_told_when_to_come_back(opened):
    async with opened() as books:
        other = await books.reserve(20)
        for admission in ("strict", "queue"):  # nobody waits for the turn of a group
            asked = group(books, 30, 30, 30, admission=admission)
            for question in (asked, fitting(asked)):
                with pytest.raises(BudgetHeld) as held:
                    await books.budget.call(question)
                assert held.value.retry_after_s == 1.0
                assert (held.value.detail["held_nano_usd"], held.value.detail["bound_nano_usd"]) == (20, 90)
        await balanced(books, held=20)
        await books.settle(other, 10)
        await taken(books, 30, 30, 30)


async def test_a_group_passes_nobody_who_waits_for_room(opened):
    async with opened() as books:
        held = await books.reserve(60)
        waiting = asyncio.get_running_loop().create_task(books.budget.call(Reserve(books.start(), 80, "queue")))
        await calm()
        with pytest.raises(BudgetHeld):
            await books.budget.call(group(books, 5, 5))
        await books.settle(held, 0)
        await waiting
        await taken(books, 10, 10)


async def test_what_a_group_returns_is_the_turn_of_who_waits(opened):
    async with opened() as books:
        one, two = await taken(books, 50, 50)
        waiting = asyncio.get_running_loop().create_task(books.budget.call(Reserve(books.start(), 60, "queue")))
        await calm()
        await books.settle(one, 0)
        await calm()
        assert not waiting.done()
        await books.settle(two, 10)
        assert await waiting == ()


async def test_soft_admits_a_group_while_less_than_the_budget_is_spent(opened):
    async with opened() as books:
        spent = await books.reserve(99)
        await books.settle(spent, 99)
        asked = group(books, 1, 60, 70, admission="soft")
        await books.budget.call(fitting(asked))
        assert await books.budget.call(asked) == ((), ("soft",), ("soft",))
        await settle(books, ids(asked), 1)
        with pytest.raises(OverBudget):
            await books.budget.call(group(books, 1, 1, admission="soft"))
        assert books.rows("SELECT marks FROM usage ORDER BY id") == [("",), ("",), ("soft",), ("soft",)]
        await balanced(books)


async def test_a_budget_that_is_not_enforced_marks_those_that_pass_it(opened):
    async with opened() as books:
        await books.change("enforce_budget_limits", False)
        assert await books.budget.call(group(books, 60, 60, 60)) == ((), ("unenforced",), ("unenforced",))


async def test_marks_that_a_reservation_brings_come_before_its_own(opened):
    async with opened() as books:
        asked = group(books, 60, 60, admission="soft", marks=("clamped",))
        assert await books.budget.call(asked) == (("clamped",), ("clamped", "soft"))


async def test_a_limit_that_is_lowered_below_a_group_is_on_each_of_its_rows(opened):
    async with opened(Limits()) as books:
        usage_ids = await taken(books, 600_000_000, 600_000_000)
        await books.change("month_usd", 1)
        await settle(books, usage_ids, 0)
        assert books.rows("SELECT marks FROM usage") == [("limit_lowered",)] * 2


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize(
    "limits", [Limits(daemon=month(100)), Limits(providers=dict.fromkeys(THREE, month(100)))], ids=["daemon", "each"]
)
async def test_one_member_without_a_price_below_a_hard_limit_refuses_the_group(opened, limits, place):
    async with opened(limits) as books:
        amounts = [None if place == at else 10 for at in range(3)]
        asked = group(books, *amounts)
        for question in (asked, fitting(asked)):
            with pytest.raises(PriceUnknown):
                await books.budget.call(question)
        assert (counted(books), in_memory(books)) == (EMPTY, {})


async def test_without_a_hard_limit_a_member_without_a_price_holds_nothing(opened):
    async with opened(Limits(users={"ana": month(20)})) as books:
        usage_ids = await taken(books, 10, None, 10)
        assert await books.spent_and_held("user:ana") == (0, 20)
        await settle(books, usage_ids, None)
        await balanced(books)


async def test_a_group_of_no_holds_is_refused_and_nobody_else_notices(opened):
    async with opened() as books:
        for asked in (ReserveGroup(()), FitsGroup(())):
            with pytest.raises(BadRequest, match="a group of no holds"):
                await books.budget.call(asked)
        with pytest.raises(BadRequest, match="a group of no holds"):
            async with GroupHold(books.budget, ()):
                pytest.fail("it has nothing to hold")
        assert books.budget.restarts == 0
        assert counted(books) == EMPTY


async def test_a_preview_holds_nothing_and_says_what_a_group_would_be_told(opened):
    async with opened() as books:
        await books.budget.call(fitting(group(books, 50, 50)))
        assert (counted(books), in_memory(books)) == (EMPTY, {})
        await taken(books, 50, 50)
        with pytest.raises(BudgetHeld):
            await books.budget.call(fitting(group(books, 0, 1)))
        await books.budget.call(fitting(group(books, 0, 0)))


# ---- many at once


MEMBERS, GROUPS, ROOM_FOR = 3, 20, 8
MEMBER = 500 // (ROOM_FOR * MEMBERS)  # of ana's 500 a month, as the auditor knows it


@asynccontextmanager
async def audited(opened, monkeypatch):
    """Books whose auditor recomputes every promise at every commit."""
    clock = TurnedClock()
    told = Told([Time({}, *labels(clock.wall_us, UTC))])
    audit = Audited(sqlite._apply, told)
    monkeypatch.setattr(sqlite, "_apply", audit)
    with closing(audit):
        async with opened(Limits(users={"ana": month(500)}), clock=clock) as books:
            yield books, told
        assert audit.wrong == []
        assert audit.auditors


def tell(told, asked, name=None):
    for each in asked.reserves:
        start = each.start
        who = (start.user, start.app, start.provider)
        told.asked[start.usage_id] = Asked(
            who, each.amount, each.admission, 0, start.created_at, each.lease_s, group=name
        )


@pytest.mark.parametrize("singles", [0, 30])
async def test_of_twenty_groups_at_once_on_a_budget_for_eight_eight_are_held_and_no_commit_is_over(
    opened, monkeypatch, singles
):
    async with audited(opened, monkeypatch) as (books, told):
        groups = [group(books, *[MEMBER] * MEMBERS, providers=THREE[1:]) for _ in range(GROUPS)]
        alone = [group(books, 1, providers=THREE[1:]) for _ in range(singles)]
        for number, asked in enumerate(groups):
            tell(told, asked, f"group {number}")
        for asked in alone:
            tell(told, asked)

        async def at_a_time(number, asked):
            for _ in range(number % 5):
                await asyncio.sleep(0)
            return await books.budget.call(asked if len(asked.reserves) > 1 else asked.reserves[0])

        tasks = [at_a_time(n, asked) for pair in zip_longest(groups, alone) for n, asked in enumerate(pair) if asked]
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        held = [a for a in answers if not isinstance(a, BaseException)]
        assert {type(a) for a in answers if isinstance(a, BaseException)} <= {BudgetHeld}
        of_groups = [a for a in held if len(a) == MEMBERS]
        spent, amount = await books.spent_and_held("user:ana")
        assert (spent, amount) == (0, len(of_groups) * MEMBERS * MEMBER + len(held) - len(of_groups))
        assert amount <= 500
        assert len(of_groups) in ({ROOM_FOR, ROOM_FOR - 1} if singles else {ROOM_FOR})
        await balanced(books, held=amount)
        for usage_id in [i for (i,) in books.rows("SELECT id FROM holds")]:
            told.settled[usage_id] = told.asked[usage_id].amount
            await books.settle(usage_id, told.settled[usage_id])
        assert await books.spent_and_held("user:ana") == (amount, 0)
        await balanced(books)


# ---- when something breaks


@pytest.mark.parametrize("turns", range(14))
async def test_a_group_whose_asker_is_cancelled_at_any_time_gives_all_of_it_back(opened, turns):
    async with opened() as books:
        asked = group(books, 30, 30, 30)
        holding = asyncio.get_running_loop().create_task(entered(books, asked))
        for _ in range(turns):
            await asyncio.sleep(0)
        holding.cancel()
        await asyncio.wait([holding])
        await until(lambda: not books.budget.incarnation._open)
        await balanced(books)
        assert {status for (status,) in books.rows("SELECT status FROM usage")} <= {"not_sent"}
        await taken(books, 40, 30, 30)


async def entered(books, asked):
    async with GroupHold(books.budget, asked.reserves, asked.confirmed) as held:
        return held


@pytest.mark.parametrize("turns", range(8))
@pytest.mark.parametrize("who", ["budget", "ledger"])
async def test_a_group_whose_asker_is_cancelled_while_an_actor_restarts_gives_all_of_it_back(opened, who, turns):
    async with opened(budget_class=BreakableBudget) as books:
        with capture_logs():
            getattr(books, who).incarnation.crash(ZeroDivisionError())
            asked = group(books, 30, 30, 30)
            holding = asyncio.get_running_loop().create_task(entered(books, asked))
            for _ in range(turns):
                await asyncio.sleep(0)
            holding.cancel()
            await asyncio.wait([holding])
            await until(lambda: books.budget.incarnation and not books.budget.incarnation._open)
            assert await books.spent_and_held("user:ana") == (0, 0)
        await balanced(books)
        await taken(books, 40, 30, 30)


@pytest.mark.parametrize("turns", range(4))
async def test_a_budget_that_crashes_while_a_group_is_written_comes_back_with_all_of_it(opened, turns):
    async with opened(budget_class=BreakableBudget) as books:
        with capture_logs():
            asked = group(books, 30, 30, 30)
            asking = asyncio.get_running_loop().create_task(books.budget.call(asked))
            for _ in range(turns):
                await asyncio.sleep(0)
            with pytest.raises(Internal):
                await books.budget.call(Break())
            assert await asking == ((), (), ())
            await until(lambda: books.budget.incarnation)
        assert await books.spent_and_held("user:ana") == (0, 90)
        await balanced(books, held=90)
        with pytest.raises(BudgetHeld):
            await books.reserve(11)
        await settle(books, ids(asked), 20)
        assert await books.spent_and_held("user:ana") == (60, 0)
        await balanced(books)


@pytest.mark.parametrize("sent", [(), (0,), (1, 2), (0, 1, 2)])
async def test_after_a_kill_those_that_had_left_are_spent_and_the_others_void(opened, tmp_path, sent):
    async with opened() as books:
        usage_ids = await taken(books, 10, 20, 30)
        for place in sent:
            books.dispatched.mark(usage_ids[place])
    async with opened() as books:
        spent = sum((10, 20, 30)[place] for place in sent)
        assert await books.spent_and_held("user:ana") == (spent, 0)
        await balanced(books)
    states = ["unknown" if place in sent else "not_sent" for place in range(3)]
    assert rows(tmp_path, "SELECT status FROM usage ORDER BY id") == [(state,) for state in states]


@pytest.mark.parametrize("user", ["torn", "torn late"])
async def test_a_group_that_crashes_the_ledger_is_no_promise(opened, user):
    limits = Limits(users={"*": month(100)})
    async with opened(limits, ledger_class=TornLedger) as books:
        with capture_logs():
            for _ in range(2):
                with pytest.raises(Internal):
                    await books.budget.call(group(books, 30, 30, 30, user=user))
            await until(lambda: books.ledger.incarnation)
            books.ledger.incarnation.crash(ZeroDivisionError())
            with pytest.raises(Internal):  # from its inbox
                await books.budget.call(group(books, 30, 30, 30, user="torn"))
            await taken(books, 30, 30, 40)
        if user == "torn":
            await balanced(books, held=100)


@asynccontextmanager
async def full_disk(books, monkeypatch):
    """Every commit finds the disk full, as SQLite says it."""
    real = sqlite._apply

    def full(connection, group):
        del connection, group
        error = sqlite.sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite.sqlite3.SQLITE_FULL
        raise error

    monkeypatch.setattr(sqlite, "RETRY_S", 0.001)
    monkeypatch.setattr(sqlite, "_apply", full)
    with capture_logs():
        yield
        monkeypatch.setattr(sqlite, "_apply", real)
        await until(lambda: not books.store.full)
        await books.store.written()


@pytest.mark.parametrize("cancel", [False, True])
async def test_on_a_full_disk_nothing_of_a_group_is_held(opened, monkeypatch, cancel):
    async with opened() as books:
        async with full_disk(books, monkeypatch):
            holding = asyncio.get_running_loop().create_task(entered(books, group(books, 30, 30, 30)))
            await asyncio.sleep(0)
            if cancel:
                holding.cancel()
            await asyncio.wait([holding])
            assert holding.cancelled() if cancel else isinstance(holding.exception(), LedgerReadonly)
            assert in_memory(books) == {}
            with pytest.raises(LedgerReadonly):  # known to be full: nothing is submitted
                await taken(books, 30, 30, 30)
        assert counted(books) == EMPTY
        await balanced(books)
        await taken(books, 40, 30, 30)


async def pages_left(books, pages):
    """Bounds the database file to what it has and so many pages; None lifts the bound."""

    def bound(connection):
        used = connection.execute("PRAGMA page_count").fetchone()[0]
        most = 1 << 30 if pages is None else used + pages
        connection.execute(f"PRAGMA max_page_count = {most}").fetchone()

    await books.store._writer.run(bound)


async def test_whichever_page_is_the_last_a_group_is_written_whole_or_not_at_all(opened, monkeypatch):
    monkeypatch.setattr(sqlite, "RETRY_S", 0.001)
    granted, long = [], "x" * 1_500  # an app's name: rows take a good part of a page
    async with opened(Limits(daemon=month(1_000_000))) as books:
        with capture_logs():
            for pages in range(12):
                await pages_left(books, pages)
                for _ in range(10):
                    asked = group(books, 10, 20, 30, app=long)
                    try:
                        await books.budget.call(asked)
                    except LedgerReadonly:
                        break
                    granted += ids(asked)
                else:
                    pytest.fail("the disk was never full")
                assert [i for (i,) in books.rows("SELECT id FROM holds ORDER BY id")] == sorted(granted)
                await pages_left(books, None)
                await until(lambda: not books.store.full)
            assert granted
            await balanced(books, held=len(granted) * 20)
            await settle(books, granted, 1)
        await balanced(books)


async def test_a_group_with_one_hold_that_the_books_refuse_is_not_held_and_others_in_its_commit_are(opened):
    async with opened() as books:
        again = await books.reserve(5)
        await books.settle(again, 5)
        asked = group(books, 10, 20, 30)
        twice = replace(asked.reserves[1], start=books.start(usage_id=again))
        torn = ReserveGroup((asked.reserves[0], twice, asked.reserves[2]))
        with capture_logs():
            answers = await asyncio.gather(books.budget.call(torn), books.reserve(7), return_exceptions=True)
        assert isinstance(answers[0], Internal)
        assert books.rows("SELECT id, amount FROM holds WHERE state = 'held'") == [(answers[1], 7)]
        await balanced(books, held=7)


# ---- overrides


async def offered(books, most, model=TOURNAMENT):
    return (await books.budget.call(OfferOverride("ana", model, BODY, NanoUSD(most)))).token


async def audit(books):
    entries = (await books.ledger.call(ReadAudit(Audit(), None))).entries
    return [(e.action, e.subject, e.before, e.after, e.cost_nano_usd) for e in reversed(entries)]


async def test_a_token_lets_one_group_pass_and_each_that_needs_it_is_marked_and_audited(opened):
    async with opened() as books:
        await books.settle(await books.reserve(70), 70)
        confirmed = Confirmed(await offered(books, 80), BODY, ROOT)
        asked = group(books, 30, 20, 30, confirmed=confirmed)
        await books.budget.call(fitting(asked))
        assert await books.budget.call(asked) == ((), ("override",), ("override",))
        assert await audit(books) == [("override.confirmed", i, "70", None, None) for i in ids(asked)[1:]]
        with pytest.raises(OverrideInvalid):
            await books.budget.call(group(books, 1, 1, confirmed=confirmed))
        await settle(books, ids(asked), 7)
        assert [cost for *_, cost in await audit(books)] == [7, 7]
        await balanced(books)


@pytest.mark.parametrize(
    ("most", "model", "admitted"), [(79, TOURNAMENT, False), (80, TOURNAMENT, True), (80, "openai:gpt-4o", False)]
)
async def test_a_token_covers_what_the_user_was_told_the_whole_group_may_cost(opened, most, model, admitted):
    async with opened(Limits(users={"ana": month(50)})) as books:
        confirmed = Confirmed(await offered(books, most, model), BODY, ROOT)
        if admitted:
            await taken(books, 30, 20, 30, confirmed=confirmed)
        else:
            with pytest.raises(OverBudget) as refused:
                await taken(books, 30, 20, 30, confirmed=confirmed)
            assert refused.value.may_override
            assert counted(books) == EMPTY


async def test_each_that_a_token_lets_pass_is_told_once_it_is_durable(opened):
    async with opened(Limits(users={"ana": month(50)})) as books:
        heard = await books.ledger.incarnation._events.call(Subscribe(None))
        confirmed = Confirmed(await offered(books, 80), BODY, ROOT)
        usage_ids = await taken(books, 30, 21, 29, confirmed=confirmed)
        assert [(e.action, e.usage_id, e.amount_nano_usd) for e in heard._waiting] == [
            ("confirmed", usage_ids[1], 21),
            ("confirmed", usage_ids[2], 29),
        ]


async def test_a_bad_token_is_told_whether_there_is_room_or_not(opened):
    async with opened() as books:
        for amount in (1, 200):
            asked = group(books, amount, confirmed=Confirmed("bad", BODY, ROOT))
            for question in (asked, fitting(asked)):
                with pytest.raises(OverrideInvalid):
                    await books.budget.call(question)


async def test_a_token_stays_good_until_a_group_is_taken_with_it(opened):
    async with opened(Limits(daemon=month(150), users={"ana": month(50)})) as books:
        confirmed = Confirmed(await offered(books, 100), BODY, ROOT)
        other = await books.reserve(60, user="bob")
        with pytest.raises(BudgetHeld):
            await taken(books, 50, 50, confirmed=confirmed)
        await books.settle(other, 0)
        await taken(books, 50, 50, confirmed=confirmed)


async def test_the_confirmation_of_a_single_one_says_nothing_in_a_group(opened):
    async with opened() as books:
        single = Confirmed(await offered(books, 200, "openai:gpt-4o"), BODY, ROOT)
        with pytest.raises(OverBudget):
            await taken(books, 101, 10, confirmed=None)
        asked = ReserveGroup((Reserve(books.start(), 101, confirmed=single), Reserve(books.start(), 1)))
        with pytest.raises(OverBudget):
            await books.budget.call(asked)


async def test_a_granted_override_is_shared_by_a_group_and_used_up_by_what_it_costs(opened):
    async with opened() as books:
        await books.settle(await books.reserve(90), 90)
        until_us = books.clock.now_us() + 3_600_000_000
        await books.budget.call(GrantOverride("ana", NanoUSD(50), until_us, "the release", ROOT))
        with pytest.raises(OverBudget):
            await taken(books, 10, 30, 21)
        (shown,) = await books.budget.call(ListOverrides("ana"))
        assert (shown.spent_nano_usd, shown.held_nano_usd) == (0, 0)
        asked = group(books, 10, 30, 20)
        assert await books.budget.call(asked) == ((), ("override",), ("override",))
        (shown,) = await books.budget.call(ListOverrides("ana"))
        assert shown.held_nano_usd == 50
        await settle(books, ids(asked), 5)
        (shown,) = await books.budget.call(ListOverrides("ana"))
        assert (shown.spent_nano_usd, shown.held_nano_usd) == (10, 0)
        await balanced(books)


async def test_settled_members_reach_the_alerts_of_their_spend_one_by_one(opened):
    async with opened() as books:
        usage_ids = await taken(books, 40, 35, 20)
        said = [
            await books.budget.call(Settle(i, attempt_end(c))) for i, c in zip(usage_ids, (40, 35, 20), strict=True)
        ]
        assert [[alert.level for alert in each or ()] for each in said] == [[], [75], [80, 90]]


# ---- leases, periods, memory


async def test_a_hold_of_a_group_lives_for_its_lease_and_is_then_void(opened):
    async with opened() as books:
        long = Reserve(books.start(), 10, lease_s=1000.0)
        await books.budget.call(ReserveGroup((Reserve(books.start(), 20, lease_s=100.0), long)))
        await books.clock.turn(100 + LEASE_LOOK_S)
        await until(lambda: len(books.budget.incarnation._open) == 1)
        assert await books.spent_and_held("user:ana") == (0, 10)
        await books.settle(long.start.usage_id, 5)
        await balanced(books)


async def test_a_group_belongs_to_the_period_in_which_it_is_taken(opened):
    async with opened(Limits(daemon=month(day=100))) as books:
        await taken(books, 50, 50)
        asked = group(books, 50, 50)  # asked for before midnight, taken after
        books.clock.set("2027-03-11T00:00:01Z")
        await books.budget.call(asked)
        held = books.rows("SELECT label, held FROM accounts WHERE scope = 'daemon' AND period = 'day' ORDER BY label")
        assert held == [(NOON[:10], 100), ("2027-03-11", 100)]
        await balanced(books, held=200)


async def test_more_names_than_memory_keeps_lose_no_balance_of_a_group(opened, monkeypatch):
    monkeypatch.setattr(accounts, "POSTINGS", 4)
    async with opened(Limits(daemon=month(100))) as books:
        await settle(books, await taken(books, 1, 1, providers=("x", "y")), 0)
        usage_ids = await taken(books, 10, 20, 30, 40, providers=("a", "b", "c", "d"))
        with pytest.raises(BudgetHeld):
            await books.reserve(1)
        await balanced(books, held=100)
        await settle(books, usage_ids, 1)
        await balanced(books)


# ---- the group's own exit


async def test_on_leaving_those_that_no_attempt_has_are_closed_at_nothing(opened):
    async with opened() as books:
        asked = group(books, 10, 20, 30)
        one, two, three = ids(asked)
        async with GroupHold(books.budget, asked.reserves) as held:
            assert held.hand_over(one) == ()
            with pytest.raises(KeyError):
                held.hand_over(one)
            await held.void(two, two)
            await held.void(two, one, "nobody's")
            assert await books.spent_and_held("user:ana") == (0, 40)
            assert repr(held) == "<GroupHold 1 of 3 not launched>"
        assert await books.spent_and_held("user:ana") == (0, 10)
        assert books.rows("SELECT id, status, cost FROM usage ORDER BY id") == [
            (two, "not_sent", 0),
            (three, "not_sent", 0),
        ]
        await books.settle(one, 5)
        await balanced(books)


async def test_a_group_that_is_left_by_an_error_or_a_cancellation_holds_nothing(opened):
    async with opened() as books:
        with pytest.raises(ZeroDivisionError):
            async with GroupHold(books.budget, group(books, 10, 20).reserves):
                raise ZeroDivisionError
        await balanced(books)
        inside = asyncio.Event()

        async def wait():
            async with GroupHold(books.budget, group(books, 50, 50).reserves):
                inside.set()
                await asyncio.Event().wait()

        waiting = asyncio.get_running_loop().create_task(wait())
        await inside.wait()
        waiting.cancel()
        await asyncio.sleep(0)
        waiting.cancel()  # once more, while it closes
        await asyncio.wait([waiting])
        await balanced(books)


async def test_a_refused_group_raises_on_entering_and_holds_nothing(opened):
    async with opened() as books:
        with pytest.raises(OverBudget):
            await entered(books, group(books, 60, 60))
        assert (counted(books), in_memory(books)) == (EMPTY, {})
