"""What words, pairs and spans mean as ranges, and what each is compared with."""

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zoned import APIA, NEW_YORK, SAO_PAULO, quick, resolve, shown, us, zoned_instants

from gnomon.errors import InvalidValue
from gnomon.timerange import (
    US_DAY,
    US_HOUR,
    US_MINUTE,
    DateRange,
    Grain,
    bucket_starts,
    from_us,
    resolve_range,
)


@pytest.mark.parametrize(
    ("text", "span"),
    [("24h", US_DAY), ("90min", 90 * US_MINUTE), ("7d", 7 * US_DAY), ("4w", 28 * US_DAY), ("1h", US_HOUR)],
)
def test_a_span_is_elapsed_time_that_holds_this_very_microsecond(text, span):
    now = us("2024-03-13T15:30:00+00:00")
    assert resolve(text) == DateRange(now + 1 - span, now + 1, NEW_YORK)
    assert resolve(f"{text}@{text}") == resolve(text).previous()


@pytest.mark.parametrize(
    ("word", "start", "end", "calendar"),
    [
        ("today", "2024-03-13T00:00:00-04:00", "2024-03-14T00:00:00-04:00", "day"),
        ("day", "2024-03-13T00:00:00-04:00", "2024-03-14T00:00:00-04:00", "day"),
        ("yesterday", "2024-03-12T00:00:00-04:00", "2024-03-13T00:00:00-04:00", "day"),
        ("this_week", "2024-03-11T00:00:00-04:00", "2024-03-18T00:00:00-04:00", "week"),
        ("last_week", "2024-03-04T00:00:00-05:00", "2024-03-11T00:00:00-04:00", "week"),
        ("this_month", "2024-03-01T00:00:00-05:00", "2024-04-01T00:00:00-04:00", "month"),
        ("month", "2024-03-01T00:00:00-05:00", "2024-04-01T00:00:00-04:00", "month"),
        ("last_month", "2024-02-01T00:00:00-05:00", "2024-03-01T00:00:00-05:00", "month"),
        ("this_quarter", "2024-01-01T00:00:00-05:00", "2024-04-01T00:00:00-04:00", "quarter"),
        ("last_quarter", "2023-10-01T00:00:00-04:00", "2024-01-01T00:00:00-05:00", "quarter"),
        ("this_year", "2024-01-01T00:00:00-05:00", "2025-01-01T00:00:00-05:00", "year"),
        ("year", "2024-01-01T00:00:00-05:00", "2025-01-01T00:00:00-05:00", "year"),
        ("last_year", "2023-01-01T00:00:00-05:00", "2024-01-01T00:00:00-05:00", "year"),
    ],
)
def test_calendar_words(word, start, end, calendar):
    found = resolve(word)
    assert (*shown(found), found.calendar) == (start, end, calendar)


def test_calendar_words_use_the_zone_not_utc():
    assert (
        shown(resolve("today", "2024-01-01T20:00:00+00:00", ZoneInfo("Asia/Kathmandu")))[0]
        == "2024-01-02T00:00:00+05:45"
    )


def test_yesterday_passes_over_a_skipped_date():
    found = resolve("yesterday", "2011-12-31T12:00:00+14:00", APIA)
    assert shown(found) == ("2011-12-29T00:00:00-10:00", "2011-12-31T00:00:00+14:00")


def test_all_starts_at_the_earliest_event():
    now = us("2024-03-13T15:30:00+00:00")
    assert resolve("all", earliest_us=lambda: 5) == DateRange(5, now + 1, NEW_YORK)
    for earliest in (None, lambda: None, lambda: now + 5):
        assert resolve("all", earliest_us=earliest) == DateRange(now, now + 1, NEW_YORK)


