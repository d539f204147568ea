"""httpx and requests through real sockets: every request leaves one exact record, and the host notices nothing."""

from __future__ import annotations

import asyncio
import functools
import gc
import gzip
import importlib.util
import pickle
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import requests
import urllib3
from requests.adapters import BaseAdapter, HTTPAdapter

from gnomon.instrument import httpx as on_httpx
from gnomon.instrument import requests as on_requests

SECRETS = ("hunter2", "s3cret", "alice")
BIG = 300_000
PLAIN = b"the same words again and again " * 400
PACKED = gzip.compress(PLAIN, mtime=0)


def _example():
    path = Path(__file__).resolve().parents[2] / "examples" / "proxy_rotator.py"
    spec = importlib.util.spec_from_file_location("proxy_rotator_servers", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


example = _example()


class Engine:
    """The caller's side: keeps what it is told."""

    def __init__(self):
        self.records = []

    def record_request(self, **fields):
        self.records.append(fields)

    @property
    def only(self):
        assert len(self.records) == 1, self.records
        return self.records[0]


class Site(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 5

    def setup(self):
        super().setup()
        self.server.connections += 1

    def do_GET(self):
        name = urlsplit(self.path).path.split("/")[1]
        getattr(self, f"_{name}", self._ok)()

    def do_POST(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                self.rfile.read(size + 2)
            self.rfile.readline()
        else:
            self.rfile.read(int(self.headers["Content-Length"]))
        self._ok()

    def do_HEAD(self):
        self._head(200, 1234)

    def _head(self, status, length=None, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def _chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def _ok(self):
        self._head(200, 5)
        self.wfile.write(b"hello")

    def _missing(self):
        self._head(404, 4)
        self.wfile.write(b"none")

    def _empty(self):
        self._head(204)

    def _late(self):
        time.sleep(0.08)
        self._ok()

    def _drip(self):
        self._head(200, 10)
        self.wfile.write(b"first")
        time.sleep(0.08)
        self.wfile.write(b"again")

    def _big(self):
        self._head(200, BIG)
        self.wfile.write(b"x" * BIG)

    def _gzip(self):
        self._head(200, len(PACKED), Content_Encoding="gzip")
        self.wfile.write(PACKED)

    def _pieces(self):
        self._head(200, Content_Encoding="gzip", Transfer_Encoding="chunked")
        self._chunk(PACKED[:50])
        self._chunk(PACKED[50:])
        self._chunk(b"")

    def _cut(self):
        self._head(200, 1000)
        self.wfile.write(b"y" * 100)
        self.close_connection = True

    def _cutpieces(self):
        self._head(200, Transfer_Encoding="chunked")
        self._chunk(b"y" * 100)
        self.close_connection = True

    def _notgzip(self):
        self._head(200, 5, Content_Encoding="gzip")
        self.wfile.write(b"hello")

    def _hangup(self):
        self.close_connection = True

    def _stall(self):
        self._head(200, 10)
        self.wfile.write(b"first")
        self.server.released.wait(5)
        self.close_connection = True

    def _silent(self):
        self.server.released.wait(5)
        self.close_connection = True

    def _hop(self):
        self._head(302, 3, Location="/ok?token=s3cret")
        self.wfile.write(b"hop")

    def _digest(self):
        if "Authorization" in self.headers:
            return self._ok()
        return self._head(401, 0, WWW_Authenticate='Digest realm="r", nonce="n", qop="auth"')

    def log_message(self, *args):
        pass


@pytest.fixture
def site():
    server = example.Server(Site)
    server.connections = 0
    server.released = threading.Event()
    with server:
        yield server
        server.released.set()


@pytest.fixture
def proxy():
    with example.ForwardProxy() as server:
        yield server


@pytest.fixture
def engine():
    return Engine()


def by_httpx(engine, url, *, method="GET", body=None, timeout=5.0, proxy=None, follow=False, **labels):
    with httpx.Client(proxy=proxy, trust_env=False, timeout=timeout, follow_redirects=follow) as client:
        response = on_httpx.instrument(client, engine, **labels).request(method, url, content=body)
        return response.status_code, response.content


def by_async_httpx(engine, url, *, method="GET", body=None, timeout=5.0, proxy=None, follow=False, **labels):
    async def send():
        async with httpx.AsyncClient(proxy=proxy, trust_env=False, timeout=timeout, follow_redirects=follow) as client:
            response = await on_httpx.instrument(client, engine, **labels).request(method, url, content=body)
            return response.status_code, response.content

    return asyncio.run(send())


def by_requests(engine, url, *, method="GET", body=None, timeout=5.0, proxy=None, follow=False, **labels):
    with requests.Session() as session:
        session.trust_env = False
        session.proxies = {"http": proxy, "https": proxy} if proxy else {}
        on_requests.instrument(session, engine, **labels)
        response = session.request(method, url, data=body, timeout=timeout, allow_redirects=follow)
        return response.status_code, response.content


HOSTS = [by_httpx, by_async_httpx, by_requests]
every_host = pytest.mark.parametrize("send", HOSTS)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def exact(record, **expected):
    """All of the record but its duration, which is returned."""
    record = dict(record)
    duration = record.pop("duration_ms")
    assert record == {"success": None, "error_code": None, **expected}
    assert 0 < duration < 10_000
    return duration


# What one request leaves behind


@every_host
def test_a_request_is_recorded_exactly_once_with_all_it_is_known_by(send, engine, site):
    assert send(engine, f"{site.url}/ok/a", source="free-list", application="crawler") == (200, b"hello")
    exact(
        engine.only,
        source="free-list",
        application="crawler",
        url=f"{site.url}/ok/a",
        method="GET",
        status_code=200,
        bytes_sent=0,
        bytes_received=5,
    )


@every_host
def test_the_status_decides_on_success_so_a_404_is_recorded_without_a_verdict(send, engine, site):
    assert send(engine, f"{site.url}/missing") == (404, b"none")
    assert [engine.only[key] for key in ("status_code", "success", "error_code", "source")] == [404, None, None, None]


@every_host
@pytest.mark.parametrize(("path", "method", "status"), [("/ok", "HEAD", 200), ("/empty", "GET", 204)])
def test_an_answer_without_a_body_has_received_zero_bytes(send, engine, site, path, method, status):
    assert send(engine, f"{site.url}{path}", method=method) == (status, b"")
    assert (engine.only["method"], engine.only["bytes_received"]) == (method, 0)


@every_host
def test_the_request_body_is_counted_by_its_length(send, engine, site):
    assert send(engine, f"{site.url}/ok", method="POST", body=b"z" * 777) == (200, b"hello")
    assert (engine.only["bytes_sent"], engine.only["bytes_received"]) == (777, 5)


@pytest.mark.parametrize("send", [by_httpx, by_requests])
def test_a_request_body_streamed_without_a_length_is_unknown_and_not_read_ahead(send, engine, site):
    assert send(engine, f"{site.url}/ok", method="POST", body=iter([b"ab", b"cd"]))[0] == 200
    assert engine.only["bytes_sent"] is None


@every_host
@pytest.mark.parametrize("path", ["/gzip", "/pieces"])
def test_bytes_received_are_those_of_the_wire_not_the_unpacked_ones(send, engine, site, path):
    assert send(engine, f"{site.url}{path}") == (200, PLAIN)
    assert engine.only["bytes_received"] == len(PACKED)


@every_host
@pytest.mark.parametrize("path", ["/late", "/drip"])
def test_the_duration_spans_from_send_to_the_last_byte_of_the_body(send, engine, site, path):
    send(engine, f"{site.url}{path}")
    assert 80 <= engine.only["duration_ms"] < 2000


@every_host
def test_each_redirect_hop_is_a_request_of_its_own(send, engine, site):
    assert send(engine, f"{site.url}/hop", follow=True) == (200, b"hello")
    assert [(r["url"], r["status_code"], r["bytes_received"]) for r in engine.records] == [
        (f"{site.url}/hop", 302, 3),
        (f"{site.url}/ok", 200, 5),
    ]


# Sources, and what must never be kept


@every_host
def test_the_default_source_is_the_proxys_address_and_no_secret_is_recorded_anywhere(send, engine, site, proxy):
    address = f"127.0.0.1:{proxy.server_port}"
    origin = site.url.removeprefix("http://")
    url = f"http://alice:hunter2@{origin}/ok/page?key=s3cret#s3cret"
    assert send(engine, url, proxy=f"http://alice:hunter2@{address}") == (200, b"hello")
    assert engine.only["source"] == address
    assert engine.only["url"] == f"http://{origin}/ok/page"
    assert not any(secret in repr(engine.records) for secret in SECRETS)


@every_host
@pytest.mark.parametrize(
    ("source", "recorded"),
    [
        ("named", "named"),
        (lambda request: f"by-{request.method}", "by-GET"),
        (lambda request: "http://alice:hunter2@[::1]:9000", "[::1]:9000"),
        ("socks5://alice:hunter2@proxy.example", "proxy.example:1080"),
        (lambda request: None, "PROXY"),
        (lambda request: 1 / 0, "PROXY"),
    ],
    ids=["name", "callable", "callable-url", "url", "callable-none", "callable-raises"],
)
def test_a_source_is_a_name_or_is_asked_per_request_and_falls_back_to_the_proxy(
    send, engine, site, proxy, source, recorded
):
    assert send(engine, f"{site.url}/ok", proxy=proxy.url, source=source)[0] == 200
    assert engine.only["source"] == recorded.replace("PROXY", f"127.0.0.1:{proxy.server_port}")


def test_a_callable_source_is_asked_when_the_request_is_sent(engine, site):
    current = ["first"]
    with httpx.Client(trust_env=False) as client:
        on_httpx.instrument(client, engine, source=lambda request: current[0])
        with client.stream("GET", f"{site.url}/ok") as response:
            current[0] = "second"
            response.read()
    assert engine.only["source"] == "first"


@pytest.mark.parametrize("kind", [str, httpx.URL, httpx.Proxy])
def test_a_recording_transport_built_with_a_proxy_sends_through_it_and_names_it(engine, site, proxy, kind):
    given = kind(f"http://alice:hunter2@127.0.0.1:{proxy.server_port}")
    transport = on_httpx.RecordingTransport(engine, application="crawler", proxy=given)
    with httpx.Client(transport=transport) as client:
        assert client.get(f"{site.url}/ok").text == "hello"
    assert (engine.only["source"], engine.only["application"]) == (f"127.0.0.1:{proxy.server_port}", "crawler")

    async def send():
        async with httpx.AsyncClient(transport=on_httpx.AsyncRecordingTransport(engine, proxy=given)) as client:
            return (await client.get(f"{site.url}/ok")).text

    assert asyncio.run(send()) == "hello"
    assert engine.records[1]["source"] == f"127.0.0.1:{proxy.server_port}"
    assert not any(secret in repr(engine.records) for secret in SECRETS)


# Failures


@every_host
def test_a_refused_connection_is_a_failure_with_a_code(send, engine):
    url = f"http://127.0.0.1:{free_port()}/x"
    with pytest.raises((httpx.ConnectError, requests.ConnectionError)):
        send(engine, url, source="s")
    exact(
        engine.only,
        source="s",
        application=None,
        url=url,
        method="GET",
        status_code=None,
        bytes_sent=0,
        bytes_received=None,
        success=False,
        error_code="connect-error",
    )


@every_host
@pytest.mark.parametrize(
    ("path", "code", "status", "received"),
    [
        ("/silent", "read-timeout", None, None),
        ("/stall", "read-timeout", 200, 5),
        ("/cut", "remote-protocol-error", 200, 100),
        ("/cutpieces", "remote-protocol-error", 200, 100),
        ("/hangup", "remote-protocol-error", None, None),
    ],
)
def test_failures_on_the_way_have_one_code_in_every_library(send, engine, site, path, code, status, received):
    with pytest.raises((httpx.TransportError, requests.RequestException)) as raised:
        send(engine, f"{site.url}{path}", timeout=0.15)
    assert type(raised.value).__module__.split(".")[0] in ("httpx", "requests")
    record = engine.only
    assert (record["success"], record["error_code"], record["status_code"]) == (False, code, status)
    # requests asks for a whole block, and a block that never filled is lost below urllib3.
    assert record["bytes_received"] == (0 if path == "/stall" and send is by_requests else received)
    assert record["duration_ms"] >= (150 if "timeout" in code else 0)


@every_host
def test_a_failed_tls_handshake_is_told_apart_from_a_refused_connection(send, engine, site):
    with pytest.raises((httpx.ConnectError, requests.exceptions.SSLError)):
        send(engine, f"https://127.0.0.1:{site.server_port}/x")
    assert (engine.only["error_code"], engine.only["success"]) == ("tls-error", False)


@every_host
def test_a_proxy_that_refuses_the_tunnel_is_a_proxy_error(send, engine, proxy):
    with pytest.raises((httpx.ProxyError, requests.exceptions.ProxyError)):
        send(engine, f"https://127.0.0.1:{free_port()}/x", proxy=proxy.url)
    assert (engine.only["error_code"], engine.only["source"]) == ("proxy-error", f"127.0.0.1:{proxy.server_port}")


@every_host
def test_a_failure_met_while_another_is_handled_keeps_its_own_code(send, engine, site):
    with pytest.raises((httpx.TransportError, requests.RequestException)):
        try:
            send(engine, f"https://127.0.0.1:{site.server_port}/x")
        except (httpx.TransportError, requests.RequestException):
            send(engine, f"http://127.0.0.1:{free_port()}/x")
    assert [record["error_code"] for record in engine.records] == ["tls-error", "connect-error"]


def test_a_body_that_cannot_be_unpacked_is_a_failure_of_requests(engine, site):
    with pytest.raises(requests.exceptions.ContentDecodingError):
        by_requests(engine, f"{site.url}/notgzip")
    assert (engine.only["error_code"], engine.only["status_code"]) == ("decoding-error", 200)


def test_an_exception_made_to_mislead_is_re_raised_untouched(engine):
    class Ring(Exception):
        @property
        def reason(self):
            return self

    class Hostile(Exception):
        @property
        def reason(self):
            raise RuntimeError("no")

    class Failing(BaseAdapter):
        def send(self, request, **kwargs):
            raise self.error

        def close(self):
            pass

    for error, code in ((Ring(), "ring"), (Hostile(), "hostile"), (KeyboardInterrupt(), "keyboard-interrupt")):
        failing = Failing()
        failing.error = error
        with requests.Session() as session:
            session.mount("mem://", on_requests.RecordingAdapter(engine, adapter=failing))
            with pytest.raises(type(error)) as raised:
                session.get("mem://x/y")
        assert raised.value is error
        assert engine.records[-1]["error_code"] == code


def test_a_cancelled_task_is_recorded_and_stays_cancelled(engine, site):
    async def send():
        async with httpx.AsyncClient(trust_env=False) as client:
            on_httpx.instrument(client, engine)
            await asyncio.wait_for(client.get(f"{site.url}/silent"), 0.1)

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(send())
    assert (engine.only["success"], engine.only["error_code"]) == (False, "cancelled-error")


# Streams


def test_streamed_bodies_are_measured_until_read_or_closed_and_recorded_once(engine, site):
    with httpx.Client(trust_env=False) as client:
        on_httpx.instrument(client, engine)
        with client.stream("GET", f"{site.url}/drip") as response:
            assert engine.records == []
            assert b"".join(response.iter_bytes(3)) == b"firstagain"
            assert engine.only["bytes_received"] == 10
        assert engine.only["duration_ms"] >= 80
        with client.stream("GET", f"{site.url}/big") as response:
            next(response.iter_raw())
        with client.stream("GET", f"{site.url}/big") as response:
            pass
        response = client.send(client.build_request("GET", f"{site.url}/big"), stream=True)
        parts = response.iter_raw()
        next(parts)
        response.close()
        del parts
        assert client.get(f"{site.url}/ok").text == "hello"
    assert [record["status_code"] for record in engine.records] == [200] * 5
    assert [record["error_code"] for record in engine.records] == [None] * 5
    begun, unread, closed = (record["bytes_received"] for record in engine.records[1:4])
    assert 0 < begun < BIG and unread == 0 and 0 < closed < BIG


def test_async_streamed_bodies_are_measured_until_read_or_closed_and_recorded_once(engine, site):
    async def send():
        async with httpx.AsyncClient(trust_env=False) as client:
            on_httpx.instrument(client, engine)
            async with client.stream("GET", f"{site.url}/drip") as response:
                assert engine.records == []
                assert b"".join([part async for part in response.aiter_bytes(3)]) == b"firstagain"
            async with client.stream("GET", f"{site.url}/big") as response:
                parts = response.aiter_raw()
                await anext(parts)
                await parts.aclose()
            async with client.stream("GET", f"{site.url}/big"):
                pass

    asyncio.run(send())
    assert [record["error_code"] for record in engine.records] == [None] * 3
    read, begun, unread = (record["bytes_received"] for record in engine.records)
    assert read == 10 and 0 < begun < BIG and unread == 0


@pytest.mark.parametrize("path", ["/big", "/pieces"])
def test_requests_streams_are_recorded_once_however_they_are_read(engine, site, path):
    size = BIG if path == "/big" else len(PACKED)
    ways = [
        lambda response: list(response.iter_content(1000)),
        lambda response: list(response.iter_lines()),
        lambda response: response.raw.read(),
        lambda response: response.raw.read(decode_content=False),
        lambda response: list(response.raw.stream(1000)),
        lambda response: list(response.raw),
        lambda response: response.raw.drain_conn(),
        lambda response: [*iter(functools.partial(response.raw.read1, 1000, decode_content=False), b"")],
    ]
    with requests.Session() as session:
        session.trust_env = False
        on_requests.instrument(session, engine)
        for count, read in enumerate(ways, 1):
            response = session.get(f"{site.url}{path}", stream=True)
            assert len(engine.records) == count - 1
            read(response)
            assert len(engine.records) == count
            response.close()
            assert len(engine.records) == count
    assert [record["bytes_received"] for record in engine.records] == [size] * len(ways)
    assert {record["error_code"] for record in engine.records} == {None}
    assert site.connections == 1


@pytest.mark.parametrize("path", ["/big", "/pieces"])
def test_an_abandoned_requests_body_is_recorded_when_closed_or_dropped(engine, site, path):
    with requests.Session() as session:
        session.trust_env = False
        on_requests.instrument(session, engine)
        with session.get(f"{site.url}{path}", stream=True) as response:
            held = response.iter_content(10)
            next(held)
        assert len(engine.records) == 1
        del held, response
        session.get(f"{site.url}{path}", stream=True)
        gc.collect()
        assert len(engine.records) == 2
    assert engine.records[0]["bytes_received"] > 0
    assert engine.records[1]["bytes_received"] == 0
    assert [record["error_code"] for record in engine.records] == [None, None]


def test_a_dropped_requests_body_gives_its_connection_back_without_a_garbage_collection(engine, site):
    gc.collect()
    gc.disable()
    try:
        with requests.Session() as session:
            session.trust_env = False
            session.mount("http://", HTTPAdapter(pool_connections=1, pool_maxsize=1))
            on_requests.instrument(session, engine)
            session.get(f"{site.url}/big", stream=True)
            assert len(engine.records) == 1
    finally:
        gc.enable()


def test_a_dropped_httpx_response_is_recorded_at_the_latest_when_collected(engine, site):
    with httpx.Client(trust_env=False) as client:
        on_httpx.instrument(client, engine)
        client.send(client.build_request("GET", f"{site.url}/big"), stream=True)
    gc.collect()
    assert (engine.only["status_code"], engine.only["bytes_received"]) == (200, 0)


def test_a_body_ended_from_two_threads_at_once_is_recorded_once(engine, site):
    with httpx.Client(trust_env=False) as client:
        on_httpx.instrument(client, engine)
        for count in range(1, 30):
            stream = client.send(client.build_request("GET", f"{site.url}/ok"), stream=True).stream
            stream._stream._stream.close()
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(lambda _, stream=stream: stream._stream.close(), range(4)))
            assert len(engine.records) == count


# The host stays as it was


@pytest.mark.parametrize("shared", ["httpx", "requests"])
def test_eight_threads_share_one_client_and_every_request_is_recorded_once(engine, site, shared):
    if shared == "httpx":
        client = on_httpx.instrument(httpx.Client(trust_env=False), engine, source="s")
    else:
        client = requests.Session()
        client.trust_env = False
        on_requests.instrument(client, engine, source="s")
    with client:

        def work(thread):
            return [client.get(f"{site.url}/ok/{thread}/{turn}").content for turn in range(25)]

        with ThreadPoolExecutor(8) as pool:
            answers = [body for bodies in pool.map(work, range(8)) for body in bodies]
    assert answers == [b"hello"] * 200
    assert Counter(record["url"] for record in engine.records) == {
        f"{site.url}/ok/{thread}/{turn}": 1 for thread in range(8) for turn in range(25)
    }
    assert {(r["status_code"], r["bytes_received"], r["source"]) for r in engine.records} == {(200, 5, "s")}


class Broken:
    def record_request(self, **fields):
        raise RuntimeError("disk on fire")


@every_host
@pytest.mark.parametrize("broken", [Broken(), object()], ids=["raises", "no-such-method"])
def test_an_engine_that_fails_changes_nothing_for_the_host(send, site, broken):
    assert send(broken, f"{site.url}/hop", follow=True) == (200, b"hello")
    assert send(broken, f"{site.url}/gzip") == (200, PLAIN)
    with pytest.raises((httpx.RemoteProtocolError, requests.exceptions.ChunkedEncodingError)):
        send(broken, f"{site.url}/cut")


@every_host
def test_connections_are_kept_alive_as_before(send, engine, site):
    send(engine, f"{site.url}/hop", follow=True)
    assert site.connections == 1


def test_instrument_covers_mounts_and_proxies_keeps_exclusions_and_is_not_doubled(engine, site, proxy):
    mounts = {"http://127.0.0.1": httpx.HTTPTransport(proxy=proxy.url), "all://excluded.example": None}
    with httpx.Client(mounts=mounts, trust_env=False) as client:
        assert on_httpx.instrument(client, engine, source="old") is client
        on_httpx.instrument(client, engine)
        assert client.get(f"{site.url}/ok").text == "hello"
        assert None in client._mounts.values()
    assert engine.only["source"] == f"127.0.0.1:{proxy.server_port}"


def test_instrumenting_a_session_twice_replaces_its_labels_and_two_engines_both_record(engine, site):
    second = Engine()
    with requests.Session() as session:
        session.trust_env = False
        before = list(session.adapters)
        assert on_requests.instrument(session, engine, source="old") is session
        on_requests.instrument(session, engine, source="new")
        on_requests.instrument(session, second)
        assert list(session.adapters) == before
        assert session.get(f"{site.url}/ok").text == "hello"
    assert engine.only["source"] == "new"
    assert second.only["bytes_received"] == 5


def test_answers_from_memory_are_recorded_too(engine):
    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=b"made up"))
    with httpx.Client(transport=on_httpx.RecordingTransport(engine, transport=transport)) as client:
        assert client.get("http://nowhere.example/a").text == "made up"

    async def send():
        async with httpx.AsyncClient(transport=transport) as client:
            return (await on_httpx.instrument(client, engine).get("http://nowhere.example/a")).text

    assert asyncio.run(send()) == "made up"

    class Memory(BaseAdapter):
        def send(self, request, **kwargs):
            response = requests.Response()
            response.status_code, response._content, response.url = 201, b"made up", request.url
            response.headers["Content-Length"] = "7"
            return response

        def close(self):
            pass

    with requests.Session() as session:
        session.mount("mem://", on_requests.RecordingAdapter(engine, adapter=Memory()))
        assert session.get("mem://x/y").text == "made up"
    assert [(r["status_code"], r["bytes_received"]) for r in engine.records] == [(200, 7), (200, 7), (201, 7)]


def test_digest_authentication_of_requests_is_two_requests(engine, site):
    with requests.Session() as session:
        session.trust_env = False
        on_requests.instrument(session, engine)
        response = session.get(f"{site.url}/digest", auth=requests.auth.HTTPDigestAuth("alice", "hunter2"))
        assert response.text == "hello"
    assert [record["status_code"] for record in engine.records] == [401, 200]
    assert not any(secret in repr(engine.records) for secret in SECRETS)


def test_retries_inside_urllib3_are_one_request(engine, site):
    adapter = on_requests.RecordingAdapter(
        engine, adapter=HTTPAdapter(max_retries=urllib3.Retry(2, status_forcelist=[404], backoff_factor=0))
    )
    with requests.Session() as session:
        session.trust_env = False
        session.mount("http://", adapter)
        with pytest.raises(requests.exceptions.RetryError):
            session.get(f"{site.url}/missing")
        assert (engine.only["success"], engine.only["error_code"]) == (False, "retry-error")
        assert session.get_adapter(site.url).max_retries.total == 2


def test_what_a_host_sees_of_requests_keeps_its_kind(engine, site):
    class Own(urllib3.HTTPResponse):
        pass

    with requests.Session() as session:
        session.trust_env = False
        on_requests.instrument(session, engine)
        response = session.get(f"{site.url}/ok")
        assert isinstance(response.raw, urllib3.HTTPResponse)
        assert pickle.loads(pickle.dumps(response)).content == b"hello"
        copied = pickle.loads(pickle.dumps(session))
    with copied:
        assert type(copied.get_adapter("http://x")) is HTTPAdapter
        assert copied.get(f"{site.url}/ok").content == b"hello"
    assert len(engine.records) == 1
    assert issubclass(on_requests._recorded(Own), Own)


def test_importing_the_shared_part_imports_no_web_library():
    code = "import sys, gnomon.instrument; print(sorted({'httpx', 'requests', 'urllib3'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
