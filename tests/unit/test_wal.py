"""What is damage in the journal's log, and what is the torn end of a write whose process was killed."""

from __future__ import annotations

import os
import shutil
import sqlite3
import struct
from concurrent.futures import ThreadPoolExecutor

import pytest

from gnomon import Settings
from gnomon.errors import StoreDamaged
from gnomon.event import Batch
from gnomon.ingest import journal as journals
from gnomon.ingest import recovery, wal
from gnomon.ingest.journal import Journal, _sealed, open_sealed
from gnomon.ingest.recovery import open_journal


@pytest.fixture
def killed(tmp_path):
    """The files of a journal as a killed process leaves them: whole commits in its log."""
    journal = Journal(tmp_path / "live", max_bytes=1 << 30)
    for n in range(5):
        journal.append([Batch("p", counts=[["event", None, "sampled_out", "", n]])])
    for ending in ("", "-wal", "-shm"):
        shutil.copyfile(f"{tmp_path / 'live'}{ending}", f"{tmp_path / 'left'}{ending}")
    journal.close()
    return tmp_path / "left"


def torn(path):
    """Behind the last commit the first half of another one, over what an older generation of the log left there."""
    log = path.with_name(f"{path.name}-wal")
    data = log.read_bytes()
    page = struct.unpack_from(">8I", data)[2]
    last = data[-(page + 24) :]
    log.write_bytes(data + last[: 24 + page // 2] + bytes(page - page // 2))
    return log


def test_a_commit_that_was_cut_short_is_no_damage(killed):
    log = torn(killed)
    wal.check(log, killed)
    journal = Journal(killed, max_bytes=1 << 30)
    assert journal.last_position() == 5 and len(journal.read(0, 10)) == 5
    journal.close()


def test_a_commit_of_which_the_index_knows_is_damage_when_it_does_not_hold(killed):
    log = killed.with_name(f"{killed.name}-wal")
    data = bytearray(log.read_bytes())
    data[-100] ^= 0xFF
    log.write_bytes(data)
    with pytest.raises(StoreDamaged):
        wal.check(log, killed)


@pytest.mark.parametrize("index", ["gone", "older than the machine's start"])
def test_without_an_index_that_can_be_believed_it_may_be_damage(killed, index):
    log, shared = torn(killed), killed.with_name(f"{killed.name}-shm")
    if index == "gone":
        shared.unlink()
    else:
        os.utime(shared, (1.0, 1.0))
    with pytest.raises(StoreDamaged):
        wal.check(log, killed)


@pytest.fixture
def written_over(tmp_path):
    """A log behind whose end stands a commit that the index never took in: of two continuations of one journal, the
    shorter one, and what it does not reach of the longer one. So a process leaves it that is killed while its commit
    is being synchronised, when others go on."""
    first = Journal(tmp_path / "first", max_bytes=1 << 30)
    first.append([batch(0)])
    for name in ("short", "long"):
        copied(tmp_path / "first", tmp_path / name)
    first.close()
    logs = {}
    for name, size in (("short", 10), ("long", 60_000)):
        journal = Journal(tmp_path / name, max_bytes=1 << 30)
        assert journal.append([batch(1, name + "x" * size)]) == [2]
        copied(tmp_path / name, tmp_path / f"{name}-left")
        journal.close()
        logs[name] = (tmp_path / f"{name}-left-wal").read_bytes()
    assert len(logs["long"]) > len(logs["short"]) + 20_000
    (tmp_path / "short-left-wal").write_bytes(logs["short"] + logs["long"][len(logs["short"]) :])
    return tmp_path / "short-left"


def batch(n, reason=""):
    return Batch("p", counts=[["event", None, "sampled_out", reason, n]])


def copied(path, to):
    for ending in ("", "-wal", "-shm"):
        shutil.copyfile(f"{path}{ending}", f"{to}{ending}")


def reasons(journal):
    found = [open_sealed(crc, body).counts[0][3] for _, crc, body in journal.read(0, 100)]
    journal.close()
    return found


def numbers(journal):
    found = [open_sealed(crc, body).counts[0][4] for _, crc, body in journal.read(0, 100)]
    journal.close()
    return found


def frames_of(log):
    page = struct.unpack_from(">8I", log)[2]
    return range(32, len(log), page + 24)


def test_what_a_killed_writer_left_behind_the_end_is_no_damage_when_its_commit_was_cut_short(written_over):
    log = written_over.with_name(f"{written_over.name}-wal")
    data = bytearray(log.read_bytes())
    data[frames_of(data)[-1] + 24 :] = bytes(len(data) - frames_of(data)[-1] - 24)
    log.write_bytes(data)
    wal.check(log, written_over)


def test_a_whole_commit_behind_the_end_takes_nothing_from_those_before_it(written_over):
    found = reasons(open_journal(written_over, Settings(), repair=True))
    assert {"", "short" + "x" * 10} <= set(found)


def test_a_position_that_was_given_out_twice_costs_no_batch(killed, monkeypatch):
    log = killed.with_name(f"{killed.name}-wal")
    os.truncate(log, log.stat().st_size - 100)
    read = journals.salvage

    def salvage(path):
        """The copy has another batch under the first position, as when that one's commit was never taken in."""
        body = _sealed(batch(9))
        yield from [(1, body)] if path.name.endswith(".salvage") else read(path)

    monkeypatch.setattr(journals, "salvage", salvage)
    assert {9, 0, 1, 2, 3} <= set(numbers(open_journal(killed, Settings(), repair=True)))


@pytest.mark.parametrize("byte", ["data", "salts", "sums", "last commit"])
def test_who_opens_a_damaged_log_without_looking_does_not_hide_what_follows(killed, byte):
    log = killed.with_name(f"{killed.name}-wal")
    data = bytearray(log.read_bytes())
    places = [place for place in frames_of(data) if struct.unpack_from(">6I", data, place)[1]]
    place = {"data": places[2] + 1_000, "salts": places[2] + 9, "sums": places[2] + 18, "last commit": places[-1]}[byte]
    if byte == "last commit":
        data[place + 4 : place + 8] = bytes(4)
    else:
        data[place] ^= 0x5A
    log.write_bytes(data)
    with pytest.raises(StoreDamaged):
        wal.check(log, killed)
    if byte == "last commit":
        assert numbers(open_journal(killed, Settings(), repair=True)) == [0, 1, 2, 3, 4]
        return
    seen = sqlite3.connect(killed)  # makes an index of its own
    assert seen.execute("SELECT count(*) FROM batch").fetchone()[0] < 5
    copied(killed, killed.with_name("again"))
    seen.close()
    again = killed.with_name("again")
    with pytest.raises(StoreDamaged):
        wal.check(again.with_name("again-wal"), again)
    assert numbers(open_journal(again, Settings(), repair=True)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("frames", [0, 1, 2, 5])
def test_a_log_that_was_cut_when_the_database_had_everything_costs_nothing(killed, frames):
    seen = sqlite3.connect(killed)
    assert seen.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[0] == 0
    copied(killed, killed.with_name("again"))
    seen.close()
    again = killed.with_name("again")
    log = again.with_name("again-wal")
    data = log.read_bytes()
    log.write_bytes(data[: frames_of(data)[frames]])
    assert numbers(open_journal(again, Settings(), repair=True)) == [0, 1, 2, 3, 4]


def test_who_is_not_the_owner_waits_for_the_repair(killed, monkeypatch):
    log = killed.with_name(f"{killed.name}-wal")
    data = bytearray(log.read_bytes())
    data[len(data) // 2] ^= 0x5A
    log.write_bytes(data)
    monkeypatch.setattr(recovery, "REPAIR_SECONDS", 0.2)
    with pytest.raises(StoreDamaged, match="Its owner repairs it"):
        open_journal(killed, Settings(), repair=False)
    assert log.read_bytes() == data
    monkeypatch.setattr(recovery, "REPAIR_SECONDS", 30.0)
    with ThreadPoolExecutor() as pool:
        other = pool.submit(open_journal, killed, Settings(), repair=False)
        owner = open_journal(killed, Settings(), repair=True)
        assert len(numbers(other.result())) == len(numbers(owner)) == 5
