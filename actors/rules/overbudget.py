"""What happens to a call that does not fit: how the refusal is told, and the decision table of a user's budget. Pure."""

from __future__ import annotations

from typing import Literal

from actors.rules.admission import Refusal, percent_used
from actors.rules.candidates import Target
from protocols.budget import Offer, OverBudget
from protocols.errors import BudgetExceeded, BudgetHeld, OverrideRequired
from protocols.money import NanoUSD, usd_text

Way = Literal["local", "ask", "refuse"]
"""It runs on the local model, the user is asked, or it is refused. (A budget that is not enforced refuses nothing.)"""


def told(refused: Refusal, amount: int, resets_at: str, retry_after_s: float) -> OverBudget | BudgetHeld:
    """The fault of a refusal. `resets_at` is when its period ends (RFC 3339), `retry_after_s` how long holds live."""
    account = refused.account
    detail = {
        "scope": account.scope,
        "period": account.period,
        "spent_nano_usd": refused.spent,
        "held_nano_usd": refused.held,
        "limit_nano_usd": refused.limit,
        "bound_nano_usd": amount,
        "percent_used": percent_used(refused.spent, refused.limit),
        "resets_at": resets_at,
    }
    what = (
        f"this call may cost up to {usd_text(amount)}, but {account.scope} has spent {usd_text(refused.spent)} and holds "
        f"{usd_text(refused.held)} of its {usd_text(refused.limit)} a {account.period}"
    )
    if refused.kind == "held":
        return BudgetHeld(
            f"{what}; it would fit once calls under way have settled", detail=detail, retry_after_s=retry_after_s
        )
    over = OverBudget(f"{what}; it resets at {resets_at}, or ask for a shorter answer (max_tokens)", detail=detail)
    over.room, over.rooms = refused.room, refused.rooms
    over.hard, over.may_override = refused.kind == "hard", refused.may_override
    return over


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
