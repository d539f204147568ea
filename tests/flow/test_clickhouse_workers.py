"""What rests on turns and marks, with ClickHouse: `serve --workers`, Celery workers, and answers on Redis."""

from __future__ import annotations

import os
import secrets

import pytest
import test_shared_answers
import test_worker
import test_workers
from test_shared_answers import COUNT, engines, fresh, told  # noqa: F401  (a fixture)

from gnomon.config import Settings
from gnomon.errors import InvalidValue
from gnomon.store import open_store

# The small server of the tests ends requests that are under way without a word.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


def kept(_, url):
    """As `test_workers.kept`: events, ids, which, journals, books."""
    store = open_store(url, Settings())
    try:
        head = store._newest(None)
        events, ids, books = store.ask(
            ["SELECT count(), uniqExact(id_text) FROM events", "SELECT id_text FROM events",
             "SELECT outcome, toInt64(sum(n)) FROM books WHERE kind = 'event' GROUP BY 1"], 60.0,
        )  # fmt: skip
    finally:
        store.close()
    journals = sum(key.startswith("journal:") for key in head.state)
    return *events.rows[0], {id_ for (id_,) in ids.rows}, journals, dict(books.rows)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_workers_of_a_service_that_are_killed_lose_nothing(clickhouse, tmp_path, monkeypatch):
    monkeypatch.setattr(test_workers, "kept", kept)
    kills = int(os.environ.get("WORKER_KILLS", "20")) // 4
    test_workers.loaded(None, clickhouse.url(), tmp_path, 2, kills, 3.0)


def test_several_workers_of_an_embedded_store_are_refused(tmp_path):
    from gnomon import worker
    from gnomon.cli.serving import _check_workers

    url = f"chdb://{tmp_path}/c"
    with pytest.raises(InvalidValue) as raised:
        _check_workers(Settings(database_url=url), 2)
    assert raised.value.code == "bad-argument"
    with pytest.raises(InvalidValue) as raised:
        worker.configure(Settings(database_url=url, celery_broker_url="redis://x"))
    assert raised.value.code == "embedded-store"
    _check_workers(Settings(database_url="clickhouse://h/d"), 2)


# -- Celery ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("honest", [
    test_worker.test_a_worker_runs_the_jobs_and_writes_exports,
    test_worker.test_a_job_runs_once_a_period_whoever_asks_for_it,
    test_worker.test_a_forgotten_person_is_in_no_file_that_a_worker_writes,
], ids=lambda test: test.__name__)  # fmt: skip
def test_a_celery_worker(clickhouse, valkey, tmp_path, honest):
    honest(clickhouse, valkey, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_celery_workers_that_are_killed_again_and_again(clickhouse, valkey, tmp_path, monkeypatch):
    """A process that dies in the middle of the job holds its turn for twenty seconds."""
    assert test_worker.killed_again_and_again(clickhouse, valkey, tmp_path, monkeypatch) > 1


# -- Redis -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("honest", [
    test_shared_answers.test_another_replica_finds_the_answer_until_the_data_changes,
    test_shared_answers.test_nobody_meets_the_answer_of_another_project,
], ids=lambda test: test.__name__)  # fmt: skip
def test_answers_on_redis(clickhouse, valkey, tmp_path, honest):
    honest(clickhouse, valkey, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("dropped", [True, False])
def test_nothing_of_a_forgotten_person_stays_on_redis(clickhouse, valkey, tmp_path, monkeypatch, dropped):
    test_shared_answers.test_nothing_of_a_forgotten_person_stays_on_redis(
        clickhouse, valkey, tmp_path, monkeypatch, dropped
    )


@pytest.mark.parametrize("marked", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_database_that_went_back_meets_no_answer_of_what_it_has_lost(
    clickhouse, valkey, tmp_path, monkeypatch, marked
):
    """As that of PostgreSQL: a folder is put back that lacks the end. Without marks the answer is one of lost rows."""
    cache, url = valkey.url(), clickhouse.url()
    if not marked:
        monkeypatch.setattr(secrets, "token_hex", lambda n: "same")
    with engines(url, tmp_path, cache, n=1) as (one,):
        store = one._own_or_refuse()
        before = store._newest(None).committed
        one.track("t", user_id="lost")
        one.flush()
        version = store.data_version()
        assert told(one.query(**COUNT)) == [("lost", 1)]
        one.close()
    store = open_store(url, Settings())
    for table in ("events", "books", "state_log"):
        store._writer.run(f"ALTER TABLE {table} DELETE WHERE batch > {before}", store._plain())
    store.close()
    with engines(url, tmp_path / "standby", cache, n=1) as (two,):
        two.track("t", user_id="new")
        two.flush()
        assert two._own_or_refuse().data_version() == version
        assert (told(two.query(**COUNT)) == [("new", 1)]) is marked
