"""Raw rows as states of rollups in PostgreSQL, for as many rows as fit into the memory of one sort.

Combinations of dimensions are numbered first: to group by numbers takes a third of the time of grouping by texts, once
for each tier. The buckets of a histogram are gathered in arrays and counted when they are read. What is made here are
the temporary view `fresh`, which looks like `rolled`, and the temporary table `buckets` of what is in it.
"""

from __future__ import annotations

from collections.abc import Sequence

from gnomon.store.rollups import DIMENSIONS, MEASURES, Days, bucket_of, kept_by
from gnomon.store.texts import quoted

#: Else what is grouped is sorted on the disk, which takes three times as long; and the numbers of combinations are
#: looked up in a hash table, whatever PostgreSQL thinks of conditions that it has no statistics of.
ROOM = "SET LOCAL work_mem = '128MB'"
HASHED = ("SET LOCAL enable_nestloop = off", "SET LOCAL enable_mergejoin = off")
FREE = ("SET LOCAL enable_nestloop = on", "SET LOCAL enable_mergejoin = on")
_MEASURES = ", ".join(MEASURES)


def numbered(table: str, names: Sequence[str], rows: str) -> list[str]:
    """A temporary table of the combinations of dimensions in `rows`, with a number `kind` of each."""
    return [
        f"CREATE TEMP TABLE {table} ON COMMIT DROP AS SELECT (row_number() OVER ())::integer AS kind, k.* "
        f"FROM (SELECT DISTINCT {', '.join(names)} FROM {rows}) AS k",
        f"ANALYZE {table} (kind)",
    ]


def same(names: Sequence[str], one: str, other: str) -> str:
    """That the dimensions of two relations are the same, null included, in words that can be hashed: the gate lets no
    empty text pass, and no status below 100."""
    cast, missing = {"success": "::integer"}, {"status_code": "-1", "success": "-1"}
    conditions = [f"{one}.type = {other}.type"]
    for name in names:
        if name != "type":
            sides = (
                f"COALESCE({side}.{name}{cast.get(name, '')}, {missing.get(name, quoted(''))})" for side in (one, other)
            )
            conditions.append(" = ".join(sides))
    return " AND ".join(conditions)


def staged(project: str, at: str, rollups: Sequence[str], where: str, days: Sequence[Days], sums: Sequence[str], *,
           weighted: bool) -> list[str]:  # fmt: skip
    """The statements that make `fresh` and `buckets`. `at` is the bucket of a row as SQL, `sums` its state."""
    names = [name for name in DIMENSIONS if any(name in kept_by(rollup) for rollup in rollups)]
    columns = f"ts, {', '.join(names)}, {_MEASURES}, weight"
    events = f"(SELECT {columns} FROM events WHERE project = {quoted(project)} AND {where})"
    steps = [ROOM, *HASHED]
    for place, rollup in enumerate(rollups):
        steps += numbered(f"kinds_{place}", kept_by(rollup), f"{events} AS e")
    joins = " ".join(
        f"JOIN kinds_{place} ON {same(kept_by(rollup), f'kinds_{place}', 'e')}" for place, rollup in enumerate(rollups)
    )
    kinds = ", ".join(f"kinds_{place}.kind AS kind_{place}" for place in range(len(rollups)))
    bin_ = f"CASE WHEN duration_ms IS NOT NULL THEN {bucket_of('duration_ms')} END AS bin"
    steps += [
        f"CREATE TEMP TABLE raw ON COMMIT DROP AS SELECT {at} AS ts, {kinds}, {bin_}, {_MEASURES}, weight "
        f"FROM {events} AS e {joins}",
        *(_spans(place, each) for place, each in enumerate(days)),
    ]
    views, buckets = [], []
    for place, rollup in enumerate(rollups):
        sources = {"'hour'": "raw"} | {
            quoted(each.tier): f"(SELECT spans_{n}.start AS ts, kind_{place}, bin, {_MEASURES}, weight FROM raw "
            f"JOIN spans_{n} USING (ts)) AS placed"
            for n, each in enumerate(days)
        }
        for number, (tier, source) in enumerate(sources.items()):
            states = f"states_{place}_{number}"
            steps.append(_states(states, f"kind_{place}", source, sums, weighted=weighted))
            views += _read(project, rollup, tier, states, f"kinds_{place}", weighted=weighted)
            buckets.append(f"SELECT DISTINCT {quoted(rollup)} AS rollup, {tier} AS tier, ts FROM {states}")
    return [
        *steps,
        *FREE,
        f"CREATE TEMP VIEW fresh AS {' UNION ALL '.join(views)}",
        f"CREATE TEMP TABLE buckets ON COMMIT DROP AS {' UNION ALL '.join(buckets)}",
    ]


