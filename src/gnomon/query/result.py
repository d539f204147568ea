"""`Result`: the rows of an answer with what they rest on, and their ways out (data frames, text, HTML)."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeAlias

import msgspec

from gnomon.errors import InvalidValue, MissingExtra, unknown_name
from gnomon.query.gaps import in_words
from gnomon.store.aliveness import Span
from gnomon.timerange import from_us


class Row(dict[str, Any]):
    """One row as a dict, columns in order. `place` is its index in the whole answer."""

    __slots__ = ("place",)
    place: int

    @classmethod
    def of(cls, columns: Sequence[str], values: Sequence[Any], place: int) -> Row:
        """A row of as many values as columns. Without an `__init__` of its own it takes half the time."""
        row = cls(zip(columns, values, strict=True))
        row.place = place
        return row


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval; `exact` when the rows it rests on all have weight 1. `reason` says why one is
    missing: `no_value`, `too_few`, `histogram`, `as_seen`, `no_formula`."""

    value: float | None
    low: float | None
    high: float | None
    exact: bool
    reason: str | None = None


#: Low and high of an interval.
Bounds: TypeAlias = tuple[float, float]


@dataclass(frozen=True)
class Change:
    """How a metric moved: `change` is relative, `points` the difference of a rate. `reason` says why one is missing."""

    now: float | None
    before: float | None
    change: float | None
    points: float | None
    reason: str | None


@dataclass(frozen=True)
class Basis:
    """What an answer rests on: `raw` rows or `rollups`, whether it is exact, and the plan's steps in words.

    `percentile_error` is the relative error within which percentiles lie that were read from histograms, else 0.
    `uncollected_seconds` is how long in the range nobody was there to record; `gaps` counts the buckets without
    collection.
    """

    source: str
    exact: bool
    data_version: int
    start: datetime
    end: datetime
    timezone: str
    steps: tuple[str, ...]
    from_cache: bool = False
    percentile_error: float = 0.0
    uncollected_seconds: float = 0.0
    gaps: int = 0

    def __str__(self) -> str:
        near = f", percentiles within {self.percentile_error:.0%}" if self.percentile_error else ""
        missing = ""
        if self.gaps:
            missing = f", {self.gaps:,} bucket{'s' * (self.gaps > 1)} without collection"
        elif self.uncollected_seconds:
            missing = f", {in_words(self.uncollected_seconds)} without collection"
        return f"{self.source}, {'exact' if self.exact else 'estimate (weighted)'}{near}{missing}"


_BUCKET_TEXT = {"day": "%Y-%m-%d", "week": "%Y-%m-%d", "month": "%Y-%m", "year": "%Y"}


