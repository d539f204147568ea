"""A state machine that runs the engine beside a plain list of events, in any order of everything that upkeep does.

Half of the runs are sampled: the model then takes the rows that were kept, and what each weighs, from the store right
after they were written; from then on nothing may change what is told of them.
"""

import copy
import multiprocessing
import os
import random
import shutil
import tempfile
import traceback
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import ClassVar
from zoneinfo import ZoneInfo

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

import gnomon
from gnomon.errors import InvalidValue
from gnomon.testing import ManualClock
from same_examples import same_examples

START = datetime(2026, 3, 26, 13, 7, tzinfo=UTC)  # Berlin's clocks change three days later
BERLIN, KATHMANDU = "Europe/Berlin", "Asia/Kathmandu"
ZONES = ((KATHMANDU,), (BERLIN,), (BERLIN, KATHMANDU))
USERS = ("person-one", "person-two", "person-three", "person-four")
RATE = 0.25  #: what is kept of requests that come all at once
METRICS = ("requests", "successes", "success_rate", "mean_duration_ms", "sum_bytes_sent", "min_duration_ms",
           "max_duration_ms", "p50_duration_ms", "p95_duration_ms")  # fmt: skip
ENDINGS = ("", ".undo", ".journal", ".journal-wal", ".audit", ".audit-wal", ".audit.key", ".audit.anchor")
QUARTER = timedelta(minutes=15)

#: How often each of the dear steps may have its turn, and how often none; the others always may.
TURNS = {"roll_up": 8, "prune": 5, "restart": 2, "crash": 3, "forget": 2, "back_up": 3, "restore": 4, "ask": 4,
         "hold": 2, "set_thresholds": 1, None: 10}  # fmt: skip
CROWDED = TURNS | {None: 0}
SERVED = {what: often for what, often in TURNS.items() if what not in ("crash", "back_up", "restore")}


def questions(zones):
    """`(dimensions, zone)` of what rollups in these zones answer when the raw rows are gone."""
    return [([], "UTC"), (["source"], "UTC"), (["type"], "UTC"), *((["time:day"], zone) for zone in zones),
            (["type", "time:hour"], zones[-1]), (["time:week", "source"], "UTC")]  # fmt: skip


# -- the model -------------------------------------------------------------------------------------------------------


@dataclass
class Model:
    """What the store holds, and what it was told to do with it: all that a backup brings back."""

    events: list = field(default_factory=list)
    noted: list = field(default_factory=list)  #: people of events that were left out, with the quarter-hour
    sealed: dict = field(default_factory=dict)  #: by type, the moment before which raw rows are gone
    days: int | None = None
    hours: int | None = None  #: days that hourly rollups are kept
    hours_gone: datetime | None = None  #: before this moment they may be gone
    own_days: dict = field(default_factory=dict)
    hold: datetime | None = None
    thresholds: tuple | None = None
    books: Counter = field(default_factory=Counter)

    def remembered(self):
        """A copy that stays as it is."""
        rows = [[dict(row) for row in rows] for rows in (self.events, self.noted)]
        rest = (
            self.sealed,
            self.days,
            self.hours,
            self.hours_gone,
            self.own_days,
            self.hold,
            self.thresholds,
            self.books,
        )
        return Model(*rows, *map(copy.copy, rest))

    def is_sealed(self, row):
        return row["type"] in self.sealed and row["ts"] < self.sealed[row["type"]]

    def raw(self):
        return [row for row in self.events if row["raw"]]


def percentile(values, q):
    ordered = sorted(values)
    total, reached = sum(weight for _, weight in ordered), 0.0
    for value, weight in ordered:
        reached += weight
        if reached >= q * (1 - 1e-12) * total:
            return value
    return None


def number(name, rows, noted):
    """What the model says of one group."""
    known = [r for r in rows if r["success"] is not None]
    good = sum(r["weight"] for r in known if r["success"])
    timed = [(r["duration_ms"], r["weight"]) for r in rows if r["duration_ms"] is not None]
    if name == "events":
        return sum(r["weight"] for r in rows)
    if name == "requests":
        return sum(r["weight"] for r in rows if r["type"] == "request")
    if name == "people":
        return len({r["user_id"] for r in [*rows, *noted]} - {None})
    if name == "successes":
        return good
    if name == "success_rate":
        return good / sum(r["weight"] for r in known) if known else None
    if name == "mean_duration_ms":
        return sum(v * w for v, w in timed) / sum(w for _, w in timed) if timed else None
    if name == "sum_bytes_sent":
        return sum(r["weight"] * r["bytes_sent"] for r in rows)
    if name == "min_duration_ms":
        return min((v for v, _ in timed), default=None)
    if name == "max_duration_ms":
        return max((v for v, _ in timed), default=None)
    return percentile(timed, {"p50_duration_ms": 0.5, "p95_duration_ms": 0.95}[name])


