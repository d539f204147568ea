"""Damaged files at start-up: set aside under a new name, never deleted, and rebuilt from what the others hold.

A damaged store file is copied into a new one, group of rows by group, as far as it can be read, and the journal is
replayed on top. A damaged journal gives back every batch that still passes its checksum. Every step may be cut short
by the end of the process: the next start goes on from there. Damage that opening does not meet is not looked for here.
"""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path

import msgspec

from gnomon.config import Settings
from gnomon.errors import StoreDamaged
from gnomon.ingest import journal as journals
from gnomon.ingest import wal
from gnomon.ingest.journal import RESTORED, TARGETS, Journal
from gnomon.store import SUSPECT, Mending, Store, open_store, restored_note, salvage_store

log = logging.getLogger("gnomon.recovery")

BATCHES_AT_ONCE = 50
REPAIR_SECONDS = 10.0  #: how long a process that is not the owner waits for the owner to repair a damaged journal


def open_journal(path: Path, settings: Settings, *, repair: bool) -> Journal:
    """Open the journal; with `repair` (the owner only) a damaged one is set aside and its batches carried over.

    Without, its owner is waited for: opened as it is, SQLite would drop what follows the damage. Raises `StoreDamaged`.
    """
    unsaved = Path(f"{path}.unsaved")  # names the file that was set aside, until its batches are carried over
    if not repair:
        _await_repair(path, unsaved)
        return Journal(path, max_bytes=settings.journal_max_bytes)
    if not unsaved.exists():
        try:
            wal.check(_wal(path), path)
            journals.check(path)
        except StoreDamaged:
            path.touch()
            unsaved.write_text(journals.free_name(path).name)
    if not unsaved.exists():
        return Journal(path, max_bytes=settings.journal_max_bytes)
    aside = path.with_name(unsaved.read_text())
    if not aside.exists():
        for ending in ("-shm", "-wal", ""):  # the file itself last: it says that all are there
            if Path(f"{path}{ending}").exists():
                Path(f"{path}{ending}").rename(f"{aside}{ending}")
    journal = _refilled(path, aside, settings)
    unsaved.unlink()
    return journal


def _await_repair(path: Path, unsaved: Path) -> None:
    until = time.monotonic() + REPAIR_SECONDS
    while unsaved.exists() and time.monotonic() < until:
        time.sleep(0.1)
    while True:
        try:
            return wal.check(_wal(path), path)
        except StoreDamaged as error:
            if time.monotonic() >= until:
                raise StoreDamaged(
                    error.message,
                    remedy="Its owner repairs it when it starts: stop the processes of the store, then open it again.",
                    code=error.code,
                ) from error
            time.sleep(0.1)


def _refilled(path: Path, aside: Path, settings: Settings) -> Journal:
    journal = Journal(path, max_bytes=settings.journal_max_bytes)
    copy = path.with_name(f"{path.name}.salvage")
    shutil.copyfile(aside, copy)
    needed = wal.apply(_wal(aside), copy)  # SQLite itself reads a log only up to the first damaged page
    whole: dict[int, set[int]] = {}  # checksums by position: one that was never committed may have been given out again
    broken: dict[int, journals.Sealed] = {}
    for source in (copy, aside) if needed and aside.stat().st_size else (copy,):  # SQLite removes an empty file's log
        for key, value in journals.salvage_kept(source).items():
            journal.keep(key, value)
        for position, sealed in journals.salvage(source):
            if not journals.holds(sealed):
                broken[position] = sealed
            elif sealed[0] not in whole.setdefault(position, set()):
                journal.adopt(sealed)
                whole[position].add(sealed[0])
    lost = [sealed for position, sealed in broken.items() if position not in whole]
    for sealed in lost:
        journal.adopt(sealed)  # the writer books what its summary says that it held
    for ending in ("", "-wal", "-shm"):
        Path(f"{copy}{ending}").unlink(missing_ok=True)
    found = f"{len(whole)} batches carried over, {len(lost)} found broken"
    log.error("the journal was damaged: set aside as %s; %s", aside.name, found)
    return journal


def _wal(path: Path) -> Path:
    return Path(f"{path}-wal")


def open_or_rebuild(target: str, settings: Settings, journal: Journal) -> Store:
    """Open the store. A damaged log or file is set aside and rebuilt; the caller replays the journal afterwards."""
    path, rebuilt, suspect = Path(target), Path(target + ".rebuilt"), Path(target + SUSPECT)
    if not path.exists() and rebuilt.exists():
        rebuilt.rename(path)  # a rebuild was cut short after the damaged file had been set aside
        suspect.unlink(missing_ok=True)
    if not suspect.exists():
        try:
            return open_store(target, settings)
        except StoreDamaged:
            pass
    log_file = Path(target + ".wal")
    if log_file.exists():
        aside = log_file.rename(journals.free_name(log_file))
        log.error("a damaged log of the store was set aside as %s: the journal has what it held", aside.name)
        if not suspect.exists():
            try:
                return open_store(target, settings)
            except StoreDamaged:
                pass
    for old in (rebuilt, Path(f"{rebuilt}.wal")):
        old.unlink(missing_ok=True)
    report = salvage_store(str(rebuilt), target, settings)
    aside = path.rename(journals.free_name(path))
    rebuilt.rename(path)
    suspect.unlink(missing_ok=True)
    log.error("the store file was damaged: set aside as %s; carried over: %s", aside.name, report)
    return open_store(target, settings)


def found_damage(path: Path) -> list[Path]:
    """Files that were set aside beside `path`, for the doctor."""
    return sorted(path.parent.glob(f"{path.name}*.damaged-*"))


def put_back(store: Store, journal: Journal) -> None:
    """Where a store has lost rows with a damaged part, store those again that the journal still has."""
    if not isinstance(store, Mending) or not store.damaged:
        return
    position, after, n = store.position(journal.id), 0, 0
    while found := [entry for entry in journal.read(after, BATCHES_AT_ONCE) if entry[0] <= position]:
        work = []
        for after, crc, body in found:
            try:
                batch = journals.open_sealed(crc, body)
            except StoreDamaged:
                continue
            batch.replayed = True
            work.append((after, batch))
        n += store.put_back(work) if work else 0
    store.mended()
    log.error("the store was damaged: %d rows came back from the journal", n)


SCRATCH = ".scratch-"  #: within the names of folders beside a store in which backups are made and looked into


def sweep(path: Path) -> None:
    """Remove the scratch folders of backups and restores that were cut short. The owner only, while none runs."""
    for left in path.parent.iterdir():
        if left.name.startswith(f"{path.name}{SCRATCH}"):
            shutil.rmtree(left, ignore_errors=True)


def settle_restore(store: Store, journal: Journal) -> None:
    """Give the journal the kept values that came with a restored store, once: a crash may have come between."""
    note = restored_note(store)
    if note is not None:
        found = msgspec.json.decode(note)
        if journal.kept(RESTORED) != found["id"]:
            targets = {key: value for key, value in journal.all_kept().items() if key.startswith(TARGETS)}
            journal.keep_only({**found["kept"], **targets, RESTORED: found["id"]})
