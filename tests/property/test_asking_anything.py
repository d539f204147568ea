"""Whatever is asked: an answer, or a refusal with a code; never another exception, never another statement."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime

import pytest
from any_question import INJECTIONS, JUNK, NOW, cursor, likely_question
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import gnomon
from gnomon.errors import GnomonError, InvalidValue
from gnomon.query import model
from gnomon.query.compile import FilterWords
from gnomon.testing import ManualClock


@pytest.fixture(scope="module")
def engine():
    with gnomon.open(":memory:", clock=ManualClock(NOW), query_timeout_seconds=20.0) as opened:
        for n in range(40):
            opened.record_request(
                source="ab"[n % 2],
                url=f"http://x/{n % 3}",
                status_code=200 + n % 4 * 100,
                duration_ms=float(n),
                user_id=f"u{n % 5}",
                weight=1.0 + n % 3,
                properties={"k": [1, 1.0, "1", True, None, [1], {"a": 1}][n % 7], "x'y": n},
            )
        for n in range(5):
            opened.record_metric("m", n, labels={"q": "a"})
        opened.flush()
        yield opened


ARGUMENTS = [
    "metrics",
    "dimensions",
    "date_range",
    "filters",
    "timezone",
    "order_by",
    "limit",
    "compare",
    "after",
    "totals",
    "dataset",
]


def ask(engine, question):
    """The answer, or the code of the refusal; anything else is an error of ours."""
    try:
        found = engine.query(**question)
    except InvalidValue as error:
        assert error.code and error.status == 422
        assert str(error).isprintable()
        return error.code
    assert len(found) <= 10_000
    return found


QUIET = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@QUIET
@given(likely_question())
@example({"metrics": ["events"], "dataset": []})
@example({"metrics": ["events"], "filters": [["matches", "type", "(" * 499 + ")" * 499]]})
@example({"metrics": ["events"], "filters": [["matches", "type", "(?:a{200}){200}"]]})
@example({"metrics": ["events"], "filters": [["matches", "type", "a++"]]})
@example({"metrics": ["events"], "dimensions": ["type"], "after": cursor([1, 0, 10**16, [1, 5]])})
@example({"metrics": ["events"], "dimensions": ["type"], "after": cursor([1, 0, 10**16, ["Corrupt", "checksum"]])})
def test_a_likely_question_is_answered_or_refused(engine, question):
    ask(engine, question)


@settings(QUIET, max_examples=200)
@given(st.dictionaries(st.sampled_from(ARGUMENTS), JUNK, min_size=1, max_size=3))
def test_junk_in_any_argument_is_refused_or_harmless(engine, junk):
    ask(engine, {"metrics": ["events"], **junk})


@settings(QUIET, max_examples=50)
@given(JUNK, JUNK, JUNK, JUNK)
def test_the_shorter_questions_refuse_as_well(engine, span, filters, groups, metrics):
    for question in (
        lambda: engine.query_usage(span, None, None, None),
        lambda: engine.query_usage("all", filters, None, None),
        lambda: engine.query_usage("all", None, groups, None),
        lambda: engine.query_usage("all", None, None, metrics),
        lambda: engine.compare_periods(span, "7d"),
        lambda: engine.compare_periods("7d", span),
        lambda: engine.compare_periods("7d", "7d", groups),
        lambda: engine.explain(["events"], groups),
    ):
        try:
            question()
        except InvalidValue as error:
            assert error.code


# -- what is wrong is refused with its own code -----------------------------------------------------------------------

WRONG = [
    ({"metrics": "events"}, "bad-query"),
    ({"metrics": []}, "bad-query"),
    ({"metrics": {"a": 1}}, "bad-query"),
    ({"metrics": ["evnts"]}, "unknown-name"),
    ({"metrics": [5]}, "bad-query"),
    ({"metrics": [{}]}, "bad-query"),
    ({"metrics": [{"agg": "p95"}]}, "bad-query"),
    ({"metrics": [{"agg": "p0", "field": "duration_ms"}]}, "bad-query"),
    ({"metrics": [{"agg": "p100", "field": "duration_ms"}]}, "unknown-name"),
    ({"metrics": [{"agg": "sum", "field": "type"}]}, "bad-query"),
    ({"metrics": [{"agg": "sum", "field": "time:day"}]}, "bad-query"),
    ({"metrics": [{"agg": "unique", "field": "time:day"}]}, "bad-query"),
    ({"metrics": [{"agg": "sum", "feild": "x"}]}, "unknown-name"),
    ({"metrics": [{"agg": "count", "as": "x" * 201}]}, "bad-query"),
    ({"metrics": [{"agg": "count", "where": 5}]}, "bad-filter"),
    ({"metrics": ["events", "events"]}, "bad-query"),
    ({"metrics": ["events"] * 51}, "bad-query"),
    ({"metrics": ["mean_value"]}, "bad-query"),
    ({"dimensions": "type"}, "bad-query"),
    ({"dimensions": ["tpye"]}, "unknown-name"),
    ({"dimensions": [None]}, "bad-query"),
    ({"dimensions": ["time:fortnight"]}, "unknown-name"),
    ({"dimensions": ["properties."]}, "bad-query"),
    ({"dimensions": ["properties." + "k" * 201]}, "bad-query"),
    ({"dimensions": ["properties.\ud800"]}, "bad-query"),
    ({"dimensions": ["properties.\0"]}, "bad-query"),
    ({"dimensions": ["labels.q"]}, "unknown-name"),
    ({"dimensions": ["type"] * 11}, "bad-query"),
    ({"filters": "type"}, "bad-filter"),
    ({"filters": [5]}, "bad-filter"),
    ({"filters": [["is"]]}, "bad-filter"),
    ({"filters": [["is", "type"]]}, "bad-filter"),
    ({"filters": [["is", "type", []]]}, "bad-filter"),
    ({"filters": [["is", "type", [1]]]}, "bad-filter"),
    ({"filters": [["is", "type", ["a"], 1]]}, "bad-filter"),
    ({"filters": [["iz", "type", ["a"]]]}, "unknown-name"),
    ({"filters": [["is", "tpye", ["a"]]]}, "unknown-name"),
    ({"filters": [["is", "status_code", ["200"]]]}, "bad-filter"),
    ({"filters": [["is", "success", [1]]]}, "bad-filter"),
    ({"filters": [["gt", "type", 1]]}, "bad-filter"),
    ({"filters": [["gt", "duration_ms", [1, 2]]]}, "bad-filter"),
    ({"filters": [["gt", "duration_ms", None]]}, "bad-filter"),
    ({"filters": [["gt", "duration_ms", math.nan]]}, "bad-filter"),
    ({"filters": [["gt", "duration_ms", 2**63]]}, "bad-filter"),
    ({"filters": [["gt", "success", True]]}, "bad-filter"),
    ({"filters": [["contains", "status_code", "2"]]}, "bad-filter"),
    ({"filters": [["contains", "type", None]]}, "bad-filter"),
    ({"filters": [["is", "time:day", ["2026-01-01"]]]}, "bad-filter"),
    ({"filters": [["is_set", "type", 1]]}, "bad-filter"),
    ({"filters": [["is", "type", ["\0"]]]}, "bad-filter"),
    ({"filters": [["is", "type", ["\ud800"]]]}, "bad-filter"),
    ({"filters": [["is", "type", ["x" * 8_193]]]}, "bad-filter"),
    ({"filters": [["is", "type", [{}]]]}, "bad-filter"),
    ({"filters": [["and", []]]}, "bad-filter"),
    ({"filters": [["or", 5]]}, "bad-filter"),
    ({"filters": [["not"]]}, "bad-filter"),
    ({"filters": [["and", [["is", "type", ["a"]]], 1]]}, "bad-filter"),
    ({"filters": [["is", "type", ["a"]]] * 501}, "bad-filter"),
    ({"filters": [["matches", "type", "("]]}, "bad-pattern"),
    ({"filters": [["matches", "type", "(?=a)"]]}, "bad-pattern"),
    ({"filters": [["matches", "type", r"\1"]]}, "bad-pattern"),
    ({"filters": [["matches", "type", r"\b"]]}, "bad-pattern"),
    ({"filters": [["matches", "type", "a{256}"]]}, "bad-pattern"),
    ({"filters": [["matches", "type", "a" * 1_001]]}, "bad-pattern"),
    ({"filters": [["matches", "type", "a*+"]]}, "bad-pattern"),
    ({"filters": [["matches", "type", "(?i)a"]]}, "bad-pattern"),
    ({"filters": [["matches", "type", "(a{250}){250}"]]}, "bad-pattern"),
    ({"filters": [["matches", "type", "a\\"]]}, "bad-pattern"),
    ({"date_range": "7x"}, "bad-range"),
    ({"date_range": None}, "bad-range"),
    ({"date_range": ["2026-01-02", "2026-01-01"]}, "empty-range"),
    ({"date_range": ["2026-01-01"]}, "bad-range"),
    ({"date_range": [datetime(2026, 1, 1), NOW]}, "naive-datetime"),
    ({"date_range": ["2026-13-01", "2026-12-01"]}, "bad-time"),
    ({"date_range": "all", "dimensions": ["time:minute"], "compare": "10d"}, None),
    ({"date_range": ["2020-01-01", "2026-01-01"], "dimensions": ["time:minute"]}, "range-too-large"),
    ({"timezone": "Mars/Olympus"}, "unknown-name"),
    ({"timezone": ""}, "unknown-name"),
    ({"timezone": []}, "unknown-name"),
    ({"timezone": 0}, "unknown-name"),
    ({"timezone": 10**5_000}, "unknown-name"),
    ({"order_by": "events"}, "bad-query"),
    ({"order_by": [["events", "down"]]}, "bad-query"),
    ({"order_by": [[10**5_000, "asc"]]}, "unknown-name"),
    ({"order_by": [["type", "asc"]]}, "unknown-name"),
    ({"order_by": [["events"]]}, "bad-query"),
    ({"order_by": [5]}, "bad-query"),
    ({"limit": 0}, "bad-query"),
    ({"limit": -1}, "bad-query"),
    ({"limit": True}, "bad-query"),
    ({"limit": 1.0}, "bad-query"),
    ({"limit": "5"}, "bad-query"),
    ({"compare": "before"}, "bad-range"),
    ({"compare": 5}, "bad-range"),
    ({"compare": []}, "bad-range"),
    ({"after": "x"}, "bad-cursor"),
    ({"after": ""}, "bad-cursor"),
    ({"after": 5}, "bad-cursor"),
    ({"after": cursor([1, 0, 1, []])}, "bad-cursor"),
    ({"after": cursor([1, 0, 10**16, ["a", "b", "c", "d"]]), "dimensions": ["type"]}, "bad-cursor"),
    ({"after": cursor([1, 0, 10**15, ["x"]]), "dimensions": ["time:day"]}, "bad-cursor"),
    ({"after": cursor([1, 5, 0, [1, "a"]]), "dimensions": ["type"]}, "empty-range"),
    ({"dataset": "event"}, "unknown-name"),
    ({"dataset": None}, "unknown-name"),
    ({"dataset": {}}, "unknown-name"),
]


@pytest.mark.parametrize(
    ("question", "code"), [entry for entry in WRONG if entry[1]], ids=range(len([entry for entry in WRONG if entry[1]]))
)
def test_what_is_wrong_has_a_code(engine, question, code):
    assert ask(engine, {"metrics": ["events"], **question}) == code


def test_a_misspelt_name_gets_a_suggestion(engine):
    for question, hint in (
        ({"metrics": ["succes_rate"]}, "success_rate"),
        ({"dimensions": ["sourc"]}, "source"),
        ({"timezone": "Asia/Kathmandoo"}, "Asia/Kathmandu"),
        ({"dimensions": ["time:dya"]}, "time:day"),
        ({"filters": [["contain", "type", "x"]]}, "contains"),
        ({"dataset": "sample"}, "samples"),
    ):
        with pytest.raises(InvalidValue) as caught:
            engine.query(**{"metrics": ["events"], **question})
        assert hint in caught.value.remedy


GOOD_PATTERNS = [
    "[[:alpha:]]+",
    "a|b",
    "^$",
    "a{0,255}",
    "[a&&b]",
    "[]a]",
    "[^]a]",
    "(?:ab)*",
    r"\d+\.\d",
    "[-a]",
    "é+",
    "",
    "[[.]",
    "[a||b]",
    r"\[(a)[)]",
]


@pytest.mark.parametrize("pattern", GOOD_PATTERNS)
def test_patterns_that_stores_read_alike_pass_without_a_warning(engine, pattern):
    assert len(ask(engine, {"metrics": ["events"], "filters": [["matches", "type", pattern]]})) == 1


# -- text stays data --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile():
    """Each text in every place of an event, in a project of its own name as well."""
    with gnomon.open(":memory:", clock=ManualClock(NOW)) as opened:
        for text in INJECTIONS:
            opened.track(text, source=text, user_id=text, endpoint=text, properties={text: text})
        opened.flush()
        yield opened


@pytest.mark.parametrize("text", INJECTIONS)
def test_text_in_any_place_of_a_question_stays_data(hostile, text):
    def count(**question):
        return [tuple(row.values()) for row in hostile.query(**{"metrics": ["events"], **question})]

    key = f"properties.{text}"
    assert count(filters=[["is", "type", [text]]]) == [(1,)]
    assert count(filters=[["is", "type", [text, text + "x"]]]) == [(1,)]
    assert count(filters=[["not", ["is", "source", [text]]]]) == [(len(INJECTIONS) - 1,)]
    assert count(filters=[["is_not", "source", [text]]]) == [(len(INJECTIONS) - 1,)]
    kept = [other.partition("?")[0] for other in INJECTIONS]  # the gate cuts off what may be a query string
    assert count(filters=[["contains", "endpoint", text]])[0][0] == sum(text in endpoint for endpoint in kept)
    assert count(filters=[["is", key, [text]]]) == [(1,)]
    assert count(filters=[["contains", key, text]]) == [(1,)]
    assert count(filters=[["gte", key, text]]) == [(1,)]
    assert count(filters=[["is_set", key]]) == [(1,)]
    assert count(dimensions=[key], filters=[["is_set", key]]) == [(text, 1)]
    assert (text, 1) in count(dimensions=["type"])
    assert count(metrics=[{"agg": "unique", "field": key, "as": text}]) == [(1,)]
    assert count(metrics=[{"agg": "sum", "field": key, "as": text}]) == [(0,)]
    assert count(metrics=[{"agg": "count", "where": ["is", "type", [text]], "as": text}]) == [(1,)]
    assert list(hostile.query([{"agg": "count", "as": text}]).rows[0]) == [text]
    assert len(
        count(dimensions=["type", key], order_by=[[key, "desc"], ["type", "asc"]], totals=True, compare="7d@7d")
    ) == len(INJECTIONS)
    page = hostile.query(
        ["events"], ["source"], order_by=[["source", "asc"]], limit=1, filters=[["gte", "source", text]]
    )
    assert page.rows[0]["source"] == text
    following = hostile.query(
        ["events"],
        ["source"],
        order_by=[["source", "asc"]],
        limit=1,
        filters=[["gte", "source", text]],
        after=page.next,
    )
    assert page.next is None or following.rows[0]["source"] > text
    assert count() == [(len(INJECTIONS),)]
    assert hostile.quarantine(code=text) == []


def test_a_project_may_have_any_name_and_sees_only_its_own(tmp_path):
    with ExitStack() as stack:
        engines = [
            stack.enter_context(
                gnomon.open(tmp_path / "x.duckdb", project=text, clock=ManualClock(NOW), flush_seconds=60.0)
            )
            for text in INJECTIONS
        ]
        for n, engine in enumerate(engines):
            for _ in range(n):
                engine.track("t", weight=2.0)
                engine.track("")
            engine._make_durable()
        for n, engine in enumerate(engines):
            engine.flush()
            assert engine.query(["events"]).rows[0]["events"] == 2 * n
            assert engine.books().rejected.total() == n == len(engine.quarantine())
            assert engine.books().closes()


@pytest.mark.parametrize("project", ["", "\0", "a\0b", "\ud800", "p" * 201, "\u00e9" * 101, 5, None, b"x", []])
def test_a_project_that_cannot_be_a_name_is_refused(project):
    with pytest.raises(InvalidValue):
        gnomon.AnalyticsEngine(replace(gnomon.Settings(database_url=":memory:"), project=project))


def test_a_filter_that_is_pasted_into_the_statement_would_be_found(engine, monkeypatch):
    def pasted(self, test):
        from sqlglot import exp

        return exp.Anonymous(
            this="contains('", expressions=[exp.Var(this=f"{test.dimension.column}, '{test.values[0]}'")]
        )

    monkeypatch.setattr(FilterWords, "_test", pasted)
    with pytest.raises(GnomonError) as caught:
        ask(engine, {"metrics": ["events"], "filters": [["is", "type", ["'"]]]})
    assert not isinstance(caught.value, InvalidValue)


def test_a_check_that_is_left_out_would_be_found(engine, monkeypatch):
    monkeypatch.setattr(model, "check_pattern", lambda pattern: None)
    assert ask(engine, {"metrics": ["events"], "filters": [["matches", "type", "(?i)A"]]}) != "bad-pattern"
