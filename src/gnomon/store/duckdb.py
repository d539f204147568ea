"""The embedded store: one DuckDB file, one writing connection, one short-lived cursor for each question.

Event tables have no index; a repeat is found by an anti-join over the batch's own span of time
(docs/decisions/0003). Everything one write brings, and the journal position it came from, is one transaction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import resources
from operator import itemgetter
from pathlib import Path
from typing import Any

import duckdb

from gnomon.config import Settings
from gnomon.errors import GnomonError, InvalidValue, QueryTimeout, StoreBusy, StoreDamaged, StoreUnavailable
from gnomon.event import AT, FIELDS, SAMPLE_ROW, Batch, Row
from gnomon.store import SUSPECT, Table
from gnomon.store.deadline import Deadlines
from gnomon.store.dialect import DUCKDB

SCHEMA = 1
RECENT_US = 24 * 3_600_000_000  #: within this time the same id with another ts is a repeat (decision 6)
QUARANTINE_ROWS = 100_000
APPENDED_AT_ONCE = 500  #: rows converted in one call, which keeps the interpreter for about 1 ms

_STAGED = {
    "text": "VARCHAR",
    "integer": "BIGINT",
    "real": "DOUBLE",
    "boolean": "BOOLEAN",
    "time": "BIGINT",
    "json": "VARCHAR",
}
_STAGING = "CREATE TEMP TABLE staging (" + ", ".join(f"{f.name} {_STAGED[f.kind]}" for f in FIELDS) + ")"
_SAMPLE_STAGING = """CREATE TEMP TABLE sample_staging (
  ts BIGINT, received_at BIGINT, name VARCHAR, kind VARCHAR, value DOUBLE, labels VARCHAR)"""
# A canonical UUID takes 16 bytes; any other id is text beside the UUID of its MD5, which only narrows the join.
_CANONICAL = "(try_cast(id AS UUID)::VARCHAR IS NOT DISTINCT FROM id)"
_KEY = f"CASE WHEN {_CANONICAL} THEN try_cast(id AS UUID) ELSE md5(id)::UUID END"
_TEXT = f"CASE WHEN {_CANONICAL} THEN NULL ELSE id END"
_REST = [f.name for f in FIELDS if f.name != "id"]
_COLUMNS = ", ".join(f"make_timestamp({f.name})" if f.kind == "time" else f.name for f in FIELDS if f.name != "id")


def _insert(key: str, text: str) -> str:
    columns = f"project, id, id_text, version, {', '.join(_REST)}"
    return f"INSERT INTO events ({columns}) SELECT ?, {key}, {text}, ?, {_COLUMNS} FROM staging"


_INSERT = _insert(_KEY, _TEXT)
_INSERT_OWN_IDS = _insert("id::UUID", "NULL")
_REPEATS = f"""SELECT s.id, s.ts FROM (SELECT id, ts, received_at, {_KEY} AS key, {_TEXT} AS text FROM staging) s
WHERE EXISTS (SELECT 1 FROM events e WHERE e.project = ? AND e.id = s.key AND e.id_text IS NOT DISTINCT FROM s.text
AND """
_REPEATS_IN_SPAN = _REPEATS + "e.ts = make_timestamp(s.ts) AND e.ts BETWEEN make_timestamp(?) AND make_timestamp(?))"
_REPEATS_RECENT = (
    _REPEATS
    + f"""e.received_at >= make_timestamp(?)
AND epoch_us(e.received_at) >= s.received_at - {RECENT_US})"""
)


_INSERT_SAMPLES = """INSERT INTO samples (project, version, ts, received_at, name, kind, value, labels)
SELECT ?, ?, make_timestamp(ts), make_timestamp(received_at), name, kind, value, labels FROM sample_staging s"""
_NOT_KEPT_YET = """ WHERE NOT EXISTS (SELECT 1 FROM samples o WHERE o.project = ? AND o.ts = make_timestamp(s.ts) AND
o.received_at = make_timestamp(s.received_at) AND o.version <= ? AND o.name = s.name AND o.kind = s.kind
AND o.value = s.value AND o.labels IS NOT DISTINCT FROM s.labels)"""


_REOPEN = "Close the engine and open it again: it sets the file aside and carries over what can be read."


def suspect_mark(path: str) -> Path:
    """The file whose presence says that a store file is damaged."""
    return Path(path + SUSPECT)


class DuckDBStore:
    """See `gnomon.store.Store`. `path` is a file or `:memory:`."""

    dialect = DUCKDB

    def __init__(self, path: str, settings: Settings) -> None:
        self.path = path
        if path != ":memory:" and suspect_mark(path).exists():
            raise StoreDamaged("the store file was found damaged when it was last used", remedy=_REOPEN)
        self._settings = settings
        self._connection = _connect(path, settings)
        self._version = 0
        self._cursors: list[duckdb.DuckDBPyConnection] = []
        self._deadlines = Deadlines()
        try:
            self._migrate()
            self._connection.execute(_STAGING)
            self._connection.execute(_SAMPLE_STAGING)
            self._version = int(self._state("version", "0"))
            self._connection.execute("SET lock_configuration = true")
        except BaseException as error:
            self.close()
            if isinstance(error, duckdb.Error):
                raise _translated(error) from error
            raise

    # -- writing ----------------------------------------------------------------------------------------------

    def position(self, journal_id: str) -> int:
        """See `Store.position`; opens the file again where a fault had shut it."""
        try:
            return int(self._state(f"journal:{journal_id}", "0"))
        except StoreUnavailable:
            self._reconnect()
            return int(self._state(f"journal:{journal_id}", "0"))

    def data_version(self) -> int:
        """See `Store.data_version`."""
        return self._version

    def write(self, work: Sequence[tuple[int, Batch]], journal_id: str) -> dict[int, int]:
        """See `Store.write`."""
        repeats: list[Row] = []
        with self._transaction():
            for project in dict.fromkeys(batch.project for _, batch in work):
                repeats += self._write_project(project, [batch for _, batch in work if batch.project == project])
            self._set_state("version", str(self._version + 1))
            self._set_state(f"journal:{journal_id}", str(work[-1][0]))
        self._version += 1
        if not repeats:
            return {}
        repeated = set(map(id, repeats))  # rows are the very objects of their batches
        return {position: sum(id(row) in repeated for row in batch.rows) for position, batch in work}

    def _write_project(self, project: str, batches: list[Batch]) -> list[Row]:
        """Store one project's batches; returns the rows that were repeats."""
        rows = [row for batch in batches for row in batch.rows]
        books = [[project, *count] for batch in batches for count in batch.counts]
        repeats: list[Row] = []
        if rows:
            rows, repeats = self._write_events(project, rows, batches)
            books += _booked(project, "stored", rows) + _booked(project, "duplicate", repeats)
        samples = [row for batch in batches for row in batch.samples]
        if samples:
            books.append([project, "sample", None, "stored", "", len(samples)])
            self._write_samples(project, samples, doubtful=any(batch.replayed for batch in batches))
        if books:
            self._append("books", [tuple(entry) for entry in books])
        refused = [(project, *entry) for batch in batches for entry in batch.refused]
        if refused:
            self._connection.executemany(
                "INSERT INTO quarantine VALUES (?, make_timestamp(?), ?, ?, ?, ?, ?)", refused[:QUARANTINE_ROWS]
            )
        return repeats

    def _write_events(self, project: str, rows: list[Row], batches: list[Batch]) -> tuple[list[Row], list[Row]]:
        """Store rows without repeats; returns what was stored and what was a repeat.

        Only ids that came from outside, or batches that were replayed, can be repeats: an id made here is new.
        """
        con = self._connection
        checked_ids = any(batch.checked_ids for batch in batches)
        rows, repeats = _without_own_repeats(rows)
        self._append("staging", rows)
        doubtful = checked_ids or any(batch.replayed for batch in batches)
        known = self._repeats(project, rows, checked_ids) if doubtful else set()
        if known:
            repeats += [row for row in rows if (row[0], row[1]) in known]
            rows = [row for row in rows if (row[0], row[1]) not in known]
            con.execute("TRUNCATE staging")
        if known and rows:
            self._append("staging", rows)
        if rows:
            con.execute(_INSERT if checked_ids else _INSERT_OWN_IDS, [project, self._version + 1])
            self._note_weights(project, rows)
        con.execute("TRUNCATE staging")
        return rows, repeats

    def _repeats(self, project: str, rows: list[Row], checked_ids: bool) -> set[tuple[str, int]]:
        """`(id, ts)` of the staged rows that the store already has."""
        moments = list(map(itemgetter(AT["ts"]), rows))
        found = self._connection.execute(_REPEATS_IN_SPAN, [project, min(moments), max(moments)]).fetchall()
        known = set(found)
        if checked_ids:
            since = min(map(itemgetter(AT["received_at"]), rows)) - RECENT_US
            found = self._connection.execute(_REPEATS_RECENT, [project, max(0, since)]).fetchall()
            known |= set(found)
        return known

    def _note_weights(self, project: str, rows: list[Row]) -> None:
        moments = [row[AT["ts"]] for row in rows if row[AT["weight"]] != 1]
        if moments:
            self._connection.execute(
                "INSERT INTO weighted VALUES (?, make_timestamp(?), make_timestamp(?))",
                [project, min(moments), max(moments)],
            )

    def _write_samples(self, project: str, samples: list[Row], *, doubtful: bool) -> None:
        """Store samples. They have no id: only where a batch was replayed are equal ones taken for the same."""
        self._append("sample_staging", samples)
        if doubtful:
            known = [project, self._version + 1, project, self._version]
            self._connection.execute(_INSERT_SAMPLES + _NOT_KEPT_YET, known)
        else:
            self._connection.execute(_INSERT_SAMPLES, [project, self._version + 1])
        self._connection.execute("TRUNCATE sample_staging")

    def _append(self, table: str, rows: Sequence[Row]) -> None:
        appender = self._connection.appender(table)
        for start in range(0, len(rows), APPENDED_AT_ONCE):
            appender.append_rows(rows[start : start + APPENDED_AT_ONCE])
        appender.flush()

    def checkpoint(self) -> None:
        """See `Store.checkpoint`; also folds the books and bounds the quarantine."""
        with self._transaction():
            self._connection.execute(
                "CREATE OR REPLACE TEMP TABLE folded AS SELECT project, kind, source, outcome, reason, "
                "sum(n)::BIGINT AS n FROM books GROUP BY ALL"
            )
            self._connection.execute("DELETE FROM books")
            self._connection.execute("INSERT INTO books SELECT * FROM folded")
            self._connection.execute(
                "DELETE FROM quarantine WHERE rowid < (SELECT max(rowid) FROM quarantine) - ?", [QUARANTINE_ROWS]
            )
        try:
            self._connection.execute("CHECKPOINT store")
        except duckdb.Error as error:
            self._reconnect()  # a failed checkpoint shuts the database; it opens again at the checkpoint before
            raise self._noted(error) from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._connection.begin()
            yield
            self._connection.commit()
        except BaseException as error:
            try:
                self._connection.rollback()
                self._connection.execute("TRUNCATE staging")
                self._connection.execute("TRUNCATE sample_staging")
            except duckdb.Error:
                self._reconnect()
                raise StoreUnavailable(  # whatever the error was: nothing may be written before the caller has looked
                    "the store was opened again and is back at its last checkpoint", remedy="It goes on by itself."
                ) from error
            if isinstance(error, duckdb.Error):
                raise self._noted(error) from error
            raise

    def _reconnect(self) -> None:
        """DuckDB shuts a database after a failed write (a full disk): open it again, back at its last checkpoint."""
        if self.path == ":memory:":
            raise StoreUnavailable("the store in memory failed", remedy="Open the engine again.")
        try:
            while self._cursors:  # the file stays attached as long as one of them is open
                self._cursors.pop().close()
            self._connection.close()
            fresh = DuckDBStore(self.path, self._settings)
        except (duckdb.Error, GnomonError) as error:
            raise StoreUnavailable(
                "the store file cannot be reopened", remedy="Free disk space; it is tried again by itself."
            ) from error
        self._deadlines.close()
        self._connection, self._version = fresh._connection, fresh._version
        self._cursors, self._deadlines = fresh._cursors, fresh._deadlines

    # -- asking -----------------------------------------------------------------------------------------------

    def ask(self, statements: Sequence[str], timeout: float) -> list[Table]:
        """See `Store.ask`."""
        connection = self._connection
        cursor = self._take_cursor()
        try:
            with self._deadlines.limit(timeout, cursor.interrupt):
                tables = self._in_snapshot(cursor, statements)
            if self._connection is connection:
                self._cursors.append(cursor)
            else:
                cursor.close()  # the store was opened again meanwhile
            return tables
        except duckdb.InterruptException as error:
            cursor.close()
            raise QueryTimeout(
                f"the question took longer than {timeout:g} s",
                remedy="Ask a shorter range or fewer dimensions, or raise query_timeout_seconds.",
            ) from error
        except duckdb.Error as error:
            cursor.close()
            raise self._noted(error) from error

    def _noted(self, error: duckdb.Error) -> GnomonError:
        """The error in our words; damage also leaves a mark, so that the next opening repairs the file."""
        found = _translated(error)
        if isinstance(found, StoreDamaged) and self.path != ":memory:":
            with suppress(OSError):
                suspect_mark(self.path).touch()
        return found

    def _take_cursor(self) -> duckdb.DuckDBPyConnection:
        """A connection of its own for one question: a kept one, or a new one (0.3 ms)."""
        try:
            return self._cursors.pop()
        except IndexError:
            pass
        try:
            cursor = self._connection.cursor()
            cursor.execute("USE store")
            return cursor
        except duckdb.Error as error:
            raise _translated(error) from error

    @staticmethod
    def _in_snapshot(cursor: duckdb.DuckDBPyConnection, statements: Sequence[str]) -> list[Table]:
        tables = []
        if len(statements) > 1:
            cursor.begin()
        for statement in statements:
            cursor.execute(statement)
            tables.append(Table([column[0] for column in cursor.description or ()], cursor.fetchall()))
        if len(statements) > 1:
            cursor.commit()
        return tables

    def describe(self) -> dict[str, Any]:
        """See `Store.describe`."""
        counts, first_last, version = self.ask(
            [
                "SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM samples), "
                "(SELECT count(*) FROM quarantine)",
                "SELECT epoch_us(min(ts)), epoch_us(max(ts)), epoch_us(min(received_at)) FROM events",
                "SELECT version()",
            ],
            60.0,
        )
        files = [Path(self.path)] if self.path != ":memory:" else []
        return {
            "readable": self._readable(),
            "store": "duckdb",
            "store_version": version.rows[0][0],
            "schema": SCHEMA,
            "events": counts.rows[0][0],
            "samples": counts.rows[0][1],
            "quarantined": counts.rows[0][2],
            "first_ts_us": first_last.rows[0][0],
            "last_ts_us": first_last.rows[0][1],
            "first_received_us": first_last.rows[0][2],
            "bytes": sum(file.stat().st_size for file in files if file.exists()),
        }

    def _readable(self) -> bool:
        """Read every block of every column, so that damage which nobody has met yet is found."""
        try:
            self.ask([f"SELECT bit_xor(hash(COLUMNS(*))) FROM {table}" for table in ("events", "samples")], 600.0)
        except StoreDamaged:
            return False
        return True

    def close(self) -> None:
        """See `Store.close`."""
        self._deadlines.close()
        for cursor in self._cursors:
            cursor.close()
        self._connection.close()

    # -- state and schema ---------------------------------------------------------------------------------------

    def _state(self, key: str, default: str) -> str:
        rows = self.ask([f"SELECT value FROM state WHERE key = {_quoted(key)}"], 60.0)[0].rows
        return str(rows[0][0]) if rows else default

    def _set_state(self, key: str, value: str) -> None:
        self._connection.execute("DELETE FROM state WHERE key = ?", [key])
        self._connection.execute("INSERT INTO state VALUES (?, ?)", [key, value])

    def _migrate(self) -> None:
        """Bring the file to this version's schema, one numbered step at a time, all in one transaction."""
        con = self._connection
        found_tables = con.execute("SELECT table_name FROM duckdb_tables() WHERE database_name = 'store'").fetchall()
        tables = {name for (name,) in found_tables}
        found = int(self._state("schema", "0")) if "state" in tables else 0
        if found > SCHEMA:
            raise InvalidValue(
                f"the store has schema {found}, this version knows {SCHEMA}",
                remedy="Upgrade gnomon.",
                code="newer-schema",
            )
        if found == 0 and tables:
            raise InvalidValue(
                "the file is a DuckDB database that Gnomon did not make",
                remedy="Give another path.",
                code="foreign-file",
            )
        if found == SCHEMA:
            return
        con.begin()
        for step in range(found + 1, SCHEMA + 1):
            con.execute(resources.files("gnomon.store.migrations").joinpath(f"duckdb_{step:04}.sql").read_text("utf-8"))
        self._set_state("schema", str(SCHEMA))
        con.commit()
        con.execute("CHECKPOINT store")


