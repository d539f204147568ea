"""The service in figures, as Prometheus reads them: books, journal, latency of the way in, answers, faults."""

from __future__ import annotations

import logging
import threading
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import suppress

from gnomon.engine import AnalyticsEngine
from gnomon.errors import GnomonError
from gnomon.event import AT, SAMPLE_AT
from gnomon.ingest.journal import open_sealed
from gnomon.ingest.writer import Writer
from gnomon.query.books import Books
from gnomon.server.intake import Intake
from gnomon.timerange import to_us
from gnomon.upkeep.workers import sent_out, silent_seconds

log = logging.getLogger("gnomon.server")

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  #: seconds
ANSWER_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0)
MOST_WATCHED = 10_000  #: commits whose way into the store is watched at a time
LOOK_SECONDS = 0.02
_PLAIN = ("received", "stored", "duplicate", "sampled_out", "pending")


class Times:
    """A histogram of seconds. Thread-safe."""

    def __init__(self, buckets: tuple[float, ...]) -> None:
        self._buckets = buckets
        self._counts = [0] * (len(buckets) + 1)
        self._sum = 0.0
        self._lock = threading.Lock()

    def add(self, seconds: float) -> None:
        """Count one."""
        with self._lock:
            self._counts[bisect_left(self._buckets, seconds)] += 1
            self._sum += seconds

    def lines(self, name: str, about: str) -> Iterator[str]:
        """As Prometheus reads it."""
        with self._lock:
            counts, total = list(self._counts), self._sum
        yield f"# HELP {name} {about}"
        yield f"# TYPE {name} histogram"
        so_far = 0
        for most, count in zip([*map(str, self._buckets), "+Inf"], counts, strict=True):
            so_far += count
            yield f'{name}_bucket{{le="{most}"}} {so_far}'
        yield f"{name}_sum {total:.6f}"
        yield f"{name}_count {so_far}"


