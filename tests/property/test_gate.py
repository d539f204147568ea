"""The gate: its fast proof against its exact rules, both against a reading of the design by hand, and the way back.

`allowed()` says what the design (sections 4 and 7) lets pass, written without a look at the gate's own code.
"""

from __future__ import annotations

import enum
import hashlib
import json
import math
import threading
import uuid
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnomon.config import Settings
from gnomon.event import AT, FIELDS, ROW, Batch
from gnomon.ingest import gate as gates
from gnomon.ingest import proof
from gnomon.ingest.collector import batch_from
from gnomon.ingest.gate import CALL, Gate
from gnomon.ingest.journal import _sealed, open_sealed
from gnomon.ingest.rules import WIDE
from gnomon.store.duckdb import DuckDBStore

NOW = datetime(2026, 1, 15, 12, 0, 0, 123456, tzinfo=UTC)
NOW_US = int((NOW - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1))
TEN_YEARS_US = 3_653 * 86_400_000_000
HOUR_US = 3_600_000_000
INT64 = 2**63
LIMITS = Settings()
NAMES = {"type", "user_id", "device_id", "session_id", "source", "application", "method", "error_code", "id"}
ADDRESSES = {"domain", "endpoint"}


class Text(str):
    """What numpy.str_, Markup and the like are to the gate."""


class Real(float):
    """As numpy.float64."""


class Whole(int):
    """An int of a subclass."""


class Word(enum.StrEnum):
    A = "a-word"


class Code(enum.IntEnum):
    OK = 200
    TINY = 7


class Opaque(enum.Enum):
    A = "a"


def call(**fields):
    """One keyword call as the collector buffers it."""
    given_ = {"type": "t", "weight": 1.0, "at_ns": NOW_US * 1_000, **fields}
    assert given_.keys() <= set(CALL)
    return tuple(given_.get(name) for name in CALL)


# -- what the design allows -------------------------------------------------------------------------------------------


def text_ok(value, most):
    if not isinstance(value, str):
        return False
    try:
        size = len(str.encode(value))
    except UnicodeEncodeError:
        return False
    return 1 <= size <= most and "\0" not in value


def json_ok(value, level):
    if value is None or isinstance(value, bool):
        return True
    if isinstance(value, str):
        return value == "" or text_ok(value, 8 * 1024)
    if isinstance(value, int):
        return -INT64 <= value < INT64
    if isinstance(value, float):
        return math.isfinite(value)
    if level > 16:
        return False
    if isinstance(value, dict):
        return all(text_ok(key, 200) and json_ok(inner, level + 1) for key, inner in value.items())
    return isinstance(value, list | tuple) and all(json_ok(inner, level + 1) for inner in value)


def number_ok(value, low, high=INT64 - 1, *, real=False):
    if isinstance(value, bool) or not isinstance(value, (int, float) if real else int):
        return False
    if isinstance(value, int):
        return low <= value <= high
    return math.isfinite(value) and low <= value <= high


