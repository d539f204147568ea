"""How one slice of events gets from the store into a file: the fastest way that store and format have in common.

Texts made by the store, taken out of Arrow as one buffer; the same without pyarrow; Arrow columns; values of Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from importlib.util import find_spec
from typing import Any, Protocol

import msgspec

from gnomon.export import Column, ColumnKind, Form
from gnomon.export.cells import Instant
from gnomon.query.extract import Extract, Span
from gnomon.store import Columnar, Store


@dataclass(frozen=True)
class Source:
    """Where slices are asked for. Its methods may be called from several threads."""

    store: Store
    extract: Extract
    timeout: float
    kinds: Sequence[Column]

    def rows(self, statement: str) -> list[Any]:
        """Rows of Python values."""
        return self.store.ask([statement], self.timeout)[0].rows

    def columns(self, statement: str) -> Any:
        """A `pyarrow.Table`."""
        assert isinstance(self.store, Columnar)
        return self.store.columns(statement, self.timeout)


class Way(Protocol):
    """How rows get from the store into a file. `ask` may be called from several threads, `put` from one, in order."""

    def ask(self, form: Form, span: Span) -> Any:
        """What the store answers for a span."""

    def put(self, form: Form, answer: Any) -> tuple[int, bytes, str]:
        """How many rows that is, their bytes, and the last id where the span has a limit."""


class _Texts:
    """All rows of a span as one text, made by the store."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def ask(self, form: Form, span: Span) -> Any:
        assert form.word is not None
        return self.source.rows(self.source.extract.texts(form.word, form.separator, span, form.date_style))[0]

    def put(self, form: Form, answer: Any) -> tuple[int, bytes, str]:
        found, text, last, longest = answer
        return found, form.texts(found, (text or "").encode(), longest or 0), last


class _Lines(_Texts):
    """A text a row, made by the store and taken out of Arrow as one buffer: no Python object comes into being."""

    def ask(self, form: Form, span: Span) -> Any:
        if span.limit is not None:
            return super().ask(form, span)
        assert form.word is not None
        return self.source.columns(self.source.extract.lines(form.word, form.separator, span, form.date_style))

    def put(self, form: Form, answer: Any) -> tuple[int, bytes, str]:
        if isinstance(answer, tuple):
            return super().put(form, answer)
        longest = max(answer.column("longest").to_pylist(), default=0) if form.word == "xlsx" else 0
        data = _joined(answer.column("line"))
        return answer.num_rows, form.texts(answer.num_rows, data[: -len(form.separator)], longest), ""


class _Columns:
    """Arrow columns as they are."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def ask(self, form: Form, span: Span) -> Any:
        return self.source.columns(self.source.extract.columns(span))

    def put(self, form: Form, answer: Any) -> tuple[int, bytes, str]:
        found = answer.num_rows
        last = answer.column("last_key")[found - 1].as_py() if found else ""
        return found, form.table(answer.drop_columns(["last_key"])), last


class _Values:
    """Python values, for a store that can do nothing else."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def ask(self, form: Form, span: Span) -> Any:
        return self.source.rows(self.source.extract.columns(span))

    def put(self, form: Form, answer: Any) -> tuple[int, bytes, str]:
        kinds = [column.kind for column in self.source.kinds]
        data = form.values([[_read(v, kind) for v, kind in zip(row, kinds, strict=False)] for row in answer])
        return len(answer), data, answer[-1][-1] if answer else ""


def _joined(column: Any) -> memoryview:
    """The texts of an Arrow column, one behind the other: that is how Arrow keeps them."""
    parts = []
    if str(column.type) not in ("string", "large_string"):
        column = column.cast("string")
    for chunk in filter(len, column.chunks):
        _, offsets, data = chunk.buffers()
        at = memoryview(offsets).cast("q" if str(chunk.type).startswith("large") else "i")
        parts.append(memoryview(data)[at[chunk.offset] : at[chunk.offset + len(chunk)]])
    return memoryview(b"".join(parts))


def _read(value: Any, kind: ColumnKind) -> Any:
    if value is None:
        return None
    if kind == "json":
        return msgspec.json.decode(value)
    return Instant.combine(value.date(), value.time(), UTC) if kind == "time" else value


def way_of(source: Source, form: Form) -> Way:
    """The way for a format."""
    columnar = isinstance(source.store, Columnar)
    if form.word is not None and source.store.dialect.row_text is not None:
        return _Lines(source) if columnar and find_spec("pyarrow") is not None else _Texts(source)
    return _Columns(source) if form.word is None and columnar else _Values(source)
