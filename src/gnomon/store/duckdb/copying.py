"""Copies of the embedded store: made while it works, looked into, and brought to where they take its place.

A file is copied as it lies on the disk: between two checkpoints DuckDB changes nothing in it that the last one refers
to (docs/decisions/0008), so that only checkpoints have to wait. A store in memory is copied row by row.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import duckdb

from gnomon.config import Settings
from gnomon.files import sync_folder
from gnomon.store import Contents, Entering
from gnomon.store.dialect import quoted
from gnomon.store.duckdb.faults import translated
from gnomon.store.duckdb.opening import SCHEMA
from gnomon.store.memory import aside

ROWS_AT_ONCE = 5_000
_TABLES = "SELECT table_name FROM duckdb_tables() WHERE database_name = {name} ORDER BY table_name"
# The hash of a table must not depend on the order of its rows, and two equal rows must not cancel each other out.
_SUMMED = """SELECT count(*), coalesce(bit_xor(hash(t)), 0), coalesce(sum((hash(t) >> 1)::BIGINT), 0) FROM {table} t"""


class Snapshot:
    """One moment of a store, on a cursor that is in a transaction since then."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection, reading: int | None) -> None:
        self._cursor, self._reading = cursor, reading

    def contents(self) -> Contents:
        """See `Moment.contents`; what DuckDB raises is translated where the snapshot was taken."""
        return _contents(self._cursor, "store")

    def copy_to(self, file: Path) -> None:
        """See `Moment.copy_to`."""
        if self._reading is not None:
            _copy_bytes(self._reading, file)
            return
        with duckdb.connect(file) as copy:
            for name, words in self._cursor.execute(
                "SELECT table_name, sql FROM duckdb_tables() WHERE database_name = 'store'"
            ).fetchall():
                copy.execute(words)
                _copy_rows(self._cursor, copy, name)
            copy.execute("CHECKPOINT")


def examine(path: Path, settings: Settings) -> Contents:
    """What the store file at `path` holds, read from every block. Raises `StoreDamaged`, `StoreUnavailable`."""
    config: dict[str, Any] = {"memory_limit": aside(settings).memory_limit, "temp_directory": f"{path}.tmp"}
    if settings.threads:
        config["threads"] = str(settings.threads)
    try:
        with duckdb.connect(path, read_only=True, config=config) as connection:
            (name,) = connection.execute("SELECT current_database()").fetchall()[0]
            return _contents(connection, name)
    except duckdb.Error as error:
        raise translated(error) from error


def settled_in(path: Path, settings: Settings, entering: Entering) -> None:
    """Bring a copy to this version's schema, and have it continue the journal of the place where it will be used."""
    from gnomon.store.duckdb import DuckDBStore

    store = DuckDBStore(str(path), settings, above=entering.above_version)
    try:
        store.change([words for words in _entered(entering) if words])
        store.checkpoint()
    finally:
        store.close()


def fill_from(connection: duckdb.DuckDBPyConnection, file: Path) -> None:
    """Bring every row of a store file into a fresh store in memory."""
    try:
        with duckdb.connect(file, read_only=True) as copy:
            (name,) = copy.execute("SELECT current_database()").fetchall()[0]
            for table in _tables(copy, name):
                connection.execute(f'DELETE FROM "{table}"')
                _copy_rows(copy, connection, table)
    except duckdb.Error as error:
        raise translated(error) from error


def put_in_place(file: Path, path: Path, aside: Path) -> None:
    """Give a closed store file the name of another closed one, which stays under `aside`; never is there none."""
    try:
        os.link(path, aside)
    except OSError:  # a file system without second names
        shutil.copyfile(path, aside)
    log_file = path.with_name(path.name + ".wal")
    if log_file.exists():
        log_file.rename(aside.with_name(aside.name + ".wal"))  # it belongs to the old content
    shutil.copymode(path, file)
    with file.open("rb+") as new:
        os.fsync(new.fileno())
    file.replace(path)
    sync_folder(path.parent)


def _tables(connection: duckdb.DuckDBPyConnection, database: str) -> list[str]:
    return [name for (name,) in connection.execute(_TABLES.format(name=quoted(database))).fetchall()]


def _contents(connection: duckdb.DuckDBPyConnection, database: str) -> Contents:
    tables = {}
    for table in _tables(connection, database):
        rows, mixed, total = connection.execute(_SUMMED.format(table=f'"{table}"')).fetchall()[0]
        tables[table] = (int(rows), f"{mixed:016x}{total:x}")
    kept = dict(connection.execute("SELECT key, value FROM state").fetchall())
    (release,) = connection.execute("SELECT library_version FROM pragma_version()").fetchall()[0]
    return Contents(tables, f"duckdb {release}", int(kept["schema"]), SCHEMA)


def _copy_bytes(source: int, file: Path) -> None:
    """Copy a whole file without moving the place in it; inside the file system where that can be done."""
    size, done = os.fstat(source).st_size, 0
    with file.open("wb") as copy:
        while done < size and hasattr(os, "copy_file_range"):
            try:
                moved = os.copy_file_range(source, copy.fileno(), size - done, done, done)
            except OSError as error:
                if error.errno in (28, 122):  # the disk or the quota is full
                    raise
                break
            if not moved:
                break
            done += moved
        copy.seek(done)
        while part := os.pread(source, min(1 << 20, size - done), done):
            copy.write(part)
            done += len(part)


def _copy_rows(source: duckdb.DuckDBPyConnection, target: duckdb.DuckDBPyConnection, table: str) -> None:
    found = source.execute(f'SELECT * FROM "{table}"')
    appender = target.appender(table)
    while rows := found.fetchmany(ROWS_AT_ONCE):
        appender.append_rows(rows)
    appender.flush()


def _entered(entering: Entering) -> list[str]:
    """State and books of a copy that takes the place of other content."""
    key = quoted(f"journal:{entering.journal_id}")
    brought = "SELECT project, 'restore', source, {}, '', count(*) FROM events GROUP BY project, source"
    kept = ", ".join(
        f"({quoted(project)}, 'restore', {'NULL' if source is None else quoted(source)}, {quoted(outcome)}, "
        f"{quoted(reason)}, {int(n)})"
        for project, source, outcome, reason, n in entering.books
    )
    return [
        f"DELETE FROM state WHERE key IN ({key}, 'restored')",
        f"INSERT INTO state VALUES ({key}, '{int(entering.position)}'), ('restored', {quoted(entering.note)})",
        "DELETE FROM books WHERE kind = 'restore'",
        f"INSERT INTO books VALUES {kept}" if kept else "",
        f"INSERT INTO books {brought.format(quoted('received'))}",
        f"INSERT INTO books {brought.format(quoted('stored'))}",
    ]
