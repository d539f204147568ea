"""`gnomon.connect` against the real service: everything once, whatever happens to the answers on the way."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx
import pytest
from faulty_proxy import FaultyProxy, answer
from hypothesis import example, given
from hypothesis import strategies as st
from serving import served, token

import gnomon
from gnomon.client import Limits, Patience
from gnomon.client.entries import _address
from gnomon.errors import EngineClosed, StoreUnavailable
from gnomon.ingest.addresses import split_url
from gnomon.ingest.rules import Refusal
from gnomon.instrument.asgi import RecordingMiddleware

QUICK = Patience(0.01, 0.1)
SMALL = Limits(batch_events=25, flush_seconds=0.05)


@pytest.fixture(scope="module")
def service():
    with served() as found:
        yield found


def client_of(service, **more):
    port = getattr(service, "port", service)
    more.setdefault("patience", QUICK)
    return gnomon.connect(f"http://127.0.0.1:{port}", more.pop("token", token(scope="ingest:any read")), **more)


def stored(service, **filters):
    service.engine.flush()
    wanted = [["is", name, [value]] for name, value in filters.items()]
    return service.engine.query(["events"], filters=wanted)[0]["events"]


NAMES = ["type", "user_id", "device_id", "session_id", "source", "application", "domain", "endpoint", "method",
         "status_code"]  # fmt: skip
SUMS = ["events", "failures", "sum_duration_ms", "sum_bytes_sent", "sum_bytes_received",
        {"agg": "sum", "field": "properties.n", "as": "n"}]  # fmt: skip


def test_every_field_arrives_as_with_the_engine(service):
    fields = {
        "user_id": "u1", "device_id": "d1", "session_id": "s1", "source": "web", "application": "fields", "weight": 2.0,
        "method": "GET", "status_code": 200, "duration_ms": 1.5, "bytes_sent": 5, "bytes_received": 7, "success": False,
        "error_code": "e", "properties": {"plan": "pro", "n": 3, "list": [1, {"a": None}]},
        "ts": datetime.now(UTC),
    }  # fmt: skip
    with client_of(service) as client, gnomon.open(":memory:", sampling=False) as other:
        for one in (client, other):
            one.track("all", domain="h:80", endpoint="/p", id="fields-1", **fields)
            one.record_request(url="https://user:pass@Example.com:8443/a/b?q=1#f", id="fields-2", **fields)
            one.record_metric("depth", 3, kind="gauge", labels={"queue": "mail"})
            one.flush()
        assert client.delivery().acknowledged == 2 and client.delivery("sample").acknowledged == 1
        assert client.delivery().closes() and client.delivery("sample").closes()
        wanted = other.query(SUMS, NAMES).to_dicts()
    service.engine.flush()
    assert service.engine.query(SUMS, NAMES, filters=[["is", "application", ["fields"]]]).to_dicts() == wanted
    assert len(wanted) == 2 and wanted[0]["n"] == 6 and service.engine.books("sample").stored == 1


@given(st.one_of(st.text(max_size=30), st.from_regex(r"https?://([a-z]+:[a-z@]+@)?[a-zA-Z.]+(:[0-9]{1,5})?(/[a-z@?#]*)*",
                                                     fullmatch=True)))  # fmt: skip
@example("user:password@host/path")
@example("http:/user:password@host")
@example("/only/a/path@x")
@example("http://h:99999/")
def test_addresses_are_taken_apart_as_by_the_engine(url):
    try:
        wanted = split_url(url)
    except Refusal:
        wanted = None
    try:
        found = _address(url)
    except ValueError:
        found = None
    assert found == wanted


def hammer(service, events, threads, share=0.3):
    told = []
    with FaultyProxy(service.port, share) as proxy:
        client = client_of(proxy.port, limits=SMALL, on_refused=lambda code, event: told.append(code))
        name = f"hammer-{proxy.port}"

        def work(number):
            for n in range(events // threads):
                client.track("hammer", application=name, user_id=f"u{number}", properties={"n": n})
                client.record_metric(name, n)
                if n % 40 == 0:
                    time.sleep(0.002)

        workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        client.flush(120)
        numbers = client.delivery()
        client.close()
        assert stored(service, application=name) == events
        sampled = service.engine.query(["samples"], dataset="samples", filters=["is", "name", [name]])
        assert sampled[0]["samples"] == events
        assert (numbers.acknowledged, numbers.waiting, numbers.refused, numbers.lost) == (events, 0, {}, {})
        assert numbers.closes() and told == []
        return proxy.done


def test_spoiled_answers_lose_and_double_nothing(service):
    done = hammer(service, 2_000, 8)
    assert all(done[fault] for fault in ("drop", "delay", "cut", "double", "none"))
    for kind in ("event", "sample"):
        assert service.engine.books(kind).closes() and service.engine.books(kind).duplicate


@pytest.mark.slow
def test_spoiled_answers_over_twenty_thousand_events(service):
    done = hammer(service, 20_000, 8)
    assert sum(done[fault] for fault in ("drop", "cut")) > 50


def test_a_service_that_ends_and_begins_again_has_everything_once(tmp_path):
    store = tmp_path / "store.duckdb"
    with FaultyProxy(None, share=0.3) as proxy:
        client = client_of(proxy.port, limits=SMALL)
        going = threading.Event()

        def record():
            while not going.wait(0.001):
                client.track("steady")

        thread = threading.Thread(target=record)
        thread.start()
        for _ in range(2):
            with served(store) as service:
                proxy.upstream = service.port
                time.sleep(0.5)
            proxy.upstream = None
            time.sleep(0.1)
        going.set()
        thread.join()
        with served(store) as service:
            proxy.upstream = service.port
            client.flush(30)
            numbers = client.delivery()
            client.close()
            assert stored(service) == numbers.acknowledged == numbers.recorded > 200
            assert numbers.closes() and not numbers.refused


def test_it_waits_for_the_service_and_then_delivers(service):
    with FaultyProxy(service.port, share=0.0) as proxy:
        proxy.upstream = None
        client = client_of(proxy.port, limits=SMALL)
        for n in range(60):
            client.track("waiting", user_id=f"u{n}")
        with pytest.raises(StoreUnavailable) as raised:
            client.flush(0.3)
        assert raised.value.code == "not-acknowledged" and client.delivery().waiting == 60
        proxy.upstream = service.port
        client.flush(20)
        assert client.delivery().acknowledged == 60
        client.close()
    assert stored(service, type="waiting") == 60


PAGE = "<html>Welcome to our network</html>"


def test_what_is_not_the_services_own_word_is_tried_again(service):
    with FaultyProxy(service.port, share=0.0) as proxy, client_of(proxy.port) as client:
        proxy.instead += [
            answer(503, PAGE), answer(500), answer(502, PAGE), answer(504), answer(507, "{}"), answer(408), answer(429),
            answer(200, PAGE, Content_Type="text/html"), answer(200, '{"ingested": 99, "rejected": []}'), answer(204),
            answer(200, '{"ingested": 1}'), answer(200, "[]"), b"nonsense",
        ]  # fmt: skip
        client.track("again")
        client.flush(20)
        assert client.delivery().acknowledged == 1 and not proxy.instead
    assert stored(service, type="again") == 1


@pytest.mark.parametrize("date", [False, True], ids=["seconds", "date"])
def test_retry_after_is_honoured(service, date):
    with FaultyProxy(service.port, share=0.0) as proxy, client_of(proxy.port) as client:
        began = time.monotonic()
        moment = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
        proxy.instead.append(answer(429, "{}", Retry_After=moment if date else "1"))
        client.track("patient")
        client.flush(20)
        assert client.delivery().acknowledged == 1 and time.monotonic() - began >= 0.9


@pytest.mark.parametrize("status", [301, 404, 405, 418])
def test_what_will_never_be_taken_is_dropped_and_told(service, status):
    told = []
    refused = lambda code, event: told.append((code, event["type"]))  # noqa: E731
    with FaultyProxy(service.port, share=0.0) as proxy, client_of(proxy.port, on_refused=refused) as client:
        proxy.instead.append(answer(status, PAGE))
        client.track("first")
        client.flush()
        client.track("second")
        client.flush()
        assert told == [(f"http-{status}", "first")] and client.delivery().acknowledged == 1
        assert client.delivery().refused == {f"http-{status}": 1} and client.delivery().closes()


def test_a_callback_that_fails_stops_nothing(service):
    with client_of(service, on_refused=lambda code, event: 1 / 0) as client:
        client.track("bad", status_code=9)
        client.track("good")
        client.flush()
        assert client.delivery().acknowledged == 1 and client.delivery().refused.total() == 1


def test_refusals_are_told_and_take_nothing_along(service):
    told = []
    with client_of(service, on_refused=lambda code, event: told.append((code, event["type"]))) as client:
        for n in range(30):
            client.track("fine", id=f"fine-{n}")
        client.track("bad", status_code=9)
        client.track("deep", properties=deep(40))  # the service refuses the whole body
        client.track("old", ts="1999-01-01T00:00:00Z")
        client.flush()
        numbers = client.delivery()
    assert sorted(told) == [("out-of-range", "bad"), ("time-out-of-range", "old"), ("too-deep", "deep")]
    assert numbers.acknowledged == 30 and numbers.refused.total() == 3 and numbers.closes()
    assert stored(service, type="fine") == 30


def deep(levels):
    return {"a": deep(levels - 1)} if levels else {}


def test_a_batch_that_is_too_large_is_halved():
    with served(max_batch_size=10) as service, client_of(service) as client:
        for n in range(95):
            client.track("many", user_id=f"u{n}")
        client.flush()
        assert client.delivery().acknowledged == 95
        assert stored(service) == 95


def test_what_json_cannot_hold_is_lost_here_and_counted(service):
    class Odd:
        pass

    with client_of(service) as client:
        for value in (float("nan"), float("inf"), 2**63, -(2**63) - 1, "\ud800", Odd(), {"deep": [float("nan")]}):
            client.track("odd", properties={"value": value})
        client.track("odd", duration_ms=float("nan"))
        client.track("odd", ts=datetime(2026, 1, 1))
        client.record_metric("m", float("inf"))
        client.track("odd", properties={"none": None, "long": 2**63 - 1, "text": "null" + "9" * 30})
        client.flush()
        assert client.delivery().lost == {"not-sendable": 9} and client.delivery().acknowledged == 1
        assert client.delivery("sample").lost == {"not-sendable": 1}


def test_a_full_buffer_sheds_and_counts(service):
    with FaultyProxy(service.port, share=0.0) as proxy:
        proxy.upstream = None
        client = client_of(proxy.port, limits=Limits(batch_events=10, most_events=50, flush_seconds=0.01))
        for _ in range(200):
            client.track("shed")
        numbers = client.delivery()
        assert 140 <= numbers.lost["buffer-full"] <= 150 and numbers.closes()
        proxy.upstream = service.port
        client.close(10)
        assert client.delivery().waiting == 0 and client.delivery().closes()


def test_a_wrong_token_is_reported_and_a_fresh_one_is_fetched(service):
    told = []
    with client_of(service, token="nonsense", on_refused=lambda code, event: told.append(code)) as client:
        client.track("nobody")
        client.flush()
    assert told == ["unauthorized"]
    given = []

    def fresh():
        given.append(token(scope="ingest", exp=int(time.time()) + (60 if given else -60)))
        return given[-1]

    with client_of(service, token=fresh, on_refused=lambda code, event: told.append(code)) as client:
        client.track("fresh")
        client.flush()
        assert client.delivery().acknowledged == 1 and len(given) == 2 and len(told) == 1


def test_closed_and_bad_arguments(service):
    client = client_of(service)
    client.close()
    client.close()
    client.track("late")
    assert client.delivery().lost == {"closed": 1} and client.delivery().closes()
    with pytest.raises(EngineClosed):
        client.flush()
    for url in ("", "ftp://x", "nonsense", "http://user:pw@h", "http://h?x=1", 7):
        with pytest.raises(gnomon.GnomonError) as raised:
            gnomon.connect(url, "t")
        assert raised.value.code == "bad-service-address"
    for bad in ("", None, "a\nb", 7):
        with pytest.raises(gnomon.GnomonError, match="bad-token"):
            gnomon.connect("http://h", bad)


ENDS = """
import os, sys
sys.path.insert(0, {here!r})
import gnomon
from gnomon.client import Limits
client = gnomon.connect(sys.argv[1], sys.argv[2], limits=Limits(flush_seconds=60))
how = sys.argv[3]
client.track("end", user_id="parent", application=how)
if how == "fork":
    for n in range(3):
        if not os.fork():
            client.track("end", user_id=f"child-{{n}}", application=how)
            raise SystemExit
    for n in range(3):
        os.wait()
