"""Rows of another store on their way into PostgreSQL, and its own on their way out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import chain
from typing import Any

import psycopg

from gnomon.store.carrying import TABLES, Row, listed
from gnomon.store.postgres.address import Address
from gnomon.store.postgres.faults import translated
from gnomon.store.postgres.months import months_of
from gnomon.store.postgres.opening import Connection, begin
from gnomon.store.postgres.rows import EPOCH_US, copy_in
from gnomon.store.postgres.writing import NOTE_MONTHS, US_HOUR

ROWS_AT_ONCE = 5_000
_TYPES = {
    "text": "text", "uuid": "bytea", "time": "int8", "integer": "int8", "int4": "int4", "small": "int2",
    "real": "float8", "boolean": "bool", "decimal": "numeric", "integers": "int4[]", "reals": "float8[]",
}  # fmt: skip


class Moment:
    """See `gnomon.store.Reading`: a connection that is in a transaction since then."""

    streams = True

    def __init__(self, con: Connection, address: Address) -> None:
        self._con = con
        con.execute(begin(address, reading=True, milliseconds=0))
        # Between two slices the other store takes its time; all of a slice is wanted, not its first rows soon.
        con.execute("SET LOCAL idle_in_transaction_session_timeout = 0; SET LOCAL cursor_tuple_fraction = 1.0")
        con.execute("SELECT count(*) FROM state")  # the moment is that of the first statement

    def rows(self, statement: str) -> Iterator[list[Row]]:
        """See `Reading.rows`."""
        try:
            with self._con.cursor("carried", binary=True) as cursor:
                cursor.execute(statement)
                while part := cursor.fetchmany(ROWS_AT_ONCE):
                    yield part
        except psycopg.Error as error:  # here, as it may be another store's transaction that it ends
            raise translated(error, writing=True) from error


def append(con: Connection, table: str, parts: Iterable[list[Row]]) -> None:
    """Put rows into a table."""
    carried = TABLES[table]
    places = [(place, _TURNS[kind]) for place, kind in enumerate(carried.columns.values()) if kind in _TURNS]
    types = [_TYPES[kind] for kind in carried.columns.values()]
    rows = (_turned(row, places) for row in chain.from_iterable(parts))
    copy_in(con, f"{table} ({', '.join(carried.columns)})", types, rows)


def note_months(con: Connection, events: list[Row]) -> None:
    """Note in which months rows came in, and when the last of them, as storing them does."""
    at_ts, at_received = (list(TABLES["events"].columns).index(name) for name in ("ts", "received_at"))
    latest: dict[datetime, int] = {}
    for row in events:
        (month,) = months_of([row[at_ts]])
        latest[month] = max(latest.get(month, 0), row[at_received])
    for month, us in latest.items():
        hour = datetime(1970, 1, 1) + timedelta(microseconds=-(-us // US_HOUR) * US_HOUR)
        con.execute(NOTE_MONTHS, [month, hour])


def moments_of(events: list[Row]) -> list[int]:
    """When events were, for their months."""
    at_ts = list(TABLES["events"].columns).index("ts")
    return [row[at_ts] for row in events]


def _turned(row: Row, places: list[tuple[int, Callable[[Any], Any]]]) -> Row:
    values = list(row)
    for place, to in places:
        if values[place] is not None:
            values[place] = to(values[place])
    return tuple(values)


_TURNS: dict[str, Callable[[Any], Any]] = {
    "time": lambda us: us - EPOCH_US, "uuid": lambda text: bytes.fromhex(text.replace("-", "")), "decimal": Decimal,
    "integers": listed, "reals": listed,
}  # fmt: skip
