"""What sampling costs an event, by itself and on the whole way from the call until it is queryable.

By itself: batches of 5,000 rows as they come from the gate, with ids that count up, twenty sources and people, through
one sampler; processor time of the thread. The decision is everything but noting the people of events that are left
out, which is shown beside it. The whole way is measured as in `cpu`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from bench.cpu import BURST, PEER_US, of_peer
from bench.figures import Figure, Size
from bench.recording import NAMES, REQUEST, work_of
from bench.timing import Loop, median

if TYPE_CHECKING:
    from gnomon.event import Rows

TITLE = "Sampling: microseconds an event, processor time"
ROWS = 5_000  #: what the collector puts into one batch
PACES = (("below the threshold", 9_000), ("half way", 55_000), ("above the threshold", 200_000))
SHOWN = (("decision", False, False), ("decision, ids that were given", True, False), ("and people noted", False, True))


def run(size: Size) -> list[Figure]:
    """The decision at three paces, with people and without, and what an event costs with sampling on and off."""
    rounds, figures, work = size.pick(60, 20), [], work_of(BURST)
    peer = median([of_peer(work) for _ in range(3)])
    for name, pace in PACES:
        for what, given, actors in SHOWN[: 1 if pace < 10_000 else 3]:
            goal = None if actors else 0.02 if pace < 10_000 else 0.3
            cost = _decision(pace, rounds, given, actors)
            figures.append(Figure(f"{name}: {what}", cost, "us", goal, note=f"{pace:,} events a minute"))
            if goal is not None:
                note = f"{goal:g} us, on this machine as it is now"
                figures.append(
                    Figure("  over a prometheus counter + histogram", cost / peer, "x", goal / PEER_US, note=note)
                )
    figures.append(Figure("a prometheus counter + histogram", peer, "us", note=f"{PEER_US:g} us when 0.3 us was set"))
    rounds = size.pick(5, 3)
    costs: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(rounds):
        for on, found in costs.items():
            found.append(_whole_way(work, on))
    for on, found in costs.items():
        figures.append(Figure(f"call to queryable, sampling {'on' if on else 'off'}", median(found), "us"))
    note = f"bursts of {BURST:,}, one in ten is kept"
    figures.append(Figure("on / off", median(costs[True]) / median(costs[False]), "x", 1.0, note=note))
    return figures


def _decision(pace: int, rounds: int, given: bool, actors: bool) -> float:
    """Microseconds an event of the fastest third of the batches: the machine's other work is not what is measured."""
    from gnomon.config import Settings
    from gnomon.event import Batch
    from gnomon.ingest.sampling import Sampler
    from gnomon.ingest.thresholds import thresholds_of

    settings = Settings()
    sampler, thresholds, gap = Sampler(settings, "bench"), thresholds_of(settings), 60_000_000_000 // pace
    took, now = [], 1_763_800_000_000_000_000
    for turn in range(rounds):
        rows, at = _rows(turn, now, gap, actors)
        now += ROWS * gap
        batch = Batch("bench", rows=rows, checked_ids=given)
        before = time.thread_time_ns()
        sampler.thin(batch, at, thresholds)
        took.append((time.thread_time_ns() - before) / ROWS / 1_000)
        sampler.noted(batch.sightings)
    return median(sorted(took[2:])[: rounds // 3])


def _rows(turn: int, now: int, gap: int, actors: bool) -> tuple[Rows, Callable[[int], int]]:
    """As the gate's proof hands them on, in columns."""
    from gnomon.event import ROW, Rows

    rows, users, sources = [], [f"u{n}" for n in range(700)], [f"source-{n}" for n in range(20)]
    for n in range(ROWS):
        us = (now + n * gap) // 1_000
        given = {"id": f"019a0000-0000-7abc-8def-{turn * ROWS + n:012x}", "ts": us, "received_at": us,
                 "type": "request", "user_id": users[n * 7919 % 700] if actors else None, "source": sources[n % 20],
                 "application": "crawler", "status_code": 503 if n % 50 == 0 else 200, "duration_ms": 12.5,
                 "success": n % 50 > 0, "weight": 1.0}  # fmt: skip
        rows.append(tuple(given.get(name) for name in ROW))
    columns = [list(column) for column in zip(*rows, strict=True)]
    return Rows([None if not any(column) else column for column in columns], ROWS), lambda place: now + place * gap


def _whole_way(work: list[tuple[object, ...]], on: bool) -> float:
    import tempfile
    from pathlib import Path

    import gnomon
    from gnomon.config import Settings

    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(sampling=on)
        with gnomon.open(Path(folder) / "store.duckdb", settings=settings) as engine:
            loop = Loop(REQUEST, NAMES, record_request=engine.record_request)
            loop.bulk(work[:1_000])
            engine.flush()
            started = time.process_time_ns()
            for _ in range(2):
                loop.bulk(work)
                engine.flush()
            took = time.process_time_ns() - started
            if not engine.books().closes() or bool(engine.books().sampled_out) != on:
                raise RuntimeError("the books do not say what was expected")
    return took / (2 * BURST) / 1_000
