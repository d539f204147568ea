"""What is damage in the journal's log, and what is the torn end of a write whose process was killed."""

from __future__ import annotations

import os
import shutil
import struct

import pytest

from gnomon.errors import StoreDamaged
from gnomon.event import Batch
from gnomon.ingest import wal
from gnomon.ingest.journal import Journal


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
