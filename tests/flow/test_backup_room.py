"""Backups never fill the disk that takes events: one for which there is no room is refused, what has expired goes all
the same, and that not all of them will fit is told while they still do. On a real file system of 48 MB."""

from __future__ import annotations

import random
import shutil
import subprocess
import threading
from contextlib import contextmanager
from datetime import UTC, datetime

import pyrage
import pytest
from test_disk_full import fill

import gnomon
from gnomon.errors import DiskFull
from gnomon.store import carrying
from gnomon.testing import ManualClock
from gnomon.upkeep import backup, copying, room

pytestmark = pytest.mark.timeout(120)
DISK = 48 * 1024**2
KEEP = DISK // 10


@pytest.fixture
def disk(tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(place)]
    if subprocess.run(words, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def clock():
    return ManualClock(datetime(2026, 3, 1, 12, tzinfo=UTC))


def opened(disk, clock, **changes):
    return gnomon.open(disk / "s.duckdb", clock=clock, heartbeat_seconds=0, threads=1, **changes)


def free(disk):
    return shutil.disk_usage(disk).free


def record(engine, events=1_500):
    """Some events that hardly compress: 1 MB."""
    for _ in range(events):
        engine.track("kept", properties={"text": random.randbytes(300).hex()})
    engine.flush()
    engine._hold.writer.checkpoint()


def leave(disk, bytes_free):
    """Take what is free, but so much."""
    ballast = fill(disk)
    with ballast.open("rb+") as file:
        file.truncate(ballast.stat().st_size - bytes_free)
    return ballast


def day(engine, clock):
    """A day later: how the job went."""
    clock.advance(days=1)
    record(engine)
    return engine.run_jobs()["backup"]


@contextmanager
def watched(disk):
    """The least that was ever free."""
    seen, ended = [free(disk)], threading.Event()

    def watch():
        while not ended.wait(0.0005):
            seen[0] = min(seen[0], free(disk))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield seen
    finally:
        ended.set()
        watching.join()


def days_until_refused(engine, clock, most=60):
    """How many backups were made one after the other."""
    for made in range(most):
        if day(engine, clock) != "ok":
            return made
    pytest.fail("the disk holds them all")


def test_a_backup_that_would_fill_the_disk_is_refused_and_recording_goes_on(disk, clock):
    with opened(disk, clock) as engine:
        with watched(disk) as least:
            made = days_until_refused(engine, clock)
        kept = [one.path for one in engine.backups()]
        assert made > 3 and len(kept) == made and least[0] >= KEEP
        alerts = {alert.name: alert for alert in engine.alerts()}
        assert "(target-full)" in alerts["backup-failed"].message
        assert "GNOMON_BACKUP_TARGET" in alerts["backup-failed"].remedy
        for _ in range(3):  # neither by hand nor by the job
            with pytest.raises(DiskFull) as caught:
                engine.trigger_backup()
            assert caught.value.code == "target-full" and caught.value.status == 507
            assert day(engine, clock) == "target-full"
        assert [one.path for one in engine.backups()] == kept  # they are to be kept, so they are
        assert sorted(map(str, disk.joinpath("backups").iterdir())) == sorted(kept)
        assert engine.books().stored == engine.books().received and engine.books().closes()


def test_a_disk_that_is_not_looked_at_would_be_filled(disk, clock, monkeypatch):
    monkeypatch.setattr(room.Room, "check", lambda *_: None)
    with opened(disk, clock) as engine, watched(disk) as least:
        days_until_refused(engine, clock)
    assert least[0] < KEEP


def test_what_has_expired_goes_although_no_new_backup_comes_about(disk, clock):
    with opened(disk, clock, backup_days=30) as engine:
        made = days_until_refused(engine, clock)
        first, *_, last = [one.path for one in engine.backups()]
        clock.advance(days=31 - made)  # the first is 31 days old, and the disk is full to the last byte
        ballast = fill(disk)
        engine.track("x")
        assert engine.run_jobs()["backup"] in ("target-full", "disk-full", "target-unavailable")
        assert first not in (left := [one.path for one in engine.backups()]) and last in left and free(disk) > 0
        clock.advance(days=400)
        engine.run_jobs()
        assert [one.path for one in engine.backups()] == [last]  # never the newest
        engine.flush()
        ballast.unlink()
        clock.advance(days=1)
        assert engine.run_jobs()["backup"] == "ok" and len(engine.backups()) == 1
        assert engine.books().closes() and engine.books().stored == engine.books().received


def test_waiting_for_a_new_backup_would_keep_the_disk_full(disk, clock, monkeypatch):
    with opened(disk, clock, backup_days=30) as engine:
        day(engine, clock)
        day(engine, clock)
        monkeypatch.setattr(room, "make_room", lambda *_: 0)
        monkeypatch.setattr(backup, "make_room", lambda *_: 1 << 40)
        monkeypatch.setattr(backup, "expire", lambda *_: None)
        clock.advance(days=400)
        engine.run_jobs()
        assert len(engine.backups()) == 2


def test_that_they_will_not_all_fit_is_told_with_the_first_one(disk, clock):
    with opened(disk, clock, backup_days=300) as engine:
        assert "backup-room" not in {alert.name for alert in engine.alerts()}
        assert day(engine, clock) == "ok"
        (alert,) = [alert for alert in engine.alerts() if alert.name == "backup-room"]
        assert alert.level == "warning" and "300 backups" in alert.message and "GNOMON_BACKUP_TARGET" in alert.remedy
        assert alert.message in [finding.what for finding in engine.health().findings]
    with opened(disk, clock, backup_days=2) as engine:
        assert "backup-room" not in {alert.name for alert in engine.alerts()}
        assert not [finding for finding in engine.health().findings if "backups" in finding.what]


def test_a_target_elsewhere_needs_no_more_than_the_copy(disk, clock, tmp_path):
    with opened(disk, clock, backup_target=str(tmp_path / "elsewhere")) as engine:
        record(engine)
        assert engine.trigger_backup().verified
        size = (disk / "s.duckdb").stat().st_size
        ballast = leave(disk, size + 1024**2)  # the copy fits, and there would be no room for an archive
        assert free(disk) < KEEP + 2 * size
        clock.advance(days=1)
        made = engine.trigger_backup()
        assert made.verified and len(engine.backups()) == 2
        assert engine.restore_backup(made.path).counts["events"] == 1_500
        ballast.unlink()


def test_an_encrypted_one_takes_an_archive_more(disk, clock, tmp_path):
    key = tmp_path / "backup.key"
    key.write_text(str(pyrage.x25519.Identity.generate()))
    with opened(disk, clock) as engine:
        record(engine)
        size = (disk / "s.duckdb").stat().st_size
        assert size > 512 * 1024
        for settings, times in ((engine.settings, 2), (engine.settings.but(backup_key_file=str(key)), 3)):
            found = room.room_of(engine._hold, disk, settings)
            target = room.Folder(disk / "backups", "s")
            assert found.keep == KEEP and found.shared
            assert times * size <= room.needed(engine._hold, target, found) < (times + 0.3) * size


def test_a_target_elsewhere_that_is_full_is_relieved_too(disk, clock, tmp_path):
    with gnomon.open(tmp_path / "s.duckdb", clock=clock, heartbeat_seconds=0) as engine:
        record(engine, 3_000)
        first = engine.trigger_backup(disk / "kept")
        clock.advance(days=20)
        second = engine.trigger_backup(disk / "kept")
        clock.advance(days=11)
        fill(disk)
        with pytest.raises(DiskFull):
            engine.trigger_backup(disk / "kept")
        assert [one.path for one in engine.backups(disk / "kept")] == [second.path] != [first.path]


@pytest.mark.parametrize("bytes_free", [KEEP - 1024**2, KEEP + 1024**2, KEEP + 4 * 1024**2])
def test_rows_whose_size_nobody_knows_before_stop_as_soon_as_there_is_no_room(
    postgres, disk, clock, monkeypatch, bytes_free
):
    """Where there is none, while they are read, and when only the archive does not fit."""
    monkeypatch.setattr(carrying, "SLICE_ROWS", 500)
    monkeypatch.setattr(copying, "SETTLE_ROWS", 500)
    wanted = {"data_dir": str(disk / "data"), "backup_target": str(disk / "kept"), "heartbeat_seconds": 0}
    with gnomon.open(postgres.url(), clock=clock, **wanted) as engine:
        for _ in range(12):
            record(engine, 500)
        ballast = leave(disk, bytes_free)
        with watched(disk) as least, pytest.raises(DiskFull) as caught:
            engine.trigger_backup()
        assert caught.value.code == "target-full" and engine.backups() == []
        assert not [path for path in (disk / "data").iterdir() if "scratch" in path.name]
        assert least[0] > min(bytes_free, KEEP) - 1.5 * 1024**2  # a slice more
        ballast.unlink()
        assert engine.trigger_backup().counts["events"] == 6_000
