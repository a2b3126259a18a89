"""Overrides: a user's budget extended by an amount until a time, by the user or an operator."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta, Struct

from protocols.audit import Why
from protocols.rpc import Name, Params, Right

Dollars = Annotated[float, Meta(gt=0, le=1e9)]


class OverridesGrant(Params):
    """Lets calls of a user (default: the caller) pass the user's budget, for `amount_usd` in all, until `until` (RFC 3339)."""

    method: ClassVar[str] = "overrides.grant"
    right: ClassVar[Right] = "use"

    amount_usd: Dollars
    until: Name
    why: Why
    user: Name | None = None


class OverridesList(Params):
    """The overrides of a user that still hold; of everybody with `operate`."""

    method: ClassVar[str] = "overrides.list"
    right: ClassVar[Right] = "use"

    user: Name | None = None


class OverridesRevoke(Params):
    """Ends an override now."""

    method: ClassVar[str] = "overrides.revoke"
    right: ClassVar[Right] = "use"

    override_id: Name


class OverrideRow(Struct):
    """An override: what it allows, what of that is spent and held, and who granted it why."""

    override_id: str
    user: str
    amount_nano_usd: int
    spent_nano_usd: int
    held_nano_usd: int
    granted_at: str
    until: str
    granted_by: str
    why: str


class OverrideRows(Struct):
    """Result of `overrides.list`."""

    overrides: list[OverrideRow]
