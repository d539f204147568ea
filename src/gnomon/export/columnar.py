"""Parquet and Arrow (IPC stream), by pyarrow. Times are UTC microseconds, properties a column of JSON texts."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from gnomon.export import Column
from gnomon.export.cells import json_text, plain


class _Columns:
    """What both have: a schema, and a sink from which the bytes are taken after each piece."""

    word = None
    separator = ""
    date_style = 0

    def __init__(self) -> None:
        self._sink = _Sink()
        self._columns: Sequence[Column] = ()
        self._writer: Any = None
        self._schema: Any = None

    def begin(self, columns: Sequence[Column]) -> bytes:
        """See `Form.begin`. The file begins with the first rows, which say what `number` columns are."""
        self._columns = columns
        return b""

    def texts(self, rows: int, data: bytes | memoryview, longest: int) -> bytes:
        """See `Form.texts`; never called, as there is no `word`."""
        raise NotImplementedError

    def values(self, rows: Sequence[Sequence[Any]]) -> bytes:
        """See `Form.values`."""
        import pyarrow

        schema = self._open(rows)
        columns = zip(*rows, strict=True) if rows else ((),) * len(self._columns)
        arrays = [
            pyarrow.array(_fitting(values, column.kind), field.type)
            for values, column, field in zip(columns, self._columns, schema, strict=True)
        ]
        self._writer.write_table(pyarrow.table(arrays, schema))
        return self._sink.taken()

    def table(self, table: Any) -> bytes:
        """See `Form.table`."""
        schema = self._open(())
        self._writer.write_table(table.cast(schema))
        return self._sink.taken()

    def end(self) -> bytes:
        """See `Form.end`."""
        self._open(())
        self._writer.close()
        return self._sink.taken()

    def abandon(self) -> None:
        """See `Form.abandon`."""
        if self._writer is not None:
            self._writer.close()
        self._sink.taken()

    def _open(self, rows: Iterable[Sequence[Any]]) -> Any:
        """The schema; the writer is made with the first rows."""
        if self._writer is None:
            self._schema = _schema(self._columns, list(rows))
            self._writer = self._make(self._schema)
        return self._schema

    def _make(self, schema: Any) -> Any:
        raise NotImplementedError


class Parquet(_Columns):
    """Compressed with zstd; a row group for each piece."""

    def _make(self, schema: Any) -> Any:
        from pyarrow import parquet

        return parquet.ParquetWriter(self._sink, schema, compression="zstd", store_schema=True)


class ArrowStream(_Columns):
    """The streaming format, which a reader can begin with before the end is there."""

    def _make(self, schema: Any) -> Any:
        from pyarrow import ipc

        return ipc.new_stream(self._sink, schema)


class _Sink(io.RawIOBase):
    """A file that only grows; what was written can be taken out."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []
        self._length = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        self._length += len(self._parts[-1])
        return len(self._parts[-1])

    def tell(self) -> int:
        return self._length

    def taken(self) -> bytes:
        """What was written since the last call."""
        found, self._parts = b"".join(self._parts), []
        return found


def _schema(columns: Sequence[Column], rows: Sequence[Sequence[Any]]) -> Any:
    import pyarrow

    kinds = {"text": pyarrow.string(), "json": pyarrow.string(), "boolean": pyarrow.bool_(), "real": pyarrow.float64(),
             "integer": pyarrow.int64(), "time": pyarrow.timestamp("us", "UTC")}  # fmt: skip

    def kind_of(place: int, column: Column) -> Any:
        if column.kind != "number":
            return kinds[column.kind]
        whole = all(isinstance(row[place], int) for row in rows if row[place] is not None)
        known = any(row[place] is not None for row in rows)
        return kinds["integer" if whole and known else "real"]

    return pyarrow.schema([(column.name, kind_of(i, column)) for i, column in enumerate(columns)])


def _fitting(values: Sequence[Any], kind: str) -> list[Any]:
    """Values as their column takes them: what is no text as JSON, times without a zone as UTC."""
    if kind == "json":
        return [value if value is None or isinstance(value, str) else json_text(value) for value in values]
    if kind == "time":
        return [value.replace(tzinfo=UTC) if isinstance(value, datetime) and value.tzinfo is None else value
                for value in values]  # fmt: skip
    if kind == "text":
        return [value if value is None or isinstance(value, str) else str(plain(value)) for value in values]
    return list(values)
