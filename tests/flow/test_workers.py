"""`gnomon serve --workers`: processes that share a socket and a database, one of them killed, and what they leave."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from serving import API, SECRET, bearer
from test_server_kill import Ledger, Process

import gnomon
from gnomon.config import Settings
from gnomon.engine import AnalyticsEngine
from gnomon.errors import GnomonError, StoreUnavailable
from gnomon.export import running
from gnomon.ingest.places import file_of
from gnomon.server import workers
from gnomon.store.postgres import PostgresStore


@pytest.fixture
def url(postgres):
    return postgres.url()


def children(parent):
    """The workers of a service, by process id."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            ours = int(path.read_text().rpartition(")")[2].split()[1]) == parent
            if ours and "spawn_main" in path.with_name("cmdline").read_text():
                found.add(int(path.parent.name))
    return found


def wait_for(what, seconds=40):
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until
        time.sleep(0.05)
    return found


def kept(postgres, url):
    """How many events and different ids the database has, and of how many journals."""
    schema = url.rpartition("schema=")[2]
    with postgres.connect() as con:
        events = con.execute(f"SELECT count(*), count(DISTINCT id_text), array_agg(id_text) FROM {schema}.events")
        found = events.fetchone()
        journals = con.execute(f"SELECT count(*) FROM {schema}.state WHERE key LIKE 'journal:%'").fetchone()[0]
        books = con.execute(
            f"SELECT outcome, sum(n)::int FROM {schema}.books WHERE kind = 'event' GROUP BY 1"
        ).fetchall()
    return found[0], found[1], set(found[2] or ()), journals, dict(books)


def export(service):
    """Order a file and ask for it on one connection after the other, so that any worker may answer."""
    claims = {"scope": "ingest read"}
    ordered = httpx.post(f"{service.url}{API}/exports", json={"format": "csv"}, headers=bearer(**claims), timeout=30)
    assert ordered.status_code == 202, ordered.text
    at = f"{service.url}{API}/exports/{ordered.json()['id']}"
    statuses = []
    until = time.monotonic() + 30
    while time.monotonic() < until:
        answer = httpx.get(at, headers=bearer(**claims), timeout=30)
        assert answer.status_code == 200, answer.text
        statuses.append(answer.json()["status"])
        if statuses[-1] not in ("queued", "processing"):
            break
    assert statuses[-1] == "completed", statuses
    return httpx.get(f"{at}/download", headers=bearer(**claims), timeout=30).text.count("\n") - 1


def loaded(postgres, url, folder, count, kills, seconds):
    """Workers under load, some of them killed one after the other; nothing is lost or counted twice."""
    service = Process(url, "--workers", str(count), GNOMON_DATA_DIR=str(folder), GNOMON_FLUSH_SECONDS="0.01")
    ledger = Ledger()
    ledger.url = service.url
    try:
        first = wait_for(lambda: len(found := children(service.process.pid)) == count and found)
        for thread in ledger.threads:
            thread.start()
        for _ in range(kills):
            time.sleep(seconds)
            now = wait_for(lambda: len(found := children(service.process.pid)) == count and found)
            os.kill(min(now), signal.SIGKILL)
        time.sleep(seconds)
        again = wait_for(lambda: len(found := children(service.process.pid)) == count and found)
        assert again != first
        ledger.stopping.set()
        for thread in ledger.threads:
            thread.join()
        wait_for(lambda: ledger.acknowledged <= kept(postgres, url)[2])
        # What a killed worker had taken in without an answer may still be on its way.
        wait_for(lambda: export(service) == kept(postgres, url)[0])
    finally:
        ledger.stopping.set()
        code, errors = service.end()
    assert (code, ledger.wrong) == (0, []), errors
    events, ids, _, journals, books = kept(postgres, url)
    assert events == ids <= len(ledger.sent) and ledger.acknowledged and journals == count
    assert books["received"] == books["stored"] + books.get("duplicate", 0) and books["stored"] == events
    assert not children(service.process.pid)


def test_workers_share_the_load_and_one_that_is_killed_loses_nothing(postgres, url, tmp_path):
    loaded(postgres, url, tmp_path, 2, 1, 0.7)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_workers_that_are_killed_again_and_again(postgres, url, tmp_path):
    loaded(postgres, url, tmp_path, 3, int(os.environ.get("WORKER_KILLS", "20")), 1.5)


@pytest.fixture
def left(url, tmp_path, monkeypatch):
    """Settings of workers, the third of which left an event in its journal."""
    settings = Settings(database_url=url, data_dir=str(tmp_path))
    with monkeypatch.context() as patched, gnomon.open(settings=workers.settings_of(settings, 3)) as engine:
        patched.setattr(PostgresStore, "write", refused)
        engine.track("left")
        with pytest.raises(StoreUnavailable):
            engine.flush(0.1)
        engine.close()
    return settings


def test_what_workers_left_that_are_no_longer_wanted_comes_to_the_database(postgres, url, tmp_path, left):
    assert [each.data_dir for each in workers.left_behind(left, 2)] == [str(tmp_path / "worker-3")]
    assert workers.left_behind(left, 3) == [] and kept(postgres, url)[0] == 0
    with workers.draining(left, 1) as (process,):
        process.join(60)
        assert process.exitcode == 0
        time.sleep(3 * workers.LOOK_SECONDS)
        assert not children(os.getpid())  # it is done, and not started again
    assert kept(postgres, url)[0] == 1


