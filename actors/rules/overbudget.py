"""What happens to a call that its user's budget refuses: the decision table, and how each refusal is told. Pure."""

from __future__ import annotations

from typing import Literal

from actors.rules.routing import Target
from protocols.budget import Offer, OverBudget
from protocols.errors import BudgetExceeded, OverrideRequired
from protocols.money import NanoUSD, usd_text

Way = Literal["local", "ask", "refuse"]
"""It runs on the local model, the user is asked, or it is refused. (A budget that is not enforced refuses nothing.)"""


def way_out(*, auto_fallback: bool, forbidden: bool, local: Target | None, may_override: bool) -> Way:
    """The table, read top to bottom. `forbidden`: the call says `allow_fallback = false`."""
    if auto_fallback:
        return "local" if local is not None and not forbidden else "refuse"
    return "ask" if may_override else "refuse"


def refusal(over: OverBudget, *, auto_fallback: bool, forbidden: bool) -> BudgetExceeded:
    """The budget's fault; where a local model was to answer instead, with why none does."""
    if not auto_fallback:
        return BudgetExceeded(over.message, detail=over.detail)
    why = (
        "the call forbids the fallback to a local model (`allow_fallback` = false)"
        if forbidden
        else "no local model is available to fall back to (`daemonctl models --local` lists them)"
    )
    return BudgetExceeded(f"{over.message}; and {why}", detail={**over.detail, "reasons": [over.message, why]})


def question(
    over: OverBudget, target: Target, bound: NanoUSD, local: Target | None, offer: Offer | None
) -> OverrideRequired:
    """What the user is asked; with `offer` the answer can be yes."""
    instead = f" or use the free {local.model}" if local is not None else ""
    detail = {
        **over.detail,
        "estimated_nano_usd": bound,
        "alternative": None if local is None else str(local),
        "model": str(target),
    }
    if offer is not None:
        detail |= {"override_token": offer.token, "expires_at": offer.expires_at}
    return OverrideRequired(
        f"Budget exceeded ({over.detail['percent_used']:.1f}% used). Continue with {target.model} ({usd_text(bound)}){instead}?",
        detail=detail,
    )
