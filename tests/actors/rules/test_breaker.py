import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.rules.breaker import DEGRADED, FAILURES, FIRST_S, LAST_S, Breaker, begun, failed, succeeded, undecided


def opened(now=0.0):
    breaker = Breaker()
    for _ in range(FAILURES):
        breaker = failed(breaker, 0, now)
    return breaker


def half_open(now=FIRST_S):
    breaker = begun(opened())
    assert breaker.wait_s(now) is None
    return breaker


def test_a_closed_breaker_lets_attempts_pass_and_success_forgets_failures():
    breaker = failed(Breaker(), 0, 0.0)
    assert (begun(breaker), breaker.wait_s(0.0)) == (breaker, 0.0)
    assert succeeded(breaker, 0) == Breaker()


def test_failures_in_a_row_first_degrade_and_then_open():
    breaker, seen = Breaker(), []
    for _ in range(FAILURES):
        seen.append((breaker.degraded, breaker.open))
        breaker = failed(breaker, 0, 0.0)
    assert seen == [(n >= DEGRADED, False) for n in range(FAILURES)]
    assert (breaker.degraded, breaker.open) == (False, True)


@pytest.mark.parametrize(("now", "wait"), [(0.0, FIRST_S), (0.5, FIRST_S - 0.5), (FIRST_S, 0.0), (99.0, 0.0)])
def test_an_open_breaker_says_how_long_to_wait(now, wait):
    assert opened().wait_s(now) == wait


def test_one_probe_passes_at_a_time_and_is_numbered():
    breaker = half_open()
    assert (breaker.probe, breaker.probing, breaker.wait_s(1000.0)) == (1, True, None)


def test_the_probes_success_closes():
    assert succeeded(half_open(), 1) == Breaker(probe=1)


def test_the_probes_failure_doubles_the_wait_up_to_a_bound():
    breaker, now, waits = opened(), 0.0, []
    for _ in range(8):
        waits.append(breaker.wait_s(now))
        now += waits[-1]
        breaker = begun(breaker)
        breaker = failed(breaker, breaker.probe, now)
    assert waits == [2.0, 4.0, 8.0, 16.0, 32.0, LAST_S, LAST_S, LAST_S]


def test_a_breaker_that_opens_anew_begins_with_the_short_wait():
    breaker = failed(half_open(), 1, 2.0)
    breaker = succeeded(begun(breaker), 2)
    for _ in range(FAILURES):
        breaker = failed(breaker, 2, 100.0)
    assert breaker.wait_s(100.0) == FIRST_S


def test_an_undecided_probe_makes_room_for_the_next():
    breaker = undecided(half_open(), 1)
    assert (breaker.open, breaker.wait_s(FIRST_S)) == (True, 0.0)
    assert begun(breaker).probe == 2


@pytest.mark.parametrize("late", [0, 1])
@pytest.mark.parametrize("result", [succeeded, lambda b, n: failed(b, n, 50.0), undecided])
def test_late_results_of_earlier_attempts_change_nothing(late, result):
    waiting = failed(half_open(), 1, FIRST_S)
    probing = begun(waiting)
    assert result(waiting, late) == waiting
    assert result(probing, late) == probing


@pytest.mark.parametrize("result", [succeeded, lambda b, n: failed(b, n, 50.0)])
def test_attempts_from_before_it_opened_decide_nothing(result):
    assert result(opened(), 0) == opened()
    assert result(half_open(), 0) == half_open()


@given(st.lists(st.tuples(st.sampled_from("bsfu"), st.integers(0, 5), st.floats(0, 10))))
def test_at_most_one_probe_is_under_way_and_waits_are_bounded(events):
    breaker, now = Breaker(), 0.0
    for event, number, later in events:
        now += later
        if event == "b" and breaker.wait_s(now) == 0:
            breaker = begun(breaker)
        elif event == "s":
            breaker = succeeded(breaker, number)
        elif event == "f":
            breaker = failed(breaker, number, now)
        elif event == "u":
            breaker = undecided(breaker, number)
        assert breaker.probing <= breaker.open
        assert breaker.wait_s(now) is None or 0 <= breaker.wait_s(now) <= LAST_S
