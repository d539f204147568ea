"""A query becomes a plan in pure steps: resolve the range, choose the grain's pieces, choose the basis, weigh.

Each step takes a value and returns one; none reaches a store. What they need to know of the data comes in as `Facts`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from gnomon.errors import RangeTooLarge
from gnomon.query.gaps import gap_buckets, holes, in_words, seconds_of
from gnomon.query.model import Query
from gnomon.query.sources import RolledUp, Sources, choose
from gnomon.store.aliveness import Span
from gnomon.timerange import (
    US_DAY,
    US_HOUR,
    DateRange,
    Grain,
    OffsetPiece,
    bucket_starts,
    load_zone,
    offset_pieces,
    resolve_range,
    to_us,
)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a plan may know of the data: the time, the first event, and the spans that hold weights other than 1."""

    now: datetime
    zone: ZoneInfo
    earliest_us: Callable[[], int | None]
    weighted_spans: tuple[tuple[int, int], ...]
    version: int
    max_buckets: int
    max_rows: int
    rolled_up: RolledUp | None = None
    late: bool = True  #: there may be rows behind the watermark that are not in the rollups yet
    pruned: tuple[tuple[str, str | None, int], ...] = ()  #: kind, type, and the moment before which it is gone
    as_of: int | None = None  #: the data version of the first page, for those that follow
    sighted: bool = False  #: sampling left people out of the events, so they are counted from sightings as well
    settled: bool = False  #: all of this is of one data version
    alive: tuple[Span, ...] = ()  #: when somebody was there to record; none: nothing is known, so there are no gaps


@dataclass(frozen=True)
class Plan:
    """Everything the compiler needs. `basis` says what the answer will rest on, `steps` how it was chosen."""

    query: Query
    project: str
    range: DateRange
    pieces: tuple[OffsetPiece, ...]
    buckets: tuple[int, ...] | None
    basis: str
    weighted: bool
    page: int
    version: int
    steps: tuple[str, ...]
    sources: Sources = field(default_factory=Sources)
    uncollected: tuple[Span, ...] = ()  #: the parts of the range in which nobody was there to record, half-open
    gaps: frozenset[int] = frozenset()  #: the buckets that lie wholly in them

    @property
    def rolled(self) -> bool:
        """Whether counts and sums, and so percentiles, rest on rollups, alone or with raw rows."""
        return any(part.kind != "raw" for part in self.sources.sums)


def make_plan(query: Query, project: str, facts: Facts, span: tuple[int, int] | None = None) -> Plan:
    """All steps in order. Raises `InvalidValue` for a bad range or zone, `RangeTooLarge` for too many buckets.

    `span` is the range of the page before, in UTC microseconds: "24h" has moved on since then.
    """
    zone = facts.zone if query.timezone is None else load_zone(query.timezone)
    found = resolve_range(query.date_range, now=facts.now, zone=zone, earliest_us=facts.earliest_us)
    if span is not None:
        found = replace(found, start_us=span[0], end_us=span[1])
    plan = Plan(query, project, found, (), None, "raw", False, 0, facts.version, ())
    for step in STEPS:
        plan = step(plan, facts)
    return plan


def shifted(plan: Plan, facts: Facts) -> Plan:
    """The plan of the period that `plan.query.compare` names."""
    compare = plan.query.compare
    if compare in ("previous", "previous_period"):
        other = plan.range.previous()
    elif compare in ("year", "year_over_year"):
        other = plan.range.year_before()
    else:
        other = resolve_range(compare, now=facts.now, zone=plan.range.zone, earliest_us=facts.earliest_us)
    plan = replace(plan, range=other, steps=())
    for step in STEPS:
        plan = step(plan, facts)
    return plan


_NO_EVENT_BEFORE_US = -20 * 366 * US_DAY
_NO_EVENT_AHEAD_US = 20 * 366 * US_DAY


def _noted(plan: Plan, text: str, **changes: Any) -> Plan:
    return replace(plan, steps=(*plan.steps, text), **changes)


def _choose_grain(plan: Plan, facts: Facts) -> Plan:
    """The UTC offsets that hold in the range, and the buckets when time is the only dimension."""
    times = [dimension for dimension in plan.query.dimensions if dimension.kind == "time"]
    span = f"range [{plan.range.start.isoformat()}, {plan.range.end.isoformat()})"
    if not times:
        return _noted(plan, f"{span}; no time dimension")
    pieces = _pieces(plan.range, to_us(facts.now))
    buckets = None
    if plan.query.time_only:
        try:
            buckets = tuple(bucket_starts(plan.range, Grain(times[0].grain or ""), facts.max_buckets))
        except RangeTooLarge as error:
            raise RangeTooLarge(error.message, remedy="Ask a shorter range or a coarser grain.") from None
    return _noted(
        plan, f"{span}; {times[0].name} in {len(pieces)} stretch(es) of one UTC offset", pieces=pieces, buckets=buckets
    )


def _pieces(span: DateRange, now_us: int) -> tuple[OffsetPiece, ...]:
    """The stretches of one offset in which events can lie; ten thousand years have twenty thousand of them."""
    # Two hours earlier, so that a change of clock just where the range begins is seen as the cut that it is.
    start, end = max(span.start_us, _NO_EVENT_BEFORE_US) - 2 * US_HOUR, min(span.end_us, now_us + _NO_EVENT_AHEAD_US)
    return offset_pieces(span.zone, start, end) or offset_pieces(span.zone, span.start_us, span.start_us + 1)


def _choose_basis(plan: Plan, facts: Facts) -> Plan:
    """Rollups where they answer what was asked, with the raw rows that they do not have yet; else raw rows."""
    sources = choose(plan, facts)
    if not sources.sums and not sources.people:
        why = f", as {sources.reason}" if sources.reason and (facts.rolled_up or facts.sighted) else ""
        return _noted(plan, f"basis: raw rows{why}", basis="raw", sources=sources)
    parts = [*sources.sums, *sources.people]
    rolled = sorted({f"{part.rollup} {part.tier}".strip() or "activity" for part in parts if part.kind != "raw"})
    mixed = any(part.kind == "raw" for part in parts)
    basis = "raw" if not rolled else "rollups and raw" if mixed else "rollups"
    text = f"basis: {basis} ({', '.join(rolled)})" if rolled else "basis: raw rows and sightings"
    return _noted(plan, text, basis=basis, sources=sources)


def _weigh(plan: Plan, facts: Facts) -> Plan:
    """Rows of weight 1 are counted; where other weights occur in the range, every metric is weighted."""
    touched = plan.query.data.has_weight and any(
        first < plan.range.end_us and last >= plan.range.start_us for first, last in facts.weighted_spans
    )
    return _noted(
        plan, "weights: " + ("summed, answer is an estimate" if touched else "all 1, answer is exact"), weighted=touched
    )


def _find_gaps(plan: Plan, facts: Facts) -> Plan:
    """Where in the range, up to now, nobody was there to record."""
    start, end = plan.range.start_us, min(plan.range.end_us, to_us(facts.now) + 1)
    found = holes(facts.alive, start, end)
    if not found:
        return plan
    gaps = frozenset[int]() if plan.buckets is None else gap_buckets(found, plan.buckets, start, end)
    return _noted(plan, f"gaps: nothing was collected for {in_words(seconds_of(found))} of the range",
                  uncollected=found, gaps=gaps)  # fmt: skip


def _page(plan: Plan, facts: Facts) -> Plan:
    page = min(plan.query.limit or facts.max_rows, facts.max_rows)
    return replace(plan, page=page)


STEPS = (_choose_grain, _find_gaps, _choose_basis, _weigh, _page)
