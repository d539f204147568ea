"""Heartbeats on their way: when an engine beats, what the store makes of it, and what an idle host pays for it."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

import gnomon
from gnomon.config import Settings
from gnomon.errors import DiskFull
from gnomon.event import Batch
from gnomon.ingest import journal as journals
from gnomon.ingest.bodies import batch_of
from gnomon.ingest.heartbeat import Heartbeat
from gnomon.query.gaps import read_alive
from gnomon.store import aliveness
from gnomon.store.aliveness import changed, folded, joined
from gnomon.store.duckdb import DuckDBStore, opening
from gnomon.testing import ManualClock
from gnomon.timerange import US_DAY, US_SECOND, to_us

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = 60 * US_SECOND


class Ticks:
    def __init__(self):
        self.now = 1_000 * MINUTE

    def __call__(self):
        return self.now


def spans(engine):
    """The spans of the store, as `(first, last)` in hours after START."""
    engine.flush()
    assert engine._hold.writer.wait_for(engine._journal.last_position(), 30.0)
    rows = read_alive(engine._own_or_refuse(), "default", 10.0)
    return [tuple((us - to_us(START)) / (60 * MINUTE) for us in row) for row in rows]


# -- one heart


def test_a_beat_is_due_at_once_then_once_a_period_and_tells_of_the_time_since_the_last():
    clock = Ticks()
    heart = Heartbeat(Settings(), clock)
    assert heart.due(recorded=False) and heart.take() == [(clock.now, clock.now, True)]
    clock.now += MINUTE - 1
    assert not heart.due(recorded=True)
    clock.now += 1
    assert heart.due(recorded=True) and heart.take() == [(clock.now - MINUTE, clock.now, True)]
    assert not heart.due(recorded=True)


def test_a_jump_of_the_clock_is_lived_through_and_a_clock_set_back_starts_anew():
    clock = Ticks()
    heart = Heartbeat(Settings(), clock)
    begun = clock.now
    heart.take()
    clock.now += 9 * US_DAY
    assert heart.take() == [(begun, begun + 9 * US_DAY, True)] and heart.span() == (begun, clock.now)
    clock.now -= 20 * US_DAY
    assert heart.due(recorded=False) and heart.take() == [(clock.now, clock.now, True)]
    assert heart.span() == (clock.now, clock.now)


def test_what_could_not_be_told_is_told_by_the_next_beat():
    clock = Ticks()
    heart = Heartbeat(Settings(), clock)
    begun = clock.now
    heart.take()
    clock.now += MINUTE
    heart.give_back(heart.take())
    clock.now += 1
    assert heart.due(recorded=False) and heart.take() == [(begun, clock.now, True)]


def test_an_engine_that_cannot_record_or_has_no_period_is_no_collector():
    for settings in (Settings(enabled=False), Settings(heartbeat_seconds=0.0)):
        heart = Heartbeat(settings, Ticks())
        assert not heart.due(recorded=True) and heart.take() == [] and heart.span() is None
        assert heart.look_seconds is None


def test_a_clock_that_fails_leaves_beats_out_and_nothing_else():
    clock = Ticks()
    heart = Heartbeat(Settings(), lambda: clock() if clock.now else 1 // 0)
    clock.now, kept = 0, clock.now
    assert not heart.due(recorded=True) and heart.take() == [] and heart.span() is None
    clock.now = kept + MINUTE
    assert heart.take() == [(kept, clock.now, True)]


def test_a_child_leaves_it_to_its_parent_until_it_records():
    heart = Heartbeat(Settings(), Ticks())
    heart.forked()
    assert not heart.due(recorded=False) and heart.due(recorded=True)
    heart.take()
    heart.end()
    heart._clock_us.now += MINUTE
    assert heart.due(recorded=False)


# -- spans


def test_spans_within_the_slack_are_one():
    assert joined([(5, 6), (0, 1), (9, 20), (11, 12)], 3) == [(0, 1), (5, 20)]
    assert joined([(0, 1), (5, 6)], 4) == [(0, 6)] and joined([], 4) == []


def test_beats_that_only_go_on_are_quiet_and_others_are_not():
    known = [(0, 100), (500, 600)]
    assert changed("p", known, [(600, 610, True)], 50).quiet
    assert not changed("p", known, [(600, 700, True)], 50).quiet  # by more than the slack
    assert not changed("p", known, [(900, 900, True)], 50).quiet  # a new span
    assert not changed("p", known, [(100, 480, True)], 50).quiet  # a hole is closed
    assert changed("p", known, [(10, 90, True), (500, 510, True)], 50) is None
    assert changed("p", known, [(100, 480, True)], 50).new == [(0, 600)]
    both = changed("p", known, [(90, 110, True), (700, 701, True)], 50)
    assert both.new == [(0, 110), (700, 701)] and both.then == [(0, 110), (500, 600), (700, 701)]
    assert folded([("p", 0, 100), ("q", 5, 6), ("p", 0, 110), ("p", 900, 910)], 50) == [
        ("p", 0, 110), ("p", 900, 910), ("q", 5, 6)]  # fmt: skip


def test_a_file_fills_holes_behind_the_first_heartbeat_only():
    assert changed("p", [], [(0, 50, False)], 10) is None
    assert changed("p", [(100, 110)], [(0, 50, False)], 10) is None
    assert changed("p", [(100, 110)], [(0, 300, False)], 10).new == [(100, 300)]
    assert changed("p", [], [(0, 300, False), (200, 210, True)], 10).new == [(200, 300)]


# -- engines


def test_a_restart_within_two_periods_is_one_span_and_a_later_one_is_not(tmp_path):
    clock = ManualClock(START)
    for pause in (timedelta(minutes=2), timedelta(minutes=2, seconds=1), timedelta(0)):
        with gnomon.open(tmp_path / "x.duckdb", clock=clock) as engine:
            clock.advance(hours=1)
            found = spans(engine)
        clock.now += pause
    assert len(found) == 2 and found[0] == (0, pytest.approx(2 + 2 / 60))


def test_an_engine_that_only_opened_was_there_until_its_end(tmp_path):
    clock = ManualClock(START)
    with gnomon.open(tmp_path / "x.duckdb", clock=clock):
        clock.advance(hours=3)
    with gnomon.open(tmp_path / "x.duckdb", clock=clock, enabled=False) as engine:
        assert spans(engine) == [(0, 3)]
        clock.advance(hours=3)
    with gnomon.open(tmp_path / "x.duckdb", clock=clock, enabled=False) as engine:
        assert spans(engine) == [(0, 3)]


def test_projects_have_spans_of_their_own_in_one_statement(tmp_path):
    store = DuckDBStore(str(tmp_path / "x.duckdb"), Settings())
    work = [(n, Batch(project, beats=[(n * US_DAY, n * US_DAY + 5, True)])) for n, project in enumerate("abab'", 1)]
    said = []
    execute = store._connection.execute

    class Listening:
        def __getattr__(self, name):
            return getattr(store_connection, name)

        def execute(self, words, *rest):
            said.append(words)
            return execute(words, *rest)

    store_connection, store._writing._connection = store._connection, Listening()
    store.write(work, "j")
    assert sum(words.startswith("INSERT INTO alive") for words in said) == 1
    rows = store.ask(["SELECT project, count(*) FROM alive GROUP BY 1 ORDER BY 1"], 5.0)[0].rows
    assert dict(rows) == {"a": 2, "b": 2, "'": 1}
    store.close()


def test_a_beat_that_only_goes_on_leaves_answers_remembered(tmp_path):
    clock = ManualClock(START)
    with gnomon.open(tmp_path / "x.duckdb", clock=clock) as engine:
        engine.track("a")
        engine.flush()
        store = engine._own_or_refuse()
        question = {"metrics": ["events"], "dimensions": ["time:hour"], "date_range": ["2026-03-01", "2026-03-02"]}
        engine.query(**question)
        before = store.data_version()
        for _ in range(5):
            clock.advance(minutes=1)
            assert engine._beat() and not engine._beat()
            found = spans(engine)  # waits for the store: five beats at once would be a leap
        assert found == [(0, pytest.approx(5 / 60))]
        assert store.data_version() == before and engine.query(**question).basis.from_cache
        clock.advance(days=1)
        engine.flush()
        assert store.data_version() > before


def test_beats_survive_a_crash_and_a_replay_and_add_nothing_twice(tmp_path):
    clock = ManualClock(START)
    with gnomon.open(tmp_path / "x.duckdb", clock=clock) as engine:
        for _ in range(3):
            clock.advance(minutes=1)
            engine.flush()
        before = spans(engine)
        batches = [batch for _, crc, body in engine._journal.read(0, 100) if (batch := journals.open_sealed(crc, body))]
        told = [Batch("default", beats=batch.beats) for batch in batches if batch.beats]
        assert len(told) == 3
        engine._journal.append(told)
        assert spans(engine) == before and engine.books().closes()
        engine._hold.writer.checkpoint()
        count = engine._own_or_refuse().ask(["SELECT count(*) FROM alive"], 5.0)[0].rows
        assert count == [(1,)] and spans(engine) == before  # one row for each span, however many beats there were


def test_batches_of_before_and_after_are_read_by_both():
    old = msgspec.json.encode(["p", [], [], [], [["event", None, "received", "", 1]], False, False, None, []])
    assert batch_of(old).beats == []
    _, _, body = journals._sealed(Batch("p", beats=[(1, 2, True)]))
    found = batch_of(body)
    assert found.beats == [(1, 2, True)] and found.only_beats and not Batch("p").only_beats

    class Older(msgspec.Struct, array_like=True):
        project: str
        rows: list

    assert msgspec.json.decode(body, type=Older).project == "p"


def test_a_store_of_schema_2_is_brought_up(tmp_path, monkeypatch):
    path = tmp_path / "x.duckdb"
    monkeypatch.setattr(opening, "SCHEMA", 2)
    store = DuckDBStore(str(path), Settings())
    assert store.ask(["SELECT count(*) FROM duckdb_tables() WHERE table_name = 'alive'"], 5.0)[0].rows == [(0,)]
    store.close()
    monkeypatch.undo()
    with gnomon.open(path, clock=ManualClock(START)) as engine:
        assert spans(engine) == [(0, 0)]


def test_idle_beats_are_one_small_commit_each_and_no_checkpoint(tmp_path, monkeypatch):
    with gnomon.open(tmp_path / "x.duckdb", heartbeat_seconds=0.1, checkpoint_seconds=0.05) as engine:
        engine.track("a")
        engine.flush()
        writer = engine._hold.writer
        deadline = time.monotonic() + 10
        while writer._since_checkpoint and time.monotonic() < deadline:
            time.sleep(0.02)
        held = []
        with writer.paused():
            monkeypatch.setattr(writer._store, "checkpoint", lambda **_: held.append(1))
        began, first, beats = time.monotonic(), engine._journal.last_position(), 0
        while beats < 5 and time.monotonic() - began < 20:
            time.sleep(0.02)
            beats = engine._journal.last_position() - first
        assert 5 <= beats <= (time.monotonic() - began) / 0.1 + 2 and not held
        monkeypatch.setattr("gnomon.ingest.writer.IDLE_SECONDS", 0.0)
        deadline = time.monotonic() + 10
        while not held and time.monotonic() < deadline:
            time.sleep(0.02)
        assert held
        monkeypatch.undo()


def test_no_thread_starts_where_nothing_is_recorded(tmp_path):
    with gnomon.open(tmp_path / "x.duckdb", heartbeat_seconds=0.05) as engine:
        until, seen = time.monotonic() + 20, 0
        while seen <= 200_000 and time.monotonic() < until:
            time.sleep(0.05)
            seen = sum(last - first for first, last in read_alive(engine._own_or_refuse(), "default", 5.0))
        assert seen > 200_000  # the writer's thread beats
        assert engine._thread is None


def test_a_full_disk_leaves_a_beat_out_and_the_next_one_tells_it(tmp_path, monkeypatch):
    clock = ManualClock(START)
    with gnomon.open(tmp_path / "x.duckdb", clock=clock, heartbeat_seconds=3_600.0) as engine:
        engine.flush()
        clock.advance(hours=5)
        append = engine._journal.append
        monkeypatch.setattr(engine._journal, "append", lambda _: (_ for _ in ()).throw(DiskFull("full", remedy="-")))
        with pytest.raises(DiskFull):
            engine._beat()
        engine._hold._next_beat = 0.0
        engine._hold.beat()  # in the writer's thread it must not raise
        monkeypatch.setattr(engine._journal, "append", append)
        assert engine._beat() and spans(engine) == [(0, 5)]


def test_a_forked_child_goes_on_with_the_span_of_its_parent(tmp_path):
    clock = ManualClock(START)
    with gnomon.open(tmp_path / "x.duckdb", clock=clock) as engine:
        engine.flush()
        clock.advance(hours=2)
        child = os.fork()
        if not child:
            clock.advance(hours=1)
            engine.track("in the child")
            engine.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert spans(engine) == [(0, 3)]


# -- upkeep


def test_prune_keeps_the_last_old_span_so_that_the_gap_behind_it_stays(tmp_path):
    clock = ManualClock(START)
    for days in (10, 10, 40):
        with gnomon.open(tmp_path / "x.duckdb", clock=clock) as engine:
            engine.flush()
        clock.advance(days=days)
    with gnomon.open(tmp_path / "x.duckdb", clock=clock) as engine:
        engine.set_retention_policy(raw_data_days=1, hourly_aggregates_days=1, daily_aggregates_days=20)
        engine.prune()
        assert [first for first, _ in spans(engine)] == [20 * 24, 60 * 24]
        found = engine.query(["events"], ["time:day"], ["2026-04-26", "2026-05-01"])
        assert [row["events"] for row in found] == [None] * 4 + [0]


def test_a_backup_brings_its_spans_and_the_time_until_the_restore_is_a_gap(tmp_path):
    clock = ManualClock(START)
    with gnomon.open(tmp_path / "x.duckdb", clock=clock) as engine:
        clock.advance(days=1)
        made = engine.trigger_backup()
        assert made.counts["alive"] == 1
        clock.advance(days=3)
        engine.track("lost by the restore")
        engine.flush()
        engine.restore_backup(made.path)
        found = engine.query(["events"], ["time:day"], ["2026-02-28", "2026-03-06"])
        assert [row["events"] for row in found] == [0, 0, 0, None, None, 0]
        clock.advance(days=1)
        assert spans(engine) == [(0, 24), (96, 120)]


def test_a_rewritten_and_a_salvaged_file_keep_the_spans(tmp_path):
    clock = ManualClock(START)
    path = tmp_path / "x.duckdb"
    with gnomon.open(path, clock=clock) as engine:
        engine.track("a", user_id="u1")
        engine.flush()
        engine.forget("u1")
    clock.advance(days=2)
    with gnomon.open(path, clock=clock) as engine:
        before = spans(engine)
        assert len(before) == 2
    path.with_name("x.duckdb.suspect").touch()
    with gnomon.open(path, clock=clock) as engine:
        assert spans(engine) == before


def test_a_damaged_file_of_an_older_schema_is_whole_without_the_table(tmp_path, monkeypatch):
    path = tmp_path / "x.duckdb"
    monkeypatch.setattr(opening, "SCHEMA", 2)
    DuckDBStore(str(path), Settings()).close()
    monkeypatch.undo()
    report = gnomon.store.salvage_store(str(tmp_path / "new.duckdb"), str(path), Settings())
    assert "alive" not in report and "unreadable" not in report.values()


def test_health_tells_the_last_beat_and_what_was_not_collected(tmp_path):
    clock = ManualClock(START)
    with gnomon.open(tmp_path / "x.duckdb", clock=clock) as engine:
        facts = engine.health().facts
        assert facts["last_heartbeat"] == START.isoformat() and facts["not_collected_in_7_days"] == "none"
    clock.advance(days=2, hours=3)
    with gnomon.open(tmp_path / "x.duckdb", clock=clock, enabled=False) as engine:
        facts = engine.health().facts
        assert facts["last_heartbeat"] == START.isoformat()
        assert facts["not_collected_in_7_days"] == "1 span, 2 d 3 h" and engine.health().sound


def test_without_a_tolerance_a_restart_would_be_a_gap(tmp_path, monkeypatch):
    monkeypatch.setattr(aliveness, "slack_us", lambda _: 0)
    monkeypatch.setattr("gnomon.store.duckdb.slack_us", lambda _: 0)
    with pytest.raises(AssertionError):
        test_a_restart_within_two_periods_is_one_span_and_a_later_one_is_not(tmp_path)


def test_with_a_version_for_each_beat_answers_would_be_forgotten(tmp_path, monkeypatch):
    monkeypatch.setattr(aliveness, "_only_went_on", lambda *_: False)
    with pytest.raises(AssertionError):
        test_a_beat_that_only_goes_on_leaves_answers_remembered(tmp_path)


def test_with_every_old_span_pruned_a_gap_would_become_zero(tmp_path, monkeypatch):
    words = "DELETE FROM alive WHERE project = '{}' AND last < make_timestamp({})"
    monkeypatch.setattr("gnomon.store.pruning.prune_alive", words.format)
    with pytest.raises(AssertionError):
        test_prune_keeps_the_last_old_span_so_that_the_gap_behind_it_stays(tmp_path)
