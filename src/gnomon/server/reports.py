"""Questions and reports over HTTP: their parameters, and the form of the answers. What they mean is the engine's."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import date, timedelta
from typing import Annotated, Any, Literal, TypeAlias

from fastapi import APIRouter, Path, Request
from fastapi import Query as Parameter
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from gnomon.access import speaking_as
from gnomon.engine import AnalyticsEngine
from gnomon.errors import InvalidValue, MissingExtra
from gnomon.insight.person import MOST_RECENT
from gnomon.query.model import Query
from gnomon.query.outline import outline
from gnomon.query.result import Result
from gnomon.server.answers import json_answer
from gnomon.server.caching import UNKEPT, Tag
from gnomon.server.callers import Access, needs
from gnomon.server.calls import BODY_PROBLEMS, MOST_BYTES, Call, announced, check_json, read_body
from gnomon.server.examples import ANSWER_EXAMPLES, QUESTION, UNCHANGED
from gnomon.server.listing import catalog_body
from gnomon.server.problems import Problem, not_found, problems
from gnomon.server.questions import Question, read_question
from gnomon.server.results import arrow_bytes, csv_text, results_body, rows_body
from gnomon.timerange import load_zone, resolve_range

Form: TypeAlias = Literal["json", "rows", "csv", "arrow"]
ARROW = "application/vnd.apache.arrow.stream"
MOST_COUNTED = 200_000  #: rows up to which `total_rows` is counted
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_ACTIVE = {"dau": ("day", "24h"), "wau": ("week", "7d"), "mau": ("month", "30d")}

_Zone = Annotated[str | None, Parameter(max_length=100, description="IANA zone of days; default: the project's",
                                        examples=["Europe/Berlin"])]  # fmt: skip
_Day = Annotated[str | None, Parameter(max_length=10, description="The day; default: today", examples=["2026-01-15"])]


def router() -> APIRouter:
    """The routes of this module."""
    routes = APIRouter(tags=["reports"], route_class=Call)
    _add_query(routes)
    for name in _ACTIVE:
        _add_active(routes, name)
    _add_reports(routes)
    return routes


# -- questions ------------------------------------------------------------------------------------------------------


def _add_query(routes: APIRouter) -> None:
    @routes.post("/query", responses={**problems(*BODY_PROBLEMS, 411), **UNCHANGED}, openapi_extra=QUESTION)
    async def query(request: Request, here: Access = needs("read"),
                    format: Annotated[Form, Parameter(description="The form of the answer")] = "json",
                    ) -> Response:  # fmt: skip
        """Answer a question: metrics by dimensions in a range, filtered. A superset of the Plausible Stats API v2.

        `json` answers `{results, meta, query}`, `rows` has flat objects, `csv` and `arrow` rows alone. Ranges are
        half-open, rates lie between 0 and 1. A question about a fixed range has an ETag.
        """
        check_json(request)
        body = await read_body(request, announced(request, MOST_BYTES), MOST_BYTES)
        return await run_in_threadpool(_answer, request, here, body, format)


def _answer(request: Request, here: Access, body: bytes, form: Form) -> Response:
    question = read_question(body)
    project = here.project if question.site_id is None else here.caller.chosen(question.site_id, here.project)
    with here.service.projects.using(project) as engine, speaking_as(here.caller.principal):
        query = question.query(engine.settings.max_rows)
        tag = Tag(engine, [form, question], _fixed_end(engine, question))
        if tag.is_known(request):
            _note_unchanged(engine, query)
            return Response(status_code=304, headers=dict(tag.headers()))
        found = _page(engine, query, question.offset)
        total = _total_rows(engine, query, question, found) if question.asked_for.total_rows else None
        return _in_form(found, question, project, total, engine.settings.max_buckets, form, tag)


def _fixed_end(engine: AnalyticsEngine, question: Question) -> int | None:
    """The end of the question's range where that is fixed."""
    if not question.is_fixed:
        return None
    zone = engine.zone if question.timezone is None else load_zone(question.timezone)
    return resolve_range(question.date_range, now=engine.clock(), zone=zone).end_us


def _note_unchanged(engine: AnalyticsEngine, query: Query) -> None:
    """An answer that the client has already was told all the same."""
    with engine._audited("query") as note:
        note.detail = {**outline(query), "unchanged": True}


def _page(engine: AnalyticsEngine, query: Query, offset: int) -> Result:
    """The page behind so many rows; those are read and passed over, all of the data version of the first."""
    while offset:
        passed = engine.run(replace(query, limit=min(offset, engine.settings.max_rows)))
        offset -= len(passed)
        if passed.next is None or not len(passed):
            return replace(passed, rows=[], next=None, gap_rows=frozenset(), before=passed.before and [])
        query = replace(query, after=passed.next)
    return engine.run(query)


def _total_rows(engine: AnalyticsEngine, query: Query, question: Question, found: Result) -> int | None:
    """How many rows there are on all pages; None for more than `MOST_COUNTED`."""
    if question.offset == 0 and query.after is None and found.next is None:
        return len(found)
    total, after = 0, None
    while total <= MOST_COUNTED:
        part = engine.run(replace(query, limit=engine.settings.max_rows, after=after, compare=None, totals=False))
        total, after = total + len(part), part.next
        if after is None:
            return total
    return None


