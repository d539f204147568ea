"""Parquet files to rows or columns of Python values, a batch at a time."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, cast

from gnomon.errors import MissingExtra
from gnomon.ingest.lines import BadLine, LineFault, Source, bad_line

UNREADABLE = object()  # stands for a value that Python cannot hold, such as the year 10000


class ParquetCells:
    """The rows of one batch; a column becomes Python values when it is asked for."""

    def __init__(self, arrow: Any, batch: Any, before: int) -> None:
        self._arrow = arrow
        self._batch = batch
        self.size: int = batch.nbytes
        self.lines = range(before + 1, before + 1 + batch.num_rows)
        self._columns: dict[int, list[Any]] = {}

    def column(self, at: int) -> Sequence[Any]:
        """The values of a column, exactly."""
        if at not in self._columns:
            column = self._microseconds(self._batch.column(at))
            try:
                self._columns[at] = column.to_pylist()
            except (ValueError, OverflowError):
                self._columns[at] = [_python_value(scalar) for scalar in column]
        return self._columns[at]

    def rows(self) -> Iterable[tuple[int, Sequence[Any]]]:
        """The rows one by one."""
        return zip(self.lines, zip(*map(self.column, range(self._batch.num_columns)), strict=True), strict=True)

    def times(self, at: int) -> tuple[Sequence[Any], bool] | None:
        """A column of Arrow times as microseconds, and whether they are of UTC; None for any other column."""
        column = self._batch.column(at)
        if not self._arrow.types.is_timestamp(column.type):
            return None
        return self._microseconds(column).cast(self._arrow.int64()).to_pylist(), column.type.tz is not None

    def content(self, at: int) -> Sequence[Any]:
        """The values of a column, or what `row_content` makes of them where that is known sooner."""
        column = self._microseconds(self._batch.column(at))
        if self._arrow.types.is_timestamp(column.type) and column.type.tz in (None, "UTC") and not column.null_count:
            walls = column.cast(self._arrow.int64()).cast(self._arrow.timestamp("us"))
            texts = walls.cast(self._arrow.string()).to_pylist()
            if set(map(len, texts)) == {len("2025-01-01 00:00:00.000000")} and min(texts) > "0001":
                end = '"' if column.type.tz is None else '+00:00"'
                text = "\n".join(texts).replace(" ", "T").replace(".000000", "").replace("\n", f'{end}\n"')
                return f'"{text}{end}'.split("\n")
        return self.column(at)

    def _microseconds(self, column: Any) -> Any:
        kind = column.type
        if self._arrow.types.is_timestamp(kind):  # a datetime holds microseconds, no finer
            return column.cast(self._arrow.timestamp("us", kind.tz), safe=False)
        return column


class ParquetBatches:
    """Column names, and rows in batches, read with pyarrow (extra `arrow`)."""

    unpacked = 0  # rows come in batches, so no count of bytes is needed to bound a chunk

    def __init__(self, path: Path, batch: int) -> None:
        try:
            self._arrow = importlib.import_module("pyarrow")
            parquet = importlib.import_module("pyarrow.parquet")
        except ImportError as error:
            raise MissingExtra("pyarrow", "arrow") from error
        self.faults = (OSError, ValueError, self._arrow.ArrowException)  #: what a damaged file raises
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
        except self.faults:
            return False
        return True

    @property
    def bytes_done(self) -> int:
        rows = self._file.metadata.num_rows if self._file is not None else 0
        return self.bytes_total * self.rows_read // rows if rows else self.bytes_total

    def __iter__(self) -> Iterator[ParquetCells | BadLine]:
        try:
            if not self.damaged:
                for batch in filter(len, self._file.iter_batches(batch_size=self._batch)):
                    before, self.rows_read = self.rows_read, self.rows_read + batch.num_rows
                    yield ParquetCells(self._arrow, batch, before)
        except self.faults:
            self.damaged = True
        if self.damaged:
            yield self.broken_at(self.rows_read + 1)

    def broken_at(self, line: int) -> BadLine:
        """A file that cannot be read from a line on."""
        self.rows_read = line - 1
        return bad_line(line, LineFault("truncated-file"), b"")

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
