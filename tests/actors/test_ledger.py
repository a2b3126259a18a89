import asyncio
import sqlite3
import threading
from contextlib import closing
from zoneinfo import ZoneInfo

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs
from worlds import TurnedClock, attempt_end, attempt_start, open_books, rows, until

from actors.base import handles
from actors.clock import MICRO, id_at, parse_rfc3339
from actors.ledger import FORGET_S, SQL, Ledger, last_id, outcome_of_lost
from actors.store.queries import Statement
from actors.store.sqlite import Store
from protocols.budget import (
    Account,
    OpenHold,
    PostHold,
    PostSettlement,
    ReadBooks,
    ReadGroups,
    ReadHolds,
    ReadPaidCalls,
    ReadUsage,
    Verify,
)
from protocols.chat import TokenCount
from protocols.errors import BadRequest, Internal
from protocols.request import Request
from protocols.usage import PaidCalls, SpendQuery, UsageQuery

pytestmark = pytest.mark.anyio

DAEMON, ANA = Account("daemon", "month", "2027-03"), Account("user:ana", "month", "2027-03")


class Break(Request[None], frozen=True):
    pass


class BreakableLedger(Ledger):
    @handles(Break)
    def broken(self, _):
        self._sets.clear()
        raise ZeroDivisionError


@pytest.fixture
async def books(tmp_path):
    async with open_books(tmp_path, ledger_class=BreakableLedger) as books:
        yield books


def tampered(folder, sql):
    with closing(sqlite3.connect(folder / "quorumd.sqlite3")) as connection, connection:
        connection.execute(sql)


async def posted(books, **fields):
    """A settled attempt."""
    start = books.start(**fields.pop("start", {}))
    await books.ledger.call(PostHold(OpenHold(start, 10, (DAEMON, ANA))))
    await books.ledger.call(PostSettlement(OpenHold(start, 10, (DAEMON, ANA)), attempt_end(**({"cost": 7} | fields))))
    return start.usage_id


async def problems(books):
    verdict = await books.ledger.call(Verify())
    assert verdict.ok == (not verdict.problems)
    return verdict.problems


async def test_a_hold_is_one_row_one_entry_and_the_balances(books):
    start = books.start(conversation="talk", task_type="summary")
    await books.ledger.call(PostHold(OpenHold(start, 10, (DAEMON, ANA))))
    assert books.rows("SELECT id, user, app, conversation, task_type, amount, state FROM holds") == [
        (start.usage_id, "ana", "editor", "talk", "summary", 10, "held")
    ]
    assert books.rows("SELECT usage_id, entry, held, spent FROM journal") == [(start.usage_id, 0, 10, 0)]
    assert books.rows("SELECT scope, spent, held FROM accounts") == [("daemon", 0, 10), ("user:ana", 0, 10)]
    assert await problems(books) == []


async def test_a_settlement_closes_the_hold_and_writes_the_usage_row(books):
    tokens = TokenCount(prompt=9, cached=4, cache_write=2, response=8, reasoning=3)
    usage_id = await posted(books, tokens=tokens, first_token_us=250, status="truncated")
    assert books.rows("SELECT * FROM holds") == []
    assert books.rows("SELECT entry, held, spent FROM journal ORDER BY entry") == [(0, 10, 0), (1, -10, 7)]
    assert books.rows("SELECT spent, held FROM accounts") == [(7, 0), (7, 0)]
    assert books.rows(
        "SELECT id, cost, prompt_tokens, cached_tokens, cache_write_tokens, response_tokens, reasoning_tokens,"
        " latency_us, first_token_us, status FROM usage"
    ) == [(usage_id, 7, 9, 4, 2, 8, 3, 1500, 250, "truncated")]
    assert await problems(books) == []


