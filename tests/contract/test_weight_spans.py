"""Spans of weights: what a checkpoint leaves of them, that no answer changes by it, and when they go."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest

import embedded
import gnomon
from gnomon.store import carrying, pruning
from gnomon.store.aliveness import joined
from gnomon.store.clickhouse import tidying
from gnomon.store.duckdb import writing as duckdb_writing
from gnomon.store.postgres import writing as postgres_writing
from gnomon.store.weights import GAP_US
from gnomon.testing import ManualClock
from gnomon.timerange import to_us

NOW = datetime(2026, 3, 20, 12, tzinfo=UTC)
STORES = ["duckdb", "postgres", "chdb", pytest.param("cluster", marks=pytest.mark.slow)]


@pytest.fixture(params=STORES)
def place(request, tmp_path, monkeypatch):
    monkeypatch.setattr(tidying, "FOLDED_FROM", 0)
    if request.param == "duckdb":
        return {"url": tmp_path / "x.duckdb"}
    url = embedded.url() if request.param == "chdb" else request.getfixturevalue(request.param).url()
    return {"url": url, "data_dir": str(tmp_path / "data")}


def opened(place, **more):
    more = {"clock": ManualClock(NOW), "cache_entries": 0, **more}
    return gnomon.open(**place, sampling=False, rollup_lag_seconds=0, scheduler=False, heartbeat_seconds=0, **more)


@pytest.fixture
def engine(place):
    with opened(place) as made:
        yield made


def weigh(engine, *minutes, weight=2.0):
    """A write of its own with a weight at each of these minutes before NOW."""
    for minute in minutes:
        engine.track("t", user_id="u", weight=weight, duration_ms=minute % 7, ts=NOW - timedelta(minutes=minute))
        engine.flush()


def spans(engine, project="default"):
    asked = f"SELECT epoch_us(first_ts), epoch_us(last_ts) FROM weighted WHERE project = '{project}'"
    return sorted(engine._hold.store.ask([asked], 20.0)[0].rows)


def checkpoint(engine):
    engine._hold.writer.checkpoint()


def put(engine, project, rows):
    """Spans as writes leave them, in one change."""
    values = ", ".join(f"('{project}', make_timestamp({first}), make_timestamp({last}))" for first, last in rows)
    engine._hold.store.change([f"INSERT INTO weighted (project, first_ts, last_ts) VALUES {values}"])
    weigh(engine, 1)


def test_a_checkpoint_joins_spans_that_are_less_than_an_hour_apart(engine):
    weigh(engine, 600, 595, 540, 475, 300, 10)
    store, before = engine._hold.store, engine._hold.store.data_version()
    assert len(spans(engine)) == 6
    checkpoint(engine)
    found = [tuple((to_us(NOW) - us) // 60_000_000 for us in span) for span in spans(engine)]
    assert found == [(600, 540), (475, 475), (300, 300), (10, 10)]
    assert store.data_version() == before  # so that kept answers stay
    checkpoint(engine)
    assert len(spans(engine)) == 4


@pytest.mark.parametrize("seed", range(3))
def test_any_spans_are_joined_as_a_plain_loop_does(engine, seed):
    chance, start = random.Random(seed), to_us(NOW)
    for project in ("default", "other"):
        rows = [(first, first + chance.choice([0, 1, GAP_US // 3, 9 * GAP_US]))
                for first in (start - chance.randrange(200) * GAP_US // 2 for _ in range(60))]  # fmt: skip
        put(engine, project, rows)
    wanted = {project: joined(spans(engine, project), GAP_US) for project in ("default", "other")}
    checkpoint(engine)
    assert {project: spans(engine, project) for project in wanted} == wanted


def answer(engine, since, until, **more):
    span = [NOW - timedelta(minutes=minute) for minute in (since, until)]
    metrics = ["events", "sum_duration_ms", "mean_duration_ms", "p50_duration_ms", "p95_duration_ms", "people"]
    return engine.query(metrics, date_range=span, **more)


def numbers(result):
    intervals = [result.interval(metric, 0) for metric in ("events", "mean_duration_ms", "p50_duration_ms")]
    return result.to_dicts(), [(told.low, told.high) for told in intervals]


def test_no_answer_changes_by_it(engine):
    weigh(engine, 200, 150, 140)
    weigh(engine, *range(199, 151, -1), weight=1.0)
    asked = [(210, 100), (200, 199), (190, 155), (145, 130), (130, 5)]
    before = [answer(engine, *span) for span in asked]
    checkpoint(engine)
    assert len(spans(engine)) == 1
    weigh(engine, 4, weight=1.0)  # a version later they are read again
    after = [answer(engine, *span) for span in asked]
    assert [numbers(result) for result in after] == [numbers(result) for result in before]
    # Of time in which all weights are 1, between two that are not, it says less than it could.
    assert [result.basis.exact for result in before] == [False, False, True, False, True]
    assert [result.basis.exact for result in after] == [False, False, False, False, True]


def test_spans_go_with_the_last_that_is_kept_of_their_time(engine):
    engine.set_retention_policy(raw_data_days=2, hourly_aggregates_days=4, daily_aggregates_days=6)
    day = 24 * 60
    weigh(engine, 9 * day, 5 * day, 3 * day, day)
    engine.prune()
    assert [round((to_us(NOW) - first) / 60_000_000 / day) for first, _ in spans(engine)] == [5, 3, 1]


def test_spans_stay_for_raw_rows_that_came_while_their_time_was_pruned(engine, monkeypatch):
    engine.set_retention_policy(raw_data_days=2, hourly_aggregates_days=4, daily_aggregates_days=6)
    weigh(engine, 9 * 24 * 60)
    monkeypatch.setattr(pruning, "prune_raw", lambda *_: [])  # as if it were behind the watermark
    engine.prune()
    assert len(spans(engine)) == 1


def test_a_copy_is_the_same_whichever_of_both_was_joined(place, tmp_path, monkeypatch):
    monkeypatch.setattr(tidying, "FOLDED_FROM", 1_000)  # the source keeps its rows where it may
    with opened(place) as engine:
        weigh(engine, 200, 190, 180, 20)
        there = tmp_path / "copy.duckdb"
        assert engine.copy_to(str(there)).same
        with opened({"url": there}) as copy:
            checkpoint(copy)
            assert len(spans(copy)) == 2
        assert engine.copy_to(str(there), verify_only=True).same


def test_spans_stay_for_the_hours_that_are_kept_longer_than_their_days(engine):
    engine.set_retention_policy(raw_data_days=2, hourly_aggregates_days=2, daily_aggregates_days=2)
    weigh(engine, 3 * 24 * 60, 24 * 60, weight=2.5)
    engine.prune()
    kept = engine._hold.store.ask(["SELECT sum(n) FROM rolled WHERE tier = 'hour'"], 20.0)[0].rows
    rollups = len(engine.settings.rollups)
    assert kept == [(5.0 * rollups,)] and len(spans(engine)) == 2


# -- variants that are wrong -------------------------------------------------------------------------------------------


def without_joining(monkeypatch):
    monkeypatch.setattr(duckdb_writing, "FOLD_WEIGHTS", [])
    monkeypatch.setattr(postgres_writing, "FOLD_WEIGHTS", "SELECT 1")
    monkeypatch.setattr(tidying, "FOLDED_FROM", 1_000)


def test_a_checkpoint_that_leaves_them_is_found(engine, monkeypatch):
    without_joining(monkeypatch)
    with pytest.raises(AssertionError):
        test_a_checkpoint_joins_spans_that_are_less_than_an_hour_apart(engine)


def forgetting_ends(text):
    """Each joined span as if it ended with the last row that begins in it."""
    return text.replace("max(last_us) AS until", "max(first_us) AS until")


def test_joining_that_forgets_where_a_span_ends_is_found(engine, monkeypatch):
    for module in (duckdb_writing, postgres_writing):
        texts = module.FOLD_WEIGHTS
        broken = forgetting_ends(texts) if isinstance(texts, str) else [*map(forgetting_ends, texts)]
        monkeypatch.setattr(module, "FOLD_WEIGHTS", broken)
    monkeypatch.setattr(tidying.weights, "FOLD_ALL", [*map(forgetting_ends, tidying.weights.FOLD_ALL)])
    with pytest.raises(AssertionError):
        test_any_spans_are_joined_as_a_plain_loop_does(engine, 0)


def test_pruning_that_does_not_look_for_what_is_left_is_found(engine, monkeypatch):
    words = "DELETE FROM weighted WHERE project = '{}' AND last_ts < make_timestamp({})"
    monkeypatch.setattr(pruning, "prune_weights", words.format)
    with pytest.raises(AssertionError):
        test_spans_stay_for_the_hours_that_are_kept_longer_than_their_days(engine)


def test_pruning_that_does_not_look_for_raw_rows_is_found(engine, monkeypatch):
    words = "DELETE FROM weighted WHERE project = '{}' AND last_ts < make_timestamp({})"
    monkeypatch.setattr(pruning, "prune_weights", words.format)
    with pytest.raises(AssertionError):
        test_spans_stay_for_raw_rows_that_came_while_their_time_was_pruned(engine, monkeypatch)


def test_a_copy_that_compares_rows_instead_of_spans_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(carrying, "JOINED", "SELECT project, epoch_us(first_ts) AS since, epoch_us(last_ts) AS until "
                        "FROM weighted")  # fmt: skip
    monkeypatch.setattr(tidying, "FOLDED_FROM", 1_000)
    place = {"url": embedded.url(), "data_dir": str(tmp_path / "data")}
    with pytest.raises(AssertionError):
        test_a_copy_is_the_same_whichever_of_both_was_joined(place, tmp_path, monkeypatch)
