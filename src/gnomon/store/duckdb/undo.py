"""Checkpoints that happen whole or not at all, which DuckDB's own do not.

A checkpoint of DuckDB (2.0.0, `MetadataManager::Flush`) writes blocks of metadata in place, 256 KB each, that the
header still in force refers to; only then it writes the next header. A process that dies within such a write leaves
a block whose checksum fails, and with it everything in the file. So those blocks are copied to a file beside the store
before a checkpoint, and put back at the next opening if the next header was never written
(docs/decisions/0017; format of the file: `src/include/duckdb/storage/storage_info.hpp` of DuckDB).
"""

from __future__ import annotations

import fcntl
import logging
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import duckdb

from gnomon.errors import StoreBusy, StoreUnavailable
from gnomon.files import sync_folder
from gnomon.store.dialect import quoted

log = logging.getLogger("gnomon.store")

UNDO = ".undo"  #: ending of the copy, which is there while a checkpoint runs and after one that was cut short
_PAGE = 4_096  # the file begins with a page that names it, and two headers that take turns, a page each
_FRONT = 3 * _PAGE  # blocks follow
_FIELDS = struct.Struct("<QQ24xQ")  # of a header: checksum, iteration, bytes of a block
_FACTOR, _SEED, _MASK = 0xBF58476D1CE4E5B9, 5_381, (1 << 64) - 1  # of DuckDB's checksum
_COPY = struct.Struct("<8sIIQQ")  # of the copy: magic, checksum, blocks, bytes of a block, iteration
_MAGIC = b"gnomonU2"
_MARK_BYTES = 128  #: a checkpoint's own log holds its mark alone (99 bytes), another program's would hold more


class _Copy(NamedTuple):
    iteration: int
    front: bytes  #: the first three pages
    blocks: list[tuple[int, bytes]]  #: offset in the file, content


@contextmanager
def undoable(connection: duckdb.DuckDBPyConnection, database: str, path: str, reading: int | None) -> Iterator[None]:
    """Within it, a checkpoint of `database` in the file `path` happens whole or, after a crash, not at all.

    `reading` is the file, opened for reading, or None where there is none; it must not be closed before DuckDB has
    closed the file. A checkpoint that raises leaves the copy behind, for `mend`. Raises `StoreUnavailable`; nothing
    has changed then.
    """
    if reading is None:
        yield
        return
    undo = Path(path + UNDO)
    found = connection.execute(f"SELECT block_id FROM pragma_metadata_info({quoted(database)})").fetchall()
    try:
        if not _save(undo, reading, sorted(block for (block,) in found)):
            log.error("the store file has a format that this version does not know: a crash may damage it")
    except OSError as error:
        undo.unlink(missing_ok=True)
        raise StoreUnavailable(
            "a checkpoint cannot be prepared", remedy="Free disk space, or check the store's folder."
        ) from error
    yield
    undo.unlink(missing_ok=True)


def mend(path: str) -> None:
    """Before the file is opened: take back a checkpoint that was cut short, and remove the log with its mark.

    Raises `StoreBusy` when another program has the file, `StoreUnavailable` when it cannot be written.
    """
    undo, log_file = Path(path + UNDO), Path(path + ".wal")
    if not undo.exists():
        return
    kept = _load(undo.read_bytes())
    try:
        if kept is not None and Path(path).exists():  # else the copy itself was cut short: no checkpoint had begun
            _take_back(Path(path), kept)
            if log_file.exists() and log_file.stat().st_size <= _MARK_BYTES:
                log_file.unlink()
        undo.unlink()
    except OSError as error:
        raise StoreUnavailable(
            "a checkpoint that was cut short cannot be taken back", remedy="Check the store's folder and its rights."
        ) from error


def _take_back(path: Path, kept: _Copy) -> None:
    """Unless its header was written, as it was whole then, or another file has taken the place of the one it was of.

    The header in force stays as it is while a checkpoint runs. A file without it, a compacted or restored one or a
    copy of another day, was never in the middle of this checkpoint.
    """
    with path.open("r+b") as file:
        _own(file)
        front = os.pread(file.fileno(), _FRONT, 0)
        same = front[:_PAGE] == kept.front[:_PAGE] and _in_force(kept.front) in _headers(front)
        if not same or _iteration(front) > kept.iteration:
            return
        for offset, content in [*kept.blocks, (0, kept.front)]:
            file.seek(offset)
            file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _save(undo: Path, reading: int, blocks: list[int]) -> bool:
    front = os.pread(reading, _FRONT, 0)
    iteration, size = _iteration(front), _block_bytes(front)
    if iteration < 0:
        return False
    parts = [front]
    for block in blocks:
        content = os.pread(reading, size, _FRONT + block * size)
        if len(content) == size:  # else it is new and not in the file yet
            parts += [block.to_bytes(8, "little"), content]
    body = b"".join(parts)
    with undo.open("wb") as file:
        file.write(_COPY.pack(_MAGIC, zlib.crc32(body), len(parts) // 2, size, iteration) + body)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(undo.parent)
    return True


def _load(content: bytes) -> _Copy | None:
    """The copy; None if it was not written to its end."""
    if len(content) < _COPY.size:
        return None
    magic, crc, count, size, iteration = _COPY.unpack_from(content)
    body = memoryview(content)[_COPY.size :]
    if magic != _MAGIC or zlib.crc32(body) != crc:
        return None
    start, step = _FRONT, 8 + size
    blocks = []
    for place in range(start, start + count * step, step):
        number = int.from_bytes(body[place : place + 8], "little")
        blocks.append((_FRONT + number * size, bytes(body[place + 8 : place + step])))
    return _Copy(iteration, bytes(body[:start]), blocks)


def _headers(front: bytes) -> tuple[bytes, bytes]:
    return front[_PAGE : 2 * _PAGE], front[2 * _PAGE : _FRONT]


def _in_force(front: bytes) -> bytes:
    """The header of the highest iteration whose checksum holds."""
    return max(filter(_holds, _headers(front)), key=lambda header: _FIELDS.unpack_from(header)[1])


def _iteration(front: bytes) -> int:
    """The highest iteration of those headers whose checksums hold; -1 without any."""
    return max((_FIELDS.unpack_from(header)[1] for header in _headers(front) if _holds(header)), default=-1)


def _block_bytes(front: bytes) -> int:
    return max((int(_FIELDS.unpack_from(header)[2]) for header in _headers(front) if len(header) == _PAGE), default=0)


def _holds(header: bytes) -> bool:
    """Whether DuckDB's checksum of a header holds (`src/common/checksum.cpp`)."""
    if len(header) < _PAGE:
        return False
    total = _SEED
    for (word,) in struct.iter_unpack("<Q", header[8:]):
        total ^= word * _FACTOR & _MASK
    return bool(total == _FIELDS.unpack_from(header)[0])


def _own(file: BinaryIO) -> None:
    """Keep other programs out while the file is changed, by the lock that DuckDB takes."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise StoreBusy(
            "another process has this store open", remedy="End it: the store's last checkpoint has to be taken back."
        ) from error
