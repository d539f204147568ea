"""The same answers a second time, from polars and zoneinfo alone: nothing of what Gnomon computes with is used here.

Whoever changes a rule of design section 5 changes it here by hand as well; that is the point.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
from rows import Event, us_of

MINUTE, HOUR, DAY = 60_000_000, 3_600_000_000, 86_400_000_000
CLOCK_GRAINS = {"minute": MINUTE, "hour": HOUR}
PARTS_OF_TIME = ("hour_of_day", "day_of_week")
TEXTS = (
    "type",
    "user_id",
    "device_id",
    "session_id",
    "source",
    "application",
    "domain",
    "endpoint",
    "method",
    "error_code",
)
WHOLE = ("status_code", "bytes_sent", "bytes_received")

_REQUEST = ["is", "type", ["request"]]
_OK, _FAILED, _KNOWN = ["is", "success", [True]], ["is", "success", [False]], ["is_set", "success"]
#: aggregate, field, where
NAMED: dict[str, tuple[str, Any, Any]] = {
    "events": ("count", None, None),
    "requests": ("count", None, _REQUEST),
    "people": ("unique", "actor", None),
    "sessions": ("unique", "session_id", None),
    "page_views": ("count", None, ["is", "type", ["page_view", "pageview"]]),
    "successes": ("count", None, _OK),
    "failures": ("count", None, _FAILED),
    "unknown": ("count", None, ["not", _KNOWN]),
    "success_rate": ("rate", _OK, _KNOWN),
    "error_rate": ("rate", _FAILED, _KNOWN),
} | {
    f"{agg}_{field}": (agg, field, None)
    for agg in ("mean", "sum", "min", "max", "p50", "p90", "p95", "p99")
    for field in ("duration_ms", "bytes_sent", "bytes_received")
}
OTHER_NAMES = {"visitors": "people", "visits": "sessions", "pageviews": "page_views"}
_SAME = {"avg": "mean", "median": "p50"}


# -- time -------------------------------------------------------------------------------------------------------------


def local(us: int, zone: ZoneInfo) -> datetime:
    return datetime.fromtimestamp(us // 1_000_000, zone).replace(microsecond=us % 1_000_000)


def offset(us: int, zone: ZoneInfo) -> int:
    return datetime.fromtimestamp(us // 1_000_000, zone).utcoffset() // timedelta(microseconds=1)


def first_instant(day: date, zone: ZoneInfo) -> int:
    """When a local date begins: of a midnight that happens twice the first, of one that is skipped the change."""
    return us_of(datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC))


def clock_bucket(us: int, width: int, zone: ZoneInfo) -> int:
    """The full minute or hour of the wall clock, but never from before a change of the offset."""
    here = offset(us, zone)
    floor = us - (us + here) % width
    if offset(floor, zone) == here:
        return floor
    low, high = floor // 1_000_000, us // 1_000_000
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if offset(middle * 1_000_000, zone) == here else (middle, high)
    return high * 1_000_000


def first_day(day: date, grain: str) -> date:
    if grain == "day":
        return day
    if grain == "week":
        return day - timedelta(days=day.weekday())
    if grain == "month":
        return day.replace(day=1)
    if grain == "quarter":
        return date(day.year, (day.month - 1) // 3 * 3 + 1, 1)
    return date(day.year, 1, 1)


@cache
def bucket_of_day(day: date, grain: str, zone: ZoneInfo) -> int:
    return first_instant(first_day(day, grain), zone)


def bucket(us: int, grain: str, zone: ZoneInfo) -> int:
    """The start of the bucket in UTC microseconds; for a part of time its number."""
    if grain in CLOCK_GRAINS:
        return clock_bucket(us, CLOCK_GRAINS[grain], zone)
    here = local(us, zone)
    if grain == "hour_of_day":
        return here.hour
    if grain == "day_of_week":
        return here.isoweekday()
    return bucket_of_day(here.date(), grain, zone)


@dataclass(frozen=True)
class Span:
    start: int
    end: int
    calendar: str | None = None


def _following(day: date, grain: str) -> date:
    return first_day(day + timedelta(days={"day": 1, "week": 7, "month": 31, "quarter": 92, "year": 366}[grain]), grain)


def calendar_span(day: date, grain: str, zone: ZoneInfo) -> Span:
    begin = first_day(day, grain)
    return Span(first_instant(begin, zone), first_instant(_following(begin, grain), zone), grain)


@cache
def buckets(span: Span, grain: str, zone: ZoneInfo) -> tuple[int, ...]:
    """Every bucket of a range, found by looking often enough."""
    # Offsets are whole quarter-hours since 1972, but St. John's clocks changed at one minute past, until 2011.
    near = 15 * MINUTE if span.start >= us_of(datetime(2012, 1, 1, tzinfo=UTC)) else MINUTE
    if grain in CLOCK_GRAINS:
        step = MINUTE if grain == "minute" else near
        looks: Iterable[int] = range(span.start - span.start % step + step, span.end, step)
    else:
        begin, last = span.start - span.start % near + near, span.end - 3 * DAY
        looks = [
            *range(begin, min(span.end, begin + 3 * DAY), near),
            *range(span.start, span.end, 12 * HOUR),
            *range(max(begin, last - last % near), span.end, near),
        ]
    return tuple(sorted({bucket(us, grain, zone) for us in (span.start, *looks, span.end - 1)}))


_SPAN = re.compile(r"(\d+)(min|h|d|w)(?:@(\d+)(min|h|d|w))?")
_UNIT = {"min": MINUTE, "h": HOUR, "d": DAY, "w": 7 * DAY}


def span_of(given: Any, zone: ZoneInfo, now: int, earliest: int) -> Span:
    if given == "all":
        return Span(earliest, now + 1)
    if isinstance(given, str) and (found := _SPAN.fullmatch(given)):
        count, unit, back, back_unit = found.groups()
        end = now + 1 - (int(back) * _UNIT[back_unit] if back else 0)
        return Span(end - int(count) * _UNIT[unit], end)
    if isinstance(given, str):
        today = local(now, zone).date()
        if given in ("today", "yesterday"):
            return calendar_span(today - timedelta(days=given == "yesterday"), "day", zone)
        which, _, grain = given.partition("_")
        begin = first_day(today, grain)
        return calendar_span(begin if which == "this" else begin - timedelta(days=1), grain, zone)
    return Span(*(_edge(value, zone) for value in given))


def _edge(value: Any, zone: ZoneInfo) -> int:
    if isinstance(value, int):
        return value * 1_000_000
    if isinstance(value, datetime):
        return us_of(value)
    if len(value) == 10:
        return first_instant(date.fromisoformat(value), zone)
    return us_of(datetime.fromisoformat(value))


def previous(span: Span, zone: ZoneInfo) -> Span:
    if span.calendar is None:
        return Span(2 * span.start - span.end, span.start)
    return calendar_span(local(span.start, zone).date() - timedelta(days=1), span.calendar, zone)


# -- values -----------------------------------------------------------------------------------------------------------


def canonical(value: Any) -> str:
    """JSON text in which 1 and 1.0 are one number."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _outcome(event: Event) -> bool | None:
    if event.get("success") is not None:
        return event["success"]
    if event.get("status_code") is not None:
        return event["status_code"] < 400
    return False if event.get("error_code") is not None else None


