"""Rolling up in the words of ClickHouse; what the statements are for is said in `store.rollups`.

As in PostgreSQL a state is taken apart into rows of `(key, bin)`, the sums beside the null bin, and put together again.
Tables that a statement makes are made for the change that it is part of.
"""

from __future__ import annotations

from collections.abc import Sequence

from gnomon.store.rollups import ACTIVITY, DIMENSIONS, MEASURES, QUARTER, Days, Rollups, bucket_of, kept_by
from gnomon.store.texts import quoted
from gnomon.timerange import US_DAY

_SUMS = {"n": "sum", "v": "sum"} | {
    f"{name}_{part}": part if part in ("min", "max") else "sum"
    for name in MEASURES
    for part in ("has", "sum", "min", "max", "v0", "v1", "v2")
}
_KEYS = ("project", "rollup", "tier", "ts", *DIMENSIONS)
_COLUMNS = ", ".join([*_KEYS, *_SUMS, "duration_ms_at", "duration_ms_w"])
_MERGED = ", ".join(f"{kind}({name}) AS {name}" for name, kind in _SUMS.items())
_FRESH = ("DROP TABLE IF EXISTS fresh", "CREATE TEMP TABLE fresh AS SELECT * FROM rolled LIMIT 0")


def exact(value: str) -> str:
    """A double as a decimal, rounded: a cast cuts off. From 2^33 on, a double has no more than millionths."""
    millionths = f"CAST(CAST(round({value} * 1000000) AS Int64) AS Decimal(38, 0)) * CAST('0.000001' AS Decimal(6, 6))"
    return f"CASE WHEN abs({value}) < {2**33} THEN {millionths} ELSE CAST({value} AS Decimal(38, 6)) END"


def apart(first: str, second: str) -> tuple[str, str]:
    """Two lists of one length side by side: what is joined twice in one select is joined once."""
    each = f"arrayJoin(arrayZip({first}, {second}))"
    return f"tupleElement({each}, 1)", f"tupleElement({each}, 2)"


def listed(name: str, columns: Sequence[str], rows: Sequence[Sequence[int]]) -> str:
    """A relation of numbers. Thousands of rows of `VALUES` take a second to read."""
    lists = ", ".join(f"[{', '.join(map(str, each))}]" for each in zip(*rows, strict=True))
    parts = ", ".join(f"tupleElement(listed, {place + 1}) AS {column}" for place, column in enumerate(columns))
    return f"(SELECT {parts} FROM (SELECT arrayJoin(arrayZip({lists})) AS listed)) AS {name}"


def _stage(project: str, width: int, rollups: Sequence[str], where: str, *, weighted: bool,
           days: Sequence[Days] = (), rows: int | None = None) -> list[str]:  # fmt: skip
    """Raw rows are grouped once for each rollup, by its dimensions, bucket and bin; hours and days are made of that."""
    steps = [*_FRESH]
    for rollup in rollups:
        kept = kept_by(rollup)
        told = {"project": quoted(project), "rollup": quoted(rollup)}
        steps += [
            "DROP TABLE IF EXISTS parts",
            f"CREATE TEMP TABLE parts AS {_parts(project, width, kept, where, weighted=weighted)}",
            _into("fresh", _together("SELECT *, duration_ms_has AS w FROM parts", kept, told | {"tier": "'hour'"})),
        ]
        for each in days:
            placed = _placed_parts(each, kept)
            steps.append(_into("fresh", _together(placed, kept, told | {"tier": quoted(each.tier)})))
        steps.append("DROP TABLE parts")
    return steps


def _again(rollups: Sequence[str], where: str, days: Days) -> list[str]:
    hours = "(SELECT * FROM rolled WHERE rollup = {} AND tier = 'hour' AND {}) AS hours"
    placed = [_placed(hours.format(quoted(rollup), where), days) for rollup in rollups]
    return [*_FRESH, *(_into("fresh", _regrouped(rows)) for rows in placed)]


def _put() -> list[str]:
    return [_into("rolled", f"SELECT {_COLUMNS} FROM fresh"), "DROP TABLE fresh"]


def _merge(project: str) -> list[str]:
    """Only the buckets that were there already are looked at again."""
    key = "(rollup, tier, ts)"
    taken = (
        f"project = {quoted(project)} AND ts >= (SELECT min(ts) FROM fresh) AND ts <= (SELECT max(ts) FROM fresh) "
        f"AND {key} IN (SELECT DISTINCT rollup, tier, ts FROM fresh)"
    )
    met = f"{key} {{}} (SELECT DISTINCT rollup, tier, ts FROM met)"
    both = f"SELECT {_COLUMNS} FROM met UNION ALL SELECT {_COLUMNS} FROM fresh WHERE {met.format('IN')}"
    return [
        "DROP TABLE IF EXISTS met",
        f"CREATE TEMP TABLE met AS SELECT {_COLUMNS} FROM rolled WHERE {taken}",
        f"DELETE FROM rolled WHERE {taken}",
        _into("rolled", f"SELECT {_COLUMNS} FROM fresh WHERE {met.format('NOT IN')}"),
        _into("rolled", _regrouped(both)),
        "DROP TABLE met",
        "DROP TABLE fresh",
    ]


