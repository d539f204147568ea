"""Jobs of several processes on one database: one of them does each, once a period, and another when it is gone."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest

import gnomon
from gnomon.config import Settings
from gnomon.store.postgres import PostgresStore, turns
from gnomon.testing import ManualClock
from gnomon.upkeep import jobs
from gnomon.upkeep import turns as whose

HERE = Path(__file__).parent
SECOND = 1_000_000


@pytest.fixture
def url(postgres):
    return postgres.url()


def start(url, folder, ledger, name, seconds):
    words = [sys.executable, str(HERE / "pg_jobs.py"), url, str(folder / name), str(ledger), name, str(seconds)]
    child = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"up\n"
    return child


def entries(ledger):
    return [line.split() for line in ledger.read_text().splitlines()] if ledger.exists() else []


def wait_for(what, seconds=30):
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until
        time.sleep(0.02)
    return found


def test_another_process_takes_over_the_job_of_one_that_is_killed(url, tmp_path):
    ledger = tmp_path / "ledger"
    children = {"first": start(url, tmp_path, ledger, "first", 60)}
    try:
        wait_for(lambda: entries(ledger) == [["begin", "first"]])
        for name in ("second", "third"):
            children[name] = start(url, tmp_path, ledger, name, 0.2)
        time.sleep(1.5)
        assert entries(ledger) == [["begin", "first"]]  # it is at it, and nobody else begins
        children["first"].kill()
        wait_for(lambda: len(entries(ledger)) >= 7)  # three turns of the others
    finally:
        for child in children.values():
            child.kill()
            child.wait()
            child.stdout.close()
    done = entries(ledger)[1:7]
    for begun, ended in zip(done[::2], done[1::2], strict=True):  # one after the other, each to its end
        assert (begun[0], ended[0]) == ("begin", "end") and begun[1] == ended[1] != "first"


def at_once(url, tmp_path, rounds=3):
    """How often a job ran that five engines look for at the same moments, a period apart, and how many at once."""
    clock, together, lock = ManualClock(datetime(2026, 3, 1, 12, tzinfo=UTC)), threading.Barrier(5), threading.Lock()
    running, most, ran = [0], [0], [0]

    def work(_engine):
        with lock:
            running[0], ran[0] = running[0] + 1, ran[0] + 1
            most[0] = max(most[0], running[0])
        time.sleep(0.05)
        with lock:
            running[0] -= 1

    job = jobs.Job("only", 60, work)
    with ExitStack() as open_ones:
        engines = [
            open_ones.enter_context(
                gnomon.open(url, data_dir=str(tmp_path / f"d{n}"), clock=clock, settings=Settings(heartbeat_seconds=0))
            )
            for n in range(5)
        ]

        def look(engine):
            for _ in range(rounds):
                for _ in range(2):
                    together.wait()
                    jobs.run_job(engine, job)
                if together.wait() == 0:
                    clock.advance(seconds=61)

        threads = [threading.Thread(target=look, args=(engine,)) for engine in engines]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return ran[0], most[0]


def test_a_job_is_done_once_a_period_by_whoever_comes_first(url, tmp_path):
    assert at_once(url, tmp_path) == (3, 1)


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["lock", "time"])
def test_processes_that_do_not_ask_whose_turn_it_is_would_be_found(url, tmp_path, monkeypatch, broken):
    if broken == "lock":
        monkeypatch.setattr(turns, "TRY", "SELECT true WHERE {} <> ''")
    else:
        monkeypatch.setattr(turns, "_note", lambda *_: None)
    assert at_once(url, tmp_path) != (3, 1)


def test_the_clock_of_the_server_tells_what_is_due(url, tmp_path, postgres):
    store = PostgresStore(url, Settings())
    with store.turn("p:job", 3_600 * SECOND) as turn:
        assert abs(turn.now_us - time.time_ns() // 1_000) < 60 * SECOND
        with store.turn("p:job", 3_600 * SECOND) as other:
            assert other is None
        turn.done()
    with store.turn("p:job", 3_600 * SECOND) as turn:
        assert turn is None
    with store.turn("p:job", 0) as turn:  # asked for although it is not due
        assert turn is not None
    with store.turn("q:job", 3_600 * SECOND) as turn:
        assert turn is not None  # and it is not said that it was done
    with store.turn("q:job", 3_600 * SECOND) as turn:
        assert turn is not None
    with postgres.connect() as con:  # noted by a server whose clock was a year ahead
        schema = url.rpartition("schema=")[2]
        con.execute(f"UPDATE {schema}.state SET value = (value::bigint + 31536000000000)::text WHERE key = 'job:p:job'")
    with store.turn("p:job", 3_600 * SECOND) as turn:
        assert turn is not None
    store.close()


def test_a_host_whose_clock_is_wrong_deletes_nothing(url, tmp_path, monkeypatch):
    with gnomon.open(url, data_dir=str(tmp_path)) as engine:
        engine.track("a")
        engine.flush()
        right = time.time_ns
        monkeypatch.setattr(whose.time, "time_ns", lambda: right() + 10 * 60 * 1_000_000_000)
        done = engine.run_jobs()
        assert done["prune"] == "clock-skewed" and done["roll up"] == "ok" and "backup" not in done
        assert any("prune" in alert.message for alert in engine.alerts())
        monkeypatch.undo()
        assert engine.run_jobs() == {"prune": "ok"}


def test_what_concerns_the_files_of_a_host_is_done_on_each(url, tmp_path):
    at = lambda place: gnomon.open(url, data_dir=str(tmp_path / place), heartbeat_seconds=0)  # noqa: E731
    with at("a") as one, at("b") as other:
        here, shared = {"prune audit": "ok", "old exports": "ok"}, {"roll up": "ok", "prune": "ok"}
        assert one.run_jobs() == {**here, **shared} and other.run_jobs() == here
        assert one.run_jobs() == other.run_jobs() == {}
