"""`create_app()`: the service as an ASGI app, to be served by `gnomon serve` or mounted in a host's own app.

A new route is three lines in a module that has `router()`, of routes of the class `Call`, which `create_app` includes
under `/api/analytics`:

    @routes.get("/books", responses=problems())
    def books(here: Access = needs("read")) -> Response:
        return json_answer(here.engine.books().to_dict())

A plain `def` runs in the thread pool. `here.engine` has the caller's rights and project; its errors become problems
(problems.py), so a route catches none.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from gnomon import __version__
from gnomon.config import Settings, read_settings
from gnomon.engine import AnalyticsEngine
from gnomon.server import admin, exports, ingest, operations, pages, reports
from gnomon.server.description import finished
from gnomon.server.direct import Direct, direct_calls
from gnomon.server.edge import Edge
from gnomon.server.problems import catch_errors
from gnomon.server.quick import Quick
from gnomon.server.service import Service

PREFIX = "/api/analytics"


def create_app(engine: AnalyticsEngine | None = None, settings: Settings | None = None) -> FastAPI:
    """The service on `engine`, or on the store that `settings` (default: the environment) name.

    An engine that is given stays the caller's to close. One that is made here is closed when the app ends; an app that
    is mounted in another is not told of that, and closes at the end of the process.
    Raises `InvalidValue` for settings that cannot work, `MissingExtra` where a package of `gnomon[server]` is missing.
    """
    owns = engine is None
    home = AnalyticsEngine(settings or read_settings()) if engine is None else engine
    try:
        service = Service(home, owns=owns)
    except BaseException:
        if owns:
            home.close()
        raise
    shown = service.settings.docs_public
    app = FastAPI(
        title="Gnomon", version=__version__, lifespan=_lifespan, docs_url=None, redoc_url=None,
        openapi_url=f"{PREFIX}/openapi.json" if shown else None,
        summary="Analytics: events in, answers out.", separate_input_output_schemas=False,
    )  # fmt: skip
    app.state.service = service
    catch_errors(app)
    for part in (ingest, reports, exports, admin, operations, pages):
        app.include_router(part.router(), prefix=PREFIX)
    app.include_router(operations.root_router())
    calls = direct_calls(ingest.router(), PREFIX)
    app.add_middleware(Direct, calls=calls)
    app.state.quick = Quick(service, {path: (route, call is ingest.samples) for path, (route, call) in calls.items()})
    app.add_middleware(Edge, service=service)
    app.openapi = partial(_described, app, app.openapi)  # type: ignore[method-assign]
    return app


def _described(app: FastAPI, plain: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The OpenAPI document, made once."""
    if app.openapi_schema is None:
        app.openapi_schema = finished(plain())
    return app.openapi_schema


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.service.start()
    yield
    await run_in_threadpool(app.state.service.close)
