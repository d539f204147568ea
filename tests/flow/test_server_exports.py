"""Exports over HTTP, over the real service: streams, jobs, downloads, and whose they are."""

from __future__ import annotations

import csv
import io
import json
import threading
import time
from datetime import UTC, datetime, timedelta

import openpyxl
import pyarrow.ipc
import pyarrow.parquet
import pytest
from serving import API, bearer, served

import gnomon
from gnomon.engine import beside
from gnomon.export import FORMATS, reading, text
from gnomon.server.projects import Projects

HOUR = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=2)
ROUTES = ["/exports", "/exports/{id}", "/exports/{id}/download"]


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with served(tmp_path_factory.mktemp("store") / "shop.duckdb", sampling=False) as found:
        for place in range(30):
            found.engine.track("order" if place % 2 else "=view", id=f"e{place:02}", user_id=f"u{place % 3}",
                               ts=HOUR + timedelta(seconds=place), properties={"n": place})  # fmt: skip
        found.engine.flush()
        yield found


def stream(service, claims=None, **asked):
    return service.get("/reports/events", params=asked, claims=claims)


def ended(service, job_id, **claims):
    until = time.monotonic() + 30
    while (found := service.get(f"/exports/{job_id}", claims=claims).json())["status"] not in ("completed", "failed"):
        assert time.monotonic() < until
        time.sleep(0.01)
    return found


# -- streams ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_streams_all_events_in_order(service, format):
    answer = stream(service, format=format)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == FORMATS[format].media_type
    assert answer.headers["content-disposition"] == f'attachment; filename="events.{format}"'
    assert answer.headers["x-gnomon-basis"] == "exact"
    assert "content-length" not in answer.headers
    data = io.BytesIO(answer.content)
    ids = {
        "csv": lambda: [row["id"] for row in csv.DictReader(io.StringIO(answer.text))],
        "json": lambda: [row["id"] for row in answer.json()],
        "ndjson": lambda: [json.loads(line)["id"] for line in answer.text.splitlines()],
        "xlsx": lambda: [row[0] for row in openpyxl.load_workbook(data).active.iter_rows(2, values_only=True)],
        "parquet": lambda: pyarrow.parquet.read_table(data)["id"].to_pylist(),
        "arrow": lambda: pyarrow.ipc.open_stream(data).read_all()["id"].to_pylist(),
    }[format]()
    assert ids == [f"e{place:02}" for place in range(30)]


