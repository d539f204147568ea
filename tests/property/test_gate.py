"""The gate: its fast proof against its exact rules, and both against a reading of the design by hand."""

from __future__ import annotations

from datetime import timedelta

import pytest
from gate_allowed import INT64, LIMITS, NOW, NOW_US, TEN_YEARS_US, Code, Real, allowed, call
from gate_calls import ANY_CALL, GOOD_CALL, as_datetime, nest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnomon.ingest import proof
from gnomon.ingest.gate import CALL, Gate
from gnomon.ingest.rules import WIDE


def exactly(calls, imported=False):
    """Each call alone through the exact rules."""
    slow = Gate(LIMITS, lambda: NOW_US)
    slow._proven = lambda *_, **__: None
    rows, refused = [], []
    for index, one in enumerate(calls):
        found = slow.admit_calls([one], imported=imported)
        assert len(found.rows) + len(found.refused) == 1
        rows += found.rows
        refused += [(index, item.code) for item in found.refused]
    return rows, refused


def without_own_ids(calls, rows, refused):
    bad = {index for index, _ in refused}
    good = [one for index, one in enumerate(calls) if index not in bad]
    assert len(good) == len(rows)
    return [(row[1:] if one[CALL.index("id")] is None else row) for one, row in zip(good, rows, strict=True)]


def check_agreement(calls, imported=False):
    """The proof over a batch, the rules over each event, and the design by hand say the same."""
    whole = Gate(LIMITS, lambda: NOW_US).admit_calls(calls, imported=imported)
    refused = [(item.index, item.code) for item in whole.refused]
    rows, expected = exactly(calls, imported)
    assert refused == expected
    assert without_own_ids(calls, whole.rows, refused) == without_own_ids(calls, rows, expected)
    by_hand = [index for index, one in enumerate(calls) if not allowed(one, imported=imported)]
    assert [index for index, _ in refused] == by_hand
    assert sum(whole.received.values()) == len(calls)
    return whole


@settings(max_examples=250, deadline=None)
@given(st.lists(st.one_of(GOOD_CALL, GOOD_CALL, ANY_CALL), min_size=1, max_size=6), st.booleans())
def test_the_proof_and_the_rules_and_the_design_agree(calls, imported):
    check_agreement(calls, imported)


@settings(max_examples=200, deadline=None)
@given(ANY_CALL)
def test_they_agree_on_one_event_that_something_is_odd_about(one):
    check_agreement([one])


@settings(max_examples=60, deadline=None)
@given(st.lists(GOOD_CALL, min_size=1, max_size=8))
def test_a_clean_batch_is_proven_without_the_rules(calls):
    """Else the fast proof could be broken (always «examine») and nobody would notice but the clock."""
    clean = [one for one in calls if str(one).isascii()]
    found = Gate(LIMITS, lambda: NOW_US)
    found._examine = None
    text = "".join(str(one[CALL.index("properties")] or "") for one in clean)
    if "[" not in text and text.count("{") <= len(clean) and "\\x00" not in text and "u0000" not in text:
        assert len(found.admit_calls(clean).rows) == len(clean)


