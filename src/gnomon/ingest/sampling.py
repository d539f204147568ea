"""Sampling: when events come faster than a threshold, a share of the live requests is kept, and weighs the more.

A row is kept with a probability that depends on the pace alone, never on what the row says, and its weight is divided
by it, so every sum stays unbiased. Failures, other types and the first events of each source in a minute are strata
of their own, kept as they are. Nothing here reads a clock, a disk or a source of chance.
"""

from __future__ import annotations

import math
import sys
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import compress, repeat
from random import Random
from typing import Any
from zlib import crc32

from gnomon.config import Settings
from gnomon.event import AT, Batch, Row, Rows, column, sources_of
from gnomon.ingest.thresholds import Thresholds

QUARTER_US = 900_000_000
_MINUTE_NS = 60_000_000_000
_SET_BACK_NS = 1_000_000_000  #: more than threads may disagree: the clock was set back
SLICES = 5  #: from which the pace is told
AT_FULL = 4  #: slices that are looked at as one while sampling is in full force, to save time
#: Sightings that are remembered so that they are not noted again; about 10 MB.
MOST_REMEMBERED = 50_000
_WEIGHT = AT["weight"]
_WHO = ("user_id", "device_id", "type", "source", "application")
_TOLD = frozenset(map(AT.__getitem__, ("ts", *_WHO)))  #: what is asked of rows that are left out

#: Start and end of a slice of a batch, its keep probability, and when its last row was recorded.
Slice = tuple[int, int, float, int]


class Sampler:
    """Thins out the batches of one project in one process. Not for two threads at once.

    `thin` changes a batch; `noted` says that the sightings of a batch will not be lost, so need not come again, and
    `note_again` that they went all the same.
    """

    def __init__(self, settings: Settings, project: str) -> None:
        self._types = frozenset(settings.sampled_types)
        self._salt = crc32(f"{project}\0{settings.sampling_seed}".encode())
        self._pace = Pace()
        self._floor = Floor(settings.sampling_floor_per_source)
        self._remembered: set[Row] = set()

    def thin(self, batch: Batch, at: Callable[[int], int], thresholds: Thresholds) -> None:
        """Take the rows out that are not kept, weigh those that are, count and note what is gone.

        `at(place)` is when the row in that place was recorded, in nanoseconds. All rows count for the pace.
        """
        rows = batch.rows
        hot = self._slices(len(rows), at, thresholds)
        if not hot:
            return
        first, last = hot[0][0], hot[-1][1]
        chosen = list(map(self._types.__contains__, column(rows, "type")[first:last]))
        if True not in chosen:
            return
        places = list(compress(range(first, last), chosen))  # of the types that may be left out
        ids = column(rows, "id")
        if batch.checked_ids:
            luck = coins(list(compress(ids[first:last], chosen)), self._salt)
        else:  # made here, in a row, and never sent again
            luck = list(compress(coins_in_a_row(ids[first], last - first, self._salt), chosen))
        outcomes, sources, weights = column(rows, "success"), column(rows, "source"), list(column(rows, "weight"))
        gone: list[int] = []
        for start, end, probability, moment in hot:
            self._floor.begin(moment, thresholds.low)
            part = slice(bisect_left(places, start), bisect_left(places, end))
            self._decide(zip(places[part], luck[part], strict=True), probability, outcomes, sources, weights, gone)
        batch.rows, left_out = _parted(rows, weights, gone)
        batch.counts += [["event", source, "sampled_out", "", n] for source, n in left_out.sources().items()]
        batch.sightings = [row for row in sightings_of(left_out) if row not in self._remembered]

    def noted(self, sightings: Sequence[Row]) -> None:
        """Remember sightings that are safe with somebody, so that they are not noted once more."""
        if len(self._remembered) + len(sightings) > MOST_REMEMBERED:
            self._remembered.clear()
        self._remembered.update(sightings)

    def note_again(self) -> None:
        """Note everybody afresh: what was noted so far is no longer there."""
        self._remembered.clear()

    def _slices(self, count: int, at: Callable[[int], int], thresholds: Thresholds) -> list[Slice]:
        """The slices of a batch that came faster than the low threshold; neighbours of one probability are one."""
        step, low, high, hot = thresholds.slice, thresholds.low, thresholds.high, list[Slice]()
        start, pace = 0, 0.0
        while start < count:
            end = min(start + (step if pace < high else AT_FULL * step), count)
            moment = at(end - 1)
            pace = self._pace.add(end - start, moment, step)
            if pace > low:
                probability = thresholds.keep(pace)
                first = hot.pop()[0] if hot and hot[-1][1:3] == (start, probability) else start
                hot.append((first, end, probability, moment))
            start = end
        return hot

    def _decide(self, drawn: Iterable[tuple[int, int]], probability: float, outcomes: Sequence[Any],
                sources: Sequence[Any], weights: list[float], gone: list[int]) -> None:  # fmt: skip
        """Note the places of rows that go, and the weights of those that stay for others."""
        floor, limit, factor = self._floor, int(probability * 2**32), 1 / probability
        drop, spent, left = gone.append, floor.spent, floor.left > 0
        for place, coin in drawn:
            if outcomes[place] is False:
                continue
            if left and sources[place] not in spent and floor.keeps(sources[place]):
                continue
            if coin >= limit:
                drop(place)
            else:
                weights[place] *= factor


