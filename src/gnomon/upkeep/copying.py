"""Carrying a whole store into another one: one moment of the source, slice by slice, verified by every value.

Each slice and the note of it are one transaction of the destination, so a copy that was cut short goes on behind the
last one. What a copy of an earlier moment brought is compared with the source slice by slice, and carried again where
it differs. The copy counts once both stores were read from end to end and hold the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gnomon.config import Settings
from gnomon.errors import InvalidValue, StoreDamaged, StoreUnavailable
from gnomon.store import Carrying, Reading, Served, Store
from gnomon.store.aliveness import slack_us
from gnomon.store.carrying import TABLES, Carried, CopyNote, Slice, put_note, slices, version_of
from gnomon.upkeep.backup import WAIT_SECONDS
from gnomon.upkeep.comparing import Comparison, compare, counted, digest, whole
from gnomon.upkeep.destination import Destination, begin, entry_of, open_destination

if TYPE_CHECKING:
    from gnomon.ingest.hold import Hold

SETTLE_ROWS = 500_000  #: so many rows at the most are carried again after a crash of an embedded destination,
SETTLE_SECONDS = 15.0  #: or what came in so long


@dataclass(frozen=True, slots=True)
class CopyProgress:
    """How far a copy is: `step` is `copying` or `verifying`; `rows` of `total` are done, in all tables. What a restore
    does before that has no rows."""

    step: str
    table: str
    rows: int
    total: int


@dataclass(frozen=True)
class CopyOrder:
    """What is asked for: the settings of the destination, when it is, the version of Gnomon, who is told."""

    settings: Settings
    project: str
    now: datetime
    release: str
    told: Callable[[CopyProgress], None]
    verify_only: bool = False


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy is. `tables` are rows and hash by table of the source, `differing` the tables that are not the same
    in the copy (after a copy there are none), `carried` the rows that this run brought, `resumed` whether it went on
    with one begun before, `newer` whether something was recorded into the source since the moment of the copy."""

    tables: dict[str, tuple[int, str]]
    differing: list[str]
    carried: int
    resumed: bool
    newer: bool
    version: int
    seconds: float
    found: dict[str, tuple[int, str]] = field(default_factory=dict)  #: as `tables`, of the copy

    @property
    def same(self) -> bool:
        """Whether source and copy hold the same."""
        return not self.differing


@dataclass(frozen=True)
class Taken:
    """One moment of the source."""

    reading: Reading
    version: int
    seen: int  #: the data version as the process has it
    slack: int
    position: int  #: of the journal of this process
    paused_seconds: float


@dataclass(frozen=True)
class Beside:
    """What comes along with the rows of a source: its name, the values that are kept, the file beside which its audit
    lies, of when that is, and how the entry of it in the audit of the destination is called."""

    source: str
    kept: Callable[[], dict[str, str]]
    file: Path
    at: datetime
    operation: str = "copy_from"


def copy_store(hold: Hold, store: Store, order: CopyOrder) -> Copied:
    """Copy, or compare only. See `AnalyticsEngine.copy_to`."""
    started = time.perf_counter()
    if not isinstance(store, Carrying):
        raise InvalidValue("this kind of store cannot be copied", remedy="See docs/copying.md.", code="bad-store")
    there = open_destination(order.settings, store, hold.file, must_exist=order.verify_only)
    with hold.alone(), hold.upkeep, there as (taking, file), moment_of(hold, store, order.settings) as taken:
        if order.verify_only:
            return _result(hold, store, taken, compared(taken, taking, order), (0, False), started)
        beside = Beside(name_of(hold, store), hold.journal.all_kept, hold.file, order.now)
        run, found = carry_all(taken, taking, file, order, beside)
        return _result(hold, store, taken, found, (run.carried, run.resumed), started)


def carry_all(taken: Taken, taking: Store, file: Path, order: CopyOrder, beside: Beside) -> tuple[Run, Comparison]:
    """Fill an opened destination, compare, and let it be used. Raises `InvalidValue` (destination-used),
    `StoreDamaged` (copy-differs)."""
    target = begin(taking, file, order.settings, CopyNote(beside.source, taken.version, order.release))
    run = Run(taken, target, order)
    run.carry()
    found = compared(taken, taking, order)
    if found.differing:
        target.note.tables = {}  # nothing of it is believed any more
        target.keep_note()
        raise _differs(found)
    target.carry_kept(beside.kept())
    entry = entry_of(order.project, order.now, beside.operation, found.source["events"][0], beside.source)
    target.carry_audit(beside.file, entry, beside.at)
    target.finish(taken.version, order.now, compact=run.deleted)
    return run, found


@contextmanager
def moment_of(hold: Hold, store: Store, settings: Settings) -> Iterator[Taken]:
    """The source with everything that was acknowledged, at a moment that a crash of it cannot take back."""
    writer, journal = hold.writer, hold.journal
    assert writer is not None and isinstance(store, Carrying)
    if not writer.wait_for(journal.last_position(), WAIT_SECONDS):
        raise StoreUnavailable(
            "the source does not take what waits in its journal", remedy="See `gnomon doctor`.", code="not-queryable"
        )
    writer.checkpoint()  # so that the one within the pause has little to write
    with ExitStack() as held:
        with writer.paused():
            began = time.perf_counter()
            writer.checkpoint()
            position = store.position(journal.id)
            reading = held.enter_context(store.reading())
            seen = store.data_version()
            paused = time.perf_counter() - began
        yield Taken(reading, version_of(reading), seen, slack_us(settings), position, paused)


