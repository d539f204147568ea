"""One query on its way from plan to result: statements, pages, filled buckets, comparison, totals."""

from __future__ import annotations

import base64
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any, TypeAlias
from zoneinfo import ZoneInfo

import msgspec

from gnomon.catalog import Dimension
from gnomon.errors import GnomonError, InvalidValue, RangeTooLarge
from gnomon.metrics import Count, Quantile
from gnomon.query import intervals
from gnomon.query.compile import compile_plan
from gnomon.query.gaps import seconds_of
from gnomon.query.pages import Cursor, sort_keys
from gnomon.query.plan import Facts, Plan, shifted
from gnomon.query.result import Basis, Bounds, Result, Row, finite
from gnomon.store import Store, Table
from gnomon.timerange import Grain, bucket_starts, from_us, period_number, period_start_us, to_us

#: Puts statements to the store, or to the answers kept from before; says whether it was those.
Ask: TypeAlias = Callable[[Store, list[str], int], tuple[list[Table], bool]]
#: The data version of the first page, its range, and the values of the last row in the order of the sort keys.
PageCursor: TypeAlias = tuple[int, tuple[int, int], tuple[Any, ...]]
_CursorValues = Annotated[list[str | int | float | bool | None], msgspec.Meta(min_length=1)]
#: Groups of the other period that a comparison looks through.
MOST_COMPARED = 200_000
_INFINITE = (math.inf, -math.inf)


