"""Where exported rows come from: the raw events of a plan, span after span, or the pages of an answer."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import Any, Protocol

from gnomon.access import Note
from gnomon.catalog import Dimension
from gnomon.errors import InvalidValue, StoreUnavailable
from gnomon.event import Field
from gnomon.export import Column, ColumnKind, Form
from gnomon.export.slices import Source, Way, way_of
from gnomon.query.extract import MOST_ROWS, Extract, Span, spans
from gnomon.query.inquiry import Inquiry
from gnomon.query.plan import Plan
from gnomon.store import Store
from gnomon.timerange import DateRange, parse_moment

LABELS = {
    "id": "Event ID", "ts": "Time (UTC)", "received_at": "Received (UTC)", "type": "Type", "user_id": "User",
    "device_id": "Device", "session_id": "Session", "source": "Source", "application": "Application",
    "domain": "Domain", "endpoint": "Endpoint", "method": "Method", "status_code": "Status", "success": "Success",
    "duration_ms": "Duration (ms)", "bytes_sent": "Bytes sent", "bytes_received": "Bytes received",
    "error_code": "Error", "weight": "Weight", "properties": "Properties", "project": "Project",
}  # fmt: skip


class Rows(Protocol):
    """Rows to export: how many there are (None: not known), how many were read, and what they rest on."""

    columns: list[Column]
    range: DateRange
    version: int  #: of the data
    sampled: bool
    total: int | None
    done: int

    def pieces(self, form: Form) -> Iterator[bytes]:
        """The rows as bytes of the file."""


class EventRows:
    """Raw events in the order of ts and id, of one data version.

    `after` is `(ts in UTC us, id)` of the event behind which to begin; `ahead` is how many slices are read ahead.
    """

    def __init__(self, plan: Plan, store: Store, fields: Sequence[Field], timeout: float,
                 after: tuple[int, str] | None = None, ahead: int = 0) -> None:  # fmt: skip
        self.columns = [Column(field.name, field.kind, LABELS[field.name]) for field in fields]
        self.range, self.version, self.sampled = plan.range, plan.version, plan.weighted
        self.total: int | None = None
        self.done = 0
        self._source = Source(store, Extract(plan, store.dialect, fields), timeout, self.columns)
        self._after = after
        self._expected, self._ahead = 0, ahead

    def pieces(self, form: Form) -> Iterator[bytes]:
        """See `Rows.pieces`. Raises `StoreUnavailable` (export-overtaken) when rows vanished meanwhile."""
        way = way_of(self._source, form)
        with closing(self._fetched(way, form)) as fetched:
            for span, answer in fetched:
                yield from self._bytes(way, form, span, answer)
        if self.done != self._expected:
            raise StoreUnavailable(
                "events were pruned, deleted or restored while they were exported", remedy="Export them again.",
                code="export-overtaken",
            )  # fmt: skip

    def _spans(self, form: Form) -> Iterator[Span]:
        for whole in self._wholes():
            yield from spans(
                self._source.extract, whole, form.word or "csv", self._source.rows, MOST_ROWS, self._expect
            )

    def _fetched(self, way: Way, form: Form) -> Generator[tuple[Span, Any], None, None]:
        """The spans with what the store answered, in order; some are asked ahead, as one keeps one core busy."""
        if not self._ahead:
            for span in self._spans(form):
                yield span, way.ask(form, span)
            return
        waiting: deque[tuple[Span, Future[Any]]] = deque()
        pool = ThreadPoolExecutor(self._ahead, "gnomon-export")
        try:
            for span in self._spans(form):
                waiting.append((span, pool.submit(way.ask, form, span)))
                if len(waiting) > self._ahead:
                    first, answer = waiting.popleft()
                    yield first, answer.result()
            while waiting:
                first, answer = waiting.popleft()
                yield first, answer.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _wholes(self) -> Iterator[Span]:
        start, end = self.range.start_us, self.range.end_us
        if self._after is not None and self._after[0] >= start:
            at, behind = self._after
            if at < end:
                yield Span(at, at + 1, behind)
            start = at + 1
        if start < end:
            yield Span(start, end)

    def _expect(self, rows: int) -> None:
        self._expected += rows
        self.total = self._expected

    def _bytes(self, way: Way, form: Form, span: Span, answer: Any) -> Iterator[bytes]:
        while True:
            found, data, last = way.put(form, answer)
            self.done += found
            yield data
            if span.limit is None or found < span.limit:
                return
            span = replace(span, behind=last)
            answer = way.ask(form, span)


class AnswerRows:
    """Every page of an answer, from the plan of its first. `limit` of the query is the number of rows in all."""

    def __init__(self, plan: Plan, store: Store, inquiry: Inquiry) -> None:
        query = plan.query
        if query.compare is not None or query.totals:
            raise InvalidValue("an export holds rows only: no comparison, no totals", code="bad-query",
                               remedy="Export the other period too, and totals without dimensions.")  # fmt: skip
        self._query, self._store, self._inquiry = replace(query, date_range=plan.range), store, inquiry
        kinds = {dimension.name: _kind_of(dimension) for dimension in query.dimensions}
        kinds |= dict.fromkeys((metric.name for metric in query.metrics), "number")
        self.columns = [Column(name, kind, _label(name)) for name, kind in kinds.items()]
        self.range, self.version, self.sampled = plan.range, plan.version, plan.weighted
        self.total: int | None = None
        self.done = 0

    def pieces(self, form: Form) -> Iterator[bytes]:
        """See `Rows.pieces`."""
        after, most = self._query.after, self._query.limit
        while True:
            page = self._inquiry.answer(replace(self._query, after=after), self._store, Note("export"))
            rows = page.rows if most is None else page.rows[: most - self.done]
            self.done += len(rows)
            yield form.values([tuple(row.values()) for row in rows])
            if page.next is None or self.done == most:
                self.total = self.done
                return
            after = page.next


def _kind_of(dimension: Dimension) -> ColumnKind:
    return "number" if dimension.grain in ("hour_of_day", "day_of_week") else dimension.kind


def _label(name: str) -> str:
    """`success_rate` as `Success rate`; a name that a caller chose stays as it is."""
    if name in LABELS:
        return LABELS[name].removesuffix(" (UTC)")
    words = name.removeprefix("time:").removeprefix("properties.").replace("_", " ")
    return words[:1].upper() + words[1:]


def position(given: Any) -> tuple[int, str]:
    """A pair of time and id, as the last exported event had them. Raises `InvalidValue` (bad-cursor)."""
    if isinstance(given, Mapping):
        given = (given.get("ts"), given.get("id"))
    if isinstance(given, str):
        given = tuple(given.split(",", 1))
    if not isinstance(given, list | tuple) or len(given) != 2 or not all(given) or not isinstance(given[1], str):
        raise InvalidValue(
            "after takes the time and id of the last event", remedy='For example ["2025-01-31T13:45:00Z", "e17"].',
            code="bad-cursor",
        )  # fmt: skip
    return parse_moment(given[0]), given[1]
