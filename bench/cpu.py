"""Processor time of one event from the call until it can be queried: calls, gate, journal, store, all threads.

Bursts of 50,000 calls fit the buffer; each is followed by `flush()`, which returns when the burst is durable and
queryable. Opening and closing the engine is left out, everything between is in (log writing and the store's own
threads too). Sampling is off. The split comes from a run of its own, as its clocks cost time: thread processor time
inside the named methods.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

from bench.figures import Figure, Size
from bench.recording import BARE, NAMES, REQUEST, TRACK, prometheus, work_of
from bench.timing import Loop, median

TITLE = "Processor time an event, from the call until it is queryable"
BURST = 50_000
CALLS = {"track()": TRACK, "track(), no properties": BARE, "record_request()": REQUEST}
PEER_US = 2.8  #: what the peer's call took on the machine and day on which the goal was set
#: Stages of the split: label, module, class, method. Inner ones are part of the stage above them.
STAGES = (
    ("gate", "gnomon.ingest.gate", "Gate", "admit_calls"),
    ("journal", "gnomon.ingest.journal", "Journal", "append"),
    ("store", "gnomon.store.duckdb", "DuckDBStore", "write"),
    ("store: columns", "gnomon.store.duckdb.staging", "Staging", "put"),
    ("store: repeats", "gnomon.store.duckdb.writing", "Writing", "_repeats"),
)


def run(size: Size) -> list[Figure]:
    """Median of several runs for each kind of call, each run on a new file."""
    events, rounds = size.pick(200_000, 100_000), size.pick(5, 3)
    work = work_of(BURST)
    found: dict[str, list[float]] = {name: [] for name in CALLS}
    peer: list[float] = []
    for _ in range(rounds):
        peer.append(of_peer(work))
        for name, call in CALLS.items():
            found[name].append(_recorded(call, work, events)[0])
    figures = []
    for name, costs in found.items():
        note = f"{events:,} events; best {min(costs):.2f}, worst {max(costs):.2f} of {rounds}"
        figures.append(Figure(name, median(costs), "us", None if name == "track(), no properties" else 6.0, note=note))
    figures.append(
        Figure("a prometheus counter + histogram", median(peer), "us", note=f"{PEER_US:g} us when 6 us was set")
    )
    for name in ("track()", "record_request()"):
        ratio = median(found[name]) / median(peer)
        figures.append(
            Figure(f"{name} / prometheus", ratio, "x", 6.0 / PEER_US, note="6 us, on this machine as it is now")
        )
    for name in ("track()", "record_request()"):
        with _clocked() as spent:
            total, calls = _recorded(CALLS[name], work, events)
        parts = [f"calls {calls:.2f}", *(f"{stage} {ns / 1_000 / events:.2f}" for stage, ns in spent.items())]
        outer = sum(ns for stage, ns in spent.items() if ":" not in stage) / 1_000 / events
        parts.append(f"other threads and rest {total - calls - outer:.2f}")
        figures.append(Figure(f"{name} with clocks in it", total, "us", note=", ".join(parts)))
    return figures


def _recorded(call: str, work: list[tuple[Any, ...]], events: int) -> tuple[float, float]:
    """Microseconds of processor time an event: of everything, and of the calling thread while it recorded."""
    import gnomon
    from gnomon.config import Settings

    with tempfile.TemporaryDirectory() as folder:
        with gnomon.open(Path(folder) / "store.duckdb", settings=Settings(sampling=False)) as engine:
            loop = Loop(call, NAMES, track=engine.track, record_request=engine.record_request)
            loop.bulk(work[:1_000])
            engine.flush()
            calls = 0
            started = time.process_time_ns()
            for _ in range(events // BURST):
                before = time.thread_time_ns()
                loop.bulk(work)
                calls += time.thread_time_ns() - before
                engine.flush()
            total = time.process_time_ns() - started
            stored = engine.books().stored
        if stored != events + 1_000:
            raise RuntimeError(f"{stored:,} of {events + 1_000:,} events were stored")
    return total / events / 1_000, calls / events / 1_000


def of_peer(work: list[tuple[Any, ...]]) -> float:
    """Microseconds of processor time of the peer's call: what this machine is worth at this moment."""
    with prometheus(Path()) as (subject,):
        started = time.process_time_ns()
        subject.loop.bulk(work)
        return (time.process_time_ns() - started) / len(work) / 1_000


@contextmanager
def _clocked() -> Iterator[Counter[str]]:
    """Adds up the thread processor time inside the stages, as long as the context is open."""
    from importlib import import_module

    spent: Counter[str] = Counter()
    undo: list[Callable[[], None]] = []
    for stage, module, owner, method in STAGES:
        kind = getattr(import_module(module), owner, None)
        original = getattr(kind, method, None)
        if original is None:
            continue
        setattr(kind, method, _timed(original, stage, spent))
        undo.append(lambda kind=kind, method=method, original=original: setattr(kind, method, original))
    try:
        yield spent
    finally:
        for step in undo:
            step()


def _timed(original: Callable[..., Any], stage: str, spent: Counter[str]) -> Callable[..., Any]:
    @wraps(original)
    def timed(*args: Any, **rest: Any) -> Any:
        started = time.thread_time_ns()
        try:
            return original(*args, **rest)
        finally:
            spent[stage] += time.thread_time_ns() - started

    return timed
