"""Errors as answers: every one is `application/problem+json` with a stable slug, and none repeats what was sent.

It owns which status an error of the engine gets over HTTP. A fault that nobody planned is a 500 without any detail;
its traceback goes to the log.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from gnomon.errors import GnomonError, StoreBusy, nearest, unknown_name
from gnomon.server.answers import json_answer

log = logging.getLogger("gnomon.server")

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 2  #: what a 503 says in Retry-After
_TITLES = {
    400: "The request cannot be read",
    401: "A valid token is needed",
    403: "Not allowed",
    404: "There is no such thing",
    405: "Not with this method",
    408: "The request came too slowly",
    409: "Not in this state",
    411: "The length is needed",
    413: "Too large",
    415: "Not in this form",
    422: "A value breaks a rule",
    429: "Too many calls",
    431: "Too large headers",
    500: "A fault of the service",
    503: "Not now",
    507: "The disk is full",
}
_CODES = {404: "not-found", 405: "bad-method", 413: "body-too-large", 415: "bad-media-type"}


class Problem(GnomonError):
    """An answer other than success that is decided in the service itself."""

    def __init__(self, status: int, message: str, *, remedy: str = "", code: str,
                 headers: Mapping[str, str] | None = None, **more: Any) -> None:  # fmt: skip
        """`headers` are added to the answer, `more` to its body."""
        super().__init__(message, remedy=remedy, code=code)
        self.status = status
        self.headers = dict(headers or {})
        self.more = more


class ProblemBody(BaseModel):
    """What every answer other than success looks like."""

    type: str = Field(description="A stable name of the problem, for programs", examples=["unknown-name"])
    title: str = Field(examples=["A value breaks a rule"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["unknown metric"])
    remedy: str = Field(description="What to do about it", examples=["Did you mean 'requests'?"])


def not_found() -> Problem:
    """Nothing is there, or it is another project's: which of them is not told."""
    return Problem(404, "nothing is there under this id", remedy="Check the id and the project.", code="not-found")


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses=` of a route that may answer with these statuses, besides those that every route may."""
    return {
        status: {"model": ProblemBody, "description": _TITLES[status]}
        for status in sorted({*statuses, 401, 403, 429, 503})
    }


def answers(example: Any, *statuses: int, status: int = 200) -> dict[int | str, dict[str, Any]]:
    """As `problems`, with an example of the answer of success."""
    shown = {"description": "Done", "content": {"application/json": {"example": example}}}
    return {status: shown, **problems(*statuses)}


def problem_answer(error: GnomonError) -> Response:
    """The answer for an error."""
    status = 503 if isinstance(error, StoreBusy) else error.status
    body = {"type": error.code, "title": _TITLES.get(status, "A problem"), "status": status,
            "detail": error.unquoted, "remedy": error.remedy, **getattr(error, "more", {})}  # fmt: skip
    headers = dict(getattr(error, "headers", {}))
    if status == 503:
        headers.setdefault("Retry-After", str(RETRY_SECONDS))
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return json_answer(body, status, headers, MEDIA_TYPE)


def error_answer(error: GnomonError) -> Response:
    """The answer for an error that a call ended with; what is a fault of ours is also logged."""
    if error.status == 500:
        log.error("a call failed: %s", error)
    return problem_answer(error)


def catch_errors(app: FastAPI) -> None:
    """Have `app` answer every error in this form."""

    def ours(_: Request, error: Exception) -> Response:
        assert isinstance(error, GnomonError)
        return error_answer(error)

    def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return problem_answer(_of_parameters(request, error.errors()))

    def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        status, remedy = error.status_code, _call_meant(app, request, error)
        return problem_answer(Problem(status, _TITLES.get(status, "a problem").lower(), remedy=remedy,
                                      code=_CODES.get(status, "bad-request"), headers=error.headers))  # fmt: skip

    app.add_exception_handler(GnomonError, ours)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)


def _call_meant(app: FastAPI, request: Request, error: HTTPException) -> str:
    """What to do about a call that there is not. The path that was asked for is not repeated."""
    if error.status_code == 405:
        return f"This path takes {(error.headers or {}).get('Allow', 'other methods')}."
    told = error.status_code == 404 and app.openapi_url is not None  # else the calls are nobody's business
    meant = nearest(request.url.path[:200], app.openapi()["paths"]) if told else None
    return f"Did you mean {meant}?" if meant else "See the description of the calls under docs."


def unplanned(_: Exception) -> Problem:
    """The answer for a fault that nobody thought of: it tells nothing."""
    return Problem(500, "something went wrong", remedy="See the log of the service.", code="internal")


def _of_parameters(request: Request, faults: Sequence[Mapping[str, Any]]) -> GnomonError:
    """What is wrong with what a call was given."""
    if any(fault["type"] == "json_invalid" for fault in faults):
        return Problem(400, "the body is no JSON", remedy="Send JSON.", code="bad-json")
    for fault in faults:
        if fault["type"] == "extra_forbidden":
            return unknown_name("field of the body", fault["loc"][-1], _fields(request))
    named = sorted({_place(fault["loc"]) for fault in faults})
    return Problem(422, f"a parameter breaks a rule: {', '.join(named)}", code="bad-parameter",
                   remedy="See the description of this call under docs.")  # fmt: skip


def _fields(request: Request) -> Iterable[str]:
    """The fields that the body of a call may have."""
    taken = getattr(request.scope.get("route"), "body_field", None)
    kind = getattr(getattr(taken, "field_info", None), "annotation", None)
    kinds = get_args(kind) or (kind,)
    return [name for each in kinds for name in getattr(each, "model_fields", ())]


def _place(loc: tuple[int | str, ...]) -> str:
    """Where a parameter stands; of a body only the first key, which is ours, as those behind it may be the sender's."""
    return ".".join(str(part) for part in loc[:2] if isinstance(part, str))
