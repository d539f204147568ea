"""Time as Gnomon sees it: UTC microseconds inside, a zone's wall time at the edges, and the only clock.

Owns reading and writing moments, date ranges (half-open, never empty, within years 1 to 9999), the constant-offset
pieces of a zone, and buckets. Every sum is one of integers. Refused with `InvalidValue`: naive datetimes, dates where
a moment is asked for, empty ranges, and anything the forms listed in `resolve_range` do not cover.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from enum import StrEnum
from functools import cache, lru_cache
from itertools import repeat
from operator import floordiv, sub
from zoneinfo import ZoneInfo, available_timezones

from gnomon.errors import InvalidValue, RangeTooLarge, UnknownName, nearest, unknown_name

Clock = Callable[[], datetime]

US_SECOND = 1_000_000
US_MINUTE = 60 * US_SECOND
US_HOUR = 60 * US_MINUTE
US_DAY = 24 * US_HOUR

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY = _EPOCH.toordinal()
_FIRST_US = (1 - _EPOCH_DAY) * US_DAY
_LAST_US = (date.max.toordinal() + 1 - _EPOCH_DAY) * US_DAY - 1
_ZONE_NAME = re.compile(r"(?!right/|posix/|localtime$|posixrules$)[A-Za-z0-9_+-]{1,30}(/[A-Za-z0-9_+-]{1,30}){0,2}")
_MOMENT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ](?:[01][0-9]|2[0-3]):[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,9})?)?"
    r"(?:Z|[+-](?:[01][0-9]|2[0-3])(?::?[0-5][0-9])?)"
)
#: A moment in UTC with each digit as 0, and what `parse_moments` needs.
_UTC_SHAPE = re.compile(rb"0000-00-00[T ]00:00:00(?:\.0{1,9})?(?:Z|\+00:00)")
_DIGITS_AS_0 = bytes(48 if 48 <= code <= 57 else code for code in range(256))
_MICROSECOND = timedelta(microseconds=1)
FEW_TEXTS = 8  #: fewer are parsed one by one
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_SPAN = re.compile(r"([0-9]{1,9})(min|h|d|w)(?:@([0-9]{1,9})(min|h|d|w))?")
_UNIT_US = {"min": US_MINUTE, "h": US_HOUR, "d": US_DAY, "w": 7 * US_DAY}
_MOMENT_REMEDY = "Write it like 2025-01-31T13:45:00Z or 2025-01-31T13:45:00.25+02:00: date, time and zone."
_RANGE_REMEDY = (
    'Give a span ("90min", "24h", "7d", "4w", "7d@7d"), a calendar range ("today", "yesterday", "this_" or "last_" and '
    'week, month, quarter or year), "all", or a start and an end: ISO dates, ISO times with an offset, or Unix seconds.'
)


def system_clock() -> datetime:
    """The machine's time, aware, in UTC."""
    return datetime.now(UTC)


def to_us(moment: datetime) -> int:
    """The exact UTC microseconds since 1970 of an aware datetime; a naive one: `InvalidValue` (naive-datetime)."""
    try:
        delta = moment - _EPOCH
    except TypeError:
        remedy = "Give it a zone, for example datetime.now(timezone.utc)."
        raise InvalidValue("the datetime has no time zone", code="naive-datetime", remedy=remedy) from None
    return (delta.days * 86_400 + delta.seconds) * US_SECOND + delta.microseconds


def from_us(us: int, zone: tzinfo = UTC) -> datetime:
    """The aware datetime of exact UTC microseconds in `zone`; outside years 1 to 9999: `InvalidValue` (bad-time)."""
    try:
        return (_EPOCH + timedelta(microseconds=us)).astimezone(zone)
    except (OverflowError, ValueError):
        raise _out_of_years() from None


def parse_moment(value: str | datetime) -> int:
    """UTC microseconds of an aware datetime or an ISO 8601 text `YYYY-MM-DDThh:mm[:ss[.fraction]]` with Z or an offset.

    A fraction has up to nine digits and is cut off at microseconds. No zone, no time, week dates and the format without
    separators raise `InvalidValue` (bad-time), as does a naive datetime.
    """
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) and _MOMENT.fullmatch(value) else value
        if isinstance(moment, datetime):
            delta = moment - _EPOCH
            us = (delta.days * 86_400 + delta.seconds) * US_SECOND + delta.microseconds
            if _FIRST_US <= us <= _LAST_US:
                return us
    except (ValueError, TypeError):
        pass
    raise InvalidValue("the time is not a date and time with a zone", code="bad-time", remedy=_MOMENT_REMEDY)


