"""Gaps: the time of a range in which nobody was there to record, and the buckets of a series that lie wholly in it.

A bucket in which somebody was there is never a gap, and neither is one that holds events: late and imported ones fill
it. Before the first heartbeat, and after now, nothing is known, and nothing is a gap.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence

from gnomon.store import Store
from gnomon.store.aliveness import ALIVE, Span, joined
from gnomon.store.dialect import quoted
from gnomon.timerange import US_DAY, US_SECOND


def read_alive(store: Store, project: str, timeout: float) -> tuple[Span, ...]:
    """When somebody was there, as the store has it: first and last moments, both included, in order."""
    return tuple(joined(store.ask([ALIVE.format(quoted(project))], timeout)[0].rows, 0))


def with_own(alive: tuple[Span, ...], own: Span | None, slack: int) -> tuple[Span, ...]:
    """The same with the span of the engine that asks, whose last beats the store may not have."""
    if own is None:
        return alive
    first, last = own
    behind = len(alive)
    while behind and alive[behind - 1][1] >= first - slack:
        behind -= 1
        first, last = min(first, alive[behind][0]), max(last, alive[behind][1])
    return (*alive[:behind], (first, last))


def holes(alive: Sequence[Span], start_us: int, end_us: int) -> tuple[Span, ...]:
    """The half-open spans of [start, end) that lie between, or behind, those in which somebody was there."""
    return tuple(_holes(alive, start_us, end_us))


def _holes(alive: Sequence[Span], start_us: int, end_us: int) -> Iterator[Span]:
    behind = max(0, bisect_right(alive, (start_us, end_us)) - 1)
    for place in range(behind, len(alive)):
        if alive[place][0] >= end_us:
            return
        following = alive[place + 1][0] if place + 1 < len(alive) else end_us
        first, last = max(start_us, alive[place][1] + 1), min(end_us, following)
        if first < last:
            yield first, last


def gap_buckets(found: Sequence[Span], buckets: Sequence[int], start_us: int, end_us: int) -> frozenset[int]:
    """The buckets, by their starts, whose part of [start, end) lies wholly in one of the holes."""
    gaps = []
    for first, last in found:
        place = 0 if first <= start_us else bisect_left(buckets, first)  # the first bucket may begin before the range
        while place < len(buckets) and buckets[place] < end_us:
            end = buckets[place + 1] if place + 1 < len(buckets) else end_us
            if min(end, end_us) > last:
                break
            gaps.append(buckets[place])
            place += 1
    return frozenset(gaps)


def seconds_of(found: Sequence[Span]) -> float:
    """How long holes are together."""
    return sum(last - first for first, last in found) / US_SECOND


def in_words(seconds: float) -> str:
    """A length of time in its two largest units: `3 h 20 min`."""
    left, parts = round(seconds), []
    for name, width in (("d", US_DAY // US_SECOND), ("h", 3_600), ("min", 60), ("s", 1)):
        if left >= width:
            parts.append(f"{left // width} {name}")
            left %= width
    return " ".join(parts[:2]) or "less than 1 s"
