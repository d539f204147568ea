"""What only the PostgreSQL store has: schema, months, lock, connections, compaction, and its errors in our words."""

from __future__ import annotations

import hashlib
import re
import shutil
import threading
import time
from pathlib import Path

import psycopg
import pytest

from gnomon.config import Settings, shown
from gnomon.errors import GnomonError, InvalidValue, QueryTimeout, StoreUnavailable
from gnomon.event import ROW, Batch
from gnomon.store import open_store, served_name
from gnomon.store import postgres as module
from gnomon.store.postgres import PostgresStore, compacting, describing, months, opening, writing
from gnomon.store.postgres import __name__ as package
from gnomon.store.postgres.address import address_of
from gnomon.store.postgres.faults import of_connecting, translated

DEFAULTS = Settings(database_connections=3)
NOW = 1_768_478_400_000_000
DAY = 86_400_000_000


def row(id_, ts=NOW, **more):
    values = {"id": id_, "ts": ts, "received_at": NOW, "type": "t", "weight": 1.0, **more}
    return tuple(values.get(name) for name in ROW)


def batch(*rows, **more):
    return Batch("p", rows=list(rows), checked_ids=True, **more)


@pytest.fixture
def url(postgres):
    return postgres.url()


@pytest.fixture
def schema(url):
    return url.rpartition("schema=")[2]


@pytest.fixture
def store(url):
    opened = PostgresStore(url, DEFAULTS)
    yield opened
    opened.close()


# -- the address ------------------------------------------------------------------------------------------------------


def test_the_url_is_never_shown_with_its_password():
    for url in (
        "postgresql://u:s3cret@h/db",
        "postgres://u:s3/c@ret@h/db",
        "postgresql://h/db?user=u&password=s3cret&x=1",
    ):
        assert "s3" not in shown(url) and "h/db" in shown(url)
    assert shown("a/b.duckdb") == "a/b.duckdb" and shown(":memory:") == ":memory:"
    settings = Settings(database_url="postgresql://u:s3cret@h/db")
    assert "s3cret" not in repr(settings)
    assert "s3cret" not in repr(address_of(settings.database_url))


def test_options_of_the_url_reach_libpq_as_they_are():
    found = address_of("postgresql://u@h/db?options=-c%20default_tablespace%3Da%2Bb&schema=s").parameters
    assert found["options"] == "-c default_tablespace=a+b" and "schema" not in found


@pytest.mark.parametrize("scheme", ["postgres", "postgresql"])
def test_both_names_of_the_scheme_and_addresses_without_a_host(scheme):
    found = address_of(f"{scheme}://u:p@h/db?schema=s")
    assert (found.parameters["host"], found.parameters["dbname"], found.schema) == ("h", "db", "s")
    for rest in ("/db?host=/run/postgresql&schema=s", "u@/db?host=/run/postgresql"):
        assert address_of(f"{scheme}://{rest}").parameters["host"] == "/run/postgresql"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p%w@h/db",
        "postgresql://h/db?nonsense=1",
        "postgresql://h/db?schema=pg_x",
        "postgresql://h/db?schema=A",
    ],
)
def test_a_url_that_cannot_be_used(url):
    with pytest.raises(InvalidValue) as caught:
        address_of(url)
    assert caught.value.code == "bad-store" and "p%w" not in str(caught.value)


def test_the_files_beside_a_server_are_named_after_database_and_schema():
    assert served_name("postgresql://u:p@h/shop?schema=a_1") == "shop.a_1"
    assert served_name("postgresql://u:p@other/sh%2Fop") == "sh_op.gnomon"


# -- opening ----------------------------------------------------------------------------------------------------------


def test_a_schema_that_is_not_ours_is_left_alone(postgres, url, schema):
    with postgres.connect() as con:
        con.execute(f"CREATE SCHEMA {schema}; CREATE TABLE {schema}.events (x int)")
    with pytest.raises(InvalidValue) as caught:
        PostgresStore(url, DEFAULTS)
    assert caught.value.code == "foreign-file"


