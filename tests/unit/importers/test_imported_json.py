"""NDJSON to candidates."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnomon.ingest.importers import Candidate
from importing import TS, codes, ids, items, nd, one_at_a_time


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
