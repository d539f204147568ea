"""What lies between a page and the service: an HTTP way that loses requests, or answers after they were acted upon.

It forwards whole requests, so that "the service committed, the answer was lost" is exact and not a matter of timing.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: What may befall a request: it never arrives, or twice; it is acted upon but the answer is lost, cut in half or late;
#: a proxy in between says that it is overloaded, or shows a page of its own.
MISHAPS = ("lost", "twice", "answer_lost", "answer_cut", "answer_late", "busy", "portal")


Answer = tuple[int, dict[str, str], bytes]
ANY_PAGE = {"Access-Control-Allow-Origin": "*"}


class Way:
    """Listens on a port of its own and forwards to `target`. `share` of the POSTs meet a mishap, drawn from a seed."""

    def __init__(self, target: int, *, share: float = 0.0, seed: int = 1,
                 mishaps: tuple[str, ...] = MISHAPS, late: float = 0.3) -> None:  # fmt: skip
        self.target, self.share, self.mishaps, self.late = target, share, mishaps, late
        self.confirmed: list[str] = []  #: ids that the service answered for, once for each answer
        self.met: list[str] = []  #: the mishaps there were
        self.posts: list[dict[str, Any]] = []
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def mishap(self, method: str) -> str | None:
        with self._lock:
            if method != "POST" or self._random.random() >= self.share:
                return None
            self.met.append(self._random.choice(self.mishaps))
            return self.met[-1]

    def forward(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.target, timeout=20)
        try:
            connection.request(method, path, body or None, headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if method == "POST":
            sent = json.loads(body)
            self.posts.append(
                {"path": path, "type": headers.get("Content-Type", ""), "status": answer.status, "size": len(sent)}
            )
            if answer.status == 200:
                refused = {one["index"] for one in json.loads(content)["rejected"]}
                self.confirmed += [event["id"] for index, event in enumerate(sent) if index not in refused]
        return answer.status, dict(answer.getheaders()), content

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        way = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                mishap = way.mishap(self.command)
                self.close_connection = True
                if mishap != "lost" and (found := self._found(mishap, body)) and mishap != "answer_lost":
                    if mishap == "answer_late":
                        time.sleep(way.late)
                    self._say(*found, cut=mishap == "answer_cut")

            do_OPTIONS = do_GET = do_POST

            def _found(self, mishap: str | None, body: bytes) -> Answer | None:
                if mishap == "busy":
                    return 503, {"Retry-After": "0"} | ANY_PAGE, b"{}"
                if mishap == "portal":
                    return 200, ANY_PAGE, b"<html>log in</html>"
                headers = {name: value for name, value in self.headers.items() if name not in ("Host", "Connection")}
                try:
                    if mishap == "twice":
                        way.forward(self.command, self.path, headers, body)
                    return way.forward(self.command, self.path, headers, body)
                except (OSError, http.client.HTTPException):
                    return None  # the service is down: so is the way

            def _say(self, status: int, headers: dict[str, str], content: bytes, *, cut: bool = False) -> None:
                try:
                    self.send_response(status)
                    for name, value in headers.items():
                        if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                            self.send_header(name, value)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content[: len(content) // 2] if cut else content)
                except OSError:
                    pass  # the page is gone

        return Handler
