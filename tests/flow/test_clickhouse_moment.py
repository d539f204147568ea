"""A copy or backup of ClickHouse is one moment: what a checkpoint folds has no number, and waits until it was read."""

from __future__ import annotations

import threading
from contextlib import nullcontext

import pytest
from test_clickhouse import batch

import clickhouse_http
import embedded
import gnomon
from gnomon.config import Settings
from gnomon.errors import StoreUnavailable
from gnomon.event import Batch
from gnomon.store import Served, open_store
from gnomon.store.clickhouse import tidying
from gnomon.store.clickhouse.asking import Asking
from gnomon.store.clickhouse.connecting import Remote
from gnomon.store.clickhouse.deciding import Deciding
from gnomon.store.clickhouse.served import ServedClickHouse
from gnomon.timerange import US_SECOND
from gnomon.upkeep.copying import Run

NOW = 1_768_478_400_000_000
READ = {
    "events": "SELECT count(*) FROM events",
    "books": "SELECT outcome, sum(n) FROM books GROUP BY outcome ORDER BY outcome",
    "quarantine": "SELECT code, count(*) FROM quarantine GROUP BY code",
    "alive": "SELECT min(first), max(last) FROM alive",
}


@pytest.fixture(autouse=True)
def folding(monkeypatch):
    """A checkpoint folds and bounds after a few writes."""
    monkeypatch.setattr(tidying, "FOLDED_FROM", 10)
    monkeypatch.setattr(tidying, "QUARANTINE_ROWS", 3)


@pytest.fixture(params=["chdb", "clickhouse", pytest.param("cluster", marks=pytest.mark.slow)])
def stores(request):
    """Two of the same content, as of two processes; one where a process has it for itself."""
    server = clickhouse_http.Server() if request.param == "clickhouse" else None
    url = embedded.url() if request.param == "chdb" else (server or request.getfixturevalue("cluster")).url()
    first = open_store(url, Settings())
    second = first if request.param == "chdb" else open_store(url, Settings())
    yield first, second
    first.close()
    second.close()
    if server is not None:
        server.close()


def write(store, numbers):
    """For each number an event, a refusal, and a minute in which somebody was there."""
    for n in numbers:
        one, minute = batch(f"e{n}"), 60 * US_SECOND
        refused = [[NOW + n, "bad", None, None, None, None]]
        beats = [(NOW + n * minute, NOW + (n + 1) * minute, True)]
        store.write([(n, Batch("p", rows=one.rows, counts=one.counts, refused=refused, beats=beats))], "j")


def alone(store):
    return store.alone() if isinstance(store, Served) else nullcontext()


def told(reading):
    return {name: [row for part in reading.rows(asked) for row in part] for name, asked in READ.items()}


def lines(store):
    """How many there are of what is folded or bounded."""
    asked = [f"SELECT count(*) FROM {name}" for name in ("books", "quarantine", "alive")]
    return [table.rows[0][0] for table in store.ask(asked, 20.0)]


def test_nothing_is_folded_while_a_moment_is_read(stores):
    reader, other = stores
    write(reader, range(1, 8))
    with alone(reader), reader.reading() as reading:
        before = told(reading)
        assert before["events"] == [(7,)] and before["books"] == [("received", 7), ("stored", 7)]
        write(other, range(8, 16))
        other.checkpoint()
        reader.checkpoint()
        assert told(reading) == before
    assert lines(other) == [30, 15, 15]
    other.checkpoint()
    assert lines(reader) == [2, 3, 1]


def unheeded(monkeypatch):
    for owner in (Deciding, ServedClickHouse):
        monkeypatch.setattr(owner, "_is_read", lambda *_: False)


@pytest.mark.parametrize("stores", ["chdb", "clickhouse"], indirect=True)
def test_a_change_between_two_answers_of_a_moment_is_an_error(stores, monkeypatch):
    unheeded(monkeypatch)
    with pytest.raises(StoreUnavailable) as raised:
        test_nothing_is_folded_while_a_moment_is_read(stores)
    assert raised.value.code == "store-moved"


@pytest.mark.parametrize("stores", ["chdb", "clickhouse"], indirect=True)
def test_who_heeds_neither_would_tell_two_moments(stores, monkeypatch):
    unheeded(monkeypatch)
    monkeypatch.setattr(Asking, "_moved", lambda *_: False)
    with pytest.raises(AssertionError, match="received"):
        test_nothing_is_folded_while_a_moment_is_read(stores)


@pytest.mark.parametrize("stores", ["clickhouse"], indirect=True)
@pytest.mark.parametrize("broken", [False, True])
def test_a_checkpoint_that_had_begun_is_waited_for(stores, monkeypatch, broken):
    reader, other = stores
    write(other, range(1, 16))
    reached, goes_on, honest = threading.Event(), threading.Event(), Remote.run

    def run(self, text, settings):
        if text.startswith("CREATE DATABASE ") and "_next_" in text:
            reached.set()
            goes_on.wait(20)
        return honest(self, text, settings)

    monkeypatch.setattr(Remote, "run", run)
    if broken:
        monkeypatch.setattr(reader, "_changed", lambda run, _: run(None, reader._newest(reader._writer)))
    folding = threading.Thread(target=other.checkpoint)
    folding.start()
    assert reached.wait(20)
    with reader.alone():
        threading.Timer(0.3, goes_on.set).start()
        with reader.reading() as reading, pytest.raises(StoreUnavailable) if broken else nullcontext():
            folding.join()
            assert told(reading)["books"] == [("received", 15), ("stored", 15)]


@pytest.mark.parametrize("way", ["copy", "backup"])
def test_the_books_of_a_copy_are_those_of_its_events(tmp_path, monkeypatch, way):
    """A process that goes on: it records, stores and checkpoints while its store is read."""
    honest = Run.carry

    def carry(run):
        for n in range(12):
            engine.track("t", source=f"s{n % 2}")
            engine.track("")
            engine.flush()
        engine._hold.writer.checkpoint()
        honest(run)

    monkeypatch.setattr(Run, "carry", carry)
    more = {"scheduler": False, "sampling": False, "heartbeat_seconds": 0}
    with gnomon.open(embedded.url(), **more) as engine:
        for n in range(8):
            engine.track("t", source=f"s{n % 2}")
            engine.track("")
            engine.flush()
        if way == "copy":
            assert engine.copy_to(tmp_path / "copy.duckdb").same
        else:
            made = engine.trigger_backup(tmp_path / "kept")
        assert engine.books().stored == 20
    with gnomon.open(tmp_path / "copy.duckdb", **more) as found:
        if way == "backup":
            found.restore_backup(made.path)
        assert found.query(["events"])[0]["events"] == 8
        assert (found.books().received, found.books().stored) == (16, 8)
