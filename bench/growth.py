"""What one flush of 1,000 live events costs when the store already holds a million, ten or thirty million."""

from __future__ import annotations

import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path
from uuid import uuid4

from bench.dataset import CACHE, DAYS, END, Store, stores
from bench.figures import Figure, Size
from bench.timing import median, seconds

TITLE = "Growth: one flush of 1,000 live events until they are durable and queryable"
EVENTS = 1_000
KINDS = ("own ids", "client-given random ids")


def run(size: Size) -> list[Figure]:
    """On copies of the generated stores, with a clock that goes on from their last event."""
    per_day = size.pick(1_000_000, 66_667)
    rounds = size.pick(30, 10)
    figures: list[Figure] = []
    first: dict[str, float] = {}
    made = stores(per_day)
    for store in (made[days] for days in (1, 10, DAYS)):
        for kind in KINDS:
            times = _flushes(store, rounds, kind)
            usual = median(times) * 1_000
            first.setdefault(kind, usual)
            note = f"worst {max(times) * 1_000:.1f} ms of {rounds}; {usual / first[kind]:.2f} of the smallest store's"
            figures.append(Figure(f"{store.events:,} events stored, {kind}", usual, "ms", note=note))
    return figures


def _flushes(store: Store, rounds: int, kind: str) -> list[float]:
    import gnomon
    from gnomon.config import Settings

    begun = time.monotonic()

    def live() -> datetime:
        return END + timedelta(seconds=time.monotonic() - begun)

    times = []
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        path = store.copied(Path(folder))
        with gnomon.open(path, settings=Settings(flush_seconds=60.0, sampling=False), clock=live) as engine:
            for turn in range(rounds + 2):
                ids = [str(uuid4()) for _ in range(EVENTS)] if kind != KINDS[0] else [None] * EVENTS
                for n, given in enumerate(ids):
                    engine.track("page_view", id=given, user_id=f"u{n}", source="web", properties={"page": f"/p/{n}"})
                took = seconds(engine.flush)
                if turn >= 2:
                    times.append(took)
    return times
