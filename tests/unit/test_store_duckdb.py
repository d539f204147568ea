"""What only the DuckDB store has: its file, schema, checkpoints, bounded quarantine, and its errors in our words."""

from __future__ import annotations

import duckdb
import pytest

from gnomon.config import Settings
from gnomon.errors import GnomonError, InvalidValue, StoreBusy, StoreDamaged, StoreUnavailable
from gnomon.event import ROW, Batch
from gnomon.store import duckdb as module
from gnomon.store import open_store, store_path
from gnomon.store.duckdb import DuckDBStore
from gnomon.store.duckdb.faults import translated

DEFAULTS = Settings()


def row(id_):
    values = {"id": id_, "ts": 1, "received_at": 1, "type": "t", "weight": 1.0}
    return tuple(values.get(name) for name in ROW)


def test_the_path_of_a_url():
    assert store_path("duckdb:///a/b.duckdb") == "/a/b.duckdb"
    assert store_path("x.duckdb") == "x.duckdb"
    assert store_path(":memory:") is None is store_path("duckdb://:memory:")


def test_event_tables_have_no_index(tmp_path):
    store = DuckDBStore(str(tmp_path / "x.duckdb"), DEFAULTS)
    assert store.ask(["SELECT count(*) FROM duckdb_indexes()"], 5.0)[0].rows == [(0,)]
    assert store.ask(["SELECT count(*) FROM duckdb_constraints() WHERE constraint_type <> 'NOT NULL'"], 5.0)[
        0
    ].rows == [(0,)]
    store.close()


def test_the_outside_world_is_out_of_reach(tmp_path):
    (tmp_path / "secret.csv").write_text("a,b\n1,2\n")
    store = DuckDBStore(str(tmp_path / "x.duckdb"), DEFAULTS)
    for statement in (
        f"SELECT * FROM read_csv('{tmp_path}/secret.csv')",
        f"COPY events TO '{tmp_path}/out.csv'",
        f"ATTACH '{tmp_path}/other.duckdb' AS other",
        "SET enable_external_access = true",
        "SET memory_limit = '99GB'",
        "INSTALL httpfs",
        "LOAD httpfs",
    ):
        with pytest.raises(GnomonError):
            store.ask([statement], 5.0)
    assert not (tmp_path / "out.csv").exists()
    store.close()


def test_settings_reach_the_database(tmp_path):
    store = DuckDBStore(str(tmp_path / "x.duckdb"), DEFAULTS.but(threads=1, memory_limit="300MB"))
    (found,) = store.ask(["SELECT current_setting('threads'), current_setting('memory_limit')"], 5.0)[0].rows
    assert found[0] == 1 and found[1].startswith("286")
    store.close()


def test_a_database_that_is_not_ours_is_left_alone(tmp_path):
    path = tmp_path / "theirs.duckdb"
    con = duckdb.connect(str(path))
    con.execute("CREATE TABLE events (x INTEGER)")
    con.close()
    with pytest.raises(InvalidValue) as caught:
        DuckDBStore(str(path), DEFAULTS)
    assert caught.value.code == "foreign-file"
    con = duckdb.connect(str(path))
    assert con.execute("SELECT count(*) FROM duckdb_tables()").fetchone() == (1,)
    con.close()


def test_a_store_of_a_newer_version_is_refused(tmp_path, monkeypatch):
    path = str(tmp_path / "x.duckdb")
    DuckDBStore(path, DEFAULTS).close()
    con = duckdb.connect(path)
    con.execute("UPDATE state SET value = '999' WHERE key = 'schema'")
    con.close()
    with pytest.raises(InvalidValue) as caught:
        DuckDBStore(path, DEFAULTS)
    assert caught.value.code == "newer-schema" and "Upgrade" in caught.value.remedy