def test_parameters_choose(service):
    at = lambda seconds: (HOUR + timedelta(seconds=seconds)).isoformat()  # noqa: E731
    found = stream(service, start=at(4), end=at(9), type=["=view"], fields="id,type").text
    assert found.splitlines() == ['"id","type"', '"e04","\'=view"', '"e06","\'=view"', '"e08","\'=view"']
    found = stream(service, type=["order", "=view"], user_id="u0", end=at(7), fields="id").text
    assert found.split() == ['"id"', '"e00"', '"e03"', '"e06"']
    assert stream(service, start=at(29), fields="id").text.split() == ['"id"', '"e29"']
    assert stream(service, start=at(20), end=at(25), after=f"{at(23)},e23", fields="id").text.split() == [
        '"id"',
        '"e24"',
    ]
    day = (HOUR + timedelta(days=1)).date().isoformat()
    assert (
        len(stream(service, start=(HOUR.date() - timedelta(days=1)).isoformat(), end=day, fields="id").text.split())
        == 31
    )


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"format": "pdf"}, "unknown-name"), ({"start": "yesterday-ish"}, "bad-time"),
        ({"fields": "id,version"}, "unknown-name"),
        ({"fields": ""}, "unknown-name"), ({"start": "2026-01-02", "end": "2026-01-01"}, "empty-range"),
        ({"after": "x"}, "bad-cursor"), ({"type": "x" * 9_000}, "bad-filter"), ({"format": "x" * 21}, "bad-parameter"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_before_the_first_byte(service, asked, code):
    answer = stream(service, **asked)
    assert answer.status_code == 422
    found = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert code in (found["type"], "bad-time" if found["type"] == "bad-range" else "")
    assert "version" not in answer.text and "yesterday" not in answer.text


def test_a_slow_reader_holds_no_one_up_and_a_lost_one_leaves_nothing(service, monkeypatch):
    monkeypatch.setattr(reading, "MOST_ROWS", 1)

    def told():
        return sum(entry.operation == "export" for entry in service.engine.get_access_log(limit=100_000))

    before = told()
    with service.client.stream("GET", f"{API}/reports/events?fields=id", headers=bearer()) as answer:
        next(answer.iter_bytes())
        assert service.get("/exports").status_code == 200
    until = time.monotonic() + 10
    while told() == before:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_what_fails_later_cuts_the_connection(service, monkeypatch):
    monkeypatch.setattr(reading, "MOST_ROWS", 5)
    texts, calls = text.Csv.texts, []

    def failing(self, rows, data, longest):
        calls.append(rows)
        if len(calls) == 3:
            raise reading.StoreUnavailable("gone", code="export-overtaken")
        return texts(self, rows, data, longest)

    monkeypatch.setattr(text.Csv, "texts", failing)
    with pytest.raises(Exception, match=r"incomplete|peer closed"):
        stream(service)
    monkeypatch.undo()
    assert stream(service).status_code == 200


def test_what_fails_at_once_gets_a_status(service, monkeypatch):
    def failing(self, rows, data, longest):
        raise reading.StoreUnavailable("gone", code="export-overtaken")

    monkeypatch.setattr(text.Csv, "texts", failing)
    answer = stream(service)
    assert (answer.status_code, answer.json()["type"]) == (503, "export-overtaken")


# -- jobs ------------------------------------------------------------------------------------------------------------


def test_a_job_is_ordered_watched_and_fetched(service):
    order = {"format": "csv", "date_range": "7d", "fields": ["id"], "filters": [["is", "type", ["order"]]]}
    answer = service.post("/exports", order)
    assert (answer.status_code, set(answer.json()), answer.json()["status"]) == (202, {"id", "status"}, "queued")
    job_id = answer.json()["id"]
    assert answer.headers["location"] == f"exports/{job_id}"
    done = ended(service, job_id)
    assert (done["status"], done["rows"], done["progress"], done["owner"], done["fields"]) == (
        "completed", 15, 1.0, "u1", ["id"])  # fmt: skip
    assert job_id in [found["id"] for found in service.get("/exports").json()["exports"]]
    file = service.get(f"/exports/{job_id}/download")
    assert (file.status_code, len(file.content)) == (200, done["size"])
    assert file.headers["content-disposition"] == f'attachment; filename="export-{job_id}.csv"'
    assert file.text.split() == ['"id"', *(f'"e{place:02}"' for place in range(1, 30, 2))]
    part = service.get(f"/exports/{job_id}/download", headers={**bearer(), "Range": "bytes=5-9"})
    assert (part.status_code, part.content) == (206, file.content[5:10])
    told = [entry for entry in service.engine.get_access_log(limit=50) if entry.detail.get("job") == job_id]
    assert {entry.operation for entry in told} == {"export_analytics", "download_export"}
    assert {entry.who for entry in told} == {"u1"}


def test_an_answer_is_exported_too(service):
    query = {"metrics": ["events", "people"], "dimensions": ["type"], "order_by": [["type", "asc"]]}
    job_id = service.post("/exports", {"format": "json", "query": query}).json()["id"]
    assert ended(service, job_id)["status"] == "completed"
    assert service.get(f"/exports/{job_id}/download").json() == [
        {"type": "=view", "events": 15, "people": 3}, {"type": "order", "events": 15, "people": 3}]  # fmt: skip


def test_before_it_is_ready_and_after_it_failed_it_is_a_conflict(service, monkeypatch):
    gate = threading.Event()
    texts = text.Csv.texts

    def waiting(self, rows, data, longest):
        assert gate.wait(30)
        return texts(self, rows, data, longest)

    monkeypatch.setattr(text.Csv, "texts", waiting)
    first, second = (service.post("/exports", {}).json()["id"] for _ in range(2))
    for job_id in (first, second):
        answer = service.get(f"/exports/{job_id}/download")
        assert (answer.status_code, answer.json()["type"]) == (409, "export-not-ready")
    monkeypatch.setattr(text.Csv, "end", lambda self: 1 / 0)
    gate.set()
    assert ended(service, first)["status"] == ended(service, second)["status"] == "failed"
    answer = service.get(f"/exports/{first}/download")
    assert (answer.status_code, answer.json()["type"]) == (409, "export-failed")


def test_another_principals_projects_or_no_job_is_not_there(service):
    job_id = service.post("/exports", {}).json()["id"]
    ended(service, job_id)
    strangers = [{"sub": "u2"}, {"sub": "u2", "scope": "admin"}, {"project": "other"}, {"sub": "u2", "project": "*"},
                 {"sub": "local"}, {"sub": "local", "scope": "admin"}]  # fmt: skip
    for claims in strangers:
        assert job_id not in service.get("/exports", claims=claims).text
        for path in ROUTES[1:]:
            own, made_up = (service.get(path.format(id=found), claims=claims) for found in (job_id, "0" * 32))
            assert own.status_code == made_up.status_code == 404
            assert own.json() == made_up.json()
    for strange in ("x", "..%2F..%2Fetc%2Fpasswd", "%00", "a" * 5_000, "=1", job_id.upper()):
        assert service.get(f"/exports/{strange}").status_code == 404
        assert service.get(f"/exports/{strange}/download").status_code == 404


@pytest.mark.parametrize(
    "order",
    [
        {"format": "pdf"}, {"format": 1}, {"fields": ["nope"]}, {"fields": []}, {"fields": "id"}, {"filters": ["is"]},
        [],
        {"date_range": "soon"}, {"date_range": {"start": "2026-01-01"}}, {"date_range": ["2026-01-01"]}, {"extra": 1},
        {"query": {}}, {"query": {"metrics": "events"}}, {"query": {"metrics": ["events"], "limit": 0}}, {"query": []},
        {"query": {"metrics": ["events"], "totals": True}}, {"query": {"metrics": ["events"]}, "fields": ["id"]},
        {"filters": {"user_id": {"a": 1}}}, {"filters": {"nope": 1}}, {"query": {"metrics": [{"agg": "drop"}]}},
        {"date_range": {"start": "2026-01-01", "end": "\x00"}}, {"fields": ["id"] * 51}, {"query": {"metrics": None}},
        {"filters": [["matches", "type", "("]]}, {"filters": [["is", "type", ["\x00"]]]}, {"query": {"a\nb": 1}},
    ],
)  # fmt: skip
def test_orders_that_cannot_be_are_422(service, order):
    before = len(service.get("/exports").json()["exports"])
    answer = service.post("/exports", order)
    assert answer.status_code == 422, answer.text
    assert set(answer.json()) >= {"type", "title", "status", "detail", "remedy"}
    assert len(service.get("/exports").json()["exports"]) == before


DEEP = b'{"filters":' + b"[" * 5_000 + b"]" * 5_000 + b"}"
NAN, HALF = b'{"query":{"metrics":["events"],"limit":NaN}}', b'{"format":"\\ud800"}'


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 100_000, DEEP, b"\xff", NAN, HALF])
def test_bodies_that_are_no_order_are_refused(service, body):
    answer = service.post("/exports", content=body, headers={**bearer(), "Content-Type": "application/json"})
    assert answer.status_code in (400, 413, 422), answer.text
    assert service.get("/exports").status_code == 200


