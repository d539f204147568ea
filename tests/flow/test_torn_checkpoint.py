"""Promise 1, in the middle of a checkpoint: wherever the writes of one end, the store opens as it was before or as
it was to be. DuckDB's own checkpoints do not: they write metadata in place that the header in force refers to."""

from __future__ import annotations

import os
import random
import shutil
import signal
import struct
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

import gnomon
import gnomon.store.duckdb as driver
from gnomon.errors import StoreBusy, StoreDamaged
from gnomon.store import examine_copy, open_store
from gnomon.store.duckdb import undo

pytestmark = pytest.mark.timeout(120)
SETTINGS = gnomon.Settings(threads=1, checkpoint_seconds=3_600)
PAGE, BLOCK, FIRST = 4_096, 262_144, 12_288
TABLE = "CREATE TABLE IF NOT EXISTS probe (n BIGINT, words VARCHAR)"


class Checkpoint(NamedTuple):
    """The bytes of a file before and after a checkpoint, the copy made for it, and the log with its mark."""

    before: bytes
    after: bytes
    copy: bytes
    mark: bytes


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Checkpoint:
    path = tmp_path_factory.mktemp("torn") / "s.duckdb"
    store = open_store(str(path), SETTINGS)
    store.change([TABLE])
    for number in range(6):  # so that blocks are free again and metadata lies among older metadata
        store.change([f"INSERT INTO probe SELECT {number}, 'w' || range FROM range({3_000 * (number + 1)})"])
        store.change([f"DELETE FROM probe WHERE n = {number - 3}"])
        store.checkpoint()
    seen: list[bytes] = []
    honest, kept = driver.undoable, path.with_name("kept")

    @contextmanager
    def watched(*args):
        with honest(*args):
            seen.extend([path.read_bytes(), path.with_name(path.name + undo.UNDO).read_bytes()])
            yield

    store.change(["INSERT INTO probe SELECT 7, 'later' || range FROM range(50000)"])
    driver.undoable = watched
    try:
        store.checkpoint()
    finally:
        driver.undoable = honest
    store.close()
    shutil.copy(path, kept)
    mark = b"\0" * 99  # whatever is in so short a log is not looked at
    return Checkpoint(seen[0], kept.read_bytes(), seen[1], mark)