#: name, event, code or None: both sides of every limit.
EDGES = [
    ("name bytes", {"type": "t" * 200}, None),
    ("name bytes+1", {"type": "t" * 201}, "too-long"),
    ("name 2-byte", {"user_id": "é" * 100}, None),
    ("name 2-byte+1", {"user_id": "é" * 100 + "x"}, "too-long"),
    ("name 200 characters of 2 bytes", {"user_id": "é" * 200}, "too-long"),
    ("name 4-byte", {"source": "\U0001f600" * 50}, None),
    ("name 4-byte+1", {"source": "\U0001f600" * 50 + "x"}, "too-long"),
    ("id", {"id": "i" * 200}, None),
    ("id+1", {"id": "i" * 201}, "too-long"),
    ("empty id", {"id": ""}, "empty-name"),
    ("empty type", {"type": ""}, "empty-name"),
    ("no type", {"type": None}, "missing-field"),
    ("no weight", {"weight": None}, "missing-field"),
    ("address", {"endpoint": "/" * 2_048}, None),
    ("address+1", {"endpoint": "/" * 2_049}, "too-long"),
    ("address 4-byte", {"domain": "\U0001f600" * 512}, None),
    ("address 4-byte+1", {"domain": "\U0001f600" * 512 + "x"}, "too-long"),
    ("nul", {"session_id": "a\0"}, "nul-character"),
    ("backslash u0000 is no nul", {"session_id": "\\u0000"}, None),
    ("surrogate", {"method": "\ud800"}, "lone-surrogate"),
    ("status", {"status_code": 100}, None),
    ("status-", {"status_code": 99}, "out-of-range"),
    ("status top", {"status_code": 599}, None),
    ("status top+", {"status_code": 600}, "out-of-range"),
    ("status as real", {"status_code": 200.0}, "wrong-type"),
    ("status as text", {"status_code": "200"}, "wrong-type"),
    ("status as bool", {"status_code": True}, "wrong-type"),
    ("status enum", {"status_code": Code.OK}, None),
    ("weight", {"weight": 1}, None),
    ("weight below", {"weight": 0.9999999999999999}, "out-of-range"),
    ("weight nan", {"weight": float("nan")}, "not-finite"),
    ("weight bool", {"weight": True}, "wrong-type"),
    ("duration", {"duration_ms": 0}, None),
    ("duration minus zero", {"duration_ms": -0.0}, None),
    ("duration below", {"duration_ms": -5e-324}, "out-of-range"),
    ("duration inf", {"duration_ms": float("inf")}, "not-finite"),
    ("duration most", {"duration_ms": 1e12}, None),
    ("duration most as integer", {"duration_ms": 10**12}, None),
    ("duration above", {"duration_ms": 1000000000000.0002}, "out-of-range"),
    ("duration 1e308", {"duration_ms": 1e308}, "out-of-range"),
    ("duration int64", {"duration_ms": INT64 - 1}, "out-of-range"),
    ("weight most", {"weight": 1e9}, None),
    ("weight above", {"weight": 10**9 + 1}, "out-of-range"),
    ("duration int64+1", {"duration_ms": INT64}, "number-too-large"),
    ("duration uint64", {"duration_ms": 2**64 - 1}, "number-too-large"),
    ("duration numpy-like", {"duration_ms": Real(1.5)}, None),
    ("bytes int64", {"bytes_sent": INT64 - 1}, None),
    ("bytes int64+1", {"bytes_sent": INT64}, "out-of-range"),
    ("bytes negative", {"bytes_received": -1}, "out-of-range"),
    ("success as int", {"success": 1}, "wrong-type"),
    ("property int64", {"properties": {"a": INT64 - 1, "b": -INT64}}, None),
    ("property int64+1", {"properties": {"a": INT64}}, "number-too-large"),
    ("property int64-1", {"properties": {"a": -INT64 - 1}}, "number-too-large"),
    ("property of 5,000 digits", {"properties": {"a": 10**5_000}}, "number-too-large"),
    ("property nan", {"properties": {"a": float("nan")}}, "not-finite"),
    ("property nan deep", {"properties": {"a": [{"b": float("nan")}]}}, "not-finite"),
    ("256 properties", {"properties": {f"k{i}": i for i in range(256)}}, None),
    ("257 properties", {"properties": {f"k{i}": i for i in range(257)}}, "too-many-properties"),
    ("property name", {"properties": {"k" * 200: 1}}, None),
    ("property name+1", {"properties": {"k" * 201: 1}}, "too-long"),
    ("property name bytes", {"properties": {"é" * 101: 1}}, "too-long"),
    ("property name empty", {"properties": {"": 1}}, "empty-name"),
    ("property name int", {"properties": {1: 1}}, "wrong-type"),
    ("property nul", {"properties": {"a": "x\0"}}, "nul-character"),
    ("property surrogate", {"properties": {"a": "\udc00"}}, "lone-surrogate"),
    ("string", {"properties": {"a": "x" * 8_192}}, None),
    ("string+1", {"properties": {"a": "x" * 8_193}}, "too-long"),
    ("string 4-byte", {"properties": {"a": "\U0001f600" * 2_048}}, None),
    ("string 4-byte+1", {"properties": {"a": "\U0001f600" * 2_048 + "x"}}, "too-long"),
    ("nesting", {"properties": nest(16)}, None),
    ("nesting+1", {"properties": nest(17)}, "too-deep"),
    ("nesting 50,000", {"properties": nest(50_000)}, "too-deep"),
    ("properties a list", {"properties": [1]}, "wrong-type"),
    ("properties empty", {"properties": {}}, None),
    ("a date in properties", {"properties": {"a": NOW}}, "wrong-type"),
    ("bytes in properties", {"properties": {"a": b"x"}}, "wrong-type"),
    ("time oldest", {"ts": as_datetime(NOW_US - TEN_YEARS_US)}, None),
    ("time older", {"ts": as_datetime(NOW_US - TEN_YEARS_US - 1)}, "time-out-of-range"),
    ("time newest", {"ts": NOW + timedelta(hours=1)}, None),
    ("time newer", {"ts": NOW + timedelta(hours=1, microseconds=1)}, "time-out-of-range"),
    ("time naive", {"ts": NOW.replace(tzinfo=None)}, "bad-time"),
    ("time text", {"ts": "2026-01-15T12:00:00Z"}, None),
    ("time text without zone", {"ts": "2026-01-15T12:00:00"}, "bad-time"),
    ("time real", {"ts": 1.5}, "bad-time"),
    ("time integer", {"ts": NOW_US}, "bad-time"),
    ("time bool", {"ts": True}, "bad-time"),
]


