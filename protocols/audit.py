"""The audit: who changed what about money and settings, and why."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta, Struct

from protocols.rpc import Name, Params, Right

Why = Annotated[str, Meta(pattern=r"\S", max_length=1000)]
"""A reason that people give, not blank; it stands in the audit."""


class Audit(Params):
    """The newest entries; `before` pages on from an `entry_id`."""

    method: ClassVar[str] = "audit"
    right: ClassVar[Right] = "operate"

    last: Annotated[int, Meta(ge=1, le=10_000)] = 100
    before: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    user: Name | None = None
    action: Name | None = None


class AuditEntry(Struct):
    """One change. `before` and `after` are JSON values: of a setting its value, of an override the spend in nano-dollars."""

    entry_id: int
    at: str
    actor_uid: int
    user: str
    app: str
    action: str
    subject: str
    before: str | None
    after: str | None
    why: str | None
    cost_nano_usd: int | None = None


class AuditEntries(Struct):
    """Result of `audit`, newest first."""

    entries: list[AuditEntry]


class Actor(Struct, frozen=True):
    """Who does something that is audited: the peer's uid, the account, the app's own name."""

    uid: int
    account: str
    app: str
