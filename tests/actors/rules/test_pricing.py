from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.rules.pricing import DAY_S, FREE, Dated, Price, Tier, affordable, bound, cost, cost_together, overridden
from protocols.chat import MAX_TOKENS, TokenCount
from protocols.money import NanoUSD, PicoUSD

HOUR_S = 3_600


def price(inp: int, out: int, version: str = "test", **more) -> Price:
    return Price(input=PicoUSD(inp), output=PicoUSD(out), version=version, **more)


GPT = price(2_500_000, 10_000_000, cached_input=1_250_000)
CLAUDE = price(3_000_000, 15_000_000, cached_input=300_000, cache_write=3_750_000)
TIERED = price(
    1_250_000,
    10_000_000,
    tiers=(Tier(above_prompt_tokens=200_000, input=PicoUSD(2_500_000), output=PicoUSD(15_000_000)),),
)
REASONER = price(2_000_000, 8_000_000, reasoning=3_000_000)
AUDIO = price(4_000_000, 16_000_000, cached_input=400_000, audio_input=32_000_000, audio_output=64_000_000)
"""gpt-realtime, its cached audio priced as audio."""
CACHED_AUDIO = price(600_000, 2_400_000, cached_input=60_000, audio_input=10_000_000, cached_audio=300_000)
WITH_FEE = price(1_000_000, 1_000_000, request_fee=12_000_000)
OFF_PEAK = price(
    135_000,
    550_000,
    dated=(Dated(input=PicoUSD(270_000), output=PicoUSD(1_100_000), day_from_s=1_800, day_until_s=59_400),),
)


@pytest.mark.parametrize(
    ("case", "tokens", "nano"),
    [
        (GPT, TokenCount(prompt=1_000_000), 2_500_000_000),
        (GPT, TokenCount(response=1_000_000), 10_000_000_000),
        (GPT, TokenCount(prompt=100, cached=40, response=10), 60 * 2_500 + 40 * 1_250 + 10 * 10_000),
        (CLAUDE, TokenCount(prompt=100, cached=40, cache_write=50), 10 * 3_000 + 40 * 300 + 50 * 3_750),
        (GPT, TokenCount(prompt=100, cache_write=50), 100 * 2_500),
        (REASONER, TokenCount(response=100, reasoning=70), 30 * 8_000 + 70 * 3_000),
        (GPT, TokenCount(response=100, reasoning=70), 100 * 10_000),
        (AUDIO, TokenCount(prompt=100, audio_prompt=60), 40 * 4_000 + 60 * 32_000),
        (AUDIO, TokenCount(response=100, audio_response=70), 30 * 16_000 + 70 * 64_000),
        (AUDIO, TokenCount(response=100, reasoning=10, audio_response=70), 30 * 16_000 + 70 * 64_000),
        (AUDIO, TokenCount(prompt=100, cached=40, audio_prompt=60), 40 * 400 + 60 * 32_000),
        (AUDIO, TokenCount(prompt=100, cached=60, audio_prompt=60), 40 * 400 + 60 * 32_000),
        (CACHED_AUDIO, TokenCount(prompt=100, cached=60, audio_prompt=60), 40 * 60 + 20 * 300 + 40 * 10_000),
        (CACHED_AUDIO, TokenCount(prompt=100, cached=100, audio_prompt=100), 100 * 300),
        (CACHED_AUDIO, TokenCount(response=100, audio_response=100), 100 * 2_400),
        (GPT, TokenCount(prompt=100, cached=40, response=10, audio_prompt=90, audio_response=9), 300_000),
        (TIERED, TokenCount(prompt=200_000, response=1), 200_000 * 1_250 + 10_000),
        (TIERED, TokenCount(prompt=200_001, response=1), 200_001 * 2_500 + 15_000),
        (WITH_FEE, TokenCount(prompt=1, response=1), 12_000_000 + 2_000),
        (WITH_FEE, TokenCount(), 12_000_000),
        (GPT, TokenCount(), 0),
        (FREE, TokenCount(prompt=10**9, cached=10**8, response=10**9, reasoning=10**9), 0),
    ],
)
def test_each_class_is_charged_at_its_own_price(case, tokens, nano):
    assert cost(case, tokens) == nano