def moment_of(ts, imported):
    """UTC microseconds, or None if that is no time; importers alone may give an integer."""
    if ts is None:
        return NOW_US
    if imported and type(ts) is int:
        return ts
    if isinstance(ts, str):
        try:
            ts = datetime.fromisoformat(ts)
        except ValueError:
            return None
    if not isinstance(ts, datetime) or ts.tzinfo is None:
        return None
    return (ts - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def plain(value):
    """JSON values as the json module reads them back."""
    if isinstance(value, dict):
        return {str.__str__(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, str):
        return str.__str__(value)
    return (
        value if isinstance(value, bool) or value is None else float(value) if isinstance(value, float) else int(value)
    )


def allowed(one, *, imported=False):
    event = dict(zip(CALL, one, strict=True))
    low = 0 if imported else NOW_US - TEN_YEARS_US
    moment = moment_of(event["ts"], imported)
    size = 16  # ts and received_at
    if moment is None or not low <= moment <= NOW_US + HOUR_US:
        return False
    for name in NAMES | ADDRESSES:
        value = event[name]
        if value is None:
            if name == "type":
                return False
            size += 36 if name == "id" else 0
        elif not text_ok(value, 2_048 if name in ADDRESSES else 200):
            return False
        else:
            size += len(str.encode(value))
    for name, low_, high, real in (
        ("status_code", 100, 599, False),
        ("duration_ms", 0, 10**12, True),
        ("bytes_sent", 0, INT64 - 1, False),
        ("bytes_received", 0, INT64 - 1, False),
        ("weight", 1, 10**9, True),
    ):
        value = event[name]
        if value is None:
            if name == "weight":
                return False
        elif not number_ok(value, low_, high, real=real):
            return False
        else:
            size += 8
    if event["success"] is not None and not isinstance(event["success"], bool):
        return False
    if event["success"] is not None or event["status_code"] is not None or event["error_code"] is not None:
        size += 8
    found = event["properties"]
    if found is not None:
        if not isinstance(found, dict) or len(found) > 256 or not json_ok(found, 2):
            return False
        if found:
            size += len(json.dumps(plain(found), ensure_ascii=False, separators=(",", ":")).encode())
    return size <= 32 * 1024


# -- agreement --------------------------------------------------------------------------------------------------------


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


def long_text(limit):
    """Texts whose bytes, or whose characters, are about `limit`."""
    letters = st.sampled_from(["a", "é", "€", "\U0001f600", '"', "\\", "\n", "{", "["])
    return st.builds(
        lambda letter, by_bytes, off: letter * max(1, limit // (len(letter.encode()) if by_bytes else 1) + off),
        letters,
        st.booleans(),
        st.integers(-1, 1),
    )


ODD_TEXTS = st.sampled_from(
    [
        "",
        "\0",
        "a\0b",
        "\ud800",
        "x\udfff",
        "\ud83d\ude00",
        "\uffff",
        "\U0010ffff",
        "'; DROP TABLE events; --",
        "null",
        "\\u0000",
        Text("sub"),
        Text(""),
        Text("\0"),
        Word.A,
        "\u2028",
        "{}",
        "[",
        '"',
        "\\",
    ]
)
SHORT = st.text(min_size=1, max_size=8)
NUMBERS = st.one_of(
    st.sampled_from(
        [
            0,
            1,
            -1,
            99,
            100,
            599,
            600,
            INT64 - 1,
            INT64,
            -INT64,
            -INT64 - 1,
            2**64 - 1,
            2**64,
            10**400,
            0.0,
            -0.0,
            0.999,
            1.0,
            1e308,
            5e-324,
            float("nan"),
            float("inf"),
            -float("inf"),
            True,
            False,
            Code.OK,
            Code.TINY,
            Whole(200),
            Real(2.5),
            Real("nan"),
            "200",
            b"1",
        ]
    ),
    st.integers(-(2**65), 2**65),
    st.floats(),
    st.integers(90, 610),
)
WRONG = st.sampled_from([b"bytes", 5, 1.5, [], {}, Opaque.A, object, (), True, datetime(2026, 1, 1)])
EDGES_US = [NOW_US - TEN_YEARS_US + d for d in (-1, 0, 1)] + [NOW_US + HOUR_US + d for d in (-1, 0, 1)] + [-1, 0, 1]


def as_datetime(us):
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)


TIMES = st.one_of(
    st.sampled_from(EDGES_US),
    st.sampled_from(EDGES_US).map(as_datetime),
    st.sampled_from(EDGES_US).map(lambda us: as_datetime(us).astimezone(timezone(timedelta(hours=5, minutes=45)))),
    st.sampled_from(EDGES_US).map(lambda us: as_datetime(us).isoformat()),
    st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2030, 1, 1)),
    st.datetimes(timezones=st.just(UTC)),
    st.sampled_from(
        [
            "2026-01-15",
            "2026-01-15T12:00:00",
            "2026-01-15T12:00:00Z",
            "now",
            "",
            "2026-13-01T00:00:00Z",
            1.5,
            True,
            "2026-01-15T12:00:00+05:45",
            10**30,
            [],
            "2026-01-15T12:00:00.123456Z",
        ]
    ),
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-INT64, INT64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
)
KEYS = st.text(min_size=1, max_size=12)
GOOD_PROPERTIES = st.dictionaries(KEYS, SCALARS, max_size=6)
DEEP = st.recursive(
    SCALARS | NUMBERS | ODD_TEXTS | st.sampled_from([Opaque.A, b"x", datetime(2026, 1, 1), {1, 2}]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3) | st.tuples(inner),
    max_leaves=6,
)