def _connect(path: str, settings: Settings) -> duckdb.DuckDBPyConnection:
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
    _fold_log(path)
    logless = "" if path == ":memory:" else " (RECOVERY_MODE no_wal_writes)"
    try:
        connection = duckdb.connect(":memory:", config=config)
        connection.execute(f"ATTACH {_quoted(path)} AS store{logless}")
        connection.execute("USE store")
        connection.execute("PRAGMA disable_checkpoint_on_shutdown")  # the writer's work, and never a forked child's
        connection.execute("SET enable_external_access = false")
    except duckdb.Error as error:
        raise _translated(error) from error
    return connection


def _fold_log(path: str) -> None:
    """Bring a log that lies beside the file into it: another program left it, or a checkpoint that was cut short.

    DuckDB 2.0 crashes at the next checkpoint of a file that was attached without a log while one was there.
    """
    log_file = Path(path + ".wal")
    if path == ":memory:" or not log_file.exists():
        return
    try:
        with duckdb.connect(path) as connection:
            connection.execute("CHECKPOINT")
    except duckdb.Error as error:
        raise _translated(error) from error
    if log_file.exists() and log_file.stat().st_size:
        raise StoreDamaged("the log beside the store is damaged", remedy=_REOPEN)
    log_file.unlink(missing_ok=True)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def salvage(path: str, damaged: str, settings: Settings) -> dict[str, str]:
    """Copy every readable group of rows of a damaged file into a new store at `path`.

    The journal position is carried over only if nothing was lost; otherwise the journal is replayed from its start
    (repeated events and samples are found again, so nothing counts twice).
    """
    DuckDBStore(path, settings).close()
    con = duckdb.connect(path)
    report: dict[str, str] = {}
    try:
        con.execute(f"ATTACH {_quoted(damaged)} AS damaged (READ_ONLY)")
        tables = ("events", "samples", "books", "quarantine", "weighted")
        whole = sum(_salvage_table(con, table, report) for table in tables) == len(tables)
        con.execute("DELETE FROM state WHERE key <> 'schema'")
        con.execute(_HIGHEST_VERSION)
        kept = "" if whole else " AND key NOT LIKE 'journal:%'"
        con.execute(f"INSERT INTO state SELECT * FROM damaged.state WHERE key NOT IN ('schema', 'version'){kept}")
    except duckdb.Error as error:
        report["stopped"] = type(error).__name__
    try:
        con.execute("CHECKPOINT")
    except duckdb.Error as error:
        raise _translated(error) from error
    finally:
        con.close()
    return report


