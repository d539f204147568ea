"""The SQL of rollups: rows become mergeable state, and states of one key become one. It decides nothing.

A statement works on the rows that a condition names and leaves everything else alone, so that the caller says what is
new (`upkeep.rollup`). Histograms are DDSketch's (Masson, Rim, Lee 2019): bucket i holds (g^(i-1), g^i] with
g = (1 + a) / (1 - a), and a value is told from its bucket within the relative error a.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log

from gnomon.store.dialect import quoted
from gnomon.timerange import US_DAY, US_HOUR

ERROR = 0.0099  #: relative error of a value read from a histogram; the promise is 1 %
LOG_BASE = log((1 + ERROR) / (1 - ERROR))
ZERO_BUCKET = -100_000  #: of the value 0; the smallest double is in bucket -37,600
QUARTER = US_HOUR // 4

#: The dimensions of each rollup. The first is made of raw rows, the others of the first.
DIMENSIONS = (
    "type", "source", "application", "domain", "endpoint", "method", "status_code", "success", "error_code",
)  # fmt: skip
ROLLUPS: dict[str, tuple[str, ...]] = {
    "wide": DIMENSIONS,
    "narrow": ("type", "source", "application", "status_code", "success"),
}
ACTIVITY = ("type", "source", "application")  #: the dimensions by which people are told apart
MEASURES = ("duration_ms", "bytes_sent", "bytes_received")
HISTOGRAMS = ("duration_ms",)

_STATE = {"n": "sum", "v": "sum"}
for _measure in MEASURES:
    _STATE |= {f"{_measure}_{part}": kind for part, kind in (
        ("has", "sum"), ("sum", "sum"), ("min", "min"), ("max", "max"), ("v0", "sum"), ("v1", "sum"), ("v2", "sum"))
    }  # fmt: skip
_SUMS = ", ".join(_STATE)


def bucket_of(value: str) -> str:
    """The number of the histogram bucket of a value that is not negative, as SQL."""
    return f"CASE WHEN {value} > 0 THEN ceil(ln({value}) / {LOG_BASE!r})::INTEGER ELSE {ZERO_BUCKET} END"


def value_of(bucket: str) -> str:
    """The value that stands for a bucket, as SQL: within the relative error of everything in it."""
    return f"CASE WHEN {bucket} = {ZERO_BUCKET} THEN 0 ELSE exp({bucket} * {LOG_BASE!r} + {log(1 - ERROR)!r}) END"


def stage(project: str, width: int, dimensions: tuple[str, ...], where: str) -> list[str]:
    """Make the temporary table `fresh` of the raw rows that `where` names: hour tier of the first rollup."""
    keys = [name if name in dimensions or name == "type" else f"NULL AS {name}" for name in DIMENSIONS]
    at = f"make_timestamp(epoch_us(ts) // {width} * {width}) AS ts"
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
    inner = (
        f"SELECT {', '.join([at, *keys])}, {bucket_of('duration_ms')} AS bin, {', '.join(parts)} FROM events "
        f"WHERE project = {quoted(project)} AND {where} GROUP BY ALL"
    ).replace(bucket_of("duration_ms"), f"CASE WHEN duration_ms IS NOT NULL THEN {bucket_of('duration_ms')} END")
    return [
        "DROP TABLE IF EXISTS fresh",
        f"CREATE TEMP TABLE fresh AS SELECT {quoted(project)} AS project, 'wide' AS rollup, 'hour' AS tier, ts, "
        f"{', '.join(DIMENSIONS)}, {_merged()}, list(bin ORDER BY bin) FILTER (WHERE bin IS NOT NULL) AS "
        "duration_ms_at, list(duration_ms_has ORDER BY bin) FILTER (WHERE bin IS NOT NULL) AS duration_ms_w "
        f"FROM ({inner}) GROUP BY ALL",
    ]


def derive(rollup: str, tier: str, day: str = "", starts: Sequence[tuple[int, int]] = ()) -> str:
    """Add a coarser rollup or tier of what is in `fresh`, made of its hours. For days, `day` is the SQL of a row's
    local day number and `starts` are the days' `(number, start)`."""
    kept = ROLLUPS[rollup]
    keys = ", ".join(name if name in kept else f"NULL AS {name}" for name in DIMENSIONS)
    hours = "fresh WHERE rollup = 'wide' AND tier = 'hour'"
    rows = f"(SELECT * FROM {hours})"
    if starts:
        pairs = ", ".join(f"({number}, {start})" for number, start in starts)
        rows = (
            f"(SELECT f.* REPLACE (make_timestamp(d.start) AS ts) FROM (SELECT *, {day} AS day FROM {hours}) f "
            f"JOIN (VALUES {pairs}) d(number, start) ON f.day = d.number)"
        )
    return f"INSERT INTO fresh BY NAME {_regrouped(rows, quoted(rollup), quoted(tier), keys)}"


