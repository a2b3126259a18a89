"""Idempotency keys: what is said of a call that must happen once, whoever asks for it again."""

from __future__ import annotations

from typing import Any

from msgspec import Raw, Struct, field

from protocols.request import Request


class New(Struct, frozen=True):
    """The key was free and is taken now: the asker makes the call, under this `call_id`, and says how it ended.

    `earlier` is the question that a confirmation answers; it stands again if the confirmation is not good.
    """

    call_id: str
    earlier: Outcome | None = None


class Answered(Struct, frozen=True, tag_field="type", tag="answer"):
    """The call was answered; `document` is the result as JSON."""

    document: Raw


class Failed(Struct, frozen=True, tag_field="type", tag="fault", omit_defaults=True):
    """The call failed after something was sent; the parts of its fault."""

    code: str
    message: str
    detail: dict[str, Any] = field(default_factory=dict)
    retry_after_s: float | None = None


Outcome = Answered | Failed
"""What a call came to, as it is stored and told again."""


class TakeKey(Request[New | Answered | Failed], frozen=True):
    """Take a key for a call, or hear what the call under it came to; while that one runs this waits for it.

    `uid` is the peer's, `body` a hash of what is asked. The key is taken durably. Raises IdempotencyConflict (the key stands for
    another body), Busy (what an earlier process left is being settled), LedgerReadonly. With `confirmed`, a confirmation that an
    outcome `override_required` asked for, the key is taken anew.
    """

    uid: int
    key: str
    body: bytes
    confirmed: bool = False


class KeepOutcome(Request[None], frozen=True):
    """The call under this key ended after something was sent: from now on this is its outcome. Answered when that is durable."""

    uid: int
    key: str
    outcome: Outcome


class FreeKey(Request[None], frozen=True):
    """The call under this key was refused before anything was sent: whoever comes next makes it."""

    uid: int
    key: str


class LeaveKey(Request[None], frozen=True):
    """The call under this key ended and nobody knows how: the books decide when the key is used again."""

    uid: int
    key: str
