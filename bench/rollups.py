"""Rollups: what making them costs, and what a dashboard of 30 days costs from them instead of raw rows.

On a copy of the generated store. Each question is asked of rollups and of raw rows in turns, without the answer cache.
"""

from __future__ import annotations

import tempfile
import time
from datetime import datetime, timedelta
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
    """Time of `trigger_aggregation` on one core, and of each question of the dashboard."""
    import gnomon

    store = stores(size.pick(1_000_000, 66_667))[DAYS]
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        path = store.copied(Path(folder))
        figures = rolled_up(path, None if size.quick else 1.0)
        with gnomon.open(path, settings=bench_settings(), clock=after) as engine:
            return figures + _dashboard(engine, None if size.quick else 20.0)


def after() -> datetime:
    """An hour behind the last event, so that everything can be rolled up."""
    return END + timedelta(hours=1)


def bench_settings(**changes: Any) -> Any:
    from gnomon.config import Settings

    return Settings(cache_entries=0, query_timeout_seconds=600.0, **changes)


def rolled_up(path: Path, wanted: float | None = None) -> list[Figure]:
    """Roll a store up with one thread; events a second of processor time, and bytes."""
    import gnomon

    before = path.stat().st_size
    with gnomon.open(path, settings=bench_settings(threads=1), clock=after) as engine:
        started, wall = time.process_time(), time.perf_counter()
        made = engine.trigger_aggregation()
        cost, wall = time.process_time() - started, time.perf_counter() - wall
        engine._hold.writer.checkpoint()  # type: ignore[union-attr]
        grown = path.stat().st_size - before
    note = f"{made.events:,} events in {wall:.0f} s, one thread"
    return [
        Figure("rolled up, one core", made.events / cost / 1e6, "M/s", wanted, ">=", note=note),
        Figure("bytes of rollups an event", grown / made.events, "B"),
    ]


def asked(engine: Any, question: dict[str, Any], **how: Any) -> float:
    """Median milliseconds of one question of the dashboard."""
    ask = {"date_range": SPAN, **question, **how}
    engine.query(**ask)
    return median([seconds(lambda: engine.query(**ask)) for _ in range(3 if how else 5)]) * 1_000


def _dashboard(engine: Any, wanted: float | None) -> list[Figure]:
    figures, rolled_times, raw_times = [], [], []
    for name, question in DASHBOARD.items():
        rolled, raw = asked(engine, question), asked(engine, question, basis="raw")
        rolled_times.append(rolled)
        raw_times.append(raw)
        figures.append(Figure(name, rolled, "ms", 50.0, note=f"raw {raw:.0f} ms, {raw / rolled:.1f} times as long"))
    ratio = sum(raw_times) / sum(rolled_times)
    figures.append(Figure("the whole dashboard, raw over rollups", ratio, "x", wanted, ">="))
    return figures
