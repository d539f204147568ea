"""Opening a DuckDB file: its settings, a log that another program left beside it, and the schema."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import duckdb

from gnomon.config import Settings
from gnomon.errors import InvalidValue, StoreDamaged
from gnomon.store.dialect import quoted
from gnomon.store.duckdb.faults import REOPEN, translated
from gnomon.store.duckdb.undo import undoable

SCHEMA = 4
COMPACTED = ".compacted"  #: ending of the copy that takes the place of a file, until it does


def connect(path: str, settings: Settings) -> duckdb.DuckDBPyConnection:
    """A connection with the file attached as `store`. `path` is a file or `:memory:`."""
    config: dict[str, Any] = {
        "memory_limit": settings.memory_limit,
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        # The writer says when to checkpoint; DuckDB would do it within a commit after every 16 MB.
        "checkpoint_threshold": "1TB",
        "temp_directory": "" if path == ":memory:" else path + ".tmp",
    }
    if settings.threads:
        config["threads"] = str(settings.threads)
    # The journal is the log: DuckDB writes none of its own, so a crash takes the file back to its last checkpoint,
    # and the journal, which forgets only what a checkpoint holds, is replayed from there (docs/decisions/0008).
    if path != ":memory:":
        _fold_log(path)
    logless = "" if path == ":memory:" else " (RECOVERY_MODE no_wal_writes)"
    try:
        connection = duckdb.connect(":memory:", config=config)
        connection.execute(f"ATTACH {quoted(path)} AS store{logless}")
        connection.execute("USE store")
        connection.execute("PRAGMA disable_checkpoint_on_shutdown")  # the writer's work, and never a forked child's
        if path != ":memory:":
            fresh = path + COMPACTED
            remove(fresh)  # of a compaction that was cut short
            files = [quoted(fresh + ending) for ending in ("", ".wal", ".wal.checkpoint", ".wal.recovery")]
            connection.execute(f"SET allowed_paths = [{', '.join(files)}]")
        connection.execute("SET enable_external_access = false")
    except duckdb.Error as error:
        raise translated(error) from error
    return connection


def _fold_log(path: str) -> None:
    """Bring a log that lies beside the file into it: another program left it, or a checkpoint that was cut short.

    DuckDB 2.0 crashes at the next checkpoint of a file that was attached without a log while one was there.
    """
    log_file = Path(path + ".wal")
    if not log_file.exists():
        return
    reading = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if Path(path).exists() else None
    try:
        with duckdb.connect(path) as connection:
            ((database,),) = connection.execute("SELECT current_database()").fetchall()
            with undoable(connection, database, path, reading):
                connection.execute("CHECKPOINT")
    except duckdb.Error as error:
        raise translated(error) from error
    finally:
        if reading is not None:
            os.close(reading)
    if log_file.exists() and log_file.stat().st_size:
        raise StoreDamaged("the log beside the store is damaged", remedy=REOPEN)
    log_file.unlink(missing_ok=True)


def migrate(con: duckdb.DuckDBPyConnection, checkpoint: Callable[[], None], *, new: bool = False) -> None:
    """Bring the file to this version's schema, one numbered step at a time, all in one transaction.

    A file that is known to be `new` needs no look at what tables it has (9 ms).
    """
    found = 0 if new else _schema_of(con)
    if found == SCHEMA:
        return
    con.begin()
    for step in range(found + 1, SCHEMA + 1):
        con.execute(resources.files("gnomon.store.migrations").joinpath(f"duckdb_{step:04}.sql").read_text("utf-8"))
    con.execute("DELETE FROM state WHERE key = 'schema'")
    con.execute("INSERT INTO state VALUES ('schema', ?)", [str(SCHEMA)])
    con.commit()
    checkpoint()


def _schema_of(con: duckdb.DuckDBPyConnection) -> int:
    """The file's schema; 0 when it is new."""
    tables = con.execute("SELECT table_name FROM duckdb_tables() WHERE database_name = 'store'").fetchall()
    if not tables:
        return 0
    if ("state",) not in tables:
        raise InvalidValue(
            "the file is a DuckDB database that Gnomon did not make",
            remedy="Give another path.",
            code="foreign-file",
        )
    kept = con.execute("SELECT value FROM state WHERE key = 'schema'").fetchall()
    found = int(kept[0][0]) if kept else 0
    if not 0 < found <= SCHEMA:
        raise InvalidValue(
            f"the store has schema {found}, this version knows {SCHEMA}",
            remedy="Upgrade gnomon.",
            code="newer-schema",
        )
    return found


def remove(path: str) -> None:
    """Remove a database file and its log, if they are there."""
    for name in (path, path + ".wal"):
        Path(name).unlink(missing_ok=True)
