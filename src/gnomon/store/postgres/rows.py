"""Rows as PostgreSQL's binary COPY takes them: moments as microseconds since 2000, an id as the bytes of a UUID."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gnomon.event import FIELDS, SAMPLE_ROW, Row
from gnomon.store.incoming import key_of
from gnomon.store.postgres.opening import Connection

EPOCH_US = 946_684_800_000_000  #: PostgreSQL counts its moments from 2000-01-01

_REST = [field for field in FIELDS if field.name not in ("id", "ts", "received_at")]
_KINDS = {"text": "text", "json": "text", "integer": "int8", "real": "float8", "boolean": "bool"}
_SQL = {"text": 'text COLLATE "C"', "int8": "bigint", "int2": "smallint", "float8": "double precision",
        "bool": "boolean"}  # fmt: skip
_REST_TYPES = ["int2" if field.name == "status_code" else _KINDS[field.kind] for field in _REST]

#: As the column of the event table, but for `n`, the number of a row, and `doubt`: 0 an id that is new, 1 one that may
#: be there with the same moment, 2 one that may be there with another.
STAGING = f"""CREATE TEMP TABLE IF NOT EXISTS staging (
  n integer, doubt smallint, project text COLLATE "C", id uuid, id_text text COLLATE "C", ts timestamp,
  received_at timestamp, {", ".join(f"{f.name} {_SQL[t]}" for f, t in zip(_REST, _REST_TYPES, strict=True))}
) ON COMMIT DELETE ROWS"""
#: `doubtful`: it may be there already, although it has no id.
SAMPLE_STAGING = """CREATE TEMP TABLE IF NOT EXISTS sample_staging (
  n integer, project text COLLATE "C", doubtful boolean, ts timestamp, received_at timestamp, name text COLLATE "C",
  kind text COLLATE "C", value double precision, labels text COLLATE "C", id text COLLATE "C") ON COMMIT DELETE ROWS"""
assert SAMPLE_ROW == ("ts", "received_at", "name", "kind", "value", "labels", "id")

COLUMNS = ", ".join(["project", "id", "id_text", "ts", "received_at", *(field.name for field in _REST)])
_STAGED = ["int4", "int2", "text", "bytea", "text", "int8", "int8", *_REST_TYPES]
_SAMPLED = ["int4", "text", "bool", "int8", "int8", "text", "text", "float8", "text", "text"]


def stage(con: Connection, rows: Iterable[tuple[int, int, str, Row]]) -> None:
    """Bring rows `(n, doubt, project, row)` into `staging`."""
    with con.cursor().copy("COPY pg_temp.staging FROM STDIN (FORMAT BINARY)") as copy:
        copy.set_types(_STAGED)
        for n, doubt, project, (id_, ts, received_at, *rest) in rows:
            key, text = key_of(id_)
            copy.write_row((n, doubt, project, key, text, ts - EPOCH_US, received_at - EPOCH_US, *rest))


def stage_samples(con: Connection, samples: Iterable[tuple[int, str, bool, Row]]) -> None:
    """Bring samples `(n, project, doubtful, sample)` into `sample_staging`."""
    with con.cursor().copy("COPY pg_temp.sample_staging FROM STDIN (FORMAT BINARY)") as copy:
        copy.set_types(_SAMPLED)
        for n, project, doubtful, (ts, received_at, *rest) in samples:
            copy.write_row((n, project, doubtful, ts - EPOCH_US, received_at - EPOCH_US, *rest))


def copy_in(con: Connection, table: str, types: list[str], rows: Iterable[tuple[Any, ...]]) -> None:
    """Bring rows into a table, `table` with its columns; moments as `int8` since 2000."""
    with con.cursor().copy(f"COPY {table} FROM STDIN (FORMAT BINARY)") as copy:
        copy.set_types(types)
        for row in rows:
            copy.write_row(row)
