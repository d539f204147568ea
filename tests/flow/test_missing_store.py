"""A wrong name of a store on a server or in a folder: no command that reads makes one there and calls it sound."""

from __future__ import annotations

import subprocess
import sys

import chdb
import pytest

import embedded
import gnomon
from gnomon.cli import main
from gnomon.errors import InvalidValue


def made_by(kind, request):
    """A URL at which nobody has made a store, and what tells whether anything is there."""
    if kind == "postgres":
        server = request.getfixturevalue("postgres")
        url = server.url()
        schema = url.rpartition("=")[2]

        def asked():
            with server.connect() as con:
                return con.execute("SELECT count(*) FROM pg_namespace WHERE nspname = %s", [schema]).fetchone()[0]

        return url, asked
    if kind == "clickhouse":
        url = request.getfixturevalue("clickhouse").url()
        name = url.rpartition("/")[2]
    else:
        url = embedded.url()
        name = url.rpartition("=")[2]

    def databases():
        with chdb.connect(embedded.folder()) as con:
            return con.query(f"SELECT count() FROM system.databases WHERE name = '{name}'").bytes() != b"0\n"

    return url, databases


KINDS = ["postgres", "chdb", "clickhouse"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GNOMON_DATA_DIR", str(tmp_path / "data"))
    return tmp_path


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_store_is_told_and_not_made(kind, request, place, capsys):
    url, there = made_by(kind, request)
    reading = (["doctor", "--store", url], ["query", "--store", url], ["prune", "--store", url],
               ["copy", url, "z.duckdb"])  # fmt: skip
    for words in reading:
        code, said = main(words), capsys.readouterr()
        assert (code, said.out) == (2, "") and "no-store" in said.err and "--store" in said.err, words
    assert not there() and not list(place.iterdir())
    with gnomon.open(url, scheduler=False) as engine:
        engine.track("a")
        engine.flush()
    assert there() and main(["query", "--store", url]) == 0
    capsys.readouterr()


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_destination_is_not_made_to_compare_with(kind, request, place):
    url, there = made_by(kind, request)
    with gnomon.open("a.duckdb", scheduler=False) as engine:
        with pytest.raises(InvalidValue) as refused:
            engine.copy_to(url, verify_only=True)
        assert refused.value.code == "no-store" and not there()
        assert engine.copy_to(url).same and engine.copy_to(url, verify_only=True).same


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_is_not_copied_onto_itself(kind, request, place, capsys):
    url, _ = made_by(kind, request)
    with gnomon.open(url, scheduler=False):
        pass
    assert main(["copy", url, url]) == 2
    assert "destination-used" in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_not_made(place, capsys):
    assert main(["doctor", "--store", f"chdb://{place}/nothing"]) == 2
    assert "no-store" in capsys.readouterr().err and not list(place.iterdir())


@pytest.mark.parametrize("scheme", ["postgresql", "clickhouse"])
def test_what_cannot_be_reached_says_so_in_our_words(scheme, place):
    """Whether there is a store nobody knows, so that the command tells what it would have told; and no driver speaks
    before it, which only a process without logging of its own shows."""
    run = "import sys; from gnomon.cli import main; sys.exit(main(sys.argv[1:]))"
    words = [sys.executable, "-c", run, "query", "--store", f"{scheme}://127.0.0.1:9/x"]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2 and not ended.stdout
    told = ended.stderr.splitlines()
    assert told[-1].startswith("gnomon: the database cannot be reached (store-unavailable)")
    assert all("the database cannot be reached (store-unavailable)" in line for line in told)


@pytest.mark.slow
def test_a_missing_store_of_a_cluster_is_told(cluster, place, capsys):
    url = cluster.url()
    assert main(["doctor", "--store", url]) == 2 and "no-store" in capsys.readouterr().err
    with gnomon.open(url, scheduler=False):
        pass
    assert main(["query", "--store", url]) == 0 and main(["copy", url, url]) == 2
    assert "destination-used" in capsys.readouterr().err