def test_a_line_is_rounded_up_once_and_not_per_class():
    third = price(100, 100, cached_input=100)
    assert cost(third, TokenCount(prompt=2, cached=1, response=1)) == 1
    assert cost(third, TokenCount(prompt=10, cached=5)) == 1
    assert cost(third, TokenCount(prompt=10, cached=5, response=1)) == 2


@pytest.mark.parametrize(
    "tokens",
    [
        TokenCount(prompt=10, cached=20),
        TokenCount(prompt=10, cached=10, cache_write=10),
        TokenCount(response=5, reasoning=50),
        TokenCount(prompt=-5, cached=-5, cache_write=-1, response=-7, reasoning=-1),
    ],
)
def test_counts_that_contradict_each_other_stay_within_the_bound_and_above_zero(tokens):
    assert 0 <= cost(CLAUDE, tokens) <= bound(CLAUDE, 10, 5)


@pytest.mark.parametrize(
    ("tokens", "nano"),
    [
        (TokenCount(prompt=10, audio_prompt=50), 10 * 32_000),
        (TokenCount(prompt=10, cache_write=4, audio_prompt=50), 4 * 4_000 + 6 * 32_000),
        (TokenCount(response=5, audio_response=50), 5 * 64_000),
        (TokenCount(response=5, reasoning=2, audio_response=50), 2 * 16_000 + 3 * 64_000),
        (TokenCount(prompt=10, response=5, audio_prompt=-3, audio_response=-4), 10 * 4_000 + 5 * 16_000),
        (TokenCount(audio_prompt=50, audio_response=50), 0),
    ],
)
def test_audio_beyond_the_prompt_or_the_answer_is_cut(tokens, nano):
    assert cost(AUDIO, tokens) == nano


@pytest.mark.parametrize(
    ("at_s", "nano"),
    [(0, 135), (1_799.9, 135), (1_800, 270), (59_399, 270), (59_400, 135), (DAY_S + 1_800, 270), (None, 270)],
)
def test_a_price_by_the_hour_is_the_one_in_force_and_without_a_time_the_dearest(at_s, nano):
    assert cost(OFF_PEAK, TokenCount(prompt=1_000), at_s) == nano * 1_000


def test_a_window_may_go_over_midnight():
    night = Dated(input=PicoUSD(1), output=PicoUSD(1), day_from_s=22 * HOUR_S, day_until_s=2 * HOUR_S)
    assert [night.in_force(hour * HOUR_S) for hour in (21, 22, 23, 24, 25, 26)] == [0, 1, 1, 1, 1, 0]


def test_a_later_date_replaces_an_earlier_one_and_not_before_its_day():
    new_year = price(
        2_000,
        2_000,
        dated=(
            Dated(input=PicoUSD(1_000), output=PicoUSD(1_000), since_s=10 * DAY_S),
            Dated(input=PicoUSD(500), output=PicoUSD(500), since_s=20 * DAY_S),
        ),
    )
    costs = [cost(new_year, TokenCount(prompt=10), day * DAY_S) for day in (9, 10, 19, 20)]
    assert costs == [20, 10, 10, 5]
    assert bound(new_year, 10, 0) == 20


@pytest.mark.parametrize(
    ("case", "prompt", "response", "nano"),
    [
        (GPT, 100, 10, 100 * 2_500 + 10 * 10_000),
        (CLAUDE, 100, 10, 100 * 3_750 + 10 * 15_000),
        (TIERED, 200_000, 10, 200_000 * 1_250 + 10 * 10_000),
        (TIERED, 200_001, 10, 200_001 * 2_500 + 10 * 15_000),
        (REASONER, 0, 10, 10 * 8_000),
        (price(1_000, 1_000, reasoning=9_000), 0, 10, 90),
        (AUDIO, 100, 10, 100 * 4_000 + 10 * 16_000),
        (WITH_FEE, 0, 0, 12_000_000),
        (OFF_PEAK, 1_000, 0, 270_000),
        (FREE, 10**9, 10**9, 0),
    ],
)
def test_the_bound_takes_the_dearest_class_tier_and_time(case, prompt, response, nano):
    assert bound(case, prompt, response) == nano


