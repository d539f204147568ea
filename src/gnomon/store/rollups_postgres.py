"""Rolling up in the words of PostgreSQL; what the statements are for is said in `store.rollups`.

A state is taken apart into rows of `(key, bin)`, the sums beside the null bin, and put together again: a join on keys
that may hold nulls would compare each row with each.
"""

from __future__ import annotations

from collections.abc import Sequence

from gnomon.store.rollups import ACTIVITY, DIMENSIONS, MEASURES, QUARTER, Days, Rollups, bucket_of, kept_by
from gnomon.store.states_postgres import FREE, HASHED, ROOM, dropped, numbered, same, staged
from gnomon.store.texts import quoted
from gnomon.timerange import US_DAY, US_MINUTE

_SUMS = {"n": "sum", "v": "sum"} | {
    f"{name}_{part}": part if part in ("min", "max") else "sum"
    for name in MEASURES
    for part in ("has", "sum", "min", "max", "v0", "v1", "v2")
}
_KEYS = ("project", "rollup", "tier", "ts", *DIMENSIONS)
_COLUMNS = ", ".join([*_KEYS, *_SUMS, "duration_ms_at", "duration_ms_w"])
#: Rows up to which states are gathered in memory; 9 to 18 bytes a row. Beyond it, what does not fit goes to the disk.
IN_MEMORY = 3_000_000
_FRESH = ("CREATE TEMP TABLE fresh_rows (LIKE rolled) ON COMMIT DROP",)
_SEEN = (
    "CREATE TEMP VIEW fresh AS SELECT * FROM fresh_rows",
    "CREATE TEMP TABLE buckets ON COMMIT DROP AS SELECT DISTINCT rollup, tier, ts FROM fresh_rows",
)


def _stage(project: str, width: int, rollups: Sequence[str], where: str, *, weighted: bool,
           days: Sequence[Days] = (), rows: int | None = None) -> list[str]:  # fmt: skip
    drop = dropped(len(rollups), len(days))
    if rows is not None and rows <= IN_MEMORY:
        sums = _weighted() if weighted else _counted()
        return [drop, *staged(project, _bucket(width), rollups, where, days, sums, weighted=weighted)]
    return [drop, *_staged_on_disk(project, width, rollups, where, weighted=weighted, days=days)]


def _staged_on_disk(project: str, width: int, rollups: Sequence[str], where: str, *, weighted: bool,
                    days: Sequence[Days] = ()) -> list[str]:  # fmt: skip
    """Raw rows are grouped once for each rollup, by its dimensions, bucket and bin; hours and days are made of that."""
    steps = [ROOM, *_FRESH]
    for rollup in rollups:
        kept = kept_by(rollup)
        told = {"project": quoted(project), "rollup": quoted(rollup)}
        steps += [
            f"CREATE TEMP TABLE parts ON COMMIT DROP AS {_parts(project, width, kept, where, weighted=weighted)}",
            _into(
                "fresh_rows", _together("SELECT *, duration_ms_has AS w FROM parts", kept, told | {"tier": "'hour'"})
            ),
        ]
        for each in days:
            rows = _placed_parts(each, kept)
            steps.append(_into("fresh_rows", _together(rows, kept, told | {"tier": quoted(each.tier)})))
        steps.append("DROP TABLE parts")
    return [*steps, *_SEEN]


def _again(rollups: Sequence[str], where: str, days: Days) -> list[str]:
    hours = "(SELECT * FROM rolled WHERE rollup = {} AND tier = 'hour' AND {}) AS hours"
    placed = [_placed(hours.format(quoted(rollup), where), days) for rollup in rollups]
    return [dropped(0, 0), *_FRESH, *(_into("fresh_rows", _regrouped(rows)) for rows in placed), *_SEEN]


def _put() -> list[str]:
    return [_into("rolled", f"SELECT {_COLUMNS} FROM fresh"), "DROP VIEW fresh"]


