"""Where an answer's rows come from: raw rows, rollups, or rollups with the raw rows that they do not have yet.

A question is answered from rollups when they answer it as raw rows would (percentiles within 1 %). What only raw rows
could answer is refused, with the reason, where they are gone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from gnomon.catalog import Dimension, find_dimension
from gnomon.errors import InvalidValue
from gnomon.metrics import Count, Max, Mean, Min, Quantile, Ratio, Sum, Unique
from gnomon.metrics import Expression as MetricExpression
from gnomon.query.model import All, Either, Filter, Not, Query, Test, parse_filters
from gnomon.store.pruning import LOST_PEOPLE, LOST_SUMS
from gnomon.store.rollups import ACTIVITY, HISTOGRAMS, MEASURES, QUARTER, kept_by
from gnomon.timerange import US_HOUR, Grain, from_us, period_number, period_start_us

if TYPE_CHECKING:
    from gnomon.query.plan import Facts, Plan


@dataclass(frozen=True)
class RolledUp:
    """How far a project is rolled up (see `upkeep.rollup`), and which raw and rolled time is gone."""

    until_us: int
    version: int
    width: int
    rollups: tuple[str, ...]
    zones: tuple[str, ...]

    def that_keeps(self, columns: set[str]) -> str | None:
        """The first rollup that keeps these columns apart."""
        return next((rollup for rollup in self.rollups if columns <= set(kept_by(rollup))), None)


@dataclass(frozen=True)
class Slice:
    """A span of time and where its rows come from: `raw`, `rolled` (of one rollup and tier) or `activity`.

    `later` is for raw rows: only those of a data version above it.
    """

    kind: str
    start_us: int
    end_us: int
    rollup: str = ""
    tier: str = ""
    later: int | None = None


@dataclass(frozen=True)
class Sources:
    """The slices of the counts and sums, and of the people; `reason` says why it had to be raw rows."""

    sums: tuple[Slice, ...] = ()
    people: tuple[Slice, ...] = ()
    reason: str = ""


_NEVER = -(2**62)
MOST_HOURS = 50_000  #: into which days of people are cut for one question; a statement has a line for each
Leaf: TypeAlias = Count | Sum | Mean | Min | Max | Unique | Quantile


def choose(plan: Plan, facts: Facts) -> Sources:
    """The sources of a plan, empty for raw rows only. Raises `InvalidValue` (code `raw-rows-gone`) as said above."""
    rolled, span = facts.rolled_up, plan.range
    if plan.query.data.name != "events":
        if span.start_us < max((before for kind, _, before in facts.pruned if kind == "sample"), default=_NEVER):
            raise _refused("samples are not rolled up")
        return Sources(reason="samples are not rolled up")
    gone = _gone(plan.query, facts)
    reason = _only_raw(plan, rolled) if rolled is not None else "nothing is rolled up yet"
    if not reason and plan.query.basis == "raw":
        reason = "raw rows were asked for"
    if not reason and rolled is not None and facts.as_of is not None and facts.as_of < rolled.version:
        reason = "the rollups are newer than the first page"
    lost = _lost(plan, facts) if not reason and rolled is not None else ""
    reason = reason or lost
    if reason:
        if span.start_us < gone:
            raise _refused(reason, _RESTORE if lost else _NARROWER)
        return _with_sightings(plan, reason) if facts.sighted else Sources(reason=reason)
    assert rolled is not None
    if span.start_us < max((before for kind, _, before in facts.pruned if kind == "day"), default=_NEVER):
        raise _refused("so were the rollups")
    sums: tuple[Slice, ...] = ()
    people: tuple[Slice, ...] = ()
    if _needs_sums(plan):
        sums = tuple(_sums(plan, facts, rolled, gone))
    if _needs_people(plan):
        people = tuple(_people(plan, facts, rolled, gone))
    if all(part.kind == "raw" for part in sums + people):
        reason = "the range is not rolled up"
        return _with_sightings(plan, reason) if facts.sighted else Sources(reason=reason)
    return Sources(sums, people)


def _with_sightings(plan: Plan, reason: str) -> Sources:
    """Raw rows, and for people those whose events sampling left out, where these can be told apart as asked."""
    query = plan.query
    people = [leaf for leaf in leaves(query) if isinstance(leaf, Unique) and leaf.field == "actor"]
    if not people or needed(query, people=True) - set(ACTIVITY) or any(_of_metric(m.expression) for m in query.metrics):
        return Sources(
            reason=f"{reason}; people of events that sampling left out are not counted" if people else reason
        )
    whole = (Slice("raw", plan.range.start_us, plan.range.end_us),)
    return Sources(whole if len(people) < len(list(leaves(query))) or query.dimensions else (), whole, reason)


def _needs_sums(plan: Plan) -> bool:
    """A series shows every bucket anyway; where one may be a gap it has to be known whether it holds any rows."""
    listed = plan.query.dimensions and (plan.buckets is None or plan.gaps)
    return bool(listed) or any(not isinstance(leaf, Unique) for leaf in leaves(plan.query))


def _needs_people(plan: Plan) -> bool:
    return any(isinstance(leaf, Unique) for leaf in leaves(plan.query))


def _lost(plan: Plan, facts: Facts) -> str:
    """Why rollups cannot answer though they once held all of it; empty if they can."""
    needed = {LOST_SUMS} if _needs_sums(plan) else set()
    needed |= {LOST_PEOPLE} if _needs_people(plan) else set()
    for start, end in lost_spans(facts.pruned, needed):
        if start < plan.range.end_us and end > plan.range.start_us:
            return f"rollups before {from_us(end):%Y-%m-%d %H:%M} UTC were lost with a damaged part of the store"
    return ""


def lost_spans(pruned: Iterable[tuple[str, str | None, int]], kinds: Collection[str]) -> list[tuple[int, int]]:
    """Of the rows of `pruned` the spans in which rollups of these kinds were lost, first ones first."""
    return sorted((int(first), before) for kind, first, before in pruned if kind in kinds and first is not None)


def leaves(query: Query) -> Iterator[Leaf]:
    """The parts of every metric: a ratio's numerator and denominator, else the metric itself."""
    for metric in query.metrics:
        node = metric.expression
        yield from (node.numerator, node.denominator) if isinstance(node, Ratio) else (node,)


