"""Ids of imported rows: the same content has the same ones, whatever it is packed in."""

from __future__ import annotations

import gzip
import random
import uuid
from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnomon.errors import GnomonError
from gnomon.ingest import occurrences
from gnomon.ingest.occurrences import Occurrences
from importing import LOG, ids, items, nd, one_at_a_time


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
