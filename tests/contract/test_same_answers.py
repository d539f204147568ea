"""The same events in each store give the same answers, sharp values among them: raw, from rollups, and as rows."""

import json
from datetime import UTC, datetime, timedelta

import pytest

import embedded
import gnomon
from gnomon.testing import ManualClock

NOW = datetime(2026, 3, 20, 12, tzinfo=UTC)
MOST = 2**63 - 1
TEXTS = [
    "a",
    "A",
    "ä",
    "'",
    "\\",
    "\\' OR 1=1 --",
    "\\n",
    "100%",
    "_",
    "🚀",
    "\uffee",
    "",
    " ",
    "null",
    "line\nbreak",
    '"',
]
PROPERTIES = [
    {"n": 1, "t": "x"}, {"n": 1.0, "t": "x\\"}, {"n": -0.0}, {"n": MOST, "t": "'"}, {"n": 2**53 + 1}, {"n": 0.1},
    {"n": 1e300}, {"n": "1"}, {"n": True}, {"n": None}, {"n": [1.0, {"n": 2}]}, {"z": {"n": 5}, "n": {"a": 1.0}}, {},
    None,
]  # fmt: skip
SPAN = ["2026-03-15", "2026-03-20"]

QUESTIONS = {
    "sums beyond 64 bits": {"metrics": ["sum_bytes_sent", "mean_bytes_sent", "max_bytes_sent", "p50_bytes_sent"]},
    "sums by type": {"metrics": ["sum_bytes_sent", "mean_duration_ms", "p95_duration_ms"], "dimensions": ["type"]},
    "no rows": {"metrics": ["events", "people", "mean_duration_ms", "p95_duration_ms", "sum_bytes_sent"],
                "filters": [["is", "type", ["nothing"]]]},
    "every text": {"metrics": ["events"], "dimensions": ["source"]},
    "texts that look like SQL": {"metrics": ["events"], "filters": [["is", "source", TEXTS[4:7]]]},
    "parts of texts": {"metrics": ["events"], "filters": [["contains", "source", ["\\", "%", "'"]]]},
    "patterns": {"metrics": ["events"], "filters": [["matches", "source", [r"^\W+$", "e.b"]]]},
    "what a property holds": {"metrics": ["events"], "dimensions": ["properties.n"]},
    "numbers of a property": {
        "metrics": [{"agg": agg, "field": "properties.n"} for agg in ("min", "max", "count", "p50")]},
    "large integers": {"metrics": ["events"], "filters": [["is", "properties.n", [MOST, 1, True, None]]]},
    "people by day": {"metrics": ["people"], "dimensions": ["time:day"], "timezone": "Asia/Kathmandu"},
    "people by hour of the day": {"metrics": ["people", "events"], "dimensions": ["time:hour_of_day"]},
    "months of a zone": {"metrics": ["events"], "dimensions": ["time:month"], "timezone": "America/New_York"},
}  # fmt: skip


def events():
    for n in range(120):
        yield {
            "type": ["request", "click"][n % 2], "id": f"e{n}", "ts": NOW - timedelta(hours=n, minutes=7 * n % 60),
            "user_id": [None, "u1", "u2", "\\u3'"][n % 4], "device_id": f"d{n % 3}",
            "source": TEXTS[n % len(TEXTS)] or None, "duration_ms": n / 8,
            "bytes_sent": MOST if n % 3 else None, "status_code": 200 + n % 300,
            "properties": PROPERTIES[n % len(PROPERTIES)],
        }  # fmt: skip


@pytest.fixture(scope="module")
def engines(postgres, tmp_path_factory):
    places = {"duckdb": ":memory:", "postgres": postgres.url(), "clickhouse": embedded.url()}
    opened = {}
    for name, url in places.items():
        folder = str(tmp_path_factory.mktemp(name))
        opened[name] = gnomon.open(url, data_dir=folder, clock=ManualClock(NOW), sampling=False, cache_entries=0,
                                   rollup_lag_seconds=0, project="it's\\")  # fmt: skip
    try:
        for engine in opened.values():
            for event in events():
                engine.track(event.pop("type"), **event)
            engine.flush()
        yield opened
    finally:
        for engine in opened.values():
            engine.close()


def everything(engine, basis):
    """Answers by question."""
    return {
        name: engine.query(**{"dimensions": [], "date_range": SPAN, **question}, basis=basis).to_dicts()
        for name, question in QUESTIONS.items()
    }


def told(value):
    """Text that differs where types do; of 0.0 and -0.0 stores take either."""
    return json.dumps(value, default=str, ensure_ascii=False).replace("-0.0", "0.0")


def compared(answers):
    for name, one in answers["duckdb"].items():
        for store in ("postgres", "clickhouse"):
            assert told(answers[store][name]) == told(one), (name, store)


def test_raw_rows_answer_alike(engines):
    compared({name: everything(engine, "raw") for name, engine in engines.items()})


def test_one_person_and_the_names_are_alike(engines):
    def looked_at(engine):
        return {"person": engine.user("\\u3'"), "books": engine.books().to_dict(),
                "rolling": engine.active_users(SPAN, rolling=True, grain="week").to_dicts()}  # fmt: skip

    compared({name: looked_at(engine) for name, engine in engines.items()})


def test_rollups_answer_alike(engines):
    for engine in engines.values():
        engine.trigger_aggregation()
    answers = {name: everything(engine, "auto") for name, engine in engines.items()}
    compared(answers)
    raw = everything(engines["clickhouse"], "raw")
    for name, question in QUESTIONS.items():
        if "p95_duration_ms" not in question["metrics"]:
            assert told(answers["clickhouse"][name]) == told(raw[name]), name


def test_who_is_forgotten_leaves_the_same_behind(engines):
    for engine in engines.values():
        engine.forget("\\u3'")
    compared({name: everything(engine, "auto") for name, engine in engines.items()})
