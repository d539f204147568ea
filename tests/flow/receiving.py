"""A real receiver of webhooks on loopback, in threads of the test's own process."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Receiver:
    """`got` has the bodies with their headers; `answer(n)` gives the status of the nth call, and may take its time."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.got: list[tuple[bytes, dict[str, str]]] = []
        self.answer: Callable[[int], int] = lambda n: 204
        self.changed = threading.Condition()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/alerts"

    @property
    def told(self) -> list[tuple[str, str, str]]:
        """Name, state and level of what came."""
        bodies = [json.loads(body) for body, _ in self.got]
        return [(body["alert"], body["state"], body["level"]) for body in bodies]

    def wait(self, calls: int, seconds: float = 20.0) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.got) >= calls, seconds), self.told


@contextmanager
def receiving(port: int = 0) -> Iterator[Receiver]:
    """A receiver that is there until the end of the block."""

    class Answering(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with found.changed:
                found.got.append((body, dict(self.headers)))
                nth = len(found.got)
                found.changed.notify_all()
            self.send_response(found.answer(nth))
            self.send_header("Content-Length", "0")
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Quietly."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, *_: object) -> None:
            """A caller that went away is what some tests are about."""

    server = Server(("127.0.0.1", port), Answering)
    found = Receiver(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
