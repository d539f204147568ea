"""Promises 4, 5 and 12: numbers stay, whatever the order of everything that is done to a store.

The model is a plain list of events (`upkeep_machine`). What it says of totals, people, rates and percentiles (within
1 %) the engine must say, from raw rows or rollups, or refuse because raw rows are gone.
"""

import os
import random
import threading
from collections import Counter
from dataclasses import replace

import pytest
from upkeep_machine import BERLIN, CROWDED, KATHMANDU, TURNS, USERS, Upkeep, many_lives

from gnomon.errors import InvalidValue, StoreUnavailable
from gnomon.ingest.journal import Journal
from gnomon.ingest.sampling import Sampler
from gnomon.ingest.writer import Writer
from gnomon.query import inquiry
from gnomon.store import rollups
from gnomon.store.duckdb import DuckDBStore
from gnomon.store.duckdb.writing import Writing
from gnomon.store.incoming import Edges
from gnomon.upkeep import backup, erasure, restore, retention

DEAR = ("roll up", "prune", "forget", "erase", "back up", "restore", "crash", "restart")
LONG_RUNS = int(os.environ.get("UPKEEP_RUNS", "20000"))


def check_many(runs, turns):
    usual = random.randrange(2**32) if os.environ.get("EXPLORE") else 20_261_122
    chance = int(os.environ.get("UPKEEP_SEED", usual))  # a failure names the one to give here
    happened = many_lives(chance, runs, 50, turns)
    for what in (*DEAR, "left out", "weighted", "refused"):
        assert happened[what], f"{what} did not happen once"


@pytest.mark.timeout(900)
def test_numbers_stay_whatever_happens():
    check_many(200, TURNS)


@pytest.mark.slow
@pytest.mark.timeout(200_000)
def test_numbers_stay_whatever_happens_for_long():
    """Some three hours on two processors that have nothing else to do; UPKEEP_RUNS asks for fewer runs."""
    check_many(LONG_RUNS, CROWDED)


# -- broken builds are found -----------------------------------------------------------------------------------------


WELL = set()  #: stories that are known to go well


def tell(story, sampled=False, chance=1):
    """Live through a story, ask everything at its end."""
    machine = Upkeep()
    try:
        machine.begin(chance, (BERLIN, KATHMANDU), sampled)
        story(machine)
        machine.flush()
        machine.thorough = True
        machine.look()
    finally:
        machine.engine.close()
        machine.engine = None
        machine.teardown()


def broken(monkeypatch, story, place, name, what, sampled=False):
    """The story goes well; with one thing broken it does not."""
    if story not in WELL:
        tell(story, sampled)
        WELL.add(story)
    with monkeypatch.context() as patched, pytest.raises((AssertionError, StoreUnavailable)):  # pruning looks itself
        patched.setattr(place, name, what)
        tell(story, sampled)


def late(machine):
    machine.record(20, 24 * 9)
    machine.roll_up(False)
    machine.record(20, 24 * 9)
    machine.prune(1)


def test_a_rollup_that_forgets_late_rows_is_found(monkeypatch):
    broken(monkeypatch, late, rollups, "late_rows", lambda *_: "SELECT 0, 0, 0, false")


def rolled_up_by(**words):
    """The store's dialect with other words for rolling up."""
    dialect = DuckDBStore.dialect
    return replace(dialect, rollups=replace(dialect.rollups, **words))


def test_a_merge_that_drops_what_was_there_is_found(monkeypatch):
    def merge(project):
        kept, none = "SELECT * FROM met UNION ALL BY NAME", "SELECT * FROM met WHERE false UNION ALL BY NAME"
        return [step.replace(kept, none) for step in rollups.merge(project)]

    broken(monkeypatch, late, DuckDBStore, "dialect", rolled_up_by(merge=merge))


def test_a_rollup_that_passes_its_end_over_is_found(monkeypatch):
    def story(machine):
        machine.record(20, 24 * 9)
        machine.roll_up(True, 30)
        machine.record(5, 24 * 9)
        machine.roll_up(False)

    until = rollups.set_state
    broken(monkeypatch, story, rollups, "set_state", lambda me, us, *rest: until(me, us + 10**12, *rest))


def test_time_that_is_not_sealed_is_found(monkeypatch):
    def story(machine):
        machine.record(20, 24 * 9)
        machine.prune(1)
        machine.record(30, 24 * 9)

    broken(monkeypatch, story, Edges, "part", lambda self, project, rows: (rows, []))


def test_a_type_that_is_pruned_like_all_others_is_found(monkeypatch):
    def story(machine):
        machine.record(30, 24 * 9)
        machine.prune(5, own_days=1)
        machine.record(30, 24 * 9)

    edge = Edges.of
    broken(monkeypatch, story, Edges, "of", lambda self, project, _: edge(self, project, None))


def test_repeats_that_are_stored_are_found(monkeypatch):
    def story(machine):
        machine.record(30, 30)
        machine.restart()
        machine.say_again(10)

    broken(monkeypatch, story, Writing, "_repeats", lambda *_: set())


def test_a_legal_hold_that_holds_nothing_is_found(monkeypatch):
    def story(machine):
        machine.record(10, 24 * 9)
        machine.hold(8)
        machine.prune(1)
        machine.forget(USERS[0])

    broken(monkeypatch, story, retention, "check_hold", lambda *_: None)


