"""A proxy rotator that knows what each of its sources is worth: python examples/proxy_rotator.py

Starts, on loopback only, an origin server and two real forward proxies (a good one, and one that is slow and
drops connections), sends requests through a rotator, and prints what Gnomon measured per source. The lines that
matter to a rotator's author are in `open_sources` (one `instrument` line per client) and `report` (one query).
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import random
import selectors
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import requests

import gnomon
from gnomon.instrument.httpx import instrument as instrument_httpx
from gnomon.instrument.requests import instrument as instrument_requests

SEED = 7
IDLE_SECONDS = 5.0  # no connection of the example outlives this silence
PAGES = {"/page": 200, "/slow": 200, "/missing": 404, "/broken": 500, "/busy": 503}
TRAFFIC = ["/page"] * 14 + ["/slow"] * 3 + ["/missing", "/broken", "/busy"]
HOP_BY_HOP = {"connection", "keep-alive", "proxy-authorization", "proxy-connection", "transfer-encoding", "host"}


class Server(ThreadingHTTPServer):
    """A loopback server on a free port, in its own thread while the `with` block lasts."""

    daemon_threads = False

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> Server:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}).start()
        return self

    def __exit__(self, *args: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A peer that hangs up is part of the show."""


class Origin(BaseHTTPRequestHandler):
    """The site that is crawled: pages, a slow page, and pages that fail."""

    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == "/slow":
            time.sleep(0.05)
        body = f"{path}\n".encode() * 200
        self.send_response(PAGES.get(path, 404))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Standard output belongs to the report."""


class ForwardProxy(Server):
    """An HTTP forward proxy: absolute-form requests are passed on, CONNECT opens a tunnel."""

    def __init__(self, *, delay: float = 0.0, drop_rate: float = 0.0, seed: int = SEED) -> None:
        super().__init__(_ProxyRequest)
        self.delay = delay
        self.drop_rate = drop_rate
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    def drops(self) -> bool:
        with self._lock:
            return self._random.random() < self.drop_rate


class _ProxyRequest(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS
    server: ForwardProxy

    def _forward(self) -> None:
        time.sleep(self.server.delay)
        target = urlsplit(self.path)
        if target.scheme != "http" or self.server.drops():
            self.close_connection = True
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
        path = f"{target.path or '/'}?{target.query}" if target.query else target.path or "/"
        upstream = http.client.HTTPConnection(target.hostname or "", target.port or 80, timeout=IDLE_SECONDS)
        try:
            upstream.request(self.command, path, body or None, headers)
            self._answer(upstream.getresponse())
        except (OSError, http.client.HTTPException):
            self.send_error(502)
        finally:
            upstream.close()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _forward  # noqa: N815 - the standard library names them

    def _answer(self, answer: http.client.HTTPResponse) -> None:
        body = answer.read()
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in HOP_BY_HOP | {"content-length"}:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_CONNECT(self) -> None:
        self.close_connection = True
        time.sleep(self.server.delay)
        if self.server.drops():
            return
        host, _, port = self.path.rpartition(":")
        try:
            upstream = socket.create_connection((host, int(port)), timeout=IDLE_SECONDS)
        except (OSError, ValueError):
            self.send_error(502)
            return
        with upstream:
            self.send_response_only(200, "Connection established")
            self.end_headers()
            _tunnel(self.connection, upstream)

    def log_message(self, format: str, *args: Any) -> None:
        """Standard output belongs to the report."""


def _tunnel(client: socket.socket, upstream: socket.socket) -> None:
    """Carry bytes both ways until either side ends or falls silent."""
    with selectors.DefaultSelector() as waiting:  # select() knows no file above 1,023
        waiting.register(client, selectors.EVENT_READ, (client, upstream))
        waiting.register(upstream, selectors.EVENT_READ, (upstream, client))
        while ready := waiting.select(IDLE_SECONDS):
            for key, _ in ready:
                side, other = key.data
                data = side.recv(65536)
                if not data:
                    return
                other.sendall(data)


@dataclass
class Rotator:
    """Takes the sources in turn; one that failed sits out its next two turns."""

    sources: Mapping[str, Callable[[str], Any]]
    benched: dict[str, int] = field(default_factory=dict)
    turn: int = 0

    def pick(self) -> str:
        names = list(self.sources)
        for _ in range(3 * len(names)):
            name = names[self.turn % len(names)]
            self.turn += 1
            if self.benched.get(name, 0) == 0:
                return name
            self.benched[name] -= 1
        return names[0]

    def get(self, url: str) -> bool:
        """One attempt through the next source; True when a page came back."""
        name = self.pick()
        try:
            answered = bool(self.sources[name](url).status_code < 500)
        except (httpx.HTTPError, requests.RequestException):
            answered = False
        if not answered:
            self.benched[name] = 2
        return answered


@contextlib.contextmanager
def open_sources(engine: Any, good: str, flaky: str) -> Iterator[dict[str, Callable[[str], Any]]]:
    """Three ways out, each recorded by one line."""
    with (
        httpx.Client(proxy=good, trust_env=False) as premium,
        httpx.Client(proxy=flaky, trust_env=False) as free,
        requests.Session() as direct,
    ):
        direct.trust_env = False
        instrument_httpx(premium, engine, source="premium", application="crawler")
        instrument_httpx(free, engine, source="free-list", application="crawler")
        instrument_requests(direct, engine, source="direct", application="crawler")
        yield {"premium": premium.get, "free-list": free.get, "direct": direct.get}


def crawl(engine: Any, count: int, seed: int = SEED) -> int:
    """Send `count` requests; the number that brought a page."""
    chosen = random.Random(seed)
    with (
        Server(Origin) as origin,
        ForwardProxy() as good,
        ForwardProxy(delay=0.03, drop_rate=0.25, seed=seed) as flaky,
        open_sources(engine, good.url, flaky.url) as sources,
    ):
        rotator = Rotator(sources)
        return sum(rotator.get(f"{origin.url}{chosen.choice(TRAFFIC)}?turn={turn}") for turn in range(count))


def report(engine: Any) -> Any:
    """What each source did: the one question a rotator asks."""
    return engine.query(
        metrics=["requests", "success_rate", "p95_duration_ms", "failures"], dimensions=["source"], date_range="24h"
    )


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Send requests through two local proxies and report per source.")
    parser.add_argument("--store", help="where to keep the events (default: a temporary directory)")
    parser.add_argument("--requests", type=int, default=60, help="how many requests to send (default 60)")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as directory:
        store = options.store or str(Path(directory) / "rotator.duckdb")
        with gnomon.open(store) as engine:
            pages = crawl(engine, options.requests)
            engine.flush()
            print(f"{pages} of {options.requests} requests brought a page.")
            print(report(engine).summary())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
