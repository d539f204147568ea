"""Moments, zones and the pieces of their offsets, against the interpreter's own zone arithmetic."""

from datetime import UTC, date, datetime, timedelta, timezone
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zoned import (
    CHANGES,
    LORD_HOWE,
    NAMES,
    NEW_YORK,
    ZONES,
    local,
    quick,
    zoned_instants,
)

from gnomon.errors import InvalidValue, UnknownName
from gnomon.timerange import (
    US_DAY,
    from_us,
    load_zone,
    offset_pieces,
    parse_moment,
    parse_moments,
    system_clock,
    to_us,
)


def test_system_clock_is_aware_utc():
    assert system_clock().utcoffset() == timedelta(0)


@quick
@given(st.datetimes(timezones=st.sampled_from([*ZONES, UTC, timezone(timedelta(hours=-9, minutes=-30))])))
def test_moments_survive_the_round_trip_through_microseconds(moment):
    try:
        again = from_us(to_us(moment), moment.tzinfo)
    except InvalidValue:
        assert moment.year in (1, 9999)
        return
    assert to_us(again) == to_us(moment)
    if moment.astimezone(UTC).astimezone(moment.tzinfo).replace(tzinfo=None) == moment.replace(tzinfo=None):
        assert again == moment


@quick
@given(zoned_instants())
def test_microseconds_survive_the_round_trip_through_a_zone(case):
    zone, at = case
    assert to_us(from_us(at, zone)) == at


def test_to_us_refuses_naive_with_a_remedy():
    with pytest.raises(InvalidValue) as caught:
        to_us(datetime(2024, 1, 1))
    assert caught.value.code == "naive-datetime" and "zone" in caught.value.remedy


@pytest.mark.parametrize("at", [10**30, -(10**30), 253402300800000000, -62135596800000001])
def test_from_us_outside_the_years_is_refused(at):
    with pytest.raises(InvalidValue):
        from_us(at)


def test_from_us_at_the_edge_of_the_years_in_a_zone_is_refused():
    with pytest.raises(InvalidValue):
        from_us(-62135596800000000, NEW_YORK)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:01Z", 1_000_000),
        ("1970-01-01 00:00Z", 0),
        ("1970-01-01T02:00:00+02:00", 0),
        ("1970-01-01T02:00:00+0200", 0),
        ("1970-01-01T02:00:00+02", 0),
        ("1969-12-31T23:59:59.9Z", -100_000),
        ("1970-01-01T00:00:00.123456789Z", 123_456),
        ("1970-01-01T00:00:00.0000009-00:00", 0),
        ("1970-01-01T05:45:00.5+05:45", 500_000),
        (datetime(1970, 1, 2, tzinfo=UTC), US_DAY),
    ],
)
def test_parse_moment_reads(text, expected):
    assert parse_moment(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "", "2024-01-01", "2024-01-01T00:00:00", "2024-W01-1T00:00:00Z", "20240101T000000Z", "2024-01-01T00Z",
        "2024-01-01x00:00:00Z", "2024-01-01T00:00:00,5Z", "2024-01-01T00:00:00.Z", "2024-01-01T00:00:00.1234567890Z",
        "2024-02-30T00:00:00Z", "2024-01-01T24:00:00Z", "2024-01-01T00:00:60Z", "2024-01-01T00:00:00+02:75",
        "2024-01-01T00:00:00+24:00", "0000-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-01:00",
        " 2024-01-01T00:00:00Z", "2024-01-01T00:00:00Z\n", "２024-01-01T00:00:00Z", "now", "x" * 10_000,
        datetime(2024, 1, 1), date(2024, 1, 1), None, 5, b"2024-01-01T00:00:00Z", True, [],
    ],
)  # fmt: skip
def test_parse_moment_refuses(text):
    with pytest.raises(InvalidValue) as caught:
        parse_moment(text)
    assert caught.value.code == "bad-time"


@quick
@given(st.text(alphabet="0123456789-+:.TZW ", max_size=40))
def test_parse_moment_of_anything_answers_or_refuses(text):
    try:
        assert isinstance(parse_moment(text), int)
    except InvalidValue as refused:
        assert refused.code == "bad-time"


@quick
@given(zoned_instants())
def test_parse_moment_reads_what_isoformat_writes(case):
    zone, at = case
    assert parse_moment(local(at, zone)) == at
    assert parse_moment(from_us(at).isoformat().replace("+00:00", "Z")) == at


def test_load_zone():
    assert load_zone("Asia/Kathmandu").key == "Asia/Kathmandu"


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "/etc/passwd", "America", "Europe/", "right/UTC", "posix/UTC", "localtime", "tzdata.zi", "",
     "x\0y", "\ud800", "UTC\n", "a" * 10_000, None, 5],
)  # fmt: skip
def test_load_zone_refuses_anything_else(name):
    with pytest.raises(UnknownName):
        load_zone(name)


@pytest.mark.parametrize(
    ("given", "meant"),
    [("Berlin", "Europe/Berlin"), ("new york", "America/New_York"), ("Asia/Katmandu ", "Asia/Katmandu"),
     ("europe/london", "Europe/London"), ("America/Kathmandu", "Asia/Kathmandu"), ("utc+", "UTC")],
)  # fmt: skip
def test_load_zone_suggests_the_zone_of_the_place(given, meant):
    with pytest.raises(UnknownName) as raised:
        load_zone(given)
    assert raised.value.remedy.endswith(f"{meant!r}?") and raised.value.code == "unknown-name"