@pytest.mark.parametrize(
    "pair",
    [
        ("2024-03-10", "2024-03-11"), ["2024-03-10", "2024-03-11"], (date(2024, 3, 10), date(2024, 3, 11)),
        {"start": "2024-03-10", "end": "2024-03-11"}, ("2024-03-10T05:00:00Z", "2024-03-11T00:00:00-04:00"),
        (datetime(2024, 3, 10, 5, tzinfo=UTC), "2024-03-11"), (1710046800, 1710129600), (1710046800.0, 1710129600.0),
    ],
)  # fmt: skip
def test_pairs(pair):
    found = resolve(pair)
    assert shown(found) == ("2024-03-10T00:00:00-05:00", "2024-03-11T00:00:00-04:00")
    assert found.end_us - found.start_us == 23 * US_HOUR and found.calendar is None
    assert resolve(found) is found


def test_unix_seconds_are_exact():
    found = resolve((1700000000.123456, 1700000000.123457))
    assert (found.start_us, found.end_us) == (1700000000123456, 1700000000123457)


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (("2024-03-11", "2024-03-10"), "empty-range"), (("2024-03-11", "2024-03-11"), "empty-range"),
        ("0h", "empty-range"), ((5, 5), "empty-range"),
        ((datetime(2024, 1, 1), "2024-03-10"), "naive-datetime"), (("2024-01-01T00:00:00", "2024-03-10"), "bad-time"),
        (("2024-02-30", "2024-03-10"), "bad-time"), (("x", "y"), "bad-time"),
        (("2024-01-01", "9999-12-31T23:59:59-05:00"), "bad-time"), ((-62135596800, 0), "bad-time"),
        ((0, 10**400), "bad-time"), ((0, 1e308), "bad-time"), ("999999999w", "bad-time"), ("1d@999999999w", "bad-time"),
        ((True, 5), "bad-range"), ((0, True), "bad-range"), ((0, float("nan")), "bad-range"),
        ((0, float("inf")), "bad-range"), ((None, 5), "bad-range"), (("2024-01-01",), "bad-range"),
        (("2024-01-01", "2024-01-02", "2024-01-03"), "bad-range"), ({"start": 1}, "bad-range"), ({}, "bad-range"),
        ({"start": 1, "end": 2, "zone": "UTC"}, "bad-range"), (None, "bad-range"), (7, "bad-range"), ("", "bad-range"),
        ("7", "bad-range"), ("-7d", "bad-range"), ("1.5d", "bad-range"), ("7days", "bad-range"), ("７d", "bad-range"),
        ("2024-01-01", "bad-range"), ("7d\n", "bad-range"), ("9" * 5000 + "d", "bad-range"), (b"7d", "bad-range"),
    ],
)  # fmt: skip
def test_what_is_refused(value, code):
    with pytest.raises(InvalidValue) as caught:
        resolve(value)
    assert caught.value.code == code and caught.value.remedy


def test_the_first_and_last_dates_are_the_zone_s():
    assert shown(resolve(("0001-01-01", "9999-12-31")))[0] == "0001-01-01T00:00:00-04:56:02"
    with pytest.raises(InvalidValue):
        resolve(("0001-01-01", "2024-01-01"), zone=ZoneInfo("Asia/Kathmandu"))


def test_the_remedy_lists_the_forms_and_a_near_miss_gets_a_suggestion():
    with pytest.raises(InvalidValue, match="Did you mean 'last_week'"):
        resolve("last-week")
    with pytest.raises(InvalidValue, match="Did you mean 'yesterday'"):
        resolve("Yesterday")
    with pytest.raises(InvalidValue, match=r"24h.*today.*all.*start and an end"):
        resolve("zzzzzz")


@pytest.mark.parametrize("now", ["0001-01-02T00:00:00+00:00", "9999-12-30T12:00:00+00:00"])
@pytest.mark.parametrize(
    "word", ["last_year", "this_year", "last_month", "this_week", "last_week", "3w", "all", "today"]
)
@pytest.mark.parametrize("zone", [NEW_YORK, ZoneInfo("Pacific/Kiritimati")], ids=str)
def test_the_edges_of_the_years_answer_or_refuse(now, word, zone):
    try:
        found = resolve(word, now, zone)
        found.previous()
        found.year_before()
    except InvalidValue:
        pass


