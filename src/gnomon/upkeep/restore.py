"""Putting a backup in the place of what a store holds.

The archive is checked whole and made ready beside the store first; then one rename changes the store, so that a crash
leaves either the old content or the new. The journal is left as it is: the new content says up to which position it
replaces what was acknowledged, and everything behind that is stored on top of it (docs/decisions/0012).
"""

from __future__ import annotations

import json
import logging
import shutil
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gnomon.config import Settings
from gnomon.errors import GnomonError, InvalidValue, StoreDamaged, StoreUnavailable
from gnomon.ingest.recovery import settle_restore
from gnomon.store import Copying, Entering, Entry, Store, examine_copy, held_now, settle_copy
from gnomon.upkeep import archive, targets
from gnomon.upkeep.backup import Step, one_at_a_time
from gnomon.upkeep.encryption import Keys, damaged

if TYPE_CHECKING:
    from gnomon.ingest.hold import Hold

log = logging.getLogger("gnomon.restore")


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore brought: the backup's time and rows by table, and how many events it took the place of."""

    created_at: datetime
    counts: dict[str, int]
    replaced: int | None  #: None: the old content could not be read
    seconds: float
    resumed: bool = False  #: into a new database: whether it went on with one that was cut short


def restore(hold: Hold, store: Store, path: str, settings: Settings, step: Step) -> Restored:
    """Check the archive, make it ready, put it in place. See `AnalyticsEngine.restore_backup`."""
    started = time.perf_counter()
    keys = Keys(settings.backup_key_file) if settings.backup_key_file else None
    if not isinstance(store, Copying):
        raise InvalidValue(
            "a backup does not take the place of what is in a database that others may use",
            remedy="Run `gnomon restore ARCHIVE --store URL`, where URL names a new database, schema or folder.",
            code="bad-store",
        )
    with one_at_a_time(hold) as scratch:
        step("fetching the archive")
        file = fetched(path, hold.file, scratch)
        step("verifying")
        manifest = checked(file, scratch, keys, settings)
        step("putting it in place")
        replaced = _put_in(hold, store, scratch, settings)
        put_audit(hold.file, scratch, manifest)
    counts = {table: rows for table, (rows, _) in manifest.tables.items()}
    return Restored(datetime.fromisoformat(manifest.created_at), counts, replaced, time.perf_counter() - started)


def checked(file: Path, scratch: Path, keys: Keys | None, settings: Settings) -> archive.Manifest:
    """Unpack an archive and compare its store with the manifest. Raises what docs/backup.md says."""
    try:
        manifest = archive.unpack(file, scratch, keys)
    except OSError as error:
        raise targets.failed(error, "the disk of the store") from error
    try:
        found = examine_copy(scratch / archive.STORE, settings)
    except (StoreDamaged, StoreUnavailable) as error:
        # Every byte is what was verified when it was made, so this version of the database is what cannot read it.
        raise archive.newer(f"the store in the archive was written by {manifest.engine}") from error
    if found.schema > found.known_schema:
        raise archive.newer(f"the archive has schema {found.schema}, this version knows {found.known_schema}")
    counted = {table: rows for table, (rows, _) in found.tables.items()}
    if counted != {table: rows for table, (rows, _) in manifest.tables.items()} or (
        found.engine == manifest.engine and found.tables != manifest.tables  # another version may hash otherwise
    ):
        raise damaged("the store in the archive is not what its manifest says")
    return manifest


def fetched(path: str, store: Path, scratch: Path) -> Path:
    """The archive as a file; `store` is that of the place where it goes. Raises `InvalidValue` (`no-such-file`)."""
    if "://" not in path:
        if not Path(path).is_file():
            raise targets.not_there()
        return Path(path)
    address, mark, query = path.partition("?")
    where, _, name = address.rpartition("/")
    file = scratch / "fetched"
    targets.open_target(f"{where}{mark}{query}", targets.store_label(store), scratch).get(name, file)
    return file


def _put_in(hold: Hold, store: Store, scratch: Path, settings: Settings) -> int | None:
    """Within the writer's pause: say what the copy replaces, then exchange. Returns how many events were replaced."""
    writer, journal, file = hold.writer, hold.journal, scratch / archive.STORE
    assert writer is not None and isinstance(store, Copying)
    kept = json.loads((scratch / archive.KEPT).read_text("utf-8"))
    note = json.dumps({"id": uuid.uuid4().hex, "kept": kept})
    with writer.paused():
        position = journal.last_position()
        books, replaced = _books(store, journal.pending(writer.position, position))
        entering = Entering(journal.id, position, store.data_version() + 1, note, books)
        settle_copy(file, settings, entering)
        try:
            store.exchange(file, scratch / "replaced.duckdb")
        except BaseException as error:
            writer.look_again()  # the old content is back, at its last checkpoint
            if isinstance(error, OSError):
                raise targets.failed(error, "the disk of the store") from error
            raise
        writer.content_replaced()
        hold.restart_beats()
    try:
        settle_restore(store, journal)
        writer.checkpoint()
    except GnomonError as error:
        log.warning("restored; the rest is done when the store is opened next: %s", error)
    return replaced


def _books(store: Store, waiting: list[list[Any]]) -> tuple[list[Entry], int | None]:
    """The books of restores with what is replaced now, stored or in the journal, and how many events that are."""
    gone = [(project, source, n) for project, kind, source, outcome, _, n in waiting
            if (kind, outcome) == ("event", "pending")]  # fmt: skip
    books: list[Entry] = []
    replaced = None
    with suppress(GnomonError):  # content that cannot be read any more is a reason to restore
        books, held = held_now(store)
        gone += held
        replaced = sum(n for *_, n in gone)
    for project, source, n in gone:
        books += [(project, source, "received", "", n), (project, source, "shed", "replaced", n)]
    return books, replaced


def put_audit(store: Path, scratch: Path, manifest: archive.Manifest) -> None:
    """The audit is never turned back: where there is one, that of the archive is laid beside it under another name."""
    stamp = datetime.fromisoformat(manifest.created_at).strftime("%Y%m%dT%H%M%SZ")
    for name in manifest.members:
        if name.startswith(archive.AUDIT):
            place = store.with_name(f"{store.name}.{name}")
            if place.exists():
                ending = name.removeprefix(archive.AUDIT)
                place = store.with_name(f"{store.name}.{archive.AUDIT}-{stamp}{ending}")
            if not place.exists():
                place.touch(0o600)
                shutil.copyfile(scratch / name, place)
