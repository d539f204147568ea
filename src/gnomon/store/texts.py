"""Values as texts of SQL."""

from __future__ import annotations


def quoted(text: str) -> str:
    """A text as an SQL literal. A backslash has a meaning in the literals of some stores, so none has one."""
    if "\\" not in text:
        return "'" + text.replace("'", "''") + "'"
    return f"concat({', chr(92), '.join(map(quoted, text.split(chr(92))))})"
