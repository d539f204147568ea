"""The SQL of each kind of question, to be read and compared: a file for each store beside this one.

A change of the compiler shows there as a diff. When the change is meant, write the file anew and read the diff:

    REGENERATE_GOLDEN=1 .venv/bin/python -m pytest tests/golden
"""

from __future__ import annotations

import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import sqlglot

import embedded
from gnomon.config import Settings
from gnomon.query import intervals
from gnomon.query.compile import compile_plan
from gnomon.query.model import Query
from gnomon.query.pages import Cursor
from gnomon.query.plan import Facts, make_plan, shifted
from gnomon.query.rolling import rolling_statement
from gnomon.query.sources import RolledUp
from gnomon.store.clickhouse import ClickHouseStore
from gnomon.store.dialect import DUCKDB, POSTGRES
from gnomon.store.dialect_clickhouse import CLICKHOUSE
from gnomon.store.duckdb import DuckDBStore
from gnomon.store.postgres import PostgresStore
from gnomon.timerange import US_HOUR

DIALECTS = {"duckdb": DUCKDB, "postgres": POSTGRES, "clickhouse": CLICKHOUSE}
NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
REQUEST = ["is", "type", ["request"]]
WEEK = ["2026-03-25", "2026-04-01"]  # Europe changes its clocks on 29 March

