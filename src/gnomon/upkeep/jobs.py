"""Background work as a table: name, period and function, and running what is due of it.

One process does each of it: of an embedded store the one that owns it, of a store on a server whichever comes first
(`turns`). A job that fails is tried again at the next look, or once it has rested for ten times what the try took.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gnomon.config import Settings
from gnomon.errors import GnomonError, StoreBusy
from gnomon.store import is_file
from gnomon.timerange import to_us
from gnomon.upkeep.alerts import watch_of
from gnomon.upkeep.turns import turn_of
from gnomon.upkeep.workers import left_to_workers

if TYPE_CHECKING:
    from gnomon.upkeep.keeping import Keeping

log = logging.getLogger("gnomon.jobs")

LOOK_SECONDS = 30.0  #: how often the scheduler looks for what is due
REST = 10  #: a job that fails takes a tenth of the time of its process at most, whatever it costs
HOUR, DAY = 3_600, 86_400


@dataclass(frozen=True)
class Job:
    """One row of the table; `period` in seconds. With 0 it runs at every look, and returns False if it was not due."""

    name: str
    period: int
    run: Callable[[Any], object]
    whole_store: bool = False  #: done once, not for each project
    here: bool = False  #: on the files of this data_dir, or for this process: each does it for itself
    deletes: bool = False  #: what is old; not where the clocks disagree about how old it is
    wanted: Callable[[Settings], bool] = lambda _: True  #: where it is not, it is never due


def backs_up(settings: Settings) -> bool:
    """Whether the store is backed up every day. Row by row, as all but DuckDB files are, takes the host too much time
    to begin with it unasked."""
    return is_file(settings.database_url) if settings.backup_daily is None else settings.backup_daily


def _back_up(engine: Any) -> object:
    if engine._hold.served and not engine.settings.backup_target:
        from gnomon.upkeep.targets import bad_target  # deferred: most processes make no backup

        raise bad_target(
            "any process of the store may make the daily backup, so it needs a place that all of them reach",
            "Set backup_target, or switch backup_daily off.",
        )
    from gnomon.upkeep.room import relieve  # deferred, as above

    relieve(engine._hold, engine.settings, engine.clock())
    return engine.trigger_backup()


JOBS = (
    # An engine beats by itself as well, in every process and without a scheduler (docs/decisions/0016).
    Job("heartbeat", 0, lambda engine: engine._beat(), here=True),
    Job("roll up", HOUR // 4, lambda engine: engine.trigger_aggregation()),
    Job("prune", DAY, lambda engine: engine.prune(), deletes=True),
    Job("prune audit", DAY, lambda engine: engine.prune_audit(), whole_store=True, here=True),
    Job("backup", DAY, _back_up, whole_store=True, wanted=backs_up),
    Job("old exports", HOUR, lambda engine: engine._sweep(), here=True),
)


def run_due(engine: Keeping, *, whole_store: bool = True, here_only: bool = False) -> dict[str, str]:
    """Run what is due and say how it went: `ok` or the code of the error. Raises `StoreBusy` where another owns.

    `whole_store=False` leaves out what another engine of this process does for all projects, `here_only` what workers
    do for all processes.
    """
    done: dict[str, str] = {}
    for job in JOBS:
        if (whole_store or not job.whole_store) and (job.here or not here_only):
            outcome = run_job(engine, job)
            if outcome is not None:
                done[job.name] = outcome
    return done


def run_left(engine: Keeping) -> dict[str, str]:
    """What is due and not left to workers."""
    return run_due(engine, here_only=left_to_workers(engine))


def run_job(engine: Keeping, job: Job, *, now: bool = False, again: bool = False) -> str | None:
    """Run one job: `ok`, the code of its error, or None where it is not due, rests, or another process does it.

    With `now` also where it is not due, or rests; with `again` where it rests. Raises `StoreBusy` where another process
    owns the store.
    """
    if not job.wanted(engine.settings):
        return None
    watch, owner = watch_of(engine._hold), None if job.whole_store else engine.settings.project
    if watch.rests(job.name, owner) and not (now or again):
        return None
    began, started = to_us(engine.clock()), time.monotonic()
    try:
        with turn_of(engine, job, now=now) as turn:
            began = began if turn is None else turn.now_us
            if turn is None or job.run(engine) is False:
                return None
            watch.note_job(job.name, owner, None, began)
            turn.done()
            return "ok"
    except StoreBusy:
        raise
    except GnomonError as error:
        log.warning("the job %s failed and is tried again: %s", job.name, error)
        watch.note_job(job.name, owner, error, began, rest=_rest(job, started))
        return error.code
    except Exception as error:
        told = GnomonError(f"the job failed ({type(error).__name__})", remedy="See the log.", code="job-failed")
        watch.note_job(job.name, owner, told, began, rest=_rest(job, started))
        raise


def _rest(job: Job, started: float) -> float:
    """For how many seconds a job rests that failed, having begun then; 0 where the next look is rest enough."""
    rest = REST * (time.monotonic() - started)
    return min(rest, job.period) if rest > LOOK_SECONDS else 0.0


class Scheduler:
    """A thread that runs what is due, and one that looks for alerts, which no long job may hold up.

    They go on until they are stopped, or their engine is gone.
    """

    def __init__(self, engine: Keeping) -> None:
        self._engine = weakref.ref(engine)
        self._stop = threading.Event()
        watch_of(engine._hold).scheduled = True
        work = {"gnomon-jobs": run_left, "gnomon-watch": lambda found: found._look_for_alerts()}
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
