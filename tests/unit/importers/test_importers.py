"""Files to candidates: the sample data, which format a file is of, and what damaged or large ones may cost."""

from __future__ import annotations

import gzip
import random
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnomon.errors import InvalidValue, UnknownName
from gnomon.ingest.importers import BadLine, Candidate, Progress, detect_format, read_file
from importing import DATA, LOG, codes, ids, items, nd, one_at_a_time


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