class Run:
    """One run of a copy: what is missing, table by table."""

    def __init__(self, taken: Taken, target: Destination, order: CopyOrder) -> None:
        self._source, self._slack = taken.reading, taken.slack
        self._target, self._note = target, target.note
        self._told = order.told
        self._total = sum(counted(taken.reading, table) for table in TABLES.values())
        self._done = self._unsettled = 0
        self._settled = time.monotonic()
        self.carried = 0
        self.deleted = False
        self.resumed = target.begun

    def carry(self) -> None:
        """Bring every table to what the source holds."""
        for table in TABLES.values():
            self._tell(table, 0)
            if table.key is None:
                self._carry_whole(table)
            else:
                self._carry_slices(table)
        self._target.keep_note()

    def _carry_slices(self, table: Carried) -> None:
        after = self._note.tables.get(table.name)
        if after is not None:
            self._tell(table, counted(self._source, table, table.within(None, after)))
        for piece in slices(self._source, table, after):
            held = self._held(table, table.within(piece.after, piece.upto))
            after = self._note.tables[table.name] = piece.upto
            if not held or not self._is_there(table, piece, held):
                self._put(table, piece, held)
            self._tell(table, piece.rows)
        behind = "" if after is None else table.within(after, None)
        if self._held(table, behind):  # of an earlier moment; the source has dropped it since
            self._fill(table, lambda: iter(()), [table.delete(behind)])

    def _held(self, table: Carried, only: str) -> int:
        """How many rows of a condition are there already; a copy that begins knows that there are none."""
        if not self._target.begun:
            return 0
        with self._target.taking.reading() as copy:
            return counted(copy, table, only)

    def _is_there(self, table: Carried, piece: Slice, held: int) -> bool:
        if held != piece.rows:
            return False
        only = table.within(piece.after, piece.upto)
        with self._target.taking.reading() as copy:
            return digest(copy, table, only) == digest(self._source, table, only)

    def _put(self, table: Carried, piece: Slice, held: int) -> None:
        first = [table.delete(table.within(piece.after, piece.upto))] if held else []
        statement = table.read_slice(piece.after, piece.upto)
        self._fill(table, partial(self._source.rows, statement), first, piece.rows)

    def _carry_whole(self, table: Carried) -> None:
        rows = whole(self._source, table, self._slack)
        with self._target.taking.reading() as copy:
            same = self._target.begun and whole(copy, table, self._slack) == rows
        if not same:
            first = [table.delete()] if self._held(table, "") else []
            self._fill(table, lambda: iter([rows] if rows else []), first, len(rows))
        self._tell(table, len(rows))

    def _fill(self, table: Carried, rows: Callable[[], Iterator[list[tuple[object, ...]]]], first: list[str],
              n: int = 0) -> None:  # fmt: skip
        self.deleted |= bool(first)
        self._target.taking.fill(table.name, rows, first, put_note(self._note))
        self.carried += n
        self._unsettled += n
        if self._unsettled >= SETTLE_ROWS or time.monotonic() - self._settled > SETTLE_SECONDS:
            self._target.taking.settle(done=False, compact=False)
            self._unsettled, self._settled = 0, time.monotonic()

    def _tell(self, table: Carried, rows: int) -> None:
        self._done += rows
        self._told(CopyProgress("copying", table.name, self._done, self._total))


def compared(taken: Taken, there: Store, order: CopyOrder) -> Comparison:
    """Every row of the moment and of the copy."""
    assert isinstance(there, Carrying)
    with there.reading() as copy:
        total = sum(counted(reading, table) for reading in (taken.reading, copy) for table in TABLES.values())
        done = 0

        def told(table: str, rows: int) -> None:
            nonlocal done
            done += rows
            order.told(CopyProgress("verifying", table, done, total))

        return compare(taken.reading, copy, taken.slack, told)


def _result(hold: Hold, store: Store, taken: Taken, found: Comparison, brought: tuple[int, bool],
            started: float) -> Copied:  # fmt: skip
    newer = store.data_version() != taken.seen or bool(hold.journal.pending(store.position(hold.journal.id)))
    seconds = time.perf_counter() - started
    return Copied(found.source, found.differing, *brought, newer, taken.version, seconds, found.copy)


def name_of(hold: Hold, store: Store) -> str:
    """What tells a source from every other one; of an embedded store that is the journal beside it."""
    return store.store_id if isinstance(store, Served) else hold.journal.id


def differs(found: Comparison) -> str:
    """What is not the same."""
    told = ", ".join(
        f"{name} ({found.source[name][0]:,} rows, {found.copy[name][0]:,} in the copy)" for name in found.differing
    )
    return f"the copy differs from its source and does not count: {told}"


def _differs(found: Comparison) -> StoreDamaged:
    return StoreDamaged(
        differs(found), code="copy-differs",
        remedy="Run it again: what differs is carried anew. If it lasts, check disk and memory, and report it.",
    )  # fmt: skip