def parse_moments(texts: Sequence[str]) -> list[int]:
    """`parse_moment` of many texts, three times as fast where all are in UTC. Raises `InvalidValue` (bad-time)."""
    parts, joined = list(texts), "\n".join(texts)
    if len(parts) < FEW_TEXTS or not joined.isascii() or "T24" in joined or " 24" in joined:
        return list(map(parse_moment, parts))
    parts = joined.split("\n")  # plain texts, whatever they were
    distinct = list(dict.fromkeys(parts))
    shapes = set("\n".join(distinct).encode().translate(_DIGITS_AS_0).split(b"\n"))
    if (len(parts) != len(texts) or not all(map(_UTC_SHAPE.fullmatch, shapes))
            or joined.count("+") != joined.count("+00:00")):  # fmt: skip
        return list(map(parse_moment, texts))
    try:
        since = map(sub, map(datetime.fromisoformat, distinct), repeat(_EPOCH))
        found = list(map(floordiv, since, repeat(_MICROSECOND)))
    except ValueError:
        raise InvalidValue("the time is not a date and time with a zone", code="bad-time",
                           remedy=_MOMENT_REMEDY) from None  # fmt: skip
    if len(found) == len(parts):
        return found
    return list(map(dict(zip(distinct, found, strict=True)).__getitem__, parts))


_zone_names = cache(lambda: frozenset(filter(_ZONE_NAME.fullmatch, available_timezones())))


def load_zone(name: str) -> ZoneInfo:
    """The IANA zone of that name; anything else, paths included: `UnknownName` with the nearest valid name."""
    if isinstance(name, str) and _ZONE_NAME.fullmatch(name):
        try:
            return ZoneInfo(name)
        except (KeyError, ValueError, OSError):
            pass
    raise _unknown_zone(name)


def _unknown_zone(name: object) -> UnknownName:
    """The nearest zone is that of the nearest place: `Berlin`, `new york` and `Asia/Katmandu` mean one."""
    error = unknown_name("time zone", name, ())
    zones = sorted(_zone_names(), key=lambda zone: (-len(zone), zone))  # UTC rather than Etc/UTC
    places = {zone.rpartition("/")[2].casefold(): zone for zone in zones}
    given = name[:60].replace(" ", "_").casefold() if isinstance(name, str) else ""
    place = nearest(given.rpartition("/")[2], places)
    error.remedy = "Give an IANA zone, such as 'Europe/Berlin' or 'UTC'."
    if place is not None:
        error.remedy = f"Did you mean {places[place]!r}?"
    return error


class Grain(StrEnum):
    """The width of a bucket. Weeks start on Monday."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    QUARTER = "quarter"
    YEAR = "year"


_WIDTH_US = {Grain.MINUTE: US_MINUTE, Grain.HOUR: US_HOUR}
_MONTHS = {Grain.MONTH: 1, Grain.QUARTER: 3, Grain.YEAR: 12}
_CALENDAR = {
    "today": (Grain.DAY, False),
    "yesterday": (Grain.DAY, True),
    "day": (Grain.DAY, False),
    "month": (Grain.MONTH, False),
    "year": (Grain.YEAR, False),
} | {f"{when}_{g}": (g, when == "last") for when in ("this", "last") for g in (Grain.WEEK, *_MONTHS)}
NAMED_RANGES = tuple(_CALENDAR)  #: of the calendar, as `resolve_range` takes them


@dataclass(frozen=True, slots=True)
class OffsetPiece:
    """A half-open span of UTC microseconds in which a zone's offset (local minus UTC, microseconds) does not change."""

    start_us: int
    end_us: int
    offset_us: int


def offset_pieces(zone: tzinfo, start_us: int, end_us: int) -> tuple[OffsetPiece, ...]:
    """The pieces that cover [start, end) in order, cut exactly at each change of offset; none when end <= start.

    Changes are found by daily probes (the closest two in the IANA database are four days apart) and halving to the
    second, once per zone and year; in a span of a few days without one, the probes are enough.
    """
    if end_us <= start_us:
        return ()
    begin, current = start_us, _offset_us(zone, start_us)
    if end_us - start_us <= 3 * US_DAY:
        probes = (*range(start_us + US_DAY, end_us, US_DAY), end_us - 1)
        if all(_offset_us(zone, us) == current for us in probes):
            return (OffsetPiece(start_us, end_us, current),)
    pieces: list[OffsetPiece] = []
    first, last = (from_us(min(max(us, _FIRST_US), _LAST_US)).year for us in (start_us, end_us - 1))
    for at, offset in (change for year in range(first, last + 1) for change in _changes(zone, year)):
        if begin < at < end_us and offset != current:
            pieces.append(OffsetPiece(begin, at, current))
            begin, current = at, offset
    return (*pieces, OffsetPiece(begin, end_us, current))


