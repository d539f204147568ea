"""Rows come out of DuckDB as they were staged: every field missing, present and at its limits, in any mixture."""

from datetime import UTC, datetime, timedelta

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnomon.event import FIELDS, INT64_MAX
from gnomon.store.duckdb import staging
from gnomon.store.duckdb.staging import CHUNK, Staging, selected

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=50)
LIMITS = {
    "text": st.sampled_from(["x", "-1", "x" * 200, "ü" * 100, "\U0001f600" * 50]) | TEXTS,
    "json": st.sampled_from(['{"a":1}', '{"a":"' + "ü" * 4_000 + '"}']),
    "integer": st.sampled_from([0, 1, 100, 599, INT64_MAX]),
    "real": st.sampled_from([0.0, -0.0, 5e-324, 1.0, 1.7976931348623157e308, 3, INT64_MAX]),
    "boolean": st.booleans(),
    "time": st.sampled_from([0, 1, 2**53, 253_402_300_799_999_999]),
}
ROWS = st.lists(
    st.tuples(*(LIMITS[f.kind] if f.required else st.none() | LIMITS[f.kind] for f in FIELDS)), min_size=1, max_size=20
)


def read_back(rows):
    connection = duckdb.connect()
    stage = Staging()
    connection.register("staging", stage)
    stage.put(rows)
    columns = {f.name: selected(f) if f in stage.present else "NULL" for f in FIELDS}
    return connection.execute(f"SELECT {', '.join(columns.values())} FROM staging").fetchall()


def as_stored(row):
    found = []
    for field, value in zip(FIELDS, row, strict=True):
        if field.kind == "time":
            value = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=value)).replace(tzinfo=None)
        elif field.kind == "real" and value is not None:
            value = float(value)
        found.append(value)
    return tuple(found)


@settings(max_examples=60)
@given(ROWS)
def test_rows_come_back_as_they_were(rows):
    assert read_back(rows) == list(map(as_stored, rows))


@pytest.mark.parametrize("n", [CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 7])
def test_more_rows_than_one_chunk_keep_their_order(n):
    empty = (None,) * (len(FIELDS) - 4)
    rows = [(f"{i:036}" if i % 2 else f"é{i}", i, i, "t", *empty[:14], 1.0, None) for i in range(n)]
    assert [len(row) for row in rows] == [len(FIELDS)] * n
    assert read_back(rows) == list(map(as_stored, rows))


def test_a_staging_that_takes_zero_for_missing_is_found(monkeypatch):
    field = next(f for f in FIELDS if f.name == "bytes_sent")
    monkeypatch.setattr(staging, "_numbers", lambda kind, values: [
        staging.struct.pack(f"{len(values)}{staging._CODES[kind]}", *[value or 0 for value in values])])  # fmt: skip
    row = [None if not f.required else {"text": "t", "time": 1, "real": 1.0}[f.kind] for f in FIELDS]
    there = [7 if f is field else value for f, value in zip(FIELDS, row, strict=True)]
    assert read_back([tuple(there), tuple(row)]) != [as_stored(there), as_stored(row)]


def test_a_question_of_no_rows_finds_none():
    connection = duckdb.connect()
    connection.register("staging", Staging())
    assert connection.execute("SELECT count(*) FROM staging").fetchall() == [(0,)]
