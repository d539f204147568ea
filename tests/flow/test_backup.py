"""Promise 13: a backup is one moment of a store that works on, and counts once it was restored and compared."""

from __future__ import annotations

import json
import threading
import time
from contextlib import nullcontext, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest

import gnomon
from gnomon.errors import GnomonError, StoreDamaged
from gnomon.ingest.writer import Writer
from gnomon.store.duckdb import copying
from gnomon.testing import ManualClock
from gnomon.upkeep import archive, backup, room
from gnomon.upkeep.archive import unpack
from gnomon.upkeep.targets import Folder
from gnomon.upkeep.verify import verify

pytestmark = pytest.mark.timeout(120)
START = datetime(2025, 3, 1, 12, tzinfo=UTC)


def looked_into(path: str, folder: Path) -> duckdb.DuckDBPyConnection:
    """The store within an archive."""
    folder.mkdir()
    unpack(Path(path), folder, None)
    return duckdb.connect(folder / archive.STORE, read_only=True)


def of_one_moment(path: str, folder: Path, acknowledged: dict[str, int]) -> bool:
    """Whether an archive holds what its own books say, all that was acknowledged before, and no gaps."""
    with looked_into(path, folder) as con:
        rows = con.execute(
            "SELECT source, count(*), max(json_extract(properties, '/n')::BIGINT) + 1 FROM events GROUP BY 1"
        ).fetchall()
        booked = dict(
            con.execute("SELECT source, sum(n)::BIGINT FROM books WHERE outcome = 'stored' GROUP BY 1").fetchall()
        )
    found = {source: n for source, n, _ in rows}
    whole = all(n == last for _, n, last in rows) and found == booked
    return whole and all(found.get(source, 0) >= n for source, n in acknowledged.items())


@pytest.fixture
def loaded(tmp_path):
    """An engine under full write load by four threads, and what was acknowledged so far, by thread."""
    done: dict[str, int] = {}
    stop = threading.Event()

    def record(engine, source):
        n = 0
        while not stop.is_set():
            for _ in range(200):
                engine.track("tick", source=source, properties={"n": n})
                n += 1
            engine.flush()
            done[source] = n

    settings = gnomon.Settings(flush_seconds=0.01, checkpoint_seconds=0.05, checkpoint_bytes=256 * 2_000)
    with gnomon.open(tmp_path / "load.duckdb", settings=settings) as engine:
        threads = [threading.Thread(target=record, args=(engine, f"s{n}")) for n in range(4)]
        for thread in threads:
            thread.start()
        while len(done) < 4:
            time.sleep(0.01)
        yield engine, done
        stop.set()
        for thread in threads:
            thread.join()


def test_a_backup_under_full_load_is_one_moment_and_questions_go_on(loaded, tmp_path):
    engine, done = loaded
    for turn in range(5):
        before, asked = dict(done), []
        thread = threading.Thread(target=lambda: asked.append(engine.trigger_backup()))  # noqa: B023
        thread.start()
        questions = 0
        while thread.is_alive():
            assert engine.query(["events"])[0]["events"] >= sum(before.values())
            questions += 1
        (made,) = asked
        assert questions > 1 and made.verified and made.paused_seconds < 5
        assert of_one_moment(made.path, tmp_path / f"look{turn}", before)
    assert len(engine.backups()) == 5


def test_a_copy_of_two_moments_would_be_found(loaded, tmp_path, monkeypatch):
    """The copy is made a while after the snapshot, without keeping checkpoints away."""
    engine, _ = loaded
    honest = copying.Snapshot.copy_to
    monkeypatch.setattr(Writer, "resting", lambda self: nullcontext())

    def late(self, file):
        until, writer = time.monotonic() + 30, engine._hold.writer
        for _ in range(2):  # the second one begins, at the earliest, when the first has ended
            seen = writer._checkpointed
            while writer._checkpointed == seen and time.monotonic() < until:
                time.sleep(0.01)
        honest(self, file)

    monkeypatch.setattr(copying.Snapshot, "copy_to", late)
    with pytest.raises(StoreDamaged) as caught:
        engine.trigger_backup()
    assert caught.value.code == "backup-damaged" and engine.backups() == []


def only_durable(engine, n):
    """Events that are in the journal, and in the store a tenth of a second later."""
    for number in range(n):
        engine.track("tick", source="s", properties={"n": number})
    engine._make_durable()


def test_what_was_acknowledged_before_the_call_is_in_it(tmp_path, monkeypatch):
    with gnomon.open(tmp_path / "s.duckdb") as engine:
        only_durable(engine, 500)
        assert of_one_moment(engine.trigger_backup().path, tmp_path / "a", {"s": 500})
    monkeypatch.setattr(Writer, "wait_for", lambda self, position, timeout: True)
    monkeypatch.setattr("gnomon.ingest.writer.GATHER_SECONDS", 5.0)
    with gnomon.open(tmp_path / "t.duckdb") as engine:  # the deliberately broken one
        only_durable(engine, 500)
        assert not of_one_moment(engine.trigger_backup().path, tmp_path / "b", {"s": 500})