@dataclass(repr=False)
class Result(Sequence[Row]):
    """The answer to a query: a sequence of rows.

    `basis` says what it rests on, `next` is the cursor of the following page or None, `totals` the row over
    everything when it was asked for.
    """

    dimensions: list[str]
    metrics: list[str]
    rows: list[Row]
    basis: Basis
    rates: frozenset[str] = frozenset()
    shares: frozenset[str] = frozenset()
    next: str | None = None
    totals: Row | None = None
    half_widths: dict[str, list[float | None]] = field(default_factory=dict)
    bounds: dict[str, list[Bounds | None]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    before: list[Row | None] | None = None
    sql: tuple[str, ...] = ()
    uncollected: tuple[Span, ...] = ()
    gap_rows: frozenset[int] = frozenset()
    gaps_before: frozenset[int] = frozenset()

    @property
    def gaps(self) -> list[tuple[datetime, datetime]]:
        """The parts of the range in which nobody was there to record: starts, and ends that are not part of them."""
        zone = self.basis.start.tzinfo or UTC
        return [(from_us(first, zone), from_us(last, zone)) for first, last in self.uncollected]

    def is_gap(self, row: Mapping[str, Any] | int) -> bool:
        """Whether a row is a bucket without collection; its metrics are null then."""
        return self._place(row) in self.gap_rows

    @property
    def columns(self) -> list[str]:
        """Dimensions, then metrics."""
        return [*self.dimensions, *self.metrics]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: Any) -> Any:
        return self.rows[place]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def interval(self, metric: str, row: Mapping[str, Any] | int = 0) -> Interval:
        """The 95 % interval of a metric in a row (or row number). Low and high are None where none is known, and
        `reason` says why. Those of percentiles lie at unequal distances from the value."""
        self._check_metric(metric)
        place, value = self._place(row), self._at(row)[metric]
        if self.basis.exact:
            return Interval(value, value, value, True)
        if value is None:
            return Interval(None, None, None, False, "no_value")
        nothing = [None] * (len(self.rows) + 1)
        bounds, half = self.bounds.get(metric, nothing)[place], self.half_widths.get(metric, nothing)[place]
        if bounds is not None:
            return Interval(value, *bounds, False)
        if half is None:
            return Interval(value, None, None, False, self.reasons.get(metric))
        low, high = value - half, value + half
        if metric in self.shares:
            low, high = max(0.0, low), min(1.0, high)
        return Interval(value, low, high, False)

    def change(self, metric: str, row: Mapping[str, Any] | int = 0) -> Change:
        """How a metric of a row compares with the other period. Raises `InvalidValue` without `compare=`."""
        self._check_metric(metric)
        if self.before is None:
            raise unknown_name("comparison", metric, ["compare='previous' in the query"])
        place = self._place(row)
        now, other = self._at(row)[metric], self.before[place]
        before = None if other is None else other[metric]
        if place in self.gap_rows or place in self.gaps_before:
            return Change(now, before, None, None, "gap")
        return change(now, before, rate=metric in self.rates)

    def _place(self, row: Mapping[str, Any] | int) -> int:
        """Where a row of this answer stands; the totals stand behind the last row. Raises `InvalidValue` for others."""
        if isinstance(row, int) and -len(self.rows) <= row < len(self.rows):
            return row % len(self.rows)
        known = len(self.rows) + (self.totals is not None)
        if isinstance(row, Row) and row.place < known and self._at(row.place) is row:
            return row.place
        raise InvalidValue(
            "that is not a row of this answer", remedy="Pass a row as it came, or its number.", code="bad-row"
        )

    def _at(self, row: Mapping[str, Any] | int) -> Row:
        place = row if isinstance(row, int) else self._place(row)
        if place == len(self.rows) and self.totals is not None:
            return self.totals
        return self.rows[place]

    def _check_metric(self, metric: str) -> None:
        if metric not in self.metrics:
            raise unknown_name("metric of this answer", metric, self.metrics)

    def to_dicts(self) -> list[dict[str, Any]]:
        """Plain dicts, one a row."""
        return [dict(row) for row in self.rows]

    def _by_column(self) -> dict[str, list[Any]]:
        return {name: [row[name] for row in self.rows] for name in self.columns}

    def _typed_columns(self) -> dict[str, list[Any]]:
        return {name: _of_one_type(values) for name, values in self._by_column().items()}

    def to_pandas(self) -> Any:
        """A pandas DataFrame. Raises `MissingExtra` without pandas."""
        try:
            import pandas
        except ImportError:
            raise MissingExtra("pandas", "pandas") from None
        return pandas.DataFrame(self._by_column(), columns=self.columns)

    def to_polars(self) -> Any:
        """A polars DataFrame; a column of several JSON types holds JSON texts. Raises `MissingExtra` without polars."""
        try:
            import polars
        except ImportError:
            raise MissingExtra("polars", "polars") from None
        return polars.DataFrame(self._typed_columns(), strict=False, infer_schema_length=None)

    def to_arrow(self) -> Any:
        """A pyarrow Table; a column of several JSON types holds JSON texts. Raises `MissingExtra` without pyarrow."""
        try:
            import pyarrow
        except ImportError:
            raise MissingExtra("pyarrow", "arrow") from None
        return pyarrow.table(self._typed_columns())

    def summary(self, most: int = 20) -> str:
        """The answer as a text table of at most `most` rows, with its range and basis."""
        head = [self.columns, *[[self.text(row, name) for name in self.columns] for row in self.rows[:most]]]
        if self.totals is not None:
            head.append(["total" if i == 0 else "" for i in range(len(self.dimensions))]
                        + [show(self.totals[name]) for name in self.metrics])  # fmt: skip
        widths = [max(len(line[i]) for line in head) for i in range(len(self.columns))]
        left = len(self.dimensions)
        lines = [
            "  ".join(
                cell.ljust(widths[i]) if i < left else cell.rjust(widths[i]) for i, cell in enumerate(line)
            ).rstrip()
            for line in head
        ]
        lines.insert(1, "  ".join("-" * width for width in widths))
        if len(self.rows) > most:
            lines.append(f"... {len(self.rows) - most:,} more rows")
        return "\n".join([*lines, f"{self.span()}; {self.basis}"])

    def text(self, row: Mapping[str, Any], name: str) -> str:
        """One cell for people: a time bucket as short as its grain allows, numbers with grouped digits."""
        value = row[name]
        if value is None and name in self.metrics and isinstance(row, Row) and row.place in self.gap_rows:
            return "gap"
        if not isinstance(value, datetime):
            return show(value)
        if name == "time:quarter":
            return f"{value.year}-Q{(value.month + 2) // 3}"
        form = _BUCKET_TEXT.get(name.removeprefix("time:"), "%Y-%m-%d %H:%M")
        offset = value.isoformat()[-6:] if "%H" in form and self.basis.timezone != "UTC" else ""
        return value.strftime(form) + offset

    def span(self) -> str:
        """The range in words: both ends in the query's zone, the second exclusive."""
        ends = [
            end.strftime("%Y-%m-%d %H:%M:%S").removesuffix(" 00:00:00") for end in (self.basis.start, self.basis.end)
        ]
        return f"{ends[0]} to {ends[1]} ({self.basis.timezone})"

    def __repr__(self) -> str:
        return self.summary()

    def _repr_html_(self) -> str:
        def cells(tag: str, values: Sequence[str]) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(value)}</{tag}>" for value in values) + "</tr>"

        body = "".join(cells("td", [self.text(row, name) for name in self.columns]) for row in self.rows[:50])
        head, foot = cells("th", self.columns), html.escape(f"{self.span()}; {self.basis}")
        return f"<table><thead>{head}</thead><tbody>{body}</tbody></table><p>{foot}</p>"


