"""Weighted answers against sums in fractions by hand, and the 95 % intervals against two thousand drawn samples."""

from __future__ import annotations

import itertools
import random
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gnomon
from gnomon.query import intervals
from gnomon.testing import ManualClock

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)

ROW = st.tuples(
    st.sampled_from([1.0, 1.25, 2.0, 4.0, 10.0]),
    st.none() | st.integers(0, 6).map(float),
    st.sampled_from([True, False, None]),
)
AGGREGATES = ["count", "sum", "mean", "min", "max", "unique", "p50", "p95", "p1"]
QUESTION = [
    "events",
    "successes",
    "failures",
    "unknown",
    "success_rate",
    "error_rate",
    *({"agg": agg, "field": "duration_ms", "as": agg} for agg in AGGREGATES),
]


@pytest.fixture(scope="module")
def engine():
    with gnomon.open(":memory:", clock=ManualClock(NOW)) as opened:
        opened.track("elsewhere", ts=NOW - timedelta(days=9), weight=3.0)
        yield opened


def by_hand(rows):
    """What the design's section 5 makes of `(weight, duration, success)` rows."""
    w = [(Fraction(weight), duration, success) for weight, duration, success in rows]
    held = sorted((Fraction(duration), weight) for weight, duration, _ in w if duration is not None)
    total = sum(weight for _, weight in held)
    good, bad = (sum(weight for weight, _, success in w if success is wanted) for wanted in (True, False))

    def quantile(q):
        reached = Fraction(0)
        for value, weight in held:
            reached += weight
            if reached >= q * total:
                return value
        return None

    return {
        "events": sum(weight for weight, _, _ in w),
        "successes": good,
        "failures": bad,
        "unknown": sum(x for x, _, s in w if s is None),
        "success_rate": good / (good + bad) if good + bad else None,
        "error_rate": bad / (good + bad) if good + bad else None,
        "count": total,
        "sum": sum(value * weight for value, weight in held),
        "mean": sum(v * x for v, x in held) / total if held else None,
        "min": min((v for v, _ in held), default=None),
        "max": max((v for v, _ in held), default=None),
        "unique": len({v for v, _ in held}),
        "p50": quantile(Fraction(1, 2)),
        "p95": quantile(Fraction(95, 100)),
        "p1": quantile(Fraction(1, 100)),
    }


PLACES = itertools.count()


@settings(max_examples=12, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=12))
def test_every_aggregate_is_weighted(engine, rows):
    source = f"s{next(PLACES)}"
    for weight, duration, success in rows:
        engine.track(
            "t", source=source, duration_ms=duration, success=success, weight=weight, ts=NOW - timedelta(minutes=1)
        )
    engine.flush()
    where = [["is", "source", [source]]]
    expected = by_hand(rows)
    for question in (
        {"filters": where},
        {"filters": where, "dimensions": ["source"]},
        {"filters": where, "totals": True},
    ):
        found = engine.query(QUESTION, date_range="1h", **question)
        assert not found.basis.exact or all(weight == 1 for weight, _, _ in rows)
        for row in [found.rows[0], *([found.totals] if found.totals else [])]:
            for name, value in expected.items():
                assert row[name] == (None if value is None else pytest.approx(float(value), rel=1e-12)), name


def test_an_answer_of_weight_1_rows_says_exact_and_no_other_does(engine):
    engine.track("t", source="one", ts=NOW - timedelta(days=3))
    engine.track("t", source="ten", ts=NOW - timedelta(days=5), weight=10.0)
    engine.flush()
    exact = engine.query(["events"], date_range="1d@71h")
    assert (
        exact.basis.exact
        and exact.interval("events").low == exact.interval("events").high == exact.rows[0]["events"] == 1
    )
    assert not engine.query(["events"], date_range="2d@4d").basis.exact
    assert type(exact.rows[0]["events"]) is int


# -- coverage ---------------------------------------------------------------------------------------------------------

RUNS, PEOPLE = 2_000, 240


def population(seed):
    """`(keep probability, duration, success)`: failures are always kept, the rest in two strata."""
    luck = random.Random(seed)
    made = []
    for n in range(PEOPLE):
        success = luck.random() > 0.15
        keep = 1.0 if not success else (0.35, 0.6)[n % 2]
        made.append((keep, round(luck.gammavariate(3.0, 20.0), 3), success))
    return made


@pytest.fixture(scope="module")
def sampled():
    """One fixed population, sampled 2,000 times by independent coins; each sample is a source."""
    luck, people = random.Random(20_260_115), population(7)
    with gnomon.open(":memory:", clock=ManualClock(NOW), flush_seconds=60.0, sampling=False) as opened:
        for run in range(RUNS):
            source = f"{run}"
            for keep, duration, success in people:
                if luck.random() < keep:
                    opened.record_request(source=source, duration_ms=duration, success=success, weight=1 / keep)
            if run % 200 == 199:
                opened.flush()
        yield opened, people


METRICS = ["events", "sum_duration_ms", "mean_duration_ms", "success_rate", "p50_duration_ms"]


def coverage(engine, people):
    truth = {
        "events": len(people),
        "sum_duration_ms": sum(duration for _, duration, _ in people),
        "mean_duration_ms": sum(duration for _, duration, _ in people) / len(people),
        "success_rate": sum(success for _, _, success in people) / len(people),
        "p50_duration_ms": sorted(duration for _, duration, _ in people)[(len(people) - 1) // 2],
    }
    found = engine.query(METRICS, ["source"])
    assert len(found) == RUNS
    covered = dict.fromkeys(METRICS, 0)
    for row in found:
        for name in METRICS:
            interval = found.interval(name, row)
            covered[name] += interval.low <= truth[name] <= interval.high
    return {name: n / RUNS for name, n in covered.items()}


def test_the_intervals_hold_the_truth_95_times_in_100(sampled):
    engine, people = sampled
    for name, share in coverage(engine, people).items():
        assert 0.93 <= share <= 0.97, (name, share)


def test_the_estimates_are_not_biased(sampled):
    engine, people = sampled
    found = engine.query(["events", "sum_duration_ms", "failures"])
    assert found.rows[0]["events"] / RUNS == pytest.approx(len(people), rel=0.005)
    assert found.rows[0]["sum_duration_ms"] / RUNS == pytest.approx(
        sum(duration for _, duration, _ in people), rel=0.005
    )
    assert found.rows[0]["failures"] / RUNS == sum(not success for _, _, success in people)


def test_intervals_that_are_too_narrow_or_too_wide_are_found(sampled, monkeypatch):
    engine, people = sampled
    for factor in (1.64, 2.6):
        monkeypatch.setattr(intervals, "NORMAL_95", factor)
        assert not any(0.93 <= share <= 0.97 for share in coverage(engine, people).values())


def test_a_row_that_stands_for_itself_alone_adds_no_doubt(sampled):
    engine, _ = sampled
    found = engine.query(["failures"], ["source"], limit=5)
    for row in found:
        interval = found.interval("failures", row)
        assert interval.low == interval.high == interval.value and not interval.exact
