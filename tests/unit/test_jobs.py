"""Background work: due by its period, kept over restarts, tried again after a failure, run by the owner alone."""

import threading
from datetime import UTC, datetime

import pytest

import gnomon
from gnomon.errors import StoreUnavailable
from gnomon.testing import ManualClock
from gnomon.upkeep import alerts, jobs

ALL = {"roll up": "ok", "prune": "ok", "prune audit": "ok", "backup": "ok", "old exports": "ok"}


def test_jobs_run_when_they_are_due_and_not_again(tmp_path):
    clock = ManualClock(datetime(2026, 3, 1, 12, tzinfo=UTC))
    with gnomon.open(tmp_path / "x.duckdb", clock=clock, flush_seconds=600.0) as engine:  # which beats as well
        engine.track("a")
        engine.flush()
        assert engine.run_jobs() == ALL and engine.run_jobs() == {}
        clock.advance(minutes=16)
        assert engine.run_jobs() == {"heartbeat": "ok", "roll up": "ok"}
    with gnomon.open(tmp_path / "x.duckdb", clock=clock) as engine:
        assert engine.run_jobs() == {"heartbeat": "ok"} and engine.run_jobs() == {}
        clock.advance(hours=25)
        assert engine.run_jobs() == {"heartbeat": "ok", **ALL}
        assert len(engine.backups()) == 2 and engine.query(["events"]).basis.source != "raw"


def test_a_job_that_fails_is_tried_again_and_the_others_run(tmp_path, monkeypatch):
    tries = []

    def fail_once(_engine):
        tries.append(1)
        if len(tries) == 1:
            raise StoreUnavailable("not now")

    monkeypatch.setattr(jobs, "JOBS", (jobs.Job("first", 60, fail_once), jobs.Job("second", 60, lambda _: None)))
    with gnomon.open(tmp_path / "x.duckdb") as engine:
        assert engine.run_jobs() == {"first": "store-unavailable", "second": "ok"}
        assert engine.run_jobs() == {"first": "ok"}
        assert engine.run_jobs() == {}


class Elapsed:
    """A monotonic clock that a job moves on."""

    def __init__(self):
        self.now = 1_000.0

    def monotonic(self):
        return self.now


@pytest.mark.parametrize("broken", [False, True])
def test_a_costly_job_that_fails_takes_a_tenth_of_the_time_at_most(tmp_path, monkeypatch, broken):
    time, tries, spent = Elapsed(), [], 100.0

    def fail(_engine):
        time.now += spent
        tries.append(time.now)
        raise StoreUnavailable("not now")

    monkeypatch.setattr(jobs, "time", time)
    monkeypatch.setattr(alerts, "time", time)
    monkeypatch.setattr(jobs, "JOBS", (jobs.Job("backup", jobs.DAY, fail), jobs.Job("other", 0, lambda _: None)))
    if broken:
        monkeypatch.setattr(jobs, "_rest", lambda *_: 0.0)
    with gnomon.open(tmp_path / "x.duckdb") as engine:
        began = time.now
        for _ in range(200):
            assert engine.run_jobs()["other"] == "ok"
            time.now += jobs.LOOK_SECONDS
        assert (len(tries) * spent < 0.11 * (time.now - began)) is not broken
        for asked in ({"now": True}, {"again": True}):  # by hand, or by a worker within one message
            assert jobs.run_job(engine, jobs.JOBS[0], **asked) == "store-unavailable"
        assert jobs.run_job(engine, jobs.JOBS[0]) == (None if not broken else "store-unavailable")


def test_a_job_that_fails_rests_no_longer_than_its_period(tmp_path, monkeypatch):
    time, tries = Elapsed(), []

    def fail(_engine):
        time.now += 1_000.0
        tries.append(time.now)
        raise StoreUnavailable("not now")

    monkeypatch.setattr(jobs, "time", time)
    monkeypatch.setattr(alerts, "time", time)
    monkeypatch.setattr(jobs, "JOBS", (jobs.Job("roll up", 900, fail),))
    with gnomon.open(tmp_path / "x.duckdb") as engine:
        assert engine.run_jobs() == {"roll up": "store-unavailable"} and engine.run_jobs() == {}
        time.now += 901
        assert engine.run_jobs() == {"roll up": "store-unavailable"}


def test_the_scheduler_runs_them_by_itself_until_it_is_closed(tmp_path, monkeypatch):
    ran = threading.Event()
    monkeypatch.setattr(jobs, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(jobs, "JOBS", (jobs.Job("only", 0, lambda _: ran.set()),))
    with gnomon.open(tmp_path / "x.duckdb", scheduler=True) as engine:
        threads = engine._scheduler._threads
        assert ran.wait(10) and [thread.name for thread in threads] == ["gnomon-jobs", "gnomon-watch"]
    assert not any(thread.is_alive() for thread in threads)
