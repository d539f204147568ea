"""httpx and requests through real sockets: every request leaves one exact record."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from sites import PACKED, PLAIN, SECRETS, by_httpx, by_requests, every_host, exact

from gnomon.instrument import httpx as on_httpx


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