@dataclass(frozen=True)
class Metric:
    name: str
    agg: str
    field: Any
    where: Any

    @property
    def is_rate(self) -> bool:
        return self.agg == "rate"

    @property
    def of_nothing(self) -> float | None:
        if self.agg == "sum" and self.field not in WHOLE:
            return 0.0
        return 0 if self.agg in ("count", "sum", "unique") else None


def metric_of(given: Any) -> Metric:
    if isinstance(given, str):
        name = OTHER_NAMES.get(given, given)
        return Metric(name, *NAMED[name])
    agg, field = given["agg"], given.get("field")
    name = given.get("as") or (f"{agg}_{field}" if field else agg)
    return Metric(name, _SAME.get(agg, agg), field, given.get("where"))


@dataclass
class Answer:
    """Rows as dicts by key; `key` is what tells a row apart: bucket starts, canonical JSON texts and plain values."""

    order: list[tuple[Any, ...]]
    rows: dict[tuple[Any, ...], list[Any]]
    before: dict[tuple[Any, ...], list[Any] | None]
    totals: list[Any]
    sort: list[tuple[int, bool]]
    exact: bool


class Oracle:
    """All events of one project, once each, and questions to them."""

    def __init__(self, events: Iterable[Event], now: datetime) -> None:
        once: dict[str, Event] = {}
        for event in events:
            once.setdefault(event["id"], event)
        rows = list(once.values())
        self.now = us_of(now)
        self.size = len(rows)
        self.properties = [event.get("properties") or {} for event in rows]
        ts = [us_of(event["ts"]) for event in rows]
        self.earliest = min(ts)
        kinds = dict.fromkeys(TEXTS, pl.String) | dict.fromkeys(WHOLE, pl.Int64) | {"duration_ms": pl.Float64}
        self.columns: dict[str, pl.Series] = {
            name: pl.Series([event.get(name) for event in rows], dtype=kind) for name, kind in kinds.items()
        }
        people = [e.get("user_id") if e.get("user_id") is not None else e.get("device_id") for e in rows]
        status = [e.get("status_code") for e in rows]
        self.columns |= {
            "ts": pl.Series(ts, dtype=pl.Int64),
            "weight": pl.Series([event.get("weight", 1.0) for event in rows], dtype=pl.Float64),
            "success": pl.Series(list(map(_outcome, rows)), dtype=pl.Boolean),
            "actor": pl.Series(people, dtype=pl.String),
            "status_class": pl.Series(
                [None if code is None else f"{code // 100}xx" for code in status], dtype=pl.String
            ),
        }
        self._buckets: dict[tuple[str, ZoneInfo], dict[int, int]] = {}

    # -- columns --

    def column(self, name: str, form: str = "key") -> pl.Series:
        """A dimension as grouped by (`key`), or the `number` or `text` that it holds, null for any other type."""
        if not name.startswith("properties."):
            return self.columns[name]
        at = f"{form}:{name}"
        if at not in self.columns:
            key = name.removeprefix("properties.")
            values = [held.get(key) for held in self.properties]
            made: dict[str, tuple[list[Any], Any]] = {
                "key": ([None if v is None else canonical(v) for v in values], pl.String),
                "number": ([float(v) if _is_number(v) else None for v in values], pl.Float64),
                "text": ([v if isinstance(v, str) else None for v in values], pl.String),
            }
            for word, (data, kind) in made.items():
                self.columns[f"{word}:{name}"] = pl.Series(data, dtype=kind)
        return self.columns[at]

    def time(self, ts: pl.Series, grain: str, zone: ZoneInfo) -> pl.Series:
        known = self._buckets.setdefault((grain, zone), {})
        moments = ts.to_list()
        for us in set(moments) - known.keys():
            known[us] = bucket(us, grain, zone)
        return pl.Series([known[us] for us in moments], dtype=pl.Int64)

    # -- filters --

    def passing(self, node: Any) -> pl.Series:
        """Which rows pass a filter; never null."""
        op, rest = node[0], node[1:]
        if op in ("and", "or"):
            found = [self.passing(part) for part in rest[0]]
            out = found[0]
            for other in found[1:]:
                out = out & other if op == "and" else out | other
            return out
        if op == "not":
            return ~self.passing(rest[0])
        if op == "is_set":
            return self.column(rest[0]).is_not_null()
        values = rest[1] if isinstance(rest[1], list) else [rest[1]]
        if op == "is_not":
            return ~self._is(rest[0], values)
        if op == "is":
            return self._is(rest[0], values)
        if op in ("contains", "contains_not"):
            found = self._where_text(rest[0], lambda text: any(part in text for part in values))
            return found if op == "contains" else ~found
        if op == "matches":
            # RE2 reads classes as ASCII and lets a dot match a line break here.
            tests = [re.compile(pattern, re.ASCII | re.DOTALL) for pattern in values]
            return self._where_text(rest[0], lambda text: any(test.search(text) for test in tests))
        return self._ordered(op, rest[0], values[0])

    def _is(self, name: str, values: list[Any]) -> pl.Series:
        key = self.column(name)
        wanted = [value for value in values if value is not None]
        if name.startswith("properties."):
            found = _among(key, [canonical(value) for value in wanted])
        elif key.dtype in (pl.Int64, pl.Float64):
            found = _among(key.cast(pl.Float64), [float(value) for value in wanted])
        else:
            found = _among(key, wanted)
        return found | key.is_null() if len(wanted) < len(values) else found

    def _where_text(self, name: str, test: Any) -> pl.Series:
        text = self.column(name, "text")
        passing = [value for value in text.unique().to_list() if value is not None and test(value)]
        return _among(text, passing)

    def _ordered(self, op: str, name: str, value: Any) -> pl.Series:
        if isinstance(value, str):
            least = value.encode()
            tests = {
                "gt": lambda text: text.encode() > least,
                "gte": lambda text: text.encode() >= least,
                "lt": lambda text: text.encode() < least,
                "lte": lambda text: text.encode() <= least,
            }
            return self._where_text(name, tests[op])
        held = self.column(name, "number").cast(pl.Float64)
        tried = {"gt": held > value, "gte": held >= value, "lt": held < value, "lte": held <= value}[op]
        return tried.fill_null(False)

    # -- groups --

    def groups(
        self, question: dict[str, Any], dims: list[str], span: Span, zone: ZoneInfo
    ) -> tuple[dict[Any, list[Any]], bool]:
        """Metric values by key, and whether every row that counted had weight 1."""
        ts = self.columns["ts"]
        chosen = (ts >= span.start) & (ts < span.end)
        for node in _filter_list(question.get("filters")):
            chosen = chosen & self.passing(node)
        columns = {"ts": ts, "w": self.columns["weight"]}
        columns |= {f"d{place}": self.column(name) for place, name in enumerate(dims) if not name.startswith("time:")}
        metrics = [metric_of(given) for given in question["metrics"]]
        keys = [f"d{place}" for place in range(len(dims))]
        for place, metric in enumerate(metrics):
            self._inputs(columns, place, metric)
        frame = pl.DataFrame(columns).filter(chosen)
        for place, name in enumerate(dims):
            if name.startswith("time:"):
                frame = frame.with_columns(self.time(frame["ts"], name.removeprefix("time:"), zone).alias(f"d{place}"))
        found: dict[Any, list[Any]] = {key: [None] * len(metrics) for key in (_keys(frame, keys) if keys else [()])}
        for place, metric in enumerate(metrics):
            values = _aggregate(frame, keys, place, metric)
            for key, row in found.items():
                row[place] = values.get(key, metric.of_nothing)
        return found, bool((frame["w"] == 1).all())

    def _inputs(self, columns: dict[str, pl.Series], place: int, metric: Metric) -> None:
        """x = the value, k = which rows count; for a rate k = the numerator, b = the denominator."""
        if metric.is_rate:
            columns[f"k{place}"], columns[f"b{place}"] = self.passing(metric.field), self.passing(metric.where)
            return
        counts = pl.Series([True]).new_from_index(0, self.size)
        for node in _filter_list(metric.where):
            counts = counts & self.passing(node)
        if metric.field is not None:
            value = self.column(metric.field, "key" if metric.agg in ("count", "unique") else "number")
            columns[f"x{place}"] = value
            counts = counts & value.is_not_null()
        columns[f"k{place}"] = counts

    # -- answers --

    def answer(self, question: dict[str, Any], default_zone: str = "UTC") -> Answer:
        zone = ZoneInfo(question.get("timezone") or default_zone)
        dims = ["time:day" if name == "time" else name for name in question.get("dimensions", [])]
        metrics = [metric_of(given) for given in question["metrics"]]
        span = span_of(question.get("date_range", "all"), zone, self.now, self.earliest)
        rows, exact = self.groups(question, dims, span, zone)
        series = len(dims) == 1 and dims[0].startswith("time:") and dims[0].removeprefix("time:") not in PARTS_OF_TIME
        if series:
            for start in buckets(span, dims[0].removeprefix("time:"), zone):
                rows.setdefault((start,), [None if start > self.now else m.of_nothing for m in metrics])
        sort = _sort_places(question.get("order_by") or [], dims, [m.name for m in metrics])
        before: dict[Any, Any] = {}
        if question.get("compare"):
            before = self._before(question, dims, metrics, rows, span, zone)
        totals = self.groups(question, [], span, zone)[0][()] if question.get("totals") else []
        return Answer(_sorted(rows, sort, len(dims)), rows, before, totals, sort, exact)

    def _before(self, question: dict[str, Any], dims: list[str], metrics: list[Metric], rows: dict[Any, Any],
                span: Span, zone: ZoneInfo) -> dict[Any, Any]:  # fmt: skip
        given = question["compare"]
        other = previous(span, zone) if given == "previous" else span_of(given, zone, self.now, self.earliest)
        known, _ = self.groups(question, dims, other, zone)
        moved: list[dict[int, int] | None] = []
        for name in dims:
            grain = name.removeprefix("time:")
            by_place = name.startswith("time:") and grain not in PARTS_OF_TIME
            moved.append(
                dict(zip(buckets(span, grain, zone), buckets(other, grain, zone), strict=False)) if by_place else None
            )
        found: dict[Any, Any] = {}
        for key in rows:
            there = tuple(value if at is None else at.get(value, ...) for value, at in zip(key, moved, strict=True))
            found[key] = None if ... in there else known.get(there, [m.of_nothing for m in metrics])
        return found