def test_a_journal_that_forgets_what_no_checkpoint_holds_is_found(monkeypatch):
    def story(machine):
        machine.record(10, 0.2)
        machine.engine._hold.writer.checkpoint()
        machine.crash()

    broken(monkeypatch, story, DuckDBStore, "checkpoint", lambda self, compact=False: None)


# -- forgetting


def forgotten(machine):
    machine.record(30, 24 * 9)
    machine.roll_up(False)
    machine.forget(USERS[1], delete=True)
    machine.record(10, 24 * 9)


def test_rollups_that_still_hold_what_was_deleted_are_found(monkeypatch):
    broken(monkeypatch, forgotten, erasure, "_rebuilds", lambda *_: ())


def test_bytes_that_stay_in_the_file_are_found(monkeypatch):
    checkpoint = Writer.checkpoint
    broken(monkeypatch, forgotten, Writer, "checkpoint", lambda self, compact=False: checkpoint(self))


def test_bytes_that_stay_in_the_journal_are_found(monkeypatch):
    broken(monkeypatch, forgotten, Journal, "purge", lambda self: None)


# -- backups


def brought_back(machine):
    machine.set_thresholds(30.0)
    machine.record(20, 24 * 9)
    machine.prune(2)
    machine.back_up()
    machine.record(20, 24 * 9)
    machine.forget(USERS[0])
    machine.prune(1)
    machine.restore()
    machine.record(20, 24 * 9)
    machine.crash()
    machine.wait(26)
    machine.roll_up(False)


def test_a_backup_without_what_admins_have_set_is_found(monkeypatch):
    broken(monkeypatch, brought_back, Journal, "all_kept", lambda self: {})


def writes_when_asked(writer):
    """From now on the writer's thread waits until somebody waits for it; returns when it does."""
    there = threading.Event()

    def gather():
        there.set()
        with writer._changed:
            writer._changed.wait_for(lambda: writer._hurried or writer._stopping)
            writer._hurried = False

    writer._gather = gather
    assert there.wait(10)


def test_a_backup_without_what_waits_is_found(monkeypatch):
    """The machine has everything flushed when it makes one; here the last events have only reached the journal."""

    def story(machine):
        machine.record(20, 0.2)
        writes_when_asked(machine.engine._hold.writer)
        honest = machine.engine.flush
        machine.engine.flush = machine.engine._make_durable
        machine.record(20, 0.2)
        machine.engine.flush = honest
        machine.back_up()
        machine.restore()

    broken(monkeypatch, story, Writer, "wait_for", lambda *_: True)


def test_old_backups_that_stay_are_found(monkeypatch):
    def story(machine):
        machine.record(5, 0.2)
        for _ in range(6):
            machine.back_up()
            machine.wait(26)

    broken(monkeypatch, story, backup, "expire", lambda *_: None)


def test_a_restore_that_changes_nothing_is_found(monkeypatch):
    broken(monkeypatch, brought_back, DuckDBStore, "exchange", lambda *_: None)


def test_answers_of_before_a_restore_are_found(monkeypatch):
    def story(machine):
        machine.record(20, 0.2)
        machine.back_up()
        machine.record(20, 0.2)
        machine.thorough = True
        machine.look()
        machine.restore()
        machine.record(20, 0.2)

    def old(journal, position, _version, note, books):
        return restore_entering(journal, position, 0, note, books)

    restore_entering = restore.Entering
    broken(monkeypatch, story, restore, "Entering", old)


def test_a_restore_that_is_not_in_the_books_is_found(monkeypatch):
    broken(monkeypatch, brought_back, restore, "_books", lambda *_: ([], None))


# -- sampling


def thinned(machine):
    for _ in range(6):
        machine.record(30, 24 * 3)
    machine.roll_up(False)
    machine.record(30, 24 * 3)
    machine.forget(USERS[2])
    machine.record(30, 24 * 3)
    machine.prune(1)
    assert machine.model.noted and machine.tally["weighted"]


def test_people_of_thinned_rows_that_are_lost_are_found(monkeypatch):
    append = Writing._append
    broken(monkeypatch, thinned, Writing, "_append", lambda self, table, rows: None if table == "sightings" else
           append(self, table, rows), sampled=True)  # fmt: skip


def left_out(machine):
    """A person whose events are left out, and again after they were forgotten."""
    machine.record(30, 0, user_id=None)
    for _ in range(6):
        machine.forget(USERS[0])
        machine.record(1, 0, user_id=USERS[0], type="request", source="a", success=True)
        machine.look()


def test_people_whom_no_question_counts_are_found(monkeypatch):
    broken(monkeypatch, left_out, inquiry, "SIGHTED", "SELECT 0, {}", sampled=True)


def test_who_is_not_noted_again_is_found(monkeypatch):
    broken(monkeypatch, left_out, Sampler, "note_again", lambda self: None, sampled=True)


def test_rollups_that_count_rows_are_found(monkeypatch):
    def stage(*words, **more):
        return [step.replace("sum(weight) AS n", "count(*) AS n") for step in rollups.stage(*words, **more)]

    broken(monkeypatch, thinned, DuckDBStore, "dialect", rolled_up_by(stage=stage), sampled=True)


def test_failures_that_are_left_out_are_found(monkeypatch):
    def careless(self, drawn, probability, outcomes, sources, weights, gone):
        gone += [place for place, coin in drawn if coin >= int(probability * 2**32)]

    broken(monkeypatch, thinned, Sampler, "_decide", careless, sampled=True)


# -- refusals


def test_what_only_raw_rows_answer_is_refused_once_they_are_gone():
    def story(machine):
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

    tell(story, chance=2)
