"""What a user's own paid calls would have cost less with a recommended model."""

import pytest

from actors.rules.pricing import FREE, Dated, Price, Tier
from actors.rules.saving import saving
from protocols.usage import PaidCalls

CHEAP = Price(input=1_000, output=2_000, version="cheap")
FAIR = Price(input=10_000, output=20_000, version="fair")
DEAR = Price(input=100_000, output=200_000, version="dear")
PAID = PaidCalls("x:old", 3, 1000, 100, 400, 100_000)


@pytest.mark.parametrize(
    ("offers", "model", "saved"),
    [
        ({"balanced": ("x:b", FAIR)}, "x:b", 100_000 - 12_000),
        ({"balanced": ("x:b", FAIR), "premium": ("x:p", CHEAP)}, "x:p", 100_000 - 1_200),
        ({"balanced": ("x:b", CHEAP), "premium": ("x:p", FAIR)}, "x:b", 100_000 - 1_200),
        ({"balanced": ("x:b", FAIR), "budget": ("home:f", FREE)}, "x:b", 100_000 - 12_000),
        ({"balanced": ("x:b", DEAR), "premium": ("x:p", None), "budget": ("home:f", FREE)}, "home:f", 100_000),
        ({"balanced": ("home:f", FREE)}, "home:f", 100_000),
        ({"balanced": ("x:old", CHEAP), "budget": ("home:f", FREE)}, "home:f", 100_000),
    ],
)
def test_the_model_that_saves_most_is_told_and_a_weaker_one_only_where_no_other_saves(offers, model, saved):
    made = saving([PAID], offers)
    assert (made.model, made.saved_nano_usd, made.spent_nano_usd, made.calls, made.days) == (
        model,
        saved,
        100_000,
        3,
        30,
    )


@pytest.mark.parametrize(
    ("paid", "offers"),
    [
        ([], {"balanced": ("home:f", FREE)}),
        ([PAID], {}),
        ([PAID], {"balanced": ("x:b", None)}),
        ([PAID], {"balanced": ("x:b", DEAR)}),
        ([PAID], {"balanced": ("x:old", FREE)}),
        ([PaidCalls("x:old", 1, 1000, 100, 1000, 12_000)], {"balanced": ("x:b", FAIR)}),
    ],
)
def test_nothing_is_told_where_nothing_is_saved_or_nobody_knows(paid, offers):
    assert saving(paid, offers) is None


def test_calls_that_the_model_answered_already_stay_what_they_cost():
    mine = PaidCalls("x:b", 2, 10_000, 10_000, 9_000, 50_000)
    made = saving([PAID, mine], {"balanced": ("x:b", FAIR)})
    assert (made.saved_nano_usd, made.spent_nano_usd, made.calls) == (88_000, 150_000, 5)


def test_all_paid_calls_are_reckoned_together_also_those_that_would_be_dearer():
    cheaper = PaidCalls("x:tiny", 1, 1000, 0, 1000, 5_000)
    made = saving([PAID, cheaper], {"balanced": ("x:b", FAIR)})
    assert made.saved_nano_usd == 105_000 - 12_000 - 10_000


@pytest.mark.parametrize(
    "price",
    [
        Price(input=10_000, output=20_000, version="v", tiers=(Tier(input=50_000, output=20_000, above_prompt_tokens=399),)),
        Price(input=10_000, output=20_000, version="v", dated=(Dated(input=50_000, output=20_000),)),
    ],
)  # fmt: skip
def test_no_more_is_promised_than_the_dearest_tier_and_time_leave(price):
    assert saving([PAID], {"balanced": ("x:b", price)}).saved_nano_usd == 100_000 - 52_000


def test_the_saving_is_told_in_a_sentence():
    why = saving([PAID], {"balanced": ("x:b", FAIR)}).why
    assert why == "you would have saved $0.000088 of $0.0001 in the last 30 days with x:b"