def _among(column: pl.Series, values: list[Any]) -> pl.Series:
    found = column.is_in(values) if values else column.is_null() & column.is_not_null()
    return found.fill_null(False)


def change(metric: Metric, now: Any, before: Any) -> tuple[Any, Any, Any, Any, str | None]:
    """now, before, change, points, reason."""
    if now is None:
        return now, before, None, None, "no_value"
    if before is None:
        return now, None, None, None, "no_baseline"
    points = now - before if metric.is_rate else None
    if before == 0:
        return now, before, None, points, "no_baseline"
    return now, before, (now - before) / before, points, None


def _filter_list(given: Any) -> list[Any]:
    if not given:
        return []
    return [given] if isinstance(given[0], str) else list(given)


def _keys(frame: pl.DataFrame, keys: list[str]) -> Iterator[tuple[Any, ...]]:
    return frame.select(keys).unique().iter_rows()


def _aggregate(frame: pl.DataFrame, keys: list[str], place: int, metric: Metric) -> dict[Any, Any]:
    x, k, w = pl.col(f"x{place}"), pl.col(f"k{place}"), pl.col("w")
    if metric.is_rate:
        both = frame.filter(pl.col(f"b{place}"))
        return _by_key(both, keys, (w * k.cast(pl.Float64)).sum() / w.sum())
    rows = frame.filter(k)
    counted = (frame["w"] == 1).all()
    if metric.agg == "count":
        value = pl.len() if counted else w.sum()
    elif metric.agg == "sum":
        value = x.sum() if counted else (w * x).sum()
    elif metric.agg == "mean":
        value = (w * x).sum() / w.sum()
    elif metric.agg == "unique":
        value = x.n_unique()
    elif metric.agg in ("min", "max"):
        value = x.min() if metric.agg == "min" else x.max()
    else:
        return _quantile(rows, keys, f"x{place}", Fraction(metric.agg[1:]) / 100)
    return _by_key(rows, keys, value)


