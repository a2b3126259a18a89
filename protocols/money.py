"""Money as integers: amounts in nano-dollars, prices in pico-dollars per token. Floats never hold money."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, InvalidOperation
from typing import NewType

NanoUSD = NewType("NanoUSD", int)
"""An amount: 1 USD = 1_000_000_000."""

PicoUSD = NewType("PicoUSD", int)
"""A price of one token: 1 USD per million tokens = 1_000_000."""

NANO_PER_USD = 1_000_000_000
PICO_PER_NANO = 1_000


def nano_from_usd(usd: str | float | Decimal) -> NanoUSD:
    """Dollars as nano-dollars, rounded down (a limit is never widened). Raises ValueError for what is no finite amount."""
    try:
        amount = Decimal(str(usd))
    except InvalidOperation:
        raise ValueError(f"{usd!r} is no amount in dollars") from None
    if not amount.is_finite():
        raise ValueError(f"{usd!r} is no finite amount in dollars")
    return NanoUSD(int((amount * NANO_PER_USD).to_integral_value(ROUND_FLOOR)))


def pico_from_usd_per_mtok(usd: str | float | Decimal) -> PicoUSD:
    """Dollars per million tokens as pico-dollars per token, rounded up. Raises ValueError."""
    try:
        price = Decimal(str(usd))
    except InvalidOperation:
        raise ValueError(f"{usd!r} is no price in dollars per million tokens") from None
    if not price.is_finite() or price < 0:
        raise ValueError(f"{usd!r} is no price: it must be finite and not negative")
    return PicoUSD(int((price * 1_000_000).to_integral_value(ROUND_CEILING)))


def nano_from_pico(pico: int) -> NanoUSD:
    """Pico-dollars as nano-dollars, rounded up: once per usage line."""
    return NanoUSD(-(-pico // PICO_PER_NANO))


def usd_text(nano: int) -> str:
    """An amount for people: whole cents at least, all further digits that are not zero. `-$0.0000024`, `$12.50`."""
    sign = "-" if nano < 0 else ""
    whole, fraction = divmod(abs(nano), NANO_PER_USD)
    digits = f"{fraction:09d}".rstrip("0").ljust(2, "0")
    return f"{sign}${whole:,}.{digits}"
