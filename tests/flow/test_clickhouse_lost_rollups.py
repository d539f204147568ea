"""A damaged part of the rollups of an embedded ClickHouse: what can be made again of raw rows is, and about the rest
nobody is told a number."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import pytest

import gnomon
from gnomon.errors import InvalidValue, StoreDamaged
from gnomon.store import clickhouse

NOW = datetime(2026, 6, 20, 12, tzinfo=UTC)
DAYS, KEPT = 130, 45  #: of events, and of raw rows where they are pruned: the edge is within a month
ZONES = ("UTC", "America/New_York")
SETTINGS = {"sampling": False, "checkpoint_seconds": 3_600.0, "heartbeat_seconds": 0, "cache_entries": 0,
            "timezones": ZONES, "clock": lambda: NOW}  # fmt: skip
METRICS = ["events", "people", "p95_duration_ms", "mean_duration_ms"]
MONTHS = [("2026-02-01", "2026-03-01"), ("2026-03-01", "2026-04-01"), ("2026-04-01", "2026-05-01"),
          ("2026-05-01", "2026-06-01"), ("2026-06-01", "2026-07-01")]  # fmt: skip


def fill(url, *, prune):
    with gnomon.open(url, **SETTINGS) as engine:
        for day in range(DAYS):
            for n in range(30):
                ts = NOW - timedelta(days=day, hours=n % 24, minutes=n)
                engine.track("t", id=f"e{day}-{n}", user_id=f"u{(day * 7 + n) % 40}", source=f"s{n % 3}", ts=ts,
                             duration_ms=float(n * day % 97))  # fmt: skip
        engine.flush()
        engine.trigger_aggregation()
        if prune:
            engine.set_retention_policy(raw_data_days=KEPT)
            assert engine.prune().raw
        whole(engine)


def whole(engine):
    """One part of each partition, as ClickHouse makes them by itself in time."""
    store = engine._hold.store
    for table in ("rolled", "people", "activity", "active_days", "weighted", "pruned", "rolled_up"):
        store._writer.run(f"OPTIMIZE TABLE {table} FINAL", store._plain())


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The folder of a store that has all raw rows, or of one in which old ones were pruned."""

    @cache
    def make(prune):
        folder = tmp_path_factory.mktemp("filled")
        fill(f"chdb://{folder}/store", prune=prune)
        return folder

    return make


@pytest.fixture
def copied(kept, tmp_path):
    def copy(*, pruned):
        shutil.copytree(kept(pruned), tmp_path / "c", symlinks=True)
        return f"chdb://{tmp_path}/c/store"

    return copy


def asked(engine, span, basis="auto", zone="UTC"):
    found = engine.query(METRICS, ["time:day"], span, basis=basis, timezone=zone)
    return [tuple(row[name] for name in ("time:day", *METRICS[:2])) for row in found]


def told(engine, basis="auto"):
    """Every month's answer in both zones, None where it is refused."""
    found = {}
    for zone in ZONES:
        for span in MONTHS:
            try:
                found[zone, span[0]] = asked(engine, span, basis, zone)
            except InvalidValue as error:
                assert error.code == "raw-rows-gone"
                found[zone, span[0]] = None
    return found


def damage(url, table, partition):
    """Flip a byte in the middle of a part; returns what was told before."""
    with gnomon.open(url, **SETTINGS) as engine:
        before, store = told(engine), engine._hold.store
        where = f"database = 'gnomon' AND table = '{table}' AND partition = '{partition}' AND active"
        ((path,),) = store._writer.run(f"SELECT path FROM system.parts WHERE {where}", store._plain()).rows
    file = Path(path) / "data.bin"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)
    return before


def noticed(url):
    with gnomon.open(url, **SETTINGS) as engine:
        assert engine.health().facts["every_block_readable"] is False


PARTS = [("people", "tuple()"), ("activity", "641"), ("active_days", "642"), ("rolled_up", "tuple()")]


@pytest.mark.parametrize(
    ("table", "partition"),
    [("rolled", "202604"), *(pytest.param(*part, marks=pytest.mark.slow) for part in PARTS)],
)
def test_where_raw_rows_are_there_rollups_are_made_again(copied, table, partition):
    url = copied(pruned=False)
    before = damage(url, table, partition)
    noticed(url)
    with gnomon.open(url, **SETTINGS) as engine:
        assert told(engine) == before == told(engine, "raw")
        assert engine.trigger_aggregation().events >= DAYS * 30 - 30  # but for those that are too new
        assert told(engine) == before
        assert engine.query(METRICS, date_range=MONTHS[2]).basis.source != "raw"
        health = engine.health()
        assert health.facts["every_block_readable"] and "lost" not in str(health.findings) and engine.books().closes()


