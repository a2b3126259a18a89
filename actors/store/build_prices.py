"""The child process that turns genai-prices' data into the price book's file: `python -m actors.store.build_prices OUT`."""

from __future__ import annotations

import math
import os
import sys
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from genai_prices import __version__, types
from genai_prices.data_snapshot import get_snapshot
from msgspec import Raw

from actors.rules.pricing import DAY_S, Dated, Price, Tier
from actors.store import price_book as book
from protocols.money import NANO_PER_USD, NanoUSD, PicoUSD, pico_from_usd_per_mtok

if TYPE_CHECKING:
    from collections.abc import Callable
    from decimal import Decimal

Constraint = types.StartDateConstraint | types.TimeOfDateConstraint

HORIZON_S = 7 * DAY_S
"""How far ahead a coming price counts: it makes holds dearer from here on, and the book is built daily."""

CLASSES = {
    "input": ("input_mtok", "input_text_mtok", "input_image_mtok"),
    "cached_input": ("cache_read_mtok", "cache_text_read_mtok", "cache_image_read_mtok"),
    "cache_write": ("cache_write_mtok", "cache_write_5m_mtok", "cache_text_write_mtok", "cache_image_write_mtok"),
    "output": ("output_mtok", "output_text_mtok", "output_image_mtok", "output_video_mtok", "output_citation_mtok"),
    "reasoning": ("output_reasoning_mtok",),
    "audio_input": ("input_audio_mtok",),
    "cached_audio": ("cache_audio_read_mtok",),
    "audio_output": ("output_audio_mtok",),
}
"""The prices that a chat can be charged, by our classes; of several the dearest counts, for usage doesn't tell them apart.

Caching for an hour and audio by the hour are left out, since no request asks for them.
"""

TEXT_CLAUSES: dict[type, Callable[[str], book.Clause]] = {
    types.ClauseEquals: book.Equals,
    types.ClauseStartsWith: book.StartsWith,
    types.ClauseEndsWith: book.EndsWith,
    types.ClauseContains: book.Contains,
}
"""The clauses that compare a text, whatever its case."""

SEARCHING = "perplexity"
"""The vendor whose models search the web unasked, any number of times: with a fee per search there is no bound."""


def contents(now: datetime) -> book.Contents:
    """All that genai-prices knows, its prices resolved at `now`."""
    vendors = tuple(
        book.Vendor(
            provider.id,
            provider.api_pattern,
            tuple(provider.fallback_model_providers or ()),
            Raw(msgspec.msgpack.encode([_model(provider.id, model, now) for model in provider.models])),
        )
        for provider in get_snapshot().providers
    )
    return book.Contents(book.FORMAT, __version__, int(now.timestamp()), vendors)


def write(path: Path, data: bytes) -> None:
    """Replace the file as a whole: whatever happens meanwhile, the old one or the new one is there."""
    draft = path.with_name(path.name + ".tmp")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _model(vendor: str, model: types.ModelInfo, now: datetime) -> book.Model:
    return book.Model(_clause(model.match), _price(vendor, model, now), model.context_window)


def _clause(clause: types.MatchLogic) -> book.Clause:
    match clause:
        case types.ClauseOr(clauses):
            return book.AnyOf(tuple(map(_clause, clauses)))
        case types.ClauseAnd(clauses):
            return book.AllOf(tuple(map(_clause, clauses)))
        case types.ClauseRegex(pattern):
            return book.Regex(pattern)
    (text,) = vars(clause).values()
    return TEXT_CLAUSES[type(clause)](text.lower())


def _price(vendor: str, model: types.ModelInfo, now: datetime) -> Price | None:
    """None where what a chat costs is not known in full, now and within the horizon."""
    standard, dated = _resolved(model.prices, now)
    if not vars(standard) and model.id.endswith(":free"):
        return Price(input=PicoUSD(0), output=PicoUSD(0), version="")
    prices = (standard, *(each.prices for each in dated))
    if not all(map(_bounded if vendor == SEARCHING else _complete, prices)):
        return None
    return Price(
        **_tariff(standard),
        version="",
        dated=tuple(Dated(**(_tariff(each.prices) | _times(each.constraint))) for each in dated),
    )


