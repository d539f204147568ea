"""The daily backup of a store that is no file: asked for by a setting, made once a day by one of its processes, at
a place that all of them reach; what is wrong with it is an alert wherever it is looked for."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime

import pytest
from copied_life import opened
from working import wait_for, worker

import embedded
import gnomon
from gnomon.config import Settings
from gnomon.errors import StoreUnavailable
from gnomon.store.postgres import turns
from gnomon.testing import ManualClock
from gnomon.upkeep import backup, conditions, jobs
from gnomon.upkeep import turns as whose

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def clock():
    return ManualClock(datetime(2026, 3, 1, 12, tzinfo=UTC))


def replica(url, clock, folder, **changes):
    """An engine with files of its own, as a host of its own has them."""
    return gnomon.open(url, clock=clock, data_dir=str(folder), heartbeat_seconds=0, **changes)


def backed_up(engines):
    """How the backups went that these found to be due, one engine after the other."""
    return [done["backup"] for engine in engines if "backup" in (done := engine.run_jobs())]


def about_backups(engine):
    return {alert.name: alert.level for alert in engine.alerts() if alert.name.startswith("backup")}


def two_days_of_two(url, clock, folder):
    """What two replicas did at three looks, a day apart, and how many backups are kept."""
    wanted = {"backup_daily": True, "backup_target": str(folder / "kept"), "backup_days": 2}
    with ExitStack() as held:
        engines = [held.enter_context(replica(url, clock, folder / name, **wanted)) for name in "ab"]
        engines[0].track("t", id="one")
        engines[0].flush()
        done = []
        for hours in (0, 1, 24):
            clock.advance(hours=hours)
            done.append(backed_up(engines))
            engines.reverse()
        return done, len(engines[0].backups())


@pytest.mark.parametrize("kind", ["postgres", pytest.param("clickhouse", marks=pytest.mark.slow)])
def test_one_of_all_processes_makes_it_once_a_day(request, clock, tmp_path, kind):
    url = request.getfixturevalue(kind).url()
    assert two_days_of_two(url, clock, tmp_path) == ([["ok"], [], ["ok"]], 2)
    kept = next(iter((tmp_path / "kept").iterdir()))
    with gnomon.open(tmp_path / "restored.duckdb", clock=clock) as engine:
        engine.restore_backup(kept)
        assert engine.query(["events"])[0]["events"] == 1 and engine.books().closes()


@pytest.mark.parametrize("broken", ["note", "job"])
def test_processes_that_forget_it_would_be_found(postgres, clock, tmp_path, monkeypatch, broken):
    if broken == "note":
        monkeypatch.setattr(turns, "_note", lambda *_: None)
    else:
        monkeypatch.setattr(jobs, "JOBS", tuple(job for job in jobs.JOBS if job.name != "backup"))
    assert two_days_of_two(postgres.url(), clock, tmp_path) != ([["ok"], [], ["ok"]], 2)


def test_old_ones_go_after_backup_days(postgres, clock, tmp_path):
    wanted = {"backup_daily": True, "backup_target": str(tmp_path / "kept"), "backup_days": 2}
    with replica(postgres.url(), clock, tmp_path, **wanted) as engine:
        made = []
        for _ in range(5):
            assert backed_up([engine]) == ["ok"]
            made.append(len(engine.backups()))
            clock.advance(hours=25)
        assert made == [1, 2, 2, 2, 2]


@pytest.mark.parametrize("kind", ["postgres", "chdb"])
def test_nobody_makes_one_unasked_and_nobody_misses_it(request, clock, tmp_path, kind):
    url = embedded.url() if kind == "chdb" else request.getfixturevalue(kind).url()
    with replica(url, clock, tmp_path) as engine:
        engine._watch().scheduled = True
        assert backed_up([engine]) == []
        clock.advance(days=3)
        assert backed_up([engine]) == [] and about_backups(engine) == {} and not engine.backups()


def test_a_folder_of_clickhouse_has_one_owner_who_keeps_them_beside_it(clock):
    with opened(embedded.url(), clock, backup_daily=True) as engine:
        engine.track("t")
        assert backed_up([engine, engine]) == ["ok"] and len(engine.backups()) == 1
        clock.advance(hours=25)
        assert backed_up([engine]) == ["ok"] and about_backups(engine) == {}


def test_a_file_is_backed_up_unless_somebody_says_no(clock, tmp_path):
    with gnomon.open(tmp_path / "x.duckdb", clock=clock, backup_daily=False) as engine:
        engine._watch().scheduled = True
        engine.run_jobs()
        clock.advance(days=3)
        assert backed_up([engine]) == [] and about_backups(engine) == {}
    with gnomon.open(tmp_path / "x.duckdb", clock=clock) as engine:
        assert backed_up([engine]) == ["ok"]


def test_a_folder_of_one_host_is_no_place_for_them(postgres, clock, tmp_path):
    with replica(postgres.url(), clock, tmp_path, backup_daily=True) as engine:
        assert backed_up([engine]) == ["bad-target"] and not engine.backups()
        (alert,) = [alert for alert in engine.alerts() if alert.name == "backup-failed"]
        assert "backup_target" in alert.remedy
        assert engine.trigger_backup().verified  # who calls it knows where it goes


def lasting_alerts(url, clock, folder, monkeypatch):
    """What two replicas tell while no backup comes about, and when one of them has made it."""
    wanted = {"backup_daily": True, "backup_target": str(folder / "kept")}
    told = []
    with replica(url, clock, folder / "a", **wanted) as one, replica(url, clock, folder / "b", **wanted) as other:
        for engine in (one, other):
            engine._watch().scheduled = True
            assert about_backups(engine) == {}
        with monkeypatch.context() as patched:
            patched.setattr(backup, "verify", lambda *_: (_ for _ in ()).throw(StoreUnavailable("not now")))
            assert backed_up([one]) == ["store-unavailable"]
            told.append([about_backups(engine) for engine in (one, other)])
            clock.advance(days=2)
            told.append([about_backups(engine) for engine in (one, other)])
        assert backed_up([other]) == ["ok"]
        told.append([about_backups(engine) for engine in (one, other)])
        clock.advance(days=2)
        told.append([about_backups(engine) for engine in (one, other)])
    return told


FAILED, OVERDUE = {"backup-failed": "warning"}, {"backup-overdue": "critical"}
LASTING = [[FAILED, {}], [FAILED | OVERDUE, OVERDUE], [{}, {}], [OVERDUE, OVERDUE]]


def test_what_is_wrong_is_told_by_everybody_until_anybody_has_made_one(postgres, clock, tmp_path, monkeypatch):
    assert lasting_alerts(postgres.url(), clock, tmp_path, monkeypatch) == LASTING


def test_alerts_that_look_at_the_own_files_only_would_be_found(postgres, clock, tmp_path, monkeypatch):
    honest = whose.last_done

    def own(engine, job):
        with monkeypatch.context() as patched:
            patched.setattr(whose, "Turns", type(None))
            return honest(engine, job)

    monkeypatch.setattr(conditions, "last_done", own)
    assert lasting_alerts(postgres.url(), clock, tmp_path, monkeypatch) != LASTING


def test_beat_asks_for_it_where_it_is_wanted():
    from gnomon.worker import _schedule

    served = Settings(database_url="postgresql://u@h/d")
    assert "backup" not in _schedule(served) and "backup" in _schedule(served.but(backup_daily=True))


@pytest.mark.slow
def test_a_worker_makes_it(postgres, valkey, tmp_path):
    url, kept = postgres.url(), tmp_path / "kept"
    with gnomon.open(url, data_dir=str(tmp_path / "own")) as engine:
        engine.track("t", id="one")
        engine.flush()
    asked = {"GNOMON_BACKUP_DAILY": "true", "GNOMON_BACKUP_TARGET": str(kept)}
    with worker({}, url, tmp_path, valkey.url(), **asked):
        wait_for(lambda: list(kept.glob("*.tar.*[tgz]*")) if kept.exists() else [], log=tmp_path / "worker.log")
        (made,) = wait_for(lambda: [file for file in kept.iterdir() if not file.name.endswith(".partial")])
    with gnomon.open(tmp_path / "restored.duckdb") as engine:
        assert engine.restore_backup(made).counts["events"] == 1