def _quantile(rows: pl.DataFrame, keys: list[str], x: str, q: Fraction) -> dict[Any, Any]:
    """The smallest value whose weight and that of all before it reaches q of the total, in whole half-weights."""
    half = (pl.col("w") * 2).cast(pl.Int64)
    rows = rows.sort(x)
    reach, total = (half.cum_sum().over(keys), half.sum().over(keys)) if keys else (half.cum_sum(), half.sum())
    return _by_key(rows.filter(reach * q.denominator >= total * q.numerator), keys, pl.col(x).min())


def _by_key(rows: pl.DataFrame, keys: list[str], value: pl.Expr) -> dict[Any, Any]:
    if not rows.height:
        return {}
    if not keys:
        return {(): rows.select(value.alias("v"))["v"][0]}
    return {row[:-1]: row[-1] for row in rows.group_by(keys).agg(value.alias("v")).iter_rows()}


def _sort_places(order_by: list[Any], dims: list[str], metrics: list[str]) -> list[tuple[int, bool]]:
    names = dims + metrics
    asked = [(e, "asc") if isinstance(e, str) else e for e in order_by]
    found = [(names.index(OTHER_NAMES.get(name, name)), way == "desc") for name, way in asked]
    if not found:
        found = [(place, False) for place, name in enumerate(dims) if name.startswith("time:")] or [(len(dims), True)]
    seen = {place for place, _ in found}
    return found + [(place, False) for place in range(len(dims)) if place not in seen]


def _sorted(rows: dict[Any, list[Any]], sort: list[tuple[int, bool]], dims: int) -> list[Any]:
    keys = list(rows)
    for place, descending in reversed(sort):
        value = {key: (*key, *rows[key])[place] for key in keys}
        nulls = [key for key in keys if value[key] is None]
        keys = [key for key in keys if value[key] is not None]
        keys.sort(key=lambda key, value=value: _sortable(value[key]), reverse=descending)
        keys += nulls
    return keys


def _sortable(value: Any) -> Any:
    return value.encode() if isinstance(value, str) else value
