"""What admins do over HTTP to what is kept: the policy, pruning, forgetting."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from serving import API, bearer, served

ADMIN = {"sub": "ann", "scope": "read admin"}


@pytest.fixture
def service(tmp_path):
    with served(tmp_path / "s.duckdb", sampling=False) as found:
        yield found


def put(service, **fields):
    return service.client.put(f"{API}/admin/retention", json=fields, headers=bearer(**ADMIN))


def test_a_policy_that_names_no_hold_leaves_it(service):
    hold = (datetime.now(UTC) + timedelta(days=9)).isoformat()
    first = put(service, legal_hold_until=hold, metric_days=300, by_type={"debug": 3}).json()
    assert datetime.fromisoformat(first["legal_hold_until"]) == datetime.fromisoformat(hold)
    second = put(service, raw_data_days=8, hourly_aggregates_days=30).json()
    assert second == {**first, "raw_data_days": 8, "hourly_aggregates_days": 30}
    assert put(service, **second).json() == second
    assert put(service, legal_hold_until=None).json() == {**second, "legal_hold_until": None}


@pytest.mark.parametrize("fields", [{"by_type": {"": 1}}, {"legal_hold_until": "2020-01-01T00:00:00Z"}])
def test_a_policy_that_cannot_be_is_refused(service, fields):
    refused = put(service, **fields)
    assert (refused.status_code, refused.json()["type"]) == (422, "bad-policy")


def test_the_description_names_no_default_that_would_end_a_hold(service):
    fields = service.app.openapi()["components"]["schemas"]["Retention"]["properties"]
    assert not [name for name, told in fields.items() if "default" in told]


def at(days_ago):
    return (datetime.now(UTC) - timedelta(days=days_ago)).isoformat()


def recorded(service):
    """Events of u1 and others on twenty days; returns how many there are."""
    claims = {"scope": "ingest:any"}
    events = [{"type": "page_view", "user_id": f"u{n % 3}", "ts": at(n + 1)} for n in range(20)]
    assert service.post("/ingest", events, claims=claims).json()["ingested"] == 20
    service.engine.flush()
    return service.engine.query(["events"]).to_dicts()[0]["events"]


def raw_left(service):
    return service.engine._hold.store.ask(["SELECT count(*) FROM events"], 5.0)[0].rows[0][0]


def test_pruning_is_a_dry_run_unless_it_says_otherwise(service):
    assert recorded(service) == 20
    put(service, raw_data_days=5, hourly_aggregates_days=8)
    would = service.post("/admin/prune", claims=ADMIN).json()
    assert service.post("/admin/prune", {}, claims=ADMIN).json()["raw"] == would["raw"] > 10 and raw_left(service) == 20
    did = service.post("/admin/prune", {"dry_run": False}, claims=ADMIN).json()
    kinds = ("raw", "hourly", "daily", "samples")
    assert [did[kind] for kind in kinds] == [would[kind] for kind in kinds] and did["hourly"] > 5
    assert raw_left(service) == 20 - did["raw"]
    again = service.post("/admin/prune", {"dry_run": False}, claims=ADMIN).json()
    assert [again[kind] for kind in kinds] == [0, 0, 0, 0]
    assert service.engine.query(["events"]).to_dicts() == [{"events": 20}]
    kept = [(entry.who, entry.detail["dry_run"]) for entry in service.engine.get_access_log("all")
            if entry.operation == "prune"]  # fmt: skip
    assert kept == [("ann", False), ("ann", False), ("ann", True), ("ann", True)]


def test_forgetting_gives_the_certificate_and_may_be_repeated(service):
    recorded(service)
    first = service.post("/admin/forget", {"user_id": "u1"}, claims=ADMIN).json()
    assert (first["rows"], first["deleted"], first["remaining"]) == (7, False, [])
    assert datetime.fromisoformat(first["at"]).tzinfo is not None and "u1" not in str(first)
    assert service.engine.query(["events", "people"]).to_dicts() == [{"events": 20, "people": 2}]
    assert service.post("/admin/forget", {"user_id": "u1"}, claims=ADMIN).json()["rows"] == 0
    gone = service.post("/admin/forget", {"user_id": "u2", "delete_events": True}, claims=ADMIN).json()
    assert gone["deleted"] and service.engine.query(["events"]).to_dicts() == [{"events": 20 - gone["rows"]}]
    found = [entry for entry in service.engine.get_access_log("all") if entry.operation == "forget"]
    assert {entry.who for entry in found} == {"ann"} and "u1" not in str([entry.detail for entry in found])


def test_neither_is_done_while_a_hold_is_in_force_or_without_the_scope(service):
    recorded(service)
    put(service, raw_data_days=5, legal_hold_until=at(-9))
    for path, body in (("/admin/prune", {"dry_run": False}), ("/admin/forget", {"user_id": "u1"})):
        refused = service.post(path, body, claims=ADMIN)
        assert (refused.status_code, refused.json()["type"]) == (422, "legal-hold")
        assert service.post(path, body, claims={"scope": "ingest:any read"}).status_code == 403
    assert service.post("/admin/prune", claims=ADMIN).json()["raw"] > 10
    assert raw_left(service) == 20
    assert service.engine.query(["people"]).to_dicts() == [{"people": 3}]


@pytest.mark.parametrize("body", [{}, {"user_id": ""}, {"user_id": None}, {"user_id": "é" * 150}, {"user_id": 5}])
def test_what_is_no_id_is_refused(service, body):
    assert service.post("/admin/forget", body, claims=ADMIN).status_code == 422