@pytest.mark.parametrize("arm", [None, "prices/cheap"])
async def test_the_arm_of_a_call_goes_with_its_hold_and_its_row(books, arm):
    start = books.start(arm=arm)
    await books.ledger.call(PostHold(OpenHold(start, 10, (DAEMON, ANA))))
    assert books.rows("SELECT arm FROM holds") == [(arm,)]
    (read,) = (await books.ledger.call(ReadBooks())).open_holds
    assert (read.start, read.amount, read.accounts) == (start, 10, (DAEMON, ANA))
    await books.ledger.call(PostSettlement(read, attempt_end(7)))
    assert books.rows("SELECT arm FROM usage") == [(arm,)]
    (row,) = (await books.ledger.call(ReadUsage(UsageQuery(), None))).rows
    assert row.arm == arm


async def test_no_attempt_is_held_or_settled_twice(books):
    start = books.start()
    hold, settlement = (
        PostHold(OpenHold(start, 10, (DAEMON,))),
        PostSettlement(OpenHold(start, 10, (DAEMON,)), attempt_end(7)),
    )
    await books.ledger.call(hold)
    with capture_logs(), pytest.raises(Internal):
        await books.ledger.call(hold)
    await books.ledger.call(settlement)
    with capture_logs(), pytest.raises(Internal):
        await books.ledger.call(settlement)
    assert books.rows("SELECT spent, held FROM accounts") == [(7, 0)]
    assert await problems(books) == []


@pytest.mark.parametrize("sql", ["UPDATE journal SET spent = 0", "DELETE FROM journal"])
async def test_the_journal_is_append_only(books, tmp_path, sql):
    await posted(books)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        tampered(tmp_path, sql)


@pytest.mark.parametrize(
    ("sql", "problem"),
    [
        ("UPDATE accounts SET spent = 8 WHERE scope = 'daemon'", "daemon 2027-03: balance says spent 8"),
        (
            "UPDATE accounts SET held = 1 WHERE scope = 'user:ana'",
            "user:ana 2027-03: balance says spent 7, held 1",
        ),
        ("DELETE FROM usage", "the journal holds 0 and spent 7, its usage row cost None"),
        ("UPDATE usage SET cost = 6", "the journal holds 0 and spent 7, its usage row cost 6"),
        ("UPDATE usage SET cost = 6", "usage rows cost 6 together, the journal spent 7"),
        (
            "INSERT INTO holds SELECT 'x', call_id, user, app, NULL, NULL, provider, model, '', '', 0, 5, 1, 'held', '', 0, NULL FROM usage",
            "open holds are 5 together, the journal holds 0",
        ),
    ],
)
async def test_verify_finds(books, tmp_path, sql, problem):
    await posted(books)
    assert await problems(books) == []
    tampered(tmp_path, sql)
    assert any(problem in found for found in await problems(books))


async def test_verify_finds_a_hold_that_is_gone_without_an_outcome(books, tmp_path):
    await books.ledger.call(PostHold(OpenHold(books.start(), 10, (DAEMON,))))
    tampered(tmp_path, "DELETE FROM holds")
    assert any("its usage row cost None" in found for found in await problems(books))


async def test_an_attempt_without_a_price_balances(books):
    await posted(books, cost=None)
    verdict = await books.ledger.call(Verify())
    assert (verdict.problems, verdict.spent_nano_usd, verdict.usage_rows, verdict.journal_entries) == ([], 0, 1, 2)


@pytest.mark.parametrize(
    ("sent", "status", "cost", "spent", "listed"),
    [(False, "not_sent", 0, 0, []), (True, "unknown", 10, 10, [("unknown", 10)])],
)
async def test_a_hold_of_a_dead_process_is_void_or_spent(books, sent, status, cost, spent, listed):
    start = books.start()
    await books.ledger.call(PostHold(OpenHold(start, 10, (DAEMON, ANA))))
    hold = OpenHold(start, 10, (DAEMON, ANA))
    await books.ledger.call(PostSettlement(hold, outcome_of_lost(hold, sent=sent)))
    assert books.rows("SELECT status, cost, cost_source FROM usage") == [(status, cost, "estimated")]
    assert books.rows("SELECT spent, held FROM accounts") == [(spent, 0), (spent, 0)]
    holds = (await books.ledger.call(ReadHolds())).holds
    assert [(row.state, row.amount_nano_usd) for row in holds] == listed
    assert (await books.ledger.call(ReadBooks())).open_holds == []
    assert await problems(books) == []


