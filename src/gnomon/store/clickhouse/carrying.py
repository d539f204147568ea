"""Rows of another store on their way into ClickHouse, and its own on their way out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from typing import Any
from uuid import UUID

from gnomon.errors import StoreUnavailable
from gnomon.store.carrying import TABLES, Row
from gnomon.store.clickhouse.connecting import FAILED, Connection, Settings
from gnomon.store.clickhouse.faults import translated
from gnomon.store.clickhouse.rows import Columns
from gnomon.store.dialect_clickhouse import spoken

ROWS_AT_ONCE = 5_000
WHOLE_ROWS = 100_000  #: of an answer that is asked for in one statement; slices but for those of one key are smaller
PUT_ROWS = 50_000  #: each insert makes parts, which are merged later; rows of one key may be millions
#: Decimals as texts with all of their places, nulls as nulls.
AS_THEY_TRAVEL: dict[str, str | int | float] = {"cast_keep_nullable": 1, "output_format_decimal_trailing_zeros": 1}


class Moment:
    """See `gnomon.store.Reading`: what is committed at a moment, while upkeep waits."""

    streams = False

    def __init__(self, con: Connection, settings: Settings, moved: Callable[[], bool]) -> None:
        self._con, self._settings, self._moved = con, {**settings, **AS_THEY_TRAVEL}, moved

    def rows(self, statement: str) -> Iterator[list[Row]]:
        """See `Reading.rows`. An answer is there as a whole, so ask for slices; a long one, as of a slice with one key,
        is asked for in parts, told by a hash of each row (of a tuple: that of several values is null where one is).
        """
        text = spoken(statement)
        found = self._run(f"{text} LIMIT {WHOLE_ROWS + 1}")
        if len(found) <= WHOLE_ROWS:
            yield from _apart(found)
            return
        del found
        n = self._run(f"SELECT count() FROM ({text})")[0][0] * 2 // WHOLE_ROWS + 1
        for part in range(n):
            yield from _apart(self._run(f"SELECT * FROM ({text}) WHERE cityHash64(tuple(*)) % {n} = {part}"))

    def _run(self, text: str) -> list[Row]:
        try:
            found = self._con.run(text, self._settings).rows
            moved = self._moved()
        except FAILED as error:
            raise translated(error, writing=True) from error
        if moved:
            raise StoreUnavailable(
                "the store was changed while a moment of it was read", code="store-moved", remedy="Run it again."
            )
        return found


def _apart(rows: list[Row]) -> Iterator[list[Row]]:
    for start in range(0, len(rows), ROWS_AT_ONCE):
        yield rows[start : start + ROWS_AT_ONCE]


def gathered(parts: Iterable[list[Row]]) -> Iterator[list[Row]]:
    """The rows of parts, as many together as one insert takes."""
    found: list[Row] = []
    for part in parts:
        found += part
        if len(found) >= PUT_ROWS:
            yield found
            found = []
    if found:
        yield found


def columns_of(table: str, rows: list[Row]) -> Columns:
    """Rows as the columns of a table."""
    columns = TABLES[table].columns
    turned = dict(zip(columns, zip(*rows, strict=True), strict=True))
    return {
        name: [value or [] for value in values]
        if columns[name] in _LISTS
        else _turned(_TURNS.get(columns[name]), values)
        for name, values in turned.items()
    }


def _turned(to: Callable[[Any], Any] | None, values: tuple[Any, ...]) -> Any:
    return values if to is None else [None if value is None else to(value) for value in values]


_TURNS: dict[str, Callable[[Any], Any]] = {"uuid": UUID, "decimal": Decimal}
_LISTS = ("integers", "reals")
