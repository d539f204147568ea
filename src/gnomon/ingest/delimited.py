"""Delimited text (CSV, TSV and their kin) to rows of cells, so that a damaged row costs no more than itself."""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator
from io import StringIO

from gnomon.ingest.lines import LINE_LIMIT, TEXT_SHOWN, BadLine, Line, LineFault, Source, bad_line, line_blocks

Row = tuple[int, list[str]]  # with the number of its first line
_OUTSIDE_QUOTES = re.compile(r'"[^"]*+"')
_REREAD = 8


def _delimiter(header: str) -> str:
    bare = _OUTSIDE_QUOTES.sub("", header)
    return max(",;\t|", key=bare.count)


def looks_delimited(header: str, row: str) -> bool:
    """Whether both lines have the same number of cells, and more than one."""
    mark = _delimiter(header)
    widths = {len(_OUTSIDE_QUOTES.sub("", line).split(mark)) for line in (header, row)}
    return len(widths) == 1 and widths != {1}


class _Feed:
    """Hands lines to the csv module and keeps those of the row at hand, so that a stray quote costs one line.

    An open quote swallows lines until the row is too large; all but its first are then read again. How much may be
    read again is bounded by a multiple of what was read, so a hostile file is still read in linear time.
    """

    def __init__(self, source: Source) -> None:
        self._blocks = line_blocks(source)
        self._fresh: deque[Line] = deque()  # the rest of a block
        self._again: deque[Line] = deque()
        self._allowance = 0
        self._size = 0
        self.row: list[Line] = []

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        if self._again:
            line = self._again.popleft()
        else:
            if not self._fresh:
                self._fresh.extend(next(self._blocks))
            line = self._fresh.popleft()
            self._allowance += _REREAD * (len(line[1]) + 1)
        self.row.append(line)
        if line[2]:
            raise LineFault(line[2])
        self._size += len(line[1]) + 64  # a held line costs more than its bytes
        if self._size > LINE_LIMIT + 64:
            raise LineFault("line-too-long")
        return line[1].decode() + "\n"

    def peek(self) -> bytes:
        """The first line that is not blank; it will be handed out again."""
        for block in self._blocks:
            self._fresh.extend(block)
            while self._fresh:
                if self._fresh[0][2] or self._fresh[0][1].strip():
                    return self._fresh[0][1]
                self._fresh.popleft()
        return b""

    def plain_rows(self, mark: str, width: int) -> Iterator[Row]:
        """The rows of whole blocks, as long as each line is a row and nothing is wrong with it."""
        while self.at_block and (block := next(self._blocks, None)):
            rows = _plain_rows(block, mark, width)
            if rows is None:
                self._fresh.extend(block)
                return
            self._allowance += _REREAD * sum(len(line[1]) + 1 for line in block)
            yield from zip((line[0] for line in block), rows, strict=True)

    @property
    def at_block(self) -> bool:
        """Whether the next line is the first of a block."""
        return not self._fresh and not self._again

    def begin_row(self) -> None:
        self.row.clear()
        self._size = 0

    def read_again(self) -> None:
        """Takes back all lines of the row but its first."""
        rest = self.row[1:]
        cost = sum(len(line[1]) + 1 for line in rest)
        if cost <= self._allowance:
            self._allowance -= cost
            self._again.extendleft(reversed(rest))
            del self.row[1:]

    def bad_row(self, fault: LineFault) -> BadLine:
        return bad_line(self.row[0][0], fault, b"\n".join(line[1] for line in self.row[: TEXT_SHOWN + 1]))


def csv_rows(source: Source) -> Iterator[Row | BadLine]:
    """Rows with the number of their first physical line, the header first; every row is as wide as the header."""
    feed = _Feed(source)
    mark = _delimiter(feed.peek().decode("utf-8", "replace"))
    rows = csv.reader(feed, delimiter=mark, strict=True)
    width = 0
    while True:
        if width and feed.at_block:
            yield from feed.plain_rows(mark, width)
        feed.begin_row()
        try:
            cells = next(rows)
        except StopIteration:
            return
        except (csv.Error, LineFault, UnicodeDecodeError) as error:
            yield _broken_row(feed, error)
            continue
        width = width or len(cells)
        if len(cells) == width:
            yield feed.row[0][0], cells
        elif cells:
            yield feed.bad_row(LineFault("bad-line", "the row has more or fewer cells than the header"))


def _plain_rows(block: list[Line], mark: str, width: int) -> list[list[str]] | None:
    if any(code for _, _, code in block):
        return None
    try:
        text = b"\n".join([*(data for _, data, _ in block), b""]).decode()
        rows = list(csv.reader(StringIO(text, newline="\n"), delimiter=mark, strict=True))
    except (csv.Error, UnicodeDecodeError):
        return None
    return rows if len(rows) == len(block) and set(map(len, rows)) == {width} else None


def _broken_row(feed: _Feed, error: Exception) -> BadLine:
    fault = LineFault("bad-line", "the row breaks the rules of CSV quoting")
    if len(feed.row) > 1:
        feed.read_again()
    elif isinstance(error, UnicodeDecodeError):
        fault = LineFault("bad-encoding")
    elif isinstance(error, LineFault):
        fault = error
    return feed.bad_row(fault)
