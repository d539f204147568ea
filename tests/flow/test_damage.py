"""Promise 6: a damaged file is found, set aside and rebuilt; it is never deleted, and start-up needs no person."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import gnomon
from gnomon.errors import InvalidValue, StoreDamaged
from gnomon.ingest.recovery import found_damage

pytestmark = pytest.mark.timeout(120)
LAZY = gnomon.Settings(checkpoint_seconds=3_600, flush_seconds=30.0)


def flip(path: Path, start: int, count: int) -> None:
    data = bytearray(path.read_bytes())
    for place in range(start, min(start + count, len(data))):
        data[place] ^= 0xFF
    path.write_bytes(data)


def crashed_copy(store: Path, place: Path) -> Path:
    """The files of an open store as a crash at this moment would leave them."""
    place.mkdir()
    for file in store.parent.glob(store.name + "*"):
        if not file.name.endswith((".owner", ".tmp")):
            shutil.copy(file, place / file.name)
    return place / store.name


@pytest.fixture
def crashed(tmp_path):
    """A store with 3,000 events in its file and 500 more in its journal only."""
    store = tmp_path / "live" / "s.duckdb"
    store.parent.mkdir()
    with gnomon.open(store, settings=LAZY) as engine:
        for number in range(3_000):
            engine.track("old", properties={"n": number})
        engine.flush()
        engine._hold.writer.checkpoint()
        for number in range(500):
            engine.track("new", properties={"n": number})
            if number % 100 == 99:
                engine.flush()
        engine.record_metric("depth", 5)
        engine.flush()
        yield crashed_copy(store, tmp_path / "crash")


def by_type(engine) -> dict[str, int]:
    return {row["type"]: row["events"] for row in engine.query(["events"], ["type"])}


def test_a_crash_without_damage_loses_nothing(crashed):
    with gnomon.open(crashed) as engine:
        assert by_type(engine) == {"old": 3_000, "new": 500}
        assert engine.books().closes() and not found_damage(crashed)
        assert engine.query(["samples"], dataset="samples")[0]["samples"] == 1


@pytest.mark.parametrize("start, count", [(0, 100), (4_096, 8_192)], ids=["first header", "all headers"])
def test_a_store_file_that_cannot_be_opened_is_set_aside_and_the_journal_replayed(crashed, start, count):
    flip(crashed, start, count)
    with gnomon.open(crashed) as engine:
        assert by_type(engine).get("new") == 500  # the journal still has these
        assert engine.books().closes()
        assert not engine.health().sound
    aside = found_damage(crashed)
    assert len(aside) == 1 and aside[0].stat().st_size > 100_000


@pytest.fixture
def broad(tmp_path):
    """A closed store of 260,000 events, several row groups, with a damaged block in the middle."""
    store = tmp_path / "broad.duckdb"
    with gnomon.open(store, settings=gnomon.Settings(buffer_events=300_000)) as engine:
        for number in range(260_000):
            engine.track("old", user_id=f"u{number * 7919 % 260_000}", source=f"s{number // 26_000}")
    for block in blocks_of_one_group(store):
        flip(store, 12_288 + 262_144 * block + 5_000, 100_000)
    return store


def blocks_of_one_group(store: Path) -> list[int]:
    """The blocks that hold ids of the second row group and nothing else; small columns of all groups share blocks."""
    import duckdb

    with duckdb.connect(str(store), read_only=True) as con:
        found = con.execute(
            "SELECT block_id FROM pragma_storage_info('events') WHERE persistent AND block_id >= 0 GROUP BY 1 "
            "HAVING list(DISTINCT row_group_id) = [1] AND list(DISTINCT column_name) = ['id']"
        ).fetchall()
    assert found
    return [block for (block,) in found]


PEOPLE_BY_SOURCE = {"metrics": ["events", "people"], "dimensions": ["source"]}


def test_a_damaged_block_is_found_by_the_doctor_and_repaired_at_the_next_opening(broad):
    with gnomon.open(broad) as engine:
        assert not engine.health().sound
        with pytest.raises(StoreDamaged) as caught:
            engine._hold.store.ask(["SELECT max(id) FROM events"], 60)
        assert "open it again" in caught.value.remedy
    with gnomon.open(broad) as engine:  # repairs by itself, and says what was lost
        kept = sum(row["people"] for row in engine.query(**PEOPLE_BY_SOURCE))
        assert 100_000 < kept < 260_000
        engine.track("later")
        engine.flush()
        assert by_type(engine)["later"] == 1
        assert not engine.health().sound
    assert found_damage(broad)


@pytest.mark.parametrize("place", ["header", "pages", "cut"])
def test_a_damaged_journal_is_set_aside_and_its_batches_carried_over(crashed, place):
    journal = crashed.with_name(crashed.name + ".journal")
    import sqlite3

    with sqlite3.connect(journal) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    size = journal.stat().st_size
    if place == "cut":
        journal.write_bytes(journal.read_bytes()[: size // 2])
    else:
        flip(journal, 0 if place == "header" else size - 9_000, 100 if place == "header" else 6_000)
    with gnomon.open(crashed) as engine:
        found = by_type(engine)
        assert found["old"] == 3_000  # what the store has does not depend on the journal
        assert engine.books().closes()
        engine.track("later")
        engine.flush()
        assert by_type(engine)["later"] == 1
        assert found == {"old": 3_000, "new": 500} or not engine.health().sound
    with gnomon.open(crashed) as engine:
        assert by_type(engine)["later"] == 1


def test_a_batch_that_fails_its_checksum_is_booked_as_rejected(crashed):
    import sqlite3

    with sqlite3.connect(crashed.with_name(crashed.name + ".journal")) as db:
        ((position, body),) = db.execute("SELECT position, body FROM batch ORDER BY position DESC LIMIT 1 OFFSET 1")
        db.execute("UPDATE batch SET body = ? WHERE position = ?", (body.replace(b'"new"', b'"odd"', 1), position))
    db.close()
    with gnomon.open(crashed) as engine:
        books = engine.books()
        assert books.closes() and books.rejected["journal-damaged"] == 100
        assert by_type(engine) == {"old": 3_000, "new": 400}


def test_commits_behind_a_damaged_place_of_the_journals_log_are_noticed(crashed):
    log = crashed.with_name(crashed.name + ".journal-wal")
    flip(log, log.stat().st_size // 2, 64)
    with gnomon.open(crashed) as engine:
        assert by_type(engine)["old"] == 3_000
        assert not engine.health().sound
    assert found_damage(crashed)


def test_a_file_that_is_no_store_is_refused_and_left_alone(tmp_path):
    notes = tmp_path / "notes.txt"
    notes.write_text("my notes, not a database\n" * 100)
    with pytest.raises(InvalidValue) as caught:
        gnomon.open(notes)
    assert caught.value.code == "foreign-file"
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_a_duckdb_file_of_somebody_else_is_refused_and_left_alone(tmp_path):
    import duckdb

    other = tmp_path / "other.duckdb"
    with duckdb.connect(str(other)) as con:
        con.execute("CREATE TABLE mine (a INT)")
    before = other.read_bytes()
    with pytest.raises(InvalidValue) as caught:
        gnomon.open(other)
    assert caught.value.code == "foreign-file"
    assert [file.name for file in tmp_path.iterdir()] == ["other.duckdb"] and other.read_bytes() == before
