"""The steps of a plan, without a store: range, grain, basis, weights, page; and the plan of the other period."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from gnomon.catalog import EVENTS
from gnomon.errors import InvalidValue, RangeTooLarge, UnknownName
from gnomon.query import model
from gnomon.query.model import All, Either, Not, Query, parse_filters
from gnomon.query.plan import Facts, make_plan, shifted
from gnomon.timerange import US_DAY, US_HOUR, to_us

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
FACTS = Facts(now=NOW, zone=ZoneInfo("UTC"), earliest_us=lambda: to_us(NOW) - 30 * US_DAY, weighted_spans=(), version=7,
              max_buckets=50_000, max_rows=10_000)  # fmt: skip


def plan(facts=FACTS, span=None, **question):
    return make_plan(Query.build(**{"metrics": ["events"], **question}), "shop", facts, span)


def test_each_step_says_what_it_chose():
    found = plan(date_range="7d", dimensions=["time:day"])
    assert (found.project, found.version, found.basis, found.weighted, found.page) == ("shop", 7, "raw", False, 10_000)
    text = " | ".join(found.steps)
    for word in ("range [2026-01-08", "time:day", "basis: raw rows", "weights: all 1"):
        assert word in text


def test_the_zone_is_that_of_the_question_else_of_the_store():
    assert str(plan().range.zone) == "UTC"
    assert str(plan(timezone="Asia/Kathmandu").range.zone) == "Asia/Kathmandu"
    assert str(plan(replace(FACTS, zone=ZoneInfo("Europe/Paris"))).range.zone) == "Europe/Paris"
    for zone in ("", "Nowhere", 5, []):
        with pytest.raises(UnknownName):
            plan(timezone=zone)


def test_buckets_only_where_time_is_alone():
    assert len(plan(dimensions=["time:day"], date_range=["2026-01-01", "2026-01-08"]).buckets) == 7
    assert plan(dimensions=["time:day", "source"]).buckets is None
    assert plan(dimensions=["time:hour_of_day"]).buckets is None
    assert plan().buckets is None and plan().pieces == ()


def test_too_many_buckets_are_refused():
    with pytest.raises(RangeTooLarge):
        plan(dimensions=["time:minute"], date_range=["2025-01-01", "2026-01-01"])
    assert plan(dimensions=["time:minute", "source"], date_range=["2025-01-01", "2026-01-01"])


def test_pieces_cover_the_range_and_are_cut_where_the_clock_changes():
    found = plan(dimensions=["time:hour"], date_range=["2026-03-28", "2026-03-30"], timezone="Europe/Paris")
    assert [piece.offset_us // US_HOUR for piece in found.pieces] == [1, 2]
    assert found.pieces[0].start_us <= found.range.start_us and found.pieces[-1].end_us >= found.range.end_us
    wide = plan(dimensions=["time:day", "source"], date_range=["0001-01-03", "9998-01-01"], timezone="America/New_York")
    assert len(wide.pieces) < 300


@pytest.mark.parametrize(
    ("first", "last", "weighted"),
    [
        (-5, -1, False),
        (0, 0, True),
        (-5, 0, True),
        (10, 20, True),
        (US_DAY - 1, US_DAY + 5, True),
        (US_DAY, US_DAY + 5, False),
    ],
)
def test_weights_count_where_the_range_meets_them(first, last, weighted):
    start = to_us(datetime(2026, 1, 10, tzinfo=UTC))
    found = plan(
        replace(FACTS, weighted_spans=((start + first, start + last),)), date_range=["2026-01-10", "2026-01-11"]
    )
    assert found.weighted is weighted


def test_samples_have_no_weights():
    everywhere = replace(FACTS, weighted_spans=((0, 2**60),))
    assert plan(everywhere).weighted and not plan(everywhere, metrics=["samples"], dataset_name="samples").weighted


def test_the_page():
    assert plan(limit=5).page == 5
    assert plan(limit=10**30).page == plan().page == 10_000


def test_a_following_page_keeps_the_range_of_the_first():
    later = replace(FACTS, now=datetime(2026, 2, 1, tzinfo=UTC))
    first = plan(date_range="24h")
    assert plan(later, (first.range.start_us, first.range.end_us), date_range="24h").range == first.range
    with pytest.raises(InvalidValue):
        plan(span=(5, 5))


@pytest.mark.parametrize(
    ("date_range", "compare", "start", "end"),
    [
        (["2026-01-08", "2026-01-15"], "previous", "2026-01-01", "2026-01-08"),
        ("last_month", "previous", "2025-11-01", "2025-12-01"),
        ("this_year", "year", "2025-01-01", "2026-01-01"),
        (["2026-01-08", "2026-01-15"], ["2025-06-01", "2025-06-03"], "2025-06-01", "2025-06-03"),
        ("today", "yesterday", "2026-01-14", "2026-01-15"),
    ],
)
def test_the_other_period(date_range, compare, start, end):
    found = shifted(plan(date_range=date_range, compare=compare), FACTS)
    assert (found.range.start.date().isoformat(), found.range.end.date().isoformat()) == (start, end)
    assert found.query.compare == compare and found.steps


# -- filters as values ------------------------------------------------------------------------------------------------


def test_filters_become_a_tree():
    one = ["is", "type", ["a"]]
    test = parse_filters(EVENTS, [one])
    assert isinstance(test, model.Test) and test.values == ("a",)
    assert parse_filters(EVENTS, one) == test == parse_filters(EVENTS, test)
    assert parse_filters(EVENTS, [one, one]) == All((test, test))
    assert parse_filters(EVENTS, ["or", [one, ["not", one]]]) == Either((test, Not(test)))
    assert parse_filters(EVENTS, ["and", [one]]) == All((test,))
    assert parse_filters(EVENTS, ["is", "type", "a"]) == test
    for nothing in (None, [], ()):
        assert parse_filters(EVENTS, nothing) is None


def test_filters_may_be_deep_and_many_up_to_a_limit():
    one = ["is", "type", ["a"]]
    deep = one
    for _ in range(16):
        deep = ["not", deep]
    assert parse_filters(EVENTS, deep)
    for bad in (["not", deep], [one] * 501, ["or", [one] * 501]):
        with pytest.raises(InvalidValue):
            parse_filters(EVENTS, bad)
    assert parse_filters(EVENTS, [["is", "type", [str(n) for n in range(10_000)]]])
    with pytest.raises(InvalidValue):
        parse_filters(EVENTS, [["is", "type", [str(n) for n in range(10_001)]]])


def test_a_query_is_a_value():
    build = {
        "metrics": ["events"],
        "dimensions": ["source"],
        "filters": [["is", "type", ["a"]]],
        "order_by": [["events", "desc"], "source"],
    }
    assert Query.build(**build) == Query.build(**build)
    assert Query.build(**build).order == ((1, True), (0, False))
    assert not Query.build(**build).time_only and Query.build(["events"], ["time:day"]).time_only
