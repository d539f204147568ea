"""Exports and upkeep over HTTP: the engine's verbs, with its signatures and the very values that it returns."""

from __future__ import annotations

import inspect
import time
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from faulty_proxy import FaultyProxy, answer
from serving import served, token

import gnomon
from gnomon.client import Client, Patience
from gnomon.engine import AnalyticsEngine
from gnomon.errors import Forbidden, InvalidValue, StoreUnavailable, UnknownName
from gnomon.ingest.thresholds import Thresholds
from gnomon.upkeep.backup import Backup
from gnomon.upkeep.erasure import ErasureCertificate
from gnomon.upkeep.retention import PruneReport, RetentionPolicy

DAY = ["2026-01-15T00:00:00Z", "2026-01-16T00:00:00Z"]
START = datetime(2026, 1, 15, tzinfo=UTC)


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with served(tmp_path_factory.mktemp("kept") / "store.duckdb") as found:
        for n in range(3_000):
            found.engine.track(f"t{n % 3}", user_id=f"u{n % 7}", id=f"e{n}", ts=START + timedelta(seconds=n),
                               properties={"text": "x" * 200})  # fmt: skip
        found.engine.flush()
        yield found


def connect(port, **claims):
    claims.setdefault("scope", "ingest:any admin")
    return gnomon.connect(f"http://127.0.0.1:{port}", token(**claims), patience=Patience(0.01, 0.05))


@pytest.fixture
def client(service):
    with connect(service.port) as found:
        yield found


def done(client, job):
    until = time.monotonic() + 30
    while (job := client.get_export_status(job.id)).state not in ("completed", "failed"):
        assert time.monotonic() < until
        time.sleep(0.02)
    return job


def test_the_verbs_are_those_of_the_engine():
    #: What only somebody at the store itself can give or use.
    local = {"trigger_backup": {"target", "on_step"}, "stream_export": {"query", "read_ahead"}}
    for name in ("export_analytics", "get_export_status", "exports", "download_export", "stream_export",
                 "set_sampling_thresholds", "sampling_thresholds", "set_retention_policy", "get_retention_policy",
                 "set_legal_hold", "prune", "forget", "trigger_aggregation", "trigger_backup",
                 "get_access_log"):  # fmt: skip
        ours, theirs = (inspect.signature(getattr(kind, name)).parameters for kind in (Client, AnalyticsEngine))
        wanted = {key: one.default for key, one in theirs.items() if key not in local.get(name, ())}
        assert {key: one.default for key, one in ours.items()} == wanted, name


def test_a_job_and_its_file_are_the_engines(client, service, tmp_path):
    job = done(client, client.export_analytics(DAY, "csv", ["id", "type"], {"type": "t1"}))
    own = service.engine.get_export_status(job.id)
    assert job == replace_process(own) and job.rows == 1_000 and type(job) is type(own)
    found = client.download_export(job.id, tmp_path)
    assert found == tmp_path / f"export-{job.id}.csv"
    assert found.read_bytes() == service.engine.export_file(job.id).read_bytes() and len(list(tmp_path.iterdir())) == 1
    assert client.download_export(job.id, tmp_path / "own.csv").read_bytes() == found.read_bytes()
    asked = done(client, client.export_analytics(format="json", query={"metrics": ["events"], "date_range": DAY}))
    assert b'{"events":3000}' in client.download_export(asked.id, tmp_path / "answer").read_bytes()
    assert [one.id for one in client.exports()][:2] == [asked.id, job.id]


def replace_process(job):
    import msgspec

    return msgspec.structs.replace(job, process="")


def test_a_job_that_is_not_there_or_not_ready_is_the_engines_error(client, service, tmp_path, monkeypatch):
    job = client.export_analytics(DAY)
    with connect(service.port, sub="other") as other:
        for ask in (other.get_export_status, lambda id: other.download_export(id, tmp_path)):
            with pytest.raises(UnknownName) as raised:
                ask(job.id)
            assert raised.value.code == "no-such-export"
    done(client, job)
    kept = service.engine._folder().load(job.id)
    kept.state = "processing"
    monkeypatch.setattr(type(service.engine), "_find", lambda self, job_id: kept)
    with pytest.raises(InvalidValue, match="export-not-ready"):
        client.download_export(job.id, tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UnknownName):
        client.export_analytics(format="docx")


