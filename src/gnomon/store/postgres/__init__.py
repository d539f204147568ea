"""The PostgreSQL store: any number of processes write into one database, one after the other, and ask it.

Everything one write brings, and the journal position it came from, is one transaction. Whoever changes the store holds
the lock of its version row until the commit, so versions are handed out in the order in which they can be seen. What
the server keeps is durable when it is committed; a checkpoint only tidies up.
"""

from __future__ import annotations

import logging
import random
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from itertools import count
from typing import Any, TypeVar

import psycopg

from gnomon.config import Settings
from gnomon.errors import EngineClosed, QueryTimeout, StoreUnavailable
from gnomon.event import AT, Batch
from gnomon.store import Repeated, Sizes, Statement, Table, Turn
from gnomon.store.aliveness import slack_us
from gnomon.store.carrying import NOTE, TABLES, finished, unfinished_copy
from gnomon.store.deadline import Deadlines
from gnomon.store.dialect import POSTGRES, quoted
from gnomon.store.postgres.address import address_of
from gnomon.store.postgres.carrying import Moment, append, moments_of, note_months
from gnomon.store.postgres.compacting import compact_touched, note_touched
from gnomon.store.postgres.connections import Connections, close, cut
from gnomon.store.postgres.describing import described, size_of, sizes
from gnomon.store.postgres.faults import BEYOND, MET, translated
from gnomon.store.postgres.months import Months
from gnomon.store.postgres.opening import NO_BOUND, Connection, begin, connect, migrate
from gnomon.store.postgres.rows import SAMPLE_STAGING, STAGING
from gnomon.store.postgres.turns import PATIENT, PREFIX, due, taken
from gnomon.store.postgres.writing import KEEP_FIRST, KEEP_INSTEAD, SET_STATE, SET_VERSION, Writing
from gnomon.store.work import Work

log = logging.getLogger("gnomon.store.postgres")

Answer = TypeVar("Answer")

KEPT = "kept:"  #: of the keys of the state that hold what every process has to know
TRIES = 5  #: of a transaction that met another one
LOCK_SECONDS = 30.0  #: how long a change waits for one of another process
ALONE_SECONDS = 60  #: how long upkeep waits for that of another process
WRITE_SECONDS = 300.0  #: the longest that one write may take
FILL_SECONDS = 3_600.0  #: the longest that a slice of a copy may take
MERCY_SECONDS = 5.0  #: a server that has not ended a statement so long after its time-out is hung up on


