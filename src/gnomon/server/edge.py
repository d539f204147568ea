"""What every answer carries, and who may read it in a browser: security headers, CORS, the headers of limits.

Pure ASGI, so that it costs microseconds and streams pass through. Only origins that an admin named are reflected, and
never with credentials: a token or key always has to be sent by the page itself.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gnomon.errors import GnomonError
from gnomon.server.problems import problem_answer, unplanned

if TYPE_CHECKING:
    from gnomon.server.service import Service

log = logging.getLogger("gnomon.server")

#: As they go out, so that a call encodes nothing.
_ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"cross-origin"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
)
_HSTS = (b"strict-transport-security", b"max-age=31536000")
_VARY = (b"vary", b"Origin")
_COUNTED = frozenset({"GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD"})
_METHODS = "GET, POST, PUT, DELETE"
_HEADERS = "Authorization, Content-Type, Content-Encoding, X-Gnomon-Key, If-None-Match"
_SHOWN = (
    "ETag, Retry-After, X-Gnomon-Next, X-Gnomon-Basis, RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset, "
    "Content-Disposition, Location"
)
_PREFLIGHT_SECONDS = "600"


def _origin(scope: Scope) -> str | None:
    """The page that a call comes from, as its browser says."""
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == b"origin"), None)


def dressed(given: Iterable[tuple[bytes, bytes]], scheme: str | None, limits: Mapping[str, str] | None,
            reflected: str | None) -> list[tuple[bytes, bytes]]:  # fmt: skip
    """The headers of an answer with those that every answer has; `reflected` is the origin that may read it."""
    found = [*given]
    names = {name for name, _ in found}
    found += [header for header in _ALWAYS if header[0] not in names]
    if scheme == "https" and _HSTS[0] not in names:
        found.append(_HSTS)
    if not limits and reflected is None and b"vary" not in names:
        found.append(_VARY)
        return found
    headers = MutableHeaders(raw=found)
    for name, value in (limits or {}).items():
        headers.setdefault(name, value)
    headers.add_vary_header("Origin")
    if reflected is not None:
        headers["Access-Control-Allow-Origin"] = reflected
        headers["Access-Control-Expose-Headers"] = _SHOWN
    return found


def note(service: Service, scope: Any, status: int, began: float) -> None:
    """Count an answer, and log it."""
    service.figures.answers[scope["method"] if scope["method"] in _COUNTED else "other", status] += 1
    seconds = time.monotonic() - began
    service.figures.seconds.add(seconds)
    if log.isEnabledFor(logging.INFO):  # the name of the route, as a path may hold ids of people
        name, state = getattr(scope.get("route"), "name", None) or "no route", scope.get("state", {})
        log.info("%s: %d", name, status, extra={
            "project": state.get("project"), "operation": name, "duration_ms": round(seconds * 1_000, 3),
            "status": status, "error": state.get("problem")})  # fmt: skip


class Edge:
    """Around the whole app."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One call."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        origin = _origin(scope)
        reflected = origin if origin is not None and self._may_read(origin) else None
        state: dict[str, Any] = scope.setdefault("state", {})
        asks_first = scope["method"] == "OPTIONS" and "access-control-request-method" in Headers(scope=scope)
        began, statuses = time.monotonic(), [0]

        async def adding(message: Message) -> None:
            if message["type"] == "http.response.start":
                statuses[0] = message["status"]
                message["headers"] = dressed(message.get("headers", ()), scope.get("scheme"),
                                             state.get("limit_headers"), reflected)  # fmt: skip
            await send(message)

        try:
            if asks_first and origin is not None:
                await self._preflight(reflected)(scope, receive, adding)
            else:
                await self._app(scope, receive, adding)
        except Exception as error:
            log.exception("an unplanned fault in a call")
            if statuses[0]:
                raise  # the answer has begun: only cutting it off says that it is not whole
            await problem_answer(unplanned(error))(scope, receive, adding)
        finally:
            note(self._service, scope, statuses[0], began)

    def _may_read(self, origin: str) -> bool:
        allowed = self._service.settings.cors_origins
        if origin in allowed or "*" in allowed:
            return True
        try:
            known = self._service.keys.origins()
        except GnomonError as error:
            log.warning("the origins of write keys cannot be read: %s", error)
            return False
        return origin in known or "*" in known

    def _preflight(self, reflected: str | None) -> Response:
        if reflected is None:
            return Response(status_code=403)
        return Response(status_code=204, headers={
            "Access-Control-Allow-Methods": _METHODS, "Access-Control-Allow-Headers": _HEADERS,
            "Access-Control-Max-Age": _PREFLIGHT_SECONDS,
        })  # fmt: skip
