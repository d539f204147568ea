"""The way of ingestion past the framework: a POST to a route that takes bodies goes to its function at once.

Matching of routes, dependencies and telemetry of the framework take 60 us, half of a call with a single event. Whatever
is not exactly such a call, and every call of an app that is mounted elsewhere, goes through the framework to the same
function; the routes stay in its description.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from gnomon.errors import GnomonError
from gnomon.server.problems import error_answer

Call = Callable[[Request], Awaitable[Response]]


class Direct:
    """Inside of everything that is around all calls. `calls` are functions by the whole path."""

    def __init__(self, app: ASGIApp, calls: Mapping[str, tuple[BaseRoute, Call]]) -> None:
        self._app = app
        self._calls = calls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One call."""
        found = None
        if scope["type"] == "http" and scope["method"] == "POST" and not scope.get("root_path"):
            found = self._calls.get(scope["path"])
        if found is None:
            await self._app(scope, receive, send)
            return
        scope["route"], call = found
        try:
            answer = await call(Request(scope, receive))
        except GnomonError as error:
            answer = error_answer(error)
        await answer(scope, receive, send)


def direct_calls(router: APIRouter, prefix: str) -> dict[str, tuple[BaseRoute, Call]]:
    """The routes of a router that take nothing but a request, with what they call, by their whole paths."""
    return {prefix + route.path: (route, route.endpoint) for route in router.routes if isinstance(route, APIRoute)}
