"""Calls to try the gate with: clean ones, and ones that something is odd about."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from gate_allowed import (
    ADDRESSES,
    HOUR_US,
    INT64,
    NAMES,
    NOW_US,
    TEN_YEARS_US,
    Code,
    Opaque,
    Real,
    Text,
    Whole,
    Word,
    call,
    json_ok,
    text_ok,
)
from hypothesis import strategies as st


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
