"""Handing export jobs to workers, and doing those that were handed over: in a worker, or here when none comes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gnomon.access import LOCAL, Note, Principal
from gnomon.config import Settings
from gnomon.errors import GnomonError, InvalidValue
from gnomon.store import Served, Store, takes_turns

if TYPE_CHECKING:
    from gnomon.export.handed import ClaimedTask
    from gnomon.export.jobs import ExportJob, Folder
    from gnomon.export.ordering import Order
    from gnomon.export.reading import Rows
    from gnomon.export.running import Runner
    from gnomon.ingest.hold import Hold

log = logging.getLogger("gnomon.export")

#: Slices that a job reads ahead: with the one that is written they keep two cores busy.
AHEAD = 2


class Handing:
    """What `Exporting` needs for jobs that other processes write. All of it is loaded with the first of them."""

    settings: Settings
    _hold: Hold
    _own_or_refuse: Callable[[], Store]
    _folder: Callable[[], Folder]
    _runner: Callable[[], Runner]
    _rows: Callable[[Note, Order], Rows]
    _doer: Callable[[Principal, Note], Callable[[Callable[[], int]], None]]
    _utc_now: Callable[[], Any]
    _kept_until: Callable[[Any], Any]

    def _hand_over(self, job: ExportJob, given: dict[str, Any], rows: Rows, caller: Principal) -> bool:
        """Leave a job to a worker; False where there is none, or it could not do it."""
        if not (self.settings.celery_broker_url and takes_turns(self.settings.database_url)):
            return False
        from gnomon.broker import WRITE_EXPORT, broker_of, queue_of
        from gnomon.export.handed import claim, keep_order, ordered

        folder = self._folder()
        order = ordered(given, rows, (caller.name, sorted(caller.scopes)), self._likeness())
        if order is None:
            return False
        ours = job.process
        keep_order(folder, job, order)
        job.process = ""  # nobody's, but whoever holds the lock on the order
        folder.save(job)
        if broker_of(self.settings).send(WRITE_EXPORT, [job.project, job.id], queue_of(self._hold.file.name)):
            return True
        mine = claim(folder, job.id)
        if mine is None:
            return True  # a worker has it: the message came through, and the answer to it was lost
        job.process = ours
        folder.save(job)
        mine.finish()
        mine.release()
        return False

    def _likeness(self) -> str:
        from gnomon.export.handed import likeness

        store = self._own_or_refuse()
        assert isinstance(store, Served)
        return likeness(self.settings, store.store_id)

    def _claimed(self, job_id: str, *, patient: bool = False) -> ClaimedTask | None:
        """A handed job, ready to be run here; None where it is done, withdrawn or somebody else is at it.

        Raises what passes by itself, with the job left as it is; what does not ends the job. `patient`: also while
        it is written, what passes does not end it. Raises `InvalidValue` (other-settings).
        """
        from gnomon.export.handed import MOST_TRIES, ClaimedTask, claim, worn_out

        folder = self._folder()
        mine = claim(folder, job_id)
        if mine is None:
            return None
        task = ClaimedTask(mine.job, folder, None, None, self, lambda _write: None, self._utc_now, self._kept_until)  # type: ignore[arg-type]
        task.claim, task.patient = mine, patient
        try:
            if mine.order.likeness != self._likeness():
                raise _other_settings()
            if mine.tries > MOST_TRIES:
                raise worn_out()
            caller, note = Principal(*mine.order.caller), Note("export")
            order = mine.order.order(AHEAD)
            task.rows, task.form = self._rows(note, order), order.form.make()
            task.audited = self._doer(LOCAL if caller == LOCAL else caller, note)
        except GnomonError as error:
            if error.code not in (*ClaimedTask.TRANSIENT, "other-settings"):
                task.fail(error)
                mine.finish()
                mine.release()
                return None
            mine.release()
            raise
        except BaseException:
            mine.release()
            raise
        return task

    def _take_back(self, job: ExportJob) -> bool:
        """Whether a job that this process did not begin is a handed one; nobody may be at it any more: do it here."""
        folder = self._folder()
        if not folder.order(job.id).exists():
            return False
        from gnomon.export.handed import is_idle

        if not is_idle(folder, job):
            return True
        try:
            task = self._claimed(job.id)
            if task is not None:
                log.warning("no worker wrote the export %s: this process does", job.id)
                self._runner().offer(task)
        except GnomonError as error:
            log.warning("an export waits for a worker, and cannot be written here: %s", error)
        return True


def _other_settings() -> InvalidValue:
    return InvalidValue(
        "this process has other settings than the one that ordered the export, so its answer could differ",
        remedy="Give both the same store, timezones, pseudonym keys and heartbeat_seconds.", code="other-settings",
    )  # fmt: skip
