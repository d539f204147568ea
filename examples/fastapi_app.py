"""A FastAPI application that records every request and answers questions about its own usage.

APP_TOKENS='{"<a long random token>": "alice"}' uvicorn --factory --app-dir examples fastapi_app:create_app
curl -H "Authorization: Bearer <that token>" http://127.0.0.1:8000/usage
"""

from __future__ import annotations

import hmac
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Request

import gnomon
from gnomon.instrument.asgi import RecordingMiddleware


def create_app(store: str = "usage.duckdb", tokens: dict[str, str] | None = None) -> FastAPI:
    known = json.loads(os.environ.get("APP_TOKENS", "{}")) if tokens is None else tokens
    engine = gnomon.open(store)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        engine.close()

    app = FastAPI(lifespan=lifespan)
    app.add_middleware(RecordingMiddleware, engine=engine, exclude=["/docs*"], types={"POST /orders": "order"})

    def signed_in(request: Request, authorization: Annotated[str, Header()] = "") -> None:
        given = authorization.removeprefix("Bearer ").encode()
        for token, user in known.items():
            if hmac.compare_digest(token.encode(), given):
                request.state.user_id = user  # verified here, so the middleware may record it
                return
        raise HTTPException(401)

    private = APIRouter(dependencies=[Depends(signed_in)])
    private.get("/orders/{order_id}")(lambda order_id: {"order": order_id})
    private.post("/orders")(lambda: {"bought": True})
    private.get("/usage")(lambda: engine.summary(hours=24).to_dict())
    private.get("/usage/dashboard")(lambda: engine.dashboard().to_dict())

    @private.get("/usage/endpoints")
    def endpoints(period: str = "24h") -> list[dict]:
        return engine.query(["requests", "success_rate", "p95_duration_ms"], ["endpoint"], period).to_dicts()

    @private.get("/usage/users/{user_id}")
    def user(user_id: str) -> dict:
        return engine.user(user_id).to_dict()

    app.include_router(private)
    return app