@pytest.mark.parametrize("given", ["Atlantis/Qqqqq", "", 5, None, "x" * 5_000])
def test_load_zone_says_what_a_zone_looks_like_where_none_is_near(given):
    with pytest.raises(UnknownName) as raised:
        load_zone(given)
    assert raised.value.remedy == "Give an IANA zone, such as 'Europe/Berlin' or 'UTC'."


def test_load_zone_suggests_the_nearest():
    with pytest.raises(UnknownName, match="Europe/London"):
        load_zone("Europe/Lndon")


@quick
@given(zoned_instants(), st.integers(1, 900 * US_DAY))
def test_offset_pieces_cover_the_span_and_agree_with_utcoffset(case, length):
    zone, start = case
    pieces = offset_pieces(zone, start, start + length)
    assert (pieces[0].start_us, pieces[-1].end_us) == (start, start + length)
    for before, after in pairwise(pieces):
        assert before.end_us == after.start_us and before.offset_us != after.offset_us
    for piece in pieces:
        for at in (piece.start_us, (piece.start_us + piece.end_us) // 2, piece.end_us - 1):
            assert from_us(at, zone).utcoffset() == timedelta(microseconds=piece.offset_us)


@quick
@given(zoned_instants(), st.data())
def test_a_short_span_and_a_long_one_have_the_same_pieces(case, data):
    zone, at = case
    long = offset_pieces(zone, at - 400 * US_DAY, at + 400 * US_DAY)
    end = at + data.draw(st.integers(1, 4 * US_DAY))
    cut = [(max(p.start_us, at), min(p.end_us, end), p.offset_us) for p in long if p.start_us < end and p.end_us > at]
    assert [(p.start_us, p.end_us, p.offset_us) for p in offset_pieces(zone, at, end)] == cut


@pytest.mark.parametrize("zone", ZONES, ids=NAMES)
def test_every_change_is_found_to_the_microsecond(zone):
    for piece in CHANGES[zone][1:]:
        assert from_us(piece.start_us, zone).utcoffset() == timedelta(microseconds=piece.offset_us)
        assert from_us(piece.start_us - 1, zone).utcoffset() != timedelta(microseconds=piece.offset_us)


@pytest.mark.parametrize(
    ("name", "first", "last", "count"),
    [("Europe/London", 2000, 2100, 201), ("UTC", 1, 9998, 1), ("Africa/Casablanca", 2025, 2026, 3)],
)
def test_how_many_pieces(name, first, last, count):
    span = (to_us(datetime(year, 1, 1, tzinfo=UTC)) for year in (first, last))
    assert len(offset_pieces(ZoneInfo(name), *span)) == count


@pytest.mark.parametrize("zone", [NEW_YORK, LORD_HOWE, ZoneInfo("Africa/Casablanca")], ids=str)
@pytest.mark.parametrize("year", [1, 1799, 1883, 2037, 2100, 2599, 2600, 7321, 9999])
def test_offset_pieces_of_any_year(zone, year):
    start = max(to_us(datetime(year, 1, 1, tzinfo=UTC)), to_us(datetime(1, 1, 2, tzinfo=UTC)))
    for piece in offset_pieces(zone, start, start + 363 * US_DAY):
        for at in (piece.start_us, piece.end_us - 1):
            assert from_us(at, zone).utcoffset() == timedelta(microseconds=piece.offset_us)


def test_offset_pieces_beyond_the_years_and_of_nothing():
    assert offset_pieces(NEW_YORK, 5, 5) == offset_pieces(NEW_YORK, 5, 4) == ()
    assert len(offset_pieces(NEW_YORK, -(10**18), -(10**18) + 10**13)) == 1
    assert len(offset_pieces(NEW_YORK, 10**18, 10**18 + 10**13)) == 1


TIMES = st.one_of(
    st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))])).map(datetime.isoformat),
    st.datetimes().map(lambda one: f"{one.isoformat()}Z"),
    st.sampled_from(
        [
            "2026-01-31T10:00Z",
            "2026-01-31T24:00:00Z",
            "2026-02-30T10:00:00Z",
            "2026-01-31T10:00:00.1234567Z",
            "2026-W05-6T10:00:00Z",
            "2026-01-31 10:00:00Z",
            "2026-01-31T10:00:00+00:60",
            "20260131T100000Z",
            "2026-01-31T10:00:00",
            "2026-01-31T10:00:60Z",
            "2026-01-31T10:00:00z",
            "2026-01-31T10:00:00-00:00",
            "2026-01-31T10:00:00Z\n",
            "\u0662026-01-31T10:00:00Z",
            "",
            "2026-01-31T10:00:00,5Z",
            "2026-01-31T10:00:00+0000",
            "2026-01-31T25:00:00Z",
            "2026-01-31T10:00:00Z\n2026-01-31T10:00:00Z",
        ]
    ),
)


@given(st.lists(TIMES, max_size=3), st.lists(st.datetimes().map(lambda one: f"{one.isoformat()}Z"), max_size=12))
def test_many_moments_at_once_are_as_one_by_one(odd, usual):
    def outcome(parse):
        try:
            return parse()
        except InvalidValue as error:
            return error.code

    texts = [*usual, *odd, *usual]
    assert outcome(lambda: parse_moments(texts)) == outcome(lambda: [*map(parse_moment, texts)])
