"""Rows of the ledger's tables, from the structs that actors say to each other and back."""

from __future__ import annotations

from typing import Any, cast

from actors.clock import parse_rfc3339, rfc3339
from protocols.alerts import SEVERITY, Alert
from protocols.budget import Mark, OpenHold
from protocols.usage import AttemptEnd, AttemptStart, UsageRow


def start_columns(start: AttemptStart) -> tuple[Any, ...]:
    """The columns of a hold's start, as `add_hold` takes them."""
    return (
        start.usage_id,
        start.call_id,
        start.user,
        start.app,
        start.conversation,
        start.task_type,
        start.provider,
        start.model,
        start.endpoint,
        start.reason,
        start.created_at,
        start.arm,
    )


def start_of(row: Any) -> AttemptStart:
    """The start of an attempt from the first columns of `open_holds`."""
    return AttemptStart(*row)


def marks_of(text: str) -> tuple[Mark, ...]:
    """Marks as a column has them."""
    return cast("tuple[Mark, ...]", tuple(text.split(","))) if text else ()


def alert_columns(alert: Alert) -> tuple[Any, ...]:
    """As `add_alert` takes it."""
    at = parse_rfc3339(alert.at)
    limit, spent = alert.limit_nano_usd, alert.spent_nano_usd
    return (alert.scope, alert.period, alert.label, alert.level, limit, spent, at, alert.suggestion)


def alert_of(row: Any) -> Alert:
    """An alert from a row."""
    scope, period, label, level, limit, spent, at, suggestion = row
    return Alert(
        scope=scope,
        period=period,
        level=level,
        severity=SEVERITY[level],
        at=rfc3339(at),
        spent_nano_usd=spent,
        limit_nano_usd=limit,
        label=label,
        suggestion=suggestion,
    )


def usage_columns(hold: OpenHold, end: AttemptEnd) -> tuple[Any, ...]:
    """A usage row, as `add_usage` takes it."""
    start, tokens = hold.start, end.tokens
    return (
        start.usage_id,
        start.call_id,
        start.created_at,
        start.user,
        start.app,
        start.conversation,
        start.task_type,
        start.provider,
        start.model,
        start.endpoint,
        start.reason,
        tokens.prompt,
        tokens.cached,
        tokens.cache_write,
        tokens.response,
        tokens.reasoning,
        end.token_source,
        end.cost,
        end.cost_source,
        end.price_version,
        end.latency_us,
        end.first_token_us,
        end.status,
        hold.amount,
        ",".join(hold.marks),
        tokens.audio_prompt,
        tokens.audio_response,
        start.arm,
    )


def usage_row_of(row: Any) -> UsageRow:
    """A usage row from the query `usage`, as the interface shows it."""
    (
        usage_id, call_id, created_at, user, app, conversation, task_type, model, endpoint, reason,
        prompt, cached, response, reasoning, token_source,
        cost, cost_source, price_version, latency_us, first_token_us, status, held, marks, arm,
    ) = row  # fmt: skip
    return UsageRow(
        usage_id=usage_id,
        call_id=call_id,
        created_at=rfc3339(created_at),
        user=user,
        app=app,
        conversation=conversation,
        model=model,
        endpoint=endpoint,
        task_type=task_type,
        prompt_tokens=prompt,
        cached_tokens=cached,
        response_tokens=response,
        reasoning_tokens=reasoning,
        token_source=token_source,
        cost_nano_usd=cost,
        cost_source=cost_source,
        price_version=price_version,
        latency_ms=latency_us / 1000,
        first_token_ms=None if first_token_us is None else first_token_us / 1000,
        status=status,
        reason=reason,
        held_nano_usd=held,
        marks=list(marks_of(marks)),
        arm=arm,
    )
