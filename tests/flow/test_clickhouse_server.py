"""A ClickHouse store on a server: the real client over HTTP, against the embedded engine behind a small server."""

from __future__ import annotations

import itertools
import threading
import time
from contextlib import nullcontext

import chdb
import pytest
from test_clickhouse import AFTER, CHANGE, batch, changed, held

import clickhouse_http
import embedded
import gnomon
from gnomon.config import Settings
from gnomon.errors import PASSING, InvalidValue, QueryTimeout, StoreUnavailable
from gnomon.store import clickhouse, open_store
from gnomon.store.clickhouse import connecting, deciding, leases, served
from gnomon.store.clickhouse.ledger import BURNT, WRITER

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


@pytest.fixture
def server():
    running = clickhouse_http.Server()
    yield running
    running.close()


@pytest.fixture
def url(server):
    return server.url()


@pytest.fixture
def store(url):
    opened = open_store(url, Settings())
    yield opened
    opened.close()


def breaking(server, place, *, landed):
    """Inserts into a table find their connection broken, before or after they were done; until the list is empty.
    The driver tries again by itself, with the same token."""
    armed = [1]

    def broken(text):
        if text.startswith(f"INSERT INTO `{place}` ".encode()) and armed:
            raise ConnectionError

    setattr(server, "after" if landed else "before", broken)
    return armed


@pytest.mark.parametrize(
    "place, landed",
    [
        pytest.param("events", True, marks=pytest.mark.slow),
        pytest.param("state_log", False, marks=pytest.mark.slow),
        ("state_log", True),
    ],
)
def test_an_answer_that_is_lost_doubles_nothing(server, store, place, landed):
    store.write([(1, batch("a"))], "j")
    armed = breaking(server, place, landed=landed)
    with pytest.raises(StoreUnavailable):
        store.write([(2, batch("b", "c"))], "j")
    armed.clear()
    if store.position("j") == 1:
        store.write([(2, batch("b", "c", "d"))], "j")
    else:
        store.write([(3, batch("c", "d"))], "j")  # as it had come through
    assert held(store)[0] == (4, 4)
    with pytest.raises(StoreUnavailable) as raised:
        store.write([(1, batch("e"))], "j")
    assert raised.value.code == "store-moved"


@pytest.mark.slow
def test_rows_that_land_long_after_their_writer_gave_them_up_are_never_seen(server, store, monkeypatch):
    store.write([(1, batch("a"))], "j")
    late, armed = [], [1]

    def keep(text):
        if text.startswith(b"INSERT INTO `events` ") and armed:
            late.append(text)
            raise ConnectionError

    server.before = keep
    with pytest.raises(StoreUnavailable):
        store.write([(2, batch("b", "c"))], "j")
    armed.clear()
    store.write([(2, batch("b", "c", "d"))], "j")
    engine = chdb.connect(embedded.folder())
    engine.query(f"USE {store._address.database}")
    engine.query("SET insert_allow_materialized_columns = 1")
    clickhouse_http._run(engine, late[0])
    assert int(engine.query("SELECT count() FROM events", "TSV").bytes()) == 6
    engine.close()
    assert held(store)[0] == (4, 4)


