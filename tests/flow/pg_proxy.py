"""A TCP proxy before a PostgreSQL server that ends connections in the middle of a commit, or anywhere."""

from __future__ import annotations

import random
import socket
import threading
from contextlib import suppress

COMMIT = b"COMMIT\x00"


class CuttingProxy:
    """`with CuttingProxy(path) as proxy:`, before the socket file `path`.

    `at` is how it cuts: "before" (a COMMIT never arrives), "after" (it arrives, its answer never does), "anywhere", or
    None; `share` of the chances are taken. `cuts` counts.
    """

    def __init__(self, path: str, share: float = 0.3, seed: int = 11) -> None:
        self.path, self.share, self.cuts = path, share, 0
        self.at: str | None = None
        self._draw, self._lock = random.Random(seed), threading.Lock()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]

    def __enter__(self) -> CuttingProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._listening.close()

    def url(self, schema: str) -> str:
        return f"postgresql://postgres:@127.0.0.1:{self.port}/postgres?sslmode=disable&schema={schema}"

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.socket(socket.AF_UNIX)
                try:
                    server.connect(self.path)
                except OSError:  # it is stopped
                    client.close()
                    continue
                link = _Link(self, client, server)
                for pump in (link.up, link.down):
                    threading.Thread(target=pump, daemon=True).start()

    def chance(self, at: str, share: float = 1.0) -> bool:
        """Whether to cut here."""
        with self._lock:
            if self.at != at or self._draw.random() >= self.share * share:
                return False
            self.cuts += 1
            return True


class _Link:
    def __init__(self, proxy: CuttingProxy, client: socket.socket, server: socket.socket) -> None:
        self.proxy, self.client, self.server = proxy, client, server
        self.deaf = False  #: the answer that comes next is not passed on

    def up(self) -> None:
        with suppress(OSError):
            while data := self.client.recv(65_536):
                if self.proxy.chance("anywhere", 0.02):
                    self.server.sendall(data[: len(data) // 2])
                    break
                if COMMIT in data:
                    if self.proxy.chance("before"):
                        break
                    self.deaf = self.proxy.chance("after")
                self.server.sendall(data)
        self.end()

    def down(self) -> None:
        with suppress(OSError):
            while data := self.server.recv(65_536):
                if self.deaf or self.proxy.chance("anywhere", 0.02):
                    break
                self.client.sendall(data)
        self.end()

    def end(self) -> None:
        for one in (self.client, self.server):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