async def test_open_holds_are_listed_for_people(books):
    usage_id = await books.reserve(10)
    (row,) = (await books.ledger.call(ReadHolds())).holds
    assert (row.usage_id, row.scope, row.state, row.created_at) == (
        usage_id,
        "user:ana",
        "held",
        "2027-03-10T12:00:00.000Z",
    )


async def test_the_mark_of_a_request_that_left_is_cleared_by_its_settlement(books):
    usage_id = await books.reserve(10)
    books.dispatched.mark(usage_id)
    await books.settle(usage_id, 3)
    assert usage_id not in books.dispatched


async def test_books_are_the_balances_since_a_label_or_with_holds(books):
    old = Account("daemon", "month", "2026-12")
    await books.ledger.call(PostHold(OpenHold(books.start(), 10, (old,))))
    await posted(books)
    found = (await books.ledger.call(ReadBooks("2027-03"))).balances
    assert {account: (b.spent, b.held) for account, b in found.items()} == {old: (0, 10), DAEMON: (7, 0), ANA: (7, 0)}
    assert set((await books.ledger.call(ReadBooks("2027-04", "2027-04-01"))).balances) == {old}


async def test_a_set_of_accounts_is_one_set_in_whatever_order_it_is_named(books):
    await posted(books)
    await books.ledger.call(PostHold(OpenHold(books.start(), 1, (ANA, DAEMON))))
    assert books.rows("SELECT count(DISTINCT set_id) FROM account_sets") == [(1,)]


async def test_sets_stay_what_they_are_over_many_restarts(tmp_path):
    for _ in range(4):
        async with open_books(tmp_path) as books:
            for user, app in (("ana", "editor"), ("bob", "editor"), ("ana", "agent"), ("cleo", "new")):
                await books.settle(await books.reserve(10, user, app), 7)
            assert await problems(books) == []
    assert rows(tmp_path, "SELECT count(DISTINCT set_id) FROM account_sets") == [(4,)]
    async with open_books(tmp_path) as books:
        await books.settle(await books.reserve(10, "dora", "editor"), 7)
        assert await problems(books) == []


WHO = [("ana", "editor"), ("bob", "editor"), ("ana/kid", "agent"), ("cleo", "new")]


async def test_ids_never_collide_although_the_past_is_not_read(tmp_path):
    clock = TurnedClock("2027-01-30T22:00:00Z")
    for day in range(5):
        open_hold = None
        for users in (WHO[: day + 1], WHO[::-1], WHO):
            async with open_books(tmp_path, clock=clock) as books:
                if open_hold is None:
                    open_hold = await books.reserve(10, "over midnight")
                    await clock.turn(86_400)
                for user, app in users:
                    await books.settle(await books.reserve(10, user, app), 7)
                await books.settle(open_hold, 8)
                assert await problems(books) == []
                assert len({max(a.label for a in s) for s in books.ledger.incarnation._sets}) <= 3
    assert rows(tmp_path, "SELECT count(*) = count(DISTINCT scope || label) FROM accounts") == [(1,)]


async def test_sets_that_nobody_asks_for_are_forgotten_and_written_anew(books):
    async def ids():
        await books.store.written()
        return sum(books.rows("SELECT count(DISTINCT set_id) FROM account_sets"), ())

    for number in range(20):
        await books.settle(await books.reserve(10, f"ana/{number}"), 7)
    for _ in range(2):
        await books.settle(await books.reserve(10, "ana/0"), 7)
        await books.clock.turn(FORGET_S)
    assert (len(books.ledger.incarnation._sets), await ids()) == (1, (20,))
    await books.clock.turn(FORGET_S)
    assert len(books.ledger.incarnation._sets) == 0
    held = await books.reserve(10, "ana/1")
    books.ledger.incarnation._sets.clear()
    await books.settle(held, 7)
    assert await ids() == (22,)
    assert await problems(books) == []