def needed(query: Query, *, people: bool) -> set[str]:
    """The columns that dimensions, filters and metrics (of people, or the others) look at, measures aside."""
    found = {column for dimension in query.dimensions for column in _columns(dimension)}
    found |= set(_filtered(query.filters))
    for leaf in (leaf for leaf in leaves(query) if isinstance(leaf, Unique) == people):
        found |= set(_filtered(parse_filters(query.data, leaf.where)))
        if isinstance(leaf, Count) and leaf.field is not None and leaf.field not in MEASURES:
            found |= set(_columns(find_dimension(query.data, leaf.field)))
    return found


def _columns(dimension: Dimension) -> tuple[str, ...]:
    if dimension.kind == "time":
        return ()
    return ("status_code",) if dimension.column == "status_class" else (dimension.column,)


def _filtered(node: Filter | None) -> Iterator[str]:
    if isinstance(node, All | Either):
        for part in node.parts:
            yield from _filtered(part)
    elif isinstance(node, Not):
        yield from _filtered(node.part)
    elif isinstance(node, Test):
        yield from _columns(node.dimension)


def _only_raw(plan: Plan, rolled: RolledUp) -> str:
    """Why only raw rows can answer; empty if rollups can."""
    query = plan.query
    asked = needed(query, people=False)
    foreign = sorted(asked.difference(*(kept_by(rollup) for rollup in rolled.rollups)))
    if foreign:
        return f"rollups do not keep {foreign[0]} apart"
    if rolled.that_keeps(asked) is None:
        return f"no rollup keeps {', '.join(sorted(asked - {'type'}))} apart together"
    if any(dimension.grain == "minute" for dimension in query.dimensions):
        return "rollups have no minutes"
    if any(dimension.kind == "time" for dimension in query.dimensions):
        people = any(isinstance(leaf, Unique) for leaf in leaves(query))
        width = max(rolled.width, QUARTER if people else 0)
        if any(piece.offset_us % width for piece in plan.pieces):
            return "the zone's hours do not begin where rolled-up ones do"
    for metric in query.metrics:
        reason = _of_metric(metric.expression)
        if reason:
            return reason
    if any(isinstance(leaf, Unique) for leaf in leaves(query)):
        strange = sorted(needed(query, people=True) - set(ACTIVITY))
        if strange:
            return f"people are not kept apart by {strange[0]}"
        by_hour = any(dimension.grain in ("hour", "hour_of_day") for dimension in query.dimensions)
        if by_hour and plan.range.end_us - plan.range.start_us > MOST_HOURS * US_HOUR:
            return f"people of more than {MOST_HOURS:,} hours are not cut out of days"
    return ""


def _of_metric(node: MetricExpression) -> str:
    if isinstance(node, Ratio):
        if isinstance(node.numerator, Unique) or isinstance(node.denominator, Unique):
            return "a ratio with unique values is not kept"
        return _of_metric(node.numerator) or _of_metric(node.denominator)
    if isinstance(node, Unique):
        return "" if node.field == "actor" else f"rollups do not keep the values of {node.field}"
    if isinstance(node, Quantile):
        return "" if node.field in HISTOGRAMS else f"rollups have no histogram of {node.field}"
    if isinstance(node, Sum | Mean | Min | Max) and node.field not in MEASURES:
        return f"rollups have no sums of {node.field}"
    return ""


