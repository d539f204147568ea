"""Periods and buckets against the interpreter's zone arithmetic and minute-by-minute scans."""

import time
from datetime import date
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zoned import (
    APIA,
    LONG_GRAINS,
    LORD_HOWE,
    NEW_YORK,
    SAO_PAULO,
    ST_JOHNS,
    grains,
    local,
    local_date,
    quick,
    resolve,
    scanned_day_start,
    us,
    zoned_instants,
)

from gnomon.errors import InvalidValue, RangeTooLarge
from gnomon.timerange import (
    US_DAY,
    US_HOUR,
    DateRange,
    Grain,
    bucket_starts,
    from_us,
    period_number,
    period_start_us,
)


@quick
@given(zoned_instants(), grains, st.integers(1, 3 * 365 * US_DAY))
def test_buckets_ascend_cover_the_range_and_overlap_it(case, grain, length):
    zone, start = case
    span = DateRange(start, start + (length if grain is not Grain.MINUTE else length // 1000 + 1), zone)
    starts = bucket_starts(span, grain)
    assert starts == sorted(set(starts))
    assert starts[0] <= span.start_us and starts[-1] < span.end_us
    assert {period_start_us(grain, period_number(grain, at, zone), zone) for at in (start, span.end_us - 1)} <= set(
        starts
    )


@quick
@given(zoned_instants(), grains)
def test_an_instant_lies_in_its_bucket(case, grain):
    zone, at = case
    number = period_number(grain, at, zone)
    start = period_start_us(grain, number, zone)
    assert start <= at
    if grain in (Grain.MINUTE, Grain.HOUR):
        after = bucket_starts(DateRange(at, at + 2 * US_HOUR, zone), grain)[1]
        assert number == start and period_number(grain, start, zone) == start
    else:
        after = period_start_us(grain, number + 1, zone)
        assert period_number(grain, start, zone) == number
    crossed_midnight_twice = at >= after and local_date(at, zone) < local_date(after, zone)
    assert at < after or (zone is ST_JOHNS and crossed_midnight_twice)


@quick
@given(zoned_instants(), st.sampled_from(LONG_GRAINS))
def test_period_numbers_are_those_of_the_local_date(case, grain):
    zone, at = case
    day = local_date(at, zone)
    days = day.toordinal() - date(1970, 1, 1).toordinal()
    expected = {
        Grain.DAY: days,
        Grain.WEEK: (days - day.weekday() + 3) // 7,
        Grain.MONTH: day.year * 12 + day.month - 1,
        Grain.QUARTER: day.year * 4 + (day.month - 1) // 3,
        Grain.YEAR: day.year,
    }
    assert period_number(grain, at, zone) == expected[grain]


@settings(max_examples=60, deadline=None)
@given(zoned_instants())
def test_day_starts_agree_with_a_minute_by_minute_scan(case):
    zone, at = case
    number = period_number(Grain.DAY, at, zone)
    assert period_start_us(Grain.DAY, number, zone) == scanned_day_start(local_date(at, zone), zone)


@quick
@given(zoned_instants(), st.sampled_from([Grain.MINUTE, Grain.HOUR]))
def test_clock_buckets_keep_offset_and_wall_bucket(case, grain):
    zone, at = case
    first, following = bucket_starts(DateRange(at, at + 2 * US_HOUR, zone), grain)[:2]
    keep = {"minute": 0} if grain is Grain.HOUR else {}

    def key(instant):
        moment = from_us(instant, zone)
        return moment.replace(second=0, microsecond=0, fold=0, **keep).replace(tzinfo=None), moment.utcoffset()

    assert first == period_number(grain, at, zone)
    assert key(first) == key(at) == key(following - 1) != key(following)
    assert key(first - 1) != key(first)


def test_a_day_starts_at_one_where_midnight_does_not_exist():
    start = period_start_us(Grain.DAY, (date(2018, 11, 4) - date(1970, 1, 1)).days, SAO_PAULO)
    assert local(start, SAO_PAULO) == "2018-11-04T01:00:00-02:00"


def test_a_gap_that_straddles_midnight():
    zone = ZoneInfo("America/Toronto")  # 1919-03-30 23:30 -> 1919-03-31 00:30
    start = period_start_us(Grain.DAY, (date(1919, 3, 31) - date(1970, 1, 1)).days, zone)
    assert local(start, zone) == "1919-03-31T00:30:00-04:00"


def test_a_skipped_date_has_no_bucket():
    starts = bucket_starts(resolve(("2011-12-29", "2012-01-01"), zone=APIA), Grain.DAY)
    assert [local(at, APIA) for at in starts] == ["2011-12-29T00:00:00-10:00", "2011-12-31T00:00:00+14:00"]


def test_the_repeated_hour_is_two_buckets():
    starts = bucket_starts(
        DateRange(us("2024-11-03T00:30:00-04:00"), us("2024-11-03T02:00:00-05:00"), NEW_YORK), Grain.HOUR
    )
    assert [local(at, NEW_YORK)[11:] for at in starts] == ["00:00:00-04:00", "01:00:00-04:00", "01:00:00-05:00"]


def test_an_hour_is_cut_at_a_half_hour_change():
    starts = bucket_starts(
        DateRange(us("2024-04-07T01:10:00+11:00"), us("2024-04-07T02:30:00+10:30"), LORD_HOWE), Grain.HOUR
    )
    assert [local(at, LORD_HOWE)[11:] for at in starts] == ["01:00:00+11:00", "01:30:00+10:30", "02:00:00+10:30"]


def test_a_clock_that_goes_back_over_midnight():
    """St John's, 2010-11-07: 00:01 became 23:01 of the 6th, so the 7th began twice."""
    first_midnight, repeated = us("2010-11-07T00:00:00-02:30"), us("2010-11-06T23:30:00-03:30")
    assert first_midnight < repeated
    sixth = period_number(Grain.DAY, repeated, ST_JOHNS)
    assert period_number(Grain.DAY, first_midnight, ST_JOHNS) == sixth + 1
    assert period_start_us(Grain.DAY, sixth + 1, ST_JOHNS) == first_midnight
    both = [period_start_us(Grain.DAY, sixth, ST_JOHNS), first_midnight]
    assert bucket_starts(DateRange(first_midnight, repeated, ST_JOHNS), Grain.DAY) == both
    assert bucket_starts(DateRange(both[0], repeated, ST_JOHNS), Grain.DAY) == both
    assert bucket_starts(DateRange(repeated, repeated + 1, ST_JOHNS), Grain.DAY) == both[:1]


@pytest.mark.parametrize(
    ("grain", "limit"), [(Grain.MINUTE, 1440), (Grain.HOUR, 24), (Grain.DAY, 1), (Grain.WEEK, 1), (Grain.YEAR, 1)]
)
def test_the_limit_is_exact(grain, limit):
    span = resolve(("2024-01-03", "2024-01-04"))
    assert len(bucket_starts(span, grain, limit)) == limit
    with pytest.raises(RangeTooLarge):
        bucket_starts(DateRange(span.start_us - 367 * US_DAY, span.end_us, NEW_YORK), grain, limit)
    if limit > 1:
        with pytest.raises(RangeTooLarge):
            bucket_starts(DateRange(span.start_us, span.end_us + 1, NEW_YORK), grain, limit)
        with pytest.raises(RangeTooLarge):
            bucket_starts(DateRange(span.start_us + 1, span.end_us + 1, NEW_YORK), grain, limit)


@pytest.mark.parametrize("grain", [Grain.MINUTE, Grain.HOUR, Grain.DAY, Grain.WEEK, Grain.MONTH])
def test_a_hostile_range_is_refused_at_once(grain):
    span = resolve(("0001-01-02", "9999-12-30"))
    began = time.thread_time()
    with pytest.raises(RangeTooLarge):
        bucket_starts(span, grain)
    assert time.thread_time() - began < 5


def test_every_year_there_is():
    assert len(bucket_starts(resolve(("0001-01-02", "9999-12-30")), Grain.YEAR)) == 9999


@pytest.mark.parametrize("grain", LONG_GRAINS)
@pytest.mark.parametrize("number", [10**30, -(10**30)])
def test_periods_outside_the_years_are_refused_or_plain_numbers(grain, number):
    try:
        assert isinstance(period_start_us(grain, number, NEW_YORK), int)
    except InvalidValue:
        assert grain not in (Grain.DAY, Grain.WEEK)
