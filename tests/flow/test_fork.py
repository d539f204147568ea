"""Promise 7, fork: no event lost or doubled, no child that hangs, whoever forks and whenever."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
import time

import pytest

import gnomon
from gnomon.errors import StoreBusy

pytestmark = [
    pytest.mark.timeout(90),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]
QUICK = gnomon.Settings(flush_seconds=0.01)


def counts(engine: gnomon.AnalyticsEngine) -> dict[str, int]:
    """Events by type, once what children wrote has been drained."""
    engine.flush()
    deadline = time.monotonic() + 20
    while engine._hold.journal.positions(engine._hold.writer.position, 1) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert engine.books().closes()
    return {row["type"]: row["events"] for row in engine.query(["events"], ["type"])}


def in_child(work) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


def end_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("first", [False, True], ids=["before the first record", "after it"])
def test_fork(tmp_path, first):
    with gnomon.open(tmp_path / "f.duckdb", settings=QUICK) as engine:
        if first:
            engine.track("parent")

        def work():
            for _ in range(100):
                engine.track("child")
            engine.flush()

        children = [in_child(work) for _ in range(3)]
        engine.track("parent")
        assert [end_of(pid) for pid in children] == [0, 0, 0]
        assert counts(engine) == {"parent": 1 + first, "child": 300}


def test_a_child_may_not_ask_and_is_told_what_to_do(tmp_path):
    with gnomon.open(tmp_path / "f.duckdb", settings=QUICK) as engine:

        def work():
            with pytest.raises(StoreBusy, match="forked") as caught:
                engine.query(["events"])
            assert caught.value.remedy

        assert end_of(in_child(work)) == 0
        engine.track("x")
        assert counts(engine) == {"x": 1}


def test_multiprocessing_children_keep_their_events_without_a_flush(tmp_path):
    with gnomon.open(tmp_path / "f.duckdb", settings=QUICK) as engine:
        context = multiprocessing.get_context("fork")
        workers = [context.Process(target=lambda: engine.track("worker")) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(20)
        assert [worker.exitcode for worker in workers] == [0] * 4
        assert counts(engine) == {"worker": 4}


def test_forks_while_a_thread_records_and_flushes_at_full_speed(tmp_path):
    with gnomon.open(tmp_path / "f.duckdb", settings=QUICK) as engine:
        stop, made = threading.Event(), [0]

        def busy():
            while not stop.is_set():
                for _ in range(50):
                    engine.track("parent")
                    made[0] += 1
                engine.flush()

        thread = threading.Thread(target=busy)
        thread.start()
        try:
            for _ in range(25):

                def work():
                    engine.track("child")
                    engine.flush()

                assert end_of(in_child(work)) == 0
        finally:
            stop.set()
            thread.join(20)
        assert counts(engine) == {"parent": made[0], "child": 25}


PRELOAD = """
    import os, sys, time, gnomon
    engine = gnomon.open(sys.argv[1], settings=gnomon.Settings(flush_seconds=0.01))
    engine.track("master")
    children = []
    for place in range(3):
        pid = os.fork()
        if pid == 0:
            for _ in range(200):
                engine.track("worker")
            sys.exit(0)                       # a normal end: atexit flushes, the inherited store is left alone
        children.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0, 0]
    engine.track("master")                    # and the master ends without close()
"""


def test_a_preloading_master_and_workers_that_simply_end(tmp_path):
    store = tmp_path / "f.duckdb"
    program = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PRELOAD), str(store)], timeout=60, capture_output=True, text=True
    )
    assert (program.returncode, program.stderr) == (0, "")
    with gnomon.open(store) as engine:
        assert counts(engine) == {"master": 2, "worker": 600}


def test_a_child_that_kept_the_parents_buffer_would_be_found(tmp_path, monkeypatch):
    from gnomon.engine import AnalyticsEngine

    reset = AnalyticsEngine._reset

    def keep(self):
        waiting = list(getattr(self, "_buffer", ()))
        reset(self)
        self._buffer.extend(waiting)

    monkeypatch.setattr(AnalyticsEngine, "_reset", keep)
    with gnomon.open(tmp_path / "f.duckdb", settings=gnomon.Settings(flush_seconds=30)) as engine:
        engine.track("parent")
        assert end_of(in_child(engine.flush)) == 0
        assert counts(engine) != {"parent": 1}
