"""Rolling up: everything of a closed bucket becomes mergeable state, once, behind a watermark.

The watermark is a moment and a data version: every row of a version up to it with a ts before the moment is in the
rollups. A row that comes late has a later version, so it is told from the others and added; running again changes
nothing. Questions read the rollups and add the raw rows beyond the watermark, so a rollup is never waited for.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from gnomon.config import Settings
from gnomon.errors import InvalidValue, unknown_name
from gnomon.ingest.writer import Writer
from gnomon.query.zones import local_day
from gnomon.store import Store
from gnomon.store import rollups as sql
from gnomon.store.dialect import Dialect, quoted
from gnomon.timerange import US_DAY, US_HOUR, US_SECOND, Grain, load_zone, offset_pieces, period_number
from gnomon.timerange import period_start_us as start_of

ROWS_AT_ONCE = 1_500_000  #: rows rolled up in one transaction, unless a single day has more
_SINCE_1973 = 3 * 365 * US_DAY  #: from here on every zone's offset is a multiple of a quarter-hour


@dataclass(frozen=True)
class RollupReport:
    """What a run added: `events` rows (late ones among them), up to the moment `until_us` (UTC microseconds)."""

    events: int
    late: int
    until_us: int
    seconds: float


@dataclass(frozen=True)
class _Shape:
    """What a project's rollups are made of; it stays as it is while they exist."""

    width: int
    rollups: tuple[str, ...]
    zones: tuple[str, ...]

    def words(self) -> tuple[int, str, str]:
        return self.width, ",".join(self.rollups), ",".join(self.zones)


def roll_up(store: Store, writer: Writer, settings: Settings, now_us: int, until_us: int | None = None) -> RollupReport:
    """Bring the rollups of the settings' project up to now (less `rollup_lag_seconds`), or up to `until_us`.

    Raises `InvalidValue` (code `rollup-fixed`) where settings ask for other rollups than there are and the raw rows
    to make them of are gone.
    """
    started = time.monotonic()
    project, shape = settings.project, _shape(settings, now_us)
    target = now_us - int(settings.rollup_lag_seconds * US_SECOND)
    target = min(target, target if until_us is None else until_us) // shape.width * shape.width
    events = late = 0
    with writer.paused():
        writer.part_with_journal()
        until, version = _known(store, project, shape)
        newest = store.data_version()
        if version is not None:
            late, first, last, weighted = store.ask([sql.late_rows(project, until, version)], 600.0)[0].rows[0]
            where = f"version > {version} AND version <= {newest} AND ts < make_timestamp({until})"
            done = sql.set_state(project, until, newest, *shape.words())
            if late:
                store.change([*_steps(store.dialect, project, shape, where, first, last, late, weighted), *done])
            elif newest > version:
                store.change(done)
    for start, end, count, weighted in _chunks(store, project, until, target, newest):
        where = f"ts >= make_timestamp({start}) AND ts < make_timestamp({end}) AND version <= {newest}"
        with writer.paused():
            done = sql.set_state(project, end, newest, *shape.words())
            store.change([*_steps(store.dialect, project, shape, where, start, end, count, weighted), *done])
        events, until = events + count, end
    if until < target:
        with writer.paused():
            store.change(sql.set_state(project, target, newest, *shape.words()))
        until = target
    return RollupReport(events + late, late, until, time.monotonic() - started)


def _shape(settings: Settings, now_us: int) -> _Shape:
    rollups = tuple(dict.fromkeys(map(_named, settings.rollups or ("type",))))
    zones = tuple(dict.fromkeys(settings.timezones))
    pieces = [piece for name in zones for piece in offset_pieces(load_zone(name), _SINCE_1973, now_us + 366 * US_DAY)]
    whole = all(piece.offset_us % US_HOUR == 0 for piece in pieces)
    return _Shape(US_HOUR if whole else sql.QUARTER, rollups, zones)


def _named(rollup: str) -> str:
    """The name of a rollup, whatever the order in which its dimensions were given. Raises `UnknownName`."""
    for name in rollup.split("+"):
        if name not in sql.DIMENSIONS:
            raise unknown_name("rollup dimension", name, sql.DIMENSIONS)
    return "+".join(sql.kept_by(rollup)[1:]) or "type"


def _known(store: Store, project: str, shape: _Shape) -> tuple[int, int | None]:
    """The watermark, `(until, version)`; `(0, None)` where nothing is rolled up. Other shapes are dropped."""
    state, pruned = store.ask([words.format(quoted(project)) for words in (sql.STATE, sql.PRUNED)], 60.0)
    if not state.rows:
        return 0, None
    until, version, *words = state.rows[0]
    if tuple(words) == shape.words():
        return until, version
    if pruned.rows:
        raise InvalidValue(
            "the rollups were made with other dimensions or time zones, and the raw rows to make them again are gone",
            remedy=f"Set rollups to {words[1]} and timezones to {words[2]} again.",
            code="rollup-fixed",
        )
    store.change(sql.forget_all(project))
    return 0, None


def _chunks(store: Store, project: str, since: int, target: int, version: int) -> list[tuple[int, int, int, bool]]:
    """Spans `(start, end, rows, weighted)` of whole days, the last one up to the target, that hold rows."""
    if target <= since:
        return []
    found = store.ask([sql.days_with_rows(project, since, target, version)], 600.0)[0].rows
    chunks: list[tuple[int, int, int, bool]] = []
    for day, count, weighted in found:
        start, end = max(since, day * US_DAY), min(target, (day + 1) * US_DAY)
        if chunks and chunks[-1][3] == weighted and chunks[-1][2] + count <= ROWS_AT_ONCE:
            chunks[-1] = (chunks[-1][0], end, chunks[-1][2] + count, weighted)
        else:
            chunks.append((start, end, count, weighted))
    return chunks


def _steps(
    dialect: Dialect, project: str, shape: _Shape, where: str, first_us: int, last_us: int, rows: int, weighted: bool
) -> list[str]:
    """The statements that add the rows that `where` names, all within the given span of time."""
    days = []
    for name in shape.zones:
        zone = load_zone(name)
        days.append(sql.Days(name, local_day(dialect, zone, first_us, last_us), _day_starts(zone, first_us, last_us)))
    staged = dialect.rollups.stage(project, shape.width, shape.rollups, where, weighted=weighted, days=days, rows=rows)
    return [*staged, *dialect.rollups.merge(project), *dialect.rollups.note_people(project, where)]


def _day_starts(zone: ZoneInfo, first_us: int, last_us: int) -> Sequence[tuple[int, int]]:
    first, last = (period_number(Grain.DAY, us, zone) for us in (first_us - US_DAY, last_us + US_DAY))
    return [(number, start_of(Grain.DAY, number, zone)) for number in range(first, last + 1)]
