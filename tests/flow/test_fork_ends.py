"""Promise 7, how forked processes end: whoever ends first and however, what `flush()` returned for is kept and nobody
complains. Each story runs in processes of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time

import pytest

import gnomon

pytestmark = pytest.mark.timeout(90)

#: What every story begins with. `end()` leaves without any clean-up.
PRELUDE = """
    import json, multiprocessing, os, signal, subprocess, sys, threading, time
    import gnomon
    from gnomon.errors import StoreBusy
    store, how = sys.argv[1], sys.argv[2]
    QUICK = gnomon.Settings(flush_seconds=0.01)

    def end():
        os._exit(0)
"""


def tell(story: str, store, how: str = "") -> str:
    """Run a story to its end; it must exit with 0 and say nothing on standard error. Returns what it printed."""
    path = store.with_name("story.py")
    path.write_text(textwrap.dedent(PRELUDE) + textwrap.dedent(story))
    ended = subprocess.run([sys.executable, str(path), str(store), how], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stderr[-3_000:]
    return ended.stdout


def by_type(store) -> dict[str, int]:
    with gnomon.open(store) as engine:
        engine.flush()
        books = engine.books()
        assert books.closes() and books.pending == 0
        return {row["type"]: row["events"] for row in engine.query(["events"], ["type"])}


OUTLIVE = """
    master = os.fork()
    if master == 0:
        engine = gnomon.open(store, settings=QUICK)
        engine.track("parent")
        engine.flush()
        if os.fork() == 0:
            for number in range(12):
                engine.track("child")
                engine.flush()
                print(number, flush=True)
                time.sleep(0.03)
            end()
        time.sleep(0.12)
        if "close" in how:
            engine.close()
            end()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(master, 0)
    if "heir" in how:
        code = "import gnomon, sys; e = gnomon.open(sys.argv[1]); assert e.owns_store; e.track('heir'); e.close()"
        subprocess.run([sys.executable, "-c", code, store], check=True)
    time.sleep(0.5)
