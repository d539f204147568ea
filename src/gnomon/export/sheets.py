"""Excel workbooks of any length in flat memory: rows as XML, streamed into the zip file, in sheets of a million.

xlsxwriter makes the workbook around them: styles, labels, frozen first rows, widths. Its own rows take 0.1 ms each, so
theirs are left empty and ours put in their place (docs/decisions/0023). Texts are of type string, so a formula in one
is never run.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Sequence
from typing import IO, Any

from gnomon.export import Column
from gnomon.export.cells import check_length, sheet_cell

#: Rows of a sheet without its labels; Excel takes 1,048,576 with them.
SHEET_ROWS = 1_000_000
#: Bytes of a sheet's XML; a zip entry of more than 2 GiB is one that Excel may refuse.
SHEET_BYTES = 1_800_000_000
_WIDTHS = {"time": 24, "text": 18, "json": 40, "integer": 14, "real": 14, "number": 14, "boolean": 10}
_TIME_FORMAT = "yyyy-mm-dd hh:mm:ss.000"
_FIRST = "xl/worksheets/sheet1.xml"


class Sheets:
    """See `Form`."""

    word = "xlsx"
    separator = "\n"

    def __init__(self) -> None:
        self._out = _Out()
        self._zip = zipfile.ZipFile(self._out, "w", zipfile.ZIP_DEFLATED, compresslevel=1)
        self._columns: Sequence[Column] = ()
        self._sheet: IO[bytes] | None = None
        self._sheets = self._rows = self._bytes = 0
        self.date_style = 0

    def begin(self, columns: Sequence[Column]) -> bytes:
        """See `Form.begin`."""
        self._columns = columns
        with _workbook(columns, 2) as made:
            self._first, self._other = (_parted(made.read(f"xl/worksheets/sheet{n}.xml")) for n in (1, 2))
        styled = re.findall(rb'<col min="(\d+)"[^>]* style="(\d+)"', self._first[0])
        self.date_style = int(styled[0][1]) if styled else 0
        self._open()
        return self._out.taken()

    def texts(self, rows: int, data: bytes | memoryview, longest: int) -> bytes:
        """See `Form.texts`."""
        check_length(longest)
        if rows <= SHEET_ROWS - self._rows and self._bytes + len(data) < SHEET_BYTES:
            self._add(rows, data)
            return self._out.taken()
        lines = bytes(data).split(b"\n")  # no cell holds one: it is a character reference there
        first = 0
        while first < len(lines):
            end, size = first, self._bytes
            while end < len(lines) and end - first < SHEET_ROWS - self._rows and size < SHEET_BYTES:
                size += len(lines[end])
                end += 1
            self._add(end - first, b"".join(lines[first:end]))
            first = end
            if first < len(lines):
                self._open()
        return self._out.taken()

    def values(self, rows: Sequence[Sequence[Any]]) -> bytes:
        """See `Form.values`."""
        lines = ["".join(("<row>", *(sheet_cell(v, self.date_style) for v in row), "</row>")) for row in rows]
        return self.texts(len(lines), "\n".join(lines).encode(), 0) if lines else b""

    def table(self, table: Any) -> bytes:
        """See `Form.table`; not used, as the store makes texts."""
        return self.values([tuple(row.values()) for row in table.to_pylist()])

    def end(self) -> bytes:
        """See `Form.end`."""
        self._close()
        with _workbook(self._columns, self._sheets) as made:
            for name in made.namelist():
                if not name.startswith("xl/worksheets/"):
                    self._zip.writestr(name, made.read(name))
        self._zip.close()
        return self._out.taken()

    def abandon(self) -> None:
        """See `Form.abandon`."""
        self._close()
        self._zip.close()
        self._out.taken()

    def _add(self, rows: int, data: bytes | memoryview) -> None:
        assert self._sheet is not None
        self._sheet.write(data)
        self._rows, self._bytes = self._rows + rows, self._bytes + len(data)

    def _open(self) -> None:
        self._close()
        self._sheets, self._rows, self._bytes = self._sheets + 1, 0, 0
        self._sheet = self._zip.open(f"xl/worksheets/sheet{self._sheets}.xml", "w")
        self._sheet.write((self._first if self._sheets == 1 else self._other)[0])

    def _close(self) -> None:
        if self._sheet is not None:
            self._sheet.write(self._first[1])
            self._sheet.close()
            self._sheet = None


class _Out(io.RawIOBase):
    """Where the zip file goes; it cannot be wound back, so that it can be sent on at once."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        return len(self._parts[-1])

    def taken(self) -> bytes:
        found, self._parts = b"".join(self._parts), []
        return found


def _workbook(columns: Sequence[Column], sheets: int) -> zipfile.ZipFile:
    """A workbook with so many sheets that hold labels only."""
    import xlsxwriter

    made = io.BytesIO()
    with xlsxwriter.Workbook(made, {"in_memory": True, "strings_to_formulas": False}) as book:
        bold = book.add_format({"bold": True, "bottom": 1})
        moment = book.add_format({"num_format": _TIME_FORMAT})
        for number in range(1, sheets + 1):
            sheet = book.add_worksheet("Export" if number == 1 else f"Export {number}")
            for place, column in enumerate(columns):
                sheet.write_string(0, place, column.label, bold)
                sheet.set_column(place, place, _WIDTHS[column.kind], moment if column.kind == "time" else None)
            sheet.freeze_panes(1, 0)
    return zipfile.ZipFile(made)


def _parted(sheet: bytes) -> tuple[bytes, bytes]:
    """A sheet's XML before and behind the place of its rows; without its size, which is not known yet."""
    before, _, behind = sheet.partition(b"</sheetData>")
    return re.sub(rb"<dimension [^>]*/>", b"", before), b"</sheetData>" + behind
