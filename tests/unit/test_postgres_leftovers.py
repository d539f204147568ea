"""What a PostgreSQL store keeps of what was deleted, which is nothing, and what the doctor is told."""

from __future__ import annotations

import re
from contextlib import nullcontext
from pathlib import Path

import psycopg
import pytest
from on_postgres import DAY, DEFAULTS, NOW, batch, row

from gnomon.errors import StoreUnavailable
from gnomon.event import Batch
from gnomon.store import open_store
from gnomon.store.postgres import PostgresStore, compacting, describing
from gnomon.store.postgres import __name__ as package

# -- what was deleted -------------------------------------------------------------------------------------------------


def bytes_of(postgres, schema, text):
    """The files of the schema's tables in which a text stands."""
    with postgres.connect() as con:
        con.execute("CHECKPOINT")
        rows = con.execute(
            "SELECT relname, pg_relation_filepath(c.oid) FROM pg_class c WHERE relnamespace = %s::regnamespace "
            "AND relkind IN ('r', 'i', 't') UNION ALL SELECT t.relname, pg_relation_filepath(t.oid) FROM pg_class c "
            "JOIN pg_class t ON t.oid = c.reltoastrelid WHERE c.relnamespace = %s::regnamespace", [schema, schema],
        ).fetchall()  # fmt: skip
        root = Path(con.execute("SHOW data_directory").fetchone()[0])
    return {name for name, path in rows if path and text.encode() in (root / path).read_bytes()}


@pytest.mark.parametrize("honest", [True, False], ids=["compacted", "broken"])
def test_nothing_of_what_was_deleted_stays_in_the_files(postgres, schema, store, monkeypatch, honest):
    who = "ann-with-a-name-that-can-be-found"
    rows = [row(f"{n}", NOW + n, user_id=who if n % 10 == 0 else f"u{n}") for n in range(500)]
    store.write([(1, batch(*rows, refused=[[NOW, "x", who, None, None, who]]))], "j")
    assert bytes_of(postgres, schema, who) >= {"events_2026_01", "quarantine"}
    if not honest:
        monkeypatch.setattr(f"{package}.note_touched", lambda con: None)
    store.change([f"UPDATE events SET user_id = NULL WHERE user_id = '{who}'", "DELETE FROM quarantine"])
    if honest:
        monkeypatch.setattr(compacting, "LOCK_SECONDS", 0.3)
        with postgres.connect() as con:  # who looks at the database as it was keeps the server from removing anything
            con.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            con.execute(f"SELECT count(*) FROM {schema}.state")
            store.change(["SELECT 1"])
            with pytest.raises(StoreUnavailable) as caught:
                store.change([f"DELETE FROM events WHERE user_id = '{who}'"])
                store.checkpoint(compact=True)
            assert caught.value.code == "store-not-compacted"
        monkeypatch.setattr(compacting, "LOCK_SECONDS", 60)
    store.checkpoint(compact=True)
    assert (bytes_of(postgres, schema, who) == set()) is honest
    assert store.ask(["SELECT count(*) FROM events"], 5.0)[0].rows == [(500,)]
    left = f"SELECT count(*) FROM state WHERE key LIKE '{compacting.PREFIX}%'"
    assert store.ask([left], 5.0)[0].rows == [(0,)]


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "in another database"])
@pytest.mark.parametrize("honest", [True, False], ids=["waited for", "broken"])
def test_an_open_transaction_that_has_written_is_waited_for(postgres, schema, store, monkeypatch, honest, elsewhere):
    """It keeps what was deleted after it began, though it looks at nothing."""
    who = "ann-with-a-name-that-can-be-found"
    monkeypatch.setattr(compacting, "LOCK_SECONDS", 0.3)
    if not honest:
        monkeypatch.setattr(compacting, "_LOOKING_BACK", compacting._LOOKING_BACK.replace("age(backend_xid)", "NULL"))
    store.write([(1, batch(row("a", user_id=who), row("b")))], "j")
    place = re.sub(r"/[^/?]+\?", "/postgres?", postgres.direct) if elsewhere else postgres.direct
    with psycopg.connect(place, autocommit=True) as con:
        con.execute("BEGIN")
        con.execute("SELECT pg_current_xact_id()")
        store.change([f"DELETE FROM events WHERE user_id = '{who}'"])
        with pytest.raises(StoreUnavailable) if honest else nullcontext() as caught:
            store.checkpoint(compact=True)
        assert bytes_of(postgres, schema, who)
        con.execute("COMMIT")
    monkeypatch.setattr(compacting, "LOCK_SECONDS", 60)  # tests in other databases of the server write as well
    assert not honest or caught.value.code == "store-not-compacted"
    store.checkpoint(compact=True)
    assert (bytes_of(postgres, schema, who) == set()) is honest


