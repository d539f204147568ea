"""Reports against a recount in plain Python: any events, zones with clock changes, weights, late rows, rollups, pruned
raw rows, and people who were forgotten. The recount shares no code with the engine."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gnomon
from gnomon.errors import InvalidValue
from gnomon.testing import ManualClock

NOW = datetime(2026, 4, 3, 10, 20, tzinfo=UTC)  # London's clocks went forward on 29 March
ZONES = ("UTC", "Europe/London", "America/St_Johns")
DAYS = 12

EVENT = st.fixed_dictionaries({
    "minutes": st.integers(0, DAYS * 1_440 - 1),
    "type": st.sampled_from(["request", "page_view", "click"]),
    "user_id": st.sampled_from([None, "ann", "bob", "cy", "dee"]),
    "device_id": st.sampled_from([None, "ann", "tv"]),
    "session_id": st.sampled_from([None, "s1", "s2", "s3"]),
    "endpoint": st.sampled_from([None, "/a", "/b"]),
    "success": st.sampled_from([None, True, True, False]),
    "duration_ms": st.sampled_from([None, 0.0, 3.5, 80.0, 4_100.0, 9_999.0]),
    "weight": st.just(1.0),
})  # fmt: skip
ONE = {"minutes": 60, "type": "click", "user_id": "ann", "device_id": None, "session_id": None, "endpoint": None,
       "success": None, "duration_ms": 1.0, "weight": 1.0}  # fmt: skip
LIGHT = st.lists(EVENT, max_size=40)
HEAVY = st.lists(st.builds(lambda e, w: {**e, "weight": w}, EVENT, st.sampled_from([1.0, 2.5, 10.0])), max_size=40)


def at(event):
    return NOW - timedelta(minutes=event["minutes"])


def actor(event):
    return event["user_id"] or event["device_id"]


def day_of(event, zone):
    return at(event).astimezone(ZoneInfo(zone)).date()


def total(events):
    return sum(event["weight"] for event in events)


def mean(events):
    timed = [event for event in events if event["duration_ms"] is not None]
    return sum(e["weight"] * e["duration_ms"] for e in timed) / total(timed) if timed else None


def by_type(events):
    return {
        name: n for name in ("request", "page_view", "click") if (n := total(e for e in events if e["type"] == name))
    }


def p95(events):
    timed = sorted((e["duration_ms"], e["weight"]) for e in events if e["duration_ms"] is not None)
    whole, reached = sum(w for _, w in timed), 0.0
    for value, weight in timed:
        reached += weight
        if reached >= 0.95 * whole * (1 - 1e-12):
            return value
    return None


def summed_up(events):
    good, bad = (total(e for e in events if e["success"] is which) for which in (True, False))
    return {
        "events": total(events), "people": len({actor(e) for e in events} - {None}),
        "requests": total(e for e in events if e["type"] == "request"), "successes": good, "failures": bad,
        "unknown": total(events) - good - bad, "success_rate": good / (good + bad) if good + bad else None,
        "mean_duration_ms": mean(events), "by_type": by_type(events),
    }  # fmt: skip


def fits(found, wanted):
    assert found.keys() >= wanted.keys()
    for name, value in wanted.items():
        assert found[name] == (pytest.approx(value) if value is not None else None), name


def opened(url=":memory:", **changes):
    return gnomon.open(url, clock=ManualClock(NOW), sampling=False, rollup_lag_seconds=0, timezones=ZONES,
                       cache_entries=0, heartbeat_seconds=0, **changes)  # fmt: skip


def record(engine, events):
    for event in events:
        told = {name: value for name, value in event.items() if name not in ("minutes", "type")}
        engine.track(event["type"], ts=at(event), **told)
    engine.flush()


def check_active(engine, events, zone):
    first, last = (NOW - timedelta(days=DAYS)).date(), NOW.astimezone(ZoneInfo(zone)).date()
    span = [first.isoformat(), (last + timedelta(days=1)).isoformat()]
    seen = {(day_of(event, zone), actor(event)) for event in events if actor(event)}
    days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    found = engine.active_users(span, timezone=zone)
    assert [(row["time:day"].date(), row["people"]) for row in found] == [
        (day, len({who for other, who in seen if other == day})) for day in days
    ]
    for grain, width in (("week", 7), ("month", 30)):
        found = engine.active_users(span, grain, zone, rolling=True)
        wanted = [len({w for other, w in seen if timedelta(0) <= day - other < timedelta(days=width)}) for day in days]
        assert [row["people"] for row in found] == wanted, (zone, grain)
        assert [row["time:day"].date() for row in found] == days
    for row in engine.active_users(span, "week", zone):
        monday = row["time:week"].date()
        assert row["people"] == len({w for day, w in seen if timedelta(0) <= day - monday < timedelta(days=7)})


def check_user(engine, events, name, since=date.min):
    own = [event for event in events if actor(event) == name]
    found = engine.user(name, recent=1_000)
    assert found.events == pytest.approx(total(own)) and found.by_type == pytest.approx(by_type(own))
    kept = [event for event in own if at(event).date() >= since]
    assert found.failures == pytest.approx(total(e for e in kept if e["success"] is False))
    assert found.mean_duration_ms == (pytest.approx(mean(kept)) if mean(kept) is not None else None)
    assert [event["ts"] for event in found.recent] == sorted(map(at, kept), reverse=True)
    quarter = timedelta(minutes=15)
    if own:
        assert found.first_seen <= min(map(at, own)) < found.first_seen + quarter
        assert found.last_seen <= max(map(at, own)) < found.last_seen + quarter
        if since == date.min:
            assert (found.first_seen, found.last_seen) == (min(map(at, own)), max(map(at, own)))
    else:
        assert (found.first_seen, found.last_seen) == (None, None)


def check_dashboard(engine, events, zone):
    board = engine.dashboard(zone).to_dict()
    today = NOW.astimezone(ZoneInfo(zone)).date()
    for name, hours in (("today", None), ("last_24_hours", 24), ("last_7_days", 168), ("last_30_days", 720)):
        start = datetime.fromisoformat(board[name]["meta"]["start"])
        held = [e for e in events if (day_of(e, zone) == today if hours is None else at(e) >= start)]
        fits(board[name], summed_up(held))
        assert board[name]["p95_duration_ms"] == (pytest.approx(p95(held), rel=0.01) if p95(held) is not None else None)
        if hours is not None and "sessions" not in board[name]["reasons"]:
            assert start == NOW - timedelta(hours=hours) + timedelta(microseconds=1)
        if board[name]["sessions"] is not None:
            assert board[name]["sessions"] == len({e["session_id"] for e in held} - {None})
        pages = {page: n for page in ("/a", "/b") if (n := total(e for e in held if e["endpoint"] == page))}
        assert {row["page"]: row["events"] for row in board[name]["top_pages"]} == pytest.approx(pages)


def check_all(engine, events, since=date.min):
    for zone in ZONES:
        check_active(engine, events, zone)
        check_dashboard(engine, events, zone)
        first = (NOW - timedelta(days=DAYS)).astimezone(ZoneInfo(zone)).date()
        for days in ((0, DAYS + 1), (3, 9)):
            ends = [first + timedelta(days=n) for n in days]
            found = engine.summary(date_range=[day.isoformat() for day in ends], timezone=zone)
            fits(found.to_dict(), summed_up([e for e in events if ends[0] <= day_of(e, zone) < ends[1]]))
    for name in ("ann", "tv", "nobody"):
        check_user(engine, events, name, since)


UNWELL = [HealthCheck.too_slow, HealthCheck.data_too_large]
FEW = settings(max_examples=3, suppress_health_check=UNWELL)
MANY = settings(max_examples=150, suppress_health_check=UNWELL)


def kept_late_and_pruned(events, late, **place):
    with opened(**place) as engine:
        record(engine, events)
        check_all(engine, events)
        engine.trigger_aggregation()
        record(engine, late)
        check_all(engine, events + late)
        engine.set_retention_policy(raw_data_days=4)
        engine.prune()
        check_all(engine, events + late, since=NOW.date() - timedelta(days=4))


def weighted(events, rolled, **place):
    with opened(**place) as engine:
        record(engine, events)
        if rolled:
            engine.trigger_aggregation()
        check_all(engine, events)
        weighted = [event for event in events if event["weight"] != 1]
        assert engine.summary(date_range="30d").basis.exact is not bool(weighted)
        assert engine.user("ann").exact is all(actor(event) != "ann" for event in weighted)


def forgotten(events, rolled, **place):
    with opened(**place) as engine:
        record(engine, events)
        if rolled:
            engine.trigger_aggregation()
        engine.forget("ann")
        gone = [{**e, "user_id": None, "device_id": None, "session_id": None, "endpoint": None}
                if "ann" in (e["user_id"], e["device_id"]) and actor(e) == "ann" else e for e in events]  # fmt: skip
        check_user(engine, gone, "ann")
        assert engine.summary(date_range="30d").events == len(events)
        check_active(engine, gone, "Europe/London")


@FEW
@given(LIGHT, st.lists(EVENT, max_size=5))
def test_reports_of_raw_rows_rollups_late_rows_and_pruned_ones(events, late):
    kept_late_and_pruned(events, late)


@FEW
@given(HEAVY, st.booleans())
def test_reports_of_weighted_rows(events, rolled):
    weighted(events, rolled)


@FEW
@given(LIGHT, st.booleans())
def test_who_is_forgotten_is_in_no_report_and_totals_stay(events, rolled):
    forgotten(events, rolled)


@pytest.mark.slow
@pytest.mark.timeout(1_800)
@MANY
@given(LIGHT, st.lists(EVENT, max_size=5))
def test_reports_of_raw_rows_rollups_late_rows_and_pruned_ones_many_times(events, late):
    kept_late_and_pruned(events, late)


@pytest.mark.slow
@pytest.mark.timeout(1_800)
@MANY
@given(HEAVY, st.booleans())
def test_reports_of_weighted_rows_many_times(events, rolled):
    weighted(events, rolled)


@pytest.mark.slow
@pytest.mark.timeout(1_800)
@MANY
@given(LIGHT, st.booleans())
def test_who_is_forgotten_is_in_no_report_and_totals_stay_many_times(events, rolled):
    forgotten(events, rolled)


def test_a_recount_that_is_wrong_is_noticed():
    events = [ONE]
    with opened() as engine:
        record(engine, events)
        for check in (check_all, lambda e, found: check_user(e, found, "ann"), lambda e, f: check_active(e, f, "UTC")):
            with pytest.raises(AssertionError):
                check(engine, events * 2 + [{**events[0], "user_id": "bob"}])


def test_what_even_rollups_cannot_answer_is_refused_with_the_reason():
    with opened() as engine:
        record(engine, [{**ONE, "minutes": n * 60} for n in range(240)])
        engine.set_retention_policy(raw_data_days=2, hourly_aggregates_days=4, daily_aggregates_days=8)
        engine.prune()
        with pytest.raises(InvalidValue) as caught:
            engine.summary(hours=100.3)
        assert caught.value.code == "raw-rows-gone"
        board = engine.dashboard()
        assert board.last_30_days is None and board.reasons == {"last_30_days": "raw-rows-gone"}
        assert board.last_7_days is not None and board.last_7_days.basis.start.hour == 0
        assert board.last_7_days.reasons == {"sessions": "raw-rows-gone"}
        assert board.to_dict()["last_30_days"] is None
