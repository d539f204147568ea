"""`gnomon migrate`: a store is made or brought up to date, and nothing else happens."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import resources

import duckdb
import pytest

import gnomon
from gnomon.cli import main, migrating
from gnomon.errors import PASSING, StoreUnavailable
from gnomon.store.duckdb.opening import SCHEMA


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("GNOMON_")] + ["DATABASE_URL", "LOG_LEVEL"]:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def schema_of(path) -> int:
    with duckdb.connect(str(path), read_only=True) as con:
        return int(con.execute("SELECT value FROM state WHERE key = 'schema'").fetchone()[0])


def made_at(path, schema: int) -> None:
    """A file as the version that knew `schema` left it."""
    with duckdb.connect(str(path)) as con:
        for step in range(1, schema + 1):
            text = resources.files("gnomon.store.migrations").joinpath(f"duckdb_{step:04}.sql").read_text("utf-8")
            con.execute(text)
        con.execute("DELETE FROM state WHERE key = 'schema'")
        con.execute("INSERT INTO state VALUES ('schema', ?)", [str(schema)])


@pytest.mark.parametrize("before", [None, *range(1, SCHEMA + 1)])
def test_a_file_is_made_or_brought_up_to_date(place, capsys, before):
    if before:
        made_at(place / "s.duckdb", before)
    assert main(["migrate", "--store", "s.duckdb"]) == 0
    assert capsys.readouterr().out == f"s.duckdb has the schema of gnomon {gnomon.__version__}\n"
    assert schema_of(place / "s.duckdb") == SCHEMA


def test_a_file_of_a_newer_version_is_refused_and_left_alone(place, capsys):
    made_at(place / "s.duckdb", SCHEMA)
    with duckdb.connect(str(place / "s.duckdb")) as con:
        con.execute(f"UPDATE state SET value = '{SCHEMA + 1}' WHERE key = 'schema'")
    before = (place / "s.duckdb").read_bytes()
    assert main(["migrate", "--store", "s.duckdb"]) == 2
    assert "newer-schema" in capsys.readouterr().err
    assert (place / "s.duckdb").read_bytes() == before


def test_a_file_in_use_is_refused(place):
    with gnomon.open("s.duckdb"):
        run = "import sys; from gnomon.cli import main; sys.exit(main(['migrate', '--store', 's.duckdb']))"
        done = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True)
    assert done.returncode == 2 and "store-busy" in done.stderr


@pytest.mark.parametrize("words", [["--store", ":memory:"], ["--wait", "-1"], ["--wait", "nan"], ["--wait", "1e9"]])
def test_what_cannot_be_meant_is_refused(place, capsys, words):
    assert main(["migrate", *words]) == 2
    assert "bad-argument" in capsys.readouterr().err and not list(place.iterdir())


def test_a_database_gets_its_tables_and_this_host_no_files(place, postgres, capsys):
    url = postgres.url("migrated")
    assert main(["migrate", "--store", url]) == 0 == main(["migrate", "--store", url])
    with postgres.connect() as con:
        assert con.execute("SELECT count(*) FROM migrated.events").fetchone() == (0,)
        assert con.execute("SELECT count(*) FROM migrated.state WHERE key LIKE 'journal:%'").fetchone() == (0,)
    assert not list(place.iterdir())
    assert "migrated" in capsys.readouterr().out


@pytest.mark.parametrize("code", sorted(PASSING))
def test_a_database_that_comes_late_is_waited_for(postgres, monkeypatch, code):
    tries, real = [], migrating.open_store

    def late(url, settings):
        tries.append(url)
        if len(tries) < 3:
            raise StoreUnavailable("the database cannot be used yet", code=code)
        return real(url, settings)

    monkeypatch.setattr(migrating, "open_store", late)
    monkeypatch.setattr(migrating, "PAUSE_SECONDS", 0.01)
    assert main(["migrate", "--store", postgres.url(), "--wait", "60"]) == 0
    assert len(tries) == 3


def test_a_database_that_does_not_come_is_told_without_its_password(capsys, monkeypatch):
    monkeypatch.setattr(migrating, "PAUSE_SECONDS", 0.01)
    assert main(["migrate", "--store", "postgresql://u:hidden@127.0.0.1:1/x", "--wait", "0.1"]) == 2
    told = capsys.readouterr()
    assert "store-unavailable" in told.err and "hidden" not in told.err + told.out
