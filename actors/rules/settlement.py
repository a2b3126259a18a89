"""What an attempt cost, from how far it came. Pure."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from actors.rules.pricing import FREE, Price, cost
from actors.rules.tokens import emitted_estimate
from protocols.chat import TokenCount
from protocols.money import NanoUSD
from protocols.provider import BillingOnCancel
from protocols.usage import AttemptEnd, CostSource, TokenSource

Ending = Literal["complete", "refused", "aborted", "broken"]
"""`complete`: the provider marked the end. `refused`: nothing was sent, or the provider answered with an error before any content.
`aborted`: we hung up (cancel, deadline). `broken`: it stopped in the middle, or its answer can't be read."""


class Charge(Struct, frozen=True):
    """Tokens and money of an attempt."""

    tokens: TokenCount
    token_source: TokenSource
    cost: NanoUSD | None
    cost_source: CostSource


NOT_SENT = AttemptEnd(
    status="not_sent",
    tokens=TokenCount(),
    token_source="estimate",  # noqa: S106  tokens of a model, not of a login
    cost=NanoUSD(0),
    cost_source="estimated",
    price_version=None,
    latency_us=0,
    first_token_us=None,
)
"""How a hold is closed whose request never left."""


def charge(
    ending: Ending,
    *,
    price: Price | None,
    held: NanoUSD,
    tokens: TokenCount | None,
    prompt_tokens: int,
    emitted: str,
    emitted_tokens: int | None = None,
    by_tokenizer: bool = False,
    streamed: bool,
    policy: BillingOnCancel,
    at_s: float,
) -> Charge:
    """The charge of an attempt: by the provider's own count where it gave one, else by what was emitted.

    An answer that was not streamed is billed whole when we hang up, and so is every answer of a provider with the policy
    `whole`: what it would have come to nobody knows, so it is charged at the hold. `prompt_tokens` is our own count of the prompt,
    `by_tokenizer` where it is a tokenizer's; `emitted_tokens` a tokenizer's count of `emitted`, if there is one.
    """
    if ending == "refused":
        return Charge(TokenCount(), "estimate", NanoUSD(0), "free" if price is FREE else "price")
    if ending == "complete" and tokens is not None:
        return _priced(price, tokens, "provider", "price", at_s)
    source: TokenSource = "tokenizer" if by_tokenizer and (emitted_tokens is not None or not emitted) else "estimate"
    seen = _seen(tokens, prompt_tokens, emitted_estimate(emitted) if emitted_tokens is None else emitted_tokens)
    whole = not streamed or (ending == "aborted" and policy == "whole")
    if ending != "complete" and whole and price is not FREE and price is not None:
        return Charge(seen, source, held, "estimated")
    charged = _priced(price, seen, source, "estimated", at_s)
    if charged.cost is None:
        return charged
    return Charge(seen, source, min(charged.cost, held), charged.cost_source)


def _seen(tokens: TokenCount | None, prompt_tokens: int, emitted_tokens: int) -> TokenCount:
    """The count that we can vouch for: the provider's where it had come, else ours."""
    known = tokens or TokenCount()
    response = max(known.response, emitted_tokens)
    if known.prompt:
        return replace(known, response=response, reasoning=min(known.reasoning, response))
    return TokenCount(prompt=prompt_tokens, response=response)


def _priced(
    price: Price | None, tokens: TokenCount, source: TokenSource, cost_source: CostSource, at_s: float
) -> Charge:
    if price is None:
        return Charge(tokens, source, None, "unknown")
    if price is FREE:
        return Charge(tokens, source, NanoUSD(0), "free")
    return Charge(tokens, source, cost(price, tokens, at_s), cost_source)
