"""The ClickHouse store: in this process (`chdb://path`), or on a server (`clickhouse://...`); one code for both.

ClickHouse has no transactions that this could rest on. Rows of a write are not seen before its number is committed, and
a change is made beside the tables and then takes their place: see `ledger`, `changing` and docs/decisions/0031.
"""

from __future__ import annotations

import logging
import re
import secrets
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, TypeVar

from gnomon.config import Settings
from gnomon.errors import EngineClosed, GnomonError, QueryTimeout, StoreDamaged, StoreUnavailable
from gnomon.event import Batch
from gnomon.store import SUSPECT, Repeated, Sizes, Statement, Table, Turn
from gnomon.store.aliveness import slack_us
from gnomon.store.carrying import NOTE, finished, unfinished_copy
from gnomon.store.clickhouse import turns
from gnomon.store.clickhouse.address import address_of
from gnomon.store.clickhouse.carrying import Moment, columns_of
from gnomon.store.clickhouse.changing import Changing, carry_out, drop_leftovers
from gnomon.store.clickhouse.connecting import FAILED, Connection, Connections, Embedded, Remote, pool_of
from gnomon.store.clickhouse.describing import described, parts_of, size_of, sizes
from gnomon.store.clickhouse.faults import TIMED_OUT, code_of, translated
from gnomon.store.clickhouse.leases import UPKEEP, WRITING, Lease
from gnomon.store.clickhouse.ledger import (
    BURNT,
    CHANGE,
    CHANGES,
    MARK,
    VERSION,
    WRITER,
    Head,
    put_state,
    read_head,
)
from gnomon.store.clickhouse.mending import damaged_tables, detached, mark_of, set_aside
from gnomon.store.clickhouse.opening import opened, session
from gnomon.store.clickhouse.tidying import tidy
from gnomon.store.clickhouse.writing import Writing
from gnomon.store.dialect_clickhouse import CLICKHOUSE, spoken
from gnomon.store.work import Work

log = logging.getLogger("gnomon.store.clickhouse")

Answer = TypeVar("Answer")

ALONE_SECONDS = 60.0  #: how long upkeep waits for that of another process
LOCK_SECONDS = 30.0  #: and a change for one of another process
KEPT = "kept:"  #: of the keys of the state that hold what every process has to know
WRITE_SECONDS = 300.0  #: the longest that one statement of a write may take
ASKED_AGAIN = 3  #: how often a question is asked again where changes came between; then changes wait for it
FILL_SECONDS = 3_600.0  #: the longest that a statement of a copy may take
WAIT_SECONDS = 0.002  #: between two looks at a change that is carried out by another process