@pytest.mark.parametrize("word", ["user", "default", "order", "left", "system_user", "between"])
def test_a_schema_may_be_called_by_a_word_of_sql(postgres, word):
    store = PostgresStore(postgres.url(word), DEFAULTS)
    store.write([(1, batch(row("a"), samples=[(NOW, NOW, "m", "gauge", 1.0, None, None)]))], "j")
    store.change(["DELETE FROM samples", "SELECT sum(x) FROM (VALUES (1e308::float8), (1e308)) AS huge (x)"])
    store.checkpoint(compact=True)
    store.settle(done=True, compact=True)
    assert store.ask(["SELECT count(*) FROM events"], 5.0)[0].rows == [(1,)]
    assert store.describe()["events"] == 1
    store.close()
    again = PostgresStore(postgres.url(word), DEFAULTS)
    assert again.position("j") == 1
    again.close()


def test_older_programs_go_on_with_a_newer_schema_unless_it_says_otherwise(postgres, url, schema, store):
    store.write([(1, batch(row("a")))], "j")
    with postgres.connect() as con:
        con.execute(f"UPDATE {schema}.state SET value = '99' WHERE key = 'schema'")
        again = PostgresStore(url, DEFAULTS)
        again.write([(2, batch(row("b")))], "j")
        again.close()
        con.execute(f"UPDATE {schema}.state SET value = '99' WHERE key = 'schema_least'")
    with pytest.raises(InvalidValue) as caught:
        PostgresStore(url, DEFAULTS)
    assert caught.value.code == "newer-schema" and "Upgrade" in caught.value.remedy
    for write in (lambda: store.write([(3, batch(row("c")))], "j"), lambda: store.change(["SELECT 1"])):
        with pytest.raises(StoreUnavailable) as stopped:  # one that was open meanwhile
            write()
        assert stopped.value.code == "newer-schema"
    assert store.position("j") == 2


def test_many_processes_may_open_a_new_store_at_once(url):
    opened, errors = [], []

    def one():
        try:
            opened.append(PostgresStore(url, DEFAULTS))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and len({each.store_id for each in opened}) == 1
    for each in opened:
        each.close()


@pytest.mark.parametrize("step", range(1, opening.KNOWN + 1))
def test_every_earlier_schema_is_brought_up_to_date_with_its_data(postgres, url, schema, monkeypatch, step):
    monkeypatch.setattr(opening, "KNOWN", step)
    old = PostgresStore(url, DEFAULTS)
    old.write([(1, batch(row("a"), row("b", weight=2.0)))], "j")
    old.close()
    monkeypatch.undo()

    def sample_of_schema_1():
        with postgres.connect() as con:
            con.execute(
                f"INSERT INTO {schema}.samples (project, version, ts, received_at, name, kind, value, labels) "
                "VALUES ('p', 2, now(), now(), 'm', 'gauge', 1, NULL)"
            )

    sample_of_schema_1()
    new = PostgresStore(url, DEFAULTS)
    assert new.write([(2, batch(row("a"), row("c")))], "j") == {2: {"duplicate": 1}}
    sample_of_schema_1()  # by a program that was not upgraded yet
    found = new.describe()
    assert (found["events"], found["samples"], found["schema"]) == (3, 2, opening.KNOWN)
    new.close()


def next_schema(folder, monkeypatch, least=1):
    """A version of the program that knows one revision more."""
    shutil.copytree(str(opening.REVISIONS), folder, dirs_exist_ok=True)
    (folder / "versions" / "revision_next.py").write_text(
        f"from alembic import op\nrevision, down_revision = '{opening.KNOWN + 1:04}', '{opening.KNOWN:04}'\n"
        "def upgrade():\n"
        "    op.execute(\"ALTER TABLE samples ADD COLUMN unit text DEFAULT 'ms'\")\n"
        "    op.execute(\"ALTER TABLE events ADD COLUMN extra text DEFAULT 'none'\")\n"
        f"    op.execute(\"UPDATE state SET value = '{opening.KNOWN + 1}' WHERE key = 'schema'\")\n"
        f"    op.execute(\"UPDATE state SET value = '{least}' WHERE key = 'schema_least'\")\n"
    )
    monkeypatch.setattr(opening, "REVISIONS", folder)
    monkeypatch.setattr(opening, "KNOWN", opening.KNOWN + 1)


