"""A file that is imported by columns becomes the same rows, ids, refusals and report as when each row is looked at."""

from __future__ import annotations

import hashlib
from collections import Counter
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import repeat

import duckdb
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from sheets import FORMS, pa, sheets

import gnomon
from gnomon.config import Settings
from gnomon.errors import GnomonError
from gnomon.ingest import accesslog, delimited, importers, lines, load, ndjson, tables, wholesale
from gnomon.ingest import gate as gate_module
from gnomon.ingest.gate import Gate
from gnomon.ingest.load import Loader
from gnomon.testing import ManualClock
from gnomon.timerange import to_us

NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)
ZONES = [None, "UTC", "Europe/Berlin", "Australia/Lord_Howe", "Africa/Monrovia"]
ONE_KEY = Settings(pseudonym_keys=(hashlib.sha256(b"of this test").hexdigest(),), pseudonym_properties=("plan",))
SETTINGS = [Settings(), Settings(), Settings(max_string_bytes=40), ONE_KEY]
mappings = st.sampled_from([{}, {}, {}, {"source": "=web"}, {"type": "=t", "properties.k": "=1"}, {"n": "properties.m"},
                            {"plan": ""}, {"ts": "=2025-01-01T00:00:00Z"}, {"properties.plan": "=x"}])  # fmt: skip
with_files = partial(settings, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


class Noted:
    """A journal that only remembers."""

    def __init__(self):
        self.batches = []

    def append(self, batches):
        self.batches += batches
        return [len(self.batches)]


def unusual(*_):
    raise ValueError


@contextmanager
def row_by_row():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "with_ids", unusual)
        patch.setattr(ndjson, "with_ids", unusual)
        patch.setattr(accesslog, "with_ids", unusual)
        patch.setattr(delimited, "_plain_rows", lambda *_: None)
        yield


def came_of(path, config, *, mapping=None, timezone="UTC", **how):
    """All that an import leaves: rows with their types, refusals, counts, the report and what was told on the way."""
    journal, told = Noted(), []
    gate = Gate(config, lambda: to_us(NOW))
    try:
        loader = Loader("p", gate, journal, gate._clock_us, None)
        report = loader.load(path, on_progress=told.append, mapping=mapping, timezone=timezone, **how)
    except GnomonError as error:
        return error.code
    report.seconds = 0
    left = [(repr([*one.rows]), one.refused, one.counts, one.checked_ids, one.beats) for one in journal.batches]
    return left, report, told


def agree(path, config=SETTINGS[0], *, chunk=7, **how):
    """How many chunks the gate has taken as columns, and how many it has not; it comes to the same row by row."""
    proven, honest = Counter(), Gate.admit_columns

    def noted(*given, **named):
        found = honest(*given, **named)
        proven[found is not None] += 1
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "read_file", partial(importers.read_file, chunk=chunk))
        patch.setattr(gate_module, "AT_ONCE", 4)
        patch.setattr(Gate, "admit_columns", noted)
        by_columns = came_of(path, config, **how)
        with row_by_row():
            assert came_of(path, config, **how) == by_columns
    return proven


@with_files(max_examples=400)
@given(sheets(), st.sampled_from([*FORMS]), mappings, st.sampled_from(ZONES), st.sampled_from(SETTINGS))
def test_both_ways_come_to_the_same(tmp_path, sheet, form, mapping, zone, config):
    path = tmp_path / f"x.{form}"
    FORMS[form](path, sheet)
    mapping = {name: to for name, to in mapping.items() if to.startswith("=") or name in sheet}
    proven = agree(path, config, format=form, mapping=mapping, timezone=zone)
    event(f"{form}: {'by columns' if proven[True] else 'row by row'}")


def mostly(*usual, odd):
    return st.sampled_from([*usual * 9, *odd])


