"""A Starlette application that records its requests, its downloads and its WebSocket.

uvicorn --factory --app-dir examples starlette_app:create_app
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

import gnomon
from gnomon.instrument.asgi import RecordingMiddleware


async def numbers(request: Request) -> StreamingResponse:
    count = min(request.path_params["count"], 100_000)

    async def lines() -> AsyncIterator[str]:
        for number in range(count):
            yield f"{number}\n"

    return StreamingResponse(lines(), media_type="text/plain")


async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text)


def create_app(store: str = "usage.duckdb") -> Starlette:
    engine = gnomon.open(store)

    async def usage(request: Request) -> JSONResponse:
        # Recording never blocks; asking does, so it goes to a thread.
        rows = await run_in_threadpool(engine.query, ["events", "sum_bytes_sent"], ["type", "endpoint"], "24h")
        return JSONResponse(rows.to_dicts())

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        engine.close()

    files = [Route("/numbers/{count:int}", numbers)]
    routes = [Mount("/files", routes=files), WebSocketRoute("/echo", echo), Route("/usage", usage)]
    recording = Middleware(RecordingMiddleware, engine=engine, application="numbers")
    return Starlette(routes=routes, middleware=[recording], lifespan=lifespan)
