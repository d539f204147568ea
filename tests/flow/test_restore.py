"""A restore brings the state of the backup, keeps what is recorded from then on, and is never half done."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import gnomon
from gnomon.errors import GnomonError, InvalidValue, StoreDamaged, StoreUnavailable
from gnomon.ingest import recovery
from gnomon.store import examine_copy
from gnomon.store.duckdb.opening import SCHEMA
from gnomon.store.weights import JOINED
from gnomon.upkeep import archive, restore
from gnomon.upkeep.verify import verify

pytestmark = pytest.mark.timeout(120)
PROGRAM = Path(__file__).with_name("dying.py")
WEIGHT = 750  #: of the 600 events that the backup holds
QUESTIONS = [
    (["events", "people", "p95_duration_ms", "sum_bytes_sent"], ["source", "time:day"]),
    (["events", {"agg": "sum", "field": "properties.n", "as": "n"}], ["type"]),
    (["requests", "success_rate"], ["status_class"]),
]


def fill(engine, n, first=0):
    """Events of several kinds, and samples."""
    for number in range(first, first + n):
        engine.track("tick", id=f"e{number}", user_id=f"u{number % 7}", source=f"s{number % 3}",
                     properties={"n": number}, weight=1 + number % 2)  # fmt: skip
        engine.record_request(source="proxy", status_code=200 + number % 2 * 300, duration_ms=number % 50,
                              bytes_sent=number, url="https://example.com/a", method="GET")  # fmt: skip
        if number % 10 == 0:
            engine.record_metric("depth", number, labels={"queue": "mail"})
            engine.track("")  # refused: it goes to the quarantine
    engine.flush()


def state_of(engine):
    """Everything that can be asked, and what is in every table."""
    with engine._hold.store.snapshot() as snapshot:
        tables = dict(snapshot.contents().tables)
    # The first two say where the store stands in the journal, and that it was restored; the last grows all the time.
    for name in ("state", "books", "alive"):
        tables.pop(name)
    spans = engine._hold.store.ask([JOINED], 60.0)[0].rows  # as a checkpoint leaves them
    tables["weighted"] = sorted(span[:3] for span in spans)
    kept = {key: value for key, value in engine._hold.journal.all_kept().items() if key != recovery.RESTORED}
    asked = [engine.query(*question, totals=True).to_dicts() for question in QUESTIONS]
    return tables, kept, asked, engine.books().to_dict(), engine.books("sample").to_dict()


@pytest.fixture
def backed_up(tmp_path):
    """A closed store, its backup, and its state at that moment; then more was recorded and another policy set."""
    store = tmp_path / "s.duckdb"
    with gnomon.open(store, sampling=False) as engine:
        fill(engine, 300)
        engine._hold.journal.keep("policy", "30 days")
        made, old = engine.trigger_backup(), state_of(engine)
        fill(engine, 100, first=300)
        engine._hold.journal.keep("policy", "60 days")
        engine._hold.journal.keep("price", "5")
        return store, made.path, old, state_of(engine)


def test_a_restore_brings_the_same_rows_and_answers(backed_up):
    store, path, old, later = backed_up
    with gnomon.open(store, sampling=False) as engine:
        assert state_of(engine) == later != old
        version = engine._hold.store.data_version()
        done = engine.restore_backup(path)
        assert state_of(engine) == old
        assert done.counts["events"] == 600 and done.replaced == 800 and done.seconds > 0
        assert engine._hold.store.data_version() > version  # or an answer of before would be found in the cache
        fill(engine, 20, first=290)
        assert engine.books().duplicate == 10 and engine.books().closes()
        assert engine.query(["events"], ["type"], filters=[["is", "type", ["tick"]]])[0]["events"] > 0
        after = state_of(engine)
        restores = engine.books("restore")
        assert (restores.stored, restores.shed["replaced"]) == (600, 800) and restores.closes()
        engine.restore_backup(path)
        restores = engine.books("restore")
        assert (restores.stored, restores.shed["replaced"]) == (1_200, 800 + 630) and restores.closes()
        engine.restore_backup(engine.trigger_backup().path)
        assert state_of(engine) == old != after
    with gnomon.open(store, sampling=False) as engine:
        assert state_of(engine) == old and engine.health().sound
    left = {p.name.removeprefix("s.duckdb") for p in store.parent.iterdir() if ".audit" not in p.name}
    assert left == {"", ".journal", ".owner", "backups"}


def test_a_restore_that_leaves_something_out_would_be_found(backed_up, monkeypatch):
    store, path, old, _ = backed_up
    monkeypatch.setattr(recovery, "settle_restore", lambda *_: None)
    monkeypatch.setattr(restore, "settle_restore", lambda *_: None)
    with gnomon.open(store, sampling=False) as engine:
        engine.restore_backup(path)
        assert state_of(engine) != old


def test_on_a_fresh_machine(backed_up, tmp_path):
    _, path, old, _ = backed_up
    place = tmp_path / "fresh" / "other.duckdb"
    place.parent.mkdir()
    with gnomon.open(place, sampling=False) as engine:
        engine.restore_backup(path)
        assert state_of(engine) == old
    Path(f"{place}.journal").unlink()
    with gnomon.open(place, sampling=False) as engine:  # without the journal the kept settings come from the store
        assert state_of(engine) == old


def test_what_is_recorded_from_the_call_on_is_stored_once(backed_up, monkeypatch):
    """Recorded by threads all the while: what was acknowledged after the restore is there, what was before is not."""
    store, path, _, _ = backed_up
    with gnomon.open(store, settings=gnomon.Settings(flush_seconds=0.005, sampling=False)) as engine:
        stop, last = threading.Event(), [0]

        def record():
            while not stop.is_set():
                engine.track("live", source="live", properties={"n": last[0]})
                engine.flush()
                last[0] += 1

        thread = threading.Thread(target=record)
        thread.start()
        before = after = 0
        for _ in range(2):
            before = last[0]
            engine.restore_backup(path)
            after = last[0] + 1  # one may be on its way
            assert engine.books().closes()
        while last[0] < after + 20:
            pass
        stop.set()
        thread.join()
        engine.flush()
        words = "SELECT json_extract(properties, '/n')::BIGINT FROM events WHERE type = 'live' ORDER BY 1"
        found = [n for (n,) in engine._hold.store.ask([words], 60.0)[0].rows]
        assert found == list(range(found[0], last[0])) and before <= found[0] <= after
        books = engine.books()
        assert books.closes() and books.stored == 600 + len(found)
        assert engine.query(["events"])[0]["events"] == WEIGHT + len(found)


def test_replaying_what_was_replaced_would_be_found(backed_up, monkeypatch):
    store, path, old, _ = backed_up
    monkeypatch.setattr(gnomon.ingest.journal.Journal, "forget_up_to", lambda *_: None)
    with gnomon.open(store, sampling=False) as engine:
        fill(engine, 10, first=900)
        engine.restore_backup(path)
        assert state_of(engine) == old
        honest = restore.settle_copy

        def from_the_backup(file, settings, entering):
            honest(file, settings, restore.Entering(entering.journal_id, 0, entering.above_version, entering.note))

        monkeypatch.setattr(restore, "settle_copy", from_the_backup)
        engine.restore_backup(path)
        engine.track("a")
        engine.flush()
        assert engine.query(["events"])[0]["events"] > 601


def test_questions_wait_for_a_restore_and_none_fails(backed_up):
    store, path, _, _ = backed_up
    with gnomon.open(store, sampling=False) as engine:
        stop, wrong, answers = threading.Event(), [], set()

        def ask():
            while not stop.is_set():
                try:
                    answers.add(engine.query(["events"])[0]["events"])
                except GnomonError as error:
                    wrong.append(error)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        until = time.monotonic() + 30
        while not answers and time.monotonic() < until:
            time.sleep(0.01)
        for _ in range(5):
            engine.restore_backup(path)
        stop.set()
        for thread in threads:
            thread.join()
        assert wrong == [] and answers == {WEIGHT, WEIGHT / 3 * 4}


def test_a_damaged_store_can_be_restored(backed_up):
    store, path, old, _ = backed_up
    with gnomon.open(store, sampling=False) as engine:
        engine._hold.writer.checkpoint()
    size = store.stat().st_size
    with gnomon.open(store, sampling=False) as engine:
        with store.open("r+b") as file:
            file.seek(12_288)
            file.write(b"\xff" * (size - 12_288))
        engine.restore_backup(path)
        assert state_of(engine) == old
    with gnomon.open(store, sampling=False) as engine:
        assert state_of(engine) == old


def test_a_restore_that_fails_leaves_everything_as_it_was(backed_up, monkeypatch):
    store, path, _, later = backed_up
    with gnomon.open(store, sampling=False) as engine:
        for name, error in (("link", OSError(28, "full")), ("replace", OSError(5, "broken"))):
            with monkeypatch.context() as patch:
                patch.setattr(os, name, raising(error)) if name == "link" else patch.setattr(
                    Path, "replace", raising(error, 1)
                )
                patch.setattr("shutil.copyfile", raising(error))
                with pytest.raises(GnomonError) as caught:
                    engine.restore_backup(path)
                assert caught.value.code in ("target-full", "target-unavailable")
            assert until_answered(engine) == later
        engine.track("a")
        engine.flush()
        assert engine.books().closes()


def raising(error, times=10):
    left = [times]

    def fail(self, *args):
        if left[0]:
            left[0] -= 1
            raise error
        return os.rename(self, *args)  # noqa: PTH104

    return fail


def until_answered(engine):
    for _ in range(100):
        try:
            return state_of(engine)
        except StoreUnavailable:
            engine._hold.writer.drain()
    raise AssertionError


def test_only_the_owner_restores(tmp_path):
    with gnomon.open(tmp_path / "s.duckdb", sampling=False) as engine:
        made = engine.trigger_backup()
        words = (
            "import gnomon, sys\nwith gnomon.open(sys.argv[1]) as e:\n try: e.restore_backup(sys.argv[2])\n"
            " except gnomon.GnomonError as error: print(error.code)"
        )
        command = [sys.executable, "-c", words, str(tmp_path / "s.duckdb"), made.path]
        assert subprocess.run(command, capture_output=True, text=True).stdout == "store-busy\n"
        with pytest.raises(InvalidValue) as caught:
            engine.restore_backup(tmp_path / "nothing.tar.gz")
        assert caught.value.code == "no-such-file"


BACKUP_STEPS = [
    ("gnomon.store.duckdb:DuckDBStore.checkpoint@after", 2),
    ("gnomon.store.duckdb.copying:Snapshot.copy_to@during", 1),
    ("gnomon.store.duckdb.copying:Snapshot.contents@after", 1),
    ("gnomon.upkeep.archive:pack@during", 1),
    ("gnomon.upkeep.archive:unpack@after", 1),
    ("gnomon.upkeep.targets:Folder.put@before", 1),
    ("gnomon.upkeep.targets:Folder.put@after", 1),
]
OLD, NEW, EITHER = "old", "new", "either"
RESTORE_STEPS = [
    ("gnomon.upkeep.archive:unpack@after", 1, OLD),
    ("gnomon.upkeep.restore:settle_copy@after", 1, OLD),
    ("gnomon.store.duckdb:put_in_place@before", 1, OLD),
    ("os:link@after", 1, OLD),
    ("gnomon.store.duckdb:put_in_place@during", 1, EITHER),
    ("gnomon.store.duckdb:put_in_place@after", 1, NEW),
    ("gnomon.ingest.writer:Writer.content_replaced@after", 1, NEW),
    ("gnomon.ingest.journal:Journal.keep_only@before", 1, NEW),
    ("gnomon.ingest.journal:Journal.keep_only@after", 1, NEW),
    ("gnomon.ingest.writer:Writer.checkpoint@before", 1, NEW),
]


def die(store, what, path, step, nth, *broken):
    words = [sys.executable, str(PROGRAM), str(store), what, str(path), step, str(nth), *broken]
    ended = subprocess.run(words, timeout=60, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()


FEW = pytest.param(2, id="every second")
ALL = pytest.param(1, id="all", marks=pytest.mark.slow)


@pytest.mark.parametrize("every", [FEW, ALL])
def test_death_in_the_middle_of_a_backup(backed_up, every):
    store, _, _, later = backed_up
    for step, nth in BACKUP_STEPS[::every]:
        die(store, "backup", "-", step, nth)
        if every == 1:
            with gnomon.open(store, sampling=False) as engine:
                assert state_of(engine) == later, step
    with gnomon.open(store, sampling=False) as engine:
        good = engine.backups()
        assert len(good) == 2  # that of the fixture, and the one that was killed after it had its name
        engine.trigger_backup()
        assert len(list((store.parent / "backups").iterdir())) == len(good) + 1
        assert state_of(engine) == later
        engine.restore_backup(good[-1].path)
        assert state_of(engine) == later
    assert not [path for path in store.parent.iterdir() if "scratch" in path.name]


@pytest.mark.parametrize("every", [FEW, ALL])
def test_death_in_the_middle_of_a_restore(backed_up, every):
    store, path, old, later = backed_up
    with gnomon.open(store, sampling=False) as engine:
        latest = engine.trigger_backup().path
    for step, nth, wanted in RESTORE_STEPS[1::every]:
        die(store, "restore", path, step, nth)
        with gnomon.open(store, sampling=False) as engine:
            found = state_of(engine)
            assert found in {OLD: [later], NEW: [old], EITHER: [old, later]}[wanted], step
            assert engine.health().sound
            if found == old:
                engine.restore_backup(latest)
                assert state_of(engine) == later


def test_an_exchange_that_is_not_atomic_would_be_found(backed_up):
    store, path, old, later = backed_up
    die(store, "restore", path, "os:link@after", 99, "BROKEN")
    with gnomon.open(store, sampling=False) as engine:
        assert state_of(engine) not in (old, later)


def test_a_restore_checks_the_store_in_the_archive(backed_up, tmp_path, monkeypatch):
    """An archive whose digest holds, and whose manifest says something else than its store."""
    store, path, _, _ = backed_up
    folder = tmp_path / "look"
    folder.mkdir()
    manifest = archive.unpack(Path(path), folder, None)
    tables = {**manifest.tables, "events": (manifest.tables["events"][0], "0")}
    forged, files = tmp_path / "forged", {name: folder / name for name in manifest.members}
    codec = archive.codec_of(Path(path))
    changes = {
        "backup-damaged": {"tables": tables},
        "newer-backup": {"format": 2},
    }
    with gnomon.open(store, sampling=False) as engine:
        for code, change in changes.items():
            archive.pack(archive.replace(manifest, **change), files, forged, codec)
            with pytest.raises((StoreDamaged, InvalidValue)) as caught:
                engine.restore_backup(forged)
            assert caught.value.code == code and caught.value.remedy
        archive.pack(archive.replace(manifest, tables=tables, engine="duckdb v9"), files, forged, codec)
        engine.restore_backup(forged)  # another version of the database may hash otherwise: the counts hold
        (folder / "store.duckdb").write_bytes(b"of a database that is not known yet" * 1_000)
        archive.pack(manifest, files, forged, codec)
        with pytest.raises(InvalidValue) as caught:
            engine.restore_backup(forged)
        assert caught.value.code == "newer-backup"
        monkeypatch.setattr("gnomon.store.duckdb.copying.SCHEMA", 1)
        with pytest.raises(InvalidValue) as caught:
            engine.restore_backup(path)
        assert caught.value.code == "newer-backup"


def test_a_backup_of_an_older_schema_is_brought_up(tmp_path, monkeypatch):
    monkeypatch.setattr("gnomon.store.duckdb.opening.SCHEMA", 1)
    event = "uuid(), now()::TIMESTAMP, now()::TIMESTAMP, 1, 'old', 1"
    with gnomon.open(tmp_path / "old.duckdb", sampling=False, heartbeat_seconds=0.0) as engine:  # no table for them
        words = "INSERT INTO events (project, id, ts, received_at, version, type, weight)"
        engine._hold.store.change([f"{words} SELECT 'default', {event} FROM range(20)"])
        made = engine.trigger_backup()
    monkeypatch.undo()
    with gnomon.open(tmp_path / "new.duckdb", sampling=False) as engine:
        engine.restore_backup(made.path)
        engine.track("new")
        engine.flush()
        assert engine.query(["events"])[0]["events"] == 21
        assert "rolled" not in made.counts and engine.trigger_backup().counts["rolled"] == 0
    assert examine_copy(tmp_path / "new.duckdb", gnomon.Settings()).schema == SCHEMA


def test_the_audit_is_never_turned_back(backed_up, tmp_path):
    store, _, _, _ = backed_up
    fresh = tmp_path / "fresh.duckdb"
    with gnomon.open(store, sampling=False) as engine:
        made = engine.trigger_backup()
        for _ in range(2):
            engine.restore_backup(made.path)
        stamp = made.created_at.strftime("%Y%m%dT%H%M%SZ")
        operations = [entry.operation for entry in engine.get_access_log()]
        assert operations.count("restore_backup") == 2 and engine.verify_audit().sound
        old = verify(Path(f"{store}.audit-{stamp}"))
        assert old.sound and old.entries < engine.verify_audit().entries
        assert Path(f"{store}.audit-{stamp}.key").stat().st_mode & 0o777 == 0o600
    with gnomon.open(fresh, sampling=False) as engine:
        engine.restore_backup(f"file://{made.path}")
        assert engine.verify_audit().sound
        with pytest.raises(InvalidValue) as caught:
            engine.restore_backup(f"file://{made.path}.age")
        assert caught.value.code == "no-such-file"


def test_a_system_without_second_names_and_copies_in_the_kernel(backed_up, tmp_path, monkeypatch):
    store, path, old, _ = backed_up
    monkeypatch.delattr(os, "copy_file_range")
    monkeypatch.setattr(os, "link", raising(OSError(1, "not here")))
    with gnomon.open(store, threads=1, sampling=False) as engine:
        engine.restore_backup(path)
        assert state_of(engine) == old
        engine.restore_backup(engine.trigger_backup().path)
        assert state_of(engine) == old
