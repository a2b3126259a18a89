"""What tokens cost, in integers: exactly once they are counted, and at most before they are.

Prices are pico-dollars per token. Every sum is rounded up once, to nano-dollars, at its end.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from protocols.chat import MAX_TOKENS
from protocols.money import PICO_PER_NANO, NanoUSD, PicoUSD, nano_from_pico, pico_from_usd_per_mtok

if TYPE_CHECKING:
    from collections.abc import Iterator

    from protocols.chat import TokenCount

DAY_S = 86_400
"""Seconds of a day; all times here are UTC."""

R = TypeVar("R", bound="Rates")

USDPerMtok = str | float | Decimal
"""A price as people write it: dollars per million tokens."""


class Rates(Struct, frozen=True, kw_only=True, array_like=True, omit_defaults=True):
    """Pico-dollars per token by class; None for a class means that it has no price of its own (see `cost`)."""

    input: PicoUSD
    output: PicoUSD
    cached_input: PicoUSD | None = None
    cache_write: PicoUSD | None = None
    reasoning: PicoUSD | None = None
    audio_input: PicoUSD | None = None
    cached_audio: PicoUSD | None = None
    audio_output: PicoUSD | None = None


class Tier(Rates, frozen=True, kw_only=True, array_like=True, omit_defaults=True):
    """Rates of *all* tokens of a request whose prompt has more than `above_prompt_tokens`.

    genai-prices calls this a cliff: nothing is charged at the lower rates any more (its `TieredPrices`).
    """

    above_prompt_tokens: int


class Tariff(Rates, frozen=True, kw_only=True, array_like=True, omit_defaults=True):
    """Rates for the smallest prompts, those of larger ones by rising threshold, and nano-dollars a request."""

    tiers: tuple[Tier, ...] = ()
    request_fee: NanoUSD = NanoUSD(0)


class Dated(Tariff, frozen=True, kw_only=True, array_like=True, omit_defaults=True):
    """A tariff in force from `since_s` (Unix seconds) on, each day within [`day_from_s`, `day_until_s`).

    A window whose end is before its beginning goes over midnight.
    """

    since_s: int = 0
    day_from_s: int = 0
    day_until_s: int = DAY_S

    def in_force(self, at_s: float) -> bool:
        """Whether this tariff holds at `at_s`, Unix seconds."""
        if at_s < self.since_s:
            return False
        second = at_s % DAY_S
        if self.day_until_s < self.day_from_s:
            return second >= self.day_from_s or second < self.day_until_s
        return self.day_from_s <= second < self.day_until_s


class Price(Tariff, frozen=True, kw_only=True, array_like=True, omit_defaults=True):
    """What a model costs; `version` says where that is known from. The last of `dated` in force replaces the tariff."""

    version: str
    dated: tuple[Dated, ...] = ()


FREE = Price(input=PicoUSD(0), output=PicoUSD(0), version="free")
"""The price of local models."""


def cost(price: Price, tokens: TokenCount, at_s: float | None = None) -> NanoUSD:
    """What these tokens cost at `at_s` (Unix seconds); without a time, the most that they cost at any.

    Cached and written tokens without a price of their own count as input, reasoning as output, audio as what it would be
    without sound, cached audio as audio. Counts that contradict each other are cut to their whole, so that no class is
    charged twice and nothing is negative. Providers say how much was cached and how much was audio, not how much was
    both: as little as can be, which is the dearest reading.
    """
    if not price.dated:
        return nano_from_pico(_charge(price, tokens))
    if at_s is None:
        return nano_from_pico(max(_charge(tariff, tokens) for tariff in (price, *price.dated)))
    return nano_from_pico(_charge(_tariff_at(price, at_s), tokens))


def bound(price: Price, prompt_tokens: int, max_response_tokens: int) -> NanoUSD:
    """The most that a prompt of up to `prompt_tokens` with up to `max_response_tokens` (reasoning included) can cost.

    Every token counts as the dearest of its classes, in the dearest tier that a prompt of this size or a smaller one
    reaches, at the dearest time. Audio is no class of a chat's: no message can carry it and no request asks for it, and at
    up to 57 times the price of text it would keep most calls from running. A provider that counted it all the same would
    be paid, and the row would show the overrun.
    """
    return nano_from_pico(max(prompt + token * max_response_tokens for prompt, token in _dearest(price, prompt_tokens)))


def cost_together(price: Price, calls: int, tokens: TokenCount, longest_prompt: int) -> NanoUSD:
    """The most that so many calls cost whose tokens are known in sum alone, of which no prompt is longer than `longest_prompt`.

    Prompts count as not cached, in the dearest tier that the longest one reaches, at the dearest time. Rounded up once for all: the
    lines of the calls can be a nano-dollar each above it.
    """
    return nano_from_pico(
        max(
            tokens.prompt * rates.input + tokens.response * rates.output + calls * tariff.request_fee * PICO_PER_NANO
            for tariff in (price, *price.dated)
            for rates in _reachable(tariff, longest_prompt)
        )
    )


def affordable(price: Price, prompt_tokens: int, room: NanoUSD) -> int:
    """The most response tokens whose bound, with a prompt of up to `prompt_tokens`, is within `room`; 0 if none are.

    Never above MAX_TOKENS, which is also the answer where they cost nothing.
    """
    most = MAX_TOKENS
    for prompt, token in _dearest(price, prompt_tokens):
        left = room * PICO_PER_NANO - prompt
        if left < 0:
            return 0
        if token:
            most = min(most, left // token)
    return most


def overridden(
    base: Price | None,
    input_usd_per_mtok: USDPerMtok | None = None,
    output_usd_per_mtok: USDPerMtok | None = None,
    cached_input_usd_per_mtok: USDPerMtok | None = None,
    audio_input_usd_per_mtok: USDPerMtok | None = None,
    audio_output_usd_per_mtok: USDPerMtok | None = None,
) -> Price | None:
    """The price with what the config sets in place of what is known; None while input or output stays unknown.

    A class that is set is flat: it has no tiers and no times of day. Classes that hang on it and are not set keep their
    ratio to it (a negotiated input price makes cached input cheaper alike). Raises ValueError for what is no price.
    """
    flat = {
        name: pico_from_usd_per_mtok(usd)
        for name, usd in (
            ("input", input_usd_per_mtok),
            ("output", output_usd_per_mtok),
            ("cached_input", cached_input_usd_per_mtok),
            ("audio_input", audio_input_usd_per_mtok),
            ("audio_output", audio_output_usd_per_mtok),
        )
        if usd is not None
    }
    if not flat:
        return base
    if base is None:
        return _from_config(flat)
    return _flattened(base, _with_ratios(base, flat))


def _tariff_at(price: Price, at_s: float) -> Tariff:
    for tariff in reversed(price.dated):
        if tariff.in_force(at_s):
            return tariff
    return price


def _dearest(price: Price, prompt_tokens: int) -> Iterator[tuple[int, int]]:
    """What the prompt (with the fee) and a token of the answer come to at most, in pico-dollars, by tariff and tier."""
    for tariff in (price, *price.dated):
        fee = tariff.request_fee * PICO_PER_NANO
        for rates in _reachable(tariff, prompt_tokens):
            token = max(rates.input, rates.cached_input or 0, rates.cache_write or 0)
            yield token * prompt_tokens + fee, max(rates.output, rates.reasoning or 0)


def _reachable(tariff: Tariff, prompt_tokens: int) -> Iterator[Rates]:
    """The rates that a prompt of at most this size can be charged at, the highest tier last."""
    yield tariff
    for tier in tariff.tiers:
        if prompt_tokens <= tier.above_prompt_tokens:
            return
        yield tier


def _charge(tariff: Tariff, tokens: TokenCount) -> int:
    """Pico-dollars."""
    prompt, response = max(tokens.prompt, 0), max(tokens.response, 0)
    rates: Rates = tariff
    if tariff.tiers:
        *_, rates = _reachable(tariff, prompt)
    written = min(max(tokens.cache_write, 0), prompt)
    cached = min(max(tokens.cached, 0), prompt - written)
    reasoning = min(max(tokens.reasoning, 0), response)
    pico = (
        (prompt - written - cached) * rates.input
        + cached * (rates.input if rates.cached_input is None else rates.cached_input)
        + written * (rates.input if rates.cache_write is None else rates.cache_write)
        + (response - reasoning) * rates.output
        + reasoning * (rates.output if rates.reasoning is None else rates.reasoning)
        + tariff.request_fee * PICO_PER_NANO
    )
    if tokens.audio_prompt > 0 or tokens.audio_response > 0:
        heard, spoken = min(tokens.audio_prompt, prompt - written), min(tokens.audio_response, response - reasoning)
        pico += _more_for_audio(rates, max(heard, 0), max(spoken, 0), uncached=prompt - written - cached)
    return pico


def _more_for_audio(rates: Rates, heard: int, spoken: int, uncached: int) -> int:
    """What audio tokens cost beside the same number of tokens of text, of which `uncached` were not cached."""
    pico = 0
    if rates.audio_output is not None:
        pico += spoken * (rates.audio_output - rates.output)
    if rates.audio_input is not None:
        pico += min(heard, uncached) * (rates.audio_input - rates.input)
    cached_audio = rates.audio_input if rates.cached_audio is None else rates.cached_audio
    if cached_audio is not None and heard > uncached:
        cached_text = rates.input if rates.cached_input is None else rates.cached_input
        pico += (heard - uncached) * (cached_audio - cached_text)
    return pico


def _from_config(flat: dict[str, PicoUSD]) -> Price | None:
    if "input" not in flat or "output" not in flat:
        return None
    return _replaced(Price(input=flat["input"], output=flat["output"], version="config"), flat)


def _with_ratios(base: Price, flat: dict[str, PicoUSD]) -> dict[str, PicoUSD | None]:
    """All classes that the set ones decide."""
    classes: dict[str, PicoUSD | None] = {}
    if "input" in flat:
        classes["cached_input"] = _scaled(base.cached_input, base.input, flat["input"])
        classes["cache_write"] = _scaled(base.cache_write, base.input, flat["input"])
        classes["audio_input"] = _scaled(base.audio_input, base.input, flat["input"])
        classes["cached_audio"] = _scaled(base.cached_audio, base.input, flat["input"])
    if "output" in flat:
        classes["reasoning"] = _scaled(base.reasoning, base.output, flat["output"])
        classes["audio_output"] = _scaled(base.audio_output, base.output, flat["output"])
    if "audio_input" in flat:
        classes["cached_audio"] = _scaled(base.cached_audio, base.audio_input or PicoUSD(0), flat["audio_input"])
    return classes | flat


def _scaled(price: PicoUSD | None, old: PicoUSD, new: PicoUSD) -> PicoUSD | None:
    """`price` in the ratio new : old, rounded up; None (the price of the whole class) where there is no ratio."""
    return None if price is None or old == 0 else PicoUSD(-(-price * new // old))


def _flattened(base: Price, classes: dict[str, PicoUSD | None]) -> Price:
    def tiers(tariff: Tariff) -> tuple[Tier, ...]:
        return () if whole else tuple(_replaced(tier, classes) for tier in tariff.tiers)

    whole = {"input", "output"} <= classes.keys()
    dated = () if whole else tuple(_replaced(each, {**classes, "tiers": tiers(each)}) for each in base.dated)
    changes = {**classes, "tiers": tiers(base), "dated": dated, "version": f"{base.version} + config"}
    return _replaced(base, changes)


def _replaced(rates: R, changes: dict[str, Any]) -> R:
    return replace(rates, **changes)