def _into(table: str, rows: str) -> str:
    return f"INSERT INTO {table} ({_COLUMNS}) {rows}"


def _parts(project: str, width: int, kept: Sequence[str], where: str, *, weighted: bool) -> str:
    """Raw rows as state, grouped by bucket of time, the dimensions of a rollup, and histogram bucket."""
    at = f"make_timestamp(divide(epoch_us(ts), {width}) * {width}) AS ts"
    bin_ = f"CASE WHEN duration_ms IS NOT NULL THEN {bucket_of('duration_ms')} END AS bin"
    parts = _weighted() if weighted else _counted()
    groups = ", ".join(str(place + 1) for place in range(len(kept) + 2))
    return (
        f"SELECT {at}, {', '.join(kept)}, {bin_}, {', '.join(parts)} FROM events "
        f"WHERE project = {quoted(project)} AND {where} GROUP BY {groups}"
    )


def _placed_parts(days: Days, kept: Sequence[str]) -> str:
    """Parts of buckets as parts of their local days."""
    keys = ", ".join(["start", *kept, "bin"])
    rows = (
        f"SELECT {keys}, {_MERGED}, sum(duration_ms_has) AS w FROM (SELECT *, {_start(days)} AS start FROM parts) AS p "
        f"GROUP BY {keys}"
    )
    return f"SELECT make_timestamp(start) AS ts, r.* FROM ({rows}) AS r"


def _start(days: Days) -> str:
    """When the day of `ts` begins. Thousands of rows of `VALUES` take a second to read."""
    numbers, starts = (", ".join(map(str, each)) for each in zip(*days.starts, strict=True))
    return f"transform(CAST({days.number} AS Int64), [{numbers}], [{starts}], NULL)"


def _counted() -> list[str]:
    """State of rows of weight 1."""
    parts = ["CAST(count(*) AS Float64) AS n", "CAST(0 AS Float64) AS v"]
    for name in MEASURES:
        total = f"sum({name})" if name == "duration_ms" else f"sum(CAST({name} AS Decimal(38, 6)))"
        parts += [f"CAST(count({name}) AS Float64) AS {name}_has", f"{total} AS {name}_sum",
                  f"min({name}) AS {name}_min", f"max({name}) AS {name}_max",
                  *(f"CAST(0 AS Float64) AS {name}_v{k}" for k in range(3))]  # fmt: skip
    return parts


def _weighted() -> list[str]:
    """State of rows of any weight."""
    parts = ["sum(weight) AS n", "sum(weight * (weight - 1)) AS v"]
    for name in MEASURES:
        here = f"FILTER (WHERE {name} IS NOT NULL)"
        total = f"sum(weight * {name})"
        if name != "duration_ms":
            whole = f"CAST({name} AS Decimal(38, 6))"
            total = f"sum(CASE WHEN weight = 1 THEN {whole} ELSE {exact(f'(weight * {name})')} END)"
        parts += [f"sum(weight) {here} AS {name}_has", f"{total} AS {name}_sum", f"min({name}) AS {name}_min",
                  f"max({name}) AS {name}_max", f"sum(weight * (weight - 1)) {here} AS {name}_v0",
                  f"sum(weight * (weight - 1) * {name}) AS {name}_v1",
                  f"sum(weight * (weight - 1) * {name} * {name}) AS {name}_v2"]  # fmt: skip
    return parts


def _placed(hours: str, days: Days) -> str:
    """Hours with the start of their local day instead of their own."""
    names = ", ".join(["project", "rollup", f"{quoted(days.tier)} AS tier", "make_timestamp(start) AS ts",
                       *DIMENSIONS, *_SUMS, "duration_ms_at", "duration_ms_w"])  # fmt: skip
    return f"SELECT {names} FROM (SELECT *, {_start(days)} AS start FROM {hours}) AS f"


