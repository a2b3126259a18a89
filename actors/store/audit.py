"""Audit entries: who changed what, written in the transaction of the change."""

from __future__ import annotations

from typing import Any

from actors.clock import rfc3339
from actors.store.queries import load
from actors.store.sqlite import Row
from protocols.audit import Actor, AuditEntry

SQL = load("audit", first=400)


def audit_row(
    actor: Actor,
    at_us: int,
    action: str,
    subject: str,
    *,
    before: str | None,
    after: str | None,
    why: str | None = None,
) -> Row:
    """The row of one change; `before` and `after` are JSON."""
    columns = (at_us, actor.uid, actor.account, actor.app, action, subject, before, after, why)
    return (SQL["add_audit"], columns)


def audit_entry(row: Any) -> AuditEntry:
    """A row of the query `audit`."""
    entry_id, at, *others = row
    return AuditEntry(entry_id, rfc3339(at), *others)
