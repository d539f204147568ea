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
