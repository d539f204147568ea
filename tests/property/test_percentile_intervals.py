"""The bounds of weighted percentiles: against sums by hand, and whether they hold the truth, over thousands of samples.

Coverage is measured with the statement that the engine runs: every sample is a group of one table.
"""

from __future__ import annotations

import itertools
import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from traffic import percentile

import gnomon
from gnomon.config import Settings
from gnomon.metrics import Quantile
from gnomon.query import intervals, percentiles
from gnomon.store.dialect import DUCKDB
from gnomon.store.duckdb import DuckDBStore
from gnomon.testing import ManualClock

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
P95 = {"agg": "p95", "field": "duration_ms", "as": "p95"}


# -- what the engine says ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine():
    with gnomon.open(":memory:", clock=ManualClock(NOW), sampling=False, flush_seconds=60.0) as opened:
        opened.track("elsewhere", ts=NOW - timedelta(minutes=1), weight=3.0)
        yield opened


def recorded(engine, source, rows, **fields):
    """Rows of `(value, weight)`, as a property and as the duration."""
    for value, weight in rows:
        engine.record_request(source=source, duration_ms=None if value is None else abs(value), weight=weight,
                              ts=NOW - timedelta(minutes=1), properties={"x": value}, **fields)  # fmt: skip


PLACES = itertools.count()
ROWS = st.tuples(st.integers(0, 10**6), st.integers(1, 400), st.sampled_from([1, 1.0, 10, 1000])).map(
    lambda made: sampled_rows(*made)
)


def sampled_rows(seed, count, step):
    """Values of either sign, with ties where the step is coarse, of several strata; and rows without a value."""
    luck = random.Random(seed)
    rows = []
    for _ in range(count):
        value = round(luck.gauss(200, 400) / step) * step + 0.0 if luck.random() < 0.95 else None
        rows.append((value, luck.choice([1.0, 1.0, 1.25, 4.0, 10.0])))
    return rows


QS = (0.5, 0.95, 0.1, 0.02)


@settings(max_examples=12, deadline=None)
@given(ROWS)
def test_values_and_bounds_are_those_of_sums_by_hand(engine, rows):
    source = f"s{next(PLACES)}"
    recorded(engine, source, rows)
    engine.flush()
    names = [{"agg": f"p{q * 100:g}", "field": "properties.x", "as": f"{q}"} for q in QS]
    pairs = sorted((value, weight) for value, weight in rows if value is not None)
    for question in ({}, {"dimensions": ["source", "time:day"]}, {"dimensions": ["time:hour"]}, {"totals": True}):
        found = engine.query(["events", *names], date_range="1h", filters=[["is", "source", [source]]], **question)
        row = found.totals or next(row for row in found if row["events"])
        for q in QS:
            interval = found.interval(f"{q}", row)
            if not pairs:
                assert interval.value is None and interval.reason == "no_value"
                continue
            expected = percentile(pairs, q)
            assert (interval.value, interval.low, interval.high) == (expected.value, expected.low, expected.high), q
            assert interval.reason == (None if expected.low is not None else "too_few")


def test_every_row_of_every_page_and_of_a_series_has_its_own(engine):
    for n in range(6):
        recorded(engine, f"page{n}", [(float(k * (n + 1)), 5.0) for k in range(300)], application="pages")
    engine.flush()
    asked = {"date_range": "1h", "filters": [["is", "application", ["pages"]]]}
    whole = engine.query([P95, "events", "p50_duration_ms"], ["source"], totals=True, **asked)
    assert [row["source"] for row in whole] == [f"page{n}" for n in reversed(range(6))]  # by the first metric
    rows, after = [], None
    while True:
        page = engine.query([P95, "events", "p50_duration_ms"], ["source"], limit=4, after=after, **asked)
        rows += [(page.interval("p95", row), page.interval("p50_duration_ms", row)) for row in page]
        after = page.next
        if after is None:
            break
    assert rows == [(whole.interval("p95", row), whole.interval("p50_duration_ms", row)) for row in whole]
    for high, middle in rows:
        assert high.low < high.value < high.high and middle.low < middle.value < middle.high < high.low
    total = whole.interval("p95", whole.totals)
    assert total.low < total.value < total.high
    series = engine.query([P95], ["time:minute"], **asked)
    known = [row for row in series if row["p95"] is not None]
    assert len(series) > 50 and len(known) == 1
    assert series.interval("p95", known[0]) == total
    assert series.interval("p95", 0).reason == "no_value"
    assert list(whole.to_dicts()[0]) == ["source", "p95", "events", "p50_duration_ms"]


