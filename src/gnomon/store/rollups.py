"""The SQL of rollups: rows become mergeable state, and states of one key become one. It decides nothing.

A statement works on the rows that a condition names and leaves everything else alone, so that the caller says what is
new (`upkeep.rollup`). Histograms are DDSketch's (Masson, Rim, Lee 2019): bucket i holds (g^(i-1), g^i] with
g = (1 + a) / (1 - a), and a value is told from its bucket within the relative error a.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log

from gnomon.store.texts import quoted
from gnomon.timerange import US_DAY, US_HOUR

ERROR = 0.0099  #: relative error of a value read from a histogram; the promise is 1 %
LOG_BASE = log((1 + ERROR) / (1 - ERROR))
ZERO_BUCKET = -100_000  #: of the value 0; the smallest double is in bucket -37,600
QUARTER = US_HOUR // 4

#: What a rollup may keep apart. The type of event is always among it.
DIMENSIONS = (
    "type", "source", "application", "domain", "endpoint", "method", "status_code", "success", "error_code",
)  # fmt: skip
ACTIVITY = ("type", "source", "application")  #: the dimensions by which people are told apart
MEASURES = ("duration_ms", "bytes_sent", "bytes_received")
HISTOGRAMS = ("duration_ms",)

_STATE = {"n": "sum", "v": "sum"}
for _measure in MEASURES:
    _STATE |= {f"{_measure}_{part}": kind for part, kind in (
        ("has", "sum"), ("sum", "sum"), ("min", "min"), ("max", "max"), ("v0", "sum"), ("v1", "sum"), ("v2", "sum"))
    }  # fmt: skip


def bucket_of(value: str) -> str:
    """The number of the histogram bucket of a value that is not negative, as SQL."""
    return f"CASE WHEN {value} > 0 THEN ceil(ln({value}) / {LOG_BASE!r})::INTEGER ELSE {ZERO_BUCKET} END"


def value_of(bucket: str, real: str) -> str:
    """The value that stands for a bucket, as SQL: within the relative error of everything in it. `real` is the type
    of doubles, as an exponential of decimals is slow and no double."""
    exponent = f"CAST({bucket} AS {real}) * {LOG_BASE!r} + {log(1 - ERROR)!r}"
    return f"CASE WHEN {bucket} = {ZERO_BUCKET} THEN 0 ELSE exp({exponent}) END"


def kept_by(rollup: str) -> tuple[str, ...]:
    """The dimensions of a rollup, which is named by them: `source+status_code`."""
    named = rollup.split("+")
    return tuple(name for name in DIMENSIONS if name == "type" or name in named)


@dataclass(frozen=True)
class Days:
    """The local days of one zone: the SQL of a row's day number, and every day's `(number, start)`."""

    zone: str
    number: str
    starts: Sequence[tuple[int, int]]

    @property
    def tier(self) -> str:
        return f"day:{self.zone}"


def _columns() -> str:
    kinds = {"status_code": "SMALLINT", "success": "BOOLEAN"}
    columns = ["project VARCHAR", "rollup VARCHAR", "tier VARCHAR", "ts TIMESTAMP"]
    columns += [f"{name} {kinds.get(name, 'VARCHAR')}" for name in DIMENSIONS]
    whole = {f"bytes_{way}_{part}": kind for way in ("sent", "received")
             for part, kind in (("sum", "DECIMAL(38, 6)"), ("min", "BIGINT"), ("max", "BIGINT"))}  # fmt: skip
    columns += [f"{name} {whole.get(name, 'DOUBLE')}" for name in _STATE]
    return ", ".join([*columns, "duration_ms_at INTEGER[]", "duration_ms_w DOUBLE[]", "bins INTEGER[]"])


#: The temporary table of states that are to be added, with none in it. The columns of `rolled` are named, as a table
#: that is made of a select that finds no rows has the fault of which `merge` tells: every state would be lost.
NOTHING_FRESH = ("DROP TABLE IF EXISTS fresh", f"CREATE TEMP TABLE fresh ({_columns()})")


def stage(project: str, width: int, rollups: Sequence[str], where: str, *, weighted: bool,
          days: Sequence[Days] = (), rows: int | None = None) -> list[str]:  # fmt: skip
    """Make the temporary table `fresh` of the raw rows that `where` names: every rollup's hours, and their days.

    Where no row is `weighted`, counting does, and instead of a histogram a row has the list of its buckets, `bins`:
    `merge` counts them. That takes a third of the time.
    """
    steps = [*NOTHING_FRESH, *(_weighted_hours if weighted else _hours)(project, width, rollups, where)]
    made = []
    for rollup in rollups:
        hours = f"(SELECT * FROM fresh WHERE rollup = {quoted(rollup)} AND tier = 'hour')"
        for each in days:
            placed = _placed(hours, each)
            made.append(_regrouped(placed, "rollup", quoted(each.tier)) if weighted else _days(placed, each.tier))
    return [*steps, *_into_fresh(made)]


def _into_fresh(rows: Sequence[str]) -> list[str]:
    """One INSERT for all of them, see `merge`."""
    together = " UNION ALL BY NAME ".join(f"({each})" for each in rows)
    return [f"INSERT INTO fresh BY NAME {together}"] if rows else []


def again(rollups: Sequence[str], where: str, days: Days) -> list[str]:
    """Make `fresh` of days, from the hours in `rolled` that `where` names."""
    hours = "(SELECT * FROM rolled WHERE rollup = {} AND tier = 'hour' AND {})".format
    made = [_regrouped(_placed(hours(quoted(rollup), where), days), "rollup", quoted(days.tier)) for rollup in rollups]
    return [*NOTHING_FRESH, *_into_fresh(made)]


def _rows(project: str, width: int, where: str, *, bins: str) -> str:
    at = f"make_timestamp(epoch_us(ts) // {width} * {width})"
    return f"(SELECT * REPLACE ({at} AS ts), {bins} AS bin FROM events WHERE project = {quoted(project)} AND {where})"


def _hours(project: str, width: int, rollups: Sequence[str], where: str) -> list[str]:
    """Rows of weight 1 as state of every rollup, each with the list of its histogram buckets; from one look at them."""
    parts = ["count(*) AS n", "0 AS v"]
    for name in MEASURES:
        total = f"sum({name})" if name == "duration_ms" else f"sum({name})::DECIMAL(38, 6)"
        parts += [f"count({name}) AS {name}_has", f"{total} AS {name}_sum", f"min({name}) AS {name}_min",
                  f"max({name}) AS {name}_max", *(f"0 AS {name}_v{k}" for k in range(3))]  # fmt: skip
    parts.append("list(bin) FILTER (WHERE bin IS NOT NULL) AS bins")
    kept = [name for name in DIMENSIONS if any(name in kept_by(rollup) for rollup in rollups)]
    sets = ", ".join(f"(ts, {', '.join(kept_by(rollup))})" for rollup in rollups)
    # One bit for each dimension, the first one highest: 0 where it is kept apart.
    told = {sum(1 << place for place, name in enumerate(reversed(kept)) if name not in kept_by(rollup)): rollup
            for rollup in rollups}  # fmt: skip
    names = " ".join(f"WHEN {bits} THEN {quoted(rollup)}" for bits, rollup in told.items())
    bins = f"CASE WHEN duration_ms IS NOT NULL THEN {bucket_of('duration_ms')} END"
    return [
        f"INSERT INTO fresh BY NAME SELECT {quoted(project)} AS project, CASE GROUPING({', '.join(kept)}) {names} END "
        f"AS rollup, 'hour' AS tier, ts, {', '.join(kept)}, {', '.join(parts)} "
        f"FROM {_rows(project, width, where, bins=bins)} GROUP BY GROUPING SETS ({sets})"
    ]


def counted(rows: str) -> str:
    """Rows of `fresh` as those of `rolled`: histograms counted from the lists of buckets where they have these."""
    return (
        "(SELECT * EXCLUDE (bins, counted) REPLACE (coalesce(map_keys(counted), duration_ms_at) AS duration_ms_at, "
        "coalesce(map_values(counted)::DOUBLE[], duration_ms_w) AS duration_ms_w) "
        f"FROM (SELECT *, list_histogram(bins) AS counted FROM {rows}))"
    )


def _days(rows: str, tier: str) -> str:
    keys = f"project, rollup, {quoted(tier)} AS tier, ts, {', '.join(DIMENSIONS)}"
    return f"SELECT {keys}, {_merged()}, flatten(list(bins)) AS bins FROM {rows} GROUP BY ALL"


def _weighted_hours(project: str, width: int, rollups: Sequence[str], where: str) -> list[str]:
    """Rows of any weight as state, with their histograms."""
    parts = ["sum(weight) AS n", "sum(weight * (weight - 1)) AS v"]
    for name in MEASURES:
        here = f"FILTER (WHERE {name} IS NOT NULL)"
        total = f"sum(weight * {name})"
        if name != "duration_ms":
            total = f"sum(CASE WHEN weight = 1 THEN {name}::DECIMAL(38, 6) ELSE (weight * {name})::DECIMAL(38, 6) END)"
        parts += [f"sum(weight) {here} AS {name}_has", f"{total} AS {name}_sum", f"min({name}) AS {name}_min",
                  f"max({name}) AS {name}_max", f"sum(weight * (weight - 1)) {here} AS {name}_v0",
                  f"sum(weight * (weight - 1) * {name}) AS {name}_v1",
                  f"sum(weight * (weight - 1) * {name} * {name}) AS {name}_v2"]  # fmt: skip
    bins = f"CASE WHEN duration_ms IS NOT NULL THEN {bucket_of('duration_ms')} END"
    rows, there = _rows(project, width, where, bins=bins), "FILTER (WHERE bin IS NOT NULL)"
    made = []
    for rollup in rollups:
        keys = ", ".join(kept_by(rollup))
        inner = f"SELECT ts, {keys}, bin, {', '.join(parts)} FROM {rows} GROUP BY ALL"
        made.append(
            f"SELECT {quoted(project)} AS project, {quoted(rollup)} AS rollup, 'hour' AS tier, ts, {keys}, "
            f"{_merged()}, list(bin ORDER BY bin) {there} AS duration_ms_at, "
            f"list(duration_ms_has ORDER BY bin) {there} AS duration_ms_w FROM ({inner}) GROUP BY ts, {keys}"
        )
    return _into_fresh(made)


def _placed(hours: str, days: Days) -> str:
    """Hours with the start of their local day instead of their own."""
    pairs = ", ".join(f"({number}, {start})" for number, start in days.starts)
    return (
        f"(SELECT f.* EXCLUDE (day) REPLACE (make_timestamp(d.start) AS ts) FROM (SELECT *, {days.number} AS day "
        f"FROM {hours}) f JOIN (VALUES {pairs}) d(number, start) ON f.day = d.number)"
    )


def merge(project: str) -> list[str]:
    """Move `fresh` into `rolled`; buckets that were there already are made one with it.

    One INSERT for each table and transaction: one that finds no rows, before or after a large one, leaves an empty
    group of rows in DuckDB 2.0, behind which scans see nothing until the next checkpoint (docs/decisions/0013).
    """
    touched = (
        f"rolled.project = {quoted(project)} AND rolled.ts BETWEEN (SELECT min(ts) FROM fresh) AND (SELECT max(ts) "
        "FROM fresh) AND (rollup, tier, ts) IN (SELECT DISTINCT rollup, tier, ts FROM fresh)"
    )
    known = "(rollup, tier, ts) {} (SELECT DISTINCT rollup, tier, ts FROM met)"
    both = f"(SELECT * FROM met UNION ALL BY NAME FROM {counted('fresh WHERE ' + known.format('IN'))})"
    return [
        f"CREATE OR REPLACE TEMP TABLE met AS SELECT * FROM rolled WHERE {touched}",
        f"DELETE FROM rolled WHERE {touched} AND EXISTS (SELECT 1 FROM met)",
        "INSERT INTO rolled BY NAME SELECT * FROM "
        f"(FROM {counted('fresh WHERE ' + known.format('NOT IN'))} UNION ALL BY NAME "
        f"{_regrouped(both, 'rollup', 'tier')})",
        "DROP TABLE met",
        "DROP TABLE fresh",
    ]


def _merged() -> str:
    return ", ".join(f"{kind}({name}) AS {name}" for name, kind in _STATE.items())


def _regrouped(rows: str, rollup: str, tier: str) -> str:
    """States of one key as one. The histograms are taken apart, added by bucket, and put together again."""
    names = ", ".join(["project", "rollup", "tier", "ts", *DIMENSIONS])
    plain = f"SELECT project, {rollup} AS rollup, {tier} AS tier, ts, {', '.join(DIMENSIONS)}"
    sums = f"{plain}, {_merged()} FROM {rows} GROUP BY ALL"
    bins = (
        f"SELECT {names}, list(bin ORDER BY bin) AS duration_ms_at, list(w ORDER BY bin) AS duration_ms_w FROM "
        f"(SELECT {names}, bin, sum(w) AS w FROM ({plain}, unnest(duration_ms_at) AS bin, unnest(duration_ms_w) AS w "
        f"FROM {rows}) GROUP BY ALL) GROUP BY ALL"
    )
    same = " AND ".join(f"s.{n} IS NOT DISTINCT FROM b.{n}" for n in ("rollup", "tier", "ts", *DIMENSIONS))
    return f"SELECT s.*, b.duration_ms_at, b.duration_ms_w FROM ({sums}) s LEFT JOIN ({bins}) b ON {same}"


# -- people ---------------------------------------------------------------------------------------------------------


def note_people(project: str, where: str) -> list[str]:
    """Number the people among the rows (and sightings) that `where` names, and put their activity into two tables.

    Days that were there already are made one with what is new. Grouping goes by numbers of people and of `kinds`
    (combinations of the few dimensions), as texts would take twice the time.
    """
    me, few = quoted(project), ", ".join(ACTIVITY)
    here = f"project = {me} AND {where}"
    both = (
        f"SELECT coalesce(user_id, device_id) AS actor, {few} FROM events WHERE {here} UNION ALL "
        f"SELECT actor, {few} FROM sightings WHERE {here}"
    )
    return [
        f"CREATE OR REPLACE TEMP TABLE kinds AS SELECT row_number() OVER ()::INTEGER AS kind, * FROM "
        f"(SELECT DISTINCT {few} FROM ({both}) WHERE actor IS NOT NULL)",
        f"INSERT INTO people SELECT {me}, (SELECT coalesce(max(number), 0) FROM people WHERE project = {me}) + "
        f"row_number() OVER (), actor FROM (SELECT DISTINCT actor FROM ({both}) WHERE actor IS NOT NULL) s "
        f"WHERE NOT EXISTS (SELECT 1 FROM people p WHERE p.project = {me} AND p.actor = s.actor)",
        f"CREATE OR REPLACE TEMP TABLE numbered AS {_active(me, 'events', where)} UNION ALL "
        f"{_active(me, 'sightings', where)}",
        *_joined(me, "activity", f"day, person, {few}", "(SELECT * FROM numbered JOIN kinds USING (kind))"),
        *_joined(me, "active_days", "day, person", "numbered"),
        "DROP TABLE kinds",
        "DROP TABLE numbered",
    ]


def _active(me: str, table: str, where: str) -> str:
    """Who was active on which UTC day, with masks of the quarter-hours; `noted` where only sightings say so."""
    of_events = table == "events"
    actor = "coalesce(e.user_id, e.device_id)" if of_events else "e.actor"
    same = " AND ".join(f"k.{name} IS NOT DISTINCT FROM e.{name}" for name in ACTIVITY)
    day, quarter = f"epoch_us(ts) // {US_DAY}", f"(epoch_us(ts) % {US_DAY}) // {QUARTER}"
    rows = (
        f"SELECT ({day})::INTEGER AS day, p.number AS person, k.kind, sum({'weight' if of_events else '0'}) AS weight, "
        f"bit_or(1::HUGEINT << ({quarter})::INTEGER) AS mask FROM (SELECT * FROM {table} WHERE project = {me} AND "
        f"{where}) e JOIN people p ON p.project = {me} AND p.actor = {actor} JOIN kinds k ON {same} GROUP BY ALL"
    )
    halves = f"(mask & {(1 << 48) - 1}::HUGEINT)::BIGINT AS low, (mask >> 48)::BIGINT AS high"
    return f"SELECT day, person, kind, weight, {halves}, {'false' if of_events else 'true'} AS noted FROM ({rows})"


def _joined(me: str, table: str, keys: str, fresh: str) -> list[str]:
    """Add what is `fresh` to a table. Only days that were there, or that sightings add to, are grouped again."""
    old = f"project = {me} AND day IN (SELECT DISTINCT day FROM numbered)"
    masks = "sum(weight) AS weight, bit_or(low) AS low, bit_or(high) AS high"
    twice = "day IN (SELECT day FROM met UNION SELECT day FROM numbered WHERE noted)"
    both = (
        f"SELECT {keys}, weight, low, high FROM {fresh} WHERE {twice} UNION ALL "
        f"SELECT {keys}, weight, low, high FROM met"
    )
    rows = f"SELECT {keys}, weight, low, high FROM {fresh} WHERE NOT ({twice})"
    if table == "active_days":  # several rows of a person's day in any case
        rows = f"SELECT {keys}, {masks} FROM ({rows}) GROUP BY ALL"
    return [
        f"CREATE OR REPLACE TEMP TABLE met AS SELECT * FROM {table} WHERE {old}",
        f"DELETE FROM {table} WHERE {old} AND EXISTS (SELECT 1 FROM met)",
        f"INSERT INTO {table} BY NAME SELECT {me} AS project, * FROM ({rows} UNION ALL "
        f"SELECT {keys}, {masks} FROM ({both}) GROUP BY ALL)",
        "DROP TABLE met",
    ]


# -- state ----------------------------------------------------------------------------------------------------------

STATE = "SELECT epoch_us(until), version, width, dimensions, zones FROM rolled_up WHERE project = {}"
PRUNED = "SELECT kind, type, epoch_us(before) FROM pruned WHERE project = {}"
SIGHTED = "SELECT count(*) FROM sightings WHERE project = {}"
TABLES = ("rolled", "people", "activity", "active_days", "rolled_up")


def set_state(project: str, until_us: int, version: int, width: int, dimensions: str, zones: str) -> list[str]:
    """Note how far a project is rolled up."""
    me = quoted(project)
    return [
        f"DELETE FROM rolled_up WHERE project = {me}",
        f"INSERT INTO rolled_up VALUES ({me}, make_timestamp({until_us}), {version}, {width}, {quoted(dimensions)}, "
        f"{quoted(zones)})",
    ]


def forget_all(project: str) -> list[str]:
    """Drop a project's rollups, so that they are made again of raw rows."""
    return [f"DELETE FROM {table} WHERE project = {quoted(project)}" for table in TABLES]


