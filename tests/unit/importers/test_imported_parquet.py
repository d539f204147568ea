"""Parquet to candidates."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from gnomon.errors import MissingExtra, UnknownName
from gnomon.ingest import parquet as parquet_module
from gnomon.ingest.importers import Candidate, Progress
from importing import codes, items


@pytest.mark.parametrize("name", ["a.parquet", "a.parquet.gz"])
def test_parquet(parquet, name):
    import pyarrow as pa

    when = datetime(2025, 1, 1, tzinfo=UTC)
    path = parquet(
        {
            "created_at": pa.array([when, when], pa.timestamp("ns", "UTC")),
            "Status": pa.array([200.0, None]),
            "user": [7, 8],
            "duration": [3, 4],
            "Success": [True, False],
            "n": [float("nan"), 1.5],
            "text": ["5", ""],
            "price": [Decimal("9.99"), Decimal("0.10")],
            "exact": pa.array([Decimal("12345678901234567890.12"), None], pa.decimal128(30, 2)),
            "deep": [{"a": [1, float("nan")]}, None],
            "day": pa.array([when.date(), None]),
            "dict": pa.array(["x", "y"]).dictionary_encode(),
        },
        name,
    )
    seen: list[Progress] = []
    first, second = items(path, on_progress=seen.append)
    assert first == Candidate(1, {
        "id": first.fields["id"], "type": "event", "ts": when, "status_code": 200, "user_id": "7", "duration_ms": 3.0,
        "success": True,
        "properties": {"text": "5", "price": 9.99, "exact": "12345678901234567890.12", "deep": {"a": [1, None]},
                       "day": "2025-01-01", "dict": "x"},
    })  # fmt: skip
    assert second.fields["properties"] == {"n": 1.5, "price": 0.1, "dict": "y"}
    assert (seen[-1].bytes_done, seen[-1].lines) == (path.stat().st_size, 2)


def test_parquet_naive_times_bytes_and_far_dates(parquet):
    import pyarrow as pa

    naive = pa.array([datetime(2025, 7, 1, 12)], pa.timestamp("us"))
    assert codes(items(parquet({"ts": naive}))) == ["naive-time"]
    (found,) = items(parquet({"ts": naive}), timezone="Europe/Berlin")
    assert found.fields["ts"] == int(datetime(2025, 7, 1, 10, tzinfo=UTC).timestamp()) * 10**6
    assert codes(items(parquet({"x": [b"\xff", None]}))) == ["bad-line", "ok"]
    far = pa.array([2**62, 1_500_000_000_000_000], pa.timestamp("us", "UTC"))
    assert codes(items(parquet({"ts": far}))) == ["bad-line", "ok"]
    assert codes(items(parquet({"x": far}))) == ["bad-line", "ok"]
    (found,) = items(parquet({"ts": [1500000000123]}))
    assert found.fields["ts"] == 1_500_000_000_123_000


def test_parquet_mapping_and_damage(parquet, tmp_path):
    path = parquet({"a": list(range(100))})
    (found,) = items(path, mapping={"a": "user_id", "type": "=t"})[:1]
    assert (found.fields["user_id"], found.fields["type"]) == ("0", "t")
    with pytest.raises(UnknownName):
        items(path, mapping={"b": "user_id"})
    whole = path.read_bytes()
    for damaged in (whole[:-20], whole[:50], b"PAR1", gzip.compress(whole, mtime=0)[:60], b"hello"):
        (tmp_path / "cut.parquet").write_bytes(damaged)
        assert codes(items(tmp_path / "cut.parquet", mapping={"b": "user_id"})) == ["truncated-file"]


def test_parquet_needs_its_extra(load, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(parquet_module.importlib, "import_module", missing)
    with pytest.raises(MissingExtra, match="gnomon\\[arrow\\]"):
        load(b"PAR1", "a.parquet")
