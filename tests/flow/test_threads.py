"""Promise 7, threads: a call that loses its turn between ringing and appending, an engine that is closed under its
users, Ctrl-C in the middle of a flush, many threads with many kinds of work at once."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter

import pytest

import gnomon
from gnomon.errors import EngineClosed, StoreUnavailable

pytestmark = pytest.mark.timeout(90)


def stored(store) -> Counter[str]:
    with gnomon.open(store) as engine:
        assert engine.books().closes()
        return Counter({row["type"]: row["events"] for row in engine.query(["events"], ["type"])})


def comes_by_itself(engine, monkeypatch, looks, seconds) -> bool:
    """Whether an event is written whose caller lost its turn between waking the background thread and appending."""
    crowded, drain, looked = engine._crowded, engine._drain, threading.Semaphore(0)

    def slow(*args, **kwargs):
        found = crowded(*args, **kwargs)
        for _ in range(looks):
            assert looked.acquire(timeout=20)  # the background thread has looked, and found nothing
        return found

    def drained(*args, **kwargs):
        try:
            return drain(*args, **kwargs)
        finally:
            looked.release()

    monkeypatch.setattr(engine, "_drain", drained)
    monkeypatch.setattr(engine, "_crowded", slow)
    engine.track("x")
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if engine.query(["events"])[0]["events"]:
            return True
        time.sleep(0.02)
    return False


def test_an_event_that_comes_after_its_own_bell(tmp_path, monkeypatch):
    with gnomon.open(tmp_path / "t.duckdb", flush_seconds=0.02) as engine:
        assert comes_by_itself(engine, monkeypatch, 3, 20)


def test_a_thread_that_sleeps_after_one_look_would_be_found(tmp_path, monkeypatch):
    monkeypatch.setattr("gnomon.ingest.collector.QUIET_ROUNDS", 0)
    with gnomon.open(tmp_path / "t.duckdb", flush_seconds=0.02) as engine:
        assert not comes_by_itself(engine, monkeypatch, 1, 2)


def test_closing_under_its_users(tmp_path):
    """What was recorded before `close()` was called is kept, calls after it do nothing, and nobody hangs or raises."""
    for number in range(8):
        store = tmp_path / f"t{number}.duckdb"
        engine = gnomon.open(store, flush_seconds=0.01)
        made, before, faults = [0] * 4, [], []
        go_on = threading.Event()

        def record(place, engine=engine, made=made, faults=faults, go_on=go_on):
            try:
                while not go_on.is_set():
                    engine.track(f"t{place}")
                    made[place] += 1
                    if made[place] % 500 == 0:
                        engine.flush()
            except (EngineClosed, StoreUnavailable):
                pass  # what a flush says that meets the closing engine; recording says nothing
            except Exception as error:
                faults.append(error)

        threads = [threading.Thread(target=record, args=(place,)) for place in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.05)
        before = list(made)
        engine.close()
        go_on.set()
        for thread in threads:
            thread.join(20)
        assert not faults
        found = stored(store)
        for place in range(4):
            assert before[place] <= found[f"t{place}"] <= made[place]


def test_ctrl_c_in_the_middle_of_flushes(tmp_path):
    """The main thread is interrupted again and again while it commits for everybody."""
    program = """
        import os, signal, sys, threading, time, gnomon
        engine = gnomon.open(sys.argv[1], settings=gnomon.Settings(flush_seconds=0.01, checkpoint_seconds=0.1))
        stop, made, interrupted = threading.Event(), [0, 0], 0

        def other():
            while not stop.is_set():
                engine.track("other")
                made[1] += 1
                engine.flush()

        def pest():
            while not stop.is_set():
                time.sleep(0.01)
                os.kill(os.getpid(), signal.SIGINT)

        threads = [threading.Thread(target=other), threading.Thread(target=pest)]
        for thread in threads:
            thread.start()
        until = time.monotonic() + 2
        while time.monotonic() < until:
            try:
                engine.track("main")
                made[0] += 1
                engine.flush()
            except KeyboardInterrupt:
                interrupted += 1
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        stop.set()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()
        engine.flush()
        books = engine.books()
        assert books.closes() and books.pending == 0
        engine.close()
        print(interrupted, *made)
    """
    words = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "t.duckdb")]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    interrupted, main, other = map(int, ended.stdout.split())
    found = stored(tmp_path / "t.duckdb")
    assert interrupted > 5
    assert found["other"] == other
    assert main <= found["main"] <= main + interrupted  # an interrupt may come between a call and its count


def test_everything_at_once(tmp_path):
    """Recording, metrics, flushes, questions, books, checkpoints and an import from many threads: exact counts."""
    page = tmp_path / "events.ndjson"
    page.write_text(
        "".join(f'{{"type": "imported", "id": "i{n}", "ts": "2025-01-01T00:00:00Z"}}\n' for n in range(3_000))
    )
    with gnomon.open(tmp_path / "t.duckdb", flush_seconds=0.01, checkpoint_seconds=0.05) as engine:
        stop, faults = threading.Event(), []

        def guarded(work):
            def run():
                try:
                    work()
                except Exception as error:
                    faults.append(error)

            return threading.Thread(target=run)

        def record():
            for number in range(4_000):
                engine.track("x", source=f"s{number % 3}")
                if number % 100 == 0:
                    engine.record_metric("m", number)
                    engine.flush()

        def ask():
            while not stop.is_set():
                assert engine.books().closes()
                engine.query(["events", "people"], ["source"])
                engine.health()

        workers = [guarded(record) for _ in range(4)]
        workers += [guarded(lambda: [engine.import_file(page) for _ in range(3)])]
        askers = [guarded(ask) for _ in range(2)]
        for thread in workers + askers:
            thread.start()
        for thread in workers:
            thread.join()
        stop.set()
        for thread in askers:
            thread.join()
        assert not faults
        engine.flush()
        books = engine.books()
        assert (books.stored, books.duplicate, books.closes()) == (19_000, 6_000, True)
        assert engine.query(["samples"], dataset="samples")[0]["samples"] == 160
        assert engine.books("sample").closes()
    assert stored(tmp_path / "t.duckdb") == {"x": 16_000, "imported": 3_000}


def test_a_signal_handler_that_records(tmp_path):
    """A handler runs between two instructions of whatever the main thread is doing, recording calls included."""
    with gnomon.open(tmp_path / "t.duckdb", flush_seconds=0.01, flush_events=50) as engine:
        handled = [0]

        def handler(*_):
            engine.track("signal")
            engine.record_metric("signal", 1)
            handled[0] += 1

        before = signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        try:
            until = time.monotonic() + 1.0
            made = 0
            while time.monotonic() < until:
                engine.track("main")
                made += 1
                if made % 1_000 == 0:
                    engine.flush()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        engine.flush()
        assert handled[0] > 100
    assert stored(tmp_path / "t.duckdb") == {"main": made, "signal": handled[0]}
