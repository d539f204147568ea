"""What one app is made of besides its routes: the engines of its projects, and who may come in."""

from __future__ import annotations

from fastapi import Request

from gnomon.engine import AnalyticsEngine
from gnomon.server.auth import Tokens
from gnomon.server.callers import Caller, presented, unauthorized
from gnomon.server.projects import Projects


class Service:
    """Made once an app; `close()` closes what it opened, and the engine too where it `owns` that."""

    def __init__(self, engine: AnalyticsEngine, *, owns: bool) -> None:
        self.settings = engine.settings
        self.projects = Projects(engine)
        self.tokens = Tokens(engine.settings, engine.clock)
        self._owns = owns

    def caller(self, request: Request) -> Caller:
        """Who makes a request. Raises `Problem` (401)."""
        token = presented(request)
        if not token:
            raise unauthorized()
        return self.tokens.caller(token)

    def close(self) -> None:
        """Make everything durable and let go of the files. Calling it again does nothing."""
        self.projects.close()
        if self._owns:
            self.projects.home.close()