TARGETS = ["/a", "/a?q=1#f", "*", "https://u:p@x.example:8080/p?q", "x.example:443", "/a b"]
plain = st.builds("{} {} HTTP/1.1".format, st.sampled_from(["GET", "CONNECT"]), st.sampled_from(TARGETS))
requests = st.one_of(plain, plain, st.sampled_from([r"\x16\x03", "-", r"GET /\"q\" HTTP/1.1", "GET /a?b"]))
log_lines = st.builds(
    '{} - {} [{}/Mar/2025:10:00:{} {}] "{}" {} {}{}{}'.format, st.sampled_from(["10.0.0.1", "::1", "-"]),
    mostly("u1", "-", "é", r"a\"b", odd=["x" * 201]), mostly("15", "16", odd=["32"]), mostly("00", "60", odd=["61"]),
    st.sampled_from(["+0000", "-0530"]), requests, mostly("200", "404", "-", odd=["999"]),
    mostly("0", "-", "512", odd=["9" * 19]),
    st.sampled_from(["", ' "-" "-"', ' "//u:p@x.example/?q" "Mo\\"z"', ' "" "cut']),
    st.sampled_from(["", ' "extra" 1', "\r"]))  # fmt: skip
no_log_lines = st.sampled_from(["\x1c", "no", "\xa0"])
any_lines = mostly(True, odd=[False]).flatmap(lambda good: log_lines if good else no_log_lines)
constants = st.sampled_from([{}, {"source": "=web", "type": "=hit"}, {"properties.protocol": "=x", "weight": "=2"}])


@with_files(max_examples=300)
@given(st.lists(any_lines, min_size=1, max_size=25), constants, st.sampled_from(SETTINGS))
def test_logs_come_to_the_same(tmp_path, found, mapping, config):
    (tmp_path / "x").write_text("\n".join(found), encoding="utf-8", newline="")
    proven = agree(tmp_path / "x", config, format="combined", mapping=mapping)
    event("by columns" if proven[True] else "row by row")


TURNED = [datetime(2025, 3, 30) + timedelta(minutes=10 * at) for at in range(36)]  # clocks are turned at 2


def usual(turned=TURNED, **more):
    """A table of which nothing is unusual; its rows are there twice."""
    plan = [f'{{"plan": "{at % 3}", "n": {at % 2}}}' for at in range(len(turned))]
    sheet = {"ts": (pa.timestamp("us"), turned * 2), "user_id": (pa.string(), ["u1", "u2"] * len(turned)),
             "zeta": (pa.float64(), [1.5, None] * len(turned)), "payload": (pa.string(), plan * 2)}  # fmt: skip
    return {**sheet, **{name: (kind, found * (2 * len(turned))) for name, (kind, found) in more.items()}}


@pytest.mark.parametrize("form", FORMS)
def test_what_is_usual_goes_by_columns(tmp_path, form):
    FORMS[form](tmp_path / "x", usual())
    assert agree(tmp_path / "x", format=form, timezone="Europe/Berlin") == {True: 11}


def test_one_bad_value_takes_its_chunk_row_by_row_and_no_other(tmp_path):
    sheet = usual(status=(pa.int64(), [200]))
    sheet["status"][1][20] = 7
    FORMS["parquet"](tmp_path / "x", sheet)
    assert agree(tmp_path / "x", format="parquet", timezone="UTC") == {True: 10, False: 1}


def _no_own_ids(self):
    return self._items(repeat(None))


@pytest.mark.parametrize(("place", "name", "broken"), [
    (wholesale, "_ahead", lambda hour, zone: 3_600_000_000),
    (wholesale, "_flat_objects", lambda texts: [{"plan": "x"} for _ in texts]),
    (tables, "row_contents", lambda names, columns: [repr(row).encode() for row in zip(*columns, strict=True)]),
    (tables.Table, "__iter__", _no_own_ids),
], ids=["a change of clocks", "an object", "the order of names", "a count of what came before"])  # fmt: skip
def test_a_broken_conversion_would_be_found(tmp_path, monkeypatch, place, name, broken):
    FORMS["parquet"](tmp_path / "x", usual(status=(pa.int64(), [200])) | {"weight": (pa.int64(), [1] * 71 + [0])})
    how = {"format": "parquet", "timezone": "Europe/Berlin"}
    agree(tmp_path / "x", **how)
    monkeypatch.setattr(place, name, broken)
    with pytest.raises(AssertionError):
        agree(tmp_path / "x", **how)


