"""A dry run says what the prune then removes, and about what it gives back to the file system, of each store."""

from __future__ import annotations

import csv
import random
from datetime import UTC, datetime, timedelta

import pytest

import embedded
import gnomon
from gnomon.store import Sizes
from gnomon.testing import ManualClock
from gnomon.upkeep import retention

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
EVENTS = 30_000
DAYS = 20


@pytest.fixture(params=["duckdb", "postgres", "chdb", pytest.param("cluster", marks=pytest.mark.slow)])
def store(request, tmp_path):
    if request.param == "duckdb":
        return str(tmp_path / "s.duckdb")
    return embedded.url() if request.param == "chdb" else request.getfixturevalue(request.param).url()


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    """A file of events with random ids over the last days, the same number in each."""
    random_ = random.Random(7)
    file = tmp_path_factory.mktemp("events") / "events.csv"
    with file.open("w") as opened:
        rows = csv.writer(opened)
        rows.writerow(["id", "ts", "type", "user_id", "source", "duration_ms"])
        for n in range(EVENTS):
            at = NOW - timedelta(days=DAYS) * (1 - n / EVENTS) - timedelta(minutes=5)
            rows.writerow([f"{random_.getrandbits(128):x}", at.isoformat(), "request", f"u{random_.randrange(500)}",
                           f"s{n % 5}", round(random_.random() * 1_000, 3)])  # fmt: skip
    return file


def dry_and_real(store, events, tmp_path, **policy):
    """The reports of a dry run on a store without rollups, and of the prune after it; the bytes before and after."""
    with gnomon.open(store, clock=ManualClock(NOW), sampling=False, data_dir=str(tmp_path)) as engine:
        assert engine.import_file(events).stored == EVENTS
        engine.set_retention_policy(**{"raw_data_days": 5, "hourly_aggregates_days": 8, **policy})
        total = engine.query(["events", "people"]).to_dicts()
        would = engine.prune(dry_run=True)
        assert engine.query(["events"], basis="raw").to_dicts()[0]["events"] == EVENTS
        before = engine._hold.store.disk_bytes()
        did = engine.prune()
        after = engine._hold.store.disk_bytes()
        assert engine.query(["events", "people"]).to_dicts() == total
    return would, did, before, after


def counts(report):
    return report.raw, report.hourly, report.daily, report.samples


def test_a_dry_run_says_what_goes_and_about_how_much_it_frees(store, events, tmp_path):
    would, did, before, after = dry_and_real(store, events, tmp_path)
    assert counts(would) == counts(did) and would.hourly > 1_000 and EVENTS / 2 < would.raw < EVENTS
    # What ClickHouse merges meanwhile, and parts that wait to be removed, change the bytes between two looks.
    moved = 0 if store.endswith(".duckdb") else did.bytes_freed / 20
    assert before > after and abs(did.bytes_freed - (before - after)) <= moved
    assert did.bytes_freed / 2 <= would.bytes_freed <= did.bytes_freed * 2


def test_where_nothing_would_go_nothing_is_freed(store, events, tmp_path):
    would, did, *_ = dry_and_real(store, events, tmp_path, raw_data_days=90, hourly_aggregates_days=None)
    assert counts(would) == counts(did) == (0, 0, 0, 0) and would.bytes_freed == 0


def test_a_dry_run_that_does_not_roll_up_is_found(events, tmp_path, monkeypatch):
    real = retention.roll_up
    calls = iter([lambda *_: None, real])
    monkeypatch.setattr(retention, "roll_up", lambda *given: next(calls)(*given))
    would, did, *_ = dry_and_real(str(tmp_path / "s.duckdb"), events, tmp_path)
    assert would.hourly != did.hourly


def test_an_estimate_that_leaves_out_rows_is_found(events, tmp_path, monkeypatch):
    monkeypatch.setattr(Sizes, "of", lambda *_: 0.0)
    would, did, *_ = dry_and_real(str(tmp_path / "s.duckdb"), events, tmp_path)
    assert would.bytes_freed < did.bytes_freed / 2


def test_a_prune_that_keeps_the_space_is_found(events, tmp_path, monkeypatch):
    monkeypatch.setattr("gnomon.store.duckdb.DuckDBStore._compact", lambda self: None)
    _, did, before, after = dry_and_real(str(tmp_path / "s.duckdb"), events, tmp_path)
    assert did.bytes_freed == 0 and after >= before


def test_a_store_in_memory_says_nothing_of_bytes(events, tmp_path):
    would, did, *_ = dry_and_real(":memory:", events, tmp_path)
    assert counts(would) == counts(did) and (would.bytes_freed, did.bytes_freed) == (0, 0)
