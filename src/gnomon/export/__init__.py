"""Results and raw events as files: the formats by name. Each is a class that turns rows into bytes, piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, Protocol, TypeAlias

from gnomon.errors import MissingExtra, unknown_name

ColumnKind: TypeAlias = Literal["text", "integer", "real", "boolean", "time", "json", "number"]


@dataclass(frozen=True)
class Column:
    """One column of a file. A `number` is an integer or a real, as its first value says."""

    name: str
    kind: ColumnKind
    label: str


class Form(Protocol):
    """Writes one file: `begin` once, then rows in one of three forms, `end` once. Each returns bytes of the file."""

    @property
    def word(self) -> str | None:
        """The form of rows that the store may make as texts; None: it wants columns."""

    @property
    def separator(self) -> str:
        """What stands between such rows."""

    @property
    def date_style(self) -> int:
        """The number of the time format, where the texts need one."""

    def begin(self, columns: Sequence[Column]) -> bytes:
        """What stands before the rows."""

    def texts(self, rows: int, data: bytes | memoryview, longest: int) -> bytes:
        """Rows as one UTF-8 text made by the store; `longest` is the length of the longest cell."""

    def values(self, rows: Sequence[Sequence[Any]]) -> bytes:
        """Rows of Python values."""

    def table(self, table: Any) -> bytes:
        """Rows as a `pyarrow.Table`."""

    def end(self) -> bytes:
        """What stands behind the rows."""

    def abandon(self) -> None:
        """Let go of a file that will not be ended; after `end` it does nothing."""


@dataclass(frozen=True)
class Format:
    """One row of the table of formats."""

    name: str
    media_type: str
    extra: tuple[str, str] | None  #: the package that it needs, and the extra that brings it
    make: Callable[[], Form]


def _csv() -> Form:
    from gnomon.export.text import Csv

    return Csv()


def _json() -> Form:
    from gnomon.export.text import Json

    return Json("[\n", ",\n", "\n]\n")


def _ndjson() -> Form:
    from gnomon.export.text import Json

    return Json("", "\n", "\n")


def _xlsx() -> Form:
    from gnomon.export.sheets import Sheets

    return Sheets()


def _parquet() -> Form:
    from gnomon.export.columnar import Parquet

    return Parquet()


def _arrow() -> Form:
    from gnomon.export.columnar import ArrowStream

    return ArrowStream()


FORMATS = {
    found.name: found
    for found in (
        Format("csv", "text/csv; charset=utf-8; header=present", None, _csv),
        Format("json", "application/json", None, _json),
        Format("ndjson", "application/x-ndjson", None, _ndjson),
        Format("parquet", "application/vnd.apache.parquet", ("pyarrow", "arrow"), _parquet),
        Format("arrow", "application/vnd.apache.arrow.stream", ("pyarrow", "arrow"), _arrow),
        Format("xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", ("xlsxwriter", "excel"),
               _xlsx),
    )
}  # fmt: skip
ALIASES = {"excel": "xlsx", "jsonl": "ndjson"}


def find_format(name: object) -> Format:
    """The format of that name. Raises `UnknownName`, and `MissingExtra` where its package is not installed."""
    found = FORMATS.get(ALIASES.get(name, name)) if isinstance(name, str) else None
    if found is None:
        raise unknown_name("format", name, FORMATS)
    if found.extra is not None and find_spec(found.extra[0]) is None:
        raise MissingExtra(*found.extra)
    return found
