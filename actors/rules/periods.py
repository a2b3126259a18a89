"""Calendar months and days in a time zone. Pure; instants in seconds since 1970 (UTC) unless a name says µs."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, tzinfo

from msgspec import Struct

from protocols.budget import Period


class Span(Struct, frozen=True):
    """A period: the calendar's name for it (`2026-11`, `2026-11-21`), its first instant and the first after it, in seconds since 1970."""

    period: Period
    label: str
    starts_at: int
    ends_at: int


def span_of(period: Period, at_us: int, zone: tzinfo) -> Span:
    """The month or day in which an instant (µs) lies. A day of a clock change has 23 or 25 hours."""
    today = datetime.fromtimestamp(at_us // 1_000_000, zone).date()
    first = today.replace(day=1) if period == "month" else today
    following = (
        (first.replace(day=28) + timedelta(days=4)).replace(day=1) if period == "month" else first + timedelta(days=1)
    )
    return Span(period, _label(period, first), _midnight(first, zone), _midnight(following, zone))


def days_before(days: int, at_us: int, zone: tzinfo) -> Span:
    """The day so many dates before the one in which an instant (µs) lies."""
    day = datetime.fromtimestamp(at_us // 1_000_000, zone).date() - timedelta(days=days)
    return Span("day", _label("day", day), _midnight(day, zone), _midnight(day + timedelta(days=1), zone))


def day_named(label: str, zone: tzinfo) -> Span:
    """The day with this name. Raises ValueError that says what is expected."""
    try:
        day = datetime.strptime(label, "%Y-%m-%d").date()  # noqa: DTZ007  a date has no zone
        return Span("day", _label("day", day), _midnight(day, zone), _midnight(day + timedelta(days=1), zone))
    except (ValueError, OverflowError):
        raise ValueError(f"{label!r} is no day; write it like 2027-01-31") from None


def label_before(span: Span) -> str:
    """The label of the month or day before."""
    first = date.fromisoformat(f"{span.label}-01" if span.period == "month" else span.label)
    return _label(span.period, first - timedelta(days=1))


def local_date(at_us: int, zone: tzinfo) -> str:
    """The date on which an instant (µs) lies, as YYYY-MM-DD."""
    return datetime.fromtimestamp(at_us // 1_000_000, zone).date().isoformat()


def _label(period: Period, day: date) -> str:
    return day.isoformat()[:7] if period == "month" else day.isoformat()


def _midnight(day: date, zone: tzinfo) -> int:
    """The first instant of a date. Where a clock change skips midnight, the first that exists."""
    moment = datetime.combine(day, time(), zone)
    exists = moment.astimezone(UTC).astimezone(zone)
    return (
        int(min(moment, exists, key=datetime.timestamp).timestamp())
        if exists.date() == day
        else int(exists.timestamp())
    )
