"""A call before its route: who makes it, which parameters it has, and its body within its size and time.

`Call` is the class of routes that ask for a caller. Nothing of a body is read before the caller is known, and nothing
of it is parsed before it was measured; a parameter that the route does not know is refused, as nobody would notice
that it was left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any

from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from gnomon.errors import unknown_name
from gnomon.server.callers import service_of
from gnomon.server.problems import Problem
from gnomon.server.wire import too_large

if TYPE_CHECKING:
    from fastapi.dependencies.models import Dependant

BODY_SECONDS = 15.0
MOST_BYTES = 1024 * 1024  #: of the body of a call that is no ingestion
BODY_PROBLEMS = (400, 408, 413, 415, 422)  #: what a call may be answered because of its body
_EVERYWHERE = frozenset({"key"})  #: parameters that every call may have: a write key


class Call(APIRoute):
    """A route that admits its caller before anything else, see `needs`. Bodies are JSON of `MOST_BYTES` at most."""

    def _answering(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()
        known = _EVERYWHERE.union(_query_names(self.dependant))

        async def admitted(request: Request) -> Response:
            request.state.caller = await service_of(request).admit(request)
            for name in request.query_params:
                if name not in known:
                    raise unknown_name("parameter", name, known - _EVERYWHERE)
            if self.body_field is not None:
                request = _Read(request, await json_body(request))
            return await answer(request)

        return admitted

    get_route_handler = _answering  # what the framework calls it


class _Read(Request):
    """A request whose body was read."""

    def __init__(self, request: Request, body: bytes) -> None:
        super().__init__(request.scope, request.receive)
        self._read = body

    async def body(self) -> bytes:
        return self._read


def _query_names(part: Dependant) -> Iterator[str]:
    """The parameters behind the question mark that a route, or what it depends on, has."""
    yield from (str(field.alias) for field in part.query_params)
    for further in part.dependencies:
        yield from _query_names(further)


async def json_body(request: Request) -> bytes:
    """The body of a call, empty where it has none. Raises `Problem` (400, 408, 411, 413, 415)."""
    size = MOST_BYTES
    if request.scope["http_version"].startswith("1."):  # later ones can have a body of which no header tells
        if "content-length" not in request.headers and "transfer-encoding" not in request.headers:
            return b""
        size = announced(request, MOST_BYTES)
    body = await read_body(request, size, MOST_BYTES)
    if body:
        check_json(request)
    return body


def check_json(request: Request, *, packed: bool = False) -> None:
    """Whether a body is JSON, by what is said of it; `packed`: it may be gzip. Raises `Problem` (415)."""
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != "application/json":
        raise Problem(415, "the body is not JSON", remedy="Send Content-Type: application/json.", code="bad-media-type")
    if not packed and request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise Problem(415, "the body is packed", remedy="Send it as it is.", code="bad-media-type")


def announced(request: Request, most: int) -> int:
    """How many bytes the body will have; the most that is allowed where that is not told. Raises `Problem`."""
    length = request.headers.getlist("content-length")
    if "transfer-encoding" in request.headers:
        if length:
            raise Problem(400, "Content-Length and Transfer-Encoding exclude each other", remedy="Send one of them.",
                          code="bad-request", headers={"Connection": "close"})  # fmt: skip
        return most
    if len(set(length)) != 1 or not (length[0].isascii() and length[0].isdigit() and len(length[0]) < 20):
        raise Problem(411, "the length of the body is missing", remedy="Send Content-Length.", code="bad-request",
                      headers={"Connection": "close"})  # fmt: skip
    if int(length[0]) > most:
        raise too_large(most)
    return int(length[0])


async def read_body(request: Request, size: int, most: int) -> bytes:
    """The body as it was sent. Raises `Problem` (408, 413)."""
    parts: list[bytes] = []
    found = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                found += len(part)
                if found > most:
                    raise too_large(most)
                parts.append(part)
    except (TimeoutError, ClientDisconnect):
        raise Problem(408, f"the body did not come within {BODY_SECONDS:.0f} s", remedy="Send it again.",
                      code="too-slow", headers={"Connection": "close"}) from None  # fmt: skip
    return b"".join(parts)
