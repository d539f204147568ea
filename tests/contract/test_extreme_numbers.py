"""Numbers near the edges of a double are answered alike by every store, and hold nothing up: a sum beyond what a double
names is null, one below is 0. The gate lets them in as properties; durations and weights like these are of rows that
were stored before it had bounds, and are put past it here."""

import math
from datetime import UTC, datetime, timedelta

import pytest

import embedded
import gnomon
from gnomon.errors import GnomonError
from gnomon.event import ROW, Batch
from gnomon.store.postgres.opening import begin
from gnomon.testing import ManualClock
from gnomon.timerange import to_us

NOW = datetime(2026, 3, 20, 12, tzinfo=UTC)
SPAN = ["2026-03-12", "2026-03-21"]
LARGEST, SMALLEST = 1.7976931348623157e308, 5e-324
#: By type: durations that are also the property n, and weights.
ROWS = {
    "too much": ([1e308] * 3, [1.0]),
    "enough": ([1e200, 3e200, 7e200], [1.0]),
    "little": ([1e-200, 3e-200], [1.0]),
    "smallest": ([SMALLEST, 0.0], [1.0]),
    "largest": ([LARGEST], [1.0]),
    "both": ([1e308, 5.0, 1e-308], [1.0]),
    "usual": ([1.0, 2.0, 4.0], [1.0]),
}
WEIGHTED = {
    "too much": ([1e308] * 3, [2.0, 10.0]),
    "enough": ([1e200, 3e200, 7e200], [2.0, 10.0]),
    "little": ([1e-200, 3e-200, 7e-170], [2.0, 10.0]),
    "smallest": ([SMALLEST, 0.0], [1.5]),
    "heavy": ([3.0, 4.0], [1e308, 1e200]),
    "usual": ([1.0, 2.0, 4.0], [2.0, 10.0]),
}
MEASURES = {
    "durations": ["events", "sum_duration_ms", "mean_duration_ms", "min_duration_ms", "max_duration_ms"],
    "percentiles": ["p50_duration_ms", "p95_duration_ms"],
    "properties": [{"agg": agg, "field": "properties.n"} for agg in ("sum", "mean", "min", "max", "p50")],
}
STORES = ("duckdb", "postgres", "clickhouse")


def batch(rows):
    made = []
    for type_, (values, weights) in rows.items():
        for n, value in enumerate(values * 4):
            ts = to_us(NOW - timedelta(hours=5 * n + 1))
            named = {"id": f"{type_}{n}", "ts": ts, "received_at": ts, "type": type_, "duration_ms": value,
                     "user_id": f"u{n % 3}", "weight": weights[n % len(weights)],
                     "properties": f'{{"n":{value!r}}}'}  # fmt: skip
            made.append(tuple(named.get(name) for name in ROW))
    return Batch("default", rows=made, checked_ids=True)


def opened(url, folder, rows):
    engine = gnomon.open(url, data_dir=str(folder), clock=ManualClock(NOW), sampling=False, cache_entries=0,
                         rollup_lag_seconds=0)  # fmt: skip
    engine._hold.store.write([(1, batch(rows))], "others")
    return engine


@pytest.fixture(scope="module", params=[ROWS, WEIGHTED], ids=["weight 1", "weighted"])
def engines(request, postgres, tmp_path_factory):
    places = {"duckdb": ":memory:", "postgres": postgres.url(), "clickhouse": embedded.url()}
    made = {name: opened(url, tmp_path_factory.mktemp(name), request.param) for name, url in places.items()}
    yield made
    for engine in made.values():
        engine.close()


def answers(engine, basis, properties=True):
    found = {}
    for name, metrics in list(MEASURES.items())[: 3 if properties else 2]:
        result = engine.query(metrics=metrics, dimensions=["type"], date_range=SPAN, basis=basis, totals=True)
        for row in [*result, result.totals]:
            for metric in result.metrics:
                told = result.interval(metric, row)
                found[name, row.get("type"), metric] = (row[metric], told.low, told.high)
    by_worth = engine.query(metrics=["sum_duration_ms"], dimensions=["type"], date_range=SPAN, basis=basis,
                            order_by=[["sum_duration_ms", "desc"], ["type", "asc"]])  # fmt: skip
    found["by worth"] = [row["type"] for row in by_worth]
    return found


def alike(ours, theirs):
    if isinstance(ours, tuple):
        return all(map(alike, ours, theirs))
    if isinstance(ours, float) and isinstance(theirs, float):
        return math.isclose(ours, theirs, rel_tol=1e-9, abs_tol=1e-150)
    return ours == theirs


def compared(engines, basis, **more):
    told = {name: answers(engine, basis, **more) for name, engine in engines.items()}
    wrong = {key: [told[name][key] for name in STORES] for key, value in told["duckdb"].items()
             for name in STORES if not alike(told[name][key], value)}  # fmt: skip
    assert wrong == {}
    return told["duckdb"]


def test_raw_rows_answer_alike(engines):
    found = compared(engines, "raw")
    assert found["durations", "too much", "sum_duration_ms"][0] is None
    assert found["durations", "enough", "max_duration_ms"][0] == 7e200


def test_postgres_refuses_what_is_not_computed_with_care(engines, monkeypatch):
    ask = {"metrics": ["mean_duration_ms"], "date_range": SPAN, "basis": "raw"}
    engines["postgres"].query(**ask)
    monkeypatch.setattr("gnomon.store.postgres.begin", lambda *a, careful, **kw: begin(*a, **kw))
    with pytest.raises(GnomonError) as caught:
        engines["postgres"].query(**ask)
    assert caught.value.code == "store-refused"


def test_pages_go_on_behind_a_sum_that_is_too_large(engines):
    ask = {"metrics": [{"agg": "sum", "field": "properties.n"}], "dimensions": ["type"], "date_range": SPAN}
    for engine in engines.values():
        found, after = [], None
        while True:
            page = engine.query(**ask, limit=1, after=after)
            found, after = [*found, page[0]["type"]], page.next
            if after is None:
                break
        assert found == [row["type"] for row in engine.query(**ask)] and len(found) >= 6


def test_rolling_up_and_pruning_are_not_held_up(engines):
    for engine in engines.values():
        engine.trigger_aggregation()
    compared(engines, "auto")
    for engine in engines.values():
        engine.set_retention_policy(raw_data_days=3)
        engine.prune()
        assert engine.summary(hours=48).events and engine.user("u1").events
    compared(engines, "auto", properties=False)
