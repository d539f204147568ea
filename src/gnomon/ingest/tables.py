"""Rows of a file as columns on their way to the gate: converted column by column, nearly all of it in C.

What comes out is what `Columns.fields` makes of each row, and only where it makes an event of every one. Everything
else raises one of `UNUSUAL`, which means «row by row», never «bad»: nothing is refused here, and no id was given then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, Protocol, cast
from zoneinfo import ZoneInfo

import msgspec

from gnomon.errors import InvalidValue
from gnomon.event import BY_NAME
from gnomon.ingest.calls import FROM_FIELDS, ONE, Column
from gnomon.ingest.columns import Candidate, Columns, Row, candidates
from gnomon.ingest.lines import BadLine, LineFault
from gnomon.ingest.occurrences import Occurrences, row_contents
from gnomon.ingest.wholesale import converted, moments, moments_of_walls, objects

UNUSUAL = (InvalidValue, LineFault, msgspec.MsgspecError, ValueError, TypeError, ArithmeticError, NotImplementedError,
           RecursionError)  # fmt: skip
#: Types whose values stay as they are in a field of each kind; NaN is nothing.
_SAME: dict[str, set[type]] = {"text": {str}, "integer": {int}, "real": {float}, "boolean": {bool}}
_SAME_IN_PROPERTIES: set[type] = {str, int, bool, float}
#: What ids are derived of, see `row_content`.
CONTENT = "content"
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

    __slots__ = ("_items", "_lines", "columns")

    def __init__(self, lines: Sequence[int], fields: dict[str, Column],
                 items: Callable[[Iterable[str]], Iterator[Candidate | BadLine]]) -> None:  # fmt: skip
        self._lines = lines
        self._items = items
        self.columns = [*map(fields.get, FROM_FIELDS)]

    def __len__(self) -> int:
        return len(self._lines)

    def __iter__(self) -> Iterator[Candidate | BadLine]:
        return self._items(self.columns[_ID] or ())

    @property
    def last_line(self) -> int:
        """The line of the last row."""
        return self._lines[-1]


def table_of(cells: Cells, header: Columns) -> Table:
    """Rows of one header. Raises one of `UNUSUAL`."""
    fields = with_ids(fields_of(cells, header), header.plan.ids)
    return Table(cells.lines, fields, lambda ids: candidates(cells.rows(), header, ids))


def with_ids(fields: dict[str, Column], ids: Occurrences) -> dict[str, Column]:
    """Fields with an id for each row, derived of its content where it has none. It must be the last that may fail."""
    contents = fields.pop(CONTENT, None)
    if contents is not None:
        derived = iter(ids.ids_of([content for content in contents if content is not None]))
        given = fields.get("id")
        fields["id"] = list(derived) if given is None else [next(derived) if one is None else one for one in given]
    return fields


def fields_of(cells: Cells, header: Columns) -> dict[str, Column]:
    """The fields of rows of one header, and the `CONTENT` of each if there is no id. Raises one of `UNUSUAL`."""
    count, plan = len(cells.lines), header.plan
    found: dict[str, Column] = {name: [value] * count for name, value in header.start.items()}
    for at, name, convert in header.targets:
        if name == "ts":
            found[name] = _moments(cells, at, plan.zone)
        elif name != "properties":
            same = _SAME[BY_NAME[name].kind]
            found[name] = cells.column(at) if plan.kind == "ndjson" else converted(cells.column(at), convert, same)
    if "ts" not in found or None in found["ts"] or None in found.get("id", ()):
        raise ValueError
    found["weight"] = [ONE if one is None else one for one in found.get("weight", [None] * count)]
    if properties := _properties(cells, header):
        found["properties"] = properties
    if "id" not in found:
        found[CONTENT] = row_contents(header.names, list(map(cells.content, range(len(header.names)))))
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
    plan, count = header.plan, len(cells.lines)
    found: Column | None = None
    for at, name, convert in header.targets:
        if name == "properties":
            found = objects(cells.column(at), convert)
            if plan.kind == "ndjson" and "" in cells.column(at):
                raise ValueError  # which is a text there, and no object
    if plan.properties:
        found = [{**given, **plan.properties} for given in found or [{}] * count]
    if not header.extras:
        return found
    extras = _extras(cells, header)
    if found is None:
        return extras
    both = [{**given, **extra} for given, extra in zip(found, extras, strict=True)]
    if sum(map(len, both)) < sum(map(len, found)) + sum(map(len, extras)):
        raise ValueError  # a property is given twice
    return both


def _extras(cells: Cells, header: Columns) -> list[dict[str, Any]]:
    keys = [key for _, key in header.extras]
    columns = [cells.column(at) for at, _ in header.extras]
    if header.plan.kind == "ndjson":
        return [dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)]
    same = _SAME_IN_PROPERTIES if header.plan.kind == "parquet" else set()
    rows = zip(*(converted(column, header.extra, same) for column in columns), strict=True)
    return [{key: value for key, value in zip(keys, row, strict=True) if value is not None} for row in rows]
