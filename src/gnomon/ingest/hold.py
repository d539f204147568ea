"""One process's hold on a store: the journal always, and the store with its writer while this process owns it.

Engines of one process that open the same store share one hold. The first process to come owns the store until it
ends, however it ends; then another one takes over, on its next question or when it next has something to store.

What is owned of a store on a database server is the folder with the journal: its owner drains it, and any process may
ask. While the server cannot be reached, recording goes on into the journal, also right from the start.
"""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gnomon.config import Settings
from gnomon.errors import (
    PASSING,
    GnomonError,
    InvalidValue,
    QueryTimeout,
    StoreBusy,
    StoreDamaged,
    StoreUnavailable,
)
from gnomon.event import Batch
from gnomon.ingest.journal import Journal
from gnomon.ingest.owner import OwnerLock
from gnomon.ingest.places import checked, file_of, made
from gnomon.ingest.recovery import open_journal, open_or_rebuild, put_back, settle_restore, sweep
from gnomon.ingest.replica import Unopened, Waiting, check_finished, check_same, take_kept
from gnomon.ingest.writer import Writer
from gnomon.store import Served, Store, embedded_folder, open_store, served, store_path

if TYPE_CHECKING:
    from gnomon.ingest.collector import Collector

log = logging.getLogger("gnomon.hold")

#: How often a process that only records looks whether the owner is gone.
TAKE_OVER_SECONDS = 2.0
LOOK_SECONDS = 1.0  #: how often a process looks what was kept elsewhere for all processes of a store on a server
MOVED = "store-moved"  #: the code of a number that another process decided meanwhile
POLL_SECONDS = 0.05  #: how often a process that does not drain looks whether its own events have arrived

_HELD: dict[Path, Hold] = {}
_ALL: weakref.WeakSet[Hold] = weakref.WeakSet()
_OPENING = threading.RLock()


def take_hold(settings: Settings) -> Hold:
    """The hold on the store that `settings.database_url` names, made or shared; give it back with `release()`.

    Raises `InvalidValue` for a URL that cannot be a store, `StoreUnavailable` when its folder cannot be written.
    """
    path = store_path(settings.database_url)
    with _OPENING:
        if path is None:
            return Hold(settings, None)
        file = made(file_of(settings)) if served(path) else checked(path)
        shared = _HELD.get(file)
        if shared is None:
            shared = _HELD[file] = Hold(settings, file)
        else:
            shared.users += 1
        return shared


