"""Made-up traffic for the tests of sampling: rows, when they were recorded, what becomes of them, and estimates."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from math import copysign, floor, log, sqrt

from gnomon.config import Settings
from gnomon.event import AT, ROW, Batch, Rows
from gnomon.ingest.sampling import Sampler
from gnomon.ingest.thresholds import Thresholds

START_NS = 1_768_478_400_000_000_000  # 2026-01-15 12:00 UTC
THRESHOLDS = Thresholds(10_000, 100_000, 0.1)
DEFAULTS = Settings(sampling_floor_per_source=0)
WEIGHT, DURATION, SUCCESS, SOURCE = AT["weight"], AT["duration_ms"], AT["success"], AT["source"]
Z = 1.959963984540054


def row(id_, at_ns=START_NS, **fields):
    given = {"id": id_, "ts": at_ns // 1_000, "received_at": at_ns // 1_000, "type": "request", "weight": 1.0}
    given |= fields
    return tuple(given.get(name) for name in ROW)


def arrivals(*stretches, start_ns=START_NS):
    """Times in ns of evenly spaced events, for each `(events a minute, how many)`."""
    at, found = start_ns, []
    for pace, count in stretches:
        for _ in range(count):
            at += int(60e9 / pace)
            found.append(at)
    return found


def thin(rows, times, settings=DEFAULTS, thresholds=THRESHOLDS, project="p", cuts=(), by_columns=False):
    """Batches as they leave a fresh sampler, cut at the given places."""
    sampler, found = Sampler(settings, project), []
    places = sorted({0, len(rows), *cuts})
    for start, end in itertools.pairwise(places):
        part = columns_of(rows[start:end]) if by_columns else rows[start:end]
        batch = Batch(project, rows=part, checked_ids=True)
        sampler.thin(batch, times[start:end].__getitem__, thresholds)
        sampler.noted(batch.sightings)
        found.append(batch)
    return found


def columns_of(rows):
    """Rows as the gate leaves them."""
    columns = [*map(list, zip(*rows, strict=True))] if rows else [[] for _ in ROW]
    return Rows([None if set(map(type, one)) == {type(None)} else one for one in columns], len(rows))


def kept_of(batches):
    return [row for batch in batches for row in batch.rows]


def paces_by_hand(times, step):
    """The pace at each event, slow and simple: at the end of its slice, over this slice and the four before it."""
    found = []
    for end in range(step, len(times) + step, step):
        last = min(end, len(times)) - 1
        earlier = [n for n in range(step - 1, len(times), step) if last - n >= 5 * step]
        pace = (last - earlier[-1]) * 60e9 / (times[last] - times[earlier[-1]]) if earlier else 0.0
        found += [pace] * min(step, len(times) - end + step)
    return found


# -- estimates, as the query engine makes them (the formulas of `query/intervals.py` and `query/percentiles.py`) ----


FEW = 10  #: where fewer are kept beyond a percentile its interval promises too much


@dataclass(frozen=True)
class Estimate:
    """An estimate and the bounds of its 95 % interval; None where too little was kept to tell."""

    value: float
    low: float | None
    high: float | None

    def covers(self, truth):
        return self.low - 1e-9 * abs(truth) <= truth <= self.high + 1e-9 * abs(truth)


def around(value, variance, z):
    half = z * sqrt(max(0.0, variance))
    return Estimate(value, value - half, value + half)


def estimates(rows, qs=(), z=Z):
    """Count, sum and mean of the duration, the success rate, and percentiles, with 95 % intervals."""
    triples = [(r[DURATION], r[WEIGHT], r[SUCCESS]) for r in rows]
    doubtful = [(x, w * (w - 1), ok) for x, w, ok in triples if w > 1]
    count, total = sum(w for _, w, _ in triples), sum(x * w for x, w, _ in triples)
    mean, share = total / count, sum(w for _, w, ok in triples if ok) / count
    found = {
        "count": around(count, sum(v for _, v, _ in doubtful), z),
        "sum": around(total, sum(v * x * x for x, v, _ in doubtful), z),
        "mean": around(mean, sum(v * (x - mean) ** 2 for x, v, _ in doubtful) / count**2, z),
        "ratio": around(share, sum(v * (ok - share) ** 2 for _, v, ok in doubtful) / count**2, z),
    }
    pairs = sorted((x, w) for x, w, _ in triples) if qs else []
    return found | {f"p{round(q * 100)}": percentile(pairs, q, z) for q in qs}


def percentile(pairs, q, z=Z):
    """A weighted percentile with its interval by Woodruff's method (JASA 47, 1952; Särndal et al., 5.11).

    `pairs` are `(value, weight)`, sorted. The share of the weight at or below the percentile Q is a ratio, so its
    variance is that of a ratio: sum of w(w-1)(1[x <= Q] - q)^2 over (sum of w)^2. The percentiles at q -+ z standard
    errors bound Q. Rows that weigh 1 add no doubt, and without others the interval is the value itself. Where fewer
    than `FEW` other ones are to be expected on one side of Q, there are no bounds.
    """
    total = sum(w for _, w in pairs)
    value = reached(pairs, q * total)
    doubts = [w * (w - 1) for _, w in pairs]
    doubt = sum(doubts)
    if not doubt:
        return Estimate(value, value, value)
    if min(q, 1 - q) * doubt**2 / sum(v * v for v in doubts) < FEW:
        return Estimate(value, None, None)
    below = before(pairs, q * total)
    error = z * sqrt((1 - q) ** 2 * below + q**2 * (doubt - below))
    if error > min(q, 1 - q) * total:
        return Estimate(value, None, None)
    return Estimate(value, reached(pairs, q * total - error), reached(pairs, q * total + error))


def before(pairs, level):
    """Sum of w(w-1) of the rows below a level of the running weight, with a part of those whose values lie within 3 %
    of where it is reached: the part that their weight has below it."""
    running = passed = 0.0
    for _, near in itertools.groupby(pairs, lambda pair: floor(copysign(log(1 + abs(pair[0])), pair[0]) * 32)):
        weights = [w for _, w in near]
        here, doubt = sum(weights), sum(w * (w - 1) for w in weights)
        if running + here >= level * (1 - 1e-12):
            return passed + doubt * max(0.0, level - running) / here
        running, passed = running + here, passed + doubt
    return passed


def reached(pairs, level):
    """The smallest value at which the running weight reaches a level; the largest where none does."""
    running = 0.0
    for x, w in pairs:
        running += w
        if running >= level * (1 - 1e-12):
            return x
    return pairs[-1][0]


def population(fast=1_500, seed=7):
    """`(fields, at_ns)`: from a calm pace over some where the probability falls to twice the high threshold."""
    luck = random.Random(seed)
    people = []
    for n, at in enumerate(arrivals((5_000, 60), (40_000, 240), (70_000, 200), (200_000, fast))):
        fields = {
            "id": f"{seed}-{n}",
            "source": f"s{n % 5}",
            "success": luck.random() > 0.1,
            "duration_ms": round(luck.gammavariate(2.0, 40.0), 3),
        }
        people.append((fields, at))
    return people
