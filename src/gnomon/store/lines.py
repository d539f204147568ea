"""Rows of events as texts, made by DuckDB itself: a line of CSV, an object of JSON, a row of a spreadsheet.

One text a row is ten times cheaper to fetch and write than twenty values (docs/decisions/0023). What a text looks
like is said once more, for values of Python, in `gnomon.export.cells`; the tests hold the two against each other.
"""

from __future__ import annotations

from collections.abc import Sequence

from gnomon.event import Kind

#: The id as text: of a column for what is no UUID, else of UUIDs, in whose texts nothing needs a mark.
ID_TEXT = "coalesce(id_text, id::VARCHAR)"
_MARKED_UUID = "concat('\"', id, '\"')"
#: A field's name, its kind, and the expression that yields it.
Word = tuple[str, Kind, str]

#: First characters that make a spreadsheet take a text for a formula: = + - @ tab CR full-width =, and our own mark.
FORMULA_STARTS = "=+-@\t\r＝'"
#: What XML cannot hold, or would be read as something else: control characters, U+FFFE, U+FFFF and `_x0041_`.
_STRANGE = r"[\x01-\x1F\x{FFFE}\x{FFFF}]|_x[0-9A-Fa-f]{4}_"
#: A spreadsheet keeps 15 digits of a number.
EXACT_INTEGER = 10**15


def row_text(form: str, words: Sequence[Word], date_style: int = 0, end: str = "") -> str:
    """The expression of one row, with `end` behind it: `csv`, `json` or `xlsx`.

    `date_style` is the number of a workbook's time format. A row is one `concat`, so that the pieces of its cells and
    what stands between them are copied once.
    """
    parts: list[str] = []
    for place, (name, kind, word) in enumerate(words):
        if form == "csv":
            parts += _csv(kind, word, end if place == len(words) - 1 else ",")
        elif form == "json":
            parts += [_quoted(f'{"," if place else "{"}"{name}":'), _json(kind, word)]
        else:
            parts.append(_cell(kind, word, date_style))
    if form == "json":
        parts.append(_quoted("}" + end))
    elif form == "xlsx":
        parts = ["'<row>'", *parts, _quoted("</row>" + end)]
    return f"concat({', '.join(parts)})"


def longest(words: Sequence[Word]) -> str:
    """The expression of the length of a row's longest text."""
    texts = [f"length({word})" for _, kind, word in words if kind in ("text", "json")]
    return f"coalesce(greatest({', '.join(texts)}), 0)" if texts else "0"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _iso(word: str) -> str:
    return f"strftime({word}, '%Y-%m-%dT%H:%M:%S.%fZ')"


def _csv(kind: Kind, word: str, behind: str) -> list[str]:
    """A cell and what stands behind it, as pieces for `concat`, which takes null for nothing."""
    if word == ID_TEXT:
        return [f"CASE WHEN id_text IS NULL THEN {_MARKED_UUID} ELSE {_csv_text('id_text', '')} END", _quoted(behind)]
    if kind in ("text", "json"):
        return [_csv_text(word, behind)]
    return [_iso(word) if kind == "time" else word, _quoted(behind)]


def _csv_text(word: str, behind: str) -> str:
    """A text in quotation marks. Comparisons (10 ns) tell that one which begins with a letter, a digit or a slash is no
    formula; to trim it takes ten times as long."""
    text, close = f"replace({word}, '\"', '\"\"')", _quoted('"' + behind)
    mark = f"CASE WHEN ltrim({word}, {_quoted(FORMULA_STARTS)}) = {word} THEN '\"' ELSE '\"''' END"
    return (
        f"CASE WHEN {word} >= 'A' AND {word} < '~' OR {word} >= '/' AND {word} < '=' THEN '\"' || {text} || {close} "
        f"WHEN {word} IS NULL THEN {_quoted(behind)} ELSE concat({mark}, {text}, {close}) END"
    )


def _json(kind: Kind, word: str) -> str:
    if word == ID_TEXT:
        return f"CASE WHEN id_text IS NULL THEN {_MARKED_UUID} ELSE to_json(id_text)::VARCHAR END"
    if kind == "text":
        return f"coalesce(to_json({word})::VARCHAR, 'null')"
    if kind == "time":
        return f"coalesce('\"' || {_iso(word)} || '\"', 'null')"
    return f"coalesce({word}::VARCHAR, 'null')"


def _cell(kind: Kind, word: str, date_style: int) -> str:
    if word == ID_TEXT:
        return f"CASE WHEN id_text IS NULL THEN {_inline('id::VARCHAR')} ELSE {_inline(_escaped('id_text'))} END"
    if kind in ("text", "json"):
        found = _inline(_escaped(word))
    elif kind == "time":
        days = f"(epoch_us({word}) / 86400000000.0::DOUBLE + 25569)::VARCHAR"
        found = f"'<c s=\"{date_style}\"><v>' || {days} || '</v></c>'"
    elif kind == "boolean":
        found = f"CASE WHEN {word} THEN '<c t=\"b\"><v>1</v></c>' WHEN NOT {word} THEN '<c t=\"b\"><v>0</v></c>' END"
    else:
        found = f"'<c><v>' || {word}::VARCHAR || '</v></c>'"
        if kind == "integer":
            wide = _inline(f"{word}::VARCHAR")
            found = f"CASE WHEN abs({word}::HUGEINT) >= {EXACT_INTEGER} THEN {wide} ELSE {found} END"
    return f"coalesce({found}, '<c/>')"


def _inline(text: str) -> str:
    return f"'<c t=\"inlineStr\"><is><t xml:space=\"preserve\">' || {text} || '</t></is></c>'"


def _escaped(word: str) -> str:
    plain = f"replace(replace(replace({word}, '&', '&amp;'), '<', '&lt;'), '>', '&gt;')"
    reference = (
        "CASE unicode(c) WHEN 9 THEN '&#9;' WHEN 10 THEN '&#10;' WHEN 13 THEN '&#13;' "
        "ELSE printf('_x%04X_', unicode(c)) END"
    )
    each = f"CASE WHEN unicode(c) < 32 OR unicode(c) IN (65534, 65535) THEN {reference} ELSE c END"
    letters = f"string_split(replace({plain}, '_x', '_x005F_x'), '')"
    rare = f"array_to_string(list_transform({letters}, lambda c: {each}), '')"
    return f"CASE WHEN regexp_matches({word}, '{_STRANGE}') THEN {rare} ELSE {plain} END"
