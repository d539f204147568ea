"""Rows of a file as columns on their way to the gate: converted column by column, nearly all of it in C.

What comes out is what `Columns.fields` makes of each row, and only where it makes an event of every one. Everything
else raises one of `UNUSUAL`, which means «row by row», never «bad»: nothing is refused here, and no id was given then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, Protocol, cast
from zoneinfo import ZoneInfo

import msgspec

from gnomon.event import BY_NAME
from gnomon.ingest.calls import FROM_FIELDS, ONE, Column
from gnomon.ingest.columns import Candidate, Columns, Row, candidates
from gnomon.ingest.lines import BadLine, LineFault
from gnomon.ingest.occurrences import row_contents
from gnomon.ingest.wholesale import converted, moments, moments_of_walls, objects

UNUSUAL = (LineFault, msgspec.MsgspecError, ValueError, TypeError, ArithmeticError, NotImplementedError, RecursionError)
#: Types whose values stay as they are in a field of each kind; NaN is nothing.
_SAME: dict[str, set[type]] = {"text": {str}, "integer": {int}, "real": {float}, "boolean": {bool}}
_SAME_IN_PROPERTIES: set[type] = {str, int, bool, float}
_ID = FROM_FIELDS.index("id")
_YEAR_9999 = 253_370_764_800_000_000  # in microseconds


class Cells(Protocol):
    """Rows of one header, by columns as well."""

    @property
    def lines(self) -> Sequence[int]:
        """Which line of the file each row is."""

    def column(self, at: int) -> Sequence[Any]:
        """The values of a column."""

    def content(self, at: int) -> Sequence[Any]:
        """The values of a column, or what `row_content` makes of them."""

    def rows(self) -> Iterable[Row | BadLine]:
        """The rows one by one, with what could not be read as one."""

    def times(self, at: int) -> tuple[Sequence[Any], bool] | None:
        """A column of the type of times as microseconds, and whether of UTC; None for columns of other types."""


class RowCells:
    """Rows that were read one by one."""

    def __init__(self, rows: Sequence[Row | BadLine]) -> None:
        self._rows = rows
        self._columns: list[Column] = []

    @cached_property
    def lines(self) -> Sequence[int]:
        """Which line of the file each row is. Raises TypeError where one could not be read."""
        return [line for line, _ in cast(list[Row], self._rows)]

    def column(self, at: int) -> Sequence[Any]:
        """The values of a column. Raises TypeError where a row could not be read."""
        if not self._columns:
            self._columns = list(zip(*(values for _, values in cast(list[Row], self._rows)), strict=True))
        return self._columns[at]

    content = column

    def rows(self) -> Iterable[Row | BadLine]:
        """The rows as they came."""
        return self._rows

    def times(self, at: int) -> None:
        """No type of times is known here."""


class Table:
    """A chunk in which nothing is unusual so far, as columns in the order of `FROM_FIELDS`; each event has an id.

    Iterated it is the same chunk row by row, with the same ids, for the gate to say what is wrong with it.
    """

    __slots__ = ("_cells", "_header", "columns")

    def __init__(self, cells: Cells, header: Columns) -> None:
        self._cells = cells
        self._header = header
        self.columns = [*map(_fields(cells, header).get, FROM_FIELDS)]

    def __len__(self) -> int:
        return len(self._cells.lines)

    @property
    def last_line(self) -> int:
        """The line of the last row."""
        return self._cells.lines[-1]

    def __iter__(self) -> Iterator[Candidate | BadLine]:
        ids = self.columns[_ID] or ()
        return candidates(self._cells.rows(), self._header, ids)


def _fields(cells: Cells, header: Columns) -> dict[str, Column]:
    count, plan = len(cells.lines), header.plan
    found: dict[str, Column] = {name: [value] * count for name, value in header.start.items()}
    for at, name, convert in header.targets:
        if name == "ts":
            found[name] = _moments(cells, at, plan.zone)
        elif name != "properties":
            found[name] = converted(cells.column(at), convert, _SAME[BY_NAME[name].kind])
    if "ts" not in found or None in found["ts"] or None in found.get("id", ()):
        raise ValueError
    found["weight"] = [ONE if one is None else one for one in found.get("weight", [None] * count)]
    if properties := _properties(cells, header):
        found["properties"] = properties
    if "id" not in found:
        columns = list(map(cells.content, range(len(header.names))))
        found["id"] = plan.ids.ids_of(row_contents(header.names, columns))
    return found


def _moments(cells: Cells, at: int, zone: ZoneInfo | None) -> Column:
    if (known := cells.times(at)) is None:
        return moments(cells.column(at), zone)
    walls, of_utc = known
    if not 0 <= min(walls) <= max(walls) < _YEAR_9999:
        raise ValueError
    return walls if of_utc else moments_of_walls(walls, zone)


def _properties(cells: Cells, header: Columns) -> Column | None:
    """The properties of each row, in the order in which a row brings them; None where none has any."""
    constant, count = header.plan.properties, len(cells.lines)
    found: Column | None = None
    for at, name, convert in header.targets:
        if name == "properties":
            found = objects(cells.column(at), convert)
    if constant:
        found = [{**given, **constant} for given in found or [{}] * count]
    if not header.extras:
        return found
    keys = [key for _, key in header.extras]
    same = _SAME_IN_PROPERTIES if header.plan.kind == "parquet" else set()
    columns = [converted(cells.column(at), header.extra, same) for at, _ in header.extras]
    rows = zip(*columns, strict=True)
    extras = [{key: value for key, value in zip(keys, row, strict=True) if value is not None} for row in rows]
    if found is None:
        return extras
    both = [{**given, **extra} for given, extra in zip(found, extras, strict=True)]
    if sum(map(len, both)) < sum(map(len, found)) + sum(map(len, extras)):
        raise ValueError  # a property is given twice
    return both
