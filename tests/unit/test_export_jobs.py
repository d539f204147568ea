"""Export jobs: their states, their owners, their end, what a restart, a full disk and a forgotten person do to them."""

from __future__ import annotations

import errno
import os
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

import gnomon
from gnomon.access import Principal
from gnomon.errors import EngineClosed, Forbidden, GnomonError, InvalidValue, StoreUnavailable, UnknownName
from gnomon.export import jobs, reading, running, text
from gnomon.testing import ManualClock

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)


@pytest.fixture
def clock():
    return ManualClock(NOW)


@pytest.fixture
def store(tmp_path):
    return tmp_path / "shop.duckdb"


@pytest.fixture
def engine(store, clock):
    with gnomon.open(store, clock=clock, sampling=False) as opened:
        for place in range(20):
            opened.track("t", id=f"{place:02}", user_id=f"u{place}", ts=NOW - timedelta(hours=20 - place))
        opened.flush()
        yield opened


def ended(engine, job):
    until = time.monotonic() + 30
    while (found := engine.get_export_status(job.id)).state not in ("completed", "failed"):
        assert time.monotonic() < until
        time.sleep(0.005)
    return found


def until_idle(engine):
    """Nothing of this engine waits or runs."""
    until = time.monotonic() + 30
    while engine._has_exports():
        assert time.monotonic() < until
        time.sleep(0.005)


@pytest.fixture
def gate(monkeypatch):
    """Exports stop before each piece until the gate is open, and say that they got there."""

    class Gate:
        open, reached = threading.Event(), threading.Event()

    monkeypatch.setattr(reading, "MOST_ROWS", 5)
    texts = text.Csv.texts

    def slow(self, rows, data, longest):
        if rows:
            Gate.reached.set()
            assert Gate.open.wait(30)
        return texts(self, rows, data, longest)

    monkeypatch.setattr(text.Csv, "texts", slow)
    yield Gate
    Gate.open.set()


def folder(store):
    return store.with_name(store.name + ".exports")


# -- the life of a job -----------------------------------------------------------------------------------------------


def test_a_job_goes_from_queued_to_completed_and_can_be_downloaded(engine, store, tmp_path, gate):
    began = time.perf_counter()
    job = engine.export_analytics("all", "csv", ["id"])
    second = engine.export_analytics("all", "json", ["id"])
    assert time.perf_counter() - began < 20  # the gate is closed for longer
    assert (job.state, job.rows, job.progress, job.project, job.owner) == ("queued", 0, 0.0, "default", "local")
    assert gate.reached.wait(10)
    assert engine.get_export_status(job.id).state == "processing"
    assert engine.get_export_status(second.id).state == "queued"
    assert [found.id for found in engine.exports()] == sorted([job.id, second.id], reverse=True)
    with pytest.raises(InvalidValue) as raised:
        engine.download_export(job.id, tmp_path)
    assert raised.value.code == "export-not-ready"
    gate.open.set()
    done = ended(engine, job)
    assert (done.state, done.progress, done.rows, done.code) == ("completed", 1.0, 20, None)
    assert done.expires == done.finished + timedelta(days=7)
    path = engine.download_export(job.id, tmp_path)
    assert path == tmp_path / f"export-{job.id}.csv"
    assert path.stat().st_size == done.size
    assert path.read_text().split() == ['"id"', *(f'"{n:02}"' for n in range(20))]
    assert engine.download_export(job.id, tmp_path / "mine.csv").read_bytes() == path.read_bytes()
    assert ended(engine, second).state == "completed"
    assert done.to_dict()["created"] == "2026-01-15T12:00:00Z"
    assert "process" not in done.to_dict()
    assert {p.stat().st_mode & 0o777 for p in folder(store).iterdir()} == {0o600}
    assert folder(store).stat().st_mode & 0o777 == 0o700


def test_the_file_holds_what_was_stored_when_it_was_ordered(engine, gate, tmp_path):
    job = engine.export_analytics("all", "csv", ["id"])
    gate.reached.wait(10)
    engine.track("t", id="late", ts=NOW - timedelta(minutes=5))
    engine.flush()
    gate.open.set()
    assert ended(engine, job).rows == 20


