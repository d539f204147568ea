"""While the database is away, or not what it should be: recording goes on, and questions say why they wait."""

from __future__ import annotations

import re
import socket
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from own_postgres import OwnPostgres
from pg_life import check, counted, opened, tolerant_flush
from serving import bearer, served

from gnomon.errors import StoreDamaged, StoreUnavailable
from gnomon.store.postgres import PostgresStore

SCHEMAS = map("a{}".format, range(1_000))


@pytest.fixture(scope="module")
def server():
    with OwnPostgres() as running:
        yield running


@pytest.fixture
def url(server):
    return server.url(next(SCHEMAS))


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
        until = time.monotonic() + 30
        while getattr(engine._hold.writer.fault, "code", None) != "store-damaged" and time.monotonic() < until:
            time.sleep(0.05)
        with pytest.raises(StoreUnavailable) as waits:
            engine.flush(timeout=0.2)
        assert waits.value.code == "not-queryable" and "REINDEX" in waits.value.remedy
    with opened(url, tmp_path) as engine:  # it starts, and keeps what comes
        engine.track("tick", id="later", ts=ts)
        overwritten(server, place, sound)
        tolerant_flush(engine)
        assert (
            engine.books().stored == 202 and engine.query(metrics=["events"], date_range="7d").rows[0]["events"] == 202
        )
