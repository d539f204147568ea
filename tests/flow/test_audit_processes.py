"""The audit under processes, threads, forks, kill -9 and a full disk: one chain that verifies, and nothing lost."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from test_disk_full import fill, small_disk  # noqa: F401  the fixture

import gnomon
from gnomon.errors import DiskFull, StoreUnavailable
from gnomon.upkeep import verify as verifying
from gnomon.upkeep.verify import verify

PROGRAM = Path(__file__).with_name("auditing.py")

pytestmark = pytest.mark.timeout(120)


def child(store: Path, count: int, *words: str, broken: str = "") -> subprocess.Popen[bytes]:
    command = [sys.executable, str(PROGRAM), str(store), str(count), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0, env={**os.environ, "BROKEN": broken})


def told(one: subprocess.Popen[bytes]) -> int:
    """The last number of an entry that the child said it had left."""
    out, _ = one.communicate(timeout=60)
    lines = out.split(b"\n")[:-1]
    return int(lines[-1]) if lines else 0


# -- many at once ---------------------------------------------------------------------------------------------------


def many(folder: Path, processes: int, count: int, broken: str = "") -> verifying.Verdict:
    store = folder / "s.duckdb"
    running = [child(store, count, broken=broken) for _ in range(processes)]
    for one in running:
        told(one)
    return verify(folder / "s.duckdb.audit")


def test_processes_append_to_one_chain(tmp_path):
    verdict = many(tmp_path, 4, 150)
    assert verdict and verdict.entries == 600


def test_processes_without_the_lock_would_be_found(tmp_path):
    for attempt in range(5):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        verdict = many(folder, 4, 150, broken="no-lock")
        if not verdict or verdict.entries != 600:
            return
    pytest.fail("four processes without the lock made a sound chain, five times")


def test_threads_and_engines_append_to_one_chain(tmp_path):
    engines = [gnomon.open(tmp_path / "s.duckdb", project=f"p{place % 2}") for place in range(4)]

    def ask(engine: gnomon.AnalyticsEngine, place: int) -> None:
        caller = engine.acting_as(gnomon.Principal(f"caller {place}", ["read"]))
        for _ in range(40):
            caller.query(["events"])

    threads = [threading.Thread(target=ask, args=(engines[place % 4], place)) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    verdict = engines[0].verify_audit()
    assert verdict and verdict.entries == 320
    for place in range(8):
        found = engines[place % 4].get_access_log(user_filter=f"caller {place}")
        assert len(found) == 40 and {entry.project for entry in found} == {f"p{place % 2}"}
    for engine in engines:
        engine.close()
    assert verify(tmp_path / "s.duckdb.audit").entries == 320 + 8


def test_a_repeated_question_that_is_answered_from_memory_leaves_an_entry_too(tmp_path):
    with gnomon.open(tmp_path / "s.duckdb") as engine:
        engine.track("t")
        engine.flush()
        for _ in range(10):
            answer = engine.query(["events"], date_range=["2026-01-01", "2026-02-01"])
        assert answer.basis.from_cache
        assert engine.verify_audit().entries == 10


def test_parent_and_child_of_a_fork_append_to_one_chain(tmp_path):
    with gnomon.open(tmp_path / "s.duckdb") as engine:
        engine.query(["events"])
        for _ in range(5):
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    for _ in range(20):
                        try:
                            engine.query(["events"])
                        except gnomon.GnomonError as error:
                            code = 0 if error.code == "store-busy" else 2
                finally:
                    os._exit(code)
            for _ in range(20):
                engine.query(["events"])
            assert os.waitpid(pid, 0)[1] == 0
        verdict = engine.verify_audit()
        assert verdict and verdict.entries == 1 + 5 * 40
        assert sum(entry.outcome == "store-busy" for entry in engine.get_access_log()) == 100


# -- kill -9 --------------------------------------------------------------------------------------------------------


STEPS = ["intent", "commit", "final", "done"]


def killed_at(folder: Path, step: str, when: int, broken: str = "") -> tuple[verifying.Verdict, int]:
    one = child(folder / "s.duckdb", 10, step, str(when), broken=broken)
    left = told(one)
    assert one.returncode == -9 and left == when - 1
    return verify(folder / "s.duckdb.audit"), left


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("when", [1, 5])
def test_a_kill_at_any_step_of_an_append_leaves_a_chain_that_verifies(tmp_path, step, when):
    verdict, left = killed_at(tmp_path, step, when)
    assert verdict and verdict.entries == left + (step in ("final", "done"))
    again = told(child(tmp_path / "s.duckdb", 7))
    after = verify(tmp_path / "s.duckdb.audit")
    assert again == 7 and after and after.entries == verdict.entries + 7
    assert verify(tmp_path / "s.duckdb.audit", verdict.head if verdict.entries else None)


@pytest.mark.parametrize(("broken", "step"), [("no-intent", "final"), ("anchor-first", "commit")])
def test_an_anchor_that_moves_at_the_wrong_time_would_be_found(tmp_path, broken, step):
    verdict, _ = killed_at(tmp_path, step, 5, broken)
    assert not verdict


def kills(folder: Path, cycles: int) -> None:
    rng, promised = random.Random(3), 0
    for _ in range(cycles):
        running = [child(folder / "s.duckdb", 100_000) for _ in range(2)]
        for one in running:
            assert one.stdout is not None and one.stdout.readline() == b"1\n"
        time.sleep(rng.uniform(0, 0.1))
        for one in running:
            one.kill()
        promised += sum(max(1, told(one)) for one in running)
        verdict = verify(folder / "s.duckdb.audit")
        assert verdict and promised <= verdict.entries <= promised + 2 * (_ + 1)


def test_kills_in_the_middle_of_everything(tmp_path):
    kills(tmp_path, 10)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_kills_in_the_middle_of_everything(tmp_path):
    kills(tmp_path, 300)


def test_a_kill_while_entries_are_pruned_leaves_a_chain_that_verifies(tmp_path):
    """The anchor has moved, the entries are still there: they count no more, and the next pruning removes them."""
    code = """
