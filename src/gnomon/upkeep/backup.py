"""Making a backup: one moment of the store into one archive, which counts once it was restored and compared.

The copy of a file is made between two checkpoints, that of any other store row by row (`filing`); recording, storing
and questions go on. What the store held at that moment is read from the store itself, and the archive must unpack to
exactly that before it gets its final name. Nothing here waits for a schedule: that has `jobs`.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from gnomon.config import Settings
from gnomon.errors import StoreUnavailable
from gnomon.ingest.journal import RESTORED
from gnomon.ingest.recovery import SCRATCH, sweep
from gnomon.ingest.replica import KEPT_STORE
from gnomon.store import Contents, Copying, Store, examine_copy
from gnomon.upkeep import archive, targets
from gnomon.upkeep.chain import Chain
from gnomon.upkeep.encryption import ENDING, Keys, damaged, key_missing
from gnomon.upkeep.packing import Codec, best

if TYPE_CHECKING:
    from gnomon.ingest.hold import Hold
    from gnomon.upkeep.targets import Target

log = logging.getLogger("gnomon.backup")

Step = Callable[[str], None]  #: told what is being done now
WAIT_SECONDS = 60.0  #: for the store to take what was acknowledged before


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked for: where it goes (None: as the settings say), when it is, the version of Gnomon, who is told."""

    url: str | None
    settings: Settings
    now: datetime
    release: str
    step: Step


@dataclass(frozen=True, slots=True)
class Backup:
    """A good backup that was just made. `paused_seconds` is how long the store took nothing in meanwhile."""

    path: str
    bytes: int
    counts: dict[str, int]
    verified: bool
    created_at: datetime
    seconds: float
    paused_seconds: float
    encrypted: bool


@dataclass(frozen=True, slots=True)
class Taken:
    """One moment of the store: its copy beside it, and what the store itself held then."""

    contents: Contents
    journal: dict[str, object]
    files: dict[str, Path]
    paused_seconds: float


def make_backup(hold: Hold, store: Store, order: Order) -> Backup:
    """Make, verify and place one backup; then remove old ones. See `AnalyticsEngine.trigger_backup`."""
    started, settings, step = time.perf_counter(), order.settings, order.step
    keys = Keys(settings.backup_key_file) if settings.backup_key_file else None
    label = targets.store_label(hold.file)
    if hold.writer is None:
        raise hold.busy()
    with nullcontext() if isinstance(store, Copying) else hold.alone(), one_at_a_time(hold) as scratch:
        url = target_url(hold, order.url, settings)
        target = targets.open_target(url, label, scratch)
        if target.published and keys is None:
            raise key_missing()
        target.clean()
        targets.remember(hold.journal, url)
        step("copying the store")
        taken = take(hold, store, scratch) if isinstance(store, Copying) else _take_rows(hold, store, scratch, order)
        codec = best()
        name = _free_name(target, label, order.now, codec.ending + (ENDING if keys else ""))
        partial = (target.place() or scratch) / f"{name}{targets.PARTIAL}"
        try:
            step("packing")
            partial.touch(mode=0o600)
            _write(taken, _manifest(taken, label, order), codec, partial, keys)
            step("verifying")
            verify(partial, scratch, keys, taken.contents, settings)
            size = partial.stat().st_size
            if hold.file.is_file():
                shutil.copymode(hold.file, partial)  # whoever may read the store may read its backup, and nobody else
            step("placing it at the target")
            address = target.put(partial, name)
        finally:
            partial.unlink(missing_ok=True)
        expire(target, order.now, settings.backup_days)
    counts = {table: rows for table, (rows, _) in taken.contents.tables.items()}
    seconds = time.perf_counter() - started
    return Backup(address, size, counts, True, order.now, seconds, taken.paused_seconds, keys is not None)


@contextmanager
def one_at_a_time(hold: Hold) -> Iterator[Path]:
    """A scratch folder on the disk of the store, while no other backup or restore of it runs."""
    with hold.upkeep, scratch_beside(hold.file) as scratch:
        yield scratch


@contextmanager
def scratch_beside(file: Path) -> Iterator[Path]:
    """A scratch folder on the disk of a store that nobody else backs up or restores; what others left there goes."""
    sweep(file)
    try:
        scratch = Path(tempfile.mkdtemp(prefix=f"{file.name}{SCRATCH}", dir=file.parent))
    except OSError as error:
        raise targets.failed(error, "the disk of the store") from error
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def target_url(hold: Hold, url: str | None, settings: Settings) -> str:
    """Where backups of this store go. Raises `InvalidValue` (`bad-target`) for a store in memory without a target."""
    chosen = url or settings.backup_target
    if not chosen and hold.in_memory:
        raise targets.bad_target("a store in memory has no folder for backups", "Give a target.")
    return chosen or str(Path(os.path.realpath(settings.data_dir or hold.file.parent)) / "backups")