def test_a_naive_now_is_refused():
    with pytest.raises(InvalidValue):
        resolve("24h", "2024-03-13T15:30:00")


@quick
@given(zoned_instants(), st.integers(1, 900 * US_DAY))
def test_previous_has_the_same_elapsed_length_and_touches(case, length):
    zone, start = case
    found = DateRange(start, start + length, zone)
    before = found.previous()
    assert before.end_us == found.start_us and before.end_us - before.start_us == length


@quick
@given(zoned_instants(), st.sampled_from(["today", "this_week", "this_month", "this_quarter", "this_year"]))
def test_calendar_previous_touches_and_is_the_period_before(case, word):
    zone, at = case
    current = resolve_range(word, now=from_us(at), zone=zone)
    before = current.previous()
    assert before.end_us == current.start_us and before.calendar == current.calendar
    assert bucket_starts(before, Grain(before.calendar)) == [before.start_us]
    if word != "today":
        assert resolve_range(word.replace("this", "last"), now=from_us(at), zone=zone) == before


@quick
@given(zoned_instants(), st.integers(1, 900 * US_DAY))
def test_year_before_is_never_empty_and_about_a_year_earlier(case, length):
    zone, start = case
    found = DateRange(start, start + length, zone)
    before = found.year_before()
    assert 364 * US_DAY <= found.start_us - before.start_us <= 368 * US_DAY
    assert abs((before.end_us - before.start_us) - length) <= 3 * US_DAY


@pytest.mark.parametrize(
    ("pair", "start", "end"),
    [
        (("2024-02-01", "2024-03-01"), "2023-02-01T00:00:00-05:00", "2023-03-01T00:00:00-05:00"),
        (("2024-02-29", "2024-03-01"), "2023-02-28T00:00:00-05:00", "2023-03-01T00:00:00-05:00"),
        (("2024-02-28", "2024-02-29"), "2023-02-28T00:00:00-05:00", "2023-03-01T00:00:00-05:00"),
        (("2024-03-10", "2024-03-11"), "2023-03-10T00:00:00-05:00", "2023-03-11T00:00:00-05:00"),
        (("2024-01-01", "2025-01-01"), "2023-01-01T00:00:00-05:00", "2024-01-01T00:00:00-05:00"),
        (("2024-02-28T14:00:00Z", "2024-02-29T15:00:00Z"), "2023-02-28T09:00:00-05:00", "2023-03-01T10:00:00-05:00"),
        (("2024-02-29T15:00:00Z", "2024-02-29T20:00:00Z"), "2023-02-28T10:00:00-05:00", "2023-02-28T15:00:00-05:00"),
        (
            ("2024-11-03T01:30:00-04:00", "2024-11-03T01:30:00-05:00"),
            "2023-11-03T01:30:00-04:00",
            "2023-11-03T02:30:00-04:00",
        ),
    ],
)
def test_year_before(pair, start, end):
    assert shown(resolve(pair).year_before()) == (start, end)


def test_year_before_of_a_day_that_starts_at_one_starts_at_midnight():
    assert shown(resolve(("2018-11-04", "2018-11-05"), zone=SAO_PAULO).year_before()) == (
        "2017-11-04T00:00:00-02:00", "2017-11-05T00:00:00-02:00",
    )  # fmt: skip


def test_year_before_of_a_week_is_no_calendar_week():
    assert resolve("this_week").year_before().calendar is None
    assert resolve("this_month").year_before().calendar == "month"


def test_an_empty_range_cannot_be_made():
    with pytest.raises(InvalidValue) as caught:
        DateRange(5, 5, NEW_YORK)
    assert caught.value.code == "empty-range"
