"""The Celery app `gnomon.worker:app`: the jobs of a store on a database server, and exports, done by worker processes.

Beat asks for every job twice a minute, and any number of beats may: whether a job is due, and whether another process
is at it, says the database (`upkeep.turns`), so each runs once a period, and one that died with its worker is done by
the next. Refuses an embedded store, which only one process can open.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from contextlib import closing, nullcontext
from itertools import count
from pathlib import Path
from typing import Any

from celery import Celery, signals
from celery.exceptions import SoftTimeLimitExceeded

from gnomon.broker import RUN_JOB, WRITE_EXPORT, queue_of
from gnomon.config import Settings, read_settings
from gnomon.engine import AnalyticsEngine, beside
from gnomon.errors import GnomonError, InvalidValue
from gnomon.ingest.owner import OwnerLock
from gnomon.ingest.places import file_of
from gnomon.pulse import TOUCH_SECONDS, Pulse
from gnomon.query.books import projects_of
from gnomon.store import takes_turns
from gnomon.upkeep.jobs import JOBS, Job, run_due, run_job
from gnomon.upkeep.workers import ROUND_SECONDS, note_round

log = logging.getLogger("gnomon.worker")

ALIVE = "workers/alive"  #: in `data_dir`, see `gnomon.pulse`
BROKER_SECONDS = 30.0  #: a broker that is silent for longer has gone, and the worker connects anew
GRACE_SECONDS = 30.0  #: between asking a task to end and killing its process
NOTE_SECONDS = 20.0  #: a process says this often that it made a round
FIRST_WAIT = 2.0  #: before a task that failed is tried again; the wait doubles
JOB_TRIES, EXPORT_TRIES = 3, 6  #: within the life of a message of beat, and within two minutes

app = Celery("gnomon", set_as_current=False)


def configure(settings: Settings) -> None:
    """Give the app a store and a broker. Raises `InvalidValue` (embedded-store, no-broker)."""
    if not takes_turns(settings.database_url):
        raise InvalidValue(
            "workers need a store on a database server, which tells whose turn a job is", code="embedded-store",
            remedy="Leave the jobs to `gnomon serve` or scheduler=True, or keep the events in PostgreSQL or on a "
            "ClickHouse server.",
        )  # fmt: skip
    if not settings.celery_broker_url:
        raise InvalidValue("there is no broker to take tasks from", code="no-broker",
                           remedy="Set CELERY_BROKER_URL, for example to redis://localhost:6379/0.")  # fmt: skip
    file = file_of(settings)
    assert file is not None
    _ENGINE.settings = settings.for_service().but(
        enabled=False, scheduler=False, export_dir=settings.export_dir or str(file.parent)
    )
    chosen = _celery_settings(settings, queue_of(file.name))
    app.config_from_object(chosen)
    if app.configured:  # only by tests
        app.conf.update(**chosen)


def _celery_settings(settings: Settings, queue: str) -> dict[str, Any]:
    longest = settings.worker_seconds
    return {
        "broker_url": settings.celery_broker_url, "result_backend": settings.celery_result_backend or None,
        "task_ignore_result": not settings.celery_result_backend, "result_expires": 86_400,
        "task_default_queue": queue, "task_serializer": "json", "result_serializer": "json",
        "accept_content": ["json"], "timezone": "UTC", "enable_utc": True,
        # A task is taken off the queue when it has ended, and given to another process when its own died.
        "task_acks_late": True, "task_reject_on_worker_lost": True, "worker_prefetch_multiplier": 1,
        "broker_transport_options": {"visibility_timeout": int(longest + GRACE_SECONDS) + 60,
                                     "socket_timeout": BROKER_SECONDS},
        "task_soft_time_limit": longest, "task_time_limit": longest + GRACE_SECONDS,
        "broker_connection_retry_on_startup": True, "broker_connection_max_retries": None,
        "beat_schedule": _schedule(settings), "beat_scheduler": "celery.beat:Scheduler", "beat_max_loop_interval": 5,
        "worker_hijack_root_logger": False, "worker_send_task_events": False,
    }  # fmt: skip


def _schedule(settings: Settings) -> dict[str, Any]:
    """Nobody counts on one of these messages, so they do not outlive the next ones."""
    options = {"expires": ROUND_SECONDS}
    return {job.name: {"task": RUN_JOB, "args": [job.name], "schedule": ROUND_SECONDS, "options": options}
            for job in JOBS if not job.here and job.wanted(settings)}  # fmt: skip


class _Engine:
    """The engine of a worker process, opened with its first task. Each has files of its own below `data_dir`."""

    def __init__(self) -> None:
        self.settings: Settings | None = None
        self._open: AnalyticsEngine | None = None
        self._file: OwnerLock | None = None
        self._lock = threading.Lock()
        self._noted = 0.0

    def get(self) -> AnalyticsEngine:
        """Raises what opening raises."""
        with self._lock:
            if self._open is None:
                settings = self.settings
                assert settings is not None
                file = file_of(settings)
                assert file is not None
                self._open = AnalyticsEngine(settings.but(data_dir=str(self._place(file.parent / "workers"))))
            return self._open

    def _place(self, folder: Path) -> Path:
        """The first folder of the numbered ones that no other worker process uses."""
        for number in count(1):
            place = folder / str(number)
            place.mkdir(parents=True, exist_ok=True)
            self._file = OwnerLock(place / "worker.lock")
            if self._file.acquire():
                return place
        raise AssertionError

    def note(self) -> None:
        """Say that workers are there."""
        if time.monotonic() - self._noted >= NOTE_SECONDS:
            note_round(self.get())
            self._noted = time.monotonic()

    def close(self) -> None:
        """Let go of the files."""
        with self._lock:
            if self._open is not None:
                self._open.close()
            if self._file is not None:
                self._file.release()
            self._open = self._file = None


_ENGINE = _Engine()


class JobFailed(Exception):
    """A job failed for some projects; says for each how."""


@app.task(name=RUN_JOB, bind=True, max_retries=JOB_TRIES)  # type: ignore[untyped-decorator]
def run_one(self: Any, name: str) -> dict[str, str]:
    """Run one job for every project where it is due; says how each went."""
    job = next((row for row in JOBS if row.name == name), None)
    if job is None:  # of a beat of another version
        log.warning("a job that this version does not know was asked for")
        return {}
    try:
        home = _ENGINE.get()
        done = _for_projects(home, job, again=self.request.retries > 0)
        run_due(home, here_only=True)
        _ENGINE.note()
    except GnomonError as error:
        raise self.retry(exc=JobFailed(error.code), countdown=_wait(self)) from None
    failed = {project: code for project, code in done.items() if code != "ok"}
    if failed:
        raise self.retry(exc=JobFailed(*sorted(set(failed.values()))), countdown=_wait(self))
    return done


def _for_projects(home: AnalyticsEngine, job: Job, *, again: bool = False) -> dict[str, str]:
    """One project that fails does not keep the others from their turn, nor one whose job always takes too long."""
    own = home.settings.project
    done: dict[str, str] = {}
    for project in [own] if job.whole_store else _in_any_order(home):
        with nullcontext(home) if project == own else closing(beside(home, project)) as engine:
            try:
                code = run_job(engine, job, again=again)
            except SoftTimeLimitExceeded:
                log.warning("the job %s takes longer than worker_seconds, and is begun again", job.name)
                raise
            except Exception as error:
                log.exception("the job %s failed", job.name)
                code = error.code if isinstance(error, GnomonError) else "job-failed"
        if code is not None:
            done[project] = code
    return done


def _in_any_order(home: AnalyticsEngine) -> list[str]:
    """All projects. In one order those behind a job that never fits the time would never have their turn, and whoever
    ends for it remembers nothing."""
    found = {home.settings.project, *projects_of(home._own_or_refuse(), home.settings.query_timeout_seconds)}
    return random.sample([*found], len(found))


@app.task(name=WRITE_EXPORT, bind=True, max_retries=EXPORT_TRIES)  # type: ignore[untyped-decorator]
def write_export(self: Any, project: str, job_id: str) -> str:
    """Write the file of one export; says how it ended, `elsewhere` where there is nothing to do here."""
    try:
        home = _ENGINE.get()
        with nullcontext(home) if project == home.settings.project else closing(beside(home, project)) as engine:
            engine._own_or_refuse()  # a database that is away is no fault of the job
            patient = self.request.retries < EXPORT_TRIES
            task = engine._claimed(job_id, patient=patient)
            if task is None:
                return "elsewhere"
            task.run()
            if task.again is not None:
                raise task.again
            return str(task.job.state)
    except GnomonError as error:
        if error.code == "other-settings":
            log.error("an export is left to the process that ordered it: %s", error)
            return "elsewhere"
        raise self.retry(exc=JobFailed(error.code), countdown=_wait(self)) from None


def _wait(task: Any) -> float:
    return float(FIRST_WAIT * 2**task.request.retries)


@app.on_configure.connect(weak=False)  # type: ignore[untyped-decorator]
def _configured(**_said: Any) -> None:
    """Of `celery -A gnomon.worker:app`: when its configuration is first looked at, the environment is read."""
    if _ENGINE.settings is None:
        configure(read_settings())


@signals.worker_init.connect(weak=False)  # type: ignore[untyped-decorator]
def _begun(sender: Any, **_said: Any) -> None:
    """Before it connects, which takes as long as the broker is away."""
    if sender.app is not app or _ENGINE.settings is None:
        return
    file = file_of(_ENGINE.settings)
    assert file is not None
    pulse = Pulse(file.parent / ALIVE, sender)

    @signals.worker_ready.connect(weak=False)  # type: ignore[untyped-decorator]
    def ready(sender: Any, **_said: Any) -> None:
        sender.timer.call_repeatedly(TOUCH_SECONDS, pulse.turned)

    signals.worker_shutdown.connect(lambda **_said: pulse.end(), weak=False)


@signals.worker_process_shutdown.connect(weak=False)  # type: ignore[untyped-decorator]
@signals.worker_shutdown.connect(weak=False)  # type: ignore[untyped-decorator]
def _ended(**_said: Any) -> None:
    _ENGINE.close()
