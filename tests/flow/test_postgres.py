"""What is acknowledged comes to the database once, whatever happens to the database, the connections or the process.

`POSTGRES_RESTARTS=100` asks for that many restarts of the database in the long test instead of 500.
"""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from contextlib import ExitStack, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from own_postgres import OwnPostgres
from serving import bearer, served

import gnomon
from gnomon.cli import main
from gnomon.errors import InvalidValue, StoreBusy, StoreDamaged, StoreUnavailable
from gnomon.store import postgres as module
from gnomon.store.postgres import PostgresStore
from gnomon.store.postgres.writing import Writing

HERE = Path(__file__).parent
QUICK = gnomon.Settings(flush_seconds=0.01, checkpoint_seconds=0.2)
SCHEMAS = map("t{}".format, range(1_000))


@pytest.fixture(scope="module")
def server():
    with OwnPostgres() as running:
        yield running


@pytest.fixture
def url(server):
    return server.url(next(SCHEMAS))


def opened(url, folder, **more):
    return gnomon.open(url, settings=QUICK, data_dir=str(folder), project="kill", **more)


class Recorder(threading.Thread):
    """Records numbered events until told to stop."""

    def __init__(self, engine, pause=0.002):
        super().__init__(daemon=True)
        self.engine, self.pause, self.done, self.over = engine, pause, 0, threading.Event()
        self.start()

    def run(self):
        while not self.over.is_set():
            for _ in range(20):
                self.engine.track("tick", source=f"s{self.done % 3}", weight=1 + self.done % 2)
                self.done += 1
            self.engine.record_metric("depth", self.done, kind="gauge")
            time.sleep(self.pause)

    def end(self):
        self.over.set()
        self.join()
        return self.done


def tolerant_flush(engine, seconds=60):
    until = time.monotonic() + seconds
    while True:
        try:
            return engine.flush(timeout=5)
        except StoreUnavailable:
            if time.monotonic() > until:
                raise


def counted(server, url):
    """Events, distinct ids, samples, and the books, as the database itself has them."""
    schema = url.rpartition("schema=")[2]
    with server.connect() as con:
        con.execute(f"SET search_path = {schema}")
        events = con.execute("SELECT count(*), count(DISTINCT (id, id_text)) FROM events").fetchone()
        samples = con.execute("SELECT count(*), count(DISTINCT value) FROM samples").fetchone()
        books = con.execute("SELECT kind, outcome, sum(n)::bigint FROM books GROUP BY kind, outcome").fetchall()
    return events, samples, {(kind, outcome): n for kind, outcome, n in books}


def check(server, url, events, samples):
    found, measured, books = counted(server, url)
    assert found == (events, events)
    assert measured == (samples, samples)
    assert books["event", "received"] == books["event", "stored"] + books.get(("event", "duplicate"), 0)
    assert books["event", "stored"] == events and books["event", "received"] == events