def place(row, dimension, zone):
    if not dimension.startswith("time:"):
        return row[dimension]
    local = row["ts"].astimezone(ZoneInfo(zone))
    if dimension == "time:day":
        return local.date()
    if dimension == "time:week":
        return (local - timedelta(days=local.weekday())).date()
    return local.replace(minute=0, second=0, microsecond=0)


def shown(value, dimension):
    return value.date() if dimension in ("time:day", "time:week") else value


def close(found, expected, tolerance):
    if found is None or expected is None:
        return found is expected
    return abs(found - expected) <= tolerance * max(abs(found), abs(expected)) + 1e-9


# -- the machine -----------------------------------------------------------------------------------------------------


def dear(what):
    """A step that costs many milliseconds: only when it has its turn."""
    return precondition(lambda machine: machine.turn == what)


class Upkeep(RuleBasedStateMachine):
    """The engine beside a list of events."""

    turns = TURNS
    thorough = False  #: every metric of every question wherever one is asked
    tally: ClassVar[Counter] = Counter()  #: what happened, over all runs of this process

    def __init__(self):
        super().__init__()
        self.home = Path(tempfile.mkdtemp(prefix="gnomon-upkeep-", dir=quick_folder()))
        self.folder, self.target = self.home / "store", self.home / "kept"
        self.name = f"u{self.home.name[-8:].lower()}"  #: of what it has on a server
        self.folder.mkdir()
        self.clock = ManualClock(START)
        self.model, self.waiting, self.said = Model(), [], []
        self.backups = []  #: (path, when, what the store held then)
        self.brought = self.replaced = 0
        self.engine, self.turn = None, None

    @initialize(chance=st.integers(0, 2**32), zones=st.sampled_from(ZONES), sampled=st.booleans())
    def begin(self, chance, zones, sampled):
        self.random, self.zones, self.sampled = random.Random(chance), zones, sampled
        self.weights = self.random.choice([[1.0], [1.0, 1.0, 2.5]])  # rows of weight 1 are rolled up in another way
        self.open()

    def open(self, url=None, data_dir=None):
        server = os.environ.get("UPKEEP_STORE")  # a URL, in which `{}` stands for a name that no other store has
        own = server.format(self.name) if server else str(self.folder / "x.duckdb")
        self.engine = gnomon.open(
            url or own, data_dir=str(data_dir or (self.folder if server else "")), clock=self.clock,
            timezones=self.zones, rollup_lag_seconds=0, threads=1,
            checkpoint_seconds=1_000.0, flush_seconds=1_000.0, backup_days=4, sampling=self.sampled, sampling_low=60.0,
            sampling_high=120.0, sampling_rate=RATE, sampling_floor_per_source=1,
        )  # fmt: skip

    def teardown(self):
        try:
            if self.engine is not None:
                self.flush()
                if self.model.events or self.model.noted or self.brought:
                    self.look(all_of_them=True)
        finally:
            if self.engine is not None:
                self.engine.close()
            shutil.rmtree(self.home, ignore_errors=True)

    def done(self, what, asks=True):
        """The end of a step: count it, ask something after a dear one, and say which dear one may come next."""
        self.tally[what] += 1
        if asks:
            self.look()
        names, weights = zip(*self.turns.items(), strict=True)
        (self.turn,) = self.random.choices(names, weights)

    # -- recording -----------------------------------------------------------------------------------------------

    @rule(n=st.integers(1, 30), flushed=st.booleans())
    def record_live(self, n, flushed):
        self.record(n, 0.2, flushed)

    @rule(n=st.integers(1, 30), spread_hours=st.sampled_from([30, 24 * 9]), flushed=st.booleans())
    def record_late(self, n, spread_hours, flushed):
        self.record(n, spread_hours, flushed)

    def record(self, n, spread_hours, flushed=True, **fixed):
        """Events of the last hours; those that are not flushed wait for whatever comes next."""
        now, draw = self.clock(), self.random
        for _ in range(n):
            row = {
                "type": draw.choice(["request", "page_view"]), "source": draw.choice(["a", "b", None]),
                "user_id": draw.choice([*USERS, None]), "success": draw.choice([True, False, None]),
                "duration_ms": draw.choice([None, 0.0, draw.lognormvariate(3, 2)]), "bytes_sent": draw.randrange(10**6),
                "weight": draw.choice(self.weights), "ts": now - timedelta(hours=draw.random() * spread_hours),
            } | fixed  # fmt: skip
            named = self.sampled or draw.random() < 0.3
            row["id"] = f"event-{len(self.said)}" if named else None
            self.say(row)
            self.said.append(row)
        if flushed:
            self.flush()
        self.done("record", asks=False)

    @rule(n=st.integers(1, 10))
    def say_again(self, n):
        """Repeats, also of what was forgotten, or taken back by a restore: those are new."""
        named = [row for row in self.said if row["id"] is not None]
        for row in self.random.choices(named, k=n) if named else ():
            self.say(row)
        self.done("say again", asks=False)

    @rule()
    def take_what_waits(self):
        self.flush()
        self.done("flush", asks=False)

    def say(self, row):
        self.engine.track(**row, properties={"told": f"of {row['user_id']}"})
        self.waiting.append({**row, "raw": True})

    def flush(self):
        if self.waiting:
            self.engine.flush()
            self.take_in()

    def take_in(self):
        """The model takes what the store has taken."""
        waiting, self.waiting = self.waiting, []
        model, kept = self.model, self.kept_of(waiting)
        known = {row["id"] for row in model.raw()} - {None}
        model.books["received"] += len(waiting)
        for row in waiting:
            if row["id"] in known:
                continue  # a repeat, or one that sampling left out this time
            if model.is_sealed(row):
                assert kept is None or row["id"] not in kept
            elif kept is None or row["id"] in kept:
                if kept is not None:
                    self.weigh(row, kept[row["id"]])
                model.events.append(row)
                model.books["stored"] += 1
                known.add(row["id"])
                known.discard(None)
            else:
                assert row["type"] == "request" and row["success"] is not False, "a failure was left out"
                since = datetime.min.replace(tzinfo=UTC)
                model.noted.append({**row, "ts": row["ts"] - (row["ts"] - since) % QUARTER})
                self.tally["left out"] += 1

    def kept_of(self, waiting):
        """The weights of what sampling has kept, by id."""
        if not self.sampled or not waiting:
            return None
        names = ", ".join(f"'{row['id']}'" for row in waiting) or "''"
        found = self.engine._own_or_refuse().ask(
            [f"SELECT id_text, weight FROM events WHERE id_text IN ({names})"], 60.0
        )
        return dict(found[0].rows)

    def weigh(self, row, weight):
        factor = weight / row["weight"]
        if row["type"] != "request" or row["success"] is False:
            assert factor == 1, "what is not sampled weighs more"
        assert 1 <= factor <= 1 / RATE + 1e-9
        self.tally["weighted"] += factor > 1
        row["weight"] = weight

    # -- time and upkeep -----------------------------------------------------------------------------------------

    @rule(hours=st.sampled_from([0.001, 0.1, 1, 7, 26]))
    def wait(self, hours):
        self.clock.advance(hours=hours)
        self.done("wait", asks=False)

    @dear("roll_up")
    @rule(again=st.booleans(), hours_ago=st.sampled_from([0, 0, 0, 30]))
    def roll_up(self, again, hours_ago=0):
        until = self.clock() - timedelta(hours=hours_ago)
        span = [START - timedelta(days=30), until] if hours_ago else None
        self.engine.trigger_aggregation(span)
        if again:
            assert self.engine.trigger_aggregation(span).events == 0
        self.done("roll up")

    @dear("prune")
    @rule(days=st.sampled_from([1, 2, 5]), own_days=st.sampled_from([None, None, 1, 2]),
          longer=st.sampled_from([None, None, 0, 1]))  # fmt: skip
    def prune(self, days, own_days=None, longer=None):
        """Raw rows and, in some runs, hours go: days of the declared zones must still be told."""
        model = self.model
        model.days, model.own_days = days, {} if own_days is None else {"page_view": own_days}
        model.hours = None if longer is None else max(days, own_days or 0) + longer
        self.engine.set_retention_policy(raw_data_days=days, hourly_aggregates_days=model.hours, by_type=model.own_days)
        self.flush()
        would = self.engine.prune(dry_run=True).raw
        if self.held(self.engine.prune):
            return
        midnight = self.clock().replace(hour=0, minute=0, second=0, microsecond=0)
        for type_ in ("request", "page_view"):
            edge = midnight - timedelta(days=model.own_days.get(type_, days))
            model.sealed[type_] = max(edge, model.sealed.get(type_, edge))
        if model.hours is not None:
            edge = midnight - timedelta(days=model.hours)
            model.hours_gone = max(edge, model.hours_gone or edge)
        gone = [row for row in model.raw() if model.is_sealed(row)]
        for row in gone:
            row["raw"] = False
        assert len(gone) == would
        model.books["pruned"] += len(gone)
        self.done("prune")

    @dear("hold")
    @rule(hours=st.sampled_from([0.5, 8, None]))
    def hold(self, hours):
        """A legal hold: nothing may be deleted until then."""
        self.model.hold = None if hours is None else self.clock() + timedelta(hours=hours)
        self.engine.set_legal_hold(self.model.hold)
        self.done("hold", asks=False)

    def held(self, deletes, *args):
        """Do what deletes; whether a hold has kept it from that."""
        if self.model.hold is None or self.clock() >= self.model.hold:
            self.last = deletes(*args)
            return False
        try:
            deletes(*args)
        except InvalidValue as error:
            assert error.code == "legal-hold"
        else:
            raise AssertionError("a legal hold was passed over")
        self.done("held")
        return True

    @dear("set_thresholds")
    @rule(low=st.sampled_from([30.0, 60.0, 100.0]))
    def set_thresholds(self, low):
        self.model.thresholds = (low, 120.0, RATE)
        self.engine.set_sampling_thresholds(*self.model.thresholds)
        self.done("set thresholds", asks=False)

    @dear("forget")
    @rule(user=st.sampled_from(USERS[:3]), delete=st.booleans())
    def forget(self, user, delete=False):
        self.flush()
        if self.held(self.engine.forget, user, delete):
            return
        model = self.model
        own = [row for row in model.events if row["user_id"] == user]
        assert self.last.rows == sum(row["raw"] for row in own)
        if delete:
            model.books["erased"] += self.last.rows
            model.events = [row for row in model.events if not (row["user_id"] == user and row["raw"])]
        for row in own:
            row["user_id"] = row["id"] = None
        model.noted = [row for row in model.noted if row["user_id"] != user]
        assert not [file.name for file in self.files() if user.encode() in file.read_bytes()]
        self.done("erase" if delete else "forget")

    def files(self):
        """Where no byte of who was forgotten may be left."""
        return [file for file in self.folder.iterdir() if file.is_file()]

    # -- backups -------------------------------------------------------------------------------------------------

    @dear("back_up")
    @rule()
    def back_up(self):
        self.flush()
        made = self.engine.trigger_backup(self.target)
        assert made.verified and made.counts["events"] == len(self.model.raw())
        self.backups = [kept for kept in self.backups if kept[1] >= self.clock() - timedelta(days=4)]
        self.backups.append((made.path, made.created_at, self.model.remembered()))
        assert [kept.path for kept in self.engine.backups(self.target)] == [path for path, *_ in self.backups]
        self.done("back up", asks=False)

    @precondition(lambda self: self.backups)
    @dear("restore")
    @rule()
    def restore(self):
        """Everything since is gone, and who was forgotten since is known again."""
        self.flush()
        path, _, then = self.random.choice(self.backups)
        gone, model = len(self.model.raw()), then.remembered()
        told = self.engine.restore_backup(path)
        assert (told.replaced, told.counts["events"]) == (gone, len(model.raw()))
        self.brought, self.replaced = self.brought + len(model.raw()), self.replaced + gone
        self.model = model
        policy = self.engine.get_retention_policy()
        assert (policy.raw_data_days, policy.hourly_aggregates_days, policy.by_type) == (
            model.days, model.hours, model.own_days,
        )  # fmt: skip
        assert policy.legal_hold_until == model.hold
        in_force, low = self.engine.sampling_thresholds(), (60.0, 120.0, RATE)
        assert (in_force.low, in_force.high, in_force.rate) == (model.thresholds or low)
        self.done("restore")

    # -- ends ----------------------------------------------------------------------------------------------------

    @dear("restart")
    @rule()
    def restart(self):
        self.engine.close()
        self.open()
        self.take_in()
        self.done("restart")

    @dear("crash")
    @rule()
    def crash(self):
        """What is on the disk at this moment, in another folder, opened as after a kill."""
        other = self.home / "after"
        other.mkdir()
        for ending in ENDINGS:
            file = self.folder / f"x.duckdb{ending}"
            if file.exists():
                shutil.copy(file, other)
        self.engine.close()
        shutil.rmtree(self.folder)
        other.rename(self.folder)
        self.waiting = []  # nobody was told that it is kept
        self.open()
        self.done("crash")

    # -- asking --------------------------------------------------------------------------------------------------

    @dear("ask")
    @rule()
    def ask(self):
        self.done("ask")

    def look(self, all_of_them=False):
        """Compare the books, and the answer to one question or to all, with what the model says."""
        self.books_close()
        asked, many = questions(self.zones), all_of_them or self.thorough
        for dimensions, zone in asked if many else self.random.sample(asked, 1):
            chosen = METRICS if self.thorough else self.random.sample(METRICS, 2)
            self.compare(["events", "people", *chosen], dimensions, zone)

    def books_close(self):
        books, account = self.engine.books(), self.model.books
        found = {"received": books.received - books.pending, "stored": books.stored, "pruned": books.pruned,
                 "erased": books.erased}  # fmt: skip
        assert books.closes() and found == {name: account[name] for name in found}, (found, account)
        assert books.pending == len(self.waiting) and (self.sampled or not books.sampled_out)
        if not self.brought:
            return
        restores = self.engine.books("restore")
        assert restores.closes() and restores.received == restores.stored + restores.shed.total()
        assert (restores.stored, restores.shed["replaced"]) == (self.brought, self.replaced)

    def compare(self, metrics, dimensions, zone):
        groups, noted = defaultdict(list), defaultdict(list)
        for found, rows in ((groups, self.model.events), (noted, self.model.noted)):
            for row in rows:
                found[tuple(place(row, d, zone) for d in dimensions)].append(row)
        moments = [row["ts"] for row in (*self.model.events, *self.model.noted)] or [START]
        first = min(moments).date() - timedelta(days=1)
        span = [str(first), str(self.clock().date() + timedelta(days=2))]
        try:
            answer = self.engine.query(metrics, dimensions, span, timezone=zone)
        except InvalidValue as refused:
            assert refused.code == "raw-rows-gone" and self.may_refuse(dimensions, zone, first), refused
            self.tally["refused"] += 1
            return
        found = {tuple(shown(row[d], d) for d in dimensions): row for row in answer if row["events"] or row["people"]}
        expected = {key for key in groups.keys() | noted.keys()
                    if groups[key] or number("people", [], noted[key])}  # fmt: skip
        assert found.keys() == expected, (dimensions, zone, found.keys() ^ expected, str(answer.basis), answer.sql)
        for key in expected:
            for name in metrics:
                told, says = found[key][name], number(name, groups[key], noted[key])
                tolerance = 0.01 if name.startswith("p") and name != "people" else 1e-9
                assert close(told, says, tolerance), (name, key, told, says, str(answer.basis), answer.sql)
        self.tally["questions"] += 1

    def may_refuse(self, dimensions, zone, first):
        """Whether hours that are gone would be needed: the days of the declared zones are kept, and they are not."""
        gone, midnight = self.model.hours_gone, datetime.combine(first, time(), ZoneInfo(zone))
        return gone is not None and midnight < gone and not (zone in self.zones and "time:hour" not in dimensions)


