"""Where a copy of a store comes into being: held by nobody else, empty, or the copy of this very source begun before.

Until the copy is finished a note within it refuses everybody who wants to use it. What lies beside a store is brought
last: the kept values of its journal, and its audit, in which the copy leaves an entry.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from gnomon.access import speaking
from gnomon.config import Settings
from gnomon.errors import InvalidValue, StoreBusy
from gnomon.ingest.journal import RESTORED, SHARED
from gnomon.ingest.owner import OwnerLock
from gnomon.ingest.places import checked, file_of, made
from gnomon.ingest.recovery import SCRATCH, open_journal
from gnomon.ingest.replica import KEPT_STORE
from gnomon.store import Carrying, Served, Store, open_store, served, store_path, store_there
from gnomon.store.carrying import NOTE, CopyNote, journals_of, kept_version, note_of, put_note, rows_of
from gnomon.timerange import to_us
from gnomon.upkeep.archive import AUDIT
from gnomon.upkeep.chain import Chain, Draft


@dataclass
class Destination:
    """An opened one. `note` says how far it is; `begun` whether anything may be there already."""

    store: Store
    file: Path
    settings: Settings
    note: CopyNote
    begun: bool

    @property
    def taking(self) -> Carrying:
        """The store, as one that takes in rows."""
        assert isinstance(self.store, Carrying)
        return self.store

    def keep_note(self) -> None:
        """Keep the note as it is now, durably."""
        self.taking.fill("books", lambda: (), [], put_note(self.note))
        self.taking.settle(done=False, compact=False)

    def carry_kept(self, kept: dict[str, str]) -> None:
        """The settings that admins keep, names and times of jobs: into the journal, and where others find them."""
        values = {key: value for key, value in kept.items() if key not in (RESTORED, KEPT_STORE)}
        journal = open_journal(self.file.with_name(f"{self.file.name}.journal"), self.settings, repair=True)
        try:
            for key, value in values.items():
                journal.keep_here(key, value)
        finally:
            journal.close()
        if isinstance(self.store, Served):
            for key, value in values.items():
                if key.startswith(SHARED):
                    self.store.keep(key, value)

    def carry_audit(self, source: Path, entry: Draft, at: datetime) -> None:
        """The audit of the source, with an entry of this copy. Where there is one it stays, and that of the source is
        laid beside it under a name with the time, as at a restore."""
        own = self.file.with_name(f"{self.file.name}.{AUDIT}")
        stamp = "" if not own.exists() else f"-{at.astimezone(UTC):%Y%m%dT%H%M%S%fZ}"
        with tempfile.TemporaryDirectory(prefix=f"{self.file.name}{SCRATCH}", dir=self.file.parent) as scratch:
            chain = Chain(source.with_name(f"{source.name}.{AUDIT}"))
            for copy in chain.copy_to(Path(scratch)):
                ending = copy.name.removeprefix(f"{source.name}.{AUDIT}")
                place = self.file.with_name(f"{own.name}{stamp}{ending}")
                place.touch(0o600)
                shutil.copyfile(copy, place)
            chain.close()
        own_chain = Chain(own)
        own_chain.append([entry])
        own_chain.close()

    def finish(self, version: int, at: datetime, *, compact: bool) -> None:
        """From here on it is a store as any other."""
        self.note.done, self.note.finished_us, self.note.journals = True, to_us(at), journals_of(self.store)
        self.note.version = version
        self.taking.fill("books", lambda: (), [], {"version": str(version), **put_note(self.note)})
        self.taking.settle(done=True, compact=compact)


def entry_of(project: str, at: datetime, operation: str, rows: int, source: str) -> Draft:
    """The entry of a copy in the audit of the destination."""
    return Draft(to_us(at), project, speaking().name, operation, rows=rows, detail={"source": source})


@contextmanager
def open_destination(
    settings: Settings, source: object = None, source_file: Path | None = None, *, must_exist: bool = False
) -> Iterator[tuple[Store, Path]]:
    """The store of a URL and its file, while no other process has or changes it. Raises `StoreBusy`, `InvalidValue`."""
    path = store_path(settings.database_url)
    if path is None:
        raise InvalidValue("a store in memory cannot be a destination", remedy="Give a file or a database.",
                           code="bad-store")  # fmt: skip
    there = store_there(path)
    if must_exist and there is None:
        raise InvalidValue("there is no store at the destination", remedy="Check its path or URL.", code="no-store")
    if there and isinstance(source, Served) and source.store_id == there:
        raise _same()
    file = made(file_of(settings)) if served(path) else checked(path)
    if file == source_file:
        raise _same_files() if served(path) else _same()
    with ExitStack() as held:
        lock = OwnerLock(file.with_name(f"{file.name}.owner"))
        if not lock.acquire():
            raise StoreBusy("another process owns the destination", remedy="End it, and run this again.")
        held.callback(lock.release)
        fresh = not file.exists()
        store = open_store(path if "://" in path else str(file), settings)
        held.callback(store.close)
        if fresh and source_file is not None and file.is_file() and source_file.is_file():
            shutil.copymode(source_file, file)  # whoever may read the one may read the other, and nobody else
        if isinstance(store, Served):
            held.enter_context(store.alone())
        if not isinstance(store, Carrying):
            raise InvalidValue("this kind of store takes in no copy", remedy="Give a file or PostgreSQL.",
                               code="bad-store")  # fmt: skip
        yield store, file


def begin(store: Store, file: Path, settings: Settings, note: CopyNote) -> Destination:
    """Note in the destination that it is a copy of this source. Raises `InvalidValue` (destination-used).

    The note comes first: from then on nobody else writes into it, so that what is found in it stays all there is.
    """
    known = check_unused(store)
    if known is not None and known.source != note.source:
        raise _used("is a copy of another store" if known.done else "is the unfinished copy of another store")
    if known is not None and known.done:
        if kept_version(store) != known.version or journals_of(store) != known.journals:
            raise _used("was used since it was copied")
        known.done = False
    found = Destination(store, file, settings, known or note, known is not None)
    if found.note.version != note.version:  # the source has changed: what is there is compared, not believed
        found.note.tables, found.note.version = {}, note.version
    found.note.release = note.release
    found.keep_note()
    if known is None and any(rows_of(store).values()):  # somebody was quicker
        found.taking.fill("books", lambda: (), [], {NOTE: None})
        raise _used("holds events or other content")
    return found


def check_unused(store: Store) -> CopyNote | None:
    """What a destination is a copy of, None where it is empty. Raises `InvalidValue` (destination-used)."""
    known = note_of(store)
    if known is None and any(rows_of(store).values()):
        raise _used("holds events or other content")
    return known


def _used(what: str) -> InvalidValue:
    return InvalidValue(
        f"the destination {what}", code="destination-used",
        remedy="Give a new file, database or schema; or remove what is there, if nobody needs it.",
    )  # fmt: skip


def _same_files() -> InvalidValue:
    return InvalidValue(
        "source and destination have the same name on two servers, and with it the same files in data_dir",
        remedy="Give the destination a data_dir of its own (--data-dir).", code="bad-store",
    )  # fmt: skip


def _same() -> InvalidValue:
    return InvalidValue("source and destination are the same store", remedy="Give another destination.",
                        code="destination-used")  # fmt: skip
