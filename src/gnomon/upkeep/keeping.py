"""The upkeep verbs of the engine: each hands its work to the file that owns it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from gnomon.config import Settings
from gnomon.ingest.hold import Hold
from gnomon.ingest.recovery import found_damage
from gnomon.ingest.writer import Writer
from gnomon.store import Store
from gnomon.timerange import Clock, resolve_range, to_us

if TYPE_CHECKING:
    from datetime import datetime

    from gnomon.upkeep.erasure import ErasureCertificate
    from gnomon.upkeep.retention import PruneReport, RetentionPolicy
    from gnomon.upkeep.rollup import RollupReport


class Keeping:
    """Rollups, retention and the like. Mixed into the engine."""

    settings: Settings
    clock: Clock
    zone: ZoneInfo
    _hold: Hold
    _own_or_refuse: Callable[[], Store]
    flush: Callable[[], None]
    _reset_asking: Callable[[], None]

    def _owned(self) -> tuple[Store, Writer]:
        """The store and its writer. Raises `StoreBusy` where another process owns them."""
        store, writer = self._own_or_refuse(), self._hold.writer
        assert writer is not None
        return store, writer

    def trigger_aggregation(self, time_range: Any = None) -> RollupReport:
        """Bring the rollups up to now, or up to the end of `time_range`; running it again changes nothing.

        Raises `InvalidValue` (code `rollup-fixed`) where settings ask for other rollups than can be made.
        """
        from gnomon.upkeep.rollup import roll_up  # deferred: it builds SQL

        store, writer = self._owned()
        now, until = self.clock(), None
        if time_range is not None:
            until = resolve_range(time_range, now=now, zone=self.zone).end_us
        return roll_up(store, writer, self.settings, to_us(now), until)

    def set_retention_policy(self, policy: RetentionPolicy | None = None, **days: Any) -> None:
        """Set how long data is kept: a `RetentionPolicy`, or its fields as keywords (others stay as they are).

        Kept durably, for every process of this store. Raises `InvalidValue` (code `bad-policy`).
        """
        from gnomon.upkeep.retention import changed, keep_policy

        keep_policy(self._hold.journal, self.settings.project, policy or changed(self.get_retention_policy(), days))

    def get_retention_policy(self) -> RetentionPolicy:
        """How long data is kept."""
        from gnomon.upkeep.retention import read_policy

        return read_policy(self._hold.journal, self.settings)

    def set_legal_hold(self, until: datetime | None) -> None:
        """Refuse every deletion until a moment (with a zone); None lifts the hold."""
        self.set_retention_policy(legal_hold_until=until)

    def prune(self, dry_run: bool = False) -> PruneReport:
        """Delete what the policy no longer keeps; totals, people and percentiles (within 1 %) stay as they are.

        With `dry_run` only count it. Raises `InvalidValue` with code `legal-hold` while a hold is in force.
        """
        from gnomon.upkeep.retention import prune

        store, writer = self._owned()
        return prune(store, writer, self.settings, self.get_retention_policy(), self.clock(), dry_run)

    def forget(self, user_id: str, delete_events: bool = False) -> ErasureCertificate:
        """Erase a person: their events stay as anonymous counts, or go with `delete_events`; every other trace goes.

        Totals stay (unless events are deleted), numbers of people shrink, and the files are written anew. A device is
        forgotten by its id where it was seen without a user. Raises `InvalidValue` with code `legal-hold`.
        """
        from gnomon.upkeep.erasure import forget
        from gnomon.upkeep.retention import check_hold

        store, writer = self._owned()
        check_hold(self.get_retention_policy(), self.clock())
        self.flush()
        files = tuple(path.name for path in found_damage(self._hold.file))
        certificate = forget(store, writer, self._hold.journal, self.settings.project, user_id, delete=delete_events,
                             now=self.clock(), remaining=files, backups_gone=None)  # fmt: skip
        self._reset_asking()
        return certificate