def test_progress_rises(engine, gate):
    job = engine.export_analytics("all", "csv")
    gate.reached.wait(10)
    assert engine.get_export_status(job.id).progress == 0.0
    gate.open.set()
    assert ended(engine, job).progress == 1.0


def test_an_answer_is_a_job_too(engine, tmp_path):
    job = engine.export_analytics("all", "csv", query={"metrics": ["events"], "dimensions": ["type"]})
    assert ended(engine, job).fields == ["type", "events"]
    assert engine.download_export(job.id, tmp_path / "a.csv").read_text() == '"type","events"\n"t",20\n'


def test_a_store_in_memory_exports_as_well(tmp_path):
    with gnomon.open(":memory:") as engine:
        engine.track("t")
        engine.flush()
        job = engine.export_analytics()
        assert ended(engine, job).rows == 1
        assert engine.download_export(job.id, tmp_path / "x").exists()


def test_the_folder_can_lie_elsewhere(store, tmp_path):
    with gnomon.open(store, export_dir=str(tmp_path / "elsewhere")) as engine:
        ended(engine, engine.export_analytics())
        assert len(list((tmp_path / "elsewhere" / "shop.duckdb.exports").iterdir())) == 2
    assert not folder(store).exists()


# -- whose it is -----------------------------------------------------------------------------------------------------


def test_another_principals_or_projects_job_is_not_found(engine, store, clock, tmp_path):
    ada, bob = (engine.acting_as(Principal(name, ["read"])) for name in ("ada", "bob"))
    admin = engine.acting_as(Principal("root", ["admin"]))
    job = ada.export_analytics("all", "csv", ["id"])
    assert (job.owner, ended(ada, job).state) == ("ada", "completed")
    with gnomon.open(store, project="other", clock=clock) as other:
        for stranger in (bob, admin, other, other.acting_as(Principal("ada", ["read"]))):
            assert stranger.exports() == []
            load = lambda id, s=stranger: s.download_export(id, tmp_path)  # noqa: E731
            for call in (stranger.get_export_status, stranger.export_file, load):
                with pytest.raises(UnknownName) as raised:
                    call(job.id)
                assert raised.value.code == "no-such-export"
    assert [found.id for found in ada.exports()] == [job.id]
    assert engine.get_export_status(job.id).owner == "ada"  # the host's own code


@pytest.mark.parametrize("id", ["", "x", "../shop", "0" * 32, "0" * 33, "..", None, 7, "\x00" * 32, "é" * 32])
def test_a_made_up_id_is_not_found(engine, id, tmp_path):
    for call in (engine.get_export_status, engine.export_file, lambda given: engine.download_export(given, tmp_path)):
        with pytest.raises(UnknownName) as raised:
            call(id)
        assert raised.value.code == "no-such-export"


def test_who_may_not_read_may_not_export(engine):
    writer = engine.acting_as(Principal("w", ["ingest:any"]))
    for call in (writer.export_analytics, writer.exports, writer.stream_export, lambda: writer.get_export_status("x")):
        with pytest.raises(Forbidden):
            call()


def test_orders_results_and_downloads_are_audited_without_what_was_asked_for(engine, tmp_path):
    ada = engine.acting_as(Principal("ada", ["read"]))
    job = ended(ada, ada.export_analytics("24h", "csv", ["id"], {"user_id": "u7", "source": "secret-source"}))
    until_idle(engine)
    ada.download_export(job.id, tmp_path)
    list(ada.stream_export("24h", "ndjson", ["id"]))
    with pytest.raises(UnknownName):
        ada.export_analytics("24h", "pdf")
    found = [entry for entry in reversed(engine.get_access_log()) if "export" in entry.operation]
    assert [(e.who, e.operation, e.outcome, e.rows) for e in found] == [
        ("ada", "export_analytics", "ok", None), ("ada", "export", "ok", 0), ("ada", "download_export", "ok", 0),
        ("ada", "export_analytics", "ok", None), ("ada", "export", "ok", 20),
        ("ada", "export_analytics", "unknown-name", None),
    ]  # fmt: skip
    told = str([(e.detail, e.range) for e in found])
    assert "csv" in told and job.id in told and "user_id" in told
    assert "u7" not in told and "secret-source" not in told
    assert found[0].range is not None and found[1].range == found[0].range
    assert engine.verify_audit()


# -- how it ends -----------------------------------------------------------------------------------------------------