def _merge(project: str) -> list[str]:
    """Only the buckets that were there already are looked at again; both sides of a join are counted before."""
    same = "{0}.rollup = {1}.rollup AND {0}.tier = {1}.tier AND {0}.ts = {1}.ts"
    taken = (
        "DELETE FROM rolled AS r USING buckets AS f "
        f"WHERE r.project = {quoted(project)} AND {same.format('r', 'f')} RETURNING r.*"
    )
    met = f"EXISTS (SELECT FROM known WHERE {same.format('known', 'fresh')})"
    return [
        "ANALYZE buckets",
        "CREATE TEMP TABLE met (LIKE rolled) ON COMMIT DROP",
        f"WITH taken AS ({taken}) INSERT INTO met SELECT * FROM taken",
        "CREATE TEMP TABLE known ON COMMIT DROP AS SELECT DISTINCT rollup, tier, ts FROM met",
        "ANALYZE known",
        _into("rolled", f"SELECT {_COLUMNS} FROM fresh WHERE NOT {met}"),
        _into("rolled", _regrouped(f"SELECT {_COLUMNS} FROM met UNION ALL SELECT {_COLUMNS} FROM fresh WHERE {met}")),
        "DROP TABLE met, known",
        "DROP VIEW fresh",
    ]


def _into(table: str, rows: str) -> str:
    return f"INSERT INTO {table} ({_COLUMNS}) {rows}"


def _bucket(width: int) -> str:
    """The bucket of a row's time."""
    if width % US_MINUTE == 0 and US_DAY % width == 0:  # half the time, to the same end
        return f"date_bin('{width // US_MINUTE} minutes', ts, timestamp '1970-01-01')"
    return f"make_timestamp(divide(epoch_us(ts), {width}) * {width})"


def _parts(project: str, width: int, kept: Sequence[str], where: str, *, weighted: bool) -> str:
    """Raw rows as state, grouped by bucket of time, the dimensions of a rollup, and histogram bucket."""
    bin_ = f"CASE WHEN duration_ms IS NOT NULL THEN {bucket_of('duration_ms')} END AS bin"
    parts = _weighted() if weighted else _counted()
    groups = ", ".join(str(place + 1) for place in range(len(kept) + 2))
    return (
        f"SELECT {_bucket(width)} AS ts, {', '.join(kept)}, {bin_}, {', '.join(parts)} FROM events "
        f"WHERE project = {quoted(project)} AND {where} GROUP BY {groups}"
    )


def _placed_parts(days: Days, kept: Sequence[str]) -> str:
    """Parts of buckets as parts of their local days."""
    keys = ", ".join(["d.start", *kept, "bin"])
    merged = ", ".join(f"{kind}({name}) AS {name}" for name, kind in _SUMS.items())
    rows = (
        f"SELECT {keys}, {merged}, sum(duration_ms_has) AS w FROM (SELECT *, {days.number} AS day FROM parts) AS p "
        f"JOIN (VALUES {_pairs(days)}) AS d(number, start) ON p.day = d.number GROUP BY {keys}"
    )
    return f"SELECT make_timestamp(start) AS ts, r.* FROM ({rows}) AS r"


def _pairs(days: Days) -> str:
    return ", ".join(f"({number}, {start})" for number, start in days.starts)


def _counted() -> list[str]:
    """State of rows of weight 1."""
    parts = ["count(*)::double precision AS n", "0::double precision AS v"]
    for name in MEASURES:
        parts += [f"count({name})::double precision AS {name}_has", f"sum({name}) AS {name}_sum",
                  f"min({name}) AS {name}_min", f"max({name}) AS {name}_max",
                  *(f"0::double precision AS {name}_v{k}" for k in range(3))]  # fmt: skip
    return parts


