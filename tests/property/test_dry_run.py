"""What a dry run of pruning tells is what the prune removes, and neither moves a number, whatever was rolled up, came
late, has no person or source, or has days of its own by type."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest

import gnomon
from gnomon.errors import InvalidValue
from gnomon.testing import ManualClock
from gnomon.upkeep import retention

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
ZONES = ("UTC", "Asia/Kathmandu", "America/New_York")
DAYS = (0, 0.5, 1, 5, 9, 10, 11, 20, 40)


def opened(chance, file):
    return gnomon.open(file, clock=ManualClock(NOW), heartbeat_seconds=0, sampling=False, scheduler=False,
                       timezones=(chance.choice(ZONES),))  # fmt: skip


def record(chance, engine, count):
    for _ in range(count):
        at = NOW - timedelta(days=chance.choice(DAYS), minutes=chance.randrange(2_000))
        engine.track(chance.choice("abc"), ts=at, user_id=chance.choice([None, "u1", "u2", "u3"]),
                     source=chance.choice([None, "s", "t"]), duration_ms=chance.choice([None, 1.0, 5.5]))  # fmt: skip
    engine.flush()


def some_policy(chance):
    raw = chance.choice([1, 5, 10, None])
    hourly = None if raw is None else chance.choice([None, raw, raw + 5, raw + 15])
    daily = None if hourly is None else chance.choice([None, hourly, hourly + 10])
    return {"raw_data_days": raw, "hourly_aggregates_days": hourly, "daily_aggregates_days": daily,
            "by_type": {} if raw is None else chance.choice([{}, {"a": 1}, {"a": raw}])}  # fmt: skip


def told(engine):
    """Totals, people and days, or why they cannot be told any more."""
    found = []
    for dimensions in ((), ("time:day",), ("type",)):
        try:
            found.append(engine.query(["events", "people"], dimensions, ["2026-03-01", "2026-06-02"]).rows)
        except InvalidValue as error:
            found.append(error.code)
    return found


def check(seed, file):
    chance = random.Random(seed)
    with opened(chance, file) as engine:
        record(chance, engine, 60)
        if chance.random() < 0.6:
            engine.trigger_aggregation()
            record(chance, engine, chance.choice([0, 15]))
        policy = some_policy(chance)
        engine.set_retention_policy(**policy)
        before, counted, between = told(engine), engine.prune(dry_run=True), told(engine)
        went = engine.prune()
        assert (counted.raw, counted.hourly, counted.daily) == (went.raw, went.hourly, went.daily), policy
        assert between == before, policy
        if policy["daily_aggregates_days"] is None:  # else totals of what is gone may go, as the policy says
            after = told(engine)
            assert all(now in (was, "raw-rows-gone") for was, now in zip(before, after, strict=True)), policy
            assert after[0] == before[0], policy
        return went


@pytest.mark.parametrize("seed", range(12))
def test_a_dry_run_counts_what_goes(tmp_path, seed):
    check(seed, tmp_path / "store.duckdb")


def test_a_dry_run_that_does_not_roll_up_first_would_be_found(tmp_path, monkeypatch):
    real, calls = retention.roll_up, []

    def late(*given, **named):
        calls.append(1)
        return real(*given, **named) if len(calls) > 1 else None

    monkeypatch.setattr(retention, "roll_up", late)
    failed = 0
    for seed in range(6):
        calls.clear()
        try:
            check(seed, tmp_path / f"store{seed}.duckdb")
        except AssertionError:
            failed += 1
    assert failed