@pytest.mark.parametrize(("fields", "code"), [edge[1:] for edge in EDGES], ids=[edge[0] for edge in EDGES])
def test_each_limit_holds_to_the_last_byte(fields, code):
    found = check_agreement([call(**fields)])
    assert [item.code for item in found.refused] == ([] if code is None else [code])


def test_imports_begin_in_1970():
    assert not check_agreement([call(ts=0)], imported=True).refused
    assert [r.code for r in check_agreement([call(ts=-1)], imported=True).refused] == ["time-out-of-range"]
    assert [r.code for r in check_agreement([call(ts=as_datetime(0))]).refused] == ["time-out-of-range"]


def sized(total):
    """An event of exactly `total` bytes: texts, 8 for each other value, properties as compact JSON."""
    base = call(id="i" * 36, properties={"a": "x" * 8_190, "b": "x" * 8_190, "c": "x" * 8_190, "d": ""})
    row = Gate(LIMITS, lambda: NOW_US).admit_calls([base]).rows[0]
    found = dict(base[CALL.index("properties")], d="y" * (total - gates_event_bytes(row)))
    return call(id="i" * 36, properties=found)


def gates_event_bytes(row):
    return sum(len(value.encode()) if isinstance(value, str) else 8 for value in row if value is not None)


def test_an_event_of_32_KiB_passes_and_one_byte_more_does_not():
    assert not check_agreement([sized(32 * 1024)]).refused
    assert [r.code for r in check_agreement([sized(32 * 1024 + 1)]).refused] == ["event-too-large"]


def test_other_limits_are_obeyed_by_the_proof_too():
    for changed, one, code in (
        ({"max_event_bytes": 1_000}, call(domain="d" * 1_500), "event-too-large"),
        ({"max_properties": 2}, call(properties={"a": 1, "b": 2, "c": 3}), "too-many-properties"),
        ({"max_string_bytes": 3}, call(properties={"a": "xxxx"}), "too-long"),
        ({"max_nesting": 1}, call(properties={"a": 1}), "too-deep"),
        ({"max_past_days": 1}, call(ts=NOW - timedelta(days=2)), "time-out-of-range"),
        ({"max_future_seconds": 0}, call(ts=NOW + timedelta(seconds=1)), "time-out-of-range"),
    ):
        found = Gate(LIMITS.but(**changed), lambda: NOW_US).admit_calls([one])
        assert [item.code for item in found.refused] == [code], changed


def loose(field, kind):
    return proof._columns_type("Loose", {**WIDE, field: kind})


BROKEN = [
    ("NARROW_COLUMNS", proof.WIDE_COLUMNS, call(user_id="é" * 150)),
    ("WIDE_COLUMNS", loose("status_code", int), call(status_code=99)),
    ("WIDE_COLUMNS", loose("properties", dict), call(properties={"a": INT64})),
]


@pytest.mark.parametrize(("name", "loose", "bad"), BROKEN, ids=["narrow", "bounds", "properties"])
def test_a_proof_that_is_too_loose_is_found(monkeypatch, name, loose, bad):
    check_agreement([bad])
    monkeypatch.setattr(proof, name, loose)
    with pytest.raises(AssertionError):
        check_agreement([bad])


def test_a_rule_that_is_missing_is_found(monkeypatch):
    monkeypatch.setattr(Gate, "_check_time", lambda *_: None)
    with pytest.raises(AssertionError):
        check_agreement([call(ts=NOW + timedelta(days=1))])
