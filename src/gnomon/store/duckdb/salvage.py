"""A new store from whatever can be read of a damaged file, one group of rows after the other."""

from __future__ import annotations

import duckdb

from gnomon.config import Settings
from gnomon.store.dialect import quoted
from gnomon.store.duckdb import DuckDBStore
from gnomon.store.duckdb.faults import translated
from gnomon.store.rollups import TABLES as ROLLED


def salvage(path: str, damaged: str, settings: Settings) -> dict[str, str]:
    """Copy every readable group of rows of a damaged file into a new store at `path`.

    The journal position is carried over only if nothing was lost; otherwise the journal is replayed from its start
    (repeated events and samples are found again, so nothing counts twice).
    """
    DuckDBStore(path, settings).close()
    con = duckdb.connect(path)
    report: dict[str, str] = {}
    try:
        con.execute(f"ATTACH {quoted(damaged)} AS damaged (READ_ONLY)")
        later = _later_tables(con)
        tables = [name for (name,) in con.execute(_TABLES).fetchall() if name != "state" and name not in later]
        whole = sum(_salvage_table(con, table, report) for table in tables) == len(tables)
        if not whole and not con.execute("SELECT count(*) FROM pruned").fetchall()[0][0]:
            for table in ROLLED:  # they are made again: the journal is replayed, and may bring back what they counted
                con.execute(f"DELETE FROM {table}")
        con.execute("DELETE FROM state WHERE key <> 'schema'")
        con.execute(_HIGHEST_VERSION)
        kept = "" if whole else " AND key NOT LIKE 'journal:%'"
        con.execute(f"INSERT INTO state SELECT * FROM damaged.state WHERE key NOT IN ('schema', 'version'){kept}")
    except duckdb.Error as error:
        report["stopped"] = type(error).__name__
    try:
        con.execute("CHECKPOINT")
    except duckdb.Error as error:
        raise translated(error) from error
    finally:
        con.close()
    return report


_TABLES = "SELECT table_name FROM duckdb_tables() WHERE database_name = current_database() ORDER BY table_name"
_SINCE_SCHEMA = {"alive": 3}
_HIGHEST_VERSION = """INSERT INTO state SELECT 'version', coalesce(max(version), 0)::VARCHAR
FROM (SELECT version FROM events UNION ALL SELECT version FROM samples UNION ALL SELECT version FROM sightings
UNION ALL SELECT version FROM rolled_up)"""


def _later_tables(con: duckdb.DuckDBPyConnection) -> set[str]:
    """Tables that the damaged file cannot have, as it is of an older schema; that they are not there is no loss."""
    try:
        ((schema,),) = con.execute("SELECT value FROM damaged.state WHERE key = 'schema'").fetchall()
        return {table for table, since in _SINCE_SCHEMA.items() if int(schema) < since}
    except (duckdb.Error, ValueError):
        return set()


def _salvage_table(con: duckdb.DuckDBPyConnection, table: str, report: dict[str, str]) -> bool:
    group = 122_880  # rows in one of DuckDB's row groups
    try:
        found = con.execute(f"SELECT max(rowid) FROM damaged.{table}").fetchone()
    except duckdb.Error:
        report[table] = "unreadable"
        return False
    last = -1 if found is None or found[0] is None else int(found[0])
    lost = 0
    for start in range(0, last + 1, group):
        try:
            con.execute(
                f"INSERT INTO {table} BY NAME SELECT * FROM damaged.{table} "  # an older schema has fewer columns
                f"WHERE rowid BETWEEN {start} AND {start + group - 1}"
            )
        except duckdb.Error:
            lost += 1
    report[table] = f"{last + 1} rows, {lost} groups of {group} lost"
    return lost == 0
