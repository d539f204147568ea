"""What a backup looks into beside the store has a memory limit of its own, as the store has its own in use."""

from __future__ import annotations

import json
import subprocess
import sys

import duckdb
import pytest
from test_export_memory import filled

import gnomon
from gnomon.config import Settings
from gnomon.store import duckdb as stores
from gnomon.store import examine_copy
from gnomon.store import memory as limits
from gnomon.store.duckdb import copying

CODE = """
import json, os, sys, threading
from pathlib import Path
from gnomon.config import Settings
from gnomon.store import examine_copy, memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def watch():
    while not ended.wait(0.01):
        seen.append(resident())

seen, ended, memory.ASIDE = [0], threading.Event(), sys.argv[2]
threading.Thread(target=watch, daemon=True).start()
found = examine_copy(Path(sys.argv[1]), Settings())
print(json.dumps([found.tables["events"][0], max(seen)]))
"""


@pytest.mark.parametrize(
    ("limit", "wanted"),
    [
        ("1GB", "256MB"),
        ("300MiB", "256MB"),
        ("80%", "256MB"),
        ("256MB", "256MB"),
        ("200MiB", "200MiB"),
        ("64MB", "64MB"),
    ],
)
def test_the_limit_beside_the_store_is_the_smaller_one(limit, wanted):
    assert limits.aside(Settings(memory_limit=limit)).memory_limit == wanted


def limits_of(monkeypatch):
    """The limits of every DuckDB that is opened from now on, by the name of the file, as it says them itself."""
    seen = []
    honest, honest_store = duckdb.connect, stores.connect

    def told(connection, path):
        (limit,) = connection.execute("SELECT current_setting('memory_limit')").fetchall()[0]
        seen.append((str(path).rpartition("/")[2], limit))
        return connection

    monkeypatch.setattr(copying.duckdb, "connect", lambda *args, **more: told(honest(*args, **more), args[0]))
    monkeypatch.setattr(stores, "connect", lambda path, settings: told(honest_store(path, settings), path))
    return seen


def test_the_check_of_a_file_and_the_file_of_rows_have_it(tmp_path, postgres, monkeypatch):
    with gnomon.open(tmp_path / "s.duckdb") as engine:
        engine.track("a")
        seen = limits_of(monkeypatch)
        assert engine.trigger_backup(tmp_path).verified
    assert seen == [("store.duckdb", "244.1 MiB")]
    with gnomon.open(postgres.url(), data_dir=str(tmp_path / "data"), heartbeat_seconds=0) as engine:
        engine.track("a")
        assert engine.trigger_backup(tmp_path / "rows").verified
    seen = [(name, limit) for name, limit in seen if name == "store.duckdb"]
    assert len(seen) >= 4 and {limit for _, limit in seen} == {"244.1 MiB"}


def test_a_limit_as_large_as_the_stores_would_be_found(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "ASIDE", "1GB")
    with gnomon.open(tmp_path / "s.duckdb") as engine:
        seen = limits_of(monkeypatch)
        engine.trigger_backup(tmp_path)
    assert seen == [("store.duckdb", "953.6 MiB")]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_million_rows_take_no_more(tmp_path):
    file = filled(tmp_path / "s.duckdb", 10_000_000, "y")
    peaks = []
    for limit in (limits.ASIDE, "1GB"):  # the second is the broken variant
        ran = subprocess.run([sys.executable, "-c", CODE, file, limit], capture_output=True, text=True, check=True)
        rows, most = json.loads(ran.stdout.splitlines()[-1])  # behind a progress bar
        assert rows == 10_000_000
        peaks.append(most / 1024**2)
    assert peaks[0] < 400 < peaks[1], f"{peaks} MiB"


@pytest.mark.slow
def test_rows_as_large_as_may_be_are_examined(tmp_path):
    """30 kB each, 10,000 of them in a row group."""
    file = filled(tmp_path / "s.duckdb", 10_000, "y")
    with duckdb.connect(file) as con:
        con.execute(
            'UPDATE events SET properties = \'{"t":"\' || array_to_string(list_transform(range(900), '
            "lambda k: md5((bytes_received * 1000 + k)::TEXT)), '') || '\"}'"
        )
    assert examine_copy(file, Settings(threads=8)).tables["events"][0] == 10_000
