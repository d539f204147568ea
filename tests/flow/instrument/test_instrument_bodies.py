"""Bodies that are streamed, dropped or never read: measured and recorded once."""

from __future__ import annotations

import asyncio
import functools
import gc
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import requests
from requests.adapters import HTTPAdapter
from sites import BIG, PACKED

from gnomon.instrument import httpx as on_httpx
from gnomon.instrument import requests as on_requests


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
