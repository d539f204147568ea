"""Damaged parts of an embedded store: what can be read of them is carried over, the rest is set aside, never deleted.

A mark beside the store says that damage was seen. The next opening looks at every block, and takes the mark away once
what the journal still holds was put back as well. On a server that is for whoever runs it: others use its parts.
"""

from __future__ import annotations

import logging
import shutil
import time
from contextlib import suppress
from pathlib import Path

from gnomon.store import SUSPECT
from gnomon.store.clickhouse.connecting import FAILED, Connection, Settings
from gnomon.store.clickhouse.tables import BATCHED
from gnomon.store.texts import quoted

log = logging.getLogger("gnomon.store.clickhouse")

GRANULE = 8_192  #: rows that ClickHouse packs together, so that a damaged byte costs no more of a column
_CHECK = "CHECK TABLE {} SETTINGS check_query_single_value_result = 0"
_ROWS = "SELECT rows FROM system.parts WHERE database = currentDatabase() AND table = {} AND name = {} AND active"
_DETACHED = "SELECT table, name, path FROM system.detached_parts WHERE database = {}"


def mark_of(file: Path) -> Path:
    """The file that says that damage was seen in the store of this name."""
    return file.with_name(file.name + SUSPECT)


def detached(con: Connection, plain: Settings, database: str) -> list[tuple[str, str, str]]:
    """Parts that ClickHouse did not load, or that were set aside: table, name, and where they lie."""
    return [
        (str(table), str(name), str(path))
        for table, name, path in con.run(_DETACHED.format(quoted(database)), plain).rows
    ]


def broken_parts(con: Connection, plain: Settings, table: str) -> list[str]:
    """Active parts of a table of which a block cannot be read; all of them are read."""
    return [str(part) for part, passed, _ in con.run(_CHECK.format(table), plain).rows if not passed]


def damaged_tables(con: Connection, plain: Settings) -> list[str]:
    """Those with such parts."""
    return [table for table in BATCHED if broken_parts(con, plain, table)]


def carry_over(con: Connection, settings: Settings, plain: Settings, table: str, names: list[str]) -> tuple[int, int]:
    """Put what can be read of the broken parts of a copy of a table in their place, as `(rows carried, rows lost)`."""
    carried, lost, columns = 0, 0, ", ".join(names)
    for part in broken_parts(con, plain, table):
        fresh = f"{table}_mended"
        con.run(f"CREATE TABLE {fresh} AS {table}", plain)
        ((rows,),) = con.run(_ROWS.format(quoted(table), quoted(part)), plain).rows
        for first in range(0, rows, GRANULE):
            within = f"_part = {quoted(part)} AND _part_offset >= {first} AND _part_offset < {first + GRANULE}"
            with suppress(*FAILED):
                con.run(f"INSERT INTO {fresh} ({columns}) SELECT {columns} FROM {table} WHERE {within}", settings)
        ((kept,),) = con.run(f"SELECT count() FROM {fresh}", plain).rows
        carried, lost = carried + kept, lost + rows - kept
        con.run(f"ALTER TABLE {table} DETACH PART {quoted(part)}", plain)
        con.run(f"ALTER TABLE {table} ATTACH PARTITION ALL FROM {fresh}", plain)
        con.run(f"DROP TABLE {fresh} SYNC", plain)
    return carried, lost


def set_aside(file: Path, parts: list[tuple[str, str, str]]) -> None:
    """Move detached parts beside the store, where the doctor sees them."""
    for number, (table, name, path) in enumerate(parts):
        place = file.with_name(f"{file.name}.{table}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{number}")
        shutil.move(path.rstrip("/"), place)
        log.error("a damaged part of %s was set aside as %s (%s)", table, place.name, name)