def _take_rows(hold: Hold, store: Store, scratch: Path, order: Order) -> Taken:
    """The same of a store that is no file; its settings are those of this process's journal."""
    from gnomon.upkeep.filing import file_of_rows

    file = scratch / archive.STORE
    try:
        position, paused = file_of_rows(hold, store, file, order.settings, order.now, order.release)
        contents = examine_copy(file, order.settings)
    except OSError as error:
        raise targets.failed(error, "the disk of the store") from error
    return Taken(contents, {"id": hold.journal.id, "position": position}, _files(hold, scratch), paused)


def take(hold: Hold, store: Store, scratch: Path) -> Taken:
    """Copy one moment of the store, the settings kept in the journal, and the audit beside the store."""
    assert hold.writer is not None and isinstance(store, Copying)
    writer, journal = hold.writer, hold.journal
    if not writer.wait_for(journal.last_position(), WAIT_SECONDS):
        raise StoreUnavailable(
            "the store does not take what waits in the journal", remedy="See `gnomon doctor`.", code="not-queryable"
        )
    file = scratch / archive.STORE
    writer.checkpoint()  # so that the one within the pause has little to write
    with ExitStack() as moment:
        with ExitStack() as still:
            with writer.paused():
                began = time.perf_counter()
                writer.checkpoint()
                position = store.position(journal.id)
                still.enter_context(writer.resting())
                snapshot = moment.enter_context(store.snapshot())
                paused = time.perf_counter() - began
            try:
                snapshot.copy_to(file)
            except OSError as error:
                raise targets.failed(error, "the disk of the store") from error
        contents = snapshot.contents()
    return Taken(contents, {"id": journal.id, "position": position}, _files(hold, scratch), paused)


def _files(hold: Hold, scratch: Path) -> dict[str, Path]:
    """What goes into the archive: the copy that is in `scratch`, and what lies beside the store."""
    kept = {key: value for key, value in hold.journal.all_kept().items() if key not in (RESTORED, KEPT_STORE)}
    (scratch / archive.KEPT).write_text(json.dumps(kept), "utf-8")
    return {archive.STORE: scratch / archive.STORE, archive.KEPT: scratch / archive.KEPT, **_audit(hold.file, scratch)}


def verify(file: Path, scratch: Path, keys: Keys | None, expected: Contents, settings: Settings) -> None:
    """Unpack the archive and compare every table with what the store held. Raises `StoreDamaged`."""
    folder = scratch / "verified"
    folder.mkdir()
    try:
        archive.unpack(file, folder, keys)
        found = examine_copy(folder / archive.STORE, settings)
    except OSError as error:
        raise targets.failed(error, "the disk of the store") from error
    if found != expected:
        raise damaged("what was backed up differs from what the store holds")
    shutil.rmtree(folder)


def expire(target: Target, now: datetime, days: int) -> None:
    """Remove good backups older than `days`, but never the newest. A failure is logged: the new backup counts."""
    try:
        for kept in target.entries()[:-1]:
            if kept.created_at < now - timedelta(days=days):
                target.remove(kept.name)
    except (StoreUnavailable, OSError) as error:
        log.warning("old backups could not be removed: %s", error)


def _manifest(taken: Taken, label: str, order: Order) -> archive.Manifest:
    contents, at = taken.contents, order.now.astimezone(UTC).isoformat()
    return archive.Manifest(label, at, order.release, contents.engine, contents.schema, taken.journal, contents.tables)


def _write(taken: Taken, manifest: archive.Manifest, codec: Codec, file: Path, keys: Keys | None) -> None:
    plain = file if keys is None else taken.files[archive.STORE].with_name("plain")
    try:
        archive.pack(manifest, taken.files, plain, codec)
        if keys is not None:
            keys.encrypt(plain, file)
            plain.unlink()
        for copied in taken.files.values():
            copied.unlink()
    except OSError as error:
        raise targets.failed(error) from error


def _free_name(target: Target, label: str, now: datetime, ending: str) -> str:
    """A name of its own, also where a clock stands still."""
    taken = {kept.created_at for kept in target.entries()}
    while now.astimezone(UTC) in taken:
        now += timedelta(microseconds=1)
    return targets.archive_name(label, now, ending)


def _audit(store: Path, scratch: Path) -> dict[str, Path]:
    """Copies of the audit's files beside the store, all of one moment, where there are any."""
    copies = Chain(store.with_name(f"{store.name}.{archive.AUDIT}"), durable=True).copy_to(scratch)
    return {copy.name.removeprefix(f"{store.name}."): copy for copy in copies}
