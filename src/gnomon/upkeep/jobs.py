"""Background work as a table: name, period and function. One process runs it: the one that owns the store.

When a job last ended well is kept in the journal, so a restart neither repeats nor forgets one; a job that fails is
tried again at the next look.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gnomon.errors import GnomonError, StoreBusy
from gnomon.timerange import US_SECOND, to_us
from gnomon.upkeep.alerts import watch_of

if TYPE_CHECKING:
    from gnomon.upkeep.keeping import Keeping

log = logging.getLogger("gnomon.jobs")

LOOK_SECONDS = 30.0  #: how often the scheduler looks for what is due
HOUR, DAY = 3_600, 86_400


@dataclass(frozen=True)
class Job:
    """One row of the table; `period` in seconds. With 0 it runs at every look, and returns False if it was not due."""

    name: str
    period: int
    run: Callable[[Any], object]
    whole_store: bool = False  #: done once, not for each project


JOBS = (
    # An engine beats by itself as well, in every process and without a scheduler (docs/decisions/0016).
    Job("heartbeat", 0, lambda engine: engine._beat()),
    Job("roll up", HOUR // 4, lambda engine: engine.trigger_aggregation()),
    Job("prune", DAY, lambda engine: engine.prune()),
    Job("prune audit", DAY, lambda engine: engine.prune_audit(), whole_store=True),
    # What Gnomon cannot copy (a database server, ClickHouse) is backed up with its own means.
    Job("backup", DAY, lambda engine: engine._hold.copied and engine.trigger_backup(), whole_store=True),
    Job("old exports", HOUR, lambda engine: engine._sweep()),
)


def run_due(engine: Keeping, *, whole_store: bool = True) -> dict[str, str]:
    """Run what is due and say how it went: `ok` or the code of the error. Raises `StoreBusy` where another owns.

    `whole_store=False` leaves out what another engine of this process does for all projects.
    """
    journal, project = engine._hold.journal, engine.settings.project
    done: dict[str, str] = {}
    watch = watch_of(engine._hold)
    for job in JOBS:
        if job.whole_store and not whole_store:
            continue
        owner = None if job.whole_store else project
        key, now = f"job:{project}:{job.name}", to_us(engine.clock())
        last = journal.kept(key)
        if last is not None and now - int(last) < job.period * US_SECOND:
            continue
        try:
            if job.run(engine) is False:
                continue
        except StoreBusy:
            raise
        except GnomonError as error:
            log.warning("the job %s failed and is tried again: %s", job.name, error)
            done[job.name] = error.code
            watch.note_job(job.name, owner, error)
        except Exception as error:
            told = GnomonError(f"the job failed ({type(error).__name__})", remedy="See the log.", code="job-failed")
            watch.note_job(job.name, owner, told)
            raise
        else:
            watch.note_job(job.name, owner, None)
            if job.period:
                journal.keep(key, str(now))
            done[job.name] = "ok"
    return done


class Scheduler:
    """A thread that runs what is due, and one that looks for alerts, which no long job may hold up.

    They go on until they are stopped, or their engine is gone.
    """

    def __init__(self, engine: Keeping) -> None:
        self._engine = weakref.ref(engine)
        self._stop = threading.Event()
        watch_of(engine._hold).scheduled = True
        work = {"gnomon-jobs": run_due, "gnomon-watch": lambda found: found._look_for_alerts()}
        self._threads = [threading.Thread(target=self._run, args=(do,), name=name, daemon=True)
                         for name, do in work.items()]  # fmt: skip
        for thread in self._threads:
            thread.start()

    def _run(self, do: Callable[[Keeping], object]) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            engine = self._engine()
            if engine is None:
                return
            try:
                do(engine)
            except StoreBusy:
                continue  # its owner does it
            except Exception:
                log.exception("a job failed")
            del engine

    def stop(self) -> None:
        """End after the job that runs now."""
        self._stop.set()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
