"""The algebra of metrics: names, objects, custom ones, and what each means on known events."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

import gnomon
from gnomon import metrics
from gnomon.catalog import EVENTS
from gnomon.errors import InvalidValue, UnknownName
from gnomon.metrics import (
    Count,
    Max,
    Mean,
    Metric,
    Min,
    Quantile,
    Ratio,
    Sum,
    Unique,
    declare,
    find_metric,
    known,
    metric,
)
from gnomon.testing import ManualClock

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
#: The names that section 8 of the design fixes.
NAMED = [
    "events",
    "requests",
    "people",
    "visitors",
    "sessions",
    "visits",
    "successes",
    "failures",
    "unknown",
    "success_rate",
    "error_rate",
] + [
    f"{agg}_{field}"
    for agg in ("mean", "sum", "min", "max", "p50", "p90", "p95", "p99")
    for field in ("duration_ms", "bytes_sent", "bytes_received")
]


@pytest.fixture
def registry(monkeypatch):
    list(known())
    monkeypatch.setattr(metrics, "_REGISTRY", dict(metrics._REGISTRY))


@pytest.fixture(scope="module")
def engine():
    with gnomon.open(":memory:", clock=ManualClock(NOW)) as opened:
        for n in range(10):
            opened.record_request(
                source="s",
                user_id=f"u{n % 3}" if n < 8 else None,
                device_id=f"d{n % 2}" if n > 4 else None,
                session_id=f"x{n // 4}" if n else None,
                status_code=[200, 404, None][n % 3],
                duration_ms=float(n) if n else None,
                bytes_sent=n * 10,
                properties={"amount": [n, str(n), None][n % 3]},
            )
        opened.track("page_view")
        opened.track("pageview")
        opened.flush()
        yield opened


def value(engine, one, **question):
    row = engine.query([one], **question).rows[0]
    (found,) = row.values()
    return found


@pytest.mark.parametrize("name", NAMED)
def test_every_promised_name_can_be_asked(engine, name):
    assert list(engine.query([name]).rows[0]) == [name]


EXPECTED = {
    "events": 12,
    "requests": 10,
    "page_views": 2,
    "people": 5,
    "visitors": 5,
    "sessions": 3,
    "successes": 4,
    "failures": 3,
    "unknown": 5,
    "success_rate": 4 / 7,
    "error_rate": 3 / 7,
    "sum_duration_ms": 45,
    "mean_duration_ms": 5,
    "min_duration_ms": 1,
    "max_duration_ms": 9,
    "p50_duration_ms": 5,
    "p90_duration_ms": 9,
    "sum_bytes_sent": 450,
    "mean_bytes_sent": 45,
    "sum_bytes_received": 0,
    "mean_bytes_received": None,
    "p95_bytes_received": None,
    "min_bytes_received": None,
}


@pytest.mark.parametrize("name", EXPECTED)
def test_what_a_name_means(engine, name):
    assert value(engine, name) == pytest.approx(EXPECTED[name])


OBJECTS = [
    ({"agg": "count"}, 12),
    ({"agg": "count", "field": "duration_ms"}, 9),
    ({"agg": "count", "where": ["is", "success", [False]]}, 3),
    ({"agg": "sum", "field": "properties.amount"}, 0 + 3 + 6 + 9),
    ({"agg": "mean", "field": "properties.amount"}, 18 / 4),
    ({"agg": "avg", "field": "duration_ms"}, 5),
    ({"agg": "median", "field": "duration_ms"}, 5),
    ({"agg": "p50", "field": "duration_ms"}, 5),
    ({"agg": "p99.9", "field": "duration_ms"}, 9),
    ({"agg": "p0.001", "field": "duration_ms"}, 1),
    ({"agg": "unique", "field": "source"}, 1),
    ({"agg": "unique", "field": "properties.amount"}, 7),
    ({"agg": "max", "field": "status_code"}, 404),
    ({"agg": "min", "field": "properties.amount"}, 0),
    ({"agg": "sum", "field": "bytes_sent", "where": ["gt", "bytes_sent", 70]}, 170),
    ({"agg": "count", "field": "properties.amount"}, 7),
    ({"agg": "sum", "field": "properties.no such key"}, 0),
    ({"agg": "mean", "field": "properties.no such key"}, None),
]


@pytest.mark.parametrize(("given", "expected"), OBJECTS, ids=range(len(OBJECTS)))
def test_what_an_object_means(engine, given, expected):
    assert value(engine, given) == pytest.approx(expected)


def test_an_object_has_a_name():
    assert find_metric({"agg": "p95", "field": "duration_ms"}).name == "p95_duration_ms"
    assert find_metric({"agg": "p95", "field": "duration_ms", "as": "x"}).name == "x"
    assert find_metric({"agg": "count"}).name == "count"


def test_an_object_means_its_expression():
    for given, expression in (
        ({"agg": "count", "field": "source", "where": []}, Count([], "source")),
        ({"agg": "sum", "field": "a"}, Sum("a")),
        ({"agg": "mean", "field": "a"}, Mean("a")),
        ({"agg": "min", "field": "a"}, Min("a")),
        ({"agg": "max", "field": "a"}, Max("a")),
        ({"agg": "unique", "field": "a"}, Unique("a")),
        ({"agg": "p12.5", "field": "a"}, Quantile("a", 0.125)),
        ({"agg": "median", "field": "a"}, Quantile("a", 0.5)),
    ):
        assert find_metric(given).expression == expression


def test_a_custom_metric(registry, engine):
    @metric("found_rate", unit="x", better="up")
    def found_rate():
        return Ratio(Count(where=["is", "status_code", [404]]), Count(where=["is", "type", ["request"]]))

    assert isinstance(found_rate, Metric) and found_rate.is_rate and found_rate.better == "up"
    assert value(engine, "found_rate") == value(engine, found_rate) == 0.3
    assert found_rate in known()
    with pytest.raises(UnknownName, match="found_rate"):
        find_metric("fond_rate")


def test_a_ratio_without_a_denominator_is_null(registry, engine):
    for below in (Count(where=["is", "type", ["none"]]), Sum("bytes_received"), Unique("application")):
        assert value(engine, Metric("r", Ratio(Count(), below))) is None
    assert value(engine, Metric("r", Ratio(Sum("bytes_sent"), Count(where=["is", "type", ["request"]])))) == 45


def test_a_ratio_is_one_of_sums_not_a_mean_of_ratios(engine):
    by_status = [
        row["success_rate"]
        for row in engine.query(["success_rate"], ["status_class"])
        if row["success_rate"] is not None
    ]
    assert value(engine, "success_rate") == 4 / 7 != sum(by_status) / len(by_status)


def test_a_name_is_declared_once(registry):
    declare(Metric("events", Count()))  # the same again is no harm
    with pytest.raises(InvalidValue) as caught:
        declare(Metric("events", Sum("duration_ms")))
    assert caught.value.code == "name-taken"


@pytest.mark.parametrize(
    "bad",
    [
        Metric("", Count()),
        Metric("x" * 201, Count()),
        Metric("x", Sum("no_such_field")),
        Metric("x", Ratio(Count(), Unique("nothing"))),
    ],
    ids=range(4),
)
def test_a_metric_that_cannot_be_asked_is_refused_when_it_is_declared(registry, bad):
    with pytest.raises(InvalidValue):
        declare(bad)


def test_every_declared_metric_is_sound(registry):
    for found in known():
        assert found.dataset in ("events", "samples")
        assert found.better in (None, "up", "down")
        assert not found.is_share or found.is_rate
    assert set(EVENTS.measures) >= {"duration_ms", "bytes_sent", "bytes_received"}


def test_metrics_of_samples():
    with gnomon.open(":memory:", clock=ManualClock(NOW)) as engine:
        for n in range(1, 11):
            engine.record_metric("depth", n, kind="gauge", labels={"queue": "ab"[n % 2]})
        engine.flush()
        found = engine.query(
            ["samples", "sum_value", "mean_value", "min_value", "max_value", "p50_value", "p95_value"],
            ["labels.queue"],
            dataset="samples",
        )
        rows = {row["labels.queue"]: row for row in found}
        assert rows["a"] == {
            "labels.queue": "a",
            "samples": 5,
            "sum_value": 30.0,
            "mean_value": 6.0,
            "min_value": 2.0,
            "max_value": 10.0,
            "p50_value": 6.0,
            "p95_value": 10.0,
        }
        with pytest.raises(InvalidValue, match="dataset"):
            engine.query(["mean_value"])
        with pytest.raises(UnknownName):
            engine.query(["people"], dataset="samples")