picos = st.integers(0, 10**9).map(PicoUSD)
maybe = st.none() | picos
CLASSES = ("cached_input", "cache_write", "reasoning", "audio_input", "cached_audio", "audio_output")
RATES = {"input": picos, "output": picos, **dict.fromkeys(CLASSES, maybe)}
tiers = st.lists(st.builds(Tier, above_prompt_tokens=st.integers(0, 2_000), **RATES), max_size=3).map(
    lambda found: tuple(sorted(found, key=lambda tier: tier.above_prompt_tokens))
)
TARIFF = {**RATES, "tiers": tiers, "request_fee": st.integers(0, 10**8).map(NanoUSD)}
dated = st.builds(
    Dated,
    since_s=st.integers(0, 3 * DAY_S),
    day_from_s=st.integers(0, DAY_S),
    day_until_s=st.integers(0, DAY_S),
    **TARIFF,
)
prices = st.builds(Price, version=st.just("any"), dated=st.lists(dated, max_size=2).map(tuple), **TARIFF)
counts = st.integers(0, 3_000)
moments = st.none() | st.floats(0, 4 * DAY_S)


@given(prices, counts, counts, st.data(), moments)
def test_no_answer_within_the_limits_costs_more_than_the_bound(any_price, prompt, response, data, at_s):
    tokens = TokenCount(
        prompt=data.draw(st.integers(0, prompt)),
        cached=data.draw(counts),
        cache_write=data.draw(counts),
        response=data.draw(st.integers(0, response)),
        reasoning=data.draw(counts),
    )
    charged = cost(any_price, tokens, at_s)
    assert type(charged) is int
    assert 0 <= charged <= bound(any_price, prompt, response)


