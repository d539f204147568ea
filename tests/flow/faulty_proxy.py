"""A TCP proxy that spoils a share of the answers: drops, delays, cuts and doubles them. Requests go through whole."""

from __future__ import annotations

import random
import re
import socket
import threading
import time
from collections import Counter, deque

FAULTS = ("drop", "delay", "cut", "double")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class FaultyProxy:
    """`with FaultyProxy(port) as proxy:`; `upstream` may be changed while it runs, None refuses. What is put into
    `instead` is answered in its turn, without asking upstream."""

    def __init__(self, upstream: int | None, share: float = 0.3, seed: int = 7) -> None:
        self.upstream = upstream
        self.share = share
        self.done: Counter[str] = Counter()
        self.instead: deque[bytes] = deque()
        self._draw, self._lock = random.Random(seed), threading.Lock()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> FaultyProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            if self.upstream is None:
                self._note("away")
                return
            try:
                with socket.create_connection(("127.0.0.1", self.upstream), timeout=20) as server:
                    client.settimeout(20)
                    while request := whole(client):
                        if self.instead:
                            client.sendall(self.instead.popleft())
                            self._note("instead")
                            return
                        server.sendall(request)
                        found = whole(server)
                        if not found or not self._pass_on(client, found):
                            return
            except OSError:
                self._note("broken")

    def _pass_on(self, client: socket.socket, found: bytes) -> bool:
        """Whether the connection is still whole."""
        with self._lock:
            fault = self._draw.choice(FAULTS) if self._draw.random() < self.share else "none"
            place = self._draw.randrange(1, len(found))
            pause = self._draw.uniform(0.01, 0.1)
        self._note(fault)
        if fault == "drop":
            return False
        if fault == "delay":
            time.sleep(pause)
        client.sendall(found[:place] if fault == "cut" else found * (2 if fault == "double" else 1))
        return fault != "cut"

    def _note(self, what: str) -> None:
        with self._lock:
            self.done[what] += 1


def answer(status: int, body: str = "", **headers: str) -> bytes:
    """The bytes of an answer, as some other program on the way might give it."""
    told = {
        "Content-Length": str(len(body.encode())),
        **{name.replace("_", "-"): text for name, text in headers.items()},
    }
    lines = [f"HTTP/1.1 {status} Told", *(f"{name}: {text}" for name, text in told.items())]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


def whole(source: socket.socket) -> bytes:
    """One message of HTTP with its body by Content-Length; empty when the other side has closed."""
    found = b""
    while b"\r\n\r\n" not in found:
        part = source.recv(65_536)
        if not part:
            return b""
        found += part
    head = found[: found.index(b"\r\n\r\n")]
    length = _LENGTH.search(head)
    size = len(head) + 4 + (int(length[1]) if length else 0)
    while len(found) < size:
        part = source.recv(65_536)
        if not part:
            return b""
        found += part
    return found
