"""Report verbs: what they refuse, what they leave in the audit, one snapshot, pseudonyms, gaps, and health's edges."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

import gnomon
from gnomon.errors import EngineClosed, Forbidden, InvalidValue, QueryTimeout, UnknownName
from gnomon.insight import counting, dashboard
from gnomon.insight.dashboard import standing
from gnomon.store.duckdb import DuckDBStore
from gnomon.testing import ManualClock

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
KEYS = ("qJ7vT2xLw9Zr4Kf8Bn3Hs6Dm1Pc5Gy0Aa", "Zz9Xx8Cc7Vv6Bb5Nn4Mm3Ll2Kk1Jj0Hh")


@pytest.fixture
def clock():
    return ManualClock(NOW)


@pytest.fixture
def engine(clock):
    with gnomon.open(":memory:", clock=clock, sampling=False, rollup_lag_seconds=0) as opened:
        yield opened


def fill(engine, n=20):
    for i in range(n):
        engine.track("click", user_id=f"u{i % 3}", duration_ms=float(i), ts=NOW - timedelta(hours=i))
    engine.flush()


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda e: e.summary(hours=0), "bad-range"),
        (lambda e: e.summary(hours=-1), "bad-range"),
        (lambda e: e.summary(hours=True), "bad-range"),
        (lambda e: e.summary(hours="24"), "bad-range"),
        (lambda e: e.summary(hours=float("nan")), "bad-range"),
        (lambda e: e.summary(hours=1e9), "bad-range"),
        (lambda e: e.summary(hours=1, date_range="today"), "bad-range"),
        (lambda e: e.summary(timezone="Mars/Olympus"), "unknown-name"),
        (lambda e: e.summary(filters=[["is", "sorce", ["a"]]]), "unknown-name"),
        (lambda e: e.active_users(grain="dya"), "unknown-name"),
        (lambda e: e.active_users("since ever"), "bad-range"),
        (lambda e: e.active_users(["0001-01-01", "9999-01-01"]), "range-too-large"),
        (lambda e: e.active_users(timezone="../etc"), "unknown-name"),
        (lambda e: e.dashboard("nowhere"), "unknown-name"),
        (lambda e: e.user(""), "bad-query"),
        (lambda e: e.user("x" * 201), "bad-query"),
        (lambda e: e.user("a\x00b"), "bad-query"),
        (lambda e: e.user("\ud800"), "bad-query"),
        (lambda e: e.user(7), "bad-query"),
        (lambda e: e.user("u", recent=-1), "bad-query"),
        (lambda e: e.user("u", recent=True), "bad-query"),
        (lambda e: e.user("u", recent=1_001), "bad-query"),
    ],
)
def test_what_cannot_be_asked_is_refused_and_noted(engine, call, code):
    fill(engine, 3)
    with pytest.raises(InvalidValue) as caught:
        call(engine)
    assert caught.value.code == code and caught.value.remedy
    assert engine.get_access_log()[0].outcome == code


def test_a_wrong_grain_gets_the_nearest_right_one(engine):
    with pytest.raises(UnknownName, match="month"):
        engine.active_users(grain="mont")


def test_an_empty_store_has_reports(engine):
    summary = engine.summary()
    assert (summary.events, summary.people, summary.success_rate, summary.mean_duration_ms) == (0, 0, None, None)
    assert summary.by_type == {} and summary.period_hours == 24
    person = engine.user("nobody")
    assert (person.events, person.first_seen, person.last_seen, person.recent) == (0, None, None, [])
    board = engine.dashboard()
    assert board.health.level == "healthy" and board.today.sessions == 0 and board.today.top_pages == []
    assert [row["people"] for row in engine.active_users("2d")] == [0, 0, 0]
    json.dumps([summary.to_dict(), person.to_dict(), board.to_dict()], allow_nan=False)


def test_each_verb_leaves_one_entry_and_no_id(engine):
    fill(engine)
    engine.active_users("7d")
    engine.active_users("7d", "week", rolling=True)
    engine.summary(filters=[["is", "user_id", ["u1"]]])
    engine.user("u1", recent=3)
    engine.dashboard()
    entries = engine.get_access_log()[::-1]
    assert [(e.operation, e.outcome, e.rows) for e in entries] == [
        ("active_users", "ok", 8), ("active_users", "ok", 8), ("summary", "ok", 1), ("user", "ok", 3),
        ("dashboard", "ok", 4),
    ]  # fmt: skip
    assert all(entry.range is not None for entry in entries if entry.operation != "user")
    (digest,) = entries[3].detail["people"]
    assert digest != "u1" and len(digest) == 32 and entries[2].detail["filters"] == [["is", "user_id", [digest]]]
    assert bool(engine.verify_audit())


def test_reading_is_enough_and_needed(engine):
    fill(engine)
    reader = engine.acting_as(gnomon.Principal("ann", ["read"]))
    assert reader.summary().events == 20 and reader.user("u1").events == 7 and reader.dashboard().today.events == 13
    writer = engine.acting_as(gnomon.Principal("bob", ["ingest:any"]))
    for call in (writer.summary, writer.dashboard, writer.active_users, lambda: writer.user("u1")):
        with pytest.raises(Forbidden):
            call()


def test_a_closed_engine_reports_nothing(engine):
    engine.close()
    for call in (engine.summary, engine.dashboard, engine.active_users, lambda: engine.user("u1")):
        with pytest.raises(EngineClosed):
            call()


def test_projects_do_not_see_each_other(tmp_path, clock):
    path = tmp_path / "x.duckdb"
    for project, n in (("one", 5), ("two", 3)):
        with gnomon.open(path, project=project, clock=clock, sampling=False, rollup_lag_seconds=0) as engine:
            fill(engine, n)
            engine.trigger_aggregation()
    with gnomon.open(path, project="two", clock=clock) as engine:
        assert engine.summary().events == 3 and engine.dashboard().last_30_days.events == 3
        assert engine.user("u0").events == 1
        assert sum(row["people"] for row in engine.active_users("1d")) == 3


def test_the_parts_of_a_report_are_of_one_snapshot(engine, monkeypatch):
    """Rows that come in between two statements would show as a total that is not the sum of its types."""
    fill(engine)
    asked = []
    ask = DuckDBStore.ask

    def counted(store, statements, timeout):
        asked.append(len(statements))
        return ask(store, statements, timeout)

    monkeypatch.setattr(DuckDBStore, "ask", counted)
    board = engine.dashboard()
    assert max(asked) == 16 and len(asked) <= 3  # what is known of the data, how much there is, everything else at once
    assert sum(board.last_30_days.by_type.values()) == board.last_30_days.events == 20
    asked.clear()
    engine.dashboard()
    assert asked == []  # from memory, as nothing changed


def fill_sessions(engine):
    for i in range(20):
        engine.track("click", session_id=f"s{i}", ts=NOW - timedelta(hours=3 * i + 1))
    engine.flush()


def busy_board(engine, told=lambda board: board.last_7_days.sessions is not None):
    """A dashboard for which the sessions of busy periods were counted."""
    for _ in range(500):
        board = engine.dashboard()
        if told(board):
            return board
        time.sleep(0.01)
    raise AssertionError(board.last_7_days.reasons)


def test_sessions_of_busy_periods_are_counted_beside_and_told_with_their_moment(engine, clock, monkeypatch):
    fill_sessions(engine)
    monkeypatch.setattr(dashboard, "MOST_FOR_SESSIONS", 10)
    board = engine.dashboard()
    day, week = board.last_24_hours, board.last_7_days
    assert (day.sessions, day.sessions_until, day.reasons) == (8, None, {})
    assert (week.sessions, week.reasons, week.events) == (None, {"sessions": "being-counted"}, 20)
    week = busy_board(engine).last_7_days
    assert (week.sessions, week.sessions_until, week.reasons) == (20, NOW, {})
    engine.track("click", session_id="new", ts=NOW)
    engine.flush()
    clock.advance(seconds=30)
    week = engine.dashboard().last_7_days
    assert (week.sessions, week.sessions_until, week.events) == (20, NOW, 21), "an old count, told as such"
    assert week.to_dict()["sessions_until"] == NOW.isoformat()


def test_an_old_count_of_sessions_is_made_again_and_a_very_old_one_not_told(engine, clock, monkeypatch):
    fill_sessions(engine)
    monkeypatch.setattr(dashboard, "MOST_FOR_SESSIONS", 10)
    busy_board(engine)
    engine.track("click", session_id="new", ts=NOW)
    engine.flush()
    clock.advance(seconds=30)
    passed = counting.LEAST_SECONDS + 1
    monkeypatch.setattr(counting, "monotonic", lambda: time.monotonic() + passed)
    assert engine.dashboard().last_7_days.sessions == 20
    week = busy_board(engine, lambda board: board.last_7_days.sessions == 21).last_7_days
    assert week.sessions_until == NOW + timedelta(seconds=30)
    passed *= 1 + 2 * counting.STALE
    week = engine.dashboard().last_7_days
    assert (week.sessions, week.reasons) == (None, {"sessions": "being-counted"})


def test_looking_again_while_sessions_are_counted_orders_no_second_count(engine, monkeypatch):
    fill_sessions(engine)
    monkeypatch.setattr(dashboard, "MOST_FOR_SESSIONS", 10)
    counts, begun, go_on, ran = dashboard.count_sessions, threading.Event(), threading.Event(), []

    def slowly(inquiry, store, span):
        begun.set()
        assert go_on.wait(20)
        ran.append(span.end_us - span.start_us)
        return counts(inquiry, store, span)

    monkeypatch.setattr(dashboard, "count_sessions", slowly)
    engine.dashboard()
    assert begun.wait(20)
    for _ in range(3):
        assert engine.dashboard().last_7_days.sessions is None
    go_on.set()
    busy_board(engine, lambda board: board.last_30_days.sessions is not None)
    assert engine.dashboard().last_7_days.sessions == 20 and sorted(ran) == sorted(set(ran))


def test_a_fault_while_sessions_are_counted_does_not_end_the_counting(engine, monkeypatch):
    fill_sessions(engine)
    monkeypatch.setattr(dashboard, "MOST_FOR_SESSIONS", 10)
    counts, failed = dashboard.count_sessions, threading.Event()

    def fails(*given):
        if failed.is_set():
            return counts(*given)
        failed.set()
        raise KeyError("ours")

    monkeypatch.setattr(dashboard, "count_sessions", fails)
    assert busy_board(engine).last_7_days.sessions == 20 and failed.is_set()


def test_the_sessions_of_yesterday_are_not_those_of_today(engine, clock, monkeypatch):
    fill_sessions(engine)
    monkeypatch.setattr(dashboard, "MOST_FOR_SESSIONS", 1)
    assert busy_board(engine, lambda board: board.today.sessions is not None).today.sessions == 4
    assert engine.dashboard().today.sessions_until == NOW
    clock.advance(hours=13)
    for i in range(3):
        engine.track("click", session_id="t", ts=NOW + timedelta(hours=12, seconds=i))
    engine.flush()
    assert engine.dashboard().today.reasons == {"sessions": "being-counted"}
    assert busy_board(engine, lambda board: board.today.sessions is not None).today.sessions == 1


def test_sessions_that_cannot_be_counted_have_the_reason(engine, monkeypatch):
    fill_sessions(engine)
    monkeypatch.setattr(dashboard, "MOST_FOR_SESSIONS", 10)

    def fails(*_):
        raise QueryTimeout("it took longer than it may")

    monkeypatch.setattr(dashboard, "count_sessions", fails)
    week = busy_board(engine, lambda board: board.last_7_days.reasons != {"sessions": "being-counted"}).last_7_days
    assert (week.sessions, week.reasons) == (None, {"sessions": "query-timeout"})


@pytest.mark.parametrize("by", ["this engine", "another"])
def test_what_was_counted_before_a_restore_or_an_erasure_is_not_told_after_it(tmp_path, clock, monkeypatch, by):
    monkeypatch.setattr(dashboard, "MOST_FOR_SESSIONS", 10)
    path = tmp_path / "x.duckdb"
    with (
        gnomon.open(path, clock=clock, sampling=False) as engine,
        gnomon.open(path, clock=clock, sampling=False) as other,
    ):
        changing = engine if by == "this engine" else other
        fill_sessions(engine)
        kept = engine.trigger_backup()
        engine.track("click", session_id="new", user_id="anna", ts=NOW)
        assert busy_board(engine).last_7_days.sessions in (20, 21)
        engine.flush()  # what still waits in memory is kept on top of a restore
        changing.restore_backup(kept.path)
        assert engine.dashboard().last_7_days.sessions is None
        assert busy_board(engine).last_7_days.sessions == 20
        engine.track("click", session_id="new", user_id="anna", ts=NOW)
        engine.flush()
        changing.forget("anna", delete_events=True)
        assert engine.dashboard().last_7_days.sessions is None
        assert busy_board(engine).last_7_days.sessions == 20


def test_where_no_thread_is_to_be_had_sessions_are_counted_later(engine, monkeypatch):
    fill_sessions(engine)
    monkeypatch.setattr(dashboard, "MOST_FOR_SESSIONS", 10)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", raises)
        assert engine.dashboard().last_7_days.reasons == {"sessions": "being-counted"}
    assert busy_board(engine).last_7_days.sessions == 20


def raises(*_):
    raise RuntimeError("can't start new thread")


def test_a_long_question_does_not_hold_up_the_end(tmp_path):
    """It is interrupted when the store is closed, as the file stays open until it ends."""
    engine, ended = gnomon.open(tmp_path / "x.duckdb"), []
    store = engine._hold.own()
    endless = "SELECT count(*) FROM range(3000000) a, range(3000000) b WHERE hash(a.range) = hash(b.range) + 1"

    def ask():
        with pytest.raises(EngineClosed):
            store.ask([endless], 60.0)
        ended.append(True)

    asking = threading.Thread(target=ask)
    asking.start()
    while not store._running:
        time.sleep(0.001)
    engine.close()
    asking.join(10)
    assert ended == [True]


def test_parts_fit_together_while_events_come_in(tmp_path):
    with gnomon.open(tmp_path / "x.duckdb", sampling=False, cache_entries=0, flush_seconds=0.01) as engine:
        done, day = threading.Event(), datetime.now(UTC).date()

        def record():
            n = 0
            while not done.is_set():
                n += 1
                engine.track(f"t{n % 5}", user_id=f"u{n % 50}", endpoint="/a")
                if n % 50 == 0:
                    time.sleep(0.001)

        thread = threading.Thread(target=record)
        thread.start()
        seen = []
        try:
            for _ in range(15):
                board = engine.dashboard()
                periods = (board.today, board.last_24_hours, board.last_7_days, board.last_30_days)
                for period in periods:
                    assert sum(period.by_type.values()) == period.events == sum(n for _, n in period.top_pages)
                seen.append([period.events for period in periods])
                # Those that end now leave out what was recorded between that moment and the answer's.
                assert seen[-1][1:] == sorted(seen[-1][1:])
        finally:
            done.set()
            thread.join()
        grown = list(map(list, zip(*seen, strict=True)))
        if datetime.now(UTC).date() != day:
            del grown[0]  # of today
        assert all(counts == sorted(counts) and counts[-1] > counts[0] for counts in grown)


def test_pseudonyms_are_found_by_the_id_under_every_key(tmp_path, clock):
    path = tmp_path / "x.duckdb"
    with gnomon.open(path, clock=clock, pseudonym_keys=KEYS[1:]) as engine:
        engine.track("click", user_id="ann", session_id="s")
    with gnomon.open(path, clock=clock, pseudonym_keys=KEYS) as engine:
        engine.track("view", user_id="ann", device_id="d")
        engine.flush()
        person = engine.user("ann")
        assert person.by_type == {"click": 1, "view": 1} and person.user_id == "ann"
        shown = json.dumps(person.to_dict()["recent"])
        assert "ann" not in shown and '"s"' not in shown and '"d"' not in shown
        engine.forget("ann")
        assert engine.user("ann").events == 0


def test_days_without_collection_are_gaps_and_windows_over_them_are_not(tmp_path, clock):
    path = tmp_path / "x.duckdb"
    with gnomon.open(path, clock=clock) as engine:
        engine.track("click", user_id="ann")
    clock.advance(days=9)
    with gnomon.open(path, clock=clock) as engine:
        engine.track("click", user_id="bob")
        engine.flush()
        days = engine.active_users("10d")
        assert [row["people"] for row in days][1:] == [1, *[None] * 8, 1]
        assert days.basis.gaps == 8
        weeks = engine.active_users("10d", "week", rolling=True)
        assert [row["people"] for row in weeks][1:] == [1, 1, 1, 1, 1, 1, 1, None, None, 1]
        assert [weeks.is_gap(row) for row in weeks].count(True) == weeks.basis.gaps == 2
        assert engine.summary(hours=240).basis.uncollected_seconds > 8 * 86_400


def test_days_to_come_have_no_people_yet(engine):
    fill(engine)
    for rolling in (False, True):
        found = engine.active_users(["2026-01-15", "2026-01-18"], rolling=rolling)
        assert [row["people"] for row in found] == [3, None, None]


def test_a_device_without_a_user_is_a_person(engine):
    engine.track("click", device_id="d1")
    engine.track("click", device_id="d1", user_id="ann")
    engine.flush()
    assert engine.user("d1").events == 1 and engine.user("ann").events == 1


def test_people_whom_sampling_left_out_were_seen(clock):
    """A thousand requests at once, of which a few are kept; everybody counts as a person and has been seen."""
    with gnomon.open(":memory:", clock=clock, sampling_low=1, sampling_high=2, sampling_rate=0.2,
                     sampling_floor_per_source=0, rollup_lag_seconds=0) as engine:  # fmt: skip
        for i in range(1_000):
            engine.record_request(user_id=f"u{i}", source="s", status_code=200)
        engine.flush()
        for _ in range(2):
            summary = engine.summary()
            assert summary.people == 1_000 and summary.basis.exact is False
            low, high = summary.intervals["events"]
            assert low < summary.events < high and summary.to_dict()["meta"]["intervals"]["events"] == [low, high]
            assert engine.active_users("today")[0]["people"] == 1_000
            assert engine.active_users("today", "month", rolling=True)[0]["people"] == 1_000
            people = [engine.user(f"u{i}") for i in range(60)]
            assert all(person.first_seen == NOW and person.exact <= (person.events == 1) for person in people)
            assert 0 < sum(person.events > 0 for person in people) < 60
            engine.trigger_aggregation()
            clock.advance(minutes=30)
            engine.trigger_aggregation()


@pytest.mark.parametrize(
    ("failures", "mean", "level", "reasons"),
    [
        (0, None, "healthy", []),
        (5, 2_000.0, "healthy", []),
        (6, 2_000.0, "warning", ["error_rate"]),
        (10, 0.0, "warning", ["error_rate"]),
        (11, 0.0, "critical", ["error_rate"]),
        (0, 2_000.1, "warning", ["mean_duration_ms"]),
        (0, 5_000.0, "warning", ["mean_duration_ms"]),
        (0, 5_000.1, "critical", ["mean_duration_ms"]),
        (6, 5_000.1, "critical", ["error_rate", "mean_duration_ms"]),
    ],
)
def test_health_changes_above_its_thresholds(engine, failures, mean, level, reasons):
    period = replace(engine.summary(), failures=failures, successes=100 - failures, mean_duration_ms=mean)
    found = standing(period)
    assert found.level == level and [reason.metric for reason in found.reasons] == reasons
    assert found.to_dict()["period"] == "last_24_hours"


def test_health_of_nothing_known_is_healthy(engine):
    assert standing(None).level == standing(engine.summary()).level == "healthy"


def test_what_no_double_can_name_is_null_in_json(engine):
    for _ in range(3):
        engine.track("slow", user_id="u", duration_ms=5.0)
    engine.flush()
    engine._hold.store.change(["UPDATE events SET duration_ms = 1.7e308"])  # of before the gate had a bound
    assert engine.user("u").mean_duration_ms is None and engine.summary().mean_duration_ms is None
    for told in (engine.summary().to_dict(), engine.user("u").to_dict(), engine.dashboard().to_dict()):
        json.dumps(told, allow_nan=False)


def test_types_that_have_no_room_are_counted_together():
    with gnomon.open(":memory:", max_rows=3, sampling=False) as engine:
        for n in range(5):
            for _ in range(n + 1):
                engine.track(f"t{n}")
        engine.flush()
        for told in (engine.summary(), engine.dashboard().today):
            assert told.by_type == {"t4": 5, "t3": 4, "t2": 3}
            assert sum(told.by_type.values()) + told.of_other_types == told.events == 15
            assert told.to_dict()["meta"]["of_other_types"] == 3
    with gnomon.open(":memory:", sampling=False) as engine:
        engine.track("t", weight=1.1)
        engine.flush()
        assert "of_other_types" not in engine.summary().to_dict()["meta"]
