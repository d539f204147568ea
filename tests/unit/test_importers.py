"""Files to candidates: the sample data, every format's rules, ids, and what hostile or damaged files may cost."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import time
import tracemalloc
import uuid
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import blake2b
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gnomon.errors import GnomonError, InvalidValue, MissingExtra, UnknownName
from gnomon.ingest import occurrences
from gnomon.ingest import parquet as parquet_module
from gnomon.ingest.importers import BadLine, Candidate, Progress, detect_format, read_file
from gnomon.ingest.occurrences import Occurrences

DATA = Path(__file__).parents[2] / "examples" / "data"
TS = "2025-01-01T00:00:00Z"
LOG = b'1.2.3.4 - - [17/May/2015:10:05:03 +0000] "GET /a HTTP/1.1" 200 5 "-" "ua"'
one_at_a_time = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def items(path, **options):
    return [item for chunk in read_file(path, **options) for item in chunk]


@pytest.fixture
def load(tmp_path):
    """Writes bytes to a file and reads it."""

    def load(data, name="file.csv", **options):
        path = tmp_path / name
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return items(path, **options)

    return load


def log(load, line, **options):
    (found,) = load(line, "a.log", format="combined", **options)
    return found


def ids(found):
    return [item.fields["id"] for item in found if isinstance(item, Candidate)]


def codes(found):
    return [item.code if isinstance(item, BadLine) else "ok" for item in found]


# --- the sample data


def test_sample_access_log():
    found = items(DATA / "access.log.gz")
    assert codes(found) == ["ok"] * 10_000
    fields = [item.fields for item in found]
    assert Counter(f["status_code"] for f in fields) == {
        200: 9126, 304: 445, 404: 213, 301: 164, 206: 45, 500: 3, 403: 2, 416: 2,
    }  # fmt: skip
    assert Counter(f["method"] for f in fields) == {"GET": 9952, "HEAD": 42, "POST": 5, "OPTIONS": 1}
    assert len({f["device_id"] for f in fields}) == 1753
    assert sum(f.get("bytes_sent", 0) for f in fields) == 2_747_282_740
    assert len(set(ids(found))) == 10_000
    assert [item.line for item in found if item.fields["properties"].get("truncated")] == [8899]
    assert not any("?" in f["endpoint"] or "?" in f["properties"].get("referrer", "") for f in fields)


def test_sample_commits():
    found = items(DATA / "commits.csv.gz")
    assert codes(found) == ["ok"] * 48_860
    assert len({item.fields["user_id"] for item in found}) == 2802
    assert Counter(item.fields["source"] for item in found)["sqlglot"] == 8189
    assert found[0] == Candidate(2, {
        "id": "689c452e4befb311a886", "ts": "2013-08-13T17:57:26+02:00", "user_id": "u2bfe392f7ed4", "type": "other",
        "source": "structlog", "properties": {"committed_at": "2013-08-13T20:41:12+02:00", "subject_length": 14},
    })  # fmt: skip


# --- finding the file and its format


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.csv", b"", "csv"),
        ("a.TSV.GZ", b"", "csv"),
        ("a.jsonl", b"", "ndjson"),
        ("a.parquet.gz", b"", "parquet"),
        ("a", b"PAR1xxxx", "parquet"),
        ("a.log", b'\xef\xbb\xbf\r\n{"type": "x"}\n', "ndjson"),
        ("a.log.1", b"garbage\n" + LOG, "combined"),
        ("a.txt", b'type;"a;b"\nx;y\n', "csv"),
        ("a.txt", gzip.compress(b"type\tts\nx\ty\n", mtime=0), "csv"),
        ("a.txt", b"just, some words\n", None),
        ("a.txt", b'[{"a":1,"b":2},\n{"a":1,"b":2}]', None),
        ("a.txt", b"a,b\n\0,c\n", None),
        ("a.txt", b"", None),
    ],
)
def test_detect_format(tmp_path, name, data, expected):
    (tmp_path / name).write_bytes(data)
    if expected is not None:
        assert detect_format(tmp_path / name) == expected
        return
    with pytest.raises(InvalidValue) as error:
        detect_format(tmp_path / name)
    assert error.value.code == "unknown-format"
    assert "format=" in error.value.remedy


def test_no_such_file(tmp_path, monkeypatch):
    (tmp_path / "locked.csv").write_bytes(b"a\n")

    def refuse(self, mode):
        raise PermissionError

    monkeypatch.setattr(Path, "open", refuse)
    for path in (tmp_path / "none.csv", tmp_path, tmp_path / "locked.csv"):
        with pytest.raises(InvalidValue) as error:
            read_file(path)
        assert error.value.code == "no-such-file"
        assert error.value.remedy


@pytest.mark.parametrize("options", [{"format": "xml"}, {"timezone": "Asia/Kathmando"}, {"mapping": {"a": "usr_id"}}])
def test_wrong_arguments_raise_at_once(load, options):
    with pytest.raises(UnknownName):
        load("a\n1\n", **options)
    with pytest.raises(InvalidValue):
        load("a\n1\n", chunk=0)


@pytest.mark.parametrize("name", ["a.csv", "a.log", "a.ndjson", "a.parquet", "a.unknown"])
@pytest.mark.parametrize("data", [b"", gzip.compress(b"", mtime=0)])
def test_empty_file(load, name, data):
    assert load(data, name) == []


# --- access logs


def test_combined_fields(load):
    line = (
        r'::1 - "j\"d" [01/Jan/2020:00:00:60 -0130] "POST /a/b?token=1#x HTTP/2.0" 201 - '
        r'"https://u:p@h.org:81/p?q=1" "A \"B\" \\ \x41"'
    )
    found = log(load, line)
    assert found.fields == {
        "id": found.fields["id"], "type": "request", "device_id": "::1", "user_id": '"j"d"', "method": "POST",
        "ts": int(datetime(2020, 1, 1, 1, 31, tzinfo=UTC).timestamp()) * 1_000_000, "endpoint": "/a/b",
        "status_code": 201,
        "properties": {"protocol": "HTTP/2.0", "referrer": "https://h.org:81/p", "user_agent": 'A "B" \\ \\x41'},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rest", "extra"),
    [("", None), (' "-" "-"', None), (' "-" "-" 0.123', "0.123"), (' "-" "-" example.org "x y"', 'example.org "x y"')],
)
def test_common_log_and_words_at_the_end(load, rest, extra):
    found = log(load, '- - - [01/Jan/2020:00:00:00 +0000] "GET / HTTP/1.1" - 7' + rest)
    assert found.fields["properties"] == {"protocol": "HTTP/1.1"} | ({"extra": extra} if extra else {})
    assert found.fields["bytes_sent"] == 7
    assert not found.fields.keys() & {"device_id", "user_id", "status_code", "domain"}


@pytest.mark.parametrize(
    ("request_line", "method", "domain", "endpoint"),
    [
        ("GET http://bob:pw@Ex.org:80/p?q HTTP/1.1", "GET", "ex.org:80", "/p"),
        ("GET http://bob:pw@[::1]/p HTTP/1.1", "GET", "::1", "/p"),
        ("GET https://ex.org HTTP/1.1", "GET", "ex.org", "/"),
        ("GET http://bob:p?w@ex.org/ HTTP/1.1", "GET", "bob", "/"),
        ("CONNECT u:p@ex.org:443 HTTP/1.1", "CONNECT", "ex.org:443", None),
        ("OPTIONS * HTTP/1.0", "OPTIONS", None, "*"),
        ("M-SEARCH /x HTTP/1.1", "M-SEARCH", None, "/x"),
        ("GET /a b HTTP/1.1", "GET", None, "/a b"),
        (r"GET /a\"b HTTP/1.1", "GET", None, '/a"b'),
    ],
)
def test_request_targets(load, request_line, method, domain, endpoint):
    fields = log(load, f'h - - [01/Jan/2020:00:00:00 +0000] "{request_line}" 200 1').fields
    assert (fields["method"], fields.get("domain"), fields.get("endpoint")) == (method, domain, endpoint)
    assert "p" not in fields.get("domain", "").split(":")


@pytest.mark.parametrize(
    ("request_line", "kept"),
    [
        ("-", "-"),
        ("", ""),
        (r"\x16\x03\x01", r"\x16\x03\x01"),
        ("GET /old", "GET /old"),
        ("get /x?token=1 HTTP/1.1", "get /x HTTP/1.1"),
        ("GET user:pw@host HTTP/1.1", "GET host HTTP/1.1"),
        ("get http://u:p@h/x HTTP/1.1", "get http://h/x HTTP/1.1"),
        ("get http://tok@h/x HTTP/1.1", "get http://h/x HTTP/1.1"),
        ("ABCDEFGHIJKLMNOPQRSTU / HTTP/1.1", "ABCDEFGHIJKLMNOPQRSTU / HTTP/1.1"),
    ],
)
def test_request_lines_that_are_none(load, request_line, kept):
    fields = log(load, f'h - - [01/Jan/2020:00:00:00 +0000] "{request_line}" 400 0').fields
    assert fields["properties"] == {"request_line": kept}
    assert not fields.keys() & {"method", "endpoint", "domain"}
    assert fields["status_code"] == 400


@pytest.mark.parametrize(
    ("referrer", "kept"),
    [
        ("http://h/a@b?x", "http://h/a@b"),
        ("//u:p@h/x", "//h/x"),
        ("u:p@h/x", "h/x"),
        ("http://u:p?w@h/x", "http://u"),
        ("?", None),
        ("h#top", "h"),
    ],
)
def test_referrers_lose_query_and_credentials(load, referrer, kept):
    line = f'h - - [01/Jan/2020:00:00:00 +0000] "GET / HTTP/1.1" 200 1 "{referrer}" "-"'
    assert log(load, line).fields["properties"].get("referrer") == kept


def test_a_user_agent_cut_short_is_imported(load):
    for cut in ('"-" "Mozilla/5.0 (X', '"-" "', '"-" "M\\'):
        found = log(load, '1.2.3.4 - - [17/May/2015:10:05:03 +0000] "GET /a HTTP/1.1" 200 5 ' + cut)
        assert found.fields["properties"]["truncated"] is True


@pytest.mark.parametrize(
    "line",
    [
        "garbage",
        LOG[:-8] + b'"x',
        LOG + b'"',
        LOG.replace(b"17/May", b"31/Feb"),
        LOG.replace(b"May", b"Foo"),
        LOG.replace(b"10:05:03", b"10:05:61"),
        LOG.replace(b"10:05:03", b"25:05:03"),
        LOG.replace(b" 200 ", b" 20 "),
        LOG.replace(b" 5 ", b" 99999999999999999999 "),
    ],
)
def test_lines_that_are_no_log_lines(load, line):
    assert log(load, line).code == "bad-line"


HOSTILE = [
    "a" * 100_000,
    "a " * 50_000,
    '"' * 100_000,
    "\\" * 100_000,
    "h - " + "a " * 50_000 + "[",
    *(
        'h - - [01/Jan/2020:00:00:00 +0000] "' + junk * (100_000 // len(junk))
        for junk in ("a", "\\", '\\"', "GET ", "GET / HTTP/1.1 ", '" "', "a:", "@", "//", "?", "/a@", '" 200 1 "')
    ),
    *(
        'h - - [01/Jan/2020:00:00:00 +0000] "' + junk * (100_000 // len(junk)) + '" 200 1 "-" "-"'
        for junk in ("a", "a:", "@", "//", "?", "//a", "a@b:", " HTTP/1.1", "GET / ")
    ),
    *(LOG.decode() + junk * (50_000 // len(junk)) + "\x01" for junk in (' "', ' "a"', " a", " ", '" ')),
]


@pytest.mark.parametrize("line", HOSTILE)
def test_hostile_lines_take_linear_time(load, line):
    start = time.process_time()
    log(load, line)
    assert time.process_time() - start < 0.5


def test_log_constants_but_no_columns(load):
    found = log(load, LOG, mapping={"source": "=web", "properties.site": "=7", "properties": '={"a": 1}'})
    assert found.fields["source"] == "web"
    assert found.fields["properties"] == {"protocol": "HTTP/1.1", "user_agent": "ua", "site": 7, "a": 1}
    with pytest.raises(InvalidValue, match="no columns"):
        log(load, LOG, mapping={"a": "user_id"})


# --- CSV


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
    start = time.process_time()
    tracemalloc.start()
    try:
        for chunk in read_file(path, chunk=100):
            assert set(codes(chunk)) == {"bad-line"}
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.process_time() - start < 20
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


# --- NDJSON


def nd(load, *rows, **options):
    text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    return load(text, "a.ndjson", **options)


def test_ndjson(load):
    row = {"type": "t", "src": "s", "timestamp": TS, "payload": {"a": {"b": None}}, "x": "5", "name": "n"}
    (found,) = nd(load, "", row)
    assert found == Candidate(2, {
        "id": found.fields["id"], "type": "t", "source": "s", "ts": TS,
        "properties": {"a": {"b": None}, "x": "5", "name": "n"},
    })  # fmt: skip


def test_ndjson_leaves_types_to_the_gate_but_not_times(load):
    (found,) = nd(load, {"id": 5, "type": "", "user_id": None, "status_code": "200", "ts": 1500000000})
    assert found.fields == {
        "id": 5, "type": "", "status_code": "200", "ts": 1_500_000_000_000_000, "properties": {},
    }  # fmt: skip
    moments = [nd(load, {"ts": ts})[0].fields["ts"] for ts in (12, True, 1500000000.5)]
    assert moments == ["12", "True", 1_500_000_000_500_000]
    assert codes(nd(load, {"ts": "2025-01-01T00:00:00"})) == ["naive-time"]


def test_ndjson_mapping(load):
    options = {"mapping": {"when": "ts", "kind": "type", "drop": "", "source": "=s", "absent": "user_id"}}
    (found,) = nd(load, {"when": TS, "kind": "k", "drop": 1, "When": 2}, **options)
    assert found.fields == {
        "id": found.fields["id"], "ts": TS, "type": "k", "source": "s", "properties": {"When": 2},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ('{"a": 1, "a": 1}', "duplicate-key"),
        ('{"a" : 1, "b": "\\":", "a" : 2}', "duplicate-key"),
        ('{"p": [{"a": 1, "\\u0061": 2}]}', "duplicate-key"),
        ('{"a": "\\":x", "b": ":"}', "ok"),
        ('{"a": 1, "properties": {"a": 1}}', "bad-line"),
        ('{"a": 1, "properties.a": 1}', "bad-line"),
        ('{"properties": [1]}', "bad-line"),
        ("[1]", "bad-line"), ("5", "bad-line"), ("{", "bad-line"), ("nope", "bad-line"), ('{"a": NaN}', "bad-line"),
        ('{"a": 1e999}', "bad-line"), ('{"a": ' + "9" * 5000 + "}", "bad-line"), ('{"a": "\\ud800"}', "bad-line"),
        ('{"a":' * 100_000, "bad-line"), ('{"a":' + "[" * 900 + "]" * 900 + "}", None), ('{"a": "\0"}', "bad-line"),
        ("{}", "ok"), ('{"a": 1}\r', "ok"),
    ],
)  # fmt: skip
def test_ndjson_lines(load, line, code):
    (found,) = codes(nd(load, line))
    assert code is None or found == code


words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
)
values = st.recursive(
    scalars | words, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=6
)


@one_at_a_time
@given(st.lists(st.dictionaries(words, values, max_size=5), max_size=6))
def test_ndjson_round_trip(tmp_path, rows):
    path = tmp_path / "round.ndjson"
    path.write_text("\n".join(json.dumps({"properties": row}) for row in rows))
    found = items(path)
    assert [item.fields["properties"] for item in found] == rows
    assert len(set(ids(found))) == len(rows)


# --- Parquet


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


# --- ids


def test_same_file_same_ids_whatever_its_name_packing_line_ends_and_chunks(load):
    body = b'a,b\n1,"x\ny"\n1,"x\ny"\n2,z\n'
    first = load(body)
    assert len(set(ids(first))) == 3
    for data in (body.replace(b"\n", b"\r\n"), gzip.compress(body, mtime=0), b"\xef\xbb\xbf" + body, body[:-1]):
        assert ids(load(data, "other.csv", chunk=1)) == ids(first)
    assert ids(load(body.replace(b",", b";"))) == ids(first)
    assert ids(load(b'b,a\n"x\ny",1\n')) == ids(first)[:1]
    assert ids(load(body, mapping={"a": "user_id"})) == ids(first)
    assert ids(load(LOG + b"\n" + LOG, "a.log")) == ids(
        load(gzip.compress(LOG + b"\r\n" + LOG + b"\r\n", mtime=0), "b.log")
    )


def test_same_content_has_the_same_id_in_every_format(load, parquet):
    (a,), (b,) = load("n,f,s,t\n5,1.5,x,true\n"), nd(load, {"t": True, "s": "x", "f": 1.5, "n": 5, "none": None})
    (c,) = items(parquet({"s": ["x"], "n": [5], "f": [1.5], "t": [True]}))
    assert a.fields["id"] == b.fields["id"] == c.fields["id"]


def test_derived_ids_are_canonical_uuids_of_version_8():
    for n in range(200):
        digest = bytearray(blake2b(b"%d" % n, digest_size=16).digest())
        digest[6] = digest[6] & 0x0F | 0x80
        digest[8] = digest[8] & 0x3F | 0x80
        counts = Occurrences()
        first, second = counts.id_of(b"%d" % n), counts.id_of(b"%d" % n)
        assert first == str(uuid.UUID(bytes=bytes(digest))) != second
        assert (str(uuid.UUID(second)), uuid.UUID(second).version) == (second, 8)


def test_a_rotated_log_adds_only_its_new_lines(load):
    lines = [LOG.replace(b"/a", b"/%d" % (n // 2)) for n in range(10)]
    old, new = ids(load(b"\n".join(lines[:6]), "a.log")), ids(load(b"\n".join(lines[2:]), "b.log"))
    assert len(set(old) | set(new)) == 10


def test_own_ids_are_kept(load):
    assert ids(load("id,x\nown,1\n,1\nown,1\n"))[::2] == ["own", "own"]
    assert ids(nd(load, {"id": "own"})) == ["own"]


@one_at_a_time
@given(st.lists(st.sampled_from("abcdef"), max_size=60), st.integers(1, 70))
def test_ids_do_not_hang_on_chunks_or_gzip(tmp_path, letters, chunk):
    data = ("x,y\n" + "".join(f"{letter},1\n" for letter in letters)).encode()
    (tmp_path / "a.csv").write_bytes(data)
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(data, mtime=0))
    first = items(tmp_path / "a.csv")
    assert items(tmp_path / "b.csv.gz", chunk=chunk) == first
    assert len(set(ids(first))) == len(letters)


def test_counts_in_the_temporary_file_are_exact():
    rng = random.Random(7)
    contents = [b"%d" % rng.randrange(3_000) for _ in range(20_000)]
    small, large = Occurrences(spill_at=100), Occurrences()
    assert [small.id_of(c) for c in contents] == [large.id_of(c) for c in contents]
    assert small._table is not None and large._table is None
    small.close()


def test_a_full_disk_is_said(monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(occurrences.tempfile, "TemporaryFile", full)
    counts = Occurrences(spill_at=1)
    counts.id_of(b"a")
    with pytest.raises(GnomonError) as error:
        counts.id_of(b"b")
    assert error.value.code == "disk-full"


# --- damage, size, progress


def test_bad_lines_say_what_where_and_no_more(load):
    data = b"\n".join([LOG, b"caf\xe9 " + b"x" * 5000, b"", b"  \r", b"y" * 3_000_000, LOG, b"z" * 1_500_000])
    found = load(data, "a.log", format="combined")
    assert [(item.line, code) for item, code in zip(found, codes(found), strict=True)] == [
        (1, "ok"), (2, "bad-encoding"), (5, "line-too-long"), (6, "ok"), (7, "line-too-long"),
    ]  # fmt: skip
    assert found[1].text.startswith("caf\ufffd x")
    assert [len(item.text) for item in found if isinstance(item, BadLine)] == [2000, 2000, 2000]


def test_bad_lines_in_csv_and_ndjson(load):
    found = load(b"a,b\n1,2\n\xff,2\n" + b"x" * 2_000_000 + b',1\n3,"4\n\xff"\n5,6\n7,\0\n')
    assert codes(found) == ["ok", "bad-encoding", "line-too-long", "bad-line", "bad-encoding", "ok", "ok"]
    assert found[-1].fields["properties"]["b"] == "\0"
    assert codes(nd(load, '{"a":1}', "x" * 2_000_000)) == ["ok", "line-too-long"]
    assert codes(load(b'{"a":"\xff"}\n{}\n', "a.ndjson")) == ["bad-encoding", "ok"]


@pytest.mark.parametrize("name", ["a.log", "a.csv", "a.ndjson"])
def test_damaged_gzip_yields_what_can_be_read(load, name):
    rng = random.Random(1)
    row = {"a.log": LOG.decode().replace("/a", "/%d"), "a.csv": "%d,x", "a.ndjson": '{"x": %d}'}[name]
    body = ("n,x\n" if name == "a.csv" else "") + "".join(row % rng.randrange(10**9) + "\n" for _ in range(10_000))
    packed = gzip.compress(body.encode(), mtime=0)
    whole = load(packed, name)
    cut = load(packed[: len(packed) // 2], name)
    assert len(cut) > 4_000
    assert cut[:-1] == whole[: len(cut) - 1]
    assert (cut[-1].code, cut[-1].line) == ("truncated-file", cut[-2].line + 1)
    assert codes(load(packed[:-4], name))[-2:] == ["ok", "truncated-file"]
    assert codes(load(packed + b"junk", name))[-2:] == ["ok", "truncated-file"]
    flipped = bytearray(packed)
    flipped[len(packed) // 2] ^= 0xFF
    assert codes(load(bytes(flipped), name))[-1] == "truncated-file"
    for size in (2, 5, 10, 12, 20):
        assert codes(load(packed[:size], name))[-1] == "truncated-file"
    assert load(packed + packed, name) if name != "a.csv" else True


@one_at_a_time
@given(st.binary(max_size=300), st.sampled_from(["combined", "csv", "ndjson"]), st.booleans())
def test_any_bytes_give_items_or_a_known_error(tmp_path, data, kind, pack):
    path = tmp_path / "any"
    path.write_bytes(gzip.compress(data, mtime=0) if pack else data)
    try:
        found = items(path, format=kind)
    except InvalidValue as error:
        assert kind == "csv"
        assert error.remedy
        return
    assert all(isinstance(item, Candidate | BadLine) for item in found)


def test_chunks_and_progress(load, tmp_path):
    path = tmp_path / "p.csv.gz"
    path.write_bytes(gzip.compress(b"a\n" + b"".join(b"%d\n" % n for n in range(1000))))
    seen: list[Progress] = []
    chunks = list(read_file(path, chunk=300, on_progress=seen.append))
    assert [len(chunk) for chunk in chunks] == [300, 300, 300, 100]
    assert [progress.lines for progress in seen] == [301, 601, 901, 1001]
    assert {progress.bytes_total for progress in seen} == {path.stat().st_size}
    assert seen[-1].bytes_done == path.stat().st_size


def test_memory_is_flat_for_any_file_or_line(tmp_path):
    path = tmp_path / "big.ndjson.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b"x" * 60_000_000 + b"\n")
        for _ in range(60):
            file.write(b'{"a":"' + b"y" * 1_000_000 + b'"}\n')
        for n in range(50_000):
            file.write(b'{"a":%d}\n' % n)
    tracemalloc.start()
    try:
        count = sum(len(chunk) for chunk in read_file(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 50_061
    assert peak < 60_000_000
