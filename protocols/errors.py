"""The one tree of faults: a class per wire code, a message that says what to do, data as fields."""

from __future__ import annotations

from typing import Any, ClassVar


class QuorumError(Exception):
    """A fault with a code for the wire.

    `message` says what happened and what to do; `detail` is data for programs (never a secret, never a prompt);
    `retry_after_s` is a hint in seconds, or None.
    """

    code: ClassVar[str] = "internal"

    def __init__(
        self, message: str, *, detail: dict[str, Any] | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail or {}
        self.retry_after_s = retry_after_s

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.code}: {self.message}>"


class Internal(QuorumError):
    """A defect of the daemon; the log has the details."""

    code = "internal"


class BadRequest(QuorumError):
    """The request itself is wrong; repeating it changes nothing."""

    code = "bad_request"


class UnknownMethod(QuorumError):
    """No method has this name."""

    code = "unknown_method"


class UnknownModel(QuorumError):
    """The provider does not offer this model; the message names the nearest."""

    code = "unknown_model"


class UnknownProvider(QuorumError):
    """No provider or alias has this name."""

    code = "unknown_provider"


class NoEligibleModel(QuorumError):
    """Nobody chose a model and none of the known ones qualifies."""

    code = "no_eligible_model"


class Forbidden(QuorumError):
    """The peer lacks the right that the method asks for."""

    code = "forbidden"


class NotFound(QuorumError):
    """The thing named does not exist."""

    code = "not_found"


class BudgetExceeded(QuorumError):
    """The bound of this call does not fit below a limit."""

    code = "budget_exceeded"


class BudgetHeld(QuorumError):
    """The call would fit once the holds under way have settled."""

    code = "budget_held"


class OverrideRequired(QuorumError):
    """The user's budget is used up; a confirmation with the token in `detail` runs the call once."""

    code = "override_required"


class OverrideInvalid(QuorumError):
    """The override token is not for this user, request or period, or was used."""

    code = "override_invalid"


class PriceUnknown(QuorumError):
    """A limit applies and the model has no known price."""

    code = "price_unknown"


class ProviderFailed(QuorumError):
    """The provider answered with an error or not at all."""

    code = "provider_error"


class ProviderUnavailable(QuorumError):
    """The provider is down or its breaker is open; nothing was sent, or nothing arrived."""

    code = "provider_unavailable"


class RateLimited(QuorumError):
    """The provider's rate limit is reached."""

    code = "rate_limited"


class Misconfigured(QuorumError):
    """The provider's key or address is wrong; only a changed config helps."""

    code = "misconfigured"


class ContextTooLong(QuorumError):
    """The prompt does not fit the model's context."""

    code = "context_too_long"


class Refused(QuorumError):
    """The provider refused the content."""

    code = "refused"


class DeadlineExceeded(QuorumError):
    """The call's own deadline passed."""

    code = "deadline"


class Cancelled(QuorumError):
    """The client cancelled the call."""

    code = "cancelled"


class Truncated(QuorumError):
    """The provider's stream broke off; `detail.partial` is what arrived."""

    code = "truncated"


class Busy(QuorumError):
    """A queue is full; come back after `retry_after_s`."""

    code = "busy"


class ShuttingDown(QuorumError):
    """The daemon is stopping and takes no new calls."""

    code = "shutting_down"


class LedgerReadonly(QuorumError):
    """The ledger can't be written; no paid call runs until it can."""

    code = "ledger_readonly"


class IdempotencyConflict(QuorumError):
    """The idempotency key was used with another body."""

    code = "idempotency_conflict"


class TooLarge(QuorumError):
    """A message is above the size limit."""

    code = "too_large"


class ProtocolViolation(QuorumError):
    """The bytes are no message of this protocol; the connection closes."""

    code = "protocol"


BY_CODE: dict[str, type[QuorumError]] = {cls.code: cls for cls in QuorumError.__subclasses__()}


def from_wire(code: str, message: str, detail: dict[str, Any] | None, retry_after_s: float | None) -> QuorumError:
    """The exception for a fault that came over the wire; a code of a newer daemon becomes `Internal`."""
    return BY_CODE.get(code, Internal)(message, detail=detail, retry_after_s=retry_after_s)
