"""Promise 8: a full disk is said, loses nothing acknowledged, and heals by itself. On a real file system of 12 MB."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

import gnomon
from gnomon.errors import DiskFull, StoreUnavailable

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def small_disk(tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path) -> Path:
    """Take every free byte."""
    ballast = place / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (65_536, 512):
            try:
                while file.write(b"x" * size):
                    pass
            except OSError:
                continue
    return ballast


def until(condition, seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def test_the_journal_meets_a_full_disk_and_goes_on_by_itself(small_disk):
    settings = gnomon.Settings(flush_seconds=0.02, buffer_events=2_000)
    with gnomon.open(small_disk / "s.duckdb", settings=settings) as engine:
        engine.track("before")
        engine.flush()
        ballast = fill(small_disk)
        for _ in range(5_000):  # the host notices nothing, whatever happens to the disk
            engine.track("during", properties={"text": "y" * 300})
        with pytest.raises(DiskFull) as caught:
            engine.flush()
        assert caught.value.status == 507 and caught.value.remedy
        assert engine.books().closes()
        ballast.unlink()

        def arrived():
            try:
                engine.flush()
            except (DiskFull, StoreUnavailable):
                return False
            return True

        assert until(arrived)
        books = engine.books()
        assert books.closes() and books.pending == 0
        assert books.received == 5_001
        assert books.stored + books.shed["buffer-full"] == 5_001 and books.shed["buffer-full"] > 0
        assert engine.query(["events"])[0]["events"] == books.stored


def test_a_checkpoint_meets_a_full_disk_and_nothing_acknowledged_is_lost(small_disk):
    settings = gnomon.Settings(flush_seconds=0.02, checkpoint_seconds=3_600)
    with gnomon.open(small_disk / "s.duckdb", settings=settings) as engine:
        for number in range(8_000):
            engine.track("kept", properties={"n": number, "text": f"{number:064x}"})
        engine.flush()
        ballast = fill(small_disk)
        writer = engine._hold.writer
        with pytest.raises(StoreUnavailable):
            writer.checkpoint()
        writer._start_over(0)  # what the writer's thread does after any fault
        ballast.unlink()

        def answered():
            try:
                return engine.query(["events"])[0]["events"] == 8_000
            except StoreUnavailable:
                return False  # refused while the store is being filled again, never answered with less

        assert until(answered)
        engine.track("after")
        engine.flush()
        assert engine.books().stored == 8_001 and engine.books().closes()
        writer.checkpoint()
    with gnomon.open(small_disk / "s.duckdb") as engine:
        assert engine.query(["events"])[0]["events"] == 8_001


def test_acknowledging_on_a_full_disk_would_be_found(small_disk, monkeypatch):
    from gnomon.ingest.journal import Journal

    def pretend(self, batches):
        try:
            return append(self, batches)
        except DiskFull:
            return [0] * len(batches)

    append = Journal.append
    with gnomon.open(small_disk / "s.duckdb") as engine:
        monkeypatch.setattr(Journal, "append", pretend)
        fill(small_disk)
        for _ in range(2_000):
            engine.track("during", properties={"text": "y" * 300})
        engine.flush()  # «acknowledged»
        assert engine.query(["events"])[0]["events"] < 2_000
