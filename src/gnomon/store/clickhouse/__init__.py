"""The ClickHouse store: in this process (`chdb://path`), or on a server (`clickhouse://...`); one code for both.

ClickHouse has no transactions that this could rest on. Rows of a write are not seen before its number is committed, and
a change is made beside the tables and then takes their place: see `ledger`, `changing` and docs/decisions/0031.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gnomon.config import Settings
from gnomon.errors import StoreUnavailable
from gnomon.event import Batch
from gnomon.store import SUSPECT, Table
from gnomon.store.carrying import NOTE, finished, unfinished_copy
from gnomon.store.clickhouse.asking import FILL_SECONDS, Asking
from gnomon.store.clickhouse.carrying import columns_of, gathered
from gnomon.store.clickhouse.changing import Changing
from gnomon.store.clickhouse.connecting import Connection
from gnomon.store.clickhouse.deciding import WRITE_SECONDS
from gnomon.store.clickhouse.leases import UPKEEP
from gnomon.store.clickhouse.ledger import (
    CHANGE,
    VERSION,
    Head,
    read_head,
)
from gnomon.store.clickhouse.losses import check_notes, lost_parts, settling
from gnomon.store.clickhouse.mending import damaged_tables, detached, set_aside
from gnomon.store.clickhouse.opening import opened
from gnomon.store.clickhouse.tidying import tidy
from gnomon.store.clickhouse.writing import Writing
from gnomon.store.dialect_clickhouse import CLICKHOUSE, spoken
from gnomon.store.work import Work


class ClickHouseStore(Asking):
    """See `gnomon.store.Store`. `url` is `chdb://path?database=gnomon`, or `clickhouse://user:password@host/database`."""

    dialect = CLICKHOUSE
    bulk = 3  # each write makes parts, which are merged later

    def __init__(self, url: str, settings: Settings) -> None:
        super().__init__(url, settings)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        with self._writing_connection() as con:
            self._opened(con)

    def _opened(self, con: Connection) -> None:
        self._found = opened(con, self._address, self._session)
        self.store_id = self._found.store_id
        self._settle(con, read_head(con, self._session))
        if self._mark is not None:
            self._mend(con, self._mark)

    def _mend(self, con: Connection, mark: Path) -> None:
        """Carry over what can be read of damaged parts, and settle what was made of lost rows; the mark stays until
        `put_back` was there. What is cut short is found again by the parts that still lie beside the tables."""
        plain, database = self._limited(3_600.0), self._address.database
        if detached(con, plain, database):  # by ClickHouse, which does not load what is not complete
            mark.touch()
        if not mark.exists():
            return
        tables = damaged_tables(con, plain)
        check_notes({*tables, *lost_parts(con, plain, database).tables}, self._asked(con))
        if tables:
            head = self._ready(con)
            self._change(con, head, [], head.version + 2, 3_600.0, tables, mend=True)
        statements = settling(lost_parts(con, plain, database), self._asked(con))
        if statements:
            head = self._ready(con)
            self._change(con, head, statements, head.version + 2)
        set_aside(mark.with_name(mark.name.removesuffix(SUSPECT)), detached(con, plain, database))

    def _asked(self, con: Connection) -> Callable[[str], list[tuple[Any, ...]]]:
        """What asks of the newest moment on a connection."""
        settings = {**self._limited(3_600.0), **self._newest(con).filters(self._address.database)}
        return lambda text: con.run(spoken(text), settings).rows

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

    def change(self, statements: Sequence[str], timeout: float = 3_600.0) -> list[Table]:
        """See `Store.change`."""
        return self._changed(lambda con, head: self._change(con, head, statements, head.version + 2, timeout), timeout)

    def _change(self, con: Connection, head: Head, statements: Sequence[str], version: int,
                timeout: float = 3_600.0, anew: Sequence[str] = (), *, mend: bool = False) -> list[Table]:  # fmt: skip
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
        self._settle(con, self._newest(con))
        return tables

    def _changing(self, con: Connection, head: Head, timeout: float, batch: int) -> Changing:
        return Changing(con, self._limited(timeout), head, self._address.database, batch, self._found.kinds)

    def checkpoint(self, *, compact: bool = False) -> None:
        """See `Store.checkpoint`; also folds the books and the spans, and bounds the quarantine, while no copy or
        backup reads the store: what is folded has no number, so an earlier moment would see it."""

        def run(con: Connection, head: Head) -> None:
            statements, anew = self._tidied(con, head, compact=compact)
            if (statements or anew) and not self._is_read(con):
                self._change(con, head, statements, head.version, 3_600.0, anew)
            self._head = read_head(con, self._session)  # without what was folded

        self._changed(run, 3_600.0)

    def _tidied(self, con: Connection, head: Head, *, compact: bool) -> tuple[list[str], list[str]]:
        settings = {**self._limited(3_600.0), **head.filters(self._address.database)}
        plain = {**settings, "additional_table_filters": "{}"}
        return tidy(con, settings, plain, head, self._slack_us, compact=compact, address=self._address)

    def fill(self, table: str, rows: Callable[[], Iterable[list[tuple[Any, ...]]]], first: Sequence[str],
             state: Mapping[str, str | None]) -> None:  # fmt: skip
        """See `Carrying.fill`: a change where rows are removed, then rows and state under one number."""

        def remove(con: Connection, head: Head) -> None:
            self._change(con, head, first, head.version, FILL_SECONDS)

        def put(con: Connection, head: Head) -> None:
            writing = Writing(con, self._limited(FILL_SECONDS), self._found.kinds, head.committed + 1)
            with self._or_burn(head.committed + 1):
                for n, found in enumerate(gathered(rows())):
                    writing.put(table, columns_of(table, found), n)
                self._commit(con, head.committed + 1, {key: value or "" for key, value in state.items()})

        if first:
            self._changed(remove, FILL_SECONDS)
        self._changed(put, FILL_SECONDS)

    def settle(self, *, done: bool, compact: bool) -> None:
        """See `Carrying.settle`: every insert is durable, and what a change removed went with its table."""