@given(prices, counts, counts, counts, counts, counts, st.data())
def test_no_token_is_charged_twice_whatever_is_said_of_it(any_price, prompt, response, cached, written, heard, data):
    tokens = TokenCount(prompt, cached, written, response, data.draw(counts), heard, data.draw(counts))
    tariffs = (any_price, *any_price.dated)
    rates = [each for tariff in tariffs for each in (tariff, *tariff.tiers)]
    of_prompt = max(max(r.input, *(getattr(r, c) or 0 for c in CLASSES if c != "reasoning")) for r in rates)
    of_response = max(max(r.output, r.reasoning or 0, r.audio_output or 0) for r in rates)
    fee = max(tariff.request_fee for tariff in tariffs)
    assert 0 <= cost(any_price, tokens) <= -(-(of_prompt * prompt + of_response * response) // 1_000) + fee


rooms = st.integers(-10, 10**10).map(NanoUSD)


@given(prices, counts, rooms)
def test_what_is_affordable_fits_and_a_token_more_does_not(any_price, prompt, room):
    most = affordable(any_price, prompt, room)
    assert type(most) is int
    assert 0 <= most <= MAX_TOKENS
    assert bound(any_price, prompt, most) <= room or (most == 0 and bound(any_price, prompt, 0) > room)
    assert most == MAX_TOKENS or bound(any_price, prompt, most + 1) > room


@given(prices, counts, st.integers(0, 3_000), st.integers(-2, 2))
def test_at_the_very_edge_the_room_for_an_answer_is_that_answer(any_price, prompt, response, off):
    room = NanoUSD(bound(any_price, prompt, response) + off)
    most = affordable(any_price, prompt, room)
    assert (most >= response) is (off >= 0) or (response == 0 and off < 0)
    assert most == MAX_TOKENS or bound(any_price, prompt, most + 1) > room


@pytest.mark.parametrize(
    ("case", "prompt", "room", "most"),
    [
        (GPT, 100, 100 * 2_500 + 10 * 10_000, 10),
        (GPT, 100, 100 * 2_500 + 10 * 10_000 - 1, 9),
        (GPT, 100, 100 * 2_500, 0),
        (GPT, 100, 0, 0),
        (GPT, 100, -1, 0),
        (TIERED, 200_000, 300_000_000, 5_000),
        (TIERED, 200_001, 500_017_500, 1),
        (REASONER, 0, 80_000, 10),
        (WITH_FEE, 0, 12_000_000, 0),
        (WITH_FEE, 0, 12_005_999, 5),
        (OFF_PEAK, 1_000, 270_000 + 1_100, 1),
        (price(1_000, 0), 5, 5, MAX_TOKENS),
        (price(1_000, 0), 5, 4, 0),
        (FREE, 10**9, 0, MAX_TOKENS),
    ],
)
def test_what_is_affordable_heeds_class_tier_fee_and_time(case, prompt, room, most):
    assert affordable(case, prompt, NanoUSD(room)) == most


@given(prices, counts, counts, counts, counts)
def test_the_bound_grows_with_what_it_bounds(any_price, prompt, response, more_prompt, more_response):
    least = bound(any_price, prompt, response)
    assert type(least) is int
    assert 0 <= least <= bound(any_price, prompt + more_prompt, response + more_response)


@given(st.builds(Price, version=st.just("any"), **RATES), counts, counts, counts)
def test_more_tokens_of_a_class_never_cost_less(any_price, prompt, response, more):
    least = cost(any_price, TokenCount(prompt=prompt, response=response))
    assert least <= cost(any_price, TokenCount(prompt=prompt + more, response=response))
    assert least <= cost(any_price, TokenCount(prompt=prompt, response=response + more))


@given(counts, counts, counts, counts, counts, moments)
def test_what_is_local_is_free(prompt, cached, written, response, reasoning, at_s):
    tokens = TokenCount(prompt=prompt, cached=cached, cache_write=written, response=response, reasoning=reasoning)
    assert cost(FREE, tokens, at_s) == bound(FREE, prompt, response) == 0


def test_nothing_set_leaves_the_price_as_it_is():
    assert overridden(GPT) is GPT
    assert overridden(None) is None


@pytest.mark.parametrize(
    "half", [{"input_usd_per_mtok": 1}, {"output_usd_per_mtok": 1}, {"audio_input_usd_per_mtok": 1}]
)
def test_half_a_price_without_a_known_one_stays_unknown(half):
    assert overridden(None, **half) is None


def test_a_price_from_the_config_alone_says_so():
    assert overridden(None, 0.15, "0.60", 0.075) == Price(
        input=PicoUSD(150_000), output=PicoUSD(600_000), cached_input=PicoUSD(75_000), version="config"
    )
    audio = overridden(None, 1, 2, audio_input_usd_per_mtok=3, audio_output_usd_per_mtok=4)
    assert audio == price(1_000_000, 2_000_000, audio_input=3_000_000, audio_output=4_000_000, version="config")


def test_a_price_set_to_zero_is_known_and_zero():
    free = overridden(None, 0, 0)
    assert free is not None
    assert cost(free, TokenCount(prompt=10**6, response=10**6)) == 0


def test_classes_that_are_not_set_keep_their_ratio():
    half = overridden(CLAUDE, input_usd_per_mtok=1.5)
    assert half is not None
    assert (half.input, half.cached_input, half.cache_write) == (1_500_000, 150_000, 1_875_000)
    assert half.output == 15_000_000
    assert half.version == "test + config"
    assert overridden(REASONER, output_usd_per_mtok=4).reasoning == 1_500_000
    assert overridden(price(3, 3, cached_input=1), input_usd_per_mtok="0.000001").cached_input == 1


def test_audio_that_is_not_set_keeps_its_ratio_to_text_and_cached_audio_to_audio():
    base = price(600, 2_400, cached_input=60, audio_input=10_000, cached_audio=300, audio_output=20_000)
    both = overridden(base, input_usd_per_mtok="0.0012", output_usd_per_mtok="0.0012")
    assert (both.audio_input, both.cached_audio, both.audio_output) == (20_000, 600, 10_000)
    heard = overridden(base, input_usd_per_mtok="0.0012", audio_input_usd_per_mtok="0.005")
    assert (heard.input, heard.audio_input, heard.cached_audio, heard.audio_output) == (1_200, 5_000, 150, 20_000)
    assert overridden(GPT, audio_input_usd_per_mtok=9).cached_audio is None


def test_a_class_that_was_free_gives_no_ratio():
    priced = overridden(price(0, 0, cached_input=0, reasoning=0), 1, 2)
    assert priced is not None
    assert (priced.cached_input, priced.reasoning) == (None, None)


def test_a_set_class_is_flat_and_the_others_keep_their_tiers_and_times():
    flat_output = overridden(TIERED, output_usd_per_mtok=20)
    assert cost(flat_output, TokenCount(prompt=300_000, response=1)) == 300_000 * 2_500 + 20_000
    flat_input = overridden(OFF_PEAK, input_usd_per_mtok=1)
    assert cost(flat_input, TokenCount(prompt=10, response=10), 1_800) == 10 * 1_000 + 10 * 1_100
    assert cost(flat_input, TokenCount(prompt=10, response=10), 0) == 10 * 1_000 + 10 * 550


@pytest.mark.parametrize("base", [TIERED, OFF_PEAK])
def test_input_and_output_set_leave_no_tier_and_no_time(base):
    flat = overridden(base, 1, 2)
    assert (flat.tiers, flat.dated) == ((), ())
    assert cost(flat, TokenCount(prompt=300_000, response=10), 1_800) == 300_000 * 1_000 + 10 * 2_000


@pytest.mark.parametrize("usd", [-1, "abc", float("nan"), float("inf")])
def test_what_is_no_price_is_refused(usd):
    with pytest.raises(ValueError, match="price"):
        overridden(GPT, input_usd_per_mtok=usd)


@pytest.mark.parametrize(
    ("case", "calls", "tokens", "longest", "nano"),
    [
        (GPT, 3, TokenCount(prompt=1000, cached=900, response=10), 400, 1000 * 2_500 + 10 * 10_000),
        (FREE, 3, TokenCount(prompt=1000, response=10), 400, 0),
        (TIERED, 3, TokenCount(prompt=600_000, response=10), 200_000, 600_000 * 1_250 + 10 * 10_000),
        (TIERED, 3, TokenCount(prompt=600_000, response=10), 200_001, 600_000 * 2_500 + 10 * 15_000),
        (WITH_FEE, 3, TokenCount(prompt=1000, response=10), 400, 3 * 12_000_000 + 1_010 * 1_000),
        (OFF_PEAK, 3, TokenCount(prompt=1000, response=10), 400, 1000 * 270 + 10 * 1_100),
        (price(1, 0), 3, TokenCount(prompt=1_001), 400, 2),
    ],
)
def test_calls_together_cost_the_dearest_that_they_can_and_are_rounded_up_once(case, calls, tokens, longest, nano):
    assert cost_together(case, calls, tokens, longest) == nano


@given(
    st.sampled_from([GPT, CLAUDE, TIERED, WITH_FEE, OFF_PEAK, FREE]),
    st.lists(st.tuples(st.integers(0, 300_000), st.integers(0, 10_000)), min_size=1, max_size=9),
    st.integers(0, DAY_S - 1),
)
def test_calls_together_cost_no_less_than_their_lines_but_for_the_rounding(case, lines, at_s):
    each = [cost(case, TokenCount(prompt=prompt, response=response), at_s) for prompt, response in lines]
    tokens = TokenCount(prompt=sum(p for p, _ in lines), response=sum(r for _, r in lines))
    assert sum(each) - len(lines) < cost_together(case, len(lines), tokens, max(p for p, _ in lines))
