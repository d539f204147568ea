"""Requests that fail, in httpx and requests: one record with one code in either, and the exception untouched."""

from __future__ import annotations

import asyncio

import httpx
import pytest
import requests
from requests.adapters import BaseAdapter
from sites import by_requests, every_host, exact, free_port

from gnomon.instrument import httpx as on_httpx
from gnomon.instrument import requests as on_requests


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
    patience = 1.0 if code == "read-timeout" else 20.0
    with pytest.raises((httpx.TransportError, requests.RequestException)) as raised:
        send(engine, f"{site.url}{path}", timeout=patience)
    assert type(raised.value).__module__.split(".")[0] in ("httpx", "requests")
    record = engine.only
    assert (record["success"], record["error_code"], record["status_code"]) == (False, code, status)
    # requests asks for a whole block, and a block that never filled is lost below urllib3.
    assert record["bytes_received"] == (0 if path == "/stall" and send is by_requests else received)
    assert record["duration_ms"] >= (1_000 if "timeout" in code else 0)


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
