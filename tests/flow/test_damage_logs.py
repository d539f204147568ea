"""Promise 6, the journal's log and what is left of a checkpoint: SQLite drops what follows a damaged frame without a
word, and DuckDB crashes on a log that it left itself. Neither may go unnoticed or cost more than the batch it hit."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import gnomon
from gnomon.errors import StoreDamaged
from gnomon.ingest import recovery, wal
from gnomon.ingest.recovery import found_damage

pytestmark = pytest.mark.timeout(120)
LAZY = gnomon.Settings(checkpoint_seconds=3_600, flush_seconds=30, threads=1)
OLD, BATCHES, EACH = 500, 12, 100


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """What a crash leaves: 500 events in the store, 12 batches of 100 in the log of the journal only."""
    live, copy = tmp_path_factory.mktemp("live"), tmp_path_factory.mktemp("crash")
    with gnomon.open(live / "s.duckdb", settings=LAZY) as engine:
        for number in range(OLD):
            engine.track("old", properties={"n": number})
        engine.record_metric("depth", 1)
        engine.flush()
        engine._hold.writer.checkpoint()
        for batch in range(BATCHES):
            for number in range(EACH):
                engine.track("new", source=f"b{batch}", properties={"n": number, "pad": f"{number:0200}"})
            engine.record_metric("depth", batch)
            engine.flush()
        for file in live.iterdir():
            if not file.name.endswith((".owner", ".tmp")):
                shutil.copy(file, copy / file.name)
    return copy


@pytest.fixture
def crashed(origin, tmp_path):
    shutil.copytree(origin, tmp_path / "c")
    return tmp_path / "c" / "s.duckdb"


def log_of(store: Path) -> Path:
    return Path(f"{store}.journal-wal")


def flip(path: Path, place: int, count: int = 1) -> None:
    data = bytearray(path.read_bytes())
    for at in range(place, min(place + count, len(data))):
        data[at] ^= 0x5A
    path.write_bytes(data)


def batches(engine) -> Counter[str]:
    """Events by type, and by batch for the new ones."""
    found = engine.query(["events"], ["type", "source"])
    return Counter({row["source"] or row["type"]: row["events"] for row in found})


def after(store: Path) -> tuple[Counter[str], gnomon.engine.Books]:
    """What is there after a start without any help, and that it works from there on."""
    with gnomon.open(store, settings=LAZY) as engine:
        found, books = batches(engine), engine.books()
        assert books.closes() and books.pending == 0
        assert engine.books("sample").closes()
        engine.track("later")
        engine.flush()
    with gnomon.open(store, settings=LAZY) as engine:
        assert batches(engine) == found + Counter(later=1)
        assert engine.query(["samples"], dataset="samples")[0]["samples"] <= BATCHES + 1
    return found, books


WHOLE = Counter({"old": OLD, **{f"b{batch}": EACH for batch in range(BATCHES)}})


def test_an_undamaged_crash_raises_no_alarm(crashed):
    assert after(crashed)[0] == WHOLE
    assert not found_damage(crashed)


@pytest.mark.parametrize("seed", range(10))
def test_a_flipped_byte_of_the_log_costs_its_own_batch_at_most(crashed, seed):
    log = log_of(crashed)
    before = log.read_bytes()
    flip(log, random.Random(seed).randrange(32, len(before)))
    found, books = after(crashed)
    lost = WHOLE - found
    assert found["old"] == OLD and len(lost) <= 1 and found <= WHOLE
    assert books.rejected["journal-damaged"] in (lost.total(), EACH if not lost else 0)
    aside = found_damage(crashed)
    assert aside and any(file.name.endswith("-wal") and len(file.read_bytes()) == len(before) for file in aside)


@pytest.mark.parametrize("part", [0, 4, 16, 24, 32])
def test_a_damaged_header_of_the_log_costs_nothing(crashed, part):
    flip(log_of(crashed), part, 8)
    assert after(crashed)[0] == WHOLE
    assert found_damage(crashed)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.7, 0.99])
def test_a_cut_log_is_noticed_and_what_is_left_of_it_is_kept(crashed, share):
    log = log_of(crashed)
    os.truncate(log, int(log.stat().st_size * share))
    found, _ = after(crashed)
    kept = (found.total() - OLD) // EACH
    assert found == Counter({"old": OLD, **{f"b{batch}": EACH for batch in range(kept)}})  # whole batches, in order
    assert kept >= (BATCHES - 2 if share == 0.99 else 0)
    assert found_damage(crashed)


@pytest.mark.parametrize("gone", [False, True], ids=["emptied", "gone"])
def test_a_journal_whose_file_is_lost_is_rebuilt_from_its_log(crashed, gone):
    journal = Path(f"{crashed}.journal")
    if gone:
        journal.unlink()
    else:
        journal.write_bytes(b"")
    assert after(crashed)[0] == WHOLE
    assert found_damage(crashed)


def test_a_check_that_trusts_sqlite_would_be_found(crashed, monkeypatch):
    monkeypatch.setattr(wal, "check", lambda *_: None)
    flip(log_of(crashed), 32 + 24 + 4_000)
    found, _ = after(crashed)
    assert (WHOLE - found).total() > EACH and not found_damage(crashed)


def test_a_log_that_is_being_written_is_no_damage(tmp_path):
    """Processes come and go while others record: nothing may ever look damaged."""
    store = tmp_path / "s.duckdb"
    code = (
        "import gnomon, sys\n"
        "for round in range(8):\n"
        "    with gnomon.open(sys.argv[1]) as engine:\n"
        "        for number in range(100):\n"
        "            engine.track('x', properties={'pad': 'y' * 500})\n"
        "            number % 20 or engine.flush()\n"
    )
    recorders = [subprocess.Popen([sys.executable, "-c", code, str(store)]) for _ in range(3)]
    while any(recorder.poll() is None for recorder in recorders):
        wal.check(log_of(store), Path(f"{store}.journal"))
    assert [recorder.returncode for recorder in recorders] == [0, 0, 0]
    with gnomon.open(store) as engine:
        assert engine.query(["events"])[0]["events"] == 2_400
    assert not found_damage(store)


# -- the store file ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.3, 0.6, 0.99])
def test_a_cut_store_is_rebuilt(crashed, share):
    os.truncate(crashed, int(crashed.stat().st_size * share))
    found, _ = reopened(crashed)
    assert found & WHOLE == found and found + Counter(old=OLD) >= WHOLE


@pytest.mark.parametrize("seed", range(8))
def test_a_store_with_flipped_bytes_is_rebuilt(crashed, seed):
    rng = random.Random(seed)
    for _ in range(1 + seed % 3):
        flip(crashed, rng.randrange(crashed.stat().st_size), 16)
    found, engine_samples = reopened(crashed)
    assert found & WHOLE == found and found + Counter(old=OLD) >= WHOLE
    assert engine_samples <= BATCHES + 1  # none counts twice, though all were replayed


def reopened(store: Path) -> tuple[Counter[str], int]:
    """What is there at last: damage that opening does not read is met by a question; one more opening repairs it."""
    for _ in range(2):
        try:
            with gnomon.open(store, settings=LAZY) as engine:
                found = batches(engine)
                del found["later"]  # of the opening before
                engine.query(["people", "p95_duration_ms"])
                books = engine.books()
                assert books.closes() and books.pending == 0
                engine.track("later")
                engine.flush()
                engine._hold.writer.checkpoint()
                samples = engine.query(["samples"], dataset="samples")[0]["samples"]
                return found, samples
        except StoreDamaged:
            continue
    raise AssertionError("it did not repair itself")


@pytest.mark.parametrize("content", ["empty", "garbage", "changes"])
def test_a_log_beside_the_store_neither_crashes_the_process_nor_gets_lost(crashed, content):
    """A checkpoint that was cut short, or another program, leaves one; DuckDB 2.0 then dies in the next checkpoint."""
    log = Path(f"{crashed}.wal")
    if content == "changes":
        code = "import duckdb, os, sys; duckdb.connect(sys.argv[1]).execute('DELETE FROM events'); os._exit(0)"
        subprocess.run([sys.executable, "-c", code, str(crashed)], check=True)
    else:
        log.write_bytes({"empty": b"", "garbage": random.Random(1).randbytes(500)}[content])
    code = (
        "import gnomon, sys\n"
        "with gnomon.open(sys.argv[1]) as engine:\n"
        "    print(engine.query(['events'])[0]['events'], engine.books().closes())\n"
        "    for _ in range(3):\n"
        "        engine.track('later'); engine.flush(); engine._hold.writer.checkpoint()\n"
    )
    for _ in range(2):
        ended = subprocess.run([sys.executable, "-c", code, str(crashed)], capture_output=True, text=True, timeout=60)
        assert ended.returncode == 0, ended.stderr
    kept = BATCHES * EACH + (0 if content == "changes" else OLD)
    assert ended.stdout.split() == [str(kept + 3), "True"]
    assert bool(found_damage(crashed)) == (content == "garbage")


def test_a_rebuild_that_replays_nothing_would_be_found(crashed, monkeypatch):
    honest = recovery.salvage_store

    def forgetful(url, damaged, settings):
        report = honest(url, damaged, settings)
        import duckdb

        with duckdb.connect(url) as con:
            key = f"journal:{journal_id(crashed)}"
            con.execute("DELETE FROM state WHERE key = ?", [key])
            con.execute("INSERT INTO state VALUES (?, '999')", [key])
        return report

    monkeypatch.setattr(recovery, "salvage_store", forgetful)
    flip(crashed, 0, 64)
    found, _ = reopened(crashed)
    assert found["b0"] == 0


def journal_id(store: Path) -> str:
    import sqlite3

    db = sqlite3.connect(f"{store}.journal")
    try:
        return db.execute("SELECT value FROM meta WHERE key = 'journal_id'").fetchone()[0]
    finally:
        db.close()
