"""Memory stays flat however many rows there are: a process of its own exports them to nowhere and watches itself."""

from __future__ import annotations

import json
import subprocess
import sys

import duckdb
import pytest

import gnomon
from gnomon.config import Settings
from gnomon.export import FORMATS

CODE = """
import json, os, sys, threading
import gnomon
from gnomon.config import Settings

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

seen, size = [0], 0

def watch():
    while True:
        seen.append(resident())
        ended.wait(0.01)

ended = threading.Event()
with gnomon.open(sys.argv[1], settings=Settings(memory_limit="64MB", query_timeout_seconds=600)) as engine:
    threading.Thread(target=watch, daemon=True).start()
    stream = engine.stream_export("all", sys.argv[2], read_ahead=1)
    for data in stream:
        size += len(data)
        largest = max(len(data), globals().get("largest", 0))
print(json.dumps([stream.rows, size, largest, max(seen)]))
"""
_FILL = """
INSERT INTO events BY NAME SELECT 'default' AS project, uuid() AS id,
  make_timestamp(1700000000000000 + i * 7919) AS ts,
  make_timestamp(1700000000000000 + i * 7919) AS received_at, 2 AS version, 'request' AS type,
  'u' || (i % 5000) AS user_id,
  'source-' || (i % 20) AS source, '/items/' || (i % 300) AS endpoint, 200 AS status_code,
  random() * 100 AS duration_ms,
  i AS bytes_received, true AS success, 1.0 AS weight, '{{"page":"/x","n":' || i || ',"text":"{text}"}}' AS properties
FROM range({first}, {last}) AS rows(i)
"""


def filled(path, rows, text):
    gnomon.open(path, settings=Settings()).close()
    with duckdb.connect(config={"memory_limit": "512MB", "temp_directory": str(path) + ".tmp"}) as con:
        con.execute(f"ATTACH '{path}' AS store (RECOVERY_MODE no_wal_writes)")
        con.execute("USE store")
        con.execute("DELETE FROM state WHERE key = 'version'")
        con.execute("INSERT INTO state VALUES ('version', '2')")
        for first in range(0, rows, 1_000_000):
            con.execute(_FILL.format(first=first, last=min(rows, first + 1_000_000), text=text))
            con.execute("CHECKPOINT store")
    return path


def measured(path, format):
    ran = subprocess.run([sys.executable, "-c", CODE, str(path), format], capture_output=True, text=True, check=True)
    return json.loads(ran.stdout)


@pytest.mark.parametrize("format", ["csv", "xlsx", "parquet"])
def test_a_hundred_thousand_rows(tmp_path, format):
    path = filled(tmp_path / "s.duckdb", 100_000, "y" * 400)
    rows, size, largest, most = measured(path, format)
    assert rows == 100_000
    assert largest < 32 * 1024**2
    assert most < 300 * 1024**2, f"{most / 2**20:.0f} MiB for {size / 2**20:.0f} MiB of {format}"


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    yield filled(tmp_path_factory.mktemp("large") / "s.duckdb", 10_000_000, "y")


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("format", list(FORMATS))
def test_ten_million_rows(large, format):
    rows, _, _, most = measured(large, format)
    assert rows == 10_000_000
    assert most < 300 * 1024**2, f"{most / 2**20:.0f} MiB"