def _regrouped(rows: str) -> str:
    """States of one key as one."""
    keys, empty = ", ".join(_KEYS), ", ".join(f"NULL AS {name}" for name in _SUMS)
    bin_, weight = apart("duration_ms_at", "duration_ms_w")
    parts = (
        f"SELECT {keys}, NULL AS bin, {', '.join(_SUMS)}, NULL AS w FROM states UNION ALL "
        f"SELECT {keys}, {bin_} AS bin, {empty}, {weight} AS w FROM states"
    )
    added = f"SELECT {keys}, bin, {_MERGED}, sum(w) AS w FROM ({parts}) AS parts GROUP BY {keys}, bin"
    return f"WITH states AS ({rows}) {_together(added)}"


def _together(parts: str, kept: Sequence[str] = DIMENSIONS, told: dict[str, str] | None = None) -> str:
    """Rows of `(key, bin)` with state and a weight `w` of the bin as one row of state for each key.

    Of the key, what is `told` or not `kept` is the same for all of them. Bins stand in any order.
    """
    other = {name: "NULL" for name in DIMENSIONS if name not in kept} | (told or {})
    keys = ", ".join(f"{other[name]} AS {name}" if name in other else name for name in _KEYS)
    groups, there = ", ".join(name for name in _KEYS if name not in other), "FILTER (WHERE bin IS NOT NULL)"
    return (
        f"SELECT {keys}, {_MERGED}, groupArray(bin) {there} AS duration_ms_at, groupArray(w) {there} AS duration_ms_w "
        f"FROM ({parts}) AS p GROUP BY {groups}"
    )


# -- people ---------------------------------------------------------------------------------------------------------


def _note_people(project: str, where: str) -> list[str]:
    me, few = quoted(project), ", ".join(ACTIVITY)
    here = f"project = {me} AND {where}"
    day, quarter = f"CAST(divide(epoch_us(ts), {US_DAY}) AS Int32)", f"divide(epoch_us(ts) % {US_DAY}, {QUARTER})"
    rows = (
        f"SELECT {day} AS day, {quarter} AS quarter, COALESCE(user_id, device_id) AS actor, {few}, weight FROM events "
        f"WHERE {here} UNION ALL SELECT {day}, {quarter}, actor, {few}, 0 FROM sightings WHERE {here}"
    )
    bit = "bitShiftLeft(CAST(1 AS Int64), quarter % 48)"  # of both halves: no branch is left out
    seen = (
        f"SELECT day, assumeNotNull(actor) AS actor, {few}, sum(weight) AS weight, "
        f"groupBitOr(CASE WHEN quarter < 48 THEN {bit} ELSE 0 END) AS low, "
        f"groupBitOr(CASE WHEN quarter >= 48 THEN {bit} ELSE 0 END) AS high "
        f"FROM ({rows}) AS there WHERE actor IS NOT NULL GROUP BY day, actor, {few}"
    )
    count = f"(SELECT COALESCE(max(number), 0) FROM people WHERE project = {me})"
    return [
        *(f"DROP TABLE IF EXISTS {table}" for table in ("seen", "numbered")),
        f"CREATE TEMP TABLE seen AS {seen}",
        f"INSERT INTO people (project, number, actor) SELECT {me}, {count} + row_number() OVER (), actor FROM "
        f"(SELECT DISTINCT actor FROM seen) AS s WHERE actor NOT IN (SELECT actor FROM people WHERE project = {me})",
        f"CREATE TEMP TABLE numbered AS SELECT day, p.number AS person, {few}, weight, low, high FROM seen JOIN "
        f"(SELECT number, actor FROM people WHERE project = {me}) AS p ON p.actor = seen.actor",
        *_added(me, "activity", f"day, person, {few}"),
        *_added(me, "active_days", "day, person"),
        "DROP TABLE numbered",
        "DROP TABLE seen",
    ]


def _added(me: str, table: str, keys: str) -> list[str]:
    """Add to a table what was seen; what is known of the same people's days is made one with it."""
    masks = "sum(weight) AS weight, groupBitOr(low) AS low, groupBitOr(high) AS high"
    taken = (
        f"project = {me} AND day >= (SELECT min(day) FROM numbered) AND day <= (SELECT max(day) FROM numbered) "
        "AND (day, person) IN (SELECT DISTINCT day, person FROM numbered)"
    )
    both = f"SELECT {keys}, weight, low, high FROM numbered UNION ALL SELECT {keys}, weight, low, high FROM met"
    return [
        "DROP TABLE IF EXISTS met",
        f"CREATE TEMP TABLE met AS SELECT * FROM {table} WHERE {taken}",
        f"DELETE FROM {table} WHERE {taken}",
        f"INSERT INTO {table} (project, {keys}, weight, low, high) "
        f"SELECT {me}, {keys}, {masks} FROM ({both}) AS b GROUP BY {keys}",
        "DROP TABLE met",
    ]


CLICKHOUSE = Rollups(_stage, _again, _put, _merge, _note_people)
