"""What one app is made of besides its routes: the engines of its projects, who may come in, and the way in."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from fastapi import Request

from gnomon.engine import AnalyticsEngine
from gnomon.ingest.gate import Vet
from gnomon.server.auth import Tokens
from gnomon.server.callers import Caller, presented, unauthorized
from gnomon.server.intake import Intake
from gnomon.server.projects import Projects
from gnomon.server.sums import IngestSums

TICK_SECONDS = 1.0


class Service:
    """Made once an app; `close()` closes what it opened, and the engine too where it `owns` that."""

    def __init__(self, engine: AnalyticsEngine, *, owns: bool) -> None:
        self.settings = engine.settings
        self.projects = Projects(engine)
        self.tokens = Tokens(engine.settings, engine.clock)
        self.intake = Intake(self.projects, engine.settings.max_in_flight_bytes)
        self.sums = IngestSums(engine)
        self._owns = owns
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def caller(self, request: Request) -> Caller:
        """Who makes a request. Raises `Problem` (401)."""
        token = presented(request)
        if not token:
            raise unauthorized()
        return self.tokens.caller(token)

    def address(self, request: Request) -> str:
        """Where a request comes from, as far as the server believes it (`trusted_proxies`)."""
        return request.client.host if request.client else "unknown"

    def rules(self, engine: AnalyticsEngine) -> Sequence[Vet]:
        """What a project asks of events from outside, besides the rules of the gate."""
        return ()

    def start(self) -> None:
        """Begin the work that goes on beside the calls, with the first of them or with the app."""
        if self._thread is None and not self._ending.is_set():
            self._thread = threading.Thread(target=self._tick, name="gnomon-service", daemon=True)
            self._thread.start()

    def _tick(self) -> None:
        while not self._ending.wait(TICK_SECONDS):
            self.sums.write()

    def close(self) -> None:
        """Make everything durable and let go of the files. Calling it again does nothing."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join()
        self.intake.stop()
        self.sums.write(all=True)
        self.projects.close()
        if self._owns:
            self.projects.home.close()
