"""What is acknowledged comes to the database once, whatever happens to the database, the connections or the process.

`POSTGRES_RESTARTS=100` asks for that many restarts of the database in the long test instead of 500.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
import traceback
from contextlib import ExitStack, nullcontext, suppress
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from own_postgres import OwnPostgres
from pg_life import QUICK, Recorder, check, counted, numbers, opened, promised, start, tolerant_flush

import gnomon
from gnomon.cli import main
from gnomon.errors import InvalidValue, StoreBusy, StoreUnavailable
from gnomon.store import postgres as module
from gnomon.store.postgres import PostgresStore
from gnomon.store.postgres.writing import Writing

SCHEMAS = map("t{}".format, range(1_000))


@pytest.fixture(scope="module")
def server():
    with OwnPostgres() as running:
        yield running


@pytest.fixture
def url(server):
    return server.url(next(SCHEMAS))


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


# -- processes --------------------------------------------------------------------------------------------------------


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
        until = time.monotonic() + 30
        while getattr(engine._hold.writer.fault, "code", None) != "store-login" and time.monotonic() < until:
            time.sleep(0.05)  # first it is told that the connection is gone
        with pytest.raises(StoreUnavailable) as caught:
            engine.flush(timeout=0.2)
        assert "password" in caught.value.remedy and "right-one" not in str(caught.value)
        with server.connect() as con:
            con.execute("ALTER ROLE ann PASSWORD 'right-one'")
        tolerant_flush(engine)
        assert engine.query(metrics=["events"], date_range="24h").rows == [{"events": 2}]
        assert engine.books().rejected == {}
    rules.write_text(before)
