"""Asking: pages of one moment, the cache, comparisons, series with all their buckets, and the shorter questions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gnomon
from gnomon.errors import InvalidValue, UnknownName
from gnomon.query import inquiry
from gnomon.query.asking import usage_filters
from gnomon.query.compile import Compiler
from gnomon.query.inquiry import AnswerCache
from gnomon.store import Table
from gnomon.testing import ManualClock

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)


@pytest.fixture
def clock():
    return ManualClock(NOW)


@pytest.fixture
def engine(clock):
    with gnomon.open(":memory:", clock=clock, flush_seconds=60.0) as opened:
        yield opened


def fill(engine, n=30, **more):
    for i in range(n):
        engine.track(
            "t",
            source=f"s{i % 10}",
            user_id=f"u{i % 4}",
            duration_ms=float(i % 7),
            properties={"k": [1, "1", 1.5, None, True][i % 5]},
            **more,
        )
    engine.flush()


def pages(engine, limit, between=lambda: None, **question):
    """All rows of a question, page by page; `between` is called before each following page."""
    rows, cursor = [], None
    for _ in range(200):
        found = engine.query(limit=limit, after=cursor, **question)
        assert len(found) <= limit
        rows += found.to_dicts()
        cursor = found.next
        if cursor is None:
            return rows
        between()
    raise AssertionError("pages without end")


QUESTIONS = [
    {"metrics": ["events"], "dimensions": ["source"]},
    {"metrics": ["events", "people"], "dimensions": ["source"], "order_by": [["people", "asc"]]},
    {"metrics": ["mean_duration_ms"], "dimensions": ["source", "user_id"], "order_by": [["mean_duration_ms", "desc"]]},
    {"metrics": ["events"], "dimensions": ["properties.k"], "order_by": [["properties.k", "desc"]]},
    {"metrics": ["events"], "dimensions": ["properties.k", "source", "time:hour"], "date_range": "24h"},
    {
        "metrics": ["success_rate", "events"],
        "dimensions": ["source"],
        "order_by": [["success_rate", "desc"], ["events", "asc"]],
    },
    {"metrics": ["events"], "dimensions": ["time:hour"], "date_range": "24h"},
    {"metrics": ["events"], "dimensions": ["time:hour"], "date_range": "24h", "order_by": [["events", "desc"]]},
    {"metrics": ["events"], "dimensions": ["success"]},
    {"metrics": ["events"], "dimensions": ["actor"], "filters": [["is_not", "source", ["s1"]]]},
]


@pytest.mark.parametrize("question", QUESTIONS, ids=range(len(QUESTIONS)))
@pytest.mark.parametrize("limit", [1, 3, 7])
def test_pages_put_together_are_the_whole_answer(engine, question, limit):
    fill(engine)
    fill(engine, 6, success=True)
    engine.track("t")
    engine.flush()
    assert pages(engine, limit, **question) == engine.query(**question).to_dicts()


def check_one_moment(engine, clock, question, write):
    whole = engine.query(**question).to_dicts()
    assert pages(engine, 3, between=write, **question) == whole


@pytest.mark.parametrize(
    "question",
    [q for q in QUESTIONS if "hour" not in str(q)],
    ids=range(len([q for q in QUESTIONS if "hour" not in str(q)])),
)
def test_pages_do_not_see_what_is_written_between_them(engine, clock, question):
    fill(engine)
    fill(engine, 6, success=True)
    check_one_moment(engine, clock, question, lambda: fill(engine, 25, success=False))


@pytest.mark.parametrize(
    "question", [q for q in QUESTIONS if "hour" in str(q)], ids=range(len([q for q in QUESTIONS if "hour" in str(q)]))
)
def test_pages_of_a_range_that_ends_now_keep_their_range(engine, clock, question):
    for hours in range(0, 24, 2):
        fill(engine, 3, ts=NOW - timedelta(hours=hours, minutes=1))

    def write():
        clock.advance(minutes=50)
        fill(engine, 5)

    check_one_moment(engine, clock, question, write)


def test_totals_of_a_later_page_are_of_the_same_moment(engine):
    fill(engine)
    first = engine.query(["events"], ["source"], limit=3, totals=True)
    fill(engine, 7)
    second = engine.query(["events"], ["source"], limit=3, totals=True, after=first.next)
    assert first.totals["events"] == second.totals["events"] == 30


def test_a_first_page_that_saw_more_than_its_version_is_asked_again(engine, monkeypatch):
    """A write may come between the look at the version and the answer: then the pages that follow would not fit."""
    fill(engine)
    ask, written = type(engine._hold.store).ask, []

    def slipping(self, statements, timeout):
        if "GROUP BY" in statements[0] and not written:
            written.append(1)
            fill(engine, 25)
        return ask(self, statements, timeout)

    monkeypatch.setattr(type(engine._hold.store), "ask", slipping)
    assert sum(row["events"] for row in pages(engine, 3, metrics=["events"], dimensions=["source"])) == 30


@pytest.mark.parametrize("broken", ["version", "range"])
def test_pages_that_drift_would_be_found(engine, clock, monkeypatch, broken):
    for hours in range(24):
        fill(engine, 12, ts=NOW - timedelta(hours=hours, minutes=1))
    if broken == "version":
        where = Compiler.where
        monkeypatch.setattr(Compiler, "where", lambda self, cursor: where(self, None))
        question, write = QUESTIONS[0], lambda: fill(engine, 40)
    else:
        make_plan = inquiry.make_plan
        monkeypatch.setattr(
            inquiry, "make_plan", lambda query, project, facts, span=None: make_plan(query, project, facts)
        )
        question, write = QUESTIONS[6], lambda: clock.advance(minutes=50)
    with pytest.raises(AssertionError):
        check_one_moment(engine, clock, question, write)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_order_pages_through(engine, data):
    if not engine.books().received:
        fill(engine, 60)
        fill(engine, 10, success=True, status_code=500)
    dimensions = data.draw(
        st.lists(
            st.sampled_from(["source", "user_id", "properties.k", "success", "status_class"]),
            min_size=1,
            max_size=3,
            unique=True,
        )
    )
    metrics = data.draw(
        st.lists(
            st.sampled_from(["events", "people", "success_rate", "p50_duration_ms", "max_duration_ms"]),
            min_size=1,
            max_size=2,
            unique=True,
        )
    )
    order = data.draw(
        st.lists(st.tuples(st.sampled_from(dimensions + metrics), st.sampled_from(["asc", "desc"])), max_size=3)
    )
    question = {"metrics": metrics, "dimensions": dimensions, "order_by": order}
    assert pages(engine, data.draw(st.integers(1, 9)), **question) == engine.query(**question).to_dicts()


# -- the cache --------------------------------------------------------------------------------------------------------


def test_an_answer_is_kept_until_something_is_written(engine):
    fill(engine)
    question = {"metrics": ["events"], "date_range": ["2026-01-01", "2026-02-01"]}
    first, second = engine.query(**question), engine.query(**question)
    assert (first.basis.from_cache, second.basis.from_cache) == (False, True)
    assert first.to_dicts() == second.to_dicts() == [{"events": 30}]
    engine.track("t")
    engine.flush()
    third = engine.query(**question)
    assert not third.basis.from_cache and third.to_dicts() == [{"events": 31}]
    assert third.basis.data_version > second.basis.data_version


def test_a_kept_answer_cannot_be_changed_by_its_reader(engine):
    fill(engine)
    question = {
        "metrics": ["events"],
        "dimensions": ["time:day"],
        "date_range": ["2026-01-01", "2026-02-01"],
        "totals": True,
        "compare": "previous",
    }
    first = engine.query(**question)
    expected = (first.to_dicts(), dict(first.totals), first.change("events", 0))
    first.rows[0]["events"] = 5
    first.rows.clear()
    first.totals["events"] = 0
    second = engine.query(**question)
    assert second.basis.from_cache
    assert (second.to_dicts(), dict(second.totals), second.change("events", 0)) == expected


def test_a_cache_that_forgets_the_version_would_be_found(engine, monkeypatch):
    get, put = AnswerCache.get, AnswerCache.put
    monkeypatch.setattr(AnswerCache, "get", lambda self, key: get(self, key[0]))
    monkeypatch.setattr(AnswerCache, "put", lambda self, key, tables: put(self, key[0], tables))
    with pytest.raises(AssertionError):
        test_an_answer_is_kept_until_something_is_written(engine)


def table(rows=1):
    return [Table(["a"], [(n,) for n in range(rows)])]


def test_the_least_recently_used_goes_first():
    cache = AnswerCache(2, 300.0)
    cache.put("a", table())
    cache.put("b", table())
    assert cache.get("a")
    cache.put("c", table())
    assert cache.get("a") and cache.get("c") and cache.get("b") is None


def test_an_old_answer_is_not_given(monkeypatch):
    cache = AnswerCache(2, 10.0)
    moment = [100.0]
    monkeypatch.setattr(inquiry.time, "monotonic", lambda: moment[0])
    cache.put("a", table())
    moment[0] = 110.0
    assert cache.get("a")
    moment[0] = 110.1
    assert cache.get("a") is None


def test_big_answers_are_not_kept_and_a_cache_may_be_off():
    cache = AnswerCache(2, 10.0)
    cache.put("a", table(20_001))
    assert cache.get("a") is None
    off = AnswerCache(0, 10.0)
    off.put("a", table())
    assert off.get("a") is None


# -- series -----------------------------------------------------------------------------------------------------------


def test_every_bucket_of_a_range_is_there_and_the_future_is_null(engine):
    fill(engine, 4)
    found = engine.query(
        ["events", "people", "sum_duration_ms", "mean_duration_ms", "success_rate"], ["time:hour"], "today"
    )
    assert len(found) == 24
    assert [row["events"] for row in found] == [0] * 12 + [4] + [None] * 11
    assert [row["sum_duration_ms"] for row in found][:1] == [0]
    assert [row["mean_duration_ms"] for row in found][:1] == [None]
    assert found.rows[12]["time:hour"] == datetime(2026, 1, 15, 12, tzinfo=UTC)
    assert all(row["time:hour"].tzinfo is not None for row in found)


def test_buckets_carry_the_zone_of_the_question(engine):
    fill(engine, 1)
    found = engine.query(["events"], ["time:day"], "2d", timezone="Asia/Kathmandu")
    assert [row["time:day"].isoformat() for row in found] == [
        "2026-01-13T00:00:00+05:45",
        "2026-01-14T00:00:00+05:45",
        "2026-01-15T00:00:00+05:45",
    ]
    assert [row["events"] for row in found] == [0, 0, 1]


def test_parts_of_time_are_numbers(engine):
    fill(engine, 1)
    found = engine.query(["events"], ["time:hour_of_day", "time:day_of_week"])
    assert found.to_dicts() == [{"time:hour_of_day": 12, "time:day_of_week": 4, "events": 1}]


# -- comparison -------------------------------------------------------------------------------------------------------


def test_the_period_before_by_groups(engine):
    for source, now, before in (("both", 6, 4), ("new", 2, 0), ("gone", 0, 3)):
        for n, ts in ((now, NOW), (before, NOW - timedelta(days=7))):
            for i in range(n):
                engine.record_request(source=source, success=i % 2 == 0, ts=ts)
    engine.flush()
    found = engine.query(
        ["events", "success_rate", "mean_duration_ms"], ["source"], "7d", compare="previous", totals=True
    )
    rows = {row["source"]: row for row in found}
    assert set(rows) == {"both", "new"}
    both, new = found.change("events", rows["both"]), found.change("events", rows["new"])
    assert (both.now, both.before, both.change, both.reason) == (6, 4, 0.5, None)
    assert (new.now, new.before, new.change, new.reason) == (2, 0, None, "no_baseline")
    rate = found.change("success_rate", rows["both"])
    assert (rate.now, rate.before, rate.points, rate.change) == (0.5, 0.5, 0.0, 0.0)
    assert found.change("success_rate", rows["new"]).reason == "no_baseline"
    assert found.change("mean_duration_ms", rows["both"]).reason == "no_value"
    everything = found.change("events", found.totals)
    assert (everything.now, everything.before) == (8, 7)


def test_a_series_is_compared_bucket_by_bucket(engine):
    for days, n in ((0, 3), (1, 1), (2, 5), (3, 2)):
        for _ in range(n):
            engine.track("t", ts=NOW - timedelta(days=days))
    engine.flush()
    found = engine.query(["events"], ["time:day"], ["2026-01-14", "2026-01-16"], compare="previous")
    assert [(found.change("events", row).now, found.change("events", row).before) for row in found] == [(1, 2), (3, 5)]


def test_a_bucket_without_a_partner_has_no_baseline(engine):
    found = engine.query(["events"], ["time:day"], "last_month", compare=["2025-11-01", "2025-12-01"])  # 31 days and 30
    assert found.change("events", 29).before == 0
    assert found.change("events", 30).before is None and found.change("events", 30).reason == "no_baseline"


@pytest.mark.parametrize(
    "compare",
    ["previous", "previous_period", "year", "year_over_year", "7d@7d", ["2025-01-01", "2025-02-01"], "last_week"],
)
def test_every_form_of_comparison(engine, compare):
    fill(engine, 3)
    found = engine.query(["events"], date_range="7d", compare=compare)
    assert found.change("events").now == 3 and found.change("events").reason == "no_baseline"


# -- the shorter questions --------------------------------------------------------------------------------------------


def test_usage_and_its_words(engine):
    for i in range(6):
        engine.record_request(
            source="ab"[i % 2], application="app", status_code=200 if i else 500, duration_ms=10.0 * i, domain="d"
        )
    engine.flush()
    found = engine.query_usage(
        "24h", {"source": ["a", "b"], "app": "app", "min_duration_ms": 10, "max_duration_ms": 40, "success": True}
    )
    assert found.rows[0]["events"] == 4
    assert engine.query_usage().columns[0] == "events"
    assert engine.query_usage(group_by="source").dimensions == ["source"]
    assert engine.query_usage(group_by=["app", "hour"]).dimensions == ["application", "time:hour_of_day"]
    assert engine.query_usage(group_by=("day",), metrics=["requests"]).columns == ["time:day", "requests"]
    assert engine.query_usage(filters=[["is", "source", ["a"]]]).rows[0]["events"] == 3
    with pytest.raises(UnknownName, match="source"):
        engine.query_usage(filters={"sorce": "a"})


def test_filters_as_a_mapping():
    assert usage_filters({"source": {"a"}, "properties.x": None}) == [
        ["is", "source", ["a"]],
        ["is", "properties.x", [None]],
    ]


def test_two_periods(engine):
    for n, days in ((4, 0), (2, 7)):
        for _ in range(n):
            engine.track("t", source="s", ts=NOW - timedelta(days=days))
    engine.flush()
    found = engine.compare_periods("7d@7d", "7d")
    assert found.change("events", 0).change == 1.0


def test_a_question_can_be_explained(engine):
    text = engine.explain(["events"], ["source"], date_range="7d", dataset="events")
    assert "range [" in text and "basis: raw rows" in text and "SELECT" in text
    with pytest.raises(InvalidValue):
        engine.explain(["nope"])


def test_a_checked_query_can_be_run(engine):
    fill(engine, 2)
    assert engine.run(gnomon.Query.build(["events"])).to_dicts() == [{"events": 2}]