def _weighted() -> list[str]:
    """State of rows of any weight."""
    parts = ["sum(weight) AS n", "sum(weight * (weight - 1)) AS v"]
    for name in MEASURES:
        here = f"FILTER (WHERE {name} IS NOT NULL)"
        total = f"sum(weight * {name})"
        if name != "duration_ms":
            total = f"sum(CASE WHEN weight = 1 THEN {name}::numeric ELSE (weight * {name})::numeric END)"
        parts += [f"sum(weight) {here} AS {name}_has", f"{total} AS {name}_sum", f"min({name}) AS {name}_min",
                  f"max({name}) AS {name}_max", f"sum(weight * (weight - 1)) {here} AS {name}_v0",
                  f"sum(weight * (weight - 1) * {name}) AS {name}_v1",
                  f"sum(weight * (weight - 1) * {name} * {name}) AS {name}_v2"]  # fmt: skip
    return parts


def _type(dimension: str) -> str:
    return {"status_code": "smallint", "success": "boolean"}.get(dimension, "text")


def _placed(hours: str, days: Days) -> str:
    """Hours with the start of their local day instead of their own."""
    names = ", ".join(["project", "rollup", f"{quoted(days.tier)} AS tier", "make_timestamp(d.start) AS ts",
                       *DIMENSIONS, *_SUMS, "duration_ms_at", "duration_ms_w"])  # fmt: skip
    return (
        f"SELECT {names} FROM (SELECT *, {days.number} AS day FROM {hours}) AS f "
        f"JOIN (VALUES {_pairs(days)}) AS d(number, start) ON f.day = d.number"
    )


def _regrouped(rows: str) -> str:
    """States of one key as one."""
    keys, empty = ", ".join(_KEYS), ", ".join(f"NULL AS {name}" for name in _SUMS)
    apart = (
        f"SELECT {keys}, NULL::integer AS bin, {', '.join(_SUMS)}, NULL::double precision AS w FROM states UNION ALL "
        f"SELECT {keys}, unnest(duration_ms_at), {empty}, unnest(duration_ms_w) FROM states"
    )
    merged = ", ".join(f"{kind}({name}) AS {name}" for name, kind in _SUMS.items())
    added = f"SELECT {keys}, bin, {merged}, sum(w) AS w FROM ({apart}) AS parts GROUP BY {keys}, bin"
    return f"WITH states AS ({rows}) {_together(added)}"


def _together(parts: str, kept: Sequence[str] = DIMENSIONS, told: dict[str, str] | None = None) -> str:
    """Rows of `(key, bin)` with state and a weight `w` of the bin as one row of state for each key.

    Of the key, what is `told` or not `kept` is the same for all of them. Bins stand in any order: to order them would
    mean to sort the rows by their keys, where they now are hashed.
    """
    other = {name: f"NULL::{_type(name)}" for name in DIMENSIONS if name not in kept} | (told or {})
    keys = ", ".join(f"{other[name]} AS {name}" if name in other else name for name in _KEYS)
    groups, there = ", ".join(name for name in _KEYS if name not in other), "FILTER (WHERE bin IS NOT NULL)"
    merged = ", ".join(f"{kind}({name}) AS {name}" for name, kind in _SUMS.items())
    return (
        f"SELECT {keys}, {merged}, array_agg(bin) {there} AS duration_ms_at, array_agg(w) {there} AS duration_ms_w "
        f"FROM ({parts}) AS p GROUP BY {groups}"
    )


# -- people ---------------------------------------------------------------------------------------------------------