class ClickHouseStore:
    """See `gnomon.store.Store`. `url` is `chdb://path?database=gnomon`, or `clickhouse://user:password@host/database`."""

    dialect = CLICKHOUSE

    def __init__(self, url: str, settings: Settings) -> None:
        self._address = address_of(url)
        self._settings = settings
        self._slack_us = slack_us(settings)
        self._pool = pool_of(self._address)
        self._session = session(self._address, settings)
        self._changes = threading.RLock()  # of the one connection that writes
        self._writer: Connection | None = None
        self._me = uuid.uuid4().hex  #: who writes, in the log of states
        self._failed: int | None = None  #: a number whose rows must never be seen, and which is not burnt yet
        self._reached: dict[str, int] = {}  #: positions that this process has seen committed
        self._head: Head | None = None
        self._closed = False
        file = self._address.file
        self._mark = None if file is None else mark_of(file)  #: of damage; a server mends its parts itself
        self._asking = Connections(self._connect, settings.database_connections)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _connect(self) -> Connection:
        if self._address.path is not None:
            return Embedded(self._address.path)
        return Remote(self._address, self._pool)

    def _open(self) -> None:
        with self._writing_connection() as con:
            self._opened(con)

    def _opened(self, con: Connection) -> None:
        self._found = opened(con, self._address, self._session)
        self.store_id = self._found.store_id
        self._settle(con, read_head(con, self._session))
        if self._mark is not None:
            self._mend(con, self._mark)

    # -- damage -----------------------------------------------------------------------------------------------

    def _mend(self, con: Connection, mark: Path) -> None:
        """Carry over what can be read of damaged parts; the mark stays until `put_back` was there."""
        plain, database = self._limited(3_600.0), self._address.database
        if detached(con, plain, database):  # by ClickHouse, which does not load what is not complete
            mark.touch()
        if not mark.exists():
            return
        tables = damaged_tables(con, plain)
        if tables:
            head = self._ready(con)
            self._change(con, head, [], head.version + 2, 3_600.0, tables, mend=True)
        set_aside(mark.with_name(mark.name.removesuffix(SUSPECT)), detached(con, plain, database))

    @property
    def damaged(self) -> bool:
        """See `Mending.damaged`."""
        return self._mark is not None and self._mark.exists()

    def put_back(self, work: Sequence[tuple[int, Batch]]) -> int:
        """See `Mending.put_back`."""

        def put(con: Connection, head: Head) -> int:
            batch, found = head.committed + 1, Work(work)
            settings = {**self._limited(WRITE_SECONDS), **head.filters(self._address.database)}
            with self._or_burn(batch):
                n = Writing(con, settings, self._found.kinds, batch).put_back(found, head.version + 2)
                self._commit(con, batch, {VERSION: str(head.version + 2)})
            return n

        return self._changed(put, WRITE_SECONDS)

    def mended(self) -> None:
        """See `Mending.mended`."""
        if self._mark is not None:
            self._mark.unlink(missing_ok=True)

    def _noted(self, error: GnomonError) -> GnomonError:
        """Damage leaves a mark, so that the next opening looks at every block."""
        if isinstance(error, StoreDamaged) and self._mark is not None:
            with suppress(OSError):
                self._mark.touch()
        return error

    def _settle(self, con: Connection, head: Head, *, lost: bool = True) -> Head:
        """Carry out a change that was committed, and remove what others left; `lost` where its maker may be gone."""
        if head.pending:
            self._head = head
            self._carry_out(con, head)
            done = head.committed + (2 if lost else 1)
            entries = {CHANGE: "", CHANGES: str(done)}
            if lost:
                entries[f"{BURNT}{head.committed + 1}"] = "1"  # its maker may have gone on to it
            put_state(con, entries, done, self._session)
            head = read_head(con, self._session)
        self._head = head
        self._drop_leftovers(con, head)
        return head

    def _carry_out(self, con: Connection, head: Head) -> None:
        carry_out(con, self._limited(WRITE_SECONDS), self._address.database, head.pending)

    def _drop_leftovers(self, con: Connection, head: Head) -> None:
        drop_leftovers(con, self._limited(3_600.0), self._address.database)

    def _changing(self, con: Connection, head: Head, timeout: float, batch: int) -> Changing:
        return Changing(con, self._limited(timeout), head, self._address.database, batch, self._found.kinds)

    def _tidied(self, con: Connection, head: Head, *, compact: bool) -> tuple[list[str], list[str]]:
        settings = {**self._limited(3_600.0), **head.filters(self._address.database)}
        plain = {**settings, "additional_table_filters": "{}"}
        return tidy(con, settings, plain, head, self._slack_us, compact=compact, address=self._address)

    # -- writing ----------------------------------------------------------------------------------------------

    def position(self, journal_id: str) -> int:
        """See `Store.position`."""
        with self._asked_for_state() as con:
            found = int(self._newest(con).state.get(f"journal:{journal_id}", "0"))
        self._reached[journal_id] = found
        return found

    def data_version(self) -> int:
        """See `Store.data_version`."""
        with self._asked_for_state() as con:
            return self._newest(con).version

    def write(self, work: Sequence[tuple[int, Batch]], journal_id: str) -> dict[int, Counter[str]]:
        """See `Store.write`."""
        return self._changed(lambda con, head: self._write(con, head, work, journal_id), WRITE_SECONDS)

    def _write(self, con: Connection, head: Head, work: Sequence[tuple[int, Batch]],
               journal_id: str) -> dict[int, Counter[str]]:  # fmt: skip
        key, batch, found = f"journal:{journal_id}", head.committed + 1, Work(work)
        if not finished(head.state.get(NOTE)):
            raise unfinished_copy()
        self._check_position(journal_id, int(head.state.get(key, "0")), work[0][0])
        settings = {**self._limited(WRITE_SECONDS), **head.filters(self._address.database)}
        writing = Writing(con, settings, self._found.kinds, batch)
        entries = {key: str(work[-1][0])}
        spans = writing.look_alive(work, self._slack_us)
        with self._or_burn(batch):
            writing.note_alive(spans)
            if not all(each.only_beats for _, each in work) or not all(change.quiet for change in spans):
                entries[VERSION] = str(head.version + 2)
                writing.write(found, head.version + 2)
            self._commit(con, batch, entries)
        self._reached[journal_id] = work[-1][0]
        return found.told()

    def _check_position(self, journal_id: str, kept: int, first: int) -> None:
        """A commit whose answer was lost may have come through after the caller looked; a database that was restored
        may have gone back."""
        if not self._reached.get(journal_id, 0) <= kept < first:
            raise StoreUnavailable(
                "the database is at another position of the journal than it was", code="store-moved",
                remedy="It goes on from there by itself.",
            )  # fmt: skip

    # -- copies -----------------------------------------------------------------------------------------------

    @contextmanager
    def reading(self) -> Iterator[Moment]:
        """See `Carrying.reading`; whoever calls it keeps upkeep away, as a change takes the place of what is read."""
        with self._asking.one() as con:
            head = self._quiet(con, LOCK_SECONDS)
            yield Moment(con, {**self._limited(FILL_SECONDS), **head.filters(self._address.database)})

    def fill(self, table: str, rows: Callable[[], Iterable[list[tuple[Any, ...]]]], first: Sequence[str],
             state: Mapping[str, str | None]) -> None:  # fmt: skip
        """See `Carrying.fill`: a change where rows are removed, then rows and state under one number."""

        def remove(con: Connection, head: Head) -> None:
            self._change(con, head, first, head.version, FILL_SECONDS)

        def put(con: Connection, head: Head) -> None:
            found = [row for part in rows() for row in part]
            with self._or_burn(head.committed + 1):
                if found:
                    settings = self._limited(FILL_SECONDS)
                    Writing(con, settings, self._found.kinds, head.committed + 1).put(table, columns_of(table, found))
                self._commit(con, head.committed + 1, {key: value or "" for key, value in state.items()})

        if first:
            self._changed(remove, FILL_SECONDS)
        self._changed(put, FILL_SECONDS)

    def settle(self, *, done: bool, compact: bool) -> None:
        """See `Carrying.settle`: every insert is durable, and what a change removed went with its table."""

    def change(self, statements: Sequence[str], timeout: float = 3_600.0) -> list[Table]:
        """See `Store.change`."""
        return self._changed(lambda con, head: self._change(con, head, statements, head.version + 2, timeout), timeout)

    def _change(self, con: Connection, head: Head, statements: Sequence[str], version: int,
                timeout: float, anew: Sequence[str] = (), *, mend: bool = False) -> list[Table]:  # fmt: skip
        batch = head.committed + 1
        changing = self._changing(con, head, timeout, batch)
        try:
            tables = changing.mend(anew) if mend else changing.run(statements, anew)
            note = changing.noted()
        except BaseException:
            changing.drop()
            raise
        with self._or_burn(batch):
            self._check_alone(con, UPKEEP)
            self._commit(con, batch, {CHANGE: note, VERSION: str(version), **changing.entries()})
        self._settle(con, self._newest(con), lost=False)
        return tables

    def checkpoint(self, *, compact: bool = False) -> None:
        """See `Store.checkpoint`; also folds the books and the spans, and bounds the quarantine."""

        def run(con: Connection, head: Head) -> None:
            statements, anew = self._tidied(con, head, compact=compact)
            if statements or anew:
                self._change(con, head, statements, head.version, 3_600.0, anew)
            self._head = read_head(con, self._session)  # without what was folded

        self._changed(run, 3_600.0)

    def _changed(self, run: Callable[[Connection, Head], Answer], seconds: float) -> Answer:
        """Run what writes, with the store's lock, at a moment that nobody else can move."""
        with self._changes:
            try:
                with self._writing_connection() as con, self._alone_in_the_database(con):
                    return run(con, self._ready(con))
            except QueryTimeout:
                raise
            except FAILED as error:
                raise self._noted(self._in_words(error, seconds)) from error

    @staticmethod
    def _in_words(error: Exception, seconds: float) -> GnomonError:
        found = translated(error, writing=True)
        if isinstance(found, QueryTimeout):
            return StoreUnavailable(
                f"a statement took longer than {seconds:g} s", remedy="It is tried again by itself.", code="store-slow"
            )
        return found

    def _ready(self, con: Connection) -> Head:
        """The newest moment; numbers that were lost are burnt, and a change that was cut short is carried out."""
        head = self._newest(con)
        if head.pending:
            head = self._settle(con, head)
        lost = self._failed
        if lost is not None and lost <= head.committed:  # decided meanwhile, by us or by who came next
            lost = self._failed = None
        if lost is None and head.state.get(WRITER) != self._me:
            lost = head.committed + 1  # whoever wrote before may have put rows under the next number
        if lost is not None:
            head = self._burn(con, head, lost)
        return head

    def _burn(self, con: Connection, head: Head, number: int) -> Head:
        """Make sure that rows of a number are never seen, also those that land later; unless it was committed."""
        if number > head.committed:
            self._check_alone(con)
            put_state(con, {f"{BURNT}{number}": "1", WRITER: self._me}, number + 1, self._session)
            head = read_head(con, self._session)
            rows = con.run(f"SELECT 1 FROM state_log WHERE batch = {number}", self._plain()).rows
            if rows:  # the commit came just before: its writer may have been told so
                put_state(con, {f"{BURNT}{number}": "0", WRITER: self._me}, head.committed + 1, self._session)
                head = read_head(con, self._session)
        self._failed, self._head = None, head
        return head

    @contextmanager
    def _or_burn(self, batch: int) -> Iterator[None]:
        """Where the block fails, nobody knows what of it has landed: the number is given up."""
        try:
            yield
        except BaseException:
            self._failed, self._head = batch, None  # the commit itself may have landed
            raise

    def _commit(self, con: Connection, batch: int, entries: dict[str, str]) -> None:
        entries = {**entries, WRITER: self._me}
        if VERSION in entries:
            entries[MARK] = secrets.token_hex(8)
        known = self._head
        self._check_alone(con)
        put_state(con, entries, batch, self._limited(WRITE_SECONDS))
        if known is not None and self._address.path is not None:  # nobody else writes
            self._head = known.followed_by(batch, entries)
            return
        head = read_head(con, self._session)
        if batch in head.burnt:
            raise StoreUnavailable(
                "another process took this write for lost", code="store-moved", remedy="It is tried again by itself."
            )
        self._head = head

    def _limited(self, seconds: float) -> dict[str, str | int | float]:
        return {**self._session, "max_execution_time": max(0.001, seconds), "additional_table_filters": "{}"}

    def _plain(self) -> dict[str, str | int | float]:
        return self._limited(60.0)

    def _alone_in_the_database(self, con: Connection) -> Any:
        """While no other process changes the database; of an embedded one there is none."""
        return nullcontext()

    def _check_alone(self, con: Connection, name: str = WRITING) -> None:
        """Raise where another process has taken this one for lost."""

    @contextmanager
    def _writing_connection(self) -> Iterator[Connection]:
        if self._closed:
            raise EngineClosed("the store is closed", remedy="Open the engine again.")
        if self._writer is None:
            self._writer = self._connect()
        try:
            yield self._writer
        except BaseException:
            con, self._writer = self._writer, None
            if con is not None and self._address.path is None:
                with suppress(*FAILED):
                    con.close()
            else:
                self._writer = con  # the engine is in this process: a statement that failed is over
            raise

    # -- asking -----------------------------------------------------------------------------------------------

    def _newest(self, con: Connection | None) -> Head:
        """The newest moment; of an embedded store, which nobody else changes, it is known but after a fault."""
        head = self._head
        if head is not None and self._address.path is not None:
            return head
        if con is None:
            with self._asking.one() as own:
                return self._newest(own)
        self._head = head = read_head(con, self._plain())
        return head

    @contextmanager
    def _asked_for_state(self) -> Iterator[Any]:
        """A connection, where one is needed to know the newest moment."""
        if self._closed:
            raise EngineClosed("the store is closed", remedy="Open the engine again.")
        if self._address.path is not None:
            yield None
            return
        try:
            with self._asking.one() as con:
                yield con
        except FAILED as error:
            raise translated(error, writing=True) from error

    def ask(self, statements: Sequence[Statement], timeout: float) -> list[Table]:
        """See `Store.ask`."""
        texts = [spoken(_plain_text(statement)) for statement in statements]
        for _ in range(ASKED_AGAIN):
            found = self._try(texts, timeout)
            if found is not None:
                return found
        # Changes follow upon each other faster than this question is answered.
        found = self._changed(lambda con, head: self._try(texts, timeout), timeout)
        if found is None:
            raise StoreUnavailable("the store is being changed all the time", remedy="Ask again in a moment.")
        return found

    def _try(self, texts: Sequence[str], timeout: float) -> list[Table] | None:
        """The answers of one moment; None where a change came between."""
        try:
            with self._asking.one() as con:
                head = self._quiet(con, timeout)
                limits = {**self._limited(timeout), **head.filters(self._address.database)}
                try:
                    tables = [con.run(text, limits) for text in texts]
                except FAILED:
                    if self._moved(con, head):
                        return None
                    raise
                return None if self._moved(con, head) else tables
        except FAILED as error:
            if code_of(error) == TIMED_OUT or isinstance(error, TimeoutError):
                raise _too_long(timeout) from error
            raise self._noted(translated(error)) from error

    def _quiet(self, con: Connection, timeout: float) -> Head:
        """A moment at which no change is half way in."""
        until = time.monotonic() + timeout
        while (head := self._newest(con)).pending:
            if time.monotonic() > until:
                raise _too_long(timeout)
            time.sleep(WAIT_SECONDS)
        return head

    def _moved(self, con: Connection, head: Head) -> bool:
        now = self._newest(con)
        return bool(now.pending) or now.changes != head.changes

    def describe(self) -> dict[str, Any]:
        """See `Store.describe`."""
        found = described(self.ask, self._address.database, self._found.schema)
        if not found["readable"] and self._mark is not None:
            self._mark.touch()
        return found

    def _parts(self) -> str:
        return parts_of(self._address.database)

    def disk_bytes(self) -> int:
        """See `Store.disk_bytes`."""
        return size_of(self.ask, self._parts())

    def sizes(self) -> Sizes:
        """See `Store.sizes`."""
        return sizes(self.ask, self._parts())

    def close(self) -> None:
        """See `Store.close`."""
        self._closed = True
        self._asking.close()
        with self._changes:
            con, self._writer = self._writer, None
            if con is not None:
                with suppress(*FAILED):
                    con.close()


