"""Promise 6 of the embedded ClickHouse: what can be read of a damaged part is carried over, what the journal still has
comes back, the damaged part is set aside, and nobody has to do anything."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

import gnomon
from gnomon.errors import StoreDamaged
from gnomon.ingest import hold
from gnomon.ingest.recovery import found_damage
from gnomon.store.clickhouse import ClickHouseStore

SETTINGS = {"sampling": False, "checkpoint_seconds": 3_600.0, "heartbeat_seconds": 0, "cache_entries": 0}
#: Records so many events of one write, and ends without closing; the journal forgets the first ones only.
CHILD = """
import os, sys, gnomon
engine = gnomon.open(sys.argv[1], sampling=False, checkpoint_seconds=3600.0, heartbeat_seconds=0,
                     settings=gnomon.Settings(buffer_events=200_000, flush_seconds=0.2))
for first, last in ((0, 20_000), (20_000, 21_000)):
    for n in range(first, last):
        engine.track("t", id=f"e{n}", user_id=f"u{n % 50}", properties={"n": n, "text": os.urandom(5).hex()})
    engine.flush()
    if not first:
        engine._hold.writer.checkpoint()
engine._hold.store.change(["UPDATE events SET method = 'x' WHERE id_text = 'e0'"])  # one part of all
os._exit(0)
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    subprocess.run([sys.executable, "-c", CHILD, f"chdb://{folder}/store"], check=True)
    return folder


@pytest.fixture
def url(written, tmp_path):
    shutil.copytree(written, tmp_path / "c", symlinks=True)
    return f"chdb://{tmp_path}/c/store"


def largest_part(url):
    """The data of the largest part, which is one of events."""
    folder = Path(url.removeprefix("chdb://"))
    return max(folder.glob("store/*/*/*/data.bin"), key=lambda file: file.stat().st_size)


def flip(file, place):
    content = bytearray(file.read_bytes())
    content[int(len(content) * place)] ^= 255
    file.write_bytes(content)


def blocks(file):
    """The sizes of the blocks of a file, as they are when they are unpacked."""
    content, at, found = file.read_bytes(), 0, []
    while at < len(content):
        packed, size = struct.unpack_from("<II", content, at + 17)  # behind a checksum and the method
        at, found = at + 16 + packed, [*found, size]
    return found


def noticed(url, asked=True):
    """The damage is said, by a question or by the doctor, and recording goes on."""
    with gnomon.open(url, **SETTINGS) as engine:
        if asked:
            with pytest.raises(StoreDamaged):
                engine.query(["events", "people"], ["properties.text"], "all", limit=5)
        else:
            assert engine.health().facts["every_block_readable"] is False
        engine.track("after", id="after")
        engine.flush()


def ids(engine):
    rows = engine._hold.store.ask(["SELECT id_text FROM events"], 20.0)[0].rows
    assert len(rows) == len({*rows})
    return {int(id_[1:]) for (id_,) in rows if id_ != "after"}


def mended(url):
    """What is there after the next opening."""
    with gnomon.open(url, **SETTINGS) as engine:
        found, file = ids(engine), engine._hold.file
        assert engine.query(["events"], date_range="all")[0]["events"] == len(found) + 1
        assert len(engine.query(["events"], ["properties.text"], "all", limit=10_000)) == min(10_000, len(found) + 1)
        assert engine.health().facts["every_block_readable"] and engine.books().closes()
        assert engine.books().stored == 21_001  # what came back was counted before
        assert any("set aside" in alert.message for alert in engine.alerts())
        aside = found_damage(file)
    with gnomon.open(url, **SETTINGS) as engine:
        assert ids(engine) == found
    return found, aside


@pytest.mark.slow
@pytest.mark.parametrize("broken", [False, True])
def test_a_damaged_block_of_a_large_part_holds_up_a_question_for_some_seconds_at_most(url, broken):
    with gnomon.open(url, **SETTINGS) as engine:
        store = engine._hold.store
        larger = ", max_compress_block_size = 1048576" if broken else ""
        store._writer.run(f"ALTER TABLE events MODIFY SETTING min_bytes_for_wide_part = 0{larger}", store._plain())
        store._writer.run("OPTIMIZE TABLE events FINAL", store._plain())
        asked = "SELECT path FROM system.parts WHERE table = 'events' AND database = 'gnomon' AND active"
        ((path,),) = store._writer.run(asked, store._plain()).rows
    file = Path(path) / "properties.bin"
    assert (max(blocks(file)) <= 65_536) is not broken
    if not broken:
        flip(file, 0.98)
        with gnomon.open(url, **SETTINGS) as engine:
            began = time.process_time()
            with pytest.raises(StoreDamaged):
                engine.query(["events", "people"], ["properties.text"], "all", limit=5)
            assert time.process_time() - began < 6


