"""Events over HTTP: what is acknowledged is kept and counted once, what is refused is named and not stored."""

from __future__ import annotations

import gzip
import json

import pytest
from serving import API, bearer, served


@pytest.fixture(scope="module")
def service():
    with served() as found:
        yield found


def test_a_batch_and_a_single_event_are_kept_once(service):
    batch = [{"id": f"a{n}", "type": "page_view", "properties": {"n": n}} for n in range(10)]
    for _ in range(3):
        answer = service.post("/ingest", batch)
        assert (answer.status_code, answer.json()) == (200, {"ingested": 10, "rejected": []})
    assert service.post("/ingest", {"id": "b", "type": "click", "user_id": "u1"}).json()["ingested"] == 1
    service.engine.flush()
    found = service.engine.query(["events", "people"], ["type"]).to_dicts()
    assert found == [{"type": "page_view", "events": 10, "people": 1}, {"type": "click", "events": 1, "people": 1}]
    books = service.engine.books()
    assert books.closes() and (books.received, books.stored, books.duplicate) == (31, 11, 20)


def test_empty_bad_and_mixed_batches(service):
    assert service.post("/ingest", []).json() == {"ingested": 0, "rejected": []}
    mixed = [{"type": "x"}, {"type": ""}, {"type": "x", "nope": 1}, 7, {"type": "x", "user_id": "u2", "id": "i"}]
    answer = service.post("/ingest", mixed)
    assert answer.status_code == 200
    assert answer.json() == {"ingested": 1, "rejected": [
        {"index": 1, "id": None, "code": "empty-name"}, {"index": 2, "id": None, "code": "unknown-field"},
        {"index": 3, "id": None, "code": "wrong-type"}, {"index": 4, "id": "i", "code": "foreign-user"}]}  # fmt: skip
    bad = service.post("/ingest", mixed[1:])
    assert bad.status_code == 422 and len(bad.json()["rejected"]) == 4
    foreign = service.post("/ingest", mixed[4])
    assert (foreign.status_code, foreign.json()["type"]) == (403, "foreign-user")
    assert service.post("/ingest", mixed[4], claims={"scope": "ingest:any"}).status_code == 200


def test_a_weight_needs_trust(service):
    heavy = {"type": "x", "weight": 5}
    assert service.post("/ingest", heavy).json()["type"] == "foreign-weight"
    assert service.post("/ingest", heavy, claims={"scope": "ingest:any"}).status_code == 200


def test_gzip_within_its_cap(service):
    body = gzip.compress(json.dumps([{"type": "zipped"}] * 5).encode())
    headers = {**bearer(), "Content-Type": "application/json", "Content-Encoding": "gzip"}
    assert service.post("/ingest", content=body, headers=headers).json()["ingested"] == 5
    bomb = gzip.compress(b"[" + b" " * 30_000_000 + b"]")
    assert service.post("/ingest", content=bomb, headers=headers).status_code == 413
    assert service.post("/ingest", content=body[:-9], headers=headers).status_code == 400
    headers["Content-Encoding"] = "br"
    assert service.post("/ingest", content=body, headers=headers).status_code == 415