@pytest.mark.parametrize("honest", [True, False], ids=["every table", "broken"])
def test_a_server_that_does_not_count_keeps_nothing_of_what_was_deleted(postgres, url, schema, monkeypatch, honest):
    who = "ann-with-a-name-that-can-be-found"
    if not honest:
        monkeypatch.setattr(compacting, "_NOTE", compacting._NOTE.replace("'off'", "'never'"))
    store = PostgresStore(f"{url}&options=-c%20track_counts%3Doff", DEFAULTS)
    store.write([(1, batch(row("a", user_id=who), row("b"), samples=[(NOW, NOW, "m", "gauge", 1.0, who, None)]))], "j")
    store.change([f"DELETE FROM events WHERE user_id = '{who}'", "UPDATE samples SET labels = NULL"])
    store.checkpoint(compact=True)
    assert (bytes_of(postgres, schema, who) == set()) is honest
    left = f"SELECT count(*) FROM state WHERE key LIKE '{compacting.PREFIX}%'"
    assert store.ask([left], 5.0)[0].rows == [(0,)]
    store.close()


def test_the_database_keeps_no_frequent_values_of_persons(postgres, schema, store):
    store.write([(1, batch(*(row(f"{n}", NOW + n, user_id="ann", session_id="s") for n in range(500))))], "j")
    with postgres.connect() as con:
        con.execute(f"ANALYZE {schema}.events")
        kept = con.execute("SELECT attname FROM pg_stats WHERE schemaname = %s AND tablename LIKE 'events%%'", [schema])
        names = {name for (name,) in kept.fetchall()}
    assert "type" in names and not names & {"user_id", "device_id", "session_id", "id_text", "properties"}


def test_what_the_doctor_is_told(store, monkeypatch):
    store.write([(1, batch(row("a"), row("b", NOW + 5)))], "j")
    found = store.describe()
    assert (found["events"], found["first_ts_us"], found["last_ts_us"]) == (2, NOW, NOW + 5)
    assert (found["fsync"], found["standby"], found["default_partition_rows"]) == (False, False, 0)
    assert "readable" not in found  # nobody has read every block
    monkeypatch.setattr("gnomon.store.postgres.describing.EXACT_UP_TO", -1)
    found = store.describe()
    assert found["events_estimated"] and found["samples_estimated"]


def test_the_doctor_finds_the_ends_of_all_events(postgres, schema, store):
    assert (store.describe()["first_ts_us"], store.describe()["last_ts_us"]) == (None, None)
    ends = (NOW - 40 * DAY, NOW + 40 * DAY + 5)
    rows = {"b": [NOW, NOW + 9], "a": [NOW - 40 * DAY + 7, NOW + 40 * DAY + 5], "c": [NOW - 40 * DAY, NOW + 40 * DAY]}
    for number, (project, moments) in enumerate(rows.items(), 1):
        told = [row(f"{project}{ts}", ts) for ts in moments]
        store.write([(number, Batch(project, rows=told, checked_ids=True))], "j")
    store.write([(4, batch(row("far", NOW - 400 * DAY)))], "j")
    store.change([f"DELETE FROM events WHERE ts < make_timestamp({NOW - 100 * DAY})"])  # a month that is empty now
    found = store.describe()
    assert (found["first_ts_us"], found["last_ts_us"]) == ends
    with postgres.connect() as con:  # before and behind all months, in none of them
        con.execute(f"ALTER TABLE {schema}.events DETACH PARTITION {schema}.events_2025_12")
        con.execute(f"ALTER TABLE {schema}.events DETACH PARTITION {schema}.events_2026_02")
        con.execute(f"INSERT INTO {schema}.events SELECT * FROM {schema}.events_2025_12")
        con.execute(f"INSERT INTO {schema}.events SELECT * FROM {schema}.events_2026_02")
    found = store.describe()
    assert (found["first_ts_us"], found["last_ts_us"]) == ends


def test_the_doctor_reads_few_of_the_events_for_their_ends(postgres, schema, store):
    store.write([(1, batch(row("a")))], "j")
    with postgres.connect() as con:
        con.execute(f"SET search_path = {schema}, pg_temp")
        con.execute("INSERT INTO events (project, id, ts, received_at, version, type, weight) "
                    "SELECT 'p' || n % 9, gen_random_uuid(), timestamp '2026-01-15' + n * interval '1 second', "
                    "timestamp '2026-01-15', 2, 't', 1 FROM generate_series(1, 30000) AS n")  # fmt: skip
        con.execute("VACUUM ANALYZE events_2026_01")

        def blocks(asked):
            ((plan,),) = con.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {asked}").fetchall()
            return plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"]

        asked = [describing._END.format("events_2026_01", *end) for end in (describing._FIRST, describing._LAST)]
        assert sum(map(blocks, asked)) < 150 < 300 < blocks("SELECT min(ts), max(ts) FROM events")


@pytest.mark.parametrize("scheme", ["postgres", "postgresql"])
def test_any_store_is_opened_by_its_url(url, scheme):
    store = open_store(url.replace("postgresql://", f"{scheme}://"), DEFAULTS)
    assert isinstance(store, PostgresStore)
    store.close()
