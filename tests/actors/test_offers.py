"""Tokens with which a user confirms one call: what they are bound to, and how they end."""

from itertools import count

import pytest
from worlds import TurnedClock, open_books

from actors.offers import MOST, OFFER_S, Offers
from protocols.budget import CheckOverride, OfferOverride
from protocols.errors import OverrideInvalid
from protocols.money import NanoUSD

PERIODS = ("2027-03", "2027-03-10")
MODEL = "anthropic:claude"


@pytest.fixture
def clock() -> TurnedClock:
    return TurnedClock()


@pytest.fixture
def offers(clock: TurnedClock) -> Offers:
    numbers = count()
    return Offers(clock, lambda: f"token {next(numbers)}")


def made(offers: Offers) -> str:
    return offers.make("ana", MODEL, b"body", NanoUSD(60), PERIODS).token


def model_of(offers: Offers, token: str, user: str = "ana", body: bytes = b"body", periods=PERIODS) -> str:
    return offers.model_of(token, user, body, periods)


def test_a_token_says_which_model_it_is_for_until_it_is_used(offers):
    token = made(offers)
    assert [model_of(offers, token) for _ in range(2)] == [MODEL, MODEL]
    offers.use(token)
    with pytest.raises(OverrideInvalid):
        model_of(offers, token)
    offers.use(token)


@pytest.mark.parametrize(
    "changed",
    [
        {"user": "bob"},
        {"user": "ana/bob"},
        {"body": b"another"},
        {"periods": ("2027-03", "2027-03-11")},
        {"periods": ("2027-04", "2027-04-10")},
    ],
    ids=str,
)
def test_it_is_for_one_user_one_request_and_the_periods_of_then(offers, changed):
    token = made(offers)
    with pytest.raises(OverrideInvalid):
        model_of(offers, token, **changed)
    assert model_of(offers, token) == MODEL


@pytest.mark.anyio
async def test_it_is_good_for_ten_minutes(offers, clock):
    offer = offers.make("ana", MODEL, b"body", NanoUSD(60), PERIODS)
    assert offer.expires_at == "2027-03-10T12:10:00.000Z"
    await clock.turn(OFFER_S - 0.001)
    assert model_of(offers, offer.token) == MODEL
    await clock.turn(0.001)
    with pytest.raises(OverrideInvalid):
        model_of(offers, offer.token)


def test_a_wall_clock_that_is_set_neither_ends_nor_prolongs_it(offers, clock):
    token = made(offers)
    clock.set("2027-03-10T13:00:00Z")
    assert model_of(offers, token) == MODEL
    clock.set("2027-03-10T11:00:00Z")
    clock.seconds += OFFER_S
    with pytest.raises(OverrideInvalid):
        model_of(offers, token)


def test_there_are_never_more_than_a_bound_and_the_oldest_go_first(offers):
    tokens = [made(offers) for _ in range(MOST + 2)]
    for token in tokens[:2]:
        with pytest.raises(OverrideInvalid):
            model_of(offers, token)
    assert model_of(offers, tokens[2]) == model_of(offers, tokens[-1]) == MODEL
    offers.use(tokens[-1])
    made(offers)
    assert model_of(offers, tokens[2]) == MODEL


def test_every_wrong_token_is_told_the_same_so_that_nothing_can_be_learnt_of_others(offers):
    token, told = made(offers), set()
    for wrong in ({"token": "made up"}, {"token": token, "user": "bob"}, {"token": token, "body": b"other"}):
        with pytest.raises(OverrideInvalid) as refused:
            model_of(offers, **wrong)
        told.add((refused.value.message, str(refused.value.detail)))
    assert len(told) == 1


@pytest.mark.anyio
@pytest.mark.parametrize("later", ["2027-03-11T00:00:00Z", "2027-04-01T00:00:00Z"])
async def test_the_budget_takes_no_token_of_a_period_that_is_over(tmp_path, later):
    clock = TurnedClock("2027-03-10T23:59:00Z")
    async with open_books(tmp_path, clock=clock) as books:
        token = (await books.budget.call(OfferOverride("ana", MODEL, b"body", NanoUSD(60)))).token
        await books.budget.call(CheckOverride(token, "ana", b"body"))
        clock.set(later)
        with pytest.raises(OverrideInvalid):
            await books.budget.call(CheckOverride(token, "ana", b"body"))


def test_many_questions_of_one_account_take_nobody_elses_token(offers):
    bobs = offers.make("bob", MODEL, b"body", NanoUSD(60), PERIODS).token
    first = made(offers)
    kids = offers.make("ana/kid", MODEL, b"body", NanoUSD(60), PERIODS).token
    for _ in range(MOST):
        made(offers)
    assert model_of(offers, bobs, "bob") == MODEL
    for gone, user in ((first, "ana"), (kids, "ana/kid")):
        with pytest.raises(OverrideInvalid):
            model_of(offers, gone, user)