def test_a_file_that_is_cut_off_goes_on_where_it_ended(client, service, tmp_path):
    job = done(client, client.export_analytics(DAY, "ndjson"))
    wanted = service.engine.export_file(job.id).read_bytes()
    asked = []
    with FaultyProxy(service.port, share=0.0) as proxy, connect(proxy.port) as far:
        reach = far._reach

        def cutting(method, path, **named):
            """The service's answer, of which only so much comes."""
            found = reach(method, path, **named)
            if "download" in path:
                asked.append(named["headers"].get("Range"))
                if len(asked) < 3:
                    found.iter_raw = lambda: half(found)
            return found

        far._reach = cutting
        assert far.download_export(job.id, tmp_path / "a").read_bytes() == wanted
        assert asked[0] is None and asked[1] == "bytes=100000-" and asked[2] == "bytes=200000-"
        asked[:] = [None] * -99
        far._reach = lambda method, path, **named: always_cut(reach(method, path, **named), path)
        with pytest.raises(StoreUnavailable) as raised:
            far.download_export(job.id, tmp_path / "b")
    assert raised.value.code == "service-unreachable" and [one.name for one in tmp_path.iterdir()] == ["a"]


def half(found):
    yield next(httpx.Response.iter_raw(found, 100_000))
    raise httpx.ReadError("cut")


def always_cut(found, path):
    if "download" in path:
        found.iter_raw = lambda: iter_nothing()
    return found


def iter_nothing():
    raise httpx.ReadError("cut")
    yield b""


def test_events_as_a_stream(client, service):
    for asked in (
        {},
        {"time_range": DAY, "format": "ndjson", "fields": ["id", "ts"]},
        {"time_range": (START, START + timedelta(minutes=5)), "filters": {"type": "t1", "user_id": ["u1", "u2"]}},
        {"time_range": DAY, "format": "ndjson", "after": (START + timedelta(seconds=2_990), "e2990")},
    ):
        stream = client.stream_export(**asked)
        assert b"".join(stream) == b"".join(service.engine.stream_export(**asked)) and stream.sampled is False
    with pytest.raises(UnknownName):
        client.stream_export(fields=["nope"])
    for asked in ({"time_range": "7d"}, {"filters": [["is", "type", ["t1"]]]}, {"filters": {"source": "x"}}):
        with pytest.raises(InvalidValue, match="bad-query"):
            client.stream_export(**asked)
    stream = client.stream_export(DAY)
    next(stream)
    stream.close()
    with FaultyProxy(service.port, share=0.0) as proxy, connect(proxy.port) as far:
        proxy.instead.append(
            b"HTTP/1.1 200 OK\r\nContent-Disposition: attachment\r\nContent-Length: 99\r\n\r\nonly this"
        )
        with pytest.raises(StoreUnavailable):
            list(far.stream_export(DAY))


def test_policies_are_read_and_set(client, service):
    before = service.engine.sampling_thresholds()
    assert client.sampling_thresholds() == before and type(client.sampling_thresholds()) is Thresholds
    assert client.set_sampling_thresholds(5, 50, 0.5) is None
    assert client.sampling_thresholds() == service.engine.sampling_thresholds() == Thresholds(5, 50, 0.5)
    with pytest.raises(InvalidValue, match="bad-thresholds"):
        client.set_sampling_thresholds(50, 5, 0.5)
    service.engine.set_sampling_thresholds(before.low, before.high, before.rate)

    policy = RetentionPolicy(raw_data_days=90, by_type={"heartbeat": 7})
    client.set_retention_policy(policy)
    whole = RetentionPolicy(90, None, None, None, {"heartbeat": 7}, None)
    assert client.get_retention_policy() == service.engine.get_retention_policy() == whole
    client.set_retention_policy(metric_days=30)
    until = datetime(2036, 1, 1, tzinfo=UTC)
    client.set_legal_hold(until)
    wanted = RetentionPolicy(90, None, None, 30, {"heartbeat": 7}, until)
    assert service.engine.get_retention_policy() == client.get_retention_policy() == wanted
    client.set_retention_policy(RetentionPolicy(raw_data_days=80))
    assert client.get_retention_policy().legal_hold_until == until  # what is not named stays
    with pytest.raises(InvalidValue, match="legal-hold"):
        client.forget("u1")
    client.set_legal_hold(None)
    for wrong, kind in (({"raw_days": 3}, UnknownName), ({"raw_data_days": -1}, InvalidValue)):
        with pytest.raises(kind):
            client.set_retention_policy(**wrong)
    client.set_retention_policy(RetentionPolicy(None, None, None, None, {}, None))


