"""The engine's calls for backups and copies. Each is one line over `backup`, `restore`, `targets` and `copying`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gnomon.config import Settings
from gnomon.store import Store
from gnomon.timerange import Clock
from gnomon.upkeep.audit import Audited

if TYPE_CHECKING:
    from gnomon.ingest.hold import Hold
    from gnomon.upkeep.backup import Backup
    from gnomon.upkeep.copying import Copied, CopyProgress
    from gnomon.upkeep.restore import Restored
    from gnomon.upkeep.targets import KeptBackup


def _quiet(_step: str) -> None:
    """Nobody wants to know what is being done."""


def _silent(_progress: CopyProgress) -> None:
    """As `_quiet`, of a copy."""


class Safekeeping:
    """Backups and copies of the store. Mixed into the engine, which knows the store, its files and the clock."""

    settings: Settings
    clock: Clock
    _hold: Hold
    _audited: Callable[[str], Audited]
    _note_again: Callable[[], None]
    _sessions: Any
    _release: str  #: the version of Gnomon

    def _own_or_refuse(self) -> Store:
        raise NotImplementedError

    def _make_durable(self) -> int:
        raise NotImplementedError

    def trigger_backup(self, target: str | os.PathLike[str] | None = None,
                       on_step: Callable[[str], None] = _quiet) -> Backup:  # fmt: skip
        """Make a backup now, while everything goes on, and return it once it was restored and compared.

        It holds everything acknowledged before the call, of all projects. `target` is a folder or URL (default: the
        setting `backup_target`, else `backups/` in `data_dir` or beside the store). Good backups older than
        `backup_days` are removed then. `on_step` is told what is being done. Raises `StoreDamaged` for a store that
        cannot be read back, `DiskFull` (`target-full`), `StoreUnavailable` (`target-unavailable`), `InvalidValue` for
        a bad target or key.
        """
        store = self._own_or_refuse()
        from gnomon.upkeep.backup import Order, make_backup  # deferred, here and below: most processes never make one

        self._make_durable()
        url = None if target is None else os.fspath(target)
        with self._audited("trigger_backup") as note:
            made = make_backup(self._hold, store, Order(url, self.settings, self.clock(), self._release, on_step))
            note.detail = {"bytes": made.bytes}
        return made

    def backups(self, target: str | os.PathLike[str] | None = None) -> list[KeptBackup]:
        """The good backups of this store at a target (default as in `trigger_backup`), oldest first."""
        self._own_or_refuse()
        from gnomon.upkeep.backup import one_at_a_time
        from gnomon.upkeep.targets import open_target, store_label, target_url

        url = target_url(self._hold, None if target is None else os.fspath(target), self.settings)
        with one_at_a_time(self._hold) as scratch:
            return open_target(url, store_label(self._hold.file), scratch).entries()

    def restore_backup(self, path: str | os.PathLike[str], on_step: Callable[[str], None] = _quiet) -> Restored:
        """Put a backup in the place of everything that this store holds, of all projects.

        `path` is an archive: a file, or its address at a target. It is checked whole before anything changes. What is
        recorded after the call is kept and stored on top. Raises `StoreDamaged` (`backup-damaged`), `InvalidValue`
        (`wrong-backup-key`, `no-backup-key`, `newer-backup`, `newer-schema`, `no-such-file`), `DiskFull`.
        """
        store = self._own_or_refuse()
        from gnomon.upkeep.restore import restore

        self._make_durable()
        with self._audited("restore_backup") as note:
            self._note_again()  # what comes while it runs stays, and so must who is left out of it
            restored = restore(self._hold, store, os.fspath(path), self.settings, on_step)
            self._note_again()
            self._sessions = None  # what was counted of the content before
            note.rows = restored.counts.get("events")
        return restored

    def copy_to(self, url: str | os.PathLike[str], *, data_dir: str | None = None, verify_only: bool = False,
                on_progress: Callable[[CopyProgress], None] = _silent) -> Copied:  # fmt: skip
        """Copy everything, of all projects, into another store: `url` is a new file or database, or one into which
        this very store was being copied when it was cut short; then it goes on there.

        It holds everything acknowledged before the call; what is recorded meanwhile is stored here as usual, and told
        by `newer`: call it again before the copy is used, and it carries the rest. The copy counts once every row of
        both was read and compared; until then nobody can open it. `data_dir` is that of a destination on a server.
        With `verify_only` the two are compared, and nothing is changed. Raises `InvalidValue` (`destination-used`,
        `bad-store`), `StoreBusy`, `StoreUnavailable`, `StoreDamaged` (`copy-differs`; `store-damaged` of the source).
        """
        store = self._own_or_refuse()
        if self._hold.writer is None:
            raise self._hold.busy()
        from gnomon.upkeep.copying import CopyOrder, copy_store

        self._make_durable()
        there = self.settings.but(database_url=os.fspath(url), data_dir=data_dir or self.settings.data_dir)
        order = CopyOrder(there, self.settings.project, self.clock(), self._release, on_progress, verify_only)
        with self._audited("copy_to") as note:
            note.detail = {"verify_only": verify_only}
            copied = copy_store(self._hold, store, order)
            note.rows = copied.carried
        return copied