def test_a_file_that_another_process_has_open(tmp_path, monkeypatch):
    def locked(*_, **__):
        raise duckdb.IOException('IO Error: Could not set lock on file "x": Conflicting lock is held')

    monkeypatch.setattr(module.duckdb, "connect", locked)
    with pytest.raises(StoreBusy):
        open_store(str(tmp_path / "x.duckdb"), DEFAULTS)


def test_a_checkpoint_folds_the_books_and_bounds_the_quarantine(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "QUARANTINE_ROWS", 5)
    store = DuckDBStore(str(tmp_path / "x.duckdb"), DEFAULTS)
    for n in range(20):
        refused = [[n, "code", "detail", None, f"{n}", "text"]]
        store.write(
            [
                (
                    n + 1,
                    Batch(
                        "p",
                        rows=[row(f"{n}")],
                        refused=refused,
                        counts=[["event", None, "received", "", 1]],
                        checked_ids=True,
                    ),
                )
            ],
            "j",
        )
    books = "SELECT source, outcome, sum(n)::BIGINT FROM books GROUP BY ALL ORDER BY ALL"
    before = store.ask([books], 5.0)[0].rows
    store.checkpoint()
    assert store.ask([books], 5.0)[0].rows == before
    assert store.ask(["SELECT count(*) FROM books"], 5.0)[0].rows == [(2,)]
    kept = {int(text) for (text,) in store.ask(["SELECT id FROM quarantine"], 5.0)[0].rows}
    assert {15, 16, 17, 18, 19} <= kept and len(kept) <= 6
    store.close()


@pytest.mark.parametrize(
    ("error", "meant", "code"),
    [
        (duckdb.IOException("IO Error: No space left on device"), StoreUnavailable, "store-unavailable"),
        (duckdb.OutOfMemoryException("x"), StoreUnavailable, "store-unavailable"),
        (duckdb.FatalException("x"), StoreUnavailable, "store-unavailable"),
        (duckdb.InternalException("x"), StoreUnavailable, "store-unavailable"),
        (duckdb.ConnectionException("Connection already closed"), StoreUnavailable, "store-unavailable"),
        (duckdb.IOException("IO Error: Corrupt database file: computed checksum 1"), StoreDamaged, "store-damaged"),
        (
            duckdb.IOException("The file exists, but it is not a valid DuckDB database file!"),
            StoreDamaged,
            "store-damaged",
        ),
        (duckdb.SerializationException("Serialization Error: Failed to deserialize"), StoreDamaged, "store-damaged"),
        (
            duckdb.ConversionException("Could not convert string 'Corrupt checksum' to INT64"),
            GnomonError,
            "store-refused",
        ),
        (duckdb.BinderException("Cannot compare 'Corrupt'"), GnomonError, "store-refused"),
        (duckdb.InvalidInputException("Invalid Input Error: missing ]: [checksum"), InvalidValue, "bad-pattern"),
        (duckdb.InvalidInputException("Invalid Input Error: bad repetition operator: *+"), InvalidValue, "bad-pattern"),
        (duckdb.InvalidInputException("Invalid Input Error: something else"), GnomonError, "store-refused"),
        (duckdb.ParserException("syntax error at or near 'secret'"), GnomonError, "store-refused"),
    ],
)
def test_errors_in_our_words(error, meant, code):
    found = translated(error)
    assert (type(found), found.code) == (meant, code)
    assert "secret" not in str(found) and "checksum" not in str(found)


def test_after_closing_it_says_so(tmp_path):
    store = DuckDBStore(str(tmp_path / "x.duckdb"), DEFAULTS)
    store.close()
    with pytest.raises(GnomonError):
        store.ask(["SELECT 1"], 5.0)


def test_a_question_with_the_words_of_damage_marks_nothing(tmp_path):
    store = DuckDBStore(str(tmp_path / "x.duckdb"), DEFAULTS)
    with pytest.raises(GnomonError):
        store.ask(["SELECT CAST('Corrupt checksum' AS INTEGER)"], 5.0)
    store.close()
    DuckDBStore(str(tmp_path / "x.duckdb"), DEFAULTS).close()
