"""Rows of another store on their way into the embedded one, and its own on their way out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import duckdb

from gnomon.errors import GnomonError
from gnomon.store.carrying import TABLES, Carried, Row, listed

ROWS_AT_ONCE = 2_000  #: read or appended in one call, which keeps the interpreter for a few milliseconds
_EPOCH = datetime(1970, 1, 1)


class Moment:
    """See `gnomon.store.Reading`: a cursor that is in a transaction since then."""

    streams = True

    def __init__(self, cursor: duckdb.DuckDBPyConnection, noted: Callable[[duckdb.Error], GnomonError]) -> None:
        self._cursor, self._noted = cursor, noted

    def rows(self, statement: str) -> Iterator[list[Row]]:
        """See `Reading.rows`."""
        try:
            found = self._cursor.execute(statement)
            while part := found.fetchmany(ROWS_AT_ONCE):
                yield part
        except duckdb.Error as error:  # here, as it may be another store's transaction that it ends
            raise self._noted(error) from error


def append(connection: duckdb.DuckDBPyConnection, table: str, parts: Iterable[list[Row]]) -> None:
    """Put rows into a table, in its own types. An appender without rows would be a fill with none, see `filling`."""
    turned = _turned(TABLES[table])
    appender = None
    for part in parts:
        if part:
            appender = appender or connection.appender(table)
            appender.append_rows([turned(row) for row in part])
    if appender is not None:
        appender.flush()


def _turned(table: Carried) -> Callable[[Row], Row]:
    """What makes a row of this table of one that travels."""
    places = [(place, _TURNS[kind]) for place, kind in enumerate(table.columns.values()) if kind in _TURNS]

    def turn(row: Row) -> Row:
        values = list(row)
        for place, to in places:
            if values[place] is not None:
                values[place] = to(values[place])
        return tuple(values)

    return turn


def _moment(us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=us)


_TURNS: dict[str, Callable[[Any], Any]] = {"time": _moment, "decimal": Decimal, "integers": listed, "reals": listed}