def quick_folder():
    """A folder in memory where there is one, as the disk is not what is tested here."""
    memory = "/dev/shm"
    return memory if os.access(memory, os.W_OK) else None


# -- many runs -------------------------------------------------------------------------------------------------------


def live(chance, runs, steps, turns, kind=Upkeep):
    """Runs of the machine in this process: what happened in them, and the story of the one that failed."""
    same_examples()  # for the same seed the same lives
    machine = type("Upkeep", (kind,), {"turns": turns, "tally": Counter()})
    quiet = settings(
        max_examples=runs, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck),
        database=None, derandomize=False,
        phases=[Phase.generate],  # a story is short enough to read, and shrinking it takes minutes
    )  # fmt: skip
    try:
        run_state_machine_as_test(seed(chance)(machine), settings=quiet)
    except BaseException as error:
        return machine.tally, f"with seed {chance}:\n{''.join(traceback.format_exception(error))}"
    return machine.tally, None


def many_lives(chance, runs, steps, turns=TURNS, at_once=50):
    """Runs of the machine in a process for each processor; what happened in all of them together."""
    parts = [(chance + place, min(at_once, runs - done), steps, turns)
             for place, done in enumerate(range(0, runs, at_once))]  # fmt: skip
    tally, new = Counter(), multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(len(parts), os.cpu_count() or 1), mp_context=new) as workers:
        for happened, story in workers.map(live, *zip(*parts, strict=True)):
            assert story is None, story
            tally += happened
    return tally
