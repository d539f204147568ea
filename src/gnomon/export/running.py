"""The one thread of a store that writes the files of its export jobs, and what it is given to do.

It belongs to the process that owns the store; it starts with the first job and ends when there is none for a while.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from weakref import WeakKeyDictionary

from msgspec.structs import replace

from gnomon.errors import GnomonError, StoreUnavailable
from gnomon.export import Form
from gnomon.export.jobs import ExportJob, Folder, interrupted, new_file, writing
from gnomon.export.reading import Rows
from gnomon.files import sync_folder
from gnomon.ingest.owner import OwnerLock

log = logging.getLogger("gnomon.export")

MOST_WAITING = 100  #: jobs of a store that wait
_IDLE_SECONDS = 5.0
_SAVE_SECONDS = 1.0


@dataclass(eq=False)
class Task:
    """A job to be done. `rows` is what to write, `audited` runs the work as its owner and leaves the entry for it."""

    job: ExportJob
    folder: Folder
    rows: Rows
    form: Form
    engine: object
    audited: Callable[[Callable[[], int]], None]
    now: Callable[[], datetime]
    keep_for: Callable[[datetime], datetime]
    stopped: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)
    unsaved: bool = False  #: how it ended stands in memory only

    def run(self) -> None:
        """Write the file and say how it ended; never raises."""
        job = self.job
        try:
            if not self.stopped.is_set():
                self.audited(self._write)
                self._complete()  # when its entry is in the audit, without which there is no export
        except GnomonError as error:
            self.fail(error)
        except Exception as error:
            log.exception("an export failed")
            self.fail(GnomonError(f"the export failed ({type(error).__name__})", remedy="See the log.",
                                  code="export-failed"))  # fmt: skip
        if self.stopped.is_set() and job.state != "completed":
            self.fail(interrupted())
        self.done.set()

    def is_off(self) -> bool:
        """Whether nobody wants the file any more."""
        return self.stopped.is_set()

    def _write(self) -> int:
        job, part = self.job, self.folder.part(self.job)
        job.state, saved = "processing", 0.0
        with writing(), new_file(part) as file:
            for data in whole(self.rows, self.form):
                if self.is_off():
                    raise interrupted()
                file.write(data)
                job.rows, job.size = self.rows.done, job.size + len(data)
                job.progress = min(0.99, self.rows.done / self.rows.total) if self.rows.total else 0.0
                if time.monotonic() - saved >= _SAVE_SECONDS:
                    self.folder.save(job)
                    saved = time.monotonic()
            file.flush()
            os.fsync(file.fileno())
            part.replace(self.folder.data(job))
        if self.is_off():
            raise interrupted()
        sync_folder(self.folder.path)
        return job.rows

    def _complete(self) -> None:
        job = self.job
        job.finished = self.now()
        job.expires = self.keep_for(job.finished)
        job.progress = 1.0
        self._end("completed")

    def fail(self, error: GnomonError) -> None:
        """The job ends with this error."""
        job = self.job
        self.folder.part(job).unlink(missing_ok=True)
        self.folder.data(job).unlink(missing_ok=True)
        job.code, job.message, job.remedy = error.code, error.message, error.remedy
        job.finished = self.now()
        job.expires = self.keep_for(job.finished)
        try:
            self._end("failed")
        except GnomonError as again:
            log.warning("how an export ended could not be kept: %s", again)
            self.unsaved, job.state = True, "failed"

    def _end(self, state: Literal["completed", "failed"]) -> None:
        """Keep how the job ended, and only then say so: who asks meanwhile reads this very job."""
        self.folder.save(replace(self.job, state=state))
        self.job.state = state


class Runner:
    """One thread that runs the jobs of a store, one after the other; it starts with the first and ends when idle."""

    def __init__(self) -> None:
        self.name = secrets.token_hex(8)
        self._waiting: deque[Task] = deque()
        self._running: Task | None = None
        self._unsaved: dict[str, ExportJob] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._lock: OwnerLock | None = None

    def show_life(self, folder: Folder) -> None:
        """Until its end, other processes that look into the folder see that this one is at its jobs."""
        with self._changed:
            if self._lock is None or self._lock.path.parent != folder.path:
                with writing():
                    folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
                    lock = folder.lock_of(self.name)
                    lock.acquire()
                    lock.path.chmod(0o600)
                    self._lock = lock

    def let_go(self) -> None:
        """In a forked child: the parent is at its jobs, not this process."""
        if self._lock is not None:
            self._lock.release()

    def offer(self, task: Task) -> None:
        """Take a job on. Raises `StoreUnavailable` (export-queue-full)."""
        with self._changed:
            if len(self._waiting) >= MOST_WAITING:
                raise StoreUnavailable("too many exports are waiting", remedy="Try it again when some are done.",
                                       code="export-queue-full")  # fmt: skip
            self._waiting.append(task)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="gnomon-exports", daemon=True)
                self._thread.start()
            self._changed.notify()

    def find(self, job_id: str) -> ExportJob | None:
        """The job as it is now, if it waits or runs here, or ended without a trace on disk."""
        with self._changed:
            running = next((task.job for task in self._tasks() if task.job.id == job_id), None)
            return running or self._unsaved.get(job_id)

    def has(self, which: Callable[[Task], bool]) -> bool:
        """Whether some job of that kind waits or runs."""
        with self._changed:
            return any(map(which, self._tasks()))

    def stop(self, which: Callable[[Task], bool]) -> None:
        """Stop some jobs and wait until they have ended; they fail as interrupted."""
        with self._changed:
            chosen = [task for task in self._tasks() if which(task)]
            for task in chosen:
                task.stopped.set()
        if threading.current_thread() is not self._thread:
            for task in chosen:
                task.done.wait()
            with self._changed:  # nor may the thread hold on to the store, as this may be the end of the program
                self._changed.wait_for(lambda: self._running not in chosen)

    def _tasks(self) -> Iterator[Task]:
        if self._running is not None:
            yield self._running
        yield from self._waiting

    def _run(self) -> None:
        while True:
            with self._changed:
                self._running = None
                self._changed.notify_all()
                if not self._waiting and not self._changed.wait_for(lambda: bool(self._waiting), _IDLE_SECONDS):
                    self._thread = None
                    return
                self._running = self._waiting.popleft()
            self._running.run()
            if self._running.unsaved:
                self._unsaved[self._running.job.id] = self._running.job


_RUNNERS: WeakKeyDictionary[Any, Runner] = WeakKeyDictionary()
_LOCK = threading.Lock()
_INHERITED: list[object] = []


def runner_of(hold: Any) -> Runner:
    """The runner of a store that this process owns."""
    with _LOCK:
        return _RUNNERS.setdefault(hold, Runner())


def _in_child() -> None:
    """Threads are the parent's; what they work on must not be closed here."""
    global _RUNNERS, _LOCK
    _INHERITED.append(_RUNNERS)
    _INHERITED.extend(_RUNNERS.values())
    for runner in list(_RUNNERS.values()):
        runner.let_go()
    _RUNNERS, _LOCK = WeakKeyDictionary(), threading.Lock()


os.register_at_fork(after_in_child=_in_child)


def whole(rows: Rows, form: Form) -> Iterator[bytes]:
    """A file from its first byte to its last, in pieces."""
    try:
        yield form.begin(rows.columns)
        yield from rows.pieces(form)
        yield form.end()
    finally:
        form.abandon()


class ExportStream:
    """A file as an iterator of bytes; `close()` it where it is not read to its end."""

    def __init__(self, rows: Rows, pieces: Generator[bytes, None, None]) -> None:
        self._rows, self._pieces = rows, pieces

    def __iter__(self) -> ExportStream:
        return self

    def __next__(self) -> bytes:
        return next(self._pieces)

    def close(self) -> None:
        """Let go of it, read or not."""
        self._pieces.close()

    @property
    def sampled(self) -> bool:
        """Whether some events stand for several, so that weights have to be summed."""
        return self._rows.sampled

    @property
    def rows(self) -> int:
        """How many rows were read so far."""
        return self._rows.done

    @property
    def total(self) -> int | None:
        """How many there are, once that is known."""
        return self._rows.total