def _note_people(project: str, where: str) -> list[str]:
    """Numbers of people and of combinations are grouped, not texts. Days nobody was known of are put there as they
    are; of others, what is known of the same people is made one with it."""
    me, few = quoted(project), ", ".join(ACTIVITY)
    here = f"project = {me} AND {where}"
    day, quarter = f"divide(epoch_us(ts), {US_DAY})::integer", f"divide(epoch_us(ts) % {US_DAY}, {QUARTER})::integer"
    rows = (
        f"(SELECT {day} AS day, {quarter} AS quarter, COALESCE(user_id, device_id) AS actor, {few}, weight FROM events "
        f"WHERE {here} UNION ALL SELECT {day}, {quarter}, actor, {few}, 0 FROM sightings WHERE {here}) AS seen"
    )
    count = f"(SELECT COALESCE(max(number), 0) FROM people WHERE project = {me})"
    masks = ("bit_or(CASE WHEN quarter < 48 THEN 1::bigint << quarter ELSE 0 END) AS low, "
             "bit_or(CASE WHEN quarter >= 48 THEN 1::bigint << (quarter - 48) ELSE 0 END) AS high")  # fmt: skip
    return [
        ROOM,
        # No statistics of what names a person: PostgreSQL would copy values into its catalog.
        f"CREATE TEMP TABLE actors ON COMMIT DROP AS SELECT DISTINCT actor, 1 AS one FROM {rows} "
        "WHERE actor IS NOT NULL",
        "ANALYZE actors (one)",
        # By the index, whatever the statistics say: to read the table for each of many new people is quadratic, as it
        # grows meanwhile (50,000: 20 s).
        "SET LOCAL enable_seqscan = off",
        f"INSERT INTO people (project, number, actor) SELECT {me}, {count} + row_number() OVER (), actor FROM "
        "actors AS s WHERE NOT EXISTS (SELECT 1 FROM people AS p "
        f"WHERE p.project = {me} AND p.actor = s.actor)",
        "CREATE TEMP TABLE persons ON COMMIT DROP AS SELECT p.number AS person, p.actor FROM actors AS a "
        f"JOIN people AS p ON p.project = {me} AND p.actor = a.actor",
        "SET LOCAL enable_seqscan = on",
        "ANALYZE persons (person)",
        *numbered("kinds", ACTIVITY, rows),
        *HASHED,
        f"CREATE TEMP TABLE numbered ON COMMIT DROP AS SELECT day, person, kind, sum(weight) AS weight, {masks} "
        f"FROM {rows} JOIN persons USING (actor) JOIN kinds ON {same(ACTIVITY, 'kinds', 'seen')} "
        "GROUP BY day, person, kind",
        *FREE,
        "ANALYZE numbered (day, person)",
        *_added(me, "activity", f"day, person, {few}", "(SELECT * FROM numbered JOIN kinds USING (kind)) AS n"),
        *_added(me, "active_days", "day, person", "numbered AS n"),
        "DROP TABLE actors, persons, kinds, numbered",
    ]


def _added(me: str, table: str, keys: str, fresh: str) -> list[str]:
    """Add to a table what was seen."""
    masks = "sum(weight) AS weight, bit_or(low) AS low, bit_or(high) AS high"
    met = "day IN (SELECT day FROM days_met)"
    taken = (
        f"DELETE FROM {table} AS t USING (SELECT DISTINCT day, person FROM numbered WHERE {met}) AS n "
        f"WHERE t.project = {me} AND t.day = n.day AND t.person = n.person RETURNING t.*"
    )
    both = (
        f"SELECT {keys}, weight, low, high FROM {fresh} WHERE {met} UNION ALL "
        f"SELECT {keys}, weight, low, high FROM taken"
    )
    into = f"INSERT INTO {table} (project, {keys}, weight, low, high) SELECT {me}, {keys}, "
    once = "weight, low, high" if table == "activity" else masks
    grouped = "" if table == "activity" else f" GROUP BY {keys}"
    return [
        "CREATE TEMP TABLE days_met ON COMMIT DROP AS SELECT day FROM (SELECT DISTINCT day FROM numbered) AS d "
        f"WHERE EXISTS (SELECT FROM {table} AS t WHERE t.project = {me} AND t.day = d.day)",
        "ANALYZE days_met",
        f"{into}{once} FROM {fresh} WHERE NOT {met}{grouped} ORDER BY day, person",
        f"WITH taken AS ({taken}) {into}{masks} FROM ({both}) AS b GROUP BY {keys}",
        "DROP TABLE days_met",
    ]


POSTGRES = Rollups(_stage, _again, _put, _merge, _note_people)
