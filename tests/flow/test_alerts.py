"""Alerts: each condition really broken and mended, and told once to whoever wants to know, dead, slow or well."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import shutil
import socket
import sqlite3
import subprocess
import threading
import time
from pathlib import Path

import pytest
from receiving import receiving
from serving import served

import gnomon
from gnomon.errors import InvalidValue, StoreUnavailable
from gnomon.event import Batch
from gnomon.testing import ManualClock
from gnomon.upkeep import alerts as watching
from gnomon.upkeep import conditions, jobs, webhook

pytestmark = pytest.mark.timeout(120)
DOCS = Path(__file__).resolve().parents[2] / "docs" / "operations.md"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Waits between tries are short."""
    monkeypatch.setattr(webhook, "WAIT_SECONDS", 0.02)


def names(engine):
    return {alert.name: alert.level for alert in engine.alerts()}


def until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


# -- conditions ---------------------------------------------------------------------------------------------------


def test_a_sound_store_has_none(tmp_path):
    with gnomon.open(tmp_path / "x.duckdb", clock=ManualClock()) as engine:
        engine.track("a")
        engine.flush()
        assert engine.run_jobs()["backup"] == "ok" and engine.alerts() == []


def test_health_by_the_level_of_the_dashboard(tmp_path):
    clock = ManualClock()
    with gnomon.open(tmp_path / "x.duckdb", clock=clock) as engine:

        def come(status, count):
            for _ in range(count):
                engine.record_request(source="s", status_code=status)
            engine.flush()

        come(500, 2)
        assert names(engine) == {}  # two failures wake nobody
        come(200, 28)
        assert names(engine) == {"health": "warning"} and engine.dashboard().health.level == "warning"
        since = engine.alerts()[0].since
        clock.advance(minutes=5)
        come(500, 5)
        assert names(engine) == {"health": "critical"} and engine.dashboard().health.level == "critical"
        assert engine.alerts()[0].since == since and engine.alerts()[0].project == "default"
        clock.advance(hours=25)
        assert names(engine) == {} and engine.dashboard().health.level == "healthy"


def test_a_damaged_store(tmp_path):
    with gnomon.open(tmp_path / "x.duckdb") as engine:
        for n in range(2_000):
            engine.track("a", properties={"n": n})
        engine.flush()
    copy = tmp_path / "copy.duckdb"
    shutil.copy(tmp_path / "x.duckdb", copy)
    (tmp_path / "copy.duckdb.journal").write_bytes((tmp_path / "x.duckdb.journal").read_bytes())
    with copy.open("r+b") as file:
        file.write(b"garbage!" * 1_536)  # all three headers
    with gnomon.open(copy) as engine:
        assert names(engine) == {"store-damaged": "warning"}
        for aside in tmp_path.glob("*.damaged-*"):
            aside.unlink()
        assert names(engine) == {}
        copy.with_name("copy.duckdb.suspect").touch()
        assert names(engine) == {"store-damaged": "critical"}


def test_a_full_journal(tmp_path):
    with gnomon.open(tmp_path / "x.duckdb", journal_max_bytes=1024**2, flush_seconds=600.0) as engine:
        writer, told = engine._hold.writer, []
        with writer._work:  # the store takes nothing now
            for _ in range(30):
                told.append({alert.name: alert.level for alert in engine._watch().active()}.get("journal-full"))
                for n in range(200):
                    engine.track("a", properties={"text": f"{n:0200}"})
                try:
                    engine._make_durable()
                except gnomon.GnomonError:
                    break
                engine._watch()._look_at(
                    condition("journal-full"), watching.Sight(engine, engine._watch()), engine.clock()
                )
        assert told[0] is None and "warning" in told
        assert until(lambda: engine._journal.used_bytes() > 0)
        writer.catch_up()
        writer.checkpoint()
        assert "journal-full" not in names(engine)


def condition(name):
    return next(one for one in conditions.CONDITIONS if one.name == name)


@pytest.fixture
def small_disk(tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place):
    ballast = place / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (65_536, 512):
            try:
                while file.write(b"x" * size):
                    pass
            except OSError:
                continue
    return ballast


