"""The examples and the middleware behind real servers: concurrent clients, keep-alive, aborted downloads, forks.

Counts are exact: what the clients did is what the store says.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn

import gnomon

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """The clients come faster than the threshold of sampling, and the counts are to be exact."""
    monkeypatch.setenv("GNOMON_SAMPLING", "off")


@contextmanager
def serving(app, **more):
    """A real uvicorn on loopback in a thread; yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(app, log_level="critical", ws="none", timeout_graceful_shutdown=5, **more)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        until = time.monotonic() + 10
        while not server.started:
            assert thread.is_alive() and time.monotonic() < until
            time.sleep(0.01)
        try:
            yield "http://127.0.0.1:{}".format(*listening.getsockname()[1:])
        finally:
            server.should_exit = True
            thread.join(10)


def test_fastapi_example_counts_concurrent_clients_exactly(tmp_path):
    store = tmp_path / "usage.duckdb"
    tokens = {f"token-{n}": f"user-{n}" for n in range(4)}
    app = example("fastapi_app").create_app(str(store), tokens)
    sent = Counter()

    def client(n):
        with httpx.Client(base_url=address, headers={"Authorization": f"Bearer token-{n % 5}"}) as kept_alive:
            for turn in range(40):
                answer = kept_alive.get(f"/orders/{turn * 7 + n}")
                found = "/orders/{order_id}", f"user-{n % 5}" if n % 5 < 4 else None, answer.status_code
                assert found[2] == (200 if found[1] else 401)
                sent[found] += 1
            sent["/orders", f"user-{n}" if n < 4 else None, kept_alive.post("/orders").status_code] += 1
            kept_alive.get(f"/scan/{n}")
            kept_alive.get("/docs")

    with serving(app) as address:
        with ThreadPoolExecutor(5) as pool:
            list(pool.map(client, range(5)))
        mine = httpx.Client(base_url=address, headers={"Authorization": "Bearer token-1"})
        until = time.monotonic() + 10
        while mine.get("/usage").json()["by_type"].get("order") != 5:
            assert time.monotonic() < until
            time.sleep(0.05)
        endpoints = {row["endpoint"] for row in mine.get("/usage/endpoints").json()}
        assert "/orders/{order_id}" in endpoints and not any("7" in endpoint for endpoint in endpoints)
        assert mine.get("/usage/users/user-2").json()["by_type"] == {"request": 40, "order": 1}
        assert mine.get("/usage/dashboard").json()["today"]["people"] == 4
        mine.close()
    with gnomon.open(store) as engine:
        found = engine.query(["events"], ["endpoint", "user_id", "status_code", "type"], "24h").to_dicts()
    counted = Counter({(row["endpoint"], row["user_id"], row["status_code"]): row["events"] for row in found})
    assert {key: counted[key] for key in sent} == dict(sent)
    assert counted["(unmatched)", None, 404] == 5 and not any(key[0].startswith("/docs") for key in counted)
    assert {row["type"] for row in found if row["endpoint"] == "/orders"} == {"order"}


def test_starlette_example_streams_and_counts_bytes(tmp_path):
    app = example("starlette_app").create_app(str(tmp_path / "usage.duckdb"))
    with serving(app) as address:
        sizes = [len(httpx.get(f"{address}/files/numbers/{count}").content) for count in (0, 10, 5_000)]
        until = time.monotonic() + 10
        while True:
            rows = httpx.get(f"{address}/usage").json()
            found = {row["endpoint"]: row for row in rows}.get("/files/numbers/{count}")
            if found and found["events"] == 3:
                break
            assert time.monotonic() < until
            time.sleep(0.05)
    assert found["sum_bytes_sent"] == sum(sizes)


class Engine:
    def __init__(self):
        self.records = []

    def record_request(self, **fields):
        self.records.append(fields)


def wait_for(engine, count):
    until = time.monotonic() + 10
    while len(engine.records) < count:
        assert time.monotonic() < until, engine.records
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(engine.records) == count
    return engine.records


