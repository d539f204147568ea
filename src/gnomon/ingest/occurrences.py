"""Ids for events that bring none: from their content, and from how often it came before in the same file.

So a file imported twice adds nothing, two equal lines of one file are two events, and a rotated log that overlaps an
older one adds its new lines only. Name, compression, chunks, line ends, mapping and, for equal texts, the format have
no part in an id. The price: equal lines of two different files are taken for one event. Counting is exact at any size;
beyond 250,000 different lines the counts move from memory to a temporary file (40 to 100 bytes a line).
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from functools import lru_cache
from hashlib import blake2b
from itertools import repeat
from struct import Struct
from typing import Any

import msgspec

from gnomon.errors import DiskFull
from gnomon.ingest.values import json_value

_SPILL_AT = 250_000
_encode_lines = msgspec.json.Encoder().encode_lines
_TRUTHS = {True: "true", False: "false"}
_SLOT = 24  # 16 bytes of digest, 8 of count
_halves, _digest = Struct(">QQ").unpack, Struct(">QQ").pack


class Occurrences:
    """The ids of one file; counts how often each content was met, in a dict and later in a `_Table`."""

    def __init__(self, spill_at: int = _SPILL_AT, key: bytes = b"") -> None:
        self._key = key  # without one, whoever knows the rest of a line could try ids until the digest fits
        self._few: dict[bytes, int] = {}
        self._spill_at = spill_at
        self._table: _Table | None = None

    def id_of(self, content: bytes) -> str:
        """The next id for this content: a canonical UUID of version 8 (RFC 9562)."""
        return self._id(blake2b(content, digest_size=16, key=self._key).digest())

    def _id(self, digest: bytes) -> str:
        if before := self._count(digest):
            digest = blake2b(digest + before.to_bytes(8, "big"), digest_size=16, person=b"gnomon.repeat").digest()
        return _uuid(digest)

    def ids_of(self, contents: Iterable[bytes]) -> list[str]:
        """The next id for each content."""
        found = [blake2b(content, digest_size=16, key=self._key).digest() for content in contents]
        few = self._table is None and len(self._few) + len(found) <= self._spill_at
        if few and len(set(found)) == len(found) and self._few.keys().isdisjoint(found):
            self._few.update(zip(found, repeat(1)))
            return list(map(_uuid, found))
        return list(map(self._id, found))

    def _count(self, digest: bytes) -> int:
        """How often the digest came before; counts this time."""
        if self._table is None:
            before = self._few.get(digest, 0)
            self._few[digest] = before + 1
            if len(self._few) > self._spill_at:
                self._table = _Table(len(self._few), self._few.items())
                self._few = {}
            return before
        before = self._table.add(digest, 1)
        if self._table.crowded:
            full = self._table
            self._table = _Table(full.used, full.entries())
            full.close()
        return before

    def close(self) -> None:
        if self._table is not None:
            self._table.close()


def _uuid(digest: bytes) -> str:
    text = digest.hex("-", 6)  # 8-12-12 digits of the 8-4-4-4-12
    return f"{text[:13]}-8{text[14:17]}-{'89ab'[digest[8] >> 4 & 3]}{text[18:]}"


class _Table:
    """Counts in a temporary file, open-addressed; made for twice to four times the entries it begins with."""

    def __init__(self, size: int, entries: Iterable[tuple[bytes, int]]) -> None:
        self._slots = 1 << (size * 2).bit_length()
        self._bytes = _zeroed(self._slots * _SLOT)
        self._cells = memoryview(self._bytes).cast("Q")
        self.used = 0
        for digest, count in entries:
            self.add(digest, count)

    @property
    def crowded(self) -> bool:
        return self.used * 5 > self._slots * 3

    def add(self, digest: bytes, more: int) -> int:
        """Adds to the count of the digest and returns what it was."""
        cells, mask = self._cells, self._slots - 1
        high, low = _halves(digest)
        slot = high & mask
        while True:
            at = slot * 3
            before: int = cells[at + 2]
            if not before or (cells[at] == high and cells[at + 1] == low):
                break
            slot = (slot + 1) & mask
        cells[at], cells[at + 1], cells[at + 2] = high, low, before + more
        self.used += not before
        return before

    def entries(self) -> Iterator[tuple[bytes, int]]:
        cells = self._cells
        for at in range(0, self._slots * 3, 3):
            if count := cells[at + 2]:
                yield _digest(cells[at], cells[at + 1]), count

    def close(self) -> None:
        self._cells.release()
        self._bytes.close()


def _zeroed(size: int) -> mmap.mmap:
    """A mapped temporary file of zeros; they are written out, as a disk that fills up later would kill the process."""
    block = bytes(1 << 20)
    try:
        with tempfile.TemporaryFile() as file:
            for start in range(0, size, len(block)):
                file.write(block[: size - start])
            file.flush()
            return mmap.mmap(file.fileno(), size)
    except OSError as error:
        remedy = "Free some room, or set TMPDIR to a directory that has it."
        raise DiskFull("the temporary file of the import could not be extended", remedy=remedy) from error


def row_content(names: Sequence[str], values: Sequence[Any]) -> bytes:
    """One byte string for equal names and values, whatever their order, quoting, format or line ends."""
    texts = {name: _text(value) for name, value in zip(names, values, strict=True) if value is not None and value != ""}
    return msgspec.json.encode(texts, order="sorted").replace(rb"\r\n", rb"\n")


def row_contents(names: Sequence[str], columns: Sequence[Sequence[Any]]) -> list[bytes]:
    """`row_content` of every row, from columns. Raises ValueError for some names."""
    order = sorted(range(len(names)), key=names.__getitem__)
    texts = [_texts(columns[at]) for at in order]
    rows = _encode_lines(list(map(_row_of(*(names[at] for at in order)), *texts)))
    return rows.replace(rb"\r\n", rb"\n").split(b"\n")[:-1]


@lru_cache(maxsize=16)
def _row_of(*names: str) -> Any:
    """What makes an object with these names of texts; those that are None are left out."""
    fields = [(f"at_{place}", str | None, None) for place in range(len(names))]
    renamed = {field: name for (field, *_), name in zip(fields, names, strict=True)}
    return msgspec.defstruct("Row", fields, rename=renamed, omit_defaults=True, gc=False)


def _texts(values: Sequence[Any]) -> Sequence[str | None]:
    kinds = set(map(type, values)) - {type(None)}
    if kinds <= {str}:
        return [value or None for value in values] if "" in values else values
    if kinds <= {int, float, Decimal}:
        return [None if value is None else str(value) for value in values]
    if kinds == {bool}:
        return list(map(_TRUTHS.get, values))
    return [None if value is None or value == "" else _text(value) for value in values]


def _text(value: Any) -> str:
    if type(value) is str:
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float | Decimal):
        return str(value)
    return msgspec.json.encode(json_value(value), order="sorted").decode()
