"""Small bodies straight from their connection: no task, no messages and no framework between a call and its answer.

Only for what `fits`: a plain POST to a route that takes bodies, there as a whole when its headers are. It is admitted,
taken in and answered by the same functions as any other; whatever does not fit goes the usual way (edge.py, direct.py).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from gnomon.errors import GnomonError
from gnomon.server.callers import Caller, refuse
from gnomon.server.edge import dressed, note
from gnomon.server.ingest import answer_of, begun
from gnomon.server.intake import Outcome
from gnomon.server.problems import ProblemAnswer, error_answer, problem_answer, unplanned
from gnomon.server.wire import too_large

if TYPE_CHECKING:
    from gnomon.server.service import Service

log = logging.getLogger("gnomon.server")

_LIMITS = "limit_headers"
_LINE = b"%b: %b\r\n"


class Quick:
    """Of one app. `calls` are the routes by their whole paths, and whether samples come in there."""

    def __init__(self, service: Service, calls: Mapping[str, tuple[Any, bool]]) -> None:
        self._service = service
        self._calls = calls

    def fits(self, cycle: RequestResponseCycle) -> bool:
        """Whether a call may be answered here, as far as its headers tell."""
        scope = cycle.scope
        return (
            scope["method"] == "POST"
            and scope["path"] in self._calls
            and not scope["query_string"]
            and not scope["root_path"]
            and scope["scheme"] == "http"
            and not cycle.waiting_for_100_continue
            and not cycle.flow.write_paused  # who does not read its answers is waited for, on the usual way
            and not self._service.limiter.remote
            and not any(name == b"origin" for name, _ in scope["headers"])
        )

    def begin(self, cycle: RequestResponseCycle, done: Callable[[], None]) -> None:
        """Take in a call whose body is there; `done` is called once the answer is written."""
        scope: Any = cycle.scope
        scope["route"], samples = self._calls[scope["path"]]
        call = _Call(self._service, cycle, samples, done)
        try:
            call.take()
        except Exception as error:  # noqa: BLE001  no task is there to see it
            call.answer_error(error)


class _Headers:
    """The headers of a call, read once: what `Headers` finds by looking through all of them each time."""

    __slots__ = ("_all", "_raw")

    def __init__(self, raw: Sequence[tuple[bytes, bytes]]) -> None:
        self._raw = raw
        self._all = {name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(raw)}  # the first wins

    def __contains__(self, name: str) -> bool:
        return name in self._all

    def get(self, name: str, default: str | None = None) -> str | None:
        """The first of this name, which is in lower case."""
        return self._all.get(name, default)

    def getlist(self, name: str) -> list[str]:
        """All of this name."""
        wanted = name.encode("latin-1")
        return [value.decode("latin-1") for name, value in self._raw if name == wanted]


class _Request(Request):
    """A call as the functions that admit it look at it."""

    def __init__(self, scope: Any) -> None:
        super().__init__(scope)
        self._told = _Headers(scope["headers"])

    @property
    def headers(self) -> Any:
        """By names in lower case."""
        return self._told


class _Call:
    """One call on its way."""

    __slots__ = ("_began", "_caller", "_cycle", "_done", "_project", "_request", "_samples", "_service", "_size")

    def __init__(self, service: Service, cycle: RequestResponseCycle, samples: bool, done: Callable[[], None]) -> None:
        self._service, self._cycle, self._samples, self._done = service, cycle, samples, done
        self._began = time.monotonic()
        self._request = _Request(cycle.scope)
        self._caller: Caller
        self._project = ""
        self._size = 0

    def take(self) -> None:
        """Hand the body on. Raises what a call is refused with."""
        service, request = self._service, self._request
        caller = self._caller = service.admitted(request)
        self._project = request.state.project = caller.chosen(None, service.settings.project)
        error = caller.fault(request, None, "ingest")
        if error is not None:
            refusing = partial(refuse, service, caller, request, None, error)
            waiting = asyncio.get_running_loop().run_in_executor(None, refusing)
            waiting.add_done_callback(lambda done: self.answer_error(done.exception() or AssertionError()))
            return
        size, encoding, rules = begun(service, request, caller)
        try:
            body = bytes(self._cycle.body)
            if len(body) > service.settings.max_body_bytes:
                raise too_large(service.settings.max_body_bytes)
            service.intake.submit(self._project, body, encoding, rules, self._samples, self._taken)
        except BaseException:
            service.intake.release(size)
            raise
        self._size = size

    def _taken(self, outcome: Outcome | BaseException) -> None:
        service = self._service
        service.intake.release(self._size)
        try:
            if isinstance(outcome, BaseException):
                raise outcome
            service.sums.add(self._project, self._caller.principal.name, service.address(self._request),
                             outcome.accepted, len(outcome.refused))  # fmt: skip
            cycle = self._cycle
            if outcome.accepted and not outcome.refused and cycle.keep_alive and not cycle.scope["state"].get(_LIMITS):
                self._write(200, _accepted(outcome.accepted))
            else:
                self._answer(answer_of(outcome))
        except Exception as error:  # noqa: BLE001  as in `begin`
            self.answer_error(error)

    def answer_error(self, error: BaseException) -> None:
        """The answer for what a call ended with."""
        if isinstance(error, GnomonError):
            self._answer(error_answer(error))
            return
        log.error("an unplanned fault in a call", exc_info=error)
        self._answer(problem_answer(unplanned(Exception())))

    def _answer(self, response: Response) -> None:
        cycle = self._cycle
        if isinstance(response, ProblemAnswer):
            response.note(self._request.scope)
        headers = dressed(response.raw_headers, "http", cycle.scope["state"].get(_LIMITS), None)
        if any(name == b"connection" and b"close" in value for name, value in headers):
            cycle.keep_alive = False
        elif not cycle.keep_alive:
            headers.append((b"connection", b"close"))
        self._write(response.status_code, _rest(headers, bytes(response.body)))

    def _write(self, status: int, rest: bytes) -> None:
        cycle = self._cycle
        if not (cycle.disconnected or cycle.transport.is_closing()):
            cycle.transport.write(b"".join([STATUS_LINE[status], *map(_LINE.__mod__, cycle.default_headers), rest]))
        note(self._service, cycle.scope, status, self._began)
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        self._done()


def _rest(headers: Iterable[tuple[bytes, bytes]], body: bytes) -> bytes:
    """An answer behind its first lines."""
    return b"".join([*map(_LINE.__mod__, headers), b"\r\n", body])


@lru_cache(maxsize=1_024)
def _accepted(count: int) -> bytes:
    """What nearly every answer is, made once: so many were accepted, and none refused."""
    response = answer_of(Outcome(count, [], False))
    return _rest(dressed(response.raw_headers, "http", None, None), bytes(response.body))
