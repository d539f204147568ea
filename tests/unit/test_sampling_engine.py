"""Sampling on the whole way: books, people, thresholds that are kept, what is never sampled, and faults on the way."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gnomon
from gnomon.errors import DiskFull, EngineClosed, InvalidValue, StoreUnavailable
from gnomon.ingest import collector, sampling, thresholds
from gnomon.ingest.journal import Journal
from gnomon.ingest.thresholds import Policy, Thresholds
from gnomon.store.duckdb import writing
from gnomon.testing import ManualClock, strict_engine

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
BURST = 1_500  #: on a clock that stands still; all but about 300 of them meet their coin at 0.1


@pytest.fixture
def engine(tmp_path):
    with gnomon.open(tmp_path / "x.duckdb", clock=ManualClock(NOW), flush_seconds=600.0) as opened:
        yield opened


def burst(engine, count=BURST, **fields):
    for n in range(count):
        engine.record_request(source=f"s{n % 3}", **{k: v(n) if callable(v) else v for k, v in fields.items()})


def sightings(engine):
    return engine._hold.store.ask(
        ["SELECT project, epoch_us(ts), actor, type, source, application FROM sightings"], 10.0
    )[0].rows


# -- the books --------------------------------------------------------------------------------------------------------

STEP = st.one_of(
    st.tuples(st.just("burst"), st.integers(1, 400), st.sampled_from([200, 503, None])),
    st.tuples(st.just("repeat"), st.integers(1, 200)),
    st.tuples(st.just("refused"), st.integers(1, 50)),
    st.tuples(st.just("track"), st.integers(1, 100)),
    st.tuples(st.just("wait"), st.sampled_from([0.001, 0.5, 70.0])),
    st.tuples(st.just("flush")),
    st.tuples(st.just("reopen")),
)
FOLDERS = itertools.count()


def check_books(path, steps):
    clock, sent, made = ManualClock(NOW), Counter(), 0
    engine = gnomon.open(path, clock=clock, flush_seconds=600.0)
    try:
        for step in [*steps, ("flush",)]:
            if step[0] in ("burst", "repeat", "refused", "track"):
                for n in range(step[1]):
                    source = "abc"[n % 3]
                    sent[source] += 1
                    if step[0] == "track":
                        engine.track("page_view", source=source)
                    else:
                        status = step[2] if step[0] == "burst" else 99 if step[0] == "refused" else 200
                        made += step[0] == "burst"
                        number = n if step[0] == "repeat" else made
                        engine.record_request(id=f"r{number}", source=source, status_code=status)
            elif step[0] == "wait":
                clock.advance(seconds=step[1])
            elif step[0] == "flush":
                engine.flush()
            else:
                engine.close()
                engine = gnomon.open(path, clock=clock, flush_seconds=600.0)
            books = engine.books()
            assert books.closes()
            assert {source: account.received for source, account in books.by_source.items()} == dict(sent)
        found = engine._hold.store.ask(["SELECT count(*) FROM events"], 10.0)[0].rows[0][0]
        assert books.pending == 0 and books.stored == found
        return books
    finally:
        engine.close()


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.lists(STEP, min_size=2, max_size=10))
def test_the_books_close_for_every_source(tmp_path, steps):
    check_books(tmp_path / f"{next(FOLDERS)}.duckdb", steps)


STORY = [
    ("burst", 400, 200),
    ("flush",),
    ("refused", 30),
    ("burst", 400, 503),
    ("repeat", 200),
    ("reopen",),
    ("track", 9),
]


def test_a_known_story_and_what_became_of_it(tmp_path):
    books = check_books(tmp_path / "x.duckdb", STORY)
    assert books.sampled_out > 200 and books.rejected.total() == 30 and books.duplicate > 10


def test_events_that_are_sampled_out_uncounted_are_found(tmp_path, monkeypatch):
    thin = sampling.Sampler.thin

    def uncounted(self, batch, *rest):
        counts = list(batch.counts)
        thin(self, batch, *rest)
        batch.counts = counts

    monkeypatch.setattr(sampling.Sampler, "thin", uncounted)
    with pytest.raises(AssertionError):
        check_books(tmp_path / "x.duckdb", STORY)


def test_books_close_while_a_batch_waits_in_memory_or_in_the_journal(engine, monkeypatch):
    append = engine._journal.append
    monkeypatch.setattr(engine._journal, "append", lambda batches: (_ for _ in ()).throw(DiskFull("full")))
    burst(engine)
    with pytest.raises(DiskFull):
        engine.flush()
    assert engine.books().closes()
    monkeypatch.setattr(engine._journal, "append", append)
    with engine._hold.writer._work:  # the store takes nothing now
        engine._make_durable()
        books = engine.books()
        assert books.closes() and books.received == BURST and books.sampled_out and books.pending
    engine.flush()
    assert engine.books().closes() and engine.books().pending == 0


# -- what is sampled, and what never ----------------------------------------------------------------------------------


def test_requests_are_sampled_and_weighed_by_default(engine):
    burst(engine, status_code=lambda n: 503 if n % 50 == 0 else 200)
    engine.flush()
    found = engine.query(["requests", "failures"])
    books = engine.books()
    assert books.sampled_out > 900 and not found.basis.exact
    assert found.rows[0]["failures"] == 30 and found.interval("failures").low == found.interval("failures").high
    assert abs(found.rows[0]["requests"] - BURST) < 400
    weights = engine._hold.store.ask(["SELECT DISTINCT weight FROM events ORDER BY 1"], 10.0)[0].rows
    assert weights == [(1.0,), (10.0,)]


def test_other_types_are_not_unless_a_setting_names_them():
    for named, sampled in ((("request",), 0), (("request", "page_view"), 1)):
        with gnomon.open(":memory:", clock=ManualClock(NOW), flush_seconds=600.0, sampled_types=named) as engine:
            for _ in range(BURST):
                engine.track("page_view")
            engine.flush()
            assert bool(engine.books().sampled_out) == sampled


@pytest.mark.parametrize("changes", [{"sampling": False}, {"sampling_low": 1e9, "sampling_high": 1e10},
                                     {"sampled_types": ()}, {"sampling_rate": 1.0}])  # fmt: skip
def test_off_is_off(changes):
    with gnomon.open(":memory:", clock=ManualClock(NOW), flush_seconds=600.0, **changes) as engine:
        burst(engine)
        engine.flush()
        assert engine.books().stored == BURST and engine.query(["requests"]).basis.exact


def test_imports_are_never_sampled(engine, tmp_path):
    file = tmp_path / "x.csv"
    file.write_text("ts,type\n" + "".join(f"2026-01-15T10:{n // 60:02}:{n % 60:02}Z,request\n" for n in range(3_000)))
    engine.set_sampling_thresholds(1, 2, 0.001)
    burst(engine, 100)
    engine.flush()
    stored = engine.books().stored
    assert engine.import_file(file).stored == 3_000
    assert engine.books().stored == stored + 3_000


def test_the_strict_engine_of_the_testing_kit_keeps_everything():
    with strict_engine() as strict:
        burst(strict)
        strict.flush()
        assert strict.books().stored == BURST
    with strict_engine(sampling=True) as strict:
        burst(strict)
        strict.flush()
        assert strict.books().sampled_out


def test_bad_events_go_first_and_do_not_count_for_the_pace():
    clock = ManualClock(NOW)
    with gnomon.open(":memory:", clock=clock, flush_seconds=600.0) as engine:
        for n in range(2_000):  # ten bad ones for each good one, which come at 9,000 a minute
            if n % 10 == 0:
                clock.advance(microseconds=6_667)
            engine.record_request(status_code=200 if n % 10 == 0 else 99)
        engine.flush()
        books = engine.books()
        assert (books.stored, books.sampled_out, books.rejected.total()) == (200, 0, 1_800)


def test_a_value_that_breaks_the_gate_takes_nothing_along(engine):
    class Spiteful:
        def __getattribute__(self, name):
            raise RuntimeError(name)

    for n in range(600):
        engine.record_request(
            source="s", method=Spiteful() if n % 100 == 0 else "GET", status_code=99 if n % 9 == 0 else 200
        )
    engine.flush()
    assert engine.books().closes() and engine.books().received == 600


def test_a_seed_makes_two_engines_alike_and_another_seed_does_not():
    kept = []
    for seed in (1, 1, 2):
        with gnomon.open(":memory:", clock=ManualClock(NOW), flush_seconds=600.0, sampling_seed=seed) as engine:
            burst(engine, id=lambda n: f"r{n}")
            engine.flush()
            kept.append(engine._hold.store.ask(["SELECT id_text FROM events ORDER BY 1"], 10.0)[0].rows)
    assert kept[0] == kept[1] != kept[2]


# -- sent again -------------------------------------------------------------------------------------------------------


def test_who_was_kept_is_a_duplicate_and_who_was_left_out_is_left_out_again():
    with gnomon.open(":memory:", clock=ManualClock(NOW), flush_seconds=600.0, sampling_floor_per_source=0) as engine:
        burst(engine, id=lambda n: f"first{n}", ts=NOW)  # so that the pace is the same for what follows
        for _ in range(2):
            burst(engine, id=lambda n: f"r{n}", ts=NOW)
        engine.flush()
        books = engine.books()
        rows = engine._hold.store.ask(["SELECT count(*) FROM events WHERE id_text LIKE 'r%'"], 10.0)[0].rows[0][0]
        assert books.closes() and books.duplicate == rows


# -- people -----------------------------------------------------------------------------------------------------------


def check_people(engine):
    burst(engine, user_id=lambda n: f"u{n}" if n % 2 else None, device_id=lambda n: f"d{n}" if n % 3 else None,
          application="app")  # fmt: skip
    engine.flush()
    seen = {row[0] for row in engine._hold.store.ask(["SELECT coalesce(user_id, device_id) FROM events"], 10.0)[0].rows}
    seen |= {row[2] for row in sightings(engine)}
    assert seen - {None} == {f"u{n}" if n % 2 else f"d{n}" for n in range(BURST) if n % 2 or n % 3}
    quarter = int(NOW.timestamp()) * 1_000_000
    assert {(row[0], row[1], row[3], row[5]) for row in sightings(engine)} == {("default", quarter, "request", "app")}


def test_people_of_events_that_are_left_out_reach_the_store(engine):
    check_people(engine)


def test_people_of_events_that_are_left_out_are_counted_and_who_cannot_be_told_apart_is_said(engine):
    burst(engine, user_id=lambda n: f"u{n}", status_code=200)
    engine.flush()
    by_source = engine.query(["people", "requests"], ["source"], totals=True)
    assert by_source.totals["people"] == sum(row["people"] for row in by_source) == BURST
    assert not any("not counted" in step for step in by_source.basis.steps)
    by_status = engine.query(["people"], ["status_code"])
    assert by_status.rows[0]["people"] < BURST and by_status.interval("people").reason == "as_seen"
    assert any("sampling left out are not counted" in step for step in by_status.basis.steps)


def test_a_store_that_drops_them_is_found(engine, monkeypatch):
    append = writing.Writing._append
    monkeypatch.setattr(
        writing.Writing,
        "_append",
        lambda self, table, rows: None if table == "sightings" else append(self, table, rows),
    )
    with pytest.raises(AssertionError):
        check_people(engine)


def test_people_come_back_from_the_journal(tmp_path):
    with gnomon.open(tmp_path / "x.duckdb", clock=ManualClock(NOW), flush_seconds=600.0) as engine:
        burst(engine, user_id=lambda n: f"u{n}")
        writer = engine._hold.writer
        with writer._work:
            engine._make_durable()
            writer._in_hand.clear()  # as after a crash: only the journal has it
            writer._rows_in_hand = 0
        engine.flush()
        assert len(sightings(engine)) == engine.books().sampled_out


def test_the_same_person_is_noted_once_a_quarter_hour_and_again_in_the_next(engine):
    for _ in range(3):
        burst(engine, user_id="u")
        engine.flush()
    assert Counter(row[4] for row in sightings(engine)) == {"s0": 1, "s1": 1, "s2": 1}
    engine.clock.advance(minutes=15)
    burst(engine, user_id="u")
    engine.flush()
    assert len(sightings(engine)) == 6


def test_people_are_not_lost_when_a_batch_is_made_twice(engine, monkeypatch):
    """An interrupt between making a batch and taking it over: the calls are still in hand and make another one."""
    next_batch = engine._next_batch

    def interrupted():
        next_batch()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(engine, "_next_batch", interrupted)
        burst(engine, user_id=lambda n: f"u{n}", id=lambda n: f"r{n}")
        engine.flush()
    engine.flush()
    kept = engine._hold.store.ask(["SELECT user_id FROM events"], 10.0)[0].rows
    assert {row[0] for row in kept} | {row[2] for row in sightings(engine)} == {f"u{n}" for n in range(BURST)}
    assert engine.books().closes() and engine.books().received == BURST


@pytest.fixture
def left_out(tmp_path):
    """An engine that has left everything out for a while, and a way to record one more such event of a person."""
    least = {"sampling_rate": 1e-9, "sampling_floor_per_source": 0, "rollup_lag_seconds": 0}
    with gnomon.open(tmp_path / "x.duckdb", clock=ManualClock(NOW), flush_seconds=600.0, **least) as engine:
        burst(engine)
        engine.flush()

        def come(user):
            engine.record_request(user_id=user)
            engine.flush()

        yield engine, come


def people(engine, **more):
    return engine.query(["people"], date_range=["2026-01-10", "2026-01-17"], **more)[0]["people"]


def test_people_of_events_that_are_left_out_are_counted(left_out):
    engine, come = left_out
    assert people(engine) == 0
    come("u1")
    assert people(engine) == people(engine, basis="raw") == 1
    engine.trigger_aggregation(["2026-01-01", "2026-01-05"])  # nothing of the range is rolled up yet
    assert people(engine) == 1
    engine.clock.advance(hours=2)
    engine.trigger_aggregation()
    assert people(engine) == 1


def test_who_comes_again_after_being_forgotten_is_noted_again(left_out):
    engine, come = left_out
    come("u1")
    engine.forget("u1")
    assert people(engine) == 0
    come("u1")
    assert people(engine) == 1


def test_who_comes_again_after_a_restore_is_noted_again(left_out):
    engine, come = left_out
    kept = engine.trigger_backup()
    come("u1")
    engine.restore_backup(kept.path)
    assert people(engine) == 0
    come("u1")
    assert people(engine) == 1


def check_other_engine(engine, come):
    """Another engine of the store, as of another process: it has left the person out before as well."""
    with gnomon.open(engine.settings.database_url, clock=engine.clock, settings=engine.settings) as other:
        burst(other)
        for user in ("u1", "u2"):
            other.record_request(user_id=user)
        other.flush()
        engine.forget("u2")
        kept = engine.trigger_backup()
        engine.forget("u1")
        assert people(engine) == 0
        other.record_request(user_id="u1")
        other.flush()
        assert people(engine) == 1
        engine.restore_backup(kept.path)
        other.record_request(user_id="u2")
        other.flush()
        assert people(engine) == 2


def test_other_engines_of_the_store_note_people_again(left_out, monkeypatch):
    monkeypatch.setattr("gnomon.ingest.thresholds.LOOK_SECONDS", 0.0)
    check_other_engine(*left_out)


def test_an_engine_that_tells_nobody_would_be_found(left_out, monkeypatch):
    monkeypatch.setattr("gnomon.ingest.thresholds.LOOK_SECONDS", 0.0)
    monkeypatch.setattr("gnomon.ingest.thresholds.Policy.anew", lambda self: False)
    with pytest.raises(AssertionError):
        check_other_engine(*left_out)


# -- thresholds -------------------------------------------------------------------------------------------------------


def test_thresholds_hold_at_once_and_after_reopening(tmp_path):
    for opened in range(2):
        with gnomon.open(tmp_path / "x.duckdb", clock=ManualClock(NOW), flush_seconds=600.0) as engine:
            if not opened:
                assert engine.sampling_thresholds() == Thresholds(10_000, 100_000, 0.1)
                burst(engine, 200)
                engine.flush()
                engine.set_sampling_thresholds(1_000_000, 2_000_000, 0.5)
            assert engine.sampling_thresholds() == Thresholds(1_000_000, 2_000_000, 0.5)
            before = engine.books().received
            engine.clock.advance(hours=1)
            burst(engine, 1_000)
            engine.flush()
            assert engine.books().received == before + 1_000 and not engine.books().sampled_out > 100


def test_thresholds_are_those_of_one_project(tmp_path):
    with gnomon.open(tmp_path / "x.duckdb", project="a") as a, gnomon.open(tmp_path / "x.duckdb", project="b") as b:
        a.set_sampling_thresholds(1, 2, 1)
        assert a.sampling_thresholds() == Thresholds(1, 2, 1)
        assert b.sampling_thresholds() == Thresholds(10_000, 100_000, 0.1)


@pytest.mark.parametrize("wrong", [(0, 1, 0.1), (5, 5, 0.1), (1, 2, 0), (1, 2, 1.1), ("1", 2, 0.1), (1, None, 0.1)])
def test_thresholds_that_make_no_sense_change_nothing(engine, wrong):
    with pytest.raises(InvalidValue, match="low < high"):
        engine.set_sampling_thresholds(*wrong)
    assert engine.sampling_thresholds() == Thresholds(10_000, 100_000, 0.1)


def test_settings_that_do_not_fit_are_refused_before_anything_is_opened(tmp_path):
    with pytest.raises(InvalidValue) as caught:
        gnomon.open(tmp_path / "x.duckdb", sampling_low=200_000)
    assert caught.value.code == "bad-thresholds" and not list(tmp_path.iterdir())


def test_a_closed_engine_sets_nothing(tmp_path):
    engine = gnomon.open(tmp_path / "x.duckdb")
    engine.close()
    for call in (lambda: engine.set_sampling_thresholds(1, 2, 0.5), engine.sampling_thresholds):
        with pytest.raises(EngineClosed):
            call()


ELSEWHERE = """
import sys, gnomon
with gnomon.open(sys.argv[1]) as engine:
    engine.set_sampling_thresholds(7, 77, 0.7)
