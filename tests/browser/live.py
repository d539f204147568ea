"""The service for pages: within the tests' process, shared by them, or as a `gnomon serve` that a test may kill."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvicorn

import gnomon
from gnomon.config import Settings
from gnomon.engine import AnalyticsEngine

Counts = dict[tuple[Any, ...], float]
COMMAND = [sys.executable, "-c", "from gnomon.cli import main; raise SystemExit(main())"]


class LiveService:
    """Listens on the same port in every life. `key` is a write key for the pages of one origin."""

    def __init__(self, place: Path, origin: str, calls_a_minute: int = 0) -> None:
        self.store = place / "shop.duckdb"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._log = place / "service.log"
        self._env = {name: value for name, value in os.environ.items() if not name.startswith("GNOMON_")}
        self._env |= {
            "GNOMON_JWT_SECRET_KEY": secrets.token_urlsafe(32),
            "GNOMON_RATE_LIMIT_PER_MINUTE": str(calls_a_minute),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self.key = self._write_key(origin)

    def _write_key(self, origin: str) -> str:
        told = subprocess.run(
            [*COMMAND, "token", "--write-key", "shop", "--origin", origin, "--store", str(self.store)],
            env=self._env, capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        return told.stdout.strip()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*COMMAND, "serve", "--host", "127.0.0.1", "--port", str(self.port), "--store", str(self.store)],
                env=self._env, stdout=log, stderr=log,
            )  # fmt: skip
        end = time.monotonic() + 30
        while not self._ready():
            assert self._process.poll() is None and time.monotonic() < end, self._log.read_text()
            time.sleep(0.02)

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/analytics/healthz", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def kill(self) -> None:
        """End it as a power cut would: nothing is flushed, no signal handler runs."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(20)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(40)

    def stored(self, application: str, *dimensions: str) -> Counts:
        """Ends the service, as the store has one owner."""
        self.stop()
        with gnomon.open(self.store) as engine:
            return counted(engine, application, dimensions)


class SharedService:
    """The app under the server that `gnomon serve` uses, in a thread; its engine answers what it stored."""

    def __init__(self, place: Path) -> None:
        from gnomon.server.keys import make_key
        from gnomon.server.running import serving

        settings = Settings(jwt_secret_key=(secrets.token_urlsafe(32),), rate_limit_per_minute=0)
        self._settings = settings
        self._engine = gnomon.open(settings=settings.but(database_url=str(place / "shared.duckdb")))
        self.key = make_key(self._engine, "shop")[1]
        app = gnomon.create_app(self._engine)
        self._server = uvicorn.Server(
            uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, **serving(settings))
        )
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
            time.sleep(0.01)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]

    def token(self, scope: str) -> str:
        from gnomon.server.auth import minted

        return minted(self._settings, sub="node", project="default", scope=scope, seconds=600)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(30)
        self._engine.close()

    def stored(self, application: str, *dimensions: str) -> Counts:
        self._engine.flush()
        return counted(self._engine, application, dimensions)


def counted(engine: AnalyticsEngine, application: str, dimensions: Sequence[str]) -> Counts:
    """How many events of an application there are for each combination."""
    filters = [["is", "application", [application]]]
    counts: Counts = {}
    after = None
    while True:
        found = engine.query(["events"], list(dimensions), "7d", filters=filters, after=after)
        counts |= {tuple(row[name] for name in dimensions): row["events"] for row in found}
        after = found.next
        if after is None:
            return counts