def merge(project: str) -> list[str]:
    """Move `fresh` into `rolled`; buckets that were there already are made one with it.

    One INSERT for each table and transaction: after a large one, a second that finds no rows leaves an empty group of
    rows in DuckDB 2.0, behind which scans see nothing until the next checkpoint (docs/decisions/0013).
    """
    touched = (
        f"rolled.project = {quoted(project)} AND rolled.ts BETWEEN (SELECT min(ts) FROM fresh) AND (SELECT max(ts) "
        "FROM fresh) AND (rollup, tier, ts) IN (SELECT DISTINCT rollup, tier, ts FROM fresh)"
    )
    known = "(rollup, tier, ts) {} (SELECT DISTINCT rollup, tier, ts FROM met)"
    both = f"(SELECT * FROM met UNION ALL BY NAME SELECT * FROM fresh WHERE {known.format('IN')})"
    return [
        f"CREATE OR REPLACE TEMP TABLE met AS SELECT * FROM rolled WHERE {touched}",
        f"DELETE FROM rolled WHERE {touched} AND EXISTS (SELECT 1 FROM met)",
        "INSERT INTO rolled BY NAME SELECT * FROM "
        f"(SELECT * FROM fresh WHERE {known.format('NOT IN')} UNION ALL BY NAME "
        f"{_regrouped(both, 'rollup', 'tier', ', '.join(DIMENSIONS))}) ORDER BY rollup, tier, ts, type, source",
        "DROP TABLE met",
        "DROP TABLE fresh",
    ]


def _merged() -> str:
    return ", ".join(f"{kind}({name}) AS {name}" for name, kind in _STATE.items())


def _regrouped(rows: str, rollup: str, tier: str, keys: str) -> str:
    """States of one key as one. The histograms are taken apart, added by bucket, and put together again."""
    names = ", ".join(["project", "rollup", "tier", "ts", *DIMENSIONS])
    plain = f"SELECT project, {rollup} AS rollup, {tier} AS tier, ts, {keys}"
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

    Days that were there already are made one with what is new.
    """
    me, day = quoted(project), "epoch_us(ts) // 86400000000"
    quarter = f"(epoch_us(ts) % {US_DAY}) // {QUARTER}"
    low = f"bit_or(CASE WHEN {quarter} < 48 THEN 1::BIGINT << ({quarter}) ELSE 0 END)"
    high = f"bit_or(CASE WHEN {quarter} >= 48 THEN 1::BIGINT << ({quarter} - 48) ELSE 0 END)"
    few = ", ".join(ACTIVITY)
    merged = "sum(weight) AS weight, bit_or(low) AS low, bit_or(high) AS high"
    actor = "coalesce(user_id, device_id)"
    return [
        "CREATE OR REPLACE TEMP TABLE seen AS SELECT actor, day, "
        f"{few}, {merged} FROM (SELECT {actor} AS actor, ({day})::INTEGER AS day, {few}, sum(weight) AS weight, "
        f"{low} AS low, {high} AS high FROM events WHERE project = {me} AND {where} AND {actor} IS NOT NULL "
        f"GROUP BY ALL UNION ALL SELECT actor, ({day})::INTEGER, {few}, 0, {low}, {high} FROM sightings "
        f"WHERE project = {me} AND {where} GROUP BY ALL) GROUP BY ALL",
        f"INSERT INTO people SELECT {me}, (SELECT coalesce(max(number), 0) FROM people WHERE project = {me}) + "
        "row_number() OVER (), actor FROM (SELECT DISTINCT actor FROM seen) s WHERE NOT EXISTS "
        f"(SELECT 1 FROM people p WHERE p.project = {me} AND p.actor = s.actor)",
        f"CREATE OR REPLACE TEMP TABLE numbered AS SELECT s.day, p.number AS person, {few}, weight, low, high "
        f"FROM seen s JOIN people p ON p.project = {me} AND p.actor = s.actor",
        *_joined(me, "activity", few, merged),
        *_joined(me, "active_days", "", merged),
        "DROP TABLE seen",
        "DROP TABLE numbered",
    ]


def _joined(me: str, table: str, few: str, merged: str) -> list[str]:
    keys = f"day, person{', ' + few if few else ''}"
    old = f"project = {me} AND day IN (SELECT DISTINCT day FROM numbered)"
    both = f"SELECT {keys}, weight, low, high FROM numbered UNION ALL SELECT {keys}, weight, low, high FROM met"
    return [
        f"CREATE OR REPLACE TEMP TABLE met AS SELECT * FROM {table} WHERE {old}",
        f"DELETE FROM {table} WHERE {old} AND EXISTS (SELECT 1 FROM met)",
        f"INSERT INTO {table} BY NAME SELECT {me} AS project, {keys}, {merged} FROM ({both}) GROUP BY ALL ORDER BY day",
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
    """`(UTC day, rows)` of what is not rolled up yet."""
    span = f"ts >= make_timestamp({since_us}) AND ts < make_timestamp({until_us}) AND version <= {version}"
    me = f"project = {quoted(project)} AND {span}"
    return (
        f"SELECT epoch_us(ts) // {US_DAY} AS day, count(*) FROM (SELECT ts FROM events WHERE {me} UNION ALL "
        f"SELECT ts FROM sightings WHERE {me}) GROUP BY 1 ORDER BY 1"
    )


def late_rows(project: str, until_us: int, version: int) -> str:
    """How many rows came behind the watermark, and the span of their times."""
    where = f"project = {quoted(project)} AND version > {version} AND ts < make_timestamp({until_us})"
    return (
        "SELECT count(*), epoch_us(min(ts)), epoch_us(max(ts)) FROM (SELECT ts FROM events "
        f"WHERE {where} UNION ALL SELECT ts FROM sightings WHERE {where})"
    )
