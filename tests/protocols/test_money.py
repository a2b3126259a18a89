"""Money: integers, rounded where the docstrings say, and a text that loses nothing."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.money import NANO_PER_USD, nano_from_pico, nano_from_usd, pico_from_usd_per_mtok, usd_text

AMOUNTS = st.decimals(min_value=-(10**9), max_value=10**9, places=12)


@pytest.mark.parametrize(
    ("usd", "nano"),
    [
        (0, 0),
        (1, 10**9),
        (0.1, 10**8),
        ("0.000000001", 1),
        ("0.0000000019", 1),
        (Decimal("12.5"), 12_500_000_000),
        (-0.1, -(10**8)),
    ],
)
def test_dollars_become_nano_dollars_rounded_down(usd, nano):
    assert nano_from_usd(usd) == nano


@pytest.mark.parametrize("usd", [0.1, 0.2, 0.3, 19.99, 30.0, 200.1])
def test_a_float_of_a_config_is_the_amount_that_was_written(usd):
    assert usd_text(nano_from_usd(usd)).removeprefix("$").rstrip("0").rstrip(".") == f"{usd:g}"


@pytest.mark.parametrize("usd", ["", "a lot", "nan", "inf", "-inf", float("inf"), float("nan"), "1,5"])
def test_what_is_no_amount_is_refused(usd):
    with pytest.raises(ValueError, match="dollars"):
        nano_from_usd(usd)


@pytest.mark.parametrize(
    ("usd", "pico"), [(1, 1_000_000), (0.15, 150_000), (0.0000001, 1), ("0.0000011", 2), (0, 0), (60, 60_000_000)]
)
def test_a_price_is_rounded_up(usd, pico):
    assert pico_from_usd_per_mtok(usd) == pico


@pytest.mark.parametrize("usd", [-1, "nan", "inf", "", "free"])
def test_what_is_no_price_is_refused(usd):
    with pytest.raises(ValueError, match="price"):
        pico_from_usd_per_mtok(usd)


@pytest.mark.parametrize(("pico", "nano"), [(0, 0), (1, 1), (999, 1), (1000, 1), (1001, 2)])
def test_a_line_is_rounded_up_once(pico, nano):
    assert nano_from_pico(pico) == nano


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (0, "$0.00"),
        (12_500_000_000, "$12.50"),
        (-2400, "-$0.0000024"),
        (1, "$0.000000001"),
        (10**15, "$1,000,000.00"),
        (-(10**9), "-$1.00"),
    ],
)
def test_an_amount_for_people(nano, text):
    assert usd_text(nano) == text


@given(AMOUNTS)
def test_rounding_moves_an_amount_by_less_than_a_nano_dollar_and_never_up(amount):
    nano = nano_from_usd(amount)
    assert nano <= amount * NANO_PER_USD < nano + 1


@given(st.integers(-(2**63), 2**63))
def test_the_text_of_an_amount_loses_nothing(nano):
    assert nano_from_usd(usd_text(nano).replace("$", "").replace(",", "")) == nano


@given(st.integers(0, 2**70))
def test_rounding_up_adds_less_than_a_nano_dollar(pico):
    assert 0 <= nano_from_pico(pico) * 1000 - pico < 1000
