"""The gate: events of the wire and of imports, which name their fields, and samples."""

from __future__ import annotations

from datetime import timedelta

import pytest
from gate_allowed import INT64, LIMITS, NOW, NOW_US, Real, Text

from gnomon.event import AT
from gnomon.ingest.gate import Gate


def test_fields_keep_their_place_in_the_batch():
    events = [{"type": "a"}, 5, {"type": "b", "nope": 1}, {"type": ""}, {"type": "c", "src": "s", "payload": {"k": 1}}]
    found = Gate(LIMITS, lambda: NOW_US).admit_fields(events)
    assert [(item.index, item.code) for item in found.refused] == [
        (1, "wrong-type"),
        (2, "unknown-field"),
        (3, "empty-name"),
    ]
    assert [(row[AT["type"]], row[AT["source"]], row[AT["properties"]]) for row in found.rows] == [
        ("a", None, None),
        ("c", "s", '{"k":1}'),
    ]
    assert found.received == {None: 4, "s": 1}


@pytest.mark.parametrize(
    ("event", "code"),
    [
        ({"type": "t", "src": "a", "source": "b"}, "source-conflict"),
        ({"type": "t", "payload": {}, "properties": {"a": 1}}, "properties-conflict"),
        ({"type": "t", "project": "other"}, "unknown-field"),
        ({"type": "t", "received_at": 1}, "unknown-field"),
        ({"type": "t", 1: 1}, "unknown-field"),
        ({}, "missing-field"),
    ],
)
def test_wire_names_and_conflicts(event, code):
    assert [r.code for r in Gate(LIMITS, lambda: NOW_US).admit_fields([event]).refused] == [code]


def test_both_names_may_be_given_when_they_agree():
    assert (
        not Gate(LIMITS, lambda: NOW_US)
        .admit_fields([{"type": "t", "src": "a", "source": "a", "weight": None}])
        .refused
    )


@pytest.mark.parametrize(
    ("sample", "code"),
    [
        (("m", 1, "gauge", None, None), None),
        (("m", -1.5, "counter", {"a": "b", "n": 1, "x": None}, None), None),
        (("m", INT64 - 1, "histogram", {}, NOW), None),
        (("m", 10**400, "gauge", None, None), "number-too-large"),
        (("m", INT64, "gauge", None, None), "number-too-large"),
        (("m", float("nan"), "gauge", None, None), "not-finite"),
        (("m", True, "gauge", None, None), "wrong-type"),
        (("m", "1", "gauge", None, None), "wrong-type"),
        (("", 1, "gauge", None, None), "empty-name"),
        (("m" * 201, 1, "gauge", None, None), "too-long"),
        (("m", 1, "meter", None, None), "unknown-kind"),
        (("m", 1, ["gauge"], None, None), "unknown-kind"),
        (("m", 1, "gauge", {"a": {"b": 1}}, None), "wrong-type"),
        (("m", 1, "gauge", {"a": INT64}, None), "number-too-large"),
        (("m", 1, "gauge", {"": 1}, None), "empty-name"),
        (("m", 1, "gauge", [], None), "wrong-type"),
        (("m", 1, "gauge", None, 5), "bad-time"),
        (("m", 1, "gauge", None, NOW + timedelta(hours=2)), "time-out-of-range"),
        ((Text("m"), Real(1.5), Text("gauge"), {Text("a"): Text("b")}, None), None),
        (("m", 1, "gauge", None, None, Text("0198")), None),
        (("m", 1, "gauge", None, None, "i" * 200), None),
        (("m", 1, "gauge", None, None, "é" * 101), "too-long"),
        (("m", 1, "gauge", None, None, ""), "empty-name"),
        (("m", 1, "gauge", None, None, 5), "wrong-type"),
        (("m", 1, "gauge", None, None, "a\0b"), "nul-character"),
        (("m", 1, "gauge", None, None, "\ud800"), "lone-surrogate"),
    ],
)
def test_samples(sample, code):
    (*plain, id_) = sample if len(sample) == 6 else (*sample, None)
    rows, refused = Gate(LIMITS, lambda: NOW_US).admit_samples([(*plain, NOW_US * 1_000, id_)])
    assert [item.code for item in refused] == ([] if code is None else [code])
    assert len(rows) == (code is None)
    for row in rows:
        assert {type(value) for value in row} <= {int, float, str, type(None)}
