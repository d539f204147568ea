"""The apostrophe of CSV cells can be taken away exactly, and Python's cells are those of the store, for any text."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime

import duckdb
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gnomon.export import cells
from gnomon.store import lines

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=40) | st.text(
    "=+-@\t\r＝'\"\n, _x0041<&a😀\x01\ufffe", max_size=12
)


@pytest.fixture(scope="module")
def con():
    with duckdb.connect() as opened:
        yield opened


@given(TEXTS)
@example("'")
@example("")
def test_the_apostrophe_is_exactly_reversible_and_no_cell_begins_like_a_formula(text):
    cell = cells.guarded(text)
    assert cells.unguarded(cell) == text
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "＝"))
    assert cell in (text, "'" + text)


@given(TEXTS, TEXTS)
def test_different_texts_make_different_cells(one, other):
    assert (cells.guarded(one) == cells.guarded(other)) == (one == other)


@given(TEXTS)
def test_a_line_of_csv_reads_back(text):
    line = ",".join([cells.csv_cell(text), cells.csv_cell(None), cells.csv_cell(text)])
    ((one, none, other),) = list(csv.reader(io.StringIO(line, newline="")))
    assert (cells.unguarded(one), none, cells.unguarded(other)) == (text, "", text)


@given(TEXTS, st.integers(-(2**63), 2**63 - 1), st.booleans() | st.none())
@example("_x0041__x0041_", 10**15, True)
@example("\ufffe\r\n\t\x01 ", -(10**15) + 1, None)
def test_the_store_writes_the_cells_that_python_writes(con, text, number, flag):
    words = [("a", "text", "a"), ("n", "integer", "n"), ("b", "boolean", "b")]
    for form, wanted in (
        ("csv", ",".join(map(cells.csv_cell, (text, number, flag)))),
        ("xlsx", "<row>" + "".join(cells.sheet_cell(value, 3) for value in (text, number, flag)) + "</row>"),
    ):
        sql = f"SELECT {lines.row_text(form, words, 3)} FROM (SELECT ?::VARCHAR AS a, ?::BIGINT AS n, ?::BOOLEAN AS b)"
        assert con.execute(sql, [text, number, flag]).fetchall() == [(wanted,)]
    told = con.execute(f"SELECT {lines.row_text('json', words)} FROM (SELECT ?::VARCHAR AS a, ?::BIGINT AS n, "
                       "?::BOOLEAN AS b)", [text, number, flag]).fetchall()[0][0]  # fmt: skip
    assert json.loads(told) == {"a": text, "n": number, "b": flag}


@given(TEXTS.filter(bool) | st.uuids())
@example("=1")
def test_ids_are_written_as_texts_and_as_uuids(con, found):
    kept = (
        "NULL::VARCHAR AS id_text, ?::UUID AS id"
        if not isinstance(found, str)
        else "?::VARCHAR AS id_text, uuid() AS id"
    )
    words, text = [("id", "text", lines.ID_TEXT)], str(found)
    for form, wanted in (
        ("csv", cells.csv_cell(text)), ("xlsx", "<row>" + cells.sheet_cell(text, 3) + "</row>"),
    ):  # fmt: skip
        sql = f"SELECT {lines.row_text(form, words, 3, '|')} FROM (SELECT {kept})"
        assert con.execute(sql, [text]).fetchall() == [(wanted + "|",)]
    told = con.execute(f"SELECT {lines.row_text('json', words)} FROM (SELECT {kept})", [text]).fetchall()[0][0]
    assert json.loads(told) == {"id": text}


@given(st.floats(allow_nan=False, allow_infinity=False), st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1)))
def test_numbers_and_times_are_exact(con, number, moment):
    words = [("x", "real", "x"), ("t", "time", "t")]
    row = con.execute(f"SELECT {lines.row_text('csv', words)} FROM (SELECT ?::DOUBLE AS x, ?::TIMESTAMP AS t)",
                      [number, moment]).fetchall()[0][0]  # fmt: skip
    real, time = row.split(",")
    assert float(real) == number
    assert datetime.fromisoformat(time) == moment.replace(tzinfo=UTC)