#: The part that is damaged, and the months of UTC that lost something with it; raw rows begin on the 6th of May.
LOSSES = [
    ("rolled", "202603", {"2026-03-01"}),
    pytest.param("rolled", "202605", {"2026-05-01"}, marks=pytest.mark.slow),
    pytest.param("activity", "640", {"2026-02-01"}, marks=pytest.mark.slow),
    pytest.param("people", "tuple()", {month for month, _ in MONTHS[:4]}, marks=pytest.mark.slow),
]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("table", "partition", "months"), LOSSES)
def test_where_raw_rows_were_pruned_what_was_lost_is_refused_and_nothing_else(copied, table, partition, months):
    url = copied(pruned=True)
    before = damage(url, table, partition)
    assert all(before.values())
    noticed(url)
    for again in (False, True):
        with gnomon.open(url, **SETTINGS) as engine:
            refused(engine, before, months)
            if again:
                engine.trigger_aggregation()
                refused(engine, before, months)
                assert engine.query(METRICS, date_range=MONTHS[4]).basis.source != "raw"
                engine.prune()
                refused(engine, before, months)


def refused(engine, before, months):
    now = told(engine)
    assert {month for (zone, month), days in now.items() if days is None and zone == "UTC"} == months
    for (zone, month), days in now.items():
        here = datetime.fromisoformat(month) + timedelta(days=31)  # New York ends its months in the next one of UTC
        near = zone != "UTC" and f"{here:%Y-%m}-01" in months
        assert days == before[zone, month] or (days is None and (month in months or near))
    with pytest.raises(InvalidValue, match="lost with a damaged part") as error:
        engine.query(METRICS)
    assert error.value.code == "raw-rows-gone" and "backup" in error.value.remedy
    assert any("were lost" in finding.what and "backup" in finding.remedy for finding in engine.health().findings)


@pytest.mark.slow
def test_rollups_that_are_taken_as_they_are_would_be_found(copied, monkeypatch):
    monkeypatch.setattr(clickhouse, "settling", lambda *_: [])
    url = copied(pruned=True)
    before = damage(url, "rolled", "202603")
    noticed(url)
    with gnomon.open(url, **SETTINGS) as engine, pytest.raises((AssertionError, pytest.fail.Exception)):
        refused(engine, before, {"2026-03-01"})


def refuses(work):
    with pytest.raises(StoreDamaged) as error:
        work()
    assert "pruned" in error.value.message and "backup" in error.value.remedy


@pytest.mark.parametrize("table", ["pruned", pytest.param("rolled_up", marks=pytest.mark.slow)])
def test_a_store_that_does_not_know_what_was_pruned_tells_nothing_and_recording_goes_on(copied, table):
    url = copied(pruned=True)
    kept = {file: file.read_bytes() for file in Path(url.removeprefix("chdb://")).glob("store/*/*/*/data.bin")}
    damage(url, table, "tuple()")
    with pytest.raises(StoreDamaged), gnomon.open(url, **SETTINGS) as engine:
        engine.query(METRICS)
    for n in range(2):
        with gnomon.open(url, **SETTINGS) as engine:
            engine.track("t", id=f"while{n}", ts=NOW)
            engine.flush()
            for work in (lambda: engine.query(METRICS), engine.books, engine.health, engine.trigger_aggregation,
                         engine.prune, lambda: engine.forget("u1")):  # fmt: skip
                refuses(work)
            assert any("store-damaged" in alert.message for alert in engine.alerts())
    for file, content in kept.items():
        file.write_bytes(content)  # a backup of the folder
    with gnomon.open(url, **SETTINGS) as engine:
        rows = engine._hold.store.ask(["SELECT id_text FROM events WHERE startsWith(id_text, 'while')"], 20.0)[0].rows
        assert sorted(rows) == [("while0",), ("while1",)]
        assert engine.query(METRICS, date_range=MONTHS[3])[0]["events"] and engine.books().closes()