"""


def outlived(store, how: str, broken: str = "") -> int:
    """How many acknowledged events are missing after a child outlived its parent."""
    promised = len(tell(textwrap.dedent(broken) + textwrap.dedent(OUTLIVE), store, how).split())
    time.sleep(0.2)
    found = by_type(store)
    assert found.pop("heir", 1) == 1
    assert promised == 12 and found.pop("parent") == 1
    return promised - found.get("child", 0)


@pytest.mark.parametrize("how", ["close", "kill", "close heir", "kill heir"])
def test_a_child_that_outlives_its_parent_loses_nothing(tmp_path, how):
    assert outlived(tmp_path / "f.duckdb", how) == 0


def test_a_journal_connection_that_is_inherited_would_be_found(tmp_path):
    broken = """
        from gnomon.ingest.journal import Journal
        Journal.hold = lambda self: (self._lock.acquire(), self._reader_lock.acquire())
    """
    assert outlived(tmp_path / "f.duckdb", "close", broken) > 0


def test_a_child_ends_as_it_wants_to_without_a_word(tmp_path):
    story = """
        engine = gnomon.open(store, settings=QUICK)
        engine.track("parent")
        engine.flush()
        engine.query(["events"])
        codes = []
        for ending in ("exit", "fall", "raise", "grandchild"):
            pid = os.fork()
            if pid == 0:
                engine.track("child")
                if ending == "exit":
                    sys.exit(7)
                if ending == "raise":
                    sys.excepthook = lambda *_: None
                    raise RuntimeError
                if ending == "grandchild" and os.fork() == 0:
                    engine.track("grandchild")
                    sys.exit(0)
                if ending == "grandchild":
                    os.wait()
                break  # fall off the end of the program
            codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        else:
            print(json.dumps(codes))
    """
    assert json.loads(tell(story, tmp_path / "f.duckdb")) == [7, 0, 1, 0]
    assert by_type(tmp_path / "f.duckdb") == {"parent": 1, "child": 4, "grandchild": 1}


@pytest.mark.parametrize("how", ["fork", "forkserver", "spawn"])
def test_an_engine_opened_in_a_multiprocessing_child_keeps_its_events(tmp_path, how):
    story = """
        def work(name):
            engine = gnomon.open(store, settings=gnomon.Settings(flush_seconds=30))
            engine.track(name)  # and no flush, no close

        if __name__ == "__main__":
            context = multiprocessing.get_context(how)
            workers = [context.Process(target=work, args=("worker",)) for _ in range(3)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join(30)
            assert [worker.exitcode for worker in workers] == [0, 0, 0]
    """
    tell(story, tmp_path / "f.duckdb", how)
    assert by_type(tmp_path / "f.duckdb") == {"worker": 3}


def test_a_child_leaves_the_folder_of_a_store_in_memory_alone(tmp_path):
    story = """
        engine = gnomon.open(":memory:", settings=QUICK)
        for _ in range(2):
            if os.fork() == 0:
                engine.track("child")
                sys.exit(0)
            os.wait()
        engine.track("parent")
        engine.flush()
        while engine.query(["events"])[0]["events"] < 3:
            time.sleep(0.02)
        folder = engine._hold.file.parent
        engine.close()
        assert not folder.exists()
    """
    tell(story, tmp_path / "unused.duckdb")


def test_a_forked_process_never_holds_the_store_back(tmp_path):
    """It may neither use the inherited DuckDB nor keep others from the store once its parent is gone."""
    story = """
        master = os.fork()
        if master == 0:
            engine = gnomon.open(store, settings=QUICK)
            engine.track("parent")
            engine.flush()
            if os.fork() == 0:
                time.sleep(0.2)  # the parent is gone by now
                again = gnomon.open(store, settings=QUICK)
                for asked in (engine, again):
                    try:
                        asked.query(["events"])
                    except StoreBusy as error:
                        assert error.remedy
                    else:
                        raise AssertionError("it answered from what it had inherited")
                again.track("child")
                again.flush()
                print("ready", flush=True)
                time.sleep(1.5)
                end()
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(master, 0)
        time.sleep(0.6)
        code = "import gnomon, sys; e = gnomon.open(sys.argv[1]); print(e.query(['events'])[0]['events'])"
        subprocess.run([sys.executable, "-c", code, store], check=True)
    """
    assert tell(story, tmp_path / "f.duckdb").split() == ["ready", "2"]


@pytest.mark.parametrize("seconds", [0.001, 0.01, 0.03, 0.1])
def test_a_child_never_waits_for_what_another_thread_was_importing(tmp_path, seconds):
    """The first question loads modules; each is locked meanwhile, and nobody would unlock it in the child."""
    story = """
        engine = gnomon.open(store)
        asking = threading.Thread(target=engine.query, args=(["events"],))
        asking.start()
        time.sleep(float(how))
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            try:
                engine.query(["events"])
            except StoreBusy:
                end()
        assert os.waitpid(pid, 0)[1] == 0
        asking.join()
        engine.close()
    """
    tell(story, tmp_path / "f.duckdb", str(seconds))


def test_fifty_forks_while_others_record_flush_and_ask(tmp_path):
    story = """
        engine = gnomon.open(store, settings=gnomon.Settings(flush_seconds=0.01, checkpoint_seconds=0.2))
        stop, made = threading.Event(), [0, 0]

        def record(place):
            while not stop.is_set():
                for _ in range(20):
                    engine.track("parent")
                    made[place] += 1
                engine.flush()
                time.sleep(0.002)  # or the interpreter is never free for the one that forks

        def ask():
            while not stop.is_set():
                engine.query(["events", "people"], ["source"])
                time.sleep(0.01)

        threads = [threading.Thread(target=record, args=(place,)) for place in range(2)]
        threads.append(threading.Thread(target=ask))
        for thread in threads:
            thread.start()
        for number in range(50):
            pid = os.fork()
            if pid == 0:
                engine.track("child")
                if number % 5:
                    engine.flush()
                    end()
                sys.exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        stop.set()
        for thread in threads:
            thread.join()
        engine.close()
        print(sum(made))
    """
    made = int(tell(story, tmp_path / "f.duckdb"))
    assert by_type(tmp_path / "f.duckdb") == {"parent": made, "child": 50}
