"""Every format of every store holds what that of DuckDB holds, cell by cell; memory stays flat in ClickHouse, too."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import openpyxl
import pyarrow.ipc
import pyarrow.parquet
import pytest
from test_export_formats import HOSTILE, NOW, exported

import embedded
import gnomon
from gnomon.export import FORMATS, reading
from gnomon.testing import ManualClock


def recorded(url, **more):
    """The events of `test_export_formats`, some of the same moment, and those of another project."""
    engine = gnomon.open(url, clock=ManualClock(NOW), sampling=False, project="shop", heartbeat_seconds=0, **more)
    for place, text in enumerate(HOSTILE):
        engine.track(
            "request", id=f"{place:03}", ts=NOW - timedelta(hours=1, microseconds=-(place // 3)), user_id=text,
            source=text if place % 3 else None, endpoint=text, status_code=200 if place % 2 else None,
            duration_ms=place / 7, bytes_sent=2**63 - 1 - place, bytes_received=place, success=bool(place % 2),
            weight=1.5 if place % 5 == 0 else 1.0,
            properties={"text": text, "n": 2**60 + place, "x": 1e16, "deep": {"list": [1, None, 0.1, text, -0.0]}}
            if place else None,
        )  # fmt: skip
    engine.track("=type", id="=id", ts=NOW - timedelta(days=1), weight=2.5)
    engine.track("t", id="0190163d-8694-739b-aea5-966c26f8ad91", ts=NOW - timedelta(days=400))
    engine.flush()
    assert engine.books().stored == len(HOSTILE) + 2
    return engine


@pytest.fixture(scope="module", params=["chdb", pytest.param("postgres", marks=pytest.mark.slow),
                                        pytest.param("clickhouse", marks=pytest.mark.slow)])  # fmt: skip
def both(request, tmp_path_factory):
    kind = request.param
    url = embedded.url() if kind == "chdb" else request.getfixturevalue(kind).url()
    folder = str(tmp_path_factory.mktemp("data"))
    with recorded(":memory:") as one, recorded(url, data_dir=folder) as other:
        yield SimpleNamespace(one=one, other=other)


def content(data, format):
    """What a reader of the format finds."""
    if format == "csv":
        return list(csv.reader(io.StringIO(data.decode(), newline="")))
    if format in ("json", "ndjson"):
        rows = json.loads(data) if format == "json" else [json.loads(line) for line in data.decode().split("\n")[:-1]]
        return [{**row, **{name: datetime.fromisoformat(row[name]) for name in ("ts", "received_at") if name in row}}
                for row in rows]  # fmt: skip
    if format == "xlsx":
        sheet = openpyxl.load_workbook(io.BytesIO(data)).active
        return [[(cell.value, cell.number_format) for cell in row] for row in sheet]
    read = pyarrow.parquet.read_table if format == "parquet" else lambda file: pyarrow.ipc.open_stream(file).read_all()
    table = read(io.BytesIO(data))
    return table.schema, table.to_pylist()


@pytest.mark.parametrize("format", list(FORMATS))
def test_every_format_holds_the_same(both, format):
    found = content(exported(both.other, format), format)
    assert found == content(exported(both.one, format), format)
    assert len(found[1] if format in ("parquet", "arrow") else found) >= len(HOSTILE) + 2


@pytest.mark.parametrize("rows", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_slices_of_any_size_make_the_same_file(both, monkeypatch, rows):
    whole = exported(both.other, "csv")
    monkeypatch.setattr(reading, "MOST_ROWS", rows)
    assert exported(both.other, "csv") == whole == exported(both.one, "csv")


@pytest.mark.parametrize("order", [
    {"fields": ["ts", "id", "properties"], "filters": [["is_not", "source", ["plain"]]]},
    {"filters": [["is", "user_id", ["=1+1", "\\", "😀 👨‍👩‍👧"]], ["gt", "bytes_received", 0]]},
])  # fmt: skip
def test_fields_and_filters(both, order):
    found = content(exported(both.other, "ndjson", **order), "ndjson")
    assert found == content(exported(both.one, "ndjson", **order), "ndjson") and found


def test_answers_of_a_query(both):
    asked = {"query": {"metrics": ["events", "p95_duration_ms"], "dimensions": ["source"], "date_range": "7d"}}
    for format in FORMATS:
        found = (content(exported(engine, format, **asked), format) for engine in (both.one, both.other))
        assert next(found) == next(found)


FILL = """
import sys, gnomon
columns = "project, id, ts, received_at, version, type, user_id, source, duration_ms, weight, properties"
with gnomon.open(sys.argv[1]) as engine:
    engine._hold.store.change([
        f"INSERT INTO events ({columns}) SELECT 'default', generateUUIDv4(), "
        "fromUnixTimestamp64Micro(1700000000000000 + toInt64(number) * 7919), "
        "fromUnixTimestamp64Micro(1700000000000000), 2, 'request', concat('u', toString(number % 5000)), 's', "
        "number / 7, 1.0, concat('{\\"text\\":\\"', repeat('y', 400), '\\"}') "
        f"FROM numbers({sys.argv[2]})"
    ])
"""
EXPORT = """
import json, sys
sys.path.insert(0, sys.argv[3])
from test_export_memory import CODE
exec(CODE)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("format", list(FORMATS))
def test_memory_does_not_grow_with_the_rows(tmp_path, format):
    """A third of the memory is the engine's own; 400,000 rows are 226 MB of CSV."""
    flow, most = str(Path(__file__).parents[1] / "flow"), []
    for rows in (50_000, 400_000):
        url = f"chdb://{tmp_path}/{rows}"
        subprocess.run([sys.executable, "-c", FILL, url, str(rows)], check=True)
        ran = subprocess.run(
            [sys.executable, "-c", EXPORT, url, format, flow], capture_output=True, text=True, check=True
        )
        found, _, _, highest = json.loads(ran.stdout)
        assert found == rows
        most.append(highest)
    assert most[1] < most[0] + 120 * 1024**2, [n >> 20 for n in most]