@dataclass(frozen=True)
class DateRange:
    """Half-open [start, end) in UTC microseconds, seen from a zone; `calendar` is its period's grain name or None.

    Making an empty one raises `InvalidValue` (empty-range), one outside years 1 to 9999 `InvalidValue` (bad-time).
    """

    start_us: int
    end_us: int
    zone: ZoneInfo
    calendar: str | None = None

    def __post_init__(self) -> None:
        if self.end_us <= self.start_us:
            remedy = "The end must be later than the start; it is not part of the range."
            raise InvalidValue("the date range is empty", code="empty-range", remedy=remedy)
        from_us(self.start_us, self.zone)
        from_us(self.end_us, self.zone)

    @property
    def start(self) -> datetime:
        """The first instant, aware, in the range's zone."""
        return from_us(self.start_us, self.zone)

    @property
    def end(self) -> datetime:
        """The first instant after the range, aware, in the range's zone."""
        return from_us(self.end_us, self.zone)

    def previous(self) -> DateRange:
        """The range that ends where this one starts: the calendar's previous period, else the same elapsed time.

        A date that the zone skipped is passed over. Before year 1 raises `InvalidValue`.
        """
        if self.calendar is None:
            return DateRange(2 * self.start_us - self.end_us, self.start_us, self.zone)
        grain = Grain(self.calendar)
        number = period_number(grain, self.start_us - 1, self.zone)
        return DateRange(period_start_us(grain, number, self.zone), self.start_us, self.zone, self.calendar)

    def year_before(self) -> DateRange:
        """The same local dates and wall times one year earlier. Before year 1 raises `InvalidValue`.

        A start on 29 February moves to the 28th. The elapsed time is kept when the end is on 29 February, or nothing
        would be left. A week's `calendar` becomes None, as its dates are no Monday-week a year earlier.
        """
        start, end = _year_earlier(self.start_us, self.zone), _year_earlier(self.end_us, self.zone)
        if end <= start or (self.end.month, self.end.day) == (2, 29):
            end = start + self.end_us - self.start_us
        return DateRange(start, end, self.zone, None if self.calendar == Grain.WEEK else self.calendar)


def resolve_range(
    value: object, *, now: datetime, zone: ZoneInfo, earliest_us: Callable[[], int | None] | None = None
) -> DateRange:
    """The `DateRange` that `value` means at `now` (aware) in `zone`; anything not listed raises `InvalidValue`.

    - a DateRange: itself;
    - "90min", "24h", "7d", "4w": that elapsed time (7d = 7 * 24 h). It ends one microsecond after `now`, so that what
      the same clock stamped at this very microsecond is inside; "7d@1d" is the same shifted back by a day;
    - today, yesterday, this_week, last_month, ...: a whole calendar period (day, month, year = the current one);
    - "all": from `earliest_us()`, or `now` when there is none, to one microsecond after `now`;
    - a pair, or {"start": ..., "end": ...}: dates mean midnight in `zone`, also ISO times with an offset, aware
      datetimes and Unix seconds. The end is not part of the range.

    Codes: bad-range, empty-range, bad-time, naive-datetime.
    """
    if isinstance(value, DateRange):
        return value
    if isinstance(value, str):
        return _named_range(value, to_us(now), zone, earliest_us)
    if isinstance(value, Mapping):
        if set(value) != {"start", "end"}:
            raise _bad_range('It needs exactly the keys "start" and "end". ')
        value = (value["start"], value["end"])
    if isinstance(value, (list, tuple)) and len(value) == 2:
        return DateRange(_boundary_us(value[0], zone), _boundary_us(value[1], zone), zone)
    raise _bad_range()


def period_start_us(grain: Grain, number: int, zone: tzinfo) -> int:
    """The first instant (UTC microseconds) of a period; for minutes and hours the number already is that instant.

    A date that the zone skipped starts, and ends, where the next one starts. Outside years 1 to 9999: `InvalidValue`.
    """
    if grain in _WIDTH_US:
        return number
    return next(_first_instants(zone, (_first_day(grain, number) * US_DAY,)))