def test_a_backup_says_what_it_holds(tmp_path):
    with gnomon.open(tmp_path / "my store.duckdb", clock=ManualClock(START)) as engine:
        engine.track("a")
        engine.record_metric("m", 1)
        made = engine.trigger_backup()
        assert Path(made.path).parent == tmp_path / "backups" and "my_store-20250301T120000" in made.path
        assert made.bytes == Path(made.path).stat().st_size and made.created_at == START and not made.encrypted
        assert made.counts["events"] == 1 and made.counts["samples"] == 1 and made.counts["pruned"] == 0
        assert made.seconds > made.paused_seconds > 0
        assert [kept.path for kept in engine.backups()] == [made.path]
        other = engine.trigger_backup(tmp_path / "elsewhere")  # the clock stands still
        again = engine.trigger_backup(tmp_path / "elsewhere")
        assert [kept.path for kept in engine.backups(tmp_path / "elsewhere")] == [other.path, again.path]
    assert {path.name for path in tmp_path.iterdir() if "scratch" in path.name} == set()


def lossy(self, file):
    """A copy that lost one event on its way."""
    HONEST(self, file)
    with duckdb.connect(file) as con:
        con.execute("DELETE FROM events WHERE rowid = 0")
        con.execute("CHECKPOINT")


HONEST = copying.Snapshot.copy_to


def test_a_copy_that_differs_never_counts(tmp_path, monkeypatch):
    with gnomon.open(tmp_path / "s.duckdb") as engine:
        for _ in range(100):
            engine.track("a")
        good = engine.trigger_backup()
        monkeypatch.setattr(copying.Snapshot, "copy_to", lossy)
        with pytest.raises(StoreDamaged) as caught:
            engine.trigger_backup()
        assert caught.value.code == "backup-damaged" and caught.value.remedy
        assert [kept.path for kept in engine.backups()] == [good.path]
        assert [path.name for path in (tmp_path / "backups").iterdir()] == [good.path.rpartition("/")[2]]
        monkeypatch.setattr(backup, "verify", lambda *_: None)  # the deliberately broken one
        assert engine.trigger_backup().counts["events"] == 100 and len(engine.backups()) == 2


def scratched(folder: Path) -> Path:
    """A closed store of 60,000 events whose file has damaged blocks."""
    store = folder / "s.duckdb"
    with gnomon.open(store) as engine:
        for number in range(60_000):
            engine.track("a", properties={"n": number, "text": f"{number:032x}"})
        engine.flush()
    size = store.stat().st_size
    with store.open("r+b") as file:
        for place in range(size // 4, 3 * size // 4, 262_144):
            file.seek(place)
            file.write(b"\xff" * 64)
    return store


def test_a_backup_of_a_broken_store_is_refused(tmp_path, monkeypatch):
    store = scratched(tmp_path)
    with gnomon.open(store) as engine:
        with pytest.raises(StoreDamaged):
            engine.trigger_backup()
        assert engine.backups() == []
        Path(f"{store}.suspect").unlink(missing_ok=True)
        monkeypatch.setattr(copying, "_SUMMED", "SELECT count(*), 0, 0 FROM {table}")  # reads hardly a block
        assert engine.trigger_backup().verified


def test_backups_are_kept_30_days_and_the_last_good_one_always(tmp_path, monkeypatch):
    clock = ManualClock(START)
    with gnomon.open(tmp_path / "s.duckdb", clock=clock) as engine:
        (tmp_path / "backups").mkdir()
        for name in ("gnomon-other-20200101T000000.000000Z.tar.gz", "notes.txt"):
            (tmp_path / "backups" / name).touch()
        for _ in range(5):
            engine.trigger_backup()
            clock.advance(days=10)
        days = [(kept.created_at - START).days for kept in engine.backups()]
        assert days == [10, 20, 30, 40]  # the first was 40 days old when the last was made
        clock.advance(days=300)
        monkeypatch.setattr(copying.Snapshot, "copy_to", lossy)
        engine.track("a")
        with pytest.raises(StoreDamaged):
            engine.trigger_backup()
        assert len(engine.backups()) == 4  # without a newer good one nothing goes
        monkeypatch.setattr(copying.Snapshot, "copy_to", HONEST)
        engine.trigger_backup()
        assert [(kept.created_at - START).days for kept in engine.backups()] == [350]
        room.expire(Folder(tmp_path / "backups", "s"), clock() + timedelta(days=365), 30)
        assert len(engine.backups()) == 1
        assert len(list((tmp_path / "backups").iterdir())) == 3  # what is not ours stays
        monkeypatch.setattr(
            Folder, "entries", lambda self: [*Folder_entries(self), None]
        )  # the broken one: [:-1] of it
        room.expire(Folder(tmp_path / "backups", "s"), clock() + timedelta(days=365), 30)
        assert list((tmp_path / "backups").glob("gnomon-s-*")) == []


Folder_entries = Folder.entries


def test_settings_and_the_audit_are_in_it(tmp_path):
    store = tmp_path / "s.duckdb"
    with gnomon.open(store) as engine:
        engine._hold.journal.keep("policy", "30 days")
        engine.query(["events"])
        made = engine.trigger_backup()
        engine.query(["events"])
        folder = tmp_path / "look"
        folder.mkdir()
        manifest = unpack(Path(made.path), folder, None)
        assert set(manifest.members) == {"store.duckdb", "kept.json", "audit", "audit.anchor", "audit.key"}
        kept = json.loads((folder / "kept.json").read_text())
        assert kept.pop("policy") == "30 days" and list(kept.values()) == [str(tmp_path / "backups")]
        copied = verify(folder / "audit")
        assert copied.sound and copied.entries == 1
        assert engine.verify_audit().sound and engine.verify_audit().entries == 3


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="needs a list of locks")
def test_the_store_keeps_its_lock_on_the_file(tmp_path):
    """Another program is kept from writing to the store, also after a backup has read its file."""
    with gnomon.open(tmp_path / "s.duckdb") as engine:
        engine.track("a")
        engine.trigger_backup()
        assert locked(tmp_path / "s.duckdb")
        (tmp_path / "s.duckdb").read_bytes()  # what a careless copy does
        assert not locked(tmp_path / "s.duckdb")


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs a list of open files")
def test_a_file_that_was_written_anew_is_not_held_on_to(tmp_path):
    """What was erased is gone from the disk, also after a backup has read the file, and the next one reads the new."""
    with gnomon.open(tmp_path / "s.duckdb") as engine:
        for number in range(3):
            engine.track("a", user_id=f"u{number}")
            engine.trigger_backup()
            engine.flush()
            engine._hold.writer.checkpoint(compact=True)
            assert "s.duckdb (deleted)" not in open_files()
            assert locked(tmp_path / "s.duckdb") and engine.trigger_backup().counts["events"] == number + 1


