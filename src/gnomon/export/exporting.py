"""The verbs of exporting that the engine has. What does the work is loaded with the first export."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gnomon.access import LOCAL, Note, Principal, speaking, speaking_as
from gnomon.config import Settings
from gnomon.errors import EngineClosed, InvalidValue, UnknownName
from gnomon.export.handing import AHEAD, Handing
from gnomon.store import Store
from gnomon.timerange import Clock

if TYPE_CHECKING:
    from gnomon.export import Form
    from gnomon.export.jobs import ExportJob, Folder
    from gnomon.export.ordering import Order
    from gnomon.export.reading import Rows
    from gnomon.export.running import ExportStream, Runner
    from gnomon.ingest.hold import Hold
    from gnomon.pseudonyms import Pseudonyms
    from gnomon.query.inquiry import Inquiry


class Exporting(Handing):
    """Files of events and answers. Mixed into the engine, which knows the store, the clock and the project."""

    settings: Settings
    clock: Clock
    _hold: Hold
    _pseudonyms: Pseudonyms | None
    _inquiry: Callable[[], Inquiry]
    _closed: bool

    @property
    def owns_store(self) -> bool:
        """Whether this process may ask."""
        raise NotImplementedError

    def _own_or_refuse(self) -> Store:
        raise NotImplementedError

    def _audited(self, operation: str, **said: Any) -> AbstractContextManager[Note]:
        raise NotImplementedError

    def export_analytics(self, time_range: Any = "all", format: str = "csv", fields: Sequence[str] | None = None,
                         filters: Any = None, query: Mapping[str, Any] | None = None) -> ExportJob:  # fmt: skip
        """Order a file of the events of a range, or of the answer to `query`, and return its job at once.

        `format` is csv, json, ndjson, parquet, arrow or xlsx; `fields` are of the event row (default: all), `filters`
        those of a query. `query` holds the arguments of `engine.query`; there is no cap on rows, and its `date_range`
        wins over `time_range`. The file holds what was stored when it was ordered. Raises `InvalidValue` (also
        `raw-rows-gone` where events of the range were pruned), `UnknownName`, `MissingExtra`, `StoreBusy`, `DiskFull`,
        `StoreUnavailable` (`export-queue-full`).
        """
        with self._audited("export_analytics") as note:
            self._own_or_refuse()  # before anything is loaded, see `query`
            from gnomon.export.jobs import ExportJob, utc
            from gnomon.export.ordering import Order
            from gnomon.export.running import Task

            order = Order(time_range, format, fields, filters, query, ahead=AHEAD)
            rows, caller, folder, runner = self._rows(note, order), speaking(), self._folder(), self._runner()
            self._sweep()
            span = (utc(rows.range.start), utc(rows.range.end))
            job = ExportJob(id=secrets.token_hex(16), format=order.form.name, project=self.settings.project,
                            owner=caller.name, created=utc(self.clock()), range=span,
                            fields=[column.name for column in rows.columns],
                            sampled=rows.sampled, process=runner.name)  # fmt: skip
            if self._hold.served:  # else nobody looks into it but the one process that owns the store
                runner.show_life(folder)
            folder.save(job)
            given = {"format": order.form.name, "fields": fields, "filters": filters, "query": query}
            handed = self._hand_over(job, given, rows, caller)
            task = Task(job, folder, rows, order.form.make(), self, self._doer(caller, note), self._utc_now,
                        self._kept_until)  # fmt: skip
            ordered = self._snapshot(job)  # before anybody is at it
            try:
                if not handed:
                    runner.offer(task)
            except BaseException:
                folder.remove(job)
                raise
            note.detail["job"] = job.id
        return ordered

    def _kept_until(self, finished: Any) -> Any:
        return finished + timedelta(days=self.settings.export_days)

    def get_export_status(self, job_id: str) -> ExportJob:
        """The job as it is now. Raises `UnknownName` (no-such-export), also for one of somebody else."""
        self._sweep()
        return self._snapshot(self._find(job_id))

    def exports(self) -> list[ExportJob]:
        """The caller's jobs in this project, the newest first; who holds the engine itself sees those of all."""
        self._sweep()
        folder, runner = self._folder(), self._runner()
        mine = [job for job in folder.jobs() if self._is_mine(job)]
        return [self._snapshot(runner.find(job.id) or folder.load(job.id) or job) for job in mine]

    def download_export(self, job_id: str, path: str | os.PathLike[str]) -> Path:
        """Copy the finished file to `path`, a file or a folder, and return where it is.

        Raises `UnknownName` (no-such-export), `InvalidValue` (`export-not-ready`, or `export-failed` with the
        reason), `DiskFull`.
        """
        found = self.export_file(job_id)
        from gnomon.export.jobs import writing

        target = Path(path)
        if target.is_dir():
            target /= f"export-{found.name}"
        with writing():
            part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
            try:
                shutil.copyfile(found, part)
                part.replace(target)
            finally:
                part.unlink(missing_ok=True)
        return target

    def export_file(self, job_id: str) -> Path:
        """Where the finished file of a job lies until it expires; raises what `download_export` raises."""
        with self._audited("download_export") as note:
            self._sweep()
            job = self._find(job_id)
            note.detail = {"job": job.id, "format": job.format}
            note.rows = job.rows
            if job.state == "failed":
                raise InvalidValue(f"the export failed: {job.message}", remedy=job.remedy or "", code="export-failed")
            if job.state != "completed":
                raise InvalidValue("the export is not ready yet", remedy="Ask again when its state is completed.",
                                   code="export-not-ready")  # fmt: skip
            return self._folder().data(job)

    def stream_export(self, time_range: Any = "all", format: str = "csv", fields: Sequence[str] | None = None,
                      filters: Any = None, query: Mapping[str, Any] | None = None,
                      after: Any = None, read_ahead: int = 0) -> ExportStream:  # fmt: skip
        """The same file as an iterator of bytes, for an HTTP answer or a pipe; memory stays flat for a slow reader.

        `read_ahead` is how many slices (4 MB) are read while one is taken, at most 2: for readers that are fast.
        It has `rows` (so far), `total`, `sampled` (sum the weights) and `close()`. Events come in the order of ts and
        id: who lost the connection goes on with `after=[ts, id]` of the last event that came whole. What is wrong with
        the order is raised at once; what fails later ends the iterator with an error (`export-overtaken` when events
        were deleted meanwhile), so that nobody takes a part for the whole.
        """
        with self._audited("export_analytics") as note:
            self._own_or_refuse()
            from gnomon.export.ordering import Order
            from gnomon.export.running import ExportStream

            order = Order(time_range, format, fields, filters, query, after, min(max(read_ahead, 0), AHEAD))
            rows = self._rows(note, order)
            said = Note("export", note.range, detail=dict(note.detail))
            note.detail["streamed"] = True
        return ExportStream(rows, self._streamed(rows, order.form.make(), speaking(), said))

    def _streamed(self, rows: Rows, form: Form, caller: Principal, said: Note) -> Generator[bytes, None, None]:
        from gnomon.export.running import whole

        with speaking_as(caller):
            span = self._audited("export", range=said.range, detail=said.detail)
        with span as note:
            try:
                for data in whole(rows, form):
                    if data:
                        yield data
            finally:
                note.rows = rows.done

    def _rows(self, note: Note, order: Order) -> Rows:
        store = self._own_or_refuse()
        from gnomon.export.ordering import planned

        return planned(order, note, store, self._inquiry(), self._pseudonyms, self.settings.query_timeout_seconds)

    # -- jobs -----------------------------------------------------------------------------------------------------

    def _folder(self) -> Folder:
        from gnomon.export.jobs import Folder

        file = self._hold.file
        place = Path(self.settings.export_dir) if self.settings.export_dir else file.parent
        return Folder(place / f"{file.name}.exports")

    def _runner(self) -> Runner:
        from gnomon.export.running import runner_of

        return runner_of(self._hold)

    def _utc_now(self) -> Any:
        from gnomon.export.jobs import utc

        return utc(self.clock())

    def _doer(self, caller: Principal, said: Note) -> Callable[[Callable[[], int]], None]:
        detail, span = dict(said.detail), said.range

        def run(write: Callable[[], int]) -> None:
            with speaking_as(caller), self._audited("export", range=span, detail=detail) as note:
                note.rows = write()

        return run

    def _find(self, job_id: str) -> ExportJob:
        job = self._runner().find(job_id) or self._folder().load(job_id)
        if job is None or not self._is_mine(job):
            raise UnknownName("there is no such export", remedy="Its file may have expired: export it again.",
                              code="no-such-export")  # fmt: skip
        return job

    def _is_mine(self, job: ExportJob) -> bool:
        caller = speaking()
        return job.project == self.settings.project and (caller is LOCAL or job.owner == caller.name)

    @staticmethod
    def _snapshot(job: ExportJob) -> ExportJob:
        import copy

        return copy.copy(job)

    def _sweep(self) -> int:
        """Remove what has expired, and say of jobs that a dead process left that they failed. Returns how many."""
        if self._closed:
            raise EngineClosed("the engine is closed", remedy="Open it again with gnomon.open().")
        folder, runner, removed = self._folder(), self._runner(), 0
        if not folder.path.exists():
            return 0
        from gnomon.export.jobs import interrupted

        now = self._utc_now()
        for job in folder.jobs():
            here = runner.find(job.id)
            if job.project != self.settings.project or (here is not None and here.state in ("queued", "processing")):
                continue
            if job.expires is not None and job.expires <= now:
                folder.remove(job)
                removed += 1
            elif self._is_cut_short(job):
                why = interrupted()
                job.state, job.code, job.message, job.remedy = "failed", why.code, why.message, why.remedy
                job.finished, job.expires = now, now + timedelta(days=self.settings.export_days)
                folder.part(job).unlink(missing_ok=True)
                folder.save(job)
        return removed

    def _is_cut_short(self, job: ExportJob) -> bool:
        """Whether nobody will finish a job that is not of this process's runner."""
        if job.state not in ("queued", "processing") or self._take_back(job):
            return False
        return self.owns_store and _was_left(self._folder(), job, self._runner().name)

    def _erase_exports(self) -> None:
        """Remove every file of this project, as a person in it was forgotten; what runs is stopped."""
        folder = self._folder()
        if not folder.path.exists():
            return
        from gnomon.export.handed import withdraw

        self._runner().stop(lambda task: task.job.project == self.settings.project)
        for job in folder.jobs():
            if job.project == self.settings.project:
                withdraw(folder, job.id)
                folder.remove(job)

    def _has_exports(self) -> bool:
        """Whether jobs of this engine wait or run, so that nobody closes it for being idle."""
        running = sys.modules.get("gnomon.export.running")
        return running is not None and running.runner_of(self._hold).has(lambda task: task.engine is self)

    def _stop_exports(self) -> None:
        """Stop the jobs of this engine, as it is about to close."""
        running = sys.modules.get("gnomon.export.running")
        if running is not None:
            running.runner_of(self._hold).stop(lambda task: task.engine is self)


def _was_left(folder: Folder, job: ExportJob, ours: str) -> bool:
    """Whether a job was left by a process that is gone; workers of one service have one folder."""
    return job.state in ("queued", "processing") and job.process != ours and not folder.is_alive(job.process)