def test_a_newer_program_upgrades_with_data_while_older_ones_go_on(url, store, tmp_path, monkeypatch):
    store.write([(1, batch(row("a"), samples=[(NOW, NOW, "m", "gauge", 1.0, None)]))], "j")
    with monkeypatch.context() as newer:
        next_schema(tmp_path, newer)
        upgraded = PostgresStore(url, DEFAULTS)
        assert upgraded.ask(["SELECT unit, value FROM samples"], 5.0)[0].rows == [("ms", 1.0)]
        assert upgraded.write([(1, batch(row("a"), row("b")))], "new") == {1: {"duplicate": 1}}
    assert store.write([(2, batch(row("b"), row("c", NOW + 40 * DAY)))], "j") == {2: {"duplicate": 1}}
    again = PostgresStore(url, DEFAULTS)  # an older program that starts now
    assert again.ask(["SELECT count(*), min(extra), max(extra) FROM events"], 5.0)[0].rows == [(3, "none", "none")]
    assert again.write([(3, batch(row("c", NOW + 40 * DAY), row("d")))], "j") == {3: {"duplicate": 1}}
    for each in (again, upgraded):
        each.close()


def test_an_upgrade_that_fails_leaves_everything_as_it_was(url, store, tmp_path, monkeypatch):
    store.write([(1, batch(row("a")))], "j")
    with monkeypatch.context() as newer:
        next_schema(tmp_path, newer)
        file = tmp_path / "versions" / "revision_next.py"
        file.write_text(file.read_text() + "    op.execute('SELECT 1 / 0')\n")
        with pytest.raises(GnomonError) as caught:
            PostgresStore(url, DEFAULTS)
        assert caught.value.code == "store-migration"
    assert store.ask(["SELECT value FROM state WHERE key = 'schema'"], 5.0)[0].rows == [(f"{opening.KNOWN}",)]
    columns = "SELECT count(*) FROM information_schema.columns WHERE column_name = 'extra'"
    assert store.ask([f"{columns} AND table_schema = current_schema()"], 5.0)[0].rows == [(0,)]


@pytest.mark.parametrize("kept", ["'0'", "'" + "1" * 64 + "'", "NULL"], ids=["older", "a digest", "none"])
def test_words_that_changed_are_made_again(postgres, url, schema, store, kept):
    with postgres.connect() as con:
        con.execute(f"UPDATE {schema}.state SET value = {kept} WHERE key = 'words' AND {kept} IS NOT NULL")
        con.execute(f"DELETE FROM {schema}.state WHERE key = 'words' AND {kept} IS NULL")
        con.execute(f"DROP FUNCTION {schema}.epoch_us(timestamp) CASCADE")
    PostgresStore(url, DEFAULTS).close()
    assert store.ask(["SELECT epoch_us(make_timestamp(5)), value FROM state WHERE key = 'words'"], 5.0)[0].rows == [
        (5, str(opening.WORDS))]  # fmt: skip


def test_words_of_a_newer_program_stay(postgres, url, schema, store):
    with postgres.connect() as con:
        con.execute(f"UPDATE {schema}.state SET value = '{opening.WORDS + 1}' WHERE key = 'words'")
        con.execute(f"CREATE OR REPLACE FUNCTION {schema}.month(timestamp) RETURNS bigint LANGUAGE sql RETURN 13")
        con.execute(f"CREATE ROLE reader_{schema} LOGIN; GRANT USAGE ON SCHEMA {schema} TO reader_{schema}")
        con.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO reader_{schema}")
    for each in (url, re.sub("//postgres:?@", f"//reader_{schema}:@", url)):
        opened = PostgresStore(each, DEFAULTS)
        assert opened.ask(["SELECT month(make_timestamp(0))"], 5.0)[0].rows == [(13,)]
        opened.close()


def test_whoever_changes_the_words_gives_them_the_next_number():
    text = Path(opening.__file__).parents[1].joinpath("migrations", "postgres_words.sql").read_bytes()
    assert {hashlib.sha256(text).hexdigest()[:16]: opening.WORDS} == {"790f773479ce395e": 1}


def test_what_the_server_must_be(url, monkeypatch):
    monkeypatch.setattr(opening, "OLDEST_SERVER", 990_000)
    with pytest.raises(StoreUnavailable) as caught:
        PostgresStore(url, DEFAULTS)
    assert caught.value.code == "store-too-old"


