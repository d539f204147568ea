"""Questions that somebody may ask: likely ones with one thing or another wrong, and junk."""

from __future__ import annotations

import base64
import json
import math
from datetime import UTC, date, datetime

from hypothesis import strategies as st

from gnomon.catalog import EVENTS, TIME_GRAINS
from gnomon.metrics import ALIASES, known

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
INJECTIONS = [
    "'; DROP TABLE events; --",
    '"; DROP TABLE events; --',
    "' OR '1'='1",
    "\\' OR 1=1 --",
    "x'||(SELECT 1)||'",
    "$$; --",
    "/*",
    "--",
    "');DELETE FROM events;--",
    "events",
    "*",
    "?",
    "$1",
    "{0}",
    "%s",
    ":p",
    "'",
    "''",
    '"',
    '""',
    "\\",
    ";",
    "`",
    "[",
    "\n'",
    "~0~1/",
    "a.b",
    "a/b",
    "a~b",
    "$.x",
    "/x",
    "#",
    "E'\\x27'",
    "U&'\\0027'",
    "N''",
    "\u02bc",
    "\uff07",
    "p\u00e9\U0001f600",
]


BIG = st.just(5_000).map(lambda digits: -(10**digits)) | st.sampled_from(
    [10**400, 2**63, -(2**63) - 1, 2**64, float("nan"), float("inf"), 1e308, 5e-324, -0.0]
)
SCALAR = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    BIG,
    st.floats(),
    st.text(max_size=10),
    st.sampled_from(INJECTIONS),
    st.text(st.characters(categories=["Cs", "Cc"]), max_size=3),
)
JUNK = st.recursive(
    SCALAR | st.sampled_from([b"x", NOW, date(2026, 1, 1), object()]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=4) | SCALAR, inner, max_size=3)
        | st.tuples(inner, inner)
    ),
    max_leaves=8,
)
NAMES = [
    *EVENTS.dimensions,
    *(f"time:{grain}" for grain in TIME_GRAINS),
    "time",
    "properties.k",
    "properties.x'y",
    "properties.none",
    "value",
    "labels.q",
    "name",
    "event:props:k",
    "properties.",
    "visit:source",
]
DIMENSION = st.sampled_from(NAMES) | st.sampled_from(INJECTIONS).map("properties.{}".format)
METRIC_NAME = st.sampled_from([*(metric.name for metric in known()), *ALIASES])
OPS = st.sampled_from(
    [
        "is",
        "is_not",
        "contains",
        "contains_not",
        "matches",
        "gt",
        "gte",
        "lt",
        "lte",
        "is_set",
        "and",
        "or",
        "not",
        "IS",
    ]
)
PATTERN = st.text(st.sampled_from("ab()[]{}|*+?.^$\\1,2:-&<>=!Pd é"), max_size=12)
VALUE = st.one_of(SCALAR, PATTERN, st.lists(SCALAR, max_size=3), JUNK)
TEST = st.one_of(
    st.tuples(OPS, DIMENSION, VALUE),
    st.tuples(OPS, DIMENSION),
    st.tuples(st.just("matches"), st.sampled_from(["type", "properties.k"]), PATTERN),
    st.tuples(OPS, JUNK, JUNK),
    st.lists(JUNK, max_size=3),
)
FILTER = st.recursive(
    TEST,
    lambda inner: (
        st.tuples(st.sampled_from(["and", "or"]), st.lists(inner, max_size=3)) | st.tuples(st.just("not"), inner)
    ),
    max_leaves=5,
)
AGG = st.sampled_from(
    [
        "count",
        "sum",
        "mean",
        "avg",
        "min",
        "max",
        "unique",
        "median",
        "p95",
        "p50",
        "p0",
        "p99.999",
        "p0.001",
        "p100",
        "P95",
    ]
)
METRIC = st.one_of(
    METRIC_NAME,
    METRIC_NAME,
    st.fixed_dictionaries({"agg": AGG}, optional={"field": DIMENSION, "as": st.sampled_from(["x", "y", *INJECTIONS])}),
    st.fixed_dictionaries(
        {"agg": AGG | JUNK}, optional={"field": DIMENSION | JUNK, "as": JUNK, "where": FILTER | JUNK, "no": JUNK}
    ),
)
RANGE = st.one_of(
    st.sampled_from(
        [
            "all",
            "24h",
            "7d",
            "90min",
            "today",
            "this_week",
            "last_year",
            "7d@7d",
            ["2026-01-01", "2026-02-01"],
            "0d",
            "999999999w",
            ["2026-01-02", "2026-01-01"],
            [0, 10**12],
            ["0001-01-01", "9999-12-31"],
            {"start": 0, "end": 5e9},
            [NOW, NOW],
            [-1e308, 1e308],
        ]
    ),
    st.lists(st.sampled_from(["2026-01-01", "2026-01-15T00:00:00Z", 0, 1.5e9, "x"]) | SCALAR, min_size=2, max_size=2),
    JUNK,
)