class PostgresStore:
    """See `gnomon.store.Store`. `url` is `postgresql://user:password@host:port/database?schema=gnomon`."""

    dialect = POSTGRES
    bulk = 1

    def __init__(self, url: str, settings: Settings) -> None:
        self._address = address_of(url)
        self._settings = settings
        self._found = migrate(self._address)
        self.store_id = self._found.store_id
        self._asking = Connections(partial(connect, self._address), settings.database_connections)
        self._deadlines = Deadlines()
        self._months = Months(self._address)
        self._changes = threading.RLock()  # of the one connection that writes
        self._writer: Connection | None = None
        self._alone: Connection | None = None
        self._reached: dict[str, int] = {}  #: positions that this process has seen committed
        self._seen = 0  #: the highest version that it has seen
        self._closed = False

    def is_used(self) -> bool:
        """See `Served.is_used`."""
        return bool(self._asked(["SELECT 1 FROM state WHERE key LIKE 'journal:%'"], 60.0)[0].rows)

    def keep(self, key: str, value: str) -> None:
        """See `Served.keep`."""

        def put(con: Connection) -> None:
            con.execute(SET_STATE, [KEPT + key, value])
            con.execute("COMMIT")

        self._changed(put, LOCK_SECONDS)

    def keep_instead(self, key: str, before: str | None, value: str) -> bool:
        """See `Served.keep_instead`."""

        def put(con: Connection) -> bool:
            if before is None:
                found = con.execute(KEEP_FIRST, [KEPT + key, value])
            else:
                found = con.execute(KEEP_INSTEAD, [value, KEPT + key, before])
            con.execute("COMMIT")
            return found.rowcount > 0

        return self._changed(put, LOCK_SECONDS)

    def all_kept(self) -> dict[str, str]:
        """See `Served.all_kept`."""
        asked = f"SELECT substr(key, {len(KEPT) + 1}), value FROM state WHERE key LIKE '{KEPT}%'"
        return dict(self._asked([asked], 60.0)[0].rows)

    # -- writing ----------------------------------------------------------------------------------------------

    def position(self, journal_id: str) -> int:
        """See `Store.position`."""
        key = quoted(f"journal:{journal_id}")
        rows = self._asked([f"SELECT value::bigint FROM state WHERE key = {key}"], 60.0)[0].rows
        self._reached[journal_id] = rows[0][0] if rows else 0
        return self._reached[journal_id]

    def data_version(self) -> int:
        """See `Store.data_version`; always even, as a version is seen together with what it brought."""
        asked = f"SELECT key, value FROM state WHERE key IN ('version', {quoted(NOTE)})"
        state = dict(self._asked([asked], 60.0)[0].rows)
        if not finished(state.get(NOTE)):
            raise unfinished_copy()
        self._seen = max(self._seen, version := int(state["version"]))
        return version

    def moment(self) -> tuple[int, str]:
        """See `Marked.moment`."""
        asked = "SELECT value FROM state WHERE key IN ('version', 'mark') ORDER BY key DESC"
        (version,), *mark = self._asked([asked], 60.0)[0].rows
        return int(version), mark[0][0] if mark else ""

    def write(self, work: Sequence[tuple[int, Batch]], journal_id: str) -> dict[int, Counter[str]]:
        """See `Store.write`."""
        moments = [row[AT["ts"]] for _, batch in work for row in batch.rows]
        return self._changed(partial(self._write, work, journal_id), WRITE_SECONDS, moments)

    def _write(self, work: Sequence[tuple[int, Batch]], journal_id: str, con: Connection) -> dict[int, Counter[str]]:
        writing, found = Writing(con, slack_us(self._settings)), Work(work)
        con.execute(f"{STAGING}; {SAMPLE_STAGING}")
        writing.stage(found)
        version = writing.lock()
        state = writing.state(f"journal:{journal_id}")
        self._check_position(journal_id, int(state.get(f"journal:{journal_id}", "0")), work[0][0])
        spans = writing.look_alive(work)
        writing.note_alive(spans)
        if not all(batch.only_beats for _, batch in work) or not all(change.quiet for change in spans):
            version = max(version, self._seen) + 2  # never one that was seen before a fall back (a lost primary)
            writing.write(found, version)
            _set_version(con, version)
        con.execute(SET_STATE, [f"journal:{journal_id}", str(work[-1][0])])
        con.execute("COMMIT")
        self._seen, self._reached[journal_id] = max(self._seen, version), work[-1][0]
        return found.told()

    def _check_position(self, journal_id: str, kept: int, first: int) -> None:
        """A commit whose answer was lost may have come through after the caller looked; a database that was restored,
        or whose standby took over, may have gone back."""
        if not self._reached.get(journal_id, 0) <= kept < first:
            raise StoreUnavailable(
                "the database is at another position of the journal than it was", code="store-moved",
                remedy="It goes on from there by itself.",
            )  # fmt: skip

    def change(self, statements: Sequence[str], timeout: float = 3_600.0) -> list[Table]:
        """See `Store.change`."""
        return self._changed(partial(self._change, statements), timeout)

    def _change(self, statements: Sequence[str], con: Connection) -> list[Table]:
        writing = Writing(con, slack_us(self._settings))
        version = max(writing.lock(), self._seen) + 2
        writing.state()
        tables = [_table(con, statement) for statement in statements]
        note_touched(con)
        _set_version(con, version)
        if self._alone is not None:
            self._alone.execute("SELECT 1")  # still held: a connection that broke has let go of its lock
        con.execute("COMMIT; DISCARD TEMP")
        self._seen = version
        return tables

    def checkpoint(self, *, compact: bool = False) -> None:
        """See `Store.checkpoint`; also folds the books and the spans, and bounds the quarantine."""

        def fold(con: Connection) -> None:
            writing = Writing(con, slack_us(self._settings))
            writing.lock()
            writing.state()
            writing.fold()
            con.execute("COMMIT")

        self._changed(fold, WRITE_SECONDS)
        with self._changes:
            try:
                with self._writing_connection() as con:
                    self._months.settle(con)
                    if compact:
                        compact_touched(con, self._address)
            except psycopg.Error as error:
                raise translated(error, writing=True) from error

    def _changed(self, run: Callable[[Connection], Answer], seconds: float, moments: Sequence[int] = ()) -> Answer:
        """Run a transaction on the connection that writes; `run` commits it. Again where it met another one."""
        words = partial(begin, self._address, reading=False, milliseconds=int(seconds * 1_000),
                        lock_milliseconds=int(LOCK_SECONDS * 1_000))  # fmt: skip
        careful = False
        with self._changes:
            for tries in count(1):
                try:
                    with self._writing_connection() as con, self._within(seconds + LOCK_SECONDS, con):
                        self._months.provide(con, moments)
                        con.execute(words(careful=careful))
                        return run(con)
                except BEYOND as error:
                    if careful:
                        raise translated(error, writing=True) from error
                    careful = True
                except MET as error:
                    if tries == TRIES:
                        raise translated(error, writing=True) from error
                    time.sleep(random.uniform(0.01, 0.1))  # a deadlock or a conflict: the others go first
                except psycopg.Error as error:
                    raise translated(error, writing=True) from error
        raise AssertionError

    def _within(self, seconds: float, con: Connection) -> AbstractContextManager[None]:
        return self._deadlines.limit(seconds + MERCY_SECONDS, partial(cut, con))

    @contextmanager
    def _writing_connection(self) -> Iterator[Connection]:
        """The connection that writes, afterwards without a transaction: what was not committed is undone."""
        if self._closed:
            raise EngineClosed("the store is closed", remedy="Open the engine again.")
        if self._writer is None or self._writer.closed:
            self._writer = connect(self._address)
        try:
            yield self._writer
        except BaseException:
            try:
                self._writer.execute("ROLLBACK")
            except (psycopg.Error, OSError):
                close(self._writer)
                self._writer = None
                self._asking.drop_idle()
            raise

    @contextmanager
    def alone(self) -> Iterator[None]:
        """See `Served.alone`. The lock is that of a transaction that does nothing else, so a pooler may be between."""
        con = connect(self._address)
        try:
            key = f"hashtextextended('gnomon upkeep {self._address.schema}', 0)"
            con.execute(f"BEGIN; {NO_BOUND}; {PATIENT}")
            con.execute(f"SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '{ALONE_SECONDS}s'; "
                        f"SELECT pg_advisory_xact_lock({key})")  # fmt: skip
        except psycopg.Error as error:
            close(con)
            raise translated(error, writing=True) from error
        try:
            self._alone = con
            yield
        finally:
            self._alone = None
            close(con)

    # -- copies -----------------------------------------------------------------------------------------------

    @contextmanager
    def reading(self) -> Iterator[Moment]:
        """See `Carrying.reading`; on a connection of its own."""
        con = connect(self._address)
        try:
            yield Moment(con, self._address)
        except psycopg.Error as error:
            raise translated(error, writing=True) from error
        finally:
            close(con)

    def fill(self, table: str, rows: Callable[[], Iterable[list[tuple[Any, ...]]]], first: Sequence[str],
             state: Mapping[str, str | None]) -> None:  # fmt: skip
        """See `Carrying.fill`. Events of a slice are in memory all at once, as their months are made before."""
        events = [row for part in rows() for row in part] if table == "events" else []

        def run(con: Connection) -> None:
            for statement in first:
                con.execute(statement)
            if first:
                note_touched(con)
            append(con, table, [events] if table == "events" else rows())
            note_months(con, events)
            for key, value in state.items():
                con.execute("DELETE FROM state WHERE key = %s", [key])
                if value is not None:
                    con.execute(SET_STATE, [key, value])
            if self._alone is not None:
                self._alone.execute("SELECT 1")  # still held, as in `change`
            con.execute("COMMIT")

        self._changed(run, FILL_SECONDS, moments_of(events))

    def settle(self, *, done: bool, compact: bool) -> None:
        """See `Carrying.settle`: what is committed is durable, so there is left to tell the planner of it."""
        with self._changes:
            try:
                with self._writing_connection() as con:
                    if done:
                        self._months.settle(con)
                    for table in TABLES if done else ():
                        con.execute(begin(self._address, reading=False, milliseconds=0))
                        con.execute(f"ANALYZE {table}; COMMIT")
                    if compact:
                        compact_touched(con, self._address)
            except psycopg.Error as error:
                raise translated(error, writing=True) from error

    @contextmanager
    def turn(self, name: str, period_us: int, now_us: int | None = None) -> Iterator[Turn | None]:
        """See `Turns.turn`."""
        if not self._asked([due(name, period_us, now_us)], 10.0)[0].rows[0][1]:
            yield None  # most looks find nothing to do, and need no connection of their own
            return
        with taken(self._address, name, period_us, now_us) as turn:
            yield turn

    def last_turn(self, name: str) -> int | None:
        """See `Turns.last_turn`."""
        rows = self._asked([f"SELECT value::bigint FROM state WHERE key = {quoted(PREFIX + name)}"], 10.0)[0].rows
        return int(rows[0][0]) if rows else None

    # -- asking -----------------------------------------------------------------------------------------------

    def ask(self, statements: Sequence[Statement], timeout: float) -> list[Table]:
        """See `Store.ask`."""
        return self._asked(statements, timeout)

    def _asked(self, statements: Sequence[Statement], timeout: float) -> list[Table]:
        words = partial(begin, self._address, reading=True, milliseconds=max(1, int(timeout * 1_000)))
        repeated: set[Any] = set()  # each once: what needs care, and a conflict with what a primary did meanwhile
        most, started = timeout * len(statements), time.monotonic()
        while True:
            with self._asking.one() as (con, kept):
                try:
                    with self._within(most, con):
                        con.execute(words(careful=BEYOND in repeated))
                        tables = [_table(con, statement) for statement in statements]
                        con.execute("COMMIT")
                        return tables
                except psycopg.Error as error:
                    lost = con.closed or isinstance(error, psycopg.errors.AdminShutdown)
                    with suppress(psycopg.Error):
                        con.execute("ROLLBACK")
                    if isinstance(error, psycopg.errors.QueryCanceled) or time.monotonic() - started > most:
                        raise _too_long(timeout) from error
                    why = next((kind for kind in (BEYOND, MET) if isinstance(error, kind)), None)
                    if why is not None and why not in repeated:
                        repeated.add(why)
                        continue
                    if not (lost and kept):
                        raise translated(error) from error
            self._asking.drop_idle()  # the database was restarted: every kept connection is dead

    def describe(self) -> dict[str, Any]:
        """See `Store.describe`."""
        return described(self.ask, self._found.schema)

    def disk_bytes(self) -> int:
        """See `Store.disk_bytes`."""
        return size_of(self.ask)

    def sizes(self) -> Sizes:
        """See `Store.sizes`."""
        return sizes(self.ask)

    def close(self) -> None:
        """See `Store.close`."""
        self._closed = True
        self._asking.close()
        self._deadlines.close()
        con, self._writer = self._writer, None
        if con is not None:
            close(con)


def _set_version(con: Connection, version: int) -> None:
    con.execute(SET_VERSION, [str(version), secrets.token_hex(8)])


def _too_long(timeout: float) -> QueryTimeout:
    return QueryTimeout(
        f"the question took longer than {timeout:g} s",
        remedy="Ask a shorter range or fewer dimensions, or raise query_timeout_seconds.",
    )


_REPEATED = map("gnomon_{}".format, count())


def _table(con: Connection, statement: Statement) -> Table:
    """Run one statement, and no second one hidden behind it."""
    if isinstance(statement, Repeated):
        # Kept for this one time, as the next transaction may be of another connection behind a pooler.
        name = next(_REPEATED)
        con.execute(f"PREPARE {name} AS {statement.text}")
        try:
            return _table(con, f"EXECUTE {name} ({', '.join(statement.values)})")
        finally:
            with suppress(psycopg.Error):  # not in a transaction that has failed: its connection keeps a name more
                con.execute(f"DEALLOCATE {name}")
    with con.cursor(binary=True) as cursor:
        cursor.execute(statement)
        if cursor.description is None:
            return Table(["Count"], [(cursor.rowcount,)])
        return Table([column.name for column in cursor.description], cursor.fetchall())