class Answer:
    """One query on its way from plan to result."""

    def __init__(self, ask: Ask, store: Store, plan: Plan, facts: Facts, cursor: PageCursor | None, *,
                 pages: bool = True) -> None:  # fmt: skip
        """Without `pages` the first page is the whole answer, and none follows."""
        self.ask, self.store, self.plan, self.facts = ask, store, plan, facts
        self.query, self.cursor, self.pages = plan.query, cursor, pages
        self._made: list[str] = []
        self.gaps: set[Any] = set()  #: the buckets without collection and without events, as the store names them

    def result(self) -> Result:
        other = shifted(self.plan, self.facts) if self.query.compare is not None else None
        place = None if self.cursor is None else Cursor(self.cursor[2], self.cursor[0])
        statements = self._made or self._statements(other, place)
        tables, cached = self._asked(statements)
        raw = self._ordered(tables[0])
        pages = self.pages and len(raw) > self.plan.page
        if place is None and pages and self.store.data_version() != self.plan.version:
            # Something was stored meanwhile: ask for what the pages that follow will see.
            statements = self._statements(other, Cursor((), self.plan.version))
            tables, cached = self._asked(statements)
            raw = self._ordered(tables[0])
        page, more = raw[: self.plan.page], self.pages and len(raw) > self.plan.page
        found = Result(
            [d.name for d in self.query.dimensions], [m.name for m in self.query.metrics],
            self._rows(page), self._basis(cached),
            frozenset(m.name for m in self.query.metrics if m.is_rate),
            frozenset(m.name for m in self.query.metrics if m.is_share), sql=tuple(statements),
            uncollected=self.plan.uncollected,
        )  # fmt: skip
        if more:
            found.next = self._next(page[-1])
        if self.gaps:
            found.gap_rows = frozenset(place for place, values in enumerate(page) if values[0] in self.gaps)
        found.half_widths, found.bounds = self._half_widths(tables[0], page), self._bounds(tables[0], page)
        found.reasons = {
            m.name: intervals.TOO_FEW if m.name in found.bounds else intervals.reason_of(m.expression)
            for m in self.query.metrics if m.name not in found.half_widths
        }  # fmt: skip
        if other is not None:
            found.before, found.gaps_before = self._before(tables[1 + self.query.totals], other, page)
        if self.query.totals:
            self._add_totals(found, tables, other is not None)
        return found

    def _add_totals(self, found: Result, tables: list[Table], compared: bool) -> None:
        """The row over everything, with its interval and change behind those of the page's rows."""
        names, width = [m.name for m in self.query.metrics], len(self.query.metrics)
        row = tables[1].rows[0]
        found.totals = Row.of(names, self._named(row[:width]), len(found.rows))
        for name, halves in self._half_widths(tables[1], [row]).items():
            found.half_widths[name] += halves
        for name, bounds in self._bounds(tables[1], [row]).items():
            found.bounds[name] += bounds
        if compared and found.before is not None:
            found.before.append(Row.of(names, self._named(tables[-1].rows[0][:width]), 0))

    def statements(self) -> list[str]:
        """What will be asked for the first page of an answer that is not compared; made once."""
        self._made = self._statements(None, None)
        return self._made

    def _statements(self, other: Plan | None, place: Cursor | None) -> list[str]:
        statements = [compile_plan(self.plan, self.store.dialect, place)]
        if self.query.totals:
            statements.append(compile_plan(self.plan, self.store.dialect, place, totals=True))
        if other is not None:
            wide = replace(other, page=MOST_COMPARED, query=replace(other.query, order=()))
            statements.append(compile_plan(wide, self.store.dialect))
            if self.query.totals:
                statements.append(compile_plan(other, self.store.dialect, totals=True))
        return statements

    def _asked(self, statements: list[str]) -> tuple[list[Table], bool]:
        try:
            return self.ask(self.store, statements, self.plan.version)
        except GnomonError as error:
            if self.cursor is not None and error.code == "store-refused":  # its values are of other types
                raise InvalidValue("the page cursor belongs to another question", code="bad-cursor") from error
            raise

    def _next(self, last: Sequence[Any]) -> str:
        version = self.plan.version if self.cursor is None else self.cursor[0]
        if self.plan.buckets is not None:
            return _encode_cursor(self.plan, version, [_skip(self.cursor) + self.plan.page])
        count = len(self.query.dimensions)
        places = [int(name[1:]) + (0 if name[0] == "d" else count) for name, _ in sort_keys(self.plan)]
        # What is infinite is read again where the page begins, and stands for a number until then.
        ends = [math.copysign(sys.float_info.max, value) if value in _INFINITE else value
                for value in map(last.__getitem__, places)]  # fmt: skip
        return _encode_cursor(self.plan, version, ends)

    # -- rows ---------------------------------------------------------------------------------------------------

    def _rows(self, page: list[Sequence[Any]]) -> list[Row]:
        names = [*(d.name for d in self.query.dimensions), *(m.name for m in self.query.metrics)]
        shown = [(place, show) for place, show in enumerate(map(self._shown, self.query.dimensions)) if show]
        rows, count = [], len(self.query.dimensions)
        for place, values in enumerate(page):
            told = [*values[:count], *self._named(values[count : len(names)])]
            for at, show in shown:
                if told[at] is not None:
                    told[at] = show(told[at])
            rows.append(Row.of(names, told, place))
        return rows

    def _named(self, values: Sequence[Any]) -> list[Any]:
        """Metrics of a row, null where they are beyond a double; but counts, which are always there."""
        return [value if isinstance(metric.expression, Count) else finite(value)
                for metric, value in zip(self.query.metrics, values, strict=True)]  # fmt: skip

    def _shown(self, dimension: Dimension) -> Callable[[Any], Any] | None:
        """How values of a dimension are turned into what is shown; None where they stay as the store tells them."""
        if dimension.kind == "json":
            return msgspec.json.decode
        if dimension.column == "status_class":
            return "{}xx".format
        if dimension.grain is None or dimension.grain in ("hour_of_day", "day_of_week"):
            return None
        zone, grain = self.plan.range.zone, Grain(dimension.grain)
        return lambda number: from_us(period_start_us(grain, number, zone), zone)

    def _ordered(self, table: Table) -> list[Sequence[Any]]:
        """The rows in order. A series is filled to every bucket, ordered and cut here; anything else came so."""
        if self.plan.buckets is None:
            return list(table.rows)
        rows = self._filled(table)
        for place, descending in reversed(self.query.order):
            rows.sort(key=lambda row: _sort_key(row[place], descending))
        return rows[_skip(self.cursor) :]

    def _filled(self, table: Table) -> list[Sequence[Any]]:
        """Every bucket of the range: 0 for counts and sums where nothing happened, null for what has no value, and
        null throughout for a bucket that has not begun, and for one in which nobody was there to count."""
        assert self.plan.buckets is not None
        zone, grain = self.plan.range.zone, Grain(self.query.dimensions[0].grain or "")
        found = {period_start_us(grain, row[0], zone): row for row in table.rows}
        now = to_us(self.facts.now)
        empty = [_empty(m.expression, self.plan.weighted) for m in self.query.metrics]
        errors = [0.0 if name[0] == "e" else None for name in table.columns[1 + len(empty) :]]
        rows: list[Sequence[Any]] = []
        for start in self.plan.buckets:
            if start in found:
                rows.append(found[start])
            else:
                value = _bucket_value(grain, start, zone)
                if start in self.plan.gaps:
                    self.gaps.add(value)
                blank = [None] * len(empty) if start > now or start in self.plan.gaps else empty
                rows.append([value, *blank, *errors])
        return rows

    def _half_widths(self, table: Table, page: list[Sequence[Any]]) -> dict[str, list[float | None]]:
        found = {}
        for place, name in enumerate(table.columns):
            if name.startswith("e"):
                found[self.query.metrics[int(name[1:])].name] = [finite(row[place]) for row in page]
        return found

    def _bounds(self, table: Table, page: list[Sequence[Any]]) -> dict[str, list[Bounds | None]]:
        """Low and high of the intervals that have no half width; null where too little was kept to tell."""
        found: dict[str, list[Bounds | None]] = {}
        for low, name in enumerate(table.columns):
            if name.startswith("l"):
                high = table.columns.index(f"h{name[1:]}")
                ends = [None if row[low] is None else (row[low], row[high]) for row in page]
                found[self.query.metrics[int(name[1:])].name] = ends
        return found

    def _before(self, table: Table, other: Plan, page: list[Sequence[Any]]
                ) -> tuple[list[Row | None], frozenset[int]]:  # fmt: skip
        """For each row of the page, the row of the other period: the bucket at the same place, or the same values; and
        which of them are gaps."""
        if len(table.rows) > MOST_COMPARED:
            raise RangeTooLarge("the compared period has too many groups", remedy="Add a filter or fewer dimensions.")
        count = len(self.query.dimensions)
        shift = _Shift(self.plan, other)
        known = {tuple(row[:count]): row for row in table.rows}
        names = [m.name for m in self.query.metrics]
        empty = [_empty(m.expression, other.weighted) for m in self.query.metrics]
        gaps = _gap_values(other)
        missing = []
        found: list[Row | None] = []
        for place, row in enumerate(page):
            key = shift.key(row[:count])
            if key is None:
                found.append(None)
                continue
            match: Sequence[Any] = known.get(key) or (*key, *empty)
            if key not in known and key[:1] and key[0] in gaps:
                match = (*key, *[None] * len(empty))
                missing.append(place)
            found.append(Row.of(names, self._named(match[count : count + len(names)]), 0))
        return found, frozenset(missing)

    def _basis(self, cached: bool) -> Basis:
        percentiles = any(isinstance(metric.expression, Quantile) for metric in self.query.metrics)
        return Basis(self.plan.basis, not self.plan.weighted, self.plan.version, self.plan.range.start,
                     self.plan.range.end, str(self.plan.range.zone), self.plan.steps, cached,
                     0.01 if self.plan.rolled and percentiles else 0.0, seconds_of(self.plan.uncollected),
                     len(self.gaps))  # fmt: skip


