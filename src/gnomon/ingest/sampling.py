"""Sampling: when events come faster than a threshold, a share of the live requests is kept, and weighs the more.

A row is kept with a probability that depends on the pace alone, never on what the row says, and its weight is divided
by it, so every sum stays unbiased. Failures, other types and the first events of each source in a minute are strata
of their own, kept as they are. Nothing here reads a clock, a disk or a source of chance.
"""

from __future__ import annotations

import math
import sys
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from operator import itemgetter
from random import Random
from zlib import crc32

from gnomon.config import Settings
from gnomon.event import AT, ROW, Batch, Row
from gnomon.ingest.thresholds import Thresholds

QUARTER_US = 900_000_000
_MINUTE_NS = 60_000_000_000
_SET_BACK_NS = 1_000_000_000  #: more than threads may disagree: the clock was set back
SLICES = 5  #: from which the pace is told
AT_FULL = 4  #: slices that are looked at as one while sampling is in full force, to save time
#: Sightings that are remembered so that they are not noted again; about 10 MB.
MOST_REMEMBERED = 50_000
_TYPE, _SOURCE, _SUCCESS, _WEIGHT = AT["type"], AT["source"], AT["success"], AT["weight"]
assert ROW[_WEIGHT + 1 :] == ("properties",)
_WHO = itemgetter(AT["user_id"], AT["device_id"], _TYPE, _SOURCE, AT["application"])
_TS, _USER, _DEVICE = (itemgetter(AT[name]) for name in ("ts", "user_id", "device_id"))

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
        hot = self._slices(len(batch.rows), at, thresholds)
        if not hot or self._types.isdisjoint(map(itemgetter(_TYPE), batch.rows[hot[0][0] : hot[-1][1]])):
            return
        first, last = hot[0][0], hot[-1][1]
        if batch.checked_ids:
            luck = coins([row[0] for row in batch.rows[first:last]], self._salt)
        else:  # made here, in a row, and never sent again
            luck = coins_in_a_row(batch.rows[first][0], last - first, self._salt)
        kept, gone, place = batch.rows[:first], list[Row](), first
        for start, end, probability, moment in hot:
            kept += batch.rows[place:start]
            self._floor.begin(moment, thresholds.low)
            self._decide(batch.rows[start:end], luck[start - first : end - first], probability, kept, gone)
            place = end
        batch.rows = kept + batch.rows[place:]
        batch.encoded = None
        counted = Counter(map(itemgetter(_SOURCE), gone))
        batch.counts += [["event", source, "sampled_out", "", n] for source, n in counted.items()]
        batch.sightings = [row for row in sightings_of(gone) if row not in self._remembered]

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

    def _decide(self, rows: list[Row], luck: Iterable[int], probability: float, kept: list[Row],
                gone: list[Row]) -> None:  # fmt: skip
        """Put each row where it belongs. The order of the tests is that of their cost."""
        types, floor, limit, factor = self._types, self._floor, int(probability * 2**32), 1 / probability
        keep, drop, spent, left = kept.append, gone.append, floor.spent, floor.left > 0
        for row, coin in zip(rows, luck, strict=True):
            if (
                row[_SUCCESS] is False
                or row[_TYPE] not in types
                or (left and row[_SOURCE] not in spent and floor.keeps(row[_SOURCE]))
            ):
                keep(row)
            elif coin >= limit:
                drop(row)
            else:
                keep(row[:_WEIGHT] + (row[_WEIGHT] * factor, row[_WEIGHT + 1]))  # noqa: RUF005  twice as fast


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


def sightings_of(rows: Sequence[Row]) -> Iterable[Row]:
    """Who was seen in rows, once each: `(start of the quarter-hour in us, actor, type, source, application)`."""
    if {*map(_USER, rows)} | {*map(_DEVICE, rows)} <= {None}:
        return ()
    first, last = min(map(_TS, rows)), max(map(_TS, rows))
    if first // QUARTER_US == last // QUARTER_US:  # as nearly always: a batch is of a moment
        seen = {(first, *who) for who in set(map(_WHO, rows))}
    else:
        seen = {(row[AT["ts"]], *_WHO(row)) for row in rows}
    return {
        (ts - ts % QUARTER_US, device if user is None else user, type_, source, application)
        for ts, user, device, type_, source, application in seen
        if user is not None or device is not None
    }
