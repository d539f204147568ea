"""Exports with real processes: one that is killed, one that does not own the store, one that was forked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

import gnomon
from gnomon.errors import StoreBusy

PROGRAM = Path(__file__).with_name("exporting.py")


@contextmanager
def exporter(store):
    """A process with a finished, a running and a waiting job; killed at the end."""
    with subprocess.Popen([sys.executable, str(PROGRAM), str(store)], stdout=subprocess.PIPE) as running:
        yield running.stdout.readline().decode().split()
        os.kill(running.pid, signal.SIGKILL)
        running.wait()


def test_a_killed_process_leaves_finished_files_and_failed_jobs(tmp_path):
    store = tmp_path / "shop.duckdb"
    folder = tmp_path / "shop.duckdb.exports"
    with exporter(store) as (done, running, waiting):
        assert folder.joinpath(f"{running}.part").exists()
        with gnomon.open(store) as recorder:  # this process does not own the store
            assert not recorder.owns_store
            assert {job.id: job.state for job in recorder.exports()} == {
                done: "completed", running: "processing", waiting: "queued"}  # fmt: skip
            assert recorder.export_file(done).exists()
            with pytest.raises(StoreBusy):
                recorder.export_analytics()
            with pytest.raises(StoreBusy):
                recorder.stream_export()
    with gnomon.open(store) as engine:
        found = {job.id: (job.state, job.code) for job in engine.exports()}
        assert found == {done: ("completed", None), running: ("failed", "export-interrupted"),
                         waiting: ("failed", "export-interrupted")}  # fmt: skip
        assert engine.get_export_status(done).rows == 200
        kept = engine.download_export(done, tmp_path / "kept.csv").read_text()
        assert sorted(path.name for path in folder.iterdir()) == sorted(
            [f"{done}.csv", *(f"{job}.job" for job in (done, running, waiting))]
        )
        again = engine.export_analytics("all", "csv", ["id"])
        until = time.monotonic() + 30
        while engine.get_export_status(again.id).state != "completed":
            assert time.monotonic() < until
            time.sleep(0.01)
        assert engine.download_export(again.id, tmp_path / "again.csv").read_text() == kept
        assert engine.verify_audit()


def test_a_forked_child_neither_runs_nor_waits_for_jobs(tmp_path):
    code = """
import os, sys, threading, time, gnomon
from gnomon.export import text
engine = gnomon.open(sys.argv[1])
engine.track("t"); engine.flush()
gate, texts = threading.Event(), text.Csv.texts
text.Csv.texts = lambda self, *given: gate.wait(30) and texts(self, *given)
jobs = [engine.export_analytics() for _ in range(2)]
child = os.fork()
if not child:
    assert {job.state for job in engine.exports()} <= {"queued", "processing"}
    try:
        engine.export_analytics()
    except gnomon.GnomonError as error:
        assert error.code == "store-busy"
    engine.close()
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
gate.set()
while any(job.state != "completed" for job in engine.exports()):
    time.sleep(0.01)
engine.close()
print("done")
"""
    ran = subprocess.run([sys.executable, "-c", code, str(tmp_path / "s.duckdb")], capture_output=True, text=True,
                         timeout=60, check=False)  # fmt: skip
    assert (ran.stdout, ran.stderr, ran.returncode) == ("done\n", "", 0)