def test_a_journal_whose_repair_was_cut_short_is_one_that_has_to_be_drained(url, tmp_path):
    settings = Settings(database_url=url, data_dir=str(tmp_path))
    for number, end in ((2, ".journal.unsaved"), (3, ".journal"), (4, ".lock")):
        file = file_of(workers.settings_of(settings, number))
        file.parent.mkdir()
        file.with_name(file.name + end).touch()
    assert [Path(each.data_dir).name for each in workers.left_behind(settings, 1)] == ["worker-2", "worker-3"]


def test_a_drain_that_fails_says_so_and_goes_on(postgres, url, tmp_path, monkeypatch):
    settings, told, failures = Settings(database_url=url, data_dir=str(tmp_path)), [], [1]
    with monkeypatch.context() as patched, gnomon.open(settings=settings) as engine:
        patched.setattr(PostgresStore, "write", refused)
        engine.track("left")
        with pytest.raises(StoreUnavailable):
            engine.flush(0.1)
        engine.close()
    honest = AnalyticsEngine.flush

    def flush(self, *given):
        if failures:
            failures.pop()
            raise StoreUnavailable("not now")
        return honest(self, *given)

    monkeypatch.setattr(AnalyticsEngine, "flush", flush)
    monkeypatch.setattr(workers.log, "warning", lambda text, *given: told.append(text % given))
    monkeypatch.setattr(workers.time, "sleep", lambda _: None)
    with AnalyticsEngine(settings.but(enabled=False, scheduler=False)) as engine:
        while engine._hold.journal.positions(0, 1):
            assert workers._brought(engine)
    assert len(told) == 1 and "not now" in told[0] and "journal" in told[0]
    assert kept(postgres, url)[0] == 1


def test_who_is_killed_while_it_drains_is_started_again(postgres, url, left):
    with workers.draining(left, 1) as (process,):
        process.kill()
        process.join()
        wait_for(lambda: kept(postgres, url)[0] == 1)
    assert not children(os.getpid())


def test_who_drains_ends_with_who_started_it(postgres, url, left):
    """Also where that is killed: the next start of the service must find nobody at the journal."""
    code = (
        "import sys, time\n"
        "from gnomon.config import Settings\n"
        "from gnomon.server import workers\n"
        "if __name__ == '__main__':\n"
        "    left = Settings(database_url=sys.argv[1], data_dir=sys.argv[2])\n"
        "    with workers.draining(left, 1) as (process,):\n"
        "        print(process.pid, flush=True)\n"
        "        time.sleep(60)\n"
    )
    schema = url.rpartition("schema=")[2]
    with postgres.connect() as blocking, blocking.transaction():
        blocking.execute(f"LOCK TABLE {schema}.events IN ACCESS EXCLUSIVE MODE")
        parent = subprocess.Popen([sys.executable, "-c", code, url, left.data_dir], stdout=subprocess.PIPE, text=True)
        drains = int(parent.stdout.readline())
        time.sleep(1.0)
        assert Path(f"/proc/{drains}").exists()
        parent.kill()
        parent.communicate()
        wait_for(lambda: not Path(f"/proc/{drains}").exists())
    assert kept(postgres, url)[0] == 0 and workers.left_behind(left, 1)


def refused(*_):
    raise StoreUnavailable("not now")


@pytest.mark.slow
def test_a_service_says_why_its_workers_cannot_start(url, tmp_path):
    settings = Settings(database_url=url, data_dir=str(tmp_path), jwt_secret_key=(SECRET,))
    with gnomon.open(
        settings=settings.but(database_url=url + "_other")
    ) as engine:  # its journal is of another database
        engine.track("a")
        engine.flush()
    schema = url.rpartition("schema=")[2]
    for path in tmp_path.glob(f"*.{schema}_other.*"):
        path.rename(path.with_name(path.name.replace(f"{schema}_other", schema)))
    with gnomon.open(url, data_dir=str(tmp_path / "elsewhere")) as engine:
        engine.track("a")
        engine.flush()
    with pytest.raises(GnomonError) as caught:
        from gnomon.cli.serving import serve

        serve(settings, "127.0.0.1", 0, dev=False, workers=2)
    assert caught.value.code == "other-store"
    assert not children(os.getpid())


def test_a_worker_leaves_the_exports_of_others_alone_until_they_are_gone(url, tmp_path, monkeypatch):
    settings = [workers.settings_of(Settings(database_url=url, data_dir=str(tmp_path)), n) for n in (1, 2)]
    go_on = threading.Event()
    honest = running.whole
    monkeypatch.setattr(running, "whole", lambda rows, form: (go_on.wait(20), *honest(rows, form))[1:])
    with gnomon.open(settings=settings[0]) as one, gnomon.open(settings=settings[1]) as other:
        one.track("a")
        one.flush()
        job = one.export_analytics()
        assert other.get_export_status(job.id).state in ("queued", "processing")
        go_on.set()
        wait_for(lambda: other.get_export_status(job.id).state == "completed")
        assert other.download_export(job.id, tmp_path).read_text().count("\n") == 2
        go_on.clear()
        job = one.export_analytics()
        running.runner_of(one._hold).let_go()  # as the end of its process would
        assert other.get_export_status(job.id).code == "export-interrupted"
        go_on.set()
