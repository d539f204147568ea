"""Rolling up more than a row group of DuckDB (122,880 rows) with several threads: once that lost every rollup."""

from datetime import UTC, datetime, timedelta

import pytest

import gnomon
from gnomon.errors import StoreUnavailable
from gnomon.event import AT, ROW, Batch
from gnomon.store import rollups
from gnomon.testing import ManualClock
from gnomon.timerange import to_us

NOW = datetime(2026, 3, 20, 12, tzinfo=UTC)
ROWS = 130_000
SPAN = ["2026-03-18", "2026-03-21"]
ASKED = {"metrics": ["events", "people", "sum_bytes_sent", "p95_duration_ms"], "dimensions": ["application"]}


def opened(place):
    return gnomon.open(place, clock=ManualClock(NOW), rollup_lag_seconds=0, cache_entries=0, threads=2)


@pytest.fixture(scope="module", params=[1.0, pytest.param(2.5, marks=pytest.mark.slow)], ids=["counted", "weighted"])
def filled(request, tmp_path_factory):
    """Events each of which has a state of its own in a rollup; made as the writer makes them, but at once."""
    place = tmp_path_factory.mktemp("large") / "x.duckdb"
    start = to_us(NOW - timedelta(days=2))
    names = [AT[name] for name in ("id", "ts", "received_at", "type", "user_id", "application", "endpoint",
                                   "duration_ms", "bytes_sent", "weight")]  # fmt: skip
    rows = []
    for i in range(ROWS):
        row = [None] * len(ROW)
        told = (f"{i:08x}-0000-7000-8000-000000000000", start + i * 1_000_000, start, "request", f"u{i % 900}",
                "abc"[i % 3], f"/{i}", i % 1_000 / 7, i, request.param)  # fmt: skip
        for place_of, value in zip(names, told, strict=True):
            row[place_of] = value
        rows.append(tuple(row))
    with opened(place) as engine:
        store, journal = engine._own_or_refuse(), engine._hold.journal
        for first in range(0, ROWS, 20_000):
            store.write([(0, Batch("default", rows=rows[first : first + 20_000]))], journal.id)
        engine._hold.writer.checkpoint()
    return place


@pytest.fixture
def place(filled, tmp_path):
    copy = tmp_path / "x.duckdb"
    copy.write_bytes(filled.read_bytes())
    return copy


def told(engine, basis):
    rows = engine.query(**ASKED, date_range=SPAN, basis=basis, order_by=[["application", "asc"]]).to_dicts()
    return [{**row, "p95_duration_ms": round(row["p95_duration_ms"] / 3)} for row in rows]


def test_large_rollups_are_recounted(place):
    with opened(place) as engine:
        raw = told(engine, "raw")
        assert engine.trigger_aggregation().events > 122_880
        assert "rollups" in engine.query(["events"], [], SPAN).basis.source and told(engine, "auto") == raw
        engine.set_retention_policy(raw_data_days=1)
        engine.prune()
        assert told(engine, "auto") == raw


AS_BEFORE = ("DROP TABLE IF EXISTS fresh",
             "CREATE TEMP TABLE fresh AS SELECT *, NULL::INTEGER[] AS bins FROM rolled LIMIT 0")  # fmt: skip


def test_a_transaction_that_would_lose_rows_is_refused(place, monkeypatch):
    with opened(place) as engine:
        monkeypatch.setattr(rollups, "NOTHING_FRESH", AS_BEFORE)
        with pytest.raises(StoreUnavailable) as refused:
            engine.trigger_aggregation()
        assert refused.value.code == "store-lost-rows"
        monkeypatch.undo()
        assert told(engine, "auto") == told(engine, "raw")


def test_without_the_check_they_would_be_lost(place, monkeypatch):
    """If this fails, DuckDB has mended it."""
    with opened(place) as engine:
        monkeypatch.setattr(rollups, "NOTHING_FRESH", AS_BEFORE)
        monkeypatch.setattr("gnomon.store.duckdb.check_filled", lambda _: None)
        engine.trigger_aggregation()
        assert sum(row["events"] for row in engine.query(["events"], ["application"], SPAN)) < ROWS
        engine.set_retention_policy(raw_data_days=1)
        with pytest.raises(StoreUnavailable) as refused:
            engine.prune()
        assert refused.value.code == "rollup-incomplete"
        assert len(engine.query(["events"], ["application"], SPAN, basis="raw")) == 3