def cursor(body):
    return base64.urlsafe_b64encode(json.dumps(body).encode()).decode().rstrip("=")


CURSOR = st.one_of(
    st.builds(
        lambda version, start, end, values: cursor([version, start, end, values]),
        st.integers(),
        st.sampled_from([0, -1, 10**18, 10**60]),
        st.sampled_from([10**16, 0, 10**60]),
        st.lists(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(max_size=4),
            max_size=4,
        ),
    ),
    JUNK.filter(lambda value: not isinstance(value, bytes)),
    st.text(max_size=9),
)
EVENT_METRIC = st.sampled_from([metric.name for metric in known() if metric.dataset == "events"]) | st.builds(
    lambda agg, field, name: {"agg": agg, "field": field, "as": name},
    st.sampled_from(["count", "sum", "mean", "min", "max", "unique", "median", "p95", "p0.001"]),
    st.sampled_from(["duration_ms", "status_code", "properties.k", "properties.x'y"]),
    st.sampled_from(["x", *INJECTIONS]),
)
EVENT_DIMENSION = st.sampled_from(
    sorted({*EVENTS.dimensions, "time:day", "time:hour", "time:hour_of_day", "time:month", "properties.k"})
)
GOOD_FILTER = st.one_of(
    st.tuples(
        st.sampled_from(["is", "is_not"]),
        st.just("properties.k"),
        st.lists(SCALAR.filter(lambda v: repr_ok(v)), min_size=1, max_size=3),
    ),
    st.tuples(
        st.sampled_from(["contains", "contains_not"]),
        st.sampled_from(["endpoint", "properties.k"]),
        st.sampled_from(INJECTIONS),
    ),
    st.tuples(
        st.sampled_from(["gt", "gte", "lt", "lte"]),
        st.sampled_from(["duration_ms", "properties.k"]),
        st.floats(-1e300, 1e300) | st.integers(-9, 9),
    ),
    st.tuples(st.just("is_set"), EVENT_DIMENSION.filter(lambda name: not name.startswith("time"))),
    st.tuples(st.just("matches"), st.sampled_from(["type", "properties.k"]), PATTERN),
)


def repr_ok(value):
    """Whether a filter may hold it."""
    if isinstance(value, str):
        return "\0" not in value and not any("\ud800" <= letter <= "\udfff" for letter in value)
    return not isinstance(value, float | int) or (
        math.isfinite(value) if isinstance(value, float) else -(2**63) <= value < 2**63
    )


@st.composite
def likely_question(draw):
    """Mostly well-formed, so that the statement behind it is run; each part may be odd."""

    def one_of(good, odd):
        return draw(odd if draw(st.integers(0, 11)) == 11 else good)

    metrics = one_of(st.lists(EVENT_METRIC, min_size=1, max_size=3, unique_by=column_of), st.lists(METRIC, max_size=3))
    dimensions = one_of(st.lists(EVENT_DIMENSION, max_size=2, unique=True), st.lists(DIMENSION, max_size=2))
    columns = [column_of(given_) for given_ in [*metrics, *dimensions]]
    order = st.lists(st.tuples(st.sampled_from(columns or ["events"]), st.sampled_from(["asc", "desc"])), max_size=2)
    return {
        "metrics": metrics,
        "dimensions": dimensions,
        "date_range": one_of(
            st.sampled_from(["all", "24h", "this_week", "last_month", ["2026-01-14", "2026-01-16"], [0, 4e9]]), RANGE
        ),
        "filters": one_of(st.lists(GOOD_FILTER, max_size=2), st.lists(FILTER, max_size=2)),
        "timezone": one_of(
            st.sampled_from(["Asia/Kathmandu", "America/New_York", None]),
            st.sampled_from(["Nowhere", "../etc/passwd", "/UTC"]),
        ),
        "order_by": one_of(
            order, st.lists(st.tuples(METRIC_NAME | DIMENSION, st.sampled_from(["asc", "desc"])), max_size=2)
        ),
        "limit": one_of(st.none() | st.integers(1, 3), st.sampled_from([10**30, 10_000])),
        "compare": one_of(st.sampled_from([None, "previous", "year", "last_week"]), RANGE),
        "after": one_of(st.none(), CURSOR),
        "totals": draw(st.booleans()),
        "dataset": one_of(st.just("events"), st.just("samples")),
    }


def column_of(given_):
    return given_ if isinstance(given_, str) else given_.get("as") if isinstance(given_, dict) else None
