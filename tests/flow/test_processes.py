"""Threads, tasks and processes that record together, and readers that never see part of a batch."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

import gnomon
from gnomon.errors import StoreBusy
from gnomon.store.duckdb import DuckDBStore

pytestmark = pytest.mark.timeout(90)

RECORDER = """
    import sys, gnomon
    engine = gnomon.open(sys.argv[1], settings=gnomon.Settings(flush_seconds=0.01))
    print("owner" if engine.owns_store else "recorder", flush=True)
    for number in range(int(sys.argv[3])):
        engine.track(sys.argv[2], properties={"n": number})
        if number % 97 == 0:
            engine.flush()
    engine.flush()
    print("done", flush=True)
    if len(sys.argv) > 4:
        sys.stdin.readline()
"""


def recorder(store, name, count, *wait) -> subprocess.Popen:
    words = [sys.executable, "-c", textwrap.dedent(RECORDER), str(store), name, str(count), *wait]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def finish(child: subprocess.Popen) -> None:
    out, _ = child.communicate("\n", timeout=60)
    assert child.returncode == 0, out


def by_type(engine) -> dict[str, int]:
    return {row["type"]: row["events"] for row in engine.query(["events"], ["type"])}


def test_eight_threads(tmp_path):
    with gnomon.open(tmp_path / "t.duckdb", settings=gnomon.Settings(flush_seconds=0.01)) as engine:

        def work(place):
            for number in range(5_000):
                engine.track(f"t{place}", source="threads")
                if number % 1_000 == 0:
                    engine.flush()

        threads = [threading.Thread(target=work, args=(place,)) for place in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        engine.flush()
        assert by_type(engine) == {f"t{place}": 5_000 for place in range(8)}
        books = engine.books()
        assert books.closes() and books.stored == 40_000


def test_tasks_of_an_event_loop(tmp_path):
    with gnomon.open(tmp_path / "t.duckdb") as engine:

        async def work():
            for _ in range(100):
                engine.track("task")
                await asyncio.sleep(0)

        async def main():
            await asyncio.gather(*[work() for _ in range(20)])

        asyncio.run(main())
        engine.flush()
        assert by_type(engine) == {"task": 2_000}


def test_the_end_of_the_interpreter_flushes(tmp_path):
    code = f"import gnomon; gnomon.open({str(tmp_path / 't.duckdb')!r}).track('last words')"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
    with gnomon.open(tmp_path / "t.duckdb") as engine:
        assert by_type(engine) == {"last words": 1}


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_that_append_to_one_journal(tmp_path, processes):
    store = tmp_path / "p.duckdb"
    with gnomon.open(store) as engine:
        children = [recorder(store, f"p{place}", 500) for place in range(processes)]
        for child in children:
            finish(child)
        deadline = time.monotonic() + 20
        while by_type(engine) != {f"p{place}": 500 for place in range(processes)} and time.monotonic() < deadline:
            time.sleep(0.05)
        assert by_type(engine) == {f"p{place}": 500 for place in range(processes)}
        assert engine.books().closes()


def test_only_the_owner_answers_and_its_heir_takes_over(tmp_path):
    store = tmp_path / "p.duckdb"
    owner = recorder(store, "owner", 300, "wait")
    assert owner.stdout.readline() == "owner\n"
    assert owner.stdout.readline() == "done\n"
    with gnomon.open(store) as engine:
        engine.track("heir")
        engine.flush()  # durable, though this process may not ask
        with pytest.raises(StoreBusy) as caught:
            engine.query(["events"])
        assert str(owner.pid) in caught.value.message and caught.value.remedy
        os.kill(owner.pid, signal.SIGKILL)
        owner.communicate()
        assert by_type(engine) == {"owner": 300, "heir": 1}
        assert engine.books().closes()


def test_a_process_that_only_records_takes_over_by_itself(tmp_path, monkeypatch):
    monkeypatch.setattr("gnomon.ingest.hold.TAKE_OVER_SECONDS", 0.05)
    store = tmp_path / "p.duckdb"
    owner = recorder(store, "owner", 10, "wait")
    assert owner.stdout.readline() == "owner\n"
    with gnomon.open(store) as engine:
        assert not engine.owns_store
        os.kill(owner.pid, signal.SIGKILL)
        owner.communicate()
        deadline = time.monotonic() + 20
        while not engine.owns_store and time.monotonic() < deadline:
            engine.track("x")
            engine.flush()
            time.sleep(0.05)
        assert engine.owns_store


def test_engines_of_one_process_share_the_store(tmp_path):
    with gnomon.open(tmp_path / "p.duckdb", project="a") as a:
        with gnomon.open(tmp_path / "p.duckdb", project="b") as b:
            a.track("x")
            b.track("y")
            a.flush()
            b.flush()
            assert (by_type(a), by_type(b)) == ({"x": 1}, {"y": 1})
        a.track("x")
        a.flush()
        assert by_type(a) == {"x": 2}


def seen_while_writing(tmp_path) -> set[int]:
    """Remainders by 1,000 of the counts that a reader saw while batches of 1,000 were written."""
    settings = gnomon.Settings(flush_seconds=30, cache_entries=0)
    with gnomon.open(tmp_path / "r.duckdb", settings=settings) as engine:
        stop, seen = threading.Event(), set()

        def read():
            while not stop.is_set():
                seen.add(engine.query(["events"])[0]["events"] % 1_000)

        reader = threading.Thread(target=read)
        reader.start()
        for _ in range(25):
            for _ in range(1_000):
                engine.track("x")
            engine.flush()
        stop.set()
        reader.join()
    return seen


def test_no_reader_sees_part_of_a_batch(tmp_path):
    assert seen_while_writing(tmp_path) == {0}


def test_writing_a_batch_in_parts_would_be_found(tmp_path, monkeypatch):
    write = DuckDBStore.write

    def in_parts(self, work, journal_id):
        for position, batch in work:
            rows = batch.rows
            for start in range(0, len(rows), 100):
                batch.rows = rows[start : start + 100]
                write(self, [(position, batch)], journal_id)
                batch.counts = []
                time.sleep(0.002)
        return {}

    monkeypatch.setattr(DuckDBStore, "write", in_parts)
    assert seen_while_writing(tmp_path) != {0}