def test_a_full_disk_and_a_store_that_takes_nothing_and_is_filled_again(small_disk, monkeypatch):
    monkeypatch.setattr(conditions, "FREE_WARNING", 4 * 1024**2)
    monkeypatch.setattr(conditions, "FREE_CRITICAL", 1024**2)
    seen, told = set(), []
    with gnomon.open(small_disk / "s.duckdb", flush_seconds=0.02, checkpoint_seconds=3_600) as engine:
        engine.on_alert(told.append)
        for number in range(8_000):
            engine.track("kept", properties={"n": number, "text": f"{number:064x}"})
        engine.flush()
        assert names(engine) == {}
        ballast = fill(small_disk)
        assert names(engine) == {"disk-full": "critical"}
        writer = engine._hold.writer
        with pytest.raises(StoreUnavailable) as caught:
            writer.checkpoint()
        with writer._changed:  # its thread waits for it, and would note that all is well
            writer.fault = caught.value  # as it notes it
            seen |= set(names(engine))
        writer._start_over(0)
        ballast.unlink()

        def sound():
            seen.update(names(engine))
            return names(engine) == {}

        assert until(sound)
        assert {"disk-full", "store-unavailable"} <= seen
        assert until(lambda: {alert.name for alert in told} >= {"disk-full", "store-unavailable"})


def test_a_store_that_is_filled_again(tmp_path, monkeypatch):
    with gnomon.open(tmp_path / "x.duckdb") as engine:
        engine.track("a")
        engine.flush()
        writer = engine._hold.writer
        with writer._work:
            monkeypatch.setattr(writer, "_reached", writer._position + 5)
            assert names(engine) == {"store-refilling": "warning"}
        monkeypatch.undo()
        assert names(engine) == {}


def test_a_backup_that_has_no_room_and_then_is_overdue(small_disk, tmp_path):
    clock = ManualClock()
    ballast = fill(small_disk)
    target = small_disk / "backups"
    with gnomon.open(tmp_path / "x.duckdb", clock=clock, backup_target=str(target)) as engine:
        engine._watch().scheduled = True
        for n in range(5_000):
            engine.track("a", properties={"n": n})
        assert engine.run_jobs()["backup"] != "ok"
        assert names(engine) == {"backup-failed": "warning"}
        clock.advance(days=2)
        engine.run_jobs()
        assert names(engine) == {"backup-failed": "warning", "backup-overdue": "critical"}
        ballast.unlink()
        assert engine.run_jobs()["backup"] == "ok" and names(engine) == {}
        clock.advance(days=2)
        assert names(engine) == {"backup-overdue": "critical"}


@pytest.mark.parametrize("name", [job.name for job in jobs.JOBS if job.period])
def test_a_job_that_fails(tmp_path, monkeypatch, name):
    def fail(_engine):
        raise ZeroDivisionError if name == "prune" else StoreUnavailable("not now")

    own = next(job for job in jobs.JOBS if job.name == name)
    with gnomon.open(tmp_path / "x.duckdb", clock=ManualClock()) as engine:
        monkeypatch.setattr(jobs, "JOBS", (jobs.Job(name, 60, fail, own.whole_store),))
        if name == "prune":  # no error of ours
            with pytest.raises(ZeroDivisionError):
                engine.run_jobs()
        else:
            engine.run_jobs()
        (alert,) = engine.alerts()
        assert alert.name == f"{name.replace(' ', '-')}-failed"
        assert alert.project == (None if own.whole_store else "default")
        monkeypatch.setattr(jobs, "JOBS", (jobs.Job(name, 60, lambda _: None, own.whole_store),))
        assert engine.run_jobs() == {name: "ok"} and engine.alerts() == []


def test_books_that_do_not_close(tmp_path):
    with gnomon.open(tmp_path / "x.duckdb") as engine:
        engine.track("t")
        engine.flush()
        open_ = [["event", "s", "received", "", 1]]
        engine._hold.store.write([(2, Batch("default", counts=open_))], engine._journal.id)
        assert names(engine) == {"books-open": "critical"}