if how == "multiprocessing":
    import multiprocessing
    def work(n):
        client.track("end", user_id=f"child-{{n}}", application=how)
    workers = [multiprocessing.get_context("fork").Process(target=work, args=(n,)) for n in range(3)]
    [worker.start() for worker in workers]
    [worker.join() for worker in workers]
"""


def test_the_end_of_a_process_does_not_wait_long_for_a_service_that_is_away():
    with FaultyProxy(None) as proxy:
        code = ("import atexit, sys, time\n"
                "atexit.register(lambda: print(time.monotonic() - began))\n"  # the first registered runs last
                "import gnomon\n"
                "client = gnomon.connect(sys.argv[1], 'token', exit_seconds=0.3)\n"
                "[client.track('lost') for _ in range(3)]\n"
                "began = time.monotonic()")  # fmt: skip
        done = subprocess.run([sys.executable, "-c", code, proxy.url], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr.strip() == "3 events could not be sent before the end"
    assert 0.2 < float(done.stdout) < 5


def test_a_callback_that_flushes_is_told_that_it_cannot(service):
    told = []

    def refused(code, event):
        with pytest.raises(StoreUnavailable):
            client.flush(5)
        told.append(code)

    with client_of(service, on_refused=refused) as client:
        client.track("bad", status_code=9)
        client.flush(10)
    assert told == ["out-of-range"]


@pytest.mark.parametrize(("how", "events"), [("exit", 1), ("fork", 4), ("multiprocessing", 4)])
def test_the_end_of_a_process_sends_what_waits(service, how, events):
    code = ENDS.format(here=str(Path(__file__).parent))
    command = [sys.executable, "-c", code, f"http://127.0.0.1:{service.port}", token(scope="ingest:any"), how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ})
    assert (done.returncode, done.stderr) == (0, "")
    assert stored(service, application=how) == events
    assert len(service.engine.query(["events"], ["user_id"], filters=[["is", "application", [how]]])) == events


def test_the_middleware_records_into_a_service(service):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})

    async def visit(middleware):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(middleware), base_url="http://site") as browser:
            for _ in range(10):
                await browser.get("/somewhere")

    with client_of(service) as client:
        middleware = RecordingMiddleware(app, client, application="remote", user=lambda scope: "u1")
        asyncio.run(visit(middleware))
        client.flush()
        assert client.delivery().acknowledged == 10 and not middleware.faults
    assert stored(service, application="remote", user_id="u1", endpoint="(unmatched)") == 10
