"""Pruning lets batches be stored between its steps, so that what is recorded meanwhile can be asked for."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

import gnomon
from gnomon.ingest.writer import Writer
from gnomon.testing import ManualClock

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAYS = 12


@pytest.fixture
def engine(tmp_path):
    with gnomon.open(tmp_path / "s.duckdb", clock=ManualClock(NOW), sampling=False) as opened:
        for day in range(DAYS):
            opened.track("old", user_id="u1", ts=NOW - timedelta(days=day, hours=1))
        opened.flush()
        opened.set_retention_policy(raw_data_days=2)
        yield opened


def wait_until(true, seconds=10.0):
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.001)


def stored_between(engine, monkeypatch, prune):
    """Record one event within each step of a prune; how many steps there were, and before how many of the next ones
    it was stored."""
    writer, store = engine._hold.writer, engine._hold.store
    change, checkpoint, seen, wanted = store.change, store.checkpoint, [], []

    def noted():
        if wanted:
            seen.append(writer.position >= wanted[-1])
        engine.track("new")
        wanted.append(engine._make_durable())
        wait_until(writer._turn.locked)  # the writer's thread waits for its turn

    def changing(*given):
        found = change(*given)
        noted()
        return found

    def writing(*, compact=False):
        checkpoint(compact=compact)
        noted()

    with monkeypatch.context() as patched:
        patched.setattr(store, "change", changing)
        patched.setattr(store, "checkpoint", writing)
        prune()
    engine.flush()
    return len(wanted), sum(seen)


def test_batches_are_stored_between_the_steps(engine, monkeypatch):
    steps, stored = stored_between(engine, monkeypatch, engine.prune)
    assert steps > DAYS and stored == steps - 1
    assert engine.query(["events"]).to_dicts() == [{"events": DAYS + steps}]


def test_a_prune_that_keeps_the_store_to_itself_is_found(engine, monkeypatch):
    def prune():
        with engine._hold.writer.paused():
            engine.prune()

    steps, stored = stored_between(engine, monkeypatch, prune)
    assert steps > DAYS and stored == 0


def overtaken(engine, waits, tries=50):
    """Two enter, the second while the first is in, which then enters again: how often that comes before the second."""
    writer, often = engine._hold.writer, 0
    writer.stop()  # its own thread takes no part
    for _ in range(tries):
        order, came = [], threading.Event()

        def second(order=order, came=came):
            came.set()
            with writer.paused():
                order.append("second")

        thread = threading.Thread(target=second)
        with writer.paused():
            thread.start()
            came.wait()
            until = time.monotonic() + 20
            while not waits() and time.monotonic() < until:
                time.sleep(0.001)
        with writer.paused():
            order.append("first again")
        thread.join()
        often += order[0] != "second"
    return often


def test_who_waits_comes_before_who_was_there(engine):
    assert overtaken(engine, engine._hold.writer._turn.locked) == 0


def test_a_lock_alone_does_not_do(engine, monkeypatch):
    lock = threading.RLock()

    @contextmanager
    def paused(_self):
        with lock:
            yield

    monkeypatch.setattr(Writer, "paused", paused)
    assert overtaken(engine, lambda: time.sleep(0.02) or True) > 0
