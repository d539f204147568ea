"""The upkeep verbs of the engine: each hands its work to the file that owns it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from gnomon.access import Person
from gnomon.catalog import check_id
from gnomon.ingest.keptnames import forget_names
from gnomon.ingest.recovery import found_damage
from gnomon.ingest.writer import Writer
from gnomon.store import Store
from gnomon.timerange import resolve_range, to_us
from gnomon.upkeep.alerting import Alerting
from gnomon.upkeep.audit import Audit
from gnomon.upkeep.safekeeping import Safekeeping

if TYPE_CHECKING:
    from datetime import datetime

    from gnomon.ingest.thresholds import Policy
    from gnomon.pseudonyms import Pseudonyms
    from gnomon.query.inquiry import Inquiry
    from gnomon.upkeep.erasure import ErasureCertificate
    from gnomon.upkeep.retention import PruneReport, RetentionPolicy
    from gnomon.upkeep.rollup import RollupReport


class Keeping(Safekeeping, Alerting):
    """Rollups, retention and the like. Mixed into the engine."""

    zone: ZoneInfo
    flush: Callable[[], None]
    _reset_asking: Callable[[], None]
    _inquiry: Callable[[], Inquiry]
    _note_again: Callable[[], None]
    _policy: Policy
    _erase_exports: Callable[[], None]
    _sweep: Callable[[], int]
    _audit: Audit
    _pseudonyms: Pseudonyms | None

    def _owned(self) -> tuple[Store, Writer]:
        """The store and its writer. Raises `StoreBusy` where another process owns them."""
        store, writer = self._own_or_refuse(), self._hold.writer
        if writer is None:
            raise self._hold.busy()
        return store, writer

    def trigger_aggregation(self, time_range: Any = None) -> RollupReport:
        """Bring the rollups up to now, or up to the end of `time_range`; running it again changes nothing.

        Raises `InvalidValue` (code `rollup-fixed`) where settings ask for other rollups than can be made.
        """
        store, writer = self._owned()
        from gnomon.upkeep.rollup import roll_up  # deferred: it builds SQL

        now, until = self.clock(), None
        if time_range is not None:
            until = resolve_range(time_range, now=now, zone=self.zone).end_us
        with self._audited("trigger_aggregation") as note, self._hold.alone():
            report = roll_up(store, writer, self.settings, to_us(now), until)
            note.rows = report.events
        return report

    def set_retention_policy(self, policy: RetentionPolicy | None = None, **days: Any) -> None:
        """Set how long data is kept: a `RetentionPolicy`, or its fields as keywords; those left out stay as they are.

        Kept durably, for every process of this store. Raises `InvalidValue` (code `bad-policy`).
        """
        from gnomon.upkeep.retention import changed, key_of, policy_text, read_policy

        with self._audited("set_retention_policy") as note:

            def merged(kept: str | None) -> str:
                wanted = changed(read_policy(kept, self.settings), policy, days, self.clock())
                note.detail = wanted.plain()
                return policy_text(wanted)

            self._hold.change_kept(key_of(self.settings.project), merged)

    def get_retention_policy(self) -> RetentionPolicy:
        """How long data is kept."""
        from gnomon.upkeep.retention import key_of, read_policy

        return read_policy(self._hold.journal.kept(key_of(self.settings.project)), self.settings)

    def _policy_now(self) -> RetentionPolicy:
        """The policy with what was set elsewhere a moment ago, a legal hold say."""
        from gnomon.upkeep.retention import key_of, read_policy

        return read_policy(self._hold.kept_now(key_of(self.settings.project)), self.settings)

    def set_legal_hold(self, until: datetime | None) -> None:
        """Refuse every deletion until a moment (with a zone); None lifts the hold."""
        self.set_retention_policy(legal_hold_until=until)

    def prune(self, dry_run: bool = False) -> PruneReport:
        """Delete what the policy no longer keeps; totals, people and percentiles (within 1 %) stay as they are.

        With `dry_run` only count it. Raises `InvalidValue` with code `legal-hold` while a hold is in force.
        """
        store, writer = self._owned()
        from gnomon.upkeep.retention import prune

        with self._audited("prune") as note, self._hold.alone():
            note.detail = {"dry_run": dry_run}
            report = prune(store, writer, self.settings, self._policy_now(), self.clock(), dry_run)
            note.rows = report.raw + report.hourly + report.daily + report.samples
        return report

    def run_jobs(self) -> dict[str, str]:
        """Run the background work that is due (roll up, prune, prune the audit, backup) and say how each went, then
        look for alerts.

        With the setting `scheduler` a thread of the process that owns the store does it by itself.
        """
        from gnomon.upkeep.jobs import run_due

        self._own_or_refuse()
        done = run_due(self)
        self._look_for_alerts()
        return done

    def _crowded_backups(self) -> tuple[str, str] | None:
        """What is wrong, and what to do, where backups are made daily and not all of them will fit beside the store."""
        from gnomon.upkeep import jobs
        from gnomon.upkeep.turns import last_done

        daily = next((job for job in jobs.JOBS if job.name == "backup"), None)
        if daily is None or not daily.wanted(self.settings) or last_done(self, daily) is None:
            return None
        from gnomon.upkeep.room import CROWDED, crowded

        told = crowded(self._hold, self.settings)
        return None if told is None else (told, CROWDED)

    def forget(self, user_id: str, delete_events: bool = False) -> ErasureCertificate:
        """Erase a person: their events stay as anonymous counts, or go with `delete_events`; every other trace goes.

        Totals stay (unless events are deleted), numbers of people shrink, and the files are written anew. A device is
        forgotten by its id where it was seen without a user. With pseudonyms on, the id finds what is kept under any of
        the keys; a pseudonym finds what is kept as it. Raises `InvalidValue` (`bad-query`; `legal-hold`).
        """
        check_id(user_id)
        store, writer = self._owned()
        from gnomon.store.erasing import Traces
        from gnomon.upkeep.aging import backups_left
        from gnomon.upkeep.erasure import forget
        from gnomon.upkeep.retention import check_hold

        with self._audited("forget") as note, self._hold.alone():
            note.detail = {"people": [Person(user_id)], "delete_events": delete_events}
            check_hold(self._policy_now(), self.clock())
            self.flush()
            files = tuple(path.name for path in found_damage(self._hold.file))
            known = self._pseudonyms
            who = Traces((user_id,)) if known is None else Traces(known.ids(user_id), known.mentions(user_id))
            forget_names(self._hold.journal, self.settings.project, {*who.ids, *who.texts})
            certificate = forget(store, writer, self._hold.journal, self.settings.project, who,
                                 delete=delete_events, now=self.clock(), remaining=files)  # fmt: skip
            note.rows = certificate.rows
            self._note_again()
            self._policy.erased()
            self._inquiry().drop_shared(store)
            self._reset_asking()
            self._erase_exports()  # a file may hold the person; whoever needs it exports it again
        for settle in list(self._hold.before_erasing):
            settle()
        self._audit.erase(self.settings.project, user_id)
        return certificate.with_backups(backups_left(self._hold, self.settings, self.clock()))
