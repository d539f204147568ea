"""What the tests of instruments share: a site that answers in every way, an engine that keeps what it is told, and each
library as one function."""

from __future__ import annotations

import asyncio
import gzip
import socket
import time
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

import httpx
import pytest
import requests

from gnomon.instrument import httpx as on_httpx
from gnomon.instrument import requests as on_requests

SECRETS = ("hunter2", "s3cret", "alice")
BIG = 300_000
PLAIN = b"the same words again and again " * 400
PACKED = gzip.compress(PLAIN, mtime=0)


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
