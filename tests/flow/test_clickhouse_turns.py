"""Jobs of several processes on one ClickHouse: one of them does each, once a period, and another when it is gone."""

from __future__ import annotations

import signal
import time
from contextlib import ExitStack, contextmanager

import pytest
from test_postgres_jobs import SECOND, at_once, entries, start, wait_for

from gnomon.config import Settings
from gnomon.errors import StoreUnavailable
from gnomon.store import Marked, Turns, open_store, takes_turns
from gnomon.store.clickhouse import leases
from gnomon.store.clickhouse.served import ServedClickHouse


@pytest.fixture
def url(clickhouse):
    return clickhouse.url()


@pytest.fixture
def stores(url):
    with ExitStack() as open_ones:
        yield [open_ones.enter_context(closing(open_store(url, Settings()))) for _ in range(2)]


@contextmanager
def closing(store):
    yield store
    store.close()


def test_a_server_tells_whose_turn_it_is_and_a_folder_does_not(stores, tmp_path):
    assert isinstance(stores[0], Turns) and isinstance(stores[0], Marked)
    assert takes_turns("clickhouse://h/d") and not takes_turns("chdb://d")


def test_a_job_is_done_once_a_period_by_whoever_comes_first(url, tmp_path):
    assert at_once(url, tmp_path, rounds=2) == (2, 1)


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["claim", "time"])
def test_processes_that_do_not_ask_whose_turn_it_is_would_be_found(url, tmp_path, monkeypatch, broken):
    if broken == "claim":
        monkeypatch.setattr(leases.Claim, "_tables", lambda self, con, prefix: [(self._table, "held", 0)])
    else:
        monkeypatch.setattr(ServedClickHouse, "_put", lambda *_: None)
    assert at_once(url, tmp_path)[0] > 3


def test_the_clock_of_the_server_tells_what_is_due(stores):
    one, other = stores
    with one.turn("p:job", 3_600 * SECOND) as turn:
        assert abs(turn.now_us - time.time_ns() // 1_000) < 60 * SECOND
        with other.turn("p:job", 3_600 * SECOND) as second:
            assert second is None
        turn.done()
    with other.turn("p:job", 3_600 * SECOND) as turn:
        assert turn is None
    with other.turn("p:job", 0) as turn:  # asked for although it is not due
        assert turn is not None
    for store in stores:  # and it is not said that it was done
        with store.turn("q:job", 3_600 * SECOND) as turn:
            assert turn is not None
    one._put("job:p:job", str(time.time_ns() // 1_000 + 365 * 86_400 * SECOND))  # by a clock that was a year ahead
    with other.turn("p:job", 3_600 * SECOND) as turn:
        assert turn is not None
    left = "SELECT count() FROM system.tables WHERE database = currentDatabase() AND startsWith(name, 'turn_now')"
    assert one.ask([left], 5.0)[0].rows == [(0,)]


def test_who_was_stopped_for_too_long_has_lost_the_turn_and_is_told_so(stores, monkeypatch):
    one, other = stores
    monkeypatch.setattr(leases, "RENEWED_SECONDS", 60.0)  # it stands still
    with one.turn("p:job", 3_600 * SECOND) as turn:
        time.sleep(2.1)
        with ExitStack() as its:
            with monkeypatch.context() as brief:
                brief.setattr(leases, "BROKEN_SECONDS", 1)
                second = its.enter_context(other.turn("p:job", 3_600 * SECOND))
            assert second is not None
            with pytest.raises(StoreUnavailable) as raised:
                turn.done()
            assert raised.value.code == "store-moved"
            second.done()
    with one.turn("p:job", 3_600 * SECOND) as turn:
        assert turn is None


@pytest.mark.slow
def test_a_lock_that_was_lost_is_broken_by_one_only(stores, monkeypatch):
    monkeypatch.setattr(leases, "BROKEN_SECONDS", 0)
    store = stores[0]
    lost, first, second = (leases.Lease(leases.WRITING, store._connect, store._session) for _ in range(3))
    con = store._connect()
    lost._take(con, time.monotonic() + 1)
    time.sleep(1.1)
    claim = leases.Claim(f"{leases.WRITING}_broken", store._connect, store._session)
    with claim.taken(con) as mine:
        assert mine is not None
        second._break(con, lost._id)  # another one is at it
        lost.check(con)
    first._break(con, lost._id)
    first._take(con, time.monotonic() + 1)
    second._break(con, lost._id)  # it had seen the same, and comes too late
    first.check(con)
    with pytest.raises(StoreUnavailable):
        lost.check(con)
    con.run(f"DROP TABLE {leases.WRITING} SYNC", store._plain())
    con.close()


@pytest.mark.slow
def test_a_change_whose_maker_lost_the_lock_is_not_committed(stores):
    store, con = stores[0], stores[0]._connect()
    with store.alone():
        con.run(f"DROP TABLE {leases.UPKEEP} SYNC", store._plain())
        before = store.data_version()
        with pytest.raises(StoreUnavailable) as raised:
            store.change(["DELETE FROM events WHERE project = 'p'"])
        assert raised.value.code == "store-moved" and store.data_version() == before
    store.change(["DELETE FROM events WHERE project = 'p'"])
    assert store.data_version() > before
    con.close()


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_another_process_takes_over_the_job_of_one_that_is_gone(url, tmp_path, sign):
    ledger = tmp_path / "ledger"
    children = {"first": start(url, tmp_path, ledger, "first", 600)}
    try:
        wait_for(lambda: entries(ledger) == [["begin", "first"]])
        for name in ("second", "third"):
            children[name] = start(url, tmp_path, ledger, name, 0.2)
        time.sleep(2 * leases.RENEWED_SECONDS)
        assert entries(ledger) == [["begin", "first"]]  # it is at it, and nobody else begins
        children["first"].send_signal(sign)
        gone = time.monotonic()
        wait_for(lambda: len(entries(ledger)) >= 2, seconds=90)
        waited = time.monotonic() - gone
        assert waited > leases.BROKEN_SECONDS - leases.RENEWED_SECONDS - 2
        wait_for(lambda: len(entries(ledger)) >= 7)  # three turns of the others
    finally:
        for child in children.values():
            child.kill()
            child.wait()
            child.stdout.close()
    done = entries(ledger)[1:7]
    for begun, ended in zip(done[::2], done[1::2], strict=True):  # one after the other, each to its end
        assert (begun[0], ended[0]) == ("begin", "end") and begun[1] == ended[1] != "first"


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_processes_that_race_never_run_a_job_at_the_same_time(url, tmp_path):
    ledger, children = tmp_path / "ledger", []
    try:
        for n in range(4):
            children.append(start(url, tmp_path, ledger, f"c{n}", 0.1))
        began = time.monotonic()
        wait_for(lambda: len(entries(ledger)) >= 40, seconds=90)
        took = time.monotonic() - began
    finally:
        for child in children:
            child.kill()
            child.wait()
            child.stdout.close()
    done = entries(ledger)
    done = done[: len(done) // 2 * 2]
    for begun, ended in zip(done[::2], done[1::2], strict=True):
        assert (begun[0], ended[0]) == ("begin", "end") and begun[1] == ended[1]
    assert len(done) / 2 <= took + 10  # once a period of a second, from the first of them on