class ServedClickHouse(ClickHouseStore):
    """The same on a server; see also `gnomon.store.Served`, `Turns` and `Marked`."""

    def __init__(self, url: str, settings: Settings) -> None:
        self._leases: dict[str, Lease] = {}  #: what this process holds, or held until somebody took it for lost
        super().__init__(url, settings)

    def is_used(self) -> bool:
        """See `Served.is_used`."""
        with self._asked_for_state() as con:
            return any(key.startswith("journal:") for key in self._newest(con).state)

    def keep(self, key: str, value: str) -> None:
        """See `Served.keep`."""

        self._put(KEPT + key, value)

    def _put(self, key: str, value: str, check: Callable[[Connection], None] = lambda _: None) -> None:
        def put(con: Connection, head: Head) -> None:
            check(con)
            with self._or_burn(head.committed + 1):
                self._commit(con, head.committed + 1, {key: value})

        self._changed(put, WRITE_SECONDS)

    def all_kept(self) -> dict[str, str]:
        """See `Served.all_kept`."""
        with self._asked_for_state() as con:
            state = self._newest(con).state
        return {key.removeprefix(KEPT): value for key, value in state.items() if key.startswith(KEPT)}

    @contextmanager
    def alone(self) -> Iterator[None]:
        """See `Served.alone`."""
        lease = Lease(UPKEEP, self._connect, self._session)
        try:
            with self._asking.one() as con, lease.held(con, ALONE_SECONDS), self._holding(lease):
                yield
        except FAILED as error:
            raise translated(error, writing=True) from error

    @contextmanager
    def _holding(self, lease: Lease) -> Iterator[None]:
        self._leases[lease.name] = lease
        try:
            yield
        finally:
            del self._leases[lease.name]

    @contextmanager
    def turn(self, name: str, period_us: int, now_us: int | None = None) -> Iterator[Turn | None]:
        """See `Turns.turn`."""

        def look(con: Connection) -> int | None:
            known = read_head(con, self._session).state.get(turns.PREFIX + name)
            return turns.due(con, self._plain(), known, period_us, now_us)

        with self._asked_for_state() as asking:
            found = look(asking)
        if found is None:
            yield None  # most looks find nothing to do, and need no connection of their own
            return
        con = self._connect()
        claim = turns.claim_of(name, self._connect, self._session)
        try:
            with ExitStack() as taken:
                try:
                    turn = taken.enter_context(turns.taken(con, name, claim, look, self._put))
                except FAILED as error:
                    raise translated(error, writing=True) from error
                yield turn
        finally:
            with suppress(*FAILED):
                con.close()

    def moment(self) -> tuple[int, str]:
        """See `Marked.moment`."""
        with self._asked_for_state() as con:
            head = self._newest(con)
        return head.version, head.state.get(MARK, "")

    def _open(self) -> None:
        with self._writing_connection() as con:
            try:
                known = {name for (name,) in con.run("SELECT name FROM system.settings", {"database": "default"}).rows}
                self._session = {name: value for name, value in self._session.items() if name in {*known, "database"}}
                con.run(f"CREATE DATABASE IF NOT EXISTS {self._address.database}", {"database": "default"})
                with self._alone_in_the_database(con):
                    self._opened(con)
            except FAILED as error:
                raise translated(error, writing=True) from error

    @contextmanager
    def _alone_in_the_database(self, con: Connection) -> Iterator[None]:
        lease = Lease(WRITING, self._connect, self._session)
        with lease.held(con, LOCK_SECONDS), self._holding(lease):
            yield

    def _check_alone(self, con: Connection, name: str = WRITING) -> None:
        if lease := self._leases.get(name):
            lease.check(con)


def _plain_text(statement: Statement) -> str:
    """A statement with its values in it."""
    if not isinstance(statement, Repeated):
        return statement
    return re.sub(r"\$(\d+)", lambda found: statement.values[int(found[1]) - 1], statement.text)


def _too_long(timeout: float) -> QueryTimeout:
    return QueryTimeout(
        f"the question took longer than {timeout:g} s",
        remedy="Ask a shorter range or fewer dimensions, or raise query_timeout_seconds.",
    )
