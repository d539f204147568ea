"""Each source of an answer as a select of rows of state, one below the other. Texts of SQL; values come as literals.

Every row has `ts` (a moment within its bucket), the dimensions that the question needs, and then what it is for: state
(`n`, `v`, `<measure>_<part>`), a histogram bucket (`bin`, `w`), or a `person`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from gnomon.query.plan import Plan
from gnomon.query.sources import Slice
from gnomon.store.dialect import quoted
from gnomon.store.rollups import MEASURES, QUARTER, bucket_of
from gnomon.timerange import US_DAY, Grain, bucket_starts

_PARTS = ("has", "sum", "min", "max", "v0", "v1", "v2")


def state_rows(plan: Plan, version: int, keep: Sequence[str], measures: Sequence[str]) -> str:
    """Counts and sums of every slice."""
    names = ", ".join(["ts", *keep])
    raw = [names, "weight AS n", "weight * (weight - 1) AS v"]
    rolled = [names, "n", "v"]
    for name in (measure for measure in MEASURES if measure in measures):
        here = f"CASE WHEN {name} IS NOT NULL THEN {{}} END"
        exact = (
            f"CASE WHEN weight = 1 THEN CAST({name} AS DECIMAL(38, 6)) ELSE CAST(weight * {name} AS DECIMAL(38, 6)) END"
        )
        words = (here.format("weight"), f"weight * {name}" if name == "duration_ms" else exact, name, name,
                 here.format("weight * (weight - 1)"), f"weight * (weight - 1) * {name}",
                 f"weight * (weight - 1) * {name} * {name}")  # fmt: skip
        raw += [f"{word} AS {name}_{part}" for word, part in zip(words, _PARTS, strict=True)]
        rolled += [f"{name}_{part}" for part in _PARTS]
    return " UNION ALL ".join(
        f"SELECT {', '.join(raw if each.kind == 'raw' else rolled)} FROM {_from(plan, each, version)}"
        for each in plan.sources.sums
    )


def histogram_rows(plan: Plan, version: int, keep: Sequence[str], measure: str) -> str:
    """Histogram buckets of every slice."""
    names = ", ".join(["ts", *keep])
    words = {
        "raw": f"{names}, {bucket_of(measure)} AS bin, weight AS w",
        "rolled": f"{names}, UNNEST({measure}_at) AS bin, UNNEST({measure}_w) AS w",
    }
    return " UNION ALL ".join(
        f"SELECT {words[each.kind]} FROM {_from(plan, each, version)}"
        + (f" AND {measure} IS NOT NULL" if each.kind == "raw" else "")
        for each in plan.sources.sums
    )


def _from(plan: Plan, each: Slice, version: int) -> str:
    me = f"project = {quoted(plan.project)}"
    if each.kind == "rolled":
        return (
            f"rolled WHERE {me} AND rollup = {quoted(each.rollup)} AND tier = {quoted(each.tier)} AND {_within(each)}"
        )
    later = "" if each.later is None else f" AND version > {each.later}"
    return f"events WHERE {me} AND {_within(each)}{later} AND version <= {version}"


def _within(each: Slice) -> str:
    return f"ts >= make_timestamp({each.start_us}) AND ts < make_timestamp({each.end_us})"


# -- people ---------------------------------------------------------------------------------------------------------


def raw_people(plan: Plan, version: int, keep: Sequence[str]) -> list[str]:
    """The people of raw rows and of sightings, by their numbers; those who have none yet get negative ones."""
    names, me = ", ".join(["ts", *keep]), f"project = {quoted(plan.project)}"
    parts = []
    for each in (each for each in plan.sources.people if each.kind == "raw"):
        later = "" if each.later is None else f" AND version > {each.later}"
        where = f"{me} AND {_within(each)}{later} AND version <= {version}"
        parts.append(f"SELECT {names}, COALESCE(user_id, device_id) AS actor FROM events WHERE {where}")
        parts.append(f"SELECT {names}, actor FROM sightings WHERE {where}")
    if not parts:
        return []
    return [
        f"SELECT {names}, COALESCE(number, -DENSE_RANK() OVER (ORDER BY f.actor)) AS person "
        f"FROM ({' UNION ALL '.join(parts)}) AS f LEFT JOIN (SELECT number, actor FROM people WHERE {me}) AS p "
        "ON p.actor = f.actor WHERE f.actor IS NOT NULL"
    ]


def activity_rows(plan: Plan, keep: Sequence[str], grain: str | None) -> list[str]:
    """Who was active in the activity slice, each day cut at the range's edges and into the question's buckets."""
    found = []
    for each in (each for each in plan.sources.people if each.kind == "activity"):
        table = "activity" if keep else "active_days"
        names = "".join(f"{name}, " for name in keep)
        first, last = each.start_us // US_DAY, -(-each.end_us // US_DAY)
        me = f"project = {quoted(plan.project)}"
        if _whole(plan, each, grain):
            at = f"make_timestamp(day * {US_DAY}) AS ts"
            found.append(f"SELECT {at}, {names}person FROM {table} WHERE {me} AND day >= {first} AND day < {last}")
            continue
        cells = list(_cells(plan, each, grain))
        pairs = ", ".join(f"({day}, {at}, {low}, {high})" for day, at, low, high in cells)
        found.append(
            f"SELECT make_timestamp(c.us) AS ts, {names}person FROM {table} AS a JOIN (VALUES {pairs}) AS "
            f"c(on_day, us, lows, highs) ON a.day = c.on_day AND ((a.low & c.lows) <> 0 OR (a.high & c.highs) <> 0) "
            f"WHERE {me} AND day >= {first} AND day < {last}"
        )
    return found


def _whole(plan: Plan, each: Slice, grain: str | None) -> bool:
    """Whether every UTC day lies in one bucket, so that no mask has to be looked at."""
    utc = all(piece.offset_us % US_DAY == 0 for piece in plan.pieces)
    edges = each.start_us % US_DAY == 0 and each.end_us % US_DAY == 0
    return edges and (grain is None or (utc and grain not in ("hour", "hour_of_day")))


def _cells(plan: Plan, each: Slice, grain: str | None) -> Iterator[tuple[int, int, int, int]]:
    """The pieces into which buckets, UTC days and the range's edges cut the slice: `(day, moment, low, high)`."""
    edges = {each.start_us, each.end_us}
    if grain is not None:
        kind = Grain.HOUR if grain in ("hour", "hour_of_day") else Grain.DAY
        edges |= {us for us in bucket_starts(plan.range, kind) if each.start_us < us < each.end_us}
    edges |= set(range(-(-each.start_us // US_DAY) * US_DAY, each.end_us, US_DAY))
    ordered = sorted(edges)
    for start, end in pairwise(ordered):
        day = start // US_DAY
        first, last = ((us - day * US_DAY) // QUARTER for us in (start, end))
        mask = (1 << last) - (1 << first)
        yield day, start, mask & (2**48 - 1), mask >> 48