def test_a_user_without_the_rights(postgres, url, schema):
    with postgres.connect() as con:
        con.execute(f"CREATE ROLE weak_{schema} LOGIN")
    weak = re.sub("//postgres:?@", f"//weak_{schema}:@", url)
    with pytest.raises(StoreUnavailable) as caught:
        PostgresStore(weak, DEFAULTS)
    assert caught.value.code == "store-rights" and f'CREATE SCHEMA "{schema}"' in caught.value.remedy
    PostgresStore(url, DEFAULTS).close()
    with pytest.raises(StoreUnavailable) as caught:
        PostgresStore(weak, DEFAULTS)
    assert caught.value.code == "store-rights"
    with postgres.connect() as con:
        con.execute(f"GRANT USAGE ON SCHEMA {schema} TO weak_{schema}")
        con.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO weak_{schema}")
    reading = PostgresStore(weak, DEFAULTS)
    assert reading.ask(["SELECT count(*) FROM events"], 5.0)[0].rows == [(0,)]
    with pytest.raises(StoreUnavailable) as caught:
        reading.write([(1, batch(row("a")))], "j")
    assert caught.value.code == "store-rights"
    reading.close()


def test_a_schema_that_the_owner_of_the_database_made(postgres, url, schema):
    """As docs/postgresql.md has it for a database of somebody else's."""
    with postgres.connect() as con:
        con.execute(f"CREATE ROLE guest_{schema} LOGIN; CREATE SCHEMA {schema} AUTHORIZATION guest_{schema}")
        may = "SELECT has_database_privilege(%s, current_database(), 'CREATE')"
        assert con.execute(may, [f"guest_{schema}"]).fetchone() == (False,)
    opened = PostgresStore(re.sub("//postgres:?@", f"//guest_{schema}:@", url), DEFAULTS)
    opened.write([(1, batch(row("a"), row("b", user_id="u")))], "j")
    opened.change(["DELETE FROM events WHERE user_id = 'u'"])
    opened.checkpoint(compact=True)
    assert opened.ask(["SELECT count(*) FROM events"], 5.0)[0].rows == [(1,)]
    opened.close()


def test_no_such_database_or_server(url, tmp_path):
    before, _, after = url.partition("/test_")
    for wrong, code in ((f"{before}/none_{after}", "store-login"), (f"postgresql://u:s3cret@/x?host={tmp_path}", None)):
        with pytest.raises(StoreUnavailable) as caught:
            PostgresStore(wrong, DEFAULTS)
        assert caught.value.code == (code or "store-unavailable") and caught.value.remedy
        assert "s3cret" not in str(caught.value) and caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('connection failed: FATAL:  password authentication failed for user "u"', "store-login"),
        ("fe_sendauth: no password supplied", "store-login"),
        ('FATAL:  no pg_hba.conf entry for host "1.2.3.4", user "u"', "store-login"),
        ("connection refused", "store-unavailable"),
        ("FATAL:  the database system is starting up", "store-unavailable"),
        ("FATAL:  sorry, too many clients already", "store-unavailable"),
        ("server does not support SSL, but SSL was required", "store-login"),
        ("FATAL:  SSL connection is required. Please specify SSL options and retry.", "store-login"),
        ("SSL error: certificate verify failed", "store-login"),
        ("SSL error: tlsv1 alert unknown ca", "store-login"),
        ("SSL error: unexpected eof while reading", "store-unavailable"),
        ("SSL SYSCALL error: EOF detected", "store-unavailable"),
        ("SSL connection has been closed unexpectedly", "store-unavailable"),
    ],
)
def test_why_no_connection_comes_about(text, code):
    found = of_connecting(psycopg.OperationalError(text))
    assert found.code == code and '"u"' not in str(found)