def test_aborted_downloads_are_recorded_once_as_such():
    from starlette.applications import Starlette
    from starlette.responses import StreamingResponse
    from starlette.routing import Route

    from gnomon.instrument.asgi import RecordingMiddleware

    async def endless(request):
        async def parts():
            while True:
                yield b"z" * 4_096
                await asyncio.sleep(0.001)

        return StreamingResponse(parts())

    engine = Engine()
    app = RecordingMiddleware(Starlette(routes=[Route("/endless", endless)]), engine)
    with serving(app) as address:
        for _ in range(5):
            with httpx.stream("GET", f"{address}/endless") as answer:
                next(answer.iter_raw(10_000))
        found = wait_for(engine, 5)
    for fields in found:
        assert (fields["status_code"], fields["error_code"]) == (200, "client-disconnected")
        assert fields["bytes_sent"] >= 10_000 and fields["endpoint"] == "/endless"
    assert app.faults == Counter()


def test_requests_cut_in_the_middle_of_their_body_are_recorded():
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    from gnomon.instrument.asgi import RecordingMiddleware

    async def upload(request):
        return PlainTextResponse(str(len(await request.body())))

    engine = Engine()
    app = RecordingMiddleware(Starlette(routes=[Route("/upload", upload, methods=["POST"])]), engine)
    with serving(app) as address:
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nonly this")
            time.sleep(0.1)
        (fields,) = wait_for(engine, 1)
    assert (fields["status_code"], fields["error_code"]) == (499, "client-disconnected")
    assert fields["bytes_received"] == 9


FORKING = """
import os, signal, socket, sys, time
import gnomon, uvicorn
from fastapi import FastAPI
from gnomon.instrument.asgi import RecordingMiddleware

engine = gnomon.open(sys.argv[1], sampling=False, flush_seconds=30.0)
app = FastAPI()
app.add_middleware(RecordingMiddleware, engine=engine)
app.get("/a/{n}")(lambda n: os.getpid())
listening = socket.create_server(("127.0.0.1", 0))
workers = []
for _ in range(2):
    pid = os.fork()
    if not pid:
        uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="none")).run([listening])
        raise SystemExit
    workers.append(pid)
print(listening.getsockname()[1], flush=True)
sys.stdin.readline()
for pid in workers:
    os.kill(pid, signal.SIGTERM)
for pid in workers:
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) in (0, -signal.SIGTERM)
engine.flush()
print(engine.query(["requests"], ["endpoint"], "24h").to_dicts(), engine.books().closes(), flush=True)
"""