def test_a_condition_of_a_metric_is_that_of_its_bounds(engine):
    recorded(engine, "where", [(float(k), 4.0) for k in range(200)], status_code=200)
    recorded(engine, "where", [(float(k), 4.0) for k in range(1_000, 1_200)], status_code=500)
    engine.flush()
    metric = {"agg": "p50", "field": "duration_ms", "as": "slow", "where": ["is", "success", [False]]}
    found = engine.query([metric, "p50_duration_ms"], ["source"], filters=[["is", "source", ["where"]]])
    slow = found.interval("slow")
    assert 1_000 < slow.low < slow.value < slow.high < 1_200
    assert found.interval("p50_duration_ms").low < 200 < found.interval("p50_duration_ms").high


def test_a_comparison_goes_beside_bounds(engine):
    for hours in (1, 25):
        for k in range(300):
            engine.record_request(
                source="moved", duration_ms=float(k + hours), weight=5.0, ts=NOW - timedelta(hours=hours)
            )
    engine.flush()
    found = engine.query(
        [P95], ["source"], "24h", filters=[["is", "source", ["moved"]]], compare="previous", totals=True
    )
    for row in (found[0], found.totals):
        assert found.interval("p95", row).low < found.interval("p95", row).value
        assert found.change("p95", row).before == found.change("p95", row).now + 24


def test_what_has_no_interval_says_why(engine):
    recorded(engine, "few", [(float(k), 10.0) for k in range(60)])
    engine.flush()
    asked = {"filters": [["is", "source", ["few"]]], "date_range": "1h"}
    names = ["p50_duration_ms", "p95_duration_ms", "max_duration_ms", "people", "events"]
    found = engine.query([*names, {"agg": "p50", "field": "bytes_sent", "as": "none"}], **asked)
    reasons = {name: found.interval(name).reason for name in found.metrics}
    assert reasons == {
        "p50_duration_ms": None, "p95_duration_ms": "too_few", "max_duration_ms": "as_seen", "people": "as_seen",
        "events": None, "none": "no_value",
    }  # fmt: skip
    assert found.interval("p95_duration_ms").low is None is found.interval("p95_duration_ms").high


def test_percentiles_of_rollups_have_none_and_say_so():
    clock = ManualClock(NOW)
    with gnomon.open(":memory:", clock=clock, sampling=False) as rolled:
        for n in range(400):
            rolled.record_request(user_id=f"u{n}", duration_ms=float(n), weight=10.0)
        rolled.flush()
        assert rolled.query([P95], date_range="1h").interval("p95").low is not None
        clock.now += timedelta(days=2)
        rolled.trigger_aggregation()
        found = rolled.query([P95, "events"], date_range="3d")
        assert found.basis.source != "raw" and "percentiles within 1%" in str(found.basis)
        assert (found.interval("p95").low, found.interval("p95").reason) == (None, "histogram")
        assert found.interval("events").low < 4_000 < found.interval("events").high
        again = rolled.query([P95, "events"], date_range="3d", basis="raw")
        assert again.interval("p95").low < again.interval("p95").value == 379.0 < again.interval("p95").high


def test_beside_people_that_sampling_left_out_percentiles_are_exact_and_have_bounds():
    clock = ManualClock(NOW)
    with gnomon.open(":memory:", clock=clock, flush_seconds=600.0, sampling_low=10, sampling_high=20) as engine:
        for n in range(5_000):
            clock.now += timedelta(microseconds=300)
            engine.record_request(id=f"r{n}", user_id=f"u{n % 7}", duration_ms=n % 997 + 0.5)
        engine.flush()
        alone = engine.query([P95], date_range="1h")
        beside = engine.query(["people", P95, "events"], date_range="1h", totals=True)
        assert beside.rows[0]["people"] == 7 and beside.basis.percentile_error == 0
        assert beside.interval("p95") == alone.interval("p95") == beside.interval("p95", beside.totals)
        assert alone.interval("p95").low < 947 < alone.interval("p95").high
        answer = engine.query(["people", P95], ["time:minute"], "1h")
        assert answer.interval("p95", max(range(len(answer)), key=lambda n: answer[n]["people"])).low is not None


# -- whether they hold the truth --------------------------------------------------------------------------------------

#: Name of a population -> how many, the value of number n, its keep probability, and the percentiles asked. `u` is a
#: number between 0 and 1 that belongs to n.
POPULATIONS = {
    "two strata": (1_500, "-80 * ln(u)", "CASE WHEN n % 2 = 0 THEN 0.35 ELSE 0.6 END", (0.1, 0.5, 0.9, 0.95)),
    "one in ten": (3_000, "-80 * ln(u)", "0.1", (0.1, 0.5, 0.9, 0.95)),
    "slow failures are all kept": (3_000, "-80 * ln(u) + 200 * (n % 10 = 0)::INT",
                                   "CASE WHEN n % 10 = 0 THEN 1 ELSE 0.1 END", (0.5, 0.9, 0.95)),
    "a heavy tail": (3_000, "10 / u", "0.1", (0.5, 0.9, 0.95)),
    "the fewest that are told": (220, "-80 * ln(u)", "0.1", (0.5,)),
}  # fmt: skip


