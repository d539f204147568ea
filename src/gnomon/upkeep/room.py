"""Room for backups on the disk that takes events: what one needs there, what stays free, and which old ones go for it.

That disk holds journal and store. A backup that is kept there as well is refused rather than have it filled, and what
has expired goes before that is decided, so that it goes although no new backup comes about.
"""

from __future__ import annotations

import logging
import shutil
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from gnomon.config import Settings
from gnomon.errors import DiskFull, StoreUnavailable
from gnomon.upkeep.archive import AUDIT
from gnomon.upkeep.targets import Folder, Target, folder_of, store_label, target_url

if TYPE_CHECKING:
    from gnomon.ingest.hold import Hold

log = logging.getLogger("gnomon.backup")

#: What stays free at most: two million single events in the journal, or a checkpoint of a store that is pruned.
MOST_KEPT_FREE = 1024**3
SHARE_KEPT_FREE = 10  #: of a small disk it is this part
CROWDED = "Set backup_target (GNOMON_BACKUP_TARGET) to a place elsewhere or backup_days to fewer, or grow the disk."


@dataclass(frozen=True, slots=True)
class Room:
    """The disk that takes events as a backup finds it. `shared`: whether backups are kept on it; `keep`: the bytes that
    stay free; `archives`: how many of them, each at most as large as the store, lie there while one is made."""

    folder: Path
    shared: bool
    keep: int
    archives: int

    def spare(self) -> int:
        """How many bytes a backup may take now."""
        return shutil.disk_usage(self.folder).free - self.keep

    def check(self, size: int) -> None:
        """Raises `DiskFull` (`target-full`) where there is no room for so many bytes."""
        spare = self.spare()
        if size > spare:
            raise DiskFull(
                f"a backup takes up to {_mib(size)} more on the disk of the store, where {_mib(spare + self.keep)} are "
                f"free and {_mib(self.keep)} stay so for what is recorded",
                remedy=CROWDED if self.shared else "Free space there, or grow it: the copy is made beside the store.",
                code="target-full",
            )  # fmt: skip


def room_of(hold: Hold, place: Path | None, settings: Settings) -> Room:
    """The room for a backup that goes to a folder, or (None) elsewhere; then only the copy has to fit."""
    folder = hold.file.parent
    if place is None or place.stat().st_dev != folder.stat().st_dev:
        return Room(folder, False, 0, 0)
    keep = min(MOST_KEPT_FREE, settings.journal_max_bytes, shutil.disk_usage(folder).total // SHARE_KEPT_FREE)
    return Room(folder, True, keep, 2 if settings.backup_key_file else 1)


def needed(hold: Hold, target: Target, room: Room) -> int:
    """How many bytes a backup takes there at most while it is made, scratch folder included.

    Of a store that is no file nobody knows before how large its rows are: not less than the newest archive.
    """
    whole = sum(_size(file) for file in (hold.file, hold.file.with_name(f"{hold.file.name}.{AUDIT}")))
    if room.shared and not hold.file.is_file():
        whole += max((kept.bytes for kept in target.entries()[-1:]), default=0)
    return whole * (1 + room.archives)


def make_room(hold: Hold, target: Target, room: Room, now: datetime, days: int) -> int:
    """Remove what has expired where there is no room for another backup. Returns what that one needs."""
    size = needed(hold, target, room)
    if room.shared and size > room.spare():
        expire(target, now, days)
    return size


def relieve(hold: Hold, settings: Settings, now: datetime) -> None:
    """`make_room` before anything is written, as a full disk takes nothing, not even the note that a backup failed."""
    path = folder_of(target_url(hold, None, settings))
    if path is None or hold.writer is None:
        return
    with hold.upkeep, suppress(OSError):  # the backup itself says what is wrong with the folder
        if path.is_dir():
            target = Folder(path, store_label(hold.file))
            target.clean()
            make_room(hold, target, room_of(hold, path, settings), now, settings.backup_days)


def expire(target: Target, now: datetime, days: int) -> None:
    """Remove good backups older than `days`, but never the newest. A failure is logged: what else is done counts."""
    try:
        for kept in target.entries()[:-1]:
            if kept.created_at < now - timedelta(days=days):
                target.remove(kept.name)
    except (StoreUnavailable, OSError) as error:
        log.warning("old backups could not be removed: %s", error)


def crowded(hold: Hold, settings: Settings) -> str | None:
    """What to say where `backup_days` backups as large as the newest will not fit on the disk of the store."""
    url = settings.backup_target if hold.in_memory else target_url(hold, None, settings)
    path = folder_of(url) if url else None
    with suppress(OSError):
        return None if path is None or not path.is_dir() else _crowded(hold, path, settings)
    return None


def _crowded(hold: Hold, path: Path, settings: Settings) -> str | None:
    target, room, days = Folder(path, store_label(hold.file)), room_of(hold, path, settings), settings.backup_days
    kept = target.entries()
    if not room.shared or not kept:
        return None
    size = max(1, kept[-1].bytes)
    fit = max(0, (room.spare() + sum(one.bytes for one in kept) - needed(hold, target, room)) // size)
    if fit >= days:
        return None
    return f"of the {days} backups to be kept, of {_mib(size)} each, about {fit:,} fit beside the store"


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _mib(size: int) -> str:
    return f"{size / 1024**2:,.1f} MiB"
