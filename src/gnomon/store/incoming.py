"""What every store decides about incoming rows before it looks at what it has: sealed time, repeats of their own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from hashlib import md5
from operator import itemgetter
from typing import Any, TypeAlias

from gnomon.event import AT, Row, column, row_text, sources_of

RECENT_US = 24 * 3_600_000_000  #: within this time the same id with another ts is a repeat (decision 6)
QUARANTINE_ROWS = 100_000
EDGES = "SELECT project, type, epoch_us(before) FROM pruned WHERE kind = 'raw'"
_NEVER = -(2**62)
_CANONICAL = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").fullmatch

Key: TypeAlias = tuple[bytes, str | None]  #: of an id: the bytes of a UUID, and the text of one that is none


def key_of(id_: str) -> Key:
    """A canonical UUID as it is; any other id is text beside its MD5, which only narrows the search."""
    if _CANONICAL(id_):
        return bytes.fromhex(id_.replace("-", "")), None
    return md5(id_.encode(), usedforsecurity=False).digest(), id_


class Edges:
    """Up to where raw rows were pruned, by project and type: what is older could not be told from repeats any more."""

    def __init__(self, rows: Iterable[tuple[Any, ...]]) -> None:
        self._before: dict[tuple[str, str | None], int] = {(project, type_): us for project, type_, us in rows}

    def of(self, project: str, type_: str) -> int:
        """The moment (UTC microseconds) from which on rows of a type may be stored."""
        return self._before.get((project, type_), self._before.get((project, None), _NEVER))

    def part(self, project: str, rows: Sequence[Row]) -> tuple[Sequence[Row], list[Row]]:
        """Rows that may be stored, and those of pruned time."""
        if not self._before:
            return rows, []
        moments = zip(column(rows, "ts"), column(rows, "type"), strict=True)
        late = [ts < self.of(project, type_) for ts, type_ in moments]
        if not any(late):
            return rows, []
        parted: tuple[list[Row], list[Row]] = ([], [])
        for row, is_late in zip(rows, late, strict=True):
            parted[is_late].append(row)
        return parted


def without_own_repeats(rows: Sequence[Row], at: dict[str, int] = AT) -> tuple[Sequence[Row], list[Row]]:
    """Rows and repeats within one group; the first of an id wins. `at` says where a row has what."""
    at_id, at_ts, at_received = at["id"], at["ts"], at["received_at"]
    ids = column(rows, "id") if at is AT else list(map(itemgetter(at_id), rows))
    if len(set(ids)) == len(ids):
        return rows, []
    kept: list[Row] = []
    repeats: list[Row] = []
    earlier: dict[str, list[Row]] = {}  # more than one of an id only where it came back after a day
    for row in rows:
        same = earlier.setdefault(row[at_id], [])
        if any(row[at_ts] == other[at_ts] or row[at_received] - other[at_received] <= RECENT_US for other in same):
            repeats.append(row)
        else:
            same.append(row)
            kept.append(row)
    return kept, repeats


def booked(project: str, outcome: str, rows: Sequence[Row], reason: str = "") -> list[list[Any]]:
    """What rows of one outcome add to the books."""
    counts = sources_of(rows)
    return [[project, "event", source, outcome, reason, n] for source, n in counts.items()]


def sealed_entries(project: str, sealed: list[Row]) -> list[tuple[Any, ...]]:
    """What the quarantine says of rows of pruned time, `received_at` in microseconds."""
    return [(project, row[AT["received_at"]], "sealed", "ts: that time was pruned", row[AT["source"]], row[0],
             row_text(row)) for row in sealed[:QUARANTINE_ROWS]]  # fmt: skip