async def test_opening_reads_no_more_sets_than_are_kept_and_no_account_without_spend(tmp_path, monkeypatch):
    async with open_books(tmp_path) as books:
        for number in range(30):
            await books.settle(await books.reserve(0, f"ana/{number}"), 0)
        await books.settle(await books.reserve(10, "ana/last"), 7)
    monkeypatch.setattr("actors.ledger.SETS", 5)
    async with open_books(tmp_path) as books:
        assert len(books.ledger.incarnation._sets) == 5
        scopes = {account.scope for account in books.budget.incarnation._accounts.balances}
        assert scopes == {"daemon", "user:ana", "user:ana/last", "app:editor", "provider:openai"}
        await books.settle(await books.reserve(10, "ana/0"), 7)
        assert await problems(books) == []


async def test_opening_reads_the_recent_part_of_a_years_history(tmp_path, monkeypatch):
    clock, users = TurnedClock("2026-03-10T12:00:00Z"), ["ana", "bob", "cleo"]
    async with open_books(tmp_path, clock=clock) as books:
        for _ in range(366):
            for user in users:
                await books.settle(await books.reserve(10, user), 7)
            await clock.turn(86_400)
        of_a_year = len(books.budget.incarnation._accounts.balances), len(books.ledger.incarnation._sets)
    assert rows(tmp_path, "SELECT count(*) FROM accounts") == [((366 + 13) * 6,)]
    counted, read = [], Store.read

    async def counting(*asked):
        found = await read(*asked)
        counted.append(len(found))
        return found

    monkeypatch.setattr(Store, "read", counting)
    async with open_books(tmp_path, clock=clock) as books:
        in_memory = len(books.budget.incarnation._accounts.balances), len(books.ledger.incarnation._sets)
        assert (await books.spent_and_held("daemon"))[0] == 10 * 3 * 7
    assert max(counted) == 2 * 3 * 8  # the members of the sets of two days
    assert in_memory == (18, 6)
    assert of_a_year == (24, 3)


async def test_a_crashed_ledger_comes_back_with_its_ids_while_postings_wait(books):
    await posted(books)
    with capture_logs():
        with pytest.raises(Internal):
            await books.ledger.call(Break())
        await posted(books)
    assert books.ledger.restarts == 1
    assert books.rows("SELECT scope, spent, held FROM accounts ORDER BY id") == [("daemon", 14, 0), ("user:ana", 14, 0)]
    assert await problems(books) == []


async def test_rows_submitted_before_a_crash_are_known_after_it(books):
    done = books.ledger.deliver(PostHold(OpenHold(books.start(), 10, (DAEMON, ANA))))
    with capture_logs():
        with pytest.raises(Internal):
            await books.ledger.call(Break())
        await done
        await until(lambda: books.ledger.incarnation)
    assert len((await books.ledger.call(ReadBooks())).open_holds) == 1
    assert await problems(books) == []


@pytest.fixture
async def history(tmp_path):
    """Seven attempts of several users, a day apart."""
    async with open_books(tmp_path, zone=ZoneInfo("America/New_York")) as books:
        for day, (user, app, model, task, talk, cost) in enumerate(
            [
                ("ana", "editor", "openai:gpt-4o", None, None, 1),
                ("ana/bob", "editor", "openai:gpt-4o", "summary", "t1", 2),
                ("anabel", "agent", "anthropic:opus", None, None, 4),
                ("ana", "agent", "anthropic:opus", "summary", "t1", 8),
                ("ana0", "agent", "anthropic:opus", None, None, 16),
                ("ana/", "agent", "openai:gpt-4o", None, None, 32),
                ("bob", "editor", "openai:x", None, None, None),
            ]
        ):
            books.clock.set(f"2027-03-1{day}T03:30:00Z")
            start = books.start(
                user, app, model.partition(":")[0], model=model, task_type=task, conversation=talk, usage_id=f"id{day}"
            )
            await books.ledger.call(PostHold(OpenHold(start, 50, (DAEMON,))))
            await books.ledger.call(PostSettlement(OpenHold(start, 50, (DAEMON,)), attempt_end(cost)))
        yield books