class Figures:
    """What is counted while the service runs."""

    def __init__(self, home: AnalyticsEngine, intake: Intake) -> None:
        self._home = home
        self._intake = intake
        self.commits, self.queryable = Times(ANSWER_BUCKETS), Times(BUCKETS)
        self.answers: Counter[tuple[str, int]] = Counter()  #: by method and status; only the event loop counts
        self.seconds = Times(ANSWER_BUCKETS)
        self._store = {"write": Times(ANSWER_BUCKETS), "question": Times(ANSWER_BUCKETS)}
        self._watched: deque[tuple[int, float]] = deque(maxlen=MOST_WATCHED)
        self._oldest = (0, 0)  #: position of the batch that waits longest, and when it came in
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        intake.on_kept = self.kept
        home._hold.timing.append(self._timed)

    def _timed(self, work: str, seconds: float) -> None:
        self._store[work].add(seconds)

    def kept(self, position: int, began: float) -> None:
        """A commit that began at `began` is durable."""
        self.commits.add(time.monotonic() - began)
        self._watched.append((position, began))
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="gnomon-figures", daemon=True)
            self._thread.start()

    def _watch(self) -> None:
        """Look when commits have reached the store. It only looks: waiting would hurry the writer."""
        while not self._ending.wait(LOOK_SECONDS if self._watched else 0.2):
            writer = self._home._hold.writer
            if writer is None:
                self._watched.clear()
                continue
            now = time.monotonic()
            while self._watched and self._watched[0][0] <= writer.position:
                self.queryable.add(now - self._watched.popleft()[1])

    def stop(self) -> None:
        """End the thread."""
        with suppress(ValueError):  # in a child of the process that began there are others
            self._home._hold.timing.remove(self._timed)
        self._ending.set()
        if self._thread is not None:
            self._thread.join()

    def refused(self) -> int:
        """How many calls that bring or change something were answered with 503 or 507."""
        return sum(n for (method, status), n in list(self.answers.items()) if status in (503, 507) and method != "GET")

    def text(self, engines: Iterable[AnalyticsEngine]) -> str:
        """Everything, with the books and alerts of the projects of these engines, and the alerts of the store."""
        projects: set[str | None] = {None}
        lines = [*_books(engines, projects), *self._alerts(projects), *self._journal(), *self._beside()]
        lines += self.commits.lines("gnomon_commit_seconds", "Time of a durable commit to the journal.")
        lines += self.queryable.lines("gnomon_ingest_to_queryable_seconds", "From the commit until it can be asked.")
        lines += self._store["write"].lines("gnomon_store_write_seconds", "Time of a transaction of the writer.")
        lines += self._store["question"].lines("gnomon_store_question_seconds", "Time of a question to the store.")
        lines += self.seconds.lines("gnomon_http_seconds", "Time of a call.")
        lines += [
            "# HELP gnomon_http_answers_total Calls by method and status.",
            "# TYPE gnomon_http_answers_total counter",
        ]
        for (method, status), n in sorted(self.answers.items()):
            lines.append(f'gnomon_http_answers_total{{method="{method}",status="{status}"}} {n}')
        return "\n".join(lines) + "\n"

    def _alerts(self, projects: set[str | None]) -> Iterator[str]:
        yield "# HELP gnomon_alert_active Alerts that are on, by name: 1 a warning, 2 critical; no project: the store."
        yield "# TYPE gnomon_alert_active gauge"
        for alert in self._home._watch().active():
            if alert.project in projects:
                value = 2 if alert.level == "critical" else 1
                yield f'gnomon_alert_active{{alert="{alert.name}",project="{_label(alert.project or "")}"}} {value}'

    def _journal(self) -> Iterator[str]:
        hold = self._home._hold
        writer, waits = hold.writer, None
        try:
            sizes = hold.journal.sizes()
            waits = None if writer is None else self._waits(writer)
        except GnomonError as error:
            log.warning("the journal cannot be measured: %s", error)
            sizes = {}
        told = {
            "gnomon_journal_bytes": ("Bytes of the journal on disk.", sizes.get("bytes")),
            "gnomon_journal_batches": ("Batches in the journal, until a checkpoint holds them.", sizes.get("batches")),
            "gnomon_journal_behind": ("Batches that the store has not taken yet.", None if writer is None else
                                      max(0, hold.journal.last_position() - writer.position)),
            "gnomon_journal_waiting_seconds": ("Since the oldest of them came in; 0 where there is none.", waits),
            "gnomon_in_flight_bytes": ("Bytes of bodies that are worked on.", self._intake.in_flight),
            "gnomon_store_fault": ("1 while the store takes nothing.", None if writer is None else
                                   int(writer.fault is not None)),
        }  # fmt: skip
        for name, (about, value) in told.items():
            if value is not None:
                yield from (f"# HELP {name} {about}", f"# TYPE {name} gauge", f"{name} {value}")

    def _waits(self, writer: Writer) -> float:
        """Seconds since the oldest batch came in that the store has not taken; it is looked at once."""
        waiting = self._home._hold.journal.read(writer.position, 1)
        if not waiting:
            return 0.0
        now = to_us(self._home.clock())
        ((position, crc, body),) = waiting
        if self._oldest[0] != position:
            self._oldest = (position, _came_in(crc, body) or now)
        return max(0.0, (now - self._oldest[1]) / 1e6)

    def _beside(self) -> Iterator[str]:
        """What Redis and the workers do for this process."""
        if self._home.settings.cache_url:
            from gnomon.query.shared import shared_answers  # deferred: few have a Redis

            found = shared_answers(self._home.settings)
            yield "# HELP gnomon_shared_answers_total Answers looked for and kept on Redis, by outcome."
            yield "# TYPE gnomon_shared_answers_total counter"
            for outcome, n in sorted(({} if found is None else found.counts).items()):
                yield f'gnomon_shared_answers_total{{outcome="{outcome}"}} {n}'
        if sent_out(self._home):
            try:
                silent = silent_seconds(self._home)
            except GnomonError as error:
                log.info("no sign of workers for /metrics: %s", error.code)
                return
            if silent is not None:
                yield "# HELP gnomon_workers_silent_seconds Since a worker made a round."
                yield "# TYPE gnomon_workers_silent_seconds gauge"
                yield f"gnomon_workers_silent_seconds {silent:.0f}"


def _books(engines: Iterable[AnalyticsEngine], projects: set[str | None]) -> Iterator[str]:
    """The books of each engine, which is only used while it is at hand; its project is added to `projects`."""
    names = {"event": "gnomon_events_total", "sample": "gnomon_samples_total"}
    lines: dict[str, list[str]] = {kind: [] for kind in names}
    for engine in engines:
        projects.add(engine.settings.project)
        for kind, found in lines.items():
            try:
                found += _account(names[kind], engine.settings.project, engine.books(kind))
            except GnomonError as error:
                log.info("no books for /metrics: %s", error.code)
    for kind, found in lines.items():
        yield f"# HELP {names[kind]} What became of every {kind} received: the outcomes add up to `received`."
        yield f"# TYPE {names[kind]} counter"
        yield from found


def _account(name: str, project: str, books: Books) -> Iterator[str]:
    plain = {outcome: getattr(books, outcome) for outcome in _PLAIN}
    for outcome, n in {**plain, "rejected": books.rejected.total(), "shed": books.shed.total()}.items():
        yield f'{name}{{project="{_label(project)}",outcome="{outcome}"}} {n}'


def _came_in(crc: int, body: bytes) -> int | None:
    """When a batch came in, as its first event, sample, refusal or beat says; None where nothing does."""
    try:
        batch = open_sealed(crc, body)
    except GnomonError:  # damaged, and set aside by the writer
        return None
    firsts = ((batch.rows, AT["received_at"]), (batch.samples, SAMPLE_AT["received_at"]), (batch.refused, 0),
              (batch.beats, 0))  # fmt: skip
    return min((rows[0][place] for rows, place in firsts if rows), default=None)


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
