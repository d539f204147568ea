"""Promise 8, step by step: whatever takes the last free byte (journal, its index, the checkpoint, the store's new
blocks), the host sees nothing, nothing acknowledged is lost or set aside, and all is well once there is room again."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from pathlib import Path

import pytest

import gnomon
import gnomon.store.duckdb as driver
from gnomon.errors import DiskFull, GnomonError, StoreUnavailable
from gnomon.ingest.recovery import found_damage

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def disk(tmp_path):
    """A real file system of 12 MB."""
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path, leave: int = 0) -> Path:
    """Take every free byte but `leave`."""
    ballast = place / "ballast"
    with ballast.open("ab", buffering=0) as file:
        for size in (65_536, 512):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size):
                    pass
        file.truncate(max(0, file.tell() - leave))
    return ballast


def arrives(engine: gnomon.AnalyticsEngine, wanted: int, seconds: float = 30.0) -> bool:
    """Whether so many events are there in the end, without anybody doing anything."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(StoreUnavailable):
            if engine.query(["events"])[0]["events"] == wanted:
                return True
        time.sleep(0.05)
    return False


class Host:
    """A program that records, flushes now and then, and writes down what it was promised."""

    def __init__(self, engine: gnomon.AnalyticsEngine) -> None:
        self.engine = engine
        self.made = self.promised = 0
        self.faults: list[GnomonError] = []

    def work(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for _ in range(50):
                self.engine.track("x", properties={"n": self.made, "pad": f"{self.made:0400}"})
                self.made += 1
            try:
                self.engine.flush(timeout=0.2)
                self.promised = self.made
            except GnomonError as error:
                self.faults.append(error)
            time.sleep(0.01)


QUICK = gnomon.Settings(flush_seconds=0.02, checkpoint_seconds=0.1, buffer_events=1_500, threads=1)


def story(disk: Path, leave: int) -> Host:
    """A disk that gets full while a host works, and has room again later; checks all that is promised."""
    with gnomon.open(disk / "s.duckdb", settings=QUICK) as engine:
        host = Host(engine)
        until = time.monotonic() + 30
        host.work(0.3)
        while not host.promised and time.monotonic() < until:
            host.work(0.1)
        ballast = fill(disk, leave)
        host.work(0.8)
        with contextlib.suppress(StoreUnavailable):
            assert engine.books().closes()
        with engine._flush_lock:  # else what was shed goes into the books meanwhile
            lost = sum(engine._shed.values())
            ballast.unlink()
        assert arrives(engine, host.made - lost), engine.books().to_dict()
        books = engine.books()
        assert books.closes() and books.pending == 0
        assert books.received == host.made and books.stored + books.shed["buffer-full"] == host.made
        assert not books.rejected and not engine.quarantine()
        found = engine._hold.store.ask(
            ["SELECT count(DISTINCT json_extract(properties, '/n')::BIGINT) FROM events"], 60
        )
        assert found[0].rows == [(books.stored,)]
        host.shed = books.shed["buffer-full"]
    with gnomon.open(disk / "s.duckdb", settings=QUICK) as engine:
        assert engine.query(["events"])[0]["events"] == host.made - host.shed
        assert engine.books().closes()
    assert not found_damage(disk / "s.duckdb")
    return host


@pytest.mark.parametrize("leave", [0, 4_096, 60_000, 250_000, 600_000, 1_500_000])
def test_a_disk_that_gets_full_at_any_step(disk, leave):
    host = story(disk, leave)
    assert host.promised > 0
    if leave == 0:
        assert any(isinstance(fault, DiskFull) and fault.status == 507 and fault.remedy for fault in host.faults)


def test_a_writer_that_gives_up_on_what_the_disk_refused_would_be_found(disk, monkeypatch):
    honest = driver.undoable

    @contextlib.contextmanager
    def forget_first(*args):
        with honest(*args):  # before it the disk has room, else no checkpoint would begin
            engine._hold.journal.forget_up_to(engine._hold.writer.position)
            fill(disk)
            yield

    with gnomon.open(
        disk / "s.duckdb", settings=gnomon.Settings(flush_seconds=0.02, checkpoint_seconds=3_600)
    ) as engine:
        monkeypatch.setattr(driver, "undoable", forget_first)
        host = Host(engine)
        host.work(0.5)
        with pytest.raises(StoreUnavailable):
            engine._hold.writer.checkpoint()
        (disk / "ballast").unlink()
        assert not arrives(engine, host.made, seconds=1.0)


def test_a_store_that_was_shut_opens_again_though_nothing_new_is_recorded(disk):
    """Questions that were being answered while the checkpoint failed hold the old file open for a while."""
    with gnomon.open(disk / "s.duckdb", settings=gnomon.Settings(checkpoint_seconds=0.3, threads=1)) as engine:
        for number in range(4_000):
            engine.track("x", properties={"n": number, "pad": f"{number:0300}"})
        stop = threading.Event()

        def ask():
            while not stop.is_set():
                with contextlib.suppress(GnomonError):
                    engine.query(["events", "people"], ["source"])

        readers = [threading.Thread(target=ask) for _ in range(3)]
        for reader in readers:
            reader.start()
        try:
            engine.flush()
            ballast = fill(disk)
            time.sleep(1.0)  # the checkpoint fails meanwhile
            ballast.unlink()
            assert arrives(engine, 4_000)
        finally:
            stop.set()
            for reader in readers:
                reader.join()
        assert engine.books().closes()
    with gnomon.open(disk / "s.duckdb") as engine:
        assert engine.query(["events"])[0]["events"] == 4_000


def test_a_start_on_a_full_disk(disk):
    """It starts, or says why not; recording never raises; and with room again nothing is missing."""
    with gnomon.open(disk / "s.duckdb", settings=QUICK) as engine:
        for _ in range(1_000):
            engine.track("kept", properties={"pad": "y" * 300})
    ballast = fill(disk)
    try:
        engine = gnomon.open(disk / "s.duckdb", settings=QUICK)
    except GnomonError as error:
        assert error.remedy and error.status in (503, 507)
    else:
        engine.track("during")
        engine.close()
    ballast.unlink()
    with gnomon.open(disk / "s.duckdb", settings=QUICK) as engine:
        assert {row["type"]: row["events"] for row in engine.query(["events"], ["type"])}["kept"] == 1_000
        engine.track("after")
        engine.flush()
        assert engine.books().closes()


def test_a_journal_at_its_own_limit_frees_itself(tmp_path):
    settings = gnomon.Settings(journal_max_bytes=8 * 1024**2, flush_seconds=0.02, checkpoint_seconds=3_600)
    with gnomon.open(tmp_path / "s.duckdb", settings=settings) as engine:
        made = 0
        deadline = time.monotonic() + 60
        while made < 40_000 and time.monotonic() < deadline:
            for _ in range(500):
                engine.track("x", properties={"pad": f"{made:0300}"})
                made += 1
            with contextlib.suppress(DiskFull):
                engine.flush()
        assert arrives(engine, made)
        assert engine.books().closes() and not engine.books().shed
