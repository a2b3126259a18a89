import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.rules.rate import MINUTE_S, full


@pytest.mark.parametrize(
    ("taken", "after_s", "amount", "wait_s"),
    [
        (0, 0, 60, 0),
        (60, 0, 1, 1),
        (60, 0.25, 1, 0.75),
        (60, 1, 1, 0),
        (60, 1000, 60, 0),
        (30, 0, 60, 30),
        (0, 0, 600, 0),
        (10, 0, 600, 10),
    ],
)
def test_a_bucket_refills_evenly_and_a_large_request_waits_for_a_full_one(taken, after_s, amount, wait_s):
    bucket = full(60, 100.0)
    bucket.take(taken)
    assert bucket.wait_s(amount, 100.0 + after_s) == pytest.approx(wait_s)


def test_a_large_request_is_paid_for_afterwards():
    bucket = full(60, 0.0)
    bucket.take(600)
    assert bucket.wait_s(1, 0.0) == pytest.approx(541)


@given(st.integers(1, 1000), st.lists(st.tuples(st.floats(0, 30), st.integers(1, 200)), max_size=40))
def test_over_any_time_no_more_passes_than_a_minutes_worth_and_the_refill(per_minute, requests):
    bucket, now, passed, largest = full(per_minute, 0.0), 0.0, 0, 0
    for later, amount in requests:
        now += later
        if bucket.wait_s(amount, now) <= 0:
            bucket.take(amount)
            passed, largest = passed + amount, max(largest, amount)
    assert passed <= per_minute + now * per_minute / MINUTE_S + largest + 1e-6