@pytest.mark.parametrize(
    ("query", "user", "days"),
    [
        ({}, None, "6543210"),
        ({}, "ana", "5310"),
        ({}, "ana/bob", "1"),
        ({}, "anabel", "2"),
        ({}, "nobody", ""),
        ({"app": "agent"}, None, "5432"),
        ({"app": "agent"}, "ana", "53"),
        ({"model": "anthropic:opus"}, None, "432"),
        ({"task": "summary"}, None, "31"),
        ({"conversation": "t1"}, None, "31"),
        ({"last": 2}, None, "65"),
        ({"last": 2, "before": "id5"}, None, "43"),
        ({"last": 2, "before": "id0"}, None, ""),
        ({"since": "2027-03-14T03:30:00Z"}, None, "654"),
        ({"since": "2027-03-14"}, None, "654"),
        ({"until": "2027-03-12T03:30:00Z"}, None, "10"),
        ({"since": "2027-03-11T00:00:00-05:00", "until": "2027-03-13"}, None, "2"),
    ],
)
async def test_usage_is_filtered_by(history, query, user, days):
    found = await history.ledger.call(ReadUsage(UsageQuery(**query), user))
    assert "".join(row.usage_id.removeprefix("id") for row in found.rows) == days


async def test_a_usage_row_is_in_milliseconds_and_text(history):
    (row,) = (await history.ledger.call(ReadUsage(UsageQuery(last=1), None))).rows
    assert (row.created_at, row.latency_ms, row.first_token_ms) == ("2027-03-16T03:30:00.000Z", 1.5, None)
    assert (row.cost_nano_usd, row.cost_source, row.model) == (None, "unknown", "openai:x")


async def test_a_time_that_is_none_is_the_askers_fault(history):
    with pytest.raises(BadRequest, match="yesterday"):
        await history.ledger.call(ReadUsage(UsageQuery(since="yesterday"), None))


@pytest.mark.parametrize(
    ("by", "user", "expected"),
    [
        ("user", None, [("ana/", 32), ("ana0", 16), ("ana", 9), ("anabel", 4), ("ana/bob", 2), ("bob", 0)]),
        ("user", "ana", [("ana/", 32), ("ana", 9), ("ana/bob", 2)]),
        ("app", None, [("agent", 60), ("editor", 3)]),
        ("provider", None, [("openai", 35), ("anthropic", 28)]),
        ("model", "ana", [("openai:gpt-4o", 35), ("anthropic:opus", 8)]),
        # 03:30 UTC is the evening before in New York, until the clocks go forward on the 14th and after.
        ("day", "ana", [("2027-03-09", 1), ("2027-03-10", 2), ("2027-03-12", 8), ("2027-03-14", 32)]),
    ],
)
async def test_usage_is_summed_by(history, by, user, expected):
    since, until_ = parse_rfc3339("2027-03-01"), parse_rfc3339("2027-04-01")
    groups = await history.ledger.call(ReadGroups(SpendQuery(by=by), user, since, until_))
    assert [(group.key, group.cost_nano_usd) for group in groups] == expected


async def test_sums_count_calls_tokens_and_what_has_no_price(history):
    since, until_ = parse_rfc3339("2027-03-10"), parse_rfc3339("2027-03-16T03:30:00Z")
    query = SpendQuery(by="provider")
    groups = await history.ledger.call(ReadGroups(query, None, since, until_ + 1))
    assert [(g.key, g.calls, g.prompt_tokens, g.response_tokens, g.unpriced) for g in groups] == [
        ("openai", 4, 12, 20, 1),
        ("anthropic", 3, 9, 15, 0),
    ]
    groups = await history.ledger.call(ReadGroups(query, None, since, until_))
    assert [(g.key, g.calls, g.unpriced) for g in groups] == [("openai", 3, 0), ("anthropic", 3, 0)]


