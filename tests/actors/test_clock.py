import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.clock import Clock, Ids, id_after, id_at, parse_rfc3339, rfc3339

NOW = 1_800_000_000_000_000


def test_ids_are_thirteen_characters_and_sort_by_time():
    times = iter(range(NOW, NOW + 2_000_000, 997))
    ids = Ids(lambda: next(times))
    given_out = [ids.next() for _ in range(2000)]
    assert given_out == sorted(given_out)
    assert {len(one) for one in given_out} == {13}
    assert set("".join(given_out)) <= set("0123456789abcdefghjkmnpqrstvwxyz")


@given(st.lists(st.integers(0, 2**52), min_size=1, max_size=50))
def test_no_id_is_given_twice_whatever_the_clock_does(times):
    clock = iter(times)
    ids = Ids(lambda: next(clock))
    given_out = [ids.next() for _ in times]
    assert sorted(set(given_out)) == given_out


def test_a_clock_that_stands_still_gives_ids_all_the_same():
    ids = Ids(lambda: NOW)
    assert len({ids.next() for _ in range(5000)}) == 5000


@given(st.integers(0, 2**50), st.integers(0, 2**50))
def test_ids_go_on_above_the_last_one_known(before, after):
    last = Ids(lambda: before).next()
    assert Ids(lambda: after, last).next() > last


@given(st.integers(0, 2**52), st.integers(0, 90_000))
def test_an_id_so_much_later_parts_what_came_before_from_what_comes_after(at, later_s):
    first, parting = Ids(lambda: at).next(), id_after(Ids(lambda: at).next(), later_s)
    assert first <= parting == Ids(lambda: at + later_s * 1_000_000).next()
    assert Ids(lambda: at + later_s * 1_000_000 + 1).next() > parting


def test_after_the_last_id_there_is_none_later():
    assert id_after("z" * 13, 5) <= "z" * 13


@given(st.integers(0, 2**52))
def test_the_id_of_an_instant_is_the_first_that_is_given_then(at):
    assert id_at(at) == Ids(lambda: at).next()
    assert id_at(-at) == id_at(0)


@pytest.mark.parametrize("text", ["", "0", "z" * 12, "z" * 14, "A" * 13, "u" * 13, "\u0664" * 13])
def test_what_is_no_id_has_none_after_it(text):
    with pytest.raises(ValueError):  # noqa: PT011  any word will do
        id_after(text, 5)


@pytest.mark.parametrize(
    ("text", "us"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2027-01-31T12:00:00Z", 1_801_396_800_000_000),
        ("2027-01-31T13:00:00+01:00", 1_801_396_800_000_000),
        ("2027-01-31T12:00:00.250Z", 1_801_396_800_250_000),
        ("2027-01-31", 1_801_353_600_000_000),
    ],
)
def test_a_time_is_read(text, us):
    assert parse_rfc3339(text) == us


@pytest.mark.parametrize("text", ["", "yesterday", "2027-13-01", "12:00"])
def test_what_is_no_time_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match="write it like 2027-01-31T12:00:00Z"):
        parse_rfc3339(text)


@given(st.integers(0, 4_000_000_000_000))
def test_a_written_time_reads_back(ms):
    assert parse_rfc3339(rfc3339(ms * 1000)) == ms * 1000


def test_the_real_clock_is_the_machines():
    clock = Clock()
    assert abs(clock.now_us() - time.time_ns() // 1000) < 5_000_000
    assert abs(clock.monotonic() - time.monotonic()) < 5


@pytest.mark.anyio
async def test_the_real_clock_sleeps_and_limits():
    clock = Clock()
    await clock.sleep(0)
    with pytest.raises(TimeoutError), clock.fail_after(0):
        await clock.sleep(60)
