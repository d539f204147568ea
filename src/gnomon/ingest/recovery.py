"""Damaged files at start-up: set aside under a new name, never deleted, and rebuilt from what the others hold.

A store file that cannot be opened is copied into a new one, group of rows by group, as far as it can be read. A
damaged journal gives back every batch that still passes its checksum. Damage that opening does not meet is not looked
for here.
"""

from __future__ import annotations

import logging
from pathlib import Path

from gnomon.config import Settings
from gnomon.errors import StoreDamaged
from gnomon.ingest import journal as journals
from gnomon.ingest.journal import Journal
from gnomon.store import Store, open_store, salvage_store

log = logging.getLogger("gnomon.recovery")


def open_journal(path: Path, settings: Settings, *, repair: bool) -> Journal:
    """Open the journal; with `repair` (the owner only) a damaged one is set aside and its batches carried over."""
    if repair:
        try:
            aside = journals.check(path)
        except StoreDamaged:
            return _rebuilt_journal(path, settings)
        if aside is not None:
            log.error("the journal's log is damaged: copied to %s; batches behind the damage are lost", aside.name)
    return Journal(path, max_bytes=settings.journal_max_bytes)


def _rebuilt_journal(path: Path, settings: Settings) -> Journal:
    aside = set_aside(path)
    for ending in ("-wal", "-shm"):
        log_file = Path(f"{path}{ending}")
        if log_file.exists():
            log_file.rename(Path(f"{aside}{ending}"))
    journal = Journal(path, max_bytes=settings.journal_max_bytes)
    saved = 0
    for batch in journals.salvage(aside):
        journal.append([batch])
        saved += 1
    log.error("the journal was damaged: set aside as %s, %d batches carried over", aside.name, saved)
    return journal


def open_or_rebuild(target: str, settings: Settings, journal: Journal) -> Store:
    """Open the store. A damaged log or file is set aside and rebuilt; the caller replays the journal afterwards."""
    try:
        return open_store(target, settings)
    except StoreDamaged:
        pass
    wal = Path(target + ".wal")
    if wal.exists():
        aside = set_aside(wal)
        log.error("the store's log was damaged: set aside as %s, its content comes again from the journal", aside.name)
        try:
            return open_store(target, settings)
        except StoreDamaged:
            pass
    aside = set_aside(Path(target))
    report = salvage_store(target, str(aside), settings)
    log.error("the store file was damaged: set aside as %s; carried over: %s", aside.name, report)
    return open_store(target, settings)


def set_aside(path: Path) -> Path:
    """Rename a damaged file so that nothing opens it by mistake, and return its new place."""
    return path.rename(journals.free_name(path))


def found_damage(path: Path) -> list[Path]:
    """Files that were set aside beside `path`, for the doctor."""
    return sorted(path.parent.glob(f"{path.name}*.damaged-*"))
