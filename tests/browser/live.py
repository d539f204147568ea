"""`gnomon serve` as a process that a test may kill, and what its store holds afterwards."""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import gnomon

COMMAND = [sys.executable, "-c", "from gnomon.cli import main; raise SystemExit(main())"]


class LiveService:
    """Listens on the same port in every life. `key` is a write key for the pages of one origin."""

    def __init__(self, place: Path, origin: str) -> None:
        self.store = place / "shop.duckdb"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._log = (place / "service.log").open("ab")
        self._env = {name: value for name, value in os.environ.items() if not name.startswith("GNOMON_")}
        self._env |= {"GNOMON_JWT_SECRET_KEY": secrets.token_urlsafe(32), "GNOMON_RATE_LIMIT_PER_MINUTE": "0"}
        self._process: subprocess.Popen[bytes] | None = None
        self.key = self._write_key(origin)

    def _write_key(self, origin: str) -> str:
        told = subprocess.run(
            [*COMMAND, "token", "--write-key", "--origin", origin, "--store", str(self.store)],
            env=self._env, capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        found = re.search(r"\bgk_\S+", told.stdout)
        assert found, told.stdout
        return found[0]

    def start(self) -> None:
        self._process = subprocess.Popen(
            [*COMMAND, "serve", "--host", "127.0.0.1", "--port", str(self.port), "--store", str(self.store)],
            env=self._env, stdout=self._log, stderr=self._log,
        )  # fmt: skip
        end = time.monotonic() + 30
        while not self._ready():
            assert self._process.poll() is None and time.monotonic() < end, Path(self._log.name).read_text()
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

    def stored(self, *dimensions: str) -> dict[tuple[Any, ...], float]:
        """How many events there are for each combination. Ends the service, as the store has one owner."""
        self.stop()
        with gnomon.open(self.store) as engine:
            found = engine.query(["events"], list(dimensions), "7d", limit=10_000)
            return {tuple(row[name] for name in dimensions): row["events"] for row in found}
