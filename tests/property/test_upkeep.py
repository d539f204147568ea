"""Promises 5 and 12: numbers stay, whatever the order of recording, rolling up, pruning, erasing and crashing.

The model is a plain list of events. What it says of totals, people, rates and percentiles (within 1 %) the engine must
say, from raw rows or rollups, or refuse because raw rows are gone.
"""

import random
import shutil
import tempfile
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import gnomon
from gnomon.errors import InvalidValue
from gnomon.store import rollups
from gnomon.testing import ManualClock

START = datetime(2026, 3, 26, 13, 7, tzinfo=UTC)  # Berlin's clocks change three days later
ZONES = ("Europe/Berlin", "Asia/Kathmandu", "UTC")
METRICS = ["events", "requests", "people", "successes", "success_rate", "mean_duration_ms", "sum_bytes_sent",
           "min_duration_ms", "max_duration_ms", "p50_duration_ms", "p95_duration_ms"]  # fmt: skip
QUESTIONS = [
    ([], "UTC"), (["source"], "UTC"), (["type"], "UTC"), (["time:day"], "Europe/Berlin"),
    (["time:day"], "Asia/Kathmandu"), (["type", "time:hour"], "Asia/Kathmandu"), (["time:week", "source"], "UTC"),
]  # fmt: skip


def percentile(values, q):
    ordered = sorted(values)
    total, reached = sum(weight for _, weight in ordered), 0.0
    for value, weight in ordered:
        reached += weight
        if reached >= q * (1 - 1e-12) * total:
            return value
    return None


def numbers(rows, noted):
    """What the model says of one group."""
    weight = sum(r["weight"] for r in rows)
    known = sum(r["weight"] for r in rows if r["success"] is not None)
    good = sum(r["weight"] for r in rows if r["success"])
    timed = [(r["duration_ms"], r["weight"]) for r in rows if r["duration_ms"] is not None]
    return {
        "events": weight,
        "requests": sum(r["weight"] for r in rows if r["type"] == "request"),
        "people": len({r["user_id"] for r in [*rows, *noted]} - {None}),
        "successes": good,
        "success_rate": good / known if known else None,
        "mean_duration_ms": sum(v * w for v, w in timed) / sum(w for _, w in timed) if timed else None,
        "sum_bytes_sent": sum(r["weight"] * r["bytes_sent"] for r in rows),
        "min_duration_ms": min((v for v, _ in timed), default=None),
        "max_duration_ms": max((v for v, _ in timed), default=None),
        "p50_duration_ms": percentile(timed, 0.5),
        "p95_duration_ms": percentile(timed, 0.95),
    }


def place(row, dimension, zone):
    local = row["ts"].astimezone(ZoneInfo(zone))
    if dimension == "time:day":
        return local.date()
    if dimension == "time:week":
        return (local - timedelta(days=local.weekday())).date()
    if dimension == "time:hour":
        return local.replace(minute=0, second=0, microsecond=0)
    return row[dimension]


def shown(value, dimension):
    return value.date() if dimension in ("time:day", "time:week") else value


def close(found, expected, tolerance):
    if found is None or expected is None:
        return found is expected
    return abs(found - expected) <= tolerance * max(abs(found), abs(expected)) + 1e-9


