"""What a recording call costs its host, beside what a host would otherwise call there.

Every call is timed in the same loop text with its arguments ready. The mean comes from whole bursts (the empty loop
taken off), percentiles from single calls (the clock's own cost taken off); both on a wall clock, so what other
threads take from the caller counts. Garbage collection is on. A burst fits Gnomon's buffer, and the books must show
that nothing was shed. Sampling is off, as the bursts stand for a program that never reaches its thresholds. Peers only
enqueue or count: nothing is sent anywhere.
"""

from __future__ import annotations

import contextlib
import gc
import random
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.figures import Figure, Size
from bench.timing import Loop, median, percentile

TITLE = "Recording: microseconds of the caller a call, wall clock"
BURST = 20_000  #: of the 100,000 calls that the buffer holds by default; ten times what wakes the background thread
NAMES = "user, page, url, source, ms, size"
TRACK = 'track("page_view", user_id=user, source="web_app", properties={"page": page})'
BARE = 'track("page_view", user_id=user, source=source)'
REQUEST = (
    'record_request(source=source, application="crawler", url=url, method="GET", status_code=200, duration_ms=ms, '
    "bytes_received=size)"
)


@dataclass
class Subject:
    """Something to call. `settle` runs between bursts and is not timed."""

    name: str
    loop: Loop
    settle: Callable[[], Any] = lambda: None
    burst: int = BURST
    peer: bool = True
    note: str = ""
    means: list[float] = field(default_factory=list)
    singles: list[int] = field(default_factory=list)

    @property
    def mean_us(self) -> float:
        return median(self.means) / 1_000


def run(size: Size) -> list[Figure]:
    """Bursts of all subjects in turns, Gnomon's with its threads alive and a real file behind them."""
    import gnomon
    from gnomon.config import Settings

    empty = Loop("pass", NAMES)
    work = work_of(BURST)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        engine = stack.enter_context(gnomon.open(folder / "store.duckdb", settings=Settings(sampling=False)))
        known = {"track": engine.track, "record_request": engine.record_request}
        own = [Subject(name, Loop(call, NAMES, **known), engine.flush, peer=False) for name, call in
               (("track()", TRACK), ("track(), no properties", BARE), ("record_request()", REQUEST))]  # fmt: skip
        subjects, missing = list(own), []
        for peer in (prometheus, _opentelemetry, _posthog, _sqlite):
            try:
                subjects += stack.enter_context(peer(folder))
            except ImportError:
                missing.append(Figure(peer.__name__.strip("_"), None, note="not installed"))
        _measure(subjects, empty, work, size.pick(15, 5))
        engine.flush()
        books = engine.books()
    kept = "every call is in the books" if books.closes() and not books.rejected else "the books do not close"
    return [*_figures(own, subjects), Figure("calls shed", books.shed.total(), "", 0, note=kept), *missing]


def _measure(subjects: list[Subject], empty: Loop, work: list[tuple[Any, ...]], rounds: int) -> None:
    clock = median(empty.each(work))
    assert gc.isenabled()
    for turn in range(rounds + 1):
        for subject in subjects if turn % 2 == 0 else reversed(subjects):
            part = work[: subject.burst]
            subject.settle()
            mean = subject.loop.bulk(part) - empty.bulk(part)
            subject.settle()
            singles = subject.loop.each(part)
            subject.settle()
            if turn:  # the first turn warms caches and starts threads
                subject.means.append(mean)
                subject.singles += [max(0, took - int(clock)) for took in singles]


def _figures(own: list[Subject], subjects: list[Subject]) -> list[Figure]:
    figures = []
    for subject in subjects:
        goal, tail = (None, None) if subject.peer else (1.0, 20.0)
        p50, p999, most = (percentile(subject.singles, q) / 1_000 for q in (0.5, 0.999, 1.0))
        note = f"p50 {p50:.2f} us, max {most:,.0f} us"
        note += f", {subject.burst:,} calls a burst" + (f"; {subject.note}" if subject.note else "")
        figures.append(Figure(f"{subject.name}: mean", subject.mean_us, "us", goal, note=note))
        figures.append(Figure(f"{subject.name}: p99.9", p999, "us", tail))
    slowest = max((own[0], own[2]), key=lambda subject: subject.mean_us)
    for peer in (subject for subject in subjects if subject.peer):
        ratio = peer.mean_us / slowest.mean_us
        figures.append(Figure(f"{peer.name} / {slowest.name}", ratio, "x", 1.0, ">="))
    return figures


def work_of(count: int) -> list[tuple[Any, ...]]:
    """Arguments for that many calls: user, page, url, source, ms, size."""
    draw = random.Random(7)
    pages = [f"/page/{n}" for n in range(200)]
    return [
        (
            f"u{int(50_000 ** draw.random())}",
            page := draw.choice(pages),
            f"https://api{draw.randrange(5)}.example.com{page}",
            f"source-{draw.randrange(20)}",
            round(draw.lognormvariate(4, 0.8), 3),
            draw.randrange(200, 50_000),
        )
        for _ in range(count)
    ]


# -- peers ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def prometheus(_folder: Path) -> Iterator[list[Subject]]:
    from prometheus_client import CollectorRegistry, Counter, Histogram

    registry, labels = CollectorRegistry(), ["source", "method", "status"]
    counter = Counter("requests", "requests", labels, registry=registry)
    histogram = Histogram("duration", "duration", labels, registry=registry)
    call = 'counter.labels(source, "GET", "200").inc(); histogram.labels(source, "GET", "200").observe(ms)'
    yield [Subject("prometheus counter + histogram", Loop(call, NAMES, counter=counter, histogram=histogram))]


@contextlib.contextmanager
def _opentelemetry(_folder: Path) -> Iterator[list[Subject]]:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    provider = MeterProvider([InMemoryMetricReader()])
    meter = provider.get_meter("bench")
    known = {"add": meter.create_counter("requests").add, "record": meter.create_histogram("duration").record}
    call = 'at = {"source": source, "method": "GET", "status": 200}; add(1, at); record(ms, at)'
    yield [Subject("opentelemetry counter + histogram", Loop(call, NAMES, **known))]
    provider.shutdown()


@contextlib.contextmanager
def _posthog(_folder: Path) -> Iterator[list[Subject]]:
    from posthog import Posthog

    # No sender thread, a queue that holds a burst, and an address where nobody listens.
    client = Posthog("phc_bench", host="http://127.0.0.1:9", thread=0, max_queue_size=10 * BURST)
    call = 'capture("page_view", distinct_id=user, properties={"page": page, "source": source})'

    def emptied() -> None:
        with client.queue.mutex:
            client.queue.queue.clear()
            client.queue.unfinished_tasks = 0

    client.capture("probe", distinct_id="u")
    if client.queue.qsize() != 1:
        raise RuntimeError("posthog did not enqueue")
    yield [Subject("posthog capture", Loop(call, NAMES, capture=client.capture), emptied, BURST // 10, note="enqueue")]
    emptied()
    client.shutdown()


@contextlib.contextmanager
def _sqlite(folder: Path) -> Iterator[list[Subject]]:
    con = sqlite3.connect(folder / "peer.sqlite", isolation_level=None)
    con.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE e (type, user, source, page)")
    call = 'execute("INSERT INTO e VALUES (?, ?, ?, ?)", ("page_view", user, source, page))'
    yield [Subject("one SQLite commit", Loop(call, NAMES, execute=con.execute), burst=BURST // 40, note="WAL, FULL")]
    con.close()