def nest(levels):
    """Properties whose innermost object lies at that level, the event being level 1."""
    value = {}
    for level in range(levels - 2):
        value = {"k": value} if level == levels - 3 or level % 2 else [value]
    return value


ANY_PROPERTIES = st.one_of(
    GOOD_PROPERTIES,
    st.dictionaries(KEYS | ODD_TEXTS | st.integers(), DEEP, max_size=4),
    st.integers(253, 258).map(lambda n: {f"k{i}": i for i in range(n)}),
    st.integers(2, 19).map(nest),
    st.dictionaries(long_text(200), st.just(1), max_size=2),
    st.dictionaries(KEYS, long_text(8 * 1024), max_size=4),
    st.integers(-2, 2).map(lambda off: {f"p{i}": "x" * 8_100 for i in range(3)} | {"rest": "y" * (8_300 + off)}),
    WRONG,
)
GOOD_NAME = st.none() | SHORT.filter(lambda text: text_ok(text, 200))
GOOD = st.fixed_dictionaries(
    {"type": SHORT.filter(lambda text: text_ok(text, 200)), "weight": st.just(1.0) | st.floats(1, 100)},
    optional={
        "user_id": GOOD_NAME,
        "source": GOOD_NAME,
        "endpoint": GOOD_NAME,
        "error_code": GOOD_NAME,
        "id": GOOD_NAME,
        "status_code": st.none() | st.integers(100, 599),
        "duration_ms": st.none() | st.floats(0, 1e9) | st.integers(0, 10**9),
        "bytes_sent": st.none() | st.integers(0, INT64 - 1),
        "success": st.none() | st.booleans(),
        "properties": GOOD_PROPERTIES.filter(lambda found: json_ok(found, 2)),
    },
)
ANY_NAME = st.one_of(ODD_TEXTS, long_text(200), long_text(2_048), WRONG, st.none(), SHORT)
CHANGE = st.one_of(
    st.tuples(st.sampled_from(sorted(NAMES | ADDRESSES)), ANY_NAME),
    st.tuples(
        st.sampled_from(["status_code", "duration_ms", "bytes_sent", "bytes_received", "weight"]), NUMBERS | st.none()
    ),
    st.tuples(st.just("success"), st.none() | st.booleans() | NUMBERS),
    st.tuples(st.just("properties"), ANY_PROPERTIES),
    st.tuples(st.just("ts"), TIMES),
)
GOOD_CALL = GOOD.map(lambda fields: call(**fields))
ANY_CALL = st.builds(
    lambda fields, changes: call(**fields | dict(changes)), GOOD, st.lists(CHANGE, min_size=1, max_size=2)
)


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


# -- fields (wire, imports) and samples -------------------------------------------------------------------------------


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


# -- the way back -----------------------------------------------------------------------------------------------------

_STORED = [name if name != "id" else "coalesce(id_text, id::VARCHAR)" for name in ROW]
_STORED = [f"epoch_us({name})" if name in ("ts", "received_at") else name for name in _STORED]


@pytest.fixture(scope="module")
def store():
    opened = DuckDBStore(":memory:", LIMITS)
    yield opened
    opened.close()


def through_the_store(store, calls):
    """The rows of the calls as the store gives them back, by id; and what the gate made of them."""
    admitted = Gate(LIMITS, lambda: NOW_US).admit_calls(calls)
    project = uuid.uuid4().hex
    batch = Batch(project)
    batch_from(batch, admitted, NOW_US)
    crc, _, body = _sealed(batch)
    read = open_sealed(crc, body)  # what another process would read from the journal
    store.write([(1, read)], project)
    sql = f"SELECT {', '.join(_STORED)} FROM events WHERE project = '{project}'"
    return {row[0]: row for row in store.ask([sql], 10.0)[0].rows}, admitted.rows


def kept_as(row):
    """A row as the store must give it back: the same values, reals as doubles."""
    reals = {field.name for field in FIELDS if field.kind == "real"}
    return tuple(float(v) if v is not None and n in reals else v for n, v in zip(ROW, row, strict=True))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(GOOD_CALL, ANY_CALL), min_size=1, max_size=12))
