from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.rules.periods import day_named, days_before, label_before, local_date, span_of

BERLIN, SAO_PAULO = ZoneInfo("Europe/Berlin"), ZoneInfo("America/Sao_Paulo")
HAVANA, KOLKATA, APIA = ZoneInfo("America/Havana"), ZoneInfo("Asia/Kolkata"), ZoneInfo("Pacific/Apia")


def us(text):
    return round(datetime.fromisoformat(text).timestamp() * 1_000_000)


def text(seconds):
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


@pytest.mark.parametrize(
    ("zone", "at", "starts", "ends", "hours"),
    [
        (UTC, "2027-03-10T00:00Z", "2027-03-10 00:00", "2027-03-11 00:00", 24),
        (UTC, "2027-03-09T23:59:59.999999Z", "2027-03-09 00:00", "2027-03-10 00:00", 24),
        (KOLKATA, "2027-03-10T18:30Z", "2027-03-10 18:30", "2027-03-11 18:30", 24),
        (BERLIN, "2027-03-28T12:00Z", "2027-03-27 23:00", "2027-03-28 22:00", 23),
        (BERLIN, "2027-10-31T00:30Z", "2027-10-30 22:00", "2027-10-31 23:00", 25),
        (BERLIN, "2027-10-31T01:30Z", "2027-10-30 22:00", "2027-10-31 23:00", 25),
        # The clock goes from 24:00 to 01:00: the day begins at one.
        (SAO_PAULO, "2018-11-04T12:00Z", "2018-11-04 03:00", "2018-11-05 02:00", 23),
        (SAO_PAULO, "2018-11-03T12:00Z", "2018-11-03 03:00", "2018-11-04 03:00", 24),
        # It goes from 24:00 back to 23:00: the evening comes twice.
        (SAO_PAULO, "2018-02-18T01:30Z", "2018-02-17 02:00", "2018-02-18 03:00", 25),
        (SAO_PAULO, "2018-02-18T02:30Z", "2018-02-17 02:00", "2018-02-18 03:00", 25),
        # It goes from 01:00 back to midnight: midnight comes twice.
        (HAVANA, "2018-11-04T12:00Z", "2018-11-04 04:00", "2018-11-05 05:00", 25),
        # A whole day is left out at the date line.
        (APIA, "2011-12-29T12:00Z", "2011-12-29 10:00", "2011-12-30 10:00", 24),
    ],
)
def test_a_day_is_from_midnight_to_midnight_where_it_is(zone, at, starts, ends, hours):
    span = span_of("day", us(at), zone)
    assert (text(span.starts_at), text(span.ends_at)) == (starts, ends)
    assert span.ends_at - span.starts_at == hours * 3600


@pytest.mark.parametrize(
    ("zone", "at", "starts", "ends"),
    [
        (UTC, "2027-02-28T23:59:59Z", "2027-02-01 00:00", "2027-03-01 00:00"),
        (UTC, "2028-02-29T12:00Z", "2028-02-01 00:00", "2028-03-01 00:00"),
        (UTC, "2027-12-31T23:59:59Z", "2027-12-01 00:00", "2028-01-01 00:00"),
        (BERLIN, "2027-02-28T23:00Z", "2027-02-28 23:00", "2027-03-31 22:00"),
        (BERLIN, "2027-10-31T12:00Z", "2027-09-30 22:00", "2027-10-31 23:00"),
    ],
)
def test_a_month_is_the_calendars(zone, at, starts, ends):
    span = span_of("month", us(at), zone)
    assert (text(span.starts_at), text(span.ends_at)) == (starts, ends)


@given(
    st.integers(0, 4_000_000_000),
    st.sampled_from(("month", "day")),
    st.sampled_from((UTC, BERLIN, SAO_PAULO, HAVANA, KOLKATA)),
)
def test_periods_follow_each_other_without_gap_or_overlap(at_s, period, zone):
    span = span_of(period, at_s * 1_000_000, zone)
    assert span.starts_at <= at_s < span.ends_at
    assert span_of(period, span.starts_at * 1_000_000, zone) == span
    assert span_of(period, span.ends_at * 1_000_000 - 1, zone) == span
    following = span_of(period, span.ends_at * 1_000_000, zone)
    assert following.starts_at == span.ends_at
    assert label_before(following) == span.label < following.label


@pytest.mark.parametrize(
    ("zone", "at", "day", "day_before", "month", "month_before"),
    [
        (UTC, "2027-03-10T12:00Z", "2027-03-10", "2027-03-09", "2027-03", "2027-02"),
        (UTC, "2027-12-31T23:59:59Z", "2027-12-31", "2027-12-30", "2027-12", "2027-11"),
        (BERLIN, "2027-12-31T23:00Z", "2028-01-01", "2027-12-31", "2028-01", "2027-12"),
        (BERLIN, "2028-03-01T12:00Z", "2028-03-01", "2028-02-29", "2028-03", "2028-02"),
        (SAO_PAULO, "2018-11-04T12:00Z", "2018-11-04", "2018-11-03", "2018-11", "2018-10"),
    ],
)
def test_a_period_has_the_calendars_name(zone, at, day, day_before, month, month_before):
    spans = span_of("day", us(at), zone), span_of("month", us(at), zone)
    assert [span.label for span in spans] == [day, month]
    assert [label_before(span) for span in spans] == [day_before, month_before]


def test_the_local_date_is_the_zones():
    assert local_date(us("2027-03-10T22:59Z"), BERLIN) == "2027-03-10"
    assert local_date(us("2027-03-10T23:00Z"), BERLIN) == "2027-03-11"


@pytest.mark.parametrize(
    ("zone", "days", "at", "label", "starts"),
    [
        (UTC, 0, "2027-03-10T12:00Z", "2027-03-10", "2027-03-10 00:00"),
        (UTC, 400, "2027-03-10T12:00Z", "2026-02-03", "2026-02-03 00:00"),
        (UTC, 36_500, "2027-03-10T12:00Z", "1927-04-04", "1927-04-04 00:00"),
        (BERLIN, 1, "2027-03-28T22:30Z", "2027-03-28", "2027-03-27 23:00"),
        (BERLIN, 1, "2027-03-28T21:30Z", "2027-03-27", "2027-03-26 23:00"),
        (SAO_PAULO, 1, "2018-11-05T12:00Z", "2018-11-04", "2018-11-04 03:00"),
    ],
)
def test_so_many_days_before_is_counted_by_dates(zone, days, at, label, starts):
    span = days_before(days, us(at), zone)
    assert (span.label, text(span.starts_at)) == (label, starts)
    assert span == span_of("day", span.starts_at * 1_000_000, zone)


@pytest.mark.parametrize(
    ("zone", "at"),
    [(UTC, "2027-03-10T12:00Z"), (BERLIN, "2027-03-27T23:00Z"), (BERLIN, "2027-10-31T22:59Z"), (SAO_PAULO, "2018-11-04T12:00Z")],
)  # fmt: skip
def test_a_day_can_be_asked_for_by_its_name(zone, at):
    span = span_of("day", us(at), zone)
    assert day_named(span.label, zone) == span


@pytest.mark.parametrize(
    "label", ["", "today", "2027-02-30", "2027-02-03T00:00", "20270203", "2027-02", "9999-12-31", "2027-02-03\0"]
)
def test_what_names_no_day_says_how_one_is_written(label):
    with pytest.raises(ValueError, match="write it like 2027-01-31"):
        day_named(label, BERLIN)