@pytest.mark.parametrize(
    ("error", "reading", "writing"),
    [
        (psycopg.errors.DiskFull("x"), "store-unavailable", "store-unavailable"),
        (psycopg.errors.UndefinedTable("secret"), "store-refused", "store-unavailable"),
        (psycopg.errors.NotNullViolation("secret"), "store-refused", "store-refused"),
        (psycopg.errors.InsufficientPrivilege("secret"), "store-rights", "store-rights"),
        (psycopg.errors.ReadOnlySqlTransaction("x"), "store-read-only", "store-read-only"),
        (psycopg.errors.LockNotAvailable("x"), "store-unavailable", "store-unavailable"),
        (psycopg.errors.InvalidRegularExpression("secret"), "bad-pattern", "bad-pattern"),
        (psycopg.errors.AdminShutdown("x"), "store-unavailable", "store-unavailable"),
        (psycopg.errors.NumericValueOutOfRange("secret"), "store-refused", "store-refused"),
        (psycopg.errors.DataCorrupted("secret"), "store-damaged", "store-damaged"),
        (psycopg.errors.IndexCorrupted("secret"), "store-damaged", "store-damaged"),
    ],
)
def test_errors_in_our_words(error, reading, writing):
    assert translated(error).code == reading
    assert translated(error, writing=True).code == writing
    assert "secret" not in str(translated(error))


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
        monkeypatch.setattr(writing.Writing, "write", honest)
        other.write([(1, batch(row("b")))], "other")
        honest(self, work, version)

    monkeypatch.setattr(opening, "IDLE_MS", 200)
    monkeypatch.setattr(writing.Writing, "write", stopped)
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
    with other.alone():
        pass
    other.close()


def held(postgres, schema, table, seconds):
    """Keep a table from being analyzed or written anew for a while."""
    con = postgres.connect()
    con.execute(f"BEGIN; LOCK TABLE {schema}.{table} IN SHARE UPDATE EXCLUSIVE MODE")
    threading.Timer(seconds, con.close).start()


@pytest.mark.parametrize("honest", [True, False], ids=["unbound", "broken"])
@pytest.mark.parametrize("use", ["turn", "alone", "reading", "change", "analyze", "compact"])
def test_a_bound_of_whole_transactions_ends_nothing_of_ours(postgres, url, schema, monkeypatch, use, honest):
    if not honest:
        for place in (opening, module):
            monkeypatch.setattr(place, "NO_BOUND", "SELECT 1")
        monkeypatch.setattr(compacting, "_BOUNDS", compacting._BOUNDS.replace(", 'transaction_timeout'", ""))
    with postgres.connect() as con:
        if con.info.server_version < 170_000:
            pytest.skip("the server knows no transaction_timeout")
    PostgresStore(url, DEFAULTS).close()
    store = PostgresStore(f"{url}&options=-c%20transaction_timeout%3D500ms", DEFAULTS)
    store.write([(1, batch(row("a")))], "j")

    def run():
        if use == "turn":
            with store.turn("work", DAY) as turn:
                time.sleep(0.7)
                turn.done()
        elif use == "alone":
            with store.alone():
                time.sleep(0.7)
                store.change(["SELECT 1"])
        elif use == "reading":
            with store.reading() as reading:
                time.sleep(0.7)
                assert list(reading.rows("SELECT 1")) == [[(1,)]]
        elif use == "change":
            store.change(["SELECT pg_sleep(0.7)"])
        else:
            store.change(["DELETE FROM quarantine", "INSERT INTO people VALUES ('p', 1, 'a')", "DELETE FROM people"])
            held(postgres, schema, "people", 0.7)
            store.settle(done=use == "analyze", compact=use == "compact")

    if honest:
        run()
        assert store.ask(["SHOW transaction_timeout"], 5.0)[0].rows == [("0",)]
    else:
        with pytest.raises(StoreUnavailable):
            run()
    store.close()


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
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'gnomon' AND pid <> %s",
            [con.info.backend_pid],
        )
    assert store.ask(["SELECT 1"], 5.0)[0].rows == [(1,)]


def test_a_server_that_does_not_answer_at_all_is_hung_up_on(store, monkeypatch):
    monkeypatch.setattr(f"{package}.MERCY_SECONDS", 0.1)
    monkeypatch.setattr(f"{package}.begin", lambda address, **_: "BEGIN READ ONLY")  # no time-out on the server
    started = time.monotonic()
    with pytest.raises(QueryTimeout):
        store.ask(["SELECT pg_sleep(3)"], 0.1)
    assert time.monotonic() - started < 2.9


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
