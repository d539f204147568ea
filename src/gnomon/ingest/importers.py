"""Files to candidate events: which format a file has, and every line of it as a candidate or a bad line, in chunks.

Refuses to know where a column goes and what a text means (`columns`), and whether an event is good (the gate).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from gnomon.errors import InvalidValue, unknown_name
from gnomon.ingest import accesslog, ndjson
from gnomon.ingest.columns import Candidate, Columns, Plan, candidates
from gnomon.ingest.delimited import csv_rows, looks_delimited
from gnomon.ingest.lines import BadLine, LineFault, Source, bad_line, lines
from gnomon.ingest.parquet import ParquetBatches
from gnomon.ingest.tables import UNUSUAL, Cells, RowCells, Table, table_of

__all__ = ["BadLine", "Candidate", "Progress", "Table", "detect_format", "read_file"]

_CHUNK_BYTES = 16 << 20  # a chunk of long lines ends early, so that memory does not hang on their length
_MOST_AT_ONCE = 8 << 20  # bytes of a chunk that goes by columns, which takes more memory than row by row
_SUFFIXES = {
    **dict.fromkeys((".csv", ".tsv"), "csv"),
    **dict.fromkeys((".ndjson", ".jsonl"), "ndjson"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
}


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a file was read, in bytes as stored (of the compressed file) and in lines."""

    bytes_done: int
    bytes_total: int
    lines: int


Item = Candidate | BadLine
Chunk = list[Item] | Table
T = TypeVar("T")


def detect_format(path: Path) -> str:
    """The format by the file's name, else by its first lines; "combined", "csv", "ndjson" or "parquet"."""
    by_name = _SUFFIXES.get(Path(path.name.lower().removesuffix(".gz")).suffix)
    with closing(Source(path)) as source:
        head = source.read()
    found = by_name or _format_of(head)
    if found is None:
        remedy = f"Name it with format= (or --format): {', '.join(_CHUNKS)}."
        raise InvalidValue("neither name nor content of the file tell its format", code="unknown-format", remedy=remedy)
    return found


def _format_of(head: bytes) -> str | None:
    if head.startswith(b"PAR1"):
        return "parquet"
    text = head.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
    first = [line.rstrip("\r") for line in text.split("\n", 50)[:50] if line.strip()]
    if first and first[0].startswith("{"):
        return "ndjson"
    if any(accesslog.LOG_LINE.match(line) for line in first[:5]):
        return "combined"
    if len(first) < 2 or "\0" in text or first[0].lstrip()[:1] in ("[", "<"):
        return None
    return "csv" if looks_delimited(first[0], first[1]) else None


def _log_chunks(source: Source, plan: Plan, chunk: int) -> Iterator[Chunk]:
    filled = (line for line in lines(source) if line[2] or not accesslog.is_blank(line[1]))
    for part, size in _cut(filled, source, chunk):
        yield _at_once(partial(accesslog.table, part, plan), size) or list(accesslog.items(part, plan))


def _ndjson_chunks(source: Source, plan: Plan, chunk: int) -> Iterator[Chunk]:
    shapes = ndjson.Shapes(plan)
    filled = (line for line in lines(source) if line[2] or not (not line[1] or line[1].isspace()))
    for part, size in _cut(filled, source, chunk):
        yield _at_once(partial(ndjson.table, part, shapes), size) or list(ndjson.items(part, shapes))


def _csv_chunks(source: Source, plan: Plan, chunk: int) -> Iterator[Chunk]:
    rows = csv_rows(source)
    header = next(rows, None)
    if isinstance(header, tuple):
        columns = Columns([name.strip() for name in header[1]], plan)
        for part, size in _cut(rows, source, chunk):
            yield _table_or_items(RowCells(part), columns, size)
    elif isinstance(header, BadLine) and header.code == "truncated-file":
        yield [header]
    elif header is not None:
        remedy = "Correct the first line, or name the true format with format=."
        raise InvalidValue(f"the header cannot be read: {header.reason}", code=header.code, remedy=remedy)


def _parquet_chunks(source: ParquetBatches, plan: Plan) -> Iterator[Chunk]:
    if source.damaged:
        plan.columns.clear()
    header = Columns(source.header, plan)
    for cells in source:
        if isinstance(cells, BadLine):
            yield [cells]
            continue
        try:
            ready = _table_or_items(cells, header, cells.size)
        except source.faults:
            yield [source.broken_at(cells.lines[0])]
            return
        yield ready


def _table_or_items(cells: Cells, header: Columns, size: int) -> Chunk:
    return _at_once(partial(table_of, cells, header), size) or list(candidates(cells.rows(), header))


def _at_once(table: Callable[[], Table], size: int) -> Table | None:
    """Rows by columns; None if there is anything unusual in them."""
    try:
        return table() if size <= _MOST_AT_ONCE else None
    except UNUSUAL:
        return None


_CHUNKS: dict[str, Callable[[Any, Plan, int], Iterator[Chunk]]] = {
    "combined": _log_chunks,
    "csv": _csv_chunks,
    "ndjson": _ndjson_chunks,
    "parquet": lambda source, plan, chunk: _parquet_chunks(source, plan),
}


def _cut(items: Iterable[T], source: Source, chunk: int) -> Iterator[tuple[list[T], int]]:
    """Chunks of what a file holds, each with the number of bytes that were read for it."""
    ready: list[T] = []
    before = 0
    for item in items:
        ready.append(item)
        if len(ready) >= chunk or source.unpacked - before > _CHUNK_BYTES:
            size, before = source.unpacked - before, source.unpacked
            yield ready, size
            ready = []
    if ready:
        yield ready, source.unpacked - before


def _chunks(path: Path, plan: Plan, chunk: int, tell: Callable[[Progress], None]) -> Iterator[Chunk]:
    source = ParquetBatches(path, chunk) if plan.kind == "parquet" else Source(path)
    told: Progress | None = None
    with closing(source), closing(plan.ids):
        for ready in _CHUNKS[plan.kind](source, plan, chunk):
            line = ready.last_line if isinstance(ready, Table) else ready[-1].line
            told = Progress(source.bytes_done, source.bytes_total, line)
            tell(told)
            yield ready
        last = Progress(source.bytes_done, source.bytes_total, told.lines if told else 0)
        if last != told:
            tell(last)


def read_file(
    path: Path,
    *,
    format: str | None = None,
    mapping: Mapping[str, str] | None = None,
    timezone: str | None = None,
    chunk: int = 5_000,
    on_progress: Callable[[Progress], None] | None = None,
    id_key: bytes = b"",
) -> Iterator[Chunk]:
    """The candidates and bad lines of a file, in its order, at most `chunk` at a time.

    `mapping` is column -> field, `properties.<key>` or "" (leave out), or field -> "=constant". `timezone` is the
    IANA zone of times that name none; without it they are bad lines. A wrong argument raises here, a header that does
    not fit the mapping when the first chunk is asked for. With `id_key` the derived ids are keyed digests.
    """
    path = Path(path)
    if chunk < 1:
        raise InvalidValue("chunk must be at least 1", remedy="Leave it out for 5,000.")
    with closing(Source(path)) as source:
        if not source.read():
            return iter([[bad_line(1, LineFault("truncated-file"), b"")]] if source.damaged else [])
    kind = format or detect_format(path)
    if kind not in _CHUNKS:
        raise unknown_name("format", kind, _CHUNKS)
    return _chunks(path, Plan(kind, mapping, timezone, id_key), chunk, on_progress or (lambda progress: None))
