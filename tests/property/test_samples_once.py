"""Samples with an id count once, whatever is sent again, in whatever batches, and wherever the process dies between.

The model is that of events (test_exactly_once.py). A death is a copy of the files as they lie on the disk at that
moment, opened in their place: what no commit has made durable is gone, and its senders send it again.
"""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gnomon
from gnomon.config import Settings
from gnomon.event import Batch
from gnomon.store.duckdb import DuckDBStore, opening, writing
from gnomon.testing import ManualClock

START = datetime(2026, 1, 15, 12, tzinfo=UTC)
US = 1_768_478_400_000_000
IDS = ["a", "A", "0198c0de-0000-7000-8000-0123456789ab", "0198C0DE-0000-7000-8000-0123456789AB", None]
PROJECTS = ["one", "two"]


class Model:
    """What must have become of every sample. `durable` is what a death leaves."""

    def __init__(self):
        self.waiting = []
        self.kept = []
        self.counts = Counter()

    def send(self, project, id_, place, received):
        self.waiting.append((project, id_, place, received))

    def settle(self):
        for project, id_, place, received in self.waiting:
            repeat = id_ is not None and any(
                (owner, known) == (project, id_) and (ts == place or received - then <= timedelta(days=1))
                for owner, known, ts, then in self.kept
            )
            self.counts[project, "duplicate" if repeat else "stored"] += 1
            if not repeat:
                self.kept.append((project, id_, place, received))
        self.waiting = []


STEP = st.one_of(
    *[st.tuples(st.just("send"), st.sampled_from(PROJECTS), st.sampled_from(IDS), st.integers(0, 2))] * 5,
    st.tuples(st.just("flush")),
    st.tuples(st.just("checkpoint")),
    st.tuples(st.just("wait"), st.sampled_from([1, 23 * 3_600, 86_400, 86_401])),
    st.tuples(st.just("reopen")),
    st.tuples(st.just("die")),
)
FOLDERS = itertools.count()


class Run:
    """The steps on real engines and on the model."""

    def __init__(self, folder):
        self.folder, self.clock, self.model = folder / f"run{next(FOLDERS)}", ManualClock(START), Model()
        self.folder.mkdir()
        self.open()

    def open(self):
        # Nothing is carried or checkpointed by itself: what is durable when it dies has to be known.
        settings = {"flush_seconds": 600.0, "checkpoint_seconds": 600.0, "heartbeat_seconds": 0.0, "clock": self.clock}
        self.engines = {name: gnomon.open(self.folder / "x.duckdb", project=name, **settings) for name in PROJECTS}

    def close(self):
        for engine in self.engines.values():
            engine.close()

    def settle(self):
        for engine in self.engines.values():
            engine.flush()
        self.model.settle()

    def send(self, project, id_, place):
        ts = START + timedelta(hours=place - 5)
        self.engines[project].record_metric("m", place, id=id_, ts=ts)
        self.model.send(project, id_, place, self.clock.now)

    def flush(self):
        self.settle()

    def wait(self, seconds):
        self.settle()
        self.clock.advance(seconds=seconds)

    def checkpoint(self):
        self.engines["one"]._hold.writer.checkpoint()

    def reopen(self):
        self.settle()
        self.close()
        self.open()

    def die(self):
        image = self.folder.with_name(self.folder.name + "x")
        shutil.copytree(self.folder, image)
        self.close()
        self.folder, unsure = image, self.model.waiting
        self.model.waiting = []
        self.open()
        for project, id_, place, _ in unsure:
            self.send(project, id_, place)

    def check(self):
        self.settle()
        for project, engine in self.engines.items():
            kept = [one for one in self.model.kept if one[0] == project]
            assert engine.query(["samples"], dataset="samples")[0]["samples"] == len(kept)
            books = engine.books("sample")
            assert books.closes() and books.pending == 0
            found = {"stored": books.stored, "duplicate": books.duplicate}
            assert found == {outcome: self.model.counts[project, outcome] for outcome in found}


def run(folder, steps):
    story = Run(folder)
    try:
        for name, *given_ in steps:
            getattr(story, name)(*given_)
        story.check()
    finally:
        story.close()


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.lists(STEP, min_size=3, max_size=25))
def test_every_sample_with_an_id_counts_once_and_the_books_close(tmp_path, steps):
    run(tmp_path, steps)


SEND, FLUSH, DIE, CHECKPOINT = ("send", "one", "a", 0), ("flush",), ("die",), ("checkpoint",)
STORIES = {
    "in one batch": [SEND] * 5,
    "in batches of their own": [SEND, FLUSH, SEND, FLUSH, SEND],
    "after a death before the commit": [SEND, DIE, SEND],
    "after a death behind the commit": [SEND, FLUSH, DIE, SEND, FLUSH, DIE],
    "after a death behind a checkpoint": [SEND, FLUSH, CHECKPOINT, SEND, FLUSH, DIE, SEND],
    "another ts within 24 hours": [SEND, ("wait", 86_400), ("send", "one", "a", 1)],
    "another ts after 24 hours": [SEND, ("wait", 86_401), ("send", "one", "a", 1)],
    "the same ts after a week": [SEND, *[("wait", 86_401)] * 7, SEND],
    "another project": [SEND, ("send", "two", "a", 0), FLUSH, ("send", "two", "a", 0), SEND],
    "without an id": [("send", "one", None, 0)] * 3 + [FLUSH, ("send", "one", None, 0), DIE, SEND],
}