@pytest.mark.slow
@pytest.mark.parametrize("asked", [True, False])
def test_a_flipped_byte_costs_a_group_of_rows_that_the_journal_has_not(url, asked):
    flip(largest_part(url), 0.98)
    noticed(url, asked)
    found, aside = mended(url)
    lost = {*range(21_000)} - found
    assert 0 < len(lost) <= 8_192 and not [n for n in lost if n >= 20_000]  # these were in the journal
    assert [(each / "data.bin").stat().st_size for each in aside]


@pytest.mark.slow
def test_a_part_that_is_cut_short_is_set_aside_and_the_journal_gives_back_what_it_has(url):
    file = largest_part(url)
    with file.open("rb+") as cut:
        cut.truncate(file.stat().st_size // 2)
    with gnomon.open(url, **SETTINGS) as engine:
        engine.track("after", id="after")
        engine.flush()
    found, aside = mended(url)
    assert {*range(20_000, 21_000)} <= found and len(aside) == 1


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["parts", "journal"])
def test_damage_that_is_not_mended_would_be_found(url, monkeypatch, broken):
    flip(largest_part(url), 0.98)
    if broken == "parts":
        monkeypatch.setattr(ClickHouseStore, "_mend", lambda *_: None)
    else:
        monkeypatch.setattr(hold, "put_back", lambda store, journal: store.mended())
    noticed(url)
    with pytest.raises((AssertionError, StoreDamaged)):
        found, _ = mended(url)
        assert not [n for n in {*range(21_000)} - found if n >= 20_000]


#: As CHILD, of a day that is rolled up between its two writes; nothing but the roll-up makes a checkpoint.
ROLLED = """
import os, sys, gnomon
from datetime import UTC, datetime, timedelta
engine = gnomon.open(sys.argv[1], sampling=False, checkpoint_seconds=3600.0, heartbeat_seconds=0)
for first, last in ((0, 20_000), (20_000, 21_000)):
    for n in range(first, last):
        ts = datetime.now(UTC) - timedelta(days=2, seconds=n)
        engine.track("t", id=f"e{n}", user_id=f"u{n % 50}", ts=ts, properties={"n": n, "text": os.urandom(5).hex()})
    engine.flush()
    if not first:
        assert engine.trigger_aggregation().events == 20_000
engine._hold.store.change(["UPDATE events SET method = 'x' WHERE id_text = 'e0'"])  # one part of all
os._exit(0)
"""


@pytest.fixture
def rolled(tmp_path):
    url = f"chdb://{tmp_path}/r/store"
    (tmp_path / "r").mkdir()
    subprocess.run([sys.executable, "-c", ROLLED, url], check=True)
    return url


def told_after_mending(url):
    """Events by rollups and by raw rows, once what was late is rolled up as well."""
    with gnomon.open(url, **SETTINGS) as engine:
        engine.trigger_aggregation()
        return [engine.query(["events"], date_range="all", basis=basis)[0]["events"] for basis in ("auto", "raw")]


@pytest.mark.slow
def test_what_comes_back_from_the_journal_is_not_counted_twice_by_rollups(rolled):
    flip(largest_part(rolled), 0.98)
    noticed(rolled, asked=False)
    by_rollups, raw = told_after_mending(rolled)
    assert by_rollups == 21_001 and 21_001 - 8_192 <= raw <= 21_001  # rollups outlive what was damaged


@pytest.mark.slow
def test_a_roll_up_that_leaves_the_journal_as_it_is_would_be_found(tmp_path, monkeypatch):
    url = f"chdb://{tmp_path}/r/store"
    (tmp_path / "r").mkdir()
    broken = "from gnomon.ingest.writer import Writer; Writer.part_with_journal = lambda self: None\n"
    subprocess.run([sys.executable, "-c", broken + ROLLED, url], check=True)
    flip(largest_part(url), 0.98)
    noticed(url, asked=False)
    assert told_after_mending(url)[0] > 21_001


@pytest.mark.slow
def test_while_damage_is_known_nothing_is_rolled_up_pruned_or_erased(url):
    flip(largest_part(url), 0.98)
    with gnomon.open(url, **SETTINGS) as engine:
        with pytest.raises(StoreDamaged):
            engine.query(["events", "people"], ["properties.text"], "all", limit=5)
        engine.set_retention_policy(raw_data_days=1)
        for change in (engine.trigger_aggregation, engine.prune, lambda: engine.forget("u1")):
            with pytest.raises(StoreDamaged):
                change()