def test_rights(service):
    for claims in ({"scope": "ingest"}, {"scope": "ingest:any"}, {"scope": ""}):
        assert service.post("/exports", {}, claims=claims).status_code == 403
        for path in ("/reports/events", "/exports", f"/exports/{'0' * 32}", f"/exports/{'0' * 32}/download"):
            assert service.get(path, claims=claims).status_code == 403
    for path in ("/reports/events", "/exports", f"/exports/{'0' * 32}", f"/exports/{'0' * 32}/download"):
        assert service.get(path, headers={}).status_code == 401


def test_projects_are_apart(service):
    other = {"project": "other"}
    with beside(service.engine, "other") as engine:
        engine.track("t", id="theirs")
        engine.flush()
    assert stream(service, fields="id", claims=other).text.split() == ['"id"', '"theirs"']
    assert "theirs" not in stream(service, fields="id").text
    everyone = {"project": "*"}
    found = service.get("/reports/events", params={"fields": "id", "project": "other"}, claims=everyone)
    assert found.text.split() == ['"id"', '"theirs"']
    assert service.get("/reports/events", params={"project": "default"}, claims=other).status_code == 403


def test_an_engine_with_an_export_is_not_closed_for_being_idle(monkeypatch):
    gate = threading.Event()
    texts = text.Csv.texts

    def waiting(self, rows, data, longest):
        assert gate.wait(30)
        return texts(self, rows, data, longest)

    monkeypatch.setattr(text.Csv, "texts", waiting)
    with gnomon.open(":memory:") as home:
        projects = Projects(home, 1)
        with projects.using("busy") as engine:
            engine.track("t")
            engine.flush()
            job = engine.export_analytics()
        for name in ("p1", "p2", "p3"):
            with projects.using(name):
                pass
        gate.set()
        until = time.monotonic() + 30
        while engine.get_export_status(job.id).state != "completed":
            assert time.monotonic() < until
            time.sleep(0.01)
        while engine._has_exports():  # it is told as completed a moment before its thread has left it
            assert time.monotonic() < until
            time.sleep(0.01)
        with projects.using("p4"), projects.using("p5"):
            assert engine not in projects.opened()
        projects.close()