#: Name of the case -> the question. `weighted`, `cursor`, `totals`, `other` (period), `rolled` and `window` (of days)
#: belong to the case only.
CASES = {
    "count everything": {"metrics": ["events"]},
    "requests by source": {
        "metrics": ["requests", "success_rate", "mean_duration_ms", "p95_duration_ms"],
        "dimensions": ["source"],
    },
    "people and sessions": {"metrics": ["people", "sessions"], "dimensions": ["type"]},
    "derived dimensions": {"metrics": ["events"], "dimensions": ["actor", "status_class", "success"]},
    "a series of hours": {"metrics": ["events"], "dimensions": ["time:hour"], "date_range": "24h"},
    "a series of days in a zone of one offset": {
        "metrics": ["events"],
        "dimensions": ["time:day"],
        "date_range": "7d",
        "timezone": "Asia/Kathmandu",
    },
    "a series of days over a clock change": {
        "metrics": ["events"],
        "dimensions": ["time:day"],
        "date_range": WEEK,
        "timezone": "Europe/Paris",
    },
    "a series of hours over a clock change": {
        "metrics": ["events"],
        "dimensions": ["time:hour"],
        "date_range": WEEK,
        "timezone": "Australia/Lord_Howe",
    },
    "a series of weeks": {"metrics": ["events"], "dimensions": ["time:week"], "date_range": "4w"},
    "a series of months": {
        "metrics": ["events"],
        "dimensions": ["time:month"],
        "date_range": "this_year",
        "timezone": "America/New_York",
    },
    "a series of quarters": {"metrics": ["events"], "dimensions": ["time:quarter"], "date_range": "this_year"},
    "days before 1971": {
        "metrics": ["events"],
        "dimensions": ["time:day"],
        "date_range": ["1970-01-01", "1970-02-01"],
        "timezone": "America/New_York",
    },
    "hours of the day and days of the week": {
        "metrics": ["events"],
        "dimensions": ["time:hour_of_day", "time:day_of_week"],
        "date_range": "4w",
    },
    "time and source": {"metrics": ["events"], "dimensions": ["time:day", "source"], "date_range": "7d"},
    "every plain filter": {
        "metrics": ["events"],
        "filters": [
            ["is", "source", ["a", "b", None]],
            ["is_not", "type", ["x"]],
            ["contains", "endpoint", ["/a"]],
            ["contains_not", "endpoint", "'"],
            ["matches", "domain", "^a.*"],
            ["gt", "duration_ms", 1.5],
            ["lte", "status_code", 399],
            ["is_set", "error_code"],
            ["is", "success", [True]],
        ],
    },
    "and, or, not": {
        "metrics": ["events"],
        "filters": [["or", [REQUEST, ["not", ["and", [["is_set", "user_id"], ["gte", "bytes_sent", 5]]]]]]],
    },
    "filters on a property": {
        "metrics": ["events"],
        "filters": [
            ["is", "properties.plan", ["pro", 1, True, None]],
            ["gt", "properties.price", 10],
            ["contains", "properties.a/b~c", "'x'"],
            ["matches", "properties.plan", "p.o"],
            ["gte", "properties.plan", "m"],
            ["is_set", "properties.plan"],
        ],
    },
    "group by a property": {
        "metrics": ["events", {"agg": "sum", "field": "properties.price", "as": "revenue"}],
        "dimensions": ["properties.plan"],
    },
    "every aggregate": {
        "metrics": [
            {"agg": agg, "field": "duration_ms", "as": agg}
            for agg in ("count", "sum", "mean", "min", "max", "unique", "median", "p99.9")
        ]
        + [{"agg": "count", "where": REQUEST, "as": "r"}],
    },
    "order and limit": {
        "metrics": ["events", "people"],
        "dimensions": ["source", "domain"],
        "order_by": [["people", "desc"], ["domain", "asc"]],
        "limit": 20,
    },
    "the page behind a row": {
        "metrics": ["events"],
        "dimensions": ["source", "time:day"],
        "date_range": "7d",
        "limit": 2,
        "order_by": [["events", "desc"]],
        "cursor": [17, "b", 20_466],
    },
    "the page behind a null": {"metrics": ["events"], "dimensions": ["source"], "limit": 2, "cursor": [17, None]},
    "totals": {"metrics": ["events", "people"], "dimensions": ["source"], "totals": True},
    "the previous period": {
        "metrics": ["events"],
        "dimensions": ["source"],
        "date_range": "7d",
        "compare": "previous",
        "other": True,
    },
    "a year before": {
        "metrics": ["events"],
        "dimensions": ["time:month"],
        "date_range": "this_month",
        "compare": "year",
        "other": True,
    },
    "metric samples": {
        "metrics": ["samples", "mean_value", "p95_value"],
        "dimensions": ["name", "labels.queue"],
        "dataset": "samples",
    },
    "weighted counts, sums, means and rates": {
        "metrics": ["events", "sum_bytes_sent", "mean_duration_ms", "success_rate"],
        "dimensions": ["source"],
        "weighted": True,
    },
    "weighted quantiles": {
        "metrics": ["p50_duration_ms", "p95_bytes_sent"],
        "dimensions": ["source"],
        "weighted": True,
    },
    "weighted quantile of a filtered property": {
        "metrics": [{"agg": "p90", "field": "properties.price", "where": REQUEST}],
        "weighted": True,
    },
    "weighted people": {"metrics": ["people", "min_duration_ms", "max_duration_ms"], "weighted": True},
    "rollups, and the rows that they do not have": {
        "metrics": ["events", "sum_bytes_sent"],
        "date_range": ["2026-01-12", "2026-01-15"],
        "rolled": True,
    },
    "a percentile of rollups": {
        "metrics": ["p95_duration_ms"],
        "date_range": ["2026-01-12", "2026-01-14"],
        "rolled": True,
    },
    "people of rollups by source": {
        "metrics": ["people"],
        "dimensions": ["source"],
        "date_range": ["2026-01-12T06:15:00Z", "2026-01-14T00:00:00Z"],
        "rolled": True,
    },
    "people of rollups by day": {
        "metrics": ["people"],
        "dimensions": ["time:day"],
        "date_range": ["2026-01-12", "2026-01-15"],
        "rolled": True,
    },
    "people of the seven days that end with each": {
        "metrics": ["people"],
        "dimensions": ["time:day"],
        "date_range": ["2026-01-12", "2026-01-15"],
        "window": 7,
    },
    "text that looks like SQL": {
        "metrics": [{"agg": "count", "as": "'; --"}],
        "dimensions": ["properties.'; DROP TABLE events; --"],
        "filters": [["is", "type", ["'; DROP TABLE events; --", "\\' OR 1=1 --"]]],
    },
}


#: Up to 2026-01-14T00:00:00Z; rows came later.
ROLLED = {"rolled_up": RolledUp(1_768_348_800_000_000, 4, US_HOUR, ("source",), ("UTC",)), "late": True}


