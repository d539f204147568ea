"""CSV to candidates: headers, types, mappings, quotes."""

from __future__ import annotations

import csv
import time
import tracemalloc
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnomon.errors import InvalidValue, UnknownName
from gnomon.ingest.importers import BadLine, read_file
from importing import TS, codes, ids, items, one_at_a_time


def test_csv_aliases_and_types(load):
    header = "Timestamp,Event-Type,UID,HTTP Status,latency_ms,url_path,Host,App,Error,src,payload,success,weight"
    header += ",bytes_sent,Plan"
    row = f'{TS},buy,007,200,1.5,/p,h,a,E1,s,"{{""k"": [1]}}",Yes,2,10.0,x'
    (found,) = load(f"{header}\n{row}\n")
    assert found.line == 2
    assert found.fields == {
        "id": found.fields["id"], "ts": TS, "type": "buy", "user_id": "007", "status_code": 200, "duration_ms": 1.5,
        "endpoint": "/p", "domain": "h", "application": "a", "error_code": "E1", "source": "s", "success": True,
        "weight": 2.0, "bytes_sent": 10, "properties": {"k": [1], "Plan": "x"},
    }  # fmt: skip
    assert isinstance(found.fields["weight"], float)


def test_csv_exact_names_win_then_the_order_of_aliases(load):
    (found,) = load(f"name,event,time,ts,\nn,e,t,{TS},z\n")
    assert (found.fields["type"], found.fields["ts"]) == ("e", TS)
    assert found.fields["properties"] == {"name": "n", "time": "t", "column_5": "z"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0), ("-5", -5), ("9223372036854775807", 2**63 - 1), ("9223372036854775808", "9223372036854775808"),
        ("1.50", 1.5), ("1e5", 1e5), ("-2E-3", -0.002), ("0.5", 0.5), ("1e999", "1e999"), ("007", "007"),
        ("+1", "+1"), ("1_000", "1_000"), ("nan", "nan"), ("inf", "inf"), ("-", "-"), ("1.", "1."), (".5", ".5"),
        ("true", "true"), (" 5", " 5"), ("٣", "٣"), ("9" * 5000, "9" * 5000), ("00", "00"), ("5\n", "5\n"),
    ],
)  # fmt: skip
def test_csv_property_numbers(load, text, value):
    (found,) = load(f'x,y\n"{text}",\n')
    assert found.fields["properties"] == {"x": value}
    assert type(found.fields["properties"]["x"]) is type(value)
    assert found.fields["type"] == "event"


@pytest.mark.parametrize(
    ("column", "text", "value"),
    [
        ("status", "200.0", 200), ("status", "abc", "abc"), ("status", " 404 ", 404), ("bytes_sent", "1e3", "1e3"),
        ("duration", "12", 12.0), ("duration", "fast", "fast"), ("success", "NO", False), ("success", "maybe", "maybe"),
        ("weight", "1e999", "1e999"), ("ts", "yesterday", "yesterday"), ("ts", "1500000000", 1_500_000_000_000_000),
        ("ts", "1500000000.1234567", 1_500_000_000_123_456), ("ts", "1500000000123", 1_500_000_000_123_000),
        ("ts", "1500000000123456", 1_500_000_000_123_456), ("ts", "150000000", "150000000"), ("ts", f" {TS} ", TS),
    ],
)  # fmt: skip
def test_csv_field_texts(load, column, text, value):
    (found,) = load(f"{column},x\n{text},1\n")
    (name,) = found.fields.keys() - {"id", "type", "properties"}
    assert found.fields[name] == value
    assert type(found.fields[name]) is type(value)


def test_naive_times_need_a_zone(load):
    text = "ts;x\n2025-07-01 12:00:00;1\n2025-01-01;2\n"
    bad = load(text)
    assert codes(bad) == ["naive-time"] * 2
    assert "timezone=" in bad[0].reason and "--timezone" in bad[0].reason
    good = load(text, timezone="Europe/Berlin")
    assert [item.fields["ts"] for item in good] == [
        int(datetime(2025, 7, 1, 10, tzinfo=UTC).timestamp()) * 10**6,
        int(datetime(2024, 12, 31, 23, tzinfo=UTC).timestamp()) * 10**6,
    ]


