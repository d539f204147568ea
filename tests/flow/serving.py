"""A real service for tests: uvicorn on a free port of loopback, in a thread of the test's own process."""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import jwt
import uvicorn

import gnomon
from gnomon.config import Settings
from gnomon.server.running import serving

SECRET = secrets.token_urlsafe(48)
API = "/api/analytics"


def token(secret: str = SECRET, algorithm: str = "HS256", headers: dict | None = None, **claims) -> str:
    """A token of `sub` u1, for a minute, unless the claims say otherwise; a claim that is None is left out."""
    told = {"sub": "u1", "exp": int(time.time()) + 60, "scope": "ingest read", **claims}
    return jwt.encode({k: v for k, v in told.items() if v is not None}, secret, algorithm, headers)


def bearer(**claims) -> dict[str, str]:
    return {"Authorization": f"Bearer {token(**claims)}"}


class Served:
    """`client` speaks to the service; `engine` is its own."""

    def __init__(self, app, engine, port: int) -> None:
        self.app, self.engine, self.port = app, engine, port
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)

    def post(self, path: str, json=None, *, claims: dict | None = None, **named) -> httpx.Response:
        named.setdefault("headers", bearer(**(claims or {})))
        return self.client.post(API + path, json=json, **named)

    def get(self, path: str, *, claims: dict | None = None, **named) -> httpx.Response:
        named.setdefault("headers", bearer(**(claims or {})))
        return self.client.get(API + path, **named)

    def app_keys(self):
        return self.app.state.service.keys

    def raw(self, sent: bytes, timeout: float = 20.0) -> bytes:
        """What comes back for bytes that no client would send."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as link:
            link.sendall(sent)
            found = b""
            while part := link.recv(65_536):
                found += part
                if b"\r\n\r\n" in found and b"connection: close" not in found.lower():
                    break
            return found


def far_from_the_next_minute(seconds: float = 10.0) -> None:
    """Calls are counted by the minutes of the clock, and just behind the beginning of one a call more is let pass."""
    left = 60 - time.time() % 60
    if left < seconds:
        time.sleep(left)


@contextmanager
def served(store=":memory:", **changes) -> Iterator[Served]:
    """The service on a store, with a secret for tokens and without a limit on calls."""
    settings = Settings(jwt_secret_key=(SECRET,), rate_limit_per_minute=0).but(database_url=str(store), **changes)
    with gnomon.open(settings=settings) as engine:
        app = gnomon.create_app(engine)
        config = uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, **serving(settings))
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        if 0 < settings.rate_limit_per_minute <= 100:
            far_from_the_next_minute()
        (listening,) = server.servers[0].sockets
        found = Served(app, engine, listening.getsockname()[1])
        try:
            yield found
        finally:
            found.client.close()
            server.should_exit = True
            thread.join(20)
