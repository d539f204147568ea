"""Random spans of aliveness and events beside a plain list of minutes: which buckets of a series are null, which 0.

The model walks every minute of the range by `zoneinfo` alone; it shares no code with buckets, holes or rollups.
"""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gnomon
from gnomon.event import Batch
from gnomon.testing import ManualClock
from gnomon.timerange import to_us

FIRST = datetime(2026, 3, 27, tzinfo=UTC)  # Berlin changes its clocks on the 29th
LORD_HOWE = datetime(2026, 4, 3, tzinfo=UTC)  # by half an hour, on the 5th
ZONES = ("UTC", "Europe/Berlin", "Asia/Kathmandu", "Australia/Lord_Howe")
GRAINS = ("minute", "hour", "day", "week")
MINUTES = 4 * 24 * 60  #: the world lasts four days, then it is now
SLACK = 2  #: minutes: twice the period

spans = st.lists(st.tuples(st.integers(0, MINUTES), st.integers(0, 900)), max_size=6)
moments = st.lists(st.integers(0, MINUTES - 1), max_size=6)


def label(moment, grain, zone):
    """What the clock shows at a moment, cut to the grain; the offset tells a repeated hour from the first one."""
    local = moment.astimezone(ZoneInfo(zone))
    if grain in ("minute", "hour"):
        return local.replace(minute=0 if grain == "hour" else local.minute, fold=0).isoformat(), local.utcoffset()
    day = local.date()
    return day if grain == "day" else day - timedelta(days=day.weekday())


def model(alive, events, begin, first, last, grain, zone):
    """The values of the series over minutes [first, last): a count, None, or 0."""
    merged = []
    for start, end in sorted(alive):
        if merged and start - merged[-1][1] <= SLACK:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end])
    values = []
    minutes = [(label(begin + timedelta(minutes=n), grain, zone), n) for n in range(first, last)]
    for _, group in itertools.groupby(minutes, key=lambda pair: pair[0]):
        inside = [n for _, n in group]
        count = sum(events.count(n) for n in inside)
        known = bool(merged) and inside[-1] + 1 > merged[0][0]
        there = any(start < inside[-1] + 1 and end >= inside[0] for start, end in merged)
        values.append(count or (0 if there or not known else None))
    return values


def ask(engine, begin, first, last, grain, zone, basis):
    ends = [(begin + timedelta(minutes=n)).isoformat() for n in (first, last)]
    found = engine.query(["events"], [f"time:{grain}"], ends, timezone=zone, basis=basis)
    assert found.basis.gaps == sum(row["events"] is None for row in found)
    return [row["events"] for row in found]


def agree(alive, events, begin, first, length, rolled):
    """Whether the engine says what the model says, in every zone and grain, from raw rows and rollups."""
    alive = [(start, min(MINUTES, start + length)) for start, length in alive]
    last = min(MINUTES, first + length)
    clock = ManualClock(begin + timedelta(minutes=MINUTES))
    with gnomon.open(
        ":memory:", clock=clock, timezones=ZONES, threads=1, rollup_lag_seconds=0, sampling=False
    ) as engine:
        for n, moment in enumerate(events):
            engine.track("e", id=f"e{n}", ts=begin + timedelta(minutes=moment))
        engine.flush()
        writer, store = engine._hold.writer, engine._own_or_refuse()
        with writer.paused():  # the beats of this world and of no other
            store.change(["DELETE FROM alive"])
        engine._heart._beats = False
        origin = to_us(begin)
        for start, end in alive:
            beat = (origin + start * 60_000_000, origin + end * 60_000_000, True)
            engine._journal.append([Batch("default", beats=[beat])])
        assert writer.wait_for(engine._journal.last_position(), 30.0)
        if rolled:
            engine.trigger_aggregation()
        for zone, grain in itertools.product(ZONES, GRAINS):
            wanted = model(alive, events, begin, first, last, grain, zone)
            for basis in ("auto", "raw"):
                found = ask(engine, begin, first, last, grain, zone, basis)
                # Told in short: pytest's comparison of two long lists can take minutes.
                differ = [place for place, pair in enumerate(zip(found, wanted, strict=True)) if pair[0] != pair[1]]
                assert not differ, (zone, grain, basis, differ[:3])


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(spans, moments, st.sampled_from([FIRST, LORD_HOWE]), st.integers(0, MINUTES - 2), st.integers(1, MINUTES),
       st.booleans())  # fmt: skip
def test_buckets_are_null_exactly_where_nobody_was_there(alive, events, begin, first, length, rolled):
    agree(alive, events, begin, first, length, rolled)


WORLD = ([(100, 60), (1_500, 10), (1_512, 5), (3_000, 900)], [130, 2_000, 5_000], FIRST, 17, MINUTES, True)


def test_a_fixed_world():
    agree(*WORLD)


@pytest.mark.parametrize("name", ["holes begin late", "no merging", "last span lives on", "zero for all"])
def test_broken_variants_are_seen(name, monkeypatch):
    from gnomon.query import gaps
    from gnomon.store import aliveness

    honest, added = gaps.holes, aliveness.changed
    if name == "holes begin late":
        shorter = lambda *a: tuple((first + 60_000_000, last) for first, last in honest(*a))  # noqa: E731
        monkeypatch.setattr("gnomon.query.plan.holes", shorter)
    elif name == "no merging":
        monkeypatch.setattr(
            "gnomon.store.duckdb.writing.changed", lambda p, known, beats, slack: added(p, [], beats, 0)
        )
    elif name == "last span lives on":
        monkeypatch.setattr("gnomon.query.plan.holes", lambda *a: honest(*a)[:-1])
    else:
        monkeypatch.setattr("gnomon.query.plan.gap_buckets", lambda *a: frozenset())
    with pytest.raises(AssertionError):
        agree(*WORLD)
