"""Questions to a ClickHouse store: all statements of one see one moment, whatever is written or changed meanwhile."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from gnomon.errors import QueryTimeout, StoreUnavailable
from gnomon.store import Repeated, Sizes, Statement, Table
from gnomon.store.carrying import NOTE, finished, unfinished_copy
from gnomon.store.clickhouse.carrying import Moment
from gnomon.store.clickhouse.connecting import FAILED, Connection
from gnomon.store.clickhouse.deciding import Deciding
from gnomon.store.clickhouse.describing import described, parts_of, size_of, sizes
from gnomon.store.clickhouse.faults import TIMED_OUT, code_of, translated
from gnomon.store.clickhouse.ledger import (
    Head,
)
from gnomon.store.dialect_clickhouse import spoken

LOCK_SECONDS = 30.0  #: and a change for one of another process
FILL_SECONDS = 3_600.0  #: the longest that a statement of a copy may take
ASKED_AGAIN = 3  #: how often a question is asked again where changes came between; then changes wait for it
WAIT_SECONDS = 0.002  #: between two looks at a change that is carried out by another process


class Asking(Deciding):
    """What a store is asked."""

    def position(self, journal_id: str) -> int:
        """See `Store.position`."""
        with self._asked_for_state() as con:
            found = int(self._newest(con).state.get(f"journal:{journal_id}", "0"))
        self._reached[journal_id] = found
        return found

    def data_version(self) -> int:
        """See `Store.data_version`."""
        with self._asked_for_state() as con:
            head = self._newest(con)
        if not finished(head.state.get(NOTE)):
            raise unfinished_copy()
        return head.version

    @contextmanager
    def reading(self) -> Iterator[Moment]:
        """See `Carrying.reading`; whoever calls it keeps upkeep away, as a change takes the place of what is read. The
        moment is taken as a write is, so that no checkpoint is at work that has not seen this."""

        def begin(_: Connection, head: Head) -> Moment:
            settings = {**self._limited(FILL_SECONDS), **head.filters(self._address.database)}
            moment = Moment(con, settings, partial(self._moved, con, head))
            self._moments.add(moment)
            return moment

        with self._own_connection() as con:
            moment = self._changed(begin, LOCK_SECONDS)
            try:
                yield moment
            finally:
                self._moments.discard(moment)

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