def _complete(price: types.ModelPrice) -> bool:
    return all(_dearest(price, CLASSES[name], 0) is not None for name in ("input", "output"))


def _bounded(price: types.ModelPrice) -> bool:
    return _complete(price) and price.web_searches_kcount is None


def _resolved(
    prices: types.ModelPrice | list[types.ConditionalPrice], now: datetime
) -> tuple[types.ModelPrice, list[types.ConditionalPrice]]:
    """The price that holds unless a condition does, and those that may replace it, as genai-prices ranks them.

    The last condition that is met wins, so that nothing before one that will always be met can.
    """
    if isinstance(prices, types.ModelPrice):
        return prices, []
    standard, later = prices[0], []
    for each in reversed(prices):
        if each.constraint is None or _begun(each.constraint, now):
            standard = each
            break
        later.append(each)
    soon = (each for each in reversed(later) if _since_s(each.constraint) <= now.timestamp() + HORIZON_S)
    return standard.prices, list(soon)


def _begun(constraint: Constraint, now: datetime) -> bool:
    return isinstance(constraint, types.StartDateConstraint) and constraint.active(now)


def _since_s(constraint: Constraint | None) -> int:
    """Unix seconds; dates begin at midnight UTC."""
    if not isinstance(constraint, types.StartDateConstraint):
        return 0
    return int(datetime.combine(constraint.start_date, time.min, UTC).timestamp())


def _times(constraint: Constraint | None) -> dict[str, int]:
    if not isinstance(constraint, types.TimeOfDateConstraint):
        return {"since_s": _since_s(constraint)}
    return {
        "day_from_s": _second_of_day(constraint.start_time),
        "day_until_s": _second_of_day(constraint.end_time),
    }


def _second_of_day(moment: time) -> int:
    """In UTC, which a time without a zone is taken to be in."""
    on_a_day = datetime.combine(date(2000, 1, 2), moment, moment.tzinfo or UTC).astimezone(UTC)
    return on_a_day.hour * 3_600 + on_a_day.minute * 60 + on_a_day.second


def _tariff(price: types.ModelPrice) -> dict[str, Any]:
    """The fields of a `Tariff`."""
    starts = sorted({tier.start for each in vars(price).values() for tier in getattr(each, "tiers", ())})
    fee = _dearest(price, ("requests_kcount",), 0) or 0
    return {
        **_rates(price, 0),
        "tiers": tuple(Tier(above_prompt_tokens=start, **_rates(price, start + 1)) for start in starts),
        "request_fee": NanoUSD(math.ceil(fee * NANO_PER_USD / 1_000)),
    }


def _rates(price: types.ModelPrice, prompt_tokens: int) -> dict[str, PicoUSD]:
    """Our classes at a prompt of this size; those without a price are left out."""
    found = {name: _dearest(price, keys, prompt_tokens) for name, keys in CLASSES.items()}
    # The data has 0.18000000000000002 here and there; no price is finer than a pico-dollar.
    return {name: pico_from_usd_per_mtok(round(usd, 9)) for name, usd in found.items() if usd is not None}


def _dearest(price: types.ModelPrice, keys: tuple[str, ...], prompt_tokens: int) -> Decimal | None:
    values = (getattr(price, key, None) for key in keys)
    return max((_at(value, prompt_tokens) for value in values if value is not None), default=None)


def _at(value: Decimal | types.TieredPrices, prompt_tokens: int) -> Decimal:
    """A tier applies to all tokens of a prompt that is larger than its start."""
    if not isinstance(value, types.TieredPrices):
        return value
    reached = [tier.price for tier in value.tiers if prompt_tokens > tier.start]
    return reached[-1] if reached else value.base


def main() -> None:
    """Write the file named on the command line."""
    path = Path(sys.argv[1])
    write(path, msgspec.msgpack.encode(contents(datetime.now(UTC))))


if __name__ == "__main__":
    main()
