"""The statements that read raw events in order, a span of time after the other, for exports.

A span is small enough for memory. Every statement sees one data version only, so that rows which come meanwhile are
in none of them; no statement and no snapshot stays open between two spans, however slowly the reader takes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlglot import exp

from gnomon.errors import InvalidValue, unknown_name
from gnomon.event import BY_NAME, ROW, Field, Kind
from gnomon.query.filters import FilterWords, column, literal
from gnomon.query.plan import Plan
from gnomon.store import Repeated
from gnomon.store.dialect import Dialect, quoted

#: What a span may hold at most, by a rough count of bytes; and the pieces that a stretch of time is looked at in.
MOST_ROWS, MOST_BYTES, PIECES = 50_000, 4 * 1024**2, 4_096
_PROJECT = Field("project", "text", required=True)
_WIDE = ("domain", "endpoint", "properties")
#: About what a field takes in a text of each form, besides what it holds; and as a column. Those of JSON take 21 and of
#: Excel 36, but the plan of their statement costs as much as thousands of rows, so that their slices are larger.
_FIELD_BYTES = {"csv": 9, "json": 14, "xlsx": 24}


def event_fields(names: Sequence[str] | None) -> tuple[Field, ...]:
    """The fields of those names, or all of the event row. Raises `UnknownName`, `InvalidValue` (bad-query)."""
    if names is None:
        return tuple(BY_NAME[name] for name in ROW)
    if isinstance(names, str) or not isinstance(names, list | tuple) or not names:
        raise InvalidValue("fields must be a list of at least one name", code="bad-query")
    known = {**BY_NAME, "project": _PROJECT}
    for name in names:
        if not isinstance(name, str) or name not in known:
            raise unknown_name("field", name, known)
    if len(set(names)) < len(names):
        raise InvalidValue("a field is given twice", remedy="Give each once.", code="bad-query")
    return tuple(known[name] for name in names)


@dataclass(frozen=True)
class Span:
    """Events of [start, end); with `behind` only those of a greater id, with `limit` the first so many by id."""

    start_us: int
    end_us: int
    behind: str | None = None
    limit: int | None = None


class Extract:
    """What a plan's raw events are, as statements. `words` are the fields as `(name, kind, expression)`."""

    def __init__(self, plan: Plan, dialect: Dialect, fields: Sequence[Field]) -> None:
        self.plan, self.dialect, self.fields = plan, dialect, fields
        self.words: list[tuple[str, Kind, str]] = [
            (field.name, field.kind, dialect.id_text if field.name == "id" else field.name) for field in fields
        ]
        parts = [f"project = {quoted(plan.project)}", f"version <= {plan.version}"]
        if plan.query.filters is not None:
            parts.append(self._sql(FilterWords(dialect).condition(plan.query.filters)))
        self._where = " AND ".join(parts)

    def counts(self, span: Span, width_us: int, form: str = "csv") -> str:
        """`(piece, rows, bytes)` of the pieces of a span, numbered from its start, in order; bytes are a rough sum."""
        since = exp.Paren(this=exp.Sub(this=self.dialect.epoch_us(column("ts")), expression=literal(span.start_us)))
        piece = self._sql(self.dialect.divided(since, width_us))
        wide = [f"coalesce(length({name}), 0)" for name, _, _ in self.words if name in _WIDE]
        size = " + ".join([str(_FIELD_BYTES[form] * len(self.words)), *wide])
        return (
            f"SELECT {piece}, count(*), CAST(sum({size}) AS BIGINT) FROM events "
            f"WHERE {self._of(span, *self._ends(span))} GROUP BY 1 ORDER BY 1"
        )

    def texts(self, form: str, separator: str, span: Span, date_style: int) -> Repeated:
        """One row: how many events, their texts in order, the last id, and the length of the longest text."""
        assert self.dialect.row_text is not None and self.dialect.longest is not None
        line = self.dialect.row_text(form, self.words, date_style, "")
        length = self.dialect.longest(self.words) if form == "xlsx" else "0"
        rows = (
            f"SELECT ts AS row_ts, {self.dialect.id_text} AS row_id, {line} AS line, {length} AS longest FROM events "
            f"WHERE {self._of(span)}{self._first(span)}"
        )
        text = f"string_agg(line, {quoted(separator)} ORDER BY row_ts, row_id)"
        return Repeated(f"SELECT count(*), {text}, max(row_id), max(longest) FROM ({rows}) AS r", self._ends(span))

    def lines(self, form: str, separator: str, span: Span, date_style: int) -> Repeated:
        """Their texts in order, each with the separator behind it, and the length of each one's longest text."""
        assert self.dialect.row_text is not None and self.dialect.longest is not None
        line = self.dialect.row_text(form, self.words, date_style, separator)
        length = self.dialect.longest(self.words) if form == "xlsx" else "0"
        return Repeated(
            f"SELECT {line} AS line, {length} AS longest FROM events "
            f"WHERE {self._of(span)} ORDER BY ts, {self.dialect.id_text}",
            self._ends(span),
        )

    def columns(self, span: Span) -> Repeated:
        """The events of a span in order, a column for each field and the id again behind them."""
        names = [f"{word} AS {name}" for name, _, word in self.words]
        key = self.dialect.id_text
        return Repeated(
            f"SELECT {', '.join(names)}, {key} AS last_key FROM events AS e WHERE {self._of(span)}"
            f"{self._first(span) or f' ORDER BY e.ts, {key}'}",
            self._ends(span),
        )

    def _ends(self, span: Span) -> tuple[str, str]:
        moment = self.dialect.moment
        return self._sql(moment(literal(span.start_us))), self._sql(moment(literal(span.end_us)))

    def _of(self, span: Span, start: str = "$1", end: str = "$2") -> str:
        parts = [self._where, f"ts >= {start}", f"ts < {end}"]
        if span.behind is not None:
            parts.append(f"{self.dialect.id_text} > {quoted(span.behind)}")
        return " AND ".join(parts)

    def _first(self, span: Span) -> str:
        return "" if span.limit is None else f" ORDER BY {self.dialect.id_text} LIMIT {span.limit}"

    def _sql(self, tree: Any) -> str:
        return str(tree.sql(dialect=self.dialect.sqlglot))