"""


def check_other_process(engine):
    engine.record_request()
    engine.flush()
    assert engine._policy.look() == Thresholds(10_000, 100_000, 0.1)
    subprocess.run([sys.executable, "-c", ELSEWHERE, str(engine._hold.file)], check=True, timeout=60)
    until = time.monotonic() + thresholds.LOOK_SECONDS + 0.2
    while engine._policy.look() != Thresholds(7, 77, 0.7):
        assert time.monotonic() < until
        time.sleep(0.02)


def test_another_process_is_followed_within_about_a_second(engine):
    check_other_process(engine)


def test_a_process_that_looks_only_once_is_found(engine, monkeypatch):
    look = Policy.look
    monkeypatch.setattr(Policy, "look", lambda self: self._known if self._look_at else look(self))
    with pytest.raises(AssertionError):
        check_other_process(engine)


def test_kept_thresholds_that_do_not_read_back_are_not_used(tmp_path, caplog):
    journal = Journal(tmp_path / "x.journal", max_bytes=2**24)
    policy = Policy(gnomon.Settings(), "p", journal)
    for text in (
        "",
        "{}",
        '{"low": 1}',
        "[1,2,3]",
        '{"low": 5, "high": 1, "rate": 0.1}',
        '{"low":"1","high":2,"rate":1}',
    ):
        journal.keep("sampling:p", text)
        assert policy.read() == Thresholds(10_000, 100_000, 0.1)
    assert "do not read back" in caplog.text
    journal.close()


def test_a_journal_that_cannot_be_read_leaves_them_as_they_are(engine, monkeypatch):
    engine.set_sampling_thresholds(7, 77, 0.7)
    monkeypatch.setattr(thresholds, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(engine._journal, "all_kept", lambda: (_ for _ in ()).throw(StoreUnavailable("x")))
    assert engine._policy.look() == Thresholds(7, 77, 0.7)
    burst(engine, 10)
    engine.flush()
    assert engine.books().received == 10


# -- through the engine: a step, and what it costs when nothing happens -----------------------------------------------


def test_a_step_to_200_000_a_minute_is_sampled_within_100_ms_through_the_engine():
    clock = ManualClock(NOW)
    with gnomon.open(":memory:", clock=clock, flush_seconds=600.0, sampling_floor_per_source=0) as engine:
        for pace, count in ((60, 5), (200_000, 2_000)):
            for _ in range(count):
                clock.advance(minutes=1 / pace)
                engine.record_request()
        engine.flush()
        late = clock.now - timedelta(minutes=2_000 / 200_000) + timedelta(milliseconds=100)
        weights = engine._hold.store.ask(
            [f"SELECT DISTINCT weight FROM events WHERE epoch_us(ts) > {int(late.timestamp() * 1e6)}"], 10.0
        )
        assert weights[0].rows == [(10.0,)]


def test_below_the_threshold_no_row_is_looked_at(monkeypatch):
    monkeypatch.setattr(sampling, "coins", lambda *_: pytest.fail("a coin was thrown"))
    clock = ManualClock(NOW)
    with gnomon.open(":memory:", clock=clock, flush_seconds=600.0) as engine:
        for _ in range(1_000):
            clock.advance(milliseconds=7)
            engine.record_request()
        engine.flush()
        assert engine.books().stored == 1_000


def test_times_are_those_of_the_calls_that_were_admitted():
    calls = [type("C", (), {"at_ns": n})() for n in range(6)]
    refused = [type("R", (), {"index": n})() for n in (0, 3)]
    at = collector._times(calls, refused)
    assert [at(n) for n in range(4)] == [1, 2, 4, 5]


def test_people_of_events_that_were_left_out_are_counted_at_once_and_after_rolling_up():
    clock = ManualClock()
    with gnomon.open(":memory:", clock=clock, sampling_low=10.0, sampling_high=20.0, rollup_lag_seconds=0) as engine:
        for n in range(1_000):
            clock.advance(milliseconds=1)
            engine.record_request(user_id=f"u{n}", status_code=200)
        engine.flush()
        assert engine.books().sampled_out > 500
        assert engine.query(["people"]).to_dicts() == [{"people": 1_000}]
        clock.advance(days=2)
        engine.trigger_aggregation()
        assert engine.query(["people"]).to_dicts() == [{"people": 1_000}]