def test_mapping(load):
    text = f"When,Who,Plan,Junk,ts\n{TS},u,p,j,old\n"
    mapping = {"when": "ts", "Who": "user_id", "Plan": "properties.a.b", "junk": ""}
    mapping |= {"type": "=order", "success": "=yes"}
    (found,) = load(text, mapping=mapping)
    assert found.fields == {
        "id": found.fields["id"], "ts": TS, "user_id": "u", "type": "order", "success": True,
        "properties": {"a.b": "p", "ts": "old"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("mapping", "kind", "part"),
    [
        ({"pln": "properties.x"}, UnknownName, "plan"),
        ({"plan": "usr_id"}, UnknownName, "user_id"),
        ({"plan": "project"}, UnknownName, ""),
        ({"plan": "properties."}, UnknownName, ""),
        ({"nothing": "=x"}, UnknownName, ""),
        ({"id": "=x"}, InvalidValue, ""),
        ({"type": "="}, InvalidValue, ""),
        ({"ts": "=2025-01-01"}, InvalidValue, ""),
        ({"plan": "user_id", "who": "user_id"}, InvalidValue, ""),
    ],
)
def test_wrong_mappings(load, mapping, kind, part):
    with pytest.raises(kind) as error:
        load("plan,who\n1,2\n", mapping=mapping)
    assert part in error.value.remedy


def test_csv_headers_that_clash(load):
    with pytest.raises(InvalidValue) as error:
        load("a,a\n1,2\n")
    assert error.value.code == "duplicate-column"
    with pytest.raises(InvalidValue):
        load("a,properties.a\n1,2\n")
    assert codes(load('a,payload\n1,"{""a"": 2}"\n')) == ["bad-line"]


@pytest.mark.parametrize("payload", ["{", "[1]", "x", '{""a"": 1e999}'])
def test_csv_payload_must_be_an_object(load, payload):
    assert codes(load(f'payload,x\n"{payload}",1\n')) == ["bad-line"]
    assert codes(load('payload,x\n"{""a"":1,""a"":2}",1\n')) == ["duplicate-key"]


def test_csv_rows_and_their_lines(load):
    found = load('\r\na,b\r\n"x\r\ny",1\r\n\r\nz\r\nz,,\r\n,\r\n"q""q",2')
    assert [(item.line, code) for item, code in zip(found, codes(found), strict=True)] == [
        (3, "ok"), (6, "bad-line"), (7, "bad-line"), (8, "ok"), (9, "ok"),
    ]  # fmt: skip
    assert found[0].fields["properties"] == {"a": "x\r\ny", "b": 1}
    assert found[1].text.strip() == "z"
    assert found[3].fields["properties"] == {}


def test_a_stray_quote_costs_one_row(load):
    rows = [f"{n},v{n}" for n in range(20_000)]
    rows[5] = '5,"stray'
    rows[7] = '7,"two\nlines"'
    rows[19_999] = '1,"open'
    found = load("n,v\n" + "\n".join(rows) + "\n")
    assert [item.line for item in found if isinstance(item, BadLine)] == [7, 20_002]
    assert len(found) == 20_000
    assert found[7].fields["properties"]["v"] == "two\nlines"


def test_hostile_quotes_take_linear_time_and_flat_memory(tmp_path):
    path = tmp_path / "quotes.csv"
    path.write_text("a,b\n" + 'a",",x\n' * 150_000)  # a row that never ends, from whichever line it is begun
    start = time.thread_time()
    tracemalloc.start()
    try:
        for chunk in read_file(path, chunk=100):
            assert set(codes(chunk)) == {"bad-line"}
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.thread_time() - start < 60
    assert peak < 12_000_000


@pytest.mark.parametrize("header", [b"\xff\xfea\x00,\n1,2\n", b'"a,b\n1,2\n', b"a\rb,c\n", b"a" * 2_000_000 + b"\n1\n"])
def test_csv_header_that_cannot_be_read(load, header):
    with pytest.raises(InvalidValue, match="header"):
        load(header)


cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


@one_at_a_time
@given(st.lists(st.tuples(cells, cells, cells), max_size=12), st.sampled_from(",;\t|"), st.sampled_from(["\n", "\r\n"]))
def test_csv_round_trip(tmp_path, rows, mark, end):
    path = tmp_path / "round.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=mark, lineterminator=end, quoting=csv.QUOTE_ALL)
        writer.writerows([("user_id", "session_id", "b"), *rows])
    found = items(path)
    assert codes(found) == ["ok"] * len(rows)
    for item, (user, session, b) in zip(found, rows, strict=True):
        assert (item.fields.get("user_id", ""), item.fields.get("session_id", "")) == (user, session)
        got = item.fields["properties"].get("b", "")
        assert got == b if isinstance(got, str) else float(b) == got
    assert len(set(ids(found))) == len(rows)
