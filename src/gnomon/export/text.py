"""CSV, JSON and NDJSON. Rows that the store made as texts pass through as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from gnomon.export import Column
from gnomon.export.cells import csv_cell, plain


class _Lines:
    """Rows as texts with a separator between them."""

    word: str
    separator = "\n"
    date_style = 0

    def __init__(self, opening: str, separator: str, closing: str) -> None:
        self._opening, self.separator, self._closing = opening, separator, closing
        self._columns: list[str] = []
        self._begun = False

    def begin(self, columns: Sequence[Column]) -> bytes:
        """See `Form.begin`."""
        self._columns = [column.name for column in columns]
        return self._opening.encode()

    def texts(self, rows: int, data: bytes | memoryview, longest: int) -> bytes:
        """See `Form.texts`."""
        if not rows:
            return b""
        before, self._begun = self.separator.encode() if self._begun else b"", True
        return b"".join((before, data))

    def values(self, rows: Sequence[Sequence[Any]]) -> bytes:
        """See `Form.values`."""
        return self.texts(len(rows), self.separator.join(map(self._line, rows)).encode(), 0)

    def _line(self, row: Sequence[Any]) -> str:
        raise NotImplementedError

    def table(self, table: Any) -> bytes:
        """See `Form.table`; not used, as the store makes texts."""
        return self.values([tuple(row.values()) for row in table.to_pylist()])

    def end(self) -> bytes:
        """See `Form.end`."""
        return self._closing.encode() if self._begun or self._opening else b""

    def abandon(self) -> None:
        """See `Form.abandon`."""


class Csv(_Lines):
    """RFC 4180 in UTF-8 with line feeds: texts always in quotation marks, so that an empty text is no null."""

    word = "csv"

    def __init__(self) -> None:
        super().__init__("", "\n", "\n")

    def begin(self, columns: Sequence[Column]) -> bytes:
        """See `Form.begin`."""
        super().begin(columns)
        self._begun = True
        return ",".join(csv_cell(name) for name in self._columns).encode()

    def _line(self, row: Sequence[Any]) -> str:
        return ",".join(map(csv_cell, row))


class Json(_Lines):
    """Objects, as one array or one a line. Properties are objects within."""

    word = "json"

    def _line(self, row: Sequence[Any]) -> str:
        return msgspec.json.encode(dict(zip(self._columns, map(plain, row), strict=True)), enc_hook=str).decode()
