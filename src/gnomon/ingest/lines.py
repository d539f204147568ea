"""The bytes of one stored file, gzip or not, and its physical lines; or what is wrong with a line.

Owns unpacking, line ends, the longest line, and the point up to which a damaged file can be read. Memory is flat for
any size of file or line.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from itertools import chain, count, repeat
from pathlib import Path
from typing import cast

from gnomon.errors import InvalidValue
from gnomon.ingest.addresses import bare_urls

LINE_LIMIT = 1 << 20
TEXT_SHOWN = 2_000
_BLOCK = 1 << 17
_REASONS = {
    "line-too-long": "the line is longer than 1 MiB",
    "bad-encoding": "the line is not valid UTF-8",
    "truncated-file": "the file is cut short or damaged here; nothing beyond this point could be read",
}

Line = tuple[int, bytes, str]  # number from 1, content without "\n", code of what is wrong with it or ""


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that became no event: where, why, and its text up to 2,000 characters."""

    line: int
    code: str
    reason: str
    text: str


class LineFault(Exception):
    """Why one line cannot become an event; whoever reads the lines turns it into a `BadLine`."""

    def __init__(self, code: str, reason: str = "") -> None:
        super().__init__(code)
        self.code = code
        self.reason = reason or _REASONS[code]


def bad_line(line: int, fault: LineFault, data: bytes) -> BadLine:
    text = bare_urls(data[: 4 * TEXT_SHOWN].decode("utf-8", "replace"))
    return BadLine(line, fault.code, fault.reason, text[:TEXT_SHOWN])


class Source:
    """The bytes of one file, unpacked if they are gzip whatever the name says; knows how far they were read."""

    def __init__(self, path: Path) -> None:
        remedy = "Check the path, and that this user may read the file."
        if not path.is_file():
            raise InvalidValue("there is no file at the given path", code="no-such-file", remedy=remedy)
        try:
            self._raw = path.open("rb")
        except OSError as error:
            raise InvalidValue("the file cannot be opened", code="no-such-file", remedy=remedy) from error
        self.bytes_total = path.stat().st_size
        self.unpacked = 0
        self.damaged = False
        self.packed = self._raw.peek(2)[:2] == b"\x1f\x8b"
        self.stream = cast(BufferedReader, gzip.GzipFile(fileobj=self._raw)) if self.packed else self._raw

    @property
    def bytes_done(self) -> int:
        return min(self._raw.tell(), self.bytes_total)

    def read(self) -> bytes:
        """The next bytes, b"" at the end. One small read each, as a damaged gzip loses what its last read held."""
        try:
            block = self.stream.read1(_BLOCK)
        except (EOFError, gzip.BadGzipFile, zlib.error):
            self.damaged = True
            return b""
        self.unpacked += len(block)
        return block

    def close(self) -> None:
        self.stream.close()
        self._raw.close()


def _joined(start: bytes, more: bytes, long: bool) -> tuple[bytes, bool]:
    long = long or len(start) + len(more) > LINE_LIMIT
    return ((start + more)[: 4 * TEXT_SHOWN], True) if long else (start + more, False)


def lines(source: Source) -> Iterator[Line]:
    """Every physical line; of one that is too long only the beginning is ever held."""
    return chain.from_iterable(line_blocks(source))


def line_blocks(source: Source) -> Iterator[list[Line]]:
    """The same, those together that were read together."""
    number, start, long = 0, b"", False
    while block := source.read():
        first, *rest = block.split(b"\n")
        start, long = _joined(start, first, long)
        if not rest:
            continue
        whole = start.removeprefix(b"\xef\xbb\xbf") if number == 0 else start
        found = [(number + 1, whole, "line-too-long" if long else "")]
        found += zip(count(number + 2), rest[:-1], repeat(""))
        number += len(found)
        yield found
        start, long = rest[-1], False
    if start or source.damaged:
        # Half a line is no event: read whole another day, it would get another id and count twice.
        fault = "truncated-file" if source.damaged else "line-too-long" if long else ""
        yield [(number + 1, start.removeprefix(b"\xef\xbb\xbf") if number == 0 else start, fault)]
