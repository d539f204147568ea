"""What is committed, and by whom: the connection that writes, and the numbers that it decides (see `ledger`).

Nobody puts rows under a number before the one ahead of it was decided by this process; what failed is burnt first.
"""

from __future__ import annotations

import secrets
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, TypeVar

from gnomon.config import Settings
from gnomon.errors import EngineClosed, GnomonError, QueryTimeout, StoreDamaged, StoreUnavailable
from gnomon.store.aliveness import slack_us
from gnomon.store.clickhouse.address import address_of
from gnomon.store.clickhouse.carrying import Moment
from gnomon.store.clickhouse.changing import carry_out, drop_leftovers
from gnomon.store.clickhouse.connecting import FAILED, Connection, Connections, Embedded, Remote, pool_of
from gnomon.store.clickhouse.faults import translated
from gnomon.store.clickhouse.leases import WRITING
from gnomon.store.clickhouse.ledger import (
    BURNT,
    CHANGE,
    CHANGES,
    MARK,
    VERSION,
    WRITER,
    Head,
    burn_lost,
    put_state,
    read_head,
)
from gnomon.store.clickhouse.mending import mark_of
from gnomon.store.clickhouse.opening import Found, session

Answer = TypeVar("Answer")

WRITE_SECONDS = 300.0  #: the longest that one statement of a write may take
BURN_TRIES = 3  #: how often a number may be decided by one that was taken for lost, right before it is burnt


class Deciding:
    """The base of a store: its newest moment, and how that is moved on. `url` is that of the store."""

    _found: Found

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
        self._moments: set[Moment] = set()  #: that are being read
        self._closed = False
        file = self._address.file
        self._mark = None if file is None else mark_of(file)  #: of damage; a server mends its parts itself
        self._asking = Connections(self._connect, settings.database_connections)

    def _connect(self) -> Connection:
        if self._address.path is not None:
            return Embedded(self._address.path)
        return Remote(self._address, self._pool)

    def _limited(self, seconds: float) -> dict[str, str | int | float]:
        return {**self._session, "max_execution_time": max(0.001, seconds), "additional_table_filters": "{}"}

    def _plain(self) -> dict[str, str | int | float]:
        return self._limited(60.0)

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

    @contextmanager
    def _own_connection(self) -> Iterator[Connection]:
        """One for what lasts, so that none of the questions waits for it."""
        if self._closed:
            raise EngineClosed("the store is closed", remedy="Open the engine again.")
        con = self._connect()
        try:
            yield con
        finally:
            with suppress(*FAILED):
                con.close()

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

    def _alone_in_the_database(self, con: Connection) -> Any:
        """While no other process changes the database; of an embedded one there is none."""
        return nullcontext()

    def _check_alone(self, con: Connection, name: str = WRITING) -> None:
        """Raise where another process has taken this one for lost."""

    def _is_read(self, con: Connection) -> bool:
        """Whether a moment is being read, so that rows of it must not become others."""
        return bool(self._moments)

    def _changed(self, run: Callable[[Connection, Head], Answer], seconds: float) -> Answer:
        """Run what writes, with the store's lock, at a moment that nobody else can move."""
        with self._changes:
            try:
                with self._writing_connection() as con, self._alone_in_the_database(con):
                    return run(con, self._ready(con))
            except QueryTimeout:
                raise
            except FAILED as error:
                raise self._noted(translated(error, writing=True, seconds=seconds)) from error

    def _noted(self, error: GnomonError) -> GnomonError:
        """Damage leaves a mark, so that the next opening looks at every block."""
        if isinstance(error, StoreDamaged) and self._mark is not None:
            with suppress(OSError):
                self._mark.touch()
        return error

    def _ready(self, con: Connection) -> Head:
        """The newest moment; numbers that were lost are burnt, and a change that was cut short is carried out."""
        head = self._newest(con)
        if head.pending:
            head = self._settle(con, head)
        if self._failed is not None and self._failed > head.committed:
            head = self._burn(con, self._failed)
        self._failed = None  # or decided meanwhile, by us or by who came next
        for _ in range(BURN_TRIES):
            if head.author == self._me:
                return head
            head = self._burn(con, head.committed + 1)  # whoever wrote before may have put rows under it
        raise overtaken()

    def _burn(self, con: Connection, number: int) -> Head:
        """Make sure that rows of a number are never seen, also those that land later; unless it was committed."""
        self._check_alone(con)
        put_state(con, {f"{BURNT}{number}": self._me}, number, self._session)
        head = read_head(con, self._session)
        if head.committed < number:
            self._check_alone(con)
            burn_lost(con, head, number, self._me, self._session)
            head = read_head(con, self._session)
            if head.committed < number:
                raise overtaken()
        self._head = head
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
        self._check_alone(con)
        put_state(con, entries, batch, self._limited(WRITE_SECONDS))
        head = read_head(con, self._session)
        if head.authors.get(batch) != self._me or batch in head.burnt:
            raise overtaken()
        self._head = head

    def _settle(self, con: Connection, head: Head) -> Head:
        """Carry out a change that was committed, also one whose maker is gone, and remove what others left."""
        while head.pending:
            self._head = head
            self._carry_out(con, head)
            done = head.committed + 1  # which its maker, if it is still there, would decide in the same way
            put_state(con, {CHANGE: "", CHANGES: str(done), WRITER: self._me}, done, self._session)
            head = read_head(con, self._session)
            if head.committed < done:
                head = self._burn(con, done)  # so the next one says it
        self._head = head
        self._drop_leftovers(con, head)
        return head

    def _carry_out(self, con: Connection, head: Head) -> None:
        def check() -> None:
            self._check_alone(con)

        carry_out(con, self._limited(WRITE_SECONDS), self._address.database, head.pending, check)

    def _drop_leftovers(self, con: Connection, head: Head) -> None:
        drop_leftovers(con, self._limited(3_600.0), self._address.database)

    def close(self) -> None:
        """See `Store.close`."""
        self._closed = True
        self._asking.close()
        with self._changes:
            con, self._writer = self._writer, None
            if con is not None:
                with suppress(*FAILED):
                    con.close()


def overtaken() -> StoreUnavailable:
    return StoreUnavailable(
        "another process took this write for lost", code="store-moved", remedy="It is tried again by itself."
    )
