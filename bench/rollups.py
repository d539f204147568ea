"""Rollups: what making them costs, and what a dashboard of 30 days costs from them instead of raw rows.

On a copy of the generated store. Each question is asked of rollups and of raw rows in turns, without the answer cache.
"""

from __future__ import annotations

import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from bench.dataset import CACHE, DAYS, END, START, stores
from bench.figures import Figure, Size
from bench.timing import median, seconds

TITLE = "Rollups: making them, and a dashboard from them"
SPAN = [START.isoformat(), END.isoformat()]
DASHBOARD: dict[str, dict[str, Any]] = {
    "totals": {"metrics": ["events", "requests", "success_rate", "mean_duration_ms"]},
    "requests by day": {"metrics": ["requests", "failures"], "dimensions": ["time:day"]},
    "requests by hour": {"metrics": ["requests"], "dimensions": ["time:hour"]},
    "by source": {"metrics": ["requests", "success_rate", "sum_bytes_received"], "dimensions": ["source"]},
    "p95 by source": {"metrics": ["p95_duration_ms"], "dimensions": ["source"]},
    "status classes": {"metrics": ["requests"], "dimensions": ["status_class"]},
    "top endpoints": {"metrics": ["requests", "mean_duration_ms"], "dimensions": ["endpoint"], "limit": 20},
    "people by day": {"metrics": ["people"], "dimensions": ["time:day"]},
    "people in the range": {"metrics": ["people"]},
}


def run(size: Size) -> list[Figure]:
    """Time of `trigger_aggregation` and of each question of the dashboard."""
    import gnomon
    from gnomon.config import Settings

    store = stores(size.pick(1_000_000, 66_667))[DAYS]
    settings = Settings(cache_entries=0, query_timeout_seconds=600.0)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        path = store.copied(Path(folder))
        before = path.stat().st_size
        with gnomon.open(path, settings=settings, clock=lambda: END + timedelta(hours=1)) as engine:
            started, wall = time.process_time(), time.perf_counter()
            made = engine.trigger_aggregation()
            cost, wall = time.process_time() - started, time.perf_counter() - wall
            engine._hold.writer.checkpoint()  # type: ignore[union-attr]
            grown = path.stat().st_size - before
            rate = made.events / cost
            figures = [
                Figure(
                    "rolled up, a core", rate / 1e6, "M/s", note=f"{made.events:,} events in {wall:.0f} s; goal 1 M/s"
                ),
                Figure("bytes of rollups an event", grown / made.events, "B"),
            ]
            figures += _dashboard(engine)
    return figures


def _dashboard(engine: Any) -> list[Figure]:
    figures, rolled_times, raw_times = [], [], []
    for name, question in DASHBOARD.items():
        ask = {"date_range": SPAN, **question}
        engine.query(**ask)
        rolled = median([seconds(lambda ask=ask: engine.query(**ask)) for _ in range(5)]) * 1_000
        raw = median([seconds(lambda ask=ask: engine.query(**ask, basis="raw")) for _ in range(3)]) * 1_000
        rolled_times.append(rolled)
        raw_times.append(raw)
        figures.append(Figure(name, rolled, "ms", 50.0, note=f"raw {raw:.0f} ms, {raw / rolled:.1f} times as long"))
    ratio = sum(raw_times) / sum(rolled_times)
    figures.append(Figure("the whole dashboard, raw over rollups", ratio, "x", note="goal 20"))
    return figures
