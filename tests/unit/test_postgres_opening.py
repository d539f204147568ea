"""How a PostgreSQL store is reached, made, upgraded and refused: addresses, schemas, words, rights, and errors."""

from __future__ import annotations

import hashlib
import re
import shutil
import threading
from pathlib import Path

import psycopg
import pytest
from on_postgres import DAY, DEFAULTS, NOW, batch, row

from gnomon.config import Settings, shown
from gnomon.errors import GnomonError, InvalidValue, StoreUnavailable
from gnomon.store import served_name
from gnomon.store.postgres import PostgresStore, opening
from gnomon.store.postgres.address import address_of
from gnomon.store.postgres.faults import of_connecting, translated

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
