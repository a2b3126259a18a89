"""What a crash left of a call under a key, how long its outcome is kept, and how its answer is told again. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
from msgspec import Raw, Struct

from protocols.chat import Delta, Item, Reasoning, ToolCall, ToolCallDelta
from protocols.errors import Busy, ProviderFailed, QuorumError

KEPT_US = 24 * 3600 * 1_000_000
"""How long an outcome is kept, in µs of the wall clock: one that is set back keeps it longer."""

HELD = "held"
"""In place of a status: the attempt's hold is open."""

NOT_SENT = "not_sent"
"""The status of an attempt that ended before its request left."""

RECOVERY_S = 1.0
"""Seconds after which to ask again while holds of an earlier process are being closed."""


class AttemptLeft(Struct, frozen=True):
    """What the books say of an attempt: the status of its usage row, or `held` while its hold is open."""

    usage_id: str
    status: str


def is_over(at_us: int, now_us: int) -> bool:
    """Whether what was stored at `at_us` has been kept long enough."""
    return at_us + KEPT_US <= now_us


def left_by_a_crash(attempts: Sequence[AttemptLeft]) -> QuorumError | None:
    """What a key means whose call ended without a stored outcome: None when nothing was sent, so the key is free.

    `Busy` while a hold is still open; else the fault that is the call's outcome from now on.
    """
    if any(attempt.status == HELD for attempt in attempts):
        return Busy(
            "what came of the first call under this idempotency key is being settled; ask again in a second",
            retry_after_s=RECOVERY_S,
        )
    sent = [attempt for attempt in attempts if attempt.status != NOT_SENT]
    if not sent:
        return None
    paid = next((attempt for attempt in sent if attempt.status == "ok"), None)
    shown = paid or sent[-1]
    what = (
        "was answered and is paid, but its answer was lost in a crash"
        if paid
        else "was sent, and what came of it is unknown"
    )
    return ProviderFailed(
        f"the first call under this idempotency key {what}: see usage row {shown.usage_id}; "
        "it is not sent again, take another key to ask anew",
        detail={"usage_id": shown.usage_id},
    )


class _Message(Struct):
    """Of an answer's message, what is told besides the text."""

    reasoning: str = ""
    tool_calls: list[ToolCall] = msgspec.field(default_factory=list)


class _Told(Struct):
    """Of an answer, what a stream tells piece by piece."""

    text: str
    message: _Message


def items_of(document: Raw) -> Iterator[Item]:
    """A stored answer of a chat as the items of a stream: reasoning, text, tool calls, each whole."""
    told = msgspec.json.decode(document, type=_Told)
    if told.message.reasoning:
        yield Reasoning(told.message.reasoning)
    if told.text:
        yield Delta(told.text)
    for index, call in enumerate(told.message.tool_calls):
        yield ToolCallDelta(index, call.id, call.function.name, call.function.arguments)
