"""What holds for every call but ingestion, by the OpenAPI document: its caller first, then its parameters, then its
body, within a size and a time, and nothing of it comes back."""

from __future__ import annotations

import pytest
from serving import API, bearer, served

from gnomon.server import calls

ADMIN = {"scope": "read admin"}
MARK = "SECRET<script>"
INGESTION = {f"{API}/ingest", f"{API}/samples"}
PUBLIC = {f"{API}/healthz", "/healthz", "/livez", "/metrics", f"{API}/docs", f"{API}/openapi.json"}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with served(tmp_path_factory.mktemp("store") / "shop.duckdb", sampling=False) as found:
        yield found


def described(service):
    """`(method, path, what is said of it)` of every call but ingestion and those for everybody."""
    for path, methods in service.app.openapi()["paths"].items():
        for method, told in methods.items():
            if path not in INGESTION | PUBLIC and "operationId" in told:
                place = path.replace("{job_id}", "0" * 32).replace("{key_id}", "0" * 12).replace("{user_id}", "u")
                yield method.upper(), place, told


def with_body(service):
    found = [(method, path) for method, path, told in described(service) if "requestBody" in told]
    assert len(found) >= 7, found
    return found


def head(method, path, *lines, claims=ADMIN):
    given = [] if claims is None else [f"Authorization: {bearer(**claims)['Authorization']}"]
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *given, *lines, "", ""]).encode()


def sent(service, method, path, content, **headers):
    given = {**bearer(**ADMIN), "Content-Type": "application/json", **headers}
    return service.client.request(method, path, content=content, headers=given)


def test_the_caller_is_looked_at_before_the_body(service):
    """Nothing of 400 MB is waited for, or read, where the token is missing."""
    for method, path in with_body(service):
        asked = head(method, path, "Content-Type: application/json", "Content-Length: 400000000", claims=None)
        assert b" 401 " in service.raw(asked + b"[", timeout=5), path


def test_a_body_is_measured_before_it_is_read(service):
    for method, path in with_body(service):
        told = head(method, path, "Content-Type: application/json", f"Content-Length: {calls.MOST_BYTES + 1}")
        assert b" 413 " in service.raw(told + b"{", timeout=5), path
        parts = head(method, path, "Content-Type: application/json", "Transfer-Encoding: chunked")
        part = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        assert b" 413 " in service.raw(parts + part * 17, timeout=5), path


def test_a_body_has_to_come_in_time(service, monkeypatch):
    monkeypatch.setattr(calls, "BODY_SECONDS", 0.2)
    for method, path in with_body(service):
        asked = head(method, path, "Content-Type: application/json", "Content-Length: 100")
        assert b" 408 " in service.raw(asked + b"{", timeout=5), path


def test_a_body_is_plain_json(service):
    for method, path in with_body(service):
        assert sent(service, method, path, b"{}", **{"Content-Type": "text/plain"}).status_code == 415, path
        assert sent(service, method, path, b"\x1f\x8b", **{"Content-Encoding": "gzip"}).status_code == 415, path
        for broken in (b"{", b"[" * 100_000, b"\xff"):
            assert sent(service, method, path, broken).status_code in (400, 422), path


def test_nothing_that_was_sent_comes_back(service):
    for method, path in with_body(service):
        for body in (f'{{"{MARK}":1}}', f'{{"{MARK * 10_000}":{{}}}}', f'"{MARK}"', f'["{MARK}"]'):
            answer = sent(service, method, path, body.encode())
            assert answer.status_code in (400, 422), (path, answer.text)
            assert "SECRET" not in answer.text, path
            assert len(answer.content) < 2_000
    near = sent(service, "PUT", f"{API}/admin/sampling", b'{"low":1,"hihg":2,"rate":0.5}').json()
    assert (near["detail"], near["remedy"]) == ("unknown field of the body", "Did you mean 'high'?")


def test_a_parameter_that_a_call_does_not_know_is_refused(service):
    """`/reports/events?user=ann` must not export everybody's events."""
    for method, path, _ in described(service):
        answer = service.client.request(method, path, params={MARK: "1"}, headers=bearer(**ADMIN))
        assert (answer.status_code, answer.json()["type"]) == (422, "unknown-name"), (method, path)
        assert "SECRET" not in answer.text
        without = service.client.request(method, path, params={MARK: "1"})
        assert without.status_code == 401, path
    wrong = {"/reports/events?user=ann": "user_id", "/admin/audit?users=bob": "user", "/summary?hour=1": "hours",
             "/reports/dau?time_zone=UTC": "timezone"}  # fmt: skip
    for path, meant in wrong.items():
        assert service.get(path, claims=ADMIN).json()["remedy"] == f"Did you mean {meant!r}?", path


def test_a_call_counts_once_against_its_limit():
    with served(rate_limit_per_minute=5) as service:
        left = [service.get("/catalog").headers["ratelimit-remaining"] for _ in range(3)]
    assert left == ["4", "3", "2"]
