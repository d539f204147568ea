"""What only the PostgreSQL store has: months, lock, connections, conflicts."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager

import psycopg
import pytest
from on_postgres import DAY, DEFAULTS, NOW, batch, row

from gnomon.errors import GnomonError, QueryTimeout, StoreUnavailable
from gnomon.store import postgres as module
from gnomon.store.postgres import PostgresStore, compacting, months, opening, writing
from gnomon.store.postgres import __name__ as package

# -- months -----------------------------------------------------------------------------------------------------------


def partitions(store):
    words = "SELECT tableoid::regclass::text, count(*) FROM events GROUP BY 1"
    return dict(store.ask([words], 5.0)[0].rows)


def test_every_month_gets_a_partition_when_its_first_row_comes(store):
    moments = [0, NOW, NOW + 40 * DAY, NOW - 3_000 * DAY]
    store.write([(1, batch(*(row(f"{n}", ts) for n, ts in enumerate(moments))))], "j")
    assert partitions(store) == dict.fromkeys(map(months.name_of, months.months_of(moments)), 1)
    assert set(partitions(store)) == {"events_1970_01", "events_2026_01", "events_2026_02", "events_2017_10"}


def test_while_a_question_holds_the_table_rows_wait_in_the_default_partition(store, monkeypatch):
    monkeypatch.setattr(months, "PATIENCE_MS", 50)
    monkeypatch.setattr(months, "AGAIN_SECONDS", 0.0)
    with store._asking.one() as (con, _):
        con.execute(opening.begin(store._address, reading=True, milliseconds=0))
        con.execute("SELECT count(*) FROM events")
        store.write([(1, batch(row("a"), row("b", NOW - 40 * DAY)))], "j")
        con.execute("COMMIT")
    assert partitions(store) == {"events_default": 2}
    assert store.write([(2, batch(row("a"), row("b", NOW - 41 * DAY)))], "j") == {2: {"duplicate": 2}}
    store.checkpoint()
    assert partitions(store) == {"events_2026_01": 1, "events_2025_12": 1}
    assert store.write([(3, batch(row("a"), row("b", NOW - 40 * DAY)))], "j") == {3: {"duplicate": 2}}


def test_the_same_id_is_found_in_whatever_month_it_came_first(store):
    store.write([(1, batch(row("a", NOW - 900 * DAY), row("b", NOW)))], "j")
    work = [(2, batch(row("a", NOW), row("b", NOW - 400 * DAY), row("c", NOW)))]
    assert store.write(work, "j") == {2: {"duplicate": 2}}


# -- writing ----------------------------------------------------------------------------------------------------------


def test_versions_are_handed_out_in_the_order_of_the_commits(url):
    stores = [PostgresStore(url, DEFAULTS) for _ in range(3)]
    seen, over = [], threading.Event()

    def write(number):
        for n in range(12):
            stores[number].write([(n + 1, batch(row(f"{number}-{n}")))], f"j{number}")

    def look():
        asked = ["SELECT value::bigint FROM state WHERE key = 'version'", "SELECT count(*), max(version) FROM events"]
        while not over.is_set():
            ((version,),), ((count, highest),) = (table.rows for table in stores[0].ask(asked, 5.0))
            seen.append((version, count, highest))

    threads = [threading.Thread(target=write, args=(n,)) for n in range(3)]
    looking = threading.Thread(target=look)
    looking.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    over.set()
    looking.join()
    assert all(version == 2 * count and highest in (None, version) for version, count, highest in seen)
    assert stores[1].data_version() == stores[2].data_version() == 72
    for store in stores:
        store.close()


def test_a_change_of_another_process_is_seen(url, store):
    other = PostgresStore(url, DEFAULTS)
    version = store.data_version()
    other.write([(1, batch(row("a")))], "other")
    assert store.data_version() == version + 2
    other.close()


def test_a_position_that_is_not_where_it_was_stops_the_write(postgres, schema, store):
    store.write([(5, batch(row("a")))], "j")
    for stored in (9, 3):  # a commit that came through late; a database that went back
        with postgres.connect() as con:
            con.execute(f"UPDATE {schema}.state SET value = '{stored}' WHERE key = 'journal:j'")
        with pytest.raises(StoreUnavailable) as caught:
            store.write([(6, batch(row("b")))], "j")
        assert caught.value.code == "store-moved"
    assert store.position("j") == 3
    store.write([(4, batch(row("c")))], "j")


def test_a_version_that_was_seen_is_not_given_out_again_after_a_fall_back(postgres, schema, store):
    store.write([(1, batch(row("a")))], "j")
    seen = store.data_version()
    with postgres.connect() as con:
        con.execute(f"UPDATE {schema}.state SET value = '0' WHERE key = 'version'")
    store.write([(2, batch(row("b")))], "j")
    assert store.data_version() > seen


def test_a_checkpoint_folds_the_books_and_bounds_the_quarantine(store, monkeypatch):
    monkeypatch.setattr(writing, "QUARANTINE_ROWS", 5)
    for n in range(12):
        refused = [[n, "code", "detail", None, f"{n}", "text"]]
        store.write([(n + 1, batch(row(f"{n}"), refused=refused, counts=[["event", None, "received", "", 1]]))], "j")
    books = "SELECT source, outcome, sum(n)::bigint FROM books GROUP BY source, outcome ORDER BY outcome"
    before = store.ask([books], 5.0)[0].rows
    store.checkpoint()
    assert store.ask([books], 5.0)[0].rows == before == [(None, "received", 12), (None, "stored", 12)]
    assert store.ask(["SELECT count(*) FROM books"], 5.0)[0].rows == [(2,)]
    assert store.ask(["SELECT id FROM quarantine ORDER BY place"], 5.0)[0].rows == [(f"{n}",) for n in range(7, 12)]


def test_a_writer_waits_for_one_of_another_process_and_gives_up_in_time(postgres, schema, store, monkeypatch):
    monkeypatch.setattr(f"{package}.LOCK_SECONDS", 0.2)
    with postgres.connect() as con:
        con.execute(f"BEGIN; SELECT value FROM {schema}.state WHERE key = 'version' FOR UPDATE")
        with pytest.raises(StoreUnavailable) as caught:
            store.write([(1, batch(row("a")))], "j")
        assert "another process" in caught.value.message
        con.execute("ROLLBACK")
    store.write([(1, batch(row("a")))], "j")


def test_a_writer_that_stops_in_the_middle_holds_up_nobody_for_long(url, store, monkeypatch):
    other = PostgresStore(url, DEFAULTS)
    honest = writing.Writing.write

    def stopped(self, work, version):
        brief.undo()
        other.write([(1, batch(row("b")))], "other")
        honest(self, work, version)

    with monkeypatch.context() as brief:
        brief.setattr(opening, "IDLE_MS", 200)
        brief.setattr(writing.Writing, "write", stopped)
        with pytest.raises(StoreUnavailable):
            store.write([(1, batch(row("a")))], "j")
    assert (store.position("j"), store.position("other")) == (0, 1)
    store.write([(1, batch(row("a")))], "j")
    other.close()


CONFLICTS = [psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure]


@pytest.mark.parametrize("conflict", CONFLICTS)
def test_a_conflict_is_tried_again(store, monkeypatch, conflict):
    honest, left = writing.Writing.write, [3]

    def meeting(self, work, version):
        if left[0]:
            left[0] -= 1
            raise conflict("x")
        honest(self, work, version)

    monkeypatch.setattr(writing.Writing, "write", meeting)
    store.write([(1, batch(row("a")))], "j")
    assert left == [0] and store.position("j") == 1
    left[0] = 99
    with pytest.raises(StoreUnavailable):
        store.write([(2, batch(row("b")))], "j")
    assert left == [99 - module.TRIES] and store.position("j") == 1


@pytest.mark.parametrize("conflict", CONFLICTS)
@pytest.mark.parametrize("times", [1, 2])
def test_a_question_that_ends_with_a_conflict_is_repeated_once(store, monkeypatch, conflict, times):
    """As a standby ends one that reads what the primary has removed."""
    honest, left = module._table, [times]

    def meeting(con, statement):
        if left[0]:
            left[0] -= 1
            raise conflict("x")
        return honest(con, statement)

    monkeypatch.setattr(module, "_table", meeting)
    if times == 1:
        assert store.ask(["SELECT 5"], 5.0)[0].rows == [(5,)]
    else:
        with pytest.raises(StoreUnavailable):
            store.ask(["SELECT 5"], 5.0)
    assert left == [0]


def test_sessions_that_cannot_be_put_in_a_row_are_tried_again(url, store, monkeypatch):
    """A real failure of serialization: a transaction at the level where PostgreSQL raises one."""
    other, honest, calls = PostgresStore(url, DEFAULTS), writing.Writing.lock, []

    def meeting(self):
        calls.append(self)
        if len(calls) == 1:
            self._con.execute("ROLLBACK")
            self._con.execute(opening.begin(store._address, reading=True, milliseconds=0).replace("READ ONLY", ""))
            self._con.execute("SELECT count(*) FROM state")
            other.write([(1, batch(row("b")))], "other")
        return honest(self)

    monkeypatch.setattr(writing.Writing, "lock", meeting)
    assert store.change(["SELECT 5"])[0].rows == [(5,)] and len(calls) == 3  # one is the other's
    other.close()


def test_upkeep_is_done_by_one_process_at_a_time(url, store, monkeypatch):
    monkeypatch.setattr(f"{package}.ALONE_SECONDS", 0.2)
    other = PostgresStore(url, DEFAULTS)
    with store.alone():
        with pytest.raises(StoreUnavailable), other.alone():
            raise AssertionError
        store.change(["SELECT 1"])
        store._alone.close()  # a lock that was lost is noticed before anything is committed
        with pytest.raises(StoreUnavailable):
            store.change(["INSERT INTO weighted VALUES ('p', now(), now())"])
    assert store.ask(["SELECT count(*) FROM weighted"], 5.0)[0].rows == [(0,)]
    monkeypatch.setattr(f"{package}.ALONE_SECONDS", 60.0)
    with other.alone():
        pass
    other.close()


@contextmanager
def held(postgres, schema, table, seconds):
    """Keep a table from being analyzed or written anew until that was waited for so long."""
    ended, waited = (
        threading.Event(),
        """SELECT count(*) FROM pg_locks WHERE NOT granted AND database =
        (SELECT oid FROM pg_database WHERE datname = current_database()) AND relation = %s::regclass""",
    )

    def hold():
        with postgres.connect() as con, postgres.connect() as looking:
            con.execute(f"BEGIN; LOCK TABLE {schema}.{table} IN SHARE UPDATE EXCLUSIVE MODE")
            locked.set()
            while not ended.wait(0.01) and looking.execute(waited, [f"{schema}.{table}"]).fetchone() == (0,):
                pass
            ended.wait(seconds)
            con.execute("ROLLBACK")

    locked, thread = threading.Event(), threading.Thread(target=hold)
    thread.start()
    assert locked.wait(30)
    try:
        yield
    finally:
        ended.set()
        thread.join()


#: A bound that a transaction of a few words keeps on a busy machine, and one of ours that takes longer.
BOUND_MS, BUSY_SECONDS = 1_500, 2.0


@pytest.mark.parametrize("honest", [True, False], ids=["unbound", "broken"])
@pytest.mark.parametrize("use", ["turn", "alone", "reading", "change", "analyze", "compact"])
def test_a_bound_of_whole_transactions_ends_nothing_of_ours(postgres, url, schema, monkeypatch, request, use, honest):
    monkeypatch.setattr(compacting, "_wait_for_older", lambda *_: None)  # of tests in other databases of the server
    with postgres.connect() as con:
        if con.info.server_version < 170_000:
            pytest.skip("the server knows no transaction_timeout")
    PostgresStore(url, DEFAULTS).close()
    store = PostgresStore(f"{url}&options=-c%20transaction_timeout%3D{BOUND_MS}ms", DEFAULTS)
    request.addfinalizer(store.close)
    store.write([(1, batch(row("a")))], "j")
    if not honest:
        for place in (opening, module):
            monkeypatch.setattr(place, "NO_BOUND", "SELECT 1")
        monkeypatch.setattr(compacting, "_BOUNDS", compacting._BOUNDS.replace(", 'transaction_timeout'", ""))

    def run():
        if use == "turn":
            with store.turn("work", DAY) as turn:
                time.sleep(BUSY_SECONDS)
                turn.done()
        elif use == "alone":
            with store.alone():
                time.sleep(BUSY_SECONDS)
                store.change(["SELECT 1"])
        elif use == "reading":
            with store.reading() as reading:
                time.sleep(BUSY_SECONDS)
                assert list(reading.rows("SELECT 1")) == [[(1,)]]
        elif use == "change":
            store.change([f"SELECT pg_sleep({BUSY_SECONDS})"])
        else:
            store.change(["DELETE FROM quarantine", "INSERT INTO people VALUES ('p', 1, 'a')", "DELETE FROM people"])
            with held(postgres, schema, "people", BUSY_SECONDS):
                store.settle(done=use == "analyze", compact=use == "compact")

    if honest:
        run()
        assert store.ask(["SHOW transaction_timeout"], 5.0)[0].rows == [("0",)]
    else:
        with pytest.raises(StoreUnavailable):
            run()


# -- asking -----------------------------------------------------------------------------------------------------------


def test_only_so_many_questions_at_once(store, monkeypatch):
    held = [store._asking.one(1.0) for _ in range(DEFAULTS.database_connections)]
    for each in held:
        each.__enter__()
    with pytest.raises(StoreUnavailable) as caught, store._asking.one(0.05):
        pass
    assert caught.value.code == "store-crowded" and "database_connections" in caught.value.remedy
    for each in held:
        each.__exit__(None, None, None)
    assert store.ask(["SELECT 1"], 5.0)[0].rows == [(1,)]


def test_a_question_can_change_nothing_and_hides_no_second_statement(store):
    for statement in ("INSERT INTO state VALUES ('x', 'y')", "SELECT 1; COMMIT; DELETE FROM state", "COMMIT; SELECT 1"):
        with pytest.raises(GnomonError):
            store.ask([statement], 5.0)
    assert store.ask(["SELECT count(*) FROM state WHERE key = 'x'"], 5.0)[0].rows == [(0,)]


def test_a_kept_connection_that_died_is_replaced_without_a_word(postgres, store):
    store.ask(["SELECT 1"], 5.0)
    with postgres.connect() as con:
        con.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
            "AND application_name = 'gnomon' AND pid <> %s",
            [con.info.backend_pid],
        )
    assert store.ask(["SELECT 1"], 5.0)[0].rows == [(1,)]


def test_a_server_that_does_not_answer_at_all_is_hung_up_on(store, monkeypatch):
    monkeypatch.setattr(f"{package}.MERCY_SECONDS", 0.1)
    monkeypatch.setattr(f"{package}.begin", lambda address, **_: "BEGIN READ ONLY")  # no time-out on the server
    started = time.monotonic()
    with pytest.raises(QueryTimeout):
        store.ask(["SELECT pg_sleep(60)"], 0.1)
    assert time.monotonic() - started < 30


def test_whole_numbers_are_whole_numbers_and_money_is_decimal(store):
    asked = "SELECT sum(n)::numeric, sum(n * 1.5), 1::numeric(38, 6) FROM (VALUES (1), (2)) AS x (n)"
    found = store.ask([asked], 5.0)[0].rows[0]
    assert [type(value).__name__ for value in found] == ["int", "Decimal", "Decimal"] and found[0] == 3


def test_after_closing_it_says_so(url):
    store = PostgresStore(url, DEFAULTS)
    store.close()
    for use in (lambda: store.ask(["SELECT 1"], 5.0), lambda: store.write([(1, batch(row("a")))], "j")):
        with pytest.raises(GnomonError) as caught:
            use()
        assert caught.value.code == "engine-closed"