def test_files_expire(engine, clock, store):
    job = ended(engine, engine.export_analytics())
    clock.advance(days=6, hours=23)
    assert engine.export_file(job.id).exists()
    clock.advance(hours=1)
    with pytest.raises(UnknownName):
        engine.export_file(job.id)
    assert list(folder(store).iterdir()) == []
    again = ended(engine, engine.export_analytics())
    clock.advance(days=8)
    assert engine.run_jobs()["old exports"] == "ok"
    assert list(folder(store).iterdir()) == []
    assert engine.exports() == [] and again.state == "completed"


def test_a_job_survives_the_restart_of_its_process_in_order(store, clock, tmp_path):
    with gnomon.open(store, clock=clock) as engine:
        engine.track("t", ts=NOW)
        engine.flush()
        job = ended(engine, engine.export_analytics())
    with gnomon.open(store, clock=clock) as engine:
        assert engine.get_export_status(job.id) == job
        assert engine.download_export(job.id, tmp_path / "x.csv").stat().st_size == job.size


def test_closing_the_engine_stops_its_jobs_and_says_so(store, clock, gate):
    engine = gnomon.open(store, clock=clock)
    for place in range(20):
        engine.track("t", ts=NOW - timedelta(hours=place))
    engine.flush()
    running_job, waiting = engine.export_analytics(), engine.export_analytics()
    assert gate.reached.wait(10)
    task = engine._runner()._running
    opening = threading.Thread(target=lambda: task.stopped.wait(30) and gate.open.set())
    opening.start()
    engine.close()
    opening.join()
    with pytest.raises(EngineClosed):
        engine.exports()
    with pytest.raises(EngineClosed):
        engine.export_analytics()
    with gnomon.open(store, clock=clock) as engine:
        for job in (running_job, waiting):
            found = engine.get_export_status(job.id)
            assert (found.state, found.code) == ("failed", "export-interrupted")
            with pytest.raises(InvalidValue) as raised:
                engine.export_file(job.id)
            assert raised.value.code == "export-failed"
    assert sorted(p.suffix for p in folder(store).iterdir()) == [".job", ".job"]


def test_forgetting_a_person_removes_the_files_of_the_project(engine, store, clock, gate):
    gate.open.set()
    with gnomon.open(store, project="other", clock=clock) as other:
        kept = ended(other, other.export_analytics())
        job = ended(engine, engine.export_analytics())
        assert b"u7" in engine.export_file(job.id).read_bytes()
        engine.forget("u7")
        assert engine.exports() == []
        assert other.export_file(kept.id).exists()
    assert not any(b"u7" in p.read_bytes() for p in folder(store).iterdir())


def test_a_full_disk_fails_the_job_with_a_reason_and_leaves_nothing(engine, store, monkeypatch):
    real = os.fsync

    def full(descriptor):
        if Path(f"/proc/self/fd/{descriptor}").readlink().suffix == ".part":
            raise OSError(errno.ENOSPC, "no space")
        return real(descriptor)

    monkeypatch.setattr(running.os, "fsync", full)
    job = ended(engine, engine.export_analytics())
    assert (job.state, job.code) == ("failed", "disk-full")
    assert [p.name for p in folder(store).iterdir()] == [f"{job.id}.job"]
    assert engine.get_access_log()[0].outcome == "disk-full"
    monkeypatch.undo()
    assert ended(engine, engine.export_analytics()).state == "completed"


def told_first(task, state):
    task.job.state = state
    task.folder.save(task.job)


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("state", ["completed", "failed"])
def test_how_a_job_ended_is_said_when_it_is_kept(engine, store, monkeypatch, gate, state, broken):
    save, keeping, kept = jobs.Folder.save, threading.Event(), threading.Event()

    def held(self, job):
        if job.state in ("completed", "failed"):
            keeping.set()
            assert kept.wait(10)
        save(self, job)

    monkeypatch.setattr(jobs.Folder, "save", held)
    if broken:
        monkeypatch.setattr(running.Task, "_end", told_first)
    if state == "failed":
        monkeypatch.setattr(running, "whole", lambda *_: 1 / 0)
    gate.open.set()
    job = engine.export_analytics()
    assert keeping.wait(10)
    assert engine.get_export_status(job.id).state == (state if broken else "processing")
    kept.set()
    assert ended(engine, job).state == state
    assert msgspec.json.decode((folder(store) / f"{job.id}.job").read_bytes())["state"] == state or broken