def test_a_key_that_stands_twice_is_found_among_many_lines(tmp_path, monkeypatch):
    (tmp_path / "x").write_text('{"type":"a","ts":"2025-01-01T00:00:00Z","n":1,"n":2}\n')
    agree(tmp_path / "x", format="ndjson")
    monkeypatch.setattr(ndjson, "_keys_in", lambda text: 3)
    with pytest.raises(AssertionError):
        agree(tmp_path / "x", format="ndjson")


TORN = ['{"type":"a","ts":"2025-01-01T00:00:00Z","n":', '1}{"type":"b","ts":"2025-01-01T00:00:00Z","n":2}']


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "torn", [TORN, [f"{TORN[0]}{{}}", f"{TORN[1]}"], [f"{TORN[0]}[{{}}", "{}]}{}", "{}"], ["{}{}", " "]]
)
def test_an_object_over_two_lines_is_none(tmp_path, torn, end):
    (tmp_path / "x").write_text(end.join(torn), newline="")
    agree(tmp_path / "x", format="ndjson")
    FORMS["parquet"](tmp_path / "y", usual([TURNED[0]]) | {"payload": (pa.string(), torn[:2])})
    agree(tmp_path / "y", format="parquet")


def test_a_decoder_that_does_not_look_at_line_ends_would_be_found(tmp_path, monkeypatch):
    (tmp_path / "x").write_text("\n".join(TORN))
    monkeypatch.setattr(ndjson, "line_objects", lambda text, _: wholesale._decode_lines(text))
    with pytest.raises(AssertionError):
        agree(tmp_path / "x", format="ndjson")


# -- in a store --------------------------------------------------------------------------------------------------------


def stored(path):
    with duckdb.connect(str(path), read_only=True) as con:
        return sorted(map(repr, con.execute("SELECT * FROM events").fetchall()))


def imported(store, path, **how):
    with gnomon.open(store, clock=ManualClock(NOW)) as engine:
        report = engine.import_file(path, **how)
        left = engine.quarantine()
        return report.lines, report.stored, report.duplicate, report.rejected, report.first_rejected, left


@with_files(max_examples=6)
@given(sheets(), st.sampled_from([*FORMS]))
def test_stores_hold_the_same_and_a_file_imported_again_adds_nothing(tmp_path_factory, sheet, form):
    place = tmp_path_factory.mktemp("stores")
    FORMS[form](place / "x", sheet)
    how = {"format": form, "timezone": "Europe/Berlin"}
    by_columns = imported(place / "columns.duckdb", place / "x", **how)
    with row_by_row():
        assert imported(place / "rows.duckdb", place / "x", **how) == by_columns
        assert stored(place / "rows.duckdb") == stored(place / "columns.duckdb")
        again = imported(place / "columns.duckdb", place / "x", **how)
    assert again[1:3] == (0, by_columns[1] + by_columns[2])


# -- rows of CSV, a block at a time ------------------------------------------------------------------------------------

cells = st.sampled_from(["ab", "ab", "ab", "1", '"q"', '"x\ny"', '"u""v"', '"', "\u00e9", "", "a\rb"])
blocks = st.lists(st.lists(cells, min_size=1, max_size=2).map(",".join), max_size=20).map("\n".join)


@with_files(max_examples=300)
@given(blocks, st.sampled_from([7, 20, 200]), st.booleans())
def test_blocks_of_rows_are_the_same_rows(tmp_path, text, size, windows):
    (tmp_path / "x").write_text(text, newline="\r\n" if windows else "\n")

    def rows():
        with closing(lines.Source(tmp_path / "x")) as source:
            return [(row, source.unpacked) for row in delimited.csv_rows(source)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "_BLOCK", size)
        at_once = rows()
        with row_by_row():
            assert rows() == at_once