import os, signal, sys
from pathlib import Path
from gnomon.timerange import system_clock
from gnomon.upkeep.audit import Audit
from gnomon.upkeep.chain import Chain, Draft
audit = Audit(Path(sys.argv[1]), system_clock, durable=True)
for n in range(30):
    audit.add(Draft(n, "p", "me", "query"))
move = Chain._move
def dying(self, *given, **named):
    move(self, *given, **named)
    os.kill(os.getpid(), signal.SIGKILL)
Chain._move = dying
audit.prune(365)
"""
    store = tmp_path / "s.duckdb"
    assert subprocess.run([sys.executable, "-c", code, str(store)]).returncode == -9
    verdict = verify(tmp_path / "s.duckdb.audit")
    assert verdict and verdict.entries == 1
    with gnomon.open(store, project="p") as engine:
        assert [entry.number for entry in engine.get_access_log()] == [30]
        engine.prune_audit()
        assert engine.verify_audit().entries == 2


# -- where it cannot be written -------------------------------------------------------------------------------------


def test_a_full_disk_refuses_changes_and_lets_questions_go_on(small_disk, caplog):  # noqa: F811
    with gnomon.open(small_disk / "s.duckdb") as engine:
        engine.track("t")
        engine.flush()
        engine.query(["events"])
        (small_disk / "x.csv").write_text("type,ts\na,2026-01-01T00:00:00Z\n")
        ballast = fill(small_disk)
        for _ in range(30):
            assert engine.query(["events"])[0]["events"] == 1
        with pytest.raises(DiskFull) as caught:
            engine.import_file(small_disk / "x.csv")
        assert "audit" in caught.value.message and caught.value.remedy
        facts = engine.health()
        assert facts.facts["audit_entries_waiting"] > 0 and not facts.sound
        assert any("cannot be written" in record.getMessage() for record in caplog.records)
        ballast.unlink()
        engine.import_file(small_disk / "x.csv")
        assert engine.health().facts["audit_entries_waiting"] == 0
        outcomes = [entry.outcome for entry in engine.get_access_log() if entry.operation in ("query", "import")]
        assert sorted(outcomes) == sorted(["ok"] * 32 + ["disk-full"])
        assert engine.verify_audit()


@pytest.mark.parametrize("ending", ["", ".anchor", ".key"])
def test_an_audit_that_cannot_be_opened_refuses_changes_only(tmp_path, ending, caplog):
    (tmp_path / f"s.duckdb.audit{ending}").mkdir()
    (tmp_path / "x.csv").write_text("type,ts\na,2026-01-01T00:00:00Z\n")
    with gnomon.open(tmp_path / "s.duckdb") as engine:
        engine.track("t")
        engine.flush()
        assert engine.query(["events"])[0]["events"] == 1
        with pytest.raises(StoreUnavailable) as caught:
            engine.import_file(tmp_path / "x.csv")
        assert caught.value.code == "audit-unavailable"
        assert engine.query(["events"])[0]["events"] == 1  # nothing was imported
        assert engine.health().facts["audit_entries_waiting"] == 3 and not engine.health().sound
        (tmp_path / f"s.duckdb.audit{ending}").rmdir()
        engine.import_file(tmp_path / "x.csv")
        assert engine.verify_audit().entries == 4 and engine.health().facts["audit_entries_waiting"] == 0


def test_a_change_that_begins_without_an_entry_would_be_found(tmp_path, monkeypatch, caplog):
    from gnomon.upkeep.audit import Audit

    monkeypatch.setattr(Audit, "prove", lambda self: None)
    with pytest.raises(BaseException, match="DID NOT RAISE"):
        test_an_audit_that_cannot_be_opened_refuses_changes_only(tmp_path, ".anchor", caplog)


def test_what_waits_in_memory_is_bounded_and_what_is_lost_is_counted(tmp_path, monkeypatch):
    from gnomon.upkeep import audit as audits

    monkeypatch.setattr(audits, "MOST_WAITING", 5)
    (tmp_path / "s.duckdb.audit.anchor").mkdir()
    with gnomon.open(tmp_path / "s.duckdb") as engine:
        for _ in range(12):
            engine.query(["events"])
        health = engine.health()
        assert (health.facts["audit_entries_waiting"], health.facts["audit_entries_lost"]) == (5, 7)
        assert "7 are lost" in " ".join(finding.what for finding in health.findings)


def test_recording_leaves_no_files_of_an_audit(tmp_path):
    with gnomon.open(tmp_path / "s.duckdb") as engine:
        for _ in range(1_000):
            engine.track("t")
        engine.flush()
        assert engine.books().stored == 1_000 and engine.health().sound
    assert not list(tmp_path.glob("*.audit*"))
