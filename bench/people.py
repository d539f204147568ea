"""People: how many were active by day and in a month, of 500,000, from rollups and from raw rows.

On generated page views with nothing but a time and a person: a million a day for 30 days, by Zipf's law.
"""

from __future__ import annotations

import shutil
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

from bench.dataset import CACHE, DAYS, END, START
from bench.figures import Figure, Size
from bench.timing import median, seconds

TITLE = "People: 500,000 of them, active by day and by month"
SPAN = [START.isoformat(), END.isoformat()]
PEOPLE = 500_000
QUESTIONS: dict[str, tuple[dict[str, Any], float | None]] = {
    "active by day (UTC)": ({"dimensions": ["time:day"]}, 50.0),
    "active in 30 days": ({}, 200.0),
    "active by day (Berlin)": ({"dimensions": ["time:day"], "timezone": "Europe/Berlin"}, None),
    "active by week": ({"dimensions": ["time:week"]}, None),
    "active in 30 days up to 13:10": ({"date_range": [SPAN[0], (END - timedelta(hours=10.84)).isoformat()]}, None),
}


def run(size: Size) -> list[Figure]:
    """Medians of seven questions to rollups, of three to raw rows, answers never kept."""
    import gnomon
    from gnomon.config import Settings

    settings = Settings(cache_entries=0, query_timeout_seconds=600.0)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        path = Path(shutil.copyfile(_generated(size.pick(1_000_000, 66_667)), Path(folder) / "store.duckdb"))
        with gnomon.open(path, settings=settings, clock=lambda: END + timedelta(hours=1)) as engine:
            engine.trigger_aggregation()
            return [figure for name, (question, goal) in QUESTIONS.items()
                    for figure in _asked(engine, name, {"date_range": SPAN, **question}, goal)]  # fmt: skip


def _asked(engine: Any, name: str, question: dict[str, Any], goal: float | None) -> list[Figure]:
    ask = {"metrics": ["people"], **question}
    rolled, raw = engine.query(**ask), engine.query(**ask, basis="raw")
    if rolled.to_dicts() != raw.to_dicts():
        raise RuntimeError(f"{name}: rollups and raw rows differ")
    fast = median([seconds(lambda: engine.query(**ask)) for _ in range(7)]) * 1_000
    slow = median([seconds(lambda: engine.query(**ask, basis="raw")) for _ in range(3)]) * 1_000
    most = max(row["people"] for row in rolled)
    return [Figure(name, fast, "ms", goal, note=f"raw {slow:,.0f} ms; {most:,} people at most")]


def _generated(per_day: int) -> Path:
    path = CACHE / f"people-{per_day}x{DAYS}.duckdb"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            _generate(new := Path(folder) / "new.duckdb", per_day)
            new.rename(path)
    return path


def _generate(path: Path, per_day: int) -> None:
    import duckdb

    import gnomon
    from gnomon.config import Settings

    gnomon.open(path, settings=Settings()).close()
    with duckdb.connect() as con:
        con.execute(f"ATTACH '{path}' AS store (RECOVERY_MODE no_wal_writes)")
        con.execute("USE store")
        for day in range(DAYS):
            start = int((START + timedelta(days=day)).timestamp()) * 1_000_000
            con.execute(
                "INSERT INTO events BY NAME SELECT 'default' AS project, uuid() AS id, ts, ts AS received_at, "
                f"{day + 1} AS version, 'page_view' AS type, 'u' || who AS user_id, 1.0 AS weight FROM (SELECT "
                f"make_timestamp({start} + i * 86400000000 // {per_day}) AS ts, "
                f"floor(exp(random() * ln({PEOPLE + 1})))::INTEGER AS who FROM range({per_day}) AS days(i))"
            )
            con.execute("CHECKPOINT store")
        con.execute("DELETE FROM state WHERE key = 'version'")
        con.execute("INSERT INTO state VALUES ('version', ?)", [str(DAYS)])
        con.execute("CHECKPOINT store")