def test_forked_workers_lose_and_double_nothing(tmp_path):
    command = [sys.executable, "-c", FORKING, str(tmp_path / "store.duckdb")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as master:
        address = f"http://127.0.0.1:{int(master.stdout.readline())}"

        def client(n):
            pids = set()
            for _ in range(5):
                with httpx.Client(base_url=address) as one:
                    pids |= {one.get(f"/a/{n}").json() for _ in range(5)}
            return pids

        with ThreadPoolExecutor(4) as pool:
            pids = set().union(*pool.map(client, range(4)))
        out, _ = master.communicate("\n", timeout=60)
    assert out.strip() == "[{'endpoint': '/a/{n}', 'requests': 100}] True"
    assert 1 <= len(pids) <= 2


DJANGO = """
import asyncio, sys, threading, time, urllib.request, urllib.error
from wsgiref.simple_server import WSGIRequestHandler, make_server
sys.path.insert(0, sys.argv[1])
import django_app
from httpx import ASGITransport, AsyncClient

async def over_asgi():
    async with AsyncClient(transport=ASGITransport(django_app.application), base_url="http://localhost") as client:
        for path in ("/orders/7/", "/orders/8/", "/report", "/none", "/orders/x/"):
            print((await client.get(path)).status_code, end=" ")

class Quiet(WSGIRequestHandler):
    def log_message(self, *args): pass

def over_wsgi():
    with make_server("127.0.0.1", 0, django_app.wsgi_application, handler_class=Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for path in ("/orders/7/", "/report", "/none"):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}{path}") as answer:
                    print(answer.status, len(answer.read()), end=" ")
            except urllib.error.HTTPError as error:
                print(error.code, end=" ")
                error.close()
        server.shutdown()

asyncio.run(over_asgi())
over_wsgi()
django_app.engine.flush()
found = django_app.engine.query(["requests", "sum_bytes_sent"], ["endpoint"], "24h").to_dicts()
print()
for row in sorted(found, key=lambda row: row["endpoint"]):
    print(row["endpoint"], int(row["requests"]), int(row["sum_bytes_sent"]) if row["endpoint"] == "/report" else "")
print(django_app.application.faults, django_app.wsgi_application.faults)
"""


def test_django_example_under_asgi_and_wsgi(tmp_path):
    environment = {**os.environ, "DJANGO_SECRET_KEY": os.urandom(32).hex(), "GNOMON_DATABASE_URL": "django.duckdb"}
    done = subprocess.run([sys.executable, "-c", DJANGO, str(EXAMPLES)], capture_output=True, text=True, timeout=60,
                          cwd=tmp_path, env=environment, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    statuses, *rows = done.stdout.strip().splitlines()
    size = len("".join(f"{line}\n" for line in range(1_000)))
    assert statuses.split() == ["200", "200", "200", "404", "404", "200", "12", "200", str(size), "404"]
    assert [row.strip() for row in rows] == [
        "(unmatched) 3", "/orders/<int:order_id>/ 3", f"/report 2 {2 * size}", "Counter() Counter()",
    ]  # fmt: skip


@pytest.fixture
def flask_site(tmp_path):
    app = example("flask_app").create_app(str(tmp_path / "usage.duckdb"))
    yield app
    app.engine.close()


def test_flask_example(flask_site):
    flask_site.secret_key = os.urandom(32)
    client = flask_site.test_client()
    with client.session_transaction() as session:
        session["user_id"] = "u7"
    for path in ("/orders/7", "/orders/8", "/orders/9999", "/orders/x", "/report", "/health"):
        with client.get(path) as answer:
            assert answer.status_code in (200, 404)
    flask_site.engine.flush()
    found = flask_site.engine.query(["requests", "failures"], ["endpoint", "user_id"], "24h").to_dicts()
    told = {(row["endpoint"], row["user_id"]): (row["requests"], row["failures"]) for row in found}
    assert told == {
        ("/orders/<int:order_id>", "u7"): (3, 1), ("/report", "u7"): (1, 0), ("(unmatched)", "u7"): (1, 1),
    }  # fmt: skip
    assert {row["endpoint"] for row in client.get("/usage").json} == {key[0] for key in told}


SOCKETS = """
import sys, gnomon
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from gnomon.instrument.asgi import RecordingMiddleware

async def echo(websocket):
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text * 2)

app = RecordingMiddleware(Starlette(routes=[WebSocketRoute("/echo/{room}", echo)]), gnomon.open(sys.argv[1]))
from granian.server.embed import Server
import asyncio

async def main():
    server = Server(app, address="127.0.0.1", port=int(sys.argv[2]), websockets=True, interface="asgi")
    serving = asyncio.create_task(server.serve())
    await asyncio.to_thread(sys.stdin.readline)
    server.stop()
    await serving

asyncio.run(main())
"""


def frame(text):
    """A text frame as a client masks it (RFC 6455, 5.2), with a mask of zeros."""
    data = text.encode()
    return bytes([0x81, 0x80 | len(data)]) + bytes(4) + data


def test_a_websocket_over_a_real_server(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-c", SOCKETS, str(tmp_path / "store.duckdb"), str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        until = time.monotonic() + 60
        while True:
            try:
                link = socket.create_connection(("127.0.0.1", port), timeout=30)
                break
            except OSError:
                assert time.monotonic() < until and server.poll() is None, server.communicate()
                time.sleep(0.05)
        with link:
            link.sendall(
                b"GET /echo/7 HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            found = b""
            while b"\r\n\r\n" not in found:
                found += link.recv(4_096)
            assert b" 101 " in found
            for text in ("hello", "again"):
                link.sendall(frame(text))
                assert link.recv(4_096) == bytes([0x81, 10]) + text.encode() * 2
            link.sendall(bytes([0x88, 0x82]) + bytes(4) + (1000).to_bytes(2, "big"))
            link.recv(4_096)
        time.sleep(0.2)
        server.communicate("\n", timeout=20)
    with gnomon.open(tmp_path / "store.duckdb") as engine:
        metrics = ["events", "sum_bytes_sent", "sum_bytes_received"]
        rows = engine.query(metrics, ["type", "endpoint", "status_code", "properties.close_code"], "24h").to_dicts()
    told = {"type": "websocket", "endpoint": "/echo/{room}", "status_code": 101, "properties.close_code": 1000}
    assert rows == [{**told, "events": 1, "sum_bytes_sent": 20, "sum_bytes_received": 10}]
