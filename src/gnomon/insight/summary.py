"""The main numbers of a span of time: what was asked for, and how the answers become one `Summary`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from gnomon.access import Note
from gnomon.errors import InvalidValue
from gnomon.pseudonyms import Pseudonyms
from gnomon.query.inquiry import Inquiry
from gnomon.query.model import Query
from gnomon.query.outline import outline
from gnomon.query.result import Basis, Result, finite
from gnomon.query.widening import widened
from gnomon.store import Store
from gnomon.timerange import US_HOUR, DateRange, resolve_range, to_us

METRICS = (
    "events", "people", "requests", "successes", "failures", "unknown", "success_rate", "mean_duration_ms",
)  # fmt: skip
MOST_HOURS = 24 * 366 * 100


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The main numbers of a span. Counts are estimates, with a fraction, where sampling left events out: then
    `basis.exact` is false and `intervals` holds the 95 % interval of each number that has one. `of_other_types` counts
    the events whose types `by_type` has no room for (`max_rows`)."""

    period_hours: float
    events: float
    people: int
    requests: float
    successes: float
    failures: float
    unknown: float
    success_rate: float | None
    mean_duration_ms: float | None
    by_type: dict[str, float]
    basis: Basis
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    of_other_types: float = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `meta` says what they rest on."""
        plain = {"period_hours": self.period_hours, **{name: finite(getattr(self, name)) for name in METRICS}}
        meta = meta_of(self.basis, self.intervals)
        if self.of_other_types:
            meta["of_other_types"] = finite(self.of_other_types)
        return {**plain, "by_type": dict(self.by_type), "meta": meta}


def span_of(hours: object, date_range: Any, zone: ZoneInfo, now: datetime,
            earliest_us: Callable[[], int | None]) -> DateRange:  # fmt: skip
    """The range that `summary` was asked for."""
    if date_range is not None:
        if hours is not None:
            raise InvalidValue("hours and date_range are given, and may differ", remedy="Give one of them.",
                               code="bad-range")  # fmt: skip
        return resolve_range(date_range, now=now, zone=zone, earliest_us=earliest_us)
    given = 24 if hours is None else hours
    if isinstance(given, bool) or not isinstance(given, int | float) or not 1e-6 <= given <= MOST_HOURS:
        raise InvalidValue(f"hours must be a number above 0 and at most {MOST_HOURS:,}", code="bad-range",
                           remedy='Give fewer hours, or date_range="all".')  # fmt: skip
    end = to_us(now) + 1  # what the clock stamps now is inside, as in "24h"
    return DateRange(end - round(given * US_HOUR), end, zone)


def summarise(inquiry: Inquiry, store: Store, note: Note, pseudonyms: Pseudonyms | None, span: DateRange,
              filters: Sequence[Any] | None) -> Summary:  # fmt: skip
    """The summary of a range, all of one moment of the store."""
    note.range = span
    asked = [widened(query, pseudonyms) for query in questions(span, filters)]
    note.detail = {name: said for name, said in outline(asked[0]).items() if name.startswith("filters")}
    totals, types = inquiry.several(asked, store)
    if isinstance(totals, InvalidValue):
        raise totals
    if isinstance(types, InvalidValue):
        raise types
    note.rows = 1
    return Summary(**fields_of(span, totals, types))


def questions(span: DateRange, filters: Sequence[Any] | None = None, more: Sequence[str] = ()) -> list[Query]:
    """The totals, with `more` metrics, and the events of each type."""
    return [Query.build([*METRICS, *more], [], span, filters), Query.build(["events"], ["type"], span, filters)]


def fields_of(span: DateRange, totals: Result, types: Result) -> dict[str, Any]:
    """What the answers to `questions` say, by the fields of `Summary`."""
    (row,) = totals
    by_type = {found["type"]: found["events"] for found in types}
    other = row["events"] - sum(by_type.values())
    return {
        "period_hours": round((span.end_us - span.start_us) / US_HOUR, 6),
        **{name: row[name] for name in METRICS},
        "by_type": by_type,
        "of_other_types": other if other > 1e-9 * row["events"] else 0,  # sums of weights may differ in the last digit
        "basis": totals.basis,
        "intervals": intervals_of(totals),
    }


def intervals_of(totals: Result) -> dict[str, tuple[float, float]]:
    """The 95 % intervals of an estimate of one row, by metric."""
    if totals.basis.exact:
        return {}
    found = {name: totals.interval(name) for name in totals.metrics}
    return {name: (each.low, each.high) for name, each in found.items()
            if each.low is not None and each.high is not None}  # fmt: skip


def meta_of(basis: Basis, intervals: dict[str, tuple[float, float]]) -> dict[str, Any]:
    """What a report rests on, as plain values."""
    told = {
        "start": basis.start.isoformat(),
        "end": basis.end.isoformat(),
        "timezone": basis.timezone,
        "basis": basis.source,
        "exact": basis.exact,
        "percentile_error": basis.percentile_error,
        "uncollected_seconds": basis.uncollected_seconds,
    }
    return {**told, "intervals": {name: list(ends) for name, ends in intervals.items()}} if intervals else told