def pages_in_order(point: Checkpoint) -> list[int]:
    """The pages that the checkpoint changed, in the order of writing: data, then metadata, the header last."""
    (count,) = struct.unpack_from("<I", point.copy, 12)
    start, step = undo._COPY.size + FIRST, 8 + BLOCK
    metadata = [struct.unpack_from("<Q", point.copy, start + place * step)[0] for place in range(count)]
    places = range(0, max(len(point.before), len(point.after)), PAGE)
    changed = [at for at in places if point.before[at : at + PAGE] != point.after[at : at + PAGE]]

    def turn(at: int) -> int:
        return 2 if at < FIRST else int((at - FIRST) // BLOCK in metadata)

    return sorted(changed, key=turn)


def torn(point: Checkpoint, pages: list[int], cut: int | None = None) -> bytes:
    """The file with these pages written, the last one only up to `cut` bytes."""
    size = max(len(point.before), len(point.after))
    content = bytearray(point.before.ljust(size, b"\0"))
    for at in pages:
        end = at + (cut if cut is not None and at == pages[-1] else PAGE)
        content[at:end] = point.after[at:end]
    return bytes(content)


def found_in(folder: Path, content: bytes, copy: bytes | None, mark: bytes | None = None) -> object:
    """What opens from these files; it must be whole."""
    folder.mkdir()
    path = folder / "s.duckdb"
    path.write_bytes(content)
    if copy is not None:
        path.with_name(path.name + undo.UNDO).write_bytes(copy)
    if mark is not None:
        path.with_name(path.name + ".wal").write_bytes(mark)
    store = open_store(str(path), SETTINGS)
    try:
        store.change(["INSERT INTO probe VALUES (99, 'goes on')", "DELETE FROM probe WHERE n = 99"])
        store.checkpoint()  # it also goes on
    finally:
        store.close()
    assert sorted(file.name for file in folder.iterdir()) == ["s.duckdb"]
    return examine_copy(path, SETTINGS).tables["probe"]


@pytest.fixture(scope="module")
def states(checkpoint, tmp_path_factory) -> tuple[object, object]:
    """The table before and after the checkpoint."""
    folder = tmp_path_factory.mktemp("states")
    before = found_in(folder / "before", checkpoint.before, None)
    after = found_in(folder / "after", checkpoint.after, None)
    assert before != after
    return before, after


def test_a_checkpoint_cut_short_at_any_page_never_happened(checkpoint, states, tmp_path):
    pages = pages_in_order(checkpoint)
    assert len(pages) > 20 and pages[-1] < FIRST, "the checkpoint wrote hardly anything"
    rng = random.Random(7)
    cuts = sorted({*range(0, len(pages), 3), *range(len(pages) - 12, len(pages))})
    for end in cuts:
        cut = rng.choice((None, rng.randrange(8, PAGE)))
        mark = rng.choice((None, checkpoint.mark))
        content = torn(checkpoint, pages[:end], cut)
        assert found_in(tmp_path / f"at{end}", content, checkpoint.copy, mark) == states[0], end


@pytest.mark.parametrize("cut", [8, 16, 512, 2_048])
def test_a_header_that_was_half_written_is_taken_back(checkpoint, states, tmp_path, cut):
    pages = pages_in_order(checkpoint)
    content = bytearray(torn(checkpoint, pages))
    content[pages[-1] + cut : pages[-1] + PAGE] = random.Random(cut).randbytes(PAGE - cut)
    assert found_in(tmp_path / "h", bytes(content), checkpoint.copy) == states[0]


def test_a_checkpoint_whose_header_was_written_is_kept(checkpoint, states, tmp_path):
    whole = torn(checkpoint, pages_in_order(checkpoint))
    assert found_in(tmp_path / "w", whole, checkpoint.copy, checkpoint.mark) == states[1]


def test_a_copy_that_was_cut_short_changes_nothing(checkpoint, states, tmp_path):
    for end in (0, 7, 100, 8_300, len(checkpoint.copy) // 2, len(checkpoint.copy) - 1):
        assert found_in(tmp_path / f"c{end}", checkpoint.before, checkpoint.copy[:end]) == states[0]


def test_a_copy_of_an_older_checkpoint_changes_nothing(checkpoint, states, tmp_path):
    """A power cut can bring back a file that was removed."""
    assert found_in(tmp_path / "o", checkpoint.after, checkpoint.copy) == states[1]


def test_a_copy_of_another_file_changes_nothing(checkpoint, states, tmp_path):
    """A power cut brings back the copy after the file was written anew: its iterations begin again, from 1."""
    path = tmp_path / "s.duckdb"
    path.write_bytes(checkpoint.after)
    store = open_store(str(path), SETTINGS)
    store.checkpoint(compact=True)
    store.close()
    assert undo._iteration(path.read_bytes()) < undo._iteration(checkpoint.before)
    assert found_in(tmp_path / "f", path.read_bytes(), checkpoint.copy) == states[1]


def test_a_copy_of_a_later_state_changes_nothing(checkpoint, tmp_path):
    """Somebody has put an older copy of the same file in its place."""
    path = tmp_path / "s.duckdb"
    path.write_bytes(checkpoint.before)
    store, kept = open_store(str(path), SETTINGS), []
    honest = driver.undoable

    @contextmanager
    def watched(*args):
        with honest(*args):
            kept.append(path.with_name(path.name + undo.UNDO).read_bytes())
            yield

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "undoable", watched)
        for number in range(3):
            store.change([f"INSERT INTO probe SELECT {50 + number}, 'x' || range FROM range(9000)"])
            store.checkpoint()
    store.close()
    before = found_in(tmp_path / "b", checkpoint.before, None)
    assert found_in(tmp_path / "l", checkpoint.before, kept[-1]) == before


def test_without_the_copy_the_store_would_be_lost(checkpoint, tmp_path):
    pages = pages_in_order(checkpoint)
    metadata = [at for at in pages if at >= FIRST]
    lost = 0
    for back in range(1, 6):
        try:
            found_in(tmp_path / f"b{back}", torn(checkpoint, metadata[:-back]), None)
        except StoreDamaged:
            lost += 1
    assert lost


def test_nothing_is_taken_back_under_a_program_that_has_the_file(checkpoint, tmp_path):
    path = tmp_path / "s.duckdb"
    path.write_bytes(checkpoint.before)
    path.with_name(path.name + undo.UNDO).write_bytes(checkpoint.copy)
    words = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('up', flush=True); sys.stdin.read()"
    holder = subprocess.Popen([sys.executable, "-c", words, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"up\n"
        with pytest.raises(StoreBusy):
            open_store(str(path), SETTINGS)
    finally:
        holder.communicate(b"")
    assert path.read_bytes() == checkpoint.before


SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>
static ssize_t (*honest)(int, const void *, size_t, off_t);
static int seen, fatal;
static ssize_t torn(int file, const void *bytes, size_t size, off_t place) {
  if (!honest) { honest = dlsym(RTLD_NEXT, "pwrite64"); fatal = atoi(getenv("TORN_NTH")); }
  if (place >= 4096 && size >= 4096 && ++seen == fatal) {
    honest(file, bytes, atol(getenv("TORN_CUT")) % size, place);
    kill(getpid(), SIGKILL);
  }
  return honest(file, bytes, size, place);
}
ssize_t pwrite64(int file, const void *bytes, size_t size, off_t place) { return torn(file, bytes, size, place); }
ssize_t pwrite(int file, const void *bytes, size_t size, off_t place) { return torn(file, bytes, size, place); }
"""
CHILD = """
import os, sys
import gnomon
engine = gnomon.open(sys.argv[1], settings=gnomon.Settings(flush_seconds=0.005, checkpoint_seconds=3600, threads=1))
number = int(sys.argv[2]) * 1_000_000
out = os.open(sys.argv[3], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
while True:
    engine.track("tick", properties={"n": number})
    engine.flush()
    os.write(out, f"{number}\\n".encode())
    number += 1
    engine._hold.writer.checkpoint()
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_kills_within_a_write_of_a_checkpoint_lose_nothing(tmp_path):
    """The real thing: a process that dies with some bytes of one `pwrite` of DuckDB's on the disk."""
    (tmp_path / "shim.c").write_text(SHIM)
    (tmp_path / "child.py").write_text(CHILD)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", "shim.so", "shim.c", "-ldl"], cwd=tmp_path, check=True)
    store, ledger, rng = tmp_path / "s.duckdb", tmp_path / "ledger", random.Random(5)
    for cycle in range(1, 301):
        preload = {"LD_PRELOAD": str(tmp_path / "shim.so"), "TORN_NTH": str(rng.randint(1, 40))}
        words = [sys.executable, str(tmp_path / "child.py"), str(store), str(cycle), str(ledger)]
        chosen = {**os.environ, **preload, "TORN_CUT": str(rng.randrange(BLOCK))}
        assert subprocess.run(words, env=chosen, timeout=60).returncode == -signal.SIGKILL
    promised = [int(line) for line in ledger.read_text().split("\n")[:-1]]
    with gnomon.open(store) as engine:
        rows = engine._hold.store.ask(["SELECT json_extract(properties, '/n')::BIGINT FROM events"], 60)[0].rows
        counts = [n for (n,) in rows]
        assert engine.books().closes() and len(promised) > 300
    assert set(promised) <= set(counts) and len(set(counts)) == len(counts)
    assert not list(tmp_path.glob("*damaged*"))