def test_an_audit_that_was_changed(tmp_path):
    with gnomon.open(tmp_path / "x.duckdb") as engine:
        for _ in range(3):
            engine.query(["events"])
        assert names(engine) == {}
        with sqlite3.connect(tmp_path / "x.duckdb.audit") as db:
            db.execute("DELETE FROM entry WHERE number = (SELECT max(number) FROM entry)")
        db.close()
        engine.query(["events"])  # the append meets a table that does not fit
        assert names(engine)["audit-broken"] == "critical"


def test_calls_that_are_refused(tmp_path):
    with served(tmp_path / "x.duckdb", journal_max_bytes=1024**2) as service:
        assert names(service.engine) == {}
        with service.engine._hold.writer._work:
            while service.post("/ingest", [{"type": "a", "properties": {"t": "x" * 500}}] * 400).status_code == 200:
                pass
        assert "calls-refused" in names(service.engine)
        assert "calls-refused" not in names(service.engine)  # none since


def test_every_condition_is_in_the_table_of_the_docs():
    page = DOCS.read_text("utf-8").partition("| alert | means |")[2].split("\n\n")[0]
    known = {one.name for one in conditions.CONDITIONS} | {"calls-refused"}
    assert set(re.findall(r"^\| `([a-z-]+)` \|", page, re.MULTILINE)) == known


# -- telling ------------------------------------------------------------------------------------------------------


class Broken:
    """A condition that a test switches."""

    def __init__(self, engine):
        self.engine, self.level = engine, None
        self.row = watching.Condition("disk-full", "", True, self.look)
        engine._watch().extra.append(self.row)

    def look(self, _sight):
        if isinstance(self.level, Exception):
            raise self.level
        return self.level and watching.Found(self.level, "it is", "mend it")

    def becomes(self, level):
        self.level = level
        self.engine._look_for_alerts()


@pytest.fixture
def only(monkeypatch):
    """No condition but those of the test."""
    monkeypatch.setattr(conditions, "CONDITIONS", ())


def test_an_alert_is_told_once_when_it_begins_gets_worse_and_ends(only):
    clock, told = ManualClock(), []
    with gnomon.open(":memory:", clock=clock) as engine:
        engine.on_alert(lambda alert: told.append((alert.level, alert.resolved)))
        broken = Broken(engine)
        for level in (None, "warning", "warning", "critical", "critical", "warning"):
            broken.becomes(level)
        assert [alert.level for alert in engine.alerts()] == ["warning"]  # better, which is told after a while
        clock.advance(minutes=6)
        broken.becomes("warning")
        clock.advance(minutes=6)
        broken.becomes(None)
        ended = clock.now
        clock.advance(minutes=6)
        broken.becomes(None)
    assert told == [("warning", None), ("critical", None), ("warning", None), ("warning", ended)]


def test_one_that_comes_and_goes_is_told_at_most_every_five_minutes(only):
    clock, told = ManualClock(), []
    with gnomon.open(":memory:", clock=clock) as engine:
        engine.on_alert(told.append)
        broken = Broken(engine)
        for second in range(0, 3_600, 10):
            broken.becomes("warning" if second % 20 else None)
            clock.advance(seconds=10)
        broken.becomes(None)
        clock.advance(minutes=6)
        broken.becomes(None)
        assert engine.alerts() == []
    assert 2 <= len(told) <= 13 and told[-1].resolved


def test_a_rate_without_a_limit_would_be_found(only, monkeypatch):
    monkeypatch.setattr(watching, "QUIET_US", 0)
    with pytest.raises(AssertionError):
        test_one_that_comes_and_goes_is_told_at_most_every_five_minutes(None)


def test_a_condition_that_breaks_or_does_not_know_changes_nothing(only):
    with gnomon.open(":memory:", clock=ManualClock()) as engine:
        broken = Broken(engine)
        broken.becomes("warning")
        for error in (StoreUnavailable("not now"), ZeroDivisionError("a fault of ours")):
            broken.becomes(error)
            assert [alert.name for alert in engine._watch().active()] == ["disk-full"]