def days_with_rows(project: str, since_us: int, until_us: int, version: int) -> str:
    """`(UTC day, rows, whether any has a weight other than 1)` of what is not rolled up yet."""
    span = f"ts >= make_timestamp({since_us}) AND ts < make_timestamp({until_us}) AND version <= {version}"
    return (
        f"SELECT divide(epoch_us(ts), {US_DAY}) AS day, count(*), bool_or(weight <> 1) {_both(project, span)} "
        "GROUP BY 1 ORDER BY 1"
    )


def late_rows(project: str, until_us: int, version: int) -> str:
    """How many rows came behind the watermark, the span of their times, and whether any has a weight other than 1."""
    span = f"version > {version} AND ts < make_timestamp({until_us})"
    return f"SELECT count(*), epoch_us(min(ts)), epoch_us(max(ts)), bool_or(weight <> 1) {_both(project, span)}"


def any_late(project: str, until_us: int, version: int) -> str:
    """One row if some row came behind the watermark, else none."""
    where = f"project = {quoted(project)} AND version > {version} AND ts < make_timestamp({until_us})"
    return f"SELECT 1 FROM events WHERE {where} UNION ALL SELECT 1 FROM sightings WHERE {where} LIMIT 1"


def _both(project: str, span: str) -> str:
    where = f"project = {quoted(project)} AND {span}"
    return (
        f"FROM (SELECT ts, weight FROM events WHERE {where} UNION ALL SELECT ts, 1 AS weight FROM sightings "
        f"WHERE {where}) AS there"
    )


# -- the words of a store -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rollups:
    """The statements that stores differ in too much to share them. Each is to be run in the transaction of the others.

    stage: make the temporary table (or view) `fresh` of the raw rows that a condition names (so many `rows`, where
    that is known), every rollup's buckets and their days. again: make it of days, from the hours in `rolled` that it
    names. put: move it into `rolled`, where nothing of its buckets is; merge: make buckets that are there already one
    with it. note_people: number the people of raw rows and sightings, and add their activity to what is known of it.
    """

    stage: Callable[..., list[str]]
    again: Callable[[Sequence[str], str, Days], list[str]]
    put: Callable[[], list[str]]
    merge: Callable[[str], list[str]]
    note_people: Callable[[str, str], list[str]]


def _put() -> list[str]:
    return [f"INSERT INTO rolled BY NAME FROM {counted('fresh')}", "DROP TABLE fresh"]


DUCKDB = Rollups(stage, again, _put, merge, note_people)
