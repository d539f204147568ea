"""What rows that a damaged part has lost mean for the tables that were made of other ones.

Rollups of a time whose raw rows are all there are dropped: questions count the raw rows until the next rolling up makes
them again. Of a time whose raw rows were pruned, the months that lost something are noted, and whoever asks about them
is refused (`query.sources`). What says how far was pruned and rolled up has no second copy: without it nothing is told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from gnomon.errors import StoreDamaged
from gnomon.store.clickhouse.connecting import Connection, Settings
from gnomon.store.dialect_clickhouse import CLICKHOUSE
from gnomon.store.erasing import rebuild_day
from gnomon.store.pruning import LOST_PEOPLE, LOST_SUMS, note_edge
from gnomon.store.rollups import TABLES as ROLLED
from gnomon.store.rollups import Days, forget_all, set_state
from gnomon.store.texts import quoted
from gnomon.timerange import US_DAY, Grain, load_zone, period_number, period_start_us, to_us

_PARTS = "SELECT DISTINCT table, partition_id FROM system.detached_parts WHERE database = {}"
_STATES = "SELECT project, epoch_us(until), version, width, dimensions, zones FROM rolled_up"
_EDGES = "SELECT project, max(epoch_us(before)) FROM pruned WHERE kind = 'raw' GROUP BY project"
_DAYS_TOGETHER = 32  #: of a partition of people's days, see migrations/clickhouse_0001.sql
_BEGINNING_US = -62_135_596_800_000_000  #: the year 1

Span = tuple[int, int]


@dataclass(frozen=True)
class Lost:
    """The partitions, by table, of which a part was set aside; None where its name does not tell."""

    parts: frozenset[tuple[str, str | None]]

    @property
    def tables(self) -> set[str]:
        """Those that lost rows."""
        return {table for table, _ in self.parts}

    def spans(self, table: str, of: Callable[[int], Span]) -> list[Span]:
        """The times of a table's lost parts; `of` turns the number of a partition into one."""
        found = sorted({part for name, part in self.parts if name == table}, key=str)
        return [of(int(part)) if part and part.isdigit() else (_BEGINNING_US, -_BEGINNING_US) for part in found]


def lost_parts(con: Connection, plain: Settings, database: str) -> Lost:
    """What lies beside the tables of a store."""
    rows = con.run(_PARTS.format(quoted(database)), plain).rows
    return Lost(frozenset((str(table), None if part is None else str(part)) for table, part in rows))


def check_notes(tables: set[str], ask: Callable[[str], list[tuple[Any, ...]]]) -> None:
    """Raise `StoreDamaged` where `tables` that are damaged say what was pruned, or how far what is left was rolled up:
    any number that is told without them may be wrong."""
    if "pruned" in tables or ("rolled_up" in tables and ask(_EDGES)):
        raise StoreDamaged(
            "what says how far the store was pruned and rolled up is damaged",
            remedy="Restore a backup: raw rows are gone, and nothing else tells which. See docs/clickhouse.md.",
        )


def settling(lost: Lost, ask: Callable[[str], list[tuple[Any, ...]]]) -> list[str]:
    """The statements of the change that follows a loss; doing it again changes nothing."""
    statements = []
    if lost.tables & {*ROLLED}:
        edges, states = dict(ask(_EDGES)), ask(_STATES)
        if not edges:
            statements += [f"TRUNCATE TABLE {table}" for table in ROLLED]
        for project, _, version, *words in states if edges else ():
            statements += _settled(lost, project, edges.get(project), version, *words)
    if "weighted" in lost.tables:  # a weight may be anywhere; where there is none, adding up gives what counting does
        rows = "SELECT project, ts FROM events UNION ALL SELECT project, ts FROM rolled"
        statements.append(
            "INSERT INTO weighted (project, first_ts, last_ts) "
            f"SELECT project, min(ts), max(ts) + INTERVAL 2 DAY FROM ({rows}) AS r GROUP BY project"
        )
    if "alive" in lost.tables:  # nothing is known, so that nothing is taken for a gap
        statements.append("TRUNCATE TABLE alive")
    return statements


def _settled(lost: Lost, project: str, edge: int | None, version: int, width: int, rollups: str, zones: str
             ) -> list[str]:  # fmt: skip
    """Of one project whose raw rows from `edge` (a UTC midnight) on are all there."""
    if edge is None:
        return forget_all(project)
    me, day = f"project = {quoted(project)}", edge // US_DAY
    nameless = "people" in lost.tables  # numbers of people mean nothing without their names, and are given out again
    statements = [f"DELETE FROM rolled WHERE {me} AND ts >= make_timestamp({edge})"]
    for zone in zones.split(","):
        statements += _cut_day(project, rollups.split(","), zone, edge)
    for table in ("activity", "active_days"):
        statements.append(f"DELETE FROM {table} WHERE {me}" + ("" if nameless else f" AND day >= {day}"))
    statements += set_state(project, edge, version, width, rollups, zones)
    sums = lost.spans("rolled", _month)
    people = [span for table in ("activity", "active_days") for span in lost.spans(table, _days)]
    if nameless:
        people = [(_BEGINNING_US, edge)]
    for kind, spans in ((LOST_SUMS, sums), (LOST_PEOPLE, people)):
        for start, end in spans:
            if start < edge:
                statements += note_edge(project, kind, str(start), min(end, edge))
    return statements


def _cut_day(project: str, rollups: Sequence[str], zone_name: str, edge: int) -> list[str]:
    """The local day within which the raw rows begin, made again of the hours before."""
    zone = load_zone(zone_name)
    number = period_number(Grain.DAY, edge, zone)
    start, end = (period_start_us(Grain.DAY, each, zone) for each in (number, number + 1))
    if start == edge:
        return []
    day = Days(zone_name, str(number), [(number, start)])
    return rebuild_day(CLICKHOUSE.rollups, project, rollups, day, start, end)


def _month(number: int) -> Span:
    """Of a partition such as 202403."""
    year, month = divmod(number, 100)
    first, next_ = (datetime(year + n // 12, n % 12 + 1, 1, tzinfo=UTC) for n in (month - 1, month))
    return to_us(first), to_us(next_)


def _days(number: int) -> Span:
    return number * _DAYS_TOGETHER * US_DAY, (number + 1) * _DAYS_TOGETHER * US_DAY
