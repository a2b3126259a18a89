"""What a user's own paid calls of a task would have cost less with a recommended model. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from actors.rules.pricing import Price, cost_together
from protocols.chat import TokenCount
from protocols.model import Tier
from protocols.money import NanoUSD, usd_text
from protocols.routing import Saving
from protocols.usage import PaidCalls

DAYS = 30
"""How far back usage is looked at."""

Offers = Mapping[Tier, tuple[str, Price | None]]
"""The recommended models by tier, with their prices."""


def saving(paid: Sequence[PaidCalls], offers: Offers) -> Saving | None:
    """The model with which the same calls would have cost least, and how much less that is; None where nothing is saved.

    Of `balanced` and `premium`, which do the task well; the model of `budget` only where neither saves, for it may do it less well.
    Calls that were free stay where they are, and so do those that the model answered already.
    """
    for tiers in (("balanced", "premium"), ("budget",)):
        found = [made for tier in tiers if tier in offers and (made := _with(paid, *offers[tier])) is not None]
        if found:
            return max(found, key=lambda made: made.saved_nano_usd)
    return None


def _with(paid: Sequence[PaidCalls], model: str, price: Price | None) -> Saving | None:
    if price is None:
        return None
    spent = sum(each.cost_nano_usd for each in paid)
    saved = spent - sum(_cost_with(each, model, price) for each in paid)
    if saved <= 0:
        return None
    why = f"you would have saved {usd_text(saved)} of {usd_text(spent)} in the last {DAYS} days with {model}"
    return Saving(model, NanoUSD(saved), NanoUSD(spent), sum(each.calls for each in paid), DAYS, why)


def _cost_with(each: PaidCalls, model: str, price: Price) -> int:
    if each.model == model:
        return each.cost_nano_usd
    tokens = TokenCount(prompt=each.prompt_tokens, response=each.response_tokens)
    return cost_together(price, each.calls, tokens, each.longest_prompt)
