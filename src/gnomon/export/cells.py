"""Single values of Python as the cells of files. Texts that a spreadsheet would run as a formula are marked."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Any

import msgspec

from gnomon.errors import InvalidValue
from gnomon.store.lines import EXACT_INTEGER, FORMULA_STARTS

#: Characters of a cell of Excel.
LONGEST_CELL = 32_767
_EPOCH = datetime(1899, 12, 30)
_STRANGE = re.compile("[\x01-\x1f\ufffe\uffff]|_x[0-9A-Fa-f]{4}_")
_REFERENCES = {"\t": "&#9;", "\n": "&#10;", "\r": "&#13;"}


class Instant(datetime):
    """A moment of an event, in UTC. As a text it always has its microseconds, as the texts that a store makes."""


def guarded(text: str) -> str:
    """A text with an apostrophe in front if it begins like a formula, or with an apostrophe; see `unguarded`."""
    return "'" + text if text[:1] and text[0] in FORMULA_STARTS else text


def unguarded(cell: str) -> str:
    """The text that `guarded` was given."""
    return cell[1:] if cell.startswith("'") else cell


def plain(value: Any) -> Any:
    """A value as JSON and the text formats hold it: times as ISO texts, `Z` for UTC."""
    if isinstance(value, datetime):
        moment = value.replace(tzinfo=UTC) if value.tzinfo is None else value
        exact = moment.microsecond or isinstance(value, Instant)
        text = moment.isoformat(timespec="microseconds" if exact else "seconds")
        return text.removesuffix("+00:00") + "Z" if not moment.utcoffset() else text
    return value.isoformat() if isinstance(value, date) else value


def csv_cell(value: Any) -> str:
    """A cell of CSV: texts in quotation marks, nothing for null."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, datetime | date):
        return str(plain(value))
    text = value if isinstance(value, str) else json_text(value)
    return '"' + guarded(text).replace('"', '""') + '"'


def json_text(value: Any) -> str:
    """A value as JSON."""
    return msgspec.json.encode(value, enc_hook=str).decode()


def sheet_cell(value: Any, date_style: int) -> str:
    """A cell of a spreadsheet: text is text, whatever it begins with; numbers of more than 15 digits are text.

    Times become the wall-clock time of their zone, as a spreadsheet knows no zones. Raises `InvalidValue`
    (cell-too-long).
    """
    if value is None:
        return "<c/>"
    if isinstance(value, bool):
        return f'<c t="b"><v>{int(value)}</v></c>'
    if isinstance(value, datetime):
        days = (value.replace(tzinfo=None) - _EPOCH).total_seconds() / 86_400
        return f'<c s="{date_style}"><v>{days!r}</v></c>'
    if isinstance(value, float) or (isinstance(value, int) and abs(value) < EXACT_INTEGER):
        return f"<c><v>{value!r}</v></c>"
    text = value if isinstance(value, str) else str(value) if isinstance(value, int) else json_text(value)
    check_length(len(text))
    return f'<c t="inlineStr"><is><t xml:space="preserve">{_escaped(text)}</t></is></c>'


def check_length(length: int) -> None:
    """Raise `InvalidValue` (cell-too-long) for a text that Excel would cut."""
    if length > LONGEST_CELL:
        raise InvalidValue(
            f"a text has {length:,} characters, and a cell of Excel holds {LONGEST_CELL:,}",
            remedy="Leave that field out, or export another format.", code="cell-too-long",
        )  # fmt: skip


def _escaped(text: str) -> str:
    found = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    if not _STRANGE.search(text):
        return found
    found = found.replace("_x", "_x005F_x")
    return re.sub("[\x01-\x1f\ufffe\uffff]", lambda c: _REFERENCES.get(c[0], f"_x{ord(c[0]):04X}_"), found)
