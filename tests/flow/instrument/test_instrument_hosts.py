"""The host notices nothing: threads, failing engines, sessions, retries and what libraries keep to themselves."""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import requests
import urllib3
from requests.adapters import BaseAdapter, HTTPAdapter
from sites import PLAIN, SECRETS, every_host

from gnomon.instrument import httpx as on_httpx
from gnomon.instrument import requests as on_requests
from recorded import Engine


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