def test_what_passes_is_kept_as_it_was(store, calls):
    place = CALL.index("id")
    calls = [(*one[:place], f"{n}", *one[place + 1 :]) for n, one in enumerate(calls)]
    found, rows = through_the_store(store, calls)
    assert len(found) == len(rows)
    for row in rows:
        assert repr(found[row[0]]) == repr(
            tuple(map(gates.exact, kept_as(row)))
        )  # repr: -0.0 is not 0.0, 1 is not True
        given_ = calls[int(row[0])][CALL.index("properties")]
        if given_:
            assert repr(json.loads(found[row[0]][-1])) == repr(plain(given_))


TWIN = "a text whose MD5 is another event's id"
ODD_IDS = [
    "0198c0de-0000-7000-8000-0123456789ab",
    "0198C0DE-0000-7000-8000-0123456789AB",
    "0198c0de00007000800000123456789a",
    "{0198c0de-0000-7000-8000-0123456789ab}",
    "urn:uuid:0198c0de-0000-7000-8000-0123456789ab",
    " 0198c0de-0000-7000-8000-0123456789ab",
    "0198c0de-0000-7000-8000-0123456789ab ",
    "0198c0de-00007000-8000-0123456789ab",
    str(uuid.UUID(int=0)),
    str(uuid.UUID(int=2**128 - 1)),
    "a",
    "A",
    "ä",
    "a\u0308",
    "Ä",
    "ß",
    "ss",
    "İ",
    "i",
    "null",
    "NULL",
    "0",
    "00",
    "1e3",
    "1000",
    "true",
    " ",
    "'",
    "''",
    "\\",
    "%",
    "_",
    "\n",
    "\r\n",
    "\t",
    "\U0001f600",
    "\u200b",
    "x" * 200,
    TWIN,
    str(uuid.UUID(hashlib.md5(TWIN.encode()).hexdigest())),
]


def test_every_id_is_kept_and_told_apart(store):
    found, rows = through_the_store(store, [call(id=text) for text in ODD_IDS])
    assert sorted(found) == sorted(ODD_IDS) == sorted(row[0] for row in rows)


@settings(max_examples=30, deadline=None)
@given(
    st.sets(
        st.text(min_size=1, max_size=40) | st.uuids().map(str) | st.uuids().map(lambda u: u.hex.upper()), max_size=30
    )
)
def test_any_id_is_kept(store, ids):
    ids = {text for text in ids if text_ok(text, 200)}
    found, _ = through_the_store(store, [call(id=text) for text in ids])
    assert set(found) == ids


# -- our own ids ------------------------------------------------------------------------------------------------------


def make_ids(batches, threads):
    """All ids of `batches` batches of 5,000 events, made on `threads` threads at once."""
    one_gate = Gate(LIMITS, lambda: NOW_US)
    calls = [call() for _ in range(5_000)]
    made = [[] for _ in range(threads)]

    def work(place):
        for _ in range(batches // threads):
            made[place].append([row[0] for row in one_gate.admit_calls(calls).rows])

    running = [threading.Thread(target=work, args=(place,)) for place in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return [ids for part in made for ids in part]


def test_a_million_own_ids_are_unique_and_ordered_within_a_batch():
    batches = make_ids(200, 4)
    assert len({text for ids in batches for text in ids}) == 1_000_000
    assert all(ids == sorted(ids) for ids in batches)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**48 * 1_000_000 - 1))
def test_an_own_id_is_a_uuid_of_version_7_with_the_time_in_front(at_ns):
    clocked = gates.Gate(Settings(), lambda: at_ns // 1_000)
    ((text, *_),) = clocked.admit_calls([("t", *[None] * 14, 1.0, None, None, None, at_ns, None)]).rows
    found = uuid.UUID(text)
    assert str(found) == text
    assert (found.version, found.variant) == (7, uuid.RFC_4122)
    assert found.int >> 80 == at_ns // 1_000_000


def test_ids_without_randomness_would_be_found(monkeypatch):
    monkeypatch.setattr(proof.os, "urandom", lambda n: b"\5" * n)
    batches = make_ids(4, 2)
    assert len({text for ids in batches for text in ids}) < 20_000