@pytest.mark.parametrize("broken", [False, True])
def test_an_export_without_its_entry_in_the_audit_never_was_completed(engine, store, monkeypatch, broken):
    save, told = jobs.Folder.save, []

    def noted(self, job):
        told.append(job.state)
        save(self, job)

    def refused(*_):
        def run(write):
            write()
            raise StoreUnavailable("not now", code="audit-unavailable")

        return run

    monkeypatch.setattr(jobs.Folder, "save", noted)
    monkeypatch.setattr(type(engine), "_doer", refused)
    if broken:  # as soon as the file is there
        write = running.Task._write
        monkeypatch.setattr(running.Task, "_write", lambda task: (write(task), task._complete()))
    job = engine.export_analytics()
    until_idle(engine)
    found = engine.get_export_status(job.id)
    assert (found.state, found.code) == ("failed", "audit-unavailable")
    assert ("completed" in told) is broken
    assert [p.suffix for p in folder(store).iterdir()] == [".job"]


def test_how_it_ended_is_known_even_if_it_could_not_be_kept(engine, monkeypatch):
    save = jobs.Folder.save

    def broken(self, job):
        if job.state != "queued":
            raise StoreUnavailable("nothing can be written", code="export-unwritable")
        save(self, job)

    monkeypatch.setattr(jobs.Folder, "save", broken)
    job = ended(engine, engine.export_analytics())
    assert (job.state, job.code) == ("failed", "export-unwritable")
    assert engine.get_export_status(job.id).state == "failed"


def test_a_folder_that_cannot_be_made_refuses_the_order(store, tmp_path):
    (tmp_path / "file").write_text("x")
    with gnomon.open(store, export_dir=str(tmp_path / "file")) as engine:
        with pytest.raises(GnomonError) as raised:
            engine.export_analytics()
        assert raised.value.code == "export-unwritable"


def test_too_many_jobs_are_refused_and_leave_no_trace(engine, gate, monkeypatch):
    monkeypatch.setattr(running, "MOST_WAITING", 3)
    first = engine.export_analytics()
    gate.reached.wait(10)
    waiting = [engine.export_analytics() for _ in range(3)]
    with pytest.raises(StoreUnavailable) as raised:
        engine.export_analytics()
    assert (raised.value.code, raised.value.status) == ("export-queue-full", 503)
    assert len(engine.exports()) == 4
    gate.open.set()
    assert [ended(engine, job).state for job in (first, *waiting)] == ["completed"] * 4


def test_the_thread_ends_when_there_is_nothing_to_do_and_starts_again(engine, monkeypatch):
    monkeypatch.setattr(running, "_IDLE_SECONDS", 0.01)
    for _ in range(3):
        ended(engine, engine.export_analytics())
        until = time.monotonic() + 10
        while engine._runner()._thread is not None:
            assert time.monotonic() < until
            time.sleep(0.01)


def test_a_failed_order_within_a_running_job_names_its_code(engine, monkeypatch):
    everybody = {"metrics": ["events"], "limit": 10**9, "dimensions": ["user_id"]}
    job = engine.export_analytics("all", "csv", query=everybody)
    assert ended(engine, job).rows == 20
    monkeypatch.setattr(reading.AnswerRows, "pieces", lambda self, form: 1 / 0)
    job = ended(engine, engine.export_analytics(query={"metrics": ["events"]}))
    assert (job.code, "division" in job.message) == ("export-failed", False)


def test_damaged_entries_are_no_jobs(engine, store):
    job = ended(engine, engine.export_analytics())
    (folder(store) / f"{'a' * 32}.job").write_text("{")
    (folder(store) / "readme.txt").write_text("mine")
    assert [found.id for found in engine.exports()] == [job.id]


def test_an_export_that_nobody_reads_to_its_end_is_audited_and_holds_nothing(engine, monkeypatch):
    monkeypatch.setattr(reading, "MOST_ROWS", 5)
    for format in ("csv", "xlsx", "parquet"):
        stream = engine.stream_export("all", format)
        next(stream)
        stream.close()
        assert engine.get_access_log()[0].outcome == "failed"
