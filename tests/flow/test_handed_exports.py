"""Exports that are handed to a worker, without one: what is kept of the order, who may do it, and when nobody may."""

from __future__ import annotations

import json
from contextlib import contextmanager, suppress

import pytest
import redis
from celery.exceptions import SoftTimeLimitExceeded
from working import wait_for

import gnomon
from gnomon import broker, worker
from gnomon.access import Principal
from gnomon.cli import main
from gnomon.config import Settings, without_keys
from gnomon.errors import GnomonError, InvalidValue, StoreUnavailable
from gnomon.export import handed
from gnomon.export.jobs import Folder
from gnomon.server.figures import Figures
from gnomon.server.intake import Intake
from gnomon.server.projects import Projects
from gnomon.upkeep import workers
from gnomon.upkeep.jobs import JOBS, run_left


@contextmanager
def shop(url, folder, broker, **changes):
    settings = gnomon.Settings(data_dir=str(folder / "data"), export_dir=str(folder), celery_broker_url=broker)
    with gnomon.open(url, settings=settings, project="shop", **changes) as engine:
        yield engine


@pytest.fixture(scope="module")
def database(postgres):
    return postgres.url()


@pytest.fixture
def engine(database, valkey, tmp_path):
    with shop(database, tmp_path, valkey.url()) as opened:
        if not opened.query(["events"]).rows[0]["events"]:
            for n in range(9):
                opened.track("t", id=f"{n}", user_id="ann@example.org" if n % 3 else "bob")
            opened.flush()
        yield opened


def messages(engine):
    """What waits on the broker, as it lies there."""
    with redis.Redis.from_url(engine.settings.celery_broker_url) as con:
        return con.lrange(broker.queue_of(engine._hold.file.name), 0, -1)


def files(tmp_path):
    return sorted(path.suffix for path in tmp_path.glob("*.exports/*") if path.suffix != ".alive")


def ids(engine, job):
    return [line.strip('"') for line in engine.export_file(job.id).read_text().split()[1:]]


def test_an_order_holds_what_was_asked_and_the_message_only_ids(engine, tmp_path):
    caller = engine.acting_as(Principal("carl", ["read"]))
    job = caller.export_analytics("7d", "csv", ["id"], [["is", "user_id", ["ann@example.org"]]])
    (message,) = messages(engine)
    assert job.id in str(json.loads(message)["headers"]["argsrepr"]) and b"ann" not in message
    engine.track("t", id="late", user_id="ann@example.org")
    engine.flush()
    task = engine._claimed(job.id)
    assert engine._claimed(job.id) is None  # one at a time
    task.run()
    assert caller.get_export_status(job.id).state == "completed" and engine._claimed(job.id) is None
    assert ids(engine, job) == ["1", "2", "4", "5", "7", "8"]  # as it was ordered, and of that moment
    assert files(tmp_path) == [".csv", ".job"]
    (entry,) = [one for one in engine.get_access_log("all") if one.operation == "export"]
    assert entry.who == "carl"


def test_an_answer_is_exported_alike(engine, tmp_path):
    asked = {
        "metrics": ["events"],
        "dimensions": ["user_id"],
        "order_by": [["events", "desc"]],
        "timezone": "Asia/Kathmandu",
    }
    job = engine.export_analytics("7d", "ndjson", query=asked)
    engine._claimed(job.id).run()
    found = [json.loads(line) for line in engine.export_file(job.id).read_text().splitlines()]
    assert found == engine.query(**asked, date_range="7d").to_dicts()


def test_what_cannot_be_handed_over_is_done_here(engine, tmp_path, monkeypatch, caplog):
    given = gnomon.Query.build(["events"])  # no plain values
    job = engine.export_analytics("all", "csv", query=given)
    wait_for(lambda: engine.get_export_status(job.id).state == "completed")
    assert messages(engine) == []
    monkeypatch.setattr(broker.Broker, "_celery", lambda self: 1 / 0)  # a broker that is away
    job = engine.export_analytics("all", "csv", ["id"])
    wait_for(lambda: engine.get_export_status(job.id).state == "completed")
    assert "the broker takes nothing" in caplog.text and ".order" not in files(tmp_path)


def test_a_job_is_given_up_when_it_ended_every_process_that_tried_it(engine, tmp_path):
    job = engine.export_analytics("all", "csv", ["id"])
    for _ in range(handed.MOST_TRIES):
        engine._claimed(job.id).claim.release()  # as the end of a process does
    assert engine._claimed(job.id) is None
    found = engine.get_export_status(job.id)
    assert (found.state, found.code) == ("failed", "export-interrupted") and ".order" not in files(tmp_path)


@pytest.mark.parametrize("code", ["store-unavailable", "cluster-degraded", "store-slow"])
def test_what_passes_by_itself_ends_no_job_that_may_wait(engine, monkeypatch, code):
    job = engine.export_analytics("all", "csv", ["id"])
    task = engine._claimed(job.id, patient=True)
    away = StoreUnavailable("away", code=code)
    monkeypatch.setattr(type(task.rows), "pieces", lambda *given: (_ for _ in ()).throw(away))
    task.run()
    assert task.again.code == code and engine.get_export_status(job.id).state == "queued"
    task = engine._claimed(job.id)
    task.run()
    assert task.again is None and engine.get_export_status(job.id).code == code