def test_a_restart_neither_repeats_nor_forgets(tmp_path):
    clock, told = ManualClock(), []
    file = tmp_path / "x.duckdb.damaged-20260101T000000Z"
    file.touch()
    for _ in range(2):
        with gnomon.open(tmp_path / "x.duckdb", clock=clock) as engine:
            engine.on_alert(lambda alert: told.append(alert.resolved is None))
            (alert,) = engine.alerts()
        clock.advance(minutes=10)
    file.unlink()
    with gnomon.open(tmp_path / "x.duckdb", clock=clock) as engine:
        engine.on_alert(lambda alert: told.append(alert.resolved is None))
        assert engine.alerts() == []
    assert told == [True, False] and alert.since < clock.now


def test_the_scheduler_looks_by_itself_and_no_long_job_holds_it_up(tmp_path, monkeypatch):
    heard, over = threading.Event(), threading.Event()
    monkeypatch.setattr(jobs, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(jobs, "JOBS", (jobs.Job("only", 60, lambda _: over.wait(20)),))
    with gnomon.open(tmp_path / "x.duckdb", scheduler=True) as engine:
        engine.on_alert(lambda alert: heard.set())
        (tmp_path / "x.duckdb.damaged-20260101T000000Z").touch()
        assert heard.wait(10)
        over.set()


def test_a_callback_that_fails_or_hangs_holds_nobody_up(only, caplog):
    told, hang = [], threading.Event()
    with gnomon.open(":memory:", clock=ManualClock()) as engine:
        engine.on_alert(lambda alert: 1 / 0)
        engine.on_alert(told.append)
        engine.on_alert(lambda alert: hang.wait(20))
        broken = Broken(engine)
        broken.becomes("warning")
        broken.becomes("critical")
        for _ in range(1_000):
            engine.track("a")
        engine.flush()
        assert until(lambda: len(told) == 1) and [one.level for one in engine.alerts()] == ["critical"]
        hang.set()
    assert len(told) == 2 and "ZeroDivisionError" in caplog.text
    with pytest.raises(InvalidValue), gnomon.open(":memory:") as engine:
        engine.on_alert("print")


# -- by HTTP ------------------------------------------------------------------------------------------------------


def test_a_webhook_gets_signed_json(only, tmp_path):
    with (
        receiving() as receiver,
        gnomon.open(tmp_path / "x.duckdb", clock=ManualClock(), alert_webhook=receiver.url,
                    alert_webhook_secret="shared") as engine,
    ):  # fmt: skip
        Broken(engine).becomes("critical")
        receiver.wait(1)
        ((body, headers),) = receiver.got
        expected = hmac.new(b"shared", body, hashlib.sha256).hexdigest()
        assert headers["X-Gnomon-Signature"] == f"sha256={expected}"
        assert headers["Content-Type"] == "application/json"
        assert json.loads(body) == {
            "alert": "disk-full", "state": "firing", "level": "critical", "message": "it is", "remedy": "mend it",
            "project": None, "since": "2026-01-15T12:00:00+00:00", "resolved": None,
        }  # fmt: skip
        assert "shared" not in repr(engine.settings) and receiver.url not in repr(engine.settings)


def test_a_receiver_that_is_down_gets_it_when_it_is_back(only, tmp_path, monkeypatch):
    monkeypatch.setattr(webhook, "TRIES", 200)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/"
    with gnomon.open(tmp_path / "x.duckdb", clock=ManualClock(), alert_webhook=url) as engine:
        broken = Broken(engine)
        broken.becomes("warning")
        broken.becomes("critical")
        time.sleep(0.3)
        engine.track("a")
        engine.flush()
        with receiving(port) as receiver:
            receiver.wait(2)
            assert receiver.told == [("disk-full", "firing", "warning"), ("disk-full", "firing", "critical")]


@pytest.mark.parametrize(("status", "calls"), [(503, 3), (429, 3), (404, 1), (302, 1), (204, 1)])
def test_what_is_tried_again_and_what_is_not(only, tmp_path, status, calls):
    with (
        receiving() as receiver,
        gnomon.open(tmp_path / "x.duckdb", clock=ManualClock(), alert_webhook=receiver.url) as engine,
    ):
        receiver.answer = lambda n: status if n < 3 else 204
        Broken(engine).becomes("warning")
        receiver.wait(calls)
        time.sleep(0.1)
        assert len(receiver.got) == calls


def test_a_slow_receiver_holds_neither_recording_nor_the_end_up(only, tmp_path, monkeypatch):
    monkeypatch.setattr(webhook, "TIMEOUT_SECONDS", 0.5)
    over = threading.Event()
    with receiving() as receiver:
        receiver.answer = lambda n: 204 + 0 * over.wait(300)
        with gnomon.open(tmp_path / "x.duckdb", clock=ManualClock(), alert_webhook=receiver.url) as engine:
            Broken(engine).becomes("warning")
            receiver.wait(1)
            engine.track("a")
            engine.flush()
            assert engine.query(["events"])[0]["events"] == 1
        assert not over.is_set()  # the end waited for one time-out, not for the answer
        over.set()


@pytest.mark.parametrize(
    "url", ["http://example.com/", "ftp://127.0.0.1/", "https://", "http://10.0.0.1/x", "http://[::1", "x"]
)
def test_only_https_or_loopback(url):
    with pytest.raises(InvalidValue) as caught:
        gnomon.Settings().but(alert_webhook=url)
    assert caught.value.code == "bad-config" and caught.value.remedy == "Give an https:// URL."
    for fine in ("https://example.com/x", "http://127.0.0.1:9/", "http://[::1]:9/", "http://localhost/"):
        assert gnomon.Settings().but(alert_webhook=fine).alert_webhook == fine


# -- in the service -----------------------------------------------------------------------------------------------


def test_admins_see_those_of_their_project_and_of_the_store(tmp_path):
    with served(tmp_path / "x.duckdb") as service:
        far = {"project": "far", "scope": "ingest:any admin"}
        events = [{"type": "request", "status_code": 500}] * 30
        assert service.post("/ingest", events, claims=far).status_code == 200
        service.engine.flush()
        (tmp_path / "x.duckdb.damaged-20260101T000000Z").touch()

        def seen(**claims):
            told = service.get("/admin/alerts", claims={"scope": "admin", **claims}).json()["alerts"]
            return {(alert["alert"], alert["project"]) for alert in told}

        assert seen(project="far") == {("health", "far"), ("store-damaged", None)}
        assert seen() == {("store-damaged", None)}
        assert service.get("/admin/alerts", claims={"scope": "read"}).status_code == 403

        def figures(project):
            headers = {"Authorization": f"Bearer {serving_token(project)}"}
            text = service.client.get("/metrics", headers=headers).text
            return set(re.findall(r"^gnomon_alert_active.*$", text, re.MULTILINE))

        damaged = 'gnomon_alert_active{alert="store-damaged",project=""} 1'
        assert figures("far") == {damaged, 'gnomon_alert_active{alert="health",project="far"} 2'}
        assert figures("default") == {damaged}


def serving_token(project):
    from serving import token

    return token(scope="admin", project=project)


def test_the_service_looks_at_every_project_by_itself(tmp_path, monkeypatch):
    monkeypatch.setattr("gnomon.server.service.JOBS_SECONDS", 0.05)
    monkeypatch.setattr("gnomon.server.service.TICK_SECONDS", 0.02)
    monkeypatch.setattr(jobs, "JOBS", ())
    with served(tmp_path / "x.duckdb", scheduler=True) as service:
        heard = []
        service.engine.on_alert(heard.append)
        events = [{"type": "request", "status_code": 500}] * 30
        claims = {"project": "far", "scope": "ingest:any"}
        assert service.post("/ingest", events, claims=claims).status_code == 200
        assert until(lambda: [(alert.name, alert.project) for alert in heard] == [("health", "far")])
