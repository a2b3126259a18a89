"""Alerts under a clock that the test turns: a new period arms them again, and one that is over keeps its own."""

import pytest
from worlds import TurnedClock, attempt_end, month, open_books

from actors.rules.admission import Limits
from protocols.budget import Settle

pytestmark = pytest.mark.anyio
LEVELS = [75, 80, 90, 100]


@pytest.fixture
def opened(tmp_path):
    """Opens the books of this test's folder."""

    def with_limits(limits, **how):
        return open_books(tmp_path, limits=limits, **how)

    return with_limits


async def spend(books, amount):
    """One attempt; the levels that its spend reached."""
    usage_id = await books.reserve(amount)
    return [alert.level for alert in await books.budget.call(Settle(usage_id, attempt_end(amount))) or ()]


async def stored(books, period="month"):
    """Label and level of the alerts, in the order in which they were raised."""
    await books.store.written()
    return books.rows("SELECT label, level FROM alerts WHERE period = ? ORDER BY id", period)


async def test_a_new_month_arms_them_again(opened):
    async with opened(Limits(daemon=month(100))) as books:
        assert await spend(books, 80) == [75, 80]
        books.clock.set("2027-03-31T23:59:59Z")
        assert await spend(books, 5) == []
        books.clock.set("2027-04-01T00:00:00Z")
        assert await spend(books, 74) == []
        assert await spend(books, 26) == LEVELS
        assert await stored(books) == [
            *[("2027-03", level) for level in (75, 80)],
            *[("2027-04", level) for level in LEVELS],
        ]


async def test_a_new_day_arms_those_of_the_day_and_not_those_of_the_month(opened):
    async with opened(Limits(daemon=month(200, day=100))) as books:
        assert await spend(books, 80) == [75, 80]
        books.clock.set("2027-03-11T00:00:00Z")
        assert await spend(books, 70) == [75]  # 150 of the month's 200, 70 of the day's 100
        assert await spend(books, 10) == [80, 75, 80]
        assert await stored(books, "day") == [
            ("2027-03-10", 75),
            ("2027-03-10", 80),
            ("2027-03-11", 75),
            ("2027-03-11", 80),
        ]
        assert await stored(books) == [("2027-03", 75), ("2027-03", 80)]


async def test_an_attempt_that_ends_in_the_next_period_raises_those_of_its_own(opened):
    async with opened(Limits(daemon=month(100))) as books:
        over_midnight = await books.reserve(90)
        books.clock.set("2027-04-01T00:00:00Z")
        assert await spend(books, 75) == [75]
        await books.settle(over_midnight, 90)
        assert await spend(books, 5) == [80]
        assert await stored(books) == [
            ("2027-04", 75),
            *[("2027-03", level) for level in (75, 80, 90)],
            ("2027-04", 80),
        ]


@pytest.mark.parametrize("back", ["2027-03-31T23:58:00Z", "2027-03-12T12:00:00Z"])
async def test_a_clock_that_is_set_back_repeats_none(opened, back):
    async with opened(Limits(daemon=month(100))) as books:
        assert await spend(books, 80) == [75, 80]
        books.clock.set("2027-04-01T00:00:00Z")
        assert await spend(books, 80) == [75, 80]
        before = await stored(books)
        books.clock.set(back)
        assert await spend(books, 1) == []
        books.clock.set("2027-04-02T00:00:00Z")
        assert await spend(books, 1) == []
        assert await stored(books) == before


async def test_a_start_in_the_same_period_repeats_none_and_one_in_the_next_arms_them(opened):
    limits = Limits(daemon=month(100))
    async with opened(limits) as books:
        assert await spend(books, 80) == [75, 80]
    async with opened(limits) as books:
        assert await spend(books, 1) == []
        assert await spend(books, 9) == [90]
    async with opened(limits, clock=TurnedClock("2027-04-01T00:00:00Z")) as books:
        assert await spend(books, 80) == [75, 80]


async def test_a_limit_of_the_config_that_was_lowered_before_a_start_raises_at_the_start_what_is_reached(opened):
    async with opened(Limits(daemon=month(100))) as books:
        assert await spend(books, 70) == []
    for _ in range(2):
        async with opened(Limits(daemon=month(80))) as books:
            assert await stored(books) == [("2027-03", 75), ("2027-03", 80)]


@pytest.mark.parametrize(("limit", "first"), [(1, [1]), (3, [3]), (7, [6, 6, 7, 7])])
async def test_a_level_of_a_tiny_limit_is_reached_by_the_least_spend_that_is_no_less(opened, limit, first):
    """Nano-dollar by nano-dollar: 75 % of 7 are 5.25, so 6."""
    async with opened(Limits(daemon=month(limit))) as books:
        reached = [[at] * len(await spend(books, 1)) for at in range(1, limit + 1)]
        flat = [at for each in reached for at in each]
        assert len(flat) == 4
        assert [at for at in flat if at in first] == flat