def spans(extract: Extract, span: Span, form: str, ask: Callable[[str], list[Any]], most: int = MOST_ROWS,
          on_total: Callable[[int], None] = lambda _: None) -> Iterator[Span]:  # fmt: skip
    """Cut a span so that each part fits into memory in its form; stretches without events are left out.

    `on_total` is told the number of events first. A single microsecond with more than fit comes as one span with a
    limit, to be asked again behind its last id until it yields fewer.
    """
    width = max(1, -(-(span.end_us - span.start_us) // PIECES))
    found = ask(extract.counts(span, width, form))
    on_total(sum(rows for _, rows, _ in found))
    first, last, many, size = 0, -1, 0, 0

    def cut() -> Span:
        start, end = span.start_us + first * width, min(span.end_us, span.start_us + (last + 1) * width)
        return Span(start, end, span.behind)

    for piece, rows, length in found:
        if many and (many + rows > most or size + length > MOST_BYTES):
            yield cut()
            many = size = 0
        if rows > most or (length > MOST_BYTES and rows > 1):
            start = span.start_us + piece * width
            inner = Span(start, min(span.end_us, start + width), span.behind)
            if width == 1:
                fit = min(most, max(1, rows * MOST_BYTES // max(length, 1)))
                yield Span(inner.start_us, inner.end_us, span.behind, fit)
            else:
                yield from spans(extract, inner, form, ask, most)
            continue
        first = piece if not many else first
        last, many, size = piece, many + rows, size + length
    if many:
        yield cut()
