"""A backup of any store goes into a new database with one command: it holds the same, goes on where it was cut short,
and nobody can open it before."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from copied_life import PROJECTS, all_told, clock_now, live, opened

import embedded
import gnomon
from gnomon.cli import main
from gnomon.errors import GnomonError, InvalidValue
from gnomon.store import carrying
from gnomon.store.postgres import PostgresStore
from gnomon.upkeep import bringing, copying

pytestmark = pytest.mark.timeout(240)


class Lived:
    """A lived store, what it told, and its backup."""

    def __init__(self, folder):
        self.clock, self.file = clock_now(), folder / "lived.duckdb"
        live(str(self.file), self.clock, n=30)
        with opened(self.file, self.clock, heartbeat_seconds=0) as engine:
            self.made = engine.trigger_backup(folder / "kept")
        self.told, self.rows = all_told(self.file, self.clock)  # with the place of the backup, which it knows as well


@pytest.fixture(scope="module")
def lived(tmp_path_factory):
    return Lived(tmp_path_factory.mktemp("lived"))


def url_of(kind, request):
    return embedded.url() if kind == "chdb" else request.getfixturevalue(kind).url()


def restore(path, url):
    """What the command says with its exit code; files of a store on a server lie in GNOMON_DATA_DIR."""
    return main(["restore", str(path), "--store", url, "--project", PROJECTS[0]])


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("GNOMON_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("GNOMON_THREADS", "1")
    return tmp_path


def left(folder):
    return [path.name for path in folder.rglob("*scratch*")]


def is_open(url, data):
    """The code with which opening a store is refused, or how many events it has."""
    try:
        with gnomon.open(url, data_dir=str(data), enabled=False) as engine:
            return engine.query(["events"], date_range="all")[0]["events"]
    except GnomonError as error:
        return error.code


@pytest.mark.parametrize("kind", ["postgres", "chdb", pytest.param("clickhouse", marks=pytest.mark.slow)])
def test_one_command_brings_everything_into_a_new_database(lived, tmp_path, request, kind, capsys):
    url = url_of(kind, request)
    assert restore(lived.made.path, url) == 0
    said = capsys.readouterr().out
    assert f"{lived.made.counts['events']:,} events" in said and "into a new store" in said
    assert all_told(url, lived.clock, tmp_path)[0] == lived.told
    with opened(url, lived.clock, data_dir=tmp_path, enabled=False) as engine:
        engine.copy_to(tmp_path / "back.duckdb")  # so that rows are told by the same database
    found, rows = all_told(tmp_path / "back.duckdb", lived.clock)
    assert found == lived.told
    account = [row for row in rows["books"] if "'restore'" in row]
    assert account and {**rows, "books": [row for row in rows["books"] if row not in account]} == lived.rows
    with opened(url, lived.clock, data_dir=tmp_path, heartbeat_seconds=0) as engine:
        brought = [int(row.strip("[]").split()[-1]) for row in account if "'stored'" in row]
        assert sum(brought) == len(rows["events"]) > engine.books("restore").stored > 0
        assert engine.verify_audit() and engine.books().closes()
        entries = [(entry.operation, entry.outcome) for entry in engine.get_access_log(["2026-01-01", "2100-01-01"])]
        assert ("restore_backup", "ok") in entries and ("forget", "ok") in entries  # with the audit of the backup
        engine.track("after", user_id="user 1")
        engine.flush()
        assert engine.books().closes()
    assert not left(tmp_path)
    refused = restore(lived.made.path, url)  # used since then
    assert refused == 2 and "was used since" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["postgres", "chdb"])
def test_a_database_that_holds_anything_is_left_as_it_is(lived, tmp_path, request, kind, capsys):
    url = url_of(kind, request)
    with gnomon.open(url, data_dir=str(tmp_path)) as engine:
        engine.track("own")
    assert restore(lived.made.path, url) == 2
    assert "holds events or other content" in (said := capsys.readouterr().err) and "new file, database" in said
    assert is_open(url, tmp_path) == 1 and not left(tmp_path)
    with gnomon.open(url, data_dir=str(tmp_path), enabled=False) as engine:
        with pytest.raises(InvalidValue) as refused:
            engine.restore_backup(lived.made.path)
        assert refused.value.code == "bad-store" and "gnomon restore ARCHIVE --store URL" in refused.value.remedy


def test_an_archive_that_is_damaged_or_missing_leaves_the_database_empty(lived, postgres, tmp_path, capsys):
    url, content = postgres.url(), bytearray(Path(lived.made.path).read_bytes())
    content[len(content) // 2] ^= 4
    (tmp_path / "bad.tar.zst").write_bytes(content)
    assert restore(tmp_path / "bad.tar.zst", url) == 2 and "archive" in capsys.readouterr().err
    assert restore(tmp_path / "missing.tar.zst", url) == 2 and "no such backup" in capsys.readouterr().err
    assert is_open(url, tmp_path) == 0 and not left(tmp_path)
    assert restore(lived.made.path, url) == 0  # it was opened, and holds nothing


def test_an_archive_at_a_target_that_is_encrypted(lived, postgres, tmp_path, monkeypatch):
    pyrage = pytest.importorskip("pyrage")
    (tmp_path / "key").write_text(str(pyrage.x25519.Identity.generate()))
    monkeypatch.setenv("GNOMON_BACKUP_KEY_FILE", str(tmp_path / "key"))
    with gnomon.open(lived.file, enabled=False) as engine:
        made = engine.trigger_backup(f"file://{tmp_path}/kept")
    url = postgres.url()
    assert restore(f"file://{made.path}", url) == 0 and made.path.endswith(".age")
    assert all_told(url, lived.clock, tmp_path)[0] == all_told(lived.file, lived.clock)[0]


def test_what_waited_for_a_database_of_that_name_comes_on_top(postgres, tmp_path, monkeypatch):
    url, clock = postgres.url(), clock_now()
    for name in "ba":
        with opened(url, clock, data_dir=tmp_path / name) as engine:
            for n in range(5):
                engine.track("t", id=f"{n}")
            engine.flush()
            made = engine.trigger_backup()
    with postgres.connect() as con:
        con.execute(f"DROP SCHEMA {url.rpartition('schema=')[2]} CASCADE")
    away = re.sub(r"host=[^&]*", "host=/nowhere", url)
    with opened(away, clock, data_dir=tmp_path / "a") as engine:
        for n in range(3, 8):
            engine.track("t", id=f"{n}")
    monkeypatch.setenv("GNOMON_DATA_DIR", str(tmp_path / "a"))
    assert restore(made.path, url) == 0
    with opened(url, clock, data_dir=tmp_path / "a") as engine:
        engine.flush()
        assert engine.query(["events"])[0]["events"] == 8 and engine.books().closes()
        assert engine.books().duplicate >= 2
    with pytest.raises(InvalidValue) as refused:
        opened(url, clock, data_dir=tmp_path / "b")
    assert refused.value.code == "other-store"


# -- cut short ----------------------------------------------------------------------------------------------------


class Cut(Exception):
    """Stands for the end of a process."""


def cut_after(monkeypatch, n):
    """The n-th fill of a destination is its last one."""
    honest, seen = PostgresStore.fill, []

    def fill(self, *args):
        seen.append(1)
        if len(seen) > n:
            raise Cut
        honest(self, *args)

    monkeypatch.setattr(PostgresStore, "fill", fill)


def cut_and_again(lived, url, data, monkeypatch, capsys):
    """Restore until it is cut, look at what is there, restore on; returns what that said."""
    with monkeypatch.context() as patched:
        cut_after(patched, 8)
        with pytest.raises(Cut):
            restore(lived.made.path, url)
    assert is_open(url, data) == "unfinished-copy"
    capsys.readouterr()
    code, said = restore(lived.made.path, url), capsys.readouterr()
    return code, said.out + said.err


def test_cut_short_it_cannot_be_opened_and_goes_on(lived, postgres, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(carrying, "SLICE_ROWS", 20)
    url = postgres.url()
    code, said = cut_and_again(lived, url, tmp_path, monkeypatch, capsys)
    assert code == 0 and "went on with the restore that was begun" in said
    assert all_told(url, lived.clock, tmp_path)[0] == lived.told and not left(tmp_path)


def test_another_backup_does_not_go_on_with_it(lived, postgres, tmp_path, monkeypatch, capsys):
    """As it would if what is begun were not known by the archive; and the broken variant, by a name of each run."""
    with gnomon.open(lived.file, enabled=False) as engine:
        engine.trigger_aggregation()
        other = engine.trigger_backup(tmp_path / "other")
    url = postgres.url()
    with monkeypatch.context() as patched:
        cut_after(patched, 8)
        with pytest.raises(Cut):
            restore(lived.made.path, url)
    assert restore(other.path, url) == 2 and "unfinished copy of another store" in capsys.readouterr().err
    names = iter("ab")
    monkeypatch.setattr(bringing, "Beside", lambda _, *rest: copying.Beside(next(names), *rest))
    code, said = cut_and_again(lived, postgres.url(), tmp_path, monkeypatch, capsys)
    assert code == 2 and "unfinished copy of another store" in said


@pytest.mark.parametrize("broken", ["a row is lost", "it may be opened"])
def test_a_restore_that_does_less_would_be_found(lived, postgres, tmp_path, monkeypatch, capsys, broken):
    url, honest = postgres.url(), PostgresStore.fill

    def fill(self, table, rows, first, state):
        parts = (lambda: (part[1:] for part in rows())) if table == "events" else rows
        honest(self, table, parts, first, state)

    if broken == "a row is lost":
        monkeypatch.setattr(PostgresStore, "fill", fill)
        assert restore(lived.made.path, url) == 2 and "differs from its source" in capsys.readouterr().err
        assert is_open(url, tmp_path) == "unfinished-copy"
    else:
        monkeypatch.setattr("gnomon.ingest.hold.check_finished", lambda _store: None)
        monkeypatch.setattr("gnomon.store.postgres.finished", lambda _note: True)
        with pytest.raises(AssertionError):
            cut_and_again(lived, url, tmp_path, monkeypatch, capsys)


PROGRAM = """
import os, sys
from gnomon.cli import main
from gnomon.store import carrying
from gnomon.upkeep import copying
carrying.SLICE_ROWS = copying.SETTLE_ROWS = 50
os.write(1, b"up\\n")
sys.exit(main(["restore", *sys.argv[1:3], sys.argv[3]]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["postgres", "chdb"])
def test_killed_at_any_moment_it_goes_on(lived, postgres, tmp_path, kind):
    url = postgres.url() if kind == "postgres" else f"chdb://{tmp_path}/clickhouse"
    chance, kills = random.Random(kind), 0
    while True:
        command = [sys.executable, "-c", PROGRAM, lived.made.path, "--store", url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
            assert child.stdout.readline() == "up\n"
            try:
                out, error = child.communicate(timeout=chance.uniform(0.5, 1.5) * (1 + kills))
            except subprocess.TimeoutExpired:
                child.kill()
                child.communicate()
                kills += 1
                assert kills < 60
                continue
        assert child.returncode == 0, error
        break
    assert kills and "events" in out and not left(tmp_path)
    back = tmp_path / "back.duckdb"
    copy = "import sys; from gnomon.cli import main; sys.exit(main(['copy', *sys.argv[1:]]))"
    subprocess.run([sys.executable, "-c", copy, url, str(back)], check=True)
    assert all_told(back, lived.clock)[0] == lived.told
