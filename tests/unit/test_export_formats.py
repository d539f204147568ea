"""Every format read back by another program: nothing lost, nothing changed, nothing run as a formula."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import zipfile
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import openpyxl
import polars
import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest
import python_calamine

import gnomon
from gnomon.errors import GnomonError, InvalidValue, MissingExtra, UnknownName
from gnomon.event import FIELDS, ROW
from gnomon.export import FORMATS, cells, reading, sheets, slices
from gnomon.query import extract
from gnomon.store import dialect
from gnomon.store.duckdb import DuckDBStore
from gnomon.testing import ManualClock

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
HOSTILE = [
    "=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "＝1", "'quoted", "''", "'", "=", " =1", "a=b", "plain", 'a"b',
    '"', '""',
    "a,b;c|d", "one\ntwo", "one\r\ntwo", "a\tb", "\n", "<b>&amp;</b>", "]]>", "_x0041_", "_x005F_",
    "\x01\x1f", "\ufffe\uffff",
    "😀 👨‍👩‍👧", "מימין لليسار", "e\u0301", "\u202egnp.exe", "\ufeffbom", "null", "NULL",
    "true", "1e5", "007", "2026-01-01",
    "=HYPERLINK(\"http://x\",\"y\")", "x" * 200, " ", "\u00a0", "\\", "\\n", "{}", "[]", "$(x)", "%s", "_x", "_X0041_",
]  # fmt: skip


@pytest.fixture(scope="module")
def engine():
    with gnomon.open(":memory:", clock=ManualClock(NOW), sampling=False, project="shop") as opened:
        for place, text in enumerate(HOSTILE):
            opened.track(
                "request", id=f"{place:03}", ts=NOW - timedelta(hours=1, microseconds=-place), user_id=text,
                source=text if place % 3 else None, endpoint=text, status_code=200 if place % 2 else None,
                duration_ms=place / 7, bytes_sent=2**63 - 1 - place, bytes_received=place, success=bool(place % 2),
                properties={"text": text, "n": 2**60 + place, "deep": {"list": [1, None, 0.1, text]}}
                if place else None,
            )  # fmt: skip
        opened.track("=type", id="=id", ts=NOW - timedelta(days=1), weight=2.5)
        opened.flush()
        assert opened.books().stored == len(HOSTILE) + 1, opened.quarantine()
        yield opened


@pytest.fixture(params=["arrow", "texts", "python"])
def way(request, monkeypatch):
    """Rows as texts or columns in Arrow, as texts of the store alone, and as values: all have to make the same file."""
    if request.param == "python":
        monkeypatch.setattr(DuckDBStore, "dialect", dataclasses.replace(dialect.DUCKDB, row_text=None))
    if request.param != "arrow":
        monkeypatch.setattr(slices, "Columnar", type("None", (), {}))
    return request.param


def expected(engine) -> list[dict]:
    """The events as the store has them, asked in plain SQL."""
    names = ", ".join("coalesce(id_text, id::VARCHAR)" if name == "id" else name for name in ROW)
    rows = engine._own_or_refuse().ask([f"SELECT {names} FROM events ORDER BY ts, 1"], 60.0)[0].rows
    return [dict(zip(ROW, row, strict=True)) for row in rows]


def exported(engine, format, **order) -> bytes:
    return b"".join(engine.stream_export("all", format, **order))


def iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def typed(cell: str, field) -> object:
    if cell == "":
        return None
    if field.kind in ("text", "json"):
        return cells.unguarded(cell)
    if field.kind == "time":
        return datetime.strptime(cell, "%Y-%m-%dT%H:%M:%S.%fZ" if "." in cell else "%Y-%m-%dT%H:%M:%SZ")
    return {"integer": int, "real": float, "boolean": {"true": True, "false": False}.get}[field.kind](cell)


def same_rows(found: list[dict], wanted: list[dict]) -> None:
    assert len(found) == len(wanted)
    for row, other in zip(found, wanted, strict=True):
        given, kept = row.pop("properties"), other["properties"]
        assert (given and json.loads(given)) == (kept and json.loads(kept))
        assert row == {name: value for name, value in other.items() if name != "properties"}


def test_a_store_without_words_for_rows_makes_the_same_file(engine, monkeypatch):
    told = {format: exported(engine, format) for format in ("csv", "ndjson")}
    monkeypatch.setattr(DuckDBStore, "dialect", dataclasses.replace(dialect.DUCKDB, row_text=None))
    assert exported(engine, "csv") == told["csv"] and b":00:00.000000Z" in told["csv"]
    found = exported(engine, "ndjson")  # escapes of control characters differ in the case of their digits
    assert list(map(json.loads, found.splitlines())) == list(map(json.loads, told["ndjson"].splitlines()))


def test_csv_reads_back_equal_and_no_cell_is_a_formula(engine, way):
    rows = list(csv.reader(io.StringIO(exported(engine, "csv").decode(), newline="")))
    assert rows[0] == list(ROW)
    for row in rows[1:]:
        for cell, field in zip(row, FIELDS, strict=True):
            if field.kind in ("text", "json"):
                assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "＝"))
    same_rows([{f.name: typed(c, f) for c, f in zip(row, FIELDS, strict=True)} for row in rows[1:]], expected(engine))


def test_csv_by_polars(engine):
    found = polars.read_csv(io.BytesIO(exported(engine, "csv", fields=["id", "user_id", "bytes_sent", "duration_ms"])),
                            schema_overrides={"id": polars.String, "user_id": polars.String})  # fmt: skip
    wanted = expected(engine)
    assert [cells.unguarded(text) if text is not None else None for text in found["user_id"]] == [
        row["user_id"] for row in wanted
    ]
    assert found["bytes_sent"].to_list() == [row["bytes_sent"] for row in wanted]
    assert found["duration_ms"].to_list() == [row["duration_ms"] for row in wanted]


@pytest.mark.parametrize("format", ["json", "ndjson"])
def test_json_reads_back_equal(engine, way, format):
    text = exported(engine, format).decode()
    found = json.loads(text) if format == "json" else [json.loads(line) for line in text.split("\n")[:-1]]
    wanted = [
        {**row, "ts": iso(row["ts"]), "received_at": iso(row["received_at"]),
         "properties": row["properties"] and json.loads(row["properties"])}
        for row in expected(engine)
    ]  # fmt: skip
    for row in found:
        for name in ("ts", "received_at"):  # fixed digits from the store, as few as needed from Python
            row[name] = iso(datetime.fromisoformat(row[name]))
    assert found == wanted


@pytest.mark.parametrize("format", ["parquet", "arrow"])
def test_columns_read_back_equal_and_typed(engine, way, format):
    data = exported(engine, format)
    parquet = format == "parquet"
    table = pyarrow.parquet.read_table(io.BytesIO(data)) if parquet else pyarrow.ipc.open_stream(data).read_all()
    types = {"text": "string", "json": "string", "integer": "int64", "real": "double", "boolean": "bool",
             "time": "timestamp[us, tz=UTC]"}  # fmt: skip
    assert [(field.name, str(field.type)) for field in table.schema] == [(f.name, types[f.kind]) for f in FIELDS]
    rows = table.to_pylist()
    for row in rows:
        row["ts"], row["received_at"] = (row[name].replace(tzinfo=None) for name in ("ts", "received_at"))
    same_rows(rows, expected(engine))
    read = polars.read_parquet(io.BytesIO(data)) if format == "parquet" else polars.read_ipc_stream(io.BytesIO(data))
    assert read["user_id"].to_list() == [row["user_id"] for row in expected(engine)]


def decoded(text: str) -> str:
    """`_x0041_` as Excel reads it; openpyxl leaves it as it stands."""
    return openpyxl.utils.escape.unescape(text)


def test_xlsx_is_typed_labelled_frozen_and_without_formulas(engine, way):
    data = exported(engine, "xlsx")
    book = openpyxl.load_workbook(io.BytesIO(data))
    sheet = book.active
    assert (book.sheetnames, sheet.freeze_panes) == (["Export"], "A2")
    assert [cell.value for cell in sheet[1]] == [reading.LABELS[name] for name in ROW]
    assert all(cell.font.bold for cell in sheet[1])
    wanted = expected(engine)
    assert sheet.max_row == len(wanted) + 1
    for cell_row, row in zip(sheet.iter_rows(min_row=2), wanted, strict=True):
        for cell, field in zip(cell_row, FIELDS, strict=True):
            value = row[field.name]
            assert cell.data_type != "f"
            if value is None:
                assert cell.value is None
            elif field.kind == "text":
                assert decoded(cell.value) == value
            elif field.kind == "json":
                assert json.loads(decoded(cell.value)) == json.loads(value)
            elif field.kind == "time":
                assert cell.is_date
                assert cell.number_format == "yyyy-mm-dd hh:mm:ss.000"
                assert abs(cell.value - value) <= timedelta(milliseconds=1)
            elif field.kind == "integer" and value >= 10**15:
                assert cell.value == str(value)  # a number of Excel has 15 digits
            else:
                assert cell.value == value


def test_xlsx_by_calamine_which_knows_the_escapes_of_excel(engine):
    rows = python_calamine.CalamineWorkbook.from_filelike(io.BytesIO(exported(engine, "xlsx"))).get_sheet_by_index(0)
    place = ROW.index("user_id")
    found = [row[place].replace("_xFFFE__xFFFF_", "\ufffe\uffff") or None for row in rows.to_python()[1:]]
    assert found == [row["user_id"] for row in expected(engine)]


def test_xlsx_begins_a_new_sheet_before_one_is_full(engine, way, monkeypatch):
    monkeypatch.setattr(sheets, "SHEET_ROWS", 20)
    monkeypatch.setattr(reading, "MOST_ROWS", 7)
    book = openpyxl.load_workbook(io.BytesIO(exported(engine, "xlsx", fields=["id", "user_id"])), read_only=True)
    assert book.sheetnames == ["Export", "Export 2", "Export 3"]
    found = []
    for sheet in book:
        rows = list(sheet.iter_rows(values_only=True))
        assert rows[0] == ("Event ID", "User")
        assert 1 < len(rows) <= 21
        found += [row[0] for row in rows[1:]]
    assert found == [row["id"] for row in expected(engine)]


def test_xlsx_begins_a_new_sheet_before_its_xml_is_too_large(engine, monkeypatch):
    monkeypatch.setattr(sheets, "SHEET_BYTES", 10_000)
    data = exported(engine, "xlsx")
    sizes = [i.file_size for i in zipfile.ZipFile(io.BytesIO(data)).infolist() if "worksheets" in i.filename]
    assert len(sizes) > 2
    assert max(sizes) < 15_000
    book = openpyxl.load_workbook(io.BytesIO(data), read_only=True)
    assert sum(len(list(sheet.iter_rows())) - 1 for sheet in book) == len(HOSTILE) + 1


def test_xlsx_never_cuts_a_text(engine):
    with gnomon.open(":memory:", max_event_bytes=200_000, max_string_bytes=100_000) as other:
        other.track("t", properties={"x": "y" * 32_700})
        other.flush()
        exported(other, "xlsx")
        other.track("t", properties={"x": "y" * 32_800})
        other.flush()
        with pytest.raises(InvalidValue) as raised:
            exported(other, "xlsx")
        assert raised.value.code == "cell-too-long"
        assert b"y" * 32_800 in exported(other, "csv")


@pytest.mark.parametrize("format", FORMATS)
def test_slices_make_the_same_file_as_one_piece(engine, format, monkeypatch):
    def rows(data: bytes) -> object:
        if format == "xlsx":
            book = openpyxl.load_workbook(io.BytesIO(data), read_only=True)
            return [list(sheet.iter_rows(values_only=True)) for sheet in book]
        if format == "parquet":
            return pyarrow.parquet.read_table(io.BytesIO(data)).to_pylist()
        return pyarrow.ipc.open_stream(data).read_all().to_pylist() if format == "arrow" else data

    whole = exported(engine, format)
    for most in (1, 9) if format == "csv" else (9,):
        monkeypatch.setattr(reading, "MOST_ROWS", most)
        assert rows(exported(engine, format)) == rows(whole)
        assert rows(exported(engine, format, read_ahead=2)) == rows(whole)
    monkeypatch.setattr(extract, "MOST_BYTES", 20_000)
    assert rows(exported(engine, format)) == rows(whole)


@pytest.mark.parametrize("format", FORMATS)
def test_no_events_make_a_file_all_the_same(format):
    with gnomon.open(":memory:") as empty:
        data = exported(empty, format, fields=["id", "ts"])
        query = exported(empty, format, query={"metrics": ["events"], "dimensions": ["source"]})
    if format == "xlsx":
        assert list(openpyxl.load_workbook(io.BytesIO(data)).active.values) == [("Event ID", "Time (UTC)")]
    elif format == "parquet":
        assert pyarrow.parquet.read_table(io.BytesIO(data)).num_rows == 0
    elif format == "arrow":
        assert pyarrow.ipc.open_stream(query).read_all().column_names == ["source", "events"]
    else:
        assert data.decode() == {"csv": '"id","ts"\n', "json": "[\n\n]\n", "ndjson": ""}[format]
    assert (data and query) or format == "ndjson"


@pytest.mark.parametrize("most", [1, 2, 3, 1_000])
def test_many_events_of_one_microsecond_come_once_and_in_order(most, monkeypatch):
    monkeypatch.setattr(reading, "MOST_ROWS", most)
    with gnomon.open(":memory:", clock=ManualClock(NOW), sampling=False) as engine:
        for place in range(11):
            engine.track("t", id=f"{place * 7 % 11:02}", ts=NOW - timedelta(hours=1))
        engine.track("t", id="a", ts=NOW)
        engine.track("t", id="b", ts=NOW - timedelta(days=3_000))
        engine.flush()
        lines = exported(engine, "csv", fields=["id"]).decode().split()
        assert lines[1:] == ['"b"', *(f'"{n:02}"' for n in range(11)), '"a"']
        for place in range(1, len(lines)):  # going on behind any of them leaves exactly the rest
            ts = {1: NOW - timedelta(days=3_000), 13: NOW}.get(place, NOW - timedelta(hours=1))
            rest = exported(engine, "csv", fields=["id"], after=[ts, lines[place].strip('"')]).decode().split()
            assert rest[1:] == lines[place + 1 :]


# -- answers ---------------------------------------------------------------------------------------------------------


def test_an_answer_has_every_page_in_its_order_and_types():
    with gnomon.open(":memory:", clock=ManualClock(NOW), sampling=False, max_rows=7) as engine:
        for place in range(50):
            engine.track("t", user_id=f"u{place:02}", ts=NOW - timedelta(hours=place), duration_ms=place)
        engine.flush()
        order = {"metrics": ["events", "mean_duration_ms"], "dimensions": ["user_id", "time:hour"],
                 "order_by": [["user_id", "desc"]]}  # fmt: skip
        found = json.loads(exported(engine, "json", query=order))
        assert [row["user_id"] for row in found] == [f"u{place:02}" for place in reversed(range(50))]
        assert list(found[0].values()) == ["u49", "2026-01-13T11:00:00Z", 1, 49.0]
        assert [row["user_id"] for row in json.loads(exported(engine, "json", query={**order, "limit": 9}))] == [
            row["user_id"] for row in found[:9]
        ]
        table = pyarrow.ipc.open_stream(exported(engine, "arrow", query=order)).read_all()
        assert [str(t) for t in table.schema.types] == ["string", "timestamp[us, tz=UTC]", "int64", "double"]
        assert table.to_pylist() == [{**row, "time:hour": datetime.fromisoformat(row["time:hour"])} for row in found]
        sheet = openpyxl.load_workbook(io.BytesIO(exported(engine, "xlsx", query=order))).active
        assert [cell.value for cell in sheet[1]] == ["User", "Hour", "Events", "Mean duration ms"]
        assert [cell.value for cell in sheet[2]] == ["u49", datetime(2026, 1, 13, 11), 1, 49]
        assert sheet["B2"].is_date


def test_an_answer_in_a_zone_keeps_the_zone():
    with gnomon.open(":memory:", clock=ManualClock(NOW), timezones=["Asia/Kathmandu"]) as engine:
        engine.track("t", ts=NOW)
        engine.flush()
        order = {"metrics": ["events"], "dimensions": ["time:hour", "type"]}
        assert exported(engine, "csv", query=order).decode().split("\n")[1] == '2026-01-15T17:00:00+05:45,"t",1'
        sheet = openpyxl.load_workbook(io.BytesIO(exported(engine, "xlsx", query=order))).active
        assert sheet["A2"].value == datetime(2026, 1, 15, 17)
        table = pyarrow.ipc.open_stream(exported(engine, "arrow", query=order)).read_all()
        assert table["time:hour"][0].as_py() == datetime(2026, 1, 15, 11, 15, tzinfo=UTC)


def test_the_keys_of_properties_keep_their_values_and_labels():
    with gnomon.open(":memory:") as engine:
        for value in ("=x", 1, 2.5, True, None, [1, "a"], {"k": "=v"}):
            engine.track("t", properties={"=key": value})
        engine.flush()
        order = {"metrics": [{"agg": "count", "as": "=n"}], "dimensions": ["properties.=key"]}
        found = [row["properties.=key"] for row in json.loads(exported(engine, "json", query=order))]
        values = ["=x", 1, 2.5, True, None, [1, "a"], {"k": "=v"}]
        assert sorted(map(json.dumps, found)) == sorted(map(json.dumps, values))
        head, *rows = csv.reader(io.StringIO(exported(engine, "csv", query=order).decode()))
        assert head == ["properties.=key", "'=n"]
        assert {row[0] for row in rows} == {"'=x", "1", "2.5", "true", "", '[1,"a"]', '{"k":"=v"}'}
        sheet = openpyxl.load_workbook(io.BytesIO(exported(engine, "xlsx", query=order))).active
        assert all(cell.data_type != "f" for row in sheet.iter_rows() for cell in row)
        assert sheet["A1"].value == "=key"
        pyarrow.ipc.open_stream(exported(engine, "arrow", query=order)).read_all()


# -- what is refused, and what is said -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "code"),
    [
        ({"format": "pdf"}, "unknown-name"), ({"format": None}, "unknown-name"),
        ({"format": "CSV\x00"}, "unknown-name"),
        ({"fields": []}, "bad-query"), ({"fields": ["id", "id"]}, "bad-query"), ({"fields": "id"}, "bad-query"),
        ({"fields": ["version"]}, "unknown-name"), ({"fields": ["ts; DROP TABLE events"]}, "unknown-name"),
        ({"filters": ["is", "typ", ["x"]]}, "unknown-name"), ({"filters": {"nothing": 1}}, "unknown-name"),
        ({"time_range": "soon"}, "bad-range"), ({"after": "x"}, "bad-cursor"),
        ({"after": ["2026-01-01", "x"]}, "bad-time"),
        ({"query": {}}, "bad-query"), ({"query": {"metrics": ["events"], "compare": "previous"}}, "unknown-name"),
        ({"query": {"metrics": ["event"]}}, "unknown-name"),
        ({"query": {"metrics": ["events"]}, "fields": ["id"]}, "bad-query"),
        ({"query": {"metrics": ["events"]}, "filters": {"type": "t"}}, "bad-query"),
    ],
)  # fmt: skip
def test_what_cannot_be_exported_is_refused_before_a_job_is_made(engine, order, code):
    for verb in (engine.export_analytics, engine.stream_export):
        if verb == engine.export_analytics and "after" in order:
            continue
        with pytest.raises(GnomonError) as raised:
            verb(**order)
        assert raised.value.code == code
    assert engine.exports() == []


def test_filters_fields_and_ranges_choose(engine):
    wanted = {"user_id": ["=1+1", "-1"], "type": "request"}
    chosen = exported(engine, "csv", fields=["user_id", "project"], filters=wanted)
    assert chosen.decode() == '"user_id","project"\n"\'=1+1","shop"\n"\'-1","shop"\n'
    others = ["not", ["is", "type", ["request"]]]
    day = b"".join(engine.stream_export(["2026-01-14", "2026-01-15"], "csv", ["id"], others))
    assert day.decode() == '"id"\n"\'=id"\n'


def test_another_project_is_not_in_the_file(engine):
    assert b"shop" not in exported(engine, "ndjson", fields=["id"])
    with gnomon.open(":memory:", project="other") as other:
        assert exported(other, "csv", fields=["id"]) == b'"id"\n'


def test_weights_are_exported_and_the_job_says_that_events_were_sampled(engine):
    job = engine.export_analytics("all", "csv", ["weight"], {"type": "=type"})
    assert job.sampled
    assert exported(engine, "csv", fields=["weight"], filters={"type": "=type"}) == b'"weight"\n2.5\n'
    assert not engine.export_analytics("2h", "csv").sampled
    engine._stop_exports()
    engine._erase_exports()


def test_a_format_without_its_package_says_which_extra(engine, monkeypatch):
    monkeypatch.setattr("gnomon.export.find_spec", lambda name: None)
    for format, extra in (("xlsx", "gnomon[excel]"), ("parquet", "gnomon[arrow]")):
        with pytest.raises(MissingExtra, match="not installed") as raised:
            engine.export_analytics("all", format)
        assert extra in raised.value.remedy
    exported(engine, "csv")


def test_pseudonyms_stay_pseudonyms():
    key = "k9vT2-wq8Zr4XnB7mJd5Lh3Fs6Pg1Yc0"
    with gnomon.open(":memory:", pseudonym_keys=(key,), clock=ManualClock(NOW)) as engine:
        engine.track("t", user_id="ada@example.com", ts=NOW)
        engine.flush()
        found = exported(engine, "csv", fields=["user_id"], filters={"user_id": "ada@example.com"}).decode()
        assert found.split("\n")[1].startswith('"~k')
        assert "ada" not in found


def test_events_that_come_while_it_is_read_are_not_in_it(monkeypatch):
    monkeypatch.setattr(reading, "MOST_ROWS", 1)
    with gnomon.open(":memory:", clock=ManualClock(NOW), sampling=False) as engine:
        for place in range(5):
            engine.track("t", id=str(place), ts=NOW - timedelta(hours=5 - place))
        engine.flush()
        stream = engine.stream_export("all", "csv", ["id"])
        begin = [next(stream), next(stream)]
        engine.track("t", id="late", ts=NOW - timedelta(minutes=1))
        engine.flush()
        assert b"".join([*begin, *stream]) == b'"id"\n"0"\n"1"\n"2"\n"3"\n"4"\n'


def test_events_that_vanish_while_it_is_read_end_it_with_an_error(monkeypatch):
    monkeypatch.setattr(reading, "MOST_ROWS", 1)
    with gnomon.open(":memory:", clock=ManualClock(NOW), sampling=False) as engine:
        for place in range(5):
            engine.track("t", user_id=str(place), ts=NOW - timedelta(hours=5 - place))
        engine.flush()
        stream = engine.stream_export("all", "csv", ["user_id"])
        next(stream), next(stream)
        engine.forget("4", delete_events=True)
        with pytest.raises(GnomonError) as raised:
            list(stream)
        assert raised.value.code == "export-overtaken"
        assert engine.get_access_log()[0].outcome == "export-overtaken"


def test_events_that_were_pruned_are_never_left_out_in_silence(tmp_path):
    clock = ManualClock(NOW - timedelta(days=20))
    with gnomon.open(tmp_path / "s.duckdb", clock=clock, event_retention_days=7) as engine:
        engine.track("t", user_id="old", ts=clock.now)
        engine.flush()
        clock.now = NOW
        engine.track("t", user_id="new", ts=clock.now)
        engine.flush()
        engine.trigger_aggregation()
        assert engine.prune().raw == 1
        for range in ("all", "30d"):
            with pytest.raises(InvalidValue) as raised:
                engine.stream_export(range)
            assert raised.value.code == "raw-rows-gone"
        assert b'"new"' in b"".join(engine.stream_export("5d", "csv"))
        order = {"metrics": ["events"], "dimensions": ["type"]}
        assert b"".join(engine.stream_export("all", "csv", query=order)) == b'"type","events"\n"t",2\n'


def test_unknown_parts_of_a_query_get_a_suggestion(engine):
    with pytest.raises(UnknownName, match="unknown part") as raised:
        engine.stream_export(query={"metrics": ["events"], "dimension": ["type"]})
    assert "dimensions" in raised.value.remedy


def test_decimals_are_cells():
    assert cells.json_text({"x": Decimal("1.5")}) == '{"x":"1.5"}'