def period_number(grain: Grain, us: int, zone: tzinfo) -> int:
    """The period of an instant (UTC microseconds) by its local wall time: days since 1970-01-01, Monday-weeks (0 is the
    one of that day), year * 12 + month - 1, year * 4 + quarter - 1, year. For minutes and hours: the bucket's start.

    Where a clock went back over midnight (America/St_Johns until 2011, at 00:01) the repeated minutes count for the
    date they show although the next has begun once: the only instants that lie after the start of a later bucket.
    """
    if grain in _WIDTH_US:
        width = _WIDTH_US[grain]
        piece = offset_pieces(zone, us - width, us + 1)[-1]
        return max((us + piece.offset_us) // width * width - piece.offset_us, piece.start_us)
    return _wall_number(grain, us + _offset_us(zone, us))


def bucket_starts(range: DateRange, grain: Grain, limit: int = 50_000) -> list[int]:
    """The starts (UTC microseconds) of the buckets that overlap the range, ascending; the first may lie before it.

    Dates that the zone skipped have none. More than `limit` periods: `RangeTooLarge`, before any list is built.
    """
    return _clock_starts(range, grain, limit) if grain in _WIDTH_US else _calendar_starts(range, grain, limit)


def _clock_starts(span: DateRange, grain: Grain, limit: int) -> list[int]:
    width = _WIDTH_US[grain]
    if span.end_us - span.start_us > limit * width:
        raise _too_many(limit)
    starts: list[Sequence[int]] = []
    for piece in offset_pieces(span.zone, period_number(grain, span.start_us, span.zone), span.end_us):
        whole = (piece.start_us + piece.offset_us) // width * width - piece.offset_us
        starts += [(piece.start_us,), range(whole + width, piece.end_us, width)]
    if sum(map(len, starts)) > limit:
        raise _too_many(limit)
    return [us for run in starts for us in run]


def _calendar_starts(span: DateRange, grain: Grain, limit: int) -> list[int]:
    zone, near = span.zone, 2 * US_DAY
    heads = offset_pieces(zone, span.start_us, min(span.end_us, span.start_us + near))
    tails = offset_pieces(zone, max(span.start_us, span.end_us - near), span.end_us)
    first = min(_wall_number(grain, piece.start_us + piece.offset_us) for piece in heads)
    last = max(_wall_number(grain, piece.end_us - 1 + piece.offset_us) for piece in tails)
    if last - first >= limit:
        raise _too_many(limit)
    if grain in _MONTHS:
        return [period_start_us(grain, number, zone) for number in range(first, last + 1)]
    walls = [_first_day(grain, number) * US_DAY for number in range(first, last + 1)]
    return list(dict.fromkeys(_first_instants(zone, walls)))


def _first_instants(zone: tzinfo, walls: Sequence[int]) -> Iterator[int]:
    """For each wall time (microseconds, ascending) the first instant at which the zone's clock shows it or later."""
    pieces = iter(offset_pieces(zone, walls[0] - US_DAY, walls[-1] + US_DAY + 1))
    piece = next(pieces)
    for wall in walls:
        while (us := max(piece.start_us, wall - piece.offset_us)) >= piece.end_us:
            piece = next(pieces)
        yield us


def _first_day(grain: Grain, number: int) -> int:
    """The first local date of a period of days or more, in days since 1970-01-01."""
    if grain == Grain.DAY:
        return number
    if grain == Grain.WEEK:
        return number * 7 - 3
    year, month = divmod(number * _MONTHS[grain], 12)
    try:
        return date(year, month + 1, 1).toordinal() - _EPOCH_DAY
    except (ValueError, OverflowError):
        raise _out_of_years() from None


def _wall_number(grain: Grain, wall_us: int) -> int:
    day = wall_us // US_DAY
    if grain == Grain.DAY:
        return day
    if grain == Grain.WEEK:
        return (day + 3) // 7
    try:
        local = date.fromordinal(day + _EPOCH_DAY)
    except (ValueError, OverflowError):
        raise _out_of_years() from None
    return (local.year * 12 + local.month - 1) // _MONTHS[grain]


def _year_earlier(us: int, zone: tzinfo) -> int:
    """The same wall time a year earlier; the first instant of a date gives the first instant of that date."""
    local = from_us(us, zone)
    leap_day = (local.month, local.day) == (2, 29)
    try:
        moved = local.replace(year=local.year - 1, day=28 if leap_day else local.day)
    except ValueError:
        raise _out_of_years() from None
    if us != period_start_us(Grain.DAY, local.toordinal() - _EPOCH_DAY, zone):
        return to_us(moved)
    return period_start_us(Grain.DAY, moved.toordinal() - _EPOCH_DAY, zone)


def _named_range(text: str, now_us: int, zone: ZoneInfo, earliest_us: Callable[[], int | None] | None) -> DateRange:
    if text in _CALENDAR:
        grain, last = _CALENDAR[text]
        number = period_number(grain, now_us, zone)
        start, end = (period_start_us(grain, n, zone) for n in (number, number + 1))
        current = DateRange(start, end, zone, grain.value)
        return current.previous() if last else current
    if text == "all":
        earliest = earliest_us() if earliest_us else None
        return DateRange(now_us if earliest is None else min(earliest, now_us), now_us + 1, zone)
    if span := _SPAN.fullmatch(text):
        count, unit, back, back_unit = span.groups()
        end = now_us + 1 - (int(back) * _UNIT_US[back_unit] if back else 0)
        return DateRange(end - int(count) * _UNIT_US[unit], end, zone)
    hit = nearest(re.sub(r"[\s-]+", "_", text[:40].strip().lower()), [*_CALENDAR, "all"])
    raise _bad_range(f"Did you mean {hit!r}? " if hit else "")


def _boundary_us(value: object, zone: ZoneInfo) -> int:
    if isinstance(value, datetime):
        return to_us(value)
    if isinstance(value, date):
        return period_start_us(Grain.DAY, value.toordinal() - _EPOCH_DAY, zone)
    if isinstance(value, str):
        if not _DATE.fullmatch(value):
            return parse_moment(value)
        try:
            return _boundary_us(date.fromisoformat(value), zone)
        except ValueError:
            raise InvalidValue("that date is not in the calendar", code="bad-time", remedy=_MOMENT_REMEDY) from None
    if isinstance(value, int) and not isinstance(value, bool):
        return value * US_SECOND
    if isinstance(value, float) and math.isfinite(value):
        whole, fraction = divmod(value, 1.0)
        return int(whole) * US_SECOND + round(fraction * US_SECOND)
    raise _bad_range()


@lru_cache(maxsize=8192)
def _changes(zone: tzinfo, year: int) -> tuple[tuple[int, int], ...]:
    """Each (instant, new offset), in microseconds, where the zone's offset changes in a UTC year, its end included.

    No zone changed before 1800, and from 2200 on all follow a yearly rule, so that 400 years are a whole cycle.
    """
    if year < 1800:
        return ()
    if year >= 2600:
        return tuple((at + 146_097 * US_DAY, offset) for at, offset in _changes(zone, year - 400))
    low, end = ((date(year, *day).toordinal() - _EPOCH_DAY) * US_DAY for day in ((1, 1), (12, 31)))
    found: list[tuple[int, int]] = []
    before = _offset_us(zone, low)
    for high in range(low + US_DAY, end + US_DAY + 1, US_DAY):
        after = _offset_us(zone, high)
        while before != after:
            edge = high
            while edge - low > US_SECOND:
                middle = (low + edge) // (2 * US_SECOND) * US_SECOND
                low, edge = (middle, edge) if _offset_us(zone, middle) == before else (low, middle)
            low, before = edge, _offset_us(zone, edge)
            found.append((low, before))
        low = high
    return tuple(found)


def _offset_us(zone: tzinfo, us: int) -> int:
    """The zone's offset at an instant, in microseconds; less than two days from the edges, that of two days."""
    seconds = min(max(us, _FIRST_US + 2 * US_DAY), _LAST_US - 2 * US_DAY) // US_SECOND
    return (datetime.fromtimestamp(seconds, zone).utcoffset() or timedelta()) // timedelta(microseconds=1)


def _out_of_years() -> InvalidValue:
    return InvalidValue("the time is outside years 1 to 9999", code="bad-time", remedy="Give one within them.")


def _bad_range(hint: str = "") -> InvalidValue:
    return InvalidValue("that is not a date range", code="bad-range", remedy=hint + _RANGE_REMEDY)


def _too_many(limit: int) -> RangeTooLarge:
    remedy = "Ask for a shorter range or a coarser grain (minute, hour, day, week, month, quarter, year)."
    return RangeTooLarge(f"the range has more than {limit} buckets of that grain", remedy=remedy)
