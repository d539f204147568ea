"""Promise 13 of stores that are no files: their rows are put into one, which counts once it was compared, packed,
unpacked and compared again; restored it gives every answer that the store gave."""

from __future__ import annotations

import subprocess
import sys

import pytest
from copied_life import PROJECTS, all_told, clock_now, live, opened, told

import embedded
from gnomon.errors import InvalidValue, StoreDamaged
from gnomon.store.duckdb import DuckDBStore

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def lived(tmp_path_factory):
    file, clock = tmp_path_factory.mktemp("lived") / "lived.duckdb", clock_now()
    live(str(file), clock, n=30)
    return file, clock, all_told(file, clock)


def url_of(kind, request):
    return embedded.url() if kind == "chdb" else request.getfixturevalue(kind).url()


def copied(source, url, clock, folder):
    """The URL of a store that holds the same as `source`."""
    with opened(source, clock, enabled=False) as engine:
        assert engine.copy_to(url, data_dir=str(folder)).same
    return url


def answers(place, clock, folder):
    found = []
    for project in PROJECTS:
        with opened(place, clock, project, folder, heartbeat_seconds=0) as engine:
            found.append(told(engine))
    return found


FURTHER = [pytest.param(kind, True, marks=pytest.mark.slow) for kind in ("chdb", "postgres", "clickhouse")]


@pytest.mark.parametrize(("kind", "further"), [("chdb", False), *FURTHER])
def test_a_backup_of_rows_gives_every_answer_in_a_file_and_in_a_new_database(lived, tmp_path, request, kind, further):
    file, clock, (wanted, *_) = lived
    place = copied(file, url_of(kind, request), clock, tmp_path / "there")
    with opened(place, clock, data_dir=tmp_path / "there", heartbeat_seconds=0) as engine:
        made = engine.trigger_backup(tmp_path / "kept")
        assert (
            made.verified
            and made.counts["events"]
            and [kept.path for kept in engine.backups(tmp_path / "kept")] == [made.path]
        )
        with pytest.raises(InvalidValue) as raised:
            engine.restore_backup(made.path)
        assert raised.value.code == "bad-store" and "gnomon restore" in raised.value.remedy
    restored = tmp_path / "restored.duckdb"
    with opened(restored, clock, heartbeat_seconds=0) as engine:
        assert engine.restore_backup(made.path).counts == made.counts
    known = answers(place, clock, tmp_path / "there")  # with the place of the backup, which it knows as well
    assert answers(restored, clock, None) == known and [told[:2] for told in known] == [told[:2] for told in wanted]
    if further:
        again = copied(restored, url_of(kind, request), clock, tmp_path / "again")
        assert answers(again, clock, tmp_path / "again") == known


@pytest.mark.slow
def test_a_row_that_is_lost_on_the_way_into_a_backup_is_found(lived, tmp_path, monkeypatch):
    file, clock, _ = lived
    place, honest = copied(file, embedded.url(), clock, tmp_path), DuckDBStore.fill
    monkeypatch.setattr(
        DuckDBStore, "fill",
        lambda self, table, rows, first, state: honest(
            self, table, (lambda: (part[1:] for part in rows())) if table == "events" else rows, first, state),
    )  # fmt: skip
    with opened(place, clock, heartbeat_seconds=0) as engine:
        with pytest.raises(StoreDamaged) as raised:
            engine.trigger_backup(tmp_path / "kept")
        assert raised.value.code == "backup-damaged" and "events" in raised.value.message
        assert not engine.backups(tmp_path / "kept")


def test_a_backup_holds_what_was_acknowledged_before_and_recording_goes_on(tmp_path):
    clock = clock_now()
    with opened(embedded.url(), clock) as engine:
        for n in range(50):
            engine.track("t", id=f"a{n}")
        steps = []

        def step(name):
            steps.append(name)
            engine.track("t", id=name)
            engine.flush()

        made = engine.trigger_backup(tmp_path / "kept", step)
        assert len(steps) == 4 and made.counts["events"] in (50, 51)
        assert engine.query(["events"])[0]["events"] == 54 and engine.books().closes()


@pytest.mark.slow
def test_who_does_not_own_the_files_of_a_host_makes_no_backup(postgres, tmp_path):
    clock, url = clock_now(), postgres.url()
    with opened(url, clock, data_dir=tmp_path):
        program = (
            "import sys, gnomon\nwith gnomon.open(sys.argv[1], data_dir=sys.argv[2]) as engine:\n"
            "    try: engine.trigger_backup()\n    except gnomon.errors.StoreBusy: print('busy')"
        )
        told = subprocess.run([sys.executable, "-c", program, url, str(tmp_path)], capture_output=True, text=True,
                              check=False)  # fmt: skip
        assert told.stdout == "busy\n", told.stderr