def test_two_processes_write_one_after_the_other(url):
    stores = [open_store(url, Settings()) for _ in range(2)]
    numbers = itertools.count()
    try:

        def write(n):
            for position in range(1, 7):
                stores[n].write([(position, batch(f"i{next(numbers)}", f"same{position}"))], f"j{n}")

        threads = [threading.Thread(target=write, args=(n,)) for n in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert held(stores[0]) == ((18, 18), {"duplicate": 6, "received": 24, "stored": 18})
        assert [stores[1].position(f"j{n}") for n in range(2)] == [6, 6]
        stores[0].change(CHANGE)
        assert changed(stores[1])[0] == [(0,)]
    finally:
        for each in stores:
            each.close()


@pytest.mark.slow
def test_the_lock_of_a_process_that_is_gone_is_broken(url, monkeypatch):
    first = open_store(url, Settings())
    held_by = leases.Lease(leases.WRITING, first._connect, first._session)
    con = first._connect()
    held_by._take(con, time.monotonic() + 1)
    monkeypatch.setattr(served, "LOCK_SECONDS", 0.1)
    with pytest.raises(StoreUnavailable):
        first.write([(1, batch("a"))], "j")
    monkeypatch.setattr(leases, "BROKEN_SECONDS", 0)
    monkeypatch.setattr(served, "LOCK_SECONDS", 10.0)
    first.write([(1, batch("a"))], "j")
    assert held(first)[0] == (1, 1)
    with pytest.raises(StoreUnavailable):
        held_by.check(con)
    con.close()
    first.close()


@pytest.mark.slow
def test_a_process_that_lost_the_lock_is_told_that_its_write_was_given_up(url, monkeypatch):
    first, second = open_store(url, Settings()), open_store(url, Settings())
    try:
        first.write([(1, batch("a"))], "j")
        con, head = first._connect(), first._newest(None)
        second.write([(1, batch("b"))], "k")
        with pytest.raises(StoreUnavailable) as raised:
            first._write(con, head, [(2, batch("b"))], "j")  # it looked before the other one wrote
        assert raised.value.code == "store-moved" and held(second)[0] == (2, 2)
        head = first._newest(None)  # the last number is one of the second, so the next one is not for the first
        second.write([(2, batch("c"))], "k")
        with pytest.raises(StoreUnavailable):
            first._write(con, head, [(2, batch("c", "d"))], "j")  # without burning
        assert held(second)[0] == (5, 4)
        con.close()
    finally:
        first.close()
        second.close()


def failing_commit(monkeypatch, store):
    """The next commit of this store fails before its insert, when all of its rows have landed."""
    honest, left = deciding.put_state, [1]

    def put_state(con, entries, batch, settings):
        if entries.get(WRITER) == store._me and not any(key.startswith(BURNT) for key in entries) and left:
            left.pop()
            raise ConnectionError
        return honest(con, entries, batch, settings)

    monkeypatch.setattr(deciding, "put_state", put_state)


def taking_turns(monkeypatch, first, second):
    """Both fail once behind their rows, the second one after it wrote what makes the first one's number old; what
    was acknowledged is what the two must hold then."""
    failing_commit(monkeypatch, first)
    with pytest.raises(StoreUnavailable):
        first.write([(1, batch("a", "b"))], "j")
    second.write([(1, batch("c"))], "k")
    failing_commit(monkeypatch, second)
    with pytest.raises(StoreUnavailable):
        second.write([(2, batch("d", "e"))], "k")
    first.write([(1, batch("a", "b"))], "j")
    second.write([(2, batch("d", "e"))], "k")
    assert held(first) == held(second) == ((5, 5), {"received": 5, "stored": 5})
    assert (second.position("j"), first.position("k")) == (1, 2)


@pytest.mark.parametrize("broken", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_two_processes_that_fail_behind_their_rows_double_nothing(url, monkeypatch, broken):
    first, second = open_store(url, Settings()), open_store(url, Settings())
    honest = clickhouse.ClickHouseStore._ready

    def ready(self, con):
        """Burns its own old number only, although another one wrote meanwhile."""
        number, self._failed = self._failed, None
        return honest(self, con) if number is None else self._burn(con, number)

    if broken:
        monkeypatch.setattr(clickhouse.ClickHouseStore, "_ready", ready)
    try:
        with pytest.raises(AssertionError) if broken else nullcontext():
            taking_turns(monkeypatch, first, second)
    finally:
        first.close()
        second.close()


@pytest.mark.slow
def test_upkeep_of_two_processes_waits_for_each_other(url, monkeypatch):
    first, second = open_store(url, Settings()), open_store(url, Settings())
    monkeypatch.setattr(served, "ALONE_SECONDS", 0.1)
    try:
        with first.alone():
            with pytest.raises(StoreUnavailable), second.alone():
                raise AssertionError
            second.write([(1, batch("a"))], "j")  # recording goes on
        with second.alone():
            second.keep("x", "y")
        assert first.all_kept() == {"x": "y"} and first.is_used()
    finally:
        first.close()
        second.close()


@pytest.mark.slow
def test_changes_and_checkpoints_over_http(store):
    store.write([(1, batch("a", "b"))], "j")
    store.change(CHANGE)
    assert changed(store) == AFTER
    store.checkpoint(compact=True)
    assert changed(store) == AFTER and store.describe()["events"] == 1


def test_a_wrong_password_is_said_and_never_shown(server):
    with pytest.raises(StoreUnavailable) as raised:
        open_store(server.url(password="not it"), Settings())
    assert raised.value.code == "store-login" and "not it" not in f"{raised.value}{raised.value.__cause__}"


@pytest.mark.parametrize("url", [
    "clickhouse://", "clickhouse://h:x/d", "clickhouse://h/system", "clickhouse://h/d?x=1",
    "clickhouse://h/d?cluster=", "chdb://", "chdb://p?database=A-b", "chdb://p?x=y",
])  # fmt: skip
def test_urls_that_name_no_store(url):
    with pytest.raises(InvalidValue) as raised:
        open_store(url, Settings())
    assert raised.value.code == "bad-store"


@pytest.mark.slow
def test_a_question_ends_in_time_and_a_server_that_is_away_is_said(server, url):
    store = open_store(url, Settings())
    endless = "SELECT count(*) FROM numbers(10000000) AS a, numbers(1000000) AS b WHERE a.number % 7 = b.number % 5"
    with pytest.raises(QueryTimeout):
        store.ask([endless], 0.3)
    store.close()
    server.close()
    with pytest.raises(StoreUnavailable) as raised:
        open_store(url, Settings())
    assert raised.value.code == "store-unavailable"


@pytest.mark.slow
def test_recording_goes_on_while_the_server_is_away_and_is_there_once_it_is_back(server, url, tmp_path):
    settings = Settings(flush_seconds=0.01, data_dir=str(tmp_path))
    with gnomon.open(url, settings=settings, sampling=False) as engine:
        engine.track("t")
        engine.flush()
        away = [True]

        def refuse(text):
            if away:
                raise ConnectionError

        server.before = refuse
        for _ in range(5):
            engine.track("t")
        with pytest.raises(StoreUnavailable):
            engine.flush(timeout=0.3)
        away.clear()
        engine.flush(timeout=30)
        assert engine.query(["events"])[0]["events"] == 6
        assert engine.books().closes()


DEGRADED = [
    (999, "Coordination::Exception: Session expired", b"SELECT"),
    (279, "All connection tries failed", b"SELECT"),
    (210, "Connection refused", b"SELECT"),
    (159, "Distributed DDL task is not finished on 1 of 4 hosts", b"CREATE DATABASE"),
    (159, "Timeout exceeded", b"SELECT key, value"),
    (242, "Table is in readonly mode", b"CREATE TABLE writing_now"),
    (252, "Too many parts", b"CREATE TABLE writing_now"),
]


@pytest.mark.parametrize(("code", "said", "of"), DEGRADED)
def test_an_engine_that_starts_while_the_server_is_degraded_records(server, url, tmp_path, monkeypatch, code, said, of):
    monkeypatch.setattr(leases, "BROKEN_SECONDS", 1)  # what cannot be asked for cannot be given back: it is broken
    monkeypatch.setattr(leases, "RENEWED_SECONDS", 0.3)
    settings = Settings(flush_seconds=0.01, data_dir=str(tmp_path))
    with gnomon.open(url, settings=settings, sampling=False) as engine:
        engine.track("t")
        engine.flush()

    def refuse(text):
        if text.lstrip().startswith(of) and b"system.settings" not in text and b"version()" not in text:
            raise RuntimeError(f"Code: {code}. DB::Exception: {said}")

    server.before = refuse
    with gnomon.open(url, settings=settings, sampling=False) as engine:
        engine.track("t")
        with pytest.raises(StoreUnavailable) as raised:
            engine.query(["events"])
        assert raised.value.code in PASSING and raised.value.remedy
        server.before = lambda text: None
        engine.flush(timeout=30)
        assert engine.query(["events"])[0]["events"] == 2 and engine.books().closes()


def test_a_start_that_waits_for_a_server_that_is_away_only_is_found(server, url, tmp_path, monkeypatch):
    monkeypatch.setattr("gnomon.ingest.hold.PASSING", {"store-unavailable"})
    with pytest.raises(StoreUnavailable):
        test_an_engine_that_starts_while_the_server_is_degraded_records(
            server, url, tmp_path, monkeypatch, *DEGRADED[0]
        )


@pytest.mark.parametrize("work", ["_settle", "_burn"])
def test_a_number_that_another_one_decides_while_the_store_is_opened_is_no_error(url, tmp_path, monkeypatch, work):
    honest, left = getattr(deciding.Deciding, work), [1]

    def overtaken(self, con, *told):
        if left:
            left.pop()
            raise deciding.overtaken()
        return honest(self, con, *told)

    monkeypatch.setattr(deciding.Deciding, work, overtaken)
    with gnomon.open(url, data_dir=str(tmp_path), sampling=False) as engine:
        engine.track("t")
        engine.flush(timeout=30)
        assert engine.query(["events"])[0]["events"] == 1 and not left


@pytest.mark.parametrize("broken", [False, True])
def test_upkeep_needs_none_of_the_connections_of_questions(url, tmp_path, monkeypatch, broken):
    with gnomon.open(url, data_dir=str(tmp_path), sampling=False, scheduler=False, database_connections=1) as engine:
        engine.track("t")
        engine.flush()
        if broken:
            monkeypatch.setattr(connecting, "WAIT_SECONDS", 0.1)
            monkeypatch.setattr(deciding.Deciding, "_own_connection", lambda self: self._asking.one())
        for work in (engine.trigger_aggregation, engine.prune, lambda: engine.copy_to(tmp_path / "copy.duckdb")):
            with pytest.raises(StoreUnavailable, match="in use") if broken else nullcontext():
                work()