BODIES = {
    "bad-json 400": [
        b"",
        b"nope",
        b'{"type":"x"}y',
        b"\xff",
        b'{"type":"\\ud800"}',
        b'{"type":"x","duration_ms":NaN}',
        b'{"type":"x","duration_ms":1e999}',
        b'{"type":"x","properties":{"n":9223372036854775808}}',
        b'{"type":"x","properties":{"n":' + b"9" * 5_000 + b"}}",
        b"\xef\xbb\xbf{}",
        b"[" * 10,
        b"]" * 10,
    ],
    "too-deep 422": [b'{"type":"x","properties":' + b'{"a":' * 16 + b"1" + b"}" * 17, b"[" * 1_000_000],
    "duplicate-key 422": [b'{"type":"x","type":"y"}', b'{"type":"x","properties":{"a":1,"\\u0061":2}}'],
    "nul-character 422": [b'{"type":"a\\u0000b"}'],
    "wrong-type 422": [b'{"type":1}', b'"x"', b'{"type":"x","success":1}', b'{"type":"x","properties":[]}', b"null"],
    "missing-field 422": [b"{}"],
    "unknown-field 422": [b'{"type":"x","project":"other"}', b'{"type":"x","received_at":"2026-01-01T00:00:00Z"}'],
    "source-conflict 422": [b'{"type":"x","src":"a","source":"b"}'],
    "time-out-of-range 422": [b'{"type":"x","ts":"1999-01-01T00:00:00Z"}'],
    "out-of-range 422": [
        b'{"type":"x","status_code":99}',
        b'{"type":"x","duration_ms":-1}',
        b'{"type":"x","duration_ms":1e308}',
    ],
    "too-long 422": [json.dumps({"type": "x" * 201}).encode()],
    "batch-too-large 413": [json.dumps([{"type": "x"}] * 1_001).encode()],
    "body-too-large 413": [b'{"type":"' + b"x" * 10_485_760 + b'"}'],
}


@pytest.mark.parametrize(("told", "body"), [(told, body) for told, bodies in BODIES.items() for body in bodies])
def test_what_is_refused_is_named_and_not_echoed(service, told, body):
    code, status = told.split()
    before = service.engine.books()
    answer = service.post("/ingest", content=body, headers={**bearer(), "Content-Type": "application/json"})
    told = answer.json()
    assert answer.status_code == int(status) and answer.headers["content-type"] == "application/problem+json"
    assert told["status"] == int(status) and told["type"] == code
    assert set(told) - {"rejected"} == {"type", "title", "status", "detail", "remedy"}
    service.engine.flush()
    after = service.engine.books()
    assert after.closes() and after.stored == before.stored


def test_other_types_of_content_are_refused(service):
    for name in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = service.post("/ingest", content=b"{}", headers={**bearer(), "Content-Type": name})
        assert answer.status_code == 415


def test_samples(service):
    answer = service.post("/samples", [{"name": "depth", "value": 3}, {"name": "depth"}, {"nope": 1}])
    assert answer.json()["ingested"] == 1
    assert [one["code"] for one in answer.json()["rejected"]] == ["wrong-type", "unknown-field"]
    service.engine.flush()
    assert service.engine.books("sample").closes()
    assert service.engine.books("sample").stored == 1


def test_samples_with_an_id_that_are_sent_again_count_once(service):
    before = service.engine.books("sample")
    for body in ([{"name": "depth", "value": 3, "id": "s1"}] * 2, {"name": "depth", "value": 3, "id": "s1"}):
        assert service.post("/samples", body).status_code == 200
        service.engine.flush()
    after = service.engine.books("sample")
    assert (after.stored - before.stored, after.duplicate - before.duplicate) == (1, 2) and after.closes()
    answer = service.post("/samples", [{"name": "depth", "value": 3, "id": ""}, {"name": "depth", "value": 3}])
    assert answer.json()["rejected"] == [{"index": 0, "id": "", "code": "empty-name"}]


def test_projects_do_not_mix(service):
    assert service.post("/ingest", {"type": "far"}, claims={"project": "other"}).status_code == 200
    assert service.post("/ingest?project=other", {"type": "far"}).status_code == 403
    assert service.post("/ingest?project=third", {"type": "far"}, claims={"project": "*"}).status_code == 200
    service.engine.flush()
    assert service.engine.query(["events"], filters=[["is", "type", ["far"]]]).to_dicts() == [{"events": 0}]


def test_smuggling_and_large_headers_are_refused_and_closed(service):
    both = f"POST {API}/ingest HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    assert b" 400 " in service.raw(both.encode())
    for sent in (
        b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000,
        b"GET / HTTP/1.1\r\n" + b"X: aaaaaaaaaa\r\n" * 8_000 + b"\r\n",
    ):
        assert b" 431 " in service.raw(sent)
    assert b" 400 " in service.raw(b"\x16\x03\x01 nonsense\r\n\r\n")