def _sums(plan: Plan, facts: Facts, rolled: RolledUp, gone: int) -> Iterator[Slice]:
    """Raw rows before the first whole bucket and behind the watermark, rollups between, late rows on top."""
    start, end = plan.range.start_us, plan.range.end_us
    first = -(-start // rolled.width) * rolled.width
    last = max(first, min(rolled.until_us, end) // rolled.width * rolled.width)
    if first >= min(end, rolled.until_us) or last == first:
        if start < gone:
            raise _refused("the range lies within one rolled-up bucket")
        yield Slice("raw", start, end)
        return
    if (start < first and start < gone) or (last < min(end, gone)):
        raise _refused("the range does not begin and end where rolled-up buckets do")
    rollup = rolled.that_keeps(needed(plan.query, people=False))
    assert rollup is not None  # or _only_raw would have said so
    if start < first:
        yield Slice("raw", start, first)
    yield from _tiers(plan, facts, rolled, rollup, first, last)
    if facts.late:
        yield Slice("raw", first, last, later=rolled.version)
    if last < end:
        yield Slice("raw", last, end)


def _tiers(plan: Plan, facts: Facts, rolled: RolledUp, rollup: str, first: int, last: int) -> Iterator[Slice]:
    """Whole local days where the question allows them, hours around them."""
    zone = str(plan.range.zone)
    grains = {dimension.grain for dimension in plan.query.dimensions if dimension.kind == "time"}
    days = grains <= {"day", "week", "month", "quarter", "year"}
    kept = zone if zone in rolled.zones else rolled.zones[0] if not grains else None
    hours_gone = max((before for kind, _, before in facts.pruned if kind == "hour"), default=_NEVER)
    head = tail = first
    if days and kept is not None:
        head, tail = _whole_days(plan, kept, first, last)
    if head >= tail:
        head = tail = first
    if (first < head and first < hours_gone) or tail < min(last, hours_gone):
        raise _refused("the hours of that time were pruned; only whole days are kept")
    if first < head:
        yield Slice("rolled", first, head, rollup, "hour")
    if head < tail:
        yield Slice("rolled", head, tail, rollup, f"day:{kept}")
    if tail < last:
        yield Slice("rolled", tail, last, rollup, "hour")


def _whole_days(plan: Plan, zone_name: str, first: int, last: int) -> tuple[int, int]:
    from gnomon.timerange import load_zone

    zone = load_zone(zone_name)
    number = period_number(Grain.DAY, first, zone)
    head = period_start_us(Grain.DAY, number, zone)
    if head < first:
        head = period_start_us(Grain.DAY, number + 1, zone)
    return head, period_start_us(Grain.DAY, period_number(Grain.DAY, last, zone), zone)


def _people(plan: Plan, facts: Facts, rolled: RolledUp, gone: int) -> Iterator[Slice]:
    """As `_sums`, in quarter-hours of who was active."""
    start, end = plan.range.start_us, plan.range.end_us
    first = -(-start // QUARTER) * QUARTER
    last = max(first, min(rolled.until_us, end) // QUARTER * QUARTER)
    if last == first:
        if start < gone:
            raise _refused("the range lies within one quarter-hour")
        yield Slice("raw", start, end)
        return
    if (start < first and start < gone) or (last < min(end, gone)):
        raise _refused("the range does not begin and end on a quarter-hour")
    if start < first:
        yield Slice("raw", start, first)
    yield Slice("activity", first, last)
    if facts.late:
        yield Slice("raw", first, last, later=rolled.version)
    if last < end:
        yield Slice("raw", last, end)


def _gone(query: Query, facts: Facts) -> int:
    """The moment before which raw rows that the question may be about were pruned."""
    edges = {type_: before for kind, type_, before in facts.pruned if kind == "raw"}
    types = _asked_types(query.filters)
    if types is None:
        return max(edges.values(), default=_NEVER)
    return max((edges.get(type_, edges.get(None, _NEVER)) for type_ in types), default=_NEVER)


def _asked_types(node: Filter | None) -> set[str] | None:
    """The event types that a filter admits; None when it may be any."""
    if isinstance(node, Test) and node.op == "is" and node.dimension.column == "type":
        return set(node.values)
    if isinstance(node, All):
        found = [types for types in map(_asked_types, node.parts) if types is not None]
        return set.intersection(*found) if found else None
    return None


_NARROWER = "Ask a range that begins and ends at midnight, by dimensions that rollups keep, or a later range."
_RESTORE = "Ask a range without that time (`gnomon doctor` names it), or restore a backup from before the damage."


def _refused(reason: str, remedy: str = _NARROWER) -> InvalidValue:
    return InvalidValue(f"raw rows of that time were pruned, and {reason}", remedy=remedy, code="raw-rows-gone")
