"""Twelve questions of a 30-day dashboard: the engine beside hand-written SQL on the same open file.

The SQL is what an engineer who knows DuckDB would write for the same answer: unweighted counts, integer arithmetic
on TIMESTAMP, several quantiles in one call. Both run in this process on cursors of one database (same threads, same
memory limit), in turns, without the engine's answer cache, and must return the same rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any

from bench.dataset import DAYS, END, START, Store, clock, stores
from bench.figures import Figure, Size
from bench.timing import interleaved

TITLE = "Queries: the engine over hand-written SQL (goal: 1.15 times its median plus 3 ms)"
ZONE = "Europe/Berlin"
_SPAN = [START.isoformat(), END.isoformat()]
_DAY = [(START + timedelta(days=17)).isoformat(), (START + timedelta(days=18)).isoformat()]


def _where(span: list[str]) -> str:
    first, last = (moment[:19].replace("T", " ") for moment in span)
    return f"FROM events WHERE project = 'default' AND ts >= TIMESTAMP '{first}' AND ts < TIMESTAMP '{last}'"


IN, ON_DAY = _where(_SPAN), _where(_DAY)
_RATE = "count(*) FILTER ({}) / nullif(count(success), 0)"
_BERLIN = "(epoch_us(ts) + CASE WHEN ts < TIMESTAMP '2025-03-30 01:00' THEN 3600000000 ELSE 7200000000 END)"


def _hours(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return (int(values[0].timestamp()) // 3_600, *values[1:])


def _days(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple((v.date() - date(1970, 1, 1)).days if isinstance(v, datetime) else v for v in values)


@dataclass(frozen=True)
class Question:
    """The same question twice. `shape` turns an engine's row into the SQL's."""

    name: str
    asked: dict[str, Any]
    sql: str
    shape: Callable[[tuple[Any, ...]], tuple[Any, ...]] = tuple
    span: list[str] = field(default_factory=lambda: _SPAN)


QUESTIONS = (
    Question(
        "totals",
        {"metrics": ["events", "requests", "successes", "success_rate", "mean_duration_ms", "sum_bytes_received"]},
        "SELECT count(*), count(*) FILTER (type = 'request'), count(*) FILTER (success), "
        f"{_RATE.format('success')}, avg(duration_ms), sum(bytes_received) {IN}",
    ),
    Question(
        "by source: success rate, p95",
        {"metrics": ["requests", "success_rate", "p95_duration_ms"], "dimensions": ["source"]},
        f"SELECT source, count(*) FILTER (type = 'request') AS n, {_RATE.format('success')}, "
        f"quantile_disc(duration_ms, 0.95) {IN} GROUP BY source ORDER BY n DESC, source",
    ),
    Question(
        "requests by hour",
        {"metrics": ["requests"], "dimensions": ["time:hour"]},
        f"SELECT epoch_us(ts) // 3600000000 AS h, count(*) FILTER (type = 'request') {IN} GROUP BY h ORDER BY h",
        _hours,
    ),
    Question(
        f"people by day in {ZONE}",
        {"metrics": ["people"], "dimensions": ["time:day"], "timezone": ZONE},
        f"SELECT {_BERLIN} // 86400000000 AS d, count(DISTINCT coalesce(user_id, device_id)) {IN} "
        "GROUP BY d ORDER BY d",
        _days,
    ),
    Question(
        "people in 30 days",
        {"metrics": ["people"]},
        f"SELECT count(DISTINCT coalesce(user_id, device_id)) {IN}",
    ),
    Question(
        "top 20 endpoints",
        {"metrics": ["requests"], "dimensions": ["endpoint"], "order_by": [["requests", "desc"]], "limit": 20},
        f"SELECT endpoint, count(*) FILTER (type = 'request') AS n {IN} GROUP BY endpoint ORDER BY n DESC, endpoint "
        "LIMIT 20",
    ),
    Question(
        "status classes",
        {"metrics": ["events"], "dimensions": ["status_class"]},
        "SELECT CASE WHEN c IS NOT NULL THEN c::VARCHAR || 'xx' END, n FROM "
        f"(SELECT status_code // 100 AS c, count(*) AS n {IN} GROUP BY c) ORDER BY n DESC",
    ),
    Question(
        "error rate by source and day",
        {"metrics": ["error_rate"], "dimensions": ["source", "time:day"]},
        f"SELECT source, epoch_us(ts) // 86400000000 AS d, {_RATE.format('NOT success')} {IN} GROUP BY source, d "
        "ORDER BY d, source",
        _days,
    ),
    Question(
        "p50, p95, p99 by application",
        {"metrics": ["p50_duration_ms", "p95_duration_ms", "p99_duration_ms"], "dimensions": ["application"]},
        "SELECT application, q[1], q[2], q[3] FROM (SELECT application, quantile_disc(duration_ms, [0.5, 0.95, 0.99]) "
        f"AS q {IN} GROUP BY application) ORDER BY q[1] DESC, application",
    ),
    Question(
        "one user's events by type",
        {"metrics": ["events"], "dimensions": ["type"], "filters": [["is", "user_id", ["u1234"]]]},
        f"SELECT type, count(*) AS n {IN} AND user_id = 'u1234' GROUP BY type ORDER BY n DESC, type",
    ),
    Question(
        "endpoint contains: requests, mean",
        {"metrics": ["requests", "mean_duration_ms"], "filters": [["contains", "endpoint", ["export"]]]},
        f"SELECT count(*) FILTER (type = 'request'), avg(duration_ms) {IN} AND contains(endpoint, 'export')",
    ),
    Question(
        "properties.plan on one day",
        {"metrics": ["events"], "dimensions": ["properties.plan"]},
        "SELECT properties ->> '$.plan' AS plan, count(*) AS n "
        f"{ON_DAY} GROUP BY plan ORDER BY n DESC, plan NULLS LAST",
        span=_DAY,
    ),
)


def run(size: Size) -> list[Figure]:
    """Each question in turns with its SQL, after one run of each to warm the cache and to compare the rows."""
    store = stores(size.pick(1_000_000, 66_667))[DAYS]
    return [_events(store), *(figure for figure in _asked(store, rounds=7))]


def _events(store: Store) -> Figure:
    return Figure("events in the file", store.events, "", note=str(store.path))


def _asked(store: Store, rounds: int) -> list[Figure]:
    import gnomon
    from gnomon.config import Settings

    figures = []
    with gnomon.open(store.path, settings=Settings(cache_entries=0, query_timeout_seconds=300), clock=clock) as engine:
        hand = _by_hand(engine)
        for question in QUESTIONS:

            def ask(question: Question = question) -> Any:
                return engine.query(**question.asked, date_range=question.span)

            def write(question: Question = question) -> Any:
                return hand.execute(question.sql).fetchall()

            try:
                _compare(question, [question.shape(tuple(row.values())) for row in ask()], write())
                ours, theirs = interleaved([ask, write], rounds)
            except Exception as error:
                figures.append(Figure(question.name, math.inf, "ms", 0, note=f"{type(error).__name__}: {error}"))
                continue
            goal = theirs * 1_150 + 3
            note = f"SQL {theirs * 1_000:.1f} ms, ratio {ours / theirs:.2f}"
            figures.append(Figure(question.name, ours * 1_000, "ms", goal, note=note))
    return figures


def _by_hand(engine: Any) -> Any:
    """A cursor of the engine's own database: the same file, threads and memory."""
    cursor = engine._own_or_refuse()._connection.cursor()
    (name,) = cursor.execute("SELECT database_name FROM duckdb_databases() WHERE path IS NOT NULL").fetchone()
    return cursor.execute(f'USE "{name}"')


def _compare(question: Question, ours: list[tuple[Any, ...]], theirs: list[tuple[Any, ...]]) -> None:
    same = len(ours) == len(theirs) and all(
        len(a) == len(b) and all(map(_same, a, b)) for a, b in zip(ours, theirs, strict=True)
    )
    if not same:
        first = next(((a, b) for a, b in zip(ours, theirs, strict=False) if not all(map(_same, a, b))), "rows missing")
        raise AssertionError(f"{question.name}: {len(ours)} and {len(theirs)} rows, {first}")


def _same(a: Any, b: Any) -> bool:
    """Equal; sums of doubles may differ in their last digits, as threads add in any order."""
    return math.isclose(a, b, rel_tol=1e-9) if isinstance(a, float) and isinstance(b, float) else a == b
