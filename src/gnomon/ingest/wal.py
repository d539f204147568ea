"""The bytes of SQLite's write-ahead log, for the one thing that SQLite does not tell: that it dropped what follows a
damaged frame, as it takes the damage for the torn end of an unfinished write.

Format: https://www.sqlite.org/fileformat2.html#walformat. Nothing here writes to a log.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from gnomon.errors import StoreDamaged

_HEADER = struct.Struct(">8I")  # magic, version, page bytes, checkpoints, two salts, two checksums
_FRAME = struct.Struct(">6I")  # page number, pages after a commit or 0, two salts, two checksums
_INDEX = struct.Struct("=12xB3x2I8s8s8s")  # of the shared memory: initialised; frames, pages; sums, salts, sums
_BACKFILLED = 96  # where the shared memory says how many frames the database has already
_MAGIC = 0x377F0682  # the lowest bit says that checksums take words as big-endian


class _Log(NamedTuple):
    page_bytes: int
    salts: tuple[int, int]
    order: str
    sums: tuple[int, int] | None  #: None when the header itself does not hold


class _Index(NamedTuple):
    frames: int  #: that are committed
    in_database: int  #: of them
    salts: tuple[int, int]


class _Frame(NamedTuple):
    page: int
    pages_after: int
    head: bytes
    data: bytes
    sums: tuple[int, int]


def check(log: Path, database: Path) -> None:
    """Raise `StoreDamaged` if SQLite would drop committed frames: behind a damaged one, because the log was cut, or
    because the database that they belong to is empty or gone. 8 MB take about 0.3 s."""
    found = _first_loss(log, database)
    if found is not None:
        time.sleep(0.05)  # another process may have been writing just there
        if _first_loss(log, database) == found:
            raise StoreDamaged("the journal's log is damaged", code="journal-damaged")


def apply(log: Path, database: Path) -> None:
    """Write every committed page of the log into a copy of its database, damaged ones included, as far as it goes."""
    found = _read_header(log)
    if found is None:
        return
    frames = list(_frames(log, found))
    last = max((place for place, frame in enumerate(frames) if frame.pages_after), default=-1)
    with database.open("r+b") as file:
        for frame in frames[: last + 1]:
            if 0 < frame.page <= 2**22:
                file.seek((frame.page - 1) * found.page_bytes)
                file.write(frame.data)


def _first_loss(log: Path, database: Path) -> int | None:
    """The number of the first frame that SQLite would drop, if it or one behind it is committed."""
    try:
        return _first_loss_of(log, database)
    except FileNotFoundError:  # its last user closed it meanwhile, and so has everything in the database
        return None


def _first_loss_of(log: Path, database: Path) -> int | None:
    index = _read_index(log)
    waiting = index is not None and index.in_database < index.frames
    found = _read_header(log)
    if found is None:
        return 0 if waiting else None
    known = index if index is not None and index.salts == found.salts else None
    empty = not database.exists() or not database.stat().st_size
    sums, bad = found.sums, (0 if empty or found.sums is None else None)
    seen = 0
    for place, frame in enumerate(_frames(log, found)):
        seen = place + 1
        if bad is None and sums is not None:
            sums = _checksum(frame.data, found.order, _checksum(frame.head[:8], found.order, sums))
            if sums != frame.sums:
                bad = place
                if known is not None and bad >= known.frames:
                    return None  # its writer was killed in the middle of it: nothing from here on was committed
                if known is not None:
                    return bad
        if bad is not None and frame.pages_after:
            return bad
    return seen if waiting and known is not None and seen < known.frames else None


def _read_index(log: Path) -> _Index | None:
    """What the last user's shared memory says is committed; None where there is none, or where it may be older than the
    log: after a crash of the machine it is whatever was on the disk."""
    path = log.with_name(log.name.removesuffix("-wal") + "-shm")
    booted = time.time() - time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
    if not path.exists() or path.stat().st_mtime < booted:
        return None
    start = path.read_bytes()[: _BACKFILLED + 4]
    if len(start) < _BACKFILLED + 4 or start[:48] != start[48:96]:
        return None
    initialised, frames, _, _, salts, _ = _INDEX.unpack_from(start)
    if not initialised:
        return None
    first, second = struct.unpack(">2I", salts)
    return _Index(frames, struct.unpack_from("=I", start, _BACKFILLED)[0], (first, second))


def _read_header(log: Path) -> _Log | None:
    """The header. One that does not hold is made up from the first frame: frames of one generation have its salts."""
    if not log.exists():
        return None
    with log.open("rb") as file:
        head = file.read(_HEADER.size)
        first = file.read(_FRAME.size)
    if len(head) < _HEADER.size or len(first) < _FRAME.size:
        return None
    magic, _, page_bytes, _, salt1, salt2, *sums = _HEADER.unpack(head)
    order = ">" if magic & 1 else "<"
    if magic & ~1 == _MAGIC and _checksum(head[:24], order, (0, 0)) == tuple(sums):
        return _Log(page_bytes, (salt1, salt2), order, (sums[0], sums[1]))
    if not any(head) or page_bytes not in (1 << power for power in range(9, 17)):
        page_bytes = 8_192
    return _Log(page_bytes, _FRAME.unpack(first)[2:4], order, None)


def _frames(log: Path, found: _Log) -> Iterator[_Frame]:
    """The frames of the log's present generation; a frame whose salts differ is of an older one, or damaged there."""
    with log.open("rb") as file:
        file.seek(_HEADER.size)
        while len(head := file.read(_FRAME.size)) == _FRAME.size:
            data = file.read(found.page_bytes)
            if len(data) < found.page_bytes:
                return
            page, pages_after, salt1, salt2, sum1, sum2 = _FRAME.unpack(head)
            if (salt1, salt2) == found.salts:
                yield _Frame(page, pages_after, head, data, (sum1, sum2))


def _checksum(data: bytes, order: str, sums: tuple[int, int]) -> tuple[int, int]:
    first, second = sums
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for place in range(0, len(words), 2):
        first = (first + words[place] + second) & 0xFFFFFFFF
        second = (second + words[place + 1] + first) & 0xFFFFFFFF
    return first, second
