"""How the service is: whether it lives, and whether it can answer."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from gnomon.errors import GnomonError
from gnomon.server.answers import json_answer
from gnomon.server.callers import service_of


def router() -> APIRouter:
    """The routes of this module."""
    routes = APIRouter(tags=["operations"])

    @routes.get("/healthz")
    def healthz(request: Request) -> Response:
        """Whether the service lives, and whether it can take events and answer questions; for probes, without a token.

        503 while it cannot take events. `answers` is false in a process that only takes events.
        """
        service = service_of(request)
        home = service.projects.home
        try:
            home._journal.last_position()
            home._own_or_refuse()
        except GnomonError as error:
            ready = error.code == "store-busy"
            told = {"status": "ok" if ready else error.code, "live": True, "ready": ready, "answers": False}
            return json_answer(told, 200 if ready else 503)
        return json_answer({"status": "ok", "live": True, "ready": True, "answers": True})

    return routes
