"""The embedded store: one DuckDB file, one writing connection, one short-lived cursor for each question.

Everything one write brings, and the journal position it came from, is one transaction. What the driver needs beside
that is in its own files: opening, writing, staging (rows as columns), faults (errors in our words), salvage.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import duckdb

from gnomon.config import Settings
from gnomon.errors import EngineClosed, GnomonError, MissingExtra, QueryTimeout, StoreDamaged, StoreUnavailable
from gnomon.event import Batch
from gnomon.files import sync_folder
from gnomon.store import Repeated, Sizes, Statement, Table
from gnomon.store.aliveness import Change, slack_us
from gnomon.store.deadline import Deadlines
from gnomon.store.dialect import DUCKDB, quoted
from gnomon.store.duckdb.carrying import Moment, append
from gnomon.store.duckdb.copying import Snapshot, fill_from, put_in_place
from gnomon.store.duckdb.describing import sizes
from gnomon.store.duckdb.faults import REOPEN, suspect_mark, translated
from gnomon.store.duckdb.filling import check_filled
from gnomon.store.duckdb.opening import COMPACTED, SCHEMA, connect, migrate, remove
from gnomon.store.duckdb.undo import mend, undoable
from gnomon.store.duckdb.writing import Writing
from gnomon.store.incoming import QUARANTINE_ROWS

Answer = TypeVar("Answer")

CLOSE_SECONDS = 5.0  #: how long closing waits for questions that it has interrupted


class DuckDBStore:
    """See `gnomon.store.Store`. `path` is a file or `:memory:`."""

    dialect = DUCKDB
    bulk = 1

    def __init__(self, path: str, settings: Settings, *, above: int = 0, content: Path | None = None,
                 reading: int | None = None) -> None:  # fmt: skip
        """`above` is a data version that this one must exceed; `content` a file to fill a store in memory from;
        `reading` the file, if it is open for reading already."""
        self.path = path
        if path != ":memory:":
            mend(path)
        if path != ":memory:" and suspect_mark(path).exists():
            raise StoreDamaged("the store file was found damaged when it was last used", remedy=REOPEN)
        self._settings = settings
        new = path == ":memory:" or not Path(path).exists()
        self._connection = connect(path, settings)
        self._version = 0
        self._cursors: list[duckdb.DuckDBPyConnection] = []
        self._prepared: WeakKeyDictionary[duckdb.DuckDBPyConnection, str] = WeakKeyDictionary()
        self._deadlines = Deadlines()
        self._guard = threading.RLock()  # entered instead of the condition, see `Writer`
        self._questions = threading.Condition(self._guard)
        self._running, self._swapping, self._closing = 0, False, False
        # Opened once and closed after DuckDB: closing any handle of a file gives up the locks that the process has on
        # it (POSIX), and with them what keeps another program from writing to it.
        self._reading = reading
        if path != ":memory:" and reading is None:
            self._reading = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            migrate(self._connection, self._checkpoint, new=new)
            if content is not None:
                fill_from(self._connection, content)
            self._writing = Writing(self._connection, slack_us(settings))
            self._version = _even(max(above, int(self._state("version", "0"))))
            self._connection.execute("SET lock_configuration = true")
        except BaseException as error:
            self._deadlines.close()
            self._shut()
            if reading is None:
                self._stop_reading()
            if isinstance(error, duckdb.Error):
                raise translated(error) from error
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

    def write(self, work: Sequence[tuple[int, Batch]], journal_id: str) -> dict[int, Counter[str]]:
        """See `Store.write`."""
        left_out: dict[int, str] = {}  # rows are the very objects of their batches
        spans = self._alive_after(work)
        if all(batch.only_beats for _, batch in work) and all(change.quiet for change in spans):
            with self._transaction():  # no answer changes, so the data version stays, and with it the kept answers
                self._writing.note_alive(spans)
                self._set_state(f"journal:{journal_id}", str(work[-1][0]))
            return {}
        with self._changing() as version:
            self._writing.note_alive(spans)
            for project in dict.fromkeys(batch.project for _, batch in work):
                batches = [batch for _, batch in work if batch.project == project]
                for reason, rows in self._writing.write(project, batches, version).items():
                    left_out.update((id(row), reason) for row in rows)
            self._set_state(f"journal:{journal_id}", str(work[-1][0]))
        if not left_out:
            return {}
        told = {position: Counter(left_out[id(row)] for row in batch.rows if id(row) in left_out)
                for position, batch in work}  # fmt: skip
        return {position: reasons for position, reasons in told.items() if reasons}

    def _alive_after(self, work: Sequence[tuple[int, Batch]]) -> list[Change]:
        try:
            return self._writing.look_alive([batch for _, batch in work])
        except duckdb.Error as error:
            raise self._noted(error) from error

    def change(self, statements: Sequence[str], timeout: float = 3_600.0) -> list[Table]:
        """See `Store.change`."""
        tables = []
        with self._changing(), self._deadlines.limit(timeout, self._connection.interrupt):
            for statement in statements:
                self._connection.execute(statement)
                names = [column[0] for column in self._connection.description or ()]
                tables.append(Table(names, self._connection.fetchall()))
            check_filled(zip(statements, tables, strict=True))
        self._writing.forget_edges()
        return tables

    def checkpoint(self, *, compact: bool = False) -> None:
        """See `Store.checkpoint`; also folds the books and the spans, and bounds the quarantine."""
        with self._transaction():
            self._connection.execute(
                "CREATE OR REPLACE TEMP TABLE folded AS SELECT project, kind, source, outcome, reason, "
                "sum(n)::BIGINT AS n FROM books GROUP BY ALL"
            )
            self._connection.execute("DELETE FROM books")
            self._connection.execute("INSERT INTO books SELECT * FROM folded")
            self._writing.fold_spans()
            self._connection.execute(
                "DELETE FROM quarantine WHERE rowid < (SELECT max(rowid) FROM quarantine) - ?", [QUARANTINE_ROWS]
            )
        try:
            self._checkpoint()
        except duckdb.Error as error:
            self._reconnect()  # a failed checkpoint shuts the database; it opens again at the checkpoint before
            raise self._noted(error) from error
        if compact and self.path != ":memory:":
            self._compact()

    def _checkpoint(self) -> None:
        with undoable(self._connection, "store", self.path, self._reading):
            self._connection.execute("CHECKPOINT store")

    def _compact(self) -> None:
        """Copy the file into a new one that has nothing of what was deleted, and go on with that.

        Questions run on while it is copied; they wait while the files change places.
        """
        fresh = self.path + COMPACTED
        remove(fresh)
        con = self._connection
        try:
            con.execute(f"ATTACH {quoted(fresh)} AS fresh (RECOVERY_MODE no_wal_writes)")
            con.execute("COPY FROM DATABASE store TO fresh")
            con.execute("CHECKPOINT fresh")
            con.execute("DETACH fresh")
        except duckdb.Error as error:
            with suppress(duckdb.Error):
                con.execute("DETACH fresh")
            remove(fresh)
            raise self._noted(error) from error
        shutil.copymode(self.path, fresh)  # whoever may read the one may read the other, and nobody else
        with self._idle():
            self._reconnect(lambda: self._rename(fresh))

    def _rename(self, fresh: str) -> None:
        self._stop_reading()
        Path(fresh).replace(self.path)
        sync_folder(Path(self.path).parent)

    @contextmanager
    def _changing(self) -> Iterator[int]:
        """A transaction that raises the data version; gives the version to be. See `Store.data_version`."""
        before = self._version
        try:
            with self._transaction():
                yield before + 2
                self._set_state("version", str(before + 2))
                self._version = before + 1
        except BaseException:
            if self._version == before + 1:  # else the file was opened again, with a version of its own
                self._version = before
            raise
        self._version = before + 2

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._connection.begin()
            yield
            self._connection.commit()
        except BaseException as error:
            try:
                self._connection.rollback()
                self._writing.clear()
            except duckdb.Error:
                self._reconnect()
                raise StoreUnavailable(  # whatever the error was: nothing may be written before the caller has looked
                    "the store was opened again and is back at its last checkpoint", remedy="It goes on by itself."
                ) from error
            if isinstance(error, duckdb.Error):
                raise self._noted(error) from error
            raise

    @contextmanager
    def _idle(self) -> Iterator[None]:
        """While no question runs; those that come wait."""
        with self._guard:
            self._swapping = True
            self._questions.wait_for(lambda: self._running == 0)
        try:
            yield
        finally:
            with self._guard:
                self._swapping = False
                self._questions.notify_all()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._guard:
            self._questions.wait_for(lambda: not self._swapping)
            self._running += 1
        try:
            yield
        finally:
            with self._guard:
                self._running -= 1
                self._questions.notify_all()

    def _reconnect(self, between: Callable[[], object] = lambda: None) -> None:
        """DuckDB shuts a database after a failed write (a full disk): open it again, back at its last checkpoint."""
        if self.path == ":memory:":
            raise StoreUnavailable("the store in memory failed", remedy="Open the engine again.")
        try:
            self._shut()
            between()
            # A version of its own: what was shown since the last checkpoint may be gone, and answers are kept by it.
            fresh = DuckDBStore(self.path, self._settings, above=self._version + 1, reading=self._reading)
        except (duckdb.Error, GnomonError) as error:
            raise StoreUnavailable(
                "the store file cannot be reopened", remedy="Free disk space; it is tried again by itself."
            ) from error
        self._take_over(fresh)

    def _shut(self) -> None:
        while self._cursors:  # the file stays attached as long as one of them is open
            self._cursors.pop().close()
        self._connection.close()

    def _stop_reading(self) -> None:
        """Only after DuckDB has closed the file, see `snapshot`."""
        if self._reading is not None:
            os.close(self._reading)
            self._reading = None

    def _take_over(self, fresh: DuckDBStore) -> None:
        self._deadlines.close()
        self._connection, self._version, self._writing = fresh._connection, fresh._version, fresh._writing
        self._cursors, self._deadlines, self._reading = fresh._cursors, fresh._deadlines, fresh._reading

    # -- copies -----------------------------------------------------------------------------------------------

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """See `Copying.snapshot`."""
        with self._counted():  # as a question: the file is not exchanged meanwhile
            cursor = self._take_cursor()
            try:
                cursor.begin()
                cursor.execute("SELECT count(*) FROM state").fetchall()  # the moment is that of the first statement
                yield Snapshot(cursor, self._reading)
            except duckdb.Error as error:
                raise self._noted(error) from error
            finally:
                cursor.close()

    @contextmanager
    def reading(self) -> Iterator[Moment]:
        """See `Carrying.reading`."""
        with self._counted():
            cursor = self._take_cursor()
            try:
                cursor.begin()
                cursor.execute("SELECT count(*) FROM state").fetchall()  # the moment is that of the first statement
                yield Moment(cursor, self._noted)
            except duckdb.Error as error:
                raise self._noted(error) from error
            finally:
                cursor.close()

    def fill(self, table: str, rows: Callable[[], Iterable[list[tuple[Any, ...]]]], first: Sequence[str],
             state: Mapping[str, str | None]) -> None:  # fmt: skip
        """See `Carrying.fill`."""
        with self._transaction():
            for statement in first:
                self._connection.execute(statement)
            append(self._connection, table, rows())
            for key, value in state.items():
                self._set_state(key, value)

    def settle(self, *, done: bool, compact: bool) -> None:
        """See `Carrying.settle`."""
        if compact:
            self.checkpoint(compact=True)
            return
        try:
            self._checkpoint()
        except duckdb.Error as error:
            self._reconnect()
            raise self._noted(error) from error

    def exchange(self, file: Path, aside: Path) -> None:
        """See `Copying.exchange`."""
        if self.path == ":memory:":
            fresh = DuckDBStore(self.path, self._settings, content=file)
            with self._idle():
                self._shut()
                self._take_over(fresh)
            return
        path = Path(self.path)
        with self._idle():
            self._shut()
            self._stop_reading()
            try:
                put_in_place(file, path, aside)
                suspect_mark(self.path).unlink(missing_ok=True)
                fresh = DuckDBStore(self.path, self._settings)
            except BaseException:
                if aside.exists() and not aside.samefile(path):
                    aside.replace(path)
                self._take_over(DuckDBStore(self.path, self._settings))
                raise
            self._take_over(fresh)

    # -- asking -----------------------------------------------------------------------------------------------

    def ask(self, statements: Sequence[Statement], timeout: float) -> list[Table]:
        """See `Store.ask`."""
        with self._counted():
            return self._answered(lambda cursor: self._in_snapshot(cursor, statements), timeout)

    def columns(self, statement: Statement, timeout: float) -> Any:
        """See `Columnar.columns`."""
        if find_spec("pyarrow") is None:
            raise MissingExtra("pyarrow", "arrow")
        with self._counted():
            return self._answered(lambda cursor: cursor.sql(self._sent(cursor, statement)).to_arrow_table(), timeout)

    def _answered(self, answer: Callable[[duckdb.DuckDBPyConnection], Answer], timeout: float) -> Answer:
        connection = self._connection
        cursor = self._take_cursor()
        try:
            with self._deadlines.limit(timeout, cursor.interrupt):
                tables = answer(cursor)
            if self._connection is connection:
                self._cursors.append(cursor)
            else:
                cursor.close()  # the store was opened again meanwhile
            return tables
        except duckdb.InterruptException as error:
            cursor.close()
            if self._closing:
                raise EngineClosed("the store was closed meanwhile", remedy="Open the engine again.") from error
            raise QueryTimeout(
                f"the question took longer than {timeout:g} s",
                remedy="Ask a shorter range or fewer dimensions, or raise query_timeout_seconds.",
            ) from error
        except duckdb.Error as error:
            cursor.close()
            raise self._noted(error) from error

    def _noted(self, error: duckdb.Error) -> GnomonError:
        """The error in our words; damage also leaves a mark, so that the next opening repairs the file."""
        found = translated(error)
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
            raise translated(error) from error

    def _sent(self, cursor: duckdb.DuckDBPyConnection, statement: Statement) -> str:
        """What is sent for a statement. A cursor keeps the last repeated one: to parse and bind that of a row of CSV
        takes 8 ms, as long as to read 7,000 rows, and that of Excel 20."""
        if not isinstance(statement, Repeated):
            return statement
        if self._prepared.get(cursor) != statement.text:
            cursor.execute(f"PREPARE repeated AS {statement.text}").fetchall()
            self._prepared[cursor] = statement.text
        return f"EXECUTE repeated({', '.join(statement.values)})"

    def _in_snapshot(self, cursor: duckdb.DuckDBPyConnection, statements: Sequence[Statement]) -> list[Table]:
        tables = []
        if len(statements) > 1:
            cursor.begin()
        for statement in statements:
            cursor.execute(self._sent(cursor, statement))
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
            "bytes": self.disk_bytes(),
        }

    def disk_bytes(self) -> int:
        """See `Store.disk_bytes`."""
        file = Path(self.path)
        return file.stat().st_size if self.path != ":memory:" and file.exists() else 0

    def sizes(self) -> Sizes:
        """See `Store.sizes`."""
        return sizes(self.ask)

    def _readable(self) -> bool:
        """Read every block of every column, so that damage which nobody has met yet is found."""
        try:
            self.ask([f"SELECT bit_xor(hash(COLUMNS(*))) FROM {table}" for table in ("events", "samples")], 600.0)
        except StoreDamaged:
            return False
        return True

    def close(self) -> None:
        """See `Store.close`. Questions that still run are interrupted, as the file stays open until they end."""
        self._closing = True
        self._deadlines.end_all()
        with self._guard:
            self._questions.wait_for(lambda: self._running == 0, CLOSE_SECONDS)
        self._deadlines.close()
        self._shut()
        self._stop_reading()

    # -- state and schema ---------------------------------------------------------------------------------------

    def _state(self, key: str, default: str) -> str:
        rows = self.ask([f"SELECT value FROM state WHERE key = {quoted(key)}"], 60.0)[0].rows
        return str(rows[0][0]) if rows else default

    def _set_state(self, key: str, value: str | None) -> None:
        self._connection.execute("DELETE FROM state WHERE key = ?", [key])
        if value is not None:
            self._connection.execute("INSERT INTO state VALUES (?, ?)", [key, value])


def _even(number: int) -> int:
    return number + number % 2