def disturbed(server, url, folder, disturb, times, pause, recording=0.002):
    rng = random.Random(times)
    with opened(url, folder) as engine:
        recorder = Recorder(engine, recording)
        for _ in range(times):
            time.sleep(rng.uniform(0, pause))
            disturb()
        done = recorder.end()
        tolerant_flush(engine, 60 + times)  # what waited in the journal while the database was away
        assert engine.books().closes()
        check(server, url, done, done // 20)
        assert engine.query(metrics=["events"], date_range="24h").rows[0]["events"] > 0
    return done


def test_a_database_that_crashes_again_and_again(server, url, tmp_path):
    assert disturbed(server, url, tmp_path, server.restart, 8, 0.2) > 0


@pytest.mark.slow
@pytest.mark.timeout(7_200)
def test_many_crashes(server, url, tmp_path):
    disturbed(server, url, tmp_path, server.restart, int(os.environ.get("POSTGRES_RESTARTS", "500")), 0.5, 0.05)


def test_connections_that_are_ended_at_any_moment(server, url, tmp_path):
    disturbed(server, url, tmp_path, server.end_connections, 60, 0.03)


def test_without_the_position_in_the_transaction_it_would_be_found(server, url, tmp_path, monkeypatch):
    """A position that is written after the commit of what it is the position of, and ids that are not looked for."""
    honest = PostgresStore._write

    def careless(self, work, journal_id, con):
        for _, batch in work:
            batch.checked_ids = batch.replayed = False
        return honest(self, work, "nowhere" + str(time.monotonic_ns()), con)

    monkeypatch.setattr(PostgresStore, "_write", careless)
    with pytest.raises((AssertionError, psycopg.Error, gnomon.GnomonError)):
        with opened(url, tmp_path) as engine:
            for n in range(20):
                engine.track("tick", source=f"s{n % 3}")
            tolerant_flush(engine, 0)
            engine._hold.writer.look_again()
            tolerant_flush(engine, 0)
        with opened(url, tmp_path):
            pass
        check(server, url, 20, 0)


# -- the answer to a commit is lost -----------------------------------------------------------------------------------


@pytest.mark.parametrize("applied", [True, False], ids=["applied", "undone"])
def test_a_commit_whose_answer_is_lost(server, url, tmp_path, monkeypatch, applied):
    execute, left = psycopg.Connection.execute, [3]

    def losing(self, query, *args, **more):
        writes = query == "COMMIT" and losing.armed
        if not (writes and left[0]):
            return execute(self, query, *args, **more)
        left[0] -= 1
        if applied:
            execute(self, query, *args, **more)
        self.pgconn.finish()
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    losing.armed = False
    monkeypatch.setattr(psycopg.Connection, "execute", losing)
    with opened(url, tmp_path) as engine:
        honest = PostgresStore._write

        def armed(self, work, journal_id, con):
            losing.armed = True
            try:
                return honest(self, work, journal_id, con)
            finally:
                losing.armed = False

        monkeypatch.setattr(PostgresStore, "_write", armed)
        recorder = Recorder(engine)
        while left[0] and recorder.done < 100_000:
            time.sleep(0.01)
        done = recorder.end()
        tolerant_flush(engine)
        check(server, url, done, done // 20)


def test_a_commit_that_comes_through_late_is_not_done_again(server, url, tmp_path):
    """The old server process may still be in the middle of a commit when the new connection looks at the position."""
    with opened(url, tmp_path) as engine:
        engine.track("tick")
        engine.flush()
        store, journal = engine._hold.store, engine._hold.journal
        with server.connect() as con:
            con.execute(f"SET search_path = {url.rpartition('=')[2]}")
            con.execute("BEGIN; SELECT value FROM state WHERE key = 'version' FOR UPDATE")
            con.execute("UPDATE state SET value = (value::int + 1)::text WHERE key = %s", [f"journal:{journal.id}"])
            engine.track("tick", source="late")
            waiting = threading.Thread(target=tolerant_flush, args=(engine,))
            waiting.start()
            time.sleep(0.5)
            con.execute("COMMIT")  # the next batch is there already
        waiting.join()
        assert store.position(journal.id) == journal.last_position()
    assert counted(server, url)[0] == (1, 1)  # what the test said was stored is not stored again


# -- the database is away ---------------------------------------------------------------------------------------------


def test_recording_goes_on_while_the_database_is_away(server, url, tmp_path):
    with opened(url, tmp_path) as engine:
        engine.track("tick", source="s0")
        engine.flush()
        server.stop()
        try:
            for _ in range(50):
                engine.track("tick", source="s0")
            with pytest.raises(StoreUnavailable) as caught:
                engine.flush(timeout=0.5)
            assert caught.value.code == "not-queryable"
            with pytest.raises(StoreUnavailable) as caught:
                engine.query(metrics=["events"], date_range="24h")
            assert "password" not in str(caught.value) and caught.value.remedy
        finally:
            server.start()
        tolerant_flush(engine)
        assert engine.query(metrics=["events"], date_range="24h").rows == [{"events": 51}]
    check(server, url, 51, 0)


def test_an_engine_that_starts_while_the_database_is_away(server, url, tmp_path):
    server.stop("fast")
    try:
        engine = opened(url, tmp_path)
        for _ in range(10):
            engine.track("tick", source="s0")
        with pytest.raises(StoreUnavailable):
            engine.query(metrics=["events"], date_range="24h")
        with pytest.raises(StoreUnavailable):
            engine.flush(timeout=0.2)
        engine.close()
        engine = opened(url, tmp_path)
        engine.track("tick", source="s1")
    finally:
        server.start()
    tolerant_flush(engine)
    assert engine.query(metrics=["events"], date_range="24h").rows == [{"events": 11}]
    engine.close()
    check(server, url, 11, 0)


def test_an_engine_that_starts_before_its_standby_is_promoted_records(server, url, tmp_path):
    server.stop("fast")
    (server.folder / "standby.signal").touch()
    server.start()
    try:
        with opened(url, tmp_path) as engine:  # there are no tables yet, so that opening has to write
            engine.track("tick", source="s0")
            with pytest.raises(StoreUnavailable) as caught:
                engine.query(metrics=["events"], date_range="24h")
            assert caught.value.code == "store-read-only" and "primary" in caught.value.remedy
            server._control("-w", "promote")
            tolerant_flush(engine)
            assert engine.query(metrics=["events"], date_range="24h").rows == [{"events": 1}]
    finally:
        if (server.folder / "standby.signal").exists():
            server._control("-w", "promote")
    check(server, url, 1, 0)


def test_an_engine_that_starts_while_a_statement_takes_too_long_records(server, url, tmp_path, monkeypatch):
    slow, real = [True], PostgresStore._asked

    def asked(self, statements, timeout):
        return real(self, ["SELECT pg_sleep(5)"] if slow else statements, 0.05 if slow else timeout)

    monkeypatch.setattr(PostgresStore, "_asked", asked)
    with opened(url, tmp_path) as engine:
        engine.track("tick", source="s0")
        with pytest.raises(StoreUnavailable) as caught:
            engine.query(metrics=["events"], date_range="24h")
        assert caught.value.code == "store-slow"
        slow.clear()
        tolerant_flush(engine)
    check(server, url, 1, 0)


def hang_up(listening):
    """A balancer whose database is failing over: it says yes to TLS, and no more."""
    with suppress(OSError):
        while True:
            con, _ = listening.accept()
            con.recv(64)
            con.sendall(b"S")
            con.close()


def test_an_engine_that_starts_while_a_handshake_is_cut_short_records(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=hang_up, args=(listening,), daemon=True).start()
        url = f"postgresql://u@127.0.0.1:{listening.getsockname()[1]}/x?sslmode=require"
        with opened(url, tmp_path) as engine:
            engine.track("tick", source="s0")
            with pytest.raises(StoreUnavailable) as caught:
                engine.query(metrics=["events"], date_range="24h")
        listening.shutdown(socket.SHUT_RDWR)
    assert caught.value.code == "store-unavailable"


@pytest.mark.parametrize("broken", ["codes", "texts"])
def test_a_start_that_gives_up_on_what_passes_is_found(server, url, tmp_path, monkeypatch, broken):
    monkeypatch.setattr("gnomon.ingest.hold.PASSING", {"store-unavailable"})
    monkeypatch.setattr("gnomon.store.postgres.faults._HOST", re.compile("SSL"))
    with pytest.raises(StoreUnavailable):
        if broken == "codes":
            test_an_engine_that_starts_before_its_standby_is_promoted_records(server, url, tmp_path)
        else:
            test_an_engine_that_starts_while_a_handshake_is_cut_short_records(tmp_path)


# -- processes --------------------------------------------------------------------------------------------------------


def start(url, folder, ledger, first, count, *more):
    words = [sys.executable, str(HERE / "pg_recording.py"), url, str(folder), str(ledger), str(first), str(count)]
    child = subprocess.Popen([*words, *more], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"up\n"
    return child


def promised(ledger):
    lines = [line.split() for line in ledger.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return {n for first, after in lines for n in range(int(first), int(after))}


def numbers(server, url):
    with server.connect() as con:
        rows = con.execute(f"SELECT (properties::json ->> 'n')::int FROM {url.rpartition('=')[2]}.events").fetchall()
    return sorted(n for (n,) in rows if n is not None)


def test_a_process_that_is_killed_loses_nothing(server, url, tmp_path):
    rng, ledger = random.Random(3), tmp_path / "ledger"
    for cycle in range(4):
        child = start(url, tmp_path / "data", ledger, cycle * 100_000, 100_000)
        time.sleep(rng.uniform(0.1, 0.6))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    with opened(url, tmp_path / "data") as engine:
        tolerant_flush(engine)
        found = numbers(server, url)
        assert len(found) == len(set(found)) and promised(ledger) <= set(found)
        books = engine.books()
        assert books.closes() and books.stored == len(found) and books.duplicate == 0


def test_processes_that_send_the_same_events_at_once(server, url, tmp_path):
    children = [start(url, tmp_path / f"data{n}", tmp_path / f"ledger{n}", 0, 1_000, "same") for n in range(2)]
    assert [child.wait(60) for child in children] == [0, 0]
    for child in children:
        child.stdout.close()
    assert numbers(server, url) == list(range(1_000))
    books = counted(server, url)[2]
    assert (books["event", "received"], books["event", "stored"], books["event", "duplicate"]) == (2_000, 1_000, 1_000)
    with server.connect() as con:
        con.execute(f"SET search_path = {url.rpartition('=')[2]}")
        versions = con.execute("SELECT count(DISTINCT version), count(DISTINCT xmin::text) FROM events").fetchone()
    assert versions[0] == versions[1]  # every transaction has a version of its own


@pytest.mark.parametrize("broken", ["_REPEATS", "lock"])
def test_a_store_that_does_not_look_or_does_not_wait_would_be_found(server, url, tmp_path, monkeypatch, broken):
    if broken == "lock":
        words = "SELECT value::bigint FROM state WHERE key = 'version'"
        monkeypatch.setattr(module.writing, "LOCK", words)
        look, both = Writing._look_for_repeats, threading.Barrier(2, timeout=10)

        def together(self, work):
            look(self, work)
            both.wait()

        monkeypatch.setattr(Writing, "_look_for_repeats", together)
    else:
        monkeypatch.setattr(module.writing, broken, "SELECT 1 AS n WHERE false AND ARRAY[0] = %s")
    stores = [module.PostgresStore(url, QUICK) for _ in range(2)]
    found = []

    def write(number):
        from gnomon.event import ROW, Batch

        values = {"id": "a", "ts": 1, "received_at": 1, "type": "t", "weight": 1.0}
        rows = [tuple(values.get(name) for name in ROW)]
        try:
            stores[number].write([(1, Batch("p", rows=rows, checked_ids=True))], f"j{number}")
        except gnomon.GnomonError as error:
            found.append(error)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for store in stores:
        store.close()
    assert found  # the unique key is the net below: one of them is refused instead of doubled


def test_any_process_may_ask_and_another_takes_over(server, url, tmp_path):
    child = start(url, tmp_path, tmp_path / "ledger", 0, 10_000_000)
    with opened(url, tmp_path) as engine:
        assert not engine.owns_store
        engine.track("tick", source="mine")
        engine.flush()
        rows = engine.query(metrics=["events"], date_range="24h", filters=["is", "source", ["mine"]]).rows
        assert rows == [{"events": 1}]
        with pytest.raises(StoreBusy) as caught:
            engine.trigger_aggregation()
        assert str(child.pid) in str(caught.value)
        child.kill()
        child.wait()
        child.stdout.close()
        engine.track("tick", source="mine")
        engine.flush()
        assert engine.owns_store
        assert promised(tmp_path / "ledger") <= set(numbers(server, url))


def test_a_journal_of_another_database_is_not_poured_into_this_one(server, tmp_path):
    first, second = (server.url(next(SCHEMAS)) for _ in range(2))
    name = first.rpartition("schema=")[2]
    with opened(first, tmp_path) as engine:
        engine.track("tick")
    with opened(second, tmp_path / "other") as engine:
        engine.track("tick")
    for file in tmp_path.glob(f"*.{name}.*"):
        if file.is_file():
            file.rename(file.with_name(file.name.replace(name, second.rpartition("schema=")[2])))
    with pytest.raises(gnomon.GnomonError) as caught:
        opened(second, tmp_path)
    assert caught.value.code == "other-store"
    with server.connect() as con:  # a new database in the place of one that is gone takes what waits
        con.execute(f"DROP SCHEMA {second.rpartition('schema=')[2]} CASCADE")
    with opened(second, tmp_path) as engine:
        engine.track("tick")
        engine.flush()
        assert engine.query(metrics=["events"], date_range="24h").rows == [{"events": 1}]


def test_replicas_that_roll_up_at_the_same_time_count_nothing_twice(server, url, tmp_path):
    now = [datetime(2026, 1, 15, 12, tzinfo=UTC)]
    with ExitStack() as open_ones:
        engines = [open_ones.enter_context(opened(url, tmp_path / f"data{n}", clock=lambda: now[0])) for n in range(2)]
        roll_up_at_once(engines, now)


def roll_up_at_once(engines, now):
    errors = []

    def roll(engine):
        try:
            for _ in range(3):
                engine.trigger_aggregation()
        except BaseException as error:
            errors.append(error)

    done = 0
    for hour in range(4):
        for n in range(400):
            at = now[0] - timedelta(hours=hour + n % 30)
            engines[n % 2].track("tick", source=f"s{n % 3}", user_id=f"u{n % 11}", ts=at)
            done += 1
        for engine in engines:
            engine.flush()
        now[0] += timedelta(hours=1)
        threads = [threading.Thread(target=roll, args=(engine,)) for engine in engines]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []
    for engine in engines:
        found = engine.query(metrics=["events", "people"], date_range="7d")
        assert (found.rows, found.basis.source) == ([{"events": done, "people": 11}], "rollups and raw")
        assert engine.books().closes()
    engines[0].forget("u3")
    assert engines[1].query(metrics=["events", "people"], date_range="7d").rows == [{"events": done, "people": 10}]


def test_the_command_line_knows_a_store_on_a_server(server, url, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("GNOMON_DATA_DIR", str(tmp_path))
    with opened(url, tmp_path) as engine:
        engine.track("tick")
        engine.flush()
        engine.query(metrics=["events"], date_range="24h")
    assert main(["audit", "verify", "--store", url]) == 0
    assert main(["backup", "--store", url]) == 0
    assert list(tmp_path.glob("backups/*.tar.zst"))
    capsys.readouterr()
    assert main(["doctor", "--store", url, "--project", "kill"]) == 1  # the server of the tests runs without fsync
    said = " ".join(capsys.readouterr().out.split())
    assert "NOT SOUND: the database does not wait for its disk" in said and said.count("NOT SOUND") == 1


def test_what_is_set_on_one_replica_holds_on_the_others(server, url, tmp_path):
    first, second = (opened(url, tmp_path / f"data{n}") for n in range(2))
    first.set_retention_policy(raw_data_days=30)
    first.set_legal_hold(datetime.now(UTC) + timedelta(days=3))
    second.set_retention_policy(metric_days=9)  # knows of the hold before it keeps the whole policy
    with pytest.raises(InvalidValue) as caught:  # at once, also where nobody has looked yet
        second.forget("u")
    assert caught.value.code == "legal-hold"
    second.set_sampling_thresholds(10, 100, 0.5)
    until = time.monotonic() + 20
    while first.sampling_thresholds().low != 10 and time.monotonic() < until:
        time.sleep(0.05)
    assert first.sampling_thresholds().low == 10 and second.get_retention_policy().raw_data_days == 30
    third = opened(url, tmp_path / "data3")
    assert third.get_retention_policy().raw_data_days == 30
    server.stop("fast")
    try:
        with pytest.raises(StoreUnavailable):
            third.set_sampling_thresholds(20, 100, 0.5)
        assert third.sampling_thresholds().low == 10
    finally:
        server.start()
    for engine in (first, second, third):
        engine.close()


def test_replicas_that_do_not_wait_for_each_other_would_be_found(server, url, tmp_path, monkeypatch):
    monkeypatch.setattr(PostgresStore, "alone", lambda self: nullcontext())
    look, both = PostgresStore.data_version, threading.Barrier(2)

    def together(self):
        with suppress(threading.BrokenBarrierError):
            both.wait(0.3)  # both know how far the rollups are before either goes on
        return look(self)

    monkeypatch.setattr(PostgresStore, "data_version", together)
    with pytest.raises((AssertionError, gnomon.GnomonError)):
        test_replicas_that_roll_up_at_the_same_time_count_nothing_twice(server, url, tmp_path)


def test_a_wrong_password_is_said_at_once_and_never_shown(server, url, tmp_path):
    rules = server.folder / "pg_hba.conf"
    before = rules.read_text()
    with server.connect() as con:
        con.execute("CREATE ROLE ann LOGIN SUPERUSER PASSWORD 'right-one'")
        rules.write_text("local all ann scram-sha-256\n" + before)
        con.execute("SELECT pg_reload_conf()")
    wrong, right = (url.replace("postgres:@", f"ann:{word}@") for word in ("s3cret-word", "right-one"))
    until = time.monotonic() + 10
    while True:  # until the server has read its rules
        try:
            opened(wrong, tmp_path).close()
            assert time.monotonic() < until
        except StoreUnavailable as error:
            assert error.code == "store-login" and error.remedy
            assert "s3cret" not in "".join(traceback.format_exception(error))
            break
    with opened(right, tmp_path) as engine:
        engine.track("tick")
        engine.flush()
        with server.connect() as con:  # the password changes while it runs: recording goes on, nothing is set aside
            con.execute("ALTER ROLE ann PASSWORD 'new-one'")
        server.end_connections()
        engine.track("tick")
        with pytest.raises(StoreUnavailable) as caught:
            engine.flush(timeout=1)
        assert "password" in caught.value.remedy and "right-one" not in str(caught.value)
        with server.connect() as con:
            con.execute("ALTER ROLE ann PASSWORD 'right-one'")
        tolerant_flush(engine)
        assert engine.query(metrics=["events"], date_range="24h").rows == [{"events": 2}]
        assert engine.books().rejected == {}
    rules.write_text(before)


def test_a_service_takes_events_and_says_that_it_cannot_answer(server, url, tmp_path):
    claims = {"project": "kill", "scope": "ingest:any admin"}
    with served(url, data_dir=str(tmp_path), project="kill", flush_seconds=0.01) as service:
        assert service.get("/healthz").json()["answers"]
        server.stop("fast")
        try:
            found = service.get("/healthz")
            assert (found.status_code, found.json()["ready"], found.json()["answers"]) == (200, True, False)
            sent = [{"type": "tick", "id": f"n{n}"} for n in range(10)]
            assert service.post("/ingest", sent, claims=claims).json()["ingested"] == 10
            assert service.get("/summary?hours=1", claims=claims).status_code == 503
            time.sleep(1)
            told = service.client.get("/metrics", headers=bearer(**claims)).text
            assert "gnomon_store_fault 1" in told
            assert 1 <= float(re.search(r"^gnomon_journal_waiting_seconds (.*)$", told, re.MULTILINE)[1]) < 60
        finally:
            server.start()
        tolerant_flush(service.engine)
        assert service.get("/summary?hours=1", claims=claims).json()["events"] == 10


def test_a_journal_that_is_full_refuses_and_what_it_took_is_stored(server, url, tmp_path):
    claims = {"project": "kill", "scope": "ingest:any admin"}
    with served(url, data_dir=str(tmp_path), project="kill", flush_seconds=0.01, journal_max_bytes=1024**2) as service:
        server.stop("fast")
        try:
            kept = 0
            for n in range(100):
                batch = [{"id": f"{n}-{k}", "type": "tick", "properties": {"a": "b" * 1_000}} for k in range(50)]
                answer = service.post("/ingest", batch, claims=claims)
                if answer.status_code != 200:
                    break
                kept += answer.json()["ingested"]
            assert (answer.status_code, answer.json()["type"]) == (503, "journal-full") and kept >= 500
            assert int(answer.headers["retry-after"]) > 0
        finally:
            server.start()
        tolerant_flush(service.engine)
        assert service.post("/ingest", {"id": "after", "type": "tick"}, claims=claims).status_code == 200
        tolerant_flush(service.engine)
        books = service.engine.books()
        assert books.closes() and books.stored == kept + 1
    assert counted(server, url)[0] == (kept + 1, kept + 1)


def overwritten(server, place, new):
    """Put bytes into the first page of a table while the server is stopped; returns those that were there."""
    server.stop("fast")
    try:
        with (server.folder / place).open("r+b") as file:
            file.seek(8_192 // 2)
            old = file.read(len(new))
            file.seek(8_192 // 2)
            file.write(new)
    finally:
        server.start()
    return old


def test_a_damaged_page_is_said_and_what_was_recorded_waits(server, url, tmp_path):
    schema, ts = url.rpartition("schema=")[2], datetime.now(UTC)
    with opened(url, tmp_path) as engine:
        for n in range(200):
            engine.track("tick", id=f"n{n}", ts=ts, properties={"a": "b" * 200})
        engine.flush()
    with server.connect() as con:
        ((place, checksums),) = con.execute(
            "SELECT pg_relation_filepath(tableoid), current_setting('data_checksums') "
            f"FROM {schema}.events GROUP BY tableoid"
        ).fetchall()
    assert checksums == "on"
    sound = overwritten(server, place, b"\xa5" * 512)
    with opened(url, tmp_path) as engine:
        for ask in (lambda: engine.query(metrics=["max_duration_ms"], date_range="7d"), engine.health):
            with pytest.raises(StoreDamaged) as caught:
                ask()
            assert caught.value.code == "store-damaged" and "REINDEX" in caught.value.remedy
        engine.track("tick", id="after", ts=ts)
        with pytest.raises(StoreUnavailable) as waits:
            engine.flush(timeout=1)
        assert waits.value.code == "not-queryable" and "REINDEX" in waits.value.remedy
    with opened(url, tmp_path) as engine:  # it starts, and keeps what comes
        engine.track("tick", id="later", ts=ts)
        overwritten(server, place, sound)
        tolerant_flush(engine)
        assert (
            engine.books().stored == 202 and engine.query(metrics=["events"], date_range="7d").rows[0]["events"] == 202
        )
