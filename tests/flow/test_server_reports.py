"""Questions and reports over HTTP: the numbers of the engine, never those of other projects, and no way to break it."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime, timedelta

import pyarrow.ipc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import API, bearer, served

from gnomon.engine import beside

MARK = "zqxv-marker"
NOW = datetime.now(UTC)
YESTERDAY = (NOW - timedelta(days=1)).date()


@pytest.fixture(scope="module")
def service():
    with served(max_rows=50, max_buckets=2_000, sampling=False) as found:
        fill(found.engine, "u")
        with beside(found.engine, "other") as other:
            fill(other, MARK)
        yield found


def fill(engine, name):
    midday = datetime.combine(YESTERDAY, datetime.min.time(), UTC) + timedelta(hours=12)
    for n in range(120):
        engine.track("page_view", id=f"{name}{n}", user_id=f"{name}{n % 7}", source=f"{name}-s{n % 3}",
                     endpoint=f"/{name}/{n % 60}", session_id=f"{name}-{n % 9}", properties={"plan": name},
                     ts=midday - timedelta(hours=n))  # fmt: skip
        engine.record_request(user_id=f"{name}{n % 7}", endpoint="/api", status_code=503 if n % 40 == 0 else 200,
                              duration_ms=float(n), ts=midday - timedelta(hours=n))  # fmt: skip
    engine.flush()


def ask(service, body, path="/query", **named):
    return service.post(path, body, **named)


RANGE = [(YESTERDAY - timedelta(days=6)).isoformat(), (YESTERDAY + timedelta(days=1)).isoformat()]


def test_a_question_as_plausible_has_it_answers_what_the_engine_does(service):
    body = {
        "site_id": "default", "metrics": ["visitors", "visits", "pageviews", "success_rate"],
        "dimensions": ["event:name", "visit:source"], "date_range": RANGE,
        "filters": [["or", [["is", "event:props:plan", ["u"]], ["is", "event:page", ["/api"]]]]],
        "order_by": [["visitors", "desc"], ["event:name", "asc"]], "include": {"imports": True, "total_rows": True},
        "pagination": {"limit": 3},
    }  # fmt: skip
    answer = ask(service, body)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    mine = service.engine.query(body["metrics"], body["dimensions"], RANGE, body["filters"],
                                order_by=body["order_by"], limit=3)  # fmt: skip
    assert [row["dimensions"] + row["metrics"] for row in told["results"]] == [list(row.values()) for row in mine]
    assert told["meta"]["total_rows"] == 4 and told["meta"]["next"] and told["meta"]["exact"] is True
    assert told["query"]["date_range"] == [f"{day}T00:00:00+00:00" for day in RANGE]
    assert told["query"]["metrics"] == body["metrics"] and told["query"]["site_id"] == "default"
    rest = ask(service, {**body, "pagination": {"limit": 3, "after": told["meta"]["next"]}}).json()
    offset = ask(service, {**body, "pagination": {"limit": 3, "offset": 3}}).json()
    assert rest["results"] == offset["results"] and len(rest["results"]) == 1
    assert rest["meta"]["total_rows"] == offset["meta"]["total_rows"] == 4
    assert ask(service, {**body, "pagination": {"offset": 9}}).json()["results"] == []


def test_times_are_iso_with_their_offset_and_every_bucket_is_there(service):
    body = {"metrics": ["requests"], "dimensions": ["time:day"], "date_range": RANGE, "timezone": "Asia/Kathmandu",
            "include": {"time_labels": True, "totals": True}}  # fmt: skip
    told = ask(service, body).json()
    days = [row["dimensions"][0] for row in told["results"]]
    assert len(days) == 7 and days[0] == f"{RANGE[0]}T00:00:00+05:45" and days == told["meta"]["time_labels"]
    assert told["meta"]["totals"]["requests"] == sum(row["metrics"][0] for row in told["results"])
    assert ask(service, {**body, "dimensions": ["source"]}).json()["meta"]["time_labels"] == []


def test_flat_rows_csv_and_arrow_hold_the_same(service):
    service.engine.track("formula", source="=1+1", properties={"k": [1, {"a": None}]}, ts=NOW - timedelta(hours=1))
    service.engine.track("formula", source="'=x", properties={"k": True}, ts=NOW - timedelta(hours=2))
    service.engine.track("formula", source=None, ts=NOW - timedelta(hours=3))
    service.engine.flush()
    body = {"metrics": ["events", "mean_duration_ms"], "dimensions": ["source", "properties.k", "time:hour"],
            "date_range": "2d", "filters": [["is", "type", ["formula"]]],
            "order_by": [["time:hour", "desc"]]}  # fmt: skip
    rows = ask(service, body, "/query?format=rows").json()["rows"]
    assert [row["source"] for row in rows] == ["=1+1", "'=x", None]
    assert rows[0]["properties.k"] == [1, {"a": None}] and rows[1]["properties.k"] is True
    assert rows[0]["mean_duration_ms"] is None
    answer = ask(service, body, "/query?format=csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    lines = list(csv.reader(io.StringIO(answer.text)))
    assert lines[0] == list(rows[0])
    assert [line[:2] for line in lines[1:]] == [["'=1+1", '[1,{"a":null}]'], ["''=x", "true"], ["", ""]]
    answer = ask(service, body, "/query?format=arrow")
    table = pyarrow.ipc.open_stream(answer.content).read_all()
    assert table.column("source").to_pylist() == ["=1+1", "'=x", None]
    assert [moment.isoformat() for moment in table.column("time:hour").to_pylist()] == [r["time:hour"] for r in rows]


def test_comparisons_say_how_and_why_not(service):
    later = {"metrics": ["requests", "error_rate"], "dimensions": ["source"], "date_range": RANGE,
             "include": {"comparisons": {"mode": "previous_period"}}}  # fmt: skip
    told = ask(service, later).json()["results"][0]["comparison"]
    assert told.keys() == {"metrics", "change", "points", "reasons"} and told["reasons"][0] == "no_baseline"
    custom = {"mode": "custom", "date_range": [RANGE[0], YESTERDAY.isoformat()]}
    told = ask(service, {**later, "include": {"comparisons": custom}, "dimensions": []}, "/query?format=rows").json()
    assert told["meta"]["comparisons"][0]["change"][0] > 0 and told["rows"][0]["requests"] == 120
    assert ask(service, {**later, "compare": "previous"}).json()["type"] == "bad-query"


WRONG = [
    (b"", 400, "bad-json"),
    (b"nope", 400, "bad-json"),
    (b'{"metrics":["events"],"limit":NaN}', 400, "bad-json"),
    (b'{"metrics":["\\ud800"]}', 400, "bad-json"),
    (b"\xff\xfe{}", 400, "bad-json"),
    (b"[]", 422, "bad-query"),
    (b"{}", 422, "bad-query"),
    (b'{"metrics":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 422, "too-deep"),
    ({"metrics": "events"}, 422, "bad-query"),
    ({"metrics": []}, 422, "bad-query"),
    ({"metrics": [1]}, 422, "bad-query"),
    ({"metrics": [None]}, 422, "bad-query"),
    ({"metrics": [[]]}, 422, "bad-query"),
    ({"metrics": ["events"] * 60}, 422, "bad-query"),
    ({"metrics": ["events", "events"]}, 422, "bad-query"),
    ({"metrics": [MARK]}, 422, "unknown-name"),
    ({"metrics": [{MARK: 1}]}, 422, "unknown-name"),
    ({"metrics": [{"agg": "p100", "field": "duration_ms"}]}, 422, "unknown-name"),
    ({"metrics": [{"agg": "sum", "field": MARK}]}, 422, "unknown-name"),
    ({"metrics": [{"agg": "count", "where": [MARK]}]}, 422, "unknown-name"),
    ({"metrics": ["events"], MARK: 1}, 422, "unknown-name"),
    ({"metrics": ["events"], "metric": 1}, 422, "unknown-name"),
    ({"metrics": ["events"], "include": {MARK: True}}, 422, "unknown-name"),
    ({"metrics": ["events"], "include": {"imports": "yes"}}, 422, "bad-query"),
    ({"metrics": ["events"], "include": {"comparisons": {"mode": MARK}}}, 422, "unknown-name"),
    ({"metrics": ["events"], "include": {"comparisons": {"mode": "custom"}}}, 422, "bad-query"),
    ({"metrics": ["events"], "pagination": {MARK: 1}}, 422, "unknown-name"),
    ({"metrics": ["events"], "pagination": {"offset": -1}}, 422, "bad-query"),
    ({"metrics": ["events"], "pagination": {"offset": 10**9}}, 422, "bad-query"),
    ({"metrics": ["events"], "pagination": {"limit": 0}}, 422, "bad-query"),
    ({"metrics": ["events"], "pagination": {"limit": 51}}, 422, "range-too-large"),
    ({"metrics": ["events"], "limit": 10**30}, 422, "range-too-large"),
    ({"metrics": ["events"], "limit": 5, "pagination": {"limit": 5}}, 422, "bad-query"),
    ({"metrics": ["events"], "limit": 2.5}, 422, "bad-query"),
    ({"metrics": ["events"], "dimensions": [MARK]}, 422, "unknown-name"),
    ({"metrics": ["events"], "dimensions": [7]}, 422, "bad-query"),
    ({"metrics": ["events"], "dimensions": ["properties."]}, 422, "bad-query"),
    ({"metrics": ["events"], "dimensions": ["properties." + "x" * 500]}, 422, "bad-query"),
    ({"metrics": ["events"], "dimensions": ["time:" + MARK]}, 422, "unknown-name"),
    ({"metrics": ["events"], "date_range": MARK}, 422, "bad-range"),
    ({"metrics": ["events"], "date_range": "12mo"}, 422, "bad-range"),
    ({"metrics": ["events"], "date_range": 7}, 422, "bad-range"),
    ({"metrics": ["events"], "date_range": [MARK, MARK]}, 422, "bad-time"),
    ({"metrics": ["events"], "date_range": ["2026-01-02", "2026-01-01"]}, 422, "empty-range"),
    ({"metrics": ["events"], "date_range": ["2026-02-30", "2026-03-01"]}, 422, "bad-time"),
    ({"metrics": ["events"], "date_range": [1e300, 2e300]}, 422, "bad-time"),
    ({"metrics": ["events"], "date_range": {"start": "2026-01-01"}}, 422, "bad-range"),
    ({"metrics": ["events"], "date_range": ["2026-01-01T00:00:00", "2026-01-02"]}, 422, "bad-time"),
    ({"metrics": ["events"], "dimensions": ["time:minute"], "date_range": "90d"}, 422, "range-too-large"),
    ({"metrics": ["events"], "timezone": MARK}, 422, "unknown-name"),
    ({"metrics": ["events"], "timezone": "../../etc/passwd"}, 422, "unknown-name"),
    ({"metrics": ["events"], "filters": {}}, 422, "bad-query"),
    ({"metrics": ["events"], "filters": [[MARK, "type", ["x"]]]}, 422, "unknown-name"),
    ({"metrics": ["events"], "filters": [["is", MARK, ["x"]]]}, 422, "unknown-name"),
    ({"metrics": ["events"], "filters": [["is", "type", [1]]]}, 422, "bad-filter"),
    ({"metrics": ["events"], "filters": [["is", "type", {}]]}, 422, "bad-filter"),
    ({"metrics": ["events"], "filters": [["is", "type", ["x"], {"case_sensitive": False}]]}, 422, "bad-filter"),
    ({"metrics": ["events"], "filters": [["is", "type", ["x"] * 10_001]]}, 422, "bad-filter"),
    ({"metrics": ["events"], "filters": [["matches", "type", ["(?=a)"]]]}, 422, "bad-pattern"),
    ({"metrics": ["events"], "filters": [["matches", "type", ["(a+)+" * 300]]]}, 422, "bad-pattern"),
    ({"metrics": ["events"], "filters": [["gt", "duration_ms", 2**64]]}, 422, "bad-filter"),
    ({"metrics": ["events"], "filters": [["is", "time:day", ["x"]]]}, 422, "bad-filter"),
    ({"metrics": ["events"], "order_by": [[MARK, "asc"]]}, 422, "unknown-name"),
    ({"metrics": ["events"], "order_by": [["events", "up"]]}, 422, "bad-query"),
    ({"metrics": ["events"], "after": MARK}, 422, "bad-cursor"),
    ({"metrics": ["events"], "after": "\u00e9"}, 422, "bad-cursor"),
    ({"metrics": ["events"], "dataset": MARK}, 422, "unknown-name"),
    ({"metrics": ["events"], "basis": MARK}, 422, "unknown-name"),
    ({"metrics": ["events"], "compare": MARK}, 422, "bad-range"),
    ({"metrics": ["events"], "site_id": 7}, 422, "bad-query"),
]


@pytest.mark.parametrize(("body", "status", "code"), WRONG)
def test_what_is_wrong_is_named_and_not_repeated(service, body, status, code):
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {**bearer(), "Content-Type": "application/json"}
    answer = service.client.post(f"{API}/query", content=sent, headers=headers)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json()
    assert (told["type"], told["status"]) == (code, status) and told["remedy"] is not None
    assert MARK not in answer.text


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=12)
    | st.sampled_from(["events", "type", "is", "and", "time:day", "user_id", "7d", "2026-01-01", "properties.plan"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3), max_leaves=12,
)  # fmt: skip
SOUND = {
    "metrics": st.lists(st.sampled_from(["events", "visitors", "success_rate", "p95_duration_ms", "requests"]),
                        min_size=1, max_size=3, unique=True),
    "dimensions": st.lists(st.sampled_from(["type", "event:page", "time:day", "properties.plan", "success"]),
                           max_size=2, unique=True),
    "date_range": st.sampled_from(["7d", "today", "all", RANGE, {"start": RANGE[0], "end": RANGE[1]}, [0, 2**31]]),
    "filters": st.lists(st.sampled_from([
        ["is", "type", ["request", None]], ["gt", "duration_ms", 1.5], ["is_set", "user_id"],
        ["not", ["contains", "event:page", ["/u"]]], ["is", "success", [None]]]), max_size=2),
    "timezone": st.sampled_from(["UTC", "America/St_Johns", None]),
    "pagination": st.fixed_dictionaries({}, optional={"limit": st.integers(1, 50), "offset": st.integers(0, 200)}),
    "include": st.fixed_dictionaries({}, optional={name: st.booleans() for name in
                                                   ("total_rows", "time_labels", "totals", "imports")}),
    "compare": st.sampled_from([None, "previous", "year", RANGE]), "order_by": st.just([["events", "desc"]]),
    "after": st.text(max_size=20), "limit": st.integers(1, 50), "totals": st.booleans(), "site_id": st.just("default"),
    "dataset": st.sampled_from(["events", "samples"]), "basis": st.sampled_from(["auto", "raw"]),
}  # fmt: skip
BODIES = st.builds(
    lambda sound, junk: {**sound, **junk},
    st.fixed_dictionaries({"metrics": SOUND.pop("metrics")}, optional=SOUND),
    st.dictionaries(st.sampled_from(["metrics", *SOUND, "x"]), JUNK, max_size=1),
)


def never_breaks(service, body, form):
    try:
        sent = json.dumps(body).encode()
    except UnicodeEncodeError:
        return
    headers = {**bearer(), "Content-Type": "application/json"}
    answer = service.client.post(f"{API}/query?format={form}", content=sent, headers=headers)
    assert answer.status_code in (200, 400, 403, 422), (body, answer.text)
    if form in ("json", "rows") or answer.status_code != 200:
        json.loads(answer.text, parse_constant=lambda name: pytest.fail(name))


@given(BODIES, st.sampled_from(["json", "rows", "csv", "arrow"]))
@settings(max_examples=60)
def test_no_body_breaks_it(service, body, form):
    never_breaks(service, body, form)


@pytest.mark.slow
@pytest.mark.timeout(900)
@given(BODIES | JUNK, st.sampled_from(["json", "rows", "csv", "arrow"]))
@settings(max_examples=5_000)
def test_no_body_breaks_it_many_times(service, body, form):
    never_breaks(service, body, form)


def test_an_unknown_field_gets_the_nearest_right_one(service):
    assert "'metrics'" in ask(service, {"metrics": ["events"], "metric": 1}).json()["remedy"]
    assert "'visitors'" in ask(service, {"metrics": ["visitor"]}).json()["remedy"]
    assert "'event:page'" not in ask(service, {"metrics": ["events"], "filters": [["is", "evnt", [1]]]}).text


def test_bodies_of_other_kinds_and_sizes(service):
    headers = bearer()
    body = b'{"metrics":["events"]}'
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = service.client.post(f"{API}/query", content=body, headers={**headers, "Content-Type": kind})
        assert (answer.status_code, answer.json()["type"]) == (415, "bad-media-type")
    large = b'{"metrics":["events"],"after":"' + b"a" * 2_000_000 + b'"}'
    answer = service.client.post(f"{API}/query", content=large, headers={**headers, "Content-Type": "application/json"})
    assert answer.status_code == 413
    assert ask(service, {"metrics": ["events"]}, "/query?format=xml").status_code == 422


def test_an_etag_holds_for_a_fixed_range_until_the_data_changes(service):
    fixed = {"metrics": ["events"], "date_range": RANGE}
    answer = ask(service, fixed)
    tag = answer.headers["etag"]

    def again(body, path="/query", held=tag, **named):
        named.setdefault("headers", {**bearer(**named.pop("claims", {})), "If-None-Match": held})
        return service.post(path, body, **named)

    for held in (tag, f"W/{tag}", f'"x", {tag}'):
        unchanged = again(fixed, held=held)
        assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", tag)
    for held in ("*", '"x"', "", tag[:-2] + '"'):
        assert again(fixed, held=held).status_code == 200
    assert again({**fixed, "limit": 5}).status_code == 200
    assert again(fixed, "/query?format=csv").status_code == 200
    assert again(fixed, claims={"project": "other"}).status_code == 200
    assert again(fixed, headers={"If-None-Match": tag}).status_code == 401
    assert again(fixed, claims={"scope": "ingest"}).status_code == 403
    newest = service.engine.get_access_log()[:2]
    assert {entry.outcome for entry in newest} == {"forbidden", "ok"}
    noted = [entry for entry in service.engine.get_access_log() if entry.detail.get("unchanged")]
    assert len(noted) == 3 and noted[0].who == "u1" and noted[0].detail["metrics"] == ["events"]
    for moving in ("7d", "all", "today", "last_month"):
        answer = ask(service, {**fixed, "date_range": moving})
        assert "etag" not in answer.headers and answer.headers["cache-control"] == "no-store"
    assert "etag" not in ask(service, {**fixed, "compare": "7d"}).headers
    service.engine.track("late", ts=NOW - timedelta(days=3))
    service.engine.flush()
    changed = again(fixed)
    assert changed.status_code == 200 and changed.headers["etag"] != tag


def test_active_users_of_a_day(service):
    for name, period, grain in (("dau", "24h", "day"), ("wau", "7d", "week"), ("mau", "30d", "month")):
        answer = service.get(f"/reports/{name}", params={"date": YESTERDAY.isoformat()})
        people = service.engine.active_users("yesterday", grain, rolling=grain != "day")[0]["people"]
        assert answer.json() == {name: people, "date": YESTERDAY.isoformat(), "period": period} and people == 7
        tag = answer.headers["etag"]
        again = service.get(f"/reports/{name}", params={"date": YESTERDAY.isoformat()},
                            headers={**bearer(), "If-None-Match": tag})  # fmt: skip
        assert again.status_code == 304
        assert "etag" not in service.get(f"/reports/{name}").headers
    assert service.get("/reports/dau").json()["date"] == datetime.now(UTC).date().isoformat()
    assert service.get("/reports/dau", params={"date": "2200-01-01"}).json()["dau"] is None
    kiritimati = service.get("/reports/dau", params={"timezone": "Pacific/Kiritimati"}).json()
    assert kiritimati["date"] == (datetime.now(UTC) + timedelta(hours=14)).date().isoformat()


@pytest.mark.parametrize(
    "date", ["x", "2026-02-30", "20260101", "9999-12-31", "0001-01-01", "2026-1-1", "", "١٢٣٤-٠١-٠١"]
)
def test_no_day_of_the_calendar_is_refused(service, date):
    for name in ("dau", "wau", "mau"):
        answer = service.get(f"/reports/{name}", params={"date": date, "timezone": "Pacific/Apia"})
        assert answer.status_code == 422 and answer.headers["content-type"] == "application/problem+json"


def test_a_date_that_the_zone_skipped_has_no_day(service):
    answer = service.get("/reports/dau", params={"date": "2011-12-30", "timezone": "Pacific/Apia"})
    assert (answer.status_code, answer.json()["type"]) == (422, "empty-range")


def test_the_reports_are_those_of_the_engine(service):
    summary = service.get("/summary", params={"hours": 72}).json()
    assert summary["period_hours"] == 72 and summary["requests"] == summary["by_type"]["request"]
    assert set(summary) == {"period_hours", "events", "people", "requests", "successes", "failures", "unknown",
                            "success_rate", "mean_duration_ms", "by_type", "meta"}  # fmt: skip
    assert service.get("/summary").json()["period_hours"] == 24
    found = service.get("/summary", params={"date_range": "yesterday", "timezone": "Europe/Berlin"}).json()
    assert found["meta"]["timezone"] == "Europe/Berlin"
    person = service.get("/user/u3", params={"recent": 2}).json()
    assert person["events"] == 34 and len(person["recent"]) == 2 and person["meta"]["exact"] is True
    assert datetime.fromisoformat(person["last_seen"]).tzinfo is not None
    board = service.get("/dashboard").json()
    assert set(board) == {"today", "last_24_hours", "last_7_days", "last_30_days", "health", "reasons"}
    assert board["last_30_days"]["requests"] == 120 and board["last_7_days"]["top_pages"][0]["page"] == "/api"
    assert board["health"]["level"] in ("healthy", "warning", "critical")
    catalog = service.get("/catalog").json()
    assert "success_rate" in [metric["name"] for metric in catalog["metrics"]]
    assert {"time:day", "time:hour"} <= set(catalog["time"]) and "matches" in catalog["filters"]


@pytest.mark.parametrize("path", [
    "/summary?hours=0", "/summary?hours=-1", "/summary?hours=nan", "/summary?hours=inf", "/summary?hours=1e300",
    "/summary?hours=" + MARK, "/summary?date_range=" + MARK, "/summary?hours=1&date_range=7d",
    "/summary?timezone=" + MARK, "/dashboard?timezone=" + MARK, "/dashboard?timezone=../../etc/passwd",
    "/user/u3?recent=-1", "/user/u3?recent=100000", "/user/u3?recent=x", "/user/a%00b", "/user/" + "x" * 300,
    "/reports/dau?timezone=" + MARK, "/reports/mau?date=" + MARK,
])  # fmt: skip
def test_parameters_that_break_a_rule(service, path):
    answer = service.get(path)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json" and MARK not in answer.text


def test_nobody_and_strangers_are_not_found(service):
    for name in ("nobody", MARK + "1", "a/b", "%25", "..%2f..%2fetc", "é"):
        answer = service.get(f"/user/{name}")
        assert (answer.status_code, answer.json()["type"]) == (404, "not-found"), name
    service.engine.track("x", user_id="a/b")
    service.engine.flush()
    assert service.get("/user/a/b").json()["user_id"] == "a/b"
    assert service.get("/user/a%2Fb").json()["events"] == 1


READS = ("/reports/dau", "/reports/wau", "/reports/mau", "/summary", "/user/u1", "/dashboard", "/catalog")


def test_every_route_needs_the_scope_read(service):
    for path in READS:
        assert service.get(path, headers={}).status_code == 401, path
        assert service.get(path, claims={"scope": "ingest:any"}).status_code == 403, path
        assert service.get(path, claims={"scope": "admin"}).status_code == 200, path
    assert ask(service, {"metrics": ["events"]}, headers={}).status_code == 401
    assert ask(service, {"metrics": ["events"]}, claims={"scope": "ingest"}).status_code == 403


def test_another_project_never_shows(service):
    for path in (*READS[:-1], "/summary?date_range=all", "/user/u1?recent=1000"):
        answer = service.get(path)
        assert answer.status_code == 200 and MARK not in answer.text, path
    dimensions = ["user_id", "source", "endpoint", "session_id", "properties.plan"]
    for form in ("json", "rows", "csv", "arrow"):
        for dimension in dimensions:
            answer = ask(service, {"metrics": ["events"], "dimensions": [dimension]}, f"/query?format={form}")
            assert answer.status_code == 200 and MARK.encode() not in answer.content
    assert ask(service, {"metrics": ["events"], "dimensions": ["user_id"]}, claims={"project": "other"}).text.count(
        MARK
    )


@pytest.mark.parametrize("site", ["other", MARK, "", "*", "x" * 300, "a\x00b"])
def test_a_question_about_a_foreign_project_is_refused(service, site):
    answer = ask(service, {"metrics": ["events"], "site_id": site})
    assert (answer.status_code, answer.json()["type"]) == (403, "foreign-project")
    assert service.get("/dashboard", params={"project": "other"}).status_code == 403


def test_a_token_of_every_project_chooses_by_site_id(service):
    for site, count in (("other", 240), ("nothing-here", 0)):
        answer = ask(service, {"metrics": ["events"], "site_id": site}, claims={"project": "*"})
        assert answer.json()["results"] == [{"dimensions": [], "metrics": [count]}]
        assert answer.json()["query"]["site_id"] == site
    answer = ask(service, {"metrics": ["events"], "site_id": "a\x00b"}, claims={"project": "*"})
    assert answer.status_code == 422


def test_questions_are_in_the_audit_in_the_callers_name(service):
    ask(service, {"metrics": ["events"], "filters": [["is", "user_id", ["u1"]]]}, claims={"sub": "ann"})
    service.get("/user/u1", claims={"sub": "ann"})
    service.get("/reports/wau", claims={"sub": "ann"})
    entries = service.engine.get_access_log(user_filter="ann")
    assert [entry.operation for entry in entries][::-1] == ["query", "user", "active_users"]
    assert all(entry.outcome == "ok" and "u1" not in json.dumps(entry.detail) for entry in entries)


def test_a_question_that_takes_too_long_is_a_problem_for_now():
    with served(query_timeout_seconds=0.15, sampling=False) as slow:
        for n in range(30_000):
            slow.engine.track("x", user_id=f"u{n}", properties={"text": f"{n} " * 20})
        slow.engine.flush()
        text = {"agg": "unique", "field": "properties.text"}
        many = [{**text, "where": ["matches", "user_id", [f"{n}|."]], "as": f"m{n}"} for n in range(50)]
        answer = slow.post("/query", {"metrics": many, "dimensions": ["properties.text"]})
        assert answer.status_code == 503 and answer.headers["retry-after"], answer.text
        assert answer.json()["type"] == "query-timeout"
        assert slow.get("/healthz").json()["ready"] is True


def test_answers_hold_no_number_that_json_cannot_say(service):
    for _ in range(3):
        service.engine.track("huge", user_id="huge", bytes_sent=2**63 - 1, properties={"n": 1.7e308})
    service.engine.flush()
    numbers = [{"agg": agg, "field": "properties.n"} for agg in ("sum", "mean")]
    body = {"metrics": [*numbers, "sum_bytes_sent"], "filters": [["is", "type", ["huge"]]]}
    for path in ("/query", "/query?format=rows"):
        answer = ask(service, body, path)
        told = json.loads(answer.text, parse_constant=lambda name: pytest.fail(name))
        row = told["rows"][0].values() if "rows" in told else told["results"][0]["metrics"]
        assert list(row) == [None, None, 3.0 * (2**63 - 1)]
    for path in ("/summary", "/dashboard", "/user/huge"):
        json.loads(service.get(path).text, parse_constant=lambda name: pytest.fail(name))
