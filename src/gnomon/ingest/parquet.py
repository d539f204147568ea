"""Parquet files to rows of Python values, a batch at a time."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from gnomon.errors import MissingExtra
from gnomon.ingest.lines import BadLine, LineFault, Source, bad_line

UNREADABLE = object()  # stands for a value that Python cannot hold, such as the year 10000


class ParquetRows:
    """Column names, and rows as tuples of Python values, read a batch at a time with pyarrow (extra `arrow`)."""

    unpacked = 0  # rows come in batches, so no count of bytes is needed to bound a chunk

    def __init__(self, path: Path, batch: int) -> None:
        try:
            self._arrow = importlib.import_module("pyarrow")
            parquet = importlib.import_module("pyarrow.parquet")
        except ImportError as error:
            raise MissingExtra("pyarrow", "arrow") from error
        self._batch = batch
        self._source = Source(path)
        self._file = cast(Any, None)
        self._unpacked: IO[bytes] | None = None
        self.bytes_total = self._source.bytes_total
        self.rows_read = 0
        self.damaged = not self._open(parquet)
        self.header: list[str] = list(self._file.schema_arrow.names) if self._file is not None else []

    def _open(self, parquet: Any) -> bool:
        if self._source.packed:  # Parquet is read from its end, which gzip cannot do
            self._unpacked = tempfile.TemporaryFile()  # noqa: SIM115, closed with the reader
            while block := self._source.read():
                self._unpacked.write(block)
        try:
            self._file = parquet.ParquetFile(self._unpacked or self._source.stream)
        except (OSError, ValueError, self._arrow.ArrowException):
            return False
        return True

    @property
    def bytes_done(self) -> int:
        rows = self._file.metadata.num_rows if self._file is not None else 0
        return self.bytes_total * self.rows_read // rows if rows else self.bytes_total

    def __iter__(self) -> Iterator[tuple[int, tuple[Any, ...]] | BadLine]:
        try:
            if not self.damaged:
                for batch in self._file.iter_batches(batch_size=self._batch):
                    for values in zip(*map(self._values, batch.columns), strict=True):
                        self.rows_read += 1
                        yield self.rows_read, values
        except (OSError, ValueError, self._arrow.ArrowException):
            self.damaged = True
        if self.damaged:
            yield bad_line(self.rows_read + 1, LineFault("truncated-file"), b"")

    def _values(self, column: Any) -> list[Any]:
        kind = column.type
        if self._arrow.types.is_timestamp(kind):  # a datetime holds microseconds, no finer
            column = column.cast(self._arrow.timestamp("us", kind.tz), safe=False)
        try:
            values: list[Any] = column.to_pylist()
        except (ValueError, OverflowError):
            values = [_python_value(scalar) for scalar in column]
        return values

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._unpacked is not None:
            self._unpacked.close()
        self._source.close()


def _python_value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except (ValueError, OverflowError):
        return UNREADABLE