class Hold:
    """See the module. `journal` is always there; `store` and `writer` are None while another process owns the store."""

    def __init__(self, settings: Settings, file: Path | None) -> None:
        self.settings = settings
        self.users = 1
        self._temporary = file is None
        self.served = served(settings.database_url)  #: whether a database server keeps the store
        self._by_url = self.served or embedded_folder(settings.database_url) is not None
        self._target = settings.database_url if self._by_url else ":memory:" if file is None else str(file)
        self.file = file or Path(tempfile.mkdtemp(prefix="gnomon-")) / "memory.duckdb"
        self.store: Store | None = None
        self.writer: Writer | None = None
        self.upkeep = threading.Lock()  #: held by whoever makes or restores a backup: one at a time
        self._changing = threading.RLock()
        self._taking = threading.Lock()
        self._next_try = 0.0
        self.collectors: weakref.WeakSet[Collector] = weakref.WeakSet()  #: of this process, for their heartbeats
        self._next_beat = self._next_look = 0.0
        #: What has to be done before the audit of an erasure: names that wait in memory must be found by it.
        self.before_erasing: list[Callable[[], object]] = []
        #: Told how many seconds each transaction of the writer ("write") and each question ("question") took.
        self.timing: list[Callable[[str, float], None]] = []
        self.watch: Any = None  #: of upkeep.alerts, once somebody looks for alerts
        self._inherited = False  #: forked from an owner: DuckDB cannot be used again in such a process
        self._asking: Store | None = None  #: for questions only, where another process drains
        self._waiting: Unopened | None = None  #: in the place of a store that could not be opened
        self._lock = OwnerLock(self.file.with_name(self.file.name + ".owner"))
        journal_file = self.file.with_name(self.file.name + ".journal")
        fresh = not journal_file.exists()
        owned = self._lock.acquire()
        try:
            self.journal: Journal = open_journal(journal_file, settings, repair=owned)
            if self.served:
                self.journal.share = self._share
            if owned:
                self._open_store()
        except BaseException as error:
            if fresh and owned and isinstance(error, InvalidValue):
                self._remove_traces(journal_file)
            self._lock.release()
            raise
        _ALL.add(self)

    @property
    def in_memory(self) -> bool:
        """Whether the store has no file; `file` then names one in a temporary folder that only the journal uses."""
        return self._target == ":memory:"

    def share(self) -> Hold:
        """One user more; gives itself back."""
        with _OPENING:
            self.users += 1
        return self

    def _remove_traces(self, journal_file: Path) -> None:
        """Nothing was opened: leave no files beside one that turned out not to be a store."""
        if self.journal.positions(0, 1):
            return  # another process has recorded into it meanwhile
        self.journal.close()
        for ending in ("", "-wal", "-shm"):
            Path(f"{journal_file}{ending}").unlink(missing_ok=True)
        self._lock.path.unlink(missing_ok=True)

    def own(self) -> Store:
        """The store, taken over if its owner is gone. Raises `StoreBusy` while another process owns it."""
        if self.store is None:
            with self._taking:
                if self.store is None:
                    if self._waiting is not None:
                        raise self._waiting.refusal()
                    if self._inherited or not self._lock.acquire():
                        return self._to_ask()
                    self._open_store()
        if self.store is None:
            assert self._waiting is not None
            raise self._waiting.refusal()
        if self.writer is not None and self.writer.catching_up:
            raise StoreUnavailable(
                "the store fell back to its last checkpoint and is being filled again from the journal",
                remedy="Ask again in a moment; if it lasts, see the log and free disk space.",
            )
        return self.store

    def _to_ask(self) -> Store:
        """A store for questions only. Raises `StoreBusy` where just one process may have it open."""
        if not self.served:
            raise self.busy()
        if self._asking is None:
            asking = open_store(self._target, self.settings)
            try:
                check_finished(asking)
            except BaseException:
                asking.close()
                raise
            self._asking = asking
        return self._asking

    def drained(self, position: int, timeout: float) -> bool:
        """Wait until the store has everything up to a position of the journal; True at once where only the process
        that drains it can tell."""
        if self.writer is not None:
            return self.writer.wait_for(position, timeout)
        until = time.monotonic() + timeout
        while self.served:
            with suppress(StoreUnavailable):
                if self.own().position(self.journal.id) >= position:
                    break
            if time.monotonic() > until:
                return False
            time.sleep(POLL_SECONDS)
        return True

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While no other thread, and of a store on a server no other process, does upkeep on it: two that roll up the
        same rows at the same time would count them twice."""
        with self._changing, self.store.alone() if isinstance(self.store, Served) else nullcontext():
            self.look_at_kept()  # a legal hold that was set elsewhere a moment ago
            yield

    def _shared(self) -> Served:
        store = self.own()
        assert isinstance(store, Served)
        return store

    def _share(self, key: str, value: str) -> None:
        self._shared().keep(key, value)

    def kept_now(self, key: str) -> str | None:
        """A kept value as it is now for every process of the store, whatever this one has seen of it so far."""
        found = self._shared().all_kept().get(key) if self.served else None
        return self.journal.kept(key) if found is None else found

    def change_kept(self, key: str, change: Callable[[str | None], str]) -> None:
        """Keep what `change` makes of a value, again where another thread or process changed that meanwhile."""
        kept = False
        while not kept:
            if self.served:
                before = self._shared().all_kept().get(key)
                value = change(self.journal.kept(key) if before is None else before)
                kept = self._shared().keep_instead(key, before, value)
            else:
                before = self.journal.kept(key)
                value = change(before)
                kept = self.journal.keep_instead(key, before, value)
        if self.served:
            self.journal.keep_here(key, value)

    def look_at_kept(self) -> None:
        """Keep here what was set in another process for every one of this store."""
        store: object = self.store
        if isinstance(store, Served):
            take_kept(store, self.journal)

    def durable(self, positions: list[int], batches: list[Batch]) -> None:
        """Batches of this process are in the journal: hand them to the writer, here or wherever it is."""
        if self.writer is not None:
            self.writer.offer(positions, batches)
        elif not self._inherited and self._waiting is None and time.monotonic() >= self._next_try:
            self._next_try = time.monotonic() + TAKE_OVER_SECONDS
            try:
                if not self.served or self._lock.acquire():
                    self.own()
            except StoreBusy:
                pass
            except GnomonError as error:
                log.error("the store has no owner and cannot be taken over: %s", error)

    def beat(self) -> None:
        """Have the engines of this process say that they are there, also those that never recorded; never raises.

        The writer's thread calls it all the time: an owner needs no thread of its own for this.
        """
        if self.served and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_SECONDS
            try:
                self.look_at_kept()
            except GnomonError as error:
                log.debug("what was kept elsewhere could not be looked at: %s", error.code)
        if time.monotonic() < self._next_beat:
            return
        self._next_beat = time.monotonic() + self.settings.heartbeat_seconds / 4
        try:
            for collector in list(self.collectors):
                collector._beat()
        except Exception as error:  # noqa: BLE001  a full disk, or a clock of the host: the next beat tells it all
            log.debug("a heartbeat was left out: %s", type(error).__name__)

    def took(self, work: str, seconds: float) -> None:
        """A transaction or a question is done."""
        for tell in self.timing:
            tell(work, seconds)

    def restart_beats(self) -> None:
        """What was recorded until now was replaced, so the engines are there from now on."""
        for collector in list(self.collectors):
            collector._heart.restart()

    def release(self) -> None:
        """One user less; the last one drains what is there, checkpoints and lets go of the files."""
        with _OPENING:
            self.users -= 1
            if self.users:
                return
            if _HELD.get(self.file) is self:
                del _HELD[self.file]
            if self._waiting is not None:
                self._waiting.stop()
            if self.writer is not None:
                self.writer.stop()
            for store in (self.store, self._asking):
                if store is not None:
                    store.close()
            self.journal.close()
            self._lock.release()
            _ALL.discard(self)
            if self._temporary:
                shutil.rmtree(self.file.parent, ignore_errors=True)

    def _open_store(self) -> None:
        """Open the store, replay what the journal holds, start the writer. The lock is held already."""
        try:
            try:
                self._start()
            except StoreDamaged:  # in a block that only the replay has read: the store noted it, now it is rebuilt
                self._start()
        except (StoreDamaged, StoreUnavailable) as error:
            self._waiting = self._left_closed(error)
            if self._waiting is None:
                self._lock.release()
                raise
            log.warning("recording goes on into the journal: %s", error)
        except BaseException:
            self._lock.release()
            raise

    def _left_closed(self, error: GnomonError) -> Unopened | None:
        """What stands for a store that cannot be opened, where recording goes on without it: what passes by waiting on
        a server, a number that another one decided, and a folder that no opening mends."""
        if error.code == MOVED or (self.served and error.code in PASSING):
            return Waiting(self._start_late, error)
        if self._by_url and not self.served and isinstance(error, StoreDamaged):
            return Unopened(error)
        return None

    def _start_late(self) -> None:
        with self._taking:
            self._start()
            self._waiting = None
        log.warning("the database is back, and takes what waits in the journal")

    def _start(self) -> None:
        sweep(self.file)
        if self._by_url:
            store = open_store(self._target, self.settings)
        else:
            store = open_or_rebuild(self._target, self.settings, self.journal)
        try:
            check_finished(store)
            if isinstance(store, Served):
                check_same(store, self.journal)
            settle_restore(store, self.journal)
            put_back(store, self.journal)
            self.journal.continue_after(store.position(self.journal.id))
            writer = Writer(store, self.journal, self.settings, self.beat, partial(self.took, "write"))
            self._catch_up(writer)
        except QueryTimeout as error:
            store.close()
            raise StoreUnavailable(
                "the database takes too long to answer", remedy="It is tried again by itself.", code="store-slow"
            ) from error
        except BaseException:
            store.close()
            raise
        self.store, self.writer = store, writer
        writer.start()

    def _catch_up(self, writer: Writer) -> None:
        try:
            writer.catch_up()
        except (StoreUnavailable, StoreDamaged) as error:
            if not self.served:
                raise
            log.warning("what waits in the journal waits on: %s", error)  # a standby that is not promoted yet, say

    def busy(self) -> StoreBusy:
        """Why this process can only record, or only record and ask."""
        if self._inherited:
            return StoreBusy(
                "this process was forked from one that owns the store, so it can only record",
                remedy="Ask in the process that it was forked from, or open the engine after the fork.",
            )
        holder = self._lock.holder()
        who = f"process {holder}" if holder else "another process"
        if self.served:
            return StoreBusy(
                f"{who} drains the journal in this data_dir, so only it may change the store; asking works here",
                remedy="Do it in that process, or end it; or give this one a data_dir of its own.",
            )
        return StoreBusy(
            f"{who} owns this store, so only it can answer; recording works here as usual",
            remedy="Ask in that process, or end it: the store is then taken over.",
        )

    # -- fork ---------------------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Keep every thread out of SQLite, so that none of its locks is copied in a locked state."""
        self.journal.hold()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self.journal.let_go()

    def after_fork_in_child(self) -> None:
        """Own connections to the journal; the store stays the parent's, and so does the temporary folder."""
        self._inherited = self._inherited or self.store is not None
        never_destroy(self.store, self.writer, self._asking, self._waiting)
        self.store = self.writer = self.watch = self._asking = self._waiting = None
        self._temporary = False
        self.timing = []
        self._taking, self._changing = threading.Lock(), threading.RLock()
        self._lock.release()
        never_destroy(*self.journal.after_fork())