def test_a_process_with_other_settings_leaves_it_alone(engine, database, tmp_path):
    job = engine.export_analytics("all", "csv", ["id"])
    with gnomon.open(database, settings=engine.settings.but(data_dir=str(tmp_path / "other")),
                     timezones=["Asia/Tokyo"]) as other, pytest.raises(GnomonError) as refused:  # fmt: skip
        other._claimed(job.id)
    assert refused.value.code == "other-settings"
    engine._claimed(job.id).run()


@pytest.mark.parametrize("withdrawn", [True, False])
def test_a_forgotten_person_is_in_no_file_that_is_being_written(engine, tmp_path, monkeypatch, withdrawn):
    """The worker is in the middle of it; without taking its order away, which is the broken variant, it goes on."""
    if not withdrawn:
        monkeypatch.setattr(handed, "withdraw", lambda *given: None)
        monkeypatch.setattr(Folder, "order", lambda self, job_id: self.path / ".." / f"{job_id}.order")
    monkeypatch.setattr(handed, "WITHDRAW_SECONDS", 0.1)
    job = engine.export_analytics("all", "csv", ["id", "user_id"])
    task = engine._claimed(job.id)
    if not withdrawn:
        monkeypatch.setattr(Folder, "order", lambda self, job_id: self.path / "nowhere")
    engine._erase_exports()
    task.run()
    assert (files(tmp_path) == []) is withdrawn


def test_workers_that_made_a_round_lately_are_left_the_jobs(engine, monkeypatch):
    assert not workers.left_to_workers(engine)  # there never was one
    workers.note_round(engine)
    wait_for(lambda: workers.left_to_workers(engine))
    figures = "\n".join(Figures(engine, Intake(Projects(engine), 2**20))._beside())
    assert "gnomon_workers_silent_seconds " in figures and "gnomon_shared_answers" not in figures
    assert set(run_left(engine)) <= {"heartbeat", "prune audit", "old exports"}
    away = [alert.name for alert in engine.alerts()]
    assert "workers-away" not in away
    monkeypatch.setattr(workers, "AWAY_SECONDS", 0.0)
    assert not workers.left_to_workers(engine) and {"roll up", "prune"} <= set(run_left(engine))


def rounds(home, monkeypatch, most):
    """Projects whose roll up ended well, within so many rounds in which that of one never fits the time."""
    ran, honest = set(), worker.run_job

    def run_job(engine, job, **_):
        if engine.settings.project == "slow":
            raise SoftTimeLimitExceeded
        ran.add(engine.settings.project)
        return honest(engine, job)

    monkeypatch.setattr(worker, "run_job", run_job)
    job = next(job for job in JOBS if job.name == "roll up")
    for _ in range(most):
        with suppress(SoftTimeLimitExceeded):
            worker._for_projects(home, job)
    return ran


@pytest.fixture
def home(postgres, tmp_path):
    url, data = postgres.url(), str(tmp_path / "data")
    for project in ("a", "b", "slow", "z"):
        with gnomon.open(url, data_dir=data, project=project, scheduler=False, heartbeat_seconds=0) as engine:
            engine.track("t")
    with gnomon.open(url, data_dir=data, project="slow", scheduler=False, enabled=False) as engine:
        yield engine


def test_a_project_whose_job_never_fits_the_time_keeps_no_other_from_its_turn(home, monkeypatch):
    assert rounds(home, monkeypatch, 60) == {"a", "b", "z"}  # by chance not, once in 10^17 runs


def test_one_order_for_all_rounds_would_keep_those_behind_from_it(home, monkeypatch):
    monkeypatch.setattr(worker, "_in_any_order", lambda _: ["a", "slow", "b", "z"])
    with pytest.raises(AssertionError):
        test_a_project_whose_job_never_fits_the_time_keeps_no_other_from_its_turn(home, monkeypatch)


def test_an_embedded_store_has_no_workers_and_no_broker_is_no_worker(tmp_path, database, valkey, capsys):
    with pytest.raises(InvalidValue) as refused:
        worker.configure(Settings(database_url=str(tmp_path / "x.duckdb"), celery_broker_url="redis://x"))
    assert refused.value.code == "embedded-store" and "PostgreSQL" in refused.value.remedy
    with pytest.raises(InvalidValue) as refused:
        worker.configure(Settings(database_url=database))
    assert refused.value.code == "no-broker"
    assert main(["worker", "--store", str(tmp_path / "x.duckdb")]) == 2 and not (tmp_path / "x.duckdb").exists()
    assert main(["worker", "--store", database, "--processes", "0"]) == 2
    assert "need a store on a database server" in (told := capsys.readouterr().err) and "--processes" in told
    with gnomon.open(tmp_path / "x.duckdb", celery_broker_url=valkey.url()) as engine:
        engine.track("t", id="1")
        engine.flush()
        job = engine.export_analytics("all", "csv", ["id"])
        wait_for(lambda: engine.get_export_status(job.id).state == "completed")
        assert messages(engine) == [] and not workers.sent_out(engine)
        told = without_keys(engine.settings.but(celery_result_backend="redis://:secret@x"))
        assert (told.celery_broker_url, told.celery_result_backend) == ("", "")
