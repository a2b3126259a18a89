"""Refusals and errors, free of dialect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from msgspec import Struct

if TYPE_CHECKING:
    from actors.providers.simulated.behaviour import Behaviour, FailReason

Kind = Literal[
    "context",
    "invalid",
    "auth",
    "forbidden",
    "model",
    "path",
    "too_large",
    "rate",
    "quota",
    "policy",
    "server",
    "overloaded",
]


class Failure(Struct):
    """An answer with an error status; `message` replaces the dialect's usual words."""

    status: int
    kind: Kind
    model: str = ""
    message: str | None = None
    retry_after_s: float | None = None


_USUAL: dict[int, Kind] = {
    400: "context",
    401: "auth",
    403: "forbidden",
    404: "model",
    413: "too_large",
    429: "rate",
    503: "overloaded",
    529: "overloaded",
}


_NAMED: dict[FailReason, Kind] = {"invalid": "invalid", "quota": "quota", "policy": "policy"}


def declared(behaviour: Behaviour, model: str) -> Failure | None:
    """The failure that the behaviour asks for."""
    if behaviour.fail is not None:
        kind = _NAMED.get(behaviour.fail_reason) or _USUAL.get(behaviour.fail) or _by_class(behaviour.fail)
        return Failure(behaviour.fail, kind, model, behaviour.fail_message, behaviour.retry_after_s)
    if behaviour.refuse:
        return Failure(400, "policy", model, behaviour.fail_message)
    return None


def _by_class(status: int) -> Kind:
    return "server" if status >= 500 else "invalid"  # noqa: PLR2004  a class of statuses