def dropped(rollups: int, days: int) -> str:
    """The statement that makes room for the next ones of the same transaction."""
    tables = [
        "raw",
        "buckets",
        "fresh_rows",
        *(f"kinds_{n}" for n in range(rollups)),
        *(f"spans_{n}" for n in range(days)),
    ]
    tables += [f"states_{place}_{n}" for place in range(rollups) for n in range(days + 1)]
    return f"DROP TABLE IF EXISTS {', '.join(f'pg_temp.{name}' for name in tables)} CASCADE"


def _spans(place: int, days: Days) -> str:
    """The local day of each bucket: few, so what tells the day is not worked out for each row."""
    pairs = ", ".join(f"({number}, {start})" for number, start in days.starts)
    return (
        f"CREATE TEMP TABLE spans_{place} ON COMMIT DROP AS SELECT ts, make_timestamp(d.start) AS start "
        f"FROM (SELECT ts, {days.number} AS day FROM (SELECT DISTINCT ts FROM raw) AS r) AS b "
        f"JOIN (VALUES {pairs}) AS d(number, start) ON b.day = d.number"
    )


def _states(table: str, kind: str, rows: str, sums: Sequence[str], *, weighted: bool) -> str:
    """States in the order of their time, so that they stand together in `rolled`, and its index grows at its end."""
    there = "FILTER (WHERE bin IS NOT NULL)"
    shares = f", array_agg(weight) {there} AS shares" if weighted else ""
    return (
        f"CREATE TEMP TABLE {table} ON COMMIT DROP AS SELECT ts, {kind} AS kind, {', '.join(sums)}, "
        f"count(bin) AS many, array_agg(bin) {there} AS bins{shares} FROM {rows} GROUP BY ts, {kind} ORDER BY ts"
    )


def _read(project: str, rollup: str, tier: str, states: str, kinds: str, *, weighted: bool) -> list[str]:
    """Two selects of states as rows of `rolled`: those that have no more than one value, and histograms to count."""
    kept, types = kept_by(rollup), {"status_code": "smallint", "success": "boolean"}
    dimensions = ", ".join(
        f"k.{name}" if name in kept else f"NULL::{types.get(name, 'text')} AS {name}" for name in DIMENSIONS
    )
    sums = ", ".join(
        [
            "s.n",
            "s.v",
            *(f"s.{name}_{part}" for name in MEASURES for part in ("has", "sum", "min", "max", "v0", "v1", "v2")),
        ]
    )
    named = (
        f"SELECT {quoted(project)} AS project, {quoted(rollup)} AS rollup, {tier} AS tier, s.ts, {dimensions}, {sums}"
    )
    source = f"FROM {states} AS s JOIN {kinds} AS k USING (kind)"
    one = "s.shares" if weighted else "CASE WHEN s.bins IS NOT NULL THEN ARRAY[1::double precision] END"
    unnested, share = ("unnest(s.bins, s.shares) AS u(bin, w)", "sum(w)") if weighted else (
        "unnest(s.bins) AS u(bin)", "count(*)::double precision")  # fmt: skip
    counted = (
        f"(SELECT array_agg(bin) AS at, array_agg(w) AS w FROM (SELECT bin, {share} AS w FROM {unnested} GROUP BY bin) "
        "AS c) AS h"
    )
    return [
        f"{named}, s.bins AS duration_ms_at, {one} AS duration_ms_w {source} WHERE s.many <= 1",
        f"{named}, h.at AS duration_ms_at, h.w AS duration_ms_w {source}, LATERAL {counted} WHERE s.many > 1",
    ]
