"""The policy: what is left out stays, a legal hold ends only where somebody says so, and what cannot be is refused."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

import gnomon
from gnomon.errors import InvalidValue, UnknownName
from gnomon.testing import ManualClock
from gnomon.upkeep import retention

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HELD = NOW + timedelta(days=30)


@pytest.fixture
def clock():
    return ManualClock(NOW)


@pytest.fixture
def engine(clock):
    with gnomon.open(":memory:", clock=clock, metrics_retention_days=365) as opened:
        yield opened


def another_policy(engine):
    """Whether a legal hold, days of types and days of samples outlive policies that do not name them."""
    engine.set_retention_policy(by_type={"debug": 3})
    engine.set_legal_hold(HELD)
    engine.set_retention_policy(gnomon.RetentionPolicy(5, 30, 365))
    engine.set_retention_policy(raw_data_days=6)
    found = engine.get_retention_policy()
    return found == gnomon.RetentionPolicy(6, 30, 365, 365, {"debug": 3}, HELD)


def test_what_a_policy_leaves_out_stays_as_it_is(engine):
    assert another_policy(engine)
    with pytest.raises(InvalidValue, match="legal hold"):
        engine.prune()


def test_a_policy_that_ends_what_it_leaves_out_is_found(engine, monkeypatch):
    merged = retention.changed

    def begin_anew(_policy, *given):
        return merged(retention.RetentionPolicy(None, None, None, None, {}, None), *given)

    monkeypatch.setattr(retention, "changed", begin_anew)
    assert not another_policy(engine)


def test_a_hold_that_is_named_changes_and_is_in_the_audit(engine):
    engine.set_legal_hold(HELD)
    engine.set_retention_policy(gnomon.RetentionPolicy(5, legal_hold_until=None))
    assert engine.get_retention_policy().legal_hold_until is None
    lifted, held = engine.get_access_log("all")[:2]
    assert {entry.operation for entry in (lifted, held)} == {"set_retention_policy"}
    assert (lifted.detail["legal_hold_until"], held.detail["legal_hold_until"][:10]) == (None, "2026-03-31")
    assert engine.prune().raw == 0


def test_none_keeps_for_ever(engine):
    engine.set_retention_policy(raw_data_days=5, metric_days=None)
    engine.set_retention_policy(gnomon.RetentionPolicy(None))
    assert engine.get_retention_policy().plain() == {
        "raw_data_days": None, "hourly_aggregates_days": None, "daily_aggregates_days": None, "metric_days": None,
        "by_type": {}, "legal_hold_until": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    "fields",
    [
        {"by_type": {"": 5}},
        {"by_type": {3: 5}},
        {"by_type": None},
        {"legal_hold_until": NOW},
        {"legal_hold_until": NOW - timedelta(days=1)},
        {"legal_hold_until": HELD.replace(tzinfo=None)},
        {"legal_hold_until": "2027-01-01"},
        {"raw_data_days": True},
        {"raw_data_days": 0},
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(engine, fields):
    before = engine.get_retention_policy()
    with pytest.raises(InvalidValue) as refused:
        engine.set_retention_policy(**fields)
    assert refused.value.code == "bad-policy" and "gnomon.RetentionPolicy(90, 180, 730)" in refused.value.remedy
    with pytest.raises(InvalidValue):
        engine.set_retention_policy(gnomon.RetentionPolicy(**fields))
    assert engine.get_retention_policy() == before


def test_a_field_that_does_not_exist_is_named(engine):
    with pytest.raises(UnknownName):
        engine.set_retention_policy(raw_days=5)


def test_a_hold_that_has_ended_may_be_sent_back_as_it_was(engine, clock):
    engine.set_legal_hold(HELD)
    clock.advance(days=31)
    engine.set_retention_policy(raw_data_days=5, legal_hold_until=HELD.astimezone(timezone(timedelta(hours=2))))
    assert engine.get_retention_policy().raw_data_days == 5


def test_a_kept_policy_of_another_version_is_completed(engine):
    engine._hold.journal.keep(retention.key_of("default"), '{"raw_data_days":9,"further":1}')
    assert engine.get_retention_policy() == gnomon.RetentionPolicy(9, None, None, None, {}, None)
    assert engine.prune().raw == 0
    engine.set_retention_policy(metric_days=3)
    assert engine.get_retention_policy() == gnomon.RetentionPolicy(9, None, None, 3, {}, None)


@pytest.mark.parametrize("user_id", [None, 5, "", "x" * 201, b"u1", "a\x00b", "\ud800", ["u1"]])
def test_an_id_that_no_event_can_have_is_refused(engine, user_id):
    with pytest.raises(InvalidValue) as refused:
        engine.forget(user_id)
    assert refused.value.code == "bad-query" and refused.value.remedy
