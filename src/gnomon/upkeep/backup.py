"""Making a backup: one moment of the store into one archive, which counts once it was restored and compared.

The copy of a file is made between two checkpoints, that of any other store row by row (`filing`); recording, storing
and questions go on. What the store held at that moment is read from the store itself, and the archive must unpack to
exactly that before it gets its final name. Nothing here waits for a schedule: that has `jobs`.
"""

from __future__ import annotations

import json
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
from gnomon.errors import DiskFull, StoreUnavailable
from gnomon.ingest.journal import RESTORED
from gnomon.ingest.recovery import SCRATCH, sweep
from gnomon.ingest.replica import KEPT_STORE
from gnomon.store import Contents, Copying, Store, examine_copy
from gnomon.upkeep import archive, targets
from gnomon.upkeep.chain import Chain
from gnomon.upkeep.encryption import ENDING, Keys, damaged, key_missing
from gnomon.upkeep.packing import Codec, best
from gnomon.upkeep.room import Room, expire, make_room, room_of

if TYPE_CHECKING:
    from gnomon.ingest.hold import Hold
    from gnomon.upkeep.targets import Target

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
    started, settings = time.perf_counter(), order.settings
    keys = Keys(settings.backup_key_file) if settings.backup_key_file else None
    if hold.writer is None:
        raise hold.busy()
    with nullcontext() if isinstance(store, Copying) else hold.alone(), one_at_a_time(hold) as scratch:
        target = _target(hold, order, keys, scratch)
        room = room_of(hold, target.place(), settings)
        try:
            room.check(make_room(hold, target, room, order.now, settings.backup_days))
            order.step("copying the store")
            rows = not isinstance(store, Copying)
            taken = _take_rows(hold, store, scratch, order, room) if rows else take(hold, store, scratch)
            room.check(room.archives * sum(file.stat().st_size for file in taken.files.values()))
            address, size = _place(hold, taken, target, order, keys, scratch)
        except DiskFull:
            expire(target, order.now, settings.backup_days)  # the next try may find room
            raise
        expire(target, order.now, settings.backup_days)
    counts = {table: rows for table, (rows, _) in taken.contents.tables.items()}
    seconds = time.perf_counter() - started
    return Backup(address, size, counts, True, order.now, seconds, taken.paused_seconds, keys is not None)


def _target(hold: Hold, order: Order, keys: Keys | None, scratch: Path) -> Target:
    """Where it goes, without what runs that were cut short left there."""
    url = targets.target_url(hold, order.url, order.settings)
    target = targets.open_target(url, targets.store_label(hold.file), scratch)
    if target.published and keys is None:
        raise key_missing()
    target.clean()
    targets.remember(hold.journal, url)
    return target


def _place(hold: Hold, taken: Taken, target: Target, order: Order, keys: Keys | None, scratch: Path) -> tuple[str, int]:
    """Pack what was taken, verify the archive and put it at the target; returns its address and size."""
    codec, label = best(), targets.store_label(hold.file)
    name = _free_name(target, label, order.now, codec.ending + (ENDING if keys else ""))
    partial = (target.place() or scratch) / f"{name}{targets.PARTIAL}"
    try:
        order.step("packing")
        partial.touch(mode=0o600)
        _write(taken, _manifest(taken, label, order), codec, partial, keys)
        order.step("verifying")
        verify(partial, scratch, keys, taken.contents, order.settings)
        size = partial.stat().st_size
        if hold.file.is_file():
            shutil.copymode(hold.file, partial)  # whoever may read the store may read its backup, and nobody else
        order.step("placing it at the target")
        return target.put(partial, name), size
    finally:
        partial.unlink(missing_ok=True)


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


def _take_rows(hold: Hold, store: Store, scratch: Path, order: Order, room: Room) -> Taken:
    """As `take`, of a store that is no file; its settings are those of this process's journal."""
    from gnomon.upkeep.copying import CopyOrder  # deferred: it knows this file
    from gnomon.upkeep.filing import file_of_rows

    file = scratch / archive.STORE
    try:
        copying = CopyOrder(order.settings, order.settings.project, order.now, order.release, lambda _: room.check(0))
        position, paused = file_of_rows(hold, store, file, copying)
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
