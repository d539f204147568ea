from __future__ import annotations

import gzip
import io

import pytest

from importing import items


@pytest.fixture
def load(tmp_path):
    """Writes bytes to a file and reads it."""

    def load(data, name="file.csv", **options):
        path = tmp_path / name
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return items(path, **options)

    return load


@pytest.fixture
def parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")

    def write(columns, name="a.parquet"):
        table = columns if isinstance(columns, pa.Table) else pa.table(columns)
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        data = buffer.getvalue()
        (tmp_path / name).write_bytes(gzip.compress(data, mtime=0) if name.endswith(".gz") else data)
        return tmp_path / name

    return write