def facts(weighted, rolled):
    spans = ((0, 4_000_000_000_000_000),) if weighted else ()
    return Facts(now=NOW, zone=ZoneInfo("UTC"), earliest_us=lambda: 1_736_942_400_000_000, weighted_spans=spans,
                 version=7, max_buckets=50_000, max_rows=10_000, **(ROLLED if rolled else {}))  # fmt: skip


def statement(case, dialect):
    case = dict(case)
    weighted, cursor, totals, other = (
        case.pop("weighted", False),
        case.pop("cursor", None),
        case.pop("totals", False),
        case.pop("other", False),
    )
    rolled, window = case.pop("rolled", False), case.pop("window", None)
    case["dataset_name"] = case.pop("dataset", "events")
    known = facts(weighted, rolled)
    plan = make_plan(Query.build(**case), "shop", known)
    plan = shifted(plan, known) if other else plan
    if window is not None:
        return rolling_statement(plan, dialect, window)
    return compile_plan(plan, dialect, Cursor(tuple(cursor), 5) if cursor else None, totals=totals)


def readable(sql, dialect):
    """The same statement in lines; nothing but white space and spelling changes (tested below)."""
    kept = re.sub(r"\b(JSON_EXTRACT(?:_STRING)?|YEAR|MONTH)\(", r"\1__(", sql)  # sqlglot has other forms
    lines = sqlglot.parse_one(kept, read=dialect.sqlglot).sql(dialect.sqlglot, pretty=True, max_text_width=110)
    return lines.replace("__(", "(")


def plain(sql):
    """Without white space; ClickHouse has several spellings of functions and types."""
    return re.sub(r"\s+", "", sql).lower().replace("asint)", "asint32)")


def section(name, case, dialect):
    sql = readable(statement(case, dialect), dialect)
    return f"-- {name}\n-- {json.dumps(case, ensure_ascii=False)}\n{sql};\n"


def written(dialect):
    head = "-- Written by test_golden_sql.py, see there. Times are UTC microseconds; now is 2026-01-15T12:00:00Z.\n\n"
    return head + "\n".join(section(name, case, dialect) for name, case in CASES.items())


def sections(text):
    return {found.split("\n", 1)[0]: found for found in re.split(r"(?m)^-- (?=[^{W].*\n-- \{)", text)[1:]}


def changed(expected, name, dialect):
    return expected[dialect.name][name].rstrip() != section(name, CASES[name], dialect).removeprefix("-- ").rstrip()


@pytest.fixture(scope="module")
def expected():
    files = {name: Path(__file__).with_name(f"{name}.sql") for name in DIALECTS}
    if os.environ.get("REGENERATE_GOLDEN"):
        for name, dialect in DIALECTS.items():
            files[name].write_text(written(dialect), "utf-8")
    return {name: sections(file.read_text("utf-8")) for name, file in files.items()}


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
@pytest.mark.parametrize("name", CASES)
def test_the_statement_is_the_one_in_the_file(expected, name, dialect):
    assert not changed(expected, name, dialect)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_file_holds_no_other(expected, dialect):
    assert list(expected[dialect]) == list(CASES)


@pytest.fixture(scope="module")
def stores(postgres):
    opened = {
        "duckdb": DuckDBStore(":memory:", Settings()),
        "postgres": PostgresStore(postgres.url(), Settings()),
        "clickhouse": ClickHouseStore(embedded.url(), Settings()),
    }
    yield opened
    for store in opened.values():
        store.close()


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
@pytest.mark.parametrize("name", CASES)
def test_the_store_takes_the_statement(stores, name, dialect):
    sql = statement(CASES[name], dialect)
    stores[dialect.name].ask([sql, readable(sql, dialect)], 10.0)
    if not {"rolled", "window"} & set(CASES[name]):  # those are written by hand, in part
        assert plain(readable(sql, dialect)) == plain(sql)


def test_a_change_of_the_compiler_would_be_seen(expected, monkeypatch):
    monkeypatch.setattr(intervals, "NORMAL_95", 2.0)
    for dialect in DIALECTS.values():
        assert [name for name in CASES if changed(expected, name, dialect)] == [
            "weighted counts, sums, means and rates",
            "weighted quantiles",
            "weighted quantile of a filtered property",
        ]