def _in_form(found: Result, question: Question, project: str, total: int | None, max_buckets: int, form: Form,
             tag: Tag) -> Response:  # fmt: skip
    if form in ("csv", "arrow"):
        headers = {**tag.headers(), **({} if found.next is None else {"X-Gnomon-Next": found.next})}
        if form == "csv":
            return Response(csv_text(found), headers=headers, media_type="text/csv; charset=utf-8")
        try:
            return Response(arrow_bytes(found), headers=headers, media_type=ARROW)
        except MissingExtra as error:
            raise Problem(422, "this service has no Arrow", remedy=error.remedy, code=error.code) from None
    body = (rows_body if form == "rows" else results_body)(found, question, project, total, max_buckets)
    return json_answer(body, headers=tag.headers())


# -- reports --------------------------------------------------------------------------------------------------------


def _add_active(routes: APIRouter, name: str) -> None:
    grain, period = _ACTIVE[name]
    about: dict[int | str, Any] = {
        200: {"content": {"application/json": {"example": {name: 42, "date": "2026-01-15", "period": period}}}}
    }

    @routes.get(f"/reports/{name}", name=name, responses={**problems(422), **UNCHANGED, **about})
    def active(request: Request, here: Access = needs("read"), date: _Day = None, timezone: _Zone = None) -> Response:
        with here.named() as engine:
            zone = engine.zone if timezone is None else load_zone(timezone)
            today = resolve_range("today", now=engine.clock(), zone=zone).start.date()
            day = today if date is None else _day(date)
            span = [day.isoformat(), _next(day).isoformat()]
            end_us = resolve_range(span, now=engine.clock(), zone=zone).end_us
            tag = Tag(engine, [name, span, str(zone)], None if date is None else end_us)
            if tag.is_known(request):
                with engine._audited("active_users") as note:
                    note.detail = {"unchanged": True}
                return Response(status_code=304, headers=dict(tag.headers()))
            (row,) = engine.active_users(span, grain, str(zone), rolling=grain != "day")
            body = {name: row["people"], "date": day.isoformat(), "period": period}
            return json_answer(body, headers=tag.headers())

    active.__doc__ = f"How many people were active in the {period} that end with a day; null for a day to come."


def _add_reports(routes: APIRouter) -> None:
    @routes.get("/summary", responses={**problems(422), **_example("summary")})
    def summary(here: Access = needs("read"), timezone: _Zone = None,
                hours: Annotated[float | None, Parameter(description="Length of the span that ends now; default 24",
                                                         gt=0)] = None,
                date_range: Annotated[str | None, Parameter(max_length=100, examples=["7d"],
                                                            description="A named range instead of hours")] = None,
                ) -> Response:  # fmt: skip
        """The main numbers of the last hours, or of a range: events, people, requests, outcomes, duration, types."""
        found = here.engine.summary(hours, date_range, timezone)
        return json_answer(found.to_dict(), headers=UNKEPT)

    @routes.get("/user/{user_id:path}", responses={**problems(404, 422), **_example("user")})
    def user(user_id: Annotated[str, Path(description="The id of a user, or of a device without one")],
             here: Access = needs("read"),
             recent: Annotated[int, Parameter(ge=0, le=MOST_RECENT, description="How many of the newest events")] = 50,
             ) -> Response:  # fmt: skip
        """One person: first and last seen, events by type, failures, mean duration, the newest events."""
        found = here.engine.user(user_id, recent)
        if found.first_seen is None:
            raise not_found()
        return json_answer(found.to_dict(), headers=UNKEPT)

    @routes.get("/dashboard", responses={**problems(422), **_example("dashboard")})
    def dashboard(here: Access = needs("read"), timezone: _Zone = None) -> Response:
        """Today, the last 24 hours, 7 and 30 days at a glance, and how well it goes."""
        return json_answer(here.engine.dashboard(timezone).to_dict(), headers=UNKEPT)

    @routes.get("/catalog", responses=problems())
    def catalog(here: Access = needs("read")) -> Response:
        """What can be asked: metrics, dimensions, measures, aggregates, filters, grains and named ranges."""
        return json_answer(catalog_body(), headers=UNKEPT)


def _example(name: str) -> dict[int | str, Any]:
    return {200: {"content": {"application/json": {"example": ANSWER_EXAMPLES[name]}}}}


def _day(given: str) -> date:
    try:
        if _DATE.fullmatch(given):
            return date.fromisoformat(given)
    except ValueError:
        pass
    raise InvalidValue("date is not a day of the calendar", remedy="Write it like 2026-01-15.", code="bad-time")


def _next(day: date) -> date:
    try:
        return day + timedelta(days=1)
    except OverflowError:
        raise InvalidValue("date is outside years 1 to 9999", remedy="Give an earlier one.", code="bad-time") from None