def test_a_policy_of_another_version_of_the_service_is_completed(client, service):
    with FaultyProxy(service.port, share=0.0) as proxy, connect(proxy.port) as far:
        proxy.instead.append(answer(200, '{"raw_data_days":9}', Content_Type="application/json"))
        assert far.get_retention_policy() == RetentionPolicy(9, None, None, None, {}, None)


def test_what_is_removed(tmp_path):
    with served(tmp_path / "store.duckdb") as service, connect(service.port) as client:
        for n in range(100):
            service.engine.track("t", user_id=f"u{n % 2}", ts=START + timedelta(seconds=n))
        service.engine.flush()
        client.set_retention_policy(raw_data_days=1)
        counted = client.prune(dry_run=True)
        assert (type(counted) is PruneReport, counted.dry_run, counted.raw) == (True, True, 100)
        told = client.forget("u1")
        assert type(told) is ErasureCertificate and told.rows == 50 and told.backups == ()
        assert client.active_users(DAY)[0]["people"] == 1
        assert (client.prune().raw, client.prune().raw) == (100, 0)
        assert client.query(["events"], date_range=DAY).rows == [{"events": 100}]


def test_rollups_and_backups(client, service):
    report = client.trigger_aggregation()
    assert report.events == 3_000 and report.until_us > 1_700_000_000_000_000
    assert client.trigger_aggregation(DAY).events == 0
    made = client.trigger_backup()
    (kept,) = service.engine.backups()
    assert type(made) is Backup and made.verified and made.path.endswith(kept.name) and made.counts["events"] == 3_000
    with connect(service.port, scope="read") as reader:
        for ask in (reader.trigger_backup, reader.trigger_aggregation, lambda: reader.set_legal_hold(None)):
            with pytest.raises(Forbidden):
                ask()


def test_the_access_log(client, service):
    with connect(service.port, sub="auditor") as other:
        other.query(["events"], ["type"], DAY)
        other.get_retention_policy()
    found = client.get_access_log(user_filter="auditor")
    assert found == service.engine.get_access_log(user_filter="auditor") and found[0].operation == "query"
    assert found[0].range == (START, START + timedelta(days=1))
    assert len(client.get_access_log("today", limit=2)) == 2
    assert client.get_access_log((START, START + timedelta(days=1))) == client.get_access_log(DAY) == []
    with connect(service.port, sub="nosy", scope="read") as other, pytest.raises(Forbidden):
        other.get_access_log(user_filter="auditor")


def test_what_may_not_be_done_twice_is_sent_once(client, service):
    def jobs():
        return len(service.engine.exports())

    with FaultyProxy(service.port, share=0.0) as proxy, connect(proxy.port) as far:
        before = jobs()
        proxy.instead += [answer(503, "{}", Retry_After="0"), answer(429)]  # nothing was done, so it may go again
        far.export_analytics(DAY)
        assert jobs() == before + 1 and not proxy.instead
        for lost in (b"", answer(502), answer(200, "<html>")):  # nobody knows whether it was done
            proxy.instead += [lost, lost]
            with pytest.raises(StoreUnavailable):
                far.export_analytics(DAY)
            assert len(proxy.instead) == 1 and jobs() == before + 1
            proxy.instead.clear()
        for work in (far.prune, lambda: far.forget("u1"), far.trigger_aggregation, far.trigger_backup):
            proxy.instead += [
                answer(504)
            ]  # of a proxy that does not wait for it: the next answer would tell of nothing
            with pytest.raises(StoreUnavailable):
                work()
            assert not proxy.instead
        proxy.instead += [answer(502), b""]
        far.set_sampling_thresholds(10_000, 100_000, 0.1)  # the same again
        assert not proxy.instead


def test_it_loads_nothing_of_the_engine_until_it_is_asked():
    import subprocess
    import sys

    code = ("import sys, gnomon.client; found = {'gnomon.engine', 'gnomon.server', 'gnomon.export.jobs', 'duckdb', "
            "'gnomon.upkeep.retention'} & set(sys.modules); sys.exit(str(found) if found else 0)")  # fmt: skip
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