_HIGHEST_VERSION = """INSERT INTO state SELECT 'version', coalesce(max(version), 0)::VARCHAR
FROM (SELECT version FROM events UNION ALL SELECT version FROM samples)"""


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
                f"INSERT INTO {table} SELECT * FROM damaged.{table} WHERE rowid BETWEEN {start} AND {start + group - 1}"
            )
        except duckdb.Error:
            lost += 1
    report[table] = f"{last + 1} rows, {lost} groups of {group} lost"
    return lost == 0


def _without_own_repeats(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """Rows and repeats within one group; the first of an id wins."""
    ids = list(map(itemgetter(0), rows))
    if len(set(ids)) == len(ids):
        return rows, []
    kept: list[Row] = []
    repeats: list[Row] = []
    earlier: dict[str, list[Row]] = {}  # more than one of an id only where it came back after a day
    at_ts, at_received = AT["ts"], AT["received_at"]
    for row in rows:
        same = earlier.setdefault(row[0], [])
        if any(row[at_ts] == other[at_ts] or row[at_received] - other[at_received] <= RECENT_US for other in same):
            repeats.append(row)
        else:
            same.append(row)
            kept.append(row)
    return kept, repeats


def _booked(project: str, outcome: str, rows: list[Row]) -> list[list[Any]]:
    counts: dict[str | None, int] = {}
    for source in map(itemgetter(AT["source"]), rows):
        counts[source] = counts.get(source, 0) + 1
    return [[project, "event", source, outcome, "", n] for source, n in counts.items()]


#: What RE2 says of a pattern it does not take (kErrorStrings in re2/regexp.cc, and re2/re2.cc).
_BAD_PATTERN = (
    "invalid escape sequence", "invalid character class", "missing ]", "missing )", "unexpected )", "trailing",
    "no argument for repetition operator", "invalid repetition size", "bad repetition operator",
    "invalid perl operator", "invalid UTF-8", "invalid named capture group", "pattern too large",
)  # fmt: skip


_DAMAGE = (
    "Corrupt", "not a valid DuckDB", "checksum", "Failure while replaying WAL", "Serialization Error",
    "Could not read enough bytes", "Could not read all data", "reading past end of file",
)  # fmt: skip
#: A failed commit (TransactionException) is a full or broken disk: there is one writer, so it cannot be a conflict.
_UNAVAILABLE = (
    duckdb.FatalException, duckdb.IOException, duckdb.OutOfMemoryException, duckdb.InternalException,
    duckdb.TransactionException,
)  # fmt: skip


def _translated(error: duckdb.Error) -> GnomonError:
    """DuckDB's errors in our words. Its messages may quote data, so they stay in the chained exception only."""
    text = str(error)
    if "Could not set lock on file" in text or "Conflicting lock" in text:
        return StoreBusy(
            "another process owns this store",
            remedy="Ask in the process that opened it first, ask through `gnomon serve`, or stop that process.",
        )
    # The texts of these may quote any value, so they say nothing of the file.
    of_a_value = isinstance(error, duckdb.DataError | duckdb.BinderException | duckdb.InvalidInputException)
    if not of_a_value and any(sign in text for sign in _DAMAGE):
        return StoreDamaged("the store file is damaged", remedy=_REOPEN)
    if isinstance(error, _UNAVAILABLE):
        return StoreUnavailable(
            f"the store failed ({type(error).__name__})", remedy="See `gnomon doctor`; check disk and memory."
        )
    if isinstance(error, duckdb.ConnectionException):
        return StoreUnavailable("the store is closed", remedy="Open the engine again.")
    if isinstance(error, duckdb.InvalidInputException) and any(sign in text for sign in _BAD_PATTERN):
        return InvalidValue(
            "the pattern is not a valid regular expression", remedy="Use RE2 syntax.", code="bad-pattern"
        )
    return GnomonError(f"the store refused a statement ({type(error).__name__})", code="store-refused")


assert SAMPLE_ROW == ("ts", "received_at", "name", "kind", "value", "labels")
