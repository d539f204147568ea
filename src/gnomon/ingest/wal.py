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


class _Reading(NamedTuple):
    """What one pass over a log found; frames are numbered by their place in the file."""

    committed: int  #: frames up to the last commit, whole or not
    whole: int  #: frames before the first that is missing or does not follow from the one before
    in_database: int


def check(log: Path, database: Path) -> None:
    """Raise `StoreDamaged` if SQLite would drop committed frames: behind a damaged one, because the log was cut, or
    because the database that they belong to is empty or gone. 8 MB take about 0.3 s.

    To be called before SQLite opens them: what it drops once, it writes over.
    """
    found = _first_loss(log, database)
    if found is not None:
        time.sleep(0.05)  # another process may have been writing just there
        if _first_loss(log, database) == found:
            raise StoreDamaged("the journal's log is damaged", code="journal-damaged")


def apply(log: Path, database: Path) -> bool:
    """Write every committed page of the log into a copy of its database, damaged ones included, as far as it goes.

    False if the database had all of it already: then a log that was cut or damaged has nothing but older pages.
    """
    found = _read_header(log)
    if found is None:
        return False
    read = _read(log, found)
    if read.in_database >= read.committed:
        return False
    with database.open("r+b") as file:
        for place, frame in _frames(log, found):
            if place < read.committed and 0 < frame.page <= 2**22:
                file.seek((frame.page - 1) * found.page_bytes)
                file.write(frame.data)
    return True


def _first_loss(log: Path, database: Path) -> int | None:
    """The number of the first frame that SQLite would drop, if it or one behind it is committed."""
    try:
        found = _read_header(log)
        if found is None:
            index = _read_index(log)
            return 0 if index is not None and index.in_database < index.frames else None
        read = _read(log, found)
        empty = not database.exists() or not database.stat().st_size
    except FileNotFoundError:  # its last user closed it meanwhile, and so has everything in the database
        return None
    whole = 0 if empty else read.whole
    return whole if whole < read.committed else None


def _read(log: Path, found: _Log) -> _Reading:
    """Which frames are committed: those of which the index says so. Behind them, those up to a commit that follows
    from the frame before it: whoever opened a damaged log without `check` made an index that ends before the damage.
    A commit whose writer was killed in the middle of it follows from nothing, or is what follows from nothing.
    Without an index to believe, every frame that says that it ends a commit is taken for one."""
    index = _read_index(log)
    known = index if index is not None and index.salts == found.salts else None
    said, followed, whole, before, sums = 0, 0, 0, -1, found.sums
    for place, frame in _frames(log, found):
        follows = place == before + 1 and sums is not None and _sums(frame, found.order, sums) == frame.sums
        if follows and whole == place:
            whole = place + 1
        if frame.pages_after:
            said = place + 1
            followed = said if follows else followed
        before, sums = place, frame.sums
    if known is None:
        return _Reading(said, whole, 0)
    return _Reading(max(known.frames, followed), whole, known.in_database)


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


def _frames(log: Path, found: _Log) -> Iterator[tuple[int, _Frame]]:
    """The frames of the log's present generation with their places in the file; one whose salts differ is of an older
    generation, or damaged there."""
    with log.open("rb") as file:
        file.seek(_HEADER.size)
        place = -1
        while len(head := file.read(_FRAME.size)) == _FRAME.size:
            data = file.read(found.page_bytes)
            if len(data) < found.page_bytes:
                return
            place += 1
            page, pages_after, salt1, salt2, sum1, sum2 = _FRAME.unpack(head)
            if (salt1, salt2) == found.salts:
                yield place, _Frame(page, pages_after, head, data, (sum1, sum2))


def _sums(frame: _Frame, order: str, before: tuple[int, int]) -> tuple[int, int]:
    return _checksum(frame.data, order, _checksum(frame.head[:8], order, before))


def _checksum(data: bytes, order: str, sums: tuple[int, int]) -> tuple[int, int]:
    first, second = sums
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for place in range(0, len(words), 2):
        first = (first + words[place] + second) & 0xFFFFFFFF
        second = (second + words[place + 1] + first) & 0xFFFFFFFF
    return first, second
