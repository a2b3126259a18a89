"""What a tournament is answered with: its progress and its verdict. Loaded by the first one, so that other clients never pay for its types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from protocols.client.replies import StreamReply, not_understood, plain
from protocols.tournament import Progress, Verdict
from protocols.wire import UNREADABLE, decode_value

if TYPE_CHECKING:
    from msgspec import Raw

    from protocols.client.replies import Prompt

_PROGRESS_IN: msgspec.msgpack.Decoder[Progress] = msgspec.msgpack.Decoder(Progress)
_KNOWN_PROGRESS = frozenset({"bound", "launched", "ballot", "decided", "cancelled", "judging"})
_STAND_INS = {"status": "failed", "answer_kind": "none", "mode": "vote"}
"""Words that are known, in place of some that only a newer daemon says."""


class ProgressReply(StreamReply):
    """A tournament under way whose progress is read."""

    def put(self, value: Raw) -> None:
        """See `Reply.put`."""
        item = progress(value)
        if item is not None:
            self.keep(item)


def tournament_params(prompt: Prompt, params: dict[str, Any], *, stream: bool = False) -> dict[str, Any]:
    """The params of a tournament."""
    asked = {"prompt" if isinstance(prompt, str) else "messages": prompt, **params}
    return {"stream": True, **asked} if stream else asked


def progress(value: Raw) -> Progress | None:
    """A piece of progress; None for a kind that only a newer daemon knows. Raises ProtocolViolation."""
    try:
        return _PROGRESS_IN.decode(value)
    except UNREADABLE as error:
        untyped = plain(value)
        if isinstance(untyped, dict) and untyped.get("type") not in _KNOWN_PROGRESS:
            return None
        raise not_understood("progress", error) from None


def verdict(value: Raw) -> Verdict:
    """The verdict of a tournament. Raises ProtocolViolation."""
    try:
        return decode_value(value, Verdict)
    except UNREADABLE:
        return _newer_verdict(plain(value))


def _newer_verdict(untyped: Any) -> Verdict:
    """A verdict with a status, kind, mode or flags that this client does not know yet: each is kept as it is."""
    try:
        words = msgspec.convert({name: untyped[name] for name in _STAND_INS}, dict[str, str])
        flags: list[Any] = msgspec.convert(untyped["flags"], list[str])
        told = msgspec.convert({**untyped, **_STAND_INS, "flags": []}, Verdict)
    except (*UNREADABLE, LookupError, TypeError) as error:
        raise not_understood("verdict", error) from None
    for name, word in words.items():
        setattr(told, name, word)
    told.flags = flags
    return told