def covered(store, name, runs, first=0):
    """The share of samples whose bounds hold the truth, and of those that have bounds, by percentile."""
    count, value, keep, qs = POPULATIONS[name]
    luck = "(hash({}) >> 11) / (2.0 ** 53)"
    drawn = f"SELECT n, {luck.format('n, 7')} AS u FROM range({count}) AS t(n)"
    people = f"SELECT n, {value} AS x, {keep} AS keep FROM ({drawn})"
    rows = (
        f"SELECT run AS d0, x, 1 / keep AS w FROM ({people}) AS p, range({first}, {first + runs}) AS r(run) "
        f"WHERE {luck.format('n, run, 11')} < keep"
    )
    columns = [f"{kind}{i}" for i in range(len(qs)) for kind in "mlh"]
    asked = [(i, Quantile("x", q)) for i, q in enumerate(qs)]
    text = percentiles.percentiles(rows, ["d0"], columns, asked, DUCKDB)
    truth = ", ".join(f"quantile_disc(x, {q}) AS t{i}" for i, q in enumerate(qs))
    shares = ", ".join(f"avg((l{i} <= t{i} AND t{i} <= h{i})::INT), count(l{i})" for i in range(len(qs)))
    sql = f"SELECT count(*), {shares} FROM {text}, (SELECT {truth} FROM ({people}))"
    (total, *found) = store.ask([sql], 60.0)[0].rows[0]
    assert total == runs
    return {q: (found[2 * i], found[2 * i + 1] / runs) for i, q in enumerate(qs)}


@pytest.fixture(scope="module")
def store():
    opened = DuckDBStore(":memory:", Settings())
    yield opened
    opened.close()


def hold(found):
    return [0.93 <= share <= 0.97 for share, _ in found.values()]


@pytest.mark.parametrize("name", POPULATIONS)
def test_the_bounds_hold_the_truth_95_times_in_100(store, name):
    found = covered(store, name, 2_000)
    assert all(hold(found)), found
    assert min(known for _, known in found.values()) > 0.4, found


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", POPULATIONS)
def test_they_do_so_in_other_samples(store, name):
    for first in (100_000, 200_000, 300_000, 400_000):
        found = covered(store, name, 5_000, first)
        assert all(hold(found)), (first, found)


def test_of_values_that_come_many_times_they_hold_the_truth_more_often(store, monkeypatch):
    ties = (3_000, "round(-80 * ln(u) / 20) * 20", "0.1", (0.5, 0.9, 0.95))
    monkeypatch.setitem(POPULATIONS, "ties", ties)
    assert all(share > 0.95 for share, _ in covered(store, "ties", 2_000).values())


def narrower(monkeypatch):
    monkeypatch.setattr(intervals, "NORMAL_95", 1.64)


def wider(monkeypatch):
    monkeypatch.setattr(intervals, "NORMAL_95", 2.5)


def without_their_own_weight(monkeypatch):
    """As if rows had been drawn from a population of equal ones: w(w-1) becomes w."""
    replaced(monkeypatch, "w * (w - 1)", "w")


def one_sided(monkeypatch):
    replaced(monkeypatch, "(level0 + error0)", "level0")


def replaced(monkeypatch, text, other):
    real = percentiles.percentiles

    def broken(*args):
        sql = real(*args)
        assert text in sql
        return sql.replace(text, other)

    monkeypatch.setattr(percentiles, "percentiles", broken)


@pytest.mark.parametrize("broken", [narrower, wider, without_their_own_weight, one_sided])
def test_bounds_that_are_too_narrow_or_too_wide_are_found(store, monkeypatch, broken):
    broken(monkeypatch)
    for name in ("one in ten", "two strata"):
        found = hold(covered(store, name, 2_000))
        assert not found[0] if broken is one_sided else not any(found), name


def test_where_next_to_nothing_lies_beyond_they_would_be_too_narrow(store, monkeypatch):
    count, value, keep, _ = POPULATIONS["slow failures are all kept"]
    monkeypatch.setitem(POPULATIONS, "tail", (count, value, keep, (0.99,)))
    assert covered(store, "tail", 2_000)[0.99][1] == 0.0
    monkeypatch.setattr(percentiles, "FEW", 0)
    assert covered(store, "tail", 2_000)[0.99][0] < 0.93