class _Shift:
    """Maps the dimension values of one period to those of the other: time buckets by their place in the range."""

    def __init__(self, plan: Plan, other: Plan) -> None:
        self.maps: list[dict[Any, Any] | None] = []
        for dimension in plan.query.dimensions:
            if dimension.grain is None or dimension.grain in ("hour_of_day", "day_of_week"):
                self.maps.append(None)
                continue
            grain = Grain(dimension.grain)
            here = [_bucket_value(grain, start, plan.range.zone) for start in bucket_starts(plan.range, grain)]
            there = [_bucket_value(grain, start, other.range.zone) for start in bucket_starts(other.range, grain)]
            self.maps.append(dict(zip(here, there, strict=False)))

    def key(self, values: Sequence[Any]) -> tuple[Any, ...] | None:
        found = [value if known is None else known.get(value) for value, known in zip(values, self.maps, strict=True)]
        missing = any(known is not None and new is None for new, known in zip(found, self.maps, strict=True))
        return None if missing else tuple(found)


def _gap_values(plan: Plan) -> set[Any]:
    """The buckets of a plan in which nobody was there, as the store names buckets."""
    if not plan.gaps:
        return set()
    grain = Grain(plan.query.dimensions[0].grain or "")
    return {_bucket_value(grain, start, plan.range.zone) for start in plan.gaps}


def _bucket_value(grain: Grain, start: int, zone: ZoneInfo) -> int:
    return start if grain in (Grain.MINUTE, Grain.HOUR) else period_number(grain, start, zone)


def _empty(expression: Any, weighted: bool) -> Any:
    """The value of a metric over no events at all."""
    kind = type(expression).__name__
    if kind == "Count":
        return 0.0 if weighted else 0
    return 0 if kind in ("Sum", "Unique") else None


def _sort_key(value: Any, descending: bool) -> tuple[bool, Any]:
    if value is None:
        return (True, 0)
    return (False, -value if descending else value)


def _encode_cursor(plan: Plan, version: int, values: list[Any]) -> str:
    body = msgspec.json.encode([version, plan.range.start_us, plan.range.end_us, values])
    return base64.urlsafe_b64encode(body).decode().rstrip("=")


def decode_cursor(text: str) -> PageCursor:
    try:
        body = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        version, start, end, values = msgspec.json.decode(body, type=tuple[int, int, int, _CursorValues])
    except (ValueError, TypeError, msgspec.MsgspecError):
        raise InvalidValue(
            "the page cursor is not one of ours", remedy="Pass `next` of the page before, unchanged.", code="bad-cursor"
        ) from None
    return version, (start, end), tuple(values)


def _skip(cursor: PageCursor | None) -> int:
    if cursor is None:
        return 0
    place = cursor[2][0]
    if type(place) is not int or place < 0:
        raise InvalidValue("the page cursor belongs to another question", code="bad-cursor")
    return place