@pytest.mark.parametrize("story", STORIES)
def test_known_stories(tmp_path, story):
    run(tmp_path, STORIES[story])


@pytest.mark.parametrize(
    ("broken", "story"),
    [("_SAMPLES_IN_SPAN", "the same ts after a week"), ("_SAMPLES_RECENT", "another ts within 24 hours")],
)
def test_a_store_that_forgets_to_look_is_found(tmp_path, monkeypatch, broken, story):
    words = getattr(writing, broken).replace("WHERE EXISTS", "WHERE s.id IS NULL AND EXISTS")
    monkeypatch.setattr(writing, broken, words)
    with pytest.raises(AssertionError):
        run(tmp_path, STORIES[story])


def test_a_store_that_does_not_look_within_a_batch_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "without_own_repeats", lambda rows, at=None: (rows, []))
    with pytest.raises(AssertionError):
        run(tmp_path, STORIES["in one batch"])


# -- what is there from before ---------------------------------------------------------------------------------------


def test_a_journal_of_the_version_before_is_replayed():
    store = DuckDBStore(":memory:", Settings())
    try:
        old, new = (US, US, "m", "gauge", 1.5, None), (US, US, "m", "gauge", 1.5, None, "a")
        store.write([(1, Batch("p", samples=[old, new, new])), (2, Batch("p", samples=[old, new]))], "j")
        store.write([(1, Batch("p", samples=[old, new, new], replayed=True))], "another journal")
        (rows,) = store.ask(["SELECT id FROM samples ORDER BY id"], 5.0)
        assert rows.rows == [("a",), (None,), (None,)]
    finally:
        store.close()


def test_a_store_of_schema_3_is_brought_up_and_salvaged(tmp_path, monkeypatch):
    path = tmp_path / "x.duckdb"
    monkeypatch.setattr(opening, "SCHEMA", 3)
    older = DuckDBStore(str(path), Settings())
    older.change(["INSERT INTO samples SELECT 'default', now()::TIMESTAMP, now()::TIMESTAMP, 1, 'm', 'gauge', 2, NULL"])
    older.checkpoint()
    older.close()
    monkeypatch.undo()
    report = gnomon.store.salvage_store(str(tmp_path / "new.duckdb"), str(path), Settings())
    assert report["samples"] == "1 rows, 0 groups of 122880 lost"
    for file in (path, tmp_path / "new.duckdb"):
        with gnomon.open(file) as engine:
            for _ in range(2):
                engine.record_metric("m", 3, id="a")
                engine.flush()
            assert engine.query(["samples", "sum_value"], dataset="samples").to_dicts() == [
                {"samples": 2, "sum_value": 5}
            ]


@pytest.mark.parametrize("id_", ["anna", "0198c0de-0000-7000-8000-0123456789ab"])
def test_a_sample_of_a_person_that_is_forgotten_keeps_no_id_that_tells_of_them(tmp_path, id_):
    with gnomon.open(tmp_path / "x.duckdb", clock=ManualClock(START)) as engine:
        engine.record_metric("m", 1, id=id_, labels={"user": "anna"})
        engine.record_metric("m", 2, id="of another")
        engine.flush()
        assert engine.forget("anna").samples == 1
        (rows,) = engine._hold.store.ask(["SELECT id, labels FROM samples ORDER BY value"], 5.0)
        assert rows.rows == [(None if id_ == "anna" else id_, None), ("of another", None)]
        assert b"anna" not in (tmp_path / "x.duckdb").read_bytes()


def test_a_journal_file_of_the_version_before_is_replayed(tmp_path):
    live, crashed = tmp_path / "live", tmp_path / "crashed"
    live.mkdir()
    engine = gnomon.open(live / "x.duckdb", clock=ManualClock(START), flush_seconds=600.0)
    with engine, engine._hold.writer._work:  # it stays in the journal
        batch = Batch("default", samples=[(US, US, "m", "gauge", 1.5, '{"a":1}')])
        batch.counts = [["sample", None, "received", "", 1]]
        engine._journal.append([batch])
        shutil.copytree(live, crashed)
    with gnomon.open(crashed / "x.duckdb", clock=ManualClock(START)) as engine:
        found = engine.query(["samples", "sum_value"], dataset="samples").to_dicts()
        assert found == [{"samples": 1, "sum_value": 1.5}]
        assert engine.books("sample").closes() and engine.books("sample").stored == 1
