"""Exports over HTTP: events as a stream, and jobs whose files are fetched when they are ready.

A stream holds its engine open until its last byte. What can be known to be wrong is answered before the first one;
what fails later cuts the connection, so that nobody takes a part for the whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain, islice
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from gnomon.errors import GnomonError
from gnomon.export import FORMATS, find_format
from gnomon.export.jobs import ExportJob
from gnomon.export.running import ExportStream
from gnomon.server.answers import json_answer
from gnomon.server.callers import Access, needs
from gnomon.server.calls import BODY_PROBLEMS, Call
from gnomon.server.problems import Problem, not_found, problems
from gnomon.timerange import from_us, to_us

_JOB = {
    "id": "5f1d7a1e0c9b4d3a8e6f2b7c9d0e1f23", "status": "completed", "format": "csv", "project": "default",
    "owner": "u1", "progress": 1.0, "rows": 1200, "size": 96000, "sampled": False, "fields": ["id", "ts", "type"],
    "created": "2026-01-15T12:00:00Z", "finished": "2026-01-15T12:00:01Z", "expires": "2026-01-22T12:00:01Z",
    "range": ["2026-01-08T12:00:00Z", "2026-01-15T12:00:00Z"], "code": None, "message": None, "remedy": None,
}  # fmt: skip
_FILE = {found.media_type.partition(";")[0]: {"schema": {"type": "string", "format": "binary"}}
         for found in FORMATS.values()}  # fmt: skip
_MOMENT = Query(max_length=64, description="A date, or a time with its zone", examples=["2026-01-01"])
_TEXTS = Query(max_length=100, description="May be given several times")


class NewExport(BaseModel):
    """What to export: events of a range, or the answer to a query."""

    model_config = ConfigDict(extra="forbid", strict=True)

    format: str = Field("csv", max_length=20, examples=["xlsx"], description=", ".join(FORMATS))
    date_range: str | list[str] | dict[str, str] = Field("all", examples=["7d"])
    fields: list[str] | None = Field(None, max_length=50, examples=[["ts", "type", "user_id"]])
    filters: list[Any] | dict[str, Any] | None = Field(None, examples=[[["is", "type", ["order"]]]])
    query: dict[str, Any] | None = Field(None, examples=[{"metrics": ["events"], "dimensions": ["source"]}])


def router() -> APIRouter:
    """The routes of this module."""
    routes = APIRouter(tags=["exports"], route_class=Call)
    _add_stream(routes)
    _add_jobs(routes)
    return routes


def _add_stream(routes: APIRouter) -> None:
    @routes.get("/reports/events", responses={**problems(422), 200: {"description": "A file", "content": _FILE}},
                response_class=Response)  # fmt: skip
    def events(
        here: Access = needs("read"),
        format: Annotated[str, Query(max_length=20, description=", ".join(FORMATS))] = "csv",
        start: Annotated[str | None, _MOMENT] = None,
        end: Annotated[str | None, _MOMENT] = None,
        type: Annotated[list[str] | None, _TEXTS] = None,
        user_id: Annotated[list[str] | None, _TEXTS] = None,
        fields: Annotated[str | None, Query(max_length=1_000, description="Parted by commas; all by default")] = None,
        after: Annotated[str | None, Query(max_length=500, description="TS,ID of the last event that came")] = None,
    ) -> Response:
        """The events of a range as a file, however many there are. `end` is not part of the range."""
        filters = {name: given for name, given in (("type", type), ("user_id", user_id)) if given}
        chosen = None if fields is None else fields.split(",")
        with ExitStack() as held:
            # The engine that came with the call may be let go of before the last byte is sent.
            engine = held.enter_context(here.service.projects.using(here.project)).acting_as(here.caller.principal)
            stream = engine.stream_export(_range(here, start, end), format, chosen, filters or None, after=after)
            held.callback(stream.close)
            first = list(islice(stream, 2))  # the head and the first events: what fails there still gets a status
            return Streamed(stream, first, find_format(format).name, held.pop_all())


def _range(here: Access, start: str | None, end: str | None) -> Any:
    if start is None and end is None:
        return "all"
    behind_now = from_us(to_us(here.engine.clock()) + 1)
    return [from_us(0) if start is None else start, behind_now if end is None else end]


class Streamed(StreamingResponse):
    """A file in pieces; whatever becomes of the connection, the stream is closed and the engine let go of."""

    def __init__(self, stream: ExportStream, first: list[bytes], name: str, held: ExitStack) -> None:
        headers = {"Content-Disposition": f'attachment; filename="events.{name}"',
                   "X-Gnomon-Basis": "sampled" if stream.sampled else "exact"}  # fmt: skip
        super().__init__(chain(first, stream), 200, headers, FORMATS[name].media_type)
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):
                await run_in_threadpool(self._held.close)


def _add_jobs(routes: APIRouter) -> None:
    ordered = {**problems(*BODY_PROBLEMS, 507), 202: _example(_JOB, ("id", "status"))}

    @routes.post("/exports", status_code=202, responses=ordered)
    def order(wanted: NewExport, here: Access = needs("read")) -> Response:
        """Order a file; it is written in the background."""
        span, given = wanted.date_range, (wanted.fields, wanted.filters, wanted.query)
        job = here.engine.export_analytics(span, wanted.format, *given)
        return json_answer({"id": job.id, "status": job.state}, 202, {"Location": f"exports/{job.id}"})

    @routes.get("/exports", responses=problems())
    def listed(here: Access = needs("read")) -> Response:
        """The caller's own exports, the newest first."""
        return json_answer({"exports": [_told(job) for job in here.engine.exports()]})

    @routes.get("/exports/{job_id}", responses={**problems(404), 200: _example(_JOB, tuple(_JOB))})
    def status(job_id: str, here: Access = needs("read")) -> Response:
        """How far an export is; those of others are not there."""
        with _problems_of_jobs():
            return json_answer(_told(here.engine.get_export_status(job_id)))

    @routes.get("/exports/{job_id}/download", response_class=Response,
                responses={**problems(404, 409), 200: {"description": "The file", "content": _FILE}})  # fmt: skip
    def download(job_id: str, here: Access = needs("read")) -> Response:
        """The finished file; parts of it can be asked for with `Range`."""
        with _problems_of_jobs():
            path = here.engine.export_file(job_id)
        name = path.suffix[1:]
        if not path.exists():
            raise not_found()
        return FileResponse(path, media_type=FORMATS[name].media_type, filename=f"export-{path.name}")


def _told(job: ExportJob) -> dict[str, Any]:
    told = job.to_dict()
    return {"id": told.pop("id"), "status": told.pop("state"), **told}


def _example(job: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    said = {name: job[name] for name in names}
    return {"description": "The export", "content": {"application/json": {"example": said}}}


@contextmanager
def _problems_of_jobs() -> Iterator[None]:
    """The status of what is said about jobs: not there, or not in this state."""
    try:
        yield
    except GnomonError as error:
        if error.code == "no-such-export":
            raise not_found() from None
        if error.code in ("export-not-ready", "export-failed"):
            raise Problem(409, error.message, remedy=error.remedy, code=error.code) from None
        raise