def _of_one_type(values: list[Any]) -> list[Any]:
    """The values of a column that can have one type only: numbers become floats where one of them is, or is beyond
    int64; texts, booleans, numbers and containers together become JSON texts."""
    kinds = {type(value) for value in values} - {type(None)}
    if kinds <= {int, float}:
        whole = float not in kinds and all(value is None or -(2**63) <= value < 2**63 for value in values)
        return values if whole else [None if value is None else float(value) for value in values]
    if len(kinds) == 1 and not kinds & {dict, list}:
        return values
    return [None if value is None else msgspec.json.encode(value).decode() for value in values]


def change(now: float | None, before: float | None, *, rate: bool = False) -> Change:
    """(now - before) / before, with the reason where that means nothing."""
    if now is None or before is None:
        return Change(now, before, None, None, "no_value" if now is None else "no_baseline")
    points = now - before if rate else None
    if before == 0:
        return Change(now, before, None, points, "no_baseline")
    return Change(now, before, (now - before) / before, points, None)


def finite(value: Any) -> Any:
    """The same; None for a number that is beyond what a double names: no store has an answer there."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def show(value: Any) -> str:
    """A value for people: grouped digits, three decimals, ISO times, `-` for null."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.3f}".rstrip("0").rstrip(".") if abs(value) >= 0.001 or value == 0 else f"{value:.3g}"
    if isinstance(value, datetime):
        return value.isoformat()
    return "".join(c if c.isprintable() else "?" for c in str(value))