class Pace:
    """How fast events came lately: told from how long the last five slices took, so it follows at any speed."""

    def __init__(self) -> None:
        self._count = 0
        self._marks: deque[tuple[int, int]] = deque()  # events so far, nanoseconds

    def add(self, events: int, at_ns: int, step: int) -> float:
        """Count events, the last of them at `at_ns`; events a minute, 0 until five times `step` events are known."""
        marks, window = self._marks, SLICES * step
        if marks and at_ns < marks[-1][1]:
            if at_ns < marks[-1][1] - _SET_BACK_NS:
                marks.clear()
            else:
                at_ns = marks[-1][1]
        self._count = count = self._count + events
        if len(marks) > 1 and count - marks[-2][0] <= step:
            marks[-1] = (count, at_ns)  # small batches share a mark
        else:
            marks.append((count, at_ns))
        while len(marks) > 1 and count - marks[1][0] >= window:
            marks.popleft()
        seen, took = count - marks[0][0], at_ns - marks[0][1]
        if seen < window:
            return 0.0
        return seen * _MINUTE_NS / took if took else math.inf


class Floor:
    """The first `each` events of every source in a minute are kept, so that a small source never disappears.

    At most `low` events a minute are kept so, however many sources there are: memory and the store stay bounded.
    """

    def __init__(self, each: int) -> None:
        self._each = each
        self._minute = -1
        self._seen: dict[str | None, int] = {}
        self.spent: set[str | None] = set()  #: sources that have had theirs
        self.left = 0.0  #: what may still be kept so in this minute

    def begin(self, at_ns: int, low: float) -> None:
        """Start afresh if that is in another minute."""
        if at_ns // _MINUTE_NS != self._minute:
            self._minute = at_ns // _MINUTE_NS
            self._seen, self.spent, self.left = {}, set(), low if self._each else 0.0

    def keeps(self, source: str | None) -> bool:
        """Whether one more event of the source is kept whatever its coin says; counts it."""
        if self.left <= 0:
            return False
        self.left -= 1
        seen = self._seen[source] = self._seen.get(source, 0) + 1
        if seen >= self._each:
            self.spent.add(source)
        return True


def coins(ids: Sequence[str], salt: int) -> list[int]:
    """A number from 0 to 2**32 - 1 for each id: the same wherever and whenever it is thrown, and like no other's."""
    return _mixed(array("Q", map(crc32, map(str.encode, ids), repeat(salt))))


def coins_in_a_row(first: str, count: int, salt: int) -> list[int]:
    """Coins for ids that were made here in a row, told by the first of them: 0.02 us each instead of 0.2."""
    drawn = Random(crc32(first.encode(), salt)).randbytes(4 * count)
    return memoryview(drawn).cast("I").tolist()


def _mixed(lanes: array[int]) -> list[int]:
    """Numbers that look drawn, from such as follow a pattern: a CRC is linear. This is Wellons' `lowbias32`.

    All go through it together, as lanes of one integer with 64 bits each: 0.02 us instead of 0.2.
    """
    count = len(lanes)
    one = int.from_bytes(array("Q", [1]).tobytes() * count, sys.byteorder)
    low_32, low_17, low_16 = one * 0xFFFF_FFFF, one * 0x1_FFFF, one * 0xFFFF
    x = int.from_bytes(lanes.tobytes(), sys.byteorder) & low_32
    x ^= x >> 16 & low_16
    x = x * 0x7FEB_352D & low_32
    x ^= x >> 15 & low_17
    x = x * 0x846C_A68B & low_32
    x ^= x >> 16 & low_16
    return memoryview(x.to_bytes(8 * count, sys.byteorder)).cast("Q").tolist()


def _parted(rows: Sequence[Row], weights: list[float], gone: Sequence[int]) -> tuple[Rows, Rows]:
    """The rows that stay, with these weights, and those in the places of `gone`, as far as anybody asks of them."""
    stay = bytearray(b"\x01") * len(rows)
    for place in gone:
        stay[place] = 0
    go = stay.translate(bytes([1]) + bytes(255))
    columns: list[Sequence[Any] | None] = [*(rows.columns if isinstance(rows, Rows) else zip(*rows, strict=True))]
    columns[_WEIGHT] = weights
    kept = Rows([None if one is None else list(compress(one, stay)) for one in columns], len(rows) - len(gone))
    told = [one if place in _TOLD else None for place, one in enumerate(columns)]
    left_out = Rows([None if one is None else list(compress(one, go)) for one in told], len(gone))
    kept.counted = sources_of(rows) - left_out.sources()
    return kept, left_out


def sightings_of(rows: Sequence[Row]) -> Iterable[Row]:
    """Who was seen in rows, once each: `(start of the quarter-hour in us, actor, type, source, application)`."""
    moments, *people = [column(rows, name) for name in ("ts", *_WHO)]
    if {*people[0]} | {*people[1]} <= {None}:
        return ()
    first, last = min(moments), max(moments)
    if first // QUARTER_US == last // QUARTER_US:  # as nearly always: a batch is of a moment
        seen = {(first, *who) for who in set(zip(*people, strict=True))}
    else:
        seen = set(zip(moments, *people, strict=True))
    return {
        (ts - ts % QUARTER_US, device if user is None else user, type_, source, application)
        for ts, user, device, type_, source, application in seen
        if user is not None or device is not None
    }