_GRAVE: list[object] = []


def never_destroy(*things: object) -> None:
    """Keep what a child inherited from being closed there: its threads and locks exist in the parent only."""
    for thing in things:
        if thing is not None:
            _GRAVE.append(thing)
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
    # DuckDB's binding lists such objects on standard error, at the very end of the interpreter. Attributes of `sys`
    # are the last to go, so nothing else is silenced.
    sys.__dict__.setdefault("_gnomon_hush", _Hush())


class _Hush:
    """Turns standard error off when it is destroyed."""

    def __init__(self) -> None:
        self._end = partial(os.dup2, os.open(os.devnull, os.O_WRONLY), 2)

    def __del__(self) -> None:
        self._end()


def release_all() -> None:
    """At the end of the interpreter: let go of stores whose engines were dropped without being closed."""
    for hold in list(_ALL):
        hold.users = 1
        hold.release()


def keeps_inherited() -> bool:
    """Whether this process was forked from one that had things which it must not destroy."""
    return bool(_GRAVE)


def _each(name: str) -> None:
    for hold in list(_ALL):
        getattr(hold, name)()


def _before() -> None:
    _OPENING.acquire()
    _each("before_fork")


def _in_parent() -> None:
    _each("after_fork_in_parent")
    _OPENING.release()


def _in_child() -> None:
    global _OPENING
    _OPENING = threading.RLock()
    _each("after_fork_in_child")


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