async def test_what_was_paid_for_a_task_is_summed_by_model(books):
    rows = [
        ("ana", "x:a", "tag", 7, {"tokens": TokenCount(prompt=10, response=1)}),
        ("ana/bob", "x:a", "tag", 8, {"tokens": TokenCount(prompt=30, response=2)}),
        ("ana", "x:b", "tag", 90, {"tokens": TokenCount(prompt=20, cached=5, response=3, reasoning=2)}),
        ("ana", "x:a", "poem", 100, {}),
        ("ana", "x:a", None, 100, {}),
        ("anabel", "x:a", "tag", 100, {}),
        ("ana", "x:a", "tag", 100, {"status": "truncated"}),
        ("ana", "x:free", "tag", 0, {}),
        ("ana", "x:unpriced", "tag", None, {}),
    ]
    for user, model, task, cost, end in rows:
        start = books.start(user, model=model, task_type=task)
        await books.ledger.call(PostHold(OpenHold(start, 50, (DAEMON,))))
        await books.ledger.call(PostSettlement(OpenHold(start, 50, (DAEMON,)), attempt_end(cost, **end)))
    now = books.clock.now_us()
    assert await books.ledger.call(ReadPaidCalls("tag", "ana", now)) == [
        PaidCalls("x:b", 1, 20, 3, 20, 90),
        PaidCalls("x:a", 2, 40, 3, 30, 15),
    ]
    assert await books.ledger.call(ReadPaidCalls("tag", "ana", now + 1)) == []


async def test_what_was_paid_is_looked_up_beside_what_calls_wait_for(books):
    asked, go_on = threading.Event(), threading.Event()
    await books.store._surveyor.create_function("long", 0, lambda: asked.set() or go_on.wait(10))
    long = asyncio.create_task(books.store.survey(Statement("SELECT long()", 0)))
    try:
        await until(asked.is_set)
        paid = asyncio.create_task(books.ledger.call(ReadPaidCalls("tag", "ana", books.clock.now_us())))
        await books.ledger.call(ReadBooks())
        assert not paid.done()
    finally:
        go_on.set()
    await long
    assert await paid == []


async def test_what_was_paid_is_looked_up_in_its_time_alone(books):
    asked = {"task": "tag", "user": "ana", "since": 0, "first": id_at(0)}
    ((*_, how), *_) = await books.store.survey(Statement(f"EXPLAIN QUERY PLAN {SQL['paid_calls']}", 0), asked)
    assert how == "SEARCH usage USING PRIMARY KEY (id>?)"


async def test_what_was_paid_counts_although_the_clock_was_set_forward_behind_its_id(books):
    start = books.start("ana", model="x:a", task_type="tag")
    start = replace(start, created_at=start.created_at + 3600 * MICRO)
    await books.ledger.call(PostHold(OpenHold(start, 50, (DAEMON,))))
    await books.ledger.call(PostSettlement(OpenHold(start, 50, (DAEMON,)), attempt_end(7)))
    assert len(await books.ledger.call(ReadPaidCalls("tag", "ana", start.created_at))) == 1


async def test_the_highest_id_is_known_wherever_it_stands(books):
    assert await last_id(books.store) is None
    usage_id = await books.reserve(10)
    assert await last_id(books.store) == usage_id
    start = attempt_start(usage_id="0000000000005", call_id="zzzzzzzzzzzzz")
    await books.ledger.call(PostHold(OpenHold(start, 10, (DAEMON,))))
    assert await last_id(books.store) == "zzzzzzzzzzzzz"


async def test_a_ledger_tells_its_state(books):
    await posted(books)
    assert repr(books.ledger) == "<Ledger 1 sets of accounts, <Store 0 waiting>>"