def open_files() -> str:
    found = []
    for file in list(Path("/proc/self/fd").iterdir()):
        with suppress(OSError):  # it was closed meanwhile
            found.append(str(file.readlink()))
    return " ".join(found)


def test_nobody_may_read_more_than_before(tmp_path):
    store = tmp_path / "s.duckdb"
    with gnomon.open(store) as engine:
        store.chmod(0o640)
        made = engine.trigger_backup()
        assert Path(made.path).stat().st_mode & 0o777 == 0o640
        engine.restore_backup(made.path)
        assert store.stat().st_mode & 0o777 == 0o640


def locked(file: Path) -> bool:
    inode = str(file.stat().st_ino)
    return any(line.split()[5].endswith(f":{inode}") for line in Path("/proc/locks").read_text().splitlines())


def test_two_backups_at_once_come_one_after_the_other(tmp_path):
    with gnomon.open(tmp_path / "s.duckdb") as engine:
        engine.track("a")
        made, wrong = [], []

        def one():
            try:
                made.append(engine.trigger_backup().path)
            except GnomonError as error:
                wrong.append(error)

        threads = [threading.Thread(target=one) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == [] and len(set(made)) == len(engine.backups()) == 3


def test_what_is_made_of_a_file_goes_where_data_dir_says_and_what_it_consists_of_stays(tmp_path, monkeypatch):
    away, home = tmp_path / "away", tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("GNOMON_DATA_DIR", str(away))
    with gnomon.open(home / "s.duckdb") as engine:
        engine.track("x", id="kept")
        made, job = engine.trigger_backup(), engine.export_analytics()
        assert [one.path for one in engine.backups()] == [made.path] and Path(made.path).parent == away / "backups"
        while engine.get_export_status(job.id).state != "completed":
            time.sleep(0.01)
        assert {one.name for one in away.iterdir()} == {"backups", "s.duckdb.exports"}
    monkeypatch.delenv("GNOMON_DATA_DIR")  # another shell opens the very same store, and finds all of it
    with gnomon.open(home / "s.duckdb") as engine:
        assert engine.query(["events"])[0]["events"] == 1 and engine.verify_audit() and engine.audit_head().count > 2
        assert engine.backups() == []
        engine.restore_backup(made.path)
        assert engine.query(["events"])[0]["events"] == 1
    with gnomon.open(home / "s.duckdb", data_dir=str(away), backup_target=str(home / "own")) as engine:
        assert Path(engine.trigger_backup().path).parent == home / "own"


def test_a_store_in_memory(tmp_path):
    with gnomon.open(":memory:") as engine:
        engine.track("a", id="0198c0de-0000-7000-8000-0123456789ab", properties={"n": [1, None]})
        engine.track("b", id="mine", weight=2.5)
        with pytest.raises(gnomon.GnomonError) as caught:
            engine.trigger_backup()
        assert caught.value.code == "bad-target"
        made = engine.trigger_backup(tmp_path)
        asked = engine.query(["events", "people"], ["type"]).to_dicts()
    for place in (":memory:", tmp_path / "s.duckdb"):
        with gnomon.open(place) as engine:
            engine.restore_backup(made.path)
            assert engine.query(["events", "people"], ["type"]).to_dicts() == asked
            engine.track("a", id="mine")
            engine.flush()
            assert engine.books().duplicate == 1 and engine.books().closes()
