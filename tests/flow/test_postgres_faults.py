"""What a real PostgreSQL does to its clients on bad days, one after the other: nothing is lost, nothing counted twice,
questions say why they cannot be answered, and it goes on by itself."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from contextlib import ExitStack, suppress

import psycopg
import pytest
from own_postgres import OwnPostgres
from pg_life import Recorder, check, numbers, opened, promised, start, tolerant_flush
from pg_proxy import CuttingProxy
from serving import served

from gnomon.errors import StoreUnavailable

SCHEMAS = map("f{}".format, range(1_000))


@pytest.fixture(scope="module")
def server():
    with OwnPostgres() as running:
        with running.connect() as con:
            con.execute("ALTER SYSTEM SET deadlock_timeout = '1s'")
            con.execute("ALTER SYSTEM SET max_connections = 20")
        running.restart("fast")
        yield running


@pytest.fixture
def url(server):
    return server.url(next(SCHEMAS))


def refused(engine):
    """Why a question cannot be answered now."""
    with pytest.raises(StoreUnavailable) as caught:
        engine.query(metrics=["events"], date_range="24h")
    assert caught.value.remedy
    return caught.value.code


def recorded(engine, count=50):
    for n in range(count):
        engine.track("tick", source=f"s{n % 3}")
    with pytest.raises(StoreUnavailable) as caught:
        engine.flush(timeout=0.3)
    assert caught.value.code == "not-queryable"  # it is in the journal


# -- a commit of which nobody knows -----------------------------------------------------------------------------------


SLOW = pytest.mark.slow


@pytest.mark.parametrize("at", [pytest.param("before", marks=SLOW), "after", pytest.param("anywhere", marks=SLOW)])
def test_connections_that_are_cut_in_a_commit(server, url, tmp_path, at):
    schema = url.rpartition("schema=")[2]
    place = f"{server._server.get_postmaster_info().socket_dir}/.s.PGSQL.5432"
    with CuttingProxy(place) as proxy, opened(proxy.url(schema), tmp_path) as engine:
        recorder = Recorder(engine, 0.005)
        proxy.at = at
        until = time.monotonic() + 30
        while proxy.cuts < 6 and time.monotonic() < until:
            time.sleep(0.02)
        proxy.at = None
        done = recorder.end()
        tolerant_flush(engine)
        assert proxy.cuts >= 6 and engine.books().closes()
        check(server, url, done, done // 20)


# -- no connection is left --------------------------------------------------------------------------------------------


def test_others_have_taken_every_connection(server, url, tmp_path, monkeypatch):
    monkeypatch.setattr("gnomon.ingest.hold.LOOK_SECONDS", 600.0)  # a look would take one of the connections
    with served(url, data_dir=str(tmp_path), project="kill", flush_seconds=0.01) as service, ExitStack() as others:
        assert service.post("/ingest", [{"type": "tick"}], claims={"scope": "ingest"}).status_code == 200
        claims = {"project": "kill", "scope": "ingest:any admin"}
        first, until = others.enter_context(server.connect()), time.monotonic() + 30
        theirs = "FROM pg_stat_activity WHERE application_name = 'gnomon'"
        while first.execute(f"SELECT count(pg_terminate_backend(pid)) {theirs}").fetchone() != (0,):
            with suppress(psycopg.OperationalError):
                while True:
                    others.enter_context(server.connect())
            assert time.monotonic() < until
        assert service.post("/ingest", [{"type": "tick", "id": "n1"}], claims=claims).json()["ingested"] == 1
        answer = service.get("/summary?hours=1", claims=claims)
        assert (answer.status_code, answer.json()["type"]) == (503, "store-unavailable"), answer.text
        assert "connections" in answer.json()["detail"] and answer.headers["retry-after"]
        others.close()
        tolerant_flush(service.engine)
        assert service.get("/summary?hours=1", claims=claims).json()["events"] == 1


# -- sessions that meet -----------------------------------------------------------------------------------------------


def test_deadlocks_with_a_real_session(server, url, tmp_path):
    """A session takes the writer's rows in the other order, again and again; the server ends one of the two."""
    with opened(url, tmp_path) as engine:
        engine.track("tick", source="s0")
        engine.flush()
        journal, recorder, before = engine._hold.journal.id, Recorder(engine, 0.005), deadlocks(server)
        with server.connect() as con:
            con.execute(f"SET search_path = {url.rpartition('schema=')[2]}")
            con.execute("SET deadlock_timeout = '30s'")  # so that it is the writer who finds out, and gives way
            for _ in range(4):
                con.execute("BEGIN")
                con.execute("SELECT 1 FROM state WHERE key = %s FOR UPDATE", [f"journal:{journal}"])
                wait_until_blocked(server)  # the writer, that holds the version by now
                con.execute("SELECT 1 FROM state WHERE key = 'version' FOR UPDATE")
                con.execute("ROLLBACK")
        until = time.monotonic() + 20
        while deadlocks(server) < before + 4 and time.monotonic() < until:
            time.sleep(0.1)  # the server counts once a second
        done = recorder.end()
        tolerant_flush(engine)
        assert deadlocks(server) >= before + 4 and engine.books().closes()
        check(server, url, done + 1, done // 20)


def wait_until_blocked(server):
    blocked = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'gnomon' AND wait_event_type = 'Lock'"
    with server.connect() as con:
        until = time.monotonic() + 20
        while con.execute(blocked).fetchone() is None and time.monotonic() < until:
            time.sleep(0.01)


def deadlocks(server):
    with server.connect() as con:
        return con.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = 'postgres'").fetchone()[0]


# -- a server that takes no changes -----------------------------------------------------------------------------------


def test_a_standby_answers_and_takes_nothing_until_it_is_promoted(server, url, tmp_path):
    with opened(url, tmp_path) as engine:
        engine.track("tick", source="s0")
        engine.flush()
        server.stop("fast")
        (server.folder / "standby.signal").touch()
        server.start()
        recorded(engine)
        assert engine.query(metrics=["events"], date_range="24h").rows == [{"events": 1}]
        until = time.monotonic() + 30  # it waits longer each time
        while getattr(engine._hold.writer.fault, "code", None) != "store-read-only" and time.monotonic() < until:
            time.sleep(0.05)
        assert engine._hold.writer.fault.code == "store-read-only"
        with pytest.raises(StoreUnavailable) as caught:
            engine.trigger_aggregation()
        assert caught.value.code == "store-read-only"
    with opened(url, tmp_path) as engine:  # also one that is started meanwhile, with a journal that is not empty
        recorded(engine, 10)
        server._control("-w", "promote")
        tolerant_flush(engine)
        assert engine.query(metrics=["events"], date_range="24h").rows == [{"events": 61}]
    check(server, url, 61, 0)


# -- a full disk ------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(server, tmp_path):
    """A tablespace on a disk of 24 MB."""
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        for folder in (
            place,
            *list(place.parents)[:4],
        ):  # the server is another user; one more when tests run in parallel
            folder.chmod(0o755)
        inside = place / "space"
        inside.mkdir()
        owner = (server.folder / "PG_VERSION").stat()
        os.chown(inside, owner.st_uid, owner.st_gid)
        with server.connect() as con:
            con.execute(f"CREATE TABLESPACE small LOCATION '{inside}'")
        yield place
        with server.connect() as con:
            for (schema,) in con.execute("SELECT schemaname FROM pg_tables WHERE tablespace = 'small'").fetchall():
                con.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
            con.execute("DROP TABLESPACE small")
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_the_disk_of_the_database_is_full_for_a_while(server, url, tmp_path, small):
    with opened(f"{url}&options=-c%20default_tablespace%3Dsmall", tmp_path / "data") as engine:
        engine.track("tick", source="s0")
        engine.flush()
        ballast = small / "ballast"
        with ballast.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(b"x" * 65_536):
                pass
        long = {"text": "y" * 4_000}
        for n in range(400):  # more than the pages that the tables have can take
            engine.track("tick", source=f"s{n % 3}", properties=long)
        with pytest.raises(StoreUnavailable) as caught:
            engine.flush(timeout=2)
        assert caught.value.code == "not-queryable" and "full" in str(engine._hold.writer.fault)
        assert engine.query(metrics=["events"], date_range="24h").rows == [{"events": 1}]
        ballast.unlink()
        tolerant_flush(engine)
        assert engine.query(metrics=["events"], date_range="24h").rows == [{"events": 401}]
        assert engine.books().closes()
    check(server, url, 401, 0)


# -- processes that are killed ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_processes_that_are_killed_while_the_database_falls(server, url, tmp_path):
    """Every third time the server falls as well; `POSTGRES_KILLS=500` asks for that many kills instead of 100."""
    rng, ledger = random.Random(5), tmp_path / "ledger"
    for cycle in range(int(os.environ.get("POSTGRES_KILLS", "100"))):
        child = start(url, tmp_path / "data", ledger, cycle * 100_000, 100_000)
        time.sleep(rng.uniform(0.05, 0.5))
        falling = threading.Thread(target=server.restart) if cycle % 3 == 0 else None
        if falling is not None:
            falling.start()
            time.sleep(rng.uniform(0, 0.2))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        if falling is not None:
            falling.join()
    with opened(url, tmp_path / "data") as engine:
        tolerant_flush(engine)
        found = numbers(server, url)
        assert len(found) == len(set(found)) and promised(ledger) <= set(found)
        books = engine.books()
        assert books.closes() and books.stored == len(found) and books.duplicate == 0
