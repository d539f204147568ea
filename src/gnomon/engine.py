"""`open()` and the `AnalyticsEngine`: the way in and the asking around one store, started in order, stopped in reverse.

The process that opens a store first owns it: it drains the journal and answers questions. Any other process that
opens the same store records into the same journal, and takes over when the owner ends.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import sys
import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gnomon import __version__
from gnomon.config import Settings, read_settings
from gnomon.errors import EngineClosed, GnomonError, InvalidValue, StoreUnavailable
from gnomon.export.exporting import Exporting
from gnomon.ingest.collector import Collector
from gnomon.ingest.gate import pseudonyms_of
from gnomon.ingest.hold import Hold, keeps_inherited, never_destroy, release_all, take_hold
from gnomon.ingest.recovery import found_damage
from gnomon.ingest.thresholds import Thresholds, thresholds_of
from gnomon.insight.reporting import Reporting
from gnomon.query.asking import Asking
from gnomon.query.books import Books, books_of, quarantined, store_books
from gnomon.store import Store, served, store_path
from gnomon.timerange import Clock, load_zone, system_clock, to_us
from gnomon.upkeep.accounting import Accounting
from gnomon.upkeep.jobs import Scheduler
from gnomon.upkeep.keeping import Keeping

if TYPE_CHECKING:
    from gnomon.ingest.importers import Progress
    from gnomon.ingest.load import ImportReport
    from gnomon.query.health import Health

log = logging.getLogger("gnomon.engine")


def open(url: str | os.PathLike[str] | None = None, *, project: str | None = None,
         timezones: list[str] | tuple[str, ...] | None = None, clock: Clock | None = None,
         settings: Settings | None = None, **changes: Any) -> AnalyticsEngine:  # fmt: skip
    """Open a store (a DuckDB path, `duckdb://path`, `:memory:` or `postgresql://...`) and return its engine.

    `clock` is a callable that returns an aware datetime; everything that asks the time uses it. Settings come from
    the environment unless `settings` is given; further keywords change single settings. Raises `InvalidValue` for a
    bad argument, `StoreUnavailable` when the folder cannot be written.
    """
    chosen = read_settings() if settings is None else settings
    if url is not None:
        chosen = chosen.but(database_url=os.fspath(url))
    if project is not None:
        chosen = chosen.but(project=project)
    if timezones is not None:
        chosen = chosen.but(timezones=timezones)
    return AnalyticsEngine(chosen.but(**changes) if changes else chosen, clock or system_clock)


def beside(engine: AnalyticsEngine, project: str) -> AnalyticsEngine:
    """An engine of another project on the store of an open engine, also on one in memory; close it as any other.

    It has no scheduler of its own.

    Raises `InvalidValue` (bad-project), `EngineClosed`.
    """
    if engine._closed:
        raise EngineClosed("the engine is closed", remedy="Open it again with gnomon.open().")
    return AnalyticsEngine(engine.settings.but(project=project, scheduler=False), engine.clock, engine._hold)


class AnalyticsEngine(Collector, Accounting, Asking, Reporting, Keeping, Exporting):
    """Everything Gnomon does, on one store and for one project. Use it as a context manager or call `close()`.

    It *is* the collector, so that a recording call costs no second call.
    """

    _release = __version__

    def __init__(self, settings: Settings, clock: Clock = system_clock, hold: Hold | None = None) -> None:
        """`hold` is that of another engine in this process, which `beside` gives; it is shared."""
        _check_project(settings.project)
        self.settings = settings
        self.clock = clock
        if not settings.timezones:
            raise InvalidValue("no time zone is given", remedy='Leave it out, or give ["UTC"].', code="bad-config")
        self.zone = load_zone(settings.timezones[0])
        for name in settings.timezones:
            load_zone(name)
        thresholds_of(settings)
        pseudonyms_of(settings)
        if settings.alert_webhook:
            from gnomon.upkeep.webhook import check_packages  # deferred: most programs have none

            check_packages()
        if settings.cache_url:
            from gnomon.query.shared import shared_answers  # deferred, as above

            shared_answers(settings)
        if settings.celery_broker_url and served(settings.database_url):
            from gnomon.broker import broker_of  # deferred, as above

            broker_of(settings)
        self._reset_asking()
        self._pid = os.getpid()
        self._before_close: list[Callable[[], None]] = []  #: of what is built on this engine and has to end before it
        self._hold = take_hold(settings) if hold is None else hold.share()
        self._begin_accounting(self._hold.file, durable=store_path(settings.database_url) is not None)
        ticking = time.time_ns if clock is system_clock else lambda: to_us(clock()) * 1_000
        Collector.__init__(
            self, settings, settings.project, lambda: to_us(clock()), self._hold.journal, self._hold.durable, ticking
        )
        self._pseudonyms = self._gate.pseudonyms
        self._hold.collectors.add(self)
        self._scheduler = Scheduler(self) if settings.scheduler else None
        _LIVE.add(self)
        process = sys.modules.get("multiprocessing.process")
        if process is not None and process.parent_process() is not None:
            _flush_at_process_end(self)

    @property
    def owns_store(self) -> bool:
        """Whether this process drains the journal and may ask."""
        return self._hold.writer is not None

    def _own_or_refuse(self) -> Store:
        if self._closed:
            raise EngineClosed("the engine is closed", remedy="Open it again with gnomon.open().")
        return self._hold.own()

    def _took(self, seconds: float) -> None:
        self._hold.took("question", seconds)

    # -- bringing in, and looking at what came in ------------------------------------------------------------------

    def import_file(
        self,
        path: str | os.PathLike[str],
        format: str | None = None,
        mapping: Mapping[str, str] | None = None,
        timezone: str | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> ImportReport:
        """Import an access log (combined), CSV, NDJSON or Parquet file, plain or gzip-compressed.

        `mapping` is `{"column": "field" or "properties.key" or ""}`, or `{"field": "=constant"}`; `timezone` is the
        zone of times that name none. Bad lines are counted and quarantined. Importing a file again adds nothing.
        Raises `InvalidValue` for a file, format or mapping that cannot be used, `DiskFull` when the disk is.
        """
        if self._closed:
            raise EngineClosed("the engine is closed", remedy="Open it again with gnomon.open().")
        from gnomon.ingest.load import Loader  # deferred: most processes never import a file

        with self._audited("import") as note:
            loader = Loader(self.settings.project, self._gate, self._journal, self._clock_us, self._hold.writer)
            report = loader.load(Path(path), format=format, mapping=mapping, timezone=timezone, on_progress=on_progress)
            note.rows = report.stored
            note.detail = {"duplicate": report.duplicate, "rejected": report.rejected.total()}
            return report

    def books(self, kind: str = "event") -> Books:
        """Where every received event (or metric sample, `kind="sample"`) of this project went; with
        `kind="restore"` what restores brought and replaced. Raises `StoreBusy`."""
        store = self._own_or_refuse()
        with self._flush_lock:
            waiting = self.waiting() if kind == "event" else Counter({None: len(self._samples)})
            project, timeout = self.settings.project, self.settings.query_timeout_seconds
            entries, position = store_books(store, project, kind, self._journal.id, timeout)
            for found_project, found_kind, source, outcome, reason, n in self._journal.pending(position):
                if (found_project, found_kind) == (project, kind):
                    entries.append((source, outcome, reason, n))
            for source, n in waiting.items():
                entries += [(source, "received", "", n), (source, "pending", "", n)]
        return books_of(entries)

    def quarantine(self, limit: int = 100, code: str | None = None) -> list[dict[str, Any]]:
        """The newest refused events, each with the time, code, detail, source, id and what was sent (cut)."""
        with self._audited("quarantine") as note:
            store, timeout = self._own_or_refuse(), self.settings.query_timeout_seconds
            found = quarantined(store, self.settings.project, limit, code, self.zone, timeout)
            note.rows = len(found)
            return found

    def health(self) -> Health:
        """Versions, sizes, journal lag, books and growth, with a finding and remedy for everything not sound."""
        from gnomon.query.health import examine

        store = self._own_or_refuse()
        writer = self._hold.writer
        position = store.position(self._journal.id) if writer is None else writer.position
        waiting = self._journal.positions(position, 1_000_000)
        alive = self._inquiry().alive(store)
        lost = self._inquiry().lost(store)
        described = {**store.describe(), "now_us": self._clock_us(), "alive": alive, "lost": lost}
        free = shutil.disk_usage(self._hold.file.parent).free
        return examine(
            described,
            self._journal.sizes(),
            self.books(),
            len(waiting),
            found_damage(self._hold.file),
            free,
            __version__,
            self._audit.state(),
            "off" if self._pseudonyms is None else self._pseudonyms.told(),
            self._crowded_backups(),
        )

    # -- sampling ------------------------------------------------------------------------------------------------

    def set_sampling_thresholds(self, low: float, high: float, rate: float) -> None:
        """Sample this project's requests above `low` events a minute, down to `rate` of them from `high` on.

        Durable, and stronger than the settings; in force here at once, in other processes of the store within about
        a second. Raises `InvalidValue` unless 0 < low < high and 0 < rate <= 1, and what the journal raises.
        """
        thresholds = Thresholds(low, high, rate)
        if self._closed:
            raise EngineClosed("the engine is closed", remedy="Open it again with gnomon.open().")
        with self._audited("set_sampling_thresholds") as note:
            note.detail = {"low": low, "high": high, "rate": rate}
            self._policy.set(thresholds)

    def sampling_thresholds(self) -> Thresholds:
        """The thresholds in force for this project, with `low`, `high` (events a minute) and `rate`."""
        if self._closed:
            raise EngineClosed("the engine is closed", remedy="Open it again with gnomon.open().")
        return self._policy.read()

    # -- flush and close ------------------------------------------------------------------------------------------

    def flush(self, timeout: float = 60.0) -> None:
        """Return once everything recorded before this call is durable and queryable; of an embedded store the latter
        in the owning process only.

        Raises `DiskFull` or `StoreUnavailable` when it could not be made durable (it stays in memory and is tried
        again), and `StoreUnavailable` with code `not-queryable` when it is durable but the store does not take it
        within `timeout` seconds.
        """
        if not self._hold.drained(self._make_durable(), timeout):
            writer = self._hold.writer
            raise StoreUnavailable(
                "everything is durable in the journal, but the store has not taken it yet",
                remedy=writer.fault.remedy if writer and writer.fault else "Wait, or see `gnomon doctor`.",
                code="not-queryable",
            )

    def close(self) -> None:
        """Flush, stop the threads and let go of the files. Calling it again does nothing."""
        if self._closed or os.getpid() != self._pid:
            return
        for end in self._before_close:
            end()
        self._close()

    def _close(self) -> None:
        if self._closed:
            return  # what ended before it has closed it
        if self._scheduler is not None:
            self._scheduler.stop()
        self._stop_exports()
        self._heart.end()
        try:
            self._make_durable()
        except GnomonError as error:
            log.error("events recorded last could not be made durable: %s", error)
        self._closed = True
        self._append, self._busy_at = _closed_append, 0
        self._stop_thread()
        try:
            self._drain()  # calls that other threads were in the middle of
        except GnomonError as error:
            log.error("events recorded while closing could not be made durable: %s", error)
        self._audit.close()
        self._stop_watching()
        self._hold.release()
        _LIVE.discard(self)

    def __enter__(self) -> AnalyticsEngine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _after_fork_in_child(self) -> None:
        """Become a recording process with buffers of its own; what waits in the parent's stays the parent's."""
        never_destroy(self._thread, self._scheduler)
        self._scheduler = None
        self._pid = os.getpid()
        self._heart.forked()
        self._reset()
        self._reset_asking()
        if "multiprocessing.util" in sys.modules:
            sys.modules["multiprocessing.util"].register_after_fork(self, _flush_at_process_end)


_LIVE: weakref.WeakSet[AnalyticsEngine] = weakref.WeakSet()


def _flush_at_process_end(engine: AnalyticsEngine) -> None:
    """multiprocessing ends its children without atexit; its own finalizers do run."""
    from multiprocessing.util import Finalize

    Finalize(engine, engine.close, exitpriority=10)


def _closed_append(_row: Any) -> None:
    """Where calls go after close()."""


def _close_all() -> None:
    """The end of the interpreter, and the last that this process does with its engines."""
    for engine in list(_LIVE):
        engine.close()
    release_all()
    if keeps_inherited():
        # The parent's connection has to stay unclosed here; DuckDB's binding would print that as a leak.
        sys.stderr.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _in_child() -> None:
    for engine in list(_LIVE):
        engine._after_fork_in_child()


def _check_project(project: object) -> None:
    try:
        fits = isinstance(project, str) and 0 < len(project.encode()) <= 200 and "\x00" not in project
    except UnicodeEncodeError:
        fits = False
    if not fits:
        raise InvalidValue("project must be a text of 1 to 200 bytes", code="bad-project")


atexit.register(_close_all)
os.register_at_fork(after_in_child=_in_child)
