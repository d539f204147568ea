"""Each source of an answer as a select of rows of state, one below the other. Texts of SQL; values come as literals.

Every row has `ts` (a moment within its bucket), the dimensions that the question needs, and then what it is for: state
(`n`, `v`, `<measure>_<part>`), a histogram bucket (`bin`, `w`), or a `person`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TypeAlias

from gnomon.query.plan import Plan
from gnomon.query.sources import Slice
from gnomon.store.dialect import Dialect, quoted
from gnomon.store.rollups import MEASURES, QUARTER, bucket_of
from gnomon.timerange import US_DAY, Grain, bucket_starts

_PARTS = ("has", "sum", "min", "max", "v0", "v1", "v2")


def state_rows(plan: Plan, version: int, keep: Sequence[str], measures: Sequence[str], words: Dialect) -> str:
    """Counts and sums of every slice."""
    names = ", ".join(["ts", *keep])
    raw = [names, "weight AS n", "weight * (weight - 1) AS v"]
    rolled = [names, "n", "v"]
    for name in (measure for measure in MEASURES if measure in measures):
        here = f"CASE WHEN {name} IS NOT NULL THEN {{}} END"
        exact = f"CASE WHEN weight = 1 THEN CAST({name} AS DECIMAL(38, 6)) ELSE {words.exact(f'weight * {name}')} END"
        parts = (here.format("weight"), f"weight * {name}" if name == "duration_ms" else exact, name, name,
                 here.format("weight * (weight - 1)"), f"weight * (weight - 1) * {name}",
                 f"weight * (weight - 1) * {name} * {name}")  # fmt: skip
        raw += [f"{word} AS {name}_{part}" for word, part in zip(parts, _PARTS, strict=True)]
        rolled += [f"{name}_{part}" for part in _PARTS]
    return " UNION ALL ".join(
        f"SELECT {', '.join(raw if each.kind == 'raw' else rolled)} FROM {_from(plan, each, version)}"
        for each in plan.sources.sums
    )


def histogram_rows(plan: Plan, version: int, keep: Sequence[str], measure: str, words: Dialect) -> str:
    """Histogram buckets of every slice."""
    names = ", ".join(["ts", *keep])
    bins, weights = words.apart(f"{measure}_at", f"{measure}_w")
    parts = {
        "raw": f"{names}, {bucket_of(measure)} AS bin, weight AS w",
        "rolled": f"{names}, {bins} AS bin, {weights} AS w",
    }
    return " UNION ALL ".join(
        f"SELECT {parts[each.kind]} FROM {_from(plan, each, version)}"
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


def people_rows(plan: Plan, version: int, keep: Sequence[str], grain: str | None, words: Dialect) -> str:
    """Who was active: of rollups, with days cut at the range's edges and into the question's buckets; of raw rows."""
    parts = []
    for each in _activity(plan):
        days, cells = _cut(plan, each, grain)
        if days is not None:
            parts.append(_whole_days(plan, keep, days))
        if cells:
            parts.append(_parts_of_days(plan, keep, cells, words))
    return " UNION ALL ".join(parts + _raw_people(plan, version, keep))


def people_by_day(plan: Plan, version: int, words: Dialect) -> str | None:
    """How many were `seen` on each UTC day: `active_days` has one row for each, so that they need not be compared.

    None for the days of other zones.
    """
    if any(piece.offset_us % US_DAY for piece in plan.pieces):
        return None
    counted, others = [], []
    for each in _activity(plan):
        days, cells = _cut(plan, each, "day")
        if days is None:
            return None
        counted.append(days)
        if cells:
            others.append(_parts_of_days(plan, (), cells, words))
    if not counted:
        return None
    me = f"project = {quoted(plan.project)}"
    there = " OR ".join(f"day >= {first} AND day < {end}" for first, end in counted)
    at = f"make_timestamp(day * {US_DAY}) AS ts, COUNT(*) AS seen"
    whole = f"SELECT {at} FROM active_days WHERE {me} AND ({there}) GROUP BY day"
    others += _raw_people(plan, version, ())
    if not others:
        return whole
    return (
        f"{whole} UNION ALL SELECT {at} FROM (SELECT DISTINCT divide(epoch_us(ts), {US_DAY}) AS day, person FROM "
        f"({' UNION ALL '.join(others)}) AS late) AS o LEFT JOIN (SELECT day AS on_day, person AS known "
        f"FROM active_days WHERE {me} AND ({there})) AS a ON a.on_day = o.day AND a.known = o.person "
        "WHERE a.known IS NULL GROUP BY day"
    )


def _activity(plan: Plan) -> list[Slice]:
    return [each for each in plan.sources.people if each.kind == "activity"]


def _raw_people(plan: Plan, version: int, keep: Sequence[str]) -> list[str]:
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
    rows = f"({' UNION ALL '.join(parts)})"
    known = f"(SELECT number, actor FROM people WHERE {me} AND actor IN (SELECT actor FROM {rows} AS k))"
    return [
        f"SELECT {names}, COALESCE(number, -DENSE_RANK() OVER (ORDER BY f.actor)) AS person FROM {rows} AS f "
        f"LEFT JOIN {known} AS p ON p.actor = f.actor WHERE f.actor IS NOT NULL"
    ]


def _whole_days(plan: Plan, keep: Sequence[str], days: tuple[int, int]) -> str:
    names = "".join(f"{name}, " for name in keep)
    return (
        f"SELECT make_timestamp(day * {US_DAY}) AS ts, {names}person FROM {_table(keep)} "
        f"WHERE project = {quoted(plan.project)} AND day >= {days[0]} AND day < {days[1]}"
    )


def _parts_of_days(plan: Plan, keep: Sequence[str], cells: Sequence[Cell], words: Dialect) -> str:
    names = "".join(f"{name}, " for name in keep)
    listed = words.listed("c", ("on_day", "us", "lows", "highs"), cells)
    return (
        f"SELECT make_timestamp(c.us) AS ts, {names}person FROM {_table(keep)} AS a JOIN {listed} "
        f"ON a.day = c.on_day AND ({words.meets('a.low', 'c.lows')} OR "
        f"{words.meets('a.high', 'c.highs')}) "
        f"WHERE project = {quoted(plan.project)} AND day >= {cells[0][0]} AND day <= {cells[-1][0]}"
    )


def _table(keep: Sequence[str]) -> str:
    return "activity" if keep else "active_days"


def _cut(plan: Plan, each: Slice, grain: str | None) -> tuple[tuple[int, int] | None, list[Cell]]:
    """The first UTC days `(first, end)` that lie in one bucket each, so that no mask has to be looked at; the rest."""
    cells = list(_cells(plan, each, grain))
    whole = {day for day, _, low, high in cells if low == high == 2**48 - 1}
    if not whole:
        return None, cells
    first = end = min(whole)
    while end in whole:
        end += 1
    return (first, end), [cell for cell in cells if not first <= cell[0] < end]


#: A UTC day, the moment at which a part of it begins, and the masks of its quarter-hours.
Cell: TypeAlias = tuple[int, int, int, int]


def _cells(plan: Plan, each: Slice, grain: str | None) -> Iterator[Cell]:
    """The pieces into which buckets, UTC days and the range's edges cut the slice."""
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
