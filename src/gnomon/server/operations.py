"""How the service is: whether it lives and can answer, its figures for Prometheus, and the page that describes it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from gnomon.engine import AnalyticsEngine
from gnomon.errors import GnomonError
from gnomon.query.books import projects_of
from gnomon.server.answers import json_answer
from gnomon.server.callers import ANY_PROJECT, keyed_by_token, refuse, service_of
from gnomon.server.figures import MEDIA_TYPE
from gnomon.server.problems import problems
from gnomon.server.service import Service

log = logging.getLogger("gnomon.server")

MOST_PROJECTS = 1_000  #: whose books are shown
_WELL = {"description": "It can take events", "content": {"application/json": {
    "example": {"status": "ok", "live": True, "ready": True, "answers": True}}}}  # fmt: skip
_FIGURES = {"description": "Figures", "content": {"text/plain": {
    "example": 'gnomon_events_total{project="default",outcome="stored"} 3'}}}  # fmt: skip


def router() -> APIRouter:
    """The routes under the prefix of the API."""
    routes = APIRouter(tags=["operations"])

    @routes.get("/healthz", responses={200: _WELL, 503: {"description": "It cannot take events", "content": {}}})
    def healthz(request: Request) -> Response:
        """Whether the service lives, and whether it can take events and answer questions; for probes, without a token.

        503 while it cannot take events. `answers` is false in a process that only takes events.
        """
        return _health(service_of(request))

    return routes


def root_router() -> APIRouter:
    """The routes at the root, where Prometheus and orchestrators look."""
    routes = APIRouter(tags=["operations"])

    @routes.get("/healthz", include_in_schema=False)
    def healthz(request: Request) -> Response:
        return _health(service_of(request))

    @routes.get("/livez", include_in_schema=False)
    async def livez() -> Response:
        """That calls are answered at all; a full disk is no reason to start the service again."""
        return json_answer({"live": True}, 200)

    @routes.get("/metrics", dependencies=[keyed_by_token()], responses={200: _FIGURES, **problems()})
    async def metrics(request: Request) -> Response:
        """The figures of the service and the books of the token's projects, as Prometheus reads them.

        Needs the scope `admin`, unless the setting `metrics_public` is on.
        """
        service = service_of(request)
        project = ANY_PROJECT
        if not service.settings.metrics_public:
            caller = await service.admit(request)
            project = caller.project
            error = caller.fault(request, None, "admin")
            if error is not None:
                await run_in_threadpool(refuse, service, caller, request, None, error)
        return await run_in_threadpool(_figures, service, project)

    return routes


def _figures(service: Service, project: str) -> Response:
    return Response(service.figures.text(_engines(service, project)), media_type=MEDIA_TYPE)


def _engines(service: Service, project: str) -> Iterator[AnalyticsEngine]:
    """The engines of the projects that a token is of, one at a time."""
    names = [project]
    if project == ANY_PROJECT:
        home = service.projects.home
        names = [home.settings.project]
        try:
            names += projects_of(home._own_or_refuse(), service.settings.query_timeout_seconds)[:MOST_PROJECTS]
        except GnomonError as error:
            log.info("only the home project for /metrics: %s", error.code)
    for name in dict.fromkeys(names):
        with service.projects.using(name) as engine:
            yield engine


def _health(service: Service) -> Response:
    home, told = service.projects.home, {"status": "ok", "live": True, "ready": True, "answers": True}
    try:
        home._journal.last_position()
        store = home._own_or_refuse()
        if home._hold.served:
            store.data_version()  # the database has to be there to answer, and need not be to take events
    except GnomonError as error:
        ready = error.code == "store-busy" or home._hold.served
        told |= {"status": "ok" if ready else error.code, "ready": ready, "answers": False}
    return json_answer(told, 200 if told["ready"] else 503)