class Upkeep(RuleBasedStateMachine):
    """The engine beside a list of events."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="gnomon-upkeep-"))
        self.clock = ManualClock(START)
        self.events, self.lives = [], 0
        self.sealed_before, self.ask_few = None, True
        self.open()

    def open(self):
        self.engine = gnomon.open(
            self.folder / "x.duckdb", clock=self.clock, timezones=ZONES, sampling=False, rollup_lag_seconds=0,
            checkpoint_seconds=1_000.0, threads=1,
        )  # fmt: skip

    def teardown(self):
        self.engine.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed):
        self.random = random.Random(seed)

    @rule(n=st.integers(1, 30), spread_hours=st.sampled_from([0.2, 30, 24 * 9]))
    def record(self, n, spread_hours):
        now, draw = self.clock(), self.random
        for _ in range(n):
            row = {
                "type": draw.choice(["request", "page_view"]), "source": draw.choice(["a", "b", None]),
                "user_id": draw.choice(["u1", "u2", "u3", "u4", None]), "success": draw.choice([True, False, None]),
                "duration_ms": draw.choice([None, 0.0, draw.lognormvariate(3, 2)]), "bytes_sent": draw.randrange(10**6),
                "weight": draw.choice([1.0, 1.0, 2.5]), "ts": now - timedelta(hours=draw.random() * spread_hours),
            }  # fmt: skip
            self.engine.track(**row, properties={"told": f"of-{row['user_id']}"})
            if self.sealed_before is None or row["ts"] >= self.sealed_before:
                self.events.append(row)
        self.engine.flush()

    @rule(hours=st.sampled_from([0.1, 1, 7, 26]))
    def wait(self, hours):
        self.clock.advance(hours=hours)

    @rule(again=st.booleans())
    def roll_up(self, again):
        self.engine.trigger_aggregation()
        if again:
            assert self.engine.trigger_aggregation().events == 0

    @rule(days=st.sampled_from([1, 2, 5]))
    def prune(self, days):
        self.engine.set_retention_policy(raw_data_days=days)
        would = self.engine.prune(dry_run=True).raw
        assert self.engine.prune().raw == would
        midnight = self.clock().replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=days)
        self.sealed_before = max(midnight, self.sealed_before or midnight)

    @precondition(lambda self: self.events)
    @rule(user=st.sampled_from(["u1", "u2", "u3"]))
    def forget(self, user):
        self.engine.forget(user)
        for row in self.events:
            if row["user_id"] == user:
                row["user_id"] = None
        assert not [file.name for file in self.folder.iterdir() if f"of-{user}".encode() in file.read_bytes()]

    @rule()
    def restart(self):
        self.engine.close()
        self.open()

    @rule()
    def crash(self):
        """What is on the disk at this moment, in another folder, opened as after a kill."""
        self.lives += 1
        other = self.folder / f"life{self.lives}"
        other.mkdir()
        for ending in ("", ".journal", ".journal-wal", ".audit", ".audit-wal", ".audit.key", ".audit.anchor"):
            file = self.folder / f"x.duckdb{ending}"
            if file.exists():
                shutil.copy(file, other)
        self.engine.close()
        for file in self.folder.iterdir():
            if file.is_file():
                file.unlink()
        for file in list(other.iterdir()):
            file.rename(self.folder / file.name)
        other.rmdir()
        self.open()

    @invariant()
    def books_close(self):
        books = self.engine.books()
        assert books.closes() and books.stored == len(self.events)

    @invariant()
    def numbers_are_those_of_the_model(self):
        if not self.events:
            return
        first = min(row["ts"] for row in self.events).date()
        span = [str(first - timedelta(days=1)), str(self.clock().date() + timedelta(days=2))]
        for dimensions, zone in self.random.sample(QUESTIONS, 2) if self.ask_few else QUESTIONS:
            answer = self.engine.query(METRICS, dimensions, span, timezone=zone)
            self.compare(answer, dimensions, zone)

    def compare(self, answer, dimensions, zone):
        groups = defaultdict(list)
        for row in self.events:
            groups[tuple(place(row, d, zone) for d in dimensions)].append(row)
        found = {tuple(shown(row[d], d) for d in dimensions): row for row in answer if row["events"]}
        assert found.keys() == groups.keys(), (dimensions, zone, answer.basis)
        for key, rows in groups.items():
            for name, expected in numbers(rows, []).items():
                tolerance = 0.01 if name.startswith("p") and name != "people" else 1e-9
                assert close(found[key][name], expected, tolerance), (name, key, found[key][name], expected, answer.sql)


QUICK = settings(
    max_examples=12, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],  # a failing story is short enough to read, and shrinking it takes minutes
)  # fmt: skip


def test_numbers_stay_whatever_happens():
    run_state_machine_as_test(Upkeep, settings=QUICK)


@pytest.mark.slow
@pytest.mark.timeout(7_200)
def test_numbers_stay_whatever_happens_for_long():
    run_state_machine_as_test(Upkeep, settings=settings(QUICK, max_examples=2_000, stateful_step_count=50))


# -- broken builds are found -----------------------------------------------------------------------------------------


def broken(monkeypatch, story):
    machine = Upkeep()
    try:
        machine.begin(1)
        with pytest.raises(AssertionError):
            machine.ask_few = False
            story(machine)
            machine.books_close()
            machine.numbers_are_those_of_the_model()
    finally:
        machine.teardown()


def test_a_rollup_that_forgets_late_rows_is_found(monkeypatch):
    def story(machine):
        machine.record(20, 24 * 9)
        machine.roll_up(False)
        machine.record(20, 24 * 9)
        machine.prune(1)

    monkeypatch.setattr(rollups, "late_rows", lambda *_: "SELECT 0, 0, 0, false")
    broken(monkeypatch, story)


def test_a_merge_that_drops_what_was_there_is_found(monkeypatch):
    honest = rollups.merge
    monkeypatch.setattr(rollups, "merge", lambda project: [
        step.replace("SELECT * FROM met UNION ALL BY NAME", "SELECT * FROM met WHERE false UNION ALL BY NAME")
        for step in honest(project)])  # fmt: skip

    def story(machine):
        machine.record(20, 24 * 9)
        machine.roll_up(False)
        machine.record(20, 24 * 9)
        machine.roll_up(False)

    broken(monkeypatch, story)


def test_time_that_is_not_sealed_is_found(monkeypatch):
    from gnomon.store.duckdb.writing import Writing

    monkeypatch.setattr(Writing, "_part_sealed", lambda self, project, rows: (rows, []))

    def story(machine):
        machine.record(20, 24 * 9)
        machine.prune(1)
        machine.record(30, 24 * 9)

    broken(monkeypatch, story)


def test_what_only_raw_rows_answer_is_refused_once_they_are_gone():
    machine = Upkeep()
    try:
        machine.begin(2)
        machine.record(30, 24 * 9)
        machine.prune(1)
        for words in ({"dimensions": ["properties.told"]}, {"dimensions": ["user_id"]}, {"dimensions": ["time:minute"]},
                      {"metrics": ["p95_bytes_sent"]}, {"metrics": ["people"], "dimensions": ["endpoint"]},
                      {"metrics": ["events"], "basis": "raw"}):  # fmt: skip
            with pytest.raises(InvalidValue) as caught:
                machine.engine.query(**{"metrics": ["events"], "date_range": ["2026-03-20", "2026-03-28"], **words})
            assert caught.value.code == "raw-rows-gone", words
        fresh = machine.engine.query(["events"], ["user_id"], ["2026-03-26", "2026-03-27"])
        assert fresh.basis.source == "raw"
        assert Counter(machine.engine.books().rejected) == Counter()
    finally:
        machine.teardown()
